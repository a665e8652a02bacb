//! What comes of a command: the answer to who proposed it, and what has changed, for everybody.

use bytes::Bytes;
use prost::Message;

use crate::{
    DecodeError, Fingerprint, Member, NodeId, ShardId, Status,
    wire::{self, Versioned},
};

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effects {
    /// For the node that proposed it.
    pub reply: Reply,
    /// For every node, in the order in which it happened.
    pub events: Vec<Event>,
}

/// The answer to who proposed a command. Unless it is `Done` or `Joined`, nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// It is as it was asked for; maybe it was before.
    Done,
    /// The node is admitted, and this is its new life.
    Joined(Member),
    /// Another node that is not down has the name.
    NameTaken,
    /// The node is known under another name.
    OtherName,
    /// The life of the member has ended.
    Stale,
    /// There is no such node.
    UnknownNode,
    /// There are [`limits::NODES_MAX`](crate::limits::NODES_MAX) nodes already.
    TooManyNodes,
    /// There is no cluster yet.
    NotCreated,
    /// There is a cluster already.
    AlreadyCreated,
    /// There is no such setting.
    UnknownSetting,
    /// There are [`limits::SETTINGS_MAX`](crate::limits::SETTINGS_MAX) settings already.
    TooManySettings,
    /// The settings would have more than [`limits::SETTINGS_BYTES_MAX`](crate::limits::SETTINGS_BYTES_MAX) bytes.
    SettingsFull,
    /// The command breaks a rule or a bound.
    Invalid(Invalid),
}

/// The rule or bound that a command breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// See [`limits::SHARDS_MAX`](crate::limits::SHARDS_MAX).
    #[error("the number of shards is out of its bounds")]
    Shards,
    /// See [`limits::REPLICAS_MAX`](crate::limits::REPLICAS_MAX).
    #[error("the number of replicas is out of its bounds")]
    Replicas,
    /// See [`limits::NAME_BYTES_MAX`](crate::limits::NAME_BYTES_MAX).
    #[error("the name is empty or too long")]
    Name,
    /// See [`limits::ADDRESS_BYTES_MAX`](crate::limits::ADDRESS_BYTES_MAX).
    #[error("an address is empty or too long")]
    Address,
    /// See [`limits::CLIENT_ADDRESSES_MAX`](crate::limits::CLIENT_ADDRESSES_MAX).
    #[error("there are too many client addresses")]
    ClientAddresses,
    /// See [`limits::VERSION_BYTES_MAX`](crate::limits::VERSION_BYTES_MAX).
    #[error("the version is too long")]
    Version,
    /// See [`limits::CHANGES_MAX`](crate::limits::CHANGES_MAX).
    #[error("there are too many changes")]
    Changes,
    /// Empty, not in order, or more than [`limits::SHARD_MEMBERS_MAX`](crate::limits::SHARD_MEMBERS_MAX).
    #[error("not the members of a shard")]
    Members,
    /// Not a topic filter with wildcards and without a share prefix.
    #[error("not a topic filter with wildcards")]
    Wildcard,
    /// Not the filter of a shared subscription.
    #[error("not the filter of a shared subscription")]
    Group,
    /// Not parts of letters, digits and `-._~%` with slashes between them, or longer than
    /// [`limits::SETTING_KEY_BYTES_MAX`](crate::limits::SETTING_KEY_BYTES_MAX).
    #[error("not the key of a setting, or too long")]
    SettingKey,
    /// See [`limits::SETTING_VALUE_BYTES_MAX`](crate::limits::SETTING_VALUE_BYTES_MAX).
    #[error("the value of the setting is too long")]
    SettingValue,
}

/// Something that has happened. Each node hears of it when it applies the entry; again after a restart, when it applies the
/// entries behind its snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// There is a cluster now, or it has another identifier.
    Created,
    /// A life of a node begins; its status is [`Joining`](Status::Joining).
    MemberJoined(Member),
    /// A life of a node has ended. Everything of this member is void.
    MemberEnded(Member, Why),
    /// The node is forgotten; whatever life it had has ended.
    NodeRemoved(NodeId),
    /// A member has another status by [`Command::SetStatus`](crate::Command::SetStatus).
    StatusChanged(Member, Status),
    /// Other nodes hold the shard, or hold it in another order; a new registrar if the epoch is that of this entry.
    Placed(ShardId),
    /// The replicas of the shard shall be on other nodes, its group begins, or it has other members.
    ShardChanged(ShardId),
    /// The sessions of the shard get other messages than before. As [`Event::RoutesChanged`].
    ShardRoutesChanged {
        /// The shard.
        shard: ShardId,
        /// The topics that it now gets and did not get, or the other way around.
        exact: Vec<Fingerprint>,
        /// Whether filters with wildcards have changed: any topic may be affected.
        wildcard: bool,
    },
    /// A member gets other messages than before.
    RoutesChanged {
        /// The member.
        member: Member,
        /// The topics that it now gets and did not get, or the other way around.
        exact: Vec<Fingerprint>,
        /// Whether filters with wildcards have changed: any topic may be affected.
        wildcard: bool,
        /// Whether shared groups have changed: any topic may be affected.
        groups: bool,
    },
    /// All routes of the member are gone: any topic may be affected.
    RoutesReset(Member),
    /// The setting with this key has another value, or has come or gone.
    SettingChanged(Box<str>),
}

/// Why the life of a node has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It has not been heard of for too long.
    Down,
    /// The node has begun another life.
    Rejoined,
    /// It has left on its own will.
    Left,
    /// It was removed.
    Removed,
}

impl Reply {
    /// The bytes that go back to the proposer.
    pub fn encode(&self) -> Bytes {
        wire::Reply::from(self).encode_to_vec().into()
    }

    /// Reads the bytes of a reply.
    ///
    /// # Errors
    /// They are not the bytes of a reply, or of a version that this program does not know.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        wire::Reply::decode_versioned(bytes)?.try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Incarnation;

    #[test]
    fn replies_keep_their_meaning() {
        let invalid = [
            Invalid::Shards,
            Invalid::Replicas,
            Invalid::Name,
            Invalid::Address,
            Invalid::ClientAddresses,
            Invalid::Version,
            Invalid::Changes,
            Invalid::Members,
            Invalid::Wildcard,
            Invalid::Group,
            Invalid::SettingKey,
            Invalid::SettingValue,
        ];
        let replies = [
            Reply::Done,
            Reply::Joined(Member { node: NodeId(u64::MAX), incarnation: Incarnation(1) }),
            Reply::NameTaken,
            Reply::OtherName,
            Reply::Stale,
            Reply::UnknownNode,
            Reply::TooManyNodes,
            Reply::NotCreated,
            Reply::AlreadyCreated,
            Reply::UnknownSetting,
            Reply::TooManySettings,
            Reply::SettingsFull,
        ];
        for reply in replies.into_iter().chain(invalid.map(Reply::Invalid)) {
            assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
        }
        assert_eq!(Reply::decode(b"\x08\x01"), Err(DecodeError::Field("reply")));
        assert_eq!(Reply::decode(b"\x08\x01\x10\x02"), Err(DecodeError::Field("member")));
        assert_eq!(Reply::decode(b"\x08\x01\x10\x0A"), Err(DecodeError::Field("invalid")));
        assert_eq!(Reply::decode(b"\x08\x03\x10\x01"), Err(DecodeError::UnknownVersion(3)));
    }
}
