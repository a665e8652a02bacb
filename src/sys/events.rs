//! Events of clients, as JSON below `$SYS/brokers/<node>/clients/<client id>`.

use std::{fmt::Write as _, time::SystemTime};

use flotilla_mqtt::{
    ProtocolVersion, ReasonCode,
    session::{Cause, SessionExpiry, Subscription},
};
use serde_json::{Value, json};

use crate::{config, worker::Peer};

/// Something that happened to a client.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ClientEvent<'a> {
    /// Its CONNECT was accepted.
    Connected { clean_start: bool, keep_alive: u16, receive_maximum: u16 },
    /// Its connection ended.
    Disconnected(Cause),
    /// It subscribed.
    Subscribed(&'a Subscription),
    /// It unsubscribed.
    Unsubscribed(&'a Subscription),
}

/// Whom an event is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) client_id: &'a str,
    pub(crate) version: ProtocolVersion,
    pub(crate) expiry: SessionExpiry,
    pub(crate) peer: &'a Peer,
}

impl ClientEvent<'_> {
    /// The name in `sys.client_events`.
    pub(crate) fn kind(&self) -> config::ClientEvent {
        match self {
            Self::Connected { .. } => config::ClientEvent::Connected,
            Self::Disconnected(_) => config::ClientEvent::Disconnected,
            Self::Subscribed(_) => config::ClientEvent::Subscribed,
            Self::Unsubscribed(_) => config::ClientEvent::Unsubscribed,
        }
    }

    /// The topic of the event.
    pub(crate) fn topic(&self, node: &str, client_id: &str) -> String {
        let event = match self {
            Self::Connected { .. } => "connected",
            Self::Disconnected(_) => "disconnected",
            Self::Subscribed(_) => "subscribed",
            Self::Unsubscribed(_) => "unsubscribed",
        };
        format!("$SYS/brokers/{node}/clients/{}/{event}", one_level(client_id))
    }

    /// The payload of the event.
    pub(crate) fn payload(&self, subject: &Subject<'_>) -> Value {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let mut value = json!({
            "clientid": subject.client_id,
            "username": subject.peer.username,
            "ipaddress": subject.peer.addr.ip(),
            "sockport": subject.peer.addr.port(),
            "protocol": "mqtt",
            "proto_name": subject.version.protocol_name(),
            "proto_ver": subject.version as u8,
            "ts": now,
        });
        let more = match self {
            Self::Connected { clean_start, keep_alive, receive_maximum } => json!({
                "clean_start": clean_start,
                "keepalive": keep_alive,
                "receive_maximum": receive_maximum,
                "expiry_interval": expiry_seconds(subject.expiry),
                "connected_at": now,
            }),
            Self::Disconnected(cause) => json!({ "reason": cause_name(*cause), "disconnected_at": now }),
            Self::Subscribed(subscription) => json!({
                "topic": subscription.filter.as_str(),
                "subopts": {
                    "qos": subscription.options.qos as u8,
                    "nl": u8::from(subscription.options.no_local),
                    "rap": u8::from(subscription.options.retain_as_published),
                    "rh": subscription.options.retain_handling as u8,
                },
            }),
            Self::Unsubscribed(subscription) => json!({ "topic": subscription.filter.as_str() }),
        };
        if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
            value.extend(more);
        }
        value
    }
}

/// Why a connection ended, in the words that EMQX uses.
fn cause_name(cause: Cause) -> String {
    match cause {
        Cause::Normal | Cause::WithWill(_) => "normal".to_owned(),
        Cause::ConnectionLost => "tcp_closed".to_owned(),
        Cause::Server(ReasonCode::KeepAliveTimeout) => "keepalive_timeout".to_owned(),
        Cause::Server(ReasonCode::SessionTakenOver) => "takenover".to_owned(),
        Cause::Server(reason) => reason.to_string().to_lowercase().replace(' ', "_"),
    }
}

fn expiry_seconds(expiry: SessionExpiry) -> u64 {
    match expiry {
        SessionExpiry::AtDisconnect => 0,
        SessionExpiry::After(duration) => duration.as_secs(),
        SessionExpiry::Never => u64::from(u32::MAX),
    }
}

/// A client identifier as one topic level: what would end the level or be a wildcard is written as `%` and two
/// hexadecimal digits. The payload has the identifier as it is; here it is cut where the topic would become too long.
fn one_level(client_id: &str) -> String {
    let mut level = String::with_capacity(client_id.len());
    for character in client_id.chars() {
        if level.len() >= LEVEL_MAX {
            break;
        }
        if matches!(character, '/' | '+' | '#' | '%') {
            write!(level, "%{:02X}", u32::from(character)).expect("a String takes everything");
        } else {
            level.push(character);
        }
    }
    level
}

/// Bytes of a client identifier in a topic: half of what a topic may have leaves room for the rest of it.
const LEVEL_MAX: usize = 32 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_identifier_stays_one_level() {
        assert_eq!(one_level("sensor-7"), "sensor-7");
        assert_eq!(one_level("a/b+c#100%"), "a%2Fb%2Bc%23100%25");
        assert_ne!(one_level("a/b"), one_level("a%2Fb"));
    }

    #[test]
    fn the_longest_client_identifier_makes_a_topic_that_can_be_sent() {
        // [MQTT-4.7.3-3]
        for client_id in ["x".repeat(65_535), "/".repeat(65_535), "é".repeat(32_767)] {
            let topic = ClientEvent::Disconnected(Cause::Normal).topic("node", &client_id);
            assert!(topic.len() <= 65_535, "{}", topic.len());
        }
    }
}
