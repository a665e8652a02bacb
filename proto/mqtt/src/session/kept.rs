//! Messages and identifiers that others keep for the session.
//!
//! The state of a *kept* session is somewhere else, where it survives its connection and this node: its subscriptions, its queue, how far the
//! delivery of each message is, and the identifiers of QoS 2 messages from the client. What is here is what the present
//! connection needs. It works like this:
//!
//! * Messages of QoS 1 and 2 come with a [`Sequence`] through [`Session::deliver_kept`], in their order and no more than
//!   the caller wants to have here. Their identifiers follow from the sequence, so that whoever has the session next sends them
//!   again under the identifiers of old [MQTT-4.4.0-1] although nobody wrote those down.
//! * What the client says of them is for those who keep them: [`Session::take_kept_report`]. PUBREL leaves only when they have
//!   noted that PUBREC has come ([`Session::handle_kept_released`]): a message that might be sent again after its PUBREL would
//!   be a second one to the client.
//! * A QoS 2 message from the client gives [`Request::Publish`] as ever, and its ticket comes back when
//!   its identifier is kept as well as the message. PUBREL gives [`Request::Release`]: PUBCOMP leaves when
//!   those who keep the identifier have forgotten it ([`Session::handle_release_kept`]).
//! * Messages of QoS 0 come through [`Session::deliver`] and end with the connection. Nothing of QoS 1 or 2 does: it would need
//!   identifiers that nobody keeps.
//!
//! When the connection ends, nothing of it is worth keeping here.

use std::{collections::VecDeque, num::NonZeroU64, sync::Arc};

use super::{
    Accepted, DeliveryOptions, Limits, Request, Session, Subscription, Ticket,
    connection::{Connection, delivery},
    inbound::{Inbound, Releasable},
    outbound::Outbound,
    window::Stage,
    wire::write_ack,
};
use crate::{
    Message, PacketId, QoS, ReasonCode, Timestamp, Transit,
    codec::SendBuffer,
    packet::{Delivery, PacketType},
};

/// The place of a message among those that are kept for a session; they increase, and are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(NonZeroU64);

impl Sequence {
    /// So many identifiers are used, from 1 on. Those of messages that are in flight somewhere follow from it, so it stays.
    pub const IDS: u16 = 49_151;

    /// The sequence with this number; none has 0.
    #[must_use]
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// Its number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// The Packet Identifier of the message.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the remainder has 16 bits")]
    pub const fn packet_id(self) -> PacketId {
        PacketId::MIN.offset((self.0.get() % Self::IDS as u64) as u16)
    }

    /// Whether none of the messages from `oldest` up to this one has the same identifier as another.
    pub(super) fn shares_no_id_since(self, oldest: Self) -> bool {
        self.get().saturating_sub(oldest.get()) < u64::from(Self::IDS)
    }
}

/// A message that is kept for a session, on its way to the client.
#[derive(Debug)]
pub struct KeptMessage<'a> {
    /// Its place in the order.
    pub sequence: Sequence,
    /// The message.
    pub message: &'a Transit<'a>,
    /// How it goes to the client; `qos` is the one in effect.
    pub options: &'a DeliveryOptions,
    /// Whether it may have been sent before [MQTT-3.3.1-1].
    pub dup: bool,
}

/// What the client has said of kept messages since it was last asked; oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeptReport {
    /// PUBREC has come: note it, then call [`Session::handle_kept_released`].
    pub released: Vec<Sequence>,
    /// Nothing more happens to them: the client is done with them, or cannot have them.
    pub done: Vec<Sequence>,
}

/// What a kept session has in addition to others.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Messages that cannot be sent yet, oldest first. Those who deliver bound them.
    waiting: VecDeque<Waiting>,
    report: KeptReport,
}

#[derive(Debug)]
enum Waiting {
    Message {
        sequence: Sequence,
        message: Arc<Message>,
        options: DeliveryOptions,
        dup: bool,
    },
    /// PUBREC came on an earlier connection.
    PubRel(Sequence),
}

impl Waiting {
    fn sequence(&self) -> Sequence {
        match self {
            Self::Message { sequence, .. } | Self::PubRel(sequence) => *sequence,
        }
    }
}

