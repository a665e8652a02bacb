//! The values of `$SYS`.

use std::time::SystemTime;

use flotilla_mqtt::packet::PacketType;

use super::load::Load;
use crate::{
    metrics::Totals,
    node::Node,
    shards::{DiskUse, Shards},
};

/// Remembers the greatest value that each gauge has had.
#[derive(Debug, Default)]
pub(super) struct Tree {
    maxima: [u64; 6],
}

/// Packet types by their name in the trees, with what is counted of them: received, sent.
const PACKETS: [(&str, PacketType, bool, bool); 14] = [
    ("connect", PacketType::Connect, true, false),
    ("connack", PacketType::ConnAck, false, true),
    ("publish", PacketType::Publish, true, true),
    ("puback", PacketType::PubAck, true, true),
    ("pubrec", PacketType::PubRec, true, true),
    ("pubrel", PacketType::PubRel, true, true),
    ("pubcomp", PacketType::PubComp, true, true),
    ("subscribe", PacketType::Subscribe, true, false),
    ("suback", PacketType::SubAck, false, true),
    ("unsubscribe", PacketType::Unsubscribe, true, false),
    ("unsuback", PacketType::UnsubAck, false, true),
    ("pingreq", PacketType::PingReq, true, false),
    ("pingresp", PacketType::PingResp, false, true),
    ("disconnect", PacketType::Disconnect, true, true),
];

impl Tree {
    /// Appends every topic with its value.
    pub(super) fn values(
        &mut self,
        node: &Node,
        totals: &Totals,
        kept: Option<(u64, DiskUse)>,
        load: &Load,
        values: &mut Vec<(String, String)>,
    ) {
        let (away, disk) = kept.unwrap_or_default();
        let sessions = totals.sessions + away;
        self.brokers(node, totals, sessions, values);
        let name = &node.config.node.name;
        let mut put =
            |topic: &str, value: String| values.push((format!("$SYS/brokers/{name}/{topic}"), value));
        put("stats/disk/log/bytes", disk.log_bytes.to_string());
        put("stats/disk/store/bytes", disk.store_bytes.to_string());
        put("stats/disk/nearly_full", disk.is_nearly_full.to_string());
        put("stats/memory/resident", node.overload.resident().to_string());
        put("stats/memory/level", node.overload.level().name().to_owned());
        let mut put = |topic: &str, value: String| values.push((format!("$SYS/broker/{topic}"), value));
        mosquitto(node, totals, sessions, self.maxima[0], &mut put);
        for (topic, value) in load.values() {
            put(&format!("load/{topic}"), value);
        }
    }

    /// `$SYS/brokers`, as EMQX has it.
    fn brokers(&mut self, node: &Node, totals: &Totals, sessions: u64, values: &mut Vec<(String, String)>) {
        let name = &node.config.node.name;
        values.push(("$SYS/brokers".to_owned(), name.clone()));
        let mut put =
            |topic: &str, value: String| values.push((format!("$SYS/brokers/{name}/{topic}"), value));
        put("version", env!("CARGO_PKG_VERSION").to_owned());
        put("sysdescr", "Flotilla".to_owned());
        put("uptime", node.clock.uptime().as_secs().to_string());
        put("datetime", humantime::format_rfc3339_seconds(SystemTime::now()).to_string());
        let gauges = [
            ("connections", totals.connections),
            ("sessions", sessions),
            ("subscriptions", totals.subscriptions),
            ("subscriptions/shared", totals.shared_subscriptions),
            ("topics", node.router.len() as u64),
            ("retained", retained(node)),
        ];
        for ((gauge, count), max) in gauges.into_iter().zip(&mut self.maxima) {
            *max = count.max(*max);
            put(&format!("stats/{gauge}/count"), count.to_string());
            put(&format!("stats/{gauge}/max"), max.to_string());
        }
        for (counter, value) in totals.named() {
            put(&format!("metrics/{counter}"), value.to_string());
        }
        put("metrics/packets/received", totals.received.iter().sum::<u64>().to_string());
        put("metrics/packets/sent", totals.sent.iter().sum::<u64>().to_string());
        for (packet, packet_type, received, sent) in PACKETS {
            if received {
                put(
                    &format!("metrics/packets/{packet}/received"),
                    totals.received[packet_type as usize].to_string(),
                );
            }
            if sent {
                put(&format!("metrics/packets/{packet}/sent"), totals.sent[packet_type as usize].to_string());
            }
        }
        put("metrics/messages/received", totals.qos_received.iter().sum::<u64>().to_string());
        put("metrics/messages/sent", totals.qos_sent.iter().sum::<u64>().to_string());
        for qos in 0..3 {
            put(&format!("metrics/messages/qos{qos}/received"), totals.qos_received[qos].to_string());
            put(&format!("metrics/messages/qos{qos}/sent"), totals.qos_sent[qos].to_string());
        }
        put("metrics/messages/dropped", message_dropped(totals).to_string());
        put("metrics/delivery/dropped", delivery_dropped(totals).to_string());
    }
}

/// `$SYS/broker`, as Mosquitto has it.
fn mosquitto(
    node: &Node,
    totals: &Totals,
    sessions: u64,
    most_connected: u64,
    put: &mut impl FnMut(&str, String),
) {
    let away = sessions.saturating_sub(totals.connections);
    let publish = PacketType::Publish as usize;
    put("version", format!("flotilla version {}", env!("CARGO_PKG_VERSION")));
    put("uptime", format!("{} seconds", node.clock.uptime().as_secs()));
    let numbers = [
        ("clients/total", sessions),
        ("clients/connected", totals.connections),
        ("clients/active", totals.connections),
        ("clients/disconnected", away),
        ("clients/inactive", away),
        ("clients/maximum", most_connected),
        ("clients/expired", totals.session_expired),
        ("bytes/received", totals.bytes_received),
        ("bytes/sent", totals.bytes_sent),
        ("messages/received", totals.received.iter().sum()),
        ("messages/sent", totals.sent.iter().sum()),
        ("publish/messages/dropped", publish_dropped(totals)),
        ("publish/messages/received", totals.received[publish]),
        ("publish/messages/sent", totals.sent[publish]),
        ("publish/bytes/received", totals.publish_bytes_received),
        ("publish/bytes/sent", totals.publish_bytes_sent),
        ("subscriptions/count", totals.subscriptions),
        ("shared_subscriptions/count", totals.shared_subscriptions),
        ("retained messages/count", retained(node)),
    ];
    for (topic, number) in numbers {
        put(topic, number.to_string());
    }
}

/// Retained messages of the shards that this node leads, so that all nodes together count each once, and its own.
fn retained(node: &Node) -> u64 {
    node.cluster.shards().map_or(0, Shards::retained_led) + node.own_retained.len() as u64
}

fn message_dropped(totals: &Totals) -> u64 {
    totals.dropped_no_subscribers + totals.dropped_refused + totals.dropped_retained_full
}

fn delivery_dropped(totals: &Totals) -> u64 {
    totals.delivery_dropped_queue_full
        + totals.delivery_dropped_qos0
        + totals.delivery_dropped_too_large
        + totals.delivery_dropped_expired
        + totals.delivery_dropped_no_local
}

/// Deliveries that were lost to a limit, which is what Mosquitto calls dropped.
pub(super) fn publish_dropped(totals: &Totals) -> u64 {
    delivery_dropped(totals) - totals.delivery_dropped_no_local
}
