//! What travels in a lane.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_mqtt::{
    QoS, SubscriptionIds, Timestamp, Transit,
    session::{ClientId, DeliveryOptions},
    topic::{TopicFilter, check_name},
};
use flotilla_state::{ConnectionEpoch, ShardEpoch, ShardId};

use crate::{
    layout::{DecodeError, Reader, put_blob, put_varint},
    texts::Texts,
};

/// One thing that a member tells another. It borrows from the batch that it was read from.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame<'a> {
    /// A message for all subscribers of the receiving member that match, its shared groups excepted.
    Publish {
        /// The message.
        message: Forwarded<'a>,
    },
    /// A message for one member of a shared group, to be picked among those of the receiving node.
    Group {
        /// The whole text of the shared subscription: `$share/<group>/<filter>` or `$queue/<filter>`.
        filter: &'a str,
        /// How many nodes had nobody to take it.
        tried: u8,
        /// The message.
        message: Forwarded<'a>,
    },
    /// Something between the state machines of the two members. This crate does not look into it.
    Control {
        /// For which of them.
        kind: u8,
        /// In its own format.
        bytes: &'a [u8],
    },
    /// A message for the durable sessions of a shard that match. It is written into the log of that shard, and does not
    /// travel in a lane by itself.
    Store {
        /// What tells it from its repetition; `None`: a repetition does no harm.
        origin: Option<Origin>,
        /// Whether the shard keeps it for later subscriptions, too.
        retains: bool,
        /// Shared subscriptions whose groups do not get it, for a member elsewhere does.
        without: Texts<'a>,
        /// The message.
        message: Forwarded<'a>,
    },
    /// A message that a shard keeps for a session whose client is connected to the receiving member.
    Kept {
        /// To what.
        to: KeptFor<'a>,
        /// How it goes to the client; `qos` is the one in effect.
        options: DeliveryOptions,
        /// The message.
        message: Forwarded<'a>,
    },
    /// The PUBREL of such a message is due: its PUBREC came on an earlier connection.
    KeptRelease {
        /// To what.
        to: KeptFor<'a>,
    },
}

/// A place in the inbox of a durable session, and the connection that is served from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptFor<'a> {
    /// The term of the shard's leader, which the connection has asked for its messages.
    pub term: u64,
    /// Whose session.
    pub client_id: &'a str,
    /// The claim of the connection.
    pub epoch: ConnectionEpoch,
    /// Which of the connections that its node has had since that claim.
    pub turn: u32,
    /// The place: 1, 2, 3...
    pub sequence: u64,
}

/// Which message of QoS 2 of which durable session it is. The same one may be stored twice after a fault, and counts once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The shard that has the session of the publisher.
    pub shard: ShardId,
    /// The session of the publisher. Not its client: the next session of the same client begins to count anew.
    pub session: u64,
    /// Which of its messages: 1, 2, 3...
    pub number: u64,
    /// No message below it comes again. At most `number`.
    pub floor: u64,
}

/// A message that is sent to another member, part for part a [`Transit`].
#[derive(Debug, Clone, Copy)]
pub struct Forwarded<'a> {
    /// Topic Name: valid, not empty, without wildcards.
    pub topic: &'a str,
    /// The properties that go to every receiver, encoded. They are not looked into.
    pub properties: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
    /// The QoS at which it was published.
    pub qos: QoS,
    /// The RETAIN flag with which it was published.
    pub retain: bool,
    /// What is left of its Message Expiry Interval, to the millisecond.
    pub expires_in: Option<Duration>,
    /// The Client Identifier of the publisher; `None`: the broker itself.
    pub publisher: Option<&'a str>,
    /// The batch that the payload lies in, if the payload may keep it alive.
    backing: Option<&'a Bytes>,
}

/// What reading holds against the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    All,
    /// Only what reading itself needs: the rest has been checked before.
    Bounds,
}

