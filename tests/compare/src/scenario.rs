//! The loads, and what is read off them.

use serde_json::Value;

/// One load.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// What the table calls it; names in it are replaced as in a broker's configuration.
    pub(crate) title: &'static str,
    /// Of `flotilla bench`, divided by spaces.
    pub(crate) arguments: &'static str,
    /// Whether it takes a time to measure; the others end when they are done.
    pub(crate) is_timed: bool,
    /// Whether it is about several nodes: then it is for clusters, and for those brokers that they are made of.
    pub(crate) is_clustered: bool,
    pub(crate) figures: &'static [Figure],
}

/// One number of a run.
#[derive(Debug)]
pub(crate) struct Figure {
    pub(crate) title: &'static str,
    /// Where it is in what `flotilla bench --json` prints.
    pointer: &'static str,
    /// What it is divided by, where that is not done yet.
    per: Option<&'static str>,
}

impl Scenario {
    const fn timed(
        name: &'static str,
        title: &'static str,
        arguments: &'static str,
        figures: &'static [Figure],
    ) -> Self {
        Self { name, title, arguments, is_timed: true, is_clustered: false, figures }
    }

    const fn untimed(self) -> Self {
        Self { is_timed: false, ..self }
    }

    const fn clustered(self) -> Self {
        Self { is_clustered: true, ..self }
    }
}

impl Figure {
    const fn at(title: &'static str, pointer: &'static str) -> Self {
        Self { title, pointer, per: None }
    }

    /// The number in a report; `None`: it is not there, as where there is no such process any more.
    pub(crate) fn read(&self, report: &Value) -> Option<f64> {
        let value = report.pointer(self.pointer)?.as_f64()?;
        let Some(per) = self.per else { return Some(value) };
        let per = report.pointer(per)?.as_f64()?;
        (per > 0.0).then(|| value / per)
    }
}

const RATE: Figure = Figure::at("messages/s", "/traffic/received_per_second");
const CPU: Figure = Figure::at("broker CPU µs/message", "/traffic/broker_cpu_us_per_message");
const P50: Figure = Figure::at("p50 µs", "/traffic/delivery_latency/p50_us");
const P99: Figure = Figure::at("p99 µs", "/traffic/delivery_latency/p99_us");

const FULL: &[Figure] = &[RATE, CPU];
const FIXED: &[Figure] = &[P50, P99, CPU];
const FILTERS: &[Figure] = &[
    Figure::at("subscribes/s", "/subscriptions/subscribes_per_second"),
    Figure::at("bytes/filter", "/subscriptions/broker_memory_bytes_per_subscription"),
    RATE,
    CPU,
];
const IDLE: &[Figure] = &[
    Figure::at("connects/s", "/connections/connects_per_second"),
    Figure::at("broker CPU µs/connect", "/connections/broker_cpu_us_per_connect"),
    Figure::at("bytes/connection", "/idle/broker_memory_bytes_per_connection"),
];
const QUEUE: &[Figure] = &[
    Figure::at("queued messages/s", "/store/messages_per_second"),
    Figure::at("broker CPU µs/queued message", "/store/broker_cpu_us_per_message"),
    Figure {
        title: "bytes/queued message",
        pointer: "/store/broker_memory_growth_bytes",
        per: Some("/store/messages"),
    },
    Figure::at("drained messages/s", "/fetch/messages_per_second"),
];

/// What all of them have in common. Brokers that can say in MQTT 5.0 how much they take at a time would else be compared by that.
pub(crate) const COMMON: [&str; 4] = ["-V", "311", "--local-addresses", "{{sources}}"];

/// How many idle connections are asked for, where the limit of open files allows it.
pub(crate) const CONNECTIONS: u64 = 17_000;

