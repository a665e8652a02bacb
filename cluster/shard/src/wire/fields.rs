//! What several messages have in common.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_mqtt::{
    Message, PacketId, Timestamp,
    packet::SubscriptionOptions,
    session::{ClientId, QueueFull, SessionExpiry, Subscription as MqttSubscription},
    topic::TopicFilter,
};
use flotilla_state::{ConnectionEpoch, Incarnation, Member as StateMember, NodeId, ShardEpoch, ShardId};

use crate::{
    Connection as ShardConnection, DecodeError, GroupStrategy, LIST_MAX, Overlap as ShardOverlap, ReceivedId,
    Will,
    sessions::{GROUP, group_client},
};

#[derive(Clone, Copy, PartialEq, prost::Message)]
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

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Connection {
    #[prost(string, tag = "1")]
    pub(crate) client: String,
    #[prost(uint64, tag = "2")]
    pub(crate) shard_epoch: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) sequence: u64,
    #[prost(uint32, tag = "4")]
    pub(crate) turn: u32,
}

impl From<&ShardConnection> for Connection {
    fn from(connection: &ShardConnection) -> Self {
        let ConnectionEpoch { shard, sequence } = connection.epoch;
        let client = connection.client.as_str().to_owned();
        Self { client, shard_epoch: shard.0, sequence, turn: connection.turn }
    }
}

impl TryFrom<Connection> for ShardConnection {
    type Error = DecodeError;

    fn try_from(connection: Connection) -> Result<Self, DecodeError> {
        let Connection { client, shard_epoch, sequence, turn } = connection;
        Ok(Self {
            client: client_id(&client)?,
            epoch: ConnectionEpoch { shard: ShardEpoch(shard_epoch), sequence },
            turn,
        })
    }
}

/// A [`SessionExpiry`]. Not the seconds of MQTT, for the broker's own bounds are not in whole seconds.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Expiry {
    /// 0: at the end of the connection. Absent: never.
    #[prost(uint64, optional, tag = "1")]
    pub(crate) millis: Option<u64>,
}

impl From<SessionExpiry> for Expiry {
    fn from(expiry: SessionExpiry) -> Self {
        let millis = match expiry {
            SessionExpiry::AtDisconnect => Some(0),
            SessionExpiry::After(duration) => Some(millis(duration)),
            SessionExpiry::Never => None,
        };
        Self { millis }
    }
}

