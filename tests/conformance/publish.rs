//! B41 to B60 as far as they are about PUBLISH: topics, aliases, flags, properties, limits.

use std::sync::Arc;

use super::{hostile, hostile_on};
use crate::harness::{
    Body, Broker, Client, Packet, Property, Publish, Version, ack, packet, property_id as id, unique,
};

#[test]
fn b41_topic_with_wildcards() {
    // [MQTT-3.3.2-2]
    hostile(|scene| {
        for topic in ["+", "#", "a/+/b", "a/#", "a+", "#a"] {
            for qos in 0..=2 {
                let publish = Publish::new(topic, "").qos(qos, u16::from(qos > 0));
                scene.refuses(&publish.bytes(Version::V5), 0x90);
                for version in Version::OLD {
                    scene.closes(version, &publish.bytes(version));
                }
            }
        }
    });
}

#[test]
fn b42_empty_topic_without_alias() {
    // [MQTT-4.7.3-1]
    hostile(|scene| {
        for qos in 0..=2 {
            let publish = Publish::new("", "x").qos(qos, u16::from(qos > 0));
            scene.refuses(&publish.bytes(Version::V5), 0x82);
            for version in Version::OLD {
                scene.closes(version, &publish.bytes(version));
            }
        }
    });
}

fn with_alias(topic: &str, payload: &str, alias: u16) -> Publish {
    Publish::new(topic, payload).with(Property::two(id::TOPIC_ALIAS, alias))
}

#[test]
fn b43_alias_out_of_range() {
    // [MQTT-3.3.2-8] [MQTT-3.3.2-9]
    hostile(|scene| {
        let client = scene.client(Version::V5);
        let maximum = client.connack().properties.number(id::TOPIC_ALIAS_MAXIMUM).unwrap_or(0);
        let above = u16::try_from(maximum + 1).expect("the maximum leaves room to be passed");
        for alias in [0, above, 65_535] {
            scene.refuses(&with_alias("t", "", alias).bytes(Version::V5), 0x94);
            scene.refuses(&with_alias("", "", alias).bytes(Version::V5), 0x94);
        }
    });
}

#[test]
fn b43_alias_where_none_is_allowed() {
    // [MQTT-3.2.2-18]
    let Some(broker) = Broker::with(&[("mqtt.topic_alias_max", "0")]) else { return };
    hostile_on(Arc::new(broker), |scene| {
        let announced = scene.client(Version::V5).connack().properties.number(id::TOPIC_ALIAS_MAXIMUM);
        assert!(matches!(announced, None | Some(0)), "{announced:?}");
        scene.refuses(&with_alias("t", "", 1).bytes(Version::V5), 0x94);
    });
}

#[test]
fn b44_alias_that_was_never_set() {
    // section 3.3.2.3.4
    hostile(|scene| scene.refuses(&with_alias("", "", 1).bytes(Version::V5), 0x82));
}

#[test]
fn b44_alias_may_be_set_anew() {
    // section 3.3.2.3.4
    hostile(|scene| {
        let (first, second) = (unique("b44"), unique("b44"));
        let mut observer = scene.client(Version::V5);
        observer.subscribe_with(&[], &[(&first, 0), (&second, 0)]);
        let mut client = scene.client(Version::V5);
        for (topic, payload) in [(first.as_str(), "1"), ("", "2"), (second.as_str(), "3"), ("", "4")] {
            client.send(&with_alias(topic, payload, 1).bytes(Version::V5));
        }
        for (topic, payload) in [(&first, "1"), (&first, "2"), (&second, "3"), (&second, "4")] {
            let publish = observer.expect_publish(topic, payload);
            assert_eq!(publish.properties.number(id::TOPIC_ALIAS), None, "the publisher's alias is its own");
        }
    });
}

#[test]
fn b44_alias_ends_with_its_connection() {
    // [MQTT-3.3.2-7]
    hostile(|scene| {
        let connect = crate::harness::Connect::new(Version::V5, &unique("b44")).persistent();
        let mut client = scene.broker.connect(&connect);
        client.send(&with_alias("t", "", 1).bytes(Version::V5));
        client.ping();
        client.disconnect();
        let mut client = scene.broker.connect(&connect);
        client.assert_resumed();
        client.send(&with_alias("", "", 1).bytes(Version::V5));
        client.expect_disconnect(0x82);
    });
}

