//! From what is written to what is meant.

use std::{
    collections::BTreeSet,
    num::{NonZeroU16, NonZeroU32, NonZeroUsize},
    path::PathBuf,
    thread,
};

use super::{
    Auth, Cluster, Config, Discovery, Durability, Listener, Log, Mqtt, Node, Overload, QueueFull, Retained,
    Session, Shared, Sys, host, memory,
    raw::{
        RawCluster, RawConfig, RawDiscovery, RawListener, RawMqtt, RawNode, RawOverload, RawQueueFull,
        RawSession,
    },
    value::NodeAddress,
};

impl RawConfig {
    /// The configuration; the caller has looked at [`Self::contradictions`].
    pub(super) fn into_config(self) -> Config {
        let max_packet_size = self.mqtt.max_packet_size.narrow();
        let cluster = cluster(self.cluster);
        Config {
            node: node(self.node, cluster.advertise.as_ref()),
            cluster,
            listeners: self.listeners.into_iter().map(|(name, raw)| (name, listener(raw))).collect(),
            mqtt: mqtt(self.mqtt, max_packet_size),
            session: session(&self.session, max_packet_size),
            durability: Durability {
                sync: self.durability.sync,
                interval: self.durability.interval.duration(),
            },
            shared: Shared { strategy: self.shared.strategy },
            retained: Retained {
                messages_max: self.retained.messages_max.into_option().map(|count| count.narrow()),
                bytes_max: self.retained.bytes_max.into_option().map(|share| share.of(memory::available())),
            },
            overload: overload(&self.overload),
            sys: Sys {
                interval: Some(self.sys.interval.duration()).filter(|interval| !interval.is_zero()),
                client_events: BTreeSet::from_iter(self.sys.client_events),
            },
            auth: Auth {
                anonymous: self.auth.anonymous,
                refused_filters: self.auth.refused_filters.into_iter().map(|filter| filter.0).collect(),
            },
            log: Log { level: self.log.level.0, format: self.log.format },
        }
    }
}

fn node(raw: RawNode, advertise: Option<&NodeAddress>) -> Node {
    // Where a node is found is its own, so a name made of it is, too, as long as there is one node on a host.
    let derived = || format!("flotilla@{}", advertise.map_or("127.0.0.1", NodeAddress::host));
    Node {
        name: raw.name.into_option().map_or_else(derived, |name| name.0),
        role: raw.role,
        data_dir: PathBuf::from(raw.data_dir.0),
        workers: NonZeroUsize::new(raw.workers.narrow()).unwrap_or_else(|| default_workers(cores())),
        shutdown_grace: raw.shutdown_grace.duration(),
    }
}

fn cores() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// One for each core but one, which the log, the shards and the other nodes need: with a worker for each, they take the cores from each
/// other in turn, and each message that goes from one worker to another waits for that.
fn default_workers(cores: NonZeroUsize) -> NonZeroUsize {
    NonZeroUsize::new(cores.get() - 1).unwrap_or(NonZeroUsize::MIN).min(WORKERS_MAX)
}

fn cluster(raw: RawCluster) -> Cluster {
    let listen = raw.listen.into_option();
    let dialled = |listen: &NodeAddress| match listen.is_unspecified() {
        true => listen.on_host(&host::name()),
        false => listen.clone(),
    };
    Cluster {
        name: raw.name.0,
        advertise: raw.advertise.into_option().or_else(|| listen.as_ref().map(dialled)),
        shards: match raw.shards.narrow() {
            0 if listen.is_some() => SHARDS_OF_CLUSTER,
            0 => shards_alone(cores()),
            shards => shards,
        },
        listen,
        secret: raw.secret.into_option(),
        bootstrap_expect: raw.bootstrap_expect.narrow(),
        node_down_after: raw.node_down_after.duration(),
        edge_forget_after: raw.edge_forget_after.duration(),
        replicas: raw.replicas.narrow(),
        discovery: discovery(raw.discovery),
    }
}

/// One for each two cores: more than can work at a time make the entries of each smaller, and each entry has its cost.
fn shards_alone(cores: NonZeroUsize) -> u16 {
    u16::try_from(cores.get() / 2).unwrap_or(u16::MAX).clamp(1, SHARDS_OF_CLUSTER)
}

