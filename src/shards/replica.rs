//! A replica of a shard on this node: its Raft group, and the state that the group replicates.

use std::{io, sync::Arc};

use bytes::Bytes;
use flotilla_raft::group::{Checkpoint, Corrupt, DurableState, Group, Refused, SnapshotChunks};
use flotilla_shard::{FlushError, RestoreError, Shard};
use flotilla_state::{ReplicaId, ShardId};
use flotilla_store::{Store, StoreError};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{desk::Desk, retained::Usage};

/// A replica of a shard on this node.
pub(super) struct Replica {
    pub(super) id: ShardId,
    pub(super) number: ReplicaId,
    pub(super) group: Group,
    pub(super) state: Arc<Replicated>,
    pub(super) desk: Desk,
}

/// The state of a shard, as its group and its leader share it.
pub(super) struct Replicated {
    /// Who holds it may ask for the state of the cluster, and not the other way round.
    pub(super) shard: Mutex<Shard>,
    pub(super) store: Arc<dyn Store>,
    /// Told when something has been applied.
    pub(super) applied: Notify,
    pub(super) retained: Usage,
}

impl Replicated {
    pub(super) fn new(shard: Shard, store: Arc<dyn Store>) -> Self {
        let retained = Usage::default();
        retained.note(&shard);
        Self { shard: Mutex::new(shard), store, applied: Notify::new(), retained }
    }

    /// Whether what changes is kept until it is asked for.
    pub(super) fn set_leading(&self, is_leading: bool) {
        let mut shard = self.shard.lock();
        shard.watch(is_leading);
    }
}

/// The state as the group sees it.
pub(super) struct Machine(pub(super) Arc<Replicated>);

impl DurableState for Machine {
    fn position(&self) -> Option<Bytes> {
        let position = self.0.shard.lock().position().clone();
        (!position.is_empty()).then_some(position)
    }

    fn apply(&mut self, commands: &[(u64, Bytes)], position: Bytes) -> Result<Vec<Bytes>, Refused> {
        let mut shard = self.0.shard.lock();
        if !shard.has_room().map_err(|error| Corrupt(error.to_string()))? {
            return Err(Refused::Full);
        }
        let mut answers = Vec::with_capacity(commands.len());
        for (index, command) in commands {
            answers.push(shard.apply(*index, command).map_err(|error| Corrupt(error.to_string()))?);
        }
        shard.set_position(position);
        self.0.retained.note(&shard);
        drop(shard);
        self.0.applied.notify_one();
        Ok(answers)
    }

    fn checkpoint(&mut self) -> Checkpoint {
        let mut shard = self.0.shard.lock();
        let flushed = match shard.flush() {
            // What was flushed before is what the log can be cut by.
            Ok(()) | Err(FlushError::Store(StoreError::Full { .. })) => Ok(shard.flushed_position().clone()),
            Err(error) => Err(io::Error::other(error)),
        };
        let store = Arc::clone(&self.0.store);
        Box::new(move || {
            let position = flushed?;
            store.sync().map_err(io::Error::other)?;
            Ok((!position.is_empty()).then_some(position))
        })
    }

    fn snapshot(&mut self) -> io::Result<(Bytes, SnapshotChunks)> {
        let mut shard = self.0.shard.lock();
        let chunks = shard.snapshot().map_err(io::Error::other)?;
        let chunks = chunks.map(|chunk| chunk.map_err(io::Error::other));
        Ok((shard.flushed_position().clone(), Box::new(chunks)))
    }

    fn restore(
        &mut self,
        position: Bytes,
        chunks: &mut dyn Iterator<Item = io::Result<Bytes>>,
    ) -> Result<(), Refused> {
        let mut shard = self.0.shard.lock();
        shard.restore(position, chunks).map_err(|error| match error {
            RestoreError::Store(StoreError::Full { .. }) => Refused::Full,
            error => Corrupt(error.to_string()).into(),
        })?;
        self.0.retained.note(&shard);
        Ok(self.0.store.sync().map_err(|error| Corrupt(error.to_string()))?)
    }
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica").field("shard", &self.id.0).finish_non_exhaustive()
    }
}
