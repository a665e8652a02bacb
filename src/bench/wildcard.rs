//! Filters with wildcards, numbered, and topics that match one of them each.
//!
//! Four shapes take turns: wildcards in the middle, at the end, both, and before what tells the filters apart. A topic is made from a
//! number, and matches the filter that is made from the same number, and no other.

use std::fmt::Write as _;

/// The filter with this number.
pub(super) fn filter(topic_prefix: &str, number: u32) -> String {
    match number % 4 {
        0 => format!("{topic_prefix}/unit/{number}/+/state"),
        1 => format!("{topic_prefix}/unit/{number}/#"),
        2 => format!("{topic_prefix}/unit/{number}/+/state/#"),
        _ => format!("{topic_prefix}/hall/+/unit/{number}/#"),
    }
}

/// Writes a topic that matches the filter with this number in place of what `topic` was.
pub(super) fn write_topic(topic_prefix: &str, number: u32, topic: &mut String) {
    topic.clear();
    // Writing to a string cannot fail.
    let _ = match number % 4 {
        3 => write!(topic, "{topic_prefix}/hall/{}/unit/{number}/state", number % HALLS),
        _ => write!(topic, "{topic_prefix}/unit/{number}/motor/state"),
    };
}

/// A number below `count`, as good as chance: the same for the same `seed`.
pub(super) fn choose(seed: u64, count: u32) -> u32 {
    // The finalizer of SplitMix64.
    let mut mixed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^= mixed >> 31;
    u32::try_from((u128::from(mixed) * u128::from(count)) >> 64).unwrap_or(0)
}

/// Some prime number, so that halls and shapes do not go together.
const HALLS: u32 = 97;

#[cfg(test)]
mod tests {
    use flotilla_mqtt::topic::matches;

    use super::*;

    #[test]
    fn a_topic_matches_its_own_filter_only() {
        let mut topic = String::new();
        for number in 0..40 {
            write_topic("a/b", number, &mut topic);
            for other in 0..200 {
                let filter = filter("a/b", other);
                assert_eq!(matches(&filter, &topic), number == other, "{filter} {topic}");
            }
        }
    }

    #[test]
    fn every_filter_has_its_turn() {
        let mut chosen = [0_u32; 10];
        (0..10_000).for_each(|seed| chosen[choose(seed, 10) as usize] += 1);
        assert!(chosen.iter().all(|count| (800..1_200).contains(count)), "{chosen:?}");
    }
}
