//! The connection between a client and a node.

use std::{collections::VecDeque, fmt, str::FromStr};

use flotilla_mqtt::{PacketId, QoS, session::ClientId};
use flotilla_state::ConnectionEpoch;
use parking_lot::Mutex;

/// What a message says: which of whose messages it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Content {
    /// The publisher, by its number.
    pub publisher: usize,
    /// The topic, by its number.
    pub topic: usize,
    /// The QoS at which it was published.
    pub qos: QoS,
    /// Which of the messages of the publisher with this topic and QoS: 1, 2, 3...
    pub number: u64,
}

/// A packet. The names are those of MQTT.
#[derive(Debug, Clone)]
pub enum Packet {
    Connect { client: ClientId, epoch: ConnectionEpoch, clean_start: bool },
    ConnAck { present: bool },
    Subscribe { filter: &'static str },
    SubAck,
    Publish { id: PacketId, dup: bool, content: Content },
    PubAck(PacketId),
    PubRec(PacketId),
    PubRel(PacketId),
    PubComp(PacketId),
    Disconnect,
}

/// A connection. What is on its way is lost when it breaks.
#[derive(Default)]
pub struct Link(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    to_node: VecDeque<Packet>,
    to_client: VecDeque<Packet>,
    is_broken: bool,
}

impl Link {
    /// From the client.
    pub fn send_to_node(&self, packet: Packet) {
        self.0.lock().to_node.push_back(packet);
    }

    /// To the client.
    pub fn send_to_client(&self, packet: Packet) {
        let mut inner = self.0.lock();
        if !inner.is_broken {
            inner.to_client.push_back(packet);
        }
    }

    /// The next packet from the client.
    pub fn next_from_client(&self) -> Option<Packet> {
        self.0.lock().to_node.pop_front()
    }

    /// The next packet to the client. What had come before the connection broke may still be read.
    pub fn next_from_node(&self) -> Option<Packet> {
        self.0.lock().to_client.pop_front()
    }

    /// One of the two has gone.
    pub fn close(&self) {
        let mut inner = self.0.lock();
        inner.is_broken = true;
        // The node reads nothing after it has noticed.
        inner.to_node.clear();
    }

    /// Whether it is broken.
    pub fn is_broken(&self) -> bool {
        self.0.lock().is_broken
    }
}

impl Content {
    /// The name of the topic.
    pub fn topic_name(&self) -> String {
        format!("t/{}", self.topic)
    }
}

impl fmt::Display for Content {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { publisher, topic, qos, number } = self;
        write!(formatter, "{publisher} {topic} {} {number}", *qos as u8)
    }
}

impl FromStr for Content {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let numbers: Vec<u64> = text.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [publisher, topic, qos, number] = *numbers else { return Err("it has no four numbers") };
        let qos = match qos {
            1 => QoS::AtLeastOnce,
            2 => QoS::ExactlyOnce,
            _ => return Err("its QoS is none"),
        };
        let index = |number: u64| usize::try_from(number).map_err(|_| "a number is too large");
        Ok(Self { publisher: index(publisher)?, topic: index(topic)?, qos, number })
    }
}
