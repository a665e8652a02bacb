//! How far the parts of each member have been applied.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_state::{Incarnation, Member, NodeId};

use crate::rows::SourceRow;

/// The members that have sent parts; of each node its last life.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    known: BTreeMap<NodeId, Source>,
    /// Whose rows must be written.
    dirty: BTreeSet<NodeId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Source {
    incarnation: Incarnation,
    /// The number of its last part.
    last: u64,
    ended: bool,
}

/// What is to be done with a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It is the next one.
    New,
    /// It has been applied before.
    Repeated,
    /// One before it is missing.
    Gap { expected: u64 },
    /// The life of its source has ended.
    Ended,
}

impl Sources {
    /// What is to be done with this part; if it is new, it counts as applied. The leader's own parts have number 0.
    pub(crate) fn admit(&mut self, member: Member, number: u64) -> Turn {
        if number == 0 {
            return Turn::New;
        }
        let known = self.known.get(&member.node).copied();
        let source = match known {
            Some(source) if source.incarnation > member.incarnation => return Turn::Ended,
            Some(source) if source.incarnation == member.incarnation && source.ended => return Turn::Ended,
            Some(source) if source.incarnation == member.incarnation => source,
            _ => Source { incarnation: member.incarnation, last: 0, ended: false },
        };
        if number <= source.last {
            return Turn::Repeated;
        }
        let expected = source.last + 1;
        if number != expected {
            return Turn::Gap { expected };
        }
        self.set(member.node, Source { last: number, ..source });
        Turn::New
    }

    /// The life of a member has ended: none of its parts is applied any more.
    pub(crate) fn end(&mut self, member: Member) {
        let last = match self.known.get(&member.node) {
            Some(source) if source.incarnation > member.incarnation => return,
            Some(source) if source.incarnation == member.incarnation => source.last,
            _ => 0,
        };
        self.set(member.node, Source { incarnation: member.incarnation, last, ended: true });
    }

    fn set(&mut self, node: NodeId, source: Source) {
        self.known.insert(node, source);
        self.dirty.insert(node);
    }

    pub(crate) fn dirty_len(&self) -> usize {
        self.dirty.len()
    }

    /// Those whose rows must be written.
    pub(crate) fn dirty(&self) -> impl Iterator<Item = (NodeId, SourceRow)> {
        self.dirty.iter().filter_map(|node| {
            let Source { incarnation, last, ended } = *self.known.get(node)?;
            Some((*node, SourceRow { incarnation: incarnation.0, last, ended }))
        })
    }

    /// All of them, in words.
    #[cfg(feature = "simulation")]
    pub(crate) fn describe(&self) -> impl Iterator<Item = String> {
        self.known.iter().map(|(node, source)| format!("{node} {source:?}"))
    }

    /// All rows have been written.
    pub(crate) fn set_stored(&mut self) {
        self.dirty.clear();
    }

    pub(crate) fn restore(&mut self, node: NodeId, row: &SourceRow) {
        let SourceRow { incarnation, last, ended } = *row;
        self.known.insert(node, Source { incarnation: Incarnation(incarnation), last, ended });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(incarnation: u64) -> Member {
        Member { node: NodeId(1), incarnation: Incarnation(incarnation) }
    }

    #[test]
    fn parts_count_once_and_in_order() {
        let mut sources = Sources::default();
        let mut check = |incarnation, number, turn| {
            assert_eq!(sources.admit(member(incarnation), number), turn, "{incarnation}: {number}");
        };
        check(5, 2, Turn::Gap { expected: 1 });
        check(5, 1, Turn::New);
        check(5, 1, Turn::Repeated);
        check(5, 3, Turn::Gap { expected: 2 });
        check(5, 2, Turn::New);
        check(5, 1, Turn::Repeated);
        check(5, 0, Turn::New);
        // The next life begins anew, and ends the one before.
        check(7, 2, Turn::Gap { expected: 1 });
        check(5, 3, Turn::New);
        check(7, 1, Turn::New);
        check(5, 4, Turn::Ended);
        check(5, 1, Turn::Ended);
    }

    #[test]
    fn a_life_that_has_ended_says_nothing_more() {
        let mut sources = Sources::default();
        assert_eq!(sources.admit(member(5), 1), Turn::New);
        sources.end(member(4));
        assert_eq!(sources.admit(member(5), 2), Turn::New);
        sources.end(member(5));
        assert_eq!(sources.admit(member(5), 2), Turn::Ended);
        assert_eq!(sources.admit(member(5), 3), Turn::Ended);
        // A life that nobody had heard of ends, too.
        sources.end(member(9));
        assert_eq!(sources.admit(member(8), 1), Turn::Ended);
        assert_eq!(sources.admit(member(9), 1), Turn::Ended);
        assert_eq!(sources.admit(member(10), 1), Turn::New);
    }
}
