//! fjall, made to keep the contract.

mod compactor;
#[cfg(test)]
mod tests;

use std::{
    fmt, fs,
    fs::{File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use fjall::{
    AbstractTree, Database, Keyspace, KeyspaceCreateOptions, LsmError, OwnedWriteBatch, PersistMode,
    Readable, Snapshot, compaction::Leveled,
};
use parking_lot::Mutex;

use self::compactor::{Compactor, PART_REMOVED};
use crate::{
    Change, Item, KEY_BYTES_MAX, Store, StoreError, StoreStatus, View,
    check::{self, SEQUENCE_KEY},
    check_sizes, makes_room,
    synced::SyncedMark,
    take_bytes,
};

/// How a [`FjallStore`] uses the machine. What is not here is fixed when a store is made: fjall keeps it with the data.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Blocks of tables that are kept in memory after they were read.
    pub cache_bytes: u64,
    /// So many bytes of the disk are left free for the store's own work, which may fail for good where it finds none. A batch
    /// that frees space may use half of them.
    pub free_bytes_min: u64,
    /// Tables that have more bytes together are compacted after a third of their rows were removed.
    pub compact_above_bytes: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { cache_bytes: 32 << 20, free_bytes_min: 256 << 20, compact_above_bytes: 32 << 20 }
    }
}

/// A store in a directory, by fjall.
///
/// In it are `lock`, `synced` (how far it was synced) and `state`, where fjall has its files. Dropped, it closes; a compaction
/// that runs is waited for. Views keep it open.
pub struct FjallStore {
    engine: Arc<Engine>,
    compactor: Compactor,
}

impl FjallStore {
    /// Opens the store in `dir`, which is made where it is missing. Reads the journals.
    ///
    /// # Errors
    /// Another process has it, it is damaged, or the file system refused.
    pub fn open(dir: &Path, options: &StoreOptions) -> Result<Self, StoreError> {
        create_dir(dir)?;
        let lock = lock(dir)?;
        let mark = SyncedMark::open(&dir.join("synced"))?;
        let state = dir.join("state");
        if !state.exists() {
            if mark.sequence() > 0 {
                return Err(StoreError::Damaged { what: format!("{} is missing", state.display()) });
            }
            create_state(dir, &state)?;
        }
        sync_dir(dir)?;
        let in_journals = check::check(&state, mark.sequence())?;
        let (db, rows) = guarded(|| open_state(&state, options)).map_err(|error| match error {
            StoreError::Locked { .. } => StoreError::Locked { dir: dir.to_owned() },
            error => error,
        })?;
        let sequence = match guarded(|| Ok(rows.get(SEQUENCE_KEY)?))? {
            None => 0,
            Some(bytes) => u64::from_le_bytes(bytes.as_ref().try_into().map_err(|_| {
                StoreError::Damaged { what: "the row that counts batches is not a number".to_owned() }
            })?),
        };
        if sequence < mark.sequence() || in_journals.is_some_and(|last| last != sequence) {
            return Err(StoreError::Damaged {
                what: format!(
                    "{} batches were synced, {in_journals:?} are in the journals, and {sequence} are there",
                    mark.sequence()
                ),
            });
        }
        let engine = Arc::new(Engine {
            dir: dir.to_owned(),
            rows,
            db,
            sequence: Mutex::new(sequence),
            mark: Mutex::new(mark),
            failed: OnceLock::new(),
            removals: AtomicU64::new(0),
            free_bytes_min: AtomicU64::new(options.free_bytes_min),
            compact_above_bytes: options.compact_above_bytes,
            compacting: Mutex::new(()),
            lock,
        });
        let compactor = Compactor::start(engine.clone())?;
        Ok(Self { engine, compactor })
    }

    /// Rewrites all tables, without what was replaced or removed. Returns when that is done: it reads and writes all there is.
    /// The store does it by itself after many removals.
    ///
    /// # Errors
    /// There is no room for the new tables, or one could not be read or written.
    pub fn compact(&self) -> Result<(), StoreError> {
        self.engine.compact()
    }

    #[cfg(test)]
    pub(crate) fn set_free_bytes_min(&self, bytes: u64) {
        self.engine.free_bytes_min.store(bytes, Ordering::Relaxed);
    }
}

impl fmt::Debug for FjallStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FjallStore").field("dir", &self.engine.dir).finish_non_exhaustive()
    }
}

