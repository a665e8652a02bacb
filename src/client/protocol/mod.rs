//! The client's side of MQTT without the socket: packets in, events and bytes out.
//!
//! It answers by itself what needs no decision (PUBREC with PUBREL, PUBREL with PUBCOMP) and turns the rest into an
//! [`Event`]. A received message is acknowledged only by [`Protocol::acknowledge`], after it is safely printed.

mod event;
mod limits;
#[cfg(test)]
mod tests;

pub(super) use event::{Event, Greeting, Received, ReceivedProperties};
use limits::ServerLimits;

use std::{
    collections::{BTreeMap, BTreeSet},
    num::{NonZeroU16, NonZeroU32},
};

use bytes::{Buf, BytesMut};
use flotilla_mqtt::{
    PacketId, ProtocolVersion, QoS, ReasonCode,
    codec::{self, Decoder, SendBuffer},
    packet::{
        Ack, ConnAck, Connect, Delivery, Disconnect, DisconnectProperties, Packet, Publish,
        PublishProperties, SubAck, Subscribe,
    },
};

use super::error::ClientError;

/// One connection's worth of MQTT.
#[derive(Debug)]
pub(super) struct Protocol {
    version: ProtocolVersion,
    decoder: Decoder,
    /// Read from the broker, not yet decoded.
    pub(super) input: BytesMut,
    /// To be written to the broker.
    pub(super) output: SendBuffer,
    limits: ServerLimits,
    /// Topics that the broker has introduced, by their aliases.
    topic_aliases: BTreeMap<NonZeroU16, String>,
    topic_alias_maximum: u16,
    /// QoS 2 messages that are printed, and whose PUBREL has not come.
    awaiting_release: BTreeSet<PacketId>,
    /// QoS 1 and 2 messages of our own that the broker is not done with.
    in_flight: BTreeMap<PacketId, Exchange>,
    subscribing: Option<PacketId>,
    next_id: PacketId,
}

/// What the broker has yet to send for a message of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exchange {
    /// PUBACK.
    AtLeastOnce,
    /// PUBREC, then PUBCOMP.
    ExactlyOnce,
    /// PUBCOMP; this was the reason of the PUBREC, the only one that says whether somebody is subscribed.
    Released(ReasonCode),
}

impl Protocol {
    /// A connection that is about to send `connect`.
    ///
    /// # Errors
    /// The packet cannot be written down.
    pub(super) fn start(connect: Connect<'_>) -> Result<Self, ClientError> {
        let version = connect.version;
        let packet_size = connect.properties.maximum_packet_size.map_or(PACKET_MAX, NonZeroU32::get);
        let mut protocol = Self {
            version,
            decoder: Decoder::client(version, packet_size),
            input: BytesMut::new(),
            output: SendBuffer::new(),
            limits: ServerLimits::default(),
            topic_aliases: BTreeMap::new(),
            topic_alias_maximum: connect.properties.topic_alias_maximum,
            awaiting_release: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            subscribing: None,
            next_id: PacketId::MIN,
        };
        protocol.send(&Packet::Connect(Box::new(connect)))?;
        Ok(protocol)
    }

    /// The next thing that the bytes read so far have to say; `None`: more bytes are needed.
    ///
    /// # Errors
    /// The broker broke the protocol or took its leave.
    pub(super) fn next_event(&mut self) -> Result<Option<Event>, ClientError> {
        // Taken out so that a packet can borrow from it while the rest of `self` changes.
        let mut input = std::mem::take(&mut self.input);
        let mut event = Ok(None);
        while let Ok(None) = event {
            match self.decoder.decode(&input) {
                Ok(Some((packet, len))) => {
                    event = self.handle_packet(packet);
                    input.advance(len);
                }
                Ok(None) => break,
                Err(error) => event = Err(error.into()),
            }
        }
        self.input = input;
        event
    }

    /// Whether another QoS 1 or 2 message may be on its way [MQTT-3.3.4-7], and there is room to write it down.
    pub(super) fn can_publish(&self) -> bool {
        self.in_flight.len() < usize::from(self.limits.in_flight) && self.output.len() < OUTPUT_MAX
    }

    /// Messages that the broker is not done with.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether a QoS 2 message is printed and the broker has not released it.
    pub(super) fn is_awaiting_release(&self) -> bool {
        !self.awaiting_release.is_empty()
    }

    /// What the broker takes.
    pub(super) const fn limits(&self) -> &ServerLimits {
        &self.limits
    }

