//! The node's clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use flotilla_mqtt::Timestamp;

/// Turns the monotonic clock into [`Timestamp`]s. One origin serves all workers, so that a moment means the same on each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    /// The origin is an hour in the past, so that a moment shortly before the start can be written down.
    const START: Timestamp = Timestamp::from_millis(3_600_000);

    pub(crate) fn start() -> Self {
        Self { origin: Instant::now() }
    }

    pub(crate) fn now(&self) -> Timestamp {
        Self::START + self.origin.elapsed()
    }

    /// Time since the node started.
    pub(crate) fn uptime(&self) -> std::time::Duration {
        self.origin.elapsed()
    }
}

/// What the wall clock says, in milliseconds since the epoch.
pub(crate) fn millis_since_epoch() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
