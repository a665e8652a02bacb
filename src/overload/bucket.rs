//! How fast connections are accepted.

use std::time::Duration;

use flotilla_mqtt::Timestamp;

/// Lets so many through in a second, and of what it has let nobody have, a tenth of a second's worth at once. One of several that
/// share a rate has an equal part of it.
#[derive(Debug, Clone)]
pub(crate) struct TokenBucket {
    /// Parts that come in a millisecond.
    rate: u64,
    /// Parts of one that is let through.
    cost: u64,
    parts: u64,
    /// When the parts were counted.
    at: Timestamp,
}

impl TokenBucket {
    /// It is full at the beginning.
    pub(crate) fn new(per_second: u32, sharers: usize, now: Timestamp) -> Self {
        // So that a millisecond brings a whole number of them, whatever the rate is.
        let cost = 1_000 * sharers as u64;
        let rate = u64::from(per_second);
        Self { rate, cost, parts: cost.max(rate * BURST_MILLIS), at: now }
    }

    /// How long it is until the next one may pass.
    pub(crate) fn wait(&mut self, now: Timestamp) -> Duration {
        self.fill(now);
        Duration::from_millis(self.cost.saturating_sub(self.parts).div_ceil(self.rate))
    }

    /// One has passed, for which [`Self::wait`] had become zero.
    pub(crate) fn take(&mut self, now: Timestamp) {
        self.fill(now);
        debug_assert!(self.parts >= self.cost, "it had to wait");
        self.parts = self.parts.saturating_sub(self.cost);
    }

    fn fill(&mut self, now: Timestamp) {
        let millis = now.as_millis().saturating_sub(self.at.as_millis());
        self.parts = self.parts.saturating_add(millis.saturating_mul(self.rate)).min(self.capacity());
        self.at = self.at.max(now);
    }

    /// Not less than one and what comes while its last part is waited for, or a slow one would be slower than it may.
    fn capacity(&self) -> u64 {
        (self.cost + self.rate).max(self.rate * BURST_MILLIS)
    }
}

/// The time whose worth may pass at once: short, so that a storm does not come in bursts that others feel.
const BURST_MILLIS: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    /// How many pass from `from` to `to`, both in milliseconds, when somebody is always there.
    fn passed(bucket: &mut TokenBucket, from: u64, to: u64) -> u64 {
        let (mut now, mut count) = (from, 0);
        loop {
            match bucket.wait(at(now)) {
                Duration::ZERO => {
                    bucket.take(at(now));
                    count += 1;
                }
                wait => now += u64::try_from(wait.as_millis()).unwrap(),
            }
            if now >= to {
                return count;
            }
        }
    }

    #[test]
    fn the_rate_holds_to_the_last_one() {
        for (per_second, sharers) in [(1, 1), (7, 1), (1_000, 3), (999, 4), (50_000, 2), (5, 256)] {
            let mut bucket = TokenBucket::new(per_second, sharers, at(0));
            let burst = (u64::from(per_second) / 10 / sharers as u64).max(1);
            let seconds = 200;
            let expected = u64::from(per_second) * seconds / sharers as u64 + burst;
            let count = passed(&mut bucket, 0, seconds * 1_000);
            let of_a_millisecond = u64::from(per_second) / 1_000;
            assert!(
                count.abs_diff(expected) <= 1 + of_a_millisecond,
                "{per_second} by {sharers}: {count}, not {expected}"
            );
        }
    }

    #[test]
    fn whoever_was_not_there_has_a_tenth_of_a_second_and_no_more() {
        let mut bucket = TokenBucket::new(1_000, 1, at(0));
        passed(&mut bucket, 0, 1_000);
        assert_eq!(passed(&mut bucket, 3_600_000, 3_600_001), 100);
    }

    #[test]
    fn a_slow_one_lets_one_through_and_tells_how_long_the_next_waits() {
        let mut bucket = TokenBucket::new(1, 4, at(0));
        assert_eq!(bucket.wait(at(0)), Duration::ZERO);
        bucket.take(at(0));
        assert_eq!(bucket.wait(at(0)), Duration::from_secs(4));
        assert_eq!(bucket.wait(at(3_999)), Duration::from_millis(1));
        assert_eq!(bucket.wait(at(4_000)), Duration::ZERO);
    }

    #[test]
    fn a_clock_that_stands_or_jumps_breaks_nothing() {
        let mut bucket = TokenBucket::new(u32::MAX, 1, at(0));
        assert_eq!(bucket.wait(at(u64::MAX)), Duration::ZERO);
        bucket.take(at(u64::MAX));
        assert_eq!(bucket.wait(at(5)), Duration::ZERO);
        let mut bucket = TokenBucket::new(10, 1, at(1_000));
        bucket.take(at(1_000));
        assert_eq!(bucket.wait(at(0)), Duration::from_millis(100), "time does not count twice");
        assert_eq!(bucket.wait(at(1_000)), Duration::from_millis(100));
    }
}
