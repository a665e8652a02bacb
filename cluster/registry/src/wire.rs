//! The bytes between registries: protobuf, with the version of the format in every batch.
//!
//! Field numbers are never given to something else. What an old program must not skip takes a new version.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_mqtt::{Message as MqttMessage, QoS, session::ClientId, session::SessionExpiry};
use flotilla_state as state;
use flotilla_state::{Incarnation, LogIndex, NodeId, ShardEpoch, ShardId};
use prost::Message as _;

use crate::{
    KeptWill, MessageError,
    message::{self, Message},
};

/// The version of the format.
pub(crate) const VERSION: u32 = 1;

/// Messages to one incarnation of a node.
#[derive(Debug, PartialEq)]
pub(crate) struct Envelope {
    /// How far the sender had read the log: a receiver that is behind must wait.
    pub(crate) view: LogIndex,
    /// To which life of the receiver.
    pub(crate) to: Incarnation,
    pub(crate) messages: Vec<Message>,
}

impl Envelope {
    pub(crate) fn encode(self) -> Bytes {
        let items = self.messages.into_iter().map(Item::from).collect();
        Batch { version: VERSION, view: self.view.0, to: self.to.0, items }.encode_to_vec().into()
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<Self, MessageError> {
        // The version first: the rest of another version may look like anything.
        let OnlyVersion { version } = OnlyVersion::decode(bytes.clone())?;
        if version != VERSION {
            return Err(MessageError::UnknownVersion(version));
        }
        let batch = Batch::decode(bytes)?;
        let messages = batch.items.into_iter().map(Message::try_from).collect::<Result<_, _>>()?;
        Ok(Self { view: LogIndex(batch.view), to: Incarnation(batch.to), messages })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct OnlyVersion {
    #[prost(uint32, tag = "1")]
    version: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Batch {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint64, tag = "2")]
    view: u64,
    #[prost(uint64, tag = "3")]
    to: u64,
    #[prost(message, repeated, tag = "4")]
    items: Vec<Item>,
}

/// One message. Most of them are about a client and a claim of it.
#[derive(Clone, PartialEq, prost::Message)]
struct Item {
    #[prost(enumeration = "Kind", tag = "1")]
    kind: i32,
    #[prost(string, tag = "2")]
    client: String,
    #[prost(uint64, tag = "3")]
    shard_epoch: u64,
    #[prost(uint64, tag = "4")]
    sequence: u64,
    /// The turn of a tenure.
    #[prost(uint32, tag = "5")]
    turn: u32,
    #[prost(uint64, tag = "6")]
    claim: u64,
    /// What the kind says: handed, discard, more, last, the stub is wanted.
    #[prost(bool, tag = "7")]
    flag: bool,
    #[prost(bool, tag = "8")]
    clean: bool,
    #[prost(uint64, tag = "9")]
    index: u64,
    #[prost(message, optional, tag = "10")]
    previous: Option<Hold>,
    #[prost(bytes = "bytes", optional, tag = "11")]
    part: Option<Bytes>,
    #[prost(message, optional, tag = "12")]
    member: Option<Member>,
    #[prost(message, optional, tag = "13")]
    will: Option<Will>,
    #[prost(message, repeated, tag = "14")]
    orphans: Vec<Orphan>,
    #[prost(message, repeated, tag = "15")]
    entries: Vec<Entry>,
    #[prost(uint32, tag = "16")]
    shard: u32,
    /// The term of a registrar, where no epoch says it.
    #[prost(uint64, tag = "17")]
    term: u64,
    #[prost(uint64, tag = "18")]
    as_of: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum Kind {
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

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Member {
    #[prost(fixed64, tag = "1")]
    node: u64,
    #[prost(uint64, tag = "2")]
    incarnation: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Hold {
    #[prost(message, optional, tag = "1")]
    member: Option<Member>,
    #[prost(uint64, tag = "2")]
    shard_epoch: u64,
    #[prost(uint64, tag = "3")]
    sequence: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(string, tag = "1")]
    client: String,
    #[prost(uint64, tag = "2")]
    shard_epoch: u64,
    #[prost(uint64, tag = "3")]
    sequence: u64,
    /// A claimant, not an owner.
    #[prost(bool, tag = "4")]
    claims: bool,
    #[prost(uint64, tag = "5")]
    claim: u64,
    #[prost(bool, tag = "6")]
    registered: bool,
    #[prost(message, optional, tag = "7")]
    previous: Option<Hold>,
    #[prost(bool, tag = "8")]
    handed: bool,
    #[prost(bool, tag = "9")]
    clean: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Will {
    #[prost(string, tag = "1")]
    topic: String,
    #[prost(bytes = "bytes", tag = "2")]
    properties: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    payload: Bytes,
    #[prost(uint32, tag = "4")]
    qos: u32,
    #[prost(bool, tag = "5")]
    retain: bool,
    #[prost(uint64, tag = "6")]
    delay_millis: u64,
    #[prost(uint64, optional, tag = "7")]
    expiry_millis: Option<u64>,
    /// As in CONNECT.
    #[prost(uint32, tag = "8")]
    session_expiry_secs: u32,
    #[prost(uint64, optional, tag = "9")]
    rest_millis: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Orphan {
    #[prost(message, optional, tag = "1")]
    owner: Option<Member>,
    #[prost(string, tag = "2")]
    client: String,
    #[prost(uint64, tag = "3")]
    shard_epoch: u64,
    #[prost(uint64, tag = "4")]
    sequence: u64,
    #[prost(uint32, tag = "5")]
    turn: u32,
    #[prost(message, optional, tag = "6")]
    will: Option<Will>,
    #[prost(uint64, tag = "7")]
    ended_at: u64,
}

impl From<Message> for Item {
    fn from(message: Message) -> Self {
        use Message as M;
        let of = |kind: Kind, client: ClientId| Self {
            kind: kind.into(),
            client: client.as_str().to_owned(),
            ..Self::default()
        };
        let at = |kind: Kind, client: ClientId, epoch: state::ConnectionEpoch| Self {
            shard_epoch: epoch.shard.0,
            sequence: epoch.sequence,
            ..of(kind, client)
        };
        let during = |kind: Kind, client: ClientId, tenure: crate::Tenure| Self {
            turn: tenure.turn,
            ..at(kind, client, tenure.epoch)
        };
        match message {
            M::Claim { client, term, claim } => Self { term: term.0, claim, ..of(Kind::Claim, client) },
            M::Withdraw { client, claim } => Self { claim, ..of(Kind::Withdraw, client) },
            M::Confirm { client, epoch, handed, clean } => {
                Self { flag: handed, clean, ..at(Kind::Confirm, client, epoch) }
            }
            M::Release { client, epoch } => at(Kind::Release, client, epoch),
            M::Register { client, epoch } => at(Kind::Register, client, epoch),
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
                Self { claim, previous: previous.map(Hold::from), ..at(Kind::Granted, client, epoch) }
            }
            M::Superseded { client, term, claim } => {
                Self { term: term.0, claim, ..of(Kind::Superseded, client) }
            }
            M::Registered { client, term, epoch } => {
                Self { term: term.0, ..at(Kind::Registered, client, epoch) }
            }
            M::Discard { client, term, epoch } => Self { term: term.0, ..at(Kind::Discard, client, epoch) },
            M::WillDone { owner, client } => {
                Self { member: Some(owner.into()), ..of(Kind::WillDone, client) }
            }
            M::Handover { client, epoch, discard } => {
                Self { flag: discard, ..at(Kind::Handover, client, epoch) }
            }
            M::Handed { client, epoch, part, more } => {
                Self { part, flag: more, ..at(Kind::Handed, client, epoch) }
            }
            M::Cancel { client, epoch } => at(Kind::Cancel, client, epoch),
            M::Taken { client, epoch, wants_stub } => {
                Self { flag: wants_stub, ..at(Kind::Taken, client, epoch) }
            }
            M::Settle { client, epoch, index } => Self { index: index.0, ..at(Kind::Settle, client, epoch) },
            M::Unstub { client, epoch } => at(Kind::Unstub, client, epoch),
            M::Keep { client, tenure, will } => {
                Self { will: Some(will.into()), ..during(Kind::Keep, client, tenure) }
            }
            M::Kept { client, tenure } => during(Kind::Kept, client, tenure),
            M::Drop { client, tenure } => during(Kind::Drop, client, tenure),
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
                return Ok(Self::Report(message::Report {
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
        let tenure = crate::Tenure { epoch, turn: item.turn };
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
            tenure: crate::Tenure { epoch, turn: orphan.turn },
            will: sent_will(orphan.will.ok_or(MessageError::Invalid("will"))?, &client)?,
            client,
            ended_at: LogIndex(orphan.ended_at),
        })
    }
}

fn sent_will(will: Will, client: &ClientId) -> Result<message::SentWill, MessageError> {
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

fn required(member: Option<Member>) -> Result<state::Member, MessageError> {
    member.map(Into::into).ok_or(MessageError::Invalid("member"))
}

fn client(text: &str) -> Result<ClientId, MessageError> {
    ClientId::new(text).ok_or(MessageError::Invalid("client identifier"))
}

fn epoch(shard: u64, sequence: u64) -> state::ConnectionEpoch {
    state::ConnectionEpoch { shard: ShardEpoch(shard), sequence }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Tenure;

    fn member(node: u64) -> state::Member {
        state::Member { node: NodeId(node), incarnation: Incarnation(7) }
    }

    fn messages() -> Vec<Message> {
        let client = ClientId::new("sensor-7").expect("not empty");
        let epoch = epoch(5, 6);
        let tenure = Tenure { epoch, turn: 3 };
        let term = ShardEpoch(5);
        let hold = message::Hold { member: member(2), epoch };
        let message = MqttMessage {
            topic: "gone".into(),
            properties: Bytes::from_static(b"\x01\x01"),
            payload: Bytes::from_static(b"payload"),
            qos: QoS::ExactlyOnce,
            retain: true,
            expires_at: None,
            publisher: Some(client.clone()),
        };
        let will = message::SentWill {
            will: KeptWill {
                message: Arc::new(message),
                delay: Duration::from_secs(9),
                expiry: Some(Duration::from_secs(8)),
                session_expiry: SessionExpiry::After(Duration::from_secs(7)),
            },
            rest: Some(Duration::from_millis(1_234)),
        };
        let orphan = message::SentOrphan {
            owner: member(3),
            client: client.clone(),
            tenure,
            will: will.clone(),
            ended_at: LogIndex(11),
        };
        let origin = Some(message::Origin { previous: hold, handed: true });
        let roles = [
            message::EntryRole::Owner { registered: true, past: message::Past { origin, clean: false } },
            message::EntryRole::Owner {
                registered: false,
                past: message::Past { origin: None, clean: true },
            },
            message::EntryRole::Claimant { claim: 12, previous: Some(hold) },
            message::EntryRole::Claimant { claim: 13, previous: None },
        ];
        let entries = roles.map(|role| message::Entry { client: client.clone(), epoch, role }).to_vec();
        let report = message::Report {
            shard: ShardId(9),
            term,
            entries,
            orphans: vec![orphan.clone()],
            as_of: LogIndex(10),
            authority: LogIndex(8),
            last: true,
        };
        let client = || client.clone();
        vec![
            Message::Claim { client: client(), term, claim: 1 },
            Message::Withdraw { client: client(), claim: 2 },
            Message::Confirm { client: client(), epoch, handed: true, clean: false },
            Message::Confirm { client: client(), epoch, handed: false, clean: true },
            Message::Release { client: client(), epoch },
            Message::Register { client: client(), epoch },
            Message::Report(report),
            Message::Orphans { owner: member(3), wills: vec![orphan], last: false },
            Message::Granted { client: client(), claim: 3, epoch, previous: Some(hold) },
            Message::Granted { client: client(), claim: 3, epoch, previous: None },
            Message::Superseded { client: client(), term, claim: 4 },
            Message::Registered { client: client(), term, epoch },
            Message::Discard { client: client(), term, epoch },
            Message::WillDone { owner: member(4), client: client() },
            Message::Handover { client: client(), epoch, discard: true },
            Message::Handed { client: client(), epoch, part: None, more: false },
            Message::Handed { client: client(), epoch, part: Some(Bytes::new()), more: true },
            Message::Cancel { client: client(), epoch },
            Message::Taken { client: client(), epoch, wants_stub: true },
            Message::Settle { client: client(), epoch, index: LogIndex(77) },
            Message::Unstub { client: client(), epoch },
            Message::Keep { client: client(), tenure, will },
            Message::Kept { client: client(), tenure },
            Message::Drop { client: client(), tenure },
        ]
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same() {
        let envelope = || Envelope { view: LogIndex(4), to: Incarnation(3), messages: messages() };
        assert_eq!(Envelope::decode(envelope().encode()).expect("it decodes"), envelope());
    }

    #[test]
    fn another_version_is_refused() {
        let batch = Batch { version: 2, ..Batch::default() };
        let refused = Envelope::decode(batch.encode_to_vec().into());
        assert!(matches!(refused, Err(MessageError::UnknownVersion(2))), "{refused:?}");
        // Nothing at all is no batch without messages.
        let refused = Envelope::decode(Bytes::new());
        assert!(matches!(refused, Err(MessageError::UnknownVersion(0))), "{refused:?}");
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        let check = |item: Item, expected: &str| {
            let batch = Batch { version: VERSION, items: vec![item], ..Batch::default() };
            match Envelope::decode(batch.encode_to_vec().into()) {
                Err(MessageError::Invalid(part)) => assert_eq!(part, expected),
                other => panic!("{other:?}"),
            }
        };
        let item = |kind: Kind| Item { kind: kind.into(), client: "c".into(), ..Item::default() };
        check(item(Kind::Unspecified), "kind");
        check(Item { kind: 99, ..item(Kind::Claim) }, "kind");
        check(Item { client: String::new(), ..item(Kind::Claim) }, "client identifier");
        check(Item { shard: 70_000, ..item(Kind::Report) }, "shard");
        check(item(Kind::Orphans), "member");
        check(item(Kind::WillDone), "member");
        check(item(Kind::Keep), "will");
        check(Item { will: Some(Will::default()), ..item(Kind::Keep) }, "topic");
        let will = Will { topic: "t".into(), qos: 3, ..Will::default() };
        check(Item { will: Some(will), ..item(Kind::Keep) }, "QoS");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = Envelope::decode(bytes.into());
        }

        #[test]
        fn a_changed_byte_is_read_without_panic(at: prop::sample::Index, to: u8) {
            let envelope = Envelope { view: LogIndex(4), to: Incarnation(3), messages: messages() };
            let mut bytes = envelope.encode().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = to;
            let _ = Envelope::decode(bytes.into());
        }
    }
}
