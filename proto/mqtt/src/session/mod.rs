//! What MQTT says about one client: the session state machine.

mod handshake;
mod limits;

pub use handshake::{Accepted, AuthStep, Authenticator, Handshake, HandshakeStep, Refusal};
pub use limits::{Limits, QueueFull};

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use crate::{
    Message, ProtocolVersion, QoS, ReasonCode, SubscriptionIds, Timestamp, Transit,
    codec::SendBuffer,
    packet::{Auth, Packet, Publish, Subscribe, SubscriptionOptions, Unsubscribe},
    topic::TopicFilter,
};

/// A Client Identifier: UTF-8, not empty, shared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(Arc<str>);

/// How long a session outlives its connection. 0 and 0xFFFF_FFFF seconds are not durations, so they are not stored as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionExpiry {
    /// It ends with the connection.
    AtDisconnect,
    /// It ends this long after the connection.
    After(Duration),
    /// It stays until somebody starts clean.
    Never,
}

/// What the caller must do for a packet. Borrows from the packet, never from the session.
#[derive(Debug)]
pub enum Request<'a> {
    /// Nothing: the session answered by itself.
    Nothing,
    /// Route this message. For QoS 1 and 2 call [`Session::handle_stored`] with the ticket once it is kept by all who
    /// must keep it; until then the client is not told.
    Publish(Incoming<'a>, Option<Ticket>),
    /// Check each filter, call [`Session::subscribe`] for those that are granted, make the routes known, then
    /// call [`Session::handle_subscribed`].
    Subscribe(Subscribe<'a>),
    /// Call [`Session::unsubscribe`] for each filter, then [`Session::handle_unsubscribed`].
    Unsubscribe(Unsubscribe<'a>),
    /// The client said goodbye: call [`Session::disconnect`] with this cause and close.
    Disconnect(Cause),
    /// Re-authentication (5.0, section 4.12.1): hand it to the authenticator.
    Authenticate(Auth<'a>),
}

/// A PUBLISH with its topic alias resolved.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// The full Topic Name.
    pub topic: IncomingTopic<'a>,
    /// As it was received; `publish.topic` may be empty.
    pub publish: Publish<'a>,
}

/// Where the topic of a PUBLISH comes from.
#[derive(Debug, Clone)]
pub enum IncomingTopic<'a> {
    /// The packet.
    Packet(&'a str),
    /// The session's table of aliases.
    Alias(Arc<str>),
}

/// Stands for a PUBLISH that is not acknowledged yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u32);

/// How one message goes to one session: the sum of the matching subscriptions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeliveryOptions {
    /// The highest QoS that was granted; the message's own QoS is the other bound.
    pub qos: QoS,
    /// The RETAIN flag to send (Retain As Published is already applied).
    pub retain: bool,
    /// Identifiers of the matching subscriptions.
    pub subscription_ids: SubscriptionIds,
    /// The shared subscription that picked this session.
    pub shared: Option<Arc<TopicFilter>>,
}

/// What became of one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    /// It is in the send buffer.
    Sent,
    /// It waits in the session's queue; `displaced` older ones were dropped for it.
    Queued {
        /// Messages dropped under [`QueueFull::DropOldest`].
        displaced: u32,
    },
    /// It was dropped.
    Dropped(DropReason),
}

/// Why a message did not reach a session. Each is a counter of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// The queue, or for QoS 0 the send buffer, is full.
    QueueFull,
    /// QoS 0 for a client that is away.
    Qos0Offline,
    /// Longer than the client's Maximum Packet Size.
    TooLarge,
    /// Its Message Expiry Interval has passed.
    Expired,
}

/// What [`Session::pump`] and [`Session::handle_packet`] did with the queue since it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueReport {
    /// Messages sent from the queue, by QoS.
    pub sent: [u32; 3],
    /// Dropped because they had expired.
    pub expired: u32,
    /// Dropped because they are too large for the client.
    pub too_large: u32,
    /// Messages whose delivery the client completed (PUBACK, PUBCOMP, or an error code in PUBACK/PUBREC).
    pub acked: u32,
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// DISCONNECT 0x00: the will is dropped.
    Normal,
    /// DISCONNECT 0x04 or any other client code that is not 0x00: the will is sent.
    WithWill(ReasonCode),
    /// The network connection broke or was closed by the client without a DISCONNECT.
    ConnectionLost,
    /// The server ends it, for this reason.
    Server(ReasonCode),
}

/// What follows from the end of a connection, of a delay or of a session.
#[derive(Debug, Default)]
pub struct Ending {
    /// A will to publish now.
    pub will: Option<Arc<Message>>,
    /// The session is over: remove its subscriptions and forget it.
    pub ended: bool,
}