impl From<Expiry> for SessionExpiry {
    fn from(expiry: Expiry) -> Self {
        match expiry.millis {
            Some(0) => Self::AtDisconnect,
            Some(millis) => Self::After(Duration::from_millis(millis)),
            None => Self::Never,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Overlap {
    Unknown = 0,
    Merge = 1,
    Each = 2,
}

impl From<ShardOverlap> for Overlap {
    fn from(overlap: ShardOverlap) -> Self {
        match overlap {
            ShardOverlap::Merge => Self::Merge,
            ShardOverlap::Each => Self::Each,
        }
    }
}

impl Overlap {
    pub(crate) fn read(number: i32) -> Result<ShardOverlap, DecodeError> {
        match Self::try_from(number) {
            Ok(Self::Merge) => Ok(ShardOverlap::Merge),
            Ok(Self::Each) => Ok(ShardOverlap::Each),
            _ => Err(DecodeError::Field("overlap")),
        }
    }
}

/// 1: the newest is dropped, 2: the oldest.
pub(crate) fn queue_full_number(full: QueueFull) -> u32 {
    match full {
        QueueFull::DropNewest => 1,
        QueueFull::DropOldest => 2,
    }
}

pub(crate) fn queue_full(number: u32) -> Result<QueueFull, DecodeError> {
    match number {
        1 => Ok(QueueFull::DropNewest),
        2 => Ok(QueueFull::DropOldest),
        _ => Err(DecodeError::Field("full")),
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Subscription {
    #[prost(string, tag = "1")]
    pub(crate) filter: String,
    /// As in SUBSCRIBE.
    #[prost(uint32, tag = "2")]
    pub(crate) options: u32,
    #[prost(uint32, optional, tag = "3")]
    pub(crate) id: Option<u32>,
}

impl From<&MqttSubscription> for Subscription {
    fn from(subscription: &MqttSubscription) -> Self {
        Self {
            filter: subscription.filter.as_str().to_owned(),
            options: subscription.options.bits().into(),
            id: subscription.id.map(NonZeroU32::get),
        }
    }
}

impl TryFrom<Subscription> for MqttSubscription {
    type Error = DecodeError;

    fn try_from(subscription: Subscription) -> Result<Self, DecodeError> {
        let Subscription { filter, options, id } = subscription;
        let options = u8::try_from(options).ok().and_then(|bits| SubscriptionOptions::from_bits(bits).ok());
        let id = match id {
            Some(id) => Some(NonZeroU32::new(id).ok_or(DecodeError::Field("id"))?),
            None => None,
        };
        let options = options.ok_or(DecodeError::Field("options"))?;
        Ok(Self { filter: topic_filter(&filter)?, options, id })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireWill {
    /// A [`Message`] without its expiry.
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) message: Bytes,
    #[prost(uint64, tag = "2")]
    pub(crate) delay_millis: u64,
    #[prost(uint64, optional, tag = "3")]
    pub(crate) expiry_millis: Option<u64>,
}

pub(crate) fn will_to(will: &Will) -> WireWill {
    WireWill {
        message: encode_message(&will.message),
        delay_millis: millis(will.delay),
        expiry_millis: will.expiry.map(millis),
    }
}

pub(crate) fn will_from(will: &WireWill) -> Result<Will, DecodeError> {
    Ok(Will {
        message: decode_message(&will.message)?,
        delay: Duration::from_millis(will.delay_millis),
        expiry: will.expiry_millis.map(Duration::from_millis),
    })
}

/// A message without its expiry.
pub(crate) fn encode_message(message: &Message) -> Bytes {
    match message.expires_at {
        None => message.encode(Timestamp::ORIGIN),
        Some(_) => Message { expires_at: None, ..message.clone() }.encode(Timestamp::ORIGIN),
    }
}

pub(crate) fn decode_message(bytes: &[u8]) -> Result<Arc<Message>, DecodeError> {
    let message = Message::decode(bytes, Timestamp::ORIGIN).map_err(|_| DecodeError::Field("message"))?;
    Ok(Arc::new(message))
}

/// The identifier of a client, which no group has.
pub(crate) fn client_id(text: &str) -> Result<ClientId, DecodeError> {
    let fits = text.len() <= TEXT_BYTES_MAX && !text.starts_with(GROUP);
    ClientId::new(text).filter(|_| fits).ok_or(DecodeError::Field("client"))
}

/// That of a client, or what stands for it in a group.
pub(crate) fn session_client(text: &str) -> Result<ClientId, DecodeError> {
    match text.strip_prefix(GROUP) {
        None => client_id(text),
        Some(group) => group_client(group).ok_or(DecodeError::Field("client")),
    }
}

/// The whole text of a shared subscription.
pub(crate) fn group_text(text: &str) -> Result<Arc<str>, DecodeError> {
    let is_group = group_client(text).is_some();
    if is_group { Ok(text.into()) } else { Err(DecodeError::Field("group")) }
}

pub(crate) const fn group_strategy_number(strategy: GroupStrategy) -> u32 {
    match strategy {
        GroupStrategy::RoundRobin => 0,
        GroupStrategy::Random => 1,
        GroupStrategy::HashClientid => 2,
        GroupStrategy::HashTopic => 3,
        GroupStrategy::Sticky => 4,
        GroupStrategy::LeastInflight => 5,
    }
}

pub(crate) const fn group_strategy(number: u32) -> Result<GroupStrategy, DecodeError> {
    Ok(match number {
        0 => GroupStrategy::RoundRobin,
        1 => GroupStrategy::Random,
        2 => GroupStrategy::HashClientid,
        3 => GroupStrategy::HashTopic,
        4 => GroupStrategy::Sticky,
        5 => GroupStrategy::LeastInflight,
        _ => return Err(DecodeError::Field("group_strategy")),
    })
}

pub(crate) fn shard_id(number: u32) -> Result<ShardId, DecodeError> {
    u16::try_from(number).map(ShardId).map_err(|_| DecodeError::Field("shard"))
}

/// A list that is not too long.
pub(crate) fn bounded<T>(list: Vec<T>, field: &'static str) -> Result<Vec<T>, DecodeError> {
    if list.len() > LIST_MAX { Err(DecodeError::TooLong(field)) } else { Ok(list) }
}

pub(crate) fn topic_filter(text: &str) -> Result<Arc<TopicFilter>, DecodeError> {
    // The number of its levels was within the limit of the node that granted it.
    TopicFilter::parse(text, u16::MAX).map(Arc::new).map_err(|_| DecodeError::Field("filter"))
}

pub(crate) fn packet_id(number: u32) -> Result<PacketId, DecodeError> {
    u16::try_from(number).ok().and_then(PacketId::new).ok_or(DecodeError::Field("packet_id"))
}

/// What the lists of a row or an answer say about the messages of QoS 2 that wait for their PUBREL; `stored` are some of
/// the numbers, in the same order.
pub(crate) fn received_ids(
    ids: &[u32],
    numbers: &[u64],
    stored: &[u64],
) -> Result<Vec<ReceivedId>, DecodeError> {
    let mut stored = stored.iter().peekable();
    let received = ids.iter().zip(numbers).map(|(id, number)| {
        let is_stored = stored.next_if_eq(&number).is_some();
        Ok(ReceivedId { id: packet_id(*id)?, number: *number, is_stored })
    });
    let received: Vec<ReceivedId> = received.collect::<Result<_, DecodeError>>()?;
    if ids.len() != numbers.len() || stored.next().is_some() {
        return Err(DecodeError::Field("received"));
    }
    Ok(received)
}

/// The numbers of those whose messages every shard has.
pub(crate) fn stored_numbers(received: &[ReceivedId]) -> Vec<u64> {
    received.iter().filter(|taken| taken.is_stored).map(|taken| taken.number).collect()
}

/// The longest time that is told apart from a longer one is some 500 million years.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A string of the protocol has a length of 16 bits.
const TEXT_BYTES_MAX: usize = 65_535;
