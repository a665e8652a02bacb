//! B15 to B25, B29 and B30: what a 5.0 CONNECT says about itself, enhanced authentication, and Keep Alive.

use std::time::{Duration, Instant};

use super::hostile;
use crate::harness::{
    Body, Broker, Client, Connect, Packet, Properties, Property, Publish, Version, Will, packet, pingreq,
    property_id as id, subscribe, unique,
};

/// A 5.0 CONNECT whose property section is `section`, length included.
fn connect_with_section(section: &[u8]) -> Vec<u8> {
    let body = Body::new().text("MQTT").u8(5).u8(0x02).u16(60).raw(section);
    packet(0x10, body.text(&unique("properties")))
}

fn connect_with(properties: &[Property]) -> Vec<u8> {
    connect_with_section(&Body::new().properties(properties).into_bytes())
}

#[test]
fn b15_retained_wills_of_every_qos() {
    // [MQTT-3.1.2-15]
    // Retained messages and QoS 2 are available, so there is nothing to refuse with 0x9A or 0x9B: they work.
    hostile(|scene| {
        for version in Version::ALL {
            for qos in 0..=2 {
                let topic = unique("b15");
                let mut observer = scene.client(Version::V5);
                observer.subscribe(&topic, 2);
                let will = Will::new(&topic, "gone").qos(qos).retain();
                scene.broker.connect(&Connect::new(version, &unique("b15")).will(will)).vanish();
                let live = observer.expect_publish(&topic, "gone");
                assert_eq!((live.qos, live.retain), (qos, false));
                observer.acknowledge(&live);
                let mut late = scene.client(Version::V5);
                late.subscribe(&topic, 2);
                let kept = late.expect_publish(&topic, "gone");
                assert_eq!((kept.qos, kept.retain), (qos, true));
            }
        }
    });
}

#[test]
fn b16_will_payload_is_not_what_it_says() {
    // section 3.1.3.2.3
    // Choice: accepted, and forwarded with its indicator: only the receiver could mind.
    hostile(|scene| {
        let topic = unique("b16");
        let mut observer = scene.client(Version::V5);
        observer.subscribe(&topic, 0);
        let will = Will::new(&topic, b"\xFF\xFE").with(Property::byte(id::PAYLOAD_FORMAT, 1));
        scene.broker.connect(&Connect::new(Version::V5, &unique("b16")).will(will)).vanish();
        let publish = observer.expect_publish(&topic, b"\xFF\xFE");
        assert_eq!(publish.properties.number(id::PAYLOAD_FORMAT), Some(1));
    });
}

#[test]
fn b17_values_that_a_property_does_not_have() {
    // sections 3.1.2.11.3, .4, .6 and .7
    hostile(|scene| {
        for property in [
            Property::two(id::RECEIVE_MAXIMUM, 0),
            Property::four(id::MAXIMUM_PACKET_SIZE, 0),
            Property::byte(id::REQUEST_RESPONSE_INFORMATION, 2),
            Property::byte(id::REQUEST_PROBLEM_INFORMATION, 2),
        ] {
            scene.refuses_connect(Version::V5, &connect_with(&[property]), 0x82);
        }
    });
}

#[test]
fn b18_single_valued_property_twice() {
    // section 2.2.2.2
    hostile(|scene| {
        for property in [
            Property::four(id::SESSION_EXPIRY, 1),
            Property::two(id::RECEIVE_MAXIMUM, 1),
            Property::four(id::MAXIMUM_PACKET_SIZE, 1000),
            Property::two(id::TOPIC_ALIAS_MAXIMUM, 1),
            Property::byte(id::REQUEST_RESPONSE_INFORMATION, 1),
            Property::byte(id::REQUEST_PROBLEM_INFORMATION, 1),
            Property::text(id::AUTHENTICATION_METHOD, "method"),
        ] {
            scene.refuses_connect(Version::V5, &connect_with(&[property.clone(), property]), 0x82);
        }
        for property in [
            Property::four(id::WILL_DELAY, 1),
            Property::byte(id::PAYLOAD_FORMAT, 1),
            Property::four(id::MESSAGE_EXPIRY, 1),
            Property::text(id::CONTENT_TYPE, "text/plain"),
            Property::text(id::RESPONSE_TOPIC, "t"),
            Property::binary(id::CORRELATION_DATA, b"1"),
        ] {
            let will = Will::new("t", "").with(property.clone()).with(property.clone());
            scene.refuses_connect(Version::V5, &Connect::new(Version::V5, "b18").will(will).bytes(), 0x82);
            if property.id != id::WILL_DELAY {
                let publish = Publish::new("t", "").with(property.clone()).with(property);
                scene.refuses(&publish.bytes(Version::V5), 0x82);
            }
        }
    });
}

