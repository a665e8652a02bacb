//! A line that tells somebody at a terminal how far it is.

use std::io::{self, IsTerminal, Write};

use crate::bench::tally::Progress;

/// Once a second, on standard error, and only where that is a terminal.
#[derive(Debug)]
pub(super) struct ProgressLine {
    is_terminal: bool,
    is_shown: bool,
    last: Progress,
    shown_at: u64,
}

impl ProgressLine {
    pub(super) fn new() -> Self {
        Self {
            is_terminal: io::stderr().is_terminal(),
            is_shown: false,
            last: Progress::default(),
            shown_at: 0,
        }
    }

    /// Shows it, when a second is over.
    pub(super) fn show(&mut self, now: u64, what: &str, clients: u64, progress: &Progress) {
        if !self.is_terminal || now - self.shown_at < INTERVAL {
            return;
        }
        let text = text(what, clients, progress, &self.last, now - self.shown_at);
        // Nobody may be there to read it.
        let _ = write!(io::stderr().lock(), "\r\x1b[K{text}");
        (self.last, self.shown_at, self.is_shown) = (*progress, now, true);
    }

    /// Takes it away.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure to read")]
fn text(what: &str, clients: u64, progress: &Progress, last: &Progress, nanos: u64) -> String {
    // Parts of a run begin to count again from nothing.
    let rate = |now: u64, last: u64| now.saturating_sub(last) as f64 * 1e9 / nanos as f64;
    let (sent, received) = (rate(progress.sent, last.sent), rate(progress.received, last.received));
    let live = progress.live();
    format!("{what}: {live} of {clients} clients, {sent:.0}/s sent, {received:.0}/s received")
}

/// Nanoseconds.
const INTERVAL: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_time_that_passed() {
        let last = Progress { connected: 5, sent: 100, received: 1_000, ..Progress::default() };
        let progress =
            Progress { connected: 5, disconnected: 1, sent: 300, received: 0, ..Progress::default() };
        let text = text("sending", 6, &progress, &last, 2_000_000_000);
        assert_eq!(text, "sending: 4 of 6 clients, 100/s sent, 0/s received");
    }
}
