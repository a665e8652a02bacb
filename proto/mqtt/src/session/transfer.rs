//! A session on its way to another node.
//!
//! It travels between two connections of its client, as protobuf: what the client was promised, and nothing that belongs
//! to a connection. Times travel as what is left of them. Numbers of fields are never used again for something else, and
//! a change that an older node would misread gets another [`FORMAT`].
//!
//! The other node's limits may be narrower. What the client has been granted or has seen stays: subscriptions,
//! identifiers, messages in flight; nothing joins them until they are within the limit. Messages that wait in the queue
//! are trimmed as if they arrived now.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use prost::Message as _;

use super::{
    ClientId, DeliveryOptions, Limits, Link, Session, SessionExpiry, Subscription,
    delivery::Held,
    inbound::Inbound,
    outbound::Outbound,
    subscriptions::Subscriptions,
    window::{Stage, Window},
};
use crate::{
    Message, MessageError, PacketId, ProtocolVersion, QoS, SubscriptionIds, Timestamp,
    codec::{DecodeError, no_local},
    message_wire::{WireMessage, millis_left},
    packet::SubscriptionOptions,
    topic::{TopicError, TopicFilter},
};

/// Bytes that are no session.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// They do not decode.
    #[error(transparent)]
    Malformed(#[from] prost::DecodeError),
    /// They are of a format that this node does not know.
    #[error("a session in format {0}, which this node does not know")]
    UnknownFormat(u32),
    /// One of the messages is none.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// One of the topic filters is none.
    #[error(transparent)]
    Filter(#[from] TopicError),
    /// The options of a subscription break a rule.
    #[error("a subscription: {0}")]
    Options(#[from] DecodeError),
    /// A field has a value that no session has.
    #[error("a session with a wrong {0}")]
    Invalid(&'static str),
}

impl Session {
    /// Whether messages of QoS 2 from the client wait for their tickets.
    ///
    /// Between connections: whether it is too early for [`Session::export`], which would forget them.
    #[must_use]
    pub fn is_storing(&self) -> bool {
        self.inbound.as_ref().is_some_and(|inbound| inbound.is_storing())
    }

    /// Between connections: no ticket comes back any more, for whoever was to keep the messages has been lost. A QoS 2
    /// message from the client that waits for one counts as not received, so that the client's resend is a new message
    /// and not the repetition of one that nobody answers for.
    pub fn forget_storing(&mut self) {
        if let Some(inbound) = self.inbound.as_mut().filter(|_| matches!(self.link, Link::Away { .. })) {
            inbound.forget_storing(); // The epoch moved on with the end of the connection: no ticket is known now.
        }
        self.check_invariants();
    }

    /// The session as bytes for another node. Its last connection must have ended.
    ///
    /// The session itself stays as it is, in case it does not get there. Only tickets that have not come back mean
    /// nothing any more, neither here nor there: a QoS 2 message from the client that waits for one
    /// ([`Session::is_storing`]) counts as not received, so that the client's resend is a new message.
    ///
    /// Not exported: a will that waits for its delay, which the client's next connection ends [MQTT-3.1.3-9], and what
    /// [`Session::take_report`] says.
    pub fn export(&mut self, now: Timestamp) -> Bytes {
        debug_assert!(!self.is_connected(), "the last connection was ended");
        self.forget_storing();
        Exporter::default().export(self, now).encode_to_vec().into()
    }

    /// A session that another node has exported, as it is between two connections. Nothing is shared with `bytes`.
    ///
    /// What has no room in the queue under `limits` is dropped and counted in
    /// [`QueueReport::trimmed`](super::QueueReport::trimmed) and [`QueueReport::expired`](super::QueueReport::expired).
    ///
    /// # Errors
    /// `bytes` are not those of a session.
    pub fn import(
        bytes: &[u8],
        client_id: ClientId,
        limits: Arc<Limits>,
        now: Timestamp,
    ) -> Result<Self, ImportError> {
        let wire = WireSession::decode(bytes)?;
        if wire.format != FORMAT {
            return Err(ImportError::UnknownFormat(wire.format));
        }
        wire.into_session(client_id, limits, now)
    }
}

/// The present format.
const FORMAT: u32 = 1;

/// A [`Session`].
#[derive(Clone, PartialEq, prost::Message)]
struct WireSession {
    #[prost(uint32, tag = "1")]
    format: u32,
    /// Goes along so that no ticket ever counts twice, also when the session comes back.
    #[prost(uint32, tag = "2")]
    epoch: u32,
    #[prost(uint32, tag = "3")]
    protocol: u32,
    /// As in a Session Expiry Interval.
    #[prost(uint32, tag = "4")]
    expiry_secs: u32,
    #[prost(uint64, optional, tag = "5")]
    expires_in_millis: Option<u64>,
    #[prost(message, repeated, tag = "6")]
    subscriptions: Vec<WireSubscription>,
    /// QoS 2 messages from the client that it has not released.
    #[prost(message, repeated, tag = "7")]
    received: Vec<WireReceived>,
    #[prost(message, repeated, tag = "8")]
    in_flight: Vec<WireInFlight>,
    #[prost(uint32, tag = "9")]
    next_id: u32,
    #[prost(message, repeated, tag = "10")]
    queue: Vec<WireHeld>,
    /// Every message of `in_flight` and `queue`, once.
    #[prost(message, repeated, tag = "11")]
    messages: Vec<WireMessage>,
    /// Every filter of their shared subscriptions, once.
    #[prost(string, repeated, tag = "12")]
    shared_filters: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireSubscription {
    #[prost(string, tag = "1")]
    filter: String,
    /// As in SUBSCRIBE.
    #[prost(uint32, tag = "2")]
    options: u32,
    #[prost(uint32, optional, tag = "3")]
    id: Option<u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireReceived {
    #[prost(uint32, tag = "1")]
    id: u32,
    /// Whether PUBREC has been sent.
    #[prost(bool, tag = "2")]
    acknowledged: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireInFlight {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(enumeration = "WireStage", tag = "2")]
    stage: i32,
    #[prost(message, optional, tag = "3")]
    held: Option<WireHeld>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum WireStage {
    Unknown = 0,
    AtLeastOnce = 1,
    ExactlyOnce = 2,
    Released = 3,
}

/// A [`Held`].
#[derive(Clone, PartialEq, prost::Message)]
struct WireHeld {
    /// Which of `messages`.
    #[prost(uint32, tag = "1")]
    message: u32,
    #[prost(uint32, tag = "2")]
    qos: u32,
    #[prost(bool, tag = "3")]
    retain: bool,
    #[prost(uint32, repeated, tag = "4")]
    subscription_ids: Vec<u32>,
    /// Which of `shared_filters`.
    #[prost(uint32, optional, tag = "5")]
    shared: Option<u32>,
}

/// Writes a session down; what is referred to more than once, once.
#[derive(Default)]
struct Exporter<'a> {
    messages: Vec<&'a Message>,
    /// Places in `messages`, by address. Addresses are looked up and never put in order.
    message_places: BTreeMap<*const Message, u32>,
    shared_filters: Vec<&'a TopicFilter>,
    filter_places: BTreeMap<&'a str, u32>,
}

impl<'a> Exporter<'a> {
    fn export(mut self, session: &'a Session, now: Timestamp) -> WireSession {
        let expires_at = match &session.link {
            Link::Away { expires_at } => *expires_at,
            Link::Connected(_) => session.expiry.deadline(now),
        };
        let mut wire = WireSession {
            format: FORMAT,
            epoch: session.epoch,
            protocol: session.version as u32,
            expiry_secs: session.expiry.as_secs(),
            expires_in_millis: expires_at.map(|at| millis_left(now, at)),
            subscriptions: session.subscriptions.iter().map(WireSubscription::from).collect(),
            next_id: PacketId::MIN.value().into(),
            ..WireSession::default()
        };
        if let Some(inbound) = &session.inbound {
            let received =
                |(id, acknowledged): (PacketId, bool)| WireReceived { id: id.value().into(), acknowledged };
            wire.received = inbound.stored().map(received).collect();
        }
        if let Some(outbound) = &session.outbound {
            wire.next_id = outbound.window.next_id().value().into();
            let in_flight = outbound.window.iter().map(|entry| self.in_flight(entry.id, &entry.stage));
            wire.in_flight = in_flight.collect();
            wire.queue = outbound.queue.iter().map(|held| self.held(held)).collect();
        }
        wire.messages = self.messages.iter().map(|message| WireMessage::new(message, now)).collect();
        wire.shared_filters = self.shared_filters.iter().map(|filter| filter.as_str().to_owned()).collect();
        wire
    }

    fn in_flight(&mut self, id: PacketId, stage: &'a Stage) -> WireInFlight {
        let (stage, held) = match stage {
            Stage::Published { exactly_once: false, held } => (WireStage::AtLeastOnce, held.as_ref()),
            Stage::Published { exactly_once: true, held } => (WireStage::ExactlyOnce, held.as_ref()),
            Stage::Releasing | Stage::Released => (WireStage::Released, None),
        };
        WireInFlight { id: id.value().into(), stage: stage.into(), held: held.map(|held| self.held(held)) }
    }

    fn held(&mut self, held: &'a Held) -> WireHeld {
        let message = *self.message_places.entry(Arc::as_ptr(&held.message)).or_insert_with(|| {
            self.messages.push(&held.message);
            last_place(self.messages.len())
        });
        let shared = held.options.shared.as_deref().map(|filter| {
            *self.filter_places.entry(filter.as_str()).or_insert_with(|| {
                self.shared_filters.push(filter);
                last_place(self.shared_filters.len())
            })
        });
        let subscription_ids = held.options.subscription_ids.as_slice().iter().map(|id| id.get());
        WireHeld {
            message,
            qos: held.options.qos as u32,
            retain: held.options.retain,
            subscription_ids: subscription_ids.collect(),
            shared,
        }
    }
}

fn last_place(len: usize) -> u32 {
    u32::try_from(len - 1).expect("window and queue are bounded, and their messages take memory")
}

impl From<&Subscription> for WireSubscription {
    fn from(subscription: &Subscription) -> Self {
        Self {
            filter: subscription.filter.as_str().to_owned(),
            options: subscription.options.bits().into(),
            id: subscription.id.map(NonZeroU32::get),
        }
    }
}

impl WireSession {
    fn into_session(
        self,
        client_id: ClientId,
        limits: Arc<Limits>,
        now: Timestamp,
    ) -> Result<Session, ImportError> {
        let version = match self.protocol {
            3 => ProtocolVersion::V31,
            4 => ProtocolVersion::V311,
            5 => ProtocolVersion::V5,
            _ => return Err(ImportError::Invalid("protocol version")),
        };
        let importer = Importer::new(self.messages, self.shared_filters, now)?;
        let outbound = importer.outbound(&self.in_flight, &self.queue, self.next_id, &limits, now)?;
        let inbound = import_inbound(&self.received)?;
        let session = Session {
            client_id,
            limits,
            link: Link::Away {
                expires_at: self.expires_in_millis.map(|left| now + Duration::from_millis(left)),
            },
            version,
            expiry: SessionExpiry::from_secs(self.expiry_secs),
            will: None,
            subscriptions: import_subscriptions(self.subscriptions)?,
            inbound: (!inbound.is_idle()).then(|| Box::new(inbound)),
            outbound: (!outbound.is_idle()).then(|| Box::new(outbound)),
            kept: None,
            epoch: self.epoch,
        };
        session.check_invariants();
        Ok(session)
    }
}

fn import_subscriptions(wire: Vec<WireSubscription>) -> Result<Subscriptions, ImportError> {
    let mut subscriptions = Subscriptions::default();
    for WireSubscription { filter, options, id } in wire {
        let options =
            u8::try_from(options).map_err(|_| ImportError::Invalid("byte of subscription options"))?;
        let options = SubscriptionOptions::from_bits(options)?;
        no_local(&filter, options)?;
        // The number of its levels was within the limit of the node that granted it.
        let filter = Arc::new(TopicFilter::parse(&filter, u16::MAX)?);
        let id = id.map(subscription_id).transpose()?;
        if subscriptions.insert(Subscription { filter, options, id }).is_some() {
            return Err(ImportError::Invalid("pair of subscriptions: they have the same filter"));
        }
    }
    Ok(subscriptions)
}

fn import_inbound(wire: &[WireReceived]) -> Result<Inbound, ImportError> {
    let mut ids = BTreeSet::new();
    let mut received = Vec::with_capacity(wire.len());
    for &WireReceived { id, acknowledged } in wire {
        received.push((unused_id(id, &mut ids)?, acknowledged));
    }
    Ok(Inbound::restore(received))
}

/// Reads what refers to messages and filters.
struct Importer {
    messages: Vec<Arc<Message>>,
    shared_filters: Vec<Arc<TopicFilter>>,
}

impl Importer {
    fn new(
        messages: Vec<WireMessage>,
        shared_filters: Vec<String>,
        now: Timestamp,
    ) -> Result<Self, ImportError> {
        let messages = messages.into_iter().map(|message| message.into_message(now).map(Arc::new));
        let mut filters = Vec::with_capacity(shared_filters.len());
        for filter in shared_filters {
            let filter = TopicFilter::parse(&filter, u16::MAX)?;
            if !filter.is_shared() {
                return Err(ImportError::Invalid("filter of a shared subscription"));
            }
            filters.push(Arc::new(filter));
        }
        Ok(Self { messages: messages.collect::<Result<_, _>>()?, shared_filters: filters })
    }

    fn outbound(
        &self,
        in_flight: &[WireInFlight],
        queue: &[WireHeld],
        next_id: u32,
        limits: &Limits,
        now: Timestamp,
    ) -> Result<Outbound, ImportError> {
        let mut ids = BTreeSet::new();
        let mut entries = Vec::with_capacity(in_flight.len());
        for entry in in_flight {
            entries.push((unused_id(entry.id, &mut ids)?, self.stage(entry)?));
        }
        let mut outbound = Outbound::new(limits, NonZeroU16::MIN); // The next connection brings its own.
        outbound.window = Window::restore(limits.max_inflight, entries, packet_id(next_id)?);
        for held in queue {
            outbound.restore_queued(now, self.held(held)?, limits);
        }
        Ok(outbound)
    }

    fn stage(&self, wire: &WireInFlight) -> Result<Stage, ImportError> {
        let held = wire.held.as_ref().map(|held| self.held(held)).transpose()?;
        let exactly_once = match (wire.stage(), &held) {
            (WireStage::Released, None) => return Ok(Stage::Released),
            (WireStage::AtLeastOnce, _) => false,
            (WireStage::ExactlyOnce, _) => true,
            (WireStage::Unknown | WireStage::Released, _) => {
                return Err(ImportError::Invalid("stage of a delivery"));
            }
        };
        let qos = if exactly_once { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
        if held.as_ref().is_some_and(|held| held.options.qos != qos) {
            return Err(ImportError::Invalid("QoS of a delivery"));
        }
        Ok(Stage::Published { exactly_once, held })
    }

    fn held(&self, wire: &WireHeld) -> Result<Held, ImportError> {
        let message = at(&self.messages, wire.message).ok_or(ImportError::Invalid("place of a message"))?;
        let qos = u8::try_from(wire.qos).ok().and_then(QoS::from_u8);
        let qos = qos.ok_or(ImportError::Invalid("QoS of a delivery"))?;
        let subscription_ids = match *wire.subscription_ids {
            [] => SubscriptionIds::None,
            [id] => SubscriptionIds::One(subscription_id(id)?),
            ref ids => {
                let ids = ids.iter().map(|id| subscription_id(*id));
                SubscriptionIds::Many(ids.collect::<Result<_, _>>()?)
            }
        };
        let shared = match wire.shared {
            Some(place) => {
                let filter = at(&self.shared_filters, place);
                Some(filter.ok_or(ImportError::Invalid("place of a filter"))?)
            }
            None => None,
        };
        let options = DeliveryOptions { qos, retain: wire.retain, subscription_ids, shared };
        Ok(Held { message, options })
    }
}

impl Outbound {
    /// Puts a message at the end of the queue, or trims the queue as if it arrived now.
    fn restore_queued(&mut self, now: Timestamp, held: Held, limits: &Limits) {
        let report = &mut self.report;
        match self.queue.make_room(now, held.message.size(), limits, &mut report.expired) {
            Ok(displaced) => {
                report.trimmed += displaced;
                self.queue.push(held);
            }
            Err(_) => report.trimmed += 1,
        }
    }
}

fn at<T>(table: &[Arc<T>], place: u32) -> Option<Arc<T>> {
    table.get(usize::try_from(place).ok()?).cloned()
}

fn packet_id(value: u32) -> Result<PacketId, ImportError> {
    let id = u16::try_from(value).ok().and_then(PacketId::new);
    id.ok_or(ImportError::Invalid("packet identifier"))
}

/// A packet identifier that is not in `used`, to which it is added.
fn unused_id(value: u32, used: &mut BTreeSet<PacketId>) -> Result<PacketId, ImportError> {
    let id = packet_id(value)?;
    if used.insert(id) { Ok(id) } else { Err(ImportError::Invalid("packet identifier: it is in use twice")) }
}

fn subscription_id(value: u32) -> Result<NonZeroU32, ImportError> {
    let id = NonZeroU32::new(value).filter(|id| id.get() <= SUBSCRIPTION_ID_MAX);
    id.ok_or(ImportError::Invalid("subscription identifier"))
}

/// The largest Variable Byte Integer (section 1.5.5).
const SUBSCRIPTION_ID_MAX: u32 = 268_435_455;
