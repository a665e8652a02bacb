//! The snapshot files of a group.
//!
//! There is one snapshot, `snapshot`; what is written or received goes to a file that ends in `.tmp` and is given that name once it
//! is whole and on the disk. A file is
//!
//! ```text
//! "FLOTSNAP" | format: u32 | record*        record: kind: u8 | length: u32 | CRC-32 of kind, length, payload: u32 | payload
//! ```
//!
//! in little endian: one record for what the snapshot holds, one for each chunk of the state machine, and one with their number. A state
//! that is on the disk by itself has no snapshot file: what goes to another member has the same bytes, and is made as it is sent; what
//! comes from another member is a file until the state has taken it in.

mod file;
mod live;
mod record;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use flotilla_wal::{File, Files};
use parking_lot::Mutex;

use super::error::SnapshotError;
use super::types::SnapshotMeta;
use super::wire;
use record::{Kind, Writer};

pub(super) use file::SnapshotFile;
pub(super) use live::LiveSnapshot;

/// What openraft hands around as a snapshot.
#[derive(Debug)]
pub(super) enum SnapshotData {
    /// A file: the state is in memory, or it comes from another member.
    File(SnapshotFile),
    /// A durable state, on its way to another member.
    Live(LiveSnapshot),
    /// A durable state, where it is. There is nothing to send.
    OnDisk,
}

const NAME: &str = "snapshot";
const TEMPORARY: &str = ".tmp";

/// The folder of the snapshot of a group.
pub(super) struct SnapshotStore {
    files: Arc<dyn Files>,
    dir: PathBuf,
    current: Mutex<Option<SnapshotFile>>,
    temporaries: AtomicU64,
}

impl SnapshotStore {
    /// Opens the folder, makes it where it is missing, and removes what an interrupted write left.
    ///
    /// Of the snapshot only the head is verified here; the chunks are when they are read.
    pub(super) fn open(dir: PathBuf, files: Arc<dyn Files>) -> Result<Self, SnapshotError> {
        let store = Self { files, dir, current: Mutex::new(None), temporaries: AtomicU64::new(0) };
        store.at_dir(store.files.create_dir(&store.dir))?;
        let names = store.at_dir(store.files.list(&store.dir))?;
        for name in names.iter().filter(|name| name.ends_with(TEMPORARY)) {
            store.at_dir(store.files.remove(&store.dir.join(name)))?;
        }
        if names.iter().any(|name| name == NAME) {
            let path = store.dir.join(NAME);
            let file = store.at_dir(store.files.open(&path))?;
            *store.current.lock() = Some(SnapshotFile::open(path, file)?);
        }
        Ok(store)
    }

    /// The latest snapshot.
    pub(super) fn current(&self) -> Option<SnapshotFile> {
        self.current.lock().clone()
    }

    /// The index of the last entry that the latest snapshot covers.
    pub(super) fn last_index(&self) -> Option<u64> {
        self.current.lock().as_ref().and_then(SnapshotFile::last_index)
    }

    /// Writes a snapshot to the disk. It is not the latest yet: see [`SnapshotStore::install`].
    pub(super) fn write(
        &self,
        meta: &SnapshotMeta,
        chunks: &mut dyn Iterator<Item = Bytes>,
    ) -> Result<SnapshotFile, SnapshotError> {
        let mut writer = Writer::new(self.create()?);
        writer.record(Kind::Meta, &wire::encode_snapshot_meta(meta))?;
        let mut count = 0u64;
        for chunk in chunks {
            writer.record(Kind::Chunk, &chunk)?;
            count += 1;
        }
        writer.record(Kind::End, &count.to_le_bytes())?;
        let (target, bytes) = writer.finish()?;
        Ok(SnapshotFile {
            meta: meta.clone(),
            bytes,
            file: Arc::clone(&target.file),
            path: target.path.clone(),
            temporary: Some(Arc::new(target)),
        })
    }

    /// Takes a snapshot file that another node sends. It has `bytes` bytes; 0 where the sender makes it while it sends, and then the
    /// file itself tells where it ends.
    pub(super) fn receive(&self, bytes: u64) -> Result<Receiving, SnapshotError> {
        Ok(Receiving {
            target: self.create()?,
            expected: Some(bytes).filter(|bytes| *bytes > 0),
            received: 0,
        })
    }