#[test]
fn b19_property_of_another_packet() {
    // section 2.2.2.2
    // Choice: 0x81 for an identifier that is unknown, 0x82 for one that belongs into other packets.
    hostile(|scene| {
        for (section, code) in [
            (vec![2, id::PAYLOAD_FORMAT, 1], 0x82),
            (vec![3, id::TOPIC_ALIAS, 0, 1], 0x82),
            (vec![3, id::SERVER_KEEP_ALIVE, 0, 1], 0x82),
            (vec![2, 0x7F, 1], 0x81),
            (vec![2, 0x00, 1], 0x81),
            (vec![3, 0x80, 0x01, 1], 0x81),
        ] {
            scene.refuses_connect(Version::V5, &connect_with_section(&section), code);
        }
        let will = Will::new("t", "").with(Property::four(id::SESSION_EXPIRY, 1));
        scene.refuses_connect(Version::V5, &Connect::new(Version::V5, "b19").will(will).bytes(), 0x82);
        let foreign = Property::four(id::SESSION_EXPIRY, 1);
        scene.refuses(&Publish::new("t", "").with(foreign).bytes(Version::V5), 0x82);
        let delay = [Property::four(id::WILL_DELAY, 1)];
        scene.refuses(&subscribe(Version::V5, 1, &delay, &[("t", 0)]), 0x82);
        scene.refuses(&packet(0x40, Body::new().u16(1).u8(0).properties(&delay)), 0x82);
    });
}

#[test]
fn b20_property_length_does_not_fit() {
    // section 2.2.2.1
    hostile(|scene| {
        for section in [
            // Beyond the packet.
            vec![0xFF, 0x7F],
            vec![0xFF, 0xFF, 0xFF, 0x7F],
            // Not on the border of a property.
            vec![2, id::RECEIVE_MAXIMUM, 0, 1],
            vec![4, id::RECEIVE_MAXIMUM, 0, 1],
            vec![1, id::USER_PROPERTY, 0, 1, b'a', 0, 1, b'b'],
            vec![6, id::USER_PROPERTY, 0, 1, b'a', 0, 9],
        ] {
            scene.refuses_connect(Version::V5, &connect_with_section(&section), 0x81);
        }
        scene.refuses(&packet(0x30, Body::new().text("t").u8(0x7F)), 0x81);
        scene.refuses(&packet(0x30, Body::new().text("t").raw(&[3, id::MESSAGE_EXPIRY, 0, 0, 0, 1])), 0x81);
        scene.refuses(&packet(0x82, Body::new().u16(1).u8(0x7F).text("t").u8(0)), 0x81);
    });
}

#[test]
fn b21_thousands_of_user_properties() {
    // Choice: 0x97. 65,000 empty ones fit into a packet of 325 KB.
    let flood = Properties(vec![Property::user("", ""); 65_000]);
    hostile(|scene| {
        let start = Instant::now();
        scene.refuses_connect(Version::V5, &connect_with(&flood.0), 0x97);
        let publish = Publish { properties: flood.clone(), ..Publish::new("t", "") };
        scene.refuses(&publish.bytes(Version::V5), 0x97);
        scene.refuses(&subscribe(Version::V5, 1, &flood.0, &[("t", 0)]), 0x97);
        assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
    });
}

#[test]
fn b22_authentication_data_without_method() {
    // section 3.1.2.11.10
    hostile(|scene| {
        let connect = connect_with(&[Property::binary(id::AUTHENTICATION_DATA, b"secret")]);
        scene.refuses_connect(Version::V5, &connect, 0x82);
    });
}

#[test]
fn b23_unknown_authentication_method() {
    // [MQTT-4.12.0-1]
    hostile(|scene| {
        for method in ["GS2-KRB5", "", "SCRAM-SHA-1\u{FEFF}"] {
            let connect = connect_with(&[Property::text(id::AUTHENTICATION_METHOD, method)]);
            scene.refuses_connect(Version::V5, &connect, 0x8C);
        }
    });
}

