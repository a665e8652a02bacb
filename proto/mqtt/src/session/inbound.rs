//! Messages from the client.
//!
//! Rules, where the specification leaves a choice:
//!
//! * A PUBLISH to `$SYS`, `$share` or `$queue` (0x87) or with too many levels (0x90) is refused without closing: QoS 1
//!   and 2 of 5.0 are told, everything else is acknowledged and dropped. A 3.1.1 client would send it again after each
//!   reconnect if it were not acknowledged.
//! * A PUBLISH of QoS 2 with an identifier that is in use is the same message again, with DUP or without: it is
//!   answered, not routed. At QoS 1 nothing is remembered: what comes twice is routed twice. The two do not share
//!   identifiers here, so that a client that mixes them up harms only itself.
//! * A PUBREL for a message whose PUBREC has not been sent is answered as one for an unknown message.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{
    Incoming, IncomingTopic, Request, Session, SessionError, Ticket,
    wire::{allowed, write_ack},
};
use crate::{
    PacketId, ProtocolVersion, ReasonCode, Timestamp,
    codec::SendBuffer,
    packet::{Delivery, PacketType, Publish},
    topic::{check_name, is_publishable},
};

/// What a session remembers of the messages from its client; absent while there is nothing to remember.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    /// Topics by alias, from 1; of this connection only [MQTT-3.3.2-7].
    aliases: Vec<Option<Arc<str>>>,
    /// Publishes whose PUBACK or PUBREC has not been sent, oldest first. Acknowledgements leave in the order of the
    /// publishes, as clients must do it too [MQTT-4.6.0-2] [MQTT-4.6.0-3], whatever the order in which they are stored.
    unanswered: VecDeque<Unanswered>,
    /// The number of the oldest of them within the connection.
    first_sequence: u32,
    /// What [`Self::first_sequence`] was when it was looked at last, and when that was.
    progress: (u32, Timestamp),
    /// QoS 2 messages whose identifier is taken until PUBREL, oldest first [MQTT-4.3.3-10].
    received: VecDeque<Received>,
    /// How many of `received`, at the front, are from earlier connections of a kept session.
    carried: usize,
    /// Publishes of this connection that count against Receive Maximum.
    outstanding: u16,
}

/// A PUBLISH that waits for its PUBACK or PUBREC.
#[derive(Debug)]
struct Unanswered {
    id: PacketId,
    kind: Kind,
    /// The code of the answer, once it is known.
    outcome: Option<ReasonCode>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    AtLeastOnce,
    ExactlyOnce,
    /// QoS 2 that was sent again: it has no ticket of its own and does not count.
    Repeat,
    /// One that needs no answer any more, for its PUBREL has come.
    Released,
}

/// A QoS 2 message that the client has not released.
#[derive(Debug)]
struct Received {
    id: PacketId,
    state: Receipt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receipt {
    /// Its ticket has not come back.
    Storing,
    /// It is stored, and its PUBREC has not been sent.
    Stored,
    /// Its PUBREC has been sent, now or on an earlier connection.
    Acknowledged,
    /// In a kept session, from an earlier connection: it may be stored, and its PUBREC may have been sent. If the client sends
    /// it again, it is stored again, and whoever has it already knows.
    Restored,
    /// In a kept session: PUBREL has come, and those who keep the identifier are to forget it.
    Releasing,
}

/// What PUBREL finds in a kept session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Releasable {
    Now,
    UnderWay,
    Unknown,
}

