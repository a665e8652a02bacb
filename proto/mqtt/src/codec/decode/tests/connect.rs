//! CONNECT and CONNACK.

use super::*;

#[test]
fn b05_protocol_name() {
    connect_refused(b"\0\x06MQIsdp\x04\x02\0\0\0\0", 0x84, unsupported(4, V311));
    connect_refused(b"\0\x04mqtt\x04\x02\0\0\0\0", 0x84, unsupported(4, V311));
    connect_refused(b"\0\x04mqtt\x05\x02\0\0\0\0\0", 0x84, unsupported(5, V5));
    connect_refused(b"\0\x04MQTT\x03\x02\0\0\0\0", 0x84, unsupported(3, V311));
    connect_refused(b"\0\0\x04\x02\0\0\0\0", 0x84, unsupported(4, V311));
    connect_refused(b"\0\x02\xFF\xFE\x04\x02\0\0\0\0", 0x84, unsupported(4, V311));
}

#[test]
fn b06_protocol_level() {
    for (level, answer) in [(0, V311), (1, V311), (2, V311), (6, V5), (127, V5), (132, V311), (255, V311)] {
        let body = [b"\0\x04MQTT", &[level][..], b"\x02\0\0\0\0"].concat();
        connect_refused(&body, 0x84, unsupported(level, answer));
        assert_eq!(refusal_version(&packet(0x10, &body)), Some(answer));
    }
    // Shorter than any CONNECT that is accepted, but it says its level.
    connect_refused(b"\0\x04MQTT\x06", 0x84, unsupported(6, V5));
}

#[test]
fn refusals_are_written_in_the_version_of_the_connect() {
    assert_eq!(refusal_version(&packet(0x10, b"\0\x04MQTT\x05\xFF\0\0")), Some(V5));
    assert_eq!(refusal_version(&packet(0x10, b"\0\x06MQIsdp\x03\xFF\0\0")), Some(V31));
    assert_eq!(refusal_version(&packet(0x10, CONNECT_V311)), Some(V311));
    assert_eq!(refusal_version(b"\x10\x0C\0\x04MQTT"), None);
    assert_eq!(refusal_version(b"\x10\x80\x00\0\x04MQTT\x05"), None);
    assert_eq!(refusal_version(b"GET / HTTP/1.1\r\n\r\n"), None);
}

#[test]
fn b07_connect_reserved_flag() {
    connect_refused(b"\0\x04MQTT\x04\x03\0\0\0\0", 0x81, DecodeError::ConnectReservedFlag);
    connect_refused(b"\0\x04MQTT\x05\x03\0\0\0\0\0", 0x81, DecodeError::ConnectReservedFlag);
}

#[test]
fn b08_will_flags() {
    connect_refused(b"\0\x04MQTT\x04\x08\0\0\0\0", 0x81, DecodeError::WillFlags);
    connect_refused(b"\0\x04MQTT\x05\x20\0\0\0\0\0", 0x81, DecodeError::WillFlags);
    connect_refused(b"\0\x04MQTT\x04\x1C\0\0\0\0\0\x01t\0\0", 0x81, DecodeError::WillFlags);
}

#[test]
fn b09_password_without_user_name() {
    connect_refused(b"\0\x04MQTT\x04\x42\0\0\0\0\0\x01p", 0x81, DecodeError::PasswordWithoutUserName);
    connect_refused(b"\0\x06MQIsdp\x03\x42\0\0\0\0\0\x01p", 0x81, DecodeError::PasswordWithoutUserName);
    let connect = connect_taken(b"\0\x04MQTT\x05\x42\0\0\0\0\0\0\x01p");
    assert!(matches!(connect, Packet::Connect(connect) if connect.password == Some(b"p")));
}

#[test]
fn b10_fields_missing_or_too_many() {
    for body in [
        &b"\0\x04MQTT\x04\xC2\0\0\0\0\0\x01u"[..], // no password
        b"\0\x04MQTT\x04\x82\0\0\0\0",             // no user name
        b"\0\x04MQTT\x04\x06\0\0\0\0\0\x01t",      // no will payload
        b"\0\x04MQTT\x04\x06\0\0\0\0",             // no will
        b"\0\x04MQTT\x04\x02\0\0",                 // no client identifier
        b"\0\x04MQTT\x05\x02\0\0",                 // no properties
        b"\0\x04MQTT\x04\x02\0",                   // half a Keep Alive
        b"\0\x04MQ",                               // a name that ends after its packet
        b"\0\x04MQTT\x04\x02\0\0\0\x05abcd",       // a client identifier that does
    ] {
        connect_refused(body, 0x81, DecodeError::Truncated);
    }
    connect_refused(b"\0\x04MQTT\x04\x02\0\0\0\0!", 0x81, DecodeError::TrailingBytes);
    connect_refused(b"\0\x04MQTT\x05\x02\0\0\0\0\0!", 0x81, DecodeError::TrailingBytes);
}

#[test]
fn user_name_may_be_missing_in_3_1() {
    let connect = connect_taken(b"\0\x06MQIsdp\x03\xC2\0\0\0\x01a");
    assert!(matches!(connect, Packet::Connect(connect) if connect.username.is_none()));
    connect_refused(b"\0\x06MQIsdp\x03\xC2\0\0\0\x01a\0\x05u", 0x81, DecodeError::Truncated);
}

#[test]
fn b13_client_identifiers() {
    connect_refused(b"\0\x04MQTT\x04\x02\0\0\0\x03a\0b", 0x81, DecodeError::NulCharacter);
    connect_refused(b"\0\x04MQTT\x04\x02\0\0\0\x02\xC3\x28", 0x81, DecodeError::InvalidUtf8);
    for id in ["", "/", "+/#", "%u", "a\r\nb", "<b>", &"x".repeat(65_535)] {
        let len = u16::try_from(id.len()).unwrap().to_be_bytes();
        let body = [b"\0\x04MQTT\x04\x02\0\0", &len[..], id.as_bytes()].concat();
        assert!(matches!(connect_taken(&body), Packet::Connect(connect) if connect.client_id == id));
    }
}

#[test]
fn b14_will_topics_are_for_the_session_to_judge() {
    connect_taken(b"\0\x04MQTT\x04\x06\0\0\0\0\0\0\0\0");
    connect_taken(b"\0\x04MQTT\x04\x06\0\0\0\0\0\x03a/#\0\0");
}

#[test]
fn b17_zeros_and_booleans_in_connect() {
    let value = |property, value| DecodeError::PropertyValue { property, value };
    connect_v5(b"\x21\0\0", 0x82, value(PropertyId::ReceiveMaximum, 0));
    connect_v5(b"\x27\0\0\0\0", 0x82, value(PropertyId::MaximumPacketSize, 0));
    connect_v5(b"\x17\x02", 0x82, value(PropertyId::RequestProblemInformation, 2));
    connect_v5(b"\x19\xFF", 0x82, value(PropertyId::RequestResponseInformation, 255));
}

#[test]
fn connack_flags() {
    from_server(V311, &packet(0x20, b"\x02\0"), 0x81, DecodeError::ConnAckFlags);
    from_server(V5, &packet(0x20, b"\x01\x87\0"), 0x82, DecodeError::SessionPresentWithRefusal);
    let maximum_qos = DecodeError::PropertyValue { property: PropertyId::MaximumQoS, value: 2 };
    from_server(V5, &packet(0x20, b"\0\0\x02\x24\x02"), 0x82, maximum_qos);
    taken(server(V31), &packet(0x20, b"\xFF\0"));
}