#[test]
fn b45_topic_that_is_no_string() {
    // [MQTT-1.5.4-1] [MQTT-1.5.4-2] [MQTT-4.7.3-2]
    let topics: [&[u8]; 8] = [
        b"nul\0",
        b"\xFF",
        b"\xC0\x80",
        b"\xC1\xBF",
        b"overlong \xE0\x80\xAF",
        b"surrogate \xED\xBF\xBF",
        b"cut \xF0\x9F\xA6",
        b"beyond \xF5\x80\x80\x80",
    ];
    hostile(|scene| {
        for topic in topics {
            scene.refuses(&packet(0x30, Body::new().binary(topic).properties(&[])), 0x81);
            scene.refuses(&packet(0x82, Body::new().u16(1).properties(&[]).binary(topic).u8(0)), 0x81);
            scene.refuses(&packet(0xA2, Body::new().u16(1).properties(&[]).binary(topic)), 0x81);
            for version in Version::OLD {
                scene.closes(version, &packet(0x30, Body::new().binary(topic)));
                scene.closes(version, &packet(0x82, Body::new().u16(1).binary(topic).u8(0)));
            }
            // The same in every string of a property.
            let user = Body::new().u8(id::USER_PROPERTY).text("name").binary(topic).into_bytes();
            let content = Body::new().u8(id::CONTENT_TYPE).binary(topic).into_bytes();
            let response = Body::new().u8(id::RESPONSE_TOPIC).binary(topic).into_bytes();
            for property in [user, content, response] {
                let len = u32::try_from(property.len()).expect("it is small");
                scene.refuses(&packet(0x30, Body::new().text("t").varint(len).raw(&property)), 0x81);
            }
        }
    });
}

/// Publishes to `topic` from every version to every version and expects it unchanged.
fn goes_through(scene: &super::Scene, topic: &str) {
    for version in Version::ALL {
        let mut observer = scene.client(version);
        assert_eq!(observer.subscribe(topic, 0), 0);
        for version in Version::ALL {
            let mut publisher = scene.client(version);
            publisher.publish(topic, "x", 1);
            observer.expect_publish(topic, "x");
        }
    }
}

#[test]
fn b46_byte_order_mark_is_kept() {
    // [MQTT-1.5.4-3]
    hostile(|scene| {
        let topic = format!("\u{FEFF}{}", unique("b46"));
        let mut stripped = scene.client(Version::V5);
        stripped.subscribe(topic.trim_start_matches('\u{FEFF}'), 0);
        goes_through(scene, &topic);
        stripped.expect_nothing_from(&mut scene.publisher);
    });
}

#[test]
fn b47_control_and_non_characters() {
    // section 1.5.4
    // Choice: accepted and forwarded as they are.
    hostile(|scene| {
        for odd in ["\u{1}\u{1F}", "\u{7F}\u{9F}", "\u{FFFF}\u{FFFE}", "\u{FDD0}", "\u{10FFFF}", "\r\n\t"] {
            goes_through(scene, &format!("{odd}{}", unique("b47")));
        }
    });
}

#[test]
fn b48_longest_topic() {
    // [MQTT-4.7.3-3]
    hostile(|scene| {
        let name = unique("b48");
        goes_through(scene, &format!("{name}{}", "x".repeat(65_535 - name.len())));
    });
}

#[test]
fn b48_too_many_levels() {
    // section 4.7.3
    // Choice: PUBACK or PUBREC 0x90 in 5.0; dropped at QoS 0 and, acknowledged as ever, in 3.1 and 3.1.1.
    hostile(|scene| {
        let topic = format!("{}{}", unique("b48"), "/".repeat(10_000));
        let mut observer = scene.client(Version::V5);
        observer.subscribe(&format!("{}/#", topic.trim_end_matches('/')), 0);
        for version in Version::ALL {
            let mut client = scene.client(version);
            let expected = if version == Version::V5 { 0x90 } else { 0 };
            for qos in 0..=2 {
                let code = client.publish(&topic, "deep", qos);
                assert_eq!(code, if qos == 0 { 0 } else { expected }, "{version:?} QoS {qos}");
            }
            client.ping();
            observer.expect_nothing_from(&mut client);
        }
    });
}

