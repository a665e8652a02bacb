//! What was there before a connection that comes to nothing.
//!
//! An Open says at once that a client is back: its old will is not published, and its session stays as long as the new connection
//! says. But who asked for it may not be able to tell the client any more, and then nothing of that counts. So what it changed is kept
//! until the connection does something, or ends.

use flotilla_mqtt::session::SessionExpiry;
use prost::Message as _;

use super::State;
use crate::{
    Answer, Seq, WillFate,
    rows::{Row, WillRow},
    sessions::{ArmedWill, Former, Moment, Slot},
    wire::will_to,
};

impl State {
    /// A session goes on with another connection, after which it stays for `next`: keeps what that changes.
    pub(super) fn keep_former(&mut self, slot: Slot, next: SessionExpiry) {
        // The last connection may have come to nothing itself, which nobody has told yet.
        let older = self.forget_former(slot);
        let stamp = self.stamp;
        let session = self.sessions.at(slot);
        let (expiry, ends_at) =
            older.as_ref().map_or((session.expiry, session.ends_at), |older| (older.expiry, older.ends_at));
        let ends_at = ends_at.or(match expiry {
            SessionExpiry::After(duration) => Some(Moment::from(stamp + duration)),
            SessionExpiry::AtDisconnect | SessionExpiry::Never => None,
        });
        let will = session.will.as_ref().map(|armed| {
            let due = armed.due.unwrap_or_else(|| Moment::from(stamp + armed.will.delay));
            (armed.will.clone(), ends_at.map_or(due, |ends_at| due.min(ends_at)))
        });
        let will = will.or(older.and_then(|older| older.will));
        if will.is_none() && expiry == next {
            return;
        }
        let former = Former { expiry, ends_at, will };
        self.dirty.put(Row::Former(session.id), former.to_row().encode_to_vec().into());
        self.former.insert(session.id, former);
    }

    /// The connection of a session did not come to nothing, or the session has ended.
    pub(super) fn forget_former(&mut self, slot: Slot) -> Option<Former> {
        let session = self.sessions.at(slot);
        let former = self.former.remove(&session.id)?;
        self.dirty.delete(Row::Former(session.id), session.is_stored);
        Some(former)
    }

    /// The connection of a session has come to nothing; its owner's life may have ended before that was told.
    pub(super) fn abandon(&mut self, slot: Slot, expiry: SessionExpiry) -> Answer {
        let former = self.forget_former(slot);
        self.drop_will(slot);
        if !self.sessions.at(slot).present {
            self.end_session(slot);
            return Answer::Done;
        }
        let expiry = former.as_ref().map_or(expiry, |former| former.expiry);
        let answer = self.close(slot, expiry, WillFate::Drop, Seq(1), &[]);
        if let Some(former) = former {
            self.restore_former(slot, former);
        }
        answer
    }

    /// What is due by now follows with the next tick.
    fn restore_former(&mut self, slot: Slot, Former { expiry, ends_at, will }: Former) {
        let session = self.sessions.at_mut(slot);
        (session.expiry, session.ends_at) = (expiry, ends_at);
        if let Some((will, due)) = will {
            let row = WillRow { will: Some(will_to(&will)), due: Some(due.as_millis()) };
            self.dirty.put(Row::Will(session.id), row.encode_to_vec().into());
            session.will = Some(Box::new(ArmedWill { will, due: Some(due) }));
        }
        self.set_deadline(slot);
        self.touch(slot);
    }
}
