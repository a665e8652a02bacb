//! Retained topics as registers: is there an order of what was done to each that explains what was read?
//!
//! The search is that of Wing and Gong, with the memory of Lowe: operations are ordered one by one, each of them only where no
//! other had ended before it began; a set of ordered operations with a value that was tried before is not tried again. A
//! write of unknown outcome has no end, so it may be ordered anywhere behind its begin, or be left over.

use std::collections::{BTreeSet, HashSet};

use crate::history::{At, Check, RegisterKind, RegisterOperation, Violation};

/// What the search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// There is such an order.
    Linearizable,
    /// There is none: the operation that could not be ordered in the longest order that was found.
    Not { stuck: usize },
    /// Not found out within [`STATES_MAX`] states.
    Undecided,
}

/// Holds the operations on one topic against a register that begins empty. `last` are reads after the end, one from each node,
/// which must agree.
pub(crate) fn check(
    topic: &str,
    operations: &[RegisterOperation],
    last: &[RegisterOperation],
) -> Vec<Violation> {
    let mut violations = Vec::new();
    let values: BTreeSet<Option<u32>> = last.iter().filter_map(|read| value_read(read.kind)).collect();
    if values.len() > 1 {
        let seen: Vec<String> = last.iter().map(tell).collect();
        violations.push(violation(
            last,
            format!("{topic}: the nodes do not agree at the end: {}", seen.join("; ")),
        ));
    }
    // Once without the reads in between: what stays is worse than what passes.
    let is_write = |operation: &&RegisterOperation| matches!(operation.kind, RegisterKind::Write(_));
    let writes: Vec<RegisterOperation> = operations.iter().filter(is_write).cloned().collect();
    let ended = [writes, last.to_vec()].concat();
    if let Answer::Not { stuck } = search(&ended) {
        let around = around(&ended, stuck);
        violations.push(violation(&ended[stuck..=stuck], format!("{topic}: the value that stays: {around}")));
        return violations;
    }
    let all = [operations, last].concat();
    if let Answer::Not { stuck } = search(&all) {
        let around = around(&all, stuck);
        violations.push(violation(&all[stuck..=stuck], format!("{topic}: a read that passes: {around}")));
    }
    violations
}

/// Whether the operations can be ordered.
pub(crate) fn search(operations: &[RegisterOperation]) -> Answer {
    let operations = relevant(operations);
    let mut order: Vec<usize> = (0..operations.len()).collect();
    order.sort_by_key(|index| operations[*index].1.begin);
    let operations: Vec<(usize, &RegisterOperation)> = order.iter().map(|index| operations[*index]).collect();
    let mut state = State { done: vec![false; operations.len()], value: None };
    let mut tried: HashSet<State> = HashSet::new();
    // What was ordered, with the value before it, and where the search goes on when it is taken back.
    let mut path: Vec<(usize, Option<u32>)> = Vec::new();
    let mut from = 0;
    let (mut longest, mut stuck) = (0, 0);
    loop {
        if operations
            .iter()
            .zip(&state.done)
            .all(|((_, operation), done)| *done || operation.end == At::NEVER)
        {
            return Answer::Linearizable;
        }
        // The earliest end among those that are left: what begins behind it cannot come first.
        let left = operations.iter().enumerate().filter(|(index, _)| !state.done[*index]);
        let horizon = left.clone().map(|(_, (_, operation))| operation.end).min().unwrap_or(At::NEVER);
        let mut candidates =
            left.filter(|(index, (_, operation))| *index >= from && operation.begin <= horizon);
        let next = candidates.find_map(|(index, (_, operation))| {
            let value = match operation.kind {
                RegisterKind::Write(value) => value,
                RegisterKind::Read(value) if value == state.value => value,
                RegisterKind::Read(_) => return None,
            };
            let mut done = state.done.clone();
            done[index] = true;
            let after = State { done, value };
            tried.insert(after.clone()).then_some((index, after))
        });
        if tried.len() > STATES_MAX {
            return Answer::Undecided;
        }
        if let Some((index, after)) = next {
            path.push((index, state.value));
            state = after;
            from = 0;
            continue;
        }
        if path.len() >= longest {
            longest = path.len();
            let waits = operations.iter().enumerate().filter(|(index, _)| !state.done[*index]);
            stuck = waits
                .min_by_key(|(_, (_, operation))| operation.end)
                .map_or(0, |(_, (original, _))| *original);
        }
        let Some((index, value)) = path.pop() else {
            return Answer::Not { stuck };
        };
        state.done[index] = false;
        state.value = value;
        from = index + 1;
    }
}

/// Without writes of unknown outcome whose value nobody read: whatever is explained with them is explained without.
fn relevant(operations: &[RegisterOperation]) -> Vec<(usize, &RegisterOperation)> {
    let read: HashSet<Option<u32>> =
        operations.iter().filter_map(|operation| value_read(operation.kind)).collect();
    let matters = |operation: &RegisterOperation| match operation.kind {
        RegisterKind::Write(value) => operation.end != At::NEVER || read.contains(&value),
        RegisterKind::Read(_) => true,
    };
    operations.iter().enumerate().filter(|(_, operation)| matters(operation)).collect()
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    done: Vec<bool>,
    value: Option<u32>,
}

