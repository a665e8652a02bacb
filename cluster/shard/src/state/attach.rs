//! Clients that come and go.

use flotilla_mqtt::{
    PacketId,
    session::{ClientId, SessionExpiry},
};
use flotilla_state::Member;

use super::State;
use crate::{
    Answer, Closed, Open, Opened, RECEIVED_SPAN, Seq, SessionId, Will, WillFate,
    rows::{Row, WillRow},
    sessions::{ArmedWill, Limits, Received, Session, Slot},
    wire::will_to,
};

use prost::Message as _;

impl State {
    pub(super) fn open(&mut self, source: Member, open: Open) -> Answer {
        let client = &open.connection.client;
        let mut slot = self.sessions.of_client(client);
        let may_begin = slot.is_some() || !open.only_present;
        if let Some(present) = slot {
            let session = self.sessions.at(present);
            if session.rank() > open.connection.rank() || self.is_restoring(present) && !open.clean_start {
                return Answer::Fenced;
            }
            let ends_with_connection =
                session.owner.is_some() && session.expiry == SessionExpiry::AtDisconnect;
            if open.clean_start || ends_with_connection {
                self.stats.sessions_discarded += u64::from(!ends_with_connection);
                self.end_session(present);
                slot = None;
            } else {
                self.take_over(present, open.expiry);
            }
        }
        let present = slot.is_some();
        let slot = match slot {
            Some(slot) => slot,
            None if open.needs_session() && !may_begin => return Answer::Full,
            None if open.needs_session() => self.create(client.clone(), Limits::of(&open)),
            None => return Answer::Opened(Box::new(Opened { present, session: None })),
        };
        self.attach(slot, source, open, present);
        let session = self.sessions.at(slot).opened();
        Answer::Opened(Box::new(Opened { present, session: Some(session) }))
    }

    /// Ends what is left of the last connection of a session that goes on, and stays for `next` after its next one.
    fn take_over(&mut self, slot: Slot, next: SessionExpiry) {
        let session = self.sessions.at_mut(slot);
        if let Some(owner) = session.owner() {
            // Whatever was there may have been sent.
            session.maybe_sent_until = session.next_seq;
            let closed = Closed { client: session.client.clone(), session: session.id, owner };
            // The client is back within any delay but 0 [MQTT-3.1.3-9].
            if session.will.as_ref().is_some_and(|armed| armed.will.delay.is_zero()) {
                self.fire(slot);
            }
            self.detached(slot, closed);
        }
        self.keep_former(slot, next);
        self.drop_will(slot);
    }

    pub(super) fn create(&mut self, client: ClientId, limits: Limits) -> Slot {
        let id = SessionId(self.next.session);
        self.next.session += 1;
        let session = Session::new(id, client, limits);
        self.sessions.insert(session).expect("the client has no session, and the name is new")
    }

    fn attach(&mut self, slot: Slot, owner: Member, open: Open, present: bool) {
        let limits = self.sessions.limits(Limits::of(&open));
        let owner = self.sessions.member(owner);
        let session = self.sessions.at_mut(slot);
        (session.epoch, session.turn) = open.connection.rank();
        session.owner = Some(owner);
        session.present = present;
        session.expiry = open.expiry;
        session.ends_at = None;
        // What may be in flight is not dropped because the client receives less at once now.
        session.kept_until = session.window_end();
        session.has_window = true;
        let is_routed_as_before = session.limits.queue_qos0 == limits.queue_qos0;
        session.limits = limits;
        session.set_inbox_window();
        self.stats.attached += 1;
        if !is_routed_as_before {
            self.route_again(slot);
        }
        if let Some(will) = open.will {
            self.arm(slot, will);
        }
        self.set_deadline(slot);
        self.touch(slot);
        self.tell_groups(slot);
    }

    pub(super) fn arm(&mut self, slot: Slot, will: Will) {
        let session = self.sessions.at_mut(slot);
        let row = WillRow { will: Some(will_to(&will)), due: None };
        self.dirty.put(Row::Will(session.id), row.encode_to_vec().into());
        session.will = Some(Box::new(ArmedWill { will, due: None }));
    }

    /// Tells the leader, and counts.
    pub(super) fn detached(&mut self, slot: Slot, closed: Closed) {
        self.sessions.at_mut(slot).owner = None;
        self.stats.attached -= 1;
        if self.is_watched {
            self.changes.closed.push(closed);
        }
    }

    pub(super) fn close(
        &mut self,
        slot: Slot,
        expiry: SessionExpiry,
        will: WillFate,
        sent_until: Seq,
        stored: &[PacketId],
    ) -> Answer {
        let session = self.sessions.at_mut(slot);
        if session.owner.is_none() {
            return Answer::Done;
        }
        session.owner = None;
        session.expiry = expiry;
        if let Some(received) = session.received.as_mut().filter(|_| !stored.is_empty()) {
            received.set_stored(stored);
        }
        let sent_until = sent_until.0.min(session.next_seq);
        session.maybe_sent_until = session.maybe_sent_until.max(sent_until);
        session.kept_until = session.kept_until.max(sent_until);
        session.has_window = false;
        session.set_inbox_window();
        self.stats.attached -= 1;
        self.leave(slot, will);
        Answer::Done
    }

    /// The lives of its connections have ended with that of the member.
    pub(super) fn member_ended(&mut self, member: Member) -> Answer {
        self.sources.end(member);
        let owned = self.sessions.iter().filter(|(_, session)| session.owner.as_deref() == Some(&member));
        let owned: Vec<Slot> = owned.map(|(slot, _)| slot).collect();
        for slot in owned {
            let session = self.sessions.at_mut(slot);
            session.owner = None;
            session.maybe_sent_until = session.next_seq;
            self.stats.attached -= 1;
            self.leave(slot, WillFate::Keep);
        }
        Answer::Done
    }

    /// A PUBLISH of QoS 2 came.
    pub(super) fn receive(&mut self, slot: Slot, packet_id: PacketId) -> Answer {
        let session = self.sessions.at_mut(slot);
        let floor = session.floor();
        let received = session.received.get_or_insert_default();
        if let Some(number) = received.number(packet_id) {
            return Answer::Received { number, floor };
        }
        let number = session.next_number;
        // Other shards remember what came after the floor: there is an end to it.
        let is_full =
            received.len() >= usize::from(session.limits.awaiting_rel_max) || number - floor >= RECEIVED_SPAN;
        if is_full {
            if received.len() == 0 {
                session.received = None;
            }
            return Answer::Full;
        }
        received.take(packet_id, number);
        session.next_number += 1;
        self.touch(slot);
        Answer::Received { number, floor }
    }

    /// PUBREL came.
    pub(super) fn release(&mut self, slot: Slot, packet_id: PacketId) -> Answer {
        let session = self.sessions.at_mut(slot);
        let Some(received) = &mut session.received else { return Answer::Done };
        if received.free(packet_id) {
            if *received == Box::<Received>::default() {
                session.received = None;
            }
            self.touch(slot);
        }
        Answer::Done
    }
}
