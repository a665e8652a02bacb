//! Letters that the shards which they are for may not have.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use flotilla_mqtt::Timestamp;
use flotilla_state::ShardId;

use crate::{GroupMember, Letter, LoanFate, SessionId, To};

/// Letters of this shard.
#[derive(Debug, Default)]
pub(crate) struct Letters {
    /// The number of the last one.
    pub(crate) last: u64,
    unposted: BTreeMap<u64, Unposted>,
    /// The one that says what a session is to a group: there is one for the two at most.
    memberships: BTreeMap<(SessionId, Arc<str>), u64>,
    /// Their numbers.
    membership_numbers: BTreeSet<u64>,
    /// The store may have the rows of those up to here.
    stored_until: u64,
}

/// What a letter says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unposted {
    Member(GroupMember),
    Leave {
        group: Arc<str>,
        session: SessionId,
    },
    /// What is lent is known from the loan.
    Lend,
    Return {
        shard: ShardId,
        loan: u64,
        fate: LoanFate,
    },
}

impl Letters {
    /// The number of a new letter.
    ///
    /// It rises with time: a shard that was recovered from an older copy does not use again what others have heard.
    pub(crate) fn next_number(&mut self, stamp: Timestamp) -> u64 {
        self.last = (self.last + 1).max(stamp.as_millis().min(MILLIS_MAX) << NUMBERS_PER_MILLI_BITS);
        self.last
    }

    /// Those of a shard whose last letter had this number.
    pub(crate) fn from_last(last: u64) -> Self {
        Self { last, stored_until: last, ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.unposted.len()
    }

    /// All of them, in words.
    #[cfg(feature = "simulation")]
    pub(crate) fn describe(&self) -> impl Iterator<Item = String> {
        let last = std::iter::once(format!("last letter {}", self.last));
        last.chain(self.unposted.iter().map(|(number, letter)| format!("letter {number} {letter:?}")))
    }

    pub(crate) fn insert(&mut self, number: u64, letter: Unposted) {
        if let Some(key) = letter.membership() {
            self.memberships.insert(key, number);
            self.membership_numbers.insert(number);
        }
        self.unposted.insert(number, letter);
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<Unposted> {
        let letter = self.unposted.remove(&number)?;
        if self.membership_numbers.remove(&number)
            && let Some(key) = letter.membership()
        {
            self.memberships.remove(&key);
        }
        Some(letter)
    }

    /// The letter that says what a session is to a group.
    pub(crate) fn membership(&self, session: SessionId, group: &Arc<str>) -> Option<u64> {
        if self.memberships.is_empty() {
            return None;
        }
        self.memberships.get(&(session, Arc::clone(group))).copied()
    }

    pub(crate) fn first_membership(&self) -> Option<u64> {
        self.membership_numbers.first().copied()
    }

    /// Those with numbers above `after`, in order.
    pub(crate) fn after(&self, after: u64) -> impl Iterator<Item = (u64, &Unposted)> {
        self.unposted
            .range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded))
            .map(|(number, letter)| (*number, letter))
    }

    /// Whether the store may have the row of this letter, or of this loan.
    pub(crate) const fn is_stored(&self, number: u64) -> bool {
        number <= self.stored_until
    }

    /// All rows have been written.
    pub(crate) const fn set_stored(&mut self) {
        self.stored_until = self.last;
    }

    /// Whether there is such a letter, and it lends a message.
    pub(crate) fn is_lend(&self, number: u64) -> bool {
        self.unposted.get(&number) == Some(&Unposted::Lend)
    }

    /// The numbers of those that lend messages.
    pub(crate) fn lends(&self) -> impl Iterator<Item = u64> {
        let lends = self.unposted.iter().filter(|(_, letter)| **letter == Unposted::Lend);
        lends.map(|(number, _)| *number)
    }

    pub(crate) fn check_invariants(&self) {
        assert!(self.unposted.keys().all(|number| *number <= self.last));
        assert!(self.membership_numbers.iter().eq(self.unposted.iter().filter_map(|(number, letter)| {
            letter.membership().map(|key| {
                assert_eq!(self.memberships[&key], *number);
                number
            })
        })));
        assert_eq!(self.memberships.len(), self.membership_numbers.len());
    }
}

impl Unposted {
    /// Which session it says something of to which group.
    fn membership(&self) -> Option<(SessionId, Arc<str>)> {
        match self {
            Self::Member(GroupMember { group, session, .. }) | Self::Leave { group, session } => {
                Some((*session, Arc::clone(group)))
            }
            Self::Lend | Self::Return { .. } => None,
        }
    }

    /// The letter, and whom it is for; `None`: it lends a message.
    pub(crate) fn to_letter(&self) -> Option<(To, Letter)> {
        match self {
            Self::Member(member) => {
                Some((To::Group(Arc::clone(&member.group)), Letter::Member(member.clone())))
            }
            Self::Leave { group, session } => {
                let letter = Letter::Leave { group: Arc::clone(group), session: *session };
                Some((To::Group(Arc::clone(group)), letter))
            }
            Self::Lend => None,
            Self::Return { shard, loan, fate } => {
                Some((To::Shard(*shard), Letter::Return { loan: *loan, fate: *fate }))
            }
        }
    }
}

/// So many letters a millisecond leave the numbers where time has them.
const NUMBERS_PER_MILLI_BITS: u32 = 16;
/// Some thousand years after the epoch.
const MILLIS_MAX: u64 = (1 << 47) - 1;
