//! Tests of the session through its public interface. What it sends is decoded and compared as text.

mod handshake;
mod inbound;
mod kept;
mod lifetime;
mod model;
mod outbound;

use std::{io::IoSlice, num::NonZeroU16, num::NonZeroU32, sync::Arc, time::Duration};

use super::*;
use crate::{
    Message, QoS, SubscriptionIds, Transit,
    codec::Decoder,
    packet::{
        Ack, Connect, ConnectProperties, Delivery, DisconnectProperties, LastWill, Publish,
        PublishProperties, WillProperties,
    },
};

pub(super) const V5: ProtocolVersion = ProtocolVersion::V5;
pub(super) const V311: ProtocolVersion = ProtocolVersion::V311;
pub(super) const V31: ProtocolVersion = ProtocolVersion::V31;

/// A session, its send buffer and a clock.
pub(super) struct Rig {
    pub(super) session: Session,
    pub(super) out: SendBuffer,
    pub(super) now: Timestamp,
}

impl Rig {
    /// A session under the default limits.
    pub(super) fn new(version: ProtocolVersion) -> Self {
        Self::with(limits(), &connect(version))
    }

    pub(super) fn with(limits: Limits, connect: &Connect<'_>) -> Self {
        let accepted = accept(connect, &limits).expect("accepted");
        let now = Timestamp::from_millis(1_000_000);
        let session = Session::new(now, accepted, Arc::new(limits));
        Self { session, out: SendBuffer::new(), now }
    }

    pub(super) fn wait(&mut self, duration: Duration) {
        self.now = self.now + duration;
    }

    pub(super) fn handle<'a>(&mut self, packet: Packet<'a>) -> Result<Request<'a>, SessionError> {
        self.session.handle_packet(self.now, packet, &mut self.out)
    }

    /// Handles a packet that the session answers by itself.
    pub(super) fn take(&mut self, packet: Packet<'_>) {
        let request = self.handle(packet).expect("no error");
        assert!(matches!(request, Request::Nothing), "{request:?}");
    }

    /// Handles a PUBLISH that must be routed; QoS 1 and 2 give a ticket.
    pub(super) fn publish(&mut self, publish: Publish<'_>) -> Ticket {
        match self.handle(Packet::Publish(publish)) {
            Ok(Request::Publish(_, Some(ticket))) => ticket,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn stored(&mut self, ticket: Ticket, reason: ReasonCode) {
        self.session.handle_stored(ticket, reason, &mut self.out);
    }

    /// Publishes and stores at once.
    pub(super) fn publish_and_store(&mut self, publish: Publish<'_>) {
        let ticket = self.publish(publish);
        self.stored(ticket, ReasonCode::Success);
    }

    pub(super) fn deliver(&mut self, message: &Message, options: &DeliveryOptions) -> Delivered {
        let message = Arc::new(message.clone());
        let transit = Transit::from_message(&message);
        self.session.deliver(self.now, &transit, options, &mut self.out)
    }

    /// Delivers `topic` at a QoS.
    pub(super) fn send(&mut self, topic: &str, qos: QoS) -> Delivered {
        self.deliver(&message(topic, qos), &at(qos))
    }

    pub(super) fn pump(&mut self) {
        self.session.pump(self.now, &mut self.out);
    }

    /// What has been sent since it was last asked, one line a packet.
    pub(super) fn sent(&mut self) -> Vec<String> {
        packets(&drain(&mut self.out), self.session.version())
    }

    #[track_caller]
    pub(super) fn expect_sent(&mut self, expected: &[&str]) {
        assert_eq!(self.sent(), expected);
    }
}

pub(super) fn limits() -> Limits {
    Limits {
        max_packet_size: NonZeroU32::new(1 << 20).expect("not 0"),
        max_inflight: NonZeroU16::new(32).expect("not 0"),
        receive_maximum: NonZeroU16::new(100).expect("not 0"),
        topic_alias_max: 32,
        max_topic_levels: 128,
        max_client_id_len: u16::MAX,
        keepalive_backoff: 0.75,
        server_keepalive: None,
        max_keepalive: None,
        output_buffer_max: 1 << 20,
        response_information: None,
        queue_messages_max: 1000,
        queue_bytes_max: 16 << 20,
        queue_full: QueueFull::DropNewest,
        expiry_max: None,
        expiry_v3: Some(Duration::from_secs(7200)),
        awaiting_rel_max: 100,
        subscriptions_max: 10_000,
        answer_timeout: None,
    }
}

/// A CONNECT for a session that ends with its connection.
pub(super) fn connect(version: ProtocolVersion) -> Connect<'static> {
    Connect {
        version,
        clean_start: true,
        keep_alive: 60,
        client_id: "client",
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

/// A will to `will`.
pub(super) fn will(delay: u32, message_expiry: Option<u32>) -> Option<LastWill<'static>> {
    Some(LastWill {
        topic: "will",
        payload: b"gone",
        qos: QoS::AtLeastOnce,
        retain: false,
        properties: WillProperties { delay, message_expiry, ..WillProperties::default() },
    })
}

/// Lets everybody in.
pub(super) struct Open;

impl Authenticator for Open {
    fn check_password(&mut self, _: &str, _: Option<&str>, _: Option<&[u8]>) -> Result<(), ReasonCode> {
        Ok(())
    }

    fn step(&mut self, _: &str, _: Option<&[u8]>) -> Result<AuthStep, ReasonCode> {
        Err(ReasonCode::BadAuthenticationMethod)
    }
}

pub(super) fn accept(connect: &Connect<'_>, limits: &Limits) -> Result<Accepted, Refusal> {
    match Handshake::start(connect, limits, 0xF107, &mut Open)?.1 {
        HandshakeStep::Accept(accepted) => Ok(*accepted),
        HandshakeStep::Continue(_) => panic!("nobody asked for more"),
    }
}

pub(super) fn id(value: u16) -> PacketId {
    PacketId::new(value).expect("not 0")
}

/// A PUBLISH from the client with an empty payload.
pub(super) fn publish(topic: &str, delivery: Delivery) -> Publish<'_> {
    Publish { delivery, retain: false, topic, properties: PublishProperties::default(), payload: b"" }
}

