//! The model: what follows from the constants, from the bounds that are in the code, and from what clients do.

use bytes::Bytes;
use flotilla_lane::{BatchWriter, Forwarded, Frame, Texts};
use flotilla_mqtt::{
    QoS, Timestamp, Transit,
    session::{ClientId, SessionExpiry},
};
use flotilla_raft::{lanes::LaneOptions, meta::MetaOptions};
use flotilla_shard::{Connection, Entry, GroupStrategy, Op, Open, Overlap, Part, QueueLimits, Seq, WillFate};
use flotilla_state::{
    Command, ConnectionEpoch, Fingerprint, Incarnation, Member, NodeId, RouteChange, ShardEpoch,
};

use super::constants::{
    ACROSS, APPLY_ROUTE, COMMIT, CONNECT, CONNECTION, COPY_ROUTE, Constant, DELIVER_0, DELIVER_1,
    ENCODE_ROUTE, EXACT_ROUTE, FORGET_ROUTE, KEPT_MESSAGE, MATCH, OWN_TOPIC, OWN_WILDCARD, SESSION,
    SNAPSHOT_ROUTE, WILDCARD_ROUTE,
};
use crate::{cluster::GATHER, config::Config};

/// What clients do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Workload {
    pub(super) name: &'static str,
    /// Topics that one client alone subscribes to, each.
    pub(super) own_topics: f64,
    /// Topics that the clients divide among them: each subscribes to one.
    pub(super) common_topics: f64,
    /// Filters with wildcards, of all consumers together.
    pub(super) wildcards: f64,
    /// Whether sessions outlive their connections.
    pub(super) is_kept: bool,
    /// How long a connection lasts, in seconds.
    pub(super) connected_secs: f64,
    pub(super) messages: Messages,
}

/// What is published, and to whom.
#[derive(Debug, Clone, Copy)]
pub(super) enum Messages {
    /// Each client publishes one in so many seconds; it is of QoS 0, and its topic is seldom the one of another message.
    Consumers { every_secs: f64 },
    /// Each client publishes one in so many seconds, of QoS 1, to one other client.
    One { every_secs: f64 },
    /// So many a second in all, of QoS 1, each to all who share its topic.
    Many { per_second: f64 },
}

pub(super) const WORKLOADS: [Workload; 3] = [
    Workload {
        name: "devices",
        own_topics: 1.0,
        common_topics: 0.0,
        wildcards: 1_000.0,
        is_kept: false,
        connected_secs: 3_600.0,
        messages: Messages::Consumers { every_secs: 60.0 },
    },
    Workload {
        name: "vehicles",
        own_topics: 1.0,
        common_topics: 0.0,
        wildcards: 0.0,
        is_kept: true,
        connected_secs: 600.0,
        messages: Messages::One { every_secs: 60.0 },
    },
    Workload {
        name: "fan-out",
        own_topics: 0.0,
        common_topics: 1_000.0,
        wildcards: 0.0,
        is_kept: false,
        connected_secs: 3_600.0,
        messages: Messages::Many { per_second: 100.0 },
    },
];

pub(super) const NODES: [u32; 4] = [1, 3, 5, 9];
pub(super) const CLIENTS: [f64; 2] = [10e6, 100e6];

/// A cluster under a workload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cluster<'a> {
    pub(super) workload: &'a Workload,
    pub(super) clients: f64,
    pub(super) nodes: f64,
    pub(super) replicas: f64,
}

