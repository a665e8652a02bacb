//! B01 to B14, B26 to B28: CONNECT itself, its time, and what is around it. Properties: `connect_properties`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{hostile, hostile_on};
use crate::harness::{
    Body, Broker, Client, Connect, DEADLINE, Event, Packet, Publish, Version, Will, packet, property_id,
    subscribe, unique,
};

#[test]
fn b01_first_packet_is_not_connect() {
    // [MQTT-3.1.0-1]
    // Choice: closed without a word. Each type is otherwise well-formed 5.0.
    let firsts: [&[u8]; 14] = [
        &[0x20, 3, 0, 0, 0],
        &[0x30, 4, 0, 1, b't', 0],
        &[0x40, 2, 0, 1],
        &[0x50, 2, 0, 1],
        &[0x62, 2, 0, 1],
        &[0x70, 2, 0, 1],
        &[0x82, 7, 0, 1, 0, 0, 1, b't', 0],
        &[0x90, 4, 0, 1, 0, 0],
        &[0xA2, 6, 0, 1, 0, 0, 1, b't'],
        &[0xB0, 4, 0, 1, 0, 0],
        &[0xC0, 0],
        &[0xD0, 0],
        &[0xE0, 0],
        &[0xF0, 0],
    ];
    hostile(|scene| {
        for first in firsts {
            scene.closes_at_once(Version::V5, first);
        }
        scene.closes_at_once(Version::V5, &[0x00, 0]);
    });
}

#[test]
fn b01_first_packet_with_a_large_length() {
    // [MQTT-3.1.0-1]
    // 256 MB are announced and never come: the first byte decides, so nothing waits and nothing is allocated.
    hostile(|scene| {
        for first_byte in [0x30, 0x82, 0xF0] {
            scene.closes_at_once(Version::V5, &[first_byte, 0xFF, 0xFF, 0xFF, 0x7F]);
        }
    });
}

#[test]
fn b02_second_connect() {
    // [MQTT-3.1.0-2]
    hostile(|scene| {
        for version in Version::ALL {
            let topic = unique("b02");
            let mut observer = scene.client(Version::V311);
            observer.subscribe(&topic, 0);
            let connect = Connect::new(version, &unique("b02")).will(Will::new(&topic, "gone"));
            let mut client = scene.broker.connect(&connect);
            client.send(&connect.bytes());
            client.expect_disconnect(0x82);
            observer.expect_publish(&topic, "gone");
        }
    });
}

#[test]
fn b03_nothing_is_sent() {
    let Some(broker) = Broker::with(&[("mqtt.connect_timeout", "1s")]) else { return };
    hostile_on(Arc::new(broker), |scene| {
        let start = Instant::now();
        scene.broker.open(Version::V5).expect_closed();
        assert!(start.elapsed() > Duration::from_millis(500), "closed early: after {:?}", start.elapsed());
    });
}

#[test]
fn b04_connect_drips() {
    // The deadline is for the whole packet: bytes that trickle in do not move it.
    let Some(broker) = Broker::with(&[("mqtt.connect_timeout", "1s")]) else { return };
    hostile_on(Arc::new(broker), |scene| {
        let connect = Connect::new(Version::V5, &"x".repeat(10_000)).bytes();
        drip(&mut scene.broker.open(Version::V5), &connect);
    });
}

#[test]
fn b04_any_packet_drips() {
    // Choice: closed; with which reason a 5.0 client is told is left open.
    let Some(broker) = Broker::with(&[("mqtt.packet_timeout", "1s")]) else { return };
    hostile_on(Arc::new(broker), |scene| {
        for version in [Version::V311, Version::V5] {
            let connect = Connect::new(version, &unique("b04")).keep_alive(0);
            let publish = Publish::new("t", "x".repeat(10_000)).bytes(version);
            drip(&mut scene.broker.connect(&connect), &publish);
        }
    });
}

/// Sends a byte every 50 ms until the broker closes, which it must do long before the packet is whole.
#[track_caller]
fn drip(client: &mut Client, bytes: &[u8]) {
    let start = Instant::now();
    for byte in bytes {
        if client.try_send(&[*byte]).is_err() {
            return;
        }
        match client.next_event(Duration::from_millis(50)) {
            Some(Event::Closed) => return,
            Some(Event::Packet(Packet::Disconnect { reason, .. })) => assert!(reason >= 0x80),
            Some(other) => panic!("unexpected: {other:?}"),
            None => {}
        }
        assert!(start.elapsed() < DEADLINE, "still open");
    }
    panic!("the packet was taken");
}

