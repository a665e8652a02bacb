//! Flotilla: a clustered MQTT broker.
//!
//! [`Broker::start`] is the entry. A broker is a number of workers, each a thread with a single-threaded runtime, which
//! own connections and sessions (`worker`); what they share is the `node`: subscriptions (`router`), where each
//! client's session lives (`registry`), what `$SYS` retains (`retained`) and counters (`metrics`). What MQTT says is in
//! the crate `flotilla_mqtt`, which does no I/O; this crate is the shell around it.
//!
//! # The cluster
//!
//! Every node is a member of a cluster, if only of one without others. What a worker needs of it is behind a trait, so that
//! it neither knows nor waits for the others: `cluster::Cluster` (claims of client identifiers, routes, forwarding,
//! shards).
//!
//! ```text
//!  clients ── worker ─┐ mailboxes                    other nodes (gRPC, one port)
//!  clients ── worker ─┼── router, registry ── cluster::member ─┬─ meta group (Raft): who is a member, who wants what
//!  clients ── worker ─┘   of sessions, $SYS   on threads of    ├─ shards (Raft): sessions, retained messages
//!                                             its own          ├─ lanes: messages, claims, reports
//!                                                              └─ admin: `flotilla ctl`
//! ```
//!
//! * The **meta group** (`flotilla_raft::meta`) is one Raft group of all. Its state (`flotilla_state`, pure) holds the
//!   nodes, where the replicas of the shards are, routes (per node and per shard, never per client), and what operators
//!   have set: bans. The identity of the node is in `flotilla_kv`.
//! * **Shards** (`shards`; `flotilla_shard`, pure) are Raft groups that keep sessions (subscriptions, inboxes, the
//!   identifiers of QoS 2, wills) and retained messages. Their state is in `flotilla_store`; the logs of all groups of a
//!   node are in one write-ahead log (`flotilla_wal`).
//! * **Lanes** (`flotilla_lane`, pure; `flotilla_raft::lanes`) carry everything else: five to each other member,
//!   reliable and in order while both members live. All messages of one publisher take the same lane.
//! * The **registry** (`flotilla_registry`, pure; `cluster::claims`) knows which node serves which client. The first
//!   node of a shard's placement is its registrar, and orders the claims.
//!
//! A publish is matched once, on the publisher's node: against the local subscribers by filter, against the routes by node. Each
//! node that wants it gets it once, and matches it against its own. Each shard with a session that wants it at QoS 1 or 2 gets it
//! once, too, and matches it against its sessions when it is committed; so does the shard of its topic if it is to be retained.
//! PUBACK waits for all of them. A worker asks whether a node or a shard is congested before it reads on from its clients.
//!
//! ## A kept session
//!
//! A CONNECT claims its client identifier at the registrar, which names the node that has the client. That one closes its
//! connection (0x8E), and says so when all that the client has said there is on its way. Then the CONNECT opens its session in
//! its shard, which answers with what is kept and fences off the connection before. What the client subscribes to, acknowledges
//! and releases goes there, and is answered when it is committed: SUBACK, PUBREL and PUBCOMP wait for that. Its messages of QoS 1
//! and 2 come from the leader of the shard, in order, to the node where it is connected (`worker::kept`); QoS 0 goes the short
//! way. When the connection ends nothing of it stays on the node.
//!
//! ## A shared subscription
//!
//! With members whose sessions are kept it has one backlog for QoS 1 and 2, in the shard of its whole text (see "Groups of shared
//! subscriptions" of `flotilla_shard`). That lends messages to the shards of its members, which deliver them as their own; the shards
//! tell each other by letters (`shards::post`). The publisher's node chooses between this shard and the nodes of
//! members whose sessions end with their connection (`router::share`), to which a message goes in memory, as all of QoS 0 does.
//!
//! ## Retained messages
//!
//! The shard of a topic keeps its message. Whoever subscribes has them looked up at the leader of the shard, or of each shard
//! for a filter with wildcards, page by page as its client takes them (`worker::replay`, `shards::retained`). A look-up comes
//! behind everything that its node has put into the line to that shard before. SUBACK waits for the first that is found, for a
//! second at most. What is published while a look-up is on its way may be newer: then it is looked up again.
//!
//! What a kept session gets of them at QoS 1 or 2 goes through its shard, a few at a time, and comes from there as what is published
//! does: under its identifier, in the order of the shard, and again after the end of the connection or of the node. SUBACK waits
//! until the first of these are committed, for no longer either.
//!
//! A subscription that begins while a message is on its way may miss it both ways, as long as the message is not acknowledged: its
//! node had not heard of the subscription, and the shard has not committed it.
//!
//! ## The life of a node
//!
//! It finds its cluster or founds one, is admitted (each time as a new incarnation), announces all routes that it has,
//! and is up: only then clients are let in. It stays a
//! member as long as its lease does, which the leader's answers to its heartbeats extend. The lease ends before the
//! leader may declare the node down. From then on the node is fenced: no client, no acknowledgement, no will. When it
//! reaches the leader again a new life begins. Whatever belongs to a life that has ended is void everywhere: routes,
//! lanes, claims.
//!
//! ## A backup
//!
//! `flotilla ctl export` asks the leader of each shard for what it had at one moment (`flotilla_shard::Export`), and writes one
//! file ([`backup`]). `import` sends it to one node, which puts the pieces into the shards that they belong to there, through
//! their logs as everything else; their sessions serve when all of them are there (`cluster::backup`).
//!
//! `flotilla recover` ([`recover`]) is for what is left of a cluster without a majority: it writes into the logs of a node that
//! does not run that it is the only member of all its groups, and that the cluster has another identifier.
//!
//! ## Growing
//!
//! What connections, routes, sessions and messages cost with more nodes and clients, and where that bends first, is in [`scale`].
//!
//! ## Departures from the design
//!
//! * The registry of connected clients is not in the shards but beside them, as soft state of the nodes: registrars are
//!   placed by the meta group. A CONNECT costs one entry in the log of its shard, also of a client without a session, for
//!   only the shard knows whether there is one to end.
//! * A message of QoS 1 or 2 reaches a kept session through its shard only, also when its client is on the publisher's node:
//!   there is one order, and one place that knows what the client has.
//! * Packet identifiers of kept messages follow from their place in the inbox. So nobody has to write down which was given to
//!   which message, and whoever has the session next sends them again under the identifiers of old.
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
pub mod backup;
mod bans;
pub mod bench;
mod broker;
pub mod client;
mod clock;
mod cluster;
pub mod config;
mod listener;
mod metrics;
mod node;
mod overload;
mod registry;
mod repetitions;
mod retained;
mod router;
pub mod scale;
mod shards;
mod sys;
pub mod telemetry;
mod worker;

pub use broker::{Broker, BrokerHandle, StartError};
pub use cluster::{ClusterError, RecoverError, recover};
pub use flotilla_raft::meta::Recovery;
