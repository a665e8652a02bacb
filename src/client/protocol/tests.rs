//! The client's side of MQTT against packets of a broker.

use flotilla_mqtt::packet::{
    ConnAckProperties, ConnectProperties, Filters, PacketType, ReasonCodes, SubscriptionOptions,
    UserProperties,
};

use super::*;

const V5: ProtocolVersion = ProtocolVersion::V5;
const V311: ProtocolVersion = ProtocolVersion::V311;

/// Connected, with the CONNECT already written.
fn connected(version: ProtocolVersion, connack: ConnAckProperties<'_>) -> Protocol {
    let mut protocol = start(version, 2);
    let reason = ReasonCode::Success;
    receive(
        &mut protocol,
        &Packet::ConnAck(Box::new(ConnAck { session_present: true, reason, properties: connack })),
    );
    assert!(
        matches!(protocol.next_event().unwrap(), Some(Event::Greeted(greeting)) if greeting.session_present)
    );
    protocol.output = SendBuffer::new();
    protocol
}

fn start(version: ProtocolVersion, topic_alias_maximum: u16) -> Protocol {
    let properties = ConnectProperties { topic_alias_maximum, ..ConnectProperties::default() };
    let connect = Connect {
        version,
        clean_start: true,
        keep_alive: 0,
        client_id: "me",
        will: None,
        username: None,
        password: None,
        properties,
    };
    Protocol::start(connect).unwrap()
}

fn receive(protocol: &mut Protocol, packet: &Packet<'_>) {
    let mut bytes = Vec::new();
    codec::encode(packet, protocol.version, &mut bytes).unwrap();
    protocol.input.extend_from_slice(&bytes);
}

/// The packets written since the last call, as the broker reads them: type, identifier, reason.
fn sent(protocol: &mut Protocol) -> Vec<(PacketType, u16, ReasonCode)> {
    let mut slices = [std::io::IoSlice::new(&[]); 16];
    let filled = protocol.output.slices(&mut slices);
    let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
    protocol.output = SendBuffer::new();
    let mut decoder = Decoder::server(PACKET_MAX);
    decoder.set_version(protocol.version);
    let (mut rest, mut packets) = (&bytes[..], Vec::new());
    while let Some((packet, len)) = decoder.decode(rest).unwrap() {
        let (id, reason) = match &packet {
            Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
                (ack.id.value(), ack.reason)
            }
            Packet::Publish(publish) => {
                (publish.delivery.packet_id().map_or(0, PacketId::value), ReasonCode::Success)
            }
            Packet::Subscribe(subscribe) => (subscribe.id.value(), ReasonCode::Success),
            Packet::Disconnect(disconnect) => (0, disconnect.reason),
            _ => (0, ReasonCode::Success),
        };
        packets.push((packet.packet_type(), id, reason));
        rest = &rest[len..];
    }
    assert!(rest.is_empty(), "half a packet was written");
    packets
}

fn publish(topic: &str, delivery: Delivery, alias: u16) -> Packet<'_> {
    let properties =
        PublishProperties { topic_alias: NonZeroU16::new(alias), ..PublishProperties::default() };
    Packet::Publish(Publish { delivery, retain: false, topic, properties, payload: b"x" })
}

fn topic_of(event: Option<Event>) -> String {
    match event {
        Some(Event::Message(message)) => message.topic,
        other => panic!("not a message: {other:?}"),
    }
}

fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

fn send(protocol: &mut Protocol, qos: QoS) -> Result<(), ClientError> {
    protocol.publish(qos, false, "t", PublishProperties::default(), b"x")
}

#[test]
fn a_qos_2_message_is_an_event_once() {
    for version in [V311, V5] {
        let mut protocol = connected(version, ConnAckProperties::default());
        let delivery = Delivery::ExactlyOnce { id: id(7), dup: false };
        receive(&mut protocol, &publish("a", delivery, 0));
        assert_eq!(topic_of(protocol.next_event().unwrap()), "a");
        assert_eq!(sent(&mut protocol), [], "nothing is acknowledged before it is printed");
        protocol.acknowledge(delivery).unwrap();
        receive(&mut protocol, &publish("a", Delivery::ExactlyOnce { id: id(7), dup: true }, 0));
        assert_eq!(protocol.next_event().unwrap(), None);
        let pubrec = (PacketType::PubRec, 7, ReasonCode::Success);
        assert_eq!(sent(&mut protocol), [pubrec, pubrec]);
        assert!(protocol.is_awaiting_release());

        receive(&mut protocol, &Packet::PubRel(Ack::new(id(7), ReasonCode::Success)));
        assert_eq!(protocol.next_event().unwrap(), None);
        assert_eq!(sent(&mut protocol), [(PacketType::PubComp, 7, ReasonCode::Success)]);
        assert!(!protocol.is_awaiting_release());
        // The identifier is free again: this is another message.
        receive(&mut protocol, &publish("b", delivery, 0));
        assert_eq!(topic_of(protocol.next_event().unwrap()), "b");
    }
}