#[test]
fn b05_wrong_protocol_name() {
    // [MQTT-3.1.2-1]
    // Choice: levels 5 to 127 are told 0x84 in the form of 5.0, all others 0x01 in the form of 3.1.1. Among the others
    // are those with the top bit set, by which bridges ask for a peer of their kind; refused so, they try again without.
    hostile(|scene| {
        for (name, level) in [("MQIsdp", 4), ("MQTT", 3), ("mqtt", 4), ("", 4), ("MQTTT", 4)] {
            scene.refuses_connect(Version::V311, &connect_as(name, level), 0x01);
        }
        for (name, level) in [("MQIsdp", 5), ("mqtt", 5), ("", 5)] {
            scene.refuses_connect(Version::V5, &connect_as(name, level), 0x84);
        }
    });
}

#[test]
fn b06_unknown_protocol_level() {
    // [MQTT-3.1.2-2]
    // Choice: as in B05.
    hostile(|scene| {
        for level in [0, 1, 2, 128, 0x83, 0x84, 255] {
            scene.refuses_connect(Version::V311, &connect_as("MQTT", level), 0x01);
        }
        for level in [6, 127] {
            scene.refuses_connect(Version::V5, &connect_as("MQTT", level), 0x84);
        }
    });
}

/// A CONNECT that is right for its level but for the name and the level.
fn connect_as(name: &str, level: u8) -> Vec<u8> {
    let body = Body::new().text(name).u8(level).u8(0x02).u16(60);
    let body = if level >= 5 { body.properties(&[]) } else { body };
    packet(0x10, body.text("b05"))
}

#[test]
fn b07_reserved_connect_flag() {
    // [MQTT-3.1.2-3]
    hostile(|scene| {
        let connect = Connect::new(Version::V5, "b07");
        scene.refuses_connect(Version::V5, &connect.bytes_with_flags(connect.flags() | 1), 0x81);
        for version in Version::OLD {
            let connect = Connect::new(version, "b07");
            scene.closes_at_once(version, &connect.bytes_with_flags(connect.flags() | 1));
        }
    });
}

#[test]
fn b08_will_flags_without_a_will() {
    // [MQTT-3.1.2-11] [MQTT-3.1.2-12] [MQTT-3.1.2-13]
    hostile(|scene| {
        for version in Version::ALL {
            let without = Connect::new(version, "b08");
            let with = Connect::new(version, "b08").will(Will::new("t", "gone"));
            let wrong = [
                without.bytes_with_flags(0x02 | 0x08),
                without.bytes_with_flags(0x02 | 0x10),
                without.bytes_with_flags(0x02 | 0x20),
                with.bytes_with_flags(0x02 | 0x04 | 0x18),
            ];
            for connect in wrong {
                match version {
                    Version::V5 => scene.refuses_connect(version, &connect, 0x81),
                    _ => scene.closes_at_once(version, &connect),
                }
            }
        }
    });
}

#[test]
fn b09_password_without_user_name() {
    // (v3.1.1: MQTT-3.1.2-22)
    hostile(|scene| {
        for version in Version::OLD {
            scene.closes_at_once(version, &Connect::new(version, "b09").password(b"secret").bytes());
        }
        // 5.0 allows it (section 3.1.2.9).
        scene.broker.connect(&Connect::new(Version::V5, &unique("b09")).password(b"secret")).disconnect();
    });
}

