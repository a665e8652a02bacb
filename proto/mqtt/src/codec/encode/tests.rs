//! The forms that are written, and what cannot be written.

use std::num::{NonZeroU16, NonZeroU32};

use super::*;
use crate::{
    PacketId,
    ProtocolVersion::{V5, V31, V311},
    QoS, ReasonCode,
    codec::{DecodeError, PropertyId},
    packet::{
        Ack, Auth, AuthProperties, ConnAck, ConnAckProperties, Connect, ConnectProperties, Delivery,
        Disconnect, DisconnectProperties, Publish, PublishProperties, SubAck, Subscribe, SubscriptionOptions,
        UnsubAck, Unsubscribe,
    },
};

#[test]
fn acknowledgements_take_their_shortest_form() {
    let ack = |reason| Ack::new(PacketId::MIN, reason);
    written(V5, &Packet::PubAck(ack(ReasonCode::Success)), b"\x40\x02\0\x01");
    written(V5, &Packet::PubRel(ack(ReasonCode::PacketIdentifierNotFound)), b"\x62\x03\0\x01\x92");
    written(V311, &Packet::PubRec(ack(ReasonCode::NotAuthorized)), b"\x50\x02\0\x01");
    let explained = Ack { reason_string: Some("no"), ..ack(ReasonCode::Success) };
    written(V5, &Packet::PubComp(explained), b"\x70\x09\0\x01\x00\x05\x1F\0\x02no");
}

#[test]
fn disconnect_and_auth_take_their_shortest_form() {
    let disconnect =
        |reason| Packet::Disconnect(Disconnect { reason, properties: DisconnectProperties::default() });
    written(V5, &disconnect(ReasonCode::Success), b"\xE0\x00");
    written(V5, &disconnect(ReasonCode::ServerShuttingDown), b"\xE0\x01\x8B");
    written(V311, &disconnect(ReasonCode::ServerShuttingDown), b"\xE0\x00");
    written(V5, &auth(ReasonCode::Success, AuthProperties::default()), b"\xF0\x00");
}

#[test]
fn connack_of_each_version() {
    let connack = |reason, properties| {
        Packet::ConnAck(Box::new(ConnAck {
            session_present: reason == ReasonCode::Success,
            reason,
            properties,
        }))
    };
    let properties = ConnAckProperties {
        maximum_qos: Some(QoS::AtLeastOnce),
        topic_alias_maximum: Some(32),
        ..ConnAckProperties::default()
    };
    let accepted = connack(ReasonCode::Success, properties);
    written(V5, &accepted, b"\x20\x08\x01\0\x05\x24\x01\x22\0\x20");
    written(V311, &accepted, b"\x20\x02\x01\0");
    written(V31, &accepted, b"\x20\x02\0\0");
    // Only absence says 2.
    let qos2 = ConnAckProperties { maximum_qos: Some(QoS::ExactlyOnce), ..ConnAckProperties::default() };
    written(V5, &connack(ReasonCode::Success, qos2), b"\x20\x03\x01\0\0");
    let refused = connack(ReasonCode::Banned, ConnAckProperties::default());
    written(V5, &refused, b"\x20\x03\0\x8A\0");
    written(V311, &refused, b"\x20\x02\0\x05");
}

#[test]
fn suback_before_5_0_has_one_code_for_every_error() {
    let reasons = [ReasonCode::GrantedQoS2, ReasonCode::NotAuthorized, ReasonCode::TopicFilterInvalid];
    written(V5, &suback(&reasons), b"\x90\x06\0\x01\0\x02\x87\x8F");
    written(V311, &suback(&reasons), b"\x90\x05\0\x01\x02\x80\x80");
    let reasons = (&[ReasonCode::NoSubscriptionExisted]).into();
    let unsuback =
        UnsubAck { id: PacketId::MIN, reason_string: None, user_properties: (&[]).into(), reasons };
    written(V5, &Packet::UnsubAck(unsuback.clone()), b"\xB0\x04\0\x01\0\x11");
    written(V311, &Packet::UnsubAck(unsuback), b"\xB0\x02\0\x01");
}

#[test]
fn defaults_are_not_written() {
    written(
        V5,
        &connect(V5, None, ConnectProperties::default()),
        b"\x10\x0E\0\x04MQTT\x05\x02\0\x3C\0\0\x01a",
    );
    written(
        V311,
        &connect(V311, None, ConnectProperties::default()),
        b"\x10\x0D\0\x04MQTT\x04\x02\0\x3C\0\x01a",
    );
    let properties = ConnectProperties {
        session_expiry: 1,
        receive_maximum: NonZeroU16::MIN,
        request_problem_information: false,
        ..ConnectProperties::default()
    };
    let bytes = b"\x10\x18\0\x04MQTT\x05\x02\0\x3C\x0A\x11\0\0\0\x01\x21\0\x01\x17\x00\0\x01a";
    written(V5, &connect(V5, None, properties), bytes);
}

