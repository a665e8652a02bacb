//! Fields of the other packets.

use super::*;

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
