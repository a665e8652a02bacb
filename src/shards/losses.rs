//! What is lost in shards, for the metrics of the nodes that lead them.

use flotilla_shard::Stats;

/// How often something was lost to a limit or to time in a shard: since its replica began, or since that was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Losses {
    /// Messages that were not retained because there were as many as there may be.
    pub(crate) not_retained: u64,
    /// Messages that were dropped because the queue of a session was full.
    pub(crate) queue_full: u64,
    /// Messages that were dropped because their Message Expiry Interval had passed.
    pub(crate) expired: u64,
    /// Sessions whose Session Expiry Interval had passed.
    pub(crate) sessions: u64,
    /// Sessions that a Clean Start ended.
    pub(crate) discarded: u64,
}

impl Losses {
    /// Those of a replica since it began.
    pub(super) fn of(stats: &Stats) -> Self {
        Self {
            not_retained: stats.retained_refused,
            queue_full: stats.dropped_newest + stats.dropped_oldest,
            expired: stats.expired,
            sessions: stats.sessions_expired,
            discarded: stats.sessions_discarded,
        }
    }

    /// Those that have come after `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            not_retained: self.not_retained.saturating_sub(before.not_retained),
            queue_full: self.queue_full.saturating_sub(before.queue_full),
            expired: self.expired.saturating_sub(before.expired),
            sessions: self.sessions.saturating_sub(before.sessions),
            discarded: self.discarded.saturating_sub(before.discarded),
        }
    }
}