    /// Makes a file of [`SnapshotStore::write`] or [`Receiving::finish`] the latest snapshot, durably, and returns the latest: when
    /// that was overtaken by a newer one, the file is given up.
    pub(super) fn install(&self, snapshot: SnapshotFile) -> Result<SnapshotFile, SnapshotError> {
        let mut current = self.current.lock();
        if let Some(current) = &*current
            && current.meta.last_log_id >= snapshot.meta.last_log_id
        {
            return Ok(current.clone());
        }
        if let Some(temporary) = &snapshot.temporary {
            let path = self.dir.join(NAME);
            self.at_dir(self.files.rename(&temporary.path, &path))?;
            temporary.installed.store(true, Ordering::Relaxed);
            self.at_dir(self.files.sync_dir(&self.dir))?;
            let installed = SnapshotFile { path, temporary: None, ..snapshot };
            *current = Some(installed.clone());
            return Ok(installed);
        }
        Ok(snapshot)
    }

    /// The log was cut up to `purged`, which only a snapshot at least as new justifies.
    pub(super) fn require(&self, purged: Option<u64>) -> Result<(), SnapshotError> {
        match purged {
            Some(needed) if self.last_index().is_none_or(|last| last < needed) => {
                Err(SnapshotError::Missing { path: self.dir.display().to_string(), needed })
            }
            _ => Ok(()),
        }
    }

    fn create(&self) -> Result<Temporary, SnapshotError> {
        let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{number}{TEMPORARY}"));
        let file = self.at_dir(self.files.create(&path))?;
        Ok(Temporary { files: Arc::clone(&self.files), file, path, installed: AtomicBool::new(false) })
    }

    fn at_dir<T>(&self, result: io::Result<T>) -> Result<T, SnapshotError> {
        result.map_err(|source| SnapshotError::Io { path: self.dir.display().to_string(), source })
    }
}

/// A snapshot that is being received.
pub(super) struct Receiving {
    target: Temporary,
    expected: Option<u64>,
    received: u64,
}

impl Receiving {
    /// Takes the next bytes of the file.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let end = self.received + bytes.len() as u64;
        if let Some(expected) = self.expected.filter(|expected| end > *expected) {
            return Err(SnapshotError::Received(format!("more came than the announced {expected} bytes")));
        }
        self.target.write(bytes, self.received)?;
        self.received = end;
        Ok(())
    }

    /// Brings the file to the disk and verifies all of it; it must hold `meta`.
    pub(super) fn finish(self, meta: &SnapshotMeta) -> Result<SnapshotFile, SnapshotError> {
        if let Some(expected) = self.expected.filter(|expected| self.received != *expected) {
            return Err(SnapshotError::Received(format!(
                "{} of the announced {expected} bytes came",
                self.received
            )));
        }
        self.target.sync()?;
        let path = self.target.path.clone();
        let refused = |error: SnapshotError| match error {
            SnapshotError::Damaged { reason, .. } => SnapshotError::Received(reason),
            other => other,
        };
        let mut snapshot = SnapshotFile::open(path, Arc::clone(&self.target.file)).map_err(refused)?;
        if snapshot.meta != *meta {
            return Err(SnapshotError::Received("the file holds something else than was announced".into()));
        }
        snapshot.chunks().finish().map_err(refused)?;
        snapshot.temporary = Some(Arc::new(self.target));
        Ok(snapshot)
    }
}

/// A file that is removed unless it becomes the snapshot.
struct Temporary {
    files: Arc<dyn Files>,
    file: Arc<dyn File>,
    path: PathBuf,
    installed: AtomicBool,
}

impl Temporary {
    fn write(&self, bytes: &[u8], offset: u64) -> Result<(), SnapshotError> {
        self.file.write_at(bytes, offset).map_err(|source| self.failed(source))
    }

    fn sync(&self) -> Result<(), SnapshotError> {
        self.file.sync().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> SnapshotError {
        SnapshotError::Io { path: self.path.display().to_string(), source }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.installed.load(Ordering::Relaxed)
            && let Err(error) = self.files.remove(&self.path)
        {
            // The next start tries again.
            tracing::warn!(error = %error, path = %self.path.display(), "cannot remove a temporary snapshot");
        }
    }
}
