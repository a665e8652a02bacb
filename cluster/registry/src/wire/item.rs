//! One message as it is sent.

use flotilla_mqtt::session::ClientId;
use flotilla_state::{ConnectionEpoch, ShardEpoch, ShardId};

use super::fields::{Entry, Hold, client, epoch};
use crate::{
    MessageError,
    message::{Message, Report},
};

/// See the module. Most messages are about a client and a claim of it.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Item {
    #[prost(enumeration = "Kind", tag = "1")]
    pub(super) kind: i32,
    #[prost(string, tag = "2")]
    pub(super) client: String,
    #[prost(uint64, tag = "3")]
    pub(super) shard_epoch: u64,
    #[prost(uint64, tag = "4")]
    pub(super) sequence: u64,
    #[prost(uint64, tag = "6")]
    pub(super) claim: u64,
    /// Nothing of a report follows.
    #[prost(bool, tag = "7")]
    pub(super) last: bool,
    #[prost(message, optional, tag = "10")]
    pub(super) previous: Option<Hold>,
    #[prost(message, repeated, tag = "15")]
    pub(super) entries: Vec<Entry>,
    #[prost(uint32, tag = "16")]
    pub(super) shard: u32,
    /// The term of a registrar, where no epoch says it.
    #[prost(uint64, tag = "17")]
    pub(super) term: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Kind {
    Unspecified = 0,
    Claim = 1,
    Withdraw = 2,
    Confirm = 3,
    Release = 4,
    Report = 6,
    Granted = 8,
    Superseded = 9,
    Discard = 11,
    Handover = 13,
    Handed = 14,
}

impl Item {
    /// A message about a client,
    fn of(kind: Kind, client: &ClientId) -> Self {
        Self { kind: kind.into(), client: client.as_str().to_owned(), ..Self::default() }
    }

    /// ... and about one claim of it.
    fn at(kind: Kind, client: &ClientId, epoch: ConnectionEpoch) -> Self {
        Self { shard_epoch: epoch.shard.0, sequence: epoch.sequence, ..Self::of(kind, client) }
    }
}

impl From<Message> for Item {
    fn from(message: Message) -> Self {
        use Message as M;
        match message {
            M::Claim { client, term, claim } => {
                Self { term: term.0, claim, ..Self::of(Kind::Claim, &client) }
            }
            M::Withdraw { client, claim } => Self { claim, ..Self::of(Kind::Withdraw, &client) },
            M::Confirm { client, epoch } => Self::at(Kind::Confirm, &client, epoch),
            M::Release { client, epoch } => Self::at(Kind::Release, &client, epoch),
            M::Report(report) => Self {
                kind: Kind::Report.into(),
                shard: report.shard.0.into(),
                term: report.term.0,
                entries: report.entries.into_iter().map(Entry::from).collect(),
                last: report.last,
                ..Self::default()
            },
            M::Granted { client, claim, epoch, previous } => {
                Self { claim, previous: previous.map(Hold::from), ..Self::at(Kind::Granted, &client, epoch) }
            }
            M::Superseded { client, term, claim } => {
                Self { term: term.0, claim, ..Self::of(Kind::Superseded, &client) }
            }
            M::Discard { client, term, epoch } => {
                Self { term: term.0, ..Self::at(Kind::Discard, &client, epoch) }
            }
            M::Handover { client, epoch } => Self::at(Kind::Handover, &client, epoch),
            M::Handed { client, epoch } => Self::at(Kind::Handed, &client, epoch),
        }
    }
}

impl TryFrom<Item> for Message {
    type Error = MessageError;

    fn try_from(item: Item) -> Result<Self, MessageError> {
        let kind = Kind::try_from(item.kind).map_err(|_| MessageError::Invalid("kind"))?;
        let (term, claim) = (ShardEpoch(item.term), item.claim);
        if kind == Kind::Report {
            return Ok(Self::Report(Report {
                shard: ShardId(u16::try_from(item.shard).map_err(|_| MessageError::Invalid("shard"))?),
                term,
                entries: item.entries.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
                last: item.last,
            }));
        }
        let client = client(&item.client)?;
        let epoch = epoch(item.shard_epoch, item.sequence);
        Ok(match kind {
            Kind::Unspecified | Kind::Report => return Err(MessageError::Invalid("kind")),
            Kind::Claim => Self::Claim { client, term, claim },
            Kind::Withdraw => Self::Withdraw { client, claim },
            Kind::Confirm => Self::Confirm { client, epoch },
            Kind::Release => Self::Release { client, epoch },
            Kind::Granted => {
                let previous = item.previous.map(TryInto::try_into).transpose()?;
                Self::Granted { client, claim, epoch, previous }
            }
            Kind::Superseded => Self::Superseded { client, term, claim },
            Kind::Discard => Self::Discard { client, term, epoch },
            Kind::Handover => Self::Handover { client, epoch },
            Kind::Handed => Self::Handed { client, epoch },
        })
    }
}
