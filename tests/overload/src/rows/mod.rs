//! The overload table, and what is done for each of its rows.

mod connections;
mod disk;
mod floods;
mod memory;
mod retained;
mod sessions;
mod slow_members;
mod subscriptions;
mod traffic;
mod view;
mod wills;

use crate::{finding::Outcome, stage::Stage};

pub(crate) use wills::hold as hold_wills;

/// A row.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) id: &'static str,
    /// As the overload table has it, in full size.
    pub(crate) load: &'static str,
    pub(crate) expectation: &'static str,
    pub(crate) run: Run,
}

/// What is done for it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Run {
    Scenario(fn(&Stage) -> Outcome),
    /// Nothing, for this reason.
    Not(&'static str),
}

const fn row(
    id: &'static str,
    load: &'static str,
    expectation: &'static str,
    scenario: fn(&Stage) -> Outcome,
) -> Row {
    Row { id, load, expectation, run: Run::Scenario(scenario) }
}

/// The row that wants a disk of its own.
pub(crate) const DISK_FULL: &str = "O14";

/// All of them, in order.
pub(crate) const ROWS: &[Row] = &[
    row(
        "O01",
        "1,000,000 idle connections",
        "at most 5 KB a connection; Keep Alive costs little, whatever their number",
        connections::idle,
    ),
    Row {
        id: "O02",
        load: "the biggest clusters: millions of connections on many nodes",
        expectation: "connections grow linearly with the nodes",
        run: Run::Not("one machine shows nothing of many: its nodes would share its processors"),
    },
    row(
        "O03",
        "a connect storm of ten times the rate that can be sustained",
        "clients that are there see at most twice their p99; the storm is served at a steady rate, and nothing locks up",
        connections::storm,
    ),
    row(
        "O04",
        "all clients of a cluster return at once with their sessions, after a node was killed",
        "all are back after connections / rated connects per second x 1.2 (and the time after which the node counts as dead); few log entries",
        sessions::everybody_returns,
    ),
    row(
        "O05",
        "slow consumers: a message a second at QoS 0, 1 and 2",
        "only their queues fill, up to their limit; memory is bounded; the p99 of others stays",
        slow_members::consumer,
    ),
    row(
        "O06",
        "a consumer that does not read at all (zero window)",
        "it is disconnected after mqtt.write_timeout; its session keeps its queue",
        slow_members::zero_window,
    ),
    row(
        "O07",
        "one client publishes as fast as it can",
        "it is held back by TCP; others have their fair share; memory is bounded",
        floods::by_one,
    ),
    row(
        "O08",
        "all clients publish twice what the node can take",
        "goodput stays at 80 % of the peak or more",
        floods::by_all,
    ),
    row(
        "O09",
        "fan-out of one publisher to 100,000 subscribers",
        "a message is encoded once, and in memory once; p99 is stated",
        traffic::fan_out,
    ),
    row(
        "O10",
        "50,000 publishers to a shared group with one slow member",
        "the other members get the rest as fast as without it; nothing is lost",
        slow_members::shared_group,
    ),
    row(
        "O11",
        "50,000 pairs of clients, point to point at QoS 1",
        "p50 at most 5 ms, p99 at most 50 ms",
        traffic::point_to_point,
    ),
    row(
        "O12",
        "as many messages as one node can take",
        "messages per second and core are stated",
        traffic::per_core,
    ),
    row(
        "O13",
        "memory up to the mark of overload.memory_high",
        "publishers are paused, new connections refused (0x97); memory stays below twice the mark; it recovers",
        memory::high_water_mark,
    ),
    row(
        DISK_FULL,
        "publishes fill the disk",
        "acknowledgements stop before the last byte; consumers go on; with space, all of it goes on by itself",
        disk::full,
    ),
    row(
        "O15",
        "10,000,000 retained messages",
        "limits are kept (0x97); all of them are looked up while others do not notice",
        retained::flood,
    ),
    row(
        "O16",
        "1,000,000 subscriptions of a client, 10,000,000 together",
        "a quota for each client; the time to match does not grow with their number",
        subscriptions::flood,
    ),
    row("O17", "random topics for ever", "memory does not grow", memory::topic_churn),
    row(
        "O18",
        "10,000 connects and disconnects a second, with sessions of 1 s",
        "memory and log stay flat; expiry keeps pace",
        sessions::churn,
    ),
    row(
        "O19",
        "1,000,000 sessions expire in the same second",
        "nobody waits for longer than 100 ms",
        sessions::expire_together,
    ),
    row(
        "O20",
        "100,000 clients with wills die at once",
        "each will exactly once, while others see at most twice their p99",
        wills::storm,
    ),
    Row {
        id: "O21",
        load: "a storm of logins that take long to check",
        expectation: "a bounded pool, a deadline in its queue, and loops that are not held up",
        run: Run::Not("needs authentication, which the broker does not have yet"),
    },
    row(
        "O22",
        "operators ask while the node is overloaded and 1,000,000 clients are there",
        "each answer within 1 s, lists in pages",
        view::under_load,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_numbered_as_in_the_table() {
        for (index, row) in ROWS.iter().enumerate() {
            assert_eq!(row.id, format!("O{:02}", index + 1));
            assert!(!row.load.contains('|') && !row.expectation.contains('|'), "{}", row.id);
        }
        assert_eq!(ROWS.len(), 22);
    }
}
