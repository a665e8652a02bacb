//! What is left in the broker when everybody is gone: nothing.

use std::{collections::HashMap, time::Instant};

use crate::harness::{Broker, DEADLINE, Version};

/// Looks at the broker between rounds.
pub(super) struct Observer {
    /// Resident memory after each round, where the system tells it.
    memory: Vec<usize>,
    /// Open sockets before the first round, where the system tells them.
    sockets: Option<usize>,
}

/// How much more memory the process may have at the end than after the second round: what the allocator has not given back, tables that
/// have grown with chance, and what fills up only once: the entries of the log that stay in memory (16 MiB), the rows that
/// the store has not written out (up to 48 MiB) and what it has read (32 MiB).
const GROWTH_MAX: usize = 112 << 20;

impl Observer {
    pub(super) fn new(broker: &Broker) -> Self {
        Self { memory: Vec::new(), sockets: broker.open_sockets() }
    }

    /// Waits until `$SYS` counts the observer and nobody else.
    pub(super) fn expect_quiet(&mut self, broker: &Broker) {
        let mut client = broker.client(Version::V5, "observer");
        client.subscribe("$SYS/brokers/+/stats/+/count", 0);
        let mut stats: HashMap<String, String> = HashMap::new();
        let deadline = Instant::now() + DEADLINE;
        let is_quiet = |stats: &HashMap<String, String>| {
            ["connections", "sessions", "subscriptions"].iter().all(|name| {
                let topic = format!("$SYS/brokers/{}/stats/{name}/count", broker.node());
                stats.get(&topic).is_some_and(|value| value == "1")
            })
        };
        while !is_quiet(&stats) {
            let seen = client.expect_any_publish();
            let value = String::from_utf8(seen.payload).expect("$SYS is text");
            stats.insert(seen.topic, value);
            assert!(Instant::now() < deadline, "somebody is still there: {stats:?}");
        }
        // Sockets are closed a little later than connections end: each `$SYS` value is a moment to look again.
        let expected = self.sockets.map(|sockets| sockets + 1);
        while broker.open_sockets() > expected {
            client.expect_any_publish();
            assert!(
                Instant::now() < deadline,
                "{:?} sockets are open, not {expected:?}",
                broker.open_sockets()
            );
        }
        client.vanish();
        self.memory.extend(broker.resident_memory());
        eprintln!("chaos: memory by round: {:?} KiB", self.memory.last().map(|bytes| bytes >> 10));
    }

    pub(super) fn assert_memory_is_bounded(&self) {
        let [_, second, .., last] = self.memory[..] else { return };
        assert!(last < second + GROWTH_MAX, "the memory grows from round to round: {:?}", self.memory);
    }
}