    /// Sends a message; only while [`Protocol::can_publish`].
    ///
    /// # Errors
    /// It cannot be written down, or the broker does not take one of this size.
    pub(super) fn publish(
        &mut self,
        qos: QoS,
        retain: bool,
        topic: &str,
        properties: PublishProperties<'_>,
        payload: &[u8],
    ) -> Result<(), ClientError> {
        let dup = false;
        let (delivery, exchange) = match qos {
            QoS::AtMostOnce => (Delivery::AtMostOnce, None),
            QoS::AtLeastOnce => {
                let id = self.free_id();
                (Delivery::AtLeastOnce { id, dup }, Some((id, Exchange::AtLeastOnce)))
            }
            QoS::ExactlyOnce => {
                let id = self.free_id();
                (Delivery::ExactlyOnce { id, dup }, Some((id, Exchange::ExactlyOnce)))
            }
        };
        self.send(&Packet::Publish(Publish { delivery, retain, topic, properties, payload }))?;
        self.in_flight.extend(exchange);
        Ok(())
    }

    /// Sends the SUBSCRIBE that `packet` makes with an unused identifier.
    ///
    /// # Errors
    /// It cannot be written down, or is too large for the broker.
    pub(super) fn subscribe<'a>(
        &mut self,
        packet: impl FnOnce(PacketId) -> Subscribe<'a>,
    ) -> Result<(), ClientError> {
        let id = self.free_id();
        self.send(&Packet::Subscribe(packet(id)))?;
        self.subscribing = Some(id);
        Ok(())
    }

    /// Tells the broker that a message has arrived where it belongs.
    ///
    /// # Errors
    /// It cannot be written down.
    pub(super) fn acknowledge(&mut self, delivery: Delivery) -> Result<(), ClientError> {
        match delivery {
            Delivery::AtMostOnce => Ok(()),
            Delivery::AtLeastOnce { id, .. } => self.send(&Packet::PubAck(Ack::new(id, ReasonCode::Success))),
            Delivery::ExactlyOnce { id, .. } => {
                self.awaiting_release.insert(id);
                self.send(&Packet::PubRec(Ack::new(id, ReasonCode::Success)))
            }
        }
    }

    /// Asks whether the broker is alive.
    ///
    /// # Errors
    /// It cannot be written down.
    pub(super) fn ping(&mut self) -> Result<(), ClientError> {
        self.send(&Packet::PingReq)
    }

    /// Says goodbye; nothing may be sent after it [MQTT-3.14.4-1].
    ///
    /// # Errors
    /// It cannot be written down.
    pub(super) fn disconnect(&mut self, reason: ReasonCode) -> Result<(), ClientError> {
        if reason != ReasonCode::Success && !self.version.is_v5() {
            // Before 5.0 a DISCONNECT says that all is well: the connection is just closed.
            return Ok(());
        }
        self.send(&Packet::Disconnect(Disconnect { reason, properties: DisconnectProperties::default() }))
    }

    fn handle_packet(&mut self, packet: Packet<'_>) -> Result<Option<Event>, ClientError> {
        match packet {
            Packet::ConnAck(connack) => Ok(Some(self.handle_connack(&connack))),
            Packet::Publish(publish) => self.handle_publish(&publish),
            Packet::PubAck(ack) => {
                Ok(self.finish(&ack, |exchange| (exchange == Exchange::AtLeastOnce).then_some(ack.reason)))
            }
            Packet::PubRec(ack) => self.handle_pubrec(&ack),
            Packet::PubComp(ack) => Ok(self.finish(&ack, |exchange| match exchange {
                Exchange::Released(reason) => Some(if ack.reason.is_error() { ack.reason } else { reason }),
                Exchange::AtLeastOnce | Exchange::ExactlyOnce => None,
            })),
            Packet::PubRel(ack) => {
                let known = self.awaiting_release.remove(&ack.id);
                self.send(&Packet::PubComp(Ack::new(ack.id, self.found(known))))?;
                Ok(None)
            }
            Packet::SubAck(suback) => self.handle_suback(&suback),
            Packet::PingResp => Ok(Some(Event::Pong)),
            Packet::Disconnect(Disconnect { reason, properties }) => {
                Err(ClientError::Disconnected { reason, text: properties.reason_string.map(str::to_owned) })
            }
            Packet::Connect(_)
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_)
            | Packet::UnsubAck(_)
            | Packet::PingReq
            | Packet::Auth(_) => Err(ClientError::Unexpected(packet.packet_type())),
        }
    }

    fn handle_connack(&mut self, connack: &ConnAck<'_>) -> Event {
        let properties = &connack.properties;
        self.limits = ServerLimits::announced(properties);
        Event::Greeted(Greeting {
            reason: connack.reason,
            text: properties.reason_string.map(str::to_owned),
            session_present: connack.session_present,
            assigned_client_id: properties.assigned_client_id.map(str::to_owned),
            server_keep_alive: properties.server_keep_alive,
        })
    }

    fn handle_publish(&mut self, publish: &Publish<'_>) -> Result<Option<Event>, ClientError> {
        let topic = self.resolve_topic(publish.topic, publish.properties.topic_alias)?;
        if let Delivery::ExactlyOnce { id, .. } = publish.delivery
            && self.awaiting_release.contains(&id)
        {
            // Sent again because the PUBREC has not arrived: it is printed already [MQTT-4.3.3-10].
            self.send(&Packet::PubRec(Ack::new(id, ReasonCode::Success)))?;
            return Ok(None);
        }
        Ok(Some(Event::Message(Received {
            topic,
            payload: publish.payload.to_vec(),
            delivery: publish.delivery,
            retain: publish.retain,
            properties: ReceivedProperties::from(&publish.properties),
        })))
    }

    fn resolve_topic(&mut self, topic: &str, alias: Option<NonZeroU16>) -> Result<String, ClientError> {
        let Some(alias) = alias else { return Ok(topic.to_owned()) };
        // [MQTT-3.1.2-26]
        if alias.get() > self.topic_alias_maximum {
            return Err(ClientError::UnknownAlias(alias.get()));
        }
        if !topic.is_empty() {
            self.topic_aliases.insert(alias, topic.to_owned());
            return Ok(topic.to_owned());
        }
        self.topic_aliases.get(&alias).cloned().ok_or(ClientError::UnknownAlias(alias.get()))
    }

    fn handle_pubrec(&mut self, ack: &Ack<'_>) -> Result<Option<Event>, ClientError> {
        if ack.reason.is_error() {
            // The exchange ends here, without PUBREL [MQTT-4.3.3-4].
            return Ok(self.finish(ack, |exchange| (exchange == Exchange::ExactlyOnce).then_some(ack.reason)));
        }
        let exchange = self.in_flight.get_mut(&ack.id).filter(|exchange| **exchange != Exchange::AtLeastOnce);
        let known = exchange.map(|exchange| *exchange = Exchange::Released(ack.reason)).is_some();
        self.send(&Packet::PubRel(Ack::new(ack.id, self.found(known))))?;
        Ok(None)
    }

    /// Ends the exchange of a message of ours; an answer to what was never sent, or out of turn, is ignored.
    fn finish(
        &mut self,
        ack: &Ack<'_>,
        reason: impl FnOnce(Exchange) -> Option<ReasonCode>,
    ) -> Option<Event> {
        let reason = reason(*self.in_flight.get(&ack.id)?)?;
        self.in_flight.remove(&ack.id);
        Some(Event::Published { reason, text: ack.reason_string.map(str::to_owned) })
    }

    fn handle_suback(&mut self, suback: &SubAck<'_>) -> Result<Option<Event>, ClientError> {
        if self.subscribing.take() != Some(suback.id) {
            return Err(ClientError::Unexpected(flotilla_mqtt::packet::PacketType::SubAck));
        }
        let text = suback.reason_string.map(str::to_owned);
        Ok(Some(Event::Subscribed { reasons: suback.reasons.iter().collect(), text }))
    }

    /// The reason of a PUBREL or PUBCOMP; before 5.0 they have none.
    fn found(&self, known: bool) -> ReasonCode {
        if known || !self.version.is_v5() {
            ReasonCode::Success
        } else {
            ReasonCode::PacketIdentifierNotFound
        }
    }

    /// An identifier that no exchange of ours has. There is one, for fewer than 65,535 are in flight.
    fn free_id(&mut self) -> PacketId {
        while self.in_flight.contains_key(&self.next_id) {
            self.next_id = self.next_id.next();
        }
        let id = self.next_id;
        self.next_id = id.next();
        id
    }

    fn send(&mut self, packet: &Packet<'_>) -> Result<(), ClientError> {
        let mut bytes = Vec::new();
        codec::encode(packet, self.version, &mut bytes)?;
        // [MQTT-3.2.2-15]
        if let Some(limit) = self.limits.packet_size
            && bytes.len() as u64 > u64::from(limit.get())
        {
            let limit = format!("this one is {} bytes long, and its limit is {limit}", bytes.len());
            return Err(ClientError::Unavailable { what: "packets of this size", limit });
        }
        if bytes.len() < SHARED_MIN {
            self.output.tail().extend_from_slice(&bytes);
        } else {
            self.output.push_shared(bytes.into());
        }
        Ok(())
    }
}

/// The largest packet that MQTT has, with its header.
pub(super) const PACKET_MAX: u32 = 268_435_455 + 5;

/// Bytes that wait for the socket before no further message is taken from standard input.
const OUTPUT_MAX: usize = 64 * 1024;

/// A packet of this size is not copied again on its way to the socket.
const SHARED_MIN: usize = 4 * 1024;
