//! Configuration: one TOML file, the environment, `--set`.
//!
//! [`Config::load`] is the entry. Values come from four layers, of which a later one wins key by key: the built-in
//! defaults, the file, the environment (`FLOTILLA_MQTT__MAX_INFLIGHT=64`) and `--set mqtt.max_inflight=64`. What is
//! wrong is reported all together, each fault with its path and where the value came from.
//!
//! `raw.rs` is the schema: every key, its range and its default. `config/flotilla.toml` shows the same to people,
//! and a test holds the two together. A [`Config`] is valid because it exists; nothing checks it again.

mod contradictions;
mod faults;
mod host;
mod layers;
mod memory;
mod raw;
mod resolve;
mod value;

use std::{
    collections::{BTreeMap, BTreeSet},
    num::{NonZeroU16, NonZeroU32, NonZeroUsize},
    path::{Path, PathBuf},
    time::Duration,
};

pub use faults::{ConfigErrors, Fault, Origin};
pub use flotilla_mqtt::session::QueueFull;
pub use value::{BindAddress, NodeAddress, Secret};

/// What a broker is told. Every field of a section has the name and the meaning of its key in `config/flotilla.toml`.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[node]`
    pub node: Node,
    /// `[cluster]`
    pub cluster: Cluster,
    /// `[durability]`
    pub durability: Durability,
    /// `[listeners.<name>]`; at least one of them is enabled.
    pub listeners: BTreeMap<String, Listener>,
    /// `[mqtt]`
    pub mqtt: Mqtt,
    /// `[session]`
    pub session: Session,
    /// `[shared]`
    pub shared: Shared,
    /// `[retained]`
    pub retained: Retained,
    /// `[overload]`
    pub overload: Overload,
    /// `[sys]`
    pub sys: Sys,
    /// `[auth]`
    pub auth: Auth,
    /// `[log]`
    pub log: Log,
}

/// This process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The name in `$SYS/brokers/<name>`: one topic level, and no other node of the cluster has it.
    pub name: String,
    /// What part it has in the cluster.
    pub role: Role,
    /// The directory of everything that outlives the process.
    pub data_dir: PathBuf,
    /// Threads that serve connections; at most 256. What the file calls 0, one for each core but one, is resolved here.
    pub workers: NonZeroUsize,
    /// How long a graceful stop may take.
    pub shutdown_grace: Duration,
}

/// What part a node has in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It votes.
    Core,
    /// It only learns, and may come and go.
    Edge,
}

/// The cluster that this node belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Nodes with another one are refused.
    pub name: String,
    /// Where the other nodes are expected; `None`: a cluster of one.
    pub listen: Option<NodeAddress>,
    /// Where the other nodes find this one; there is one whenever it listens, and it can be dialled.
    pub advertise: Option<NodeAddress>,
    /// What the nodes have to know to be let in.
    pub secret: Option<Secret>,
    /// How many core nodes found the cluster together; 1 to 7.
    pub bootstrap_expect: u8,
    /// After how much silence a node counts as dead.
    pub node_down_after: Duration,
    /// After how much longer a dead edge node is forgotten.
    pub edge_forget_after: Duration,
    /// Into how many parts the clients are divided. Counts when the cluster is founded. What the file calls 0 is resolved here.
    pub shards: u16,
    /// How many nodes keep each part. Counts when the cluster is founded.
    pub replicas: u8,
    /// How this node finds the others.
    pub discovery: Discovery,
}

/// When what is kept is on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durability {
    /// What an acknowledgement waits for.
    pub sync: Sync,
    /// With [`Sync::Interval`]: how long the disk may be behind.
    pub interval: Duration,
}

/// What an acknowledgement waits for, on a majority of the nodes that keep a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// The disk.
    Always,
    /// The memory of the system; the disk follows.
    Interval,
}

/// How a node finds the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    /// Not at all: they find it, or there are none.
    None,
    /// They are named; never empty. This node may be among them.
    Static(Vec<NodeAddress>),
    /// Every address of this host name, each with this port.
    Dns(NodeAddress),
    /// The hosts and ports of this service's SRV records.
    Srv(String),
}

/// A socket that takes connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// What is spoken there.
    pub protocol: Protocol,
    /// The address and port.
    pub bind: BindAddress,
    /// Connections at the same time; `None`: as many as the system gives.
    pub max_connections: Option<usize>,
    /// Connections that the system holds until they are accepted.
    pub backlog: u16,
    /// Connections accepted in a second; `None`: as many as come.
    pub connect_rate_max: Option<u32>,
    /// Connections without the answer to their CONNECT, from which on no more are accepted.
    pub connecting_max: usize,
    /// Whether `TCP_NODELAY` is set.
    pub nodelay: bool,
    /// Whether each worker has a socket of its own (`SO_REUSEPORT`).
    pub reuse_port: bool,
    /// Whether it listens at all.
    pub enabled: bool,
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT over TCP.
    Mqtt,
}

/// What holds for every MQTT connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Mqtt {
    /// The largest packet taken from a client, in bytes.
    pub max_packet_size: NonZeroU32,
    /// Unacknowledged QoS 1 and 2 publishes taken from a client.
    pub receive_maximum: NonZeroU16,
    /// Unacknowledged QoS 1 and 2 messages to a client.
    pub max_inflight: NonZeroU16,
    /// The highest topic alias, both ways; 0: none.
    pub topic_alias_max: u16,
    /// Levels of a topic name or filter.
    pub max_topic_levels: u16,
    /// Bytes of a client identifier.
    pub max_client_id_len: u16,
    /// From the connection's start to its whole CONNECT, and from there to its answer.
    pub connect_timeout: Duration,
    /// From the first byte of a packet to its last.
    pub packet_timeout: Duration,
    /// Twice this times the Keep Alive is how long a client may be silent.
    pub keepalive_backoff: f64,
    /// Replaces the client's Keep Alive, in seconds; 0 switches it off.
    pub server_keepalive: Option<u16>,
    /// Replaces a longer Keep Alive and 0, in seconds.
    pub max_keepalive: Option<NonZeroU16>,
    /// How long a client may take none of the bytes that wait for it.
    pub write_timeout: Duration,
    /// Bytes that may wait in a connection's send buffer; never less than `max_packet_size`.
    pub output_buffer_max: usize,
    /// How a message goes to a client with several matching subscriptions.
    pub overlap: Overlap,
    /// The Response Information of those clients that ask for it.
    pub response_information: Option<String>,
}