#[test]
fn an_unknown_release_is_answered() {
    for (version, reason) in [(V311, ReasonCode::Success), (V5, ReasonCode::PacketIdentifierNotFound)] {
        let mut protocol = connected(version, ConnAckProperties::default());
        receive(&mut protocol, &Packet::PubRel(Ack::new(id(9), ReasonCode::Success)));
        assert_eq!(protocol.next_event().unwrap(), None);
        assert_eq!(sent(&mut protocol), [(PacketType::PubComp, 9, reason)]);
    }
}

#[test]
fn own_messages_are_done_with_their_last_acknowledgement() {
    let mut protocol = connected(V5, ConnAckProperties::default());
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        send(&mut protocol, qos).unwrap();
    }
    assert_eq!(protocol.in_flight(), 2);
    let ids: Vec<u16> = sent(&mut protocol).iter().map(|(_, id, _)| *id).collect();
    assert_eq!(ids, [0, 1, 2]);
    // Not at this QoS: ignored.
    receive(&mut protocol, &Packet::PubComp(Ack::new(id(1), ReasonCode::Success)));
    receive(&mut protocol, &Packet::PubAck(Ack::new(id(1), ReasonCode::NoMatchingSubscribers)));
    let done = Event::Published { reason: ReasonCode::NoMatchingSubscribers, text: None };
    assert_eq!(protocol.next_event().unwrap(), Some(done));
    // Before its PUBREC: ignored.
    receive(&mut protocol, &Packet::PubComp(Ack::new(id(2), ReasonCode::Success)));
    receive(&mut protocol, &Packet::PubRec(Ack::new(id(2), ReasonCode::NoMatchingSubscribers)));
    assert_eq!(protocol.next_event().unwrap(), None);
    assert_eq!(sent(&mut protocol), [(PacketType::PubRel, 2, ReasonCode::Success)]);
    assert_eq!(protocol.in_flight(), 1);
    receive(&mut protocol, &Packet::PubComp(Ack::new(id(2), ReasonCode::Success)));
    let done = Event::Published { reason: ReasonCode::NoMatchingSubscribers, text: None };
    assert_eq!(protocol.next_event().unwrap(), Some(done), "the reason is in the PUBREC");
    assert_eq!(protocol.in_flight(), 0);
}

#[test]
fn a_refused_qos_2_message_has_no_release() {
    // [MQTT-4.3.3-4]
    let mut protocol = connected(V5, ConnAckProperties::default());
    send(&mut protocol, QoS::ExactlyOnce).unwrap();
    sent(&mut protocol);
    let refusal = Ack { reason_string: Some("no"), ..Ack::new(id(1), ReasonCode::NotAuthorized) };
    receive(&mut protocol, &Packet::PubRec(refusal));
    let refused = Event::Published { reason: ReasonCode::NotAuthorized, text: Some("no".to_owned()) };
    assert_eq!(protocol.next_event().unwrap(), Some(refused));
    assert_eq!((sent(&mut protocol), protocol.in_flight()), (vec![], 0));
}

#[test]
fn the_broker_bounds_what_is_in_flight() {
    // [MQTT-3.3.4-7]
    let receive_maximum = NonZeroU16::new(2);
    let mut protocol = connected(V5, ConnAckProperties { receive_maximum, ..ConnAckProperties::default() });
    send(&mut protocol, QoS::AtLeastOnce).unwrap();
    assert!(protocol.can_publish());
    send(&mut protocol, QoS::AtLeastOnce).unwrap();
    assert!(!protocol.can_publish());
    receive(&mut protocol, &Packet::PubAck(Ack::new(id(1), ReasonCode::Success)));
    protocol.next_event().unwrap();
    assert!(protocol.can_publish());
    // The identifier in use is passed over.
    protocol.next_id = id(2);
    send(&mut protocol, QoS::AtLeastOnce).unwrap();
    assert_eq!(sent(&mut protocol).last().map(|(_, id, _)| *id), Some(3));
}

