//! The state store of a node for its shards: its port, fjall behind it, and an in-memory twin with faults.
//!
//! [`Store`] is the port, [`FjallStore`] the store of a running node, [`MemoryStore`] the one of tests and simulations. It is
//! for what is large and changes fast: sessions, inboxes, retained messages. The log and its votes are in `flotilla-wal`, the
//! identity of the node in `flotilla-kv`.
//!
//! Invariants:
//! - A batch is kept whole or not at all, and none without all those before it. Readers see it whole or not at all.
//! - What was written before a [`Store::sync`] that returned `Ok` is there after a power cut; it is never silently absent.
//! - The first write or sync that fails is final until the store is opened again: the kernel may have dropped the dirty pages,
//!   so a second sync that succeeds would prove nothing. [`StoreError::Full`] is no such failure, for nothing was tried.
//! - Bytes that are not what was written are [`StoreError::Damaged`], never another value and never "no value".
//!
//! Absent on purpose: more than one keyspace (an idle one holds fjall's journals back, so keys carry a shard prefix), `clear`,
//! compression, separation of large values (values here are small and short-lived, and blob files return space later), and a
//! way to skip damage. fjall is pinned, because its journals and manifests are read here and parts of it are used that it
//! does not document; an update of it is an update of `check`.
//!
//! What is bounded: memory by three memtables of 16 MiB and the cache; the disk by what is stored, as much again until a
//! third of the rows was removed or while tables are compacted, and journals of up to about 160 MB, of which an empty store
//! keeps one of up to 80. Writes wait while the disk cannot keep up, and while a sync flushes, for fjall holds its journal
//! meanwhile.
//!
//! Measured on two shared cores with a virtual disk, 1,000,000 rows of 300 B and a key of 18 B in the inboxes of 10,000
//! sessions, in batches of 256 (`examples/measure.rs`):
//!
//! | | a sync at the end | a sync after each batch |
//! |---|---|---|
//! | insert | 180,000 to 380,000 rows/s, 4.2 to 5.5 us CPU | 150,000 to 184,000 rows/s, 7.5 us CPU |
//! | slowest batch | 63 to 173 ms | 92 to 105 ms |
//! | delete | 318,000 to 425,000 rows/s | 216,000 to 243,000 rows/s |
//! | get, at random | 144,000/s, 6.5 us CPU | |
//! | scan of a session's 100 rows | 10,600/s, 94 us CPU | |
//! | reopening with all rows | 0.25 to 0.31 s | 0.36 s |
//! | disk with all rows, after deleting them, after a compaction (0.5 s) | 421, 176, 12 MB | 367, 76, 31 MB |
//! | memory of the process | 61 to 95 MB | 84 to 91 MB |

mod check;
#[cfg(test)]
mod contract;
mod fjall_store;
mod memory;
mod synced;

use std::{fmt, io, path::PathBuf};

use bytes::Bytes;

pub use fjall_store::{FjallStore, StoreOptions};
pub use memory::{Fault, MemoryStore};

/// A key has at most so many bytes. fjall has two for their number, and one byte is ours; the bounds of a scan may be one longer.
pub const KEY_BYTES_MAX: usize = 65_533;

/// A value has at most so many bytes: the largest MQTT packet, and room for what is stored beside it.
pub const VALUE_BYTES_MAX: usize = 257 << 20;

/// One change: the value to set, or `None` to remove the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key, of at most [`KEY_BYTES_MAX`] bytes.
    pub key: Bytes,
    /// Its new value, of at most [`VALUE_BYTES_MAX`] bytes.
    pub value: Option<Bytes>,
}

impl Change {
    /// Sets `key` to `value`.
    pub fn set(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { key: key.into(), value: Some(value.into()) }
    }

    /// Removes `key`, if it is there.
    pub fn remove(key: impl Into<Bytes>) -> Self {
        Self { key: key.into(), value: None }
    }
}

/// A key and its value.
pub type Item = (Bytes, Bytes);

/// A store of values, ordered by key.
pub trait Store: Send + Sync + fmt::Debug {
    /// The value of `key`. Reads the disk.
    ///
    /// # Errors
    /// The store could not be read.
    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// The items with `from <= key < to`, in order: as many as have `bytes_max` bytes together, keys and values, and at least
    /// one where there is one. What was removed lately costs time here, so a queue keeps where it begins, and scans from there.
    ///
    /// # Errors
    /// The store could not be read.
    fn scan(&self, from: &[u8], to: &[u8], bytes_max: usize) -> Result<Vec<Item>, StoreError>;

    /// Makes all changes together, in order (later ones win). They are visible at once, and durable after the next
    /// [`Store::sync`]; an earlier write is never less durable than a later one. Waits while the disk cannot keep up.
    ///
    /// # Errors
    /// [`StoreError::Full`] and [`StoreError::TooLarge`] change nothing, and the next write may succeed. After any other the
    /// changes may or may not be there once the store is opened again, all together, and until then it takes no more.
    fn write(&self, batch: Vec<Change>) -> Result<(), StoreError>;

    /// Everything that was written before is on the disk when this returns. Blocks.
    ///
    /// # Errors
    /// What the disk has of the writes since the last sync is unknown; the store takes no more until it is opened again.
    fn sync(&self) -> Result<(), StoreError>;

    /// A consistent view of this moment that later writes do not change. While it lives, what is removed keeps its space.
    ///
    /// # Errors
    /// The store could not be read.
    fn view(&self) -> Result<Box<dyn View>, StoreError>;

    /// Whether there is so little space that a write may soon be refused: load should be refused now, so that what frees space
    /// still goes on. It asks the file system, and reads nothing.
    fn is_nearly_full(&self) -> bool;

