//! Limits that clients set, and time that runs out: Receive Maximum, Maximum Packet Size, topic aliases, message
//! expiry (sections 3.1.2.11, 3.3.2.3 and 4.9).

use crate::harness::{
    Broker, ConnAck, Connect, DEADLINE, Event, Packet, Property, Publish, Version, ack, property_id as id,
    subscribe, unique,
};

#[test]
fn receive_maximum_of_a_client() {
    // [MQTT-3.3.4-9] [MQTT-3.3.4-10] [MQTT-4.9.0-2] [MQTT-4.9.0-3]
    let broker = Broker::shared();
    let topic = unique("receive-maximum");
    let connect =
        Connect::new(Version::V5, &unique("receive-maximum")).with(Property::two(id::RECEIVE_MAXIMUM, 2));
    let mut client = broker.connect(&connect);
    client.subscribe(&topic, 2);
    let mut publisher = broker.client(Version::V5, &unique("receive-maximum"));
    for number in 0..10 {
        publisher.publish(&topic, format!("{number}"), 1 + number % 2);
    }
    let mut open = vec![client.expect_publish(&topic, "0"), client.expect_publish(&topic, "1")];
    // Anything but QoS 1 and 2 passes.
    publisher.publish(&topic, "between", 0);
    client.expect_publish(&topic, "between");
    client.ping();
    // At QoS 2 it is PUBCOMP that makes room, not PUBREC.
    let second = open.pop().expect("two are open");
    client.send(&ack(0x50, second.id));
    client.expect(&Packet::PubRel { id: second.id, reason: 0 });
    client.ping();
    client.send(&ack(0x70, second.id));
    open.push(client.expect_publish(&topic, "2"));
    for number in 3..10 {
        client.ping();
        let first = open.remove(0);
        // PUBREL and the next message may come in either order.
        client.acknowledge(&first);
        open.push(client.expect_publish(&topic, format!("{number}")));
    }
    for publish in &open {
        client.acknowledge(publish);
    }
    client.ping();
}

#[test]
fn inflight_window_of_the_server() {
    // section 4.9
    // `mqtt.max_inflight` is the server's own bound, also for 3.1.1, which has no Receive Maximum.
    let Some(broker) = Broker::with(&[("mqtt.max_inflight", "3")]) else { return };
    for version in Version::ALL {
        let topic = unique("inflight");
        let mut client = broker.client(version, &unique("inflight"));
        client.subscribe(&topic, 1);
        let mut publisher = broker.client(version, &unique("inflight"));
        for number in 0..5 {
            publisher.publish(&topic, format!("{number}"), 1);
        }
        let first = client.expect_publish(&topic, "0");
        client.expect_publish(&topic, "1");
        client.expect_publish(&topic, "2");
        client.ping();
        client.acknowledge(&first);
        client.expect_publish(&topic, "3");
        client.ping();
    }
}

#[test]
fn maximum_packet_size_of_a_client() {
    // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
    let broker = Broker::shared();
    let topic = unique("maximum-packet-size");
    let connect = Connect::new(Version::V5, &unique("maximum-packet-size"))
        .with(Property::four(id::MAXIMUM_PACKET_SIZE, 200));
    let mut client = broker.connect(&connect);
    client.subscribe(&topic, 1);
    let mut other = broker.client(Version::V5, &unique("maximum-packet-size"));
    other.subscribe(&topic, 1);
    let mut publisher = broker.client(Version::V5, &unique("maximum-packet-size"));
    // Three bytes of header, two of length, two of identifier, one of properties.
    let fits = vec![b'x'; 200 - 8 - topic.len()];
    let too_large = [&fits[..], b"x"].concat();
    for qos in [1, 2, 0] {
        publisher.publish(&topic, &too_large, qos);
        publisher.publish(&topic, &fits, qos);
        let len = if qos == 0 { too_large.len() } else { fits.len() };
        let seen = client.expect_any_publish();
        if qos == 0 {
            // Without an identifier the larger one is just small enough.
            assert_eq!(seen.payload.len(), len);
            assert_eq!(client.expect_any_publish().payload, fits);
        } else {
            assert_eq!(seen.payload.len(), len);
            client.acknowledge(&seen);
        }
        for payload in [&too_large, &fits] {
            let seen = other.expect_publish(&topic, payload);
            other.acknowledge(&seen);
        }
    }
    client.expect_nothing_from(&mut publisher);
}

