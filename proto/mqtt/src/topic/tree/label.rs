//! The levels that a node of the trie stands for, and how they are compared.

use std::fmt;

use crate::topic::levels::{first_level, level_end};

/// One or more levels of a filter, joined by `/`: literal levels and `+`.
///
/// No level at all cannot be written down: the empty text is one empty level.
#[derive(Clone)]
pub(super) struct Label(Repr);

/// Most labels are short, and a short one costs no allocation.
#[derive(Clone)]
enum Repr {
    Short { len: u8, bytes: [u8; SHORT_MAX] },
    Long(Box<[u8]>),
}

const SHORT_MAX: usize = 22;
const _: () = assert!(size_of::<Label>() <= 24);

impl Label {
    pub(super) fn new(levels: &[u8]) -> Self {
        let mut bytes = [0; SHORT_MAX];
        match (bytes.get_mut(..levels.len()), u8::try_from(levels.len())) {
            (Some(start), Ok(len)) => {
                start.copy_from_slice(levels);
                Self(Repr::Short { len, bytes })
            }
            _ => Self(Repr::Long(levels.into())),
        }
    }

    /// The levels of `upper`, then those of `lower`.
    pub(super) fn joined(upper: &Self, lower: &Self) -> Self {
        Self::new(&[upper.as_bytes(), lower.as_bytes()].join(&b'/'))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Short { len, bytes } => &bytes[..usize::from(*len)],
            Repr::Long(bytes) => bytes,
        }
    }

    pub(super) fn first_level(&self) -> &[u8] {
        first_level(self.as_bytes())
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.as_bytes()))
    }
}

/// How many bytes the common leading levels of `left` and `right` have; their first levels must be equal.
pub(super) fn shared_levels(left: &[u8], right: &[u8]) -> usize {
    let bytes = left.iter().zip(right).take_while(|(left, right)| left == right).count();
    if is_level_end(left, bytes) && is_level_end(right, bytes) {
        return bytes;
    }
    left[..bytes].iter().rposition(|&byte| byte == b'/').expect("the first levels are equal")
}

/// Matches a label against the levels of `name` that start at `start`.
///
/// Returns where the levels behind the matched ones start: behind the end of the name when none is left.
pub(super) fn match_label(label: &[u8], name: &[u8], start: usize) -> Option<usize> {
    let (mut in_label, mut in_name) = (0, start);
    loop {
        let (label_end, name_end) = (level_end(label, in_label), level_end(name, in_name));
        let level = &label[in_label..label_end];
        if level != b"+" && level != &name[in_name..name_end] {
            return None;
        }
        (in_label, in_name) = (label_end + 1, name_end + 1);
        if in_label > label.len() {
            return Some(in_name);
        }
        if in_name > name.len() {
            return None;
        }
    }
}

fn is_level_end(levels: &[u8], at: usize) -> bool {
    levels.get(at).is_none_or(|&byte| byte == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_keep_their_text() {
        for length in [0, 1, SHORT_MAX - 1, SHORT_MAX, SHORT_MAX + 1, 300, 65_535] {
            let text = vec![b'x'; length];
            assert_eq!(Label::new(&text).as_bytes(), text);
        }
        let joined = |upper: &str, lower: &str| {
            Label::joined(&Label::new(upper.as_bytes()), &Label::new(lower.as_bytes()))
        };
        assert_eq!(joined("a/b", "+").as_bytes(), b"a/b/+");
        assert_eq!(joined("", "").as_bytes(), b"/");
    }

    #[test]
    fn shared_levels_end_at_a_separator() {
        check_shared("a", "a", 1);
        check_shared("", "", 0);
        check_shared("", "/a", 0);
        check_shared("/a", "/b", 0);
        check_shared("a/b", "a/b", 3);
        check_shared("a/b", "a/bc", 1);
        check_shared("a/b/c", "a/b/d", 3);
        check_shared("a", "a/b", 1);
        check_shared("a/", "a", 1);
        check_shared("a/", "a/", 2);
        check_shared("a//b", "a//c", 2);
        check_shared("x/\u{E9}", "x/\u{E8}", 1); // They differ within a character.
    }

    #[test]
    fn labels_match_level_by_level() {
        check_match("a", "a", 0, Some(2));
        check_match("a", "a/b", 0, Some(2));
        check_match("a", "ab", 0, None);
        check_match("ab", "a", 0, None);
        check_match("b", "a/b", 2, Some(4));
        check_match("+", "a/b/c", 2, Some(4));
        check_match("+", "", 0, Some(1));
        check_match("", "a/", 2, Some(3));
        check_match("", "/a", 0, Some(1));
        check_match("a/+/c", "a/b/c/d", 0, Some(6));
        check_match("a/+", "a", 0, None);
        check_match("a/", "a", 0, None);
        check_match("a/", "a/", 0, Some(3));
        check_match("a/b", "a/c", 0, None);
    }

    fn check_shared(left: &str, right: &str, expected: usize) {
        assert_eq!(shared_levels(left.as_bytes(), right.as_bytes()), expected, "{left:?} {right:?}");
        assert_eq!(shared_levels(right.as_bytes(), left.as_bytes()), expected, "{right:?} {left:?}");
    }

    fn check_match(label: &str, name: &str, start: usize, expected: Option<usize>) {
        assert_eq!(match_label(label.as_bytes(), name.as_bytes(), start), expected, "{label:?} {name:?}");
    }
}
