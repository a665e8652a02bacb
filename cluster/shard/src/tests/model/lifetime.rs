//! How sessions and wills end.

use std::sync::Arc;

use flotilla_mqtt::{Message, Timestamp, session::SessionExpiry};
use flotilla_state::{Incarnation, Member};

use super::Model;
use crate::{Connection, Op, TICK_MAX, Will, WillFate, WillId};

/// What a session was before its last Open: its expiry, when it would have ended, and its will with when it was due.
pub(super) type Former = (SessionExpiry, Option<u64>, Option<(Will, u64)>);

impl Model {
    /// The next connection of a session, which says how long it stays after that.
    pub(super) fn take_over(&mut self, client: &str, next: SessionExpiry) {
        let stamp = self.stamp;
        let session = self.sessions.get_mut(client).unwrap();
        let was_connected = session.owner.is_some();
        if was_connected {
            session.maybe_sent_until = session.next_seq;
        }
        let at_once = session.will.take_if(|(will, _)| was_connected && will.delay.is_zero());
        let (expiry, ends_at, older_will) =
            session.former.take().unwrap_or((session.expiry, session.ends_at, None));
        let ends_at = ends_at.or_else(|| after(stamp, expiry));
        let due = |(will, due): (Will, Option<u64>)| {
            let due = due.unwrap_or(stamp + u64::try_from(will.delay.as_millis()).unwrap());
            (will, due.min(ends_at.unwrap_or(u64::MAX)))
        };
        let will = session.will.take().map(due).or(older_will);
        if will.is_some() || expiry != next {
            session.former = Some((expiry, ends_at, will));
        }
        if let Some((will, _)) = at_once {
            self.fire(&will);
        }
    }

    pub(super) fn abandon(&mut self, client: &str, expiry: SessionExpiry) {
        let session = self.sessions.get_mut(client).unwrap();
        session.will = None;
        if !session.present {
            return self.end(client);
        }
        let former = session.former.take();
        if session.owner.is_some() {
            session.window = 0;
            session.expiry = former.as_ref().map_or(expiry, |(expiry, ..)| *expiry);
            self.leave(client, WillFate::Drop);
        }
        if let Some((expiry, ends_at, will)) = former {
            let session = self.sessions.get_mut(client).unwrap();
            (session.expiry, session.ends_at) = (expiry, ends_at);
            session.will = will.map(|(will, due)| (will, Some(due)));
        }
    }

    pub(super) fn leave(&mut self, client: &str, fate: WillFate) {
        let session = self.sessions.get_mut(client).unwrap();
        session.owner = None;
        if fate == WillFate::Drop {
            session.will = None;
        }
        session.ends_at = match session.expiry {
            SessionExpiry::AtDisconnect => return self.end(client),
            expiry => after(self.stamp, expiry),
        };
        self.tell_groups(client);
        self.give_back(client);
        let session = self.sessions.get_mut(client).unwrap();
        if let Some((will, due)) = &mut session.will {
            let delayed = self.stamp + u64::try_from(will.delay.as_millis()).unwrap();
            *due = Some(delayed.min(session.ends_at.unwrap_or(u64::MAX)));
            if *due <= Some(self.stamp) {
                let (will, _) = session.will.take().unwrap();
                self.fire(&will);
            }
        }
    }

    pub(super) fn end(&mut self, client: &str) {
        let session = self.sessions.remove(client).unwrap();
        self.tell_left(&session);
        if let Some((will, _)) = session.will {
            self.fire(&will);
        }
    }

    pub(super) fn fire(&mut self, will: &Will) {
        self.wills_made += 1;
        let expires_at = will.expiry.map(|expiry| Timestamp::from_millis(self.stamp) + expiry);
        let message = Message { expires_at, ..(*will.message).clone() };
        self.firing.insert(WillId(self.wills_made), Arc::new(message));
    }

    pub(super) fn member_ended(&mut self, member: Member) {
        let known = self.sources.get(&member.node).copied().unwrap_or((Incarnation(0), 0, false));
        if known.0 <= member.incarnation {
            self.sources.insert(member.node, (member.incarnation, known.1, true));
        }
        let mut owned: Vec<_> =
            self.sessions.iter().filter(|(_, session)| session.owner == Some(member)).collect();
        owned.sort_by_key(|(_, session)| session.id);
        let clients: Vec<String> = owned.into_iter().map(|(client, _)| client.clone()).collect();
        for client in clients {
            let session = self.sessions.get_mut(&client).unwrap();
            session.maybe_sent_until = session.next_seq;
            self.leave(&client, WillFate::Keep);
        }
    }

    pub(super) fn tick(&mut self) {
        for _ in 0..TICK_MAX {
            let due = self.sessions.iter().filter_map(|(client, session)| {
                session.deadline().filter(|at| *at <= self.stamp).map(|at| (at, session.id, client.clone()))
            });
            let Some((_, _, client)) = due.min() else { break };
            let session = self.sessions.get_mut(&client).unwrap();
            if session.ends_at.is_some_and(|at| at <= self.stamp) {
                self.end(&client);
            } else {
                let (will, _) = session.will.take().unwrap();
                self.fire(&will);
            }
        }
        self.retained.retain(|_, message| message.expires_at.is_none_or(|at| at > self.stamp));
    }
}

/// When a session ends that has begun to wait now.
fn after(now: u64, expiry: SessionExpiry) -> Option<u64> {
    match expiry {
        SessionExpiry::After(duration) => Some(now + u64::try_from(duration.as_millis()).unwrap()),
        SessionExpiry::AtDisconnect | SessionExpiry::Never => None,
    }
}

/// The connection that does something with this op.
pub(super) fn acting(op: &Op) -> Option<&Connection> {
    match op {
        Op::Subscribe { connection, .. }
        | Op::Unsubscribe { connection, .. }
        | Op::Acknowledge { connection, .. }
        | Op::Receive { connection, .. }
        | Op::Release { connection, .. }
        | Op::Close { connection, .. }
        | Op::End { connection }
        | Op::Direct { connection, .. } => Some(connection),
        _ => None,
    }
}
