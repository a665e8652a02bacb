//! Topic names.

use super::{TEXT_BYTES_MAX, TopicError, TopicFault};

/// Checks a Topic Name.
///
/// # Errors
/// The text is empty, too long, has more than `max_levels` levels, or contains a wildcard or a null character.
pub fn check_name(name: &str, max_levels: u16) -> Result<(), TopicError> {
    check(name, max_levels).map_err(TopicError::Name)
}

/// Whether clients may publish to this Topic Name.
///
/// `$SYS` belongs to the server (section 4.7.2), and nobody could receive a message whose topic starts with `$share` or
/// `$queue`: a filter that starts so is a shared subscription. Other topics that start with `$` are ordinary.
pub fn is_publishable(name: &str) -> bool {
    let first = name.split_once('/').map_or(name, |(first, _)| first);
    !matches!(first, "$SYS" | "$share" | "$queue")
}

fn check(name: &str, max_levels: u16) -> Result<(), TopicFault> {
    check_length(name)?;
    let mut levels = 1_usize;
    for byte in name.bytes() {
        match byte {
            b'/' => levels += 1,
            b'+' | b'#' => return Err(TopicFault::Wildcard), // [MQTT-4.7.0-1]
            0 => return Err(TopicFault::Nul),
            _ => {}
        }
    }
    check_levels(levels, max_levels)
}

/// Checks the rules on the length that hold for names and filters alike.
pub(super) fn check_length(text: &str) -> Result<(), TopicFault> {
    match text.len() {
        0 => Err(TopicFault::Empty),
        1..=TEXT_BYTES_MAX => Ok(()),
        _ => Err(TopicFault::TooLong),
    }
}

/// Checks our limit of levels.
pub(super) fn check_levels(levels: usize, limit: u16) -> Result<(), TopicFault> {
    if levels > usize::from(limit) { Err(TopicFault::TooManyLevels { limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ReasonCode;

    fn check(name: &str, expected: Result<(), TopicFault>) {
        assert_eq!(check_name(name, 4), expected.map_err(TopicError::Name), "{name:?}");
    }

    #[test]
    fn names_of_section_4_7() {
        for name in [
            "a",
            "/",
            "//",
            "/finance",
            "Accounts payable",
            "sport/tennis/player1",
            "$SYS/uptime",
            "a//b/",
            "\u{FEFF}a",
            " ",
        ] {
            check(name, Ok(()));
        }
    }

    #[test]
    fn faulty_names() {
        check("", Err(TopicFault::Empty));
        for name in ["+", "#", "a/+", "a/#", "a+b", "a#", "+/a"] {
            check(name, Err(TopicFault::Wildcard));
        }
        check("a\0b", Err(TopicFault::Nul));
        check("a/b/c/d", Ok(()));
        check("a/b/c/d/", Err(TopicFault::TooManyLevels { limit: 4 }));
        check("////", Err(TopicFault::TooManyLevels { limit: 4 }));
        check(&"a".repeat(65_535), Ok(()));
        check(&"a".repeat(65_536), Err(TopicFault::TooLong));
    }

    #[test]
    fn deepest_possible_name() {
        let name = "/".repeat(65_534);
        assert_eq!(check_name(&name, u16::MAX), Ok(()));
        assert_eq!(check_name(&name, 128), Err(TopicError::Name(TopicFault::TooManyLevels { limit: 128 })));
    }

    #[test]
    fn reasons() {
        assert_eq!(TopicError::Name(TopicFault::Wildcard).reason(), ReasonCode::TopicNameInvalid);
        assert_eq!(TopicError::Filter(TopicFault::Wildcard).reason(), ReasonCode::TopicFilterInvalid);
        assert_eq!(TopicError::Name(TopicFault::Nul).reason(), ReasonCode::MalformedPacket);
        assert_eq!(TopicError::Filter(TopicFault::Nul).reason(), ReasonCode::MalformedPacket);
        assert_eq!(TopicError::Name(TopicFault::Empty).fault(), TopicFault::Empty);
    }

    #[test]
    fn topics_of_the_server_are_not_publishable() {
        for name in ["$SYS", "$SYS/", "$SYS/broker/uptime", "$share/g/t", "$share", "$queue/t", "$queue"] {
            assert!(!is_publishable(name), "{name}");
        }
        for name in ["a", "$", "$a/b", "$SYSTEM/a", "$sys/a", "$shared/g", "a/$SYS/b", "/$SYS", "SYS"] {
            assert!(is_publishable(name), "{name}");
        }
    }
}
