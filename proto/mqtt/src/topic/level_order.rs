//! The order of topic names: level by level.

use std::{borrow::Borrow, cmp::Ordering};

/// A topic name as the key of a map that is ordered level by level.
///
/// A level orders before its own sub-levels, and these before the next level: `a`, `a/b`, `a!`. This is the order of
/// bytes, except that `/` comes first.
#[derive(Debug)]
pub(super) struct OrderedName(pub(super) Box<str>);

/// Whatever is a topic name in this order: lets a map of [`OrderedName`] be asked with a `&str`.
pub(super) trait Name {
    fn name(&self) -> &str;
}

impl Name for OrderedName {
    fn name(&self) -> &str {
        &self.0
    }
}

impl Name for &str {
    fn name(&self) -> &str {
        self
    }
}

impl<'a> Borrow<dyn Name + 'a> for OrderedName {
    fn borrow(&self) -> &(dyn Name + 'a) {
        self
    }
}

impl PartialEq for dyn Name + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for dyn Name + '_ {}

impl PartialOrd for dyn Name + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn Name + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(self.name(), other.name())
    }
}

impl PartialEq for OrderedName {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for OrderedName {}

impl PartialOrd for OrderedName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for OrderedName {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.0, &other.0)
    }
}

/// Compares two topic names or two levels.
pub(super) fn compare(left: &str, right: &str) -> Ordering {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    let same = common_prefix(left, right);
    // `/` is below every other byte, and the end of the text is below `/`.
    let rank = |bytes: &[u8]| bytes.get(same).map(|&byte| if byte == b'/' { 0 } else { u16::from(byte) + 1 });
    rank(left).cmp(&rank(right))
}

/// How many leading bytes are equal.
fn common_prefix(left: &[u8], right: &[u8]) -> usize {
    // Whole words first: names in one map tend to begin alike.
    let (left_words, _) = left.as_chunks::<8>();
    let (right_words, _) = right.as_chunks::<8>();
    let words = left_words.iter().zip(right_words).take_while(|(left, right)| left == right).count();
    let start = words * 8;
    start + left[start..].iter().zip(&right[start..]).take_while(|(left, right)| left == right).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn levels_come_before_bytes() {
        let ascending = [
            "/", "//", "/a", "\u{1}", "!", "a", "a/", "a//", "a/b", "a/b/c", "a/b!", "a/c", "a\u{1}", "a!",
            "a!/b", "ab", "b", "\u{E9}",
        ];
        for (index, left) in ascending.iter().enumerate() {
            for (other, right) in ascending.iter().enumerate() {
                assert_eq!(compare(left, right), index.cmp(&other), "{left:?} {right:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn order_is_that_of_the_lists_of_levels(left in "[a/!\u{1}]{0,20}", right in "[a/!\u{1}]{0,20}", common in "[a/]{0,20}") {
            let (left, right) = (format!("{common}{left}"), format!("{common}{right}"));
            prop_assert_eq!(compare(&left, &right), left.split('/').cmp(right.split('/')));
        }
    }
}