/// The last publisher of a lane as a [`ClientId`], so that a burst of one publisher allocates it once.
#[derive(Debug, Default)]
pub struct LastPublisher(Option<ClientId>);

/// Payloads of this length and more share the memory of their batch instead of being copied.
pub(crate) const SHARE_FROM: usize = 16 << 10;
/// What a shared payload keeps alive is at most so many times its own length.
const SHARE_RATIO_MAX: usize = 8;

impl<'a> Forwarded<'a> {
    /// The message as it is sent at `now`.
    #[must_use]
    pub fn new(message: &Transit<'a>, now: Timestamp) -> Self {
        Self {
            topic: message.topic,
            properties: message.properties,
            payload: message.payload,
            qos: message.qos,
            retain: message.retain,
            expires_in: message.expires_at.map(|at| at.since(now)),
            publisher: message.publisher.map(ClientId::as_str),
            backing: None,
        }
    }

    /// The message as it goes on at its receiver, where it is `now`.
    ///
    /// `publisher` is what [`LastPublisher::of`] made of [`Forwarded::publisher`]. A long payload shares the memory of the
    /// batch when the message is kept; everything else is copied then.
    #[must_use]
    pub fn transit<'b>(&self, now: Timestamp, publisher: Option<&'b ClientId>) -> Transit<'b>
    where
        'a: 'b,
    {
        Transit::new(
            self.topic,
            self.properties,
            self.payload,
            self.qos,
            self.retain,
            self.expires_in.map(|left| now + left),
            publisher,
            self.backing,
        )
    }

    fn write(&self, out: &mut Vec<u8>) {
        let has_expiry = u8::from(self.expires_in.is_some()) << 3;
        let has_publisher = u8::from(self.publisher.is_some()) << 4;
        out.push(self.qos as u8 | u8::from(self.retain) << 2 | has_expiry | has_publisher);
        put_blob(self.topic.as_bytes(), out);
        if let Some(left) = self.expires_in {
            put_varint(u64::try_from(left.as_millis()).unwrap_or(u64::MAX), out);
        }
        if let Some(publisher) = self.publisher {
            put_blob(publisher.as_bytes(), out);
        }
        put_blob(self.properties, out);
        if self.payload.len() >= SHARE_FROM {
            out.reserve_exact(self.payload.len());
        }
        out.extend_from_slice(self.payload);
    }

    #[inline]
    fn read(reader: &mut Reader<'a>, batch: &'a Bytes, check: Check) -> Result<Self, DecodeError> {
        let flags = reader.u8()?;
        let qos = QoS::from_u8(flags & 0b11).ok_or(DecodeError::Flags(flags))?;
        if flags & !0b1_1111 != 0 {
            return Err(DecodeError::Flags(flags));
        }
        let topic = reader.text()?;
        if check == Check::All {
            // The receiver's own limit of levels is for its own clients.
            check_name(topic, u16::MAX).map_err(|_| DecodeError::TopicName)?;
        }
        let expires_in =
            if flags & 1 << 3 == 0 { None } else { Some(Duration::from_millis(reader.varint()?)) };
        let publisher = if flags & 1 << 4 == 0 { None } else { Some(reader.text()?) };
        let properties = reader.blob()?;
        let payload = reader.rest();
        let is_shared = payload.len() >= SHARE_FROM && payload.len() >= batch.len() / SHARE_RATIO_MAX;
        Ok(Self {
            topic,
            properties,
            payload,
            qos,
            retain: flags & 1 << 2 != 0,
            expires_in,
            publisher,
            backing: is_shared.then_some(batch),
        })
    }
}

/// Where it was read from makes no difference.
impl PartialEq for Forwarded<'_> {
    fn eq(&self, other: &Self) -> bool {
        let parts = |it: &Self| (it.qos, it.retain, it.expires_in);
        parts(self) == parts(other)
            && self.topic == other.topic
            && self.publisher == other.publisher
            && self.properties == other.properties
            && self.payload == other.payload
    }
}

