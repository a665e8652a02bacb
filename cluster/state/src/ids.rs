//! Names of nodes, of their lives, and of what they share.

use std::fmt;

/// A node: a random number that it draws when it first starts on an empty data directory and keeps there.
///
/// A node whose disk was lost comes back under the same name with another identifier, so that it cannot vote with the
/// memory that it has lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// One life of a node, from its admission to the moment in which the cluster declares it down: the index of the log entry
/// that admitted it. What an older life left behind is recognised by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// A node in one of its lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Which of its lives.
    pub incarnation: Incarnation,
}

/// The index of an entry of the meta group's log. Equal logs give every node the same state at the same index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogIndex(pub u64);

/// One of the parts that client identifiers and retained topics are divided into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// A replica of a shard, among those that its node has ever had: the index of the log entry that gave it to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u64);

/// One term of office of a shard's registrar: the index of the log entry that placed the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ShardEpoch(pub u64);

/// One claim of a client identifier; the higher one is the later one, in the whole cluster. The epoch of the shard comes
/// first, so that a new registrar never falls behind what its predecessor has given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ConnectionEpoch {
    /// The term of office in which it was given out.
    pub shard: ShardEpoch,
    /// Its number within the term.
    pub sequence: u64,
}

impl fmt::Display for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.node, self.incarnation.0)
    }
}
