//! Flotilla: a clustered MQTT broker.
//!
//! [`Broker::start`] is the entry. A broker is a number of workers, each a thread with a single-threaded runtime, which
//! own connections and sessions (`worker`); what they share is the `node`: subscriptions (`router`), where each
//! client's session lives (`registry`), retained messages (`retained`) and counters (`metrics`). What MQTT says is in
//! the crate `flotilla_mqtt`, which does no I/O; this crate is the shell around it.
//!
//! # The cluster
//!
//! A node with `cluster.listen` is a member of a cluster. What a worker needs of the others is behind two traits, so
//! that it neither knows nor waits for them: `cluster::Cluster` (claims of client identifiers, routes, forwarding,
//! wills) and `retained::Retained`. For a node alone both are in memory.
//!
//! ```text
//!  clients ── worker ─┐ mailboxes                    other nodes (gRPC, one port)
//!  clients ── worker ─┼── router, registry ── cluster::member ─┬─ meta group (Raft): who is a member, who wants what
//!  clients ── worker ─┘   of sessions, $SYS   on threads of    ├─ lanes: messages, claims, retained, reports
//!                                             its own          └─ admin: `flotilla ctl`
//! ```
//!
//! * The **meta group** (`flotilla_raft::meta`) is the one Raft group. Its state (`flotilla_state`, pure) holds the
//!   nodes, for each shard of the client identifiers the nodes that keep it, routes (per node and never per client),
//!   and what operators have set: bans. Its log is in the write-ahead log (`flotilla_wal`), the identity of the node in
//!   `flotilla_kv`.
//! * **Lanes** (`flotilla_lane`, pure; `flotilla_raft::lanes`) carry everything else: five to each other member,
//!   reliable and in order while both members live. All messages of one publisher take the same lane.
//! * The **registry** (`flotilla_registry`, pure; `cluster::claims`) knows which node serves which client. The first
//!   node of a shard's placement is its registrar, and orders the claims. It keeps the wills of clients of other nodes.
//! * **Retained messages** (`flotilla_retained`, pure; `cluster::retained`) are on every node; the registrar of a
//!   topic's shard orders their changes.
//!
//! A publish is matched once, on the publisher's node: against the local subscribers by filter, against the routes by
//! node. Each node that wants it gets it once, with the index of the log that the routes were read at, and matches it
//! against its own. PUBACK waits until these nodes have taken it. A worker asks whether a node is congested before it
//! reads on from its clients.
//!
//! ## The life of a node
//!
//! It finds its cluster or founds one, is admitted (each time as a new incarnation), announces all routes that it has,
//! makes its copy of the retained messages equal to the others', and is up: only then clients are let in. It stays a
//! member as long as its lease does, which the leader's answers to its heartbeats extend. The lease ends before the
//! leader may declare the node down. From then on the node is fenced: no client, no acknowledgement, no will. When it
//! reaches the leader again a new life begins. Whatever belongs to a life that has ended is void everywhere: routes,
//! lanes, claims.
//!
//! ## A takeover
//!
//! 1. The node where a client connects claims it at the registrar, which names the node that has it.
//! 2. That one ends its connection (0x8E) and hands the session over. A stub stays: what its router still matches for
//!    the client goes to the new node, in order.
//! 3. The new node subscribes, answers the client, and holds back what comes to it directly. Its routes are committed
//!    at entry `n`, which it tells the old one.
//! 4. The old node asks all members for a barrier: once they have applied `n` they put a mark into each of their lanes.
//!    When all marks are there, nothing stamped before `n` can come any more, and the stub ends. It passed on what was
//!    stamped before `n`, the new node delivers what is stamped later: each message once, without identities of
//!    messages.
//!
//! ## Departures from the design
//!
//! * Registrars are placed by the meta group, and there are no Raft groups of shards: as long as sessions live in
//!   memory, a log of its own would make nothing of a shard outlive its nodes.
//! * A node without `cluster.listen` is not a meta group of one but alone: no port, no directory, nothing to wait for
//!   at the start. The workers run the same code either way.
//! * The log of the meta group is in the write-ahead log that was meant for the shards, and not in sled: one log, one
//!   writer, one kind of recovery. sled holds nothing but the node's identity.
//! * A node that lost the cluster sends DISCONNECT with 0x89 (Server busy): 0x88 is defined for CONNACK only.
//! * `least_inflight` knows the load of this node's members of a group only. Between nodes it goes by how many members
//!   they have.
//! * Elections begin after 0.75 to 1.25 s, not 1.5 to 3 s: a leader must be found well within
//!   `cluster.node_down_after`, or every death of a leader would fence all nodes.
//! * SUBACK is sent when the route is committed, and does not wait until this node has applied it: the other nodes
//!   apply it in the same moment, and a message from one that has not yet, some milliseconds, may miss the subscriber
//!   either way.

pub mod admin;
mod auth;
mod bans;
mod broker;
pub mod client;
mod clock;
mod cluster;
pub mod config;
mod listener;
mod metrics;
mod node;
mod registry;
mod retained;
mod router;
mod sys;
pub mod telemetry;
mod worker;

pub use broker::{Broker, BrokerHandle, StartError};
pub use cluster::ClusterError;