/// How a message goes to a client with several matching subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// Once, with the highest QoS and all subscription identifiers.
    Merge,
    /// Once for each subscription.
    Each,
}

/// What the broker keeps for one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Messages that may wait.
    pub queue_messages_max: usize,
    /// Bytes that may wait; never less than `mqtt.max_packet_size`.
    pub queue_bytes_max: usize,
    /// What gives way when the queue is full.
    pub queue_full: QueueFull,
    /// Whether QoS 0 messages wait for a client that is away.
    pub queue_qos0: bool,
    /// Bounds the Session Expiry Interval, and `expiry_v3`.
    pub expiry_max: Option<Duration>,
    /// How long a 3.1 or 3.1.1 session with Clean Session 0 outlives its connection; `None`: for ever.
    pub expiry_v3: Option<Duration>,
    /// QoS 2 publishes from a client that wait for PUBREL.
    pub awaiting_rel_max: u16,
    /// Subscriptions.
    pub subscriptions_max: usize,
}

/// Shared subscriptions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// Which member of a group takes a message.
    pub strategy: SharedStrategy,
}

/// Which member of a shared subscription's group takes a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedStrategy {
    /// In turn.
    RoundRobin,
    /// Any.
    Random,
    /// The same until it leaves.
    Sticky,
    /// The same for all messages of a publisher.
    HashClientid,
    /// The same for all messages of a topic.
    HashTopic,
    /// The one with the fewest unacknowledged messages.
    LeastInflight,
}

/// Retained messages, in the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retained {
    /// How many there may be.
    pub messages_max: Option<usize>,
    /// How many bytes they may take. A share of the memory is resolved here.
    pub bytes_max: Option<u64>,
}

/// What happens when memory is short. A share of the memory is resolved here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overload {
    /// Resident bytes from which on publishers are not read and CONNECT is refused.
    pub memory_high: Option<u64>,
    /// Resident bytes from which on connections are closed; never less than `memory_high`.
    pub memory_critical: Option<u64>,
}

/// `$SYS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sys {
    /// How often its values are published; `None`: never.
    pub interval: Option<Duration>,
    /// Which events of clients are published.
    pub client_events: BTreeSet<ClientEvent>,
}

/// An event of a client that `$SYS` can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientEvent {
    /// A CONNECT was accepted.
    Connected,
    /// The connection ended.
    Disconnected,
    /// A subscription was made.
    Subscribed,
    /// A subscription was ended by the client.
    Unsubscribed,
}

/// Who may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Whether clients connect without proving who they are.
    pub anonymous: bool,
    /// Topic filters that no client may subscribe to, also not through a shared subscription.
    pub refused_filters: BTreeSet<String>,
}

/// The log of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A level, or a filter such as `info,flotilla=debug`; it parses.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

impl Config {
    /// Reads the file, if there is one, then lays the environment and the `--set` arguments over it.
    ///
    /// Of the environment, only names that begin with `FLOTILLA_` are looked at, in upper or lower case.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
        set: &[String],
    ) -> Result<Self, ConfigErrors> {
        Self::load_with_text(file, env, set).map(|(config, _)| config)
    }

    /// As [`Self::load`], and the same configuration as TOML with every key: what `check-config --print` shows.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load_with_text(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
        set: &[String],
    ) -> Result<(Self, String), ConfigErrors> {
        let (config, raw) = layers::load(file, env, set)?;
        Ok((config, raw.to_toml()))
    }

    /// The part of it that a session needs to know.
    #[must_use]
    pub fn limits(&self) -> flotilla_mqtt::session::Limits {
        let Self { mqtt, session, .. } = self;
        flotilla_mqtt::session::Limits {
            max_packet_size: mqtt.max_packet_size,
            max_inflight: mqtt.max_inflight,
            receive_maximum: mqtt.receive_maximum,
            topic_alias_max: mqtt.topic_alias_max,
            max_topic_levels: mqtt.max_topic_levels,
            max_client_id_len: mqtt.max_client_id_len,
            keepalive_backoff: mqtt.keepalive_backoff,
            server_keepalive: mqtt.server_keepalive,
            max_keepalive: mqtt.max_keepalive,
            output_buffer_max: mqtt.output_buffer_max,
            response_information: mqtt.response_information.clone(),
            queue_messages_max: session.queue_messages_max,
            queue_bytes_max: session.queue_bytes_max,
            queue_full: session.queue_full,
            expiry_max: session.expiry_max,
            expiry_v3: session.expiry_v3,
            awaiting_rel_max: session.awaiting_rel_max,
            subscriptions_max: session.subscriptions_max,
            // Whoever would answer is declared down within the first of these, unless only this node cannot reach it.
            answer_timeout: Some(self.cluster.node_down_after * 3),
        }
    }
}

impl Default for Config {
    /// The built-in defaults: one listener for everybody on port 1883.
    fn default() -> Self {
        raw::RawConfig::default().into_config()
    }
}

#[cfg(test)]
mod tests;