/// All of them, in the order of the table.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::timed("pairs-w64-q0", "50 pairs, window 64, QoS 0", "pairs -n 50 -w 64 -q 0", FULL),
    Scenario::timed("pairs-w64-q1", "50 pairs, window 64, QoS 1", "pairs -n 50 -w 64 -q 1", FULL),
    Scenario::timed("pairs-w64-q2", "50 pairs, window 64, QoS 2", "pairs -n 50 -w 64 -q 2", FULL),
    Scenario::timed("pairs-w1-q0", "200 pairs, window 1, QoS 0", "pairs -n 200 -w 1 -q 0", FULL),
    Scenario::timed("pairs-w1-q1", "200 pairs, window 1, QoS 1", "pairs -n 200 -w 1 -q 1", FULL),
    Scenario::timed("rate-2k-q0", "100 pairs, 2,000/s, QoS 0", "pairs -n 100 -r 2000 -q 0", FIXED),
    Scenario::timed("rate-2k-q1", "100 pairs, 2,000/s, QoS 1", "pairs -n 100 -r 2000 -q 1", FIXED),
    Scenario::timed("rate-20k-q0", "100 pairs, 20,000/s, QoS 0", "pairs -n 100 -r 20000 -q 0", FIXED),
    Scenario::timed("rate-20k-q1", "100 pairs, 20,000/s, QoS 1", "pairs -n 100 -r 20000 -q 1", FIXED),
    Scenario::timed(
        "fan-out-q0",
        "fan-out 1 to 1,000, window 4, QoS 0",
        "fan-out --publishers 1 --subscribers 1000 -w 4 -q 0",
        FULL,
    ),
    Scenario::timed(
        "fan-in-q0",
        "fan-in 1,000 to 1, window 4, QoS 0",
        "fan-in --publishers 1000 -w 4 -q 0",
        FULL,
    ),
    Scenario::timed(
        "fan-in-q1",
        "fan-in 1,000 to 1, window 1, QoS 1",
        "fan-in --publishers 1000 -w 1 -q 1",
        FULL,
    ),
    Scenario::timed(
        "shared-q1",
        "1,000 to a shared group of 8, window 1, QoS 1",
        "shared --publishers 1000 --members 8 -w 1 -q 1",
        FULL,
    ),
    Scenario::timed(
        "wildcard-100k",
        "100,000 wildcard filters of 100 clients, 10 publishers, window 32, QoS 0",
        "wildcard --filters 100000 --subscribers 100 --publishers 10 -w 32 -q 0",
        FILTERS,
    ),
    Scenario::timed(
        "wildcard-1m",
        "1,000,000 wildcard filters of 100 clients, 10 publishers, window 32, QoS 0",
        "wildcard --filters 1000000 --subscribers 100 --publishers 10 -w 32 -q 0",
        FILTERS,
    ),
    Scenario::timed("idle", "{{connections}} idle connections", "connections -n {{connections}}", IDLE),
    Scenario::timed(
        "idle-subscribed",
        "{{connections}} idle connections, a subscription each",
        "connections -n {{connections}} --subscribe",
        IDLE,
    ),
    Scenario::timed(
        "offline-q1",
        "offline queues, 500 sessions x 100 messages, QoS 1",
        "offline --sessions 500 --messages 100 -q 1",
        QUEUE,
    )
    .untimed(),
    Scenario::timed(
        "cross-node-q0",
        "50 pairs across nodes, window 64, QoS 0",
        "pairs -n 50 -w 64 -q 0",
        FULL,
    )
    .clustered(),
    Scenario::timed(
        "cross-node-q1",
        "50 pairs across nodes, window 64, QoS 1",
        "pairs -n 50 -w 64 -q 1",
        FULL,
    )
    .clustered(),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn names_differ_and_are_no_patterns() {
        let names: BTreeSet<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), SCENARIOS.len());
        assert!(names.iter().all(|name| !name.contains(['*', ',', ' '])));
    }

    #[test]
    fn figures_are_read_from_a_report() {
        let report = json!({
            "store": { "messages": 4, "broker_memory_growth_bytes": -10, "messages_per_second": 2.5 },
            "traffic": { "broker_cpu_us_per_message": null },
        });
        let read = |figure: &Figure| figure.read(&report);
        assert_eq!(QUEUE.iter().map(read).collect::<Vec<_>>(), [Some(2.5), None, Some(-2.5), None]);
        assert_eq!(read(&CPU), None);
        assert_eq!(QUEUE[2].read(&json!({"store": {"messages": 0, "broker_memory_growth_bytes": 1}})), None);
    }
}
