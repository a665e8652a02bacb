//! The schema: every key with its type, its range and its default, each in this one place.
//!
//! The order of sections and keys is the order of `config/flotilla.toml`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use serde::{Deserialize, Serialize};

use super::{
    ClientEvent, LogFormat, Overlap, Protocol, Role, SharedStrategy, Sync,
    value::{
        BindAddress, ClusterName, Count, Factor, LogFilter, MemoryShare, NodeAddress, NodeName, OrNone,
        PlainFilter, Secret, ServiceName, Size, SpanOf, Text, WholeSeconds,
    },
};

/// A configuration as it is written. Every key may be missing.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) node: RawNode,
    pub(super) cluster: RawCluster,
    pub(super) durability: RawDurability,
    pub(super) listeners: BTreeMap<String, RawListener>,
    pub(super) mqtt: RawMqtt,
    pub(super) session: RawSession,
    pub(super) shared: RawShared,
    pub(super) retained: RawRetained,
    pub(super) overload: RawOverload,
    pub(super) sys: RawSys,
    pub(super) auth: RawAuth,
    pub(super) log: RawLog,
}

impl RawConfig {
    /// It as TOML, with every key.
    pub(super) fn to_toml(&self) -> String {
        toml::to_string(self).expect("the schema has no type that TOML has not")
    }
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            node: RawNode::default(),
            cluster: RawCluster::default(),
            durability: RawDurability::default(),
            listeners: BTreeMap::from([(BUILT_IN_LISTENER.to_owned(), RawListener::default())]),
            mqtt: RawMqtt::default(),
            session: RawSession::default(),
            shared: RawShared::default(),
            retained: RawRetained::default(),
            overload: RawOverload::default(),
            sys: RawSys::default(),
            auth: RawAuth::default(),
            log: RawLog::default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawNode {
    /// None: from where the other nodes find this one.
    pub(super) name: OrNone<NodeName>,
    pub(super) role: Role,
    pub(super) data_dir: Text<4096>,
    /// 0: one for each core but one.
    pub(super) workers: Count<0, 256>,
    pub(super) shutdown_grace: SpanOf<0, HOUR>,
}

impl Default for RawNode {
    fn default() -> Self {
        Self {
            name: OrNone::None,
            role: Role::Core,
            data_dir: Text("./flotilla-data".to_owned()),
            workers: Count::of(0),
            shutdown_grace: SpanOf::of_secs(10),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawCluster {
    pub(super) name: ClusterName,
    pub(super) listen: OrNone<NodeAddress>,
    pub(super) advertise: OrNone<NodeAddress>,
    pub(super) secret: OrNone<Secret>,
    pub(super) bootstrap_expect: Count<1, 7>,
    /// A leader that dies must be replaced before its followers' leases end.
    pub(super) node_down_after: SpanOf<{ 5 * SECOND }, HOUR>,
    pub(super) edge_forget_after: SpanOf<{ 5 * SECOND }, YEAR>,
    /// 0: as many as are good for a cluster, or for a node alone.
    pub(super) shards: Count<0, 1024>,
    pub(super) replicas: Count<1, 7>,
    pub(super) discovery: RawDiscovery,
}

impl Default for RawCluster {
    fn default() -> Self {
        Self {
            name: ClusterName("flotilla".to_owned()),
            listen: OrNone::None,
            advertise: OrNone::None,
            secret: OrNone::None,
            bootstrap_expect: Count::of(1),
            node_down_after: SpanOf::of_secs(5),
            edge_forget_after: SpanOf::of_secs(5 * 60),
            shards: Count::of(0),
            replicas: Count::of(3),
            discovery: RawDiscovery::default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawDurability {
    pub(super) sync: Sync,
    pub(super) interval: SpanOf<1, { 10 * SECOND }>,
}

impl Default for RawDurability {
    fn default() -> Self {
        Self { sync: Sync::Always, interval: SpanOf::of_secs(1) }
    }
}

/// At most one of them: a key each, so that every layer can set it alone.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawDiscovery {
    pub(super) r#static: Vec<NodeAddress>,
    pub(super) dns: OrNone<NodeAddress>,
    pub(super) srv: OrNone<ServiceName>,
}

impl Default for RawDiscovery {
    fn default() -> Self {
        Self { r#static: Vec::new(), dns: OrNone::None, srv: OrNone::None }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawListener {
    pub(super) protocol: Protocol,
    pub(super) bind: BindAddress,
    pub(super) max_connections: OrNone<Count<1, 100_000_000>>,
    pub(super) backlog: Count<1, 65_535>,
    pub(super) connect_rate_max: OrNone<Count<1, 1_000_000>>,
    pub(super) connecting_max: Count<1, 1_000_000>,
    pub(super) nodelay: bool,
    pub(super) reuse_port: bool,
    pub(super) enabled: bool,
}

impl Default for RawListener {
    fn default() -> Self {
        Self {
            protocol: Protocol::Mqtt,
            bind: BindAddress::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 1883),
            max_connections: OrNone::None,
            backlog: Count::of(1024),
            connect_rate_max: OrNone::None,
            connecting_max: Count::of(5_000),
            nodelay: true,
            reuse_port: true,
            enabled: true,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawMqtt {
    /// The protocol ends at a Remaining Length of 268,435,455 behind a fixed header of 5 bytes (section 2.1.4).
    pub(super) max_packet_size: Size<16, 268_435_460>,
    pub(super) receive_maximum: Count<1, 65_535>,
    pub(super) max_inflight: Count<1, 65_535>,
    pub(super) topic_alias_max: Count<0, 65_535>,
    pub(super) max_topic_levels: Count<1, 65_535>,
    /// A server must take 23 bytes [MQTT-3.1.3-5].
    pub(super) max_client_id_len: Count<23, 65_535>,
    pub(super) connect_timeout: SpanOf<10, HOUR>,
    pub(super) packet_timeout: SpanOf<10, HOUR>,
    pub(super) keepalive_backoff: Factor,
    pub(super) server_keepalive: OrNone<WholeSeconds<0, 65_535>>,
    pub(super) max_keepalive: OrNone<WholeSeconds<1, 65_535>>,
    pub(super) write_timeout: SpanOf<10, HOUR>,
    pub(super) output_buffer_max: Size<KIB, GIB>,
    pub(super) overlap: Overlap,
    pub(super) response_information: OrNone<Text<1024>>,
}

impl Default for RawMqtt {
    fn default() -> Self {
        Self {
            max_packet_size: Size::of(MIB),
            receive_maximum: Count::of(100),
            max_inflight: Count::of(32),
            topic_alias_max: Count::of(32),
            max_topic_levels: Count::of(128),
            max_client_id_len: Count::of(65_535),
            connect_timeout: SpanOf::of_secs(10),
            packet_timeout: SpanOf::of_secs(15),
            keepalive_backoff: Factor(0.75),
            server_keepalive: OrNone::None,
            max_keepalive: OrNone::None,
            write_timeout: SpanOf::of_secs(15),
            output_buffer_max: Size::of(MIB),
            overlap: Overlap::Merge,
            response_information: OrNone::None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawSession {
    pub(super) queue_messages_max: Count<1, 100_000_000>,
    pub(super) queue_bytes_max: Size<KIB, TIB>,
    pub(super) queue_full: RawQueueFull,
    pub(super) queue_qos0: bool,
    pub(super) expiry_max: OrNone<SpanOf<SECOND, CENTURY>>,
    pub(super) expiry_v3: OrNone<SpanOf<SECOND, CENTURY>>,
    pub(super) awaiting_rel_max: Count<1, 65_535>,
    pub(super) subscriptions_max: Count<1, 100_000_000>,
}

impl Default for RawSession {
    fn default() -> Self {
        Self {
            queue_messages_max: Count::of(1_000),
            queue_bytes_max: Size::of(16 * MIB),
            queue_full: RawQueueFull::DropNewest,
            queue_qos0: false,
            expiry_max: OrNone::None,
            expiry_v3: OrNone::Is(SpanOf::of_secs(2 * 60 * 60)),
            awaiting_rel_max: Count::of(100),
            subscriptions_max: Count::of(10_000),
        }
    }
}

/// `QueueFull` as it is written; the pure crate knows no serde.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RawQueueFull {
    DropNewest,
    DropOldest,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawShared {
    pub(super) strategy: SharedStrategy,
}

impl Default for RawShared {
    fn default() -> Self {
        Self { strategy: SharedStrategy::RoundRobin }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawRetained {
    pub(super) messages_max: OrNone<Count<1, 1_000_000_000>>,
    pub(super) bytes_max: OrNone<MemoryShare>,
}

impl Default for RawRetained {
    fn default() -> Self {
        Self { messages_max: OrNone::None, bytes_max: OrNone::Is(MemoryShare::Percent(25)) }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawOverload {
    pub(super) memory_high: OrNone<MemoryShare>,
    pub(super) memory_critical: OrNone<MemoryShare>,
}

impl Default for RawOverload {
    fn default() -> Self {
        let percent = |percent| OrNone::Is(MemoryShare::Percent(percent));
        Self { memory_high: percent(70), memory_critical: percent(85) }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawSys {
    /// 0: off.
    pub(super) interval: SpanOf<0, HOUR>,
    pub(super) client_events: Vec<ClientEvent>,
}

impl Default for RawSys {
    fn default() -> Self {
        Self {
            interval: SpanOf::of_secs(30),
            client_events: vec![ClientEvent::Connected, ClientEvent::Disconnected],
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawAuth {
    pub(super) anonymous: bool,
    pub(super) refused_filters: Vec<PlainFilter>,
}

impl Default for RawAuth {
    fn default() -> Self {
        Self { anonymous: true, refused_filters: Vec::new() }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLog {
    pub(super) level: LogFilter,
    pub(super) format: LogFormat,
}

impl Default for RawLog {
    fn default() -> Self {
        Self { level: LogFilter("info".to_owned()), format: LogFormat::Text }
    }
}

/// The listener that there is as long as a file names none.
pub(super) const BUILT_IN_LISTENER: &str = "tcp";

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
const YEAR: u64 = 365 * 24 * HOUR;
const CENTURY: u64 = 36_525 * 24 * HOUR;

// Sizes of up to 1 TiB are counted in `usize`.
const _: () = assert!(usize::BITS >= 64);
