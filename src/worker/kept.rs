//! Sessions that a shard keeps.
//!
//! What must survive this node is in the shard of the client; here is what the present connection needs. Messages of QoS 1 and 2
//! come from the shard's leader, in order; what the client says of them, and what it subscribes to, goes there and is answered
//! when it is committed. When the connection ends, the session is gone from here, and from the groups that it is a member of.

use std::{cmp::Reverse, collections::VecDeque, sync::Arc, time::Duration};

use flotilla_lane::Origin;
use flotilla_mqtt::{
    Message, PacketId, QoS, ReasonCode, Timestamp, Transit,
    session::{
        Accepted, Cause, DeliveryOptions, DropReason, KeptMessage, Limits, Sequence, Session, SessionExpiry,
        Ticket,
    },
};
use flotilla_shard::{Answer, Connection, Op, OpenedSession, Seq, SessionId, WillFate};
use flotilla_state::{ConnectionEpoch, ShardId};
use tokio::sync::oneshot;

use super::Worker;
use crate::{
    cluster::{Awaited, Completion, Kept},
    router::SessionRef,
    shards::Shards,
};

/// What a shard keeps of a session that is connected here.
#[derive(Debug)]
pub(super) struct KeptEntry {
    pub(super) shard: ShardId,
    pub(super) connection: Connection,
    /// The session, unless the shard has the will of the connection alone.
    pub(super) session: Option<KeptSession>,
    /// Told when the shard knows that the connection has ended.
    closed: Option<oneshot::Sender<Answer>>,
}

/// A session that is in a shard.
#[derive(Debug)]
pub(super) struct KeptSession {
    id: SessionId,
    /// The next message that is expected; what is before it has come.
    next: Seq,
    /// Messages before this one may have been sent on an earlier connection.
    maybe_sent_until: Seq,
    /// The term of the leader that was asked for messages.
    term: u64,
    /// QoS 2 messages from the client that wait for their numbers, and those of QoS 1 behind them.
    receiving: VecDeque<Receiving>,
    /// Messages whose PUBREL waits until the shard has noted their PUBREC, in the order in which it was told.
    releasing: VecDeque<Vec<Sequence>>,
    /// Whether the client has said something that the shard has not been told.
    is_dirty: bool,
}

/// A message from the client that is not on its way yet: one that wants a number, or has come behind one that does.
#[derive(Debug)]
struct Receiving {
    ticket: Ticket,
    message: Arc<Message>,
    number: Number,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    /// The shard has not answered.
    Awaited,
    Known(Option<Origin>),
    /// It does not take the message.
    Refused,
}

/// A message from a shard for one session, or the PUBREL of one.
#[derive(Debug, Clone)]
pub(crate) struct KeptDelivery {
    pub(crate) term: u64,
    pub(crate) epoch: ConnectionEpoch,
    pub(crate) turn: u32,
    pub(crate) sequence: Sequence,
    /// `None`: its PUBREL is due.
    pub(crate) options: Option<DeliveryOptions>,
}

/// How long a session stays at least when another connection of its client takes it over, which may take a while on a busy cluster.
const TAKEOVER_EXPIRY: Duration = Duration::from_secs(30);

/// About what an op takes beside what it carries.
const OP_BYTES: usize = 96;

impl KeptEntry {
    pub(super) fn new(kept: &Kept) -> Self {
        let session = |session: &OpenedSession| KeptSession {
            id: session.id,
            next: session.head,
            maybe_sent_until: session.maybe_sent_until,
            term: 0,
            receiving: VecDeque::new(),
            releasing: VecDeque::new(),
            is_dirty: false,
        };
        Self {
            shard: kept.shard,
            connection: kept.connection.clone(),
            session: kept.session.as_ref().map(session),
            closed: None,
        }
    }

