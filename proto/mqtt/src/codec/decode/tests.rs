//! What is refused, with which error and which reason code: the rows of the table of bad input that a decoder decides,
//! and what must not be refused.

use super::*;
use crate::{
    ProtocolVersion::{V5, V31, V311},
    QoS,
    codec::{PropertyId, USER_PROPERTIES_MAX},
    packet::{Delivery, Publish},
};

const MAX: u32 = 1 << 20;

#[test]
fn b01_first_packet_is_not_connect() {
    for number in 2..=15 {
        let packet = PacketType::from_u8(number).unwrap();
        // Its first byte is enough.
        let found = Decoder::server(MAX).header(&[number << 4 | 2]);
        assert_eq!(found, Err(DecodeError::FirstPacketNotConnect(packet)));
    }
    assert_eq!(DecodeError::FirstPacketNotConnect(PacketType::PingReq).reason(), ReasonCode::ProtocolError);
    assert_eq!(refusal_version(b"\xC0\x00"), None);
}

#[test]
fn b02_second_connect() {
    for version in [V31, V311, V5] {
        from_client(version, &packet(0x10, CONNECT_V311), 0x82, DecodeError::SecondConnect);
    }
}

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
fn b18_duplicate_properties() {
    let twice = DecodeError::DuplicateProperty;
    connect_v5(b"\x11\0\0\0\x01\x11\0\0\0\x01", 0x82, twice(PropertyId::SessionExpiryInterval));
    connect_v5(b"\x17\x01\x17\x01", 0x82, twice(PropertyId::RequestProblemInformation));
    publish_v5(b"\x03\0\x01a\x03\0\x01a", 0x82, twice(PropertyId::ContentType));
    publish_v5(b"\x23\0\x01\x23\0\x01", 0x82, twice(PropertyId::TopicAlias));
}

#[test]
fn b19_unknown_and_misplaced_properties() {
    connect_v5(b"\x7F\0", 0x81, DecodeError::UnknownProperty(0x7F));
    connect_v5(b"\0", 0x81, DecodeError::UnknownProperty(0));
    connect_v5(b"\xFF\x01\0", 0x81, DecodeError::UnknownProperty(0xFF));
    connect_v5(b"\x91\0\0\0\0\0", 0x81, DecodeError::VarIntNotMinimal);
    connect_v5(b"\x23\0\x01", 0x82, misplaced(PropertyId::TopicAlias, PacketType::Connect));
    connect_v5(b"\x01\x01", 0x82, misplaced(PropertyId::PayloadFormatIndicator, PacketType::Connect));
    publish_v5(b"\x21\0\x01", 0x82, misplaced(PropertyId::ReceiveMaximum, PacketType::Publish));
    // A property of the wrong packet is that, whatever its value.
    connect_v5(b"\x24\x02", 0x82, misplaced(PropertyId::MaximumQoS, PacketType::Connect));
    let will = b"\0\x04MQTT\x05\x06\0\0\0\0\0\x03\x23\0\x01\0\x01t\0\0";
    connect_refused(will, 0x82, misplaced(PropertyId::TopicAlias, PacketType::Connect));
}

#[test]
fn b20_property_sections_that_do_not_fit() {
    from_client(V5, &packet(0x30, b"\0\x01t\x05"), 0x81, DecodeError::Truncated);
    from_client(V5, &packet(0x30, b"\0\x01t\x01\x01"), 0x81, DecodeError::Truncated);
    // The value goes on behind the section, into the payload.
    from_client(V5, &packet(0x30, b"\0\x01t\x03\x02\0\0\0\0"), 0x81, DecodeError::Truncated);
    from_client(V5, &packet(0x30, b"\0\x01t\x04\x03\0\x05abcde"), 0x81, DecodeError::Truncated);
}

#[test]
fn b21_user_properties_have_a_bound() {
    let with = |count: u32| {
        let properties = b"\x26\0\0\0\0".repeat(count as usize);
        let mut body = b"\0\x01t".to_vec();
        crate::codec::varint::write(properties.len(), &mut body);
        body.extend_from_slice(&properties);
        packet(0x30, &body)
    };
    let most = with(USER_PROPERTIES_MAX);
    let Packet::Publish(publish) = taken(client(V5), &most) else { panic!("a PUBLISH was encoded") };
    assert_eq!(publish.properties.user_properties.iter().count(), USER_PROPERTIES_MAX as usize);
    from_client(V5, &with(USER_PROPERTIES_MAX + 1), 0x97, DecodeError::TooManyUserProperties);
}

