//! B31 to B40: fixed headers, lengths, and packets that nobody may send.

use super::hostile;
use crate::harness::{Body, Publish, Version, packet, subscribe};

#[test]
fn b31_fixed_header_flags() {
    // [MQTT-2.1.3-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1] [MQTT-3.6.1-1]
    hostile(|scene| {
        let subscribe = &subscribe(Version::V5, 1, &[], &[("t", 0)])[1..];
        let unsubscribe = &crate::harness::unsubscribe(Version::V5, 1, &["t"])[1..];
        let (id, none): (&[u8], &[u8]) = (&[2, 0, 1], &[0]);
        for (right, rest) in [
            (0x40, id),
            (0x50, id),
            (0x62, id),
            (0x70, id),
            (0x82, subscribe),
            (0xA2, unsubscribe),
            (0xC0, none),
            (0xE0, none),
            (0xF0, none),
        ] {
            for flags in (0..16).filter(|flags| *flags != right & 0x0F) {
                let input = [&[right & 0xF0 | flags], rest].concat();
                scene.refuses(&input, 0x81);
            }
        }
        // In 3.1 flags that a packet does not use mean nothing (v3.1: section 2.1), so 3.1 is not asked.
        scene.closes(Version::V311, &[0x80, 6, 0, 1, 0, 1, b't', 0]);
        scene.closes(Version::V311, &[0x60, 2, 0, 1]);
        scene.closes(Version::V311, &[0xC1, 0]);
        // In a CONNECT they are read before the version is known, so there is no form to answer in.
        scene.closes_at_once(Version::V5, &[0x11, 0]);
    });
}

#[test]
fn b32_remaining_length_of_five_bytes() {
    // section 1.5.5
    hostile(|scene| {
        scene.refuses(&[0x30, 0x80, 0x80, 0x80, 0x80, 0x01], 0x81);
        scene.refuses(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF], 0x81);
        scene.closes(Version::V311, &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F]);
        scene.closes_at_once(Version::V5, &[0x10, 0xFF, 0xFF, 0xFF, 0xFF]);
    });
}

#[test]
fn b33_lengths_that_are_not_minimal() {
    // [MQTT-1.5.5-1]
    hostile(|scene| {
        // Remaining Length.
        scene.refuses(&[0xC0, 0x80, 0x00], 0x81);
        scene.refuses(&[0x30, 0x84, 0x80, 0x00, 0, 1, b't', 0], 0x81);
        // Property Length.
        scene.refuses(&packet(0x30, Body::new().text("t").raw(&[0x80, 0x00])), 0x81);
        // Subscription Identifier.
        let subscribe = Body::new().u16(1).raw(&[3, 0x0B, 0x81, 0x00]).text("t").u8(0);
        scene.refuses(&packet(0x82, subscribe), 0x81);
        // Property Identifier: Message Expiry Interval in two bytes.
        let publish = Body::new().text("t").raw(&[6, 0x82, 0x00, 0, 0, 0, 1]);
        scene.refuses(&packet(0x30, publish), 0x81);
    });
}

#[test]
fn b34_larger_than_maximum_packet_size() {
    // [MQTT-3.2.2-15]
    // Refused at its header: the body is never sent.
    hostile(|scene| {
        scene.refuses(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], 0x95);
        scene.refuses(&[0x82, 0xFF, 0xFF, 0xFF, 0x7F], 0x95);
        scene.closes(Version::V311, &[0x30, 0xFF, 0xFF, 0xFF, 0x7F]);
        // Before the version is known there is no form to answer in.
        scene.closes_at_once(Version::V5, &[0x10, 0xFF, 0xFF, 0xFF, 0x7F]);
    });
}

#[test]
fn b34_exactly_maximum_packet_size() {
    // section 3.2.2.3.6
    let maximum = 2000;
    let Some(broker) = crate::harness::Broker::with(&[("mqtt.max_packet_size", "2000B")]) else { return };
    super::hostile_on(std::sync::Arc::new(broker), |scene| {
        let mut client = scene.client(Version::V5);
        let announced = client.connack().properties.number(crate::harness::property_id::MAXIMUM_PACKET_SIZE);
        assert_eq!(announced, Some(maximum));
        client.subscribe("t", 0);
        // Three bytes of fixed header, three of topic, one of properties.
        let payload = vec![b'x'; usize::try_from(maximum).expect("it is small") - 7];
        client.publish("t", &payload, 0);
        client.expect_publish("t", &payload);
        let too_large = Publish::new("t", [&payload[..], b"x"].concat()).bytes(Version::V5);
        scene.refuses(&too_large[..5], 0x95);
    });
}

