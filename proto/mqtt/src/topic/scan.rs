//! From one topic name to the next that a filter could match, in the order of names.
//!
//! A wildcard look-up in a map of topic names does not go through all names: at a name that does not match, it goes on at
//! the smallest place behind it where a name could match. For `+/temp` this skips all of `kitchen/...` but
//! `kitchen/temp`, with two look-ups for each first level.
//!
//! A *place* is a text that need not be a name; it stands for the first name that is not below it.

use std::cmp::Ordering;

use super::{level_order::compare, levels::level_end};

/// What a name is to a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The name matches.
    Match,
    /// The name does not match, nor does any greater name below the place that was written.
    Seek,
    /// The name does not match, nor does any greater name.
    End,
}

/// Writes the first place where a name could match the filter.
pub(super) fn first_place(filter: &str, place: &mut String) {
    place.clear();
    push_smallest(filter, place);
}

/// Compares a name with a filter; for [`Step::Seek`] writes the place, which is behind the name, to go on from.
pub(super) fn step(filter: &str, name: &str, place: &mut String) -> Step {
    if name.starts_with('$') && filter.starts_with(['+', '#']) {
        // All names that start with $ stand together, and none of them matches [MQTT-4.7.2-1].
        BEHIND_DOLLAR.clone_into(place);
        return Step::Seek;
    }
    let (mut in_filter, mut in_name) = (0, 0);
    // Where the last level ends that a `+` took. A greater name that matches can differ first in this level or in a level
    // that this function has not come to: the literal levels before are given.
    let mut plus_end = None;
    while in_filter <= filter.len() {
        let filter_end = level_end(filter.as_bytes(), in_filter);
        let wanted = &filter[in_filter..filter_end];
        if wanted == "#" {
            return Step::Match;
        }
        if in_name > name.len() {
            // The sub-levels of the name come next.
            name.clone_into(place);
            place.push('/');
            push_smallest(&filter[in_filter..], place);
            return Step::Seek;
        }
        let name_end = level_end(name.as_bytes(), in_name);
        if wanted == "+" {
            plus_end = Some(name_end);
        } else {
            match compare(&name[in_name..name_end], wanted) {
                Ordering::Less => {
                    name[..in_name].clone_into(place);
                    push_smallest(&filter[in_filter..], place);
                    return Step::Seek;
                }
                Ordering::Equal => {}
                Ordering::Greater => return seek_behind(plus_end.map(|end| &name[..end]), place),
            }
        }
        (in_filter, in_name) = (filter_end + 1, name_end + 1);
    }
    if in_name > name.len() { Step::Match } else { seek_behind(plus_end.map(|end| &name[..end]), place) }
}

/// Goes on behind a name and all its sub-levels. Without a `+` on the way there is nothing behind that could match.
fn seek_behind(name: Option<&str>, place: &mut String) -> Step {
    let Some(name) = name else { return Step::End };
    name.clone_into(place);
    place.push('\0'); // In the order of names, this is above `/` and not above anything else.
    Step::Seek
}

/// Writes the smallest levels that match a filter: the empty level for `+`, and none for `#`.
fn push_smallest(filter: &str, place: &mut String) {
    for (index, level) in filter.split('/').enumerate() {
        if level == "#" {
            return;
        }
        if index > 0 {
            place.push('/');
        }
        if level != "+" {
            place.push_str(level);
        }
    }
}

/// The character behind `$`.
const BEHIND_DOLLAR: &str = "%";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::topic::{arbitrary, matches};

    #[test]
    fn steps() {
        check("a/+/c", "a/b/c", Step::Match, "");
        check("a/+/c", "a", Step::Seek, "a//c");
        check("a/+/c", "a/b", Step::Seek, "a/b/c");
        check("a/+/c", "a/b/a", Step::Seek, "a/b/c");
        check("a/+/c", "a/b/d", Step::Seek, "a/b\0");
        check("a/+/c", "a/b/c/d", Step::Seek, "a/b\0");
        check("a/+/c", "a!", Step::End, "");
        check("a/+/c", "A/x", Step::Seek, "a//c");
        check("a/+/c", "b", Step::End, "");
        check("a/b", "a/b", Step::Match, "");
        check("a/b", "a/b/c", Step::End, "");
        check("a/#", "a", Step::Match, "");
        check("a/#", "a/b/c", Step::Match, "");
        check("a/#", "/", Step::Seek, "a");
        check("a/#", "a!", Step::End, "");
        check("+/+", "a/b/c", Step::Seek, "a/b\0");
        check("+/b/+/d", "a/b/c/e", Step::Seek, "a/b/c\0");
        check("+/b/+/d", "a/c", Step::Seek, "a\0");
        check("+/b/#", "a", Step::Seek, "a/b");
        check("#", "$SYS/a", Step::Seek, "%");
        check("+/a", "$SYS/a", Step::Seek, "%");
        check("$SYS/+", "$SYS/a", Step::Match, "");
    }

    #[test]
    fn first_places() {
        for (filter, expected) in [
            ("#", ""),
            ("+", ""),
            ("+/b", "/b"),
            ("a/+/c", "a//c"),
            ("a/#", "a"),
            ("a/+/#", "a/"),
            ("/", "/"),
        ] {
            let mut place = "x".to_owned();
            first_place(filter, &mut place);
            assert_eq!(place, expected);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn nothing_that_matches_is_skipped(filter in arbitrary::filter(), name in arbitrary::name(), other in arbitrary::name()) {
            let mut place = String::new();
            let step = step(&filter, &name, &mut place);
            prop_assert_eq!(step == Step::Match, matches(&filter, &name));
            let skipped = match step {
                Step::Match => false,
                Step::Seek => compare(&other, &place).is_lt(),
                Step::End => true,
            };
            if step == Step::Seek {
                prop_assert!(compare(&place, &name).is_gt());
            }
            if skipped && compare(&other, &name).is_gt() {
                prop_assert!(!matches(&filter, &other), "{:?} {:?}", step, place);
            }
            first_place(&filter, &mut place);
            prop_assert!(compare(&other, &place).is_ge() || !matches(&filter, &other));
        }
    }

    fn check(filter: &str, name: &str, expected: Step, expected_place: &str) {
        let mut place = String::new();
        assert_eq!(step(filter, name, &mut place), expected, "{filter} {name}");
        assert_eq!(place, expected_place, "{filter} {name}");
    }
}
