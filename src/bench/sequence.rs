//! What a subscriber has had of a flow: what is late, what came twice.

/// How a message stands to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// Later than all before it.
    InOrder,
    /// A later one came before it.
    Late,
    /// It had come before.
    Repeated,
}

/// The messages of one flow, numbered from 1: the highest, and which of the [`RECENT`] up to it have come.
///
/// What is further behind counts as late, for whether it had come before is forgotten by then. Losses are not told here: they are
/// what is missing of the number that was sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Sequence {
    highest: u64,
    /// Bit `number % RECENT`.
    recent: [u64; WORDS],
}

impl Sequence {
    /// Takes the number of a message.
    #[inline]
    pub(super) fn note(&mut self, number: u64) -> Arrival {
        if number > self.highest {
            self.forget_between(number);
            self.highest = number;
            self.set(number);
            return Arrival::InOrder;
        }
        if self.highest - number >= RECENT {
            return Arrival::Late;
        }
        if self.is_set(number) {
            return Arrival::Repeated;
        }
        self.set(number);
        Arrival::Late
    }

    /// The places of what was skipped before `number` still say what was there [`RECENT`] numbers ago.
    fn forget_between(&mut self, number: u64) {
        if number - self.highest >= RECENT {
            self.recent = [0; WORDS];
            return;
        }
        for skipped in self.highest + 1..number {
            let (word, bit) = place(skipped);
            self.recent[word] &= !bit;
        }
    }

    fn set(&mut self, number: u64) {
        let (word, bit) = place(number);
        self.recent[word] |= bit;
    }

    fn is_set(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        self.recent[word] & bit != 0
    }
}

/// Which of a known number of messages have come, in whatever order.
#[derive(Debug, Clone)]
pub(super) struct Distinct {
    seen: Vec<u64>,
    count: u64,
}

impl Distinct {
    /// Expects messages 0 to `count - 1`.
    pub(super) fn new(count: u32) -> Self {
        Self { seen: vec![0; count.div_ceil(u64::BITS) as usize], count: count.into() }
    }

    /// Takes the number of a message: whether it comes for the first time. `None`: there is no such message.
    pub(super) fn note(&mut self, number: u64) -> Option<bool> {
        if number >= self.count {
            return None;
        }
        let word = usize::try_from(number / 64).ok()?;
        let (word, bit) = (self.seen.get_mut(word)?, 1 << (number % 64));
        let is_new = *word & bit == 0;
        *word |= bit;
        Some(is_new)
    }
}

/// The word and the bit of a number.
const fn place(number: u64) -> (usize, u64) {
    ((number % RECENT / 64) as usize, 1 << (number % 64))
}

/// How far back a repetition is recognised.
const RECENT: u64 = 512;
const WORDS: usize = 8;
const _: () = assert!(WORDS as u64 * 64 == RECENT);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use Arrival::{InOrder, Late, Repeated};

    fn check(numbers: &[u64], expected: &[Arrival]) {
        let mut sequence = Sequence::default();
        let arrivals: Vec<_> = numbers.iter().map(|number| sequence.note(*number)).collect();
        assert_eq!(arrivals, expected, "{numbers:?}");
    }

    #[test]
    fn late_and_repeated_messages_are_told_apart() {
        check(&[1, 2, 3], &[InOrder; 3]);
        check(&[1, 3, 2, 2, 3], &[InOrder, InOrder, Late, Repeated, Repeated]);
        check(&[5, 600, 599, 599, 600], &[InOrder, InOrder, Late, Repeated, Repeated]);
    }

    #[test]
    fn what_is_far_behind_is_late() {
        check(&[1, 513, 1], &[InOrder, InOrder, Late]);
        check(&[1, 512, 1], &[InOrder, InOrder, Repeated]);
        // Number 513 has the place of number 1, which must not pass for it.
        check(&[1, 514, 513, 513], &[InOrder, InOrder, Late, Repeated]);
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(numbers in vec(1_u64..2_000, 1..400)) {
            let (mut sequence, mut seen) = (Sequence::default(), BTreeSet::new());
            for number in numbers {
                let highest = seen.last().copied().unwrap_or(0);
                let expected = if number > highest {
                    InOrder
                } else if seen.contains(&number) && highest - number < RECENT {
                    Repeated
                } else {
                    Late
                };
                prop_assert_eq!(sequence.note(number), expected);
                seen.insert(number);
            }
        }
    }

    #[test]
    fn a_set_knows_its_members() {
        let mut distinct = Distinct::new(65);
        assert_eq!(
            [64, 0, 64, 65].map(|number| distinct.note(number)),
            [Some(true), Some(true), Some(false), None]
        );
    }
}
