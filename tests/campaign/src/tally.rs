//! Counts and latencies of everything that was done.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::history::{Outcome, Stream};

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Connect,
    Subscribe,
    PublishQos1,
    PublishQos2,
    Retain,
    Read,
    Probe,
    Takeover,
    Will,
    Hostile,
    Delivery,
}

/// The counts.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    kinds: BTreeMap<Kind, Counts>,
    faults: BTreeMap<&'static str, usize>,
    refusals: BTreeMap<(Kind, u8), usize>,
    /// QoS 1 messages that came more than once.
    pub(crate) repetitions: usize,
    /// Writes that were not flushed, and were taken back.
    pub(crate) writes_lost: usize,
    /// Histories that were too entangled to be decided.
    pub(crate) undecided: usize,
}

#[derive(Debug, Default)]
struct Counts {
    ok: usize,
    failed: usize,
    unknown: usize,
    latency: Histogram,
}

impl Tally {
    /// Something was done, and took so long.
    pub(crate) fn count(&mut self, kind: Kind, outcome: Outcome, took: Duration) {
        let counts = self.kinds.entry(kind).or_default();
        match outcome {
            Outcome::Ok => {
                counts.ok += 1;
                counts.latency.add(took);
            }
            Outcome::Failed(reason) => {
                counts.failed += 1;
                *self.refusals.entry((kind, reason)).or_default() += 1;
            }
            Outcome::Unknown => counts.unknown += 1,
        }
    }

    /// Messages of which it is not known what became: those that have an answer were counted when it came.
    pub(crate) fn unknown_publishes(&mut self, stream: &Stream) {
        for published in stream.published.iter().filter(|published| published.outcome == Outcome::Unknown) {
            let kind = if published.qos == 1 { Kind::PublishQos1 } else { Kind::PublishQos2 };
            self.count(kind, Outcome::Unknown, Duration::ZERO);
        }
    }

    pub(crate) fn fault(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "OPERATION         OK    FAILED   UNKNOWN      p50      p99      max")?;
        for (kind, counts) in &self.kinds {
            let Counts { ok, failed, unknown, latency } = counts;
            write!(f, "{:<12}{ok:>8}{failed:>10}{unknown:>10}", format!("{kind:?}").to_lowercase())?;
            for share in [0.5, 0.99, 1.0] {
                write!(f, "{:>9}", Milliseconds(latency.at(share)).to_string())?;
            }
            writeln!(f)?;
        }
        let refusals = self.refusals.iter().map(|((kind, reason), count)| {
            format!("{} {reason:#04x} x{count}", format!("{kind:?}").to_lowercase())
        });
        let refusals: Vec<String> = refusals.collect();
        if !refusals.is_empty() {
            writeln!(f, "refused: {}", refusals.join(", "))?;
        }
        let faults: Vec<String> =
            self.faults.iter().map(|(kind, count)| format!("{kind} x{count}")).collect();
        writeln!(f, "faults: {}", if faults.is_empty() { "none".to_owned() } else { faults.join(", ") })?;
        writeln!(f, "writes that were not flushed, and lost: {}", self.writes_lost)?;
        writeln!(f, "QoS 1 messages that came again, which is allowed: {}", self.repetitions)?;
        if self.undecided > 0 {
            writeln!(f, "retained topics with too much at the same time to be decided: {}", self.undecided)?;
        }
        Ok(())
    }
}

/// How often something took how long, within a fifth.
#[derive(Debug)]
struct Histogram {
    buckets: [usize; BUCKETS],
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], max: Duration::ZERO }
    }
}

impl Histogram {
    fn add(&mut self, took: Duration) {
        let bound = |bucket: &usize| bound(*bucket) >= took;
        let bucket = (0..BUCKETS).find(bound).unwrap_or(BUCKETS - 1);
        self.buckets[bucket] += 1;
        self.max = self.max.max(took);
    }

    /// As long as this share took at most.
    fn at(&self, share: f64) -> Duration {
        let all: usize = self.buckets.iter().sum();
        let mut left = all;
        for (bucket, count) in self.buckets.iter().enumerate() {
            left -= count;
            #[allow(clippy::cast_precision_loss, reason = "a share of a count is not exact")]
            if left as f64 <= all as f64 * (1.0 - share) {
                return bound(bucket).min(self.max);
            }
        }
        self.max
    }
}

/// The longest time of a bucket: 50 us, and a fifth more each time.
fn bound(bucket: usize) -> Duration {
    let exponent = i32::try_from(bucket).expect("there are few buckets");
    Duration::from_micros(50).mul_f64(1.2_f64.powi(exponent))
}

struct Milliseconds(Duration);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = self.0.as_secs_f64() * 1_000.0;
        if milliseconds < 10.0 {
            write!(f, "{milliseconds:.1} ms")
        } else {
            write!(f, "{milliseconds:.0} ms")
        }
    }
}

/// Up to 20 minutes.
const BUCKETS: usize = 94;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_right_within_a_fifth() {
        let mut histogram = Histogram::default();
        (1..=100).for_each(|number| histogram.add(Duration::from_millis(number)));
        let median = histogram.at(0.5).as_millis();
        assert!((50..=60).contains(&median), "{median}");
        assert_eq!(histogram.at(1.0), Duration::from_millis(100));
        assert_eq!(Histogram::default().at(0.99), Duration::ZERO);
    }
}
