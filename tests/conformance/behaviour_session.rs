//! Sessions: present or not, kept and expired, resumed and taken over (sections 3.1.2.4, 3.1.2.11.2, 4.1 and 4.4).

use std::time::{Duration, Instant};

use crate::harness::{
    Broker, Client, Connect, DEADLINE, Event, Packet, Property, Publish, Version, disconnect, pingreq,
    property_id as id, unique,
};

/// A 5.0 CONNECT that resumes, with this Session Expiry Interval.
fn expiring(client_id: &str, seconds: u32) -> Connect {
    Connect::new(Version::V5, client_id).resume().with(Property::four(id::SESSION_EXPIRY, seconds))
}

#[test]
fn session_present_tells_the_truth() {
    // [MQTT-3.2.2-2] [MQTT-3.2.2-3] [MQTT-3.1.2-4] [MQTT-3.1.2-5] [MQTT-3.1.2-6]
    let broker = Broker::shared();
    for version in Version::ALL {
        let topic = unique("present");
        let connect = Connect::new(version, &unique("present")).persistent();
        let mut client = broker.connect(&connect);
        assert!(!client.connack().session_present, "{version:?}: nothing was there");
        client.subscribe(&topic, 1);
        client.disconnect();
        let mut client = broker.connect(&connect);
        client.assert_resumed();
        client.publish(&topic, "still subscribed", 0);
        client.expect_publish(&topic, "still subscribed");
        client.disconnect();
        let mut client = broker.connect(&connect.clone().clean());
        assert!(!client.connack().session_present);
        client.publish(&topic, "not any more", 1);
        client.ping();
        client.disconnect();
    }
}

#[test]
fn a_message_that_is_too_large_to_be_kept_is_refused() {
    let Some(broker) = Broker::with(&[("mqtt.max_packet_size", "4MiB")]) else { return };
    let persistent = Connect::new(Version::V5, "sleeper").persistent();
    let mut sleeper = broker.connect(&persistent);
    sleeper.subscribe("t", 1);
    sleeper.disconnect();
    let large = |topic: &str| Publish::new(topic, vec![b'x'; 2 << 20]).qos(1, 1);
    for publish in [large("t"), large("nobody").retain()] {
        let mut publisher = broker.connect(&Connect::new(Version::V5, "publisher"));
        publisher.send(&publish.bytes(Version::V5));
        publisher.expect_disconnect(0x95);
    }
    // Nobody else notices, and who is there gets what is not kept.
    let mut publisher = broker.connect(&Connect::new(Version::V5, "publisher"));
    publisher.publish("t", "small", 1);
    let mut sleeper = broker.connect(&persistent);
    sleeper.assert_resumed();
    sleeper.expect_publish("t", "small");
    sleeper.subscribe("live", 0);
    publisher.send(&large("live").bytes(Version::V5));
    assert_eq!(sleeper.expect_any_publish().payload.len(), 2 << 20);
}

#[test]
fn clean_session_of_3_1_1_ends_with_its_connection() {
    // (v3.1.1: MQTT-3.1.2-6)
    let broker = Broker::shared();
    let connect = Connect::new(Version::V311, &unique("clean"));
    let mut client = broker.connect(&connect);
    client.subscribe("t", 1);
    client.vanish();
    assert!(!broker.connect(&connect.resume()).connack().session_present);
}

#[test]
fn session_without_expiry_ends_with_its_connection() {
    // [MQTT-4.1.0-2]
    let broker = Broker::shared();
    let connect = Connect::new(Version::V5, &unique("no-expiry")).resume();
    for client in [broker.connect(&connect), broker.connect(&connect)] {
        assert!(!client.connack().session_present);
        client.vanish();
    }
}

#[test]
fn session_expires() {
    // [MQTT-3.1.2-23] [MQTT-4.1.0-1] [MQTT-4.1.0-2]
    let broker = Broker::shared();
    let topic = unique("expires");
    let connect = expiring(&unique("expires"), 2);
    let mut client = broker.connect(&connect);
    client.subscribe(&topic, 1);
    // While it is connected nothing expires.
    broker.let_pass(3);
    client.publish(&topic, "still here", 0);
    client.expect_publish(&topic, "still here");
    let start = Instant::now();
    client.vanish();
    wait_until_nobody_subscribes(&broker, &topic);
    assert!(start.elapsed() >= Duration::from_millis(1900), "expired early: after {:?}", start.elapsed());
    assert!(!broker.connect(&connect).connack().session_present);
}