impl Store for FjallStore {
    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.engine.value(&self.engine.db.snapshot(), key)
    }

    fn scan(&self, from: &[u8], to: &[u8], bytes_max: usize) -> Result<Vec<Item>, StoreError> {
        self.engine.scan(&self.engine.db.snapshot(), from, to, bytes_max)
    }

    fn write(&self, batch: Vec<Change>) -> Result<(), StoreError> {
        check_sizes(&batch)?;
        self.engine.write(batch)?;
        if self.engine.compaction_is_due(PART_REMOVED) {
            self.compactor.wake();
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.engine.sync()
    }

    fn view(&self) -> Result<Box<dyn View>, StoreError> {
        Ok(Box::new(FjallView { snapshot: self.engine.db.snapshot(), engine: self.engine.clone() }))
    }

    fn is_nearly_full(&self) -> bool {
        self.engine.is_nearly_full()
    }

    fn status(&self) -> StoreStatus {
        self.engine.status()
    }
}

/// One moment of a store, which it keeps open.
struct FjallView {
    // Dropped before the engine.
    snapshot: Snapshot,
    engine: Arc<Engine>,
}

impl fmt::Debug for FjallView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FjallView").field("dir", &self.engine.dir).finish_non_exhaustive()
    }
}

impl View for FjallView {
    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.engine.value(&self.snapshot, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], bytes_max: usize) -> Result<Vec<Item>, StoreError> {
        self.engine.scan(&self.snapshot, from, to, bytes_max)
    }
}

/// What store, views and compactor share.
struct Engine {
    dir: PathBuf,
    rows: Keyspace,
    db: Database,
    /// Batches written. Held over each write, so that batches are in the journal in this order.
    sequence: Mutex<u64>,
    mark: Mutex<SyncedMark>,
    /// The first failure.
    failed: OnceLock<String>,
    /// Rows removed since the last compaction.
    removals: AtomicU64,
    free_bytes_min: AtomicU64,
    compact_above_bytes: u64,
    compacting: Mutex<()>,
    /// Dropped last: who gets the lock finds fjall closed.
    lock: File,
}

impl Engine {
    // All reads go through a snapshot, for without one fjall shows a batch while it is being made.
    fn value(&self, snapshot: &Snapshot, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        if key.len() > KEY_BYTES_MAX {
            return Ok(None);
        }
        let value = guarded(|| Ok(snapshot.get(&self.rows, row_key(key))?))?;
        // Copied: fjall's slice would keep the whole block.
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, snapshot: &Snapshot, from: &[u8], to: &[u8], max: usize) -> Result<Vec<Item>, StoreError> {
        // No key is longer, so it is on the same side of a bound that is cut here.
        let [from, to] = [from, to].map(|bound| row_key(&bound[..bound.len().min(KEY_BYTES_MAX + 1)]));
        if from >= to {
            return Ok(Vec::new());
        }
        guarded(|| {
            let items = snapshot.range(&self.rows, from..to).map(|guard| {
                let (key, value) = guard.into_inner()?;
                Ok::<_, fjall::Error>((Bytes::copy_from_slice(&key[1..]), Bytes::copy_from_slice(&value)))
            });
            Ok(take_bytes(items, max)?)
        })
    }

    fn write(&self, batch: Vec<Change>) -> Result<(), StoreError> {
        let mut sequence = self.sequence.lock();
        self.check_failed()?;
        if batch.is_empty() {
            return Ok(());
        }
        let least = self.free_bytes_min.load(Ordering::Relaxed);
        self.check_space(if makes_room(&batch) { least / 2 } else { least })?;
        let removals = batch.iter().filter(|change| change.value.is_none()).count() as u64;
        self.commit(&mut sequence, batch)?;
        self.removals.fetch_add(removals, Ordering::Relaxed);
        Ok(())
    }

    fn commit(&self, sequence: &mut u64, batch: Vec<Change>) -> Result<(), StoreError> {
        guarded(|| self.wait_for_flushes()).map_err(|error| self.fail(error))?;
        let next = *sequence + 1;
        // Into the journal's file, and not onto the disk: a killed process loses nothing.
        let mut changes = OwnedWriteBatch::with_capacity(self.db.clone(), batch.len() + 1)
            .durability(Some(PersistMode::Buffer));
        // The newest batch is thereby always in the last table, also when a compaction drops all the rest; fjall would keep
        // its journals for ever otherwise.
        changes.insert(&self.rows, SEQUENCE_KEY, next.to_le_bytes());
        for Change { key, value } in batch {
            match value {
                Some(value) => changes.insert(&self.rows, row_key(&key), &value[..]),
                None => changes.remove(&self.rows, row_key(&key)),
            }
        }
        guarded(|| Ok(changes.commit()?)).map_err(|error| self.fail(error))?;
        *sequence = next;
        Ok(())
    }

