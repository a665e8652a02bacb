//! When messages are due at a fixed rate.
//!
//! The moment that a message is meant for does not depend on when those before it were sent. Latency counts from there: a broker
//! that stops for a second delays all messages of that second, not just the one that it was busy with.

/// Due times of the messages of several publishers, which take turns. Times are nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    start: u64,
    interval: f64,
    publishers: u64,
}

impl Schedule {
    /// `publishers` that send `per_second` messages together from `start` on; `shift` moves all by this part of an interval, so
    /// that several threads do not send at the same moment.
    pub(super) fn new(start: u64, per_second: f64, publishers: u64, shift: f64) -> Self {
        let interval = 1e9 / per_second;
        Self { start: start + nanoseconds(interval * shift), interval, publishers }
    }

    /// When the message with this number is due, of all publishers.
    #[expect(clippy::cast_precision_loss, reason = "exact beyond any number of messages")]
    pub(super) fn due(&self, number: u64) -> u64 {
        self.start + nanoseconds(number as f64 * self.interval)
    }

    /// When the message with this number is due, of those of one publisher.
    pub(super) fn due_of(&self, publisher: u64, number: u64) -> u64 {
        self.due(number * self.publishers + publisher)
    }

    /// How many messages are due before `time`.
    #[expect(clippy::cast_precision_loss, reason = "corrected below")]
    pub(super) fn due_before(&self, time: u64) -> u64 {
        let mut number = nanoseconds(time.saturating_sub(self.start) as f64 / self.interval);
        while number > 0 && self.due(number - 1) >= time {
            number -= 1;
        }
        while self.due(number) < time {
            number += 1;
        }
        number
    }

    /// Whose turn the message with this number is.
    pub(super) fn publisher(&self, number: u64) -> u64 {
        number % self.publishers
    }
}

/// Times are far below the 2^53 nanoseconds (104 days) up to which this is exact.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and saturating")]
fn nanoseconds(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_due_evenly_and_in_turn() {
        let schedule = Schedule::new(1_000, 1_000.0, 3, 0.0);
        assert_eq!([0, 1, 2, 3].map(|number| schedule.due(number)), [1_000, 1_001_000, 2_001_000, 3_001_000]);
        assert_eq!([0, 1, 2, 3].map(|number| schedule.publisher(number)), [0, 1, 2, 0]);
        assert_eq!(schedule.due_of(2, 5), schedule.due(17));
    }

    #[test]
    fn a_shift_moves_all() {
        let schedule = Schedule::new(0, 1_000.0, 1, 0.25);
        assert_eq!([0, 1].map(|number| schedule.due(number)), [250_000, 1_250_000]);
    }

    proptest! {
        /// Rounding does not add up: after any number of messages the rate is what was asked for.
        #[test]
        fn the_rate_holds(per_second in 0.1_f64..1e7, number in 1_u64..10_000_000) {
            let schedule = Schedule::new(0, per_second, 1, 0.0);
            let expected = number as f64 / per_second * 1e9;
            prop_assert!((schedule.due(number) as f64 - expected).abs() <= 1.0 + expected * 1e-12);
            prop_assert!(schedule.due(number) <= schedule.due(number + 1));
            let before = schedule.due_before(schedule.due(number));
            prop_assert!(before <= number && schedule.due(before) == schedule.due(number));
        }
    }
}
