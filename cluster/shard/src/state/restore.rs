//! Sessions, groups, and retained messages, that come out of a backup.
//!
//! They come piece by piece. A retained message is there at once, unless its topic has one already. As long as a session is not complete it matches nothing, its client cannot have it, and its time
//! stands still; a piece of a session that serves is ignored. So it is with groups, which
//! lend nothing as long; when their members begin, they tell that they are away. A group whose members were not saved waits for
//! others.

use std::time::Duration;

use flotilla_mqtt::{QoS, session::SessionExpiry};
use prost::Message as _;

use super::{State, publish::subscription_ids};
use crate::{
    Answer, RESTORED_MAX, Saved, SessionId, StoredMessage, WillFate,
    groups::{Group, key},
    ids::MessageId,
    inbox::{Inbox, NewBody, NewEntry},
    message::Parts,
    rows::{RestoringRow, Row, WillRow},
    saved::{SavedMessages, SavedPlace, SavedRetained, SavedSession, SavedSubscriptions, What},
    sessions::Slot,
    wire::{session_client, will_from, will_to},
};

impl State {
    /// Takes a piece; returns how much of it was taken.
    pub(super) fn restore(&mut self, saved: &Saved) -> u64 {
        match &saved.what {
            What::Session(session) => self.restore_session(saved.stamp, session).into(),
            What::Subscriptions(subscriptions) => self.restore_subscriptions(subscriptions),
            What::Messages(messages) => self.restore_messages(saved.stamp, messages),
            What::Retained(retained) => self.restore_retained(saved.stamp, retained),
        }
    }

    fn restore_session(&mut self, stamp: u64, saved: &SavedSession) -> bool {
        let id = SessionId(self.next.session);
        // Decoding the entry has seen to it that it is one.
        let (Some(row), Ok(session)) = (&saved.row, saved.session(id)) else { return false };
        if let Some(slot) = self.sessions.of_client(&session.client) {
            // A group that has members again has begun.
            let has_members =
                |slot| self.groups.of(self.sessions.at(slot).id).is_some_and(Group::has_members);
            if !self.is_restoring(slot) || has_members(slot) {
                return false;
            }
            // It is restored once more.
            self.drop_will(slot);
            self.end_session(slot);
        }
        self.next.session += 1;
        let left = |at: Option<u64>| at.map(|at| at.saturating_sub(stamp));
        let will = saved.will.as_ref().and_then(|row| Some((will_from(row.will.as_ref()?).ok()?, row.due)));
        let restoring = RestoringRow {
            expiry: row.expiry,
            ends_in: left(row.ends_at),
            will_due_in: left(will.as_ref().and_then(|(_, due)| *due)),
            maybe_sent_until: row.maybe_sent_until,
            kept_until: row.kept_until,
        };
        self.dirty.put(Row::Restoring(id), restoring.encode_to_vec().into());
        self.restoring.insert(id, restoring);
        if session.is_group {
            self.groups.insert(id);
        }
        let slot = self.sessions.insert(session).expect("the client has no session, and the name is new");
        if let Some((will, _)) = will {
            self.arm(slot, will);
        }
        self.touch(slot);
        true
    }

    fn restore_subscriptions(&mut self, saved: &SavedSubscriptions) -> u64 {
        let (Some(slot), Ok(subscriptions)) = (self.restoring_slot(&saved.client), saved.list()) else {
            return 0;
        };
        for subscription in &subscriptions {
            self.keep_subscription(slot, subscription);
        }
        self.touch(slot);
        subscriptions.len() as u64
    }

    fn restore_messages(&mut self, stamp: u64, saved: &SavedMessages) -> u64 {
        let slots: Vec<Option<Slot>> =
            saved.inboxes.iter().map(|inbox| self.restoring_slot(&inbox.client)).collect();
        let slot_of = |place: &SavedPlace| slots.get(place.inbox as usize).copied().flatten();
        let mut uses = vec![0_u32; saved.messages.len()];
        for message in
            saved.places.iter().filter(|place| slot_of(place).is_some()).filter_map(|it| it.message)
        {
            uses[message as usize] += 1;
        }
        let messages: Vec<Option<(StoredMessage, Option<MessageId>)>> = saved
            .messages
            .iter()
            .zip(uses)
            .map(|(bytes, uses)| {
                let message = StoredMessage::read(bytes.clone()).ok()?;
                let parts = self.restored_parts(stamp, &message);
                let shared = (uses > 1).then(|| self.share(&parts));
                Some((message, shared))
            })
            .collect();
        let mut taken = 0;
        for place in &saved.places {
            let Some(slot) = slot_of(place) else { continue };
            let message = place.message.and_then(|message| messages[message as usize].as_ref());
            taken += u64::from(self.restore_place(stamp, slot, place, message));
        }
        for shared in messages.iter().flatten().filter_map(|(_, shared)| *shared) {
            self.drop_reference(shared);
        }
        for (inbox, slot) in saved.inboxes.iter().zip(&slots) {
            let Some(slot) = *slot else { continue };
            let session = self.sessions.at_mut(slot);
            session.next_seq = session.next_seq.max(inbox.end);
            session.set_inbox_window();
            self.list(slot);
        }
        taken
    }