#[test]
fn b22_authentication_data_without_method() {
    connect_v5(b"\x16\0\x01x", 0x82, DecodeError::AuthDataWithoutMethod);
    from_client(V5, b"\xF0\x06\x18\x04\x16\0\x01x", 0x82, DecodeError::AuthDataWithoutMethod);
}

#[test]
fn b24_auth() {
    from_client(V5, b"\xF0\x00", 0x82, invalid_reason(PacketType::Auth, 0));
    from_client(V5, b"\xF0\x01\x00", 0x82, invalid_reason(PacketType::Auth, 0));
    from_client(V5, b"\xF0\x06\x87\x04\x15\0\x01m", 0x82, invalid_reason(PacketType::Auth, 0x87));
    from_client(V5, b"\xF0\x01\x18", 0x82, DecodeError::AuthWithoutMethod);
    from_client(V5, b"\xF0\x02\x18\0", 0x82, DecodeError::AuthWithoutMethod);
    from_server(V5, b"\xF0\x06\x19\x04\x15\0\x01m", 0x82, invalid_reason(PacketType::Auth, 0x19));
    taken(client(V5), b"\xF0\x06\x18\x04\x15\0\x01m");
    taken(client(V5), b"\xF0\x06\x19\x04\x15\0\x01m");
    taken(server(V5), b"\xF0\x00");
    taken(server(V5), b"\xF0\x01\x00");
}

#[test]
fn b31_fixed_header_flags() {
    use PacketType::*;
    let wanted = [
        (PubAck, 0),
        (PubRec, 0),
        (PubRel, 2),
        (PubComp, 0),
        (Subscribe, 2),
        (Unsubscribe, 2),
        (PingReq, 0),
        (Disconnect, 0),
        (Auth, 0),
    ];
    for (packet, right) in wanted {
        for flags in (0..16).filter(|flags| *flags != right) {
            let error = DecodeError::FixedHeaderFlags { packet, flags };
            from_client(V5, &[(packet as u8) << 4 | flags], 0x81, error);
        }
    }
    from_client(V311, b"\x80", 0x81, DecodeError::FixedHeaderFlags { packet: Subscribe, flags: 0 });
    let connect = Decoder::server(MAX).header(b"\x11");
    assert_eq!(connect, Err(DecodeError::FixedHeaderFlags { packet: Connect, flags: 1 }));
    // A repeated packet of 3.1.
    taken(client(V31), b"\x6A\x02\0\x01");
    taken(client(V31), b"\x8A\x06\0\x01\0\x01a\0");
}

#[test]
fn b32_b33_remaining_length() {
    from_client(V5, b"\x30\x80\x80\x80\x80", 0x81, DecodeError::VarIntTooLong);
    from_client(V5, b"\x30\xFF\xFF\xFF\xFF\x01", 0x81, DecodeError::VarIntTooLong);
    from_client(V5, b"\xC0\x80\x00", 0x81, DecodeError::VarIntNotMinimal);
    let connect = Decoder::server(MAX).header(b"\x10\x80\x80\x80\x80");
    assert_eq!(connect, Err(DecodeError::VarIntTooLong));
}

#[test]
fn b33_property_length_and_subscription_identifier() {
    from_client(V5, &packet(0x30, b"\0\x01t\x80\x00"), 0x81, DecodeError::VarIntNotMinimal);
    let subscribe = packet(0x82, b"\0\x01\x03\x0B\x81\x00\0\x01a\0");
    from_client(V5, &subscribe, 0x81, DecodeError::VarIntNotMinimal);
}

#[test]
fn b34_larger_than_the_maximum() {
    let decoder = |max| {
        let mut decoder = Decoder::server(max);
        decoder.set_version(V5);
        decoder
    };
    // No byte of the body is there.
    assert_eq!(decoder(103).header(b"\x30\x65").unwrap().unwrap().packet_len(), 103);
    let error = DecodeError::PacketTooLarge { len: 103, max: 102 };
    assert_eq!(decoder(102).header(b"\x30\x65"), Err(error));
    assert_eq!(error.reason(), ReasonCode::PacketTooLarge);
    let first = Decoder::server(102).header(b"\x10\xFF\xFF\xFF\x7F");
    assert_eq!(first, Err(DecodeError::PacketTooLarge { len: 268_435_460, max: 102 }));
}