fn value_read(kind: RegisterKind) -> Option<Option<u32>> {
    match kind {
        RegisterKind::Read(value) => Some(value),
        RegisterKind::Write(_) => None,
    }
}

/// The operation that does not fit, and those before and beside it.
fn around(operations: &[RegisterOperation], stuck: usize) -> String {
    let culprit = &operations[stuck];
    let mut others: Vec<&RegisterOperation> = operations
        .iter()
        .filter(|other| other.begin <= culprit.end && !std::ptr::eq(*other, culprit))
        .collect();
    others.sort_by_key(|other| other.begin);
    let shown: Vec<String> = others.iter().rev().take(OTHERS_SHOWN).rev().map(|other| tell(other)).collect();
    format!("{} does not fit behind {}", tell(culprit), shown.join("; "))
}

fn tell(operation: &RegisterOperation) -> String {
    let name = |value: Option<u32>| value.map_or_else(|| "nothing".to_owned(), |value| value.to_string());
    let RegisterOperation { client, node, begin, end, kind } = operation;
    let what = match kind {
        RegisterKind::Write(value) if *end == At::NEVER => format!("perhaps wrote {}", name(*value)),
        RegisterKind::Write(value) => format!("wrote {}", name(*value)),
        RegisterKind::Read(value) => format!("read {}", name(*value)),
    };
    format!("{client} {what} at node-{node} between {begin} and {end}")
}

fn violation(of: &[RegisterOperation], text: String) -> Violation {
    let begin = of.iter().map(|operation| operation.begin).min().unwrap_or_default();
    let end = of.iter().map(|operation| operation.end).max().unwrap_or_default();
    Violation { check: Check::Retained, begin, end, count: 1, text }
}

/// Enough for hundreds of operations with a few at the same time; a search that needs more proves nothing.
const STATES_MAX: usize = 200_000;

