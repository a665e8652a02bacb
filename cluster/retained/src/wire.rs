//! What replicas say to each other, as protobuf. Numbers of fields are never used again for something else, and a change
//! that an older node would misread gets another [`FORMAT`].

use std::sync::Arc;

use bytes::Bytes;
use flotilla_mqtt::{Message, MessageError, Timestamp, topic::check_name};
use flotilla_state::{Incarnation, Member, NodeId, ShardEpoch, ShardId};
use prost::Message as _;

use crate::{
    applied::Applied,
    content::{BUCKETS, Buckets, Change, Entry, Position, Version},
};

/// Bytes that no replica has sent, or that do not fit what it has sent before.
#[derive(Debug, thiserror::Error)]
pub enum HandleError {
    /// They do not decode.
    #[error(transparent)]
    Malformed(#[from] prost::DecodeError),
    /// They are of a format that this node does not know.
    #[error("a frame in format {0}, which this node does not know")]
    UnknownFormat(u32),
    /// A message in them is none.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A field has a wrong value.
    #[error("a frame with a wrong {0}")]
    Invalid(&'static str),
    /// A change came before, or again.
    #[error("a change came out of order")]
    OutOfOrder,
}

/// One thing that a replica says to another about a shard.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Frame {
    pub(crate) shard: ShardId,
    /// The term of office that it belongs to.
    pub(crate) epoch: ShardEpoch,
    pub(crate) body: Body,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Body {
    /// To the registrar: make this change.
    Request(Request),
    /// From the registrar: make this change, the next one.
    Update { sequence: u64, origin: Member, request: Request },
    /// To the registrar: all changes up to this one are made.
    Taken { sequence: u64 },
    /// From the registrar: every member has made the change.
    Done { number: u64 },
    /// From the registrar: there is no room for the message.
    Refused { number: u64 },
    /// To the registrar: this is my copy; what differs?
    SyncStart { digests: Box<[u64; BUCKETS]> },
    /// From the registrar: these buckets differ, and my copy has these requests.
    SyncPlan { differing: Buckets, applied: Applied },
    /// To the registrar: the next page.
    SyncPull { differing: Buckets, from: Position },
    /// From the registrar: what is in the buckets up to `next`.
    SyncPage { entries: Vec<Entry>, rest: Rest },
    /// To the registrar: my copy is yours.
    Synced,
}

/// A change that a member asks for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Request {
    pub(crate) number: u64,
    /// The lowest number in this shard that has not been answered.
    pub(crate) lowest: u64,
    pub(crate) change: Change,
}

/// What comes after a page.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Rest {
    Next(Position),
    /// Nothing; the copy now has these requests.
    End(Applied),
}

impl Frame {
    /// The frame as bytes, with what is left of each expiry.
    pub(crate) fn encode(self, now: Timestamp) -> Bytes {
        let (shard, epoch) = (self.shard.0.into(), self.epoch.0);
        let body = Some(WireBody::new(self.body, now));
        WireFrame { format: FORMAT, shard, epoch, body }.encode_to_vec().into()
    }

    /// Nothing is shared with `bytes`.
    pub(crate) fn decode(bytes: &[u8], now: Timestamp) -> Result<Self, HandleError> {
        let wire = WireFrame::decode(bytes)?;
        if wire.format != FORMAT {
            return Err(HandleError::UnknownFormat(wire.format));
        }
        let shard = u16::try_from(wire.shard).map_err(|_| HandleError::Invalid("shard"))?;
        let body = wire.body.ok_or(HandleError::Invalid("kind"))?;
        Ok(Self { shard: ShardId(shard), epoch: ShardEpoch(wire.epoch), body: body.into_body(now)? })
    }
}