/// Bytes, where nothing else is said.
impl Cluster<'_> {
    pub(super) fn new(workload: &Workload, clients: f64, nodes: u32) -> Cluster<'_> {
        let replicas = f64::from(settings().cluster.replicas.min(u8::try_from(nodes).unwrap_or(u8::MAX)));
        Cluster { workload, clients, nodes: nodes.into(), replicas }
    }

    /// Connections of one node.
    pub(super) fn connections(&self) -> f64 {
        self.clients / self.nodes
    }

    pub(super) fn connection_bytes(&self) -> f64 {
        let Workload { own_topics, common_topics, wildcards, .. } = *self.workload;
        let topics = own_topics + if common_topics > 0.0 { 1.0 } else { 0.0 };
        let each = CONNECTION.value + topics * OWN_TOPIC.value;
        self.connections() * each + wildcards / self.nodes * OWN_WILDCARD.value
    }

    /// Routes without wildcards in the tables of each node: those of nodes, and those of shards.
    pub(super) fn exact_routes(&self) -> f64 {
        let Workload { own_topics, common_topics, is_kept, .. } = *self.workload;
        let of_nodes = if self.nodes > 1.0 { self.clients * own_topics + common_topics } else { 0.0 };
        let of_shards = if is_kept { self.clients * own_topics } else { 0.0 };
        of_nodes + of_shards
    }

    pub(super) fn route_bytes(&self) -> f64 {
        let wildcards = if self.nodes > 1.0 { self.workload.wildcards } else { 0.0 };
        self.exact_routes() * EXACT_ROUTE.value + wildcards * WILDCARD_ROUTE.value
    }

    /// Kept sessions of which one node has a replica.
    pub(super) fn session_bytes(&self) -> f64 {
        let sessions = if self.workload.is_kept { self.clients } else { 0.0 };
        sessions * self.replicas / self.nodes * SESSION.value
    }

    pub(super) fn node_bytes(&self) -> f64 {
        self.connection_bytes() + self.route_bytes() + self.session_bytes()
    }

    /// Of the whole cluster, a second; as many connections end.
    pub(super) fn connects(&self) -> f64 {
        self.clients / self.workload.connected_secs
    }

    /// Routes that nodes announce or withdraw, of the whole cluster, a second.
    pub(super) fn route_changes(&self) -> f64 {
        self.connects() * f64::from(route_changes(self.nodes)) * self.workload.own_topics
    }

    /// Entries of the meta group a second.
    pub(super) fn meta_entries(&self) -> f64 {
        self.nodes * announcements(self.route_changes() / self.nodes)
    }

    /// Bytes a second of the log of the meta group.
    pub(super) fn meta_bytes(&self) -> f64 {
        self.route_changes() * change_bytes() + self.meta_entries() * entry_bytes()
    }

    /// Ops that all shards together log a second because clients connect and go.
    pub(super) fn connection_ops(&self) -> f64 {
        let ops = if self.workload.is_kept { KEPT_OPS } else { TRANSIENT_OPS };
        self.connects() * f64::from(ops)
    }

    /// Published a second.
    pub(super) fn messages(&self) -> f64 {
        match self.workload.messages {
            Messages::Consumers { every_secs } | Messages::One { every_secs } => self.clients / every_secs,
            Messages::Many { per_second } => per_second,
        }
    }

    /// Ops that all shards together log a second.
    pub(super) fn ops(&self) -> f64 {
        let of_messages =
            if self.workload.is_kept { f64::from(KEPT_MESSAGE_OPS) * self.messages() } else { 0.0 };
        self.connection_ops() + of_messages
    }

    /// Bytes a second that one node writes to its log.
    pub(super) fn log_bytes(&self) -> f64 {
        let messages = if self.workload.is_kept { self.messages() } else { 0.0 };
        let of_messages = messages * (op_bytes(publish()) + op_bytes(acknowledge()));
        let of_connections = if self.workload.is_kept {
            self.connects() * (op_bytes(open()) + op_bytes(close()))
        } else {
            self.connection_ops() * op_bytes(open())
        };
        (of_messages + of_connections) * self.replicas / self.nodes + self.meta_bytes()
    }

    /// How often a message goes from one node to another.
    pub(super) fn forwards(&self) -> f64 {
        match self.workload.messages {
            Messages::Consumers { .. } => forwards(self.nodes, 1.0),
            Messages::One { .. } => KEPT_FORWARDS * forwards(self.nodes, 1.0),
            Messages::Many { .. } => forwards(self.nodes, self.receivers()),
        }
    }

    fn receivers(&self) -> f64 {
        match self.workload.messages {
            Messages::Many { .. } => self.clients / self.workload.common_topics,
            Messages::Consumers { .. } | Messages::One { .. } => 1.0,
        }
    }

    /// Cores that one node is busy with; `None`: what it takes was not measured.
    pub(super) fn cores(&self) -> Option<f64> {
        let message = match self.workload.messages {
            Messages::Consumers { .. } => MATCH.value + self.forwards() * crossing(&DELIVER_0),
            Messages::One { .. } if self.nodes < 3.0 => return None,
            Messages::One { .. } => KEPT_MESSAGE.value,
            Messages::Many { .. } => {
                self.receivers() * DELIVER_1.value + self.forwards() * crossing(&DELIVER_1)
            }
        };
        let connects = self.connects() * CONNECT.value + self.connection_ops() * op_cost();
        let changes = self.route_changes() * APPLY_ROUTE.value / 1e3;
        Some(((self.messages() * message + connects) / self.nodes + changes) / 1e6)
    }
}

/// A node of a cluster is dead, and its clients come to the others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storm<'a>(pub(super) Cluster<'a>);

