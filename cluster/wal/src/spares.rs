//! Files that are no segment yet, or no more.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    files::{File, Files},
    options::WalOptions,
    recovery::{number_in, spare_name},
};

/// Files of zeroes, or of old records, that become segments. The last few are a reserve.
pub(crate) struct Spares {
    files: Arc<dyn Files>,
    dir: PathBuf,
    names: Vec<String>,
    next: u64,
    segment_bytes: u32,
    max: usize,
    reserve: usize,
}

/// Why there is no file.
#[derive(Debug)]
pub(crate) enum Refused {
    /// No space for one; that passes.
    Full(io::Error),
    Failed(io::Error),
}

impl Refused {
    /// A file system that has no space refuses what would be new; nothing that was there is in doubt.
    pub(crate) fn of(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(error),
            _ => Self::Failed(error),
        }
    }

    pub(crate) fn into_error(self) -> io::Error {
        match self {
            Self::Full(error) | Self::Failed(error) => error,
        }
    }
}

impl From<io::Error> for Refused {
    /// An error that is final, whatever its kind.
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl Spares {
    /// Takes over the files that an earlier run left, and removes those that are too many, of another size or not whole.
    pub(crate) fn open(
        files: Arc<dyn Files>,
        dir: &Path,
        left: Vec<String>,
        options: &WalOptions,
    ) -> io::Result<Self> {
        let mut spares = Self {
            files,
            dir: dir.to_owned(),
            names: Vec::new(),
            next: left.iter().filter_map(|name| number_in(name, ".spare")).max().map_or(0, |last| last + 1),
            segment_bytes: options.segment_bytes,
            max: options.spares_max.saturating_add(options.reserve_segments),
            reserve: options.reserve_segments,
        };
        for name in left {
            let path = spares.dir.join(&name);
            let fits = spares.files.open(&path)?.size()? == u64::from(spares.segment_bytes);
            if fits && spares.has_room() {
                spares.names.push(name);
            } else {
                spares.files.remove(&path)?;
            }
        }
        Ok(spares)
    }

    pub(crate) fn count(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn is_reserve_whole(&self) -> bool {
        self.names.len() >= self.reserve
    }

    pub(crate) fn has_room(&self) -> bool {
        self.names.len() < self.max
    }

    /// A file of `bytes` bytes: one that is there, a new one, or, where none can be made, one of the reserve.
    pub(crate) fn take(&mut self, bytes: u32) -> Result<(String, Arc<dyn File>), Refused> {
        let usual = bytes == self.segment_bytes;
        if usual && self.can_shrink() {
            return self.take_last();
        }
        match self.zeroed(bytes) {
            Err(Refused::Full(error)) if usual && !self.names.is_empty() => {
                tracing::warn!(%error, left = self.names.len() - 1, "no space for a segment: the reserve is used");
                self.take_last()
            }
            made => made,
        }
    }

    fn take_last(&mut self) -> Result<(String, Arc<dyn File>), Refused> {
        let name = self.names.last().cloned().ok_or_else(|| io::Error::other("no file waits"))?;
        let file = self.files.open(&self.dir.join(&name))?;
        self.names.pop();
        Ok((name, file))
    }

    /// Keeps a file of the usual size that was taken, or that is a segment no more and has this name now.
    pub(crate) fn give(&mut self, name: String) {
        self.names.push(name);
    }

    /// A name that no file has.
    pub(crate) fn new_name(&mut self) -> String {
        let name = spare_name(self.next);
        self.next += 1;
        name
    }

    /// Whether there are more than the reserve.
    pub(crate) fn can_shrink(&self) -> bool {
        self.names.len() > self.reserve
    }

    /// Removes all but the reserve. A power cut may bring any of them back, for the next start.
    pub(crate) fn shrink(&mut self) -> io::Result<()> {
        while self.can_shrink()
            && let Some(name) = self.names.pop()
        {
            self.files.remove(&self.dir.join(name))?;
        }
        Ok(())
    }

    /// Makes the reserve whole, where there is space. Its files are on the medium: what delays the choice of blocks until then would
    /// have nothing to promise.
    pub(crate) fn refill(&mut self) -> io::Result<()> {
        while self.names.len() < self.reserve {
            match self.zeroed(self.segment_bytes) {
                Ok((name, file)) => {
                    file.sync()?;
                    self.names.push(name);
                }
                Err(Refused::Full(_)) => return Ok(()),
                Err(Refused::Failed(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// A new file of zeroes: a write into blocks that are there needs no change of the file's metadata, and is flushed faster. Where there
    /// is no space for all of it, nothing of it is left.
    fn zeroed(&mut self, bytes: u32) -> Result<(String, Arc<dyn File>), Refused> {
        let name = self.new_name();
        let path = self.dir.join(&name);
        let file = self.files.create(&path).map_err(Refused::of)?;
        match zero(&*file, 0, bytes) {
            Ok(()) => Ok((name, file)),
            Err(error) => {
                drop(file);
                // The next start tries again.
                if let Err(error) = self.files.remove(&path) {
                    tracing::warn!(%error, path = %path.display(), "cannot remove a file that is not whole");
                }
                Err(Refused::of(error))
            }
        }
    }
}

/// Zeroes the file from `from` to `end`.
pub(crate) fn zero(file: &dyn File, mut from: u32, end: u32) -> io::Result<()> {
    while from < end {
        let part = ZEROES.len().min((end - from) as usize);
        file.write_at(&ZEROES[..part], u64::from(from))?;
        from += u32::try_from(part).expect("a segment is smaller");
    }
    Ok(())
}

/// How much is zeroed at once.
const ZEROES: &[u8] = &[0; 256 << 10];
