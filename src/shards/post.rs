//! Letters of a shard on their way to other shards.
//!
//! What one shard tells another is in its state until the other has it ([`flotilla_shard::Letter`]). The leader of the one sends it to the
//! leader of the other, in order, and not more than a bounded number at a time; that one puts it into its log, and says when it is applied. Whenever
//! a shard has another leader, all that is not known to have come is sent again: letters have numbers, and count once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use flotilla_shard::{EncodedPart, Letter, Op, Outbound, Part, ReadError, Shard, To};
use flotilla_state::{Member, ShardId};

use super::{
    Shards,
    line::Leader,
    message::{Message, What},
};

/// Letters from one shard to another, as a part for the log of that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letters {
    /// The shard that sends them.
    pub(super) from: ShardId,
    /// Their numbers, in order.
    pub(super) numbers: Vec<u64>,
    /// Whether they have come only when the routes to the receiving shard are known that follow from them.
    pub(super) waits_for_routes: bool,
    pub(super) part: EncodedPart,
}

/// Letters for one shard, behind the one that it was sent before.
#[derive(Debug)]
pub(super) struct Sending {
    after: u64,
    letters: Vec<(u64, Letter)>,
}

/// What the leader of a shard knows of the letters that it sends.
#[derive(Debug)]
pub(super) struct Post<T> {
    /// The last one that was sent, or passed over because its shard has no leader.
    sent: u64,
    /// Those that are on their way, with their bytes.
    under_way: BTreeMap<u64, usize>,
    bytes: usize,
    /// The last one that was sent to each shard.
    sent_to: BTreeMap<ShardId, u64>,
    /// Shards that had no leader when there was a letter for them: they get nothing behind it before it is sent.
    behind: BTreeSet<ShardId>,
    /// Whether there are some that were not looked at.
    has_more: bool,
    /// Who waits until memberships up to a number are known, in the order of these.
    waiting: VecDeque<(u64, T)>,
}

/// Letters that are on their way at a time, and their bytes.
const UNDER_WAY_MAX: usize = 8_192;
const UNDER_WAY_BYTES: usize = 8 << 20;
/// What is read at once.
const READ_COUNT: usize = 512;
const READ_BYTES: usize = 256 << 10;
/// About what a letter takes beside a message.
const LETTER_BYTES: usize = 64;

impl<T> Post<T> {
    pub(super) fn new() -> Self {
        Self {
            sent: 0,
            under_way: BTreeMap::new(),
            bytes: 0,
            sent_to: BTreeMap::new(),
            behind: BTreeSet::new(),
            has_more: true,
            waiting: VecDeque::new(),
        }
    }

    /// Sends everything again that is not known to have come.
    pub(super) fn again(&mut self) {
        self.sent = 0;
        self.under_way.clear();
        self.sent_to.clear();
        self.behind.clear();
        (self.bytes, self.has_more) = (0, true);
    }

    /// There are letters that were not there before.
    pub(super) fn note_new(&mut self) {
        self.has_more = true;
    }

    /// Whether there is something to be sent now.
    pub(super) fn has_more(&self) -> bool {
        self.has_more && self.under_way.len() < UNDER_WAY_MAX && self.bytes < UNDER_WAY_BYTES
    }

    /// The next letters.
    pub(super) fn read(&mut self, shard: &Shard) -> Result<Vec<Outbound>, ReadError> {
        self.has_more = false;
        let letters = shard.letters(self.sent, READ_COUNT, READ_BYTES)?;
        self.has_more = !letters.is_empty();
        Ok(letters)
    }

    /// Sorts letters by the shards that `shard_of` has for them, with whether anybody there can be told now. Where nobody can, whoever
    /// leads there next has them sent again.
    pub(super) fn address(
        &mut self,
        letters: Vec<Outbound>,
        shard_of: impl Fn(&To) -> Option<(ShardId, bool)>,
    ) -> BTreeMap<ShardId, Sending> {
        let mut outgoing = BTreeMap::<ShardId, Sending>::new();
        for Outbound { number, to, letter } in letters {
            self.sent = number;
            let Some((target, has_leader)) = shard_of(&to) else { continue };
            if !has_leader {
                self.behind.insert(target);
            }
            if self.behind.contains(&target) {
                continue;
            }
            let bytes = size(&letter);
            self.under_way.insert(number, bytes);
            self.bytes += bytes;
            let after = self.sent_to.insert(target, number).unwrap_or(0);
            let sending = outgoing.entry(target).or_insert_with(|| Sending { after, letters: Vec::new() });
            sending.letters.push((number, letter));
        }
        outgoing
    }