/// The present format.
const FORMAT: u32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct WireFrame {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(uint32, tag = "2")]
    shard: u32,
    #[prost(uint64, tag = "3")]
    epoch: u64,
    #[prost(oneof = "WireBody", tags = "4, 5, 6, 7, 8, 9, 10, 11, 12, 13")]
    body: Option<WireBody>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum WireBody {
    #[prost(message, tag = "4")]
    Request(WireRequest),
    #[prost(message, tag = "5")]
    Update(WireUpdate),
    #[prost(uint64, tag = "6")]
    Taken(u64),
    #[prost(uint64, tag = "7")]
    Done(u64),
    #[prost(uint64, tag = "8")]
    Refused(u64),
    #[prost(message, tag = "9")]
    SyncStart(WireDigests),
    #[prost(message, tag = "10")]
    SyncPlan(WirePlan),
    #[prost(message, tag = "11")]
    SyncPull(WirePull),
    #[prost(message, tag = "12")]
    SyncPage(WirePage),
    #[prost(message, tag = "13")]
    Synced(WireSynced),
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireRequest {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(uint64, tag = "2")]
    lowest: u64,
    #[prost(oneof = "WireChange", tags = "3, 4")]
    change: Option<WireChange>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum WireChange {
    /// [`Message::encode`].
    #[prost(bytes = "bytes", tag = "3")]
    Set(Bytes),
    #[prost(string, tag = "4")]
    Delete(String),
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireUpdate {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(message, optional, tag = "2")]
    origin: Option<WireMember>,
    #[prost(message, optional, tag = "3")]
    request: Option<WireRequest>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireMember {
    #[prost(fixed64, tag = "1")]
    node: u64,
    #[prost(uint64, tag = "2")]
    incarnation: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireDigests {
    #[prost(fixed64, repeated, tag = "1")]
    digests: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePlan {
    #[prost(fixed64, repeated, tag = "1")]
    differing: Vec<u64>,
    #[prost(message, optional, tag = "2")]
    applied: Option<WireApplied>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePull {
    #[prost(fixed64, repeated, tag = "1")]
    differing: Vec<u64>,
    #[prost(message, optional, tag = "2")]
    from: Option<WirePosition>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePage {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<WireEntry>,
    #[prost(oneof = "WireRest", tags = "2, 3")]
    rest: Option<WireRest>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum WireRest {
    #[prost(message, tag = "2")]
    Next(WirePosition),
    #[prost(message, tag = "3")]
    End(WireApplied),
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireEntry {
    #[prost(uint64, tag = "1")]
    epoch: u64,
    #[prost(uint64, tag = "2")]
    sequence: u64,
    /// [`Message::encode`].
    #[prost(bytes = "bytes", tag = "3")]
    message: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePosition {
    #[prost(uint32, tag = "1")]
    bucket: u32,
    #[prost(string, optional, tag = "2")]
    after: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireApplied {
    #[prost(message, repeated, tag = "1")]
    origins: Vec<WireOrigin>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireOrigin {
    #[prost(message, optional, tag = "1")]
    member: Option<WireMember>,
    #[prost(uint64, repeated, tag = "2")]
    numbers: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireSynced {}

impl WireBody {
    fn new(body: Body, now: Timestamp) -> Self {
        match body {
            Body::Request(request) => Self::Request(WireRequest::new(request, now)),
            Body::Update { sequence, origin, request } => Self::Update(WireUpdate {
                sequence,
                origin: Some(origin.into()),
                request: Some(WireRequest::new(request, now)),
            }),
            Body::Taken { sequence } => Self::Taken(sequence),
            Body::Done { number } => Self::Done(number),
            Body::Refused { number } => Self::Refused(number),
            Body::SyncStart { digests } => Self::SyncStart(WireDigests { digests: digests.to_vec() }),
            Body::SyncPlan { differing, applied } => {
                Self::SyncPlan(WirePlan { differing: differing.0.to_vec(), applied: Some(applied.into()) })
            }
            Body::SyncPull { differing, from } => {
                Self::SyncPull(WirePull { differing: differing.0.to_vec(), from: Some(from.into()) })
            }
            Body::SyncPage { entries, rest } => {
                let entries = entries.iter().map(|entry| WireEntry {
                    epoch: entry.version.epoch.0,
                    sequence: entry.version.sequence,
                    message: entry.message.encode(now),
                });
                let rest = match rest {
                    Rest::Next(position) => WireRest::Next(position.into()),
                    Rest::End(applied) => WireRest::End(applied.into()),
                };
                Self::SyncPage(WirePage { entries: entries.collect(), rest: Some(rest) })
            }
            Body::Synced => Self::Synced(WireSynced {}),
        }
    }

    fn into_body(self, now: Timestamp) -> Result<Body, HandleError> {
        Ok(match self {
            Self::Request(request) => Body::Request(request.into_request(now)?),
            Self::Update(WireUpdate { sequence, origin: Some(origin), request: Some(request) }) => {
                Body::Update { sequence, origin: origin.into(), request: request.into_request(now)? }
            }
            Self::Update(_) => return Err(HandleError::Invalid("update")),
            Self::Taken(sequence) => Body::Taken { sequence },
            Self::Done(number) => Body::Done { number },
            Self::Refused(number) => Body::Refused { number },
            Self::SyncStart(WireDigests { digests }) => {
                let digests = digests.into_boxed_slice().try_into();
                Body::SyncStart { digests: digests.map_err(|_| HandleError::Invalid("number of digests"))? }
            }
            Self::SyncPlan(plan) => Body::SyncPlan {
                differing: buckets(plan.differing)?,
                applied: plan.applied.unwrap_or_default().try_into()?,
            },
            Self::SyncPull(pull) => Body::SyncPull {
                differing: buckets(pull.differing)?,
                from: pull.from.unwrap_or_default().try_into()?,
            },
            Self::SyncPage(page) => {
                let entries = page.entries.into_iter().map(|entry| entry.into_entry(now));
                let rest = match page.rest {
                    Some(WireRest::Next(position)) => Rest::Next(position.try_into()?),
                    Some(WireRest::End(applied)) => Rest::End(applied.try_into()?),
                    None => return Err(HandleError::Invalid("end of a page")),
                };
                Body::SyncPage { entries: entries.collect::<Result<_, _>>()?, rest }
            }
            Self::Synced(WireSynced {}) => Body::Synced,
        })
    }
}

impl WireRequest {
    fn new(request: Request, now: Timestamp) -> Self {
        let change = match request.change {
            Change::Set(message) => WireChange::Set(message.encode(now)),
            Change::Delete(topic) => WireChange::Delete(topic.into()),
        };
        Self { number: request.number, lowest: request.lowest, change: Some(change) }
    }

    fn into_request(self, now: Timestamp) -> Result<Request, HandleError> {
        let change = match self.change {
            Some(WireChange::Set(bytes)) => Change::Set(message(&bytes, now)?),
            Some(WireChange::Delete(topic)) => {
                check_name(&topic, u16::MAX).map_err(|_| HandleError::Invalid("topic"))?;
                Change::Delete(topic.into())
            }
            None => return Err(HandleError::Invalid("change")),
        };
        Ok(Request { number: self.number, lowest: self.lowest, change })
    }
}

impl WireEntry {
    fn into_entry(self, now: Timestamp) -> Result<Entry, HandleError> {
        let version = Version { epoch: ShardEpoch(self.epoch), sequence: self.sequence };
        Ok(Entry { version, message: message(&self.message, now)? })
    }
}

/// A message that may be retained everywhere: it deletes nothing and is not a broker's own.
fn message(bytes: &[u8], now: Timestamp) -> Result<Arc<Message>, HandleError> {
    let message = Message::decode(bytes, now)?;
    if message.payload.is_empty() || message.publisher.is_none() {
        return Err(HandleError::Invalid("message"));
    }
    Ok(Arc::new(message))
}

fn buckets(words: Vec<u64>) -> Result<Buckets, HandleError> {
    words.try_into().map(Buckets).map_err(|_| HandleError::Invalid("set of buckets"))
}

impl From<Member> for WireMember {
    fn from(member: Member) -> Self {
        Self { node: member.node.0, incarnation: member.incarnation.0 }
    }
}

impl From<WireMember> for Member {
    fn from(wire: WireMember) -> Self {
        Self { node: NodeId(wire.node), incarnation: Incarnation(wire.incarnation) }
    }
}

impl From<Position> for WirePosition {
    fn from(position: Position) -> Self {
        Self { bucket: position.bucket.into(), after: position.after.map(Into::into) }
    }
}

impl TryFrom<WirePosition> for Position {
    type Error = HandleError;

    fn try_from(wire: WirePosition) -> Result<Self, HandleError> {
        let bucket = u8::try_from(wire.bucket).map_err(|_| HandleError::Invalid("bucket"))?;
        Ok(Self { bucket, after: wire.after.map(Into::into) })
    }
}

impl From<Applied> for WireApplied {
    fn from(applied: Applied) -> Self {
        let origins = applied.0.into_iter().map(|(member, numbers)| WireOrigin {
            member: Some(member.into()),
            numbers: numbers.into_iter().collect(),
        });
        Self { origins: origins.collect() }
    }
}

impl TryFrom<WireApplied> for Applied {
    type Error = HandleError;

    fn try_from(wire: WireApplied) -> Result<Self, HandleError> {
        let origins = wire.origins.into_iter().map(|origin| {
            let member = origin.member.ok_or(HandleError::Invalid("origin"))?;
            Ok((member.into(), origin.numbers.into_iter().collect()))
        });
        origins.collect::<Result<_, HandleError>>().map(Self)
    }
}
