//! A store in memory that loses and refuses what a real one may.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{Change, Item, Store, StoreError, StoreStatus, View, check_sizes, makes_room, take_bytes};

/// A store in memory. Clones are the same store. It has no clock and no randomness: equal calls give equal results.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
}

/// What fails next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A write. `kept` says whether it is there all the same after a restart.
    Write {
        /// Whether it is.
        kept: bool,
    },
    /// A sync. What it should have made durable stays as it was.
    Sync,
}

#[derive(Debug, Default)]
struct Inner {
    rows: Arc<BTreeMap<Bytes, Bytes>>,
    /// The rows as of the last sync, and the batches since, oldest first.
    synced_rows: Arc<BTreeMap<Bytes, Bytes>>,
    unsynced: VecDeque<Vec<Change>>,
    /// Batches that are durable.
    synced: u64,
    fault: Option<Fault>,
    full: bool,
    failed: Option<String>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The next write or sync fails, whichever `fault` says, and with it all others until the store is opened again.
    pub fn fail_next(&self, fault: Fault) {
        self.inner.lock().fault = Some(fault);
    }

    /// While the disk is full, batches that do not free space are refused, and nothing of them is kept.
    pub fn set_full(&self, full: bool) {
        self.inner.lock().full = full;
    }

    /// Batches that a power cut may take.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.inner.lock().unsynced.len()
    }

    /// The store after the process was killed: nothing that was written is lost, and faults are gone.
    pub fn reopen(&self) {
        self.lose_unsynced(usize::MAX);
    }

    /// The store after a power cut: of the batches that were not synced, the first `kept` are there. Faults are gone. Views
    /// that are still held are of the time before.
    pub fn lose_unsynced(&self, kept: usize) {
        let inner = &mut *self.inner.lock();
        inner.unsynced.truncate(kept);
        inner.sync();
        inner.rows = inner.synced_rows.clone();
        inner.fault = None;
        inner.full = false;
        inner.failed = None;
    }
}

impl Inner {
    fn sync(&mut self) {
        self.synced += self.unsynced.len() as u64;
        let rows = Arc::make_mut(&mut self.synced_rows);
        for batch in self.unsynced.drain(..) {
            apply(rows, batch);
        }
    }

    fn check_failed(&self) -> Result<(), StoreError> {
        match &self.failed {
            Some(what) => Err(StoreError::Failed { what: what.clone() }),
            None => Ok(()),
        }
    }

    fn fail(&mut self, what: &str) -> StoreError {
        self.fault = None;
        self.failed = Some(what.to_owned());
        io::Error::other(what).into()
    }
}

fn apply(rows: &mut BTreeMap<Bytes, Bytes>, batch: Vec<Change>) {
    for Change { key, value } in batch {
        match value {
            Some(value) => rows.insert(key, value),
            None => rows.remove(&key),
        };
    }
}

impl Store for MemoryStore {
    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.inner.lock().rows.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], bytes_max: usize) -> Result<Vec<Item>, StoreError> {
        scan(&self.inner.lock().rows, from, to, bytes_max)
    }

    fn write(&self, batch: Vec<Change>) -> Result<(), StoreError> {
        check_sizes(&batch)?;
        let inner = &mut *self.inner.lock();
        inner.check_failed()?;
        if batch.is_empty() {
            return Ok(());
        }
        if inner.full && !makes_room(&batch) {
            return Err(StoreError::Full { free_bytes: 0, needed_bytes: 1 });
        }
        if let Some(Fault::Write { kept }) = inner.fault {
            if kept {
                inner.unsynced.push_back(batch);
            }
            return Err(inner.fail("injected: the write failed"));
        }
        apply(Arc::make_mut(&mut inner.rows), batch.clone());
        inner.unsynced.push_back(batch);
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let inner = &mut *self.inner.lock();
        inner.check_failed()?;
        if inner.fault == Some(Fault::Sync) {
            return Err(inner.fail("injected: the sync failed"));
        }
        inner.sync();
        Ok(())
    }

    fn view(&self) -> Result<Box<dyn View>, StoreError> {
        Ok(Box::new(MemoryView { rows: self.inner.lock().rows.clone() }))
    }

    fn is_nearly_full(&self) -> bool {
        self.inner.lock().full
    }

    fn status(&self) -> StoreStatus {
        let inner = self.inner.lock();
        StoreStatus {
            disk_bytes: bytes_of(&inner.synced_rows),
            buffered_bytes: bytes_of(&inner.rows),
            rows_about: inner.rows.len() as u64,
            written: inner.synced + inner.unsynced.len() as u64,
            synced: inner.synced,
            failed: inner.failed.clone(),
            ..StoreStatus::default()
        }
    }
}

