//! What the model counts with: the one place where a measured figure is written down.
//!
//! After a change, `UPDATE_SCALE=1 cargo test -p flotilla --lib scale` writes the tables of the page anew. The tests that measure
//! memory include this file, too, and fail when it is no longer true.

/// A figure that was measured, or is in the code.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Constant {
    /// What it is, for the page.
    pub(crate) what: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// What measures it.
    pub(crate) from: &'static str,
    /// The name of the test that fails when it is no longer so; empty where it depends on the machine.
    pub(crate) held_by: &'static str,
}

impl Constant {
    /// Whether `measured` is close enough to it: a tenth.
    pub(crate) fn agrees_with(&self, measured: f64) -> bool {
        (measured - self.value).abs() <= 0.1 * self.value
    }
}

/// A connection without traffic, with what the registry knows of its client.
pub(crate) const CONNECTION: Constant = Constant {
    what: "a connection without subscription or traffic, with its part of the registry",
    value: 1_450.0,
    unit: "B",
    from: "`flotilla bench connections -n 17000 --broker-pid PID`",
    held_by: "",
};

/// Beside the connection, on its node.
pub(crate) const OWN_TOPIC: Constant = Constant {
    what: "a subscription to a topic of its own, on the node of its client",
    value: 132.0,
    unit: "B",
    from: "the same with `--subscribe`, less the former; 17,000 of them",
    held_by: "",
};

/// Beside the connection, on its node.
pub(crate) const OWN_WILDCARD: Constant = Constant {
    what: "a filter with wildcards, on the node of its subscriber",
    value: 257.0,
    unit: "B",
    from: "`flotilla bench wildcard --filters 100000 --broker-pid PID`",
    held_by: "",
};

/// In the table that every node has.
pub(crate) const EXACT_ROUTE: Constant = Constant {
    what: "a route without wildcards, on every node",
    value: 16.3,
    unit: "B",
    from: "`cargo test --release -p flotilla-state --test footprint -- --nocapture`",
    held_by: "routes_are_small",
};

/// In the table that every node has.
pub(crate) const WILDCARD_ROUTE: Constant = Constant {
    what: "a route with wildcards, on every node",
    value: 174.0,
    unit: "B",
    from: "the same",
    held_by: "routes_are_small",
};

/// In a snapshot of the meta group.
pub(crate) const SNAPSHOT_ROUTE: Constant = Constant {
    what: "a route in a snapshot of the meta group",
    value: 9.0,
    unit: "B",
    from: "the same",
    held_by: "routes_are_small",
};

/// On each node that has a replica of its shard.
pub(crate) const SESSION: Constant = Constant {
    what: "a kept session with one subscription, on each of its replicas",
    value: 434.0,
    unit: "B",
    from: "`cargo test --release -p flotilla-shard --test footprint -- --nocapture`",
    held_by: "sessions_and_stored_messages_are_small",
};

/// Of one core, on the node of the client.
pub(crate) const CONNECT: Constant = Constant {
    what: "to accept a client, and let it go",
    value: 32.0,
    unit: "µs CPU",
    from: "`flotilla bench connections -n 17000 --broker-pid PID`, one node",
    held_by: "",
};

/// Of one core.
pub(crate) const DELIVER_0: Constant = Constant {
    what: "a message of QoS 0 to one subscriber of the same node, its topic in the match cache",
    value: 0.33,
    unit: "µs CPU",
    from: "`flotilla bench pairs -q 0 --broker-pid PID`, one node",
    held_by: "",
};

/// Of one core.
pub(crate) const DELIVER_1: Constant = Constant {
    what: "the same of QoS 1",
    value: 0.52,
    unit: "µs CPU",
    from: "`flotilla bench pairs -q 1 --broker-pid PID`, one node",
    held_by: "",
};

/// Of one core.
pub(crate) const MATCH: Constant = Constant {
    what: "a message whose topic is not in the match cache, matched among 1,000,000 filters with wildcards",
    value: 5.0,
    unit: "µs CPU",
    from: "`flotilla bench wildcard --filters 1000000 --broker-pid PID`, one node",
    held_by: "",
};

/// The nodes of a pair of clients share the machine.
pub(crate) const ACROSS: Constant = Constant {
    what: "rate of messages from node to node, as a part of that within one node, on the same cores",
    value: 0.55,
    unit: "",
    from: "`flotilla bench pairs --publish-to A --subscribe-at B` against two nodes (0.51 to 0.59)",
    held_by: "",
};

/// On all nodes together.
pub(crate) const KEPT_MESSAGE: Constant = Constant {
    what: "a message of QoS 1 to a kept session with three replicas, until it is acknowledged by both clients, on all nodes",
    value: 16.0,
    unit: "µs CPU",
    from: "`flotilla bench pairs -q 1` with kept sessions, three nodes on two cores, `durability.sync = \"always\"`: 100,000 to 150,000 \
           a second",
    held_by: "",
};

/// On every node.
pub(crate) const APPLY_ROUTE: Constant = Constant {
    what: "to apply the change of a route, on every node, on one thread",
    value: 407.0,
    unit: "ns CPU",
    from: "`FLOTILLA_ROUTES=10000000 cargo test --release -p flotilla-state --test footprint -- --nocapture`",
    held_by: "",
};

/// On every node, in one go.
pub(crate) const FORGET_ROUTE: Constant = Constant {
    what: "to take a dead node out of the table, for each route of the table; nothing is matched meanwhile",
    value: 15.0,
    unit: "ns CPU",
    from: "the same",
    held_by: "",
};

/// On every node, in one go.
pub(crate) const COPY_ROUTE: Constant = Constant {
    what: "to change the table while a snapshot is being written, for each route of the table: what changes is copied; nothing is \
           matched meanwhile",
    value: 22.0,
    unit: "ns CPU",
    from: "the same",
    held_by: "",
};

/// On every node, on a thread of its own.
pub(crate) const ENCODE_ROUTE: Constant = Constant {
    what: "to write a route into a snapshot",
    value: 73.0,
    unit: "ns CPU",
    from: "the same",
    held_by: "",
};

/// From the proposal until this node has applied the entry.
pub(crate) const COMMIT: Constant = Constant {
    what: "from the proposal of an entry of the meta group until its node has applied it, three nodes, `always`",
    value: 10.0,
    unit: "ms",
    from: "SUBSCRIBE to SUBACK of one client, less the 2 ms for which changes gather; other programs kept both cores busy",
    held_by: "",
};

/// All, in the order of the page.
pub(crate) const ALL: [&Constant; 18] = [
    &CONNECTION,
    &OWN_TOPIC,
    &OWN_WILDCARD,
    &EXACT_ROUTE,
    &WILDCARD_ROUTE,
    &SNAPSHOT_ROUTE,
    &SESSION,
    &CONNECT,
    &DELIVER_0,
    &DELIVER_1,
    &MATCH,
    &ACROSS,
    &KEPT_MESSAGE,
    &APPLY_ROUTE,
    &FORGET_ROUTE,
    &COPY_ROUTE,
    &ENCODE_ROUTE,
    &COMMIT,
];