impl Session {
    pub(super) fn handle_publish<'a>(
        &mut self,
        now: Timestamp,
        publish: Publish<'a>,
        out: &mut SendBuffer,
    ) -> Result<Request<'a>, SessionError> {
        let topic = self.resolve_topic(&publish)?;
        let refusal = self.refusal(topic.as_str());
        let (id, kind) = match publish.delivery {
            Delivery::AtMostOnce => {
                return Ok(match refusal {
                    None => Request::Publish(Incoming { topic, publish }, None),
                    Some(reason) => Request::Refused(reason),
                });
            }
            Delivery::AtLeastOnce { id, .. } => (id, Kind::AtLeastOnce),
            Delivery::ExactlyOnce { id, .. } => (id, Kind::ExactlyOnce),
        };
        let version = self.version();
        let inbound = self.inbound.get_or_insert_default();
        if inbound.unanswered.is_empty() {
            inbound.progress = (inbound.first_sequence, now);
        }
        let exactly_once = kind == Kind::ExactlyOnce;
        if exactly_once {
            inbound.forget_restored(id);
            if inbound.handle_repeat(id, version, out) {
                return Ok(Request::Nothing);
            }
        }
        inbound.check_room(version, self.limits.receive_maximum.get())?;
        let mut refusal = refusal;
        if exactly_once && inbound.received.len() >= usize::from(self.limits.awaiting_rel_max) {
            if !version.is_v5() {
                return Err(SessionError::ReceiveMaximumExceeded { limit: self.limits.awaiting_rel_max });
            }
            // Within its Receive Maximum the client did nothing wrong: identifiers of earlier connections fill the table.
            refusal = refusal.or(Some(ReasonCode::QuotaExceeded));
        }
        let ticket = inbound.begin(id, kind);
        match refusal {
            None => Ok(Request::Publish(Incoming { topic, publish }, Some(ticket))),
            Some(reason) => {
                inbound.settle(ticket, reason, version);
                inbound.answer(version, out);
                Ok(Request::Refused(reason))
            }
        }
    }

    /// Replaces a topic alias by its topic, and learns new ones.
    fn resolve_topic<'a>(&mut self, publish: &Publish<'a>) -> Result<IncomingTopic<'a>, SessionError> {
        let Some(alias) = publish.properties.topic_alias.map(std::num::NonZeroU16::get) else {
            return Ok(IncomingTopic::Packet(publish.topic));
        };
        let maximum = self.limits.topic_alias_max;
        if alias > maximum {
            return Err(SessionError::TopicAliasInvalid { alias, maximum }); // [MQTT-3.3.2-9]
        }
        let aliases = &mut self.inbound.get_or_insert_default().aliases;
        let index = usize::from(alias) - 1;
        if publish.topic.is_empty() {
            let topic = aliases.get(index).cloned().flatten();
            return topic.map(IncomingTopic::Alias).ok_or(SessionError::TopicAliasUnknown { alias });
        }
        if aliases.len() <= index {
            aliases.resize(index + 1, None);
        }
        if aliases[index].as_deref() != Some(publish.topic) {
            aliases[index] = Some(publish.topic.into());
        }
        Ok(IncomingTopic::Packet(publish.topic))
    }

    /// Why nobody gets what is published to this topic.
    fn refusal(&self, topic: &str) -> Option<ReasonCode> {
        if topic.starts_with('$') && !is_publishable(topic) {
            return Some(ReasonCode::NotAuthorized);
        }
        // The decoder has checked all but our own limit, and a short topic is within that.
        let max_levels = self.limits.max_topic_levels;
        let is_deep = topic.len() >= usize::from(max_levels) && check_name(topic, max_levels).is_err();
        is_deep.then_some(ReasonCode::TopicNameInvalid)
    }

    pub(super) fn handle_pubrel(&mut self, id: PacketId, out: &mut SendBuffer) -> Request<'static> {
        if self.is_kept() {
            return self.handle_kept_pubrel(id, out);
        }
        let known = self.inbound.as_mut().is_some_and(|inbound| inbound.release(id));
        let reason = if known { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound };
        write_ack(PacketType::PubComp, id, reason, self.version(), out);
        Request::Nothing
    }
}

impl Unanswered {
    /// Whether the answer to it is the one that the QoS 2 message with this identifier waits for.
    fn answers(&self, id: PacketId) -> bool {
        let is_qos2 = matches!(self.kind, Kind::ExactlyOnce | Kind::Repeat);
        is_qos2 && self.id == id && !self.outcome.is_some_and(ReasonCode::is_error)
    }
}

impl Inbound {
    /// Whether a PUBLISH of QoS 2 is one that is known already [MQTT-4.3.3-10]; then it is answered, at once or when the
    /// first one is.
    fn handle_repeat(&mut self, id: PacketId, version: ProtocolVersion, out: &mut SendBuffer) -> bool {
        if !self.received.iter().any(|received| received.id == id) {
            return false;
        }
        if !self.unanswered.iter().any(|publish| publish.answers(id)) {
            let outcome = Some(ReasonCode::Success);
            self.unanswered.push_back(Unanswered { id, kind: Kind::Repeat, outcome });
            self.answer(version, out);
        }
        true
    }

    /// Checks what a client may have sent without an acknowledgement [MQTT-3.3.4-7].
    fn check_room(&self, version: ProtocolVersion, receive_maximum: u16) -> Result<(), SessionError> {
        // 3.1 and 3.1.1 have no Receive Maximum: `Session::is_saturated` holds such clients back, and this is the end
        // for a caller that does not ask.
        let limit = if version.is_v5() { receive_maximum } else { u16::MAX };
        if self.outstanding >= limit || self.unanswered.len() >= UNANSWERED_MAX {
            return Err(SessionError::ReceiveMaximumExceeded { limit });
        }
        Ok(())
    }

