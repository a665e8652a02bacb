//! What the log keeps.

use bytes::Bytes;

/// One thing to keep. `group` is the Raft group; `bytes` are the caller's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// The vote of the group; the last one counts.
    Vote {
        /// The group.
        group: u64,
        /// The vote.
        bytes: Bytes,
    },
    /// The log entry `index`: one more than the last entry, or than the purged index where there is no entry. A group
    /// without either starts where it likes.
    Entry {
        /// The group.
        group: u64,
        /// Index of the entry.
        index: u64,
        /// The entry.
        bytes: Bytes,
    },
    /// The entries `index..` are void. The index lies above the purged one.
    TruncateFrom {
        /// The group.
        group: u64,
        /// First index that is void.
        index: u64,
    },
    /// The entries `..=index` are no longer needed; the index may lie beyond the last entry. An index not above that of an
    /// earlier purge changes nothing.
    Purged {
        /// The group.
        group: u64,
        /// Last index that is not needed.
        index: u64,
        /// What the caller wants to find with the purge point, such as the log id.
        bytes: Bytes,
    },
    /// A small value, such as the committed index; the last one of a key counts.
    Meta {
        /// The group.
        group: u64,
        /// Which value.
        key: u8,
        /// The value.
        bytes: Bytes,
    },
    /// All that there is of the group is void, its vote included: see [`Wal::forget_group`](crate::Wal::forget_group).
    Forgotten {
        /// The group.
        group: u64,
    },
}

impl Record {
    /// The group of the record.
    #[must_use]
    pub fn group(&self) -> u64 {
        match *self {
            Self::Vote { group, .. }
            | Self::Entry { group, .. }
            | Self::TruncateFrom { group, .. }
            | Self::Purged { group, .. }
            | Self::Meta { group, .. }
            | Self::Forgotten { group } => group,
        }
    }

    /// Whether it has to be on the medium before anything else is told or done: a vote that is given twice, and entries that come back
    /// beside those that took their place, break what a majority relies on. Entries that are lost do not, where that was chosen.
    pub(crate) fn is_flushed_always(&self) -> bool {
        match self {
            Self::Vote { .. } | Self::TruncateFrom { .. } | Self::Forgotten { .. } => true,
            Self::Entry { .. } | Self::Purged { .. } | Self::Meta { .. } => false,
        }
    }

    /// The caller's bytes; empty for a truncation.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Vote { bytes, .. }
            | Self::Entry { bytes, .. }
            | Self::Purged { bytes, .. }
            | Self::Meta { bytes, .. } => bytes,
            Self::TruncateFrom { .. } | Self::Forgotten { .. } => &[],
        }
    }
}