pub(super) fn qos1(value: u16) -> Delivery {
    Delivery::AtLeastOnce { id: id(value), dup: false }
}

pub(super) fn qos2(value: u16) -> Delivery {
    Delivery::ExactlyOnce { id: id(value), dup: false }
}

pub(super) fn ack(value: u16) -> Ack<'static> {
    Ack::new(id(value), ReasonCode::Success)
}

pub(super) fn nack(value: u16) -> Ack<'static> {
    Ack::new(id(value), ReasonCode::UnspecifiedError)
}

/// A message for the client with an empty payload.
pub(super) fn message(topic: &str, qos: QoS) -> Message {
    Message {
        topic: topic.into(),
        properties: bytes::Bytes::new(),
        payload: bytes::Bytes::new(),
        qos,
        retain: false,
        expires_at: None,
        publisher: None,
    }
}

/// A subscription that granted this QoS.
pub(super) fn at(qos: QoS) -> DeliveryOptions {
    DeliveryOptions { qos, ..DeliveryOptions::default() }
}

pub(super) fn disconnect(reason: ReasonCode, session_expiry: Option<u32>) -> Packet<'static> {
    let properties = DisconnectProperties { session_expiry, ..DisconnectProperties::default() };
    Packet::Disconnect(Disconnect { reason, properties })
}

/// Takes the bytes out of a send buffer.
pub(super) fn drain(out: &mut SendBuffer) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !out.is_empty() {
        let mut slices = [IoSlice::new(&[]); 4];
        let filled = out.slices(&mut slices);
        let before = bytes.len();
        for slice in &slices[..filled] {
            bytes.extend_from_slice(slice);
        }
        let taken = bytes.len() - before;
        out.advance(taken);
    }
    bytes
}

/// The packets in what a server sent.
pub(super) fn packets(mut bytes: &[u8], version: ProtocolVersion) -> Vec<String> {
    let decoder = Decoder::client(version, u32::MAX);
    let mut lines = Vec::new();
    while !bytes.is_empty() {
        let (packet, len) = decoder.decode(bytes).expect("valid").expect("whole");
        lines.push(describe(&packet));
        bytes = &bytes[len..];
    }
    lines
}

fn describe(packet: &Packet<'_>) -> String {
    match packet {
        Packet::Publish(publish) => describe_publish(publish),
        Packet::PubAck(ack) => describe_ack("puback", ack),
        Packet::PubRec(ack) => describe_ack("pubrec", ack),
        Packet::PubRel(ack) => describe_ack("pubrel", ack),
        Packet::PubComp(ack) => describe_ack("pubcomp", ack),
        Packet::SubAck(suback) => format!("suback {} {:?}", suback.id, suback.reasons),
        Packet::UnsubAck(unsuback) => format!("unsuback {} {:?}", unsuback.id, unsuback.reasons),
        Packet::Disconnect(disconnect) => format!("disconnect {:?}", disconnect.reason),
        Packet::PingResp => "pingresp".into(),
        Packet::Auth(auth) => {
            let data = auth.properties.authentication_data.map(String::from_utf8_lossy);
            format!("auth {:?} {:?}", auth.reason, data.unwrap_or_default())
        }
        other => format!("{other:?}"),
    }
}

fn describe_ack(name: &str, ack: &Ack<'_>) -> String {
    match ack.reason {
        ReasonCode::Success => format!("{name} {}", ack.id),
        reason => format!("{name} {} {reason:?}", ack.id),
    }
}

fn describe_publish(publish: &Publish<'_>) -> String {
    let mut line = format!("publish{} '{}'", publish.delivery.qos() as u8, publish.topic);
    let mut add = |part: String| {
        line.push(' ');
        line.push_str(&part);
    };
    match publish.delivery {
        Delivery::AtMostOnce => {}
        Delivery::AtLeastOnce { id, dup } | Delivery::ExactlyOnce { id, dup } => {
            add(id.to_string());
            if dup {
                add("dup".into());
            }
        }
    }
    if publish.retain {
        add("retain".into());
    }
    if let Some(alias) = publish.properties.topic_alias {
        add(format!("alias={alias}"));
    }
    if let Some(expiry) = publish.properties.message_expiry {
        add(format!("expiry={expiry}"));
    }
    if !publish.properties.subscription_ids.is_empty() {
        add(format!("ids={:?}", publish.properties.subscription_ids));
    }
    line
}

pub(super) fn many(ids: &[u32]) -> SubscriptionIds {
    let ids = ids.iter().map(|id| NonZeroU32::new(*id).expect("not 0"));
    SubscriptionIds::Many(ids.collect())
}
