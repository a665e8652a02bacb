//! What a thread counts, and what the threads counted together.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::error::Ending;

/// Everything that is counted. Times are nanoseconds of this process.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    pub(super) progress: Progress,
    /// Of the messages meant for the measured period.
    pub(super) measured: Measured,
    /// Messages that a subscriber had had before.
    pub(super) repeated: u64,
    /// Messages that came after a later one of their publisher.
    pub(super) reordered: u64,
    /// Messages that no client of this run has sent.
    pub(super) foreign: u64,
    pub(super) messages_refused: u64,
    pub(super) subscriptions_refused: u64,
    /// Messages that the window no longer waits for.
    pub(super) written_off: u64,
    /// When the last message came.
    pub(super) last_received: u64,
    /// When the last acknowledgement came.
    pub(super) last_acknowledged: u64,
    /// From when a message was meant to be sent until it arrived.
    pub(super) delivery: Histogram<u64>,
    /// From when a message was meant to be sent until it was acknowledged for good: PUBACK or PUBCOMP.
    pub(super) acknowledgement: Histogram<u64>,
    /// From the first packet of TCP until CONNACK.
    pub(super) connect: Histogram<u64>,
    pub(super) failures: Failures,
}

/// How far everybody is. Only ever grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Clients that got a CONNACK.
    pub(super) connected: u64,
    /// Clients that ended before.
    pub(super) failed: u64,
    /// Clients that have all their subscriptions.
    pub(super) ready: u64,
    /// Clients that ended between the two.
    pub(super) unready: u64,
    /// Clients that ended after their CONNACK, before they were told to.
    pub(super) disconnected: u64,
    /// Filters.
    pub(super) subscribed: u64,
    pub(super) sent: u64,
    /// Messages that are done with: acknowledged for good, or refused.
    pub(super) acknowledged: u64,
    /// Messages that arrived, repetitions left out.
    pub(super) received: u64,
}

/// Numbers of messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Measured {
    /// Due in the measured period, whether sent or not; known at a fixed rate only.
    pub(super) due: u64,
    /// Meant for the measured period, and sent.
    pub(super) sent: u64,
    /// Acknowledged within the measured period.
    pub(super) acknowledged: u64,
    /// Arrived within the measured period.
    pub(super) received: u64,
}

/// What is measured: everything from `from` on that is before `until`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Period {
    pub(super) from: u64,
    pub(super) until: u64,
}

impl Period {
    /// All of the time.
    pub(super) const ALWAYS: Self = Self { from: 0, until: u64::MAX };

    #[inline]
    pub(super) const fn contains(&self, time: u64) -> bool {
        self.from <= time && time < self.until
    }
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            progress: Progress::default(),
            measured: Measured::default(),
            repeated: 0,
            reordered: 0,
            foreign: 0,
            messages_refused: 0,
            subscriptions_refused: 0,
            written_off: 0,
            last_received: 0,
            last_acknowledged: 0,
            delivery: histogram(),
            acknowledgement: histogram(),
            connect: histogram(),
            failures: Failures::default(),
        }
    }

    /// Adds what another thread counted.
    pub(super) fn add(&mut self, other: &Self) {
        self.progress.add(&other.progress);
        self.measured.due += other.measured.due;
        self.measured.sent += other.measured.sent;
        self.measured.acknowledged += other.measured.acknowledged;
        self.measured.received += other.measured.received;
        self.repeated += other.repeated;
        self.reordered += other.reordered;
        self.foreign += other.foreign;
        self.messages_refused += other.messages_refused;
        self.subscriptions_refused += other.subscriptions_refused;
        self.written_off += other.written_off;
        self.last_received = self.last_received.max(other.last_received);
        self.last_acknowledged = self.last_acknowledged.max(other.last_acknowledged);
        // All have the same bounds, so there is nothing that cannot be added.
        for (mine, theirs) in [
            (&mut self.delivery, &other.delivery),
            (&mut self.acknowledgement, &other.acknowledgement),
            (&mut self.connect, &other.connect),
        ] {
            let added = mine.add(theirs);
            debug_assert!(added.is_ok(), "{added:?}");
        }
        self.failures.add(&other.failures);
    }
}

impl Progress {
    pub(super) const FIELDS: usize = 9;

    pub(super) const fn to_array(self) -> [u64; Self::FIELDS] {
        [
            self.connected,
            self.failed,
            self.ready,
            self.unready,
            self.disconnected,
            self.subscribed,
            self.sent,
            self.acknowledged,
            self.received,
        ]
    }

    pub(super) const fn from_array(fields: [u64; Self::FIELDS]) -> Self {
        let [connected, failed, ready, unready, disconnected, subscribed, sent, acknowledged, received] =
            fields;
        Self { connected, failed, ready, unready, disconnected, subscribed, sent, acknowledged, received }
    }

    /// Clients that are there.
    pub(super) const fn live(&self) -> u64 {
        self.connected.saturating_sub(self.disconnected)
    }

    fn add(&mut self, other: &Self) {
        let mut sum = self.to_array();
        sum.iter_mut().zip(other.to_array()).for_each(|(sum, more)| *sum += more);
        *self = Self::from_array(sum);
    }
}

/// Why clients ended and messages were refused, and how often.
#[derive(Debug, Clone, Default)]
pub(super) struct Failures(BTreeMap<String, u64>);

impl Failures {
    pub(super) fn note(&mut self, ending: &Ending) {
        self.count(ending.to_string(), 1);
    }

    pub(super) fn count(&mut self, text: String, count: u64) {
        let text =
            if self.0.len() < KINDS_MAX || self.0.contains_key(&text) { text } else { OTHER.to_owned() };
        *self.0.entry(text).or_default() += count;
    }

    fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|(text, count)| self.count(text.clone(), *count));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(text, count)| (text.as_str(), *count))
    }
}

/// A microsecond to an hour, with three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 3_600_000_000_000, 3).expect("the bounds are in order")
}

/// Kinds of failures that are told apart.
const KINDS_MAX: usize = 16;
const OTHER: &str = "something else";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_added() {
        let mut all = Tally::new();
        for latency in [1_000_000, 3_000_000] {
            let mut one = Tally::new();
            one.progress = Progress { connected: 1, received: 2, ..Progress::default() };
            one.measured.received = 3;
            one.last_received = latency;
            one.delivery.saturating_record(latency);
            one.failures.note(&Ending::Closed);
            all.add(&one);
        }
        assert_eq!((all.progress.connected, all.progress.received, all.measured.received), (2, 4, 6));
        assert_eq!((all.delivery.len(), all.last_received), (2, 3_000_000));
        assert_eq!(all.delivery.max() / 10_000, 300);
        assert_eq!(all.failures.iter().map(|(_, count)| count).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn kinds_of_failures_are_bounded() {
        let mut failures = Failures::default();
        (0..100).for_each(|number| failures.count(format!("number {number}"), 1));
        assert_eq!(failures.iter().count(), KINDS_MAX + 1);
        assert_eq!(failures.iter().map(|(_, count)| count).sum::<u64>(), 100);
    }
}