#[test]
fn what_the_broker_does_not_take_is_not_sent() {
    let mut protocol = connected(
        V5,
        ConnAckProperties {
            maximum_qos: Some(QoS::AtLeastOnce),
            retain_available: Some(false),
            maximum_packet_size: NonZeroU32::new(20),
            topic_alias_maximum: Some(3),
            ..ConnAckProperties::default()
        },
    );
    assert!(protocol.limits().check_publish(QoS::AtLeastOnce, false, NonZeroU16::new(3)).is_ok());
    assert!(protocol.limits().check_publish(QoS::ExactlyOnce, false, None).is_err());
    assert!(protocol.limits().check_publish(QoS::AtMostOnce, true, None).is_err());
    assert!(protocol.limits().check_publish(QoS::AtMostOnce, false, NonZeroU16::new(4)).is_err());
    let large = protocol.publish(QoS::AtLeastOnce, false, "t", PublishProperties::default(), &[0; 20]);
    assert!(matches!(large, Err(ClientError::Unavailable { .. })), "{large:?}");
    assert_eq!((sent(&mut protocol), protocol.in_flight()), (vec![], 0));
    send(&mut protocol, QoS::AtLeastOnce).unwrap();
    assert_eq!(protocol.in_flight(), 1);
}

#[test]
fn topic_aliases_are_resolved() {
    let mut protocol = connected(V5, ConnAckProperties::default());
    for (topic, alias, resolved) in
        [("a", 1, "a"), ("b", 2, "b"), ("", 1, "a"), ("", 2, "b"), ("c", 1, "c"), ("", 1, "c")]
    {
        receive(&mut protocol, &publish(topic, Delivery::AtMostOnce, alias));
        assert_eq!(topic_of(protocol.next_event().unwrap()), resolved);
    }
}

#[test]
fn an_alias_that_was_never_introduced_or_allowed_is_an_error() {
    for (topic, alias) in [("", 1), ("a", 3)] {
        let mut protocol = connected(V5, ConnAckProperties::default());
        receive(&mut protocol, &publish(topic, Delivery::AtMostOnce, alias));
        let error = protocol.next_event().expect_err("the alias is not valid");
        assert!(matches!(error, ClientError::UnknownAlias(_)));
        assert_eq!(error.reason(), ReasonCode::TopicAliasInvalid);
    }
}

#[test]
fn a_subscription_is_answered_once() {
    let mut protocol = connected(V5, ConnAckProperties::default());
    let filters = [("a", SubscriptionOptions::default()), ("b", SubscriptionOptions::default())];
    let subscribe = |id| Subscribe {
        id,
        subscription_id: None,
        user_properties: UserProperties::default(),
        filters: Filters::from(&filters[..]),
    };
    protocol.subscribe(subscribe).unwrap();
    assert_eq!(sent(&mut protocol), [(PacketType::Subscribe, 1, ReasonCode::Success)]);
    let reasons = [ReasonCode::Success, ReasonCode::NotAuthorized];
    let suback = Packet::SubAck(SubAck {
        id: id(1),
        reason_string: None,
        user_properties: UserProperties::default(),
        reasons: ReasonCodes::from(&reasons[..]),
    });
    receive(&mut protocol, &suback);
    receive(&mut protocol, &suback);
    assert_eq!(
        protocol.next_event().unwrap(),
        Some(Event::Subscribed { reasons: reasons.to_vec(), text: None })
    );
    assert!(matches!(protocol.next_event(), Err(ClientError::Unexpected(PacketType::SubAck))));
}

#[test]
fn packets_may_come_in_pieces() {
    let mut whole = connected(V5, ConnAckProperties::default());
    receive(&mut whole, &publish("topic", Delivery::AtMostOnce, 0));
    receive(&mut whole, &Packet::PingResp);
    let mut protocol = connected(V5, ConnAckProperties::default());
    let mut events = Vec::new();
    for byte in &whole.input {
        protocol.input.extend_from_slice(&[*byte]);
        events.extend(protocol.next_event().unwrap());
    }
    assert_eq!(events.len(), 2);
    assert_eq!(events[1], Event::Pong);
}

#[test]
fn a_farewell_of_the_broker_is_an_error_with_its_reason() {
    let mut protocol = connected(V5, ConnAckProperties::default());
    let properties = DisconnectProperties { reason_string: Some("later"), ..DisconnectProperties::default() };
    receive(
        &mut protocol,
        &Packet::Disconnect(Disconnect { reason: ReasonCode::SessionTakenOver, properties }),
    );
    match protocol.next_event() {
        Err(ClientError::Disconnected { reason: ReasonCode::SessionTakenOver, text: Some(text) }) => {
            assert_eq!(text, "later");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn before_5_a_disconnect_means_that_all_is_well() {
    let mut protocol = connected(V311, ConnAckProperties::default());
    protocol.disconnect(ReasonCode::ProtocolError).unwrap();
    assert_eq!(sent(&mut protocol), []);
    protocol.disconnect(ReasonCode::Success).unwrap();
    assert_eq!(sent(&mut protocol), [(PacketType::Disconnect, 0, ReasonCode::Success)]);
    let mut protocol = connected(V5, ConnAckProperties::default());
    protocol.disconnect(ReasonCode::ProtocolError).unwrap();
    assert_eq!(sent(&mut protocol), [(PacketType::Disconnect, 0, ReasonCode::ProtocolError)]);
}