#[test]
fn b35_bodies_shorter_or_longer_than_their_fields() {
    from_client(V311, &packet(0x30, b"\0\x05abc"), 0x81, DecodeError::Truncated);
    from_client(V5, &packet(0x82, b"\0\x01\0\0\x01a"), 0x81, DecodeError::Truncated);
    from_client(V5, &packet(0x82, b"\0\x01\0\0"), 0x81, DecodeError::Truncated);
    from_client(V5, &packet(0xA2, b"\0\x01\0\0\x05a"), 0x81, DecodeError::Truncated);
    from_client(V5, &packet(0x40, b"\0\x01\0\0!"), 0x81, DecodeError::TrailingBytes);
    from_client(V5, &packet(0xE0, b"\0\0!"), 0x81, DecodeError::TrailingBytes);
    from_client(V5, &packet(0xF0, b"\x18\x04\x15\0\x01m!"), 0x81, DecodeError::TrailingBytes);
    from_server(V311, &packet(0x20, b"\0"), 0x81, wrong_length(PacketType::ConnAck, 1));
    from_server(V5, &packet(0x20, b"\0\0"), 0x81, wrong_length(PacketType::ConnAck, 2));
    from_server(V5, &packet(0x20, b"\0\0\0!"), 0x81, DecodeError::TrailingBytes);
    from_server(V311, &packet(0xB0, b"\0\x01!"), 0x81, wrong_length(PacketType::UnsubAck, 3));
}

#[test]
fn lengths_that_no_such_packet_has() {
    // The body is not there yet and is not waited for.
    from_client(V5, b"\xC0\x01", 0x81, wrong_length(PacketType::PingReq, 1));
    from_client(V311, b"\xE0\x01", 0x81, wrong_length(PacketType::Disconnect, 1));
    from_client(V311, b"\x40\x03", 0x81, wrong_length(PacketType::PubAck, 3));
    from_client(V5, b"\x40\x01", 0x81, wrong_length(PacketType::PubAck, 1));
    from_client(V311, b"\x30\x01", 0x81, wrong_length(PacketType::Publish, 1));
    from_client(V311, b"\x32\x03", 0x81, wrong_length(PacketType::Publish, 3));
    from_client(V5, b"\x32\x04", 0x81, wrong_length(PacketType::Publish, 4));
    from_client(V311, b"\x82\x01", 0x81, wrong_length(PacketType::Subscribe, 1));
    from_client(V5, b"\xA2\x02", 0x81, wrong_length(PacketType::Unsubscribe, 2));
    let connect = Decoder::server(MAX).header(b"\x10\x02");
    assert_eq!(connect, Err(wrong_length(PacketType::Connect, 2)));
}

#[test]
fn b36_reserved_packet_types() {
    for version in [V31, V311, V5] {
        from_client(version, b"\x00", 0x81, DecodeError::ReservedPacketType(0));
        from_server(version, b"\x00", 0x81, DecodeError::ReservedPacketType(0));
    }
    for version in [V31, V311] {
        from_client(version, b"\xF0", 0x81, DecodeError::ReservedPacketType(15));
        from_server(version, b"\xF0", 0x81, DecodeError::ReservedPacketType(15));
    }
    assert_eq!(Decoder::server(MAX).header(b"\x00"), Err(DecodeError::ReservedPacketType(0)));
}

#[test]
fn b37_packets_from_the_wrong_side() {
    use PacketType::*;
    for version in [V31, V311, V5] {
        for packet in [ConnAck, SubAck, UnsubAck, PingResp] {
            from_client(version, &[(packet as u8) << 4], 0x82, DecodeError::WrongSide(packet));
        }
        for packet in [Connect, Subscribe, Unsubscribe, PingReq] {
            from_server(version, &[(packet as u8) << 4 | 2], 0x82, DecodeError::WrongSide(packet));
        }
    }
    from_server(V311, b"\xE0", 0x82, DecodeError::WrongSide(Disconnect));
    taken(server(V5), b"\xE0\x00");
}

