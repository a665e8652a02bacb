//! What the nodes ask of the state: the entries of the log.

use bytes::Bytes;
use prost::Message;

use crate::{
    DecodeError, Fingerprint, Member, NodeId, Role, ShardChange, ShardId,
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
    /// There are enough nodes for the shards: the groups of those that have none begin.
    FoundShards,
    /// The leader of a shard's group tells what has changed.
    Shard {
        /// The shard.
        shard: ShardId,
        /// The leader's term: what a leader before it says from now on is refused.
        term: u64,
        /// What it tells.
        change: ShardChange,
    },
    /// A member is about to leave for good: its replicas shall be elsewhere.
    Evacuate {
        /// The member.
        member: Member,
    },
    /// An operator goes on with one node after the others were lost for good: it is the only one from now on, in a cluster with another
    /// identifier, so that none of the others comes back. Not proposed, but written into the log of that node.
    Recover {
        /// The new identifier.
        cluster_id: u128,
        /// The core node that is left.
        survivor: NodeId,
        /// The shards that it has a replica of, ascending. The others begin anew, with nothing.
        shards: Vec<ShardId>,
    },
    /// An operator changes a [setting](crate::Settings).
    SetSetting {
        /// Its key: parts with slashes between them.
        key: Box<str>,
        /// Its value from now on; `None` removes it, and is refused when there is none.
        value: Option<Bytes>,
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
        /// How many are connected, and have a session that ends with the connection.
        online: u32,
        /// How many are connected, and have a session that a shard keeps.
        kept: u32,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Incarnation, ReplicaId};

    #[test]
    fn the_bytes_never_change() {
        // The log of an older version must be read.
        let member = Member { node: NodeId(0x0102), incarnation: Incarnation(300) };
        let expected = b"\x08\x01\x2A\x0C\x09\x02\x01\0\0\0\0\0\0\x10\xAC\x02";
        assert_eq!(&*Command::NodeDown { member }.encode(), expected);
        let fingerprint = Fingerprint::from_bits(0x0807_0605_0403_0201).unwrap();
        let changes = vec![RouteChange::AddExact(fingerprint), RouteChange::RemoveWildcard("a/#".into())];
        let expected = b"\x08\x01\x42\x20\x0A\x0C\x09\x02\x01\0\0\0\0\0\0\x10\xAC\x02\
            \x12\x09\x09\x01\x02\x03\x04\x05\x06\x07\x08\x12\x05\x22\x03a/#";
        assert_eq!(&*Command::Routes { member, changes }.encode(), expected);
        let set = |value| Command::SetSetting { key: "a/b".into(), value }.encode();
        assert_eq!(&*set(None), b"\x08\x01\x4A\x05\x0A\x03a/b");
        assert_eq!(&*set(Some(Bytes::new())), b"\x08\x01\x4A\x07\x0A\x03a/b\x12\0");
        assert_eq!(&*set(Some(Bytes::from_static(b"1"))), b"\x08\x01\x4A\x08\x0A\x03a/b\x12\x011");
    }

    #[test]
    fn what_is_not_a_command_is_an_error() {
        let error = |bytes: &[u8]| Command::decode(bytes).unwrap_err().to_string();
        assert_eq!(error(b""), "format version 0 is not known to this program");
        assert_eq!(error(b"\x08\x02"), "format version 2 is not known to this program");
        assert_eq!(error(b"\x08\x01"), "the field `command` is missing or has no valid value");
        assert_eq!(error(b"\x08\x01\x42\x00"), "the field `member` is missing or has no valid value");
        let zero = b"\x08\x01\x42\x0F\x0A\x02\x10\x01\x12\x09\x09\0\0\0\0\0\0\0\0";
        assert_eq!(error(zero), "the field `fingerprint` is missing or has no valid value");
        assert!(error(b"\x08\x01\x2A\x0C\x09").starts_with("malformed"));
    }

    proptest! {
        #[test]
        fn commands_keep_their_meaning(command in command()) {
            prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
        }
    }

    fn command() -> impl Strategy<Value = Command> {
        let create = (any::<u128>(), text(), any::<u16>(), any::<u8>(), any::<u64>());
        let role = prop_oneof![Just(Role::Core), Just(Role::Edge)];
        let join = (node(), text(), role, text(), prop::collection::vec(text(), 0..3), text());
        let status = prop_oneof![Just(NewStatus::Up), Just(NewStatus::Draining)];
        prop_oneof![
            create.prop_map(|(cluster_id, name, shards, replicas, hash_seed)| Command::Create {
                cluster_id,
                name,
                shards,
                replicas,
                hash_seed
            }),
            join.prop_map(|(id, name, role, address, client_addresses, version)| Command::Join {
                id,
                name,
                role,
                address,
                client_addresses,
                version
            }),
            (member(), status).prop_map(|(member, status)| Command::SetStatus { member, status }),
            member().prop_map(|member| Command::NodeDown { member }),
            member().prop_map(|member| Command::Leave { member }),
            node().prop_map(|node| Command::Remove { node }),
            (member(), prop::collection::vec(change(), 0..5))
                .prop_map(|(member, changes)| Command::Routes { member, changes }),
            Just(Command::FoundShards),
            member().prop_map(|member| Command::Evacuate { member }),
            (any::<u128>(), node(), prop::collection::vec(any::<u16>(), 0..4)).prop_map(
                |(cluster_id, survivor, shards)| Command::Recover {
                    cluster_id,
                    survivor,
                    shards: shards.into_iter().map(ShardId).collect()
                }
            ),
            (any::<u16>(), any::<u64>(), shard_change()).prop_map(|(shard, term, change)| Command::Shard {
                shard: ShardId(shard),
                term,
                change
            }),
            (text(), prop::option::of(prop::collection::vec(any::<u8>(), 0..5)))
                .prop_map(|(key, value)| Command::SetSetting { key, value: value.map(Bytes::from) }),
        ]
    }

    fn shard_change() -> impl Strategy<Value = ShardChange> {
        prop_oneof![
            (any::<u64>(), prop::collection::vec((node(), any::<u64>().prop_map(ReplicaId)), 0..4))
                .prop_map(|(number, members)| ShardChange::Members { number, members }),
            (any::<u64>(), prop::collection::vec(change(), 0..5))
                .prop_map(|(number, changes)| ShardChange::Routes { number, changes }),
        ]
    }

    fn change() -> impl Strategy<Value = RouteChange> {
        let fingerprint = || (1..=u64::MAX).prop_map(|bits| Fingerprint::from_bits(bits).unwrap());
        prop_oneof![
            fingerprint().prop_map(RouteChange::AddExact),
            fingerprint().prop_map(RouteChange::RemoveExact),
            text().prop_map(RouteChange::AddWildcard),
            text().prop_map(RouteChange::RemoveWildcard),
            (text(), any::<u32>(), any::<u32>()).prop_map(|(filter, online, kept)| RouteChange::SetGroup {
                filter,
                online,
                kept
            }),
        ]
    }

    fn member() -> impl Strategy<Value = Member> {
        (node(), any::<u64>()).prop_map(|(node, index)| Member { node, incarnation: Incarnation(index) })
    }

    fn node() -> impl Strategy<Value = NodeId> {
        any::<u64>().prop_map(NodeId)
    }

    fn text() -> impl Strategy<Value = Box<str>> {
        ".{0,9}".prop_map(String::into_boxed_str)
    }
}
