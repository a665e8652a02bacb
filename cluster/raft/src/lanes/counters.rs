//! What is counted.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What has happened in the lanes of this node since it started.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct LaneCounters {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: AtomicU64,)*
        }

        impl Counters {
            pub(super) fn read(&self) -> LaneCounters {
                LaneCounters { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Batches that were sent; those that were sent again count again.
    batches_sent,
    /// Their bytes.
    bytes_sent,
    /// New batches that came.
    batches_received,
    /// Their bytes.
    bytes_received,
    /// Batches that came again and were dropped.
    batches_repeated,
    /// How often a lane was connected.
    connected,
    /// How often connecting a lane failed, or its connection broke.
    disconnected,
    /// Lanes that were refused because they belong to another life of either side.
    refused_stale,
    /// Lanes and batches that were refused because they make no sense.
    refused_malformed,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }
}
