//! Delivery at QoS 0, 1 and 2, between all versions (sections 4.3, 4.4 and 4.6).

use crate::harness::{Broker, Connect, Packet, Property, Publish, Version, ack, property_id as id, unique};

#[test]
fn every_qos_between_all_versions() {
    // [MQTT-3.8.4-8] [MQTT-3.3.4-1]
    let broker = Broker::shared();
    for from in Version::ALL {
        let mut publisher = broker.client(from, &unique("qos-from"));
        for to in Version::ALL {
            let topic = unique("qos");
            let mut subscriber = broker.client(to, &unique("qos-to"));
            for granted in 0..=2 {
                assert_eq!(subscriber.subscribe(&topic, granted), granted);
                for published in 0..=2 {
                    let payload = format!("{published} as {granted}");
                    publisher.publish(&topic, &payload, published);
                    let seen = subscriber.expect_publish(&topic, payload);
                    assert_eq!(seen.qos, published.min(granted), "{from:?} to {to:?}");
                    assert!(!seen.dup && !seen.retain, "{seen:?}");
                    subscriber.acknowledge(&seen);
                }
            }
            subscriber.ping();
        }
    }
    broker.assert_healthy();
}

#[test]
fn dup_of_a_publisher_is_not_forwarded() {
    // [MQTT-3.3.1-3] [MQTT-4.3.2-5]
    let broker = Broker::shared();
    for version in Version::ALL {
        let topic = unique("dup");
        let mut subscriber = broker.client(version, &unique("dup"));
        subscriber.subscribe(&topic, 2);
        let mut publisher = broker.client(version, &unique("dup"));
        for qos in [1, 2] {
            publisher.publish_packet(&Publish::new(&topic, "again").qos(qos, 5).dup());
            let seen = subscriber.expect_publish(&topic, "again");
            assert!(!seen.dup);
            subscriber.acknowledge(&seen);
        }
    }
}

#[test]
fn acknowledgements_come_in_order() {
    // [MQTT-4.6.0-2] [MQTT-4.6.0-3]
    let broker = Broker::shared();
    for version in Version::ALL {
        let topic = unique("in-order");
        let mut client = broker.client(version, &unique("in-order"));
        for qos in [1, 2] {
            let ids: Vec<u16> = (0..50).map(|number| 1 + number * 7 % 50).collect();
            let publishes = ids.iter().flat_map(|id| Publish::new(&topic, "").qos(qos, *id).bytes(version));
            client.send(&publishes.collect::<Vec<u8>>());
            for id in ids {
                let seen = match client.receive() {
                    Packet::PubAck { id, .. } if qos == 1 => id,
                    Packet::PubRec { id, .. } if qos == 2 => id,
                    other => panic!("unexpected: {other:?}"),
                };
                assert_eq!(seen, id);
            }
        }
    }
}

#[test]
fn messages_of_one_publisher_stay_in_order() {
    // [MQTT-4.6.0-5] [MQTT-4.6.0-6]
    let broker = Broker::shared();
    for qos in 0..=2 {
        let topic = unique("order");
        let mut subscribers = Version::ALL.map(|version| {
            let mut subscriber = broker.client(version, &unique("order-to"));
            subscriber.subscribe(&topic, qos);
            subscriber
        });
        let mut publisher = broker.client(Version::V5, &unique("order-from"));
        for number in 0..200 {
            publisher.publish(&topic, format!("{number}"), qos);
        }
        for subscriber in &mut subscribers {
            for number in 0..200 {
                let seen = subscriber.expect_publish(&topic, format!("{number}"));
                subscriber.acknowledge(&seen);
            }
        }
    }
}

#[test]
fn packet_identifiers_are_unused_and_reused() {
    // [MQTT-2.2.1-4] [MQTT-4.3.2-1]
    let broker = Broker::shared();
    let topic = unique("identifiers");
    let mut subscriber = broker.client(Version::V311, &unique("identifiers"));
    subscriber.subscribe(&topic, 1);
    let mut publisher = broker.client(Version::V311, &unique("identifiers"));
    // The first stays open; the identifiers of the others must go around it.
    publisher.publish(&topic, "held", 1);
    let held = subscriber.expect_publish(&topic, "held");
    for number in 0..300 {
        publisher.publish(&topic, format!("{number}"), 1);
        let seen = subscriber.expect_publish(&topic, format!("{number}"));
        assert_ne!(seen.id, held.id);
        subscriber.acknowledge(&seen);
    }
}

#[test]
fn qos_2_handshake_continues_after_reconnect() {
    // [MQTT-4.4.0-1] [MQTT-4.3.3-6]
    let broker = Broker::shared();
    for version in Version::ALL {
        let topic = unique("release");
        let connect = Connect::new(version, &unique("release")).persistent();
        let mut subscriber = broker.connect(&connect);
        subscriber.subscribe(&topic, 2);
        let mut publisher = broker.client(Version::V5, &unique("release"));
        publisher.publish(&topic, "once", 2);
        let seen = subscriber.expect_publish(&topic, "once");
        subscriber.send(&ack(0x50, seen.id));
        subscriber.expect(&Packet::PubRel { id: seen.id, reason: 0 });
        subscriber.vanish();
        // After PUBREC it is PUBREL that is repeated, never the message.
        for _ in 0..2 {
            let mut subscriber = broker.connect(&connect);
            subscriber.assert_resumed();
            subscriber.expect(&Packet::PubRel { id: seen.id, reason: 0 });
            subscriber.vanish();
        }
        let mut subscriber = broker.connect(&connect);
        subscriber.expect(&Packet::PubRel { id: seen.id, reason: 0 });
        subscriber.send(&ack(0x70, seen.id));
        subscriber.ping();
        subscriber.vanish();
        let mut subscriber = broker.connect(&connect);
        subscriber.ping();
        subscriber.disconnect();
    }
}

