//! What the leader sends to other shards, and what an operator may know of groups.

use super::{Shard, deliver::StoredRow};
use crate::{GroupInfo, GroupMember, Letter, Outbound, ReadError, To, groups::Loan, ids::ChunkId};

impl Shard {
    /// Letters with numbers above `after`, in order: at most `count_max`, and no more once they have `bytes_max` bytes. Reads
    /// what is lent from the store where it is not in memory. A letter whose message is gone by now is left out.
    ///
    /// A new leader sends all of them again, for it does not know which of them have come; of those for one shard, none must
    /// overtake another.
    ///
    /// # Errors
    /// The store cannot be read, or a row does not decode.
    pub fn letters(
        &self,
        after: u64,
        count_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Outbound>, ReadError> {
        let (mut outbound, mut bytes) = (Vec::new(), 0);
        let mut last = None;
        for (number, unposted) in self.state.letters.after(after) {
            if outbound.len() >= count_max || bytes >= bytes_max {
                break;
            }
            let letter = match unposted.to_letter() {
                Some(letter) => Some(letter),
                None => self.lent(number, &mut last)?,
            };
            if let Some((to, letter)) = letter {
                bytes += cost(&letter);
                outbound.push(Outbound { number, to, letter });
            }
        }
        Ok(outbound)
    }

    /// The number of the last letter that was written, posted or not; 0: there was none.
    #[must_use]
    pub const fn last_letter(&self) -> u64 {
        self.state.letters.last
    }

    /// The lowest number of a [`Letter::Member`] or [`Letter::Leave`] that is not known to have come.
    #[must_use]
    pub fn first_unposted_membership(&self) -> Option<u64> {
        self.state.letters.first_membership()
    }

    /// The groups behind `after`, in the order of their texts; at most `count_max`.
    #[must_use]
    pub fn groups(&self, after: Option<&str>, count_max: usize) -> Vec<GroupInfo> {
        let groups = self.state.sessions.after_group(after).take(count_max);
        groups.filter_map(|session| session.group_info(self.state.groups.of(session.id)?)).collect()
    }

    /// The letter of a loan. `last`: the row that was read last.
    fn lent(
        &self,
        number: u64,
        last: &mut Option<(ChunkId, StoredRow)>,
    ) -> Result<Option<(To, Letter)>, ReadError> {
        let Some(loan) = self.state.groups.loans().get(&number) else { return Ok(None) };
        let Loan { group, seq, member, .. } = *loan;
        let Some(slot) = self.state.sessions.of_id(group) else { return Ok(None) };
        let session = self.state.sessions.at(slot);
        let chunk = session.inbox.as_ref().and_then(|inbox| inbox.chunks_from(seq).next());
        let (Some(chunk), Some(text)) = (chunk, session.group()) else { return Ok(None) };
        if !chunk.slot(seq).is_some_and(|slot| slot.is_queued()) {
            return Ok(None);
        }
        let message = self.message_at(chunk, seq, last)?;
        let letter = Letter::Lend { session: member.session, group: text.into(), message };
        Ok(Some((To::Shard(member.shard), letter)))
    }
}

/// About how many bytes a letter takes.
fn cost(letter: &Letter) -> usize {
    LETTER_COST
        + match letter {
            Letter::Member(GroupMember { group, .. }) | Letter::Leave { group, .. } => group.len(),
            Letter::Lend { group, message, .. } => group.len() + message.bytes().len(),
            Letter::Return { .. } => 0,
        }
}

/// What a letter takes besides its texts and its message.
const LETTER_COST: usize = 32;
