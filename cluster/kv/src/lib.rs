//! The small key-value store of a node: its port, sled behind it, and an in-memory twin with faults.
//!
//! [`Kv`] is the port, [`SledKv`] the store of a running node, [`MemoryKv`] the one of tests. It is for what is small and
//! changes slowly: the identity of the node and the state of the meta group. sled never returns space to the disk, so no
//! message goes here.
//!
//! Invariants: a batch is kept whole or not at all, and is durable when `write` returns; nothing is ever half read. After the
//! first failed flush a store takes no more writes, since nobody knows what the disk has.

mod memory;
mod sled_kv;

use std::{fmt, io, path::PathBuf};

pub use memory::MemoryKv;
pub use sled_kv::SledKv;

/// A key has at most so many bytes.
///
/// sled writes pages of up to 20 items, or 257 keys. A page of more than about half a MiB goes into a file of its own, which sled
/// never flushes; these bounds keep every page below that.
pub const KEY_BYTES_MAX: usize = 256;

/// A value has at most so many bytes, for the same reason.
pub const VALUE_BYTES_MAX: usize = 16 << 10;

/// One change: the value to set, or `None` to remove the key.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// A key and its value.
pub type Item = (Vec<u8>, Vec<u8>);

/// A store of small values, ordered by key.
pub trait Kv: Send + Sync + fmt::Debug {
    /// The value of `key`.
    ///
    /// # Errors
    /// The store could not be read.
    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;

    /// Makes all changes together, in order, durably: they are there after a power cut once this has returned. Blocks on the disk.
    ///
    /// # Errors
    /// They may or may not have been made, all together; [`KvError::TooLarge`] changes nothing.
    fn write(&self, batch: &[Change]) -> Result<(), KvError>;

    /// The keys that begin with `prefix`, in order, with their values.
    ///
    /// # Errors
    /// The store could not be read.
    fn scan(&self, prefix: &[u8]) -> Result<Vec<Item>, KvError>;
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// Another process works in the directory.
    #[error("the store in {dir} is in use by another process")]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// What is on the disk is not what was written.
    #[error("the store is damaged: {what}")]
    Damaged {
        /// What the store says about it.
        what: String,
    },
    /// A key has more than [`KEY_BYTES_MAX`] bytes, or a value more than [`VALUE_BYTES_MAX`].
    #[error(
        "a key of {key_bytes} bytes with a value of {value_bytes} bytes is larger than {KEY_BYTES_MAX} and {VALUE_BYTES_MAX}"
    )]
    TooLarge {
        /// Size of the key.
        key_bytes: usize,
        /// Size of the value.
        value_bytes: usize,
    },
    /// An earlier write failed; what the disk has is unknown until the store is opened again.
    #[error("an earlier write of the store failed")]
    Failed,
    /// The file system refused.
    #[error("the store: {0}")]
    Io(#[from] io::Error),
}

/// Refuses a batch with an item that is too large.
fn check_sizes(batch: &[Change]) -> Result<(), KvError> {
    for (key, value) in batch {
        let (key_bytes, value_bytes) = (key.len(), value.as_ref().map_or(0, Vec::len));
        if key_bytes > KEY_BYTES_MAX || value_bytes > VALUE_BYTES_MAX {
            return Err(KvError::TooLarge { key_bytes, value_bytes });
        }
    }
    Ok(())
}

/// What every store has to do. `open` gives the same store again, after the one before was dropped.
#[cfg(test)]
mod contract {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    pub(crate) fn check(open: impl Fn() -> Box<dyn Kv>) {
        let kv = open();
        assert_eq!(kv.value(b"a").unwrap(), None);
        kv.write(&[set("a", "1"), set("ab", "2"), set("b", "3"), remove("none")]).unwrap();
        assert_eq!(kv.value(b"a").unwrap().as_deref(), Some(&b"1"[..]));
        assert_eq!(kv.scan(b"a").unwrap(), [pair("a", "1"), pair("ab", "2")]);
        assert_eq!(kv.scan(b"").unwrap().len(), 3);

        kv.write(&[remove("a"), set("b", "4"), set("b", "5"), set("c", "")]).unwrap();
        kv.write(&[]).unwrap();
        drop(kv);
        let kv = open();
        assert_eq!(kv.scan(b"").unwrap(), [pair("ab", "2"), pair("b", "5"), pair("c", "")]);

        for (key, value) in [(0, VALUE_BYTES_MAX + 1), (KEY_BYTES_MAX + 1, 0)] {
            let refused = kv.write(&[set("d", "6"), (vec![b'e'; key], Some(vec![0; value]))]);
            assert!(matches!(refused, Err(KvError::TooLarge { .. })));
        }
        assert_eq!(kv.value(b"d").unwrap(), None);
        let largest = (vec![b'e'; KEY_BYTES_MAX], vec![7; VALUE_BYTES_MAX]);
        kv.write(&[(largest.0.clone(), Some(largest.1.clone()))]).unwrap();
        assert_eq!(kv.scan(b"ee").unwrap(), [largest]);
    }

    /// The store agrees with a map, also after each reopening.
    pub(crate) fn check_against_map(cases: u32, open: impl Fn() -> Box<dyn Kv>) {
        let key = vec(0_u8..4, 0..3);
        let batch = vec((key.clone(), option::of(vec(any::<u8>(), 0..4))), 0..6);
        let rounds = vec((batch, any::<bool>(), key), 1..12);
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
            cases,
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        let result = runner.run(&rounds, |rounds| {
            let mut kv = open();
            let clear: Vec<Change> = kv.scan(b"").unwrap().into_iter().map(|(key, _)| (key, None)).collect();
            kv.write(&clear).unwrap();
            let mut map = std::collections::BTreeMap::new();
            for (batch, reopen, prefix) in rounds {
                kv.write(&batch).unwrap();
                for (key, value) in batch {
                    match value {
                        Some(value) => map.insert(key, value),
                        None => map.remove(&key),
                    };
                }
                if reopen {
                    drop(kv);
                    kv = open();
                }
                let expected: Vec<_> = map
                    .iter()
                    .filter(|item| item.0.starts_with(&prefix))
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect();
                prop_assert_eq!(kv.scan(&prefix).unwrap(), expected);
                prop_assert_eq!(kv.value(&prefix).unwrap(), map.get(&prefix).cloned());
            }
            Ok(())
        });
        result.unwrap();
    }

    pub(crate) fn set(key: &str, value: &str) -> Change {
        (key.as_bytes().to_vec(), Some(value.as_bytes().to_vec()))
    }

    fn remove(key: &str) -> Change {
        (key.as_bytes().to_vec(), None)
    }

    fn pair(key: &str, value: &str) -> Item {
        (key.as_bytes().to_vec(), value.as_bytes().to_vec())
    }
}