/// Publishes until the broker answers 0x10, No matching subscribers: the session that subscribed is gone.
#[track_caller]
fn wait_until_nobody_subscribes(broker: &Broker, topic: &str) {
    let mut publisher = broker.client(Version::V5, &unique("expires"));
    let deadline = Instant::now() + DEADLINE;
    while publisher.publish(topic, "", 1) != 0x10 {
        assert!(Instant::now() < deadline, "the session never expired");
        assert_eq!(publisher.next_event(Duration::from_millis(20)), None);
    }
}

#[test]
fn expiry_may_change_at_disconnect() {
    // section 3.14.2.2.2
    let broker = Broker::shared();
    let goodbye = |mut client: Client, seconds| {
        let properties = [Property::four(id::SESSION_EXPIRY, seconds)];
        client.send(&disconnect(Version::V5, 0, &properties));
        client.expect_closed();
    };
    let connect = expiring(&unique("change"), 300);
    goodbye(broker.connect(&connect), 0);
    let client = broker.connect(&connect);
    assert!(!client.connack().session_present, "0 at DISCONNECT ends it");
    goodbye(client, 600);
    let client = broker.connect(&connect);
    client.assert_resumed();
    // Never: 0xFFFF_FFFF.
    goodbye(client, u32::MAX);
    assert!(broker.connect(&connect).connack().session_present);
}

#[test]
fn expiry_is_bounded_by_the_server() {
    // section 3.2.2.3.2
    let Some(broker) = Broker::with(&[("session.expiry_max", "1s")]) else { return };
    for (asked, told) in [(0, None), (1, None), (2, Some(1)), (u32::MAX, Some(1))] {
        let client = broker.connect(&expiring(&unique("bounded"), asked));
        assert_eq!(client.connack().properties.number(id::SESSION_EXPIRY), told, "for {asked}");
    }
}

#[test]
fn old_sessions_expire_when_configured() {
    // section 3.1.2.4 of 3.1.1 leaves how long to the server
    let Some(broker) = Broker::with(&[("session.expiry_v3", "1s")]) else { return };
    for version in Version::OLD {
        let topic = unique("old");
        let connect = Connect::new(version, &unique("old")).resume();
        let mut client = broker.connect(&connect);
        client.subscribe(&topic, 1);
        client.vanish();
        broker.connect(&connect).vanish();
        wait_until_nobody_subscribes(&broker, &topic);
        assert!(!broker.connect(&connect).connack().session_present);
    }
}

#[test]
fn unacknowledged_messages_are_resent_in_order() {
    // [MQTT-4.4.0-1] [MQTT-3.3.1-1] [MQTT-4.5.0-1]
    let broker = Broker::shared();
    for version in Version::ALL {
        let topic = unique("resume");
        let connect = Connect::new(version, &unique("resume")).persistent();
        let mut client = broker.connect(&connect);
        client.subscribe(&topic, 2);
        let mut publisher = broker.client(Version::V5, &unique("resume"));
        for number in 0..6 {
            publisher.publish(&topic, format!("{number}"), 1 + number % 2);
        }
        let mut seen: Vec<Publish> =
            (0..6).map(|number| client.expect_publish(&topic, format!("{number}"))).collect();
        // One of them is done; acknowledging out of turn does not disturb the others.
        client.acknowledge(&seen.remove(2));
        client.vanish();
        // What is published meanwhile comes behind what was in flight.
        publisher.publish(&topic, "kept 1", 1);
        publisher.publish(&topic, "kept 2", 2);
        let mut resent: Vec<Publish> = seen.into_iter().map(Publish::dup).collect();
        let mut client = broker.connect(&connect);
        for publish in &resent {
            client.expect(&Packet::Publish(publish.clone()));
        }
        for payload in ["kept 1", "kept 2"] {
            let seen = client.expect_publish(&topic, payload);
            assert!(!seen.dup, "the first time");
            resent.push(seen.dup());
        }
        client.vanish();
        let mut client = broker.connect(&connect);
        for publish in &resent {
            client.expect(&Packet::Publish(publish.clone()));
            client.acknowledge(publish);
        }
        client.ping();
        client.disconnect();
    }
}