#[test]
fn b38_b39_publish_flags() {
    for version in [V31, V311, V5] {
        from_client(version, b"\x36", 0x81, DecodeError::PublishQoS3);
        from_client(version, b"\x3F", 0x81, DecodeError::PublishQoS3);
        from_client(version, b"\x38", 0x81, DecodeError::DupAtQoS0);
        from_client(version, b"\x39", 0x81, DecodeError::DupAtQoS0);
    }
}

#[test]
fn b40_packet_identifier_zero() {
    use PacketType::*;
    from_client(V5, &packet(0x32, b"\0\x01t\0\0\0"), 0x82, DecodeError::PacketIdZero(Publish));
    from_client(V311, &packet(0x34, b"\0\x01t\0\0"), 0x82, DecodeError::PacketIdZero(Publish));
    from_client(V5, &packet(0x82, b"\0\0\0\0\x01a\0"), 0x82, DecodeError::PacketIdZero(Subscribe));
    from_client(V5, &packet(0xA2, b"\0\0\0\0\x01a"), 0x82, DecodeError::PacketIdZero(Unsubscribe));
    for (first, ack) in [(0x40, PubAck), (0x50, PubRec), (0x62, PubRel), (0x70, PubComp)] {
        from_client(V311, &packet(first, b"\0\0"), 0x82, DecodeError::PacketIdZero(ack));
    }
}

#[test]
fn b41_b42_topic_names() {
    for version in [V31, V311, V5] {
        for topic in [b"a/+", b"a/#", b"+/a", b"a#b"] {
            let body = [b"\0\x03", &topic[..], b"\0"].concat();
            from_client(version, &packet(0x30, &body), 0x90, DecodeError::TopicNameWildcard);
        }
        from_client(version, &packet(0x30, b"\0\0\0"), 0x82, DecodeError::TopicNameEmpty);
    }
    let bytes = packet(0x30, b"\0\0\x03\x23\0\x07");
    let Packet::Publish(publish) = taken(client(V5), &bytes) else { panic!("a PUBLISH was encoded") };
    assert_eq!((publish.topic, publish.properties.topic_alias.unwrap().get()), ("", 7));
}

#[test]
fn b43_topic_alias_zero() {
    publish_v5(b"\x23\0\0", 0x94, DecodeError::TopicAliasZero);
}

#[test]
fn b45_strings_that_are_not() {
    let check = |topic: &[u8], error| {
        let len = u16::try_from(topic.len()).unwrap().to_be_bytes();
        from_client(V311, &packet(0x30, &[&len, topic].concat()), 0x81, error);
    };
    check(b"a\0b", DecodeError::NulCharacter);
    check(b"\xFF", DecodeError::InvalidUtf8);
    check(b"a\xC3", DecodeError::InvalidUtf8); // cut off
    check(b"\xED\xA0\x80", DecodeError::InvalidUtf8); // U+D800
    check(b"\xED\xBF\xBF", DecodeError::InvalidUtf8); // U+DFFF
    check(b"\xC0\x80", DecodeError::InvalidUtf8); // NUL, over-long
    check(b"\xC0\xAF", DecodeError::InvalidUtf8); // a slash, over-long
    check(b"\xE0\x80\xAF", DecodeError::InvalidUtf8);
    check(b"\xF4\x90\x80\x80", DecodeError::InvalidUtf8); // above U+10FFFF
    publish_v5(b"\x26\0\x01\0\0\x01b", 0x81, DecodeError::NulCharacter);
    publish_v5(b"\x03\0\x01\xFF", 0x81, DecodeError::InvalidUtf8);
}

#[test]
fn b46_b47_strings_that_stay_as_they_are() {
    for topic in ["\u{FEFF}a\u{FEFF}", "a\u{1}\u{7F}\u{9F}b", "\u{FFFF}", "\u{1FFFE}\u{FDD0}", "a\r\nb"] {
        let len = u16::try_from(topic.len()).unwrap().to_be_bytes();
        let bytes = packet(0x30, &[&len, topic.as_bytes()].concat());
        let Packet::Publish(publish) = taken(client(V311), &bytes) else { panic!("a PUBLISH was encoded") };
        assert_eq!(publish.topic, topic);
    }
}

#[test]
fn b48_the_longest_topic() {
    let topic = "/".repeat(65_535);
    let bytes = packet(0x30, &[b"\xFF\xFF", topic.as_bytes()].concat());
    let Packet::Publish(publish) = taken(client(V311), &bytes) else { panic!("a PUBLISH was encoded") };
    assert_eq!(publish.topic, topic);
}