impl Session {
    /// A kept session whose client has connected; as [`Session::new`]. `received` are the identifiers of QoS 2 messages from the
    /// client that it has not released, each with whether its message is known to be kept by all who must keep it: if not, and the
    /// client sends it again, it is a message to be stored.
    #[must_use]
    pub fn kept(
        now: Timestamp,
        accepted: Accepted,
        limits: Arc<Limits>,
        subscriptions: impl IntoIterator<Item = Subscription>,
        received: impl IntoIterator<Item = (PacketId, bool)>,
    ) -> Self {
        let mut session = Self::new(now, accepted, limits);
        for subscription in subscriptions {
            session.subscriptions.insert(subscription);
        }
        let inbound = Inbound::restore_kept(received);
        session.inbound = (!inbound.is_idle()).then(|| Box::new(inbound));
        session.kept = Some(Box::default());
        session
    }

    /// Whether others keep what must survive the connection.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// Kept messages that wait here until they can be sent.
    #[must_use]
    pub fn kept_waiting_len(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.waiting.len())
    }

    /// Takes a message that is kept for this session, and sends it as soon as possible. The caller gives them in their order,
    /// each once on a connection.
    pub fn deliver_kept(&mut self, now: Timestamp, message: &KeptMessage<'_>, out: &mut SendBuffer) {
        let receive_maximum = self.connection.receive_maximum;
        if let Some(kept) = &mut self.kept {
            let outbound =
                self.outbound.get_or_insert_with(|| Box::new(Outbound::new(&self.limits, receive_maximum)));
            let has_room = kept.waiting.is_empty()
                && out.len() < self.limits.output_buffer_max
                && has_room(outbound, message.options, message.sequence);
            if has_room {
                kept.send(now, &mut self.connection, outbound, out, message);
                self.check_invariants();
                return;
            }
        }
        let KeptMessage { sequence, message, options, dup } = message;
        self.wait(Waiting::Message {
            sequence: *sequence,
            message: message.keep(),
            options: (*options).clone(),
            dup: *dup,
        });
    }

    /// The client does not get a message that is kept for this session, and that was not sent before: it is reported as done.
    pub fn pass_over_kept(&mut self, sequence: Sequence) {
        self.note_done(Some(sequence));
    }

    /// The PUBREL of a kept message whose PUBREC came on an earlier connection is due, in the order of the messages.
    pub fn resume_kept_release(&mut self, now: Timestamp, sequence: Sequence, out: &mut SendBuffer) {
        self.wait(Waiting::PubRel(sequence));
        self.pump(now, out);
    }

    fn wait(&mut self, waiting: Waiting) {
        let receive_maximum = self.connection.receive_maximum;
        let Some(kept) = &mut self.kept else { return };
        self.outbound.get_or_insert_with(|| Box::new(Outbound::new(&self.limits, receive_maximum)));
        debug_assert!(kept.waiting.back().is_none_or(|last| last.sequence() < waiting.sequence()));
        kept.waiting.push_back(waiting);
    }

    /// Those who keep the message have noted that PUBREC has come: PUBREL is due.
    pub fn handle_kept_released(&mut self, sequence: Sequence, out: &mut SendBuffer) {
        let version = self.version();
        let Some(outbound) = &mut self.outbound else { return };
        let Some(index) = outbound.window.position_of(sequence) else { return };
        if matches!(outbound.window.stage(index), Stage::Releasing) {
            outbound.window.release(index);
            write_ack(PacketType::PubRel, sequence.packet_id(), ReasonCode::Success, version, out);
        }
    }

    /// What the client has said of kept messages since this was last asked.
    pub fn take_kept_report(&mut self) -> KeptReport {
        self.kept.as_mut().map(|kept| std::mem::take(&mut kept.report)).unwrap_or_default()
    }

    /// Those who keep the identifier of a QoS 2 message from the client have forgotten it: PUBCOMP is due.
    pub fn handle_release_kept(&mut self, id: PacketId, out: &mut SendBuffer) {
        let version = self.version();
        let Some(inbound) = &mut self.inbound else { return };
        if inbound.finish_release(id) {
            write_ack(PacketType::PubComp, id, ReasonCode::Success, version, out);
        }
        self.check_invariants();
    }

    /// PUBREL of a kept session.
    pub(super) fn handle_kept_pubrel(&mut self, id: PacketId, out: &mut SendBuffer) -> Request<'static> {
        let found = self.inbound.as_mut().map_or(Releasable::Unknown, |inbound| inbound.begin_release(id));
        match found {
            Releasable::Now => Request::Release(id),
            Releasable::UnderWay => Request::Nothing,
            Releasable::Unknown => {
                let reason = ReasonCode::PacketIdentifierNotFound;
                write_ack(PacketType::PubComp, id, reason, self.version(), out);
                Request::Nothing
            }
        }
    }

    /// The identifiers of QoS 2 messages from the client that are kept by all who must keep them, and not released.
    #[must_use]
    pub fn stored_ids(&self) -> Vec<PacketId> {
        let inbound = self.inbound.as_ref();
        inbound.map_or_else(Vec::new, |inbound| inbound.stored().collect())
    }

    /// The identifier of the QoS 2 message that waits for `ticket`.
    #[must_use]
    pub fn packet_id_of(&self, ticket: Ticket) -> Option<PacketId> {
        self.inbound.as_ref()?.packet_id_of(ticket)
    }

    /// Notes that PUBREC has come for the message at this place of the window.
    pub(super) fn begin_release(&mut self, index: usize) {
        let (Some(outbound), Some(kept)) = (&mut self.outbound, &mut self.kept) else { return };
        outbound.window.begin_release(index);
        kept.report.released.extend(outbound.window.kept(index));
    }

    /// Notes that the delivery of a message is over; whether others wait for its place.
    pub(super) fn note_done(&mut self, sequence: Option<Sequence>) -> bool {
        let Some(kept) = &mut self.kept else { return false };
        kept.report.done.extend(sequence);
        !kept.waiting.is_empty()
    }
}