#[test]
fn b24_auth_where_none_was_agreed() {
    // [MQTT-4.12.0-7]
    hostile(|scene| {
        let method = [Property::text(id::AUTHENTICATION_METHOD, "method")];
        let auth = |reason| packet(0xF0, Body::new().u8(reason).properties(&method));
        // Before CONNECT it is one of the packets of B01.
        scene.closes_at_once(Version::V5, &auth(0x18));
        // Success, Continue, Re-authenticate, and a code that AUTH does not have; the short form too.
        for reason in [0x00, 0x18, 0x19, 0x01] {
            scene.refuses(&auth(reason), 0x82);
        }
        scene.refuses(&[0xF0, 0], 0x82);
        // Without a method it is wrong whoever sends it (section 3.15.2.2.2).
        scene.refuses(&packet(0xF0, Body::new().u8(0x18).properties(&[])), 0x82);
    });
}

#[test]
fn b25_publish_before_enhanced_authentication_is_done() {
    // [MQTT-3.1.2-30]
    // No method is known yet, so CONNECT is refused at once; what is behind it is not looked at.
    hostile(|scene| {
        let topic = unique("b25");
        let mut observer = scene.client(Version::V5);
        observer.subscribe(&topic, 0);
        let mut bytes = connect_with(&[Property::text(id::AUTHENTICATION_METHOD, "method")]);
        bytes.extend(Publish::new(&topic, "not to be seen").bytes(Version::V5));
        let mut client = scene.broker.open(Version::V5);
        client.send(&bytes);
        client.expect_connack(0x8C);
        client.expect_closed();
        observer.expect_nothing_from(&mut scene.publisher);
    });
}

#[test]
fn b29_keep_alive_is_capped() {
    // [MQTT-3.2.2-21] [MQTT-3.2.2-22]
    hostile(|scene| {
        let keep_alive = |client: &Client| client.connack().properties.number(id::SERVER_KEEP_ALIVE);
        // Choice: without a cap the client's value holds, whatever it is.
        for seconds in [0, 1000, 65_535] {
            let connect = Connect::new(Version::V5, &unique("b29")).keep_alive(seconds);
            assert_eq!(keep_alive(&scene.broker.connect(&connect)), None);
        }
    });
    let Some(broker) = Broker::with(&[("mqtt.max_keepalive", "100s")]) else { return };
    for (asked, told) in [(0, Some(100)), (99, None), (100, None), (101, Some(100)), (65_535, Some(100))] {
        let client = broker.connect(&Connect::new(Version::V5, &unique("b29")).keep_alive(asked));
        assert_eq!(client.connack().properties.number(id::SERVER_KEEP_ALIVE), told, "for {asked}");
    }
    broker.assert_healthy();
}

#[test]
fn b29_server_keep_alive_is_enforced() {
    // [MQTT-3.1.2-21]
    let Some(broker) = Broker::with(&[("mqtt.server_keepalive", "1s")]) else { return };
    let mut client = broker.connect(&Connect::new(Version::V5, &unique("b29")).keep_alive(600));
    assert_eq!(client.connack().properties.number(id::SERVER_KEEP_ALIVE), Some(1));
    client.expect_disconnect(0x8D);
    broker.assert_healthy();
}

#[test]
fn b30_silence_beyond_keep_alive() {
    // [MQTT-3.1.2-22]
    hostile(|scene| {
        let topic = unique("b30");
        let mut observer = scene.client(Version::V5);
        observer.subscribe(&topic, 0);
        let start = Instant::now();
        let connect = |version: Version| {
            let will = Will::new(&topic, [version as u8]);
            scene.broker.connect(&Connect::new(version, &unique("b30")).keep_alive(1).will(will))
        };
        let mut clients = Version::ALL.map(connect);
        // What is not a whole packet does not count as one.
        clients[0].send(&[0xC0]);
        for client in &mut clients {
            client.expect_disconnect(0x8D);
        }
        assert!(start.elapsed() > Duration::from_millis(1400), "closed early: after {:?}", start.elapsed());
        let mut wills: Vec<_> = (0..3).map(|_| observer.expect_any_publish().payload[0]).collect();
        wills.sort_unstable();
        assert_eq!(wills, [3, 4, 5]);
    });
}

#[test]
fn b30_pings_keep_a_connection() {
    // [MQTT-3.12.4-1]
    hostile(|scene| {
        let connect = Connect::new(Version::V5, &unique("b30")).keep_alive(1);
        let mut client = scene.broker.connect(&connect);
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(2500) {
            client.ping();
            assert_eq!(client.next_event(Duration::from_millis(500)), None);
        }
        client.send(&pingreq());
        client.expect(&Packet::PingResp);
    });
}