#[test]
fn b57_reason_codes_of_other_packets() {
    use PacketType::*;
    for (first, packet_type, wrong) in [
        (0x40, PubAck, 0x92),
        (0x40, PubAck, 0x01),
        (0x50, PubRec, 0x92),
        (0x62, PubRel, 0x10),
        (0x62, PubRel, 0x80),
        (0x70, PubComp, 0x87),
        (0x40, PubAck, 0xFF),
    ] {
        let error = invalid_reason(packet_type, wrong);
        from_client(V5, &packet(first, &[0, 1, wrong]), 0x82, error);
        from_client(V5, &packet(first, &[0, 1, wrong, 0]), 0x82, error);
    }
    from_server(V5, &packet(0x90, b"\0\x01\0\x03"), 0x82, invalid_reason(SubAck, 3));
    from_server(V311, &packet(0x90, b"\0\x01\x00\x87"), 0x82, invalid_reason(SubAck, 0x87));
    from_server(V5, &packet(0xB0, b"\0\x01\0\x01"), 0x82, invalid_reason(UnsubAck, 1));
    from_server(V5, &packet(0x20, b"\0\x8E\0"), 0x82, invalid_reason(ConnAck, 0x8E));
    from_server(V311, &packet(0x20, b"\0\x06"), 0x82, invalid_reason(ConnAck, 6));
}

#[test]
fn acknowledgements_in_short_forms() {
    let ack = |bytes: &'static [u8]| match taken(client(V5), bytes) {
        Packet::PubAck(ack) => ack.reason,
        other => panic!("{other:?} is not a PUBACK"),
    };
    assert_eq!(ack(b"\x40\x02\0\x01"), ReasonCode::Success);
    assert_eq!(ack(b"\x40\x03\0\x01\x10"), ReasonCode::NoMatchingSubscribers);
    assert_eq!(ack(b"\x40\x04\0\x01\x87\0"), ReasonCode::NotAuthorized);
}

#[test]
fn b58_subscription_identifier_from_a_client() {
    publish_v5(b"\x0B\x01", 0x82, DecodeError::SubscriptionIdFromClient);
    let bytes = packet(0x30, b"\0\x01t\x04\x0B\x01\x0B\x02");
    let Packet::Publish(publish) = taken(server(V5), &bytes) else { panic!("a PUBLISH was encoded") };
    let ids: Vec<_> = publish.properties.subscription_ids.iter().map(std::num::NonZeroU32::get).collect();
    assert_eq!(ids, [1, 2]);
}

#[test]
fn b60_response_topics() {
    for property in [&b"\x08\0\x03a/#"[..], b"\x08\0\x01+", b"\x08\0\0"] {
        publish_v5(property, 0x82, DecodeError::InvalidResponseTopic);
    }
    let will = b"\0\x04MQTT\x05\x06\0\0\0\0\0\x04\x08\0\x01#\0\x01t\0\0";
    connect_refused(will, 0x82, DecodeError::InvalidResponseTopic);
}

#[test]
fn b61_no_filters() {
    use PacketType::*;
    from_client(V5, &packet(0x82, b"\0\x01\0"), 0x82, DecodeError::EmptyPayload(Subscribe));
    from_client(V311, &packet(0x82, b"\0\x01"), 0x82, DecodeError::EmptyPayload(Subscribe));
    from_client(V5, &packet(0xA2, b"\0\x01\0"), 0x82, DecodeError::EmptyPayload(Unsubscribe));
    from_client(V31, &packet(0xA2, b"\0\x01"), 0x82, DecodeError::EmptyPayload(Unsubscribe));
    from_server(V5, &packet(0x90, b"\0\x01\0"), 0x82, DecodeError::EmptyPayload(SubAck));
    from_server(V5, &packet(0xB0, b"\0\x01\0"), 0x82, DecodeError::EmptyPayload(UnsubAck));
}

