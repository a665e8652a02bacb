//! How the log is kept, what it tells of itself, and why it is not opened.

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;

/// How the log is kept.
#[derive(Debug, Clone)]
pub struct WalOptions {
    /// Size of a segment; 8 MiB. A submission that does not fit gets a larger segment of its own.
    pub segment_bytes: u32,
    /// Segments that wait to be used again, beside the reserve; 2.
    pub spares_max: usize,
    /// How long they wait; 60 s. Where no segment was begun or freed for so long, the log is at rest, and the disk gets them back.
    /// The time passes for [`Flushing::OnThread`] only.
    pub spares_for: Duration,
    /// Segments that are kept for when no other can be made; 1. What is written into them should be what makes room: see
    /// [`WalStatus::reserve_in_use`].
    pub reserve_segments: usize,
    /// Bytes of recent entries in memory; 16 MiB. What is not flushed yet and the last entry of each group count, and stay.
    pub cache_bytes_max: usize,
    /// When what was written is flushed; always, before it is told.
    pub sync: Sync,
    /// Who writes.
    pub flushing: Flushing,
}

/// When what was written is flushed to the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Before `done` is called.
    Always,
    /// At least so often. `done` of a submission that has only entries, purges and small values is called when the operating system
    /// has them: the process may be killed, and loses nothing, but with the power goes what was written since the last flush. A
    /// submission with a vote or a truncation is flushed before it is told, and so is all that was submitted before it.
    ///
    /// The time passes for [`Flushing::OnThread`] only; otherwise [`Wal::flush`](crate::Wal::flush) is what flushes.
    Interval(Duration),
}

/// Who writes and flushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushing {
    /// A thread of its own, which takes all that waits in one write and one flush.
    OnThread,
    /// The caller of `submit`, which returns after `done` was called: for simulations, which have one thread.
    InSubmit,
    /// The caller of [`Wal::flush`](crate::Wal::flush), for simulations in which the power can fail between a submission and its flush. Nobody else
    /// flushes, not even [`Wal::close`](crate::Wal::close).
    OnCall,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 8 << 20,
            spares_max: 2,
            spares_for: Duration::from_secs(60),
            reserve_segments: 1,
            cache_bytes_max: 16 << 20,
            sync: Sync::Always,
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
    /// Segments that wait to be used again, the reserve included.
    pub spares: usize,
    /// There is no space for a new segment, not even the reserve. What is submitted waits, and goes on by itself when there is space.
    pub full: bool,
    /// The reserve is not whole: a new segment could not be made a moment ago. Callers should refuse load now, so that what frees space
    /// still goes on.
    pub reserve_in_use: bool,
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
    /// Writes of a batch since the log was opened.
    pub writes: u64,
    /// Flushes of what was written since the log was opened.
    pub flushes: u64,
    /// Bytes that were written and not flushed: what goes when the power fails. 0 with [`Sync::Always`].
    pub unflushed_bytes: u64,
    /// The first error of a write or a flush. The log takes nothing any more.
    pub failed: Option<Arc<str>>,
}

/// The records of one submission have at most so many bytes together.
pub const SUBMISSION_BYTES_MAX: usize = 256 << 20;

/// Segments are at least so large, and at most [`SEGMENT_BYTES_MAX`].
const SEGMENT_BYTES_MIN: u32 = 256;
const SEGMENT_BYTES_MAX: u32 = 1 << 30;

impl WalOptions {
    pub(crate) fn bounded(self) -> Self {
        let segment_bytes =
            self.segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX).next_multiple_of(8);
        Self { segment_bytes, ..self }
    }
}
