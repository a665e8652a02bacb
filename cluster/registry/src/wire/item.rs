//! One message as it is sent.

use bytes::Bytes;
use flotilla_mqtt::session::ClientId;
use flotilla_state::{ConnectionEpoch, LogIndex, ShardEpoch, ShardId};

use super::fields::{Entry, Hold, Member, Orphan, Will, client, epoch, required, sent_will};
use crate::{
    MessageError, Tenure,
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
    /// The turn of a tenure.
    #[prost(uint32, tag = "5")]
    pub(super) turn: u32,
    #[prost(uint64, tag = "6")]
    pub(super) claim: u64,
    /// What the kind says: handed, discard, more, last, the stub is wanted.
    #[prost(bool, tag = "7")]
    pub(super) flag: bool,
    #[prost(bool, tag = "8")]
    pub(super) clean: bool,
    #[prost(uint64, tag = "9")]
    pub(super) index: u64,
    #[prost(message, optional, tag = "10")]
    pub(super) previous: Option<Hold>,
    #[prost(bytes = "bytes", optional, tag = "11")]
    pub(super) part: Option<Bytes>,
    #[prost(message, optional, tag = "12")]
    pub(super) member: Option<Member>,
    #[prost(message, optional, tag = "13")]
    pub(super) will: Option<Will>,
    #[prost(message, repeated, tag = "14")]
    pub(super) orphans: Vec<Orphan>,
    #[prost(message, repeated, tag = "15")]
    pub(super) entries: Vec<Entry>,
    #[prost(uint32, tag = "16")]
    pub(super) shard: u32,
    /// The term of a registrar, where no epoch says it.
    #[prost(uint64, tag = "17")]
    pub(super) term: u64,
    #[prost(uint64, tag = "18")]
    pub(super) as_of: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Kind {
    Unspecified = 0,
    Claim = 1,
    Withdraw = 2,
    Confirm = 3,
    Release = 4,
    Register = 5,
    Report = 6,
    Orphans = 7,
    Granted = 8,
    Superseded = 9,
    Registered = 10,
    Discard = 11,
    WillDone = 12,
    Handover = 13,
    Handed = 14,
    Cancel = 15,
    Taken = 16,
    Settle = 17,
    Unstub = 18,
    Keep = 19,
    Kept = 20,
    Drop = 21,
}

impl Item {
    /// A message about a client,
    fn of(kind: Kind, client: &ClientId) -> Self {
        Self { kind: kind.into(), client: client.as_str().to_owned(), ..Self::default() }
    }

    /// ... about one claim of it,
    fn at(kind: Kind, client: &ClientId, epoch: ConnectionEpoch) -> Self {
        Self { shard_epoch: epoch.shard.0, sequence: epoch.sequence, ..Self::of(kind, client) }
    }

    /// ... and about one CONNECT of those that the claim stands for.
    fn during(kind: Kind, client: &ClientId, tenure: Tenure) -> Self {
        Self { turn: tenure.turn, ..Self::at(kind, client, tenure.epoch) }
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
            M::Confirm { client, epoch, handed, clean } => {
                Self { flag: handed, clean, ..Self::at(Kind::Confirm, &client, epoch) }
            }
            M::Release { client, epoch } => Self::at(Kind::Release, &client, epoch),
            M::Register { client, epoch } => Self::at(Kind::Register, &client, epoch),
            M::Report(report) => Self {
                kind: Kind::Report.into(),
                shard: report.shard.0.into(),
                term: report.term.0,
                entries: report.entries.into_iter().map(Entry::from).collect(),
                orphans: report.orphans.into_iter().map(Orphan::from).collect(),
                index: report.authority.0,
                as_of: report.as_of.0,
                flag: report.last,
                ..Self::default()
            },
            M::Orphans { owner, wills, last } => Self {
                kind: Kind::Orphans.into(),
                member: Some(owner.into()),
                orphans: wills.into_iter().map(Orphan::from).collect(),
                flag: last,
                ..Self::default()
            },
            M::Granted { client, claim, epoch, previous } => {
                Self { claim, previous: previous.map(Hold::from), ..Self::at(Kind::Granted, &client, epoch) }
            }
            M::Superseded { client, term, claim } => {
                Self { term: term.0, claim, ..Self::of(Kind::Superseded, &client) }
            }
            M::Registered { client, term, epoch } => {
                Self { term: term.0, ..Self::at(Kind::Registered, &client, epoch) }
            }
            M::Discard { client, term, epoch } => {
                Self { term: term.0, ..Self::at(Kind::Discard, &client, epoch) }
            }
            M::WillDone { owner, client } => {
                Self { member: Some(owner.into()), ..Self::of(Kind::WillDone, &client) }
            }
            M::Handover { client, epoch, discard } => {
                Self { flag: discard, ..Self::at(Kind::Handover, &client, epoch) }
            }
            M::Handed { client, epoch, part, more } => {
                Self { part, flag: more, ..Self::at(Kind::Handed, &client, epoch) }
            }
            M::Cancel { client, epoch } => Self::at(Kind::Cancel, &client, epoch),
            M::Taken { client, epoch, wants_stub } => {
                Self { flag: wants_stub, ..Self::at(Kind::Taken, &client, epoch) }
            }
            M::Settle { client, epoch, index } => {
                Self { index: index.0, ..Self::at(Kind::Settle, &client, epoch) }
            }
            M::Unstub { client, epoch } => Self::at(Kind::Unstub, &client, epoch),
            M::Keep { client, tenure, will } => {
                Self { will: Some(will.into()), ..Self::during(Kind::Keep, &client, tenure) }
            }
            M::Kept { client, tenure } => Self::during(Kind::Kept, &client, tenure),
            M::Drop { client, tenure } => Self::during(Kind::Drop, &client, tenure),
        }
    }
}