#[test]
fn b62_subscription_options() {
    let check = |version, options, code, error| {
        let properties: &[u8] = if version == V5 { b"\0" } else { b"" };
        let body = [b"\0\x01", properties, b"\0\x01a", &[options][..]].concat();
        from_client(version, &packet(0x82, &body), code, error);
    };
    check(V5, 0x40, 0x81, DecodeError::SubscriptionOptionsReserved);
    check(V5, 0x80, 0x81, DecodeError::SubscriptionOptionsReserved);
    check(V5, 0x03, 0x82, DecodeError::SubscriptionQoS3);
    check(V5, 0x30, 0x82, DecodeError::RetainHandling3);
    for bit in 2..8 {
        check(V311, 1 << bit, 0x81, DecodeError::SubscriptionOptionsReserved);
    }
    check(V311, 0x03, 0x82, DecodeError::SubscriptionQoS3);
}

#[test]
fn b63_no_local_on_a_shared_subscription() {
    for filter in ["$share/g/a", "$queue/aaa"] {
        let body = [b"\0\x01\0\0\x0A", filter.as_bytes(), b"\x04"].concat();
        from_client(V5, &packet(0x82, &body), 0x82, DecodeError::NoLocalOnSharedSubscription);
    }
    // Not shared, although it looks like it.
    taken(client(V5), &packet(0x82, b"\0\x01\0\0\x0A$shared/aa\x04"));
}

#[test]
fn b64_filters_are_for_the_session_to_judge() {
    taken(client(V5), &packet(0x82, b"\0\x01\0\0\x05a/#/b\0\0\0\0"));
}

#[test]
fn b66_subscription_identifiers() {
    let check = |properties: &[u8], code, error| {
        let len = u8::try_from(properties.len()).unwrap();
        let body = [b"\0\x01", &[len][..], properties, b"\0\x01a\0"].concat();
        from_client(V5, &packet(0x82, &body), code, error);
    };
    let zero = DecodeError::PropertyValue { property: PropertyId::SubscriptionIdentifier, value: 0 };
    check(b"\x0B\0", 0x82, zero);
    check(b"\x0B\x01\x0B\x02", 0x82, DecodeError::DuplicateProperty(PropertyId::SubscriptionIdentifier));
    check(b"\x0B\xFF\xFF\xFF\xFF\x01", 0x81, DecodeError::VarIntTooLong);
}

#[test]
fn b69_a_hundred_thousand_filters() {
    let mut body = b"\0\x01\0".to_vec();
    body.extend(b"\0\x01a\x01".repeat(100_000));
    let bytes = packet(0x82, &body);
    let Packet::Subscribe(subscribe) = taken(client(V5), &bytes) else { panic!("a SUBSCRIBE was encoded") };
    assert_eq!(subscribe.filters.len(), 100_000);
    assert!(
        subscribe.filters.iter().all(|(filter, options)| filter == "a" && options.qos == QoS::AtLeastOnce)
    );
    body.extend_from_slice(b"\0\x01a");
    from_client(V5, &packet(0x82, &body), 0x81, DecodeError::Truncated);
}

#[test]
fn b71_disconnect() {
    let disconnect = PacketType::Disconnect;
    from_client(V5, b"\xE1", 0x81, DecodeError::FixedHeaderFlags { packet: disconnect, flags: 1 });
    for code in [0x01, 0x03, 0x84, 0x87, 0x8B, 0x8E, 0x9D, 0xA2, 0xFF] {
        from_client(V5, &packet(0xE0, &[code]), 0x82, invalid_reason(disconnect, code));
    }
    let server_reference = packet(0xE0, b"\0\x04\x1C\0\x01s");
    from_client(V5, &server_reference, 0x82, misplaced(PropertyId::ServerReference, disconnect));
    taken(server(V5), &server_reference);
    let session_expiry = packet(0xE0, b"\0\x05\x11\0\0\0\x01");
    taken(client(V5), &session_expiry);
    from_server(V5, &session_expiry, 0x82, misplaced(PropertyId::SessionExpiryInterval, disconnect));
    from_server(V5, b"\xE0\x01\x04", 0x82, invalid_reason(disconnect, 4));
    taken(client(V5), b"\xE0\x00");
    taken(client(V5), b"\xE0\x01\x04");
    taken(client(V5), b"\xE0\x02\x04\x00");
}

#[test]
fn connack_flags() {
    from_server(V311, &packet(0x20, b"\x02\0"), 0x81, DecodeError::ConnAckFlags);
    from_server(V5, &packet(0x20, b"\x01\x87\0"), 0x82, DecodeError::SessionPresentWithRefusal);
    let maximum_qos = DecodeError::PropertyValue { property: PropertyId::MaximumQoS, value: 2 };
    from_server(V5, &packet(0x20, b"\0\0\x02\x24\x02"), 0x82, maximum_qos);
    taken(server(V31), &packet(0x20, b"\xFF\0"));
}