    /// Tells the shard what the client has said.
    fn tell(&mut self, shards: &Shards, here: SessionRef, of: &mut Session) {
        let Some(session) = &mut self.session else { return };
        session.is_dirty = false;
        let report = of.take_kept_report();
        let seqs =
            |sequences: &[Sequence]| sequences.iter().map(|sequence| Seq(sequence.get())).collect::<Vec<_>>();
        let (released, done) = (seqs(&report.released), seqs(&report.done));
        if released.is_empty() && done.is_empty() {
            return;
        }
        let bytes = OP_BYTES + 8 * (released.len() + done.len());
        // PUBREL waits for the answer; several at once wait for the same.
        let who = (!released.is_empty()).then(|| {
            session.releasing.push_back(report.released);
            Completion { session: here, what: Awaited::Released }
        });
        let op = Op::Acknowledge { connection: self.connection.clone(), released, done };
        shards.ask(self.shard, op, bytes, who);
    }

    /// The next message of the session that is expected, if the shard has the session.
    pub(super) fn next(&self) -> Option<Seq> {
        self.session.as_ref().map(|session| session.next)
    }
}

impl Worker {
    /// The session has its connection: its subscriptions count here, and its messages may come.
    pub(super) fn begin_kept(&mut self, slot: u32) {
        let here = self.session_ref(slot);
        let Some(entry) = self.sessions.entry(slot) else { return };
        let mut subscriptions: Vec<_> = entry.session.subscriptions().cloned().collect();
        // What matches a message meanwhile has the QoS of all of them, or nothing: the shard's copy is the only one of QoS 1 or 2.
        subscriptions.sort_by_key(|subscription| Reverse(subscription.options.qos));
        for subscription in subscriptions {
            let filter = &subscription.filter;
            let change = self.make_known(here, &subscription);
            self.node.cluster.announce(filter, change, None);
            self.metrics().subscriptions.increment();
            if filter.is_shared() {
                self.metrics().shared_subscriptions.increment();
            }
        }
        self.attach_kept(slot);
    }

    /// Asks the leader of the shard for the messages of a session.
    fn attach_kept(&mut self, slot: u32) {
        let Some(shards) = self.node.cluster.shards() else { return };
        let Some(kept) = self.sessions.entry(slot).and_then(|entry| entry.kept.as_deref_mut()) else {
            return;
        };
        if let Some(session) = &mut kept.session {
            session.term = shards.term(kept.shard);
            shards.attach(kept.shard, kept.connection.clone(), session.next, session.maybe_sent_until);
        }
    }

    /// A shard has another leader: its sessions here ask it for their messages.
    pub(super) fn attach_all(&mut self, shard: ShardId) {
        let slots: Vec<u32> = self.sessions.occupied().collect();
        for slot in slots {
            let kept = self.sessions.entry(slot).and_then(|entry| entry.kept.as_ref());
            let is_its = kept.is_some_and(|kept| kept.shard == shard);
            if is_its {
                self.attach_kept(slot);
            }
        }
    }

    /// A message of a shard for one session.
    pub(super) fn deliver_kept(&mut self, to: SessionRef, delivery: &KeptDelivery, message: &Transit<'_>) {
        let now = self.now;
        let Some(entry) = self.sessions.entry_of(to.slot, to.epoch) else { return };
        let Some(kept) = entry.kept.as_deref_mut() else { return };
        let Connection { epoch, turn, .. } = kept.connection;
        let is_meant = (epoch, turn) == (delivery.epoch, delivery.turn);
        let Some(session) = kept.session.as_mut().filter(|session| is_meant && session.term == delivery.term)
        else {
            return;
        };
        let seq = Seq(delivery.sequence.get());
        if seq < session.next {
            return; // It came from the leader before.
        }
        session.next = Seq(seq.0 + 1);
        let dup = seq < session.maybe_sent_until;
        // One of a replay is marked as retained, and is not to be retained. What the client may have is not taken from it.
        let is_direct = !dup && !message.retain && delivery.options.as_ref().is_some_and(|it| it.retain);
        let is_old = is_direct && self.meet_direct(to.slot, seq, message);
        let Some(entry) = self.sessions.entry(to.slot) else { return };
        let link = &mut entry.link;
        if link.out.is_empty() && !link.out.has_storage() {
            link.out.lend_storage(self.spare.take());
        }
        match &delivery.options {
            None => entry.session.resume_kept_release(now, delivery.sequence, &mut link.out),
            Some(_) if is_old => entry.session.pass_over_kept(delivery.sequence),
            Some(options) => {
                let kept = KeptMessage { sequence: delivery.sequence, message, options, dup };
                entry.session.deliver_kept(now, &kept, &mut link.out);
            }
        }
        self.pass(to, message);
        self.directs_come(to.slot);
        self.note_kept(to.slot);
        self.note_progress(to.slot);
        self.take_back_storage(to.slot);
    }

