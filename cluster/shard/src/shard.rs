//! The state of a shard and its store.

mod deliver;
#[cfg(feature = "simulation")]
mod describe;
mod export;
mod flush;
mod lead;
mod letters;
mod load;
mod questions;
mod restore;
mod retained;
mod snapshot;

use std::sync::Arc;

use bytes::Bytes;
use flotilla_state::ShardId;
use flotilla_store::{Store, StoreError};

pub use export::Export;
pub use retained::RetainedPage;
pub use snapshot::{SNAPSHOT_CHUNK_BYTES, SnapshotChunks};

use crate::{Answers, ApplyError, Entry, FlushError, OpenError, rows::Space, state::State};

/// One replica of a shard; see the documentation of the crate.
#[derive(Debug)]
pub struct Shard {
    store: Arc<dyn Store>,
    options: Options,
    /// Where its rows are.
    space: Space,
    state: State,
    /// The index of the last entry that was applied.
    applied: u64,
    position: Bytes,
    /// What the store has of these two.
    flushed: (u64, Bytes),
    /// Why it takes no more entries.
    failure: Option<String>,
    /// Its replica is taken away: nothing more goes to the store, not even a snapshot that has just come.
    is_given_up: bool,
}

/// What a shard may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// With so many bytes that a flush would write, an apply flushes first.
    pub dirty_bytes_soft: usize,
    /// With so many, [`Shard::has_room`] says that there is none: the store has refused to take them for want of space.
    pub dirty_bytes_max: usize,
    /// How many rows one flush reads to give back the references of what is no longer needed; the next one goes on.
    pub references_read_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { dirty_bytes_soft: 4 << 20, dirty_bytes_max: 32 << 20, references_read_max: 256 }
    }
}

impl Shard {
    /// Opens what the store has of a shard; nothing: an empty one.
    ///
    /// # Errors
    /// The store cannot be read or written, or what it has was not written by a shard.
    pub fn open(id: ShardId, store: Arc<dyn Store>, options: Options) -> Result<Self, OpenError> {
        load::open(id, store, options)
    }

    /// Which shard it is.
    #[must_use]
    pub const fn id(&self) -> ShardId {
        self.space.shard
    }

    /// Applies a committed entry. `index` is that of the log, and grows. An entry that has been applied before changes
    /// nothing, and is answered without parts.
    ///
    /// The answers are read by [`Answers::decode`].
    ///
    /// Where the disk of the store is full, what is applied stays in memory: whoever applies asks [`Shard::has_room`] before.
    ///
    /// # Errors
    /// The entry does not decode, or the store could not take what came before; in either case it has changed nothing, and
    /// the replica stops.
    pub fn apply(&mut self, index: u64, entry: &Bytes) -> Result<Bytes, ApplyError> {
        if let Some(failure) = &self.failure {
            return Err(FlushError::Failed(failure.clone()).into());
        }
        if index <= self.applied {
            return Ok(Answers::default().encode());
        }
        let entry = Entry::decode(entry)?;
        self.flush_where_there_is_space(self.options.dirty_bytes_soft)?;
        let answers = self.state.apply(entry);
        self.applied = index;
        Ok(answers.encode())
    }

    /// Whether more may be applied. If not, the store has no space, and memory is to take no more than there is: a later call
    /// may find space.
    ///
    /// # Errors
    /// As [`Shard::flush`], but for a full disk.
    pub fn has_room(&mut self) -> Result<bool, FlushError> {
        self.flush_where_there_is_space(self.options.dirty_bytes_max)
    }

    /// Flushes what has so many bytes; whether there are fewer then.
    fn flush_where_there_is_space(&mut self, bytes: usize) -> Result<bool, FlushError> {
        if self.state.dirty_bytes() < bytes {
            return Ok(true);
        }
        match self.flush() {
            Ok(()) => Ok(true),
            Err(FlushError::Store(StoreError::Full { .. })) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether entries that have so many bytes together can be applied before anything is written to the store. What they change may
    /// take several times as much.
    #[must_use]
    pub fn is_far_from_flush(&self, bytes: usize) -> bool {
        self.state.dirty_bytes() + bytes.saturating_mul(8) < self.options.dirty_bytes_soft
    }

    /// The index of the last entry that was applied; 0: none.
    #[must_use]
    pub const fn applied(&self) -> u64 {
        self.applied
    }

    /// Takes note of the position in the log, in the words of the shell: that of the last entry that was applied, or of one
    /// behind it that is not for the shard. Never that of an entry which is still to be applied, for the next flush writes it.
    pub fn set_position(&mut self, position: Bytes) {
        self.position = position;
    }

    /// The last position that was set, or what the store had when the shard was opened; empty: none.
    #[must_use]
    pub const fn position(&self) -> &Bytes {
        &self.position
    }

    /// The position that was written with the last flush: what is before it need not be applied again once the store has been
    /// synced.
    #[must_use]
    pub const fn flushed_position(&self) -> &Bytes {
        &self.flushed.1
    }

    /// The index of the last entry that was applied before the last flush.
    #[must_use]
    pub const fn flushed_index(&self) -> u64 {
        self.flushed.0
    }

    /// Why the shard has failed; it must be opened again.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Panics if something in memory contradicts something else. It looks at everything: for tests.
    ///
    /// # Panics
    /// Something does.
    pub fn check_invariants(&self) {
        self.state.check_invariants();
    }
}