#[test]
fn b10_connect_fields_do_not_fit_the_flags() {
    // [MQTT-3.1.2-17] [MQTT-3.1.2-19] [MQTT-3.1.4-1]
    // In 3.1 a user name or password that is announced may be missing (v3.1: section 3.1), so 3.1 is not asked.
    hostile(|scene| {
        for version in [Version::V311, Version::V5] {
            let plain = Connect::new(version, "b10");
            let named = Connect::new(version, "b10").username("somebody");
            let wrong = [
                plain.bytes_with_flags(0x82),
                named.bytes_with_flags(0xC2),
                plain.bytes_with_flags(0x06),
                named.bytes_with_flags(0x02),
                packet(0x10, plain.header(0x02)),
                packet(0x10, plain.header(0x02).raw(&[0, 9, b'c'])),
                packet(0x10, plain.header(0x02).raw(&plain.payload().u8(0).into_bytes())),
                packet(0x10, Body::new().raw(&[0, 4, b'M'])),
                packet(0x10, Body::new()),
            ];
            for (index, connect) in wrong.iter().enumerate() {
                // The last two end before the version is known: there is no form to answer in.
                match version {
                    Version::V5 if index < 7 => scene.refuses_connect(version, connect, 0x81),
                    _ => scene.closes_at_once(version, connect),
                }
            }
        }
    });
}

#[test]
fn b11_empty_client_id_that_is_not_clean() {
    // (v3.1.1: MQTT-3.1.3-8)
    hostile(|scene| {
        for version in Version::OLD {
            scene.refuses_connect(version, &Connect::new(version, "").resume().bytes(), 0x02);
        }
        // Clean Session 1 makes it good (v3.1.1: MQTT-3.1.3-6, MQTT-3.1.3-7).
        scene.broker.connect(&Connect::new(Version::V311, "")).disconnect();
    });
}

#[test]
fn b12_empty_client_id_gets_one() {
    // [MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16]
    // Choice: assigned, never 0x85.
    hostile(|scene| {
        let first = scene.broker.connect(&Connect::new(Version::V5, ""));
        let second = scene.broker.connect(&Connect::new(Version::V5, "").resume());
        let id = |client: &Client| {
            client.connack().properties.string(property_id::ASSIGNED_CLIENT_ID).map(str::to_owned)
        };
        let (first_id, second_id) = (id(&first), id(&second));
        let first_id = first_id.expect("an assigned identifier");
        assert!(!first_id.is_empty());
        assert_ne!(Some(&first_id), second_id.as_ref());
        // It is a client identifier like others: whoever uses it takes the session over.
        let mut first = first;
        let third = scene.broker.client(Version::V5, &first_id);
        assert_eq!(third.connack().properties.string(property_id::ASSIGNED_CLIENT_ID), None);
        first.expect_disconnect(0x8E);
    });
}

#[test]
fn b13_client_id_that_is_no_string() {
    // [MQTT-1.5.4-1] [MQTT-1.5.4-2] [MQTT-3.1.3-4]
    let ids: [&[u8]; 7] = [
        b"nul\0",
        b"\xFF",
        b"\xC0\x80",
        b"overlong \xE0\x80\xAF",
        b"surrogate \xED\xA0\x80",
        b"cut \xE2\x82",
        b"beyond \xF4\x90\x80\x80",
    ];
    hostile(|scene| {
        for id in ids {
            for version in Version::ALL {
                let head = Connect::new(version, "").header(0x02);
                let connect = packet(0x10, head.binary(id));
                match version {
                    Version::V5 => scene.refuses_connect(version, &connect, 0x81),
                    _ => scene.closes_at_once(version, &connect),
                }
            }
        }
    });
}

#[test]
fn b13_strange_but_legal_client_ids() {
    // [MQTT-3.1.3-5]
    // Choice: accepted, and nothing but an identifier: not a topic, not a pattern, not a line of the log.
    let long = "x".repeat(65_535);
    let ids = [
        long.as_str(),
        "/",
        "a/b",
        "+",
        "#",
        "%u",
        "%c/#",
        "$SYS",
        "$share/g/t",
        "..",
        "' OR 1=1 --",
        "cr\r\nFORGED log line",
        "<script>alert(1)</script>",
        "\u{FEFF}bom",
        "{\"json\":1}",
        "\u{1F980}",
        " ",
    ];
    hostile(|scene| {
        for version in [Version::V311, Version::V5] {
            for id in ids {
                let topic = unique("b13");
                let mut client = scene.broker.client(version, id);
                client.subscribe(&topic, 1);
                client.publish(&topic, id, 1);
                let publish = client.expect_publish(&topic, id);
                client.acknowledge(&publish);
                client.disconnect();
            }
        }
        assert!(!scene.broker.log().lines().any(|line| line.starts_with("FORGED")), "{}", scene.broker.log());
    });
}

