//! The time of a shard.

use std::time::Instant;

use crate::clock;

/// The time of a shard, in milliseconds since the epoch.
///
/// The first leader begins with its wall clock, or with what the log says where that is later, and goes on with its monotonic clock. It tells
/// the members the time, and each goes on with its own monotonic clock, so that whoever leads next goes on with the same time. So a
/// wall clock that jumps ends nothing early or late, unless all nodes have been down meanwhile, or a node leads that has just started and
/// was told no time yet.
///
/// What is told takes a while to arrive, and a leader whose clock is slow by that would be followed by one that ends things early. So
/// replicas learn from every entry, too: the one that came fastest tells the time best.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShardClock {
    origin: u64,
    since: Instant,
}

impl ShardClock {
    /// Begins with the time that is `known`, if any is; never before `stamp`, that of the last entry.
    pub(super) fn start(stamp: u64, known: Option<Self>) -> Self {
        Self::at(known.map_or_else(clock::millis_since_epoch, Self::now).max(stamp))
    }

    /// It is so late.
    pub(super) fn at(now: u64) -> Self {
        Self { origin: now, since: Instant::now() }
    }

    pub(super) fn now(self) -> u64 {
        self.origin.saturating_add(u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The later one of two.
    pub(super) fn later(self, other: Self) -> Self {
        if self.now() < other.now() { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_goes_on_with_the_time_that_is_known() {
        let (hour, now) = (3_600_000, clock::millis_since_epoch());
        assert!(ShardClock::start(0, None).now() >= now);
        assert!(ShardClock::start(now + hour, None).now() >= now + hour, "it does not go back");
        let slow = ShardClock::start(5, Some(ShardClock::at(hour)));
        assert!((hour..2 * hour).contains(&slow.now()), "whatever the wall clock says");
        assert!(ShardClock::start(2 * hour, Some(slow)).now() >= 2 * hour);
    }

    #[test]
    fn time_that_is_told_late_does_not_go_back() {
        let (early, late) = (ShardClock::at(1_000), ShardClock::at(60_000));
        assert!(early.later(late).now() >= 60_000);
        assert!(late.later(early).now() >= 60_000);
    }
}
