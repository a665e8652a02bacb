//! A store in memory, for tests.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{Change, Item, Kv, KvError, check_sizes};

/// A store in memory. Clones are the same store.
#[derive(Debug, Clone, Default)]
pub struct MemoryKv {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    items: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Writes that still succeed, and whether the one after them is kept all the same.
    fails_after: Option<(u64, bool)>,
    failed: bool,
}

impl MemoryKv {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The write after `writes` more fails, and with it all others until [`MemoryKv::reopen`]. A failed write may be there all
    /// the same: `kept` says whether this one is.
    pub fn fail_after(&self, writes: u64, kept: bool) {
        self.inner().fails_after = Some((writes, kept));
    }

    /// The store after a restart of the process: what was written is there, and faults are gone.
    pub fn reopen(&self) {
        let mut inner = self.inner();
        inner.fails_after = None;
        inner.failed = false;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // No step between two changes panics, so a poisoned store is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kv for MemoryKv {
    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.inner().items.get(key).cloned())
    }

    fn write(&self, batch: &[Change]) -> Result<(), KvError> {
        check_sizes(batch)?;
        let mut inner = self.inner();
        if inner.failed {
            return Err(KvError::Failed);
        }
        let mut kept = true;
        match &mut inner.fails_after {
            Some((0, also)) => {
                kept = *also;
                inner.failed = true;
            }
            Some((left, _)) => *left -= 1,
            None => {}
        }
        if kept {
            for (key, value) in batch {
                match value {
                    Some(value) => inner.items.insert(key.clone(), value.clone()),
                    None => inner.items.remove(key),
                };
            }
        }
        if inner.failed { Err(io::Error::other("injected: the write failed").into()) } else { Ok(()) }
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<Item>, KvError> {
        let inner = self.inner();
        let from = inner.items.range(prefix.to_vec()..).take_while(|item| item.0.starts_with(prefix));
        Ok(from.map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract;

    #[test]
    fn keeps_the_contract() {
        let kv = MemoryKv::new();
        contract::check(|| {
            kv.reopen();
            Box::new(kv.clone())
        });
    }

    #[test]
    fn agrees_with_a_map() {
        let kv = MemoryKv::new();
        contract::check_against_map(64, || Box::new(kv.clone()));
    }

    #[test]
    fn a_failed_write_is_final_until_the_store_is_opened_again() {
        for kept in [false, true] {
            let kv = MemoryKv::new();
            kv.fail_after(1, kept);
            kv.write(&[contract::set("a", "1")]).unwrap();
            assert!(matches!(kv.write(&[contract::set("b", "2")]), Err(KvError::Io(_))));
            assert!(matches!(kv.write(&[contract::set("c", "3")]), Err(KvError::Failed)));
            kv.reopen();
            assert_eq!(kv.value(b"b").unwrap().is_some(), kept);
            kv.write(&[contract::set("c", "3")]).unwrap();
        }
    }
}
