//! The lanes between two members.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// One of the lanes from a member to another: 0 is for control, the others for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(u8);

/// The lane that carries no messages of clients, so that these cannot delay it.
pub const CONTROL: LaneId = LaneId(0);

/// How many lanes there are from a member to another: [`CONTROL`] and four for messages.
pub const LANES: u8 = 5;

/// The lane for the messages of a publisher, or for what goes to one client: one of 1..=4, the same on every node.
///
/// Messages of one publisher stay in order because they share a lane [MQTT-4.6.0-5].
#[must_use]
pub fn lane_of(client_id: &[u8]) -> LaneId {
    let [lowest, ..] = xxh3_64_with_seed(client_id, SEED).to_le_bytes();
    LaneId(1 + lowest % (LANES - 1))
}

impl LaneId {
    /// The lane with this number; `None` from [`LANES`] on.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if number < LANES { Some(Self(number)) } else { None }
    }

    /// Its number, below [`LANES`].
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Its number as an index, below [`LANES`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// All lanes, [`CONTROL`] first.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..LANES).map(Self)
    }
}

impl fmt::Display for LaneId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

// A byte of the hash gives each of them the same chance.
const _: () = assert!((LANES - 1).is_power_of_two());

/// Shards hash client identifiers too: with a seed of its own, a shard's clients still use all lanes.
const SEED: u64 = 0x6C61_6E65;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publisher_keeps_its_lane_across_versions() {
        let lanes: Vec<_> =
            ["", "a", "b", "sensor-7", "sensor-8"].map(|id| lane_of(id.as_bytes()).number()).into();
        assert_eq!(lanes, GOLDEN);
    }

    #[test]
    fn publishers_are_spread_evenly() {
        let mut counts = [0; LANES as usize];
        for number in 0..10_000 {
            counts[lane_of(format!("client-{number}").as_bytes()).index()] += 1;
        }
        assert_eq!(counts[0], 0, "control carries no messages");
        assert!(counts[1..].iter().all(|count| (2_300..2_700).contains(count)), "{counts:?}");
    }

    #[test]
    fn only_lanes_that_exist_can_be_named() {
        assert_eq!(LaneId::new(0), Some(CONTROL));
        assert_eq!(LaneId::new(4).map(LaneId::number), Some(4));
        assert_eq!(LaneId::new(5), None);
        assert_eq!(LaneId::all().count(), usize::from(LANES));
    }

    const GOLDEN: [u8; 5] = [4, 4, 2, 3, 3];
}
