//! What the nodes ask of the state: the entries of the log.

use bytes::Bytes;
use prost::Message;

use crate::{
    DecodeError, Fingerprint, Member, NodeId, Role,
    wire::{self, Versioned},
};

/// A change of the state. Everything that its outcome depends on is in it, or in the state before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The cluster begins. It is refused when there is one.
    Create {
        /// Tells clusters of the same name apart: a random number.
        cluster_id: u128,
        /// The name of the cluster.
        name: Box<str>,
        /// How many shards it shall have.
        shards: u16,
        /// How many nodes shall hold each shard.
        replicas: u8,
        /// A random number, see [`Cluster::hash_seed`](crate::Cluster::hash_seed).
        hash_seed: u64,
    },
    /// A node wants to be admitted: the first time, or anew. Its last life ends and a new one begins, with status
    /// [`Joining`](crate::Status::Joining).
    Join {
        /// Its identifier.
        id: NodeId,
        /// Its name. A node that has lost its disk comes with its old name and another identifier; then the old node must
        /// be down, and is removed.
        name: Box<str>,
        /// What it does in the cluster.
        role: Role,
        /// Where the other nodes reach it, as `host:port`.
        address: Box<str>,
        /// Where clients reach it.
        client_addresses: Vec<Box<str>>,
        /// The version of its program.
        version: Box<str>,
    },
    /// A member is ready, or about to leave.
    SetStatus {
        /// The member.
        member: Member,
        /// Its new status.
        status: NewStatus,
    },
    /// A member has not been heard of for too long: its life ends, and the node stays known as down.
    NodeDown {
        /// The member.
        member: Member,
    },
    /// A member leaves on its own will: the node is forgotten.
    Leave {
        /// The member.
        member: Member,
    },
    /// An operator, or the leader for an edge node that stays away, removes a node, whatever its status.
    Remove {
        /// The node.
        node: NodeId,
    },
    /// A member tells what it wants to get, one change after the other.
    Routes {
        /// The member.
        member: Member,
        /// At most [`limits::CHANGES_MAX`](crate::limits::CHANGES_MAX) changes.
        changes: Vec<RouteChange>,
    },
}

/// The statuses that are given by [`Command::SetStatus`]; the other ones come from `Join` and `NodeDown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NewStatus {
    /// See [`Status::Up`](crate::Status::Up).
    Up,
    /// See [`Status::Draining`](crate::Status::Draining).
    Draining,
}

/// One change of what a member wants to get. To add what is there and to remove what is not changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteChange {
    /// It has a subscriber of a filter without wildcards.
    AddExact(Fingerprint),
    /// It has none any more.
    RemoveExact(Fingerprint),
    /// It has a subscriber of a filter with wildcards.
    AddWildcard(Box<str>),
    /// It has none any more.
    RemoveWildcard(Box<str>),
    /// How many members of a shared subscription it has.
    SetGroup {
        /// `$share/<group>/<filter>` or `$queue/<filter>`.
        filter: Box<str>,
        /// How many are connected.
        online: u32,
        /// How many are not, and keep their session.
        away: u32,
    },
}

impl Command {
    /// The bytes of the log entry.
    pub fn encode(&self) -> Bytes {
        wire::Command::from(self).encode_to_vec().into()
    }

    /// Reads the bytes of a log entry.
    ///
    /// # Errors
    /// They are not the bytes of a command, or of a version that this program does not know.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        wire::Command::decode_versioned(bytes)?.try_into()
    }
}