#[test]
fn messages_are_kept_for_a_client_that_is_away() {
    // [MQTT-4.5.0-1] [MQTT-4.6.0-5]
    let broker = Broker::shared();
    for (version, qos) in Version::ALL.into_iter().flat_map(|version| [(version, 1), (version, 2)]) {
        let topic = unique("away");
        let connect = Connect::new(version, &unique("away")).persistent();
        let mut client = broker.connect(&connect);
        client.subscribe(&topic, 2);
        client.disconnect();
        let mut publisher = broker.client(Version::V311, &unique("away"));
        for number in 0..300 {
            publisher.publish(&topic, format!("{number}"), qos);
        }
        let mut client = broker.connect(&connect);
        for number in 0..300 {
            let seen = client.expect_publish(&topic, format!("{number}"));
            assert!(!seen.dup, "first delivery [MQTT-3.3.1-3]");
            client.acknowledge(&seen);
        }
        client.ping();
        client.disconnect();
    }
}

#[test]
fn qos_0_is_not_kept() {
    // section 4.1 leaves it open
    // One worker, here and below: with more of them a message may still be on its way when its publisher is answered.
    let Some(broker) = Broker::with(&[("node.workers", "1")]) else { return };
    for version in Version::ALL {
        let topic = unique("lost");
        let connect = Connect::new(version, &unique("away")).persistent();
        let mut client = broker.connect(&connect);
        client.subscribe(&topic, 2);
        client.disconnect();
        let mut publisher = broker.client(version, &unique("publisher"));
        publisher.publish(&topic, "lost", 0);
        publisher.publish(&topic, "kept", 1);
        broker.connect(&connect).expect_publish(&topic, "kept");
    }
}

#[test]
fn qos_0_is_kept_when_configured() {
    // section 4.1 leaves it open
    let Some(broker) = Broker::with(&[("session.queue_qos0", "true"), ("node.workers", "1")]) else { return };
    let connect = Connect::new(Version::V311, "away").resume();
    let mut client = broker.connect(&connect);
    client.subscribe("t", 0);
    client.disconnect();
    let mut publisher = broker.client(Version::V311, "publisher");
    publisher.publish("t", "kept", 0);
    publisher.ping();
    broker.connect(&connect).expect_publish("t", "kept");
}

#[test]
fn qos_0_that_is_kept_is_sent_as_the_send_buffer_drains() {
    // Nothing that the client says makes it go on.
    let settings = [
        ("session.queue_qos0", "true"),
        ("mqtt.max_packet_size", "32KiB"),
        ("mqtt.output_buffer_max", "32KiB"),
    ];
    let Some(broker) = Broker::with(&settings) else { return };
    let connect = Connect::new(Version::V311, "away").resume();
    let mut client = broker.connect(&connect);
    client.subscribe("t", 0);
    client.disconnect();
    let mut publisher = broker.client(Version::V311, "publisher");
    for number in 0..40 {
        publisher.publish("t", [vec![number], vec![0; 16 << 10]].concat(), 0);
    }
    publisher.ping();
    let mut client = broker.connect(&connect);
    for number in 0..40 {
        assert_eq!(client.expect_any_publish().payload[0], number);
    }
    client.ping();
}

#[test]
fn queue_is_bounded() {
    // section 4.9 leaves the policy open
    for (policy, expected) in [("drop_newest", ["0", "1", "2"]), ("drop_oldest", ["2", "3", "4"])] {
        let settings =
            [("session.queue_messages_max", "3"), ("session.queue_full", policy), ("node.workers", "1")];
        let Some(broker) = Broker::with(&settings) else { return };
        let connect = Connect::new(Version::V311, "away").resume();
        let mut client = broker.connect(&connect);
        client.subscribe("t", 1);
        client.disconnect();
        let mut publisher = broker.client(Version::V311, "publisher");
        for number in 0..5 {
            publisher.publish("t", format!("{number}"), 1);
        }
        let mut client = broker.connect(&connect);
        for payload in expected {
            let seen = client.expect_publish("t", payload);
            client.acknowledge(&seen);
        }
        client.ping();
    }
}