    /// Appends one place, unless there is a later one; without a message, that is no longer needed.
    fn restore_place(
        &mut self,
        stamp: u64,
        slot: Slot,
        place: &SavedPlace,
        message: Option<&(StoredMessage, Option<MessageId>)>,
    ) -> bool {
        let parts = message.map_or(RELEASED_PARTS, |(message, _)| self.restored_parts(stamp, message));
        let shared = message.and_then(|(_, shared)| *shared);
        let (Ok(qos), Ok(ids)) = (place.qos(), place.ids()) else { return false };
        let ids = subscription_ids(ids.into_iter());
        let session = self.sessions.at_mut(slot);
        if session.inbox.as_ref().is_some_and(|inbox| place.seq < inbox.end()) {
            return false;
        }
        let window = session.window();
        let inbox = session.inbox.get_or_insert_with(|| Box::new(Inbox::new(window)));
        let size = parts.size();
        let entry = NewEntry {
            qos,
            retain: place.retain,
            subscription_ids: &ids,
            body: shared.map_or(NewBody::Inline(&parts), NewBody::Reference),
            size,
            expires_at: parts.expires_at,
            key: if session.is_group { key(session.limits.group_strategy, &parts) } else { 0 },
        };
        self.dirty.message_bytes += inbox.push(place.seq, &entry, &mut self.next.chunk);
        let freed = if message.is_none() { inbox.release(place.seq) } else { None };
        session.next_seq = session.next_seq.max(place.seq + 1);
        self.stats.queued_messages += 1;
        self.stats.queued_bytes += size as u64;
        if let Some(freed) = freed {
            self.freed(&freed);
        }
        if let Some(message) = shared.and_then(|shared| self.messages.get_mut(&shared)) {
            message.references += 1;
        }
        true
    }

    /// Retains messages whose topics have none; returns how many.
    fn restore_retained(&mut self, stamp: u64, saved: &SavedRetained) -> u64 {
        let mut taken = 0;
        for bytes in &saved.messages {
            // Decoding the entry has seen to it that it is one.
            let Ok(message) = StoredMessage::read(bytes.clone()) else { continue };
            if self.retained.of(message.topic()).is_none() {
                let parts = self.restored_parts(stamp, &message);
                self.retain(&parts);
                taken += u64::from(self.retained.of(message.topic()).is_some());
            }
        }
        taken
    }

    /// A message as it is from now on: what is left of its Message Expiry Interval begins now.
    fn restored_parts<'a>(&self, stamp: u64, message: &'a StoredMessage) -> Parts<'a> {
        let left = message.expires_at().map(|at| at.saturating_sub(stamp));
        Parts::of_stored(message, left.map(|left| self.stamp.as_millis().saturating_add(left)))
    }

    /// What was restored is complete: some of the sessions begin.
    pub(super) fn restored(&mut self) -> Answer {
        let begin: Vec<SessionId> = self.restoring.keys().copied().take(RESTORED_MAX).collect();
        for id in begin {
            if let Some(slot) = self.sessions.of_id(id) {
                self.begin_restored(id, slot);
            }
        }
        Answer::Count(self.restoring.len() as u64)
    }

    fn begin_restored(&mut self, id: SessionId, slot: Slot) {
        let Some(restored) = self.restoring.remove(&id) else { return };
        let session = self.sessions.at_mut(slot);
        self.dirty.delete(Row::Restoring(id), session.is_stored);
        if session.is_group {
            return self.begin_restored_group(slot);
        }
        session.expiry = restored.expiry.map_or(SessionExpiry::Never, Into::into);
        session.maybe_sent_until = restored.maybe_sent_until.min(session.next_seq);
        session.kept_until = restored.kept_until.min(session.next_seq);
        session.set_inbox_window();
        self.route_again(slot);
        let session = self.sessions.at_mut(slot);
        let was_connected = restored.ends_in.is_none() && session.expiry != SessionExpiry::Never
            || session.will.is_some() && restored.will_due_in.is_none();
        if was_connected {
            return self.leave(slot, WillFate::Keep);
        }
        let after = |left: u64| self.stamp + Duration::from_millis(left);
        session.ends_at = restored.ends_in.map(|left| after(left).into());
        if let (Some(armed), Some(due)) = (&mut session.will, restored.will_due_in.map(after)) {
            armed.due = Some(due.into());
            let row = WillRow { will: Some(will_to(&armed.will)), due: Some(due.as_millis()) };
            self.dirty.put(Row::Will(id), row.encode_to_vec().into());
        }
        self.set_deadline(slot);
        self.touch(slot);
        self.tell_groups(slot);
    }

    /// A group serves from now on. Nothing of it is lent.
    fn begin_restored_group(&mut self, slot: Slot) {
        self.match_group(slot);
        self.touch(slot);
        self.lend(slot);
    }

    pub(super) fn is_restoring(&self, slot: Slot) -> bool {
        self.restoring.contains_key(&self.sessions.at(slot).id)
    }

    fn restoring_slot(&self, client: &str) -> Option<Slot> {
        let slot = self.sessions.of_client(&session_client(client).ok()?)?;
        self.is_restoring(slot).then_some(slot)
    }
}

/// What was released has no message any more.
const RELEASED_PARTS: Parts<'static> = Parts {
    topic: "",
    publisher: None,
    properties: b"",
    payload: b"",
    qos: QoS::ExactlyOnce,
    retain: false,
    expires_at: None,
};