/// Whether a message may be sent now. QoS 0 has no part in the window.
fn has_room(outbound: &Outbound, options: &DeliveryOptions, sequence: Sequence) -> bool {
    options.qos == QoS::AtMostOnce || outbound.window.has_room_for(sequence)
}

impl Kept {
    /// Sends what waits, as far as window and send buffer allow.
    pub(super) fn send_waiting(
        &mut self,
        now: Timestamp,
        connection: &mut Connection,
        outbound: &mut Outbound,
        out: &mut SendBuffer,
        output_buffer_max: usize,
    ) {
        while let Some(next) = self.waiting.front() {
            let sequence = next.sequence();
            let has_room = match next {
                Waiting::Message { options, .. } => has_room(outbound, options, sequence),
                Waiting::PubRel(_) => outbound.window.has_room_for(sequence),
            };
            if out.len() >= output_buffer_max || !has_room {
                return;
            }
            match self.waiting.pop_front() {
                Some(Waiting::PubRel(_)) => {
                    let id = sequence.packet_id();
                    write_ack(PacketType::PubRel, id, ReasonCode::Success, connection.version, out);
                    outbound.window.push_kept(sequence, Stage::Released);
                }
                Some(Waiting::Message { message, options, dup, .. }) => {
                    let message = &Transit::from_message(&message);
                    let kept = KeptMessage { sequence, message, options: &options, dup };
                    self.send(now, connection, outbound, out, &kept);
                }
                None => return,
            }
        }
    }

    fn send(
        &mut self,
        now: Timestamp,
        connection: &mut Connection,
        outbound: &mut Outbound,
        out: &mut SendBuffer,
        kept: &KeptMessage<'_>,
    ) {
        let KeptMessage { sequence, message, options, dup } = kept;
        let (sequence, dup, exactly_once) = (*sequence, *dup, options.qos == QoS::ExactlyOnce);
        // What may have been sent is finished, for its delivery has begun [MQTT-4.3.3-7].
        if !dup && message.expires_at.is_some_and(|at| at <= now) {
            outbound.report.expired += 1;
            self.report.done.push(sequence);
            return;
        }
        if options.qos == QoS::AtMostOnce {
            self.report.done.push(sequence);
            // What may have been sent is not sent again.
            if !dup && connection.send(now, message, options, Delivery::AtMostOnce, out).is_ok() {
                outbound.report.sent[QoS::AtMostOnce as usize] += 1;
            }
            return;
        }
        let how = delivery(options.qos, sequence.packet_id(), dup);
        if connection.send(now, message, options, how, out).is_ok() {
            outbound.report.sent[options.qos as usize] += 1;
            let stage = if exactly_once { Stage::ExactlyOnce } else { Stage::AtLeastOnce { shared: None } };
            outbound.window.push_kept(sequence, stage);
            return;
        }
        // Too large for this connection: on as if it had been sent [MQTT-3.1.2-25]. The client may have it from an earlier
        // one and hold its identifier, which must not meet another message before PUBREL.
        outbound.report.too_large += 1;
        if exactly_once && dup {
            outbound.window.push_kept(sequence, Stage::Releasing);
            self.report.released.push(sequence);
        } else {
            self.report.done.push(sequence);
        }
    }
}