#[test]
fn b48_as_many_levels_as_allowed() {
    // section 4.7.3
    let Some(broker) = Broker::with(&[("mqtt.max_topic_levels", "4")]) else { return };
    hostile_on(Arc::new(broker), |scene| {
        let mut client = scene.client(Version::V5);
        assert_eq!(
            client.subscribe_with(&[], &[("a/b/c/d", 0), ("a/b/c/d/e", 0), ("a/b/c/#", 0)]),
            [0, 0x8F, 0]
        );
        assert_eq!(client.publish("a/b/c/d/e", "", 1), 0x90);
        scene.publisher.publish("a/b/c/d", "", 0);
        client.expect_publish("a/b/c/d", "");
    });
}

#[test]
fn b49_reserved_topics() {
    // section 4.7.2
    // Choice: 0x87 in PUBACK or PUBREC of 5.0; dropped at QoS 0 and, acknowledged as ever, in 3.1 and 3.1.1.
    hostile(|scene| {
        let group = unique("b49");
        let topics = [
            format!("$SYS/{group}"),
            format!("$SYS/broker/{group}"),
            format!("$share/{group}/t"),
            format!("$queue/{group}"),
        ];
        let mut observer = scene.client(Version::V5);
        observer.subscribe_with(
            &[],
            &[("$SYS/#", 0), (&format!("$share/{group}/t"), 0), (&format!("$queue/{group}"), 0)],
        );
        for topic in &topics {
            for version in Version::ALL {
                let mut client = scene.client(version);
                let expected = if version == Version::V5 { 0x87 } else { 0 };
                for qos in 0..=2 {
                    let packet = Publish::new(topic, "forged").qos(qos, u16::from(qos > 0)).retain();
                    let code = client.publish_packet(&packet);
                    assert_eq!(code, if qos == 0 { 0 } else { expected }, "{topic} {version:?} QoS {qos}");
                }
                client.ping();
            }
        }
        // What `$SYS` itself has to say may come; nothing forged may, not even retained.
        let mut late = scene.client(Version::V5);
        late.subscribe("$SYS/#", 0);
        let fence = format!("{group}/fence");
        for client in [&mut observer, &mut late] {
            client.subscribe(&fence, 0);
            scene.publisher.publish(&fence, "", 1);
            loop {
                let publish = client.expect_any_publish();
                assert_ne!(publish.payload, b"forged", "{publish:?}");
                if publish.topic == fence {
                    break;
                }
            }
        }
    });
}

#[test]
fn b50_b51_everything_is_available() {
    // [MQTT-3.2.2-9] [MQTT-3.2.2-14]
    // Without access rules there is nobody to refuse with 0x87, and retained messages and every QoS are there: CONNACK
    // takes nothing back, and they work.
    hostile(|scene| {
        let client = scene.client(Version::V5);
        let properties = &client.connack().properties;
        assert_eq!(properties.number(id::MAXIMUM_QOS), None);
        assert!(matches!(properties.number(id::RETAIN_AVAILABLE), None | Some(1)));
        for version in Version::ALL {
            let topic = unique("b51");
            for qos in 0..=2 {
                let packet = Publish::new(&topic, [qos]).qos(qos, u16::from(qos > 0)).retain();
                let mut publisher = scene.client(version);
                let code = publisher.publish_packet(&packet);
                publisher.ping();
                assert!(matches!(code, 0x00 | 0x10), "{code:#04x}");
                let mut observer = scene.client(version);
                assert_eq!(observer.subscribe(&topic, 2), 2);
                let kept = observer.expect_publish(&topic, [qos]);
                assert_eq!((kept.retain, kept.qos), (true, qos));
            }
        }
    });
}

#[test]
fn b52_more_publishes_than_receive_maximum() {
    // [MQTT-3.3.4-7]
    hostile(|scene| {
        let mut client = scene.client(Version::V5);
        let maximum = client.connack().properties.number(id::RECEIVE_MAXIMUM).unwrap_or(65_535);
        let maximum = u16::try_from(maximum).expect("Receive Maximum has two bytes");
        let topic = unique("b52");
        for id in 1..=maximum {
            client.send(&Publish::new(&topic, "").qos(2, id).bytes(Version::V5));
        }
        for id in 1..=maximum {
            expect_pubrec(&mut client, id);
        }
        // One PUBCOMP makes room for one [MQTT-4.9.0-2].
        client.send(&ack(0x62, 1));
        client.expect(&Packet::PubComp { id: 1, reason: 0 });
        client.send(&Publish::new(&topic, "").qos(2, 1).bytes(Version::V5));
        expect_pubrec(&mut client, 1);
        client.send(&Publish::new(&topic, "").qos(2, maximum + 1).bytes(Version::V5));
        client.expect_disconnect(0x93);
    });
}

