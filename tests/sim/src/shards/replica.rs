//! A replica of a shard: its Raft group, and the state that the group replicates.

use std::{io, sync::Arc};

use bytes::Bytes;
use flotilla_raft::group::{Checkpoint, Corrupt, DurableState, Group, Refused, SnapshotChunks};
use flotilla_shard::Shard;
use flotilla_state::{ReplicaId, ShardId};
use flotilla_store::Store as _;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{leader::Desk, points::Point};
use crate::{disk::SimStore, node::Node};

/// A replica of a shard on a node.
pub struct Replica {
    /// Of which shard.
    pub id: ShardId,
    pub number: ReplicaId,
    /// Its group.
    pub group: Group,
    /// What the group replicates.
    pub state: Arc<Replicated>,
    pub(super) desk: Desk,
}

/// The state of a shard, as its group and its leader share it.
pub struct Replicated {
    /// The state.
    pub shard: Mutex<Shard>,
    pub(super) store: SimStore,
    pub(super) node: Arc<Node>,
    /// Told when something has been applied.
    pub(super) applied: Notify,
}

impl Replicated {
    pub(super) fn new(shard: Shard, store: SimStore, node: Arc<Node>) -> Self {
        let replicated = Self { shard: Mutex::new(shard), store, node, applied: Notify::new() };
        replicated.compare(&replicated.shard.lock());
        replicated
    }

    /// Compares the state with those of the other replicas.
    fn compare(&self, shard: &Shard) {
        let shared = &self.node.shared;
        // Without power nobody reads anything.
        if self.node.disk.lock().is_failing() {
            return;
        }
        shared.check(shared.replicas.check(&self.node.name, shard));
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
            if index % COMPARED == 0 {
                shard.check_invariants();
                self.0.compare(&shard);
            }
        }
        shard.set_position(position);
        drop(shard);
        self.0.applied.notify_one();
        Ok(answers)
    }

    fn is_quick(&self, bytes: usize) -> bool {
        self.0.shard.lock().is_far_from_flush(bytes)
    }

    fn checkpoint(&mut self) -> Checkpoint {
        let mut shard = self.0.shard.lock();
        self.0.compare(&shard);
        self.0.pass(Point::Checkpoint);
        let flushed = shard.flush().map(|()| shard.flushed_position().clone()).map_err(io::Error::other);
        let store = self.0.store.clone();
        Box::new(move || {
            let position = flushed?;
            store.sync().map_err(io::Error::other)?;
            Ok((!position.is_empty()).then_some(position))
        })
    }

    fn snapshot(&mut self) -> io::Result<(Bytes, SnapshotChunks)> {
        let mut shard = self.0.shard.lock();
        self.0.compare(&shard);
        let node = &self.0.node;
        node.shared.trace.note(format_args!(
            "{} sends a snapshot of shard {} at {}",
            node.name,
            shard.id().0,
            shard.applied()
        ));
        let chunks = shard.snapshot().map_err(io::Error::other)?;
        let chunks = chunks.map(|chunk| chunk.map_err(io::Error::other));
        let position = shard.flushed_position().clone();
        drop(shard);
        self.0.pass(Point::SnapshotSent);
        Ok((position, Box::new(chunks)))
    }

    fn restore(
        &mut self,
        position: Bytes,
        chunks: &mut dyn Iterator<Item = io::Result<Bytes>>,
    ) -> Result<(), Refused> {
        let mut shard = self.0.shard.lock();
        self.0.pass(Point::Install);
        shard.restore(position, chunks).map_err(|error| Corrupt(error.to_string()))?;
        self.0.store.sync().map_err(|error| Corrupt(error.to_string()))?;
        shard.check_invariants();
        self.0.compare(&shard);
        let shared = &self.0.node.shared;
        shared.installed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        shared.trace.note(format_args!(
            "{} has a snapshot of shard {} at {}",
            self.0.node.name,
            shard.id().0,
            shard.applied()
        ));
        Ok(())
    }
}

/// At every so many entries the states of all replicas are compared.
const COMPARED: u64 = 4;
