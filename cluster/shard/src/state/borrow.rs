//! Messages that sessions of this shard have borrowed from groups.

use std::collections::BTreeMap;

use flotilla_mqtt::QoS;
use flotilla_state::ShardId;
use prost::Message as _;

use super::{State, publish::Copy, publish::subscription_ids};
use crate::{
    DecodeError, LoanFate, SessionId, StoredMessage,
    inbox::NewBody,
    message::Parts,
    rows::{BorrowedRow, Row},
    sessions::Slot,
    wire::shard_id,
};

/// Where a message was borrowed, by its session and its place there.
pub(crate) type Borrowed = BTreeMap<(SessionId, u64), Borrowing>;

/// Where a message was borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Borrowing {
    pub(crate) shard: ShardId,
    pub(crate) loan: u64,
    /// At which it goes to the client.
    pub(crate) qos: QoS,
}

impl State {
    /// A member of a group is to deliver a message: it does if its client is connected, and shares the subscription still.
    pub(super) fn borrow(
        &mut self,
        shard: ShardId,
        loan: u64,
        session: SessionId,
        group: &str,
        message: &StoredMessage,
    ) {
        if message.expires_at().is_some_and(|at| at <= self.stamp.as_millis()) {
            self.stats.expired += 1;
            return self.return_loan(shard, loan, LoanFate::Done);
        }
        let slot = self.sessions.of_id(session);
        let slot = slot.filter(|slot| self.sessions.at(*slot).owner.is_some());
        let of_session =
            slot.and_then(|slot| Some((slot, self.sessions.at(slot).subscriptions.find(group)?)));
        let Some((slot, kept)) = of_session else {
            return self.return_loan(shard, loan, LoanFate::Back);
        };
        let options = kept.options();
        let copy = Copy {
            slot,
            qos: options.qos.min(message.qos()),
            retain: message.retain() && options.retain_as_published,
            subscription_ids: subscription_ids(kept.id.into_iter()),
        };
        let parts = Parts::of_stored(message, message.expires_at());
        // The bounds of its queue are for its own: there are no more of these than may be in flight.
        let seq = self.push(&copy, &parts, NewBody::Inline(&parts));
        let borrowing = Borrowing { shard, loan, qos: copy.qos };
        self.borrowed.insert((session, seq), borrowing);
        self.dirty.put(Row::Borrowed(session, seq), borrowing.row().encode_to_vec().into());
    }

    /// What is borrowed at a place is so no longer; returns whether it was.
    pub(super) fn pay_back(&mut self, session: SessionId, seq: u64, fate: LoanFate) -> bool {
        if self.borrowed.is_empty() {
            return false;
        }
        let Some(Borrowing { shard, loan, .. }) = self.borrowed.remove(&(session, seq)) else { return false };
        let row = Row::Borrowed(session, seq);
        // It is written once.
        let is_stored = !self.dirty.rows.contains_key(&row);
        self.dirty.delete(row, is_stored);
        self.return_loan(shard, loan, fate);
        true
    }

    /// The client of a session has gone, and may have been sent what is before `sent_until`. What it has borrowed goes back,
    /// but for messages of QoS 2 that it may know: these are for nobody else [MQTT-4.8.2-5]. When the session ends, these are
    /// done.
    pub(super) fn give_back(&mut self, slot: Slot, sent_until: u64, ends: bool) {
        if self.borrowed.is_empty() {
            return;
        }
        let id = self.sessions.at(slot).id;
        let of_session = self.borrowed.range((id, 0)..=(id, u64::MAX));
        let of_session: Vec<_> = of_session.map(|((_, seq), borrowing)| (*seq, borrowing.qos)).collect();
        for (seq, qos) in of_session {
            if qos != QoS::ExactlyOnce || seq >= sent_until {
                self.pay_back(id, seq, LoanFate::Back);
                self.finish_place(slot, seq);
            } else if ends {
                self.pay_back(id, seq, LoanFate::Done);
            }
        }
    }
}

impl Borrowing {
    fn row(self) -> BorrowedRow {
        BorrowedRow { shard: self.shard.0.into(), loan: self.loan, qos: self.qos as u32 }
    }

    pub(crate) fn read(row: &BorrowedRow) -> Result<Self, DecodeError> {
        let qos = u8::try_from(row.qos).ok().and_then(QoS::from_u8).ok_or(DecodeError::Field("qos"))?;
        Ok(Self { shard: shard_id(row.shard)?, loan: row.loan, qos })
    }
}