impl LastPublisher {
    /// `publisher` as a [`ClientId`].
    pub fn of(&mut self, publisher: Option<&str>) -> Option<&ClientId> {
        let publisher = publisher?;
        if self.0.as_ref().is_none_or(|last| last.as_str() != publisher) {
            self.0 = ClientId::new(publisher);
        }
        self.0.as_ref()
    }
}

impl<'a> Frame<'a> {
    /// Appends the frame without its length.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Publish { message } => {
                out.push(PUBLISH);
                message.write(out);
            }
            Self::Group { filter, tried, message } => {
                out.extend_from_slice(&[GROUP, *tried]);
                put_blob(filter.as_bytes(), out);
                message.write(out);
            }
            Self::Control { kind, bytes } => {
                out.extend_from_slice(&[CONTROL, *kind]);
                out.extend_from_slice(bytes);
            }
            Self::Kept { to, options, message } => {
                out.push(KEPT);
                to.write(out);
                write_options(options, out);
                message.write(out);
            }
            Self::KeptRelease { to } => {
                out.push(KEPT_RELEASE);
                to.write(out);
            }
            Self::Store { origin, retains, without, message } => {
                let has_without = u8::from(!without.is_empty()) << 2;
                out.extend_from_slice(&[
                    STORE,
                    u8::from(origin.is_some()) | u8::from(*retains) << 1 | has_without,
                ]);
                if let Some(origin) = origin {
                    origin.write(out);
                }
                if !without.is_empty() {
                    put_blob(without.bytes(), out);
                }
                message.write(out);
            }
        }
    }

    /// Reads what [`Frame::write`] wrote, and nothing but that.
    #[inline]
    pub(crate) fn read(bytes: &'a [u8], batch: &'a Bytes, check: Check) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let frame = match reader.u8()? {
            PUBLISH => Self::Publish { message: Forwarded::read(&mut reader, batch, check)? },
            GROUP => {
                let tried = reader.u8()?;
                let filter = reader.text()?;
                // Only a prefix: whoever looks for the group finds none under a text that is no filter.
                if !filter.starts_with("$share/") && !filter.starts_with("$queue/") {
                    return Err(DecodeError::SharedFilter);
                }
                Self::Group { filter, tried, message: Forwarded::read(&mut reader, batch, check)? }
            }
            CONTROL => Self::Control { kind: reader.u8()?, bytes: reader.rest() },
            KEPT => {
                let to = KeptFor::read(&mut reader)?;
                let options = read_options(&mut reader)?;
                Self::Kept { to, options, message: Forwarded::read(&mut reader, batch, check)? }
            }
            KEPT_RELEASE => Self::KeptRelease { to: KeptFor::read(&mut reader)? },
            STORE => {
                let flags = reader.u8()?;
                if flags & !0b111 != 0 {
                    return Err(DecodeError::Flags(flags));
                }
                let origin = if flags & 1 == 0 { None } else { Some(Origin::read(&mut reader)?) };
                let retains = flags & 1 << 1 != 0;
                let without =
                    if flags & 1 << 2 == 0 { Texts::default() } else { Texts::read(reader.blob()?)? };
                Self::Store { origin, retains, without, message: Forwarded::read(&mut reader, batch, check)? }
            }
            kind => return Err(DecodeError::UnknownKind(kind)),
        };
        reader.finish()?;
        Ok(frame)
    }
}

impl<'a> KeptFor<'a> {
    fn write(&self, out: &mut Vec<u8>) {
        put_varint(self.term, out);
        put_blob(self.client_id.as_bytes(), out);
        write_epoch(self.epoch, out);
        put_varint(self.turn.into(), out);
        put_varint(self.sequence, out);
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let (term, client_id) = (reader.varint()?, reader.text()?);
        let epoch = read_epoch(reader)?;
        let turn = u32::try_from(reader.varint()?).map_err(|_| DecodeError::Number)?;
        let sequence = reader.varint()?;
        if sequence == 0 {
            return Err(DecodeError::Number);
        }
        Ok(Self { term, client_id, epoch, turn, sequence })
    }
}

