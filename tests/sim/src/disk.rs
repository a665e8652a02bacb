//! The disk of a node, which outlives its process.

use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use flotilla_kv::MemoryKv;
use flotilla_raft::meta::{MetaError, Storage};
use flotilla_store::{Change, Item, MemoryStore, Store, StoreError, StoreStatus, View};
use flotilla_wal::{Flushing, MemoryFiles, WalOptions};
use parking_lot::Mutex;
use rand::{RngExt as _, rngs::StdRng};

/// A disk in memory. What was not flushed is lost when the power fails.
#[derive(Default)]
pub struct Disk {
    files: MemoryFiles,
    kv: MemoryKv,
    store: MemoryStore,
    /// Counts the times that the power failed. What a process still writes that ran before is refused.
    run: Arc<AtomicU64>,
    is_failing: bool,
}

impl Disk {
    /// Opens the disk for a process. Its log is flushed by whoever calls `Wal::flush`.
    pub fn open(&self, name: &str) -> Result<Storage, MetaError> {
        let wal =
            WalOptions { segment_bytes: SEGMENT_BYTES, flushing: Flushing::OnCall, ..WalOptions::default() };
        let (kv, files) = (Arc::new(self.kv.clone()), Arc::new(self.files.clone()));
        Storage::open_in(kv, files, Path::new("/"), name, crate::node::CLUSTER_NAME, wal)
    }

    /// The store of the shards, for a process.
    pub fn store(&self) -> SimStore {
        SimStore {
            inner: self.store.clone(),
            run: Arc::clone(&self.run),
            opened_in: self.run.load(Ordering::Relaxed),
            power_cut: Arc::default(),
        }
    }

    /// The power fails: of each write that was not flushed, some part is kept, and of the batches of the store the first ones.
    pub fn lose_power(&mut self, random: &mut StdRng) {
        self.files = self.files.crash(|len| {
            let from = random.random_range(0..=len);
            from..random.random_range(from..=len)
        });
        self.kv.reopen();
        self.run.fetch_add(1, Ordering::Relaxed);
        let unsynced = self.store.unsynced();
        if unsynced > 0 {
            self.store.lose_unsynced(random.random_range(0..=unsynced));
        }
        self.is_failing = false;
    }

    /// The power fails while the process is at work, which ends soon: what it writes meanwhile is refused.
    pub fn cut_power(&mut self, random: &mut StdRng) {
        self.lose_power(random);
        self.kv.fail_after(0, false);
        self.is_failing = true;
    }

    /// From the `n`-th operation from now on, all fail.
    pub fn fail_at(&mut self, n: u64) {
        self.files.stop_at_operation(n);
        self.is_failing = true;
    }

    /// Whether it does.
    pub fn is_failing(&self) -> bool {
        self.is_failing
    }
}

/// The store as one process sees it.
#[derive(Debug, Clone)]
pub struct SimStore {
    inner: MemoryStore,
    run: Arc<AtomicU64>,
    opened_in: u64,
    power_cut: Arc<Mutex<Option<PowerCut>>>,
}

/// What happens at one of the next writes or syncs.
struct PowerCut {
    operations_left: u64,
    cut: Box<dyn FnOnce() + Send>,
}

impl fmt::Debug for PowerCut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a power cut after {} operations", self.operations_left)
    }
}

impl SimStore {
    /// Has the power fail with one of the next writes or syncs; before the sync, and after the write.
    pub fn cut_power_after(&self, operations: u64, cut: impl FnOnce() + Send + 'static) {
        *self.power_cut.lock() = Some(PowerCut { operations_left: operations, cut: Box::new(cut) });
    }

    /// Refuses what a process does whose power has failed.
    fn check_power(&self) -> Result<(), StoreError> {
        if self.run.load(Ordering::Relaxed) == self.opened_in {
            return Ok(());
        }
        Err(std::io::Error::other("this run of the process has ended").into())
    }

    fn count(&self) -> Result<(), StoreError> {
        let due = {
            let mut power_cut = self.power_cut.lock();
            match &mut *power_cut {
                Some(PowerCut { operations_left: 0, .. }) => power_cut.take(),
                Some(later) => {
                    later.operations_left -= 1;
                    None
                }
                None => None,
            }
        };
        if let Some(PowerCut { cut, .. }) = due {
            cut();
        }
        self.check_power()
    }
}

impl Store for SimStore {
    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.inner.value(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], bytes_max: usize) -> Result<Vec<Item>, StoreError> {
        self.inner.scan(from, to, bytes_max)
    }

    fn write(&self, batch: Vec<Change>) -> Result<(), StoreError> {
        self.check_power()?;
        self.inner.write(batch)?;
        self.count()
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.check_power()?;
        self.count()?;
        self.inner.sync()
    }

    fn view(&self) -> Result<Box<dyn View>, StoreError> {
        self.inner.view()
    }

    fn is_nearly_full(&self) -> bool {
        self.inner.is_nearly_full()
    }

    fn status(&self) -> StoreStatus {
        self.inner.status()
    }
}

const SEGMENT_BYTES: u32 = 64 * 1024;
