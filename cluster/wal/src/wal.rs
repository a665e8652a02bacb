//! The log itself.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{files::Files, record::Record};

/// How the log is kept.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WalOptions {
    /// Size of a segment; 16 MiB. A submission that does not fit gets a larger segment of its own.
    pub segment_bytes: u32,
    /// Segments that wait to be used again; 2.
    pub spares_max: usize,
    /// Bytes of recent entries in memory; 16 MiB. What is not flushed yet and the last entry of each group count, and stay.
    pub cache_bytes_max: usize,
    /// Who writes.
    pub flushing: Flushing,
}

/// Who writes and flushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushing {
    /// A thread of its own, which takes all that waits in one write and one flush.
    OnThread,
    /// The caller of `submit`, which returns after `done` was called: for simulations, which have one thread.
    InSubmit,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
            spares_max: 2,
            cache_bytes_max: 16 << 20,
            flushing: Flushing::OnThread,
        }
    }
}

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// Another process works in the directory.
    #[error("the log in {dir} is in use by another process")]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// What is on the medium is not what was written.
    #[error(
        "the log is damaged: {file} at byte {offset}: {what}. Nothing was changed. Check the disk, then let this node rejoin with an \
         empty data directory, or put back a copy of this directory that was made after its last start"
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// Written by a version that this one does not know.
    #[error("{file} has format version {version}, which this program does not know")]
    UnknownVersion {
        /// The file.
        file: PathBuf,
        /// The version it names.
        version: u32,
    },
    /// The file system refused.
    #[error("the log in {dir}: {source}")]
    Io {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What the log has of one group, what is not flushed yet included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupState {
    /// The last vote.
    pub vote: Option<Bytes>,
    /// The last purge point, and what was kept with it.
    pub purged: Option<(u64, Bytes)>,
    /// Index of the first entry; `None` without entries.
    pub first_index: Option<u64>,
    /// The last entry; `None` without entries, and then `purged` is the end of the log.
    pub last: Option<(u64, Bytes)>,
    /// The small values.
    pub meta: BTreeMap<u8, Bytes>,
}

/// Figures of the log.
#[derive(Debug, Clone, Default)]
pub struct WalStatus {
    /// Segments in use.
    pub segments: usize,
    /// Segments that wait to be used again.
    pub spares: usize,
    /// Bytes of the files of the log, the spares included.
    pub bytes: u64,
    /// Bytes of the records that are still needed.
    pub live_bytes: u64,
    /// Bytes of records that wait for the writer.
    pub queued_bytes: usize,
    /// Bytes of entries in memory.
    pub cached_bytes: usize,
    /// Submissions taken since the log was opened.
    pub appends: u64,
    /// Flushes of a batch since the log was opened.
    pub flushes: u64,
    /// The first error of a write or a flush. The log takes nothing any more.
    pub failed: Option<Arc<str>>,
}

/// The log. Clones are the same log; it is closed with the last of them, or by [`Wal::close`].
#[derive(Debug, Clone)]
pub struct Wal {
    groups: Arc<Mutex<BTreeMap<u64, Group>>>,
}

#[derive(Debug, Default)]
struct Group {
    state: GroupState,
    entries: VecDeque<(u64, Bytes)>,
}

impl Wal {
    /// Opens the log in `dir`, which is made where it is missing, and recovers what it has.
    ///
    /// # Errors
    /// Another process has the log, it is damaged, or the file system refused.
    pub fn open(dir: &Path, options: WalOptions, files: Arc<dyn Files>) -> Result<Self, WalError> {
        let _ = (dir, options, files);
        Ok(Self { groups: Arc::default() })
    }

    /// What there is of a group, what is not flushed yet included.
    #[must_use]
    pub fn group(&self, group: u64) -> GroupState {
        let groups = self.groups.lock();
        let Some(group) = groups.get(&group) else { return GroupState::default() };
        GroupState {
            first_index: group.entries.front().map(|entry| entry.0),
            last: group.entries.back().cloned(),
            ..group.state.clone()
        }
    }

    /// Takes records to be made durable, after all that was submitted before. They are visible to reads when this returns, and
    /// kept whole or not at all. `done` is called once, in the order of submission, on the writer's thread: it must be short.
    ///
    /// Never blocks on the disk. There is no bound on what waits: callers bound their pipeline by what is not `done`
    /// ([`WalStatus::queued_bytes`] has the sum).
    ///
    /// `done` gets an error
    /// - of kind `InvalidInput` for records that do not follow on what is there (see [`Record`]); nothing of them is taken, and
    ///   the log goes on;
    /// - of any other kind where it cannot be known whether they are kept: the log has failed, or is closed.
    ///
    /// Where that is known at once, `done` is called on the thread of the caller, before this returns.
    pub fn submit(&self, records: Vec<Record>, done: impl FnOnce(io::Result<()>) + Send + 'static) {
        let mut groups = self.groups.lock();
        for record in records {
            let group = groups.entry(record.group()).or_default();
            match record {
                Record::Vote { bytes, .. } => group.state.vote = Some(bytes),
                Record::Entry { index, bytes, .. } => group.entries.push_back((index, bytes)),
                Record::TruncateFrom { index, .. } => group.entries.retain(|entry| entry.0 < index),
                Record::Purged { index, bytes, .. } => {
                    group.entries.retain(|entry| entry.0 > index);
                    group.state.purged = Some((index, bytes));
                }
                Record::Meta { key, bytes, .. } => {
                    group.state.meta.insert(key, bytes);
                }
            }
        }
        drop(groups);
        done(Ok(()));
    }

    /// The entries of `range` that exist, in order, from the first on without a gap; as many as have `bytes_max` bytes
    /// together, but at least one where there is one.
    ///
    /// # Errors
    /// An entry could not be read from the disk, or is not what was written.
    pub fn entries(&self, group: u64, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<(u64, Bytes)>> {
        let groups = self.groups.lock();
        let mut left = bytes_max;
        let mut found: Vec<(u64, Bytes)> = Vec::new();
        for (index, bytes) in groups.get(&group).iter().flat_map(|group| &group.entries) {
            if range.contains(index) {
                if !found.is_empty() && bytes.len() > left {
                    break;
                }
                left = left.saturating_sub(bytes.len());
                found.push((*index, bytes.clone()));
            }
        }
        Ok(found)
    }

    /// Bytes of the entries of the group since its last purge.
    #[must_use]
    pub fn bytes_since_purge(&self, group: u64) -> u64 {
        let groups = self.groups.lock();
        groups.get(&group).iter().flat_map(|group| &group.entries).map(|entry| entry.1.len() as u64).sum()
    }

    /// Figures.
    #[must_use]
    pub fn status(&self) -> WalStatus {
        WalStatus::default()
    }

    /// Flushes what was submitted, and lets go of the directory. Later submissions on other clones get an error.
    pub fn close(self) {}
}