#[test]
fn what_follows_a_packet_is_left_alone() {
    let mut bytes = packet(0x10, CONNECT_V311);
    let len = bytes.len();
    bytes.extend_from_slice(b"\x00garbage");
    let (_, taken) = Decoder::server(MAX).decode(&bytes).unwrap().unwrap();
    assert_eq!(taken, len);
}

#[test]
fn a_publish_borrows_its_input() {
    let bytes = packet(0x3B, b"\0\x03a/b\x01\x02hello");
    let id = PacketId::new(0x0102).unwrap();
    let expected = Publish {
        delivery: Delivery::AtLeastOnce { id, dup: true },
        retain: true,
        topic: "a/b",
        properties: crate::packet::PublishProperties::default(),
        payload: b"hello",
    };
    let decoded = taken(client(V311), &bytes);
    assert_eq!(decoded, Packet::Publish(expected));
    let Packet::Publish(publish) = decoded else { panic!("a PUBLISH was encoded") };
    assert!(bytes.as_ptr_range().contains(&publish.payload.as_ptr()));
}

const CONNECT_V311: &[u8] = b"\0\x04MQTT\x04\x02\0\x3C\0\x01a";

/// A packet from its first byte and its body.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    crate::codec::varint::write(body.len(), &mut bytes);
    bytes.extend_from_slice(body);
    bytes
}

/// Reads what a client sends after its CONNECT.
fn client(version: ProtocolVersion) -> Decoder {
    let mut decoder = Decoder::server(MAX);
    decoder.set_version(version);
    decoder
}

/// Reads what a server sends.
fn server(version: ProtocolVersion) -> Decoder {
    Decoder::client(version, MAX)
}

fn taken(decoder: Decoder, bytes: &[u8]) -> Packet<'_> {
    let (packet, len) = decoder.decode(bytes).expect("it is right").expect("it is complete");
    assert_eq!(len, bytes.len());
    packet
}

fn connect_taken(body: &[u8]) -> Packet<'static> {
    taken(Decoder::server(MAX), packet(0x10, body).leak())
}

#[track_caller]
fn refused(decoder: Decoder, bytes: &[u8], code: u8, error: DecodeError) {
    assert_eq!(decoder.decode(bytes), Err(error), "{bytes:02X?}");
    assert_eq!(error.reason().value(), code, "{error}");
}

#[track_caller]
fn from_client(version: ProtocolVersion, bytes: &[u8], code: u8, error: DecodeError) {
    refused(client(version), bytes, code, error);
}

#[track_caller]
fn from_server(version: ProtocolVersion, bytes: &[u8], code: u8, error: DecodeError) {
    refused(server(version), bytes, code, error);
}

#[track_caller]
fn connect_refused(body: &[u8], code: u8, error: DecodeError) {
    refused(Decoder::server(MAX), &packet(0x10, body), code, error);
}

/// A CONNECT of 5.0 with these properties.
#[track_caller]
fn connect_v5(properties: &[u8], code: u8, error: DecodeError) {
    let len = u8::try_from(properties.len()).unwrap();
    let body = [b"\0\x04MQTT\x05\x02\0\0", &[len][..], properties, b"\0\0"].concat();
    connect_refused(&body, code, error);
}

/// A PUBLISH of a 5.0 client with these properties.
#[track_caller]
fn publish_v5(properties: &[u8], code: u8, error: DecodeError) {
    let len = u8::try_from(properties.len()).unwrap();
    let body = [b"\0\x01t", &[len][..], properties].concat();
    from_client(V5, &packet(0x30, &body), code, error);
}

fn unsupported(level: u8, answer: ProtocolVersion) -> DecodeError {
    DecodeError::UnsupportedProtocol { level, answer }
}

fn misplaced(property: PropertyId, packet: PacketType) -> DecodeError {
    DecodeError::PropertyNotAllowed { property, packet }
}

fn invalid_reason(packet: PacketType, value: u8) -> DecodeError {
    DecodeError::InvalidReasonCode { packet, value }
}

fn wrong_length(packet: PacketType, remaining_len: u32) -> DecodeError {
    DecodeError::WrongLength { packet, remaining_len }
}
