//! The nodes of a cluster, and the cluster itself.

use crate::{Incarnation, LogIndex, Member, NodeId, ShardEpoch};

/// What was fixed when the cluster was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Tells clusters of the same name apart: a random number.
    pub id: u128,
    /// Its name.
    pub name: Box<str>,
    /// How many shards there are, 1 to [`limits::SHARDS_MAX`](crate::limits::SHARDS_MAX).
    pub shards: u16,
    /// How many nodes hold each shard, 1 to [`limits::REPLICAS_MAX`](crate::limits::REPLICAS_MAX).
    pub replicas: u8,
    /// The seed of the fingerprints, a secret random number: who does not know it cannot make topics collide.
    pub hash_seed: u64,
}

/// A node that the cluster knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its identifier.
    pub id: NodeId,
    /// Its name: of all nodes, one at most has it.
    pub name: Box<str>,
    /// What it does in the cluster.
    pub role: Role,
    /// How it is.
    pub status: Status,
    /// Its present life, or the last one when it is down.
    pub incarnation: Incarnation,
    /// Where the other nodes reach it, as `host:port`.
    pub address: Box<str>,
    /// Where clients reach it.
    pub client_addresses: Vec<Box<str>>,
    /// The version of its program.
    pub version: Box<str>,
    /// The entry that gave it its status.
    pub changed_at: LogIndex,
}

impl Node {
    /// The node in its present life; `None` when that has ended.
    pub fn member(&self) -> Option<Member> {
        self.status.is_live().then_some(self.last_member())
    }

    /// The node in its present life, or in the last one when that has ended.
    pub fn last_member(&self) -> Member {
        Member { node: self.id, incarnation: self.incarnation }
    }
}

/// What a node does in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Votes, and holds shards.
    Core,
    /// Serves clients, and neither votes nor holds shards: it may come and go.
    Edge,
}

/// How a node is. A node that has left is no longer in the state at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Admitted; not ready yet.
    Joining,
    /// Serves.
    Up,
    /// About to leave: serves, but nothing new is given to it.
    Draining,
    /// Its last life has ended and it has not come back.
    Down,
}

impl Status {
    /// Whether a node with this status is in the middle of a life.
    pub fn is_live(self) -> bool {
        match self {
            Self::Joining | Self::Up | Self::Draining => true,
            Self::Down => false,
        }
    }
}

/// Who holds a shard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    /// The term of office of the registrar: the entry that made `nodes[0]` what it is.
    pub epoch: ShardEpoch,
    /// The registrar, then its followers, each a different core node; empty while no core node is up.
    pub nodes: Vec<NodeId>,
}

impl Placement {
    /// The node that orders the claims of the shard; `None` while no core node is up.
    pub fn registrar(&self) -> Option<NodeId> {
        self.nodes.first().copied()
    }
}