    /// What the client has said is told to the shard at the end of the turn.
    pub(super) fn note_kept(&mut self, slot: u32) {
        let Some(entry) = self.sessions.entry(slot) else { return };
        let Some(session) = entry.kept.as_deref_mut().and_then(|kept| kept.session.as_mut()) else { return };
        if !session.is_dirty {
            session.is_dirty = true;
            self.kept_dirty.push(slot);
            self.wake_flusher();
        }
    }

    /// Tells the shards what clients have said in this turn.
    pub(super) fn hand_over_kept(&mut self) {
        for slot in std::mem::take(&mut self.kept_dirty) {
            self.tell_kept(slot);
        }
    }

    pub(super) fn tell_kept(&mut self, slot: u32) {
        let here = self.session_ref(slot);
        let Some(shards) = self.node.cluster.shards() else { return };
        let Some(entry) = self.sessions.entry(slot) else { return };
        if let Some(kept) = entry.kept.as_deref_mut() {
            kept.tell(shards, here, &mut entry.session);
        }
    }

    /// Takes a message from the client of a kept session, if it has to wait. One of QoS 2 gets its number first, so that it counts
    /// once. One of QoS 1 must not overtake those, for the two may reach a subscriber at the same QoS [MQTT-4.6.0-6].
    pub(super) fn receive_kept(
        &mut self,
        slot: u32,
        ticket: Ticket,
        qos: QoS,
        message: &Transit<'_>,
    ) -> bool {
        let here = self.session_ref(slot);
        let Some(entry) = self.sessions.entry(slot) else { return false };
        let Some(kept) = entry.kept.as_deref_mut() else { return false };
        let Some(session) = &mut kept.session else { return false };
        let number = match entry.session.packet_id_of(ticket).filter(|_| qos == QoS::ExactlyOnce) {
            Some(packet_id) => {
                let op = Op::Receive { connection: kept.connection.clone(), packet_id };
                let who = Completion { session: here, what: Awaited::Received(ticket) };
                if let Some(shards) = self.node.cluster.shards() {
                    shards.ask(kept.shard, op, OP_BYTES, Some(who));
                }
                Number::Awaited
            }
            None if session.receiving.is_empty() => return false,
            None => Number::Known(None),
        };
        session.receiving.push_back(Receiving { ticket, message: message.keep(), number });
        true
    }

    /// PUBREL of a kept session.
    pub(super) fn release_kept(&mut self, slot: u32, packet_id: PacketId) {
        let here = self.session_ref(slot);
        let Some(shards) = self.node.cluster.shards() else { return };
        let Some(kept) = self.sessions.entry(slot).and_then(|entry| entry.kept.as_deref()) else { return };
        let op = Op::Release { connection: kept.connection.clone(), packet_id };
        let who = Completion { session: here, what: Awaited::Forgotten(packet_id) };
        shards.ask(kept.shard, op, OP_BYTES, Some(who));
    }

    /// Whether the shard of a session must be told of its subscriptions.
    pub(super) fn is_kept(&mut self, slot: u32) -> bool {
        self.sessions.entry(slot).is_some_and(|entry| entry.session.is_kept())
    }

