//! Properties.

use super::*;

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
fn b33_property_length_and_subscription_identifier() {
    from_client(V5, &packet(0x30, b"\0\x01t\x80\x00"), 0x81, DecodeError::VarIntNotMinimal);
    let subscribe = packet(0x82, b"\0\x01\x03\x0B\x81\x00\0\x01a\0");
    from_client(V5, &subscribe, 0x81, DecodeError::VarIntNotMinimal);
}

#[test]
fn b43_topic_alias_zero() {
    publish_v5(b"\x23\0\0", 0x94, DecodeError::TopicAliasZero);
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