    /// Takes the identifier of a new message.
    fn begin(&mut self, id: PacketId, kind: Kind) -> Ticket {
        let waiting = u32::try_from(self.unanswered.len()).expect("UNANSWERED_MAX fits");
        let ticket = Ticket(self.first_sequence.wrapping_add(waiting));
        self.unanswered.push_back(Unanswered { id, kind, outcome: None });
        if kind == Kind::ExactlyOnce {
            self.received.push_back(Received { id, state: Receipt::Storing });
        }
        self.outstanding += 1;
        ticket
    }

    /// The message of `ticket` is stored, or will never be.
    pub(super) fn handle_stored(
        &mut self,
        ticket: Ticket,
        reason: ReasonCode,
        version: ProtocolVersion,
        out: &mut SendBuffer,
    ) {
        self.settle(ticket, reason, version);
        self.answer(version, out);
    }

    /// The place of a PUBLISH among those that are not answered; beyond the last, if it is.
    fn place_of(&self, ticket: Ticket) -> usize {
        ticket.0.wrapping_sub(self.first_sequence) as usize
    }

    /// Writes down the outcome of a PUBLISH.
    fn settle(&mut self, ticket: Ticket, reason: ReasonCode, version: ProtocolVersion) {
        let index = self.place_of(ticket);
        let Some(publish) = self.unanswered.get_mut(index) else { return };
        if publish.outcome.is_some() || publish.kind == Kind::Repeat {
            return;
        }
        // 3.1.1 cannot say no: the message is acknowledged, and for QoS 2 its identifier is held until PUBREL.
        let reason = if version.is_v5() { allowed(reason, PacketType::PubAck) } else { ReasonCode::Success };
        publish.outcome = Some(reason);
        if publish.kind == Kind::ExactlyOnce {
            let id = publish.id;
            self.set_received(id, reason);
        }
    }

    /// Marks a QoS 2 message as stored, or frees its identifier: a PUBREC with an error ends it (section 4.3.3).
    fn set_received(&mut self, id: PacketId, reason: ReasonCode) {
        // The newest is by far the likeliest.
        let Some(index) = self.received.iter().rposition(|received| received.id == id) else { return };
        if !reason.is_error() {
            self.received[index].state = Receipt::Stored;
            return;
        }
        self.received.remove(index);
        // It still counts against Receive Maximum, until its PUBREC is sent.
    }

    /// Sends the acknowledgements that are due, in order.
    fn answer(&mut self, version: ProtocolVersion, out: &mut SendBuffer) {
        while let Some(Unanswered { outcome: Some(reason), .. }) = self.unanswered.front() {
            let reason = *reason;
            let Some(publish) = self.unanswered.pop_front() else { return };
            self.first_sequence = self.first_sequence.wrapping_add(1);
            match publish.kind {
                Kind::Released => continue,
                Kind::AtLeastOnce => {
                    write_ack(PacketType::PubAck, publish.id, reason, version, out);
                    self.outstanding -= 1;
                    continue;
                }
                Kind::ExactlyOnce | Kind::Repeat => {
                    write_ack(PacketType::PubRec, publish.id, reason, version, out);
                }
            }
            if reason.is_error() {
                self.outstanding -= u16::from(publish.kind == Kind::ExactlyOnce);
                continue;
            }
            let received = self.received.iter_mut().rfind(|received| received.id == publish.id);
            if let Some(received) = received {
                received.state = Receipt::Acknowledged;
            }
        }
    }

    /// PUBREL: frees an identifier; whether there was one to free.
    fn release(&mut self, id: PacketId) -> bool {
        let Some(index) = self.received.iter().position(|received| received.id == id) else { return false };
        if self.received[index].state != Receipt::Acknowledged {
            return false;
        }
        self.remove_received(index, id);
        true
    }

    fn remove_received(&mut self, index: usize, id: PacketId) {
        self.received.remove(index);
        if index < self.carried {
            self.carried -= 1;
        } else {
            self.outstanding -= 1;
        }
        // The PUBREC of a repetition that waits for its turn is not needed any more, and would be taken for that of the
        // next message with this identifier.
        if let Some(repeat) = self.unanswered.iter_mut().find(|publish| publish.answers(id)) {
            repeat.kind = Kind::Released;
        }
    }