#[test]
fn takeover() {
    // [MQTT-3.1.4-3]
    let broker = Broker::shared();
    for first in Version::ALL {
        for second in Version::ALL {
            let topic = unique("takeover");
            let client_id = unique("takeover");
            let mut old = broker.connect(&Connect::new(first, &client_id).persistent());
            old.subscribe(&topic, 1);
            let mut publisher = broker.client(Version::V5, &unique("takeover"));
            publisher.publish(&topic, "in flight", 1);
            let seen = old.expect_publish(&topic, "in flight");
            let mut new = broker.connect(&Connect::new(second, &client_id).persistent());
            old.expect_disconnect(0x8E);
            new.assert_resumed();
            assert_eq!(new.expect_any_publish(), seen.dup());
            publisher.publish(&topic, "new", 1);
            new.expect_publish(&topic, "new");
        }
    }
    broker.assert_healthy();
}

#[test]
fn takeover_with_a_clean_start() {
    // [MQTT-3.1.2-4] [MQTT-3.1.4-3]
    let broker = Broker::shared();
    for version in Version::ALL {
        let topic = unique("clean-takeover");
        let client_id = unique("clean-takeover");
        let mut old = broker.connect(&Connect::new(version, &client_id).persistent());
        old.subscribe(&topic, 1);
        let mut new = broker.connect(&Connect::new(version, &client_id));
        old.expect_disconnect(0x8E);
        assert!(!new.connack().session_present);
        let mut publisher = broker.client(Version::V5, &unique("clean-takeover"));
        publisher.publish(&topic, "", 1);
        new.expect_nothing_from(&mut publisher);
    }
}

#[test]
fn what_was_acknowledged_survives_the_death_of_the_process() {
    let settings: [(&str, &str); 1] = [("sys.interval", "0s")];
    let Some(mut broker) = Broker::with(&settings) else { return };
    for version in Version::ALL {
        let persistent = |name: &str| Connect::new(version, &format!("{name}-{version:?}")).persistent();
        let mut sleeper = broker.connect(&persistent("sleeper"));
        let topic = format!("flow/{version:?}");
        assert_eq!(sleeper.subscribe(&topic, 2), 2);
        sleeper.vanish();
        let mut publisher = broker.connect(&persistent("publisher"));
        for number in 0..30_u8 {
            publisher.publish(&topic, number.to_string(), 1 + number % 2);
        }
        broker.kill_and_start(&settings);
        broker.kill_and_start(&settings);
        let mut sleeper = broker.connect(&persistent("sleeper"));
        sleeper.assert_resumed();
        for number in 0..30_u8 {
            let publish = sleeper.expect_publish(&topic, number.to_string());
            assert_eq!(publish.qos, 1 + number % 2);
        }
    }
}

#[test]
fn takeover_storm_leaves_one() {
    // [MQTT-3.1.4-3]
    let broker = Broker::shared();
    let client_id = unique("storm");
    let address = broker.address();
    let connect = Connect::new(Version::V5, &client_id).persistent();
    let attempt = || {
        let mut client = Client::open(address, Version::V5);
        client.send(&connect.bytes());
        // One that is overtaken on the way may never be accepted.
        matches!(client.next_event(DEADLINE), Some(Event::Packet(Packet::ConnAck(_)))).then_some(client)
    };
    let clients: Vec<Client> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| (0..10).filter_map(|_| attempt()).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no thread failed")).collect()
    });
    let mut alive = 0;
    for mut client in clients {
        // Fails where the connection is gone already.
        let _ = client.try_send(&pingreq());
        match client.next_event(DEADLINE) {
            Some(Event::Packet(Packet::PingResp)) => alive += 1,
            Some(Event::Packet(Packet::Disconnect { reason: 0x8E, .. })) => {}
            // The PINGREQ met a closed socket, and the reset discarded the DISCONNECT.
            Some(Event::Closed) => {}
            other => panic!("unexpected: {other:?}"),
        }
    }
    assert_eq!(alive, 1);
    broker.assert_healthy();
}

#[test]
fn response_information_when_asked_for() {
    // [MQTT-3.1.2-28]
    let Some(broker) = Broker::with(&[("mqtt.response_information", "answers/")]) else { return };
    let asking =
        Connect::new(Version::V5, "asking").with(Property::byte(id::REQUEST_RESPONSE_INFORMATION, 1));
    let answer = broker.connect(&asking);
    assert_eq!(answer.connack().properties.string(id::RESPONSE_INFORMATION), Some("answers/"));
    let silent = broker.client(Version::V5, "silent");
    assert_eq!(silent.connack().properties.string(id::RESPONSE_INFORMATION), None);
}
