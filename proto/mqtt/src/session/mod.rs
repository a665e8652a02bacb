//! What MQTT says about one client: the session state machine.
//!
//! A [`Session`] takes packets, messages, deadlines and the time, and appends bytes to a [`SendBuffer`]. A connection
//! goes through it like this:
//!
//! 1. [`Handshake`] decides on the CONNECT. If it is accepted, the caller claims the client identifier, and finds out
//!    what others keep of the session.
//! 2. The CONNACK is written with [`Accepted::write_connack`]; [`Session::new`] or [`Session::kept`] follows.
//! 3. Each packet goes to [`Session::handle_packet`], whose [`Request`] the caller answers. Messages for the client go
//!    to [`Session::deliver`]. [`Session::pump`] is called when the send buffer has drained, [`Session::is_silent`] and
//!    [`Session::is_stuck`] at [`Session::next_deadline`].
//! 4. The connection ends, and this with it: [`Session::end`] gives back what goes to others.
//!
//! So there is one for each connection. What must survive the connection is kept by others ([`Session::kept`]): the
//! subscriptions, the messages and the identifiers of a session that goes on, and the will.
//!
//! Invariants, checked after each change in debug builds: packet identifiers in flight are unique; no more is in flight
//! on a connection than the client's Receive Maximum; the queue is within its bounds and its bytes are counted right;
//! acknowledgements leave in the order of the publishes. All memory is bounded by [`Limits`]; what only traffic needs
//! is allocated by traffic, and given back when the client pings for want of anything else to say.
//!
//! Absent on purpose: who may publish or subscribe to what, where messages go, retained messages, timers, wills, and what
//! becomes of a session while its client is away.

mod alias;
mod client_id;
mod connection;
mod delivery;
mod error;
mod handshake;
mod inbound;
mod kept;
mod lifetime;
mod limits;
mod outbound;
mod queue;
mod request;
mod subscriptions;
mod window;
mod wire;

pub use client_id::ClientId;
pub use delivery::{Delivered, DeliveryOptions, DropReason, QueueReport};
pub use error::SessionError;
pub use handshake::{Accepted, AuthStep, Authenticator, Handshake, HandshakeStep, Refusal};
pub use kept::{KeptMessage, KeptReport, Sequence};
pub use lifetime::{Cause, SessionExpiry, Will};
pub use limits::{Limits, QueueFull};
pub use request::{Incoming, IncomingTopic, Request, Ticket};
pub use subscriptions::Subscription;

use std::{
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
    time::Duration,
};

use crate::{
    Message, PacketId, ProtocolVersion, ReasonCode, Timestamp,
    codec::SendBuffer,
    packet::{
        Auth, AuthProperties, Disconnect, DisconnectProperties, Packet, PacketType, ReasonCodes, SubAck,
        SubscriptionOptions, UnsubAck, UserProperties,
    },
    topic::TopicFilter,
};
use alias::OutgoingAliases;
use connection::{Authentication, Connection};
use inbound::Inbound;
use kept::Kept;
use outbound::Outbound;
use subscriptions::Subscriptions;

/// One client's session while it is connected; see the module's documentation.
///
/// Idle and with one subscription it takes about 200 bytes.
#[derive(Debug)]
pub struct Session {
    client_id: ClientId,
    limits: Arc<Limits>,
    connection: Connection,
    expiry: SessionExpiry,
    subscriptions: Subscriptions,
    inbound: Option<Box<Inbound>>,
    outbound: Option<Box<Outbound>>,
    /// Set if others keep what must survive the connection.
    kept: Option<Box<Kept>>,
}

impl Session {
    /// The session of a client that has connected, and of whom nobody else keeps anything. The CONNACK must be in the send
    /// buffer before anything else [MQTT-3.2.0-1].
    #[must_use]
    pub fn new(now: Timestamp, accepted: Accepted, limits: Arc<Limits>) -> Self {
        let authentication =
            accepted.authentication_method.map(|method| Box::new(Authentication { method, rounds: 0 }));
        let connection = Connection {
            version: accepted.version,
            asked_no_expiry: accepted.asked_expiry == SessionExpiry::AtDisconnect,
            receive_maximum: accepted.receive_maximum,
            maximum_packet_size: accepted.maximum_packet_size,
            last_packet: now,
            silence_max_millis: limits.silence_max_millis(accepted.keep_alive),
            aliases: NonZeroU16::new(accepted.topic_alias_maximum)
                .map(|maximum| Box::new(OutgoingAliases::new(maximum))),
            authentication,
        };
        Self {
            client_id: accepted.client_id,
            limits,
            connection,
            expiry: accepted.expiry,
            subscriptions: Subscriptions::default(),
            inbound: None,
            outbound: None,
            kept: None,
        }
    }

