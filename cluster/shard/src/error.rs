//! What can go wrong.

use std::io;

use flotilla_store::StoreError;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not protobuf, or not of this form.
    #[error("malformed: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// Of a format that this program does not know.
    #[error("format version {0} is not known to this program")]
    UnknownVersion(u32),
    /// A field is missing or has a value that it cannot have.
    #[error("the field `{0}` is missing or has no valid value")]
    Field(&'static str),
    /// A list is longer than what an entry may have.
    #[error("`{0}` has too many items")]
    TooLong(&'static str),
    /// The messages of a [`Op::Publish`](crate::Op::Publish).
    #[error("the batch of messages: {0}")]
    Batch(#[from] flotilla_lane::DecodeError),
    /// A row of the store.
    #[error("a row of the store is not valid: {0}")]
    Row(&'static str),
}

/// Why an entry was not applied. The replica stops.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The entry does not decode. It changed nothing.
    #[error("the entry does not decode: {0}")]
    Corrupt(#[from] DecodeError),
    /// The store could not take what was applied before. The entry changed nothing.
    #[error(transparent)]
    Flush(#[from] FlushError),
}

/// Why a flush did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum FlushError {
    /// The store refused. When its disk is full, nothing has changed, and the next flush may succeed; after any other error
    /// the shard has failed.
    #[error("the store of the shard: {0}")]
    Store(#[from] StoreError),
    /// A row of the store does not decode. The shard has failed.
    #[error(transparent)]
    Row(#[from] DecodeError),
    /// The shard failed earlier. It must be opened again.
    #[error("the shard has failed: {0}")]
    Failed(String),
}

/// Why a shard could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What it has is not what a shard writes.
    #[error(transparent)]
    Corrupt(#[from] DecodeError),
}

/// Why a snapshot was not taken over. The shard is as it was before, unless it says that it has failed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The chunks could not be read.
    #[error("the snapshot could not be read: {0}")]
    Read(#[from] io::Error),
    /// They are not a snapshot, or not all of it.
    #[error("the snapshot is not valid: {0}")]
    Corrupt(#[from] DecodeError),
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a row could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A row is missing or does not decode.
    #[error(transparent)]
    Corrupt(#[from] DecodeError),
}