    /// Waits until fjall has less to write out. It would wait by itself, and for ever where the thread it waits for has died.
    fn wait_for_flushes(&self) -> Result<(), StoreError> {
        while self.rows.tree.sealed_memtable_count() >= SEALED_MEMTABLES_MAX
            || self.rows.tree.l0_run_count() >= L0_RUNS_MAX
        {
            self.check_background()?;
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn is_nearly_full(&self) -> bool {
        let least = self.free_bytes_min.load(Ordering::Relaxed);
        // A file system that cannot be asked is told of by whatever is tried next.
        matches!(self.check_space(least.saturating_add(least / 4)), Err(StoreError::Full { .. }))
    }

    fn check_space(&self, needed_bytes: u64) -> Result<(), StoreError> {
        let disk = rustix::fs::fstatvfs(&self.lock).map_err(io::Error::from)?;
        let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free_bytes < needed_bytes {
            return Err(StoreError::Full { free_bytes, needed_bytes });
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.check_failed()?;
        let sequence = *self.sequence.lock();
        guarded(|| {
            // `fdatasync` flushes the length of the file too, where it has grown.
            self.db.persist(PersistMode::SyncData)?;
            // A thread of fjall may just have failed to flush the same file, and the kernel tells that only once.
            self.check_background()
        })
        .map_err(|error| self.fail(error))?;
        let mut mark = self.mark.lock();
        mark.advance(sequence).map_err(|error| self.fail(error.into()))
    }

    /// What fjall's own threads met.
    fn check_background(&self) -> Result<(), StoreError> {
        Ok(self.db.persist(PersistMode::Buffer)?)
    }

    fn check_failed(&self) -> Result<(), StoreError> {
        match self.failed.get() {
            Some(what) => Err(StoreError::Failed { what: what.clone() }),
            None => Ok(()),
        }
    }

    /// Notes the first failure of a write or sync, after which there is no other.
    fn fail(&self, error: StoreError) -> StoreError {
        let what = match &error {
            StoreError::Failed { what } => what.clone(),
            error => error.to_string(),
        };
        if self.failed.set(what.clone()).is_ok() {
            tracing::error!(error = what, dir = %self.dir.display(), "the store has failed");
        }
        error
    }

    /// Whether it is time to compact: when so large a part of what is there was removed that each removal pays for a few rows at most.
    fn compaction_is_due(&self, part: u64) -> bool {
        let removals = self.removals.load(Ordering::Relaxed);
        removals > 0
            && self.rows.disk_space() >= self.compact_above_bytes
            && removals >= self.rows_about() / part
    }

    fn compact(&self) -> Result<(), StoreError> {
        let _one = self.compacting.lock();
        let removals = self.removals.swap(0, Ordering::Relaxed);
        // Old and new tables are there together for a while. Each removal left two rows, which go.
        let rows = self.rows_about().max(1);
        let live = u128::from(rows.saturating_sub(2 * removals));
        let tables = u128::from(self.rows.disk_space()) * live / u128::from(rows);
        let reserve = self.free_bytes_min.load(Ordering::Relaxed) / 2;
        self.check_space(reserve.saturating_add(u64::try_from(tables).unwrap_or(u64::MAX)))?;
        let compacted = guarded(|| {
            self.flush_memtable()?;
            Ok(self.rows.major_compact()?)
        });
        compacted.map_err(|error| match error {
            // Without room the tables are as they were. A damaged one is found by reads too, and stays.
            StoreError::Io(_) => error,
            error => self.fail(error),
        })?;
        // fjall deletes the old tables when it makes another one, and has counted on since.
        self.commit(&mut self.sequence.lock(), Vec::new())?;
        guarded(|| self.flush_memtable())
    }

    /// Makes a table of what is in memory, and waits for it.
    fn flush_memtable(&self) -> Result<(), StoreError> {
        // Lets fjall know that no version before this moment's is wanted, but by views.
        drop(self.db.snapshot());
        self.rows.rotate_memtable()?;
        while self.rows.tree.sealed_memtable_count() > 0 {
            self.check_background()?;
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn rows_about(&self) -> u64 {
        self.rows.approximate_len() as u64
    }

    fn status(&self) -> StoreStatus {
        let failed = self.check_failed().and_then(|()| guarded(|| self.check_background())).err();
        let failed = failed.map(|error| match error {
            StoreError::Failed { what } => what,
            error => error.to_string(),
        });
        StoreStatus {
            disk_bytes: disk_bytes(&self.dir),
            buffered_bytes: self.db.write_buffer_size(),
            cache_bytes: self.db.cache_size(),
            rows_about: self.rows_about(),
            tables: self.rows.table_count() as u64,
            journals: self.db.journal_count() as u64,
            written: *self.sequence.lock(),
            synced: self.mark.lock().sequence(),
            failed,
        }
    }
}

/// Rows that were written and not flushed are in a memtable until it has so many bytes.
const MEMTABLE_BYTES: u64 = 16 << 20;

/// Writes wait while so many full memtables are there. fjall waits at four, and up to two are added in the meantime.
const SEALED_MEMTABLES_MAX: usize = 2;

/// Writes wait while so many runs are not merged. fjall waits at thirty.
const L0_RUNS_MAX: usize = 24;

/// Tables have so many bytes: what a compaction takes at once, and needs of the disk besides.
const TABLE_BYTES: u64 = 16 << 20;

/// Sealed journals may have so many bytes; the least that fjall allows. The one in use has up to 64 MB and a memtable besides.
const JOURNAL_BYTES: u64 = 64 << 20;

/// Open files of tables.
const OPEN_TABLES_MAX: usize = 128;

/// Threads of fjall: one writes memtables out while the other compacts. With a single one, writes would wait for each
/// compaction; the price is that the first one spins while the other has more to do.
const WORKERS: usize = 2;

/// The only keyspace.
const ROWS: &str = "rows";

/// Our own rows begin with another byte.
const ROW_PREFIX: u8 = b't';

const _: () = assert!(SEQUENCE_KEY[0] != ROW_PREFIX);
const _: () = assert!(1 + KEY_BYTES_MAX < u16::MAX as usize);

fn row_key(key: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(key.len() + 1);
    row.push(ROW_PREFIX);
    row.extend_from_slice(key);
    row
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let lock = File::options().write(true).create(true).truncate(false).open(dir.join("lock"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Makes an empty store under another name first, so that one that has the right name is whole: fjall does not open what was
/// left by a process that was killed in between.
fn create_state(dir: &Path, state: &Path) -> Result<(), StoreError> {
    let new = dir.join("new");
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    guarded(|| {
        let db = Database::builder(&new).worker_threads(1).open()?;
        db.keyspace(ROWS, || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(MEMTABLE_BYTES)
                .compaction_strategy(Arc::new(Leveled::default().with_table_target_size(TABLE_BYTES)))
        })?;
        Ok(db.persist(PersistMode::SyncAll)?)
    })?;
    // fjall flushes the directories it makes, and not their names in this one.
    sync_dir(&new.join("keyspaces"))?;
    sync_dir(&new)?;
    fs::rename(&new, state)?;
    Ok(sync_dir(dir)?)
}

fn open_state(state: &Path, options: &StoreOptions) -> Result<(Database, Keyspace), StoreError> {
    let db = Database::builder(state)
        .cache_size(options.cache_bytes)
        .max_journaling_size(JOURNAL_BYTES)
        .max_cached_files(Some(OPEN_TABLES_MAX))
        .worker_threads(WORKERS)
        .open()?;
    if !db.keyspace_exists(ROWS) {
        return Err(StoreError::Damaged { what: "its keyspace is missing".to_owned() });
    }
    let rows = db.keyspace(ROWS, KeyspaceCreateOptions::default)?;
    Ok((db, rows))
}

/// Runs something of fjall, which panics where bytes that it read make no sense.
fn guarded<T>(run: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    // Locks that the panic poisoned make later calls panic too, which is caught as well.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().map(String::as_str);
        let what = what.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        Err(StoreError::Damaged { what: what.to_owned() })
    })
}

impl From<fjall::Error> for StoreError {
    fn from(error: fjall::Error) -> Self {
        match error {
            fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error)) => match error.kind() {
                // A file of fjall's is shorter than it says elsewhere, says a place that no file has, or is not there.
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::InvalidData
                | io::ErrorKind::InvalidInput
                | io::ErrorKind::NotFound => Self::Damaged { what: error.to_string() },
                _ => Self::Io(error),
            },
            fjall::Error::Locked => Self::Locked { dir: PathBuf::new() },
            fjall::Error::Poisoned => {
                Self::Failed { what: "a file could not be written or read in the background".to_owned() }
            }
            error => Self::Damaged { what: error.to_string() },
        }
    }
}

/// Bytes that the files below `dir` have on the disk. What vanishes meanwhile does not count.
fn disk_bytes(dir: &Path) -> u64 {
    let mut dirs = vec![dir.to_owned()];
    let mut bytes = 0;
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                dirs.push(entry.path());
            } else {
                bytes += metadata.blocks() * 512;
            }
        }
    }
    bytes
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
