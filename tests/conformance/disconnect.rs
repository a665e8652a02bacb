//! B71: DISCONNECT.

use super::{Scene, hostile};
use crate::harness::{
    Body, Client, Connect, Property, Publish, Version, Will, disconnect, packet, property_id as id, unique,
};

/// A client with a will, and one that sees the will.
fn with_will(scene: &Scene, connect: impl FnOnce(Connect) -> Connect) -> (Client, Client, String) {
    let topic = unique("b71");
    let mut observer = scene.client(Version::V5);
    observer.subscribe(&topic, 0);
    let base = Connect::new(Version::V5, &unique("b71")).will(Will::new(&topic, "gone"));
    (scene.broker.connect(&connect(base)), observer, topic)
}

#[test]
fn b71_disconnect_that_is_wrong() {
    // [MQTT-3.14.1-1] [MQTT-3.14.2-1]
    // Each is answered with its reason, and none is a normal disconnection: the will is sent.
    let inputs = [
        (vec![0xE1, 0], 0x81),
        (vec![0xE2, 1, 0], 0x81),
        (packet(0xE0, Body::new().u8(0x01)), 0x82),
        (packet(0xE0, Body::new().u8(0x8E)), 0x82),
        (packet(0xE0, Body::new().u8(0xFF)), 0x82),
        // Session Expiry Interval where CONNECT had none (section 3.14.2.2.2).
        (disconnect(Version::V5, 0, &[Property::four(id::SESSION_EXPIRY, 1)]), 0x82),
        // Server Reference is the server's.
        (disconnect(Version::V5, 0, &[Property::text(id::SERVER_REFERENCE, "elsewhere")]), 0x82),
    ];
    hostile(|scene| {
        for (input, reason) in &inputs {
            let (mut client, mut observer, topic) = with_will(scene, |connect| connect);
            client.send(input);
            client.expect_disconnect(*reason);
            observer.expect_publish(&topic, "gone");
        }
        for version in Version::OLD {
            scene.closes(version, &[0xE1, 0]);
        }
    });
}

#[test]
fn b71_session_expiry_of_zero_may_stay_zero() {
    // section 3.14.2.2.2
    hostile(|scene| {
        let (mut client, mut observer, _) = with_will(scene, |connect| connect);
        client.send(&disconnect(Version::V5, 0, &[Property::four(id::SESSION_EXPIRY, 0)]));
        client.expect_closed();
        observer.expect_nothing_from(&mut scene.publisher);
    });
}

#[test]
fn b71_packets_behind_a_disconnect() {
    // [MQTT-3.14.4-1]
    // Choice: ignored, and closed without a word.
    hostile(|scene| {
        for version in Version::ALL {
            let topic = unique("b71");
            let mut observer = scene.client(Version::V5);
            observer.subscribe(&topic, 0);
            let mut client = scene.client(version);
            let mut bytes = disconnect(version, 0, &[]);
            bytes.extend(Publish::new(&topic, "late").retain().bytes(version));
            client.send(&bytes);
            client.expect_closed();
            observer.expect_nothing_from(&mut scene.publisher);
        }
    });
}

#[test]
fn b71_every_form_of_a_good_disconnect() {
    // [MQTT-3.14.4-3]
    let forms = [
        vec![0xE0, 0],
        vec![0xE0, 1, 0],
        vec![0xE0, 2, 0, 0],
        disconnect(Version::V5, 0, &[Property::text(id::REASON_STRING, "home"), Property::user("a", "b")]),
    ];
    hostile(|scene| {
        for form in forms {
            let (mut client, mut observer, _) = with_will(scene, |connect| connect);
            client.send(&form);
            client.expect_closed();
            observer.expect_nothing_from(&mut scene.publisher);
        }
    });
}