    /// These have come.
    pub(super) fn posted(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.bytes -= self.under_way.remove(number).unwrap_or(0);
        }
    }

    /// Waits until the memberships are known that are written by now; returns it at once if they are.
    pub(super) fn wait(&mut self, shard: &Shard, who: T) -> Option<T> {
        if shard.first_unposted_membership().is_none() {
            return Some(who);
        }
        self.waiting.push_back((shard.last_letter(), who));
        None
    }

    /// Who waits no longer.
    pub(super) fn known(&mut self, shard: &Shard) -> Vec<T> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let first = shard.first_unposted_membership().unwrap_or(u64::MAX);
        let split = self.waiting.partition_point(|(until, _)| *until < first);
        self.waiting.drain(..split).map(|(_, who)| who).collect()
    }
}

impl Shards {
    /// The shard that a letter is for, and whether this node knows its leader.
    pub(super) fn addressee(&self, to: &To) -> Option<(ShardId, bool)> {
        let shard = match to {
            To::Shard(shard) => *shard,
            To::Group(group) => self.shard_of(group.as_bytes())?,
        };
        Some((shard, self.line(shard)?.leader().is_some()))
    }

    /// Sends letters of a shard that this node leads to the leader of another one.
    pub(super) fn post(&self, from: ShardId, to: ShardId, Sending { after, letters }: Sending) {
        let Some(Leader { member, term, .. }) = self.line(to).and_then(super::line::Line::leader) else {
            return;
        };
        let numbers = letters.iter().map(|(number, _)| *number).collect();
        let waits_for_routes = letters.iter().any(|(_, letter)| matches!(letter, Letter::Member(_)));
        let ops = vec![Op::Letters { from, after, letters }];
        // Letters count once, so the part needs no number.
        let part = Part { source: self.me(), number: 0, ops }.encode();
        let what = What::Letters(Letters { from, numbers, waits_for_routes, part });
        self.send(member, Message { shard: to, term, what });
    }

    /// Tells the leader of a shard that its letters have come.
    pub(super) fn tell_posted(&self, to: Member, shard: ShardId, numbers: Vec<u64>, routes_at: u64) {
        self.send(to, Message { shard, term: 0, what: What::Posted { numbers, routes_at } });
    }
}

fn size(letter: &Letter) -> usize {
    let message = if let Letter::Lend { message, .. } = letter { message.bytes().len() } else { 0 };
    LETTER_BYTES + message
}

#[cfg(test)]
mod tests {
    use flotilla_shard::SessionId;

    use super::*;

    const TO: ShardId = ShardId(3);

    fn letter(number: u64) -> Outbound {
        let letter = Letter::Leave { group: "$share/g/a".into(), session: SessionId(1) };
        Outbound { number, to: To::Shard(TO), letter }
    }

    /// The numbers that are sent, behind which one.
    fn sent(outgoing: BTreeMap<ShardId, Sending>) -> Option<(u64, Vec<u64>)> {
        let Sending { after, letters } = outgoing.into_values().next()?;
        Some((after, letters.into_iter().map(|(number, _)| number).collect()))
    }

    #[test]
    fn letters_do_not_overtake_one_that_could_not_be_sent() {
        let mut post = Post::<()>::new();
        let (known, unknown) = (|_: &To| Some((TO, true)), |_: &To| Some((TO, false)));
        assert_eq!(sent(post.address(vec![letter(4), letter(5)], known)), Some((0, vec![4, 5])));
        assert_eq!(sent(post.address(vec![letter(6)], known)), Some((5, vec![6])));
        assert_eq!(sent(post.address(vec![letter(7)], unknown)), None);
        // Somebody leads there by now, and 7 would count as having come.
        assert_eq!(sent(post.address(vec![letter(8)], known)), None);
        post.again();
        assert_eq!(sent(post.address(vec![letter(7), letter(8)], known)), Some((0, vec![7, 8])));
    }
}
