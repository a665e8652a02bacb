//! sled, made durable.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{Change, Item, KEY_BYTES_MAX, Kv, KvError, VALUE_BYTES_MAX, check_sizes};

/// A store in a directory, by sled.
///
/// On Linux sled's `flush` ends in `sync_file_range`, which flushes neither the cache of the drive nor the length of the file;
/// sled itself calls `fsync` only now and then. So each write is followed by a flush of our own of the file `db`, where sled keeps
/// all that is not larger than the bounds of the port.
#[derive(Debug)]
pub struct SledKv {
    db: sled::Db,
    /// sled's file, to flush it.
    file: File,
    failed: AtomicBool,
    /// Dropped last: who gets the lock finds sled closed.
    _lock: File,
}

impl SledKv {
    /// Opens the store in `dir`, which is made where it is missing.
    ///
    /// # Errors
    /// Another process has it, it is damaged, or the file system refused.
    pub fn open(dir: &Path) -> Result<Self, KvError> {
        create_dir(dir)?;
        let lock = File::options().write(true).create(true).truncate(false).open(dir.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(KvError::Locked { dir: dir.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        wait_for_sled(dir)?;
        let db = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).segment_size(SEGMENT_BYTES).open();
        let db = db.map_err(failure)?;
        let file = File::options().write(true).open(dir.join("db"))?;
        // sled flushes neither what it writes once (`conf`) nor the names of its files.
        File::open(dir.join("conf"))?.sync_all()?;
        file.sync_all()?;
        sync_dir(&dir.join("blobs"))?;
        sync_dir(dir)?;
        Ok(Self { db, file, failed: AtomicBool::new(false), _lock: lock })
    }

    fn write_and_flush(&self, batch: sled::Batch) -> Result<(), KvError> {
        self.db.apply_batch(batch).map_err(failure)?;
        self.db.flush().map_err(failure)?;
        self.file.sync_data()?;
        Ok(())
    }
}

impl Kv for SledKv {
    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.db.get(key).map_err(failure)?.map(|value| value.to_vec()))
    }

    fn write(&self, batch: &[Change]) -> Result<(), KvError> {
        check_sizes(batch)?;
        if self.failed.load(Ordering::Acquire) {
            return Err(KvError::Failed);
        }
        let mut changes = sled::Batch::default();
        for (key, value) in batch {
            match value {
                Some(value) => changes.insert(key.as_slice(), value.as_slice()),
                None => changes.remove(key.as_slice()),
            }
        }
        // After a failed flush the kernel takes the pages for clean: another flush would succeed, and prove nothing.
        self.write_and_flush(changes).inspect_err(|_| self.failed.store(true, Ordering::Release))
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<Item>, KvError> {
        let items = self.db.scan_prefix(prefix);
        items.map(|item| item.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(failure)).collect()
    }
}

/// What is in memory of the store; all of it, for what belongs here.
const CACHE_BYTES: u64 = 8 << 20;

/// sled's segment. A page of more than a quarter of it is kept outside of `db`.
const SEGMENT_BYTES: usize = 2 << 20;

/// A leaf has up to 17 items, and 20 right after a merge; an index page 257 keys. Each item has its lengths besides.
const _: () = assert!(24 * (KEY_BYTES_MAX + VALUE_BYTES_MAX + 64) < SEGMENT_BYTES / 4);
const _: () = assert!(258 * (KEY_BYTES_MAX + 64) < SEGMENT_BYTES / 4);

/// How long an earlier `SledKv` of this process may take to go.
const CLOSING_MAX: Duration = Duration::from_secs(5);

/// Waits until nobody has sled's file. A thread of sled keeps it for a moment after the store was dropped; our own lock is
/// free by then, so whoever has it much longer is another program.
fn wait_for_sled(dir: &Path) -> Result<(), KvError> {
    let file = match File::open(dir.join("db")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let deadline = Instant::now() + CLOSING_MAX;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(TryLockError::WouldBlock) => return Err(KvError::Locked { dir: dir.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
}

fn failure(error: sled::Error) -> KvError {
    match error {
        sled::Error::Io(error) => error.into(),
        other => KvError::Damaged { what: other.to_string() },
    }
}

/// Makes the directory and its parents where they are missing, durably.
fn create_dir(dir: &Path) -> io::Result<()> {
    let missing: Vec<PathBuf> =
        dir.ancestors().take_while(|level| !level.exists()).map(Path::to_path_buf).collect();
    fs::create_dir_all(dir)?;
    // Each new level is an entry in its parent.
    for level in missing {
        sync_dir(level.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract;

    #[test]
    fn keeps_the_contract() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/kv");
        contract::check(|| Box::new(SledKv::open(&path).unwrap()));
    }

    #[test]
    fn agrees_with_a_map() {
        let dir = tempfile::tempdir().unwrap();
        contract::check_against_map(12, || Box::new(SledKv::open(dir.path()).unwrap()));
    }

    #[test]
    fn a_store_in_use_is_locked() {
        let dir = tempfile::tempdir().unwrap();
        let kv = SledKv::open(dir.path()).unwrap();
        assert!(matches!(SledKv::open(dir.path()), Err(KvError::Locked { .. })));
        drop(kv);
        SledKv::open(dir.path()).unwrap();
    }

    #[test]
    fn items_of_the_largest_size_are_in_the_file_that_is_flushed() {
        let dir = tempfile::tempdir().unwrap();
        let kv = SledKv::open(dir.path()).unwrap();
        for round in 0..3_u8 {
            for number in 0..100_u8 {
                // Not in order, so that pages split everywhere.
                let mut key = vec![number.wrapping_mul(37) % 100; KEY_BYTES_MAX];
                key[KEY_BYTES_MAX - 1] = 1;
                kv.write(&[(key, Some(vec![round; VALUE_BYTES_MAX]))]).unwrap();
                assert_eq!(fs::read_dir(dir.path().join("blobs")).unwrap().count(), 0, "{round} {number}");
            }
        }
    }
}
