//! Ops.

use std::{num::NonZeroU32, time::Duration};

use bytes::Bytes;
use flotilla_lane::{Batch, Frame};
use flotilla_mqtt::{QoS, SubscriptionIds, session::DeliveryOptions};

use super::{
    fields::{
        Connection, Expiry, Member, Overlap, Subscription, WireWill, bounded, decode_message, encode_message,
        group_strategy, group_strategy_number, millis, packet_id, queue_full, queue_full_number, shard_id,
        topic_filter, will_from, will_to,
    },
    letter::{Letters, Posted},
};
use crate::{
    Connection as ShardConnection, DecodeError, Op as ShardOp, Open as ShardOpen, QueueLimits, Saved, Seq,
    SessionId, WillFate, WillId,
};

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Op {
    #[prost(
        oneof = "OpKind",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 21"
    )]
    pub(crate) kind: Option<OpKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum OpKind {
    #[prost(message, tag = "1")]
    Open(Open),
    #[prost(message, tag = "2")]
    Subscribe(Subscribe),
    #[prost(message, tag = "3")]
    Unsubscribe(Unsubscribe),
    #[prost(message, tag = "4")]
    Acknowledge(Acknowledge),
    #[prost(message, tag = "5")]
    Receive(Packet),
    #[prost(message, tag = "6")]
    Release(Packet),
    #[prost(message, tag = "7")]
    Close(Close),
    #[prost(message, tag = "8")]
    End(Connection),
    #[prost(bytes = "bytes", tag = "9")]
    Publish(Bytes),
    #[prost(message, tag = "10")]
    Direct(Direct),
    #[prost(message, tag = "11")]
    MemberEnded(Member),
    #[prost(message, tag = "12")]
    Tick(()),
    #[prost(message, tag = "13")]
    Discard(Discard),
    #[prost(uint64, tag = "14")]
    WillDone(u64),
    #[prost(message, tag = "15")]
    ForgetPublisher(Publisher),
    #[prost(message, tag = "16")]
    Letters(Letters),
    #[prost(message, tag = "17")]
    Posted(Posted),
    #[prost(message, tag = "18")]
    Abandon(Abandon),
    #[prost(bytes = "bytes", tag = "20")]
    Restore(Bytes),
    #[prost(message, tag = "21")]
    Restored(()),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Open {
    #[prost(message, optional, tag = "1")]
    connection: Option<Connection>,
    #[prost(bool, tag = "2")]
    clean_start: bool,
    #[prost(message, optional, tag = "3")]
    expiry: Option<Expiry>,
    #[prost(uint32, tag = "4")]
    window: u32,
    #[prost(uint32, tag = "5")]
    messages_max: u32,
    #[prost(uint64, tag = "6")]
    bytes_max: u64,
    #[prost(uint32, tag = "7")]
    full: u32,
    #[prost(uint32, tag = "8")]
    awaiting_rel_max: u32,
    #[prost(enumeration = "Overlap", tag = "9")]
    overlap: i32,
    #[prost(message, optional, tag = "10")]
    will: Option<WireWill>,
    #[prost(bool, tag = "11")]
    queue_qos0: bool,
    #[prost(bool, tag = "12")]
    only_present: bool,
    #[prost(uint32, tag = "13")]
    group_strategy: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Subscribe {
    #[prost(message, optional, tag = "1")]
    connection: Option<Connection>,
    #[prost(message, repeated, tag = "2")]
    subscriptions: Vec<Subscription>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Unsubscribe {
    #[prost(message, optional, tag = "1")]
    connection: Option<Connection>,
    #[prost(string, repeated, tag = "2")]
    filters: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Acknowledge {
    #[prost(message, optional, tag = "1")]
    connection: Option<Connection>,
    #[prost(uint64, repeated, tag = "2")]
    released: Vec<u64>,
    #[prost(uint64, repeated, tag = "3")]
    done: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Packet {
    #[prost(message, optional, tag = "1")]
    connection: Option<Connection>,
    #[prost(uint32, tag = "2")]
    packet_id: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Close {
    #[prost(message, optional, tag = "1")]
    connection: Option<Connection>,
    #[prost(message, optional, tag = "2")]
    expiry: Option<Expiry>,
    #[prost(bool, tag = "3")]
    keep_will: bool,
    #[prost(uint64, tag = "4")]
    sent_until: u64,
    #[prost(uint32, repeated, tag = "5")]
    stored: Vec<u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Abandon {
    #[prost(message, optional, tag = "1")]
    connection: Option<Connection>,
    #[prost(message, optional, tag = "2")]
    expiry: Option<Expiry>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Direct {
    #[prost(message, optional, tag = "1")]
    connection: Option<Connection>,
    #[prost(uint32, tag = "2")]
    qos: u32,
    #[prost(bool, tag = "3")]
    retain: bool,
    #[prost(uint32, repeated, tag = "4")]
    subscription_ids: Vec<u32>,
    #[prost(string, optional, tag = "5")]
    shared: Option<String>,
    #[prost(bytes = "bytes", tag = "6")]
    message: Bytes,
    #[prost(uint64, optional, tag = "7")]
    expires_in_millis: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Discard {
    #[prost(uint64, tag = "1")]
    session: u64,
    #[prost(uint64, repeated, tag = "2")]
    seqs: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Publisher {
    #[prost(uint32, tag = "1")]
    shard: u32,
    #[prost(uint64, tag = "2")]
    session: u64,
}

impl From<&ShardOp> for Op {
    fn from(op: &ShardOp) -> Self {
        let kind = match op {
            ShardOp::Open(open) => OpKind::Open(Open::from(&**open)),
            ShardOp::Subscribe { connection, subscriptions } => OpKind::Subscribe(Subscribe {
                connection: Some(connection.into()),
                subscriptions: subscriptions.iter().map(Subscription::from).collect(),
            }),
            ShardOp::Unsubscribe { connection, filters } => OpKind::Unsubscribe(Unsubscribe {
                connection: Some(connection.into()),
                filters: filters.iter().map(|filter| filter.as_str().to_owned()).collect(),
            }),
            ShardOp::Acknowledge { connection, released, done } => OpKind::Acknowledge(Acknowledge {
                connection: Some(connection.into()),
                released: numbers(released),
                done: numbers(done),
            }),
            ShardOp::Receive { connection, packet_id } => OpKind::Receive(Packet {
                connection: Some(connection.into()),
                packet_id: packet_id.value().into(),
            }),
            ShardOp::Release { connection, packet_id } => OpKind::Release(Packet {
                connection: Some(connection.into()),
                packet_id: packet_id.value().into(),
            }),
            ShardOp::Close { connection, expiry, will, sent_until, stored } => OpKind::Close(Close {
                connection: Some(connection.into()),
                expiry: Some((*expiry).into()),
                keep_will: *will == WillFate::Keep,
                sent_until: sent_until.0,
                stored: stored.iter().map(|id| id.value().into()).collect(),
            }),
            ShardOp::Abandon { connection, expiry } => OpKind::Abandon(Abandon {
                connection: Some(connection.into()),
                expiry: Some((*expiry).into()),
            }),
            ShardOp::End { connection } => OpKind::End(connection.into()),
            ShardOp::Publish { batch } => OpKind::Publish(batch.bytes().clone()),
            ShardOp::Direct { connection, options, message, expires_in } => OpKind::Direct(Direct {
                connection: Some(connection.into()),
                qos: options.qos as u32,
                retain: options.retain,
                subscription_ids: options.subscription_ids.as_slice().iter().map(|id| id.get()).collect(),
                shared: options.shared.as_ref().map(|filter| filter.as_str().to_owned()),
                message: encode_message(message),
                expires_in_millis: expires_in.map(millis),
            }),
            ShardOp::MemberEnded { member } => OpKind::MemberEnded((*member).into()),
            ShardOp::Tick => OpKind::Tick(()),
            ShardOp::Discard { session, seqs } => {
                OpKind::Discard(Discard { session: session.0, seqs: numbers(seqs) })
            }
            ShardOp::WillDone { will } => OpKind::WillDone(will.0),
            ShardOp::ForgetPublisher { shard, session } => {
                OpKind::ForgetPublisher(Publisher { shard: shard.0.into(), session: session.0 })
            }
            ShardOp::Letters { from, after, letters } => {
                OpKind::Letters(Letters::new(*from, *after, letters))
            }
            ShardOp::Posted { letters } => OpKind::Posted(Posted { letters: letters.clone() }),
            ShardOp::Restore(saved) => OpKind::Restore(saved.encode()),
            ShardOp::Restored => OpKind::Restored(()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<Op> for ShardOp {
    type Error = DecodeError;

    fn try_from(op: Op) -> Result<Self, DecodeError> {
        Ok(match op.kind.ok_or(DecodeError::Field("op"))? {
            OpKind::Open(open) => Self::Open(Box::new(open.try_into()?)),
            OpKind::Subscribe(Subscribe { connection, subscriptions }) => Self::Subscribe {
                connection: required(connection)?,
                subscriptions: bounded(subscriptions, "subscriptions")?
                    .into_iter()
                    .map(TryInto::try_into)
                    .collect::<Result<_, _>>()?,
            },
            OpKind::Unsubscribe(Unsubscribe { connection, filters }) => Self::Unsubscribe {
                connection: required(connection)?,
                filters: bounded(filters, "filters")?
                    .iter()
                    .map(|filter| topic_filter(filter))
                    .collect::<Result<_, _>>()?,
            },
            OpKind::Acknowledge(Acknowledge { connection, released, done }) => Self::Acknowledge {
                connection: required(connection)?,
                released: seqs(released, "released")?,
                done: seqs(done, "done")?,
            },
            OpKind::Receive(packet) => Self::Receive {
                connection: required(packet.connection)?,
                packet_id: packet_id(packet.packet_id)?,
            },
            OpKind::Release(packet) => Self::Release {
                connection: required(packet.connection)?,
                packet_id: packet_id(packet.packet_id)?,
            },
            OpKind::Close(Close { connection, expiry, keep_will, sent_until, stored }) => Self::Close {
                connection: required(connection)?,
                expiry: expiry.ok_or(DecodeError::Field("expiry"))?.into(),
                will: if keep_will { WillFate::Keep } else { WillFate::Drop },
                sent_until: Seq(sent_until),
                stored: bounded(stored, "stored")?.into_iter().map(packet_id).collect::<Result<_, _>>()?,
            },
            OpKind::Abandon(Abandon { connection, expiry }) => Self::Abandon {
                connection: required(connection)?,
                expiry: expiry.ok_or(DecodeError::Field("expiry"))?.into(),
            },
            OpKind::End(connection) => Self::End { connection: connection.try_into()? },
            OpKind::Publish(bytes) => Self::Publish { batch: store_batch(bytes)? },
            OpKind::Direct(direct) => direct.try_into()?,
            OpKind::MemberEnded(member) => Self::MemberEnded { member: member.into() },
            OpKind::Tick(()) => Self::Tick,
            OpKind::Discard(Discard { session, seqs: numbers }) => {
                Self::Discard { session: SessionId(session), seqs: seqs(numbers, "seqs")? }
            }
            OpKind::WillDone(will) => Self::WillDone { will: WillId(will) },
            OpKind::ForgetPublisher(Publisher { shard, session }) => {
                Self::ForgetPublisher { shard: shard_id(shard)?, session: SessionId(session) }
            }
            OpKind::Letters(letters) => letters.read()?,
            OpKind::Posted(Posted { letters }) => Self::Posted { letters: bounded(letters, "letters")? },
            OpKind::Restore(saved) => Self::Restore(Box::new(Saved::decode(&saved)?)),
            OpKind::Restored(()) => Self::Restored,
        })
    }
}

impl From<&ShardOpen> for Open {
    fn from(open: &ShardOpen) -> Self {
        Self {
            connection: Some((&open.connection).into()),
            clean_start: open.clean_start,
            only_present: open.only_present,
            expiry: Some(open.expiry.into()),
            window: open.window.into(),
            messages_max: open.queue.messages_max,
            bytes_max: open.queue.bytes_max,
            full: queue_full_number(open.queue.full),
            awaiting_rel_max: open.awaiting_rel_max.into(),
            overlap: Overlap::from(open.overlap).into(),
            will: open.will.as_ref().map(will_to),
            queue_qos0: open.queue_qos0,
            group_strategy: group_strategy_number(open.group_strategy),
        }
    }
}

impl TryFrom<Open> for ShardOpen {
    type Error = DecodeError;

    fn try_from(open: Open) -> Result<Self, DecodeError> {
        let short = |number: u32, field| u16::try_from(number).map_err(|_| DecodeError::Field(field));
        Ok(Self {
            connection: required(open.connection)?,
            clean_start: open.clean_start,
            only_present: open.only_present,
            expiry: open.expiry.ok_or(DecodeError::Field("expiry"))?.into(),
            window: short(open.window, "window")?,
            queue: QueueLimits {
                messages_max: open.messages_max,
                bytes_max: open.bytes_max,
                full: queue_full(open.full)?,
            },
            awaiting_rel_max: short(open.awaiting_rel_max, "awaiting_rel_max")?,
            queue_qos0: open.queue_qos0,
            overlap: Overlap::read(open.overlap)?,
            group_strategy: group_strategy(open.group_strategy)?,
            will: open.will.as_ref().map(will_from).transpose()?,
        })
    }
}

impl TryFrom<Direct> for ShardOp {
    type Error = DecodeError;

    fn try_from(direct: Direct) -> Result<Self, DecodeError> {
        let qos = u8::try_from(direct.qos).ok().and_then(QoS::from_u8);
        let ids = bounded(direct.subscription_ids, "subscription_ids")?;
        let ids: Option<Vec<NonZeroU32>> = ids.into_iter().map(NonZeroU32::new).collect();
        let options = DeliveryOptions {
            qos: qos.ok_or(DecodeError::Field("qos"))?,
            retain: direct.retain,
            subscription_ids: match ids.ok_or(DecodeError::Field("subscription_ids"))?.as_slice() {
                [] => SubscriptionIds::None,
                [id] => SubscriptionIds::One(*id),
                ids => SubscriptionIds::Many(ids.into()),
            },
            shared: direct.shared.map(|filter| topic_filter(&filter)).transpose()?,
        };
        Ok(Self::Direct {
            connection: required(direct.connection)?,
            options,
            message: decode_message(&direct.message)?,
            expires_in: direct.expires_in_millis.map(Duration::from_millis),
        })
    }
}

/// A batch of messages for a shard and nothing else.
fn store_batch(bytes: Bytes) -> Result<Batch, DecodeError> {
    let batch = Batch::decode(bytes)?;
    if batch.frames().all(|frame| matches!(frame, Frame::Store { .. } | Frame::Group { .. })) {
        Ok(batch)
    } else {
        Err(DecodeError::Field("frame"))
    }
}

fn required(connection: Option<Connection>) -> Result<ShardConnection, DecodeError> {
    connection.ok_or(DecodeError::Field("connection"))?.try_into()
}

fn seqs(list: Vec<u64>, field: &'static str) -> Result<Vec<Seq>, DecodeError> {
    Ok(bounded(list, field)?.into_iter().map(Seq).collect())
}

fn numbers(seqs: &[Seq]) -> Vec<u64> {
    seqs.iter().map(|seq| seq.0).collect()
}