#[test]
fn b35_bodies_that_do_not_fit_their_fields() {
    // section 4.13
    let v5: [&[u8]; 17] = [
        // Shorter.
        &[0x30, 0],
        &[0x30, 1, 0],
        &[0x30, 4, 0, 9, b't', 0],
        &[0x32, 4, 0, 1, b't', 0],
        &[0x32, 5, 0, 1, b't', 0, 1],
        &[0x40, 0],
        &[0x40, 1, 0],
        &[0x50, 0],
        &[0x62, 1, 0],
        &[0x70, 1, 0],
        &[0x82, 2, 0, 1],
        &[0x82, 5, 0, 1, 0, 0, 9],
        &[0xA2, 6, 0, 1, 0, 0, 9, b't'],
        // Longer.
        &[0xC0, 1, 0],
        &[0x40, 5, 0, 1, 0, 0, 0],
        &[0xE0, 3, 0, 0, 0],
        &[0x82, 8, 0, 1, 0, 0, 1, b't', 0, 0],
    ];
    let v3: [&[u8]; 8] = [
        &[0x30, 1, 0],
        &[0x30, 3, 0, 9, b't'],
        &[0x32, 3, 0, 1, b't'],
        &[0x40, 1, 0],
        &[0x40, 3, 0, 1, 0],
        &[0x82, 4, 0, 1, 0, 9],
        &[0xC0, 1, 0],
        &[0xE0, 1, 0],
    ];
    hostile(|scene| {
        for input in v5 {
            scene.refuses(input, 0x81);
        }
        for version in Version::OLD {
            for input in v3 {
                scene.closes(version, input);
            }
        }
    });
}

#[test]
fn b36_packet_types_that_do_not_exist() {
    // section 2.1.2
    hostile(|scene| {
        scene.refuses(&[0x00, 0], 0x81);
        scene.refuses(&[0x0F, 2, 0, 1], 0x81);
        for version in Version::OLD {
            scene.closes(version, &[0x00, 0]);
            scene.closes(version, &[0xF0, 0]);
        }
    });
}

#[test]
fn b37_packets_of_a_server() {
    // section 2.1.2
    let v5: [&[u8]; 4] = [&[0x20, 3, 0, 0, 0], &[0x90, 4, 0, 1, 0, 0], &[0xB0, 4, 0, 1, 0, 0], &[0xD0, 0]];
    let v3: [&[u8]; 4] = [&[0x20, 2, 0, 0], &[0x90, 3, 0, 1, 0], &[0xB0, 2, 0, 1], &[0xD0, 0]];
    hostile(|scene| {
        for input in v5 {
            scene.refuses(input, 0x82);
        }
        for version in Version::OLD {
            for input in v3 {
                scene.closes(version, input);
            }
        }
    });
}

#[test]
fn b38_publish_with_qos_3() {
    // [MQTT-3.3.1-4]
    hostile(|scene| {
        let publish = |version| Publish::new("t", "").qos(3, 1).bytes(version);
        scene.refuses(&publish(Version::V5), 0x81);
        for version in Version::OLD {
            scene.closes(version, &publish(version));
        }
    });
}

#[test]
fn b39_dup_at_qos_0() {
    // [MQTT-3.3.1-2]
    hostile(|scene| {
        let publish = |version| Publish::new("t", "").dup().bytes(version);
        scene.refuses(&publish(Version::V5), 0x81);
        scene.closes(Version::V311, &publish(Version::V311));
    });
}

#[test]
fn b40_packet_identifier_zero() {
    // [MQTT-2.2.1-3]
    // Choice: 0x82.
    hostile(|scene| {
        for version in Version::ALL {
            let inputs = [
                Publish::new("t", "").qos(1, 0).bytes(version),
                Publish::new("t", "").qos(2, 0).bytes(version),
                subscribe(version, 0, &[], &[("t", 0)]),
                crate::harness::unsubscribe(version, 0, &["t"]),
            ];
            for input in inputs {
                let mut client = scene.client(version);
                client.send(&input);
                client.expect_disconnect(0x82);
            }
        }
    });
}