#[test]
fn what_a_version_does_not_have_is_left_out() {
    let properties = PublishProperties { content_type: Some("text"), ..PublishProperties::default() };
    let publish = Packet::Publish(Publish { properties, ..publish("t") });
    written(V5, &publish, b"\x30\x0D\0\x01t\x07\x03\0\x04texthi");
    written(V31, &publish, b"\x30\x05\0\x01thi");
    let options =
        SubscriptionOptions { qos: QoS::AtLeastOnce, no_local: true, ..SubscriptionOptions::default() };
    let filters = [("$share/g/t", options)];
    let subscribe = Packet::Subscribe(Subscribe { filters: (&filters).into(), ..subscribe() });
    written(V311, &subscribe, b"\x82\x0F\0\x01\0\x0A$share/g/t\x01");
    refused(V5, &subscribe, DecodeError::NoLocalOnSharedSubscription);
}

#[test]
fn auth_needs_5_0_and_a_method() {
    let error = EncodeError::NotInVersion { packet: PacketType::Auth, version: V311 };
    not_written(V311, &auth(ReasonCode::ContinueAuthentication, AuthProperties::default()), error);
    let unnamed = auth(ReasonCode::ContinueAuthentication, AuthProperties::default());
    refused(V5, &unnamed, DecodeError::AuthWithoutMethod);
    let data = AuthProperties { authentication_data: Some(b"x"), ..AuthProperties::default() };
    refused(V5, &auth(ReasonCode::ContinueAuthentication, data), DecodeError::AuthDataWithoutMethod);
    let data = ConnectProperties { authentication_data: Some(b"x"), ..ConnectProperties::default() };
    refused(V5, &connect(V5, None, data), DecodeError::AuthDataWithoutMethod);
}

#[test]
fn lists_that_must_not_be_empty() {
    refused(V311, &Packet::Subscribe(subscribe()), DecodeError::EmptyPayload(PacketType::Subscribe));
    let unsubscribe = Unsubscribe { id: PacketId::MIN, user_properties: (&[]).into(), filters: (&[]).into() };
    refused(V5, &Packet::Unsubscribe(unsubscribe), DecodeError::EmptyPayload(PacketType::Unsubscribe));
    refused(V5, &suback(&[]), DecodeError::EmptyPayload(PacketType::SubAck));
}

#[test]
fn reason_codes_of_other_packets() {
    let wrong = |packet, reason: ReasonCode| DecodeError::InvalidReasonCode { packet, value: reason.value() };
    let reason = ReasonCode::PacketIdentifierNotFound;
    let puback = Packet::PubAck(Ack::new(PacketId::MIN, reason));
    refused(V5, &puback, wrong(PacketType::PubAck, reason));
    let reason = ReasonCode::BadUserNameOrPassword;
    let disconnect = Disconnect { reason, properties: DisconnectProperties::default() };
    refused(V5, &Packet::Disconnect(disconnect), wrong(PacketType::Disconnect, reason));
    refused(V5, &suback(&[reason]), wrong(PacketType::SubAck, reason));
    let connack = ConnAck { session_present: true, reason, properties: ConnAckProperties::default() };
    refused(V311, &Packet::ConnAck(Box::new(connack)), DecodeError::SessionPresentWithRefusal);
}

#[test]
fn strings_and_topics_that_are_not() {
    refused(V5, &Packet::Publish(publish("a\0")), DecodeError::NulCharacter);
    refused(V5, &Packet::Publish(publish("a/#")), DecodeError::TopicNameWildcard);
    refused(V5, &Packet::Publish(publish("")), DecodeError::TopicNameEmpty);
    // An alias does not help where there are none.
    let properties = PublishProperties { topic_alias: Some(NonZeroU16::MIN), ..PublishProperties::default() };
    let aliased = Packet::Publish(Publish { properties, ..publish("") });
    refused(V311, &aliased, DecodeError::TopicNameEmpty);
    written(V5, &aliased, b"\x30\x08\0\0\x03\x23\0\x01hi");
    let properties = PublishProperties { response_topic: Some("+"), ..PublishProperties::default() };
    refused(V5, &Packet::Publish(Publish { properties, ..publish("t") }), DecodeError::InvalidResponseTopic);
    let long = "x".repeat(65_536);
    not_written(V5, &Packet::Publish(publish(&long)), EncodeError::FieldTooLong(65_536));
}