#[test]
fn no_packet_exceeds_the_maximum_packet_size() {
    // [MQTT-3.1.2-24]
    // Choice: a client that has no room for its CONNACK or SUBACK is turned away, with a reason where that fits.
    let broker = Broker::shared();
    let names: Vec<String> = (0..30).map(|_| unique("tiny")).collect();
    let filters: Vec<_> = names.iter().map(|name| (name.as_str(), 0)).collect();
    let (mut accepted, mut wrong) = (0, Vec::new());
    for maximum in 1..60 {
        let connect =
            Connect::new(Version::V5, &unique("tiny")).with(Property::four(id::MAXIMUM_PACKET_SIZE, maximum));
        let mut client = broker.open(Version::V5);
        client.send(&connect.bytes());
        let mut reasons = Vec::new();
        let mut is_open = true;
        while is_open {
            match client.next_event(DEADLINE).expect("an answer or the end") {
                Event::Packet(Packet::ConnAck(connack)) if connack.code == 0 => {
                    accepted += 1;
                    client.send(&subscribe(Version::V5, 1, &[], &filters));
                }
                Event::Packet(
                    Packet::ConnAck(ConnAck { code: reason, .. }) | Packet::Disconnect { reason, .. },
                ) => {
                    reasons.push(reason);
                }
                Event::Packet(Packet::SubAck { reasons, .. }) => {
                    assert_eq!(reasons.len(), 30);
                    is_open = false;
                }
                Event::Packet(other) => panic!("unexpected: {other:?}"),
                Event::Closed => is_open = false,
            }
        }
        let longest = client.longest_packet();
        if longest > usize::try_from(maximum).expect("it is small") {
            wrong.push(format!("{longest} bytes above {maximum}"));
        }
        assert!(reasons.iter().all(|reason| *reason == 0x95), "{reasons:02x?} at {maximum}");
    }
    assert!(accepted > 10, "{accepted} were accepted");
    assert!(wrong.is_empty(), "{wrong:?}");
    broker.assert_healthy();
}

#[test]
fn too_large_messages_do_not_fill_the_window() {
    // [MQTT-3.1.2-25]
    let broker = Broker::shared();
    let topic = unique("too-large");
    let connect = Connect::new(Version::V5, &unique("too-large"))
        .with(Property::four(id::MAXIMUM_PACKET_SIZE, 100))
        .with(Property::two(id::RECEIVE_MAXIMUM, 1));
    let mut client = broker.connect(&connect);
    client.subscribe(&topic, 2);
    let mut publisher = broker.client(Version::V5, &unique("too-large"));
    for _ in 0..100 {
        publisher.publish(&topic, [b'x'; 200], 2);
    }
    publisher.publish(&topic, "fits", 2);
    let seen = client.expect_publish(&topic, "fits");
    client.acknowledge(&seen);
    client.ping();
}

#[test]
fn topic_alias_from_a_client() {
    // [MQTT-3.3.2-12]
    let broker = Broker::shared();
    let mut publisher = broker.client(Version::V5, &unique("alias"));
    let maximum = publisher.connack().properties.number(id::TOPIC_ALIAS_MAXIMUM).unwrap_or(0);
    let maximum = u16::try_from(maximum).expect("it has two bytes");
    assert!(maximum > 0, "this broker takes aliases");
    let base = unique("alias");
    let mut subscriber = broker.client(Version::V311, &unique("alias"));
    subscriber.subscribe(&format!("{base}/#"), 0);
    for alias in 1..=maximum {
        let publish =
            Publish::new(&format!("{base}/{alias}"), "set").with(Property::two(id::TOPIC_ALIAS, alias));
        publisher.send(&publish.bytes(Version::V5));
    }
    for alias in 1..=maximum {
        let publish = Publish::new("", "used").qos(1, alias).with(Property::two(id::TOPIC_ALIAS, alias));
        publisher.publish_packet(&publish);
    }
    for payload in ["set", "used"] {
        for alias in 1..=maximum {
            subscriber.expect_publish(&format!("{base}/{alias}"), payload);
        }
    }
}

