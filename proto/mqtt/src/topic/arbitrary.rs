//! Random names and filters for the tests: few different levels, so that they meet.

use proptest::{option, prelude::*, sample::select};

use super::{TopicFilter, check_name};

const LEVELS: [&str; 8] = ["", "a", "b", "ab", "$", "$SYS", "\u{E9}", "a level that is longer than most"];

/// A valid Topic Name.
pub(super) fn name() -> impl Strategy<Value = String> {
    prop::collection::vec(select(&LEVELS[..]), 1..6)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("not empty", |name| check_name(name, 6).is_ok())
}

/// A valid Topic Filter that is not shared.
pub(super) fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![2 => select(&LEVELS[..]), 1 => Just("+")];
    (prop::collection::vec(level, 0..6), option::of(Just("#")))
        .prop_map(|(mut levels, last)| {
            levels.extend(last);
            levels.join("/")
        })
        .prop_filter("not empty", |filter| TopicFilter::parse(filter, 7).is_ok())
}
