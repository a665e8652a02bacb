//! What the messages speak of: members, claims, clients in a report, and wills.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_mqtt::{Message as MqttMessage, QoS, session::ClientId, session::SessionExpiry};
use flotilla_state as state;
use flotilla_state::{Incarnation, LogIndex, NodeId, ShardEpoch};

use crate::{KeptWill, MessageError, Tenure, message};

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
        Ok(Self { member: required(hold.member)?, epoch: epoch(hold.shard_epoch, hold.sequence) })
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
    #[prost(bool, tag = "8")]
    pub(super) handed: bool,
    #[prost(bool, tag = "9")]
    pub(super) clean: bool,
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
            message::EntryRole::Owner { registered, past: message::Past { origin, clean } } => Self {
                registered,
                previous: origin.map(|origin| origin.previous.into()),
                handed: origin.is_some_and(|origin| origin.handed),
                clean,
                ..base
            },
            message::EntryRole::Claimant { claim, previous } => {
                Self { claims: true, claim, previous: previous.map(Hold::from), ..base }
            }
        }
    }
}

impl TryFrom<Entry> for message::Entry {
    type Error = MessageError;

    fn try_from(entry: Entry) -> Result<Self, MessageError> {
        let previous: Option<message::Hold> = entry.previous.map(TryInto::try_into).transpose()?;
        let (handed, clean) = (entry.handed, entry.clean);
        let role = if entry.claims {
            message::EntryRole::Claimant { claim: entry.claim, previous }
        } else {
            let origin = previous.map(|previous| message::Origin { previous, handed });
            message::EntryRole::Owner { registered: entry.registered, past: message::Past { origin, clean } }
        };
        Ok(Self { client: client(&entry.client)?, epoch: epoch(entry.shard_epoch, entry.sequence), role })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Will {
    #[prost(string, tag = "1")]
    pub(super) topic: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) properties: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) payload: Bytes,
    #[prost(uint32, tag = "4")]
    pub(super) qos: u32,
    #[prost(bool, tag = "5")]
    pub(super) retain: bool,
    #[prost(uint64, tag = "6")]
    pub(super) delay_millis: u64,
    #[prost(uint64, optional, tag = "7")]
    pub(super) expiry_millis: Option<u64>,
    /// As in CONNECT.
    #[prost(uint32, tag = "8")]
    pub(super) session_expiry_secs: u32,
    #[prost(uint64, optional, tag = "9")]
    pub(super) rest_millis: Option<u64>,
}

impl From<message::SentWill> for Will {
    fn from(sent: message::SentWill) -> Self {
        let KeptWill { message, delay, expiry, session_expiry } = sent.will;
        Self {
            topic: message.topic.clone().into(),
            properties: message.properties.clone(),
            payload: message.payload.clone(),
            qos: (message.qos as u8).into(),
            retain: message.retain,
            delay_millis: millis(delay),
            expiry_millis: expiry.map(millis),
            session_expiry_secs: session_expiry.as_secs(),
            rest_millis: sent.rest.map(millis),
        }
    }
}

pub(super) fn sent_will(will: Will, client: &ClientId) -> Result<message::SentWill, MessageError> {
    let qos = u8::try_from(will.qos).ok().and_then(QoS::from_u8).ok_or(MessageError::Invalid("QoS"))?;
    if will.topic.is_empty() {
        return Err(MessageError::Invalid("topic"));
    }
    let message = MqttMessage {
        topic: will.topic.into(),
        properties: will.properties,
        payload: will.payload,
        qos,
        retain: will.retain,
        expires_at: None,
        publisher: Some(client.clone()),
    };
    Ok(message::SentWill {
        will: KeptWill {
            message: Arc::new(message),
            delay: Duration::from_millis(will.delay_millis),
            expiry: will.expiry_millis.map(Duration::from_millis),
            session_expiry: SessionExpiry::from_secs(will.session_expiry_secs),
        },
        rest: will.rest_millis.map(Duration::from_millis),
    })
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Orphan {
    #[prost(message, optional, tag = "1")]
    pub(super) owner: Option<Member>,
    #[prost(string, tag = "2")]
    pub(super) client: String,
    #[prost(uint64, tag = "3")]
    pub(super) shard_epoch: u64,
    #[prost(uint64, tag = "4")]
    pub(super) sequence: u64,
    #[prost(uint32, tag = "5")]
    pub(super) turn: u32,
    #[prost(message, optional, tag = "6")]
    pub(super) will: Option<Will>,
    #[prost(uint64, tag = "7")]
    pub(super) ended_at: u64,
}

impl From<message::SentOrphan> for Orphan {
    fn from(orphan: message::SentOrphan) -> Self {
        Self {
            owner: Some(orphan.owner.into()),
            client: orphan.client.as_str().to_owned(),
            shard_epoch: orphan.tenure.epoch.shard.0,
            sequence: orphan.tenure.epoch.sequence,
            turn: orphan.tenure.turn,
            will: Some(orphan.will.into()),
            ended_at: orphan.ended_at.0,
        }
    }
}

impl TryFrom<Orphan> for message::SentOrphan {
    type Error = MessageError;

    fn try_from(orphan: Orphan) -> Result<Self, MessageError> {
        let client = client(&orphan.client)?;
        let epoch = epoch(orphan.shard_epoch, orphan.sequence);
        Ok(Self {
            owner: required(orphan.owner)?,
            tenure: Tenure { epoch, turn: orphan.turn },
            will: sent_will(orphan.will.ok_or(MessageError::Invalid("will"))?, &client)?,
            client,
            ended_at: LogIndex(orphan.ended_at),
        })
    }
}

pub(super) fn required(member: Option<Member>) -> Result<state::Member, MessageError> {
    member.map(Into::into).ok_or(MessageError::Invalid("member"))
}

pub(super) fn client(text: &str) -> Result<ClientId, MessageError> {
    ClientId::new(text).ok_or(MessageError::Invalid("client identifier"))
}

pub(super) fn epoch(shard: u64, sequence: u64) -> state::ConnectionEpoch {
    state::ConnectionEpoch { shard: ShardEpoch(shard), sequence }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
