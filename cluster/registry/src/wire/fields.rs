//! What the messages speak of: members, claims, and clients in a report.

use flotilla_mqtt::session::ClientId;
use flotilla_state as state;
use flotilla_state::{Incarnation, NodeId, ShardEpoch};

use crate::{MessageError, message};

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Member {
    #[prost(fixed64, tag = "1")]
    pub(super) node: u64,
    #[prost(uint64, tag = "2")]
    pub(super) incarnation: u64,
}

impl From<state::Member> for Member {
    fn from(member: state::Member) -> Self {
        Self { node: member.node.0, incarnation: member.incarnation.0 }
    }
}

impl From<Member> for state::Member {
    fn from(member: Member) -> Self {
        Self { node: NodeId(member.node), incarnation: Incarnation(member.incarnation) }
    }
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Hold {
    #[prost(message, optional, tag = "1")]
    pub(super) member: Option<Member>,
    #[prost(uint64, tag = "2")]
    pub(super) shard_epoch: u64,
    #[prost(uint64, tag = "3")]
    pub(super) sequence: u64,
}

impl From<message::Hold> for Hold {
    fn from(hold: message::Hold) -> Self {
        Self {
            member: Some(hold.member.into()),
            shard_epoch: hold.epoch.shard.0,
            sequence: hold.epoch.sequence,
        }
    }
}

impl TryFrom<Hold> for message::Hold {
    type Error = MessageError;

    fn try_from(hold: Hold) -> Result<Self, MessageError> {
        let member = hold.member.ok_or(MessageError::Invalid("member"))?;
        Ok(Self { member: member.into(), epoch: epoch(hold.shard_epoch, hold.sequence) })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Entry {
    #[prost(string, tag = "1")]
    pub(super) client: String,
    #[prost(uint64, tag = "2")]
    pub(super) shard_epoch: u64,
    #[prost(uint64, tag = "3")]
    pub(super) sequence: u64,
    /// A claimant, not an owner.
    #[prost(bool, tag = "4")]
    pub(super) claims: bool,
    #[prost(uint64, tag = "5")]
    pub(super) claim: u64,
    #[prost(bool, tag = "6")]
    pub(super) registered: bool,
    #[prost(message, optional, tag = "7")]
    pub(super) previous: Option<Hold>,
}

impl From<message::Entry> for Entry {
    fn from(entry: message::Entry) -> Self {
        let base = Self {
            client: entry.client.as_str().to_owned(),
            shard_epoch: entry.epoch.shard.0,
            sequence: entry.epoch.sequence,
            ..Self::default()
        };
        match entry.role {
            message::EntryRole::Owner { registered } => Self { registered, ..base },
            message::EntryRole::Claimant { claim, previous } => {
                Self { claims: true, claim, previous: Some(previous.into()), ..base }
            }
        }
    }
}

impl TryFrom<Entry> for message::Entry {
    type Error = MessageError;

    fn try_from(entry: Entry) -> Result<Self, MessageError> {
        let role = if entry.claims {
            let previous = entry.previous.ok_or(MessageError::Invalid("previous owner"))?.try_into()?;
            message::EntryRole::Claimant { claim: entry.claim, previous }
        } else {
            message::EntryRole::Owner { registered: entry.registered }
        };
        Ok(Self { client: client(&entry.client)?, epoch: epoch(entry.shard_epoch, entry.sequence), role })
    }
}

pub(super) fn client(text: &str) -> Result<ClientId, MessageError> {
    ClientId::new(text).ok_or(MessageError::Invalid("client identifier"))
}

pub(super) fn epoch(shard: u64, sequence: u64) -> state::ConnectionEpoch {
    state::ConnectionEpoch { shard: ShardEpoch(shard), sequence }
}