const OTHERS_SHOWN: usize = 6;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::check::reference::{at, kinds};

    fn write(value: u32, begin: u64, end: u64) -> RegisterOperation {
        operation(RegisterKind::Write(Some(value)), begin, end)
    }

    fn unknown(value: Option<u32>, begin: u64) -> RegisterOperation {
        let mut operation = operation(RegisterKind::Write(value), begin, begin);
        operation.end = At::NEVER;
        operation
    }

    fn delete(begin: u64, end: u64) -> RegisterOperation {
        operation(RegisterKind::Write(None), begin, end)
    }

    fn read(value: Option<u32>, begin: u64, end: u64) -> RegisterOperation {
        operation(RegisterKind::Read(value), begin, end)
    }

    fn operation(kind: RegisterKind, begin: u64, end: u64) -> RegisterOperation {
        RegisterOperation { client: "c".to_owned(), node: 0, begin: at(begin), end: at(end), kind }
    }

    #[track_caller]
    fn right(operations: &[RegisterOperation]) {
        assert_eq!(search(operations), Answer::Linearizable);
    }

    #[track_caller]
    fn wrong(operations: &[RegisterOperation], stuck: usize) {
        assert_eq!(search(operations), Answer::Not { stuck });
    }

    #[test]
    fn a_read_sees_the_last_write() {
        right(&[]);
        right(&[read(None, 1, 2), write(1, 3, 4), read(Some(1), 5, 6), write(2, 7, 8), read(Some(2), 9, 10)]);
        wrong(&[write(1, 1, 2), write(2, 3, 4), read(Some(1), 5, 6)], 2);
        wrong(&[write(1, 1, 2), read(None, 3, 4)], 1);
    }

    #[test]
    fn operations_at_the_same_time_have_either_order() {
        right(&[write(1, 1, 10), write(2, 1, 10), read(Some(1), 11, 12)]);
        right(&[write(1, 1, 10), write(2, 1, 10), read(Some(2), 11, 12)]);
        // But one only, for all.
        wrong(&[write(1, 1, 10), write(2, 1, 10), read(Some(1), 11, 12), read(Some(2), 13, 14)], 3);
        right(&[write(1, 1, 10), read(Some(1), 2, 3), read(Some(1), 4, 5)]);
        wrong(&[write(1, 1, 10), read(Some(1), 2, 3), read(None, 4, 5)], 2);
    }

    #[test]
    fn what_is_unknown_may_happen_later_or_never() {
        right(&[unknown(Some(1), 1), read(None, 2, 3), read(Some(1), 4, 5)]);
        right(&[write(1, 1, 2), unknown(Some(2), 3), read(Some(1), 40, 50)]);
        right(&[write(1, 1, 2), unknown(None, 3), read(Some(1), 4, 5), read(None, 6, 7)]);
        // Only once, and not before it was sent.
        wrong(
            &[
                unknown(Some(1), 1),
                read(Some(1), 2, 3),
                write(2, 4, 5),
                read(Some(2), 6, 7),
                read(Some(1), 8, 9),
            ],
            4,
        );
        wrong(&[read(Some(1), 1, 2), unknown(Some(1), 3)], 0);
    }

    #[test]
    fn a_deletion_is_not_taken_back() {
        right(&[write(1, 1, 2), delete(3, 4), read(None, 5, 6)]);
        wrong(&[write(1, 1, 2), delete(3, 4), read(Some(1), 5, 6)], 2);
    }

    #[test]
    fn nodes_that_disagree_at_the_end_are_found() {
        let writes = [write(1, 1, 10), write(2, 1, 10)];
        let last = [read(Some(1), 20, 21), read(Some(2), 20, 21)];
        let found = kinds(&check("t", &writes, &last));
        assert_eq!(found, [Check::Retained, Check::Retained]);
        assert_eq!(kinds(&check("t", &writes, &[read(Some(2), 20, 21), read(Some(2), 20, 21)])), []);
    }

    #[test]
    fn a_stale_read_is_told_from_a_value_that_stays() {
        let operations = [write(1, 1, 2), write(2, 3, 4), read(Some(1), 5, 6)];
        let violations = check("t", &operations, &[read(Some(2), 20, 21)]);
        assert!(violations[0].text.contains("a read that passes"), "{}", violations[0].text);
        let violations = check("t", &operations, &[read(Some(1), 20, 21)]);
        assert!(violations[0].text.contains("the value that stays"), "{}", violations[0].text);
    }

    proptest! {
        /// What a register did, each operation at a moment within its span, is always explained; with another value read,
        /// which nobody wrote, never.
        #[test]
        fn what_a_register_did_is_explained(
            steps in proptest::collection::vec((0u8..5, 0u64..40, 0u64..40), 1..60),
            lie in any::<prop::sample::Index>(),
        ) {
            let mut value = None;
            let mut operations = Vec::new();
            for (number, (kind, before, behind)) in steps.into_iter().enumerate() {
                let number = u32::try_from(number).expect("a small number");
                let moment = 100 + 10 * u64::from(number);
                let (begin, end) = (moment - before, moment + behind);
                operations.push(match kind {
                    0 | 1 => { value = Some(number); write(number, begin, end) }
                    2 => { value = None; delete(begin, end) }
                    // Whether it happens is for the moment to decide.
                    3 if behind % 2 == 0 => unknown(Some(number), begin),
                    3 => { value = Some(number); unknown(Some(number), begin) }
                    _ => read(value, begin, end),
                });
            }
            prop_assert_eq!(search(&operations), Answer::Linearizable);
            let index = lie.index(operations.len());
            if matches!(operations[index].kind, RegisterKind::Read(_)) {
                operations[index].kind = RegisterKind::Read(Some(u32::MAX));
                let is_wrong = matches!(search(&operations), Answer::Not { .. });
                prop_assert!(is_wrong);
            }
        }

        /// Against every order that there is, for few operations.
        #[test]
        fn the_search_agrees_with_trying_everything(
            steps in proptest::collection::vec((0u8..4, 0u32..3, 0u64..12, 1u64..8), 1..6),
        ) {
            let operations: Vec<RegisterOperation> = steps.into_iter().map(|(kind, value, begin, length)| match kind {
                0 => write(value, begin, begin + length),
                1 => unknown(Some(value), begin),
                2 => delete(begin, begin + length),
                _ => read((value > 0).then_some(value), begin, begin + length),
            }).collect();
            let expected = explained(&operations, &mut vec![false; operations.len()], None);
            prop_assert_eq!(search(&operations) == Answer::Linearizable, expected);
        }
    }

    /// Whether some order explains what is left.
    fn explained(operations: &[RegisterOperation], done: &mut Vec<bool>, value: Option<u32>) -> bool {
        let left: Vec<usize> = (0..operations.len()).filter(|index| !done[*index]).collect();
        if left.iter().all(|index| operations[*index].end == At::NEVER) {
            return true;
        }
        let horizon = left.iter().map(|index| operations[*index].end).min().expect("some are left");
        left.iter().any(|index| {
            let operation = &operations[*index];
            let after = match operation.kind {
                RegisterKind::Write(written) => written,
                RegisterKind::Read(seen) if seen == value => value,
                RegisterKind::Read(_) => return false,
            };
            if operation.begin > horizon {
                return false;
            }
            done[*index] = true;
            let is_explained = explained(operations, done, after);
            done[*index] = false;
            is_explained
        })
    }

    #[test]
    fn many_operations_are_searched_in_no_time() {
        let many = (0..500u32).map(|number| {
            let begin = 10 * u64::from(number);
            if number % 3 == 0 { unknown(Some(number), begin) } else { write(number, begin, begin + 35) }
        });
        let mut operations: Vec<_> = many.collect();
        operations.push(read(Some(499), 10_000, 10_001));
        let begin = std::time::Instant::now();
        right(&operations);
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
}
