//! Entries, parts and ops.

use std::cmp::Ordering;

use flotilla_mqtt::Timestamp;

use super::State;
use crate::{
    Answer, Answers, Connection, Entry, Op, Open, Opened, Part, PartAnswer, sessions::Slot, sources::Turn,
};

impl State {
    /// Applies an entry. It has been checked: nothing of it can fail.
    pub(crate) fn apply(&mut self, entry: Entry) -> Answers {
        self.stamp = self.stamp.max(Timestamp::from_millis(entry.stamp));
        self.retained.is_full = entry.retained_full;
        Answers { parts: entry.parts.into_iter().map(|part| self.apply_part(part)).collect() }
    }

    fn apply_part(&mut self, part: Part) -> PartAnswer {
        let Part { source, number, ops } = part;
        match self.sources.admit(source, number) {
            Turn::New => PartAnswer::Applied(ops.into_iter().map(|op| self.apply_op(source, op)).collect()),
            Turn::Repeated => PartAnswer::Applied(ops.iter().map(|op| self.answer_again(op)).collect()),
            Turn::Gap { expected } => PartAnswer::Gap { expected },
            Turn::Ended => PartAnswer::Ended,
        }
    }

    fn apply_op(&mut self, source: flotilla_state::Member, op: Op) -> Answer {
        match op {
            Op::Open(open) => self.open(source, *open),
            Op::Subscribe { connection, subscriptions } => {
                self.by(&connection, |state, slot| state.subscribe(slot, &subscriptions))
            }
            Op::Unsubscribe { connection, filters } => {
                self.by(&connection, |state, slot| state.unsubscribe(slot, &filters))
            }
            Op::Acknowledge { connection, released, done } => {
                self.by(&connection, |state, slot| state.acknowledge(slot, &released, &done))
            }
            Op::Receive { connection, packet_id } => {
                self.by(&connection, |state, slot| state.receive(slot, packet_id))
            }
            Op::Release { connection, packet_id } => {
                self.by(&connection, |state, slot| state.release(slot, packet_id))
            }
            Op::Close { connection, expiry, will, sent_until, stored } => {
                self.by(&connection, |state, slot| state.close(slot, expiry, will, sent_until, &stored))
            }
            Op::Abandon { connection, expiry } => match self.slot_of(&connection) {
                Some(slot) => self.abandon(slot, expiry),
                None => Answer::Fenced,
            },
            Op::End { connection } => self.by(&connection, |state, slot| {
                state.end_session(slot);
                Answer::Done
            }),
            Op::Publish { batch } => self.publish(&batch),
            Op::Direct { connection, options, message, expires_in } => {
                self.by(&connection, |state, slot| state.direct(slot, &options, &message, expires_in))
            }
            Op::MemberEnded { member } => self.member_ended(member),
            Op::Tick => self.tick(),
            Op::Discard { session, seqs } => self.discard(session, &seqs),
            Op::WillDone { will } => {
                self.will_done(will);
                Answer::Done
            }
            Op::ForgetPublisher { shard, session } => {
                self.publishers.forget(shard, session);
                Answer::Done
            }
            Op::Letters { from, after, letters } => self.take_letters(from, after, letters),
            Op::Posted { letters } => self.posted(&letters),
            Op::Restore(saved) => Answer::Count(self.restore(&saved)),
            Op::Restored => self.restored(),
        }
    }

    /// Only the latest connection of a session may act for it.
    fn by(&mut self, connection: &Connection, act: impl FnOnce(&mut Self, Slot) -> Answer) -> Answer {
        match self.slot_of(connection) {
            Some(slot) => {
                // It is a connection.
                self.forget_former(slot);
                act(self, slot)
            }
            None => Answer::Fenced,
        }
    }

    fn slot_of(&self, connection: &Connection) -> Option<Slot> {
        let slot = self.sessions.of_client(&connection.client)?;
        (self.sessions.at(slot).rank() == connection.rank()).then_some(slot)
    }

    /// The answer to an op that has been applied before, as far as the state still knows it.
    fn answer_again(&self, op: &Op) -> Answer {
        let unless_fenced =
            |connection, answer| if self.slot_of(connection).is_some() { answer } else { Answer::Fenced };
        match op {
            Op::Open(open) => self.open_again(open),
            Op::Receive { connection, packet_id } => {
                let Some(slot) = self.slot_of(connection) else { return Answer::Fenced };
                let session = self.sessions.at(slot);
                let number = session.received.as_ref().and_then(|received| received.number(*packet_id));
                number.map_or(Answer::Done, |number| Answer::Received { number, floor: session.floor() })
            }
            Op::Subscribe { connection, .. }
            | Op::Unsubscribe { connection, .. }
            | Op::Acknowledge { connection, .. }
            | Op::Release { connection, .. } => unless_fenced(connection, Answer::Done),
            Op::Direct { connection, .. } => unless_fenced(connection, Answer::Queued(None)),
            Op::Close { .. }
            | Op::Abandon { .. }
            | Op::End { .. }
            | Op::Publish { .. }
            | Op::MemberEnded { .. }
            | Op::Tick
            | Op::Discard { .. }
            | Op::WillDone { .. }
            | Op::ForgetPublisher { .. }
            | Op::Letters { .. }
            | Op::Posted { .. }
            | Op::Restore(_)
            | Op::Restored => Answer::Done,
        }
    }

    fn open_again(&self, open: &Open) -> Answer {
        let connection = &open.connection;
        let nothing = || match open.only_present && open.needs_session() {
            true => Answer::Full,
            false => Answer::Opened(Box::new(Opened { present: false, session: None })),
        };
        let Some(slot) = self.sessions.of_client(&connection.client) else { return nothing() };
        let session = self.sessions.at(slot);
        match session.rank().cmp(&connection.rank()) {
            Ordering::Equal => {
                Answer::Opened(Box::new(Opened { present: session.present, session: Some(session.opened()) }))
            }
            Ordering::Greater => Answer::Fenced,
            Ordering::Less => nothing(),
        }
    }
}
