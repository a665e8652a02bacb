//! The way back from the loss of a majority: one node that is left goes on alone, with what it has.
//!
//! The node must not run. Its logs get an entry each that makes it the only member, and that of the meta group a command that takes
//! the others out and gives the cluster another identifier: nodes that come back after all are not let in, for they may have gone
//! on without this one.

use std::{collections::BTreeMap, io};

use bytes::Bytes;
use flotilla_kv::KvError;
use flotilla_state::{ClusterState, Command, LogIndex, NodeId, Role, ShardId, SnapshotReader};

use super::{META, Storage};
use crate::{
    group::{Corrupt, DecodeError, GroupError, GroupId, StateMachine, offline},
    peers::ClusterId,
    random::random,
};

/// What becomes of a cluster when one node goes on alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// The name of the cluster, and its identifier so far.
    pub cluster: (String, ClusterId),
    /// Its new identifier.
    pub new_id: ClusterId,
    /// The names of the nodes that are taken out.
    pub removed: Vec<String>,
    /// The shards that the node has a replica of. What came to others only is lost.
    pub kept: Vec<ShardId>,
    /// Those that it has none of: they are lost, and begin anew.
    pub lost: Vec<ShardId>,
    survivor: NodeId,
    /// Those of the shards that are kept.
    groups: BTreeMap<ShardId, GroupId>,
}

/// Why a node cannot go on alone.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// It has never belonged to a cluster, or not long enough to know anything of it.
    #[error("this node knows of no cluster that it belongs to: there is nothing to recover")]
    NoCluster,
    /// It keeps nothing.
    #[error("this is an edge node, which keeps nothing of what is to be recovered: take a core node")]
    Edge,
    /// What it has of the meta group.
    #[error("the log of the cluster: {0}")]
    Group(#[from] GroupError),
    /// A log does not decode.
    #[error(transparent)]
    Log(#[from] DecodeError),
    /// The disk.
    #[error("the write-ahead log: {0}")]
    Io(#[from] io::Error),
    /// The disk.
    #[error("the identity of the node: {0}")]
    Identity(#[from] KvError),
}

impl Recovery {
    /// What would become of the cluster. Nothing changes.
    ///
    /// # Errors
    /// See [`RecoverError`].
    pub fn plan(storage: &Storage) -> Result<Self, RecoverError> {
        let mut replayed = Replayed(ClusterState::new());
        let snapshots = (storage.dir.join("meta"), storage.files.clone());
        offline::replay(&storage.wal, META, snapshots, &mut replayed)?;
        let Replayed(state) = replayed;
        let survivor = storage.identity.node();
        let (Some(cluster), Some(node)) = (state.cluster(), state.node(survivor)) else {
            return Err(RecoverError::NoCluster);
        };
        if node.role != Role::Core {
            return Err(RecoverError::Edge);
        }
        let (mut groups, mut lost) = (BTreeMap::new(), Vec::new());
        for (shard, placed) in state.shards().iter() {
            let group = placed.ids.get(&survivor).map(|replica| GroupId::of_replica(shard, *replica));
            let has_log = |group: &GroupId| {
                let log = storage.wal.group(group.0);
                log.last.is_some() || log.purged.is_some()
            };
            match group.filter(has_log) {
                Some(group) => drop(groups.insert(shard, group)),
                None => lost.push(shard),
            }
        }
        Ok(Self {
            cluster: (cluster.name.to_string(), ClusterId(cluster.id)),
            new_id: ClusterId(random()),
            removed: state
                .nodes()
                .filter(|node| node.id != survivor)
                .map(|node| node.name.to_string())
                .collect(),
            kept: groups.keys().copied().collect(),
            lost,
            survivor,
            groups,
        })
    }

    /// Makes it so. Durable when it returns; after an error, it is to be done again.
    ///
    /// # Errors
    /// See [`RecoverError`].
    pub fn carry_out(&self, storage: &Storage) -> Result<(), RecoverError> {
        let Self { new_id, kept, survivor, groups, .. } = self;
        let command =
            Command::Recover { cluster_id: new_id.0, survivor: *survivor, shards: kept.clone() }.encode();
        let meta = offline::sole_member(&storage.wal, META, survivor.0, vec![command])?;
        let mut records = meta.ok_or(RecoverError::NoCluster)?;
        for group in groups.values() {
            let alone = offline::sole_member(&storage.wal, *group, survivor.0, Vec::new())?;
            records.extend(alone.into_iter().flatten());
        }
        // What else it has of shards is of no replica that it has then, and is taken away when it starts.
        // First, so that no other node is let in by what follows.
        storage.identity.keep_cluster(*new_id)?;
        Ok(offline::write(&storage.wal, records)?)
    }
}

/// The state of the cluster, as the log of a node that does not run has it.
struct Replayed(ClusterState);

impl StateMachine for Replayed {
    fn apply(&mut self, index: u64, command: &[u8]) -> Result<Bytes, Corrupt> {
        let command = Command::decode(command).map_err(|error| Corrupt(error.to_string()))?;
        Ok(self.0.apply(LogIndex(index), command).reply.encode())
    }

    fn snapshot(&mut self) -> Box<dyn Iterator<Item = Bytes> + Send> {
        Box::new(self.0.snapshot())
    }

    fn restore(
        &mut self,
        _: u64,
        chunks: &mut dyn Iterator<Item = io::Result<Bytes>>,
    ) -> Result<(), Corrupt> {
        let corrupt = |error: &dyn std::fmt::Display| Corrupt(error.to_string());
        let mut reader = SnapshotReader::new();
        for chunk in chunks {
            reader.push(&chunk.map_err(|error| corrupt(&error))?).map_err(|error| corrupt(&error))?;
        }
        self.0 = reader.finish().map_err(|error| corrupt(&error))?;
        Ok(())
    }
}