impl TryFrom<Item> for Message {
    type Error = MessageError;

    fn try_from(item: Item) -> Result<Self, MessageError> {
        let kind = Kind::try_from(item.kind).map_err(|_| MessageError::Invalid("kind"))?;
        match kind {
            Kind::Unspecified => return Err(MessageError::Invalid("kind")),
            Kind::Report => {
                return Ok(Self::Report(Report {
                    shard: ShardId(u16::try_from(item.shard).map_err(|_| MessageError::Invalid("shard"))?),
                    term: ShardEpoch(item.term),
                    entries: item.entries.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
                    orphans: item.orphans.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
                    authority: LogIndex(item.index),
                    as_of: LogIndex(item.as_of),
                    last: item.flag,
                }));
            }
            Kind::Orphans => {
                let wills = item.orphans.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
                return Ok(Self::Orphans { owner: required(item.member)?, wills, last: item.flag });
            }
            _ => {}
        }
        let client = client(&item.client)?;
        let epoch = epoch(item.shard_epoch, item.sequence);
        let tenure = Tenure { epoch, turn: item.turn };
        let (term, claim, flag) = (ShardEpoch(item.term), item.claim, item.flag);
        Ok(match kind {
            Kind::Unspecified | Kind::Report | Kind::Orphans => unreachable!("handled above"),
            Kind::Claim => Self::Claim { client, term, claim },
            Kind::Withdraw => Self::Withdraw { client, claim },
            Kind::Confirm => Self::Confirm { client, epoch, handed: flag, clean: item.clean },
            Kind::Release => Self::Release { client, epoch },
            Kind::Register => Self::Register { client, epoch },
            Kind::Granted => {
                let previous = item.previous.map(TryInto::try_into).transpose()?;
                Self::Granted { client, claim, epoch, previous }
            }
            Kind::Superseded => Self::Superseded { client, term, claim },
            Kind::Registered => Self::Registered { client, term, epoch },
            Kind::Discard => Self::Discard { client, term, epoch },
            Kind::WillDone => Self::WillDone { owner: required(item.member)?, client },
            Kind::Handover => Self::Handover { client, epoch, discard: flag },
            Kind::Handed => Self::Handed { client, epoch, part: item.part, more: flag },
            Kind::Cancel => Self::Cancel { client, epoch },
            Kind::Taken => Self::Taken { client, epoch, wants_stub: flag },
            Kind::Settle => Self::Settle { client, epoch, index: LogIndex(item.index) },
            Kind::Unstub => Self::Unstub { client, epoch },
            Kind::Keep => {
                let will = item.will.ok_or(MessageError::Invalid("will"))?;
                Self::Keep { will: sent_will(will, &client)?, client, tenure }
            }
            Kind::Kept => Self::Kept { client, tenure },
            Kind::Drop => Self::Drop { client, tenure },
        })
    }
}