/// What [`Session::handle_deadline`] found due.
#[derive(Debug)]
pub enum Due {
    /// Nothing: look at [`Session::next_deadline`] again.
    Nothing,
    /// The client was silent for 1.5 times its Keep Alive: close with 0x8D [MQTT-3.1.2-22].
    KeepAliveTimeout,
    /// The delay of the will, or the session, is over.
    Ending(Ending),
}

/// One subscription of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The whole filter, `$share/<group>/` included.
    pub filter: Arc<TopicFilter>,
    /// Its options.
    pub options: SubscriptionOptions,
    /// Its identifier.
    pub id: Option<NonZeroU32>,
}

/// The client broke the protocol: send `reason()` in a DISCONNECT (5.0) and close.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// See 3.3.4.
    #[error("more than {limit} publishes are unacknowledged")]
    ReceiveMaximumExceeded {
        /// What the server allows.
        limit: u16,
    },
}

/// One client's session; see the module's documentation.
#[derive(Debug)]
pub struct Session {}

#[expect(unused_variables, clippy::todo, missing_docs, reason = "signatures only, for now")]
impl Session {
    pub fn new(client_id: ClientId, limits: Arc<Limits>) -> Self {
        todo!()
    }
    pub fn client_id(&self) -> &ClientId {
        todo!()
    }
    pub fn version(&self) -> ProtocolVersion {
        todo!()
    }
    pub fn is_connected(&self) -> bool {
        todo!()
    }
    pub fn expiry(&self) -> SessionExpiry {
        todo!()
    }
    /// Starts a connection; the CONNACK must be in the send buffer before `resume` is called.
    pub fn connect(&mut self, now: Timestamp, accepted: Accepted) {
        todo!()
    }
    /// Resends what is in flight, in order, with DUP, then sends from the queue [MQTT-4.4.0-1].
    pub fn resume(&mut self, now: Timestamp, out: &mut SendBuffer) {
        todo!()
    }
    pub fn handle_packet<'a>(
        &mut self,
        now: Timestamp,
        packet: Packet<'a>,
        out: &mut SendBuffer,
    ) -> Result<Request<'a>, SessionError> {
        todo!()
    }
    pub fn handle_stored(&mut self, ticket: Ticket, reason: ReasonCode, out: &mut SendBuffer) {
        todo!()
    }
    pub fn subscribe(
        &mut self,
        filter: &Arc<TopicFilter>,
        options: SubscriptionOptions,
        id: Option<NonZeroU32>,
    ) -> Result<Option<Subscription>, ReasonCode> {
        todo!()
    }
    pub fn unsubscribe(&mut self, filter: &str) -> Option<Subscription> {
        todo!()
    }
    pub fn subscriptions(&self) -> impl ExactSizeIterator<Item = &Subscription> {
        [].iter()
    }
    pub fn handle_subscribed(&mut self, id: crate::PacketId, reasons: &[ReasonCode], out: &mut SendBuffer) {
        todo!()
    }
    pub fn handle_unsubscribed(&mut self, id: crate::PacketId, reasons: &[ReasonCode], out: &mut SendBuffer) {
        todo!()
    }
    pub fn deliver(
        &mut self,
        now: Timestamp,
        transit: &Transit<'_>,
        options: &DeliveryOptions,
        out: &mut SendBuffer,
    ) -> Delivered {
        todo!()
    }
    /// Sends from the queue what window and send buffer allow; call it when the send buffer has drained.
    pub fn pump(&mut self, now: Timestamp, out: &mut SendBuffer) {
        todo!()
    }
    pub fn take_report(&mut self) -> QueueReport {
        todo!()
    }
    /// Messages in flight to the client and in its queue.
    pub fn inflight_len(&self) -> usize {
        todo!()
    }
    pub fn queue_len(&self) -> usize {
        todo!()
    }
    pub fn disconnect(&mut self, now: Timestamp, cause: Cause) -> Ending {
        todo!()
    }
    /// Ends the session now: Clean Start, or an administrator.
    pub fn end(&mut self) -> Ending {
        todo!()
    }
    /// After the session ended, or the client unsubscribed: messages of shared subscriptions that another member of the group must get, oldest first.
    pub fn take_shared(&mut self, filter: Option<&TopicFilter>) -> Vec<(Arc<TopicFilter>, Arc<Message>)> {
        todo!()
    }
    pub fn next_deadline(&self) -> Option<Timestamp> {
        todo!()
    }
    pub fn handle_deadline(&mut self, now: Timestamp) -> Due {
        todo!()
    }
    /// Writes a DISCONNECT if the protocol has one for the server (5.0).
    pub fn write_disconnect(&self, reason: ReasonCode, out: &mut SendBuffer) {
        todo!()
    }
}