    /// Whose session it is.
    #[must_use]
    pub fn client_id(&self) -> &ClientId {
        &self.client_id
    }

    /// The protocol of the connection.
    #[must_use]
    pub fn version(&self) -> ProtocolVersion {
        self.connection.version
    }

    /// How long the session outlives its connection, where others keep it. DISCONNECT may change it.
    #[must_use]
    pub fn expiry(&self) -> SessionExpiry {
        self.expiry
    }

    /// Takes one packet from the client.
    ///
    /// # Errors
    /// The client broke the protocol: the caller writes `error.reason()` with [`Session::write_disconnect`] and ends the
    /// connection.
    pub fn handle_packet<'a>(
        &mut self,
        now: Timestamp,
        packet: Packet<'a>,
        out: &mut SendBuffer,
    ) -> Result<Request<'a>, SessionError> {
        self.connection.last_packet = now;
        let request = match packet {
            Packet::Publish(publish) => self.handle_publish(now, publish, out),
            Packet::PubAck(ref ack) | Packet::PubRec(ref ack) | Packet::PubComp(ref ack) => {
                self.handle_ack(now, packet.packet_type(), ack, out).map(|()| Request::Nothing)
            }
            Packet::PubRel(ack) => Ok(self.handle_pubrel(ack.id, out)),
            Packet::Subscribe(subscribe) => {
                self.check_answer_len(subscribe.filters.len())?;
                Ok(Request::Subscribe(subscribe))
            }
            Packet::Unsubscribe(unsubscribe) => {
                self.check_answer_len(unsubscribe.filters.len())?;
                Ok(Request::Unsubscribe(unsubscribe))
            }
            Packet::PingReq => {
                wire::write(&Packet::PingResp, self.version(), out);
                self.release_idle_memory();
                Ok(Request::Nothing)
            }
            Packet::Disconnect(disconnect) => self.handle_disconnect(&disconnect).map(Request::Disconnect),
            Packet::Auth(auth) => self.handle_auth(auth),
            Packet::Connect(_)
            | Packet::ConnAck(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp => Err(SessionError::UnexpectedPacket(packet.packet_type())),
        };
        self.check_invariants();
        request
    }

    /// The message of a PUBLISH is kept by all who must keep it, or never will be: tells the client, once those before
    /// it have been told.
    ///
    /// `reason` is [`ReasonCode::Success`], [`ReasonCode::NoMatchingSubscribers`], or an error, which frees the
    /// identifier of a QoS 2 message; one that a PUBACK cannot carry becomes [`ReasonCode::UnspecifiedError`]. 3.1 and
    /// 3.1.1 know success only.
    pub fn handle_stored(&mut self, ticket: Ticket, reason: ReasonCode, out: &mut SendBuffer) {
        let version = self.version();
        if let Some(inbound) = &mut self.inbound {
            inbound.handle_stored(ticket, reason, version, out);
        }
        self.check_invariants();
    }

    /// Whether so many publishes wait to be stored that the caller should take no more packets from the client until
    /// [`Session::handle_stored`] has been called.
    ///
    /// A 5.0 client is held back by its Receive Maximum; 3.1 and 3.1.1 have none, so TCP must do it.
    #[must_use]
    pub fn is_saturated(&self) -> bool {
        let limit = usize::from(self.limits.receive_maximum.get());
        !self.version().is_v5()
            && self.inbound.as_ref().is_some_and(|inbound| inbound.unanswered_len() >= limit)
    }

    /// Adds a subscription or replaces the one with the same filter, which is returned [MQTT-3.8.4-3].
    ///
    /// # Errors
    /// [`ReasonCode::QuotaExceeded`]: the session has as many as it may.
    pub fn subscribe(
        &mut self,
        filter: &Arc<TopicFilter>,
        options: SubscriptionOptions,
        id: Option<NonZeroU32>,
    ) -> Result<Option<Subscription>, ReasonCode> {
        let full = self.subscriptions.len() >= self.limits.subscriptions_max;
        if full && !self.subscriptions.contains(filter.as_str()) {
            return Err(ReasonCode::QuotaExceeded);
        }
        let subscription = Subscription { filter: Arc::clone(filter), options, id };
        Ok(self.subscriptions.insert(subscription))
    }

    /// Removes a subscription; `None`: there was none.
    pub fn unsubscribe(&mut self, filter: &str) -> Option<Subscription> {
        self.subscriptions.remove(filter)
    }

    /// The subscriptions, in the order of their filters.
    pub fn subscriptions(&self) -> impl ExactSizeIterator<Item = &Subscription> {
        self.subscriptions.iter()
    }

    /// Answers SUBSCRIBE; one code for each filter, in order [MQTT-3.8.4-6].
    pub fn handle_subscribed(&mut self, id: PacketId, reasons: &[ReasonCode], out: &mut SendBuffer) {
        let reasons = ReasonCodes::from(reasons);
        let (reason_string, user_properties) = (None, UserProperties::default());
        let suback = SubAck { id, reason_string, user_properties, reasons };
        wire::write(&Packet::SubAck(suback), self.version(), out);
    }

    /// Answers UNSUBSCRIBE; one code for each filter, in order [MQTT-3.11.3-1] (v3.1.1: none).
    pub fn handle_unsubscribed(&mut self, id: PacketId, reasons: &[ReasonCode], out: &mut SendBuffer) {
        let reasons = ReasonCodes::from(if self.version().is_v5() { reasons } else { &[] });
        let (reason_string, user_properties) = (None, UserProperties::default());
        let unsuback = UnsubAck { id, reason_string, user_properties, reasons };
        wire::write(&Packet::UnsubAck(unsuback), self.version(), out);
    }

    /// Answers [`Request::Authenticate`]: asks for more, or says that re-authentication is complete.
    pub fn handle_authenticated(&mut self, step: &AuthStep, out: &mut SendBuffer) {
        let version = self.version();
        let Some(authentication) = &mut self.connection.authentication else { return };
        let (reason, data) = match step {
            AuthStep::Continue(data) => (ReasonCode::ContinueAuthentication, data),
            AuthStep::Done(data) => (ReasonCode::Success, data),
        };
        if reason == ReasonCode::Success {
            authentication.rounds = 0;
        }
        let properties = AuthProperties {
            authentication_method: Some(&authentication.method),
            authentication_data: (!data.is_empty()).then_some(data),
            ..AuthProperties::default()
        };
        wire::write(&Packet::Auth(Auth { reason, properties }), version, out);
    }

    /// What the session did by itself with its queue since it was last asked.
    pub fn take_report(&mut self) -> QueueReport {
        self.outbound.as_mut().map(|outbound| std::mem::take(&mut outbound.report)).unwrap_or_default()
    }

    /// Messages in flight to the client.
    #[must_use]
    pub fn inflight_len(&self) -> usize {
        self.outbound.as_ref().map_or(0, |outbound| outbound.window.len())
    }

    /// Messages that wait in the queue.
    #[must_use]
    pub fn queue_len(&self) -> usize {
        self.outbound.as_ref().map_or(0, |outbound| outbound.queue.len())
    }

    /// The size of these.
    #[must_use]
    pub fn queue_bytes(&self) -> usize {
        self.outbound.as_ref().map_or(0, |outbound| outbound.queue.bytes())
    }

    /// Ends the session here with its connection; gives back the messages of shared subscriptions that another member of the group
    /// must get, oldest first: all but those that were sent at QoS 2, which nobody else may get [MQTT-4.8.2-5].
    ///
    /// Ask first for what others are to keep: [`Session::take_kept_report`], [`Session::stored_ids`], [`Session::expiry`].
    #[must_use]
    pub fn end(self) -> Vec<(Arc<TopicFilter>, Arc<Message>)> {
        self.outbound.map_or_else(Vec::new, |outbound| outbound.into_shared())
    }

    /// When to look at [`Session::is_silent`] and [`Session::is_stuck`]; `None`: never. Each packet from the client moves it on.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let limit = self.limits.answer_timeout;
        let answers_due = self.inbound.as_ref().and_then(|inbound| inbound.answers_due(limit));
        self.connection.silence_ends().into_iter().chain(answers_due).min()
    }

    /// Whether the client has been silent for 1.5 times its Keep Alive: close with 0x8D [MQTT-3.1.2-22].
    #[must_use]
    pub fn is_silent(&self, now: Timestamp) -> bool {
        self.connection.silence_ends().is_some_and(|at| at <= now)
    }

    /// The client is read again, which it was not for a while: its Keep Alive begins anew, for what it has said may be on the way.
    pub fn handle_resumed(&mut self, now: Timestamp) {
        self.connection.last_packet = now;
    }

    /// Whether publishes of the client have waited for [`Limits::answer_timeout`] without an answer to any of them: the caller
    /// disconnects it with [`ReasonCode::ServerBusy`], for another node may do better. An error code in an acknowledgement
    /// would end the message at its sender [MQTT-4.4.0-2].
    pub fn is_stuck(&mut self, now: Timestamp) -> bool {
        let limit = self.limits.answer_timeout;
        self.inbound.as_mut().is_some_and(|inbound| inbound.is_stuck(now, limit))
    }

    /// Writes a DISCONNECT if the protocol has one for the server (5.0). A reason that it cannot carry becomes
    /// [`ReasonCode::UnspecifiedError`].
    pub fn write_disconnect(&self, reason: ReasonCode, out: &mut SendBuffer) {
        if self.version().is_v5() {
            let (reason, properties) =
                (wire::allowed(reason, PacketType::Disconnect), DisconnectProperties::default());
            wire::write(&Packet::Disconnect(Disconnect { reason, properties }), self.version(), out);
        }
    }

    /// DISCONNECT from the client.
    fn handle_disconnect(&mut self, disconnect: &Disconnect<'_>) -> Result<Cause, SessionError> {
        if let Some(secs) = disconnect.properties.session_expiry {
            let asked = SessionExpiry::from_secs(secs);
            if self.connection.asked_no_expiry && asked != SessionExpiry::AtDisconnect {
                return Err(SessionError::SessionExpiryRaised);
            }
            self.expiry = asked.bounded_by(self.limits.expiry_max);
        }
        Ok(match disconnect.reason {
            ReasonCode::Success => Cause::Normal,
            reason => Cause::WithWill(reason),
        })
    }

    /// AUTH from the client: a step of re-authentication (section 4.12.1).
    fn handle_auth<'a>(&mut self, auth: Auth<'a>) -> Result<Request<'a>, SessionError> {
        let Some(authentication) = &mut self.connection.authentication else {
            return Err(SessionError::UnexpectedAuth);
        };
        let expected = match authentication.rounds {
            0 => ReasonCode::Reauthenticate,
            _ => ReasonCode::ContinueAuthentication,
        };
        let same_method = auth.properties.authentication_method == Some(&*authentication.method);
        if auth.reason != expected || !same_method || authentication.rounds >= handshake::AUTH_ROUNDS_MAX {
            return Err(SessionError::UnexpectedAuth);
        }
        authentication.rounds += 1;
        Ok(Request::Authenticate(auth))
    }

    /// Checks that SUBACK or UNSUBACK with `reasons` codes is no longer than the client takes [MQTT-3.1.2-24].
    fn check_answer_len(&self, reasons: usize) -> Result<(), SessionError> {
        let Some(maximum) = self.connection.maximum_packet_size else { return Ok(()) };
        // Five bytes of fixed header at most, the identifier, and the length of no properties.
        let len = 5 + 2 + 1 + reasons;
        if u32::try_from(len).is_ok_and(|len| len <= maximum.get()) {
            return Ok(());
        }
        Err(SessionError::AnswerTooLarge { len })
    }

    /// Gives back what traffic has allocated, if there is none now.
    fn release_idle_memory(&mut self) {
        self.inbound.take_if(|inbound| inbound.is_idle());
        self.outbound.take_if(|outbound| outbound.is_idle());
    }

    /// Checks the invariants of the module's documentation.
    fn check_invariants(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        if let Some(inbound) = &self.inbound {
            inbound.check_invariants();
        }
        if let Some(outbound) = &self.outbound {
            outbound.queue.check_invariants(&self.limits);
            outbound.window.check_invariants(self.connection.receive_maximum);
        }
    }
}

impl Connection {
    /// When the client has been silent for too long [MQTT-3.1.2-22].
    fn silence_ends(&self) -> Option<Timestamp> {
        let silence_max = u64::from(self.silence_max_millis);
        (silence_max > 0).then(|| self.last_packet + Duration::from_millis(silence_max))
    }
}

#[cfg(test)]
mod tests;