fn write_epoch(epoch: ConnectionEpoch, out: &mut Vec<u8>) {
    put_varint(epoch.shard.0, out);
    put_varint(epoch.sequence, out);
}

fn read_epoch(reader: &mut Reader<'_>) -> Result<ConnectionEpoch, DecodeError> {
    let shard = ShardEpoch(reader.varint()?);
    Ok(ConnectionEpoch { shard, sequence: reader.varint()? })
}

impl Origin {
    fn write(&self, out: &mut Vec<u8>) {
        put_varint(self.shard.0.into(), out);
        put_varint(self.session, out);
        put_varint(self.number, out);
        put_varint(self.floor, out);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let shard = u16::try_from(reader.varint()?).map_err(|_| DecodeError::Number)?;
        let (session, number, floor) = (reader.varint()?, reader.varint()?, reader.varint()?);
        if floor > number {
            return Err(DecodeError::Number);
        }
        Ok(Self { shard: ShardId(shard), session, number, floor })
    }
}

fn write_options(options: &DeliveryOptions, out: &mut Vec<u8>) {
    let is_shared = u8::from(options.shared.is_some()) << 3;
    out.push(options.qos as u8 | u8::from(options.retain) << 2 | is_shared);
    let ids = options.subscription_ids.as_slice();
    put_varint(ids.len() as u64, out);
    for id in ids {
        put_varint(id.get().into(), out);
    }
    if let Some(filter) = &options.shared {
        put_blob(filter.as_str().as_bytes(), out);
    }
}

fn read_options(reader: &mut Reader<'_>) -> Result<DeliveryOptions, DecodeError> {
    let flags = reader.u8()?;
    let qos = QoS::from_u8(flags & 0b11).ok_or(DecodeError::Flags(flags))?;
    if flags & !0b1111 != 0 {
        return Err(DecodeError::Flags(flags));
    }
    let subscription_ids = match reader.varint()? {
        0 => SubscriptionIds::None,
        1 => SubscriptionIds::One(subscription_id(reader)?),
        // Each takes a byte at least: a number that cannot be true allocates nothing.
        count if count > reader.len() as u64 => return Err(DecodeError::CutOff),
        count => {
            let ids: Result<Vec<_>, _> = (0..count).map(|_| subscription_id(reader)).collect();
            SubscriptionIds::Many(ids?.into())
        }
    };
    let shared = if flags & 1 << 3 == 0 {
        None
    } else {
        let filter = TopicFilter::parse(reader.text()?, u16::MAX).map_err(|_| DecodeError::SharedFilter)?;
        if !filter.is_shared() {
            return Err(DecodeError::SharedFilter);
        }
        Some(Arc::new(filter))
    };
    Ok(DeliveryOptions { qos, retain: flags & 1 << 2 != 0, subscription_ids, shared })
}

fn subscription_id(reader: &mut Reader<'_>) -> Result<NonZeroU32, DecodeError> {
    let id = u32::try_from(reader.varint()?).ok().filter(|id| *id <= SUBSCRIPTION_ID_MAX);
    id.and_then(NonZeroU32::new).ok_or(DecodeError::Number)
}

/// What MQTT's Variable Byte Integer can hold.
const SUBSCRIPTION_ID_MAX: u32 = 268_435_455;

// The kinds of frames. A number is never given to another kind; 1, 3, 4 and 5 have been.
const GROUP: u8 = 2;
const CONTROL: u8 = 6;
const STORE: u8 = 7;
const KEPT: u8 = 8;
const KEPT_RELEASE: u8 = 9;
const PUBLISH: u8 = 10;