/// PUBREC with success, or 0x10: nobody subscribed.
#[track_caller]
fn expect_pubrec(client: &mut Client, expected: u16) {
    match client.receive() {
        Packet::PubRec { id, reason: 0x00 | 0x10 } if id == expected => {}
        other => panic!("expected PUBREC {expected}, got {other:?}"),
    }
}

#[test]
fn b53_qos_2_resent_before_pubrel() {
    // [MQTT-4.3.3-10] [MQTT-4.3.3-12]
    hostile(|scene| {
        for version in Version::ALL {
            let topic = unique("b53");
            let mut observer = scene.client(Version::V5);
            observer.subscribe(&topic, 0);
            let mut client = scene.client(version);
            let publish = Publish::new(&topic, "once").qos(2, 7);
            // The second round: the identifier is free again, and the same packet, DUP or not, is a new message.
            for first in [publish.clone(), publish.clone().dup()] {
                client.send(&first.bytes(version));
                expect_pubrec(&mut client, 7);
                for _ in 0..3 {
                    client.send(&publish.clone().dup().bytes(version));
                    expect_pubrec(&mut client, 7);
                }
                client.send(&ack(0x62, 7));
                client.expect(&Packet::PubComp { id: 7, reason: 0 });
                observer.expect_publish(&topic, "once");
                observer.expect_nothing_from(&mut client);
            }
        }
    });
}

#[test]
fn b54_identifier_in_use_with_other_content() {
    // [MQTT-2.2.1-3]
    // Choice: a resend for all that is known of the identifier, so PUBREC and nothing else.
    hostile(|scene| {
        for version in Version::ALL {
            let (topic, other) = (unique("b54"), unique("b54"));
            let mut observer = scene.client(Version::V5);
            observer.subscribe_with(&[], &[(&topic, 0), (&other, 0)]);
            let mut client = scene.client(version);
            client.send(&Publish::new(&topic, "first").qos(2, 7).bytes(version));
            expect_pubrec(&mut client, 7);
            client.send(&Publish::new(&other, "second").qos(2, 7).bytes(version));
            expect_pubrec(&mut client, 7);
            client.send(&ack(0x62, 7));
            client.expect(&Packet::PubComp { id: 7, reason: 0 });
            observer.expect_publish(&topic, "first");
            observer.expect_nothing_from(&mut client);
        }
    });
}

#[test]
fn b58_subscription_identifier_from_a_client() {
    // [MQTT-3.3.4-6]
    hostile(|scene| {
        let publish = Publish::new("t", "").with(Property::subscription_id(1));
        scene.refuses(&publish.bytes(Version::V5), 0x82);
    });
}

#[test]
fn b59_payload_is_not_what_it_says() {
    // [MQTT-3.3.2-4]
    // Choice: accepted, and forwarded with its indicator.
    hostile(|scene| {
        let topic = unique("b59");
        let mut observer = scene.client(Version::V5);
        observer.subscribe(&topic, 1);
        let publish = Publish::new(&topic, b"\xFF\0").qos(1, 1).with(Property::byte(id::PAYLOAD_FORMAT, 1));
        assert_eq!(scene.client(Version::V5).publish_packet(&publish), 0);
        let seen = observer.expect_publish(&topic, b"\xFF\0");
        assert_eq!(seen.properties.number(id::PAYLOAD_FORMAT), Some(1));
        // The indicator itself has two values (section 3.3.2.3.2).
        scene.refuses(
            &Publish::new("t", "").with(Property::byte(id::PAYLOAD_FORMAT, 2)).bytes(Version::V5),
            0x82,
        );
    });
}

#[test]
fn b60_response_topic_that_is_no_topic_name() {
    // [MQTT-3.3.2-14]
    // Choice: 0x82.
    hostile(|scene| {
        for topic in ["a/+", "#", ""] {
            let publish = Publish::new("t", "").with(Property::text(id::RESPONSE_TOPIC, topic));
            scene.refuses(&publish.bytes(Version::V5), 0x82);
        }
    });
}