    /// Tells the shard of a session what it subscribes to, or no longer. `who` waits until that is committed and known.
    pub(super) fn tell_shard(
        &mut self,
        slot: u32,
        bytes: usize,
        who: Completion,
        op: impl FnOnce(Connection) -> Op,
    ) {
        let Some(shards) = self.node.cluster.shards() else { return };
        let Some(kept) = self.sessions.entry(slot).and_then(|entry| entry.kept.as_deref()) else { return };
        shards.ask(kept.shard, op(kept.connection.clone()), OP_BYTES + bytes, Some(who));
    }

    /// Asks the shard of a session to keep what the broker says of itself on this node. Where the shard takes no more, it is dropped.
    pub(super) fn keep_own(&mut self, slot: u32, message: &Transit<'_>, options: DeliveryOptions) {
        let Some(shards) = self.node.cluster.shards() else { return };
        let Some(kept) = self.sessions.entry(slot).and_then(|entry| entry.kept.as_deref()) else { return };
        if shards.is_congested(kept.shard) {
            return self.count_drop(DropReason::QueueFull, 1);
        }
        let (connection, message) = (kept.connection.clone(), message.keep());
        let bytes = OP_BYTES + message.size();
        shards.ask(kept.shard, Op::Direct { connection, options, message, expires_in: None }, bytes, None);
    }

    /// A shard has answered what sessions asked.
    pub(super) fn answered_all(&mut self, answers: Vec<(Completion, Answer)>) {
        for (completion, answer) in answers {
            self.guard(completion.session.slot, |worker| worker.answered(completion, &answer));
        }
    }

    fn answered(&mut self, completion: Completion, answer: &Answer) {
        let SessionRef { slot, epoch, .. } = completion.session;
        let now = self.now;
        let Some(entry) = self.sessions.entry_of(slot, epoch) else { return };
        if *answer == Answer::Fenced {
            // A later connection has the session, or it has been ended.
            return self.end_link(slot, Cause::Server(ReasonCode::SessionTakenOver));
        }
        let out = &mut entry.link.out;
        match completion.what {
            Awaited::Released => {
                let kept = entry.kept.as_deref_mut().and_then(|kept| kept.session.as_mut());
                for sequence in kept.and_then(|session| session.releasing.pop_front()).unwrap_or_default() {
                    entry.session.handle_kept_released(sequence, out);
                }
                entry.session.pump(now, out);
                self.note_progress(slot);
            }
            Awaited::Forgotten(packet_id) => {
                entry.session.handle_release_kept(packet_id, out);
                self.mark_dirty(slot);
            }
            Awaited::Received(ticket) => self.received(slot, ticket, answer),
            Awaited::Routes(id) => self.routes_known(slot, id),
            Awaited::Unsubscribed(id) => self.unsubscribed(slot, id),
            Awaited::Direct(number) => {
                let place = if let Answer::Queued(place) = *answer { place } else { None };
                self.direct_answered(slot, number, place);
            }
            Awaited::Publish(_) | Awaited::Retained(_) | Awaited::Will { .. } => {}
        }
    }

    /// A QoS 2 message from a client has its number: it goes where it is wanted, in its turn.
    fn received(&mut self, slot: u32, ticket: Ticket, answer: &Answer) {
        let Some(kept) = self.sessions.entry(slot).and_then(|entry| entry.kept.as_deref_mut()) else {
            return;
        };
        let shard = kept.shard;
        let Some(session) = &mut kept.session else { return };
        let id = session.id.0;
        let Some(waiting) = session.receiving.iter_mut().find(|waiting| waiting.ticket == ticket) else {
            return;
        };
        waiting.number = match *answer {
            Answer::Received { number, floor } => {
                Number::Known(Some(Origin { shard, session: id, number, floor }))
            }
            _ => Number::Refused,
        };
        while let Some((ticket, message, number)) = self.next_received(slot) {
            self.accept_received(slot, ticket, &message, number);
        }
    }

