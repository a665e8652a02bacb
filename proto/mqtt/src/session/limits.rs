//! What the broker allows one session.

use std::{
    num::{NonZeroU16, NonZeroU32},
    time::Duration,
};

/// What the broker allows one session; shared by all sessions of a listener.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// `mqtt.max_packet_size`: the largest packet taken from a client, in bytes.
    pub max_packet_size: NonZeroU32,
    /// `mqtt.max_inflight`: QoS 1 and 2 messages to a client that it has not acknowledged; its Receive Maximum is the
    /// other bound.
    pub max_inflight: NonZeroU16,
    /// `mqtt.receive_maximum`: unacknowledged QoS 1 and 2 publishes taken from a client.
    pub receive_maximum: NonZeroU16,
    /// `mqtt.topic_alias_max`: the highest topic alias taken from a client, and the most aliases used towards one.
    pub topic_alias_max: u16,
    /// `mqtt.max_topic_levels`: levels of a topic name or filter.
    pub max_topic_levels: u16,
    /// `mqtt.max_client_id_len`, in bytes.
    pub max_client_id_len: u16,
    /// `mqtt.keepalive_backoff`: twice this times the Keep Alive is how long a client may be silent.
    pub keepalive_backoff: f64,
    /// `mqtt.server_keepalive`, in seconds: replaces the client's.
    pub server_keepalive: Option<u16>,
    /// `mqtt.max_keepalive`, in seconds: replaces a longer one, and 0.
    pub max_keepalive: Option<NonZeroU16>,
    /// `mqtt.output_buffer_max`, in bytes: what may wait in a connection's send buffer.
    pub output_buffer_max: usize,
    /// `mqtt.response_information`: the basis of response topics, given to clients that ask.
    pub response_information: Option<String>,
    /// `session.queue_messages_max`.
    pub queue_messages_max: usize,
    /// `session.queue_bytes_max`.
    pub queue_bytes_max: usize,
    /// `session.queue_full`.
    pub queue_full: QueueFull,
    /// `session.expiry_max`: bounds Session Expiry Interval.
    pub expiry_max: Option<Duration>,
    /// `session.expiry_v3`: how long a 3.1 or 3.1.1 session with Clean Session 0 is kept; `None`: for ever.
    pub expiry_v3: Option<Duration>,
    /// `session.awaiting_rel_max`: QoS 2 publishes that wait for PUBREL.
    pub awaiting_rel_max: u16,
    /// `session.subscriptions_max`.
    pub subscriptions_max: usize,
    /// How long a client waits for an acknowledgement before it is sent away: see [`Session::is_stuck`]. `None`: for ever.
    ///
    /// [`Session::is_stuck`]: super::Session::is_stuck
    pub answer_timeout: Option<Duration>,
}

impl Limits {
    /// The Keep Alive in force for a client that can be told, in seconds [MQTT-3.2.2-21].
    pub(super) fn keep_alive(&self, asked: u16) -> u16 {
        let keep_alive = self.server_keepalive.unwrap_or(asked);
        match self.max_keepalive.map(NonZeroU16::get) {
            Some(max) if keep_alive == 0 || keep_alive > max => max,
            _ => keep_alive,
        }
    }

    /// How long a client with this Keep Alive in seconds may be silent, in milliseconds; 0: for ever [MQTT-3.1.2-22].
    pub(super) fn silence_max_millis(&self, keep_alive: u16) -> u32 {
        let secs = f64::from(keep_alive) * 2.0 * self.keepalive_backoff;
        let silence_max = Duration::try_from_secs_f64(secs).unwrap_or(Duration::MAX);
        u32::try_from(silence_max.as_millis()).unwrap_or(u32::MAX)
    }
}

/// What happens when a queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QueueFull {
    /// The message that comes is dropped.
    #[default]
    DropNewest,
    /// The oldest messages make room.
    DropOldest,
}
