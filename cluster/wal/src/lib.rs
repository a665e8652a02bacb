//! The write-ahead log of a node, shared by all its Raft groups.
//!
//! [`Wal`] is the entry: it takes [`Record`]s of many groups, makes them durable in the order of submission, and finds them
//! again after a restart. It knows nothing of Raft beyond the kinds of [`Record`]: what the bytes mean is the caller's.
//!
//! Invariants:
//! - A submission is kept whole or not at all, and none is kept without all those before it.
//! - `done(Ok)` means: flushed to the medium, where [`Sync`] does not say otherwise. What was truncated or purged does not come back
//!   after it.
//! - The first error of a write or a flush is final. The kernel may have dropped the dirty pages, so a second flush that
//!   succeeds would prove nothing; the process has to open the log again to learn what was kept. Only that there is no space for a new segment is none: nothing
//!   was written then, so the log waits for space, and goes on.
//! - A torn end of the last segment is what a power cut leaves, and is dropped. Any other damage stops the node.
//!
//! Absent on purpose: compression, encryption, more than one writer, and a bound on the queue (see [`Wal::submit`]).

mod files;
mod index;
mod layout;
mod memory;
mod options;
mod record;
mod recovery;
mod spares;
#[cfg(test)]
mod tests;
mod wal;
mod writer;

pub use files::{DirectoryLock, DiskFiles, File, Files};
pub use memory::MemoryFiles;
pub use options::{Flushing, GroupState, SUBMISSION_BYTES_MAX, Sync, WalError, WalOptions, WalStatus};
pub use record::Record;
pub use wal::Wal;