    fn next_received(&mut self, slot: u32) -> Option<(Ticket, Arc<Message>, Number)> {
        let session = self.sessions.entry(slot)?.kept.as_deref_mut()?.session.as_mut()?;
        session.receiving.front().filter(|waiting| waiting.number != Number::Awaited)?;
        let next = session.receiving.pop_front()?;
        Some((next.ticket, next.message, next.number))
    }

    fn accept_received(&mut self, slot: u32, ticket: Ticket, message: &Arc<Message>, number: Number) {
        let here = self.session_ref(slot);
        if number == Number::Refused && !self.can_be_refused(slot, QoS::ExactlyOnce) {
            // A PUBREC would be the end of the message at its sender [MQTT-4.4.0-2].
            return self.end_link(slot, Cause::Server(ReasonCode::QuotaExceeded));
        }
        let outcome = match number {
            Number::Known(origin) => self.accept(here, &Transit::from_message(message), Some(ticket), origin),
            Number::Refused | Number::Awaited => Some(ReasonCode::QuotaExceeded),
        };
        let Some(reason) = outcome else { return self.remind(slot) };
        if reason.is_error() && matches!(number, Number::Known(Some(_))) {
            // With such a PUBREC the message ends, and no PUBREL comes [MQTT-4.3.3-4].
            self.forget_received(slot, ticket);
        }
        self.acknowledge(slot, ticket, reason);
    }

    /// The identifier of a QoS 2 message from the client is free again.
    fn forget_received(&mut self, slot: u32, ticket: Ticket) {
        let Some(entry) = self.sessions.entry(slot) else { return };
        let Some(packet_id) = entry.session.packet_id_of(ticket) else { return };
        let Some(kept) = entry.kept.as_deref() else { return };
        let op = Op::Release { connection: kept.connection.clone(), packet_id };
        if let Some(shards) = self.node.cluster.shards() {
            shards.ask(kept.shard, op, OP_BYTES, None);
        }
    }

    /// Tells when the end of a session's connection is known to its shard; `None`: no shard has anything of it.
    pub(super) fn watch_close(&mut self, slot: u32) -> Option<oneshot::Receiver<Answer>> {
        let kept = self.sessions.entry(slot)?.kept.as_deref_mut()?;
        let (sender, closed) = oneshot::channel();
        kept.closed = Some(sender);
        Some(closed)
    }

    /// Tells the shard that keeps a session, or a will, that the connection has ended.
    pub(super) fn close_kept(&self, here: SessionRef, mut kept: KeptEntry, of: &mut Session, cause: Cause) {
        let Some(shards) = self.node.cluster.shards() else { return };
        kept.tell(shards, here, of);
        let (stored, sent_until, expiry) = match &kept.session {
            Some(session) => (of.stored_ids(), session.next, of.expiry()),
            None => (Vec::new(), Seq(1), SessionExpiry::AtDisconnect),
        };
        let expiry = match (cause, expiry) {
            // Its next connection is on its way, and says itself how long it stays.
            (Cause::Server(ReasonCode::SessionTakenOver), SessionExpiry::After(expiry)) => {
                SessionExpiry::After(expiry.max(TAKEOVER_EXPIRY))
            }
            _ => expiry,
        };
        let will = if cause == Cause::Normal { WillFate::Drop } else { WillFate::Keep };
        let op = Op::Close { connection: kept.connection, expiry, will, sent_until, stored };
        match kept.closed {
            Some(closed) => shards.request_for(kept.shard, op, closed),
            None => shards.ask(kept.shard, op, OP_BYTES, None),
        }
    }
}

/// The session of a connection, as its shard has it.
pub(super) fn restore_kept(
    now: Timestamp,
    accepted: Accepted,
    limits: Arc<Limits>,
    opened: &OpenedSession,
) -> Session {
    let received = opened.received.iter().map(|received| (received.id, received.is_stored));
    Session::kept(now, accepted, limits, opened.subscriptions.iter().cloned(), received)
}
