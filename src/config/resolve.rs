//! From what is written to what is meant.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::{NonZeroU16, NonZeroU32, NonZeroUsize},
    thread,
};

use super::{
    Auth, Config, Listener, Log, Mqtt, Node, QueueFull, Retained, Session, Shared, Sys, memory,
    raw::{RawConfig, RawListener, RawMqtt, RawNode, RawQueueFull, RawSession},
};

impl RawConfig {
    /// What is wrong although each value for itself is right: pairs of a path and a reason.
    pub(super) fn contradictions(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let enabled = || self.listeners.iter().filter(|(_, listener)| listener.enabled);
        if enabled().next().is_none() {
            found.push(("listeners".to_owned(), "at least one must be enabled".to_owned()));
        }
        let mut taken = BTreeMap::new();
        for (name, listener) in enabled().filter(|(_, listener)| listener.bind.port() != 0) {
            // With SO_REUSEPORT the system would not object, and deal clients to the two at random.
            if let Some(other) = taken.insert(&listener.bind, name) {
                let reason = format!("{} is already the address of listeners.{other}", listener.bind);
                found.push((format!("listeners.{name}.bind"), reason));
            }
        }
        let server: Option<u16> = self.mqtt.server_keepalive.into_option().map(|seconds| seconds.narrow());
        let max: Option<u16> = self.mqtt.max_keepalive.into_option().map(|seconds| seconds.narrow());
        if let (Some(server), Some(max)) = (server, max)
            && (server == 0 || server > max)
        {
            let reason = format!("{server}s is not within mqtt.max_keepalive, which is {max}s");
            found.push(("mqtt.server_keepalive".to_owned(), reason));
        }
        found
    }

    /// The configuration; the caller has looked at [`Self::contradictions`].
    pub(super) fn into_config(self) -> Config {
        let max_packet_size = self.mqtt.max_packet_size.narrow();
        Config {
            node: node(self.node),
            listeners: self.listeners.into_iter().map(|(name, raw)| (name, listener(raw))).collect(),
            mqtt: mqtt(self.mqtt, max_packet_size),
            session: session(&self.session, max_packet_size),
            shared: Shared { strategy: self.shared.strategy },
            retained: Retained {
                messages_max: self.retained.messages_max.into_option().map(|count| count.narrow()),
                bytes_max: self.retained.bytes_max.into_option().map(|share| share.of(memory::available())),
            },
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

fn node(raw: RawNode) -> Node {
    let one_per_core = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN).min(WORKERS_MAX);
    Node {
        name: raw.name.0,
        workers: NonZeroUsize::new(raw.workers.narrow()).unwrap_or_else(one_per_core),
        shutdown_grace: raw.shutdown_grace.duration(),
    }
}

fn listener(raw: RawListener) -> Listener {
    Listener {
        protocol: raw.protocol,
        bind: raw.bind,
        max_connections: raw.max_connections.into_option().map(|count| count.narrow()),
        backlog: raw.backlog.narrow(),
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

/// The end of the range of `node.workers`.
const WORKERS_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("it is not 0");