#[test]
fn b13_client_id_longer_than_allowed() {
    // [MQTT-3.1.3-8]
    let Some(broker) = Broker::with(&[("mqtt.max_client_id_len", "23")]) else { return };
    hostile_on(Arc::new(broker), |scene| {
        for (version, code) in [(Version::V31, 0x02), (Version::V311, 0x02), (Version::V5, 0x85)] {
            scene.refuses_connect(version, &Connect::new(version, &"x".repeat(24)).bytes(), code);
            // 23 letters and digits are everybody's right [MQTT-3.1.3-5].
            scene.broker.connect(&Connect::new(version, &"x".repeat(23))).disconnect();
        }
    });
}

#[test]
fn b14_will_topic_that_is_no_topic_name() {
    // [MQTT-3.1.3-11]
    // Choice: CONNACK 0x90 in 5.0. 3.1 and 3.1.1 have no code for it: closed, with or without a CONNACK.
    let deep = "/".repeat(10_000);
    hostile(|scene| {
        for topic in ["a/+", "#", "", deep.as_str(), "$SYS/broker/version", "$share/g/t", "$queue/t"] {
            let connect = |version| Connect::new(version, &unique("b14")).will(Will::new(topic, "gone"));
            scene.refuses_connect(Version::V5, &connect(Version::V5).bytes(), 0x90);
            for version in Version::OLD {
                scene.turns_away(&connect(version));
            }
        }
    });
}

#[test]
fn b26_data_behind_a_refused_connect() {
    // [MQTT-3.1.4-6]
    hostile(|scene| {
        let topic = unique("b26");
        let mut observer = scene.client(Version::V5);
        observer.subscribe(&topic, 0);
        for version in [Version::V311, Version::V5] {
            let refused = match version {
                Version::V5 => Connect::new(version, "b26").will(Will::new("wild/+", "")),
                _ => Connect::new(version, "").resume(),
            };
            let mut bytes = refused.bytes();
            bytes.extend(Publish::new(&topic, "not to be seen").retain().bytes(version));
            bytes.extend(subscribe(version, 1, &[], &[("#", 0)]));
            let mut client = scene.broker.open(version);
            client.send(&bytes);
            client.expect_connack(if version == Version::V5 { 0x90 } else { 0x02 });
            client.expect_closed();
        }
        observer.expect_nothing_from(&mut scene.publisher);
    });
}

#[test]
fn b27_data_behind_a_good_connect() {
    // section 3.1.4: a client need not wait for CONNACK
    hostile(|scene| {
        for version in Version::ALL {
            let topic = unique("b27");
            let mut bytes = Connect::new(version, &unique("b27")).bytes();
            bytes.extend(subscribe(version, 1, &[], &[(&topic, 1)]));
            bytes.extend(Publish::new(&topic, "quick").qos(1, 2).bytes(version));
            let mut client = scene.broker.open(version);
            client.send(&bytes);
            client.expect_connack(0);
            client.expect(&Packet::SubAck { id: 1, reasons: vec![1] });
            // Whether PUBACK or the message comes first is open.
            let mut rest = [client.receive(), client.receive()];
            rest.sort_by_key(|packet| matches!(packet, Packet::Publish(_)));
            assert_eq!(rest[0], Packet::PubAck { id: 2, reason: 0 });
            assert!(matches!(&rest[1], Packet::Publish(publish) if publish.payload == b"quick"), "{rest:?}");
        }
    });
}

#[test]
fn b28_anonymous_clients_are_refused() {
    // [MQTT-3.1.4-2]
    // Choice: without authentication there is one way to be refused, no name at all: 0x87 (3.1 and 3.1.1: 5).
    let Some(broker) = Broker::with(&[("auth.anonymous", "false")]) else { return };
    let refuses = |version, code| {
        let mut client = broker.open(version);
        client.send(&Connect::new(version, &unique("b28")).bytes());
        client.expect_connack(code);
        client.expect_closed();
    };
    refuses(Version::V31, 5);
    refuses(Version::V311, 5);
    refuses(Version::V5, 0x87);
    broker.assert_healthy();
}
