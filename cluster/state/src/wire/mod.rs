//! The bytes of commands, replies and snapshots: protobuf, each message of the top level with the version of the format.
//!
//! Field numbers are never given to something else. What a new program adds and an old one must not skip takes a new
//! version.

mod cluster;
mod command;
mod reply;
mod snapshot;

use crate::{DecodeError, Fingerprint, Incarnation, Member as StateMember, NodeId};

pub(crate) use cluster::Node;
pub(crate) use command::Command;
pub(crate) use reply::Reply;
pub(crate) use snapshot::{
    GroupRoute, Header, NodeSet, Placement, Shard, ShardRoutes, SnapshotChunk, SnapshotEnd, WildcardRoute,
    nodes,
};

/// The version of all formats, but for what says otherwise.
pub(crate) const VERSION: u32 = 1;
/// The version of a chunk of a snapshot that has settings: a program that knows none would lose them without a word.
pub(crate) const VERSION_WITH_SETTINGS: u32 = 2;
/// The same for the replicas of shards and the routes of their sessions.
pub(crate) const VERSION_WITH_SHARDS: u32 = 3;

pub(crate) trait Versioned: prost::Message + Default {
    /// The last version that is known.
    const NEWEST: u32 = VERSION;

    /// Reads a message and checks its version.
    fn decode_versioned(bytes: &[u8]) -> Result<Self, DecodeError> {
        // The version first: the fields of another version may mean anything.
        let OnlyVersion { version } = prost::Message::decode(bytes)?;
        if !(VERSION..=Self::NEWEST).contains(&version) {
            return Err(DecodeError::UnknownVersion(version));
        }
        Ok(prost::Message::decode(bytes)?)
    }
}

impl Versioned for Command {}
impl Versioned for Reply {}
impl Versioned for SnapshotChunk {
    const NEWEST: u32 = VERSION_WITH_SHARDS;
}

#[derive(Clone, PartialEq, prost::Message)]
struct OnlyVersion {
    #[prost(uint32, tag = "1")]
    version: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Member {
    #[prost(fixed64, tag = "1")]
    pub(crate) node: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) incarnation: u64,
}

impl From<StateMember> for Member {
    fn from(member: StateMember) -> Self {
        Self { node: member.node.0, incarnation: member.incarnation.0 }
    }
}

impl From<Member> for StateMember {
    fn from(member: Member) -> Self {
        Self { node: NodeId(member.node), incarnation: Incarnation(member.incarnation) }
    }
}

fn required(member: Option<Member>) -> Result<StateMember, DecodeError> {
    member.map(StateMember::from).ok_or(DecodeError::Field("member"))
}

pub(crate) fn fingerprint(number: u64) -> Result<Fingerprint, DecodeError> {
    Fingerprint::from_bits(number).ok_or(DecodeError::Field("fingerprint"))
}