#[test]
fn topic_alias_to_a_client() {
    // [MQTT-3.1.2-26] [MQTT-3.1.2-27] [MQTT-3.3.2-11] [MQTT-3.3.2-7]
    let broker = Broker::shared();
    let base = unique("alias");
    let connect = Connect::new(Version::V5, &unique("alias")).with(Property::two(id::TOPIC_ALIAS_MAXIMUM, 2));
    let mut publisher = broker.client(Version::V5, &unique("alias"));
    // The same rules on a second connection: nothing is carried forward.
    for _ in 0..2 {
        let mut client = broker.connect(&connect);
        client.subscribe(&format!("{base}/#"), 1);
        let mut topics = [const { String::new() }; 3];
        let mut used = 0;
        for round in 0..3 {
            for number in 0..4 {
                let topic = format!("{base}/{number}");
                publisher.publish(&topic, format!("{round}"), round % 2);
                let mut seen = client.expect_any_publish();
                client.acknowledge(&seen);
                // Whether and when an alias is used is the server's affair; what it means is not.
                if let Some(alias) = seen.properties.number(id::TOPIC_ALIAS) {
                    assert!(matches!(alias, 1..=2), "{alias} is above the maximum");
                    let known = &mut topics[usize::try_from(alias).expect("it is small")];
                    if seen.topic.is_empty() {
                        used += 1;
                        seen.topic.clone_from(known);
                    } else {
                        known.clone_from(&seen.topic);
                    }
                }
                assert_eq!(seen.topic, topic);
            }
        }
        assert!(used > 0, "two topics were worth an alias");
        client.disconnect();
    }
    let mut without = broker.client(Version::V5, &unique("alias"));
    without.subscribe(&format!("{base}/#"), 0);
    for _ in 0..3 {
        publisher.publish(&format!("{base}/0"), "", 0);
        let seen = without.expect_publish(&format!("{base}/0"), "");
        assert_eq!(seen.properties.number(id::TOPIC_ALIAS), None);
    }
}

#[test]
fn message_expiry_counts_down() {
    // [MQTT-3.3.2-5] [MQTT-3.3.2-6]
    let broker = Broker::shared();
    let topic = unique("expiry");
    let connect = Connect::new(Version::V5, &unique("expiry")).persistent();
    let mut client = broker.connect(&connect);
    client.subscribe(&topic, 2);
    client.disconnect();
    let mut publisher = broker.client(Version::V5, &unique("expiry"));
    let expiring = |payload: &str, id: u16, seconds| {
        Publish::new(&topic, payload)
            .qos(1 + u8::from(id > 2), id)
            .with(Property::four(id::MESSAGE_EXPIRY, seconds))
    };
    publisher.publish_packet(&expiring("short", 1, 1));
    publisher.publish_packet(&expiring("long", 2, 100));
    publisher.publish_packet(&expiring("short", 3, 1));
    publisher.publish(&topic, "for ever", 1);
    broker.let_pass(2);
    let mut client = broker.connect(&connect);
    let long = client.expect_publish(&topic, "long");
    let left = long.properties.number(id::MESSAGE_EXPIRY);
    assert!(matches!(left, Some(90..=99)), "{left:?}");
    let for_ever = client.expect_publish(&topic, "for ever");
    assert_eq!(for_ever.properties.number(id::MESSAGE_EXPIRY), None);
    client.ping();
    client.disconnect();
}

#[test]
fn message_in_flight_does_not_expire() {
    // [MQTT-4.3.3-7]
    let broker = Broker::shared();
    let topic = unique("expiry");
    let connect = Connect::new(Version::V5, &unique("expiry")).persistent();
    let mut client = broker.connect(&connect);
    client.subscribe(&topic, 2);
    let mut publisher = broker.client(Version::V5, &unique("expiry"));
    let publish = Publish::new(&topic, "x").qos(2, 1).with(Property::four(id::MESSAGE_EXPIRY, 1));
    publisher.publish_packet(&publish);
    let seen = client.expect_publish(&topic, "x");
    client.vanish();
    broker.let_pass(2);
    let mut client = broker.connect(&connect);
    let again = client.expect_publish(&topic, "x");
    assert_eq!((again.id, again.dup), (seen.id, true));
    client.acknowledge(&again);
    client.disconnect();
}

#[test]
fn message_expires_behind_a_full_window() {
    // [MQTT-3.3.2-5]
    let broker = Broker::shared();
    let topic = unique("expiry");
    let connect = Connect::new(Version::V5, &unique("expiry")).with(Property::two(id::RECEIVE_MAXIMUM, 1));
    let mut client = broker.connect(&connect);
    client.subscribe(&topic, 1);
    let mut publisher = broker.client(Version::V5, &unique("expiry"));
    publisher.publish(&topic, "holds the window", 1);
    publisher
        .publish_packet(&Publish::new(&topic, "x").qos(1, 9).with(Property::four(id::MESSAGE_EXPIRY, 1)));
    publisher.publish(&topic, "after", 1);
    let first = client.expect_publish(&topic, "holds the window");
    broker.let_pass(2);
    client.acknowledge(&first);
    client.expect_publish(&topic, "after");
}