#[test]
fn packets_that_are_too_long() {
    let payload = vec![0; 268_435_455];
    // Topic and its length do not fit beside it.
    let long = Packet::Publish(Publish { payload: &payload, ..publish("t") });
    not_written(V311, &long, EncodeError::PacketTooLong(268_435_458));
}

#[test]
fn other_values_that_cannot_be_written() {
    let id = NonZeroU32::new(268_435_456);
    let filters = [("t", SubscriptionOptions::default())];
    let subscribe = Subscribe { subscription_id: id, filters: (&filters).into(), ..subscribe() };
    refused(V5, &Packet::Subscribe(subscribe), DecodeError::VarIntTooLong);
    let connect = |version| connect(version, Some(b"p"), ConnectProperties::default());
    refused(V311, &connect(V311), DecodeError::PasswordWithoutUserName);
    assert_eq!(encode(&connect(V5), V5, &mut Vec::new()), Ok(()));
}

#[test]
fn properties_that_cannot_be_encoded_are_not_forwarded() {
    let mut out = b"before".to_vec();
    let will = crate::packet::WillProperties { content_type: Some("\0"), ..Default::default() };
    forward_will_properties(&will, &mut out);
    assert_eq!(out, b"before");
    let properties = PublishProperties { content_type: Some("\0"), ..PublishProperties::default() };
    assert_eq!(forward_properties(&properties, &mut out), b"");
}

#[test]
fn forwarded_properties_keep_the_order_of_the_publisher() {
    let section = b"\x03\0\x01t\x02\0\0\0\x09\x26\0\x01a\0\x01b\x23\0\x01\x01\x01";
    let raw = crate::packet::RawProperties(section);
    let (message_expiry, topic_alias) = (Some(9), Some(NonZeroU16::MIN));
    let properties = PublishProperties { message_expiry, topic_alias, raw, ..PublishProperties::default() };
    let mut scratch = b"from before".to_vec();
    let forwarded = forward_properties(&properties, &mut scratch);
    assert_eq!(forwarded, b"\x03\0\x01t\x26\0\x01a\0\x01b\x01\x01");
    assert_eq!(PropertyId::UserProperty as u8, 0x26);
}

#[track_caller]
fn written(version: ProtocolVersion, packet: &Packet<'_>, bytes: &[u8]) {
    let mut out = b"before".to_vec();
    assert_eq!(encode(packet, version, &mut out), Ok(()));
    assert_eq!(&out[..6], b"before");
    assert_eq!(&out[6..], bytes, "{packet:?}");
}

/// An error, and nothing is left of the attempt.
#[track_caller]
fn not_written(version: ProtocolVersion, packet: &Packet<'_>, error: EncodeError) {
    let mut out = b"before".to_vec();
    assert_eq!(encode(packet, version, &mut out), Err(error));
    assert_eq!(out, b"before");
}

#[track_caller]
fn refused(version: ProtocolVersion, packet: &Packet<'_>, error: DecodeError) {
    not_written(version, packet, EncodeError::Refused(error));
}

fn connect<'a>(
    version: ProtocolVersion,
    password: Option<&'a [u8]>,
    properties: ConnectProperties<'a>,
) -> Packet<'a> {
    Packet::Connect(Box::new(Connect {
        version,
        clean_start: true,
        keep_alive: 60,
        client_id: "a",
        will: None,
        username: None,
        password,
        properties,
    }))
}

fn publish(topic: &str) -> Publish<'_> {
    let (delivery, properties) = (Delivery::AtMostOnce, PublishProperties::default());
    Publish { delivery, retain: false, topic, properties, payload: b"hi" }
}

fn subscribe() -> Subscribe<'static> {
    let (subscription_id, user_properties) = (None, (&[]).into());
    Subscribe { id: PacketId::MIN, subscription_id, user_properties, filters: (&[]).into() }
}

fn suback(reasons: &[ReasonCode]) -> Packet<'_> {
    let (reason_string, user_properties) = (None, (&[]).into());
    Packet::SubAck(SubAck { id: PacketId::MIN, reason_string, user_properties, reasons: reasons.into() })
}

fn auth(reason: ReasonCode, properties: AuthProperties<'_>) -> Packet<'_> {
    Packet::Auth(Auth { reason, properties })
}