/// Seconds, where nothing else is said.
impl Storm<'_> {
    fn left(&self) -> f64 {
        self.0.nodes - 1.0
    }

    pub(super) fn clients(&self) -> f64 {
        self.0.connections()
    }

    /// All nodes take the dead one out of their tables; nothing is matched meanwhile.
    pub(super) fn forgetting(&self) -> f64 {
        self.0.exact_routes() * FORGET_ROUTE.value / 1e9
    }

    /// The workers of the nodes that are left accept the clients.
    pub(super) fn accepting(&self) -> f64 {
        self.clients() / self.left() * CONNECT.value / 1e6 / CORES
    }

    /// The shards take their ops.
    pub(super) fn opening(&self) -> f64 {
        let ops = if self.0.workload.is_kept { 1 } else { TRANSIENT_OPS };
        self.clients() * f64::from(ops) * op_cost() / 1e6 / (self.left() * CORES)
    }

    /// Entries of the meta group that announce their routes.
    pub(super) fn entries(&self) -> f64 {
        let routes = self.clients() * self.0.workload.own_topics;
        if self.left() > 1.0 { (routes / CHANGES_MAX).ceil() } else { 0.0 }
    }

    /// The nodes announce them, each one entry after the other.
    pub(super) fn announcing(&self) -> f64 {
        (self.entries() / self.left()).ceil() * cycle()
    }

    /// Every node applies them all.
    pub(super) fn applying(&self) -> f64 {
        self.clients() * self.0.workload.own_topics * APPLY_ROUTE.value / 1e9
    }

    /// Snapshots that are due while they come, and what it takes to write them.
    pub(super) fn snapshots(&self) -> (f64, f64) {
        let bytes = self.clients() * self.0.workload.own_topics * change_bytes();
        let snapshots = (bytes / log_bytes_max()).floor();
        (snapshots, snapshots * self.0.exact_routes() * ENCODE_ROUTE.value / 1e9)
    }
}

/// Cores of each node, where a time is said.
pub(super) const CORES: f64 = 16.0;
const CHANGES_MAX: f64 = flotilla_state::limits::CHANGES_MAX as f64;

/// What a node announces of one own topic of one connection: that it comes, and that it goes. A node alone tells nobody.
pub(super) fn route_changes(nodes: f64) -> u32 {
    if nodes > 1.0 { 2 } else { 0 }
}

/// Ops that a connection costs whose session ends with it.
pub(super) const TRANSIENT_OPS: u32 = 0;

/// Ops that a connection costs whose session is kept: Open and Close.
pub(super) const KEPT_OPS: u32 = 2;

/// Ops that a message of QoS 1 costs one kept session: Publish and Acknowledge.
pub(super) const KEPT_MESSAGE_OPS: u32 = 2;

/// How many other nodes a message goes to whose subscribers are on so many nodes chosen at random, with repetition: each node
/// that has one gets it once.
pub(super) fn forwards(nodes: f64, subscribers: f64) -> f64 {
    (nodes - 1.0) * (1.0 - (1.0 - 1.0 / nodes).powf(subscribers))
}

/// Forwards of a message of QoS 1 for a kept session, where each is to another node: to the node of the client, which leaves it to the
/// shard; to the leader of the shard; and from there to the node of the client.
const KEPT_FORWARDS: f64 = 3.0;

/// Messages between nodes for the claim of a client, which is released later: claim, grant, confirm; release.
pub(super) fn claims(nodes: f64) -> f64 {
    4.0 * (nodes - 1.0) / nodes
}

/// Entries a second of one node that has so many changes a second: it waits for one, lets others gather, and waits until the entry
/// is applied.
pub(super) fn announcements(changes: f64) -> f64 {
    if changes > 0.0 { (1.0 / (1.0 / changes + cycle())).max(changes / CHANGES_MAX) } else { 0.0 }
}

/// The most entries a second of the meta group that so many nodes make of routes, of fewer than 4,096 changes each.
pub(super) fn entries_max(nodes: f64) -> f64 {
    nodes / cycle()
}

/// The most changes a second that one node announces.
pub(super) fn announced_max() -> f64 {
    CHANGES_MAX / cycle()
}

fn cycle() -> f64 {
    GATHER.as_secs_f64() + COMMIT.value / 1e3
}

/// What a message costs both nodes beside what it costs within one, in µs.
fn crossing(within: &Constant) -> f64 {
    within.value * (1.0 / ACROSS.value - 1.0)
}

/// What an op costs all replicas at most, in µs: a kept message is two of them, and its delivery.
pub(super) fn op_cost() -> f64 {
    KEPT_MESSAGE.value / f64::from(KEPT_MESSAGE_OPS)
}

/// In how large a cluster the table of routes takes a node as much as its clients do, where each has a topic of its own.
pub(super) fn nodes_until_routes_are_half() -> f64 {
    (CONNECTION.value + OWN_TOPIC.value) / EXACT_ROUTE.value
}

/// Routes that a node forgets in a second.
pub(super) fn forgotten_per_second() -> f64 {
    1e9 / FORGET_ROUTE.value
}

