//! How sessions and wills end.

use std::sync::Arc;

use flotilla_mqtt::{Message, Timestamp, session::SessionExpiry};
use prost::Message as _;

use super::State;
use crate::{
    Answer, Closed, TICK_MAX, WillFate, WillId,
    rows::{FiringRow, Row, WillRow},
    sessions::Slot,
    wire::{encode_message, will_to},
};

impl State {
    /// The client has gone. What follows for its will and its session.
    pub(super) fn leave(&mut self, slot: Slot, will: WillFate) {
        if will == WillFate::Drop {
            self.drop_will(slot);
        }
        let session = self.sessions.at_mut(slot);
        session.ends_at = match session.expiry {
            SessionExpiry::AtDisconnect => return self.end_session(slot),
            SessionExpiry::After(duration) => Some((self.stamp + duration).into()),
            SessionExpiry::Never => None,
        };
        let sent_until = session.maybe_sent_until;
        // The groups hear first that it has gone: what it gives back is not for it.
        self.tell_groups(slot);
        self.give_back(slot, sent_until, false);
        let session = self.sessions.at_mut(slot);
        if let Some(armed) = &mut session.will {
            // Not longer than the session lasts (section 3.1.3.2.2).
            let due = self.stamp + armed.will.delay;
            let due = session.ends_at.map_or(due, |ends_at| due.min(ends_at.into()));
            if due <= self.stamp {
                self.fire(slot);
            } else {
                armed.due = Some(due.into());
                let row = WillRow { will: Some(will_to(&armed.will)), due: Some(due.as_millis()) };
                self.dirty.put(Row::Will(session.id), row.encode_to_vec().into());
            }
        }
        self.set_deadline(slot);
        self.touch(slot);
    }

    /// Ends a session with all that it has; its will is published.
    pub(super) fn end_session(&mut self, slot: Slot) {
        self.fire(slot);
        let session = self.sessions.at(slot);
        let is_group = session.is_group;
        // While a client is connected, nobody knows what was not sent to it.
        let sent_until = if session.owner.is_some() { session.next_seq } else { session.maybe_sent_until };
        if let Some(owner) = session.owner() {
            let closed = Closed { client: session.client.clone(), session: session.id, owner };
            self.detached(slot, closed);
        }
        if is_group {
            self.drop_group(slot);
        }
        self.drop_subscriptions(slot);
        self.give_back(slot, sent_until, true);
        self.drop_inbox(slot);
        self.forget_former(slot);
        let Some(session) = self.sessions.remove(slot) else { return };
        if self.restoring.remove(&session.id).is_some() {
            self.dirty.delete(Row::Restoring(session.id), session.is_stored);
        }
        if let Some(deadline) = session.deadline {
            self.deadlines.remove(&(deadline.into(), session.id));
        }
        self.dirty.delete(Row::Session(session.id), session.is_stored);
        if self.is_watched && !is_group {
            self.changes.ended.push(session.id);
            self.changes.ended_publishers.extend((session.next_number > 1).then_some(session.id));
        }
    }

    fn drop_inbox(&mut self, slot: Slot) {
        let session = self.sessions.at_mut(slot);
        let Some(mut inbox) = session.inbox.take() else { return };
        self.stats.abandoned += inbox.live();
        self.stats.queued_messages -= inbox.live();
        while let Some(seq) = inbox.head() {
            let Some(freed) = inbox.finish(seq) else { break };
            self.freed(&freed);
        }
    }

    /// The will of a session is published.
    pub(super) fn fire(&mut self, slot: Slot) {
        let session = self.sessions.at_mut(slot);
        let Some(armed) = session.will.take() else { return };
        self.dirty.delete(Row::Will(session.id), session.is_stored);
        let mut message = armed.will.message;
        let expires_at = armed.will.expiry.map(|expiry| self.stamp + expiry);
        let row =
            FiringRow { message: encode_message(&message), expires_at: expires_at.map(Timestamp::as_millis) };
        if message.expires_at != expires_at {
            message = Arc::new(Message { expires_at, ..Message::clone(&message) });
        }
        let id = WillId(self.next.will);
        self.next.will += 1;
        self.dirty.put(Row::Firing(id), row.encode_to_vec().into());
        self.firing.insert(id, Arc::clone(&message));
        if self.is_watched {
            self.changes.wills.push((id, message));
        }
    }

    /// A will has been published.
    pub(super) fn will_done(&mut self, will: WillId) {
        if self.firing.remove(&will).is_some() {
            let row = Row::Firing(will);
            // It is written once.
            let is_stored = !self.dirty.rows.contains_key(&row);
            self.dirty.delete(row, is_stored);
        }
    }

    /// The will of a session is not published.
    pub(super) fn drop_will(&mut self, slot: Slot) {
        let session = self.sessions.at_mut(slot);
        if session.will.take().is_some() {
            self.dirty.delete(Row::Will(session.id), session.is_stored);
            self.set_deadline(slot);
        }
    }

    pub(super) fn set_deadline(&mut self, slot: Slot) {
        let session = self.sessions.at_mut(slot);
        let next = session.next_deadline();
        if next == session.deadline {
            return;
        }
        if let Some(old) = session.deadline {
            self.deadlines.remove(&(old.into(), session.id));
        }
        session.deadline = next;
        self.deadlines.extend(next.map(|deadline| (deadline.into(), session.id)));
    }

    /// Does what is due.
    pub(super) fn tick(&mut self) -> Answer {
        for _ in 0..TICK_MAX {
            let Some((_, id)) = self.deadlines.first().copied().filter(|(at, _)| *at <= self.stamp) else {
                break;
            };
            let Some(slot) = self.sessions.of_id(id) else { break };
            let session = self.sessions.at(slot);
            if session.ends_at.is_some_and(|ends_at| Timestamp::from(ends_at) <= self.stamp) {
                self.stats.sessions_expired += 1;
                self.end_session(slot);
            } else {
                self.fire(slot);
                self.set_deadline(slot);
            }
        }
        self.expire_retained();
        Answer::Done
    }
}
