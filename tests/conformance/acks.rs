//! B55 to B57: acknowledgements that belong to nothing, or to something else.

use super::hostile;
use crate::harness::{Body, Connect, Packet, Publish, Version, ack, packet, unique};

#[test]
fn b55_pubrel_for_an_unknown_identifier() {
    // section 3.7.2.1
    hostile(|scene| {
        for version in Version::ALL {
            let mut client = scene.client(version);
            client.send(&ack(0x62, 4711));
            let reason = if version == Version::V5 { 0x92 } else { 0 };
            client.expect(&Packet::PubComp { id: 4711, reason });
            client.ping();
        }
    });
}

#[test]
fn b56_acknowledgement_for_an_unknown_identifier() {
    // sections 4.3.2 and 4.3.3
    // Choice: PUBREC is answered with PUBREL, in 5.0 with 0x92; PUBACK and PUBCOMP are ignored.
    hostile(|scene| {
        for version in Version::ALL {
            let mut client = scene.client(version);
            client.send(&ack(0x50, 4711));
            let reason = if version == Version::V5 { 0x92 } else { 0 };
            client.expect(&Packet::PubRel { id: 4711, reason });
            client.send(&ack(0x40, 4711));
            client.send(&ack(0x70, 4711));
            client.ping();
        }
        // An error code asks for no PUBREL [MQTT-4.3.3-4].
        let mut client = scene.client(Version::V5);
        client.send(&packet(0x50, Body::new().u16(4711).u8(0x80)));
        client.ping();
    });
}

#[test]
fn b56_acknowledgement_of_the_wrong_type() {
    // [MQTT-4.3.2-3] [MQTT-4.3.3-3]
    // Choice: 0x82. It acknowledges nothing: the message is still in flight when the client is back.
    hostile(|scene| {
        for version in Version::ALL {
            for (qos, wrong) in [(1, [0x50, 0x70]), (2, [0x40, 0x70])] {
                let topic = unique("b56");
                let connect = Connect::new(version, &unique("b56")).persistent();
                let mut client = scene.broker.connect(&connect);
                client.subscribe(&topic, 2);
                scene.publisher.publish(&topic, "x", qos);
                let mut seen = client.expect_publish(&topic, "x");
                for first_byte in wrong {
                    client.send(&ack(first_byte, seen.id));
                    client.expect_disconnect(0x82);
                    seen = seen.dup();
                    client = scene.broker.connect(&connect);
                    client.expect(&Packet::Publish(seen.clone()));
                }
                client.acknowledge(&seen);
                client.ping();
                client.disconnect();
            }
        }
    });
}

#[test]
fn b57_reason_codes_that_a_packet_does_not_have() {
    // [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1]
    // Choice: 0x82.
    hostile(|scene| {
        for (first_byte, reasons) in [
            (0x40, [0x01, 0x92, 0x11, 0xFF]),
            (0x50, [0x02, 0x92, 0x8E, 0x81]),
            (0x62, [0x10, 0x80, 0x91, 0x01]),
            (0x70, [0x10, 0x80, 0x87, 0x04]),
        ] {
            for reason in reasons {
                scene.refuses(&packet(first_byte, Body::new().u16(1).u8(reason)), 0x82);
            }
        }
    });
}

#[test]
fn negative_acknowledgement_ends_a_message() {
    // [MQTT-4.4.0-2]
    hostile(|scene| {
        let topic = unique("negative");
        let connect = Connect::new(Version::V5, &unique("negative")).persistent();
        let mut client = scene.broker.connect(&connect);
        client.subscribe(&topic, 2);
        for (qos, first_byte) in [(1, 0x40), (2, 0x50)] {
            scene.publisher.publish(&topic, "no", qos);
            let publish = client.expect_publish(&topic, "no");
            client.send(&packet(first_byte, Body::new().u16(publish.id).u8(0x83)));
        }
        client.ping();
        client.vanish();
        let mut client = scene.broker.connect(&connect);
        client.assert_resumed();
        client.expect_nothing_from(&mut scene.publisher);
        client.disconnect();
    });
}

#[test]
fn rejected_message_frees_its_identifier() {
    // [MQTT-4.3.3-9]
    hostile(|scene| {
        let mut client = scene.client(Version::V5);
        for _ in 0..2 {
            client.send(&Publish::new("$SYS/forged", "").qos(2, 9).bytes(Version::V5));
            client.expect(&Packet::PubRec { id: 9, reason: 0x87 });
        }
        // Nothing waits for a PUBREL.
        client.send(&ack(0x62, 9));
        client.expect(&Packet::PubComp { id: 9, reason: 0x92 });
    });
}