fn bytes_of(rows: &BTreeMap<Bytes, Bytes>) -> u64 {
    rows.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
}

fn scan(
    rows: &BTreeMap<Bytes, Bytes>,
    from: &[u8],
    to: &[u8],
    bytes_max: usize,
) -> Result<Vec<Item>, StoreError> {
    if from >= to {
        return Ok(Vec::new());
    }
    let items = rows
        .range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)))
        .map(|(key, value)| Ok((key.clone(), value.clone())));
    take_bytes(items, bytes_max)
}

#[derive(Debug)]
struct MemoryView {
    rows: Arc<BTreeMap<Bytes, Bytes>>,
}

impl View for MemoryView {
    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.rows.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], bytes_max: usize) -> Result<Vec<Item>, StoreError> {
        scan(&self.rows, from, to, bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{self, remove, set};

    fn opener() -> impl Fn() -> Box<dyn Store> {
        let store = MemoryStore::new();
        move || {
            store.reopen();
            Box::new(store.clone())
        }
    }

    #[test]
    fn keeps_the_contract() {
        contract::check(&opener());
        contract::check_views(&opener());
        contract::check_readers(&opener());
    }

    #[test]
    fn agrees_with_a_map() {
        contract::check_against_map(200, &opener());
    }

    #[test]
    fn a_power_cut_leaves_what_was_synced_and_the_first_batches_since() {
        for kept in 0..=4 {
            let store = MemoryStore::new();
            store.write(vec![set("a", "0"), set("b", "0")]).unwrap();
            store.sync().unwrap();
            for batch in ["1", "2", "3"] {
                store.write(vec![set("a", batch), remove("b"), set(batch, "")]).unwrap();
            }
            assert_eq!(store.unsynced(), 3);
            assert_eq!(store.status().synced, 1);
            store.lose_unsynced(kept);
            let kept = kept.min(3);
            assert_eq!(store.value(b"a").unwrap().unwrap(), kept.to_string());
            assert_eq!(store.value(b"b").unwrap().is_some(), kept == 0);
            assert_eq!(store.value(b"3").unwrap().is_some(), kept == 3);
            // What survived stays.
            store.lose_unsynced(0);
            assert_eq!(store.value(b"a").unwrap().unwrap(), kept.to_string());
            assert_eq!(store.status().written, 1 + kept as u64);
        }
    }

    #[test]
    fn a_failure_is_final_until_the_store_is_opened_again() {
        for fault in [Fault::Write { kept: false }, Fault::Write { kept: true }, Fault::Sync] {
            let store = MemoryStore::new();
            store.write(vec![set("a", "1")]).unwrap();
            store.fail_next(fault);
            let failed = match fault {
                Fault::Write { .. } => store.write(vec![set("b", "2")]),
                Fault::Sync => store.sync(),
            };
            assert!(matches!(failed, Err(StoreError::Io(_))));
            assert!(matches!(store.write(vec![set("c", "3")]), Err(StoreError::Failed { .. })));
            assert!(matches!(store.sync(), Err(StoreError::Failed { .. })));
            assert!(store.status().failed.is_some());
            // Reads go on.
            assert_eq!(store.value(b"a").unwrap().unwrap(), "1");
            assert_eq!(store.value(b"b").unwrap(), None);
            store.reopen();
            assert_eq!(store.value(b"b").unwrap().is_some(), fault == Fault::Write { kept: true });
            store.write(vec![set("c", "3")]).unwrap();
            store.sync().unwrap();
        }
    }

    #[test]
    fn a_failed_sync_makes_nothing_durable() {
        let store = MemoryStore::new();
        store.write(vec![set("a", "1")]).unwrap();
        store.fail_next(Fault::Sync);
        store.sync().unwrap_err();
        store.lose_unsynced(0);
        assert_eq!(store.value(b"a").unwrap(), None);
    }

    #[test]
    fn a_full_disk_takes_what_frees_space_and_goes_on_when_there_is_room() {
        let store = MemoryStore::new();
        store.write(vec![set("a", "1"), set("b", "1")]).unwrap();
        store.set_full(true);
        let refused = store.write(vec![set("c", "1"), remove("a"), set("d", "1")]);
        assert!(matches!(refused, Err(StoreError::Full { .. })));
        assert_eq!(store.value(b"c").unwrap(), None);
        assert!(store.value(b"a").unwrap().is_some());
        store.write(vec![set("applied", "1"), remove("a")]).unwrap();
        store.sync().unwrap();
        store.set_full(false);
        store.write(vec![set("c", "1")]).unwrap();
    }
}
