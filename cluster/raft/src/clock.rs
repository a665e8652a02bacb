//! The clock by which this crate decides: that of the runtime, which a simulation makes a virtual one.

use std::time::{Duration, Instant};

/// The present time. Between two threads of a process it never runs backwards.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// How much time has passed since `then`.
pub(crate) fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}
