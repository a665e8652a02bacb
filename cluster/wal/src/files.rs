//! The file operations the log needs, and the real ones.

use std::{
    fmt, fs, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where the log keeps its files. [`DiskFiles`] is the file system; [`MemoryFiles`](crate::MemoryFiles) is a twin with faults.
pub trait Files: Send + Sync + fmt::Debug {
    /// Makes the directory and its parents where they are missing, durably.
    ///
    /// # Errors
    /// It could not be made.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Names of the files in `dir`, sorted.
    ///
    /// # Errors
    /// The directory could not be read.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// A new, empty file.
    ///
    /// # Errors
    /// There is one of that name, or it could not be made.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// An existing file, for reading and writing.
    ///
    /// # Errors
    /// It could not be opened.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Gives the file another name, and replaces what was there. Durable after [`Files::sync_dir`].
    ///
    /// # Errors
    /// It could not be renamed.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes the file. Durable after [`Files::sync_dir`]; open handles keep reading.
    ///
    /// # Errors
    /// It could not be removed.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in `dir` durable.
    ///
    /// # Errors
    /// The flush failed.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the lock file at `path` until the value is dropped; `None` while somebody else has it.
    ///
    /// # Errors
    /// The lock file could not be made.
    fn lock(&self, path: &Path) -> io::Result<Option<DirectoryLock>>;
}

/// An open file.
pub trait File: Send + Sync + fmt::Debug {
    /// Writes all of `bytes` at `offset`; the file grows where needed.
    ///
    /// # Errors
    /// Not all was written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Fills all of `buffer` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` where the file ends before, or the read failed.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// The file could not be asked.
    fn size(&self) -> io::Result<u64>;

    /// Makes what was written, and the length, durable (`fdatasync`).
    ///
    /// # Errors
    /// The flush failed; what is on the medium is unknown.
    fn sync(&self) -> io::Result<()>;
}

/// Holds the lock of a directory; dropped, it lets go.
pub struct DirectoryLock {
    _held: Box<dyn Send + Sync>,
}

impl DirectoryLock {
    /// A lock that lasts as long as `held`.
    #[must_use]
    pub fn new(held: impl Send + Sync + 'static) -> Self {
        Self { _held: Box::new(held) }
    }
}

impl fmt::Debug for DirectoryLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DirectoryLock")
    }
}

/// The file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskFiles;

impl Files for DiskFiles {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        // Each new level is an entry in its parent, and that one has to be durable too.
        let missing: Vec<PathBuf> =
            dir.ancestors().take_while(|level| !level.exists()).map(Path::to_path_buf).collect();
        fs::create_dir_all(dir)?;
        for level in missing {
            let parent = level.parent().filter(|parent| !parent.as_os_str().is_empty());
            self.sync_dir(parent.unwrap_or(Path::new(".")))?;
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            // A name that is not UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(DiskFile(fs::File::options().read(true).write(true).create_new(true).open(path)?)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(DiskFile(fs::File::options().read(true).write(true).open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<DirectoryLock>> {
        let file = fs::File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        // The lock belongs to the open file: the kernel lets go when the process ends, however it ends.
        match file.try_lock() {
            Ok(()) => Ok(Some(DirectoryLock::new(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

#[derive(Debug)]
struct DiskFile(fs::File);

impl File for DiskFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
