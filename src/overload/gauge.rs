//! How short memory is.

use std::time::Duration;

use flotilla_mqtt::Timestamp;

use crate::config;

/// How short memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(u8)]
pub(crate) enum Level {
    /// There is enough.
    #[default]
    Normal,
    /// More than `overload.memory_high` is used.
    High,
    /// More than `overload.memory_critical` is used.
    Critical,
}

/// Tells from what is used how short memory is. It rises at once, and falls when a tenth less than the mark has been used for a while:
/// what is freed is taken again as soon as publishers are read.
#[derive(Debug)]
pub(super) struct Gauge {
    marks: config::Overload,
    level: Level,
    /// Since when so little is used that it may fall.
    calm_since: Option<Timestamp>,
}

/// When connections are closed while memory is critical: again soon while more and more is used, and else when what has been freed
/// would have shown, for the allocator does not give it back at once.
#[derive(Debug, Default)]
pub(super) struct Shedding {
    /// When it was done last, and what was used then.
    last: Option<(Timestamp, u64)>,
}

/// How long so little must be used.
const CALM: Duration = Duration::from_secs(1);
/// How soon connections are closed again while more is used than before, by a hundredth.
const GROWING: Duration = Duration::from_secs(1);
/// How soon else.
const SETTLED: Duration = Duration::from_secs(15);

impl Level {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl Gauge {
    pub(super) fn new(marks: config::Overload) -> Self {
        Self { marks, level: Level::Normal, calm_since: None }
    }

    /// So many bytes are used.
    pub(super) fn update(&mut self, now: Timestamp, used: u64) -> Level {
        let reached = self.highest(|mark| used >= mark);
        let kept = self.highest(|mark| used >= relief(mark)).min(self.level);
        if reached >= self.level || kept == self.level {
            self.level = self.level.max(reached);
            self.calm_since = None;
        } else if now.since(*self.calm_since.get_or_insert(now)) >= CALM {
            self.level = kept.max(reached);
            self.calm_since = None;
        }
        self.level
    }

    /// The mark of a level; `None`: it is never reached.
    pub(super) fn mark(&self, level: Level) -> Option<u64> {
        match level {
            Level::Normal => Some(0),
            Level::High => self.marks.memory_high,
            Level::Critical => self.marks.memory_critical,
        }
    }

    /// Whether so much is used that a level begins soon, or does not end.
    pub(super) fn is_near(&self, used: u64) -> bool {
        self.highest(|mark| used >= relief(mark)) > Level::Normal
    }

    fn highest(&self, holds: impl Fn(u64) -> bool) -> Level {
        let levels = [Level::Critical, Level::High];
        levels.into_iter().find(|level| self.mark(*level).is_some_and(&holds)).unwrap_or_default()
    }
}

impl Shedding {
    /// Whether it is time now, when so many bytes are used; if so, it has been done.
    pub(super) fn is_due(&mut self, now: Timestamp, used: u64) -> bool {
        let is_due = self.last.is_none_or(|(at, then)| {
            let pause = if used > then + then / 100 { GROWING } else { SETTLED };
            now.since(at) >= pause
        });
        if is_due {
            self.last = Some((now, used));
        }
        is_due
    }
}

/// Below this the level of a mark may end.
fn relief(mark: u64) -> u64 {
    mark / 10 * 9
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goes through these: seconds, what is used, and what it is then.
    #[track_caller]
    fn check(high: Option<u64>, critical: Option<u64>, steps: &[(f64, u64, Level)]) {
        let mut gauge = Gauge::new(config::Overload { memory_high: high, memory_critical: critical });
        for &(seconds, used, expected) in steps {
            let now = Timestamp::ORIGIN + Duration::from_secs_f64(seconds);
            assert_eq!(gauge.update(now, used), expected, "{used} after {seconds} s");
        }
    }

    use Level::{Critical, High, Normal};

    #[test]
    fn it_rises_at_once_and_falls_after_a_while_well_below_the_mark() {
        check(
            Some(1_000),
            None,
            &[
                (0.0, 999, Normal),
                (0.1, 1_000, High),
                (0.2, 999, High),
                (9.0, 900, High),
                (10.0, 899, High),
                (10.9, 899, High),
                (11.0, 899, Normal),
                (11.1, 999, Normal),
            ],
        );
    }

    #[test]
    fn what_goes_up_and_down_near_the_mark_does_not_flap() {
        let mut gauge = Gauge::new(config::Overload { memory_high: Some(1_000), memory_critical: None });
        let mut changes = 0;
        let mut before = Normal;
        for tick in 0..10_000_u64 {
            // Far below for half a second, and up again.
            let used = if tick % 10 < 5 { 1_000 } else { 500 };
            let level = gauge.update(Timestamp::from_millis(tick * 100), used);
            changes += u32::from(level != before);
            before = level;
        }
        assert_eq!((changes, before), (1, High));
    }

    #[test]
    fn it_falls_from_critical_to_where_it_is() {
        let steps = [(0.0, 2_000, Critical), (1.0, 1_700, Critical), (2.0, 1_700, High), (3.0, 850, High)];
        check(Some(1_000), Some(2_000), &steps);
        check(Some(1_000), Some(2_000), &[&steps[..], &[(4.0, 850, Normal)]].concat());
        check(Some(1_000), Some(2_000), &[(0.0, 2_000, Critical), (1.0, 10, Critical), (2.0, 10, Normal)]);
        // Below the upper mark, and not far enough below the lower.
        check(
            Some(1_900),
            Some(2_000),
            &[(0.0, 2_000, Critical), (1.0, 1_750, Critical), (2.0, 1_750, High)],
        );
    }

    #[test]
    fn connections_are_closed_again_when_that_did_not_help() {
        let mut shedding = Shedding::default();
        let steps = [
            (0, 1_000, true),
            (200, 1_100, false),
            (1_000, 1_010, false),
            (1_200, 1_011, true),
            (2_200, 1_000, false),
            (16_100, 900, false),
            (16_200, 900, true),
        ];
        for (millis, used, expected) in steps {
            assert_eq!(shedding.is_due(Timestamp::from_millis(millis), used), expected, "after {millis} ms");
        }
    }

    #[test]
    fn a_mark_that_is_not_set_is_never_reached() {
        check(None, None, &[(0.0, u64::MAX, Normal)]);
        check(Some(10), None, &[(0.0, u64::MAX, High)]);
        check(None, Some(10), &[(0.0, 9, Normal), (1.0, 10, Critical), (2.0, 1, Critical), (3.0, 1, Normal)]);
    }

    #[test]
    fn it_is_near_where_a_level_would_not_end() {
        let near = |used| {
            Gauge::new(config::Overload { memory_high: Some(1_000), memory_critical: None }).is_near(used)
        };
        assert_eq!([899, 900, 1_000].map(near), [false, true, true]);
        let never = Gauge::new(config::Overload { memory_high: None, memory_critical: None });
        assert!(!never.is_near(u64::MAX));
    }

    #[test]
    fn equal_marks_are_reached_together() {
        check(Some(10), Some(10), &[(0.0, 10, Critical), (1.0, 8, Critical), (2.0, 8, Normal)]);
    }
}
