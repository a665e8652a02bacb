//! Letters that come and go.

use std::sync::Arc;

use flotilla_state::ShardId;
use prost::Message as _;

use super::State;
use crate::{
    Answer, GroupMember, Letter, LoanFate, QueueLimits, SessionId,
    groups::MemberId,
    letters::Unposted,
    rows::{HeardRow, LetterRow, Row},
    sessions::Slot,
};

impl State {
    /// Letters of another shard, or of this one, that told `after` before them. Those that have been here before are ignored.
    pub(super) fn take_letters(&mut self, from: ShardId, after: u64, letters: Vec<(u64, Letter)>) -> Answer {
        let mut heard = self.heard.get(&from).copied().unwrap_or_default();
        if heard < after {
            return Answer::Gap;
        }
        let before = heard;
        for (number, letter) in letters {
            if number <= heard {
                continue;
            }
            heard = number;
            match letter {
                Letter::Member(member) => self.take_member(from, &member),
                Letter::Leave { group, session } => {
                    self.take_leave(MemberId { shard: from, session }, &group);
                }
                Letter::Lend { session, group, message } => {
                    self.borrow(from, number, session, &group, &message);
                }
                Letter::Return { loan, fate } => self.take_return(from, loan, fate),
            }
        }
        if heard > before {
            self.heard.insert(from, heard);
            self.dirty.put(Row::Heard(from), HeardRow { number: heard }.encode_to_vec().into());
        }
        Answer::Done
    }

    /// The shards that these letters are for have them.
    pub(super) fn posted(&mut self, numbers: &[u64]) -> Answer {
        for number in numbers {
            match self.letters.remove(*number) {
                None => {}
                Some(Unposted::Lend) => {
                    if let Some(loan) = self.groups.set_posted(*number) {
                        self.dirty.put(Row::Loan(*number), loan.row().encode_to_vec().into());
                    }
                }
                Some(_) => self.dirty.delete(Row::Letter(*number), self.letters.is_stored(*number)),
            }
        }
        Answer::Done
    }

    /// The groups of a session hear that its client has come or gone.
    pub(super) fn tell_groups(&mut self, slot: Slot) {
        let session = self.sessions.at(slot);
        let groups: Vec<Arc<str>> =
            session.subscriptions.shared().map(|kept| (*kept.filter).into()).collect();
        for group in groups {
            self.tell_group(slot, group);
        }
    }

    /// A group hears what the session is to it.
    pub(super) fn tell_group(&mut self, slot: Slot, group: Arc<str>) {
        let session = self.sessions.at(slot);
        let limits = &session.limits;
        let member = GroupMember {
            group,
            session: session.id,
            window: limits.window,
            queue: QueueLimits {
                messages_max: limits.messages_max,
                bytes_max: limits.bytes_max,
                full: limits.full,
            },
            strategy: limits.group_strategy,
            is_online: session.owner.is_some(),
        };
        self.forget_membership(member.session, &member.group);
        self.write_letter(Unposted::Member(member));
    }

    /// A group hears that the session has left it.
    pub(super) fn leave_group(&mut self, session: SessionId, group: Arc<str>) {
        self.forget_membership(session, &group);
        self.write_letter(Unposted::Leave { group, session });
    }

    /// A shard hears what became of a message that it has lent.
    pub(super) fn return_loan(&mut self, shard: ShardId, loan: u64, fate: LoanFate) {
        self.write_letter(Unposted::Return { shard, loan, fate });
    }

    /// What was to be said of the two is no longer true.
    fn forget_membership(&mut self, session: SessionId, group: &Arc<str>) {
        if let Some(number) = self.letters.membership(session, group) {
            self.letters.remove(number);
            self.dirty.delete(Row::Letter(number), self.letters.is_stored(number));
        }
    }

    fn write_letter(&mut self, letter: Unposted) {
        let number = self.letters.next_number(self.stamp);
        if let Some(row) = LetterRow::of(&letter) {
            self.dirty.put(Row::Letter(number), row.encode_to_vec().into());
        }
        self.letters.insert(number, letter);
        self.note_letter();
    }

    /// The leader hears that there is a letter.
    pub(super) const fn note_letter(&mut self) {
        self.changes.has_letters |= self.is_watched;
    }
}