    /// What an operator wants to see. Lists the files of the store.
    fn status(&self) -> StoreStatus;
}

/// The store at one moment.
pub trait View: Send + fmt::Debug {
    /// Like [`Store::value`].
    ///
    /// # Errors
    /// The store could not be read.
    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Like [`Store::scan`].
    ///
    /// # Errors
    /// The store could not be read.
    fn scan(&self, from: &[u8], to: &[u8], bytes_max: usize) -> Result<Vec<Item>, StoreError>;
}

/// Figures of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreStatus {
    /// Bytes that the files have on the disk, about.
    pub disk_bytes: u64,
    /// Bytes that were written and are not in tables yet: what is in memory besides the cache.
    pub buffered_bytes: u64,
    /// Bytes that the cache of read blocks has now.
    pub cache_bytes: u64,
    /// Rows in tables and in memory, also those that are replaced or removed and not compacted away yet.
    pub rows_about: u64,
    /// Tables on the disk.
    pub tables: u64,
    /// Journals on the disk.
    pub journals: u64,
    /// Batches written since the store was made, with those that the store writes for itself.
    pub written: u64,
    /// Of those, how many are known to be durable.
    pub synced: u64,
    /// Why the store takes no more writes.
    pub failed: Option<String>,
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process works in the directory.
    #[error(
        "the store in {dir} is in use by another process: stop that one, or give this node a directory of its own"
    )]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// What is on the disk is not what was written.
    #[error(
        "the store is damaged: {what}; stop the node, check its disk, move the directory of the store away and start it \
         again, and it takes its state from the other nodes (without any, put back a copy)"
    )]
    Damaged {
        /// What does not fit.
        what: String,
    },
    /// The disk has too little room. Nothing of the batch was kept, and writes go on once there is room.
    #[error(
        "{free_bytes} bytes are free on the disk of the store, and {needed_bytes} are needed: make room there"
    )]
    Full {
        /// Bytes that are free.
        free_bytes: u64,
        /// Bytes that have to be.
        needed_bytes: u64,
    },
    /// A key has more than [`KEY_BYTES_MAX`] bytes, or a value more than [`VALUE_BYTES_MAX`]. Nothing of the batch was kept.
    #[error(
        "a key of {key_bytes} bytes with a value of {value_bytes} bytes is larger than {KEY_BYTES_MAX} and {VALUE_BYTES_MAX}"
    )]
    TooLarge {
        /// Size of the key.
        key_bytes: usize,
        /// Size of the value.
        value_bytes: usize,
    },
    /// An earlier write or sync failed; what the disk has is unknown until the store is opened again.
    #[error("an earlier write of the store failed ({what}): look after its disk, then start the node again")]
    Failed {
        /// The first failure.
        what: String,
    },
    /// The file system refused.
    #[error("the store: {0}")]
    Io(#[from] io::Error),
}

/// The smallest bound behind all keys that begin with `prefix`, for [`Store::scan`]. Where there is none, because `prefix` is
/// empty or all `0xFF`, a bound behind every key.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![u8::MAX; KEY_BYTES_MAX + 1]
}

/// Refuses a batch with an item that is too large.
fn check_sizes(batch: &[Change]) -> Result<(), StoreError> {
    for change in batch {
        let (key_bytes, value_bytes) = (change.key.len(), change.value.as_ref().map_or(0, Bytes::len));
        if key_bytes > KEY_BYTES_MAX || value_bytes > VALUE_BYTES_MAX {
            return Err(StoreError::TooLarge { key_bytes, value_bytes });
        }
    }
    Ok(())
}

/// Whether a batch rather frees space than takes it: such a one may use the last of the disk, or nobody could make room.
fn makes_room(batch: &[Change]) -> bool {
    let removed = batch.iter().filter(|change| change.value.is_none()).count();
    removed * 2 >= batch.len()
}

/// Takes items until they have more than `bytes_max` bytes together, and at least one.
fn take_bytes<E>(items: impl Iterator<Item = Result<Item, E>>, bytes_max: usize) -> Result<Vec<Item>, E> {
    let mut taken = Vec::new();
    let mut bytes = 0_usize;
    for item in items {
        let item = item?;
        bytes = bytes.saturating_add(item.0.len() + item.1.len());
        if bytes > bytes_max && !taken.is_empty() {
            break;
        }
        taken.push(item);
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_behind_what_begins_with_it_and_nothing_else() {
        fn check(prefix: &[u8], end: &[u8]) {
            assert_eq!(prefix_end(prefix), end, "{prefix:?}");
        }
        check(b"a", b"b");
        check(b"a\xFF", b"b");
        check(&[0], &[1]);
        check(&[1, 0xFE, 0xFF, 0xFF], &[1, 0xFF]);
        let last = vec![0xFF; KEY_BYTES_MAX];
        for prefix in [&b""[..], b"\xFF", b"\xFF\xFF"] {
            assert!(prefix_end(prefix) > last);
        }
    }

    #[test]
    fn the_errors_say_what_to_do() {
        let damaged = StoreError::Damaged { what: "a table".to_owned() }.to_string();
        assert!(damaged.contains("a table") && damaged.contains("move the directory"), "{damaged}");
        let failed = StoreError::Failed { what: "no disk".to_owned() }.to_string();
        assert!(failed.contains("no disk") && failed.contains("start the node again"), "{failed}");
        let full = StoreError::Full { free_bytes: 1, needed_bytes: 2 }.to_string();
        assert!(full.contains("1 bytes") && full.contains("make room"), "{full}");
    }
}