    /// PUBREL in a kept session: its identifier may be forgotten.
    pub(super) fn begin_release(&mut self, id: PacketId) -> Releasable {
        let Some(received) = self.received.iter_mut().find(|received| received.id == id) else {
            return Releasable::Unknown;
        };
        match received.state {
            Receipt::Storing | Receipt::Stored => Releasable::Unknown,
            Receipt::Releasing => Releasable::UnderWay,
            Receipt::Acknowledged | Receipt::Restored => {
                received.state = Receipt::Releasing;
                Releasable::Now
            }
        }
    }

    /// The identifier has been forgotten by those who keep it; whether it was to be.
    pub(super) fn finish_release(&mut self, id: PacketId) -> bool {
        let Some(index) = self.received.iter().position(|received| received.id == id) else { return false };
        let is_releasing = self.received[index].state == Receipt::Releasing;
        if is_releasing {
            self.remove_received(index, id);
        }
        is_releasing
    }

    /// The client sends a message of an earlier connection again, of which it is not known whether it is stored: that begins
    /// anew.
    fn forget_restored(&mut self, id: PacketId) {
        let is_it = |received: &Received| received.id == id && received.state == Receipt::Restored;
        if let Some(index) = self.received.iter().position(is_it) {
            self.received.remove(index);
            self.carried -= 1;
        }
    }

    /// The identifier of the QoS 2 message that waits for a ticket.
    pub(super) fn packet_id_of(&self, ticket: Ticket) -> Option<PacketId> {
        let publish = self.unanswered.get(self.place_of(ticket))?;
        (publish.kind == Kind::ExactlyOnce).then_some(publish.id)
    }

    /// When the oldest PUBLISH that is not answered will have waited for `limit`, or before: whether answers have left since
    /// is looked at then.
    pub(super) fn answers_due(&self, limit: Option<Duration>) -> Option<Timestamp> {
        limit.filter(|_| !self.unanswered.is_empty()).map(|limit| self.progress.1 + limit)
    }

    /// Whether publishes have waited for `limit`, and none of them was answered.
    pub(super) fn is_stuck(&mut self, now: Timestamp, limit: Option<Duration>) -> bool {
        if self.answers_due(limit).is_none_or(|due| due > now) {
            return false;
        }
        let is_stuck = self.progress.0 == self.first_sequence;
        self.progress = (self.first_sequence, now);
        is_stuck
    }

    /// What is remembered of the QoS 2 messages of a kept session.
    pub(super) fn restore_kept(received: impl IntoIterator<Item = (PacketId, bool)>) -> Self {
        let state = |is_stored| if is_stored { Receipt::Acknowledged } else { Receipt::Restored };
        let received: VecDeque<_> =
            received.into_iter().map(|(id, is_stored)| Received { id, state: state(is_stored) }).collect();
        Self { carried: received.len(), received, ..Self::default() }
    }

    /// The identifiers of QoS 2 messages that are stored and not released, oldest first.
    pub(super) fn stored(&self) -> impl Iterator<Item = PacketId> {
        let is_stored =
            |received: &&Received| !matches!(received.state, Receipt::Storing | Receipt::Restored);
        self.received.iter().filter(is_stored).map(|received| received.id)
    }

    /// Publishes whose PUBACK or PUBREC has not been sent.
    pub(super) fn unanswered_len(&self) -> usize {
        self.unanswered.len()
    }

    /// Whether nothing would be lost with it.
    pub(super) fn is_idle(&self) -> bool {
        self.unanswered.is_empty() && self.received.is_empty() && self.aliases.is_empty()
    }

    pub(super) fn check_invariants(&self) {
        assert!(self.carried <= self.received.len(), "what is carried over is part of what is received");
        let of_this_connection = self.received.len() - self.carried;
        let unacknowledged = self.unanswered.iter().filter(|publish| {
            let failed = publish.outcome.is_some_and(ReasonCode::is_error);
            publish.kind == Kind::AtLeastOnce || (publish.kind == Kind::ExactlyOnce && failed)
        });
        assert_eq!(
            usize::from(self.outstanding),
            of_this_connection + unacknowledged.count(),
            "publishes counted"
        );
        assert!(self.unanswered.front().is_none_or(|first| first.outcome.is_none()), "an answer is due");
        for (index, received) in self.received.iter().enumerate() {
            let id = received.id;
            assert!(self.received.iter().skip(index + 1).all(|other| other.id != id), "{id} is held once");
            let waits = self.unanswered.iter().filter(|publish| publish.answers(id)).count();
            assert!(waits <= 1, "{id} is answered once");
            assert!(received.state != Receipt::Storing || waits == 1, "{id} waits for a ticket");
        }
    }
}

/// What may wait for an acknowledgement on one connection, repetitions included.
const UNANSWERED_MAX: usize = u16::MAX as usize;