fn discovery(raw: RawDiscovery) -> Discovery {
    match (raw.dns.into_option(), raw.srv.into_option()) {
        (Some(dns), _) => Discovery::Dns(dns),
        (None, Some(srv)) => Discovery::Srv(srv.0),
        (None, None) if raw.r#static.is_empty() => Discovery::None,
        (None, None) => Discovery::Static(raw.r#static),
    }
}

fn listener(raw: RawListener) -> Listener {
    Listener {
        protocol: raw.protocol,
        bind: raw.bind,
        max_connections: raw.max_connections.into_option().map(|count| count.narrow()),
        backlog: raw.backlog.narrow(),
        connect_rate_max: raw.connect_rate_max.into_option().map(|count| count.narrow()),
        connecting_max: raw.connecting_max.narrow(),
        nodelay: raw.nodelay,
        reuse_port: raw.reuse_port,
        enabled: raw.enabled,
    }
}

fn mqtt(raw: RawMqtt, max_packet_size: usize) -> Mqtt {
    Mqtt {
        max_packet_size: NonZeroU32::new(raw.max_packet_size.narrow()).expect("its range begins at 16"),
        receive_maximum: NonZeroU16::new(raw.receive_maximum.narrow()).expect("its range begins at 1"),
        max_inflight: NonZeroU16::new(raw.max_inflight.narrow()).expect("its range begins at 1"),
        topic_alias_max: raw.topic_alias_max.narrow(),
        max_topic_levels: raw.max_topic_levels.narrow(),
        max_client_id_len: raw.max_client_id_len.narrow(),
        connect_timeout: raw.connect_timeout.duration(),
        packet_timeout: raw.packet_timeout.duration(),
        keepalive_backoff: raw.keepalive_backoff.0,
        server_keepalive: raw.server_keepalive.into_option().map(|seconds| seconds.narrow()),
        max_keepalive: raw.max_keepalive.into_option().and_then(|seconds| NonZeroU16::new(seconds.narrow())),
        write_timeout: raw.write_timeout.duration(),
        // Whoever raises only the packet size means packets of that size to arrive.
        output_buffer_max: raw.output_buffer_max.narrow::<usize>().max(max_packet_size),
        overlap: raw.overlap,
        response_information: raw.response_information.into_option().map(|text| text.0),
    }
}

fn session(raw: &RawSession, max_packet_size: usize) -> Session {
    let expiry_max = raw.expiry_max.into_option().map(|span| span.duration());
    let expiry_v3 = raw.expiry_v3.into_option().map(|span| span.duration());
    Session {
        queue_messages_max: raw.queue_messages_max.narrow(),
        queue_bytes_max: raw.queue_bytes_max.narrow::<usize>().max(max_packet_size),
        queue_full: match raw.queue_full {
            RawQueueFull::DropNewest => QueueFull::DropNewest,
            RawQueueFull::DropOldest => QueueFull::DropOldest,
        },
        queue_qos0: raw.queue_qos0,
        expiry_max,
        // `None` is the longest of all, which `Option`'s own order has the other way round.
        expiry_v3: [expiry_v3, expiry_max].into_iter().flatten().min(),
        awaiting_rel_max: raw.awaiting_rel_max.narrow(),
        subscriptions_max: raw.subscriptions_max.narrow(),
    }
}

fn overload(raw: &RawOverload) -> Overload {
    let memory = memory::available();
    let memory_high = raw.memory_high.into_option().map(|share| share.of(memory));
    let memory_critical = raw.memory_critical.into_option().map(|share| share.of(memory));
    // Whoever raises only the lower one means that nothing is done below it.
    Overload { memory_high, memory_critical: memory_critical.map(|mark| mark.max(memory_high.unwrap_or(0))) }
}

/// So many that a node that joins takes its part, and few enough that each has something to do.
const SHARDS_OF_CLUSTER: u16 = 16;
/// The end of the range of `node.workers`.
const WORKERS_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("it is not 0");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_core_is_left_to_the_others_if_there_are_two() {
        let workers = |cores| default_workers(NonZeroUsize::new(cores).expect("it is not 0")).get();
        assert_eq!([1, 2, 3, 8, 257, 1_000].map(workers), [1, 1, 2, 7, 256, 256]);
    }

    #[test]
    fn a_node_alone_has_a_shard_for_two_cores() {
        let shards = |cores| shards_alone(NonZeroUsize::new(cores).expect("it is not 0"));
        assert_eq!([1, 2, 3, 4, 31, 32, 1_000].map(shards), [1, 1, 1, 2, 15, 16, 16]);
    }
}