/// Routes of which an entry may have to copy so many in a second.
pub(super) fn copied_per_second() -> f64 {
    1e9 / COPY_ROUTE.value
}

/// Changes a second with which a snapshot of so many routes is due when the one before it is written.
pub(super) fn changes_until_snapshots_never_end(routes: f64) -> f64 {
    log_bytes_max() / change_bytes() / (routes * ENCODE_ROUTE.value / 1e9)
}

pub(super) fn snapshot_bytes(routes: f64) -> f64 {
    routes * SNAPSHOT_ROUTE.value
}

/// How much more messages so many nodes take than one does, where each message has one receiver at random.
pub(super) fn speed_up(nodes: f64) -> f64 {
    nodes / (1.0 / nodes + (nodes - 1.0) / nodes / ACROSS.value)
}

/// What a node may have to keep for the others that do not take it, before publishers wait.
pub(super) fn lane_bytes(nodes: f64) -> f64 {
    (nodes - 1.0) * LaneOptions::default().queue_bytes_high as f64
}

/// Streams of lanes that a node has, to the others and from them.
pub(super) fn lane_streams(nodes: f64) -> f64 {
    2.0 * (nodes - 1.0) * f64::from(flotilla_lane::LANES)
}

/// Shards of which the node leads most that leads most, and how many it would lead if they could be divided.
pub(super) fn shards_led(nodes: f64) -> (f64, f64) {
    let shards = f64::from(settings().cluster.shards);
    ((shards / nodes).ceil(), shards / nodes)
}

/// What the log of the meta group may take before a snapshot is due.
pub(super) fn log_bytes_max() -> f64 {
    MetaOptions::new("", "").log_bytes_max as f64
}

fn settings() -> Config {
    let set = ["cluster.listen=127.0.0.1:5883".to_owned()];
    Config::load(None, [], &set).expect("the defaults are valid")
}

/// What one more change adds to an entry of the meta group.
pub(super) fn change_bytes() -> f64 {
    announcement(2).len() as f64 - announcement(1).len() as f64
}

/// What an entry of the meta group has beside its changes.
fn entry_bytes() -> f64 {
    announcement(0).len() as f64
}

fn announcement(changes: u64) -> Bytes {
    let change =
        |number| RouteChange::AddExact(Fingerprint::from_bits(u64::MAX - number).expect("it is not zero"));
    let changes = (0..changes).map(change).collect();
    Command::Routes { member: MEMBER, changes }.encode()
}

/// What one more op adds to an entry of a shard.
pub(super) fn op_bytes(op: Op) -> f64 {
    let entry = |ops: Vec<Op>| {
        let parts = vec![Part { source: MEMBER, number: 1 << 20, ops }];
        Entry { stamp: 1 << 40, retained_full: false, parts }.encode().len() as f64
    };
    entry(vec![op.clone(), op.clone()]) - entry(vec![op])
}

const MEMBER: Member = Member { node: NodeId(u64::MAX), incarnation: Incarnation(1 << 20) };

fn connection() -> Connection {
    let client = ClientId::new("device-000000000042").expect("it is not empty");
    Connection { client, epoch: ConnectionEpoch { shard: ShardEpoch(1 << 20), sequence: 1 << 30 }, turn: 0 }
}

pub(super) fn open() -> Op {
    Op::Open(Box::new(Open {
        connection: connection(),
        clean_start: false,
        only_present: false,
        expiry: SessionExpiry::from_secs(7_200),
        window: 32,
        queue: QueueLimits {
            messages_max: 1_000,
            bytes_max: 16 << 20,
            full: crate::config::QueueFull::DropNewest,
        },
        awaiting_rel_max: 100,
        queue_qos0: false,
        overlap: Overlap::Merge,
        group_strategy: GroupStrategy::RoundRobin,
        will: None,
    }))
}

pub(super) fn close() -> Op {
    Op::Close {
        connection: connection(),
        expiry: SessionExpiry::from_secs(7_200),
        will: WillFate::Drop,
        sent_until: Seq(1 << 20),
        stored: Vec::new(),
    }
}

/// A message of 256 bytes.
pub(super) fn publish() -> Op {
    let topic = "devices/000000000042/commands";
    let message = Transit::new(topic, b"", &[7; 256], QoS::AtLeastOnce, false, None, None, None);
    let mut writer = BatchWriter::new();
    writer.push(&Frame::Store {
        origin: None,
        retains: false,
        without: Texts::default(),
        message: Forwarded::new(&message, Timestamp::ORIGIN),
    });
    Op::Publish { batch: writer.take().expect("there is a message") }
}

pub(super) fn acknowledge() -> Op {
    Op::Acknowledge { connection: connection(), released: Vec::new(), done: vec![Seq(1 << 20)] }
}
