//! Messages that leave the inboxes.

use super::State;
use crate::{Answer, LoanFate, Seq, SessionId, sessions::Slot};

impl State {
    pub(super) fn acknowledge(&mut self, slot: Slot, released: &[Seq], done: &[Seq]) -> Answer {
        for seq in released {
            let session = self.sessions.at_mut(slot);
            let Some(inbox) = &mut session.inbox else { break };
            let Some(freed) = inbox.release(seq.0) else { continue };
            let id = session.id;
            self.freed(&freed);
            self.list(slot);
            self.pay_back(id, seq.0, LoanFate::Done);
        }
        for seq in done {
            self.finish(slot, seq.0);
        }
        // There is room for others in flight.
        self.feed(slot);
        Answer::Done
    }

    /// Messages whose expiry has passed.
    pub(super) fn discard(&mut self, session: SessionId, seqs: &[Seq]) -> Answer {
        if let Some(slot) = self.sessions.of_id(session) {
            for seq in seqs {
                self.stats.expired += u64::from(self.finish(slot, seq.0));
            }
            if self.sessions.at(slot).is_group {
                self.lend(slot);
            }
        }
        Answer::Done
    }

    /// This place is done, and what it was borrowed or lent for; returns whether it was not.
    pub(super) fn finish(&mut self, slot: Slot, seq: u64) -> bool {
        if !self.finish_place(slot, seq) {
            return false;
        }
        let session = self.sessions.at(slot);
        let id = session.id;
        if session.is_group {
            self.forget_of_group(id, seq);
        } else {
            self.pay_back(id, seq, LoanFate::Done);
        }
        true
    }

    /// This place is done, and nothing else; returns whether it was not.
    pub(super) fn finish_place(&mut self, slot: Slot, seq: u64) -> bool {
        let session = self.sessions.at_mut(slot);
        let Some(inbox) = &mut session.inbox else { return false };
        let Some(freed) = inbox.finish(seq) else { return false };
        if inbox.is_empty() {
            session.inbox = None;
        }
        self.stats.queued_messages -= 1;
        self.freed(&freed);
        self.list(slot);
        true
    }
}
