//! Which requests a copy of a shard has seen.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_state::Member;

/// The requests whose changes are in a copy of a shard, by the member that asked, as far as they may be asked again.
///
/// A member asks in the order of its numbers, and again in this order when there is a new registrar. So what is missing
/// before a number that is there has been refused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Applied(pub(crate) BTreeMap<Member, BTreeSet<u64>>);

/// What a registrar knows of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// Nothing.
    No,
    /// Its change has been made.
    Applied,
    /// It was refused before a later one was not.
    Refused,
}

impl Applied {
    /// Adds a request, and forgets those before `lowest`, which have been answered.
    pub(crate) fn record(&mut self, origin: Member, number: u64, lowest: u64) {
        let numbers = self.0.entry(origin).or_default();
        numbers.insert(number);
        while numbers.first().is_some_and(|first| *first < lowest && *first < number) {
            numbers.pop_first();
        }
    }

    pub(crate) fn known(&self, origin: Member, number: u64) -> Known {
        let Some(numbers) = self.0.get(&origin) else { return Known::No };
        match numbers.last() {
            _ if numbers.contains(&number) => Known::Applied,
            Some(last) if *last > number => Known::Refused,
            _ => Known::No,
        }
    }

    /// Keeps what is in `other` too.
    pub(crate) fn intersect(&mut self, other: &Self) {
        self.0.retain(|origin, numbers| {
            let Some(others) = other.0.get(origin) else { return false };
            numbers.retain(|number| others.contains(number));
            !numbers.is_empty()
        });
    }

    /// Forgets members that ask nothing any more.
    pub(crate) fn forget(&mut self, mut has_ended: impl FnMut(Member) -> bool) {
        self.0.retain(|origin, _| !has_ended(*origin));
    }
}

#[cfg(test)]
mod tests {
    use flotilla_state::{Incarnation, NodeId};

    use super::*;

    const ORIGIN: Member = Member { node: NodeId(1), incarnation: Incarnation(2) };

    fn applied(numbers: &[u64]) -> Applied {
        let mut applied = Applied::default();
        for &number in numbers {
            applied.record(ORIGIN, number, 0);
        }
        applied
    }

    #[test]
    fn what_is_missing_before_the_last_was_refused() {
        let applied = applied(&[3, 5]);
        let known = [3, 4, 5, 6].map(|number| applied.known(ORIGIN, number));
        assert_eq!(known, [Known::Applied, Known::Refused, Known::Applied, Known::No]);
        assert_eq!(Applied::default().known(ORIGIN, 1), Known::No);
    }

    #[test]
    fn what_has_been_answered_is_forgotten() {
        let mut applied = applied(&[3, 5]);
        applied.record(ORIGIN, 7, 5);
        assert_eq!(applied.0[&ORIGIN], BTreeSet::from([5, 7]));
    }

    #[test]
    fn an_intersection_is_what_both_have_seen() {
        let mut both = applied(&[3, 5, 6]);
        both.intersect(&applied(&[3, 5, 7]));
        assert_eq!(both, applied(&[3, 5]));
        both.intersect(&applied(&[9]));
        assert_eq!(both, Applied::default());
    }
}