#[test]
fn publisher_resends_qos_2_after_reconnect() {
    // [MQTT-4.3.3-10]
    let broker = Broker::shared();
    for version in Version::ALL {
        let topic = unique("resend");
        let mut subscriber = broker.client(Version::V5, &unique("resend"));
        subscriber.subscribe(&topic, 2);
        let connect = Connect::new(version, &unique("resend")).persistent();
        let publish = Publish::new(&topic, "once").qos(2, 3);
        let mut publisher = broker.connect(&connect);
        publisher.send(&publish.bytes(version));
        publisher.expect(&Packet::PubRec { id: 3, reason: 0 });
        publisher.vanish();
        let mut publisher = broker.connect(&connect);
        publisher.assert_resumed();
        // The PUBREC is taken as lost.
        publisher.publish_packet(&publish.dup());
        let seen = subscriber.expect_publish(&topic, "once");
        subscriber.acknowledge(&seen);
        subscriber.expect_nothing_from(&mut publisher);
        // Nothing is left of it: an unknown identifier.
        publisher.send(&ack(0x62, 3));
        let reason = if version == Version::V5 { 0x92 } else { 0 };
        publisher.expect(&Packet::PubComp { id: 3, reason });
        publisher.disconnect();
    }
}

#[test]
fn no_matching_subscribers() {
    // section 3.4.2.1
    // Choice: 0x10 tells a 5.0 publisher that nobody has subscribed; the MAY is used.
    let broker = Broker::shared();
    let mut publisher = broker.client(Version::V5, &unique("nobody"));
    let topic = unique("nobody");
    for qos in [1, 2] {
        assert_eq!(publisher.publish(&topic, "", qos), 0x10);
    }
    let mut subscriber = broker.client(Version::V5, &unique("nobody"));
    subscriber.subscribe(&topic, 0);
    for qos in [1, 2] {
        assert_eq!(publisher.publish(&topic, "", qos), 0);
    }
}

#[test]
fn properties_are_forwarded_unaltered() {
    // [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17]
    // [MQTT-3.3.2-18] [MQTT-3.3.2-20]
    let broker = Broker::shared();
    let topic = unique("request");
    let properties = [
        Property::byte(id::PAYLOAD_FORMAT, 1),
        Property::text(id::CONTENT_TYPE, "text/plain"),
        Property::text(id::RESPONSE_TOPIC, "answers/here"),
        Property::binary(id::CORRELATION_DATA, b"\0\x01\xFF"),
        Property::user("b", "1"),
        Property::user("a", "2"),
        Property::user("b", "1"),
        Property::user("", ""),
    ];
    let publish = properties.iter().cloned().fold(Publish::new(&topic, "question").qos(1, 1), Publish::with);
    let mut new = broker.client(Version::V5, &unique("request"));
    let mut old = broker.client(Version::V311, &unique("request"));
    new.subscribe(&topic, 1);
    old.subscribe(&topic, 1);
    let mut publisher = broker.client(Version::V5, &unique("request"));
    publisher.publish_packet(&publish.clone().retain());
    let mut late = broker.client(Version::V5, &unique("request"));
    late.subscribe(&topic, 1);
    for client in [&mut new, &mut late] {
        let seen = client.expect_publish(&topic, "question");
        assert_eq!(seen.properties.user(), [("b", "1"), ("a", "2"), ("b", "1"), ("", "")]);
        for property in properties.iter().take(4) {
            assert_eq!(seen.properties.value(property.id), Some(&property.value));
        }
        assert_eq!(seen.properties.0.len(), properties.len(), "{seen:?}");
    }
    // 3.1.1 has no properties; the message is the same.
    old.expect_publish(&topic, "question");
    publisher.publish_packet(&Publish::new(&topic, "").retain());
}

#[test]
fn request_and_response() {
    // section 4.10
    let broker = Broker::shared();
    let (requests, responses) = (unique("requests"), unique("responses"));
    let mut responder = broker.client(Version::V5, &unique("responder"));
    responder.subscribe(&requests, 1);
    let mut requester = broker.client(Version::V5, &unique("requester"));
    requester.subscribe(&responses, 1);
    let request = Publish::new(&requests, "6 * 7")
        .with(Property::text(id::RESPONSE_TOPIC, &responses))
        .with(Property::binary(id::CORRELATION_DATA, b"42nd"));
    requester.publish_packet(&request);
    let seen = responder.expect_publish(&requests, "6 * 7");
    let answer_to = seen.properties.string(id::RESPONSE_TOPIC).expect("a response topic").to_owned();
    let correlation = seen.properties.0.iter().find(|property| property.id == id::CORRELATION_DATA);
    let answer = Publish::new(&answer_to, "42").with(correlation.expect("correlation data").clone());
    responder.publish_packet(&answer);
    let seen = requester.expect_publish(&responses, "42");
    assert_eq!(seen.properties, answer.properties);
}
