//! A replica of a shard on this node: its Raft group, and the state that the group replicates.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_raft::group::{Checkpoint, Corrupt, DurableState, Group, Refused, SnapshotChunks};
use flotilla_shard::{FlushError, RestoreError, Shard};
use flotilla_state::{ReplicaId, ShardId};
use flotilla_store::{Store, StoreError};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{clock::ShardClock, desk::Desk, host::ELECTION, retained::Usage};

/// A replica of a shard on this node.
pub(super) struct Replica {
    pub(super) id: ShardId,
    pub(super) number: ReplicaId,
    pub(super) group: Group,
    pub(super) state: Arc<Replicated>,
    pub(super) desk: Desk,
}

impl Replica {
    /// Whether a quorum has confirmed this leader so recently that it cannot have elected another one.
    pub(super) fn is_confirmed(&self) -> bool {
        let status = self.group.status();
        let is_recent = |millis: u64| Duration::from_millis(millis) < ELECTION.start;
        status.voters.len() == 1 || status.millis_since_quorum_ack.is_some_and(is_recent)
    }
}

/// The state of a shard, as its group and its leader share it.
pub(super) struct Replicated {
    /// Who holds it may ask for the state of the cluster, and not the other way round.
    pub(super) shard: Mutex<Shard>,
    pub(super) store: Arc<dyn Store>,
    /// Told when something has been applied.
    pub(super) applied: Notify,
    pub(super) retained: Usage,
    /// The time of the shard as its entries tell it, since this program started: after a rest, the first ones are old.
    heard: Mutex<Option<ShardClock>>,
}

impl Replicated {
    pub(super) fn new(shard: Shard, store: Arc<dyn Store>) -> Self {
        let retained = Usage::default();
        retained.note(&shard);
        Self { shard: Mutex::new(shard), store, applied: Notify::new(), retained, heard: Mutex::default() }
    }

    /// The time of the shard, where a leader has told what it is at all.
    pub(super) fn clock(&self, told: Option<ShardClock>) -> ShardClock {
        let heard = *self.heard.lock();
        let known = told.map(|told| heard.map_or(told, |heard| told.later(heard)));
        ShardClock::start(self.shard.lock().stamp(), known)
    }

    fn hear(&self, stamp: u64) {
        let (now, mut heard) = (ShardClock::at(stamp), self.heard.lock());
        *heard = Some(heard.map_or(now, |heard| heard.later(now)));
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
        self.0.hear(shard.stamp());
        drop(shard);
        self.0.applied.notify_one();
        Ok(answers)
    }

    fn is_quick(&self, bytes: usize) -> bool {
        self.0.shard.lock().is_far_from_flush(bytes)
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

#[cfg(test)]
mod tests {
    use flotilla_shard::{Entry, Op, Options, Part};
    use flotilla_state::{Incarnation, Member, NodeId};
    use flotilla_store::MemoryStore;

    use super::*;
    use crate::clock;

    #[test]
    fn the_entry_that_came_fastest_tells_the_time_best() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let shard = Shard::open(ShardId(1), Arc::clone(&store), Options::default()).expect("an empty store");
        let replicated = Arc::new(Replicated::new(shard, store));
        let mut machine = Machine(Arc::clone(&replicated));
        let mut hear = |index, stamp| {
            let source = Member { node: NodeId(1), incarnation: Incarnation(1) };
            let part = Part { source, number: 0, ops: vec![Op::Tick] };
            let entry = Entry { stamp, retained_full: false, parts: vec![part] }.encode();
            machine.apply(&[(index, entry)], Bytes::from_static(b"x")).expect("a valid entry");
        };
        // After a rest of the whole cluster the entries are old, and nobody has told the time.
        hear(1, 1_000);
        assert!(replicated.clock(None).now() >= clock::millis_since_epoch() - 1_000);
        // It was told late, and an entry comes sooner.
        let told = Some(ShardClock::at(60_000));
        assert!((60_000..61_000).contains(&replicated.clock(told).now()));
        hear(2, 62_000);
        assert!((62_000..63_000).contains(&replicated.clock(told).now()));
        assert!((70_000..71_000).contains(&replicated.clock(Some(ShardClock::at(70_000))).now()));
    }
}
