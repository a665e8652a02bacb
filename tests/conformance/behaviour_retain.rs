//! Retained messages (sections 3.3.1.3 and 3.8.3.1).

use crate::harness::{
    Broker, Client, Connect, Packet, Property, Publish, Version, property_id as id, subscribe, unique,
};

/// Retain Handling in Subscription Options.
const SEND: u8 = 0x00;
const SEND_IF_NEW: u8 = 0x10;
const DO_NOT_SEND: u8 = 0x20;
const RETAIN_AS_PUBLISHED: u8 = 0x08;

fn retain(client: &mut Client, topic: &str, payload: &str, qos: u8) {
    let id = if qos > 0 { client.next_id() } else { 0 };
    client.publish_packet(&Publish::new(topic, payload).qos(qos, id).retain());
    client.ping();
}

#[test]
fn retained_message_is_replaced_and_deleted() {
    // [MQTT-3.3.1-5] [MQTT-3.3.1-6] [MQTT-3.3.1-7] [MQTT-3.3.1-8]
    let broker = Broker::shared();
    for version in Version::ALL {
        for qos in 0..=2 {
            let topic = unique("retained");
            let mut publisher = broker.client(version, &unique("retained"));
            let seen_by_new_subscriber = |expected: Option<&str>| {
                let mut subscriber = broker.client(version, &unique("retained"));
                assert_eq!(subscriber.subscribe(&topic, 2), 2);
                if let Some(payload) = expected {
                    let seen = subscriber.expect_publish(&topic, payload);
                    assert!(seen.retain && !seen.dup && seen.qos == qos, "{seen:?}");
                    subscriber.acknowledge(&seen);
                }
                subscriber.ping();
            };
            seen_by_new_subscriber(None);
            retain(&mut publisher, &topic, "first", qos);
            seen_by_new_subscriber(Some("first"));
            retain(&mut publisher, &topic, "second", qos);
            seen_by_new_subscriber(Some("second"));
            // Without RETAIN nothing changes.
            publisher.publish(&topic, "passing by", qos);
            publisher.publish(&topic, "", qos);
            publisher.ping();
            seen_by_new_subscriber(Some("second"));
            retain(&mut publisher, &topic, "", qos);
            seen_by_new_subscriber(None);
        }
    }
}

#[test]
fn empty_retained_message_is_delivered_as_any_other() {
    // [MQTT-3.3.1-6] [MQTT-3.3.1-12]
    let broker = Broker::shared();
    for version in Version::ALL {
        let topic = unique("empty");
        let mut subscriber = broker.client(version, &unique("empty"));
        subscriber.subscribe(&topic, 1);
        let mut publisher = broker.client(version, &unique("empty"));
        retain(&mut publisher, &topic, "x", 1);
        retain(&mut publisher, &topic, "", 1);
        for payload in ["x", ""] {
            let seen = subscriber.expect_publish(&topic, payload);
            assert!(!seen.retain, "RETAIN is for what was kept");
            subscriber.acknowledge(&seen);
        }
    }
}

#[test]
fn retained_messages_of_a_wildcard() {
    // [MQTT-3.3.1-9] [MQTT-4.7.2-1]
    let broker = Broker::shared();
    let base = unique("wildcard");
    let mut publisher = broker.client(Version::V5, &unique("wildcard"));
    let topics = ["", "/a", "/a/b", "/b/b", "//b"];
    for topic in topics {
        retain(&mut publisher, &format!("{base}{topic}"), "kept", 0);
    }
    for (filter, expected) in [
        ("/#", &["", "/a", "/a/b", "/b/b", "//b"][..]),
        ("/+", &["/a"]),
        ("/+/b", &["/a/b", "/b/b", "//b"]),
        ("/+/#", &["/a", "/a/b", "/b/b", "//b"]),
        ("/a/#", &["/a", "/a/b"]),
        ("/c", &[]),
    ] {
        let mut subscriber = broker.client(Version::V311, &unique("wildcard"));
        subscriber.subscribe(&format!("{base}{filter}"), 0);
        let mut seen: Vec<_> = expected.iter().map(|_| subscriber.expect_any_publish().topic).collect();
        let mut expected: Vec<_> = expected.iter().map(|topic| format!("{base}{topic}")).collect();
        seen.sort();
        expected.sort();
        assert_eq!(seen, expected, "{filter}");
        subscriber.ping();
    }
    for topic in topics {
        retain(&mut publisher, &format!("{base}{topic}"), "", 0);
    }
}

#[test]
fn retain_handling() {
    // [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11] [MQTT-3.8.4-4]
    let broker = Broker::shared();
    let topic = unique("handling");
    let mut publisher = broker.client(Version::V5, &unique("handling"));
    retain(&mut publisher, &topic, "kept", 1);
    let mut subscriber = broker.client(Version::V5, &unique("handling"));
    let mut after = |option: u8, sent: bool| {
        assert_eq!(subscriber.subscribe(&topic, 1 | option), 1);
        if sent {
            let seen = subscriber.expect_publish(&topic, "kept");
            assert!(seen.retain);
            subscriber.acknowledge(&seen);
        }
        subscriber.ping();
    };
    after(DO_NOT_SEND, false);
    // The subscription is there already, though nothing was sent for it.
    after(SEND_IF_NEW, false);
    after(SEND, true);
    after(SEND, true);
    after(SEND_IF_NEW, false);
    subscriber.unsubscribe(&[&topic]);
    assert_eq!(subscriber.subscribe(&topic, 1 | SEND_IF_NEW), 1);
    let seen = subscriber.expect_publish(&topic, "kept");
    subscriber.acknowledge(&seen);
    // Every SUBSCRIBE of 3.1.1 sends them (v3.1.1: MQTT-3.8.4-3).
    let mut old = broker.client(Version::V311, &unique("handling"));
    for _ in 0..2 {
        old.subscribe(&topic, 0);
        old.expect_publish(&topic, "kept");
    }
    retain(&mut publisher, &topic, "", 0);
}

#[test]
fn retain_handling_looks_at_each_filter() {
    // [MQTT-3.3.1-10]
    let broker = Broker::shared();
    let topic = unique("each-filter");
    let mut publisher = broker.client(Version::V5, &unique("each-filter"));
    retain(&mut publisher, &topic, "kept", 0);
    let mut subscriber = broker.client(Version::V5, &unique("each-filter"));
    subscriber.subscribe(&topic, SEND_IF_NEW);
    subscriber.expect_publish(&topic, "kept");
    // Another filter is another subscription, even if the same message matches.
    subscriber.subscribe(&format!("{topic}/#"), SEND_IF_NEW);
    subscriber.expect_publish(&topic, "kept");
    subscriber.ping();
    retain(&mut publisher, &topic, "", 0);
}

#[test]
fn retain_as_published() {
    // [MQTT-3.3.1-12] [MQTT-3.3.1-13]
    let broker = Broker::shared();
    let topic = unique("as-published");
    let mut plain = broker.client(Version::V5, &unique("as-published"));
    plain.subscribe(&topic, 0);
    let mut kept = broker.client(Version::V5, &unique("as-published"));
    kept.subscribe(&topic, RETAIN_AS_PUBLISHED);
    let mut publisher = broker.client(Version::V5, &unique("as-published"));
    retain(&mut publisher, &topic, "with", 0);
    publisher.publish(&topic, "without", 0);
    for (payload, retain) in [("with", true), ("without", false)] {
        assert!(!plain.expect_publish(&topic, payload).retain);
        assert_eq!(kept.expect_publish(&topic, payload).retain, retain);
    }
    retain(&mut publisher, &topic, "", 0);
}

#[test]
fn shared_subscriptions_get_no_retained_messages() {
    // section 4.8.2
    let broker = Broker::shared();
    let topic = unique("shared-retained");
    let mut publisher = broker.client(Version::V5, &unique("shared-retained"));
    retain(&mut publisher, &topic, "kept", 0);
    for version in Version::ALL {
        let mut subscriber = broker.client(version, &unique("shared-retained"));
        assert_eq!(subscriber.subscribe(&format!("$share/g/{topic}"), 0), 0);
        subscriber.ping();
    }
    retain(&mut publisher, &topic, "", 0);
}

#[test]
fn retained_message_carries_the_subscription_identifier() {
    // [MQTT-3.3.4-3]
    let broker = Broker::shared();
    let topic = unique("identifier");
    let mut publisher = broker.client(Version::V5, &unique("identifier"));
    retain(&mut publisher, &topic, "kept", 0);
    let mut subscriber = broker.client(Version::V5, &unique("identifier"));
    subscriber.subscribe_with(&[Property::subscription_id(9)], &[(&topic, 0)]);
    assert_eq!(subscriber.expect_publish(&topic, "kept").properties.subscription_ids(), [9]);
    retain(&mut publisher, &topic, "", 0);
}

#[test]
fn retained_message_expires() {
    // [MQTT-3.3.2-5] [MQTT-3.3.2-6]
    let broker = Broker::shared();
    let topic = unique("expires");
    let mut publisher = broker.client(Version::V5, &unique("expires"));
    let mut publish = |seconds| {
        publisher.publish_packet(
            &Publish::new(&topic, "kept")
                .retain()
                .qos(1, 1)
                .with(Property::four(id::MESSAGE_EXPIRY, seconds)),
        )
    };
    publish(100);
    let mut subscriber = broker.client(Version::V5, &unique("expires"));
    subscriber.subscribe(&topic, 0);
    let left = subscriber.expect_publish(&topic, "kept").properties.number(id::MESSAGE_EXPIRY);
    assert!(matches!(left, Some(95..=100)), "{left:?}");
    publish(1);
    // It is there for a second, then it is gone.
    let deadline = std::time::Instant::now() + crate::harness::DEADLINE;
    loop {
        let mut subscriber = broker.client(Version::V5, &unique("expires"));
        subscriber.subscribe(&topic, 0);
        if subscriber.next_event(std::time::Duration::from_millis(200)).is_none() {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "never expired");
    }
}

#[test]
fn retained_store_is_bounded() {
    // section 3.3.1.3 leaves it open
    // Choice: beyond the limit PUBACK 0x97 and nothing happens; QoS 0, 3.1 and 3.1.1, which cannot be told, still reach
    // those who are there.
    let settings = [("retained.messages_max", "2"), ("sys.interval", "0s")];
    let Some(broker) = Broker::with(&settings) else { return };
    let mut publisher = broker.client(Version::V5, "publisher");
    let mut publish = |topic: &str, payload: &str| {
        let packet = Publish::new(topic, payload).qos(1, 1).retain();
        publisher.publish_packet(&packet)
    };
    assert_eq!([publish("a", "1"), publish("b", "1"), publish("c", "1")], [0x10, 0x10, 0x97]);
    // What is there can be replaced and deleted.
    assert_eq!([publish("a", "2"), publish("b", ""), publish("c", "2")], [0x10; 3]);
    let mut subscriber = broker.client(Version::V5, "subscriber");
    subscriber.subscribe("+", 0);
    let mut seen = [subscriber.expect_any_publish(), subscriber.expect_any_publish()];
    seen.sort_by(|one, other| one.topic.cmp(&other.topic));
    assert_eq!(seen.map(|publish| publish.topic), ["a", "c"]);
    subscriber.ping();
    assert_eq!(publish("d", "refused"), 0x97);
    let mut old = broker.client(Version::V311, "old");
    old.publish_packet(&Publish::new("d", "passing by").qos(1, 1).retain());
    subscriber.expect_publish("d", "passing by");
    subscriber.ping();
    broker.assert_healthy();
}

#[test]
fn many_retained_messages_for_a_slow_window() {
    // [MQTT-3.3.1-9] [MQTT-3.3.4-9]
    let broker = Broker::shared();
    let base = unique("many-retained");
    let mut publisher = broker.client(Version::V5, &unique("many-retained"));
    let topics: Vec<String> = (1000..4000).map(|number| format!("{base}/{number}")).collect();
    for topic in &topics {
        publisher.send(&Publish::new(topic, "kept").retain().bytes(Version::V5));
    }
    publisher.send(&Publish::new(&topics[0], "kept").retain().qos(2, 1).bytes(Version::V5));
    publisher.receive();
    let connect =
        Connect::new(Version::V5, &unique("many-retained")).with(Property::two(id::RECEIVE_MAXIMUM, 1));
    let mut subscriber = broker.connect(&connect);
    subscriber.subscribe(&format!("{base}/+"), 1);
    let mut seen: Vec<String> = Vec::new();
    let mut answered = 0;
    for number in 0..topics.len() {
        // The answers to its pings may come between any two messages.
        let publish = loop {
            match subscriber.receive() {
                Packet::Publish(publish) => break publish,
                other => assert_eq!(other, Packet::PingResp),
            }
            answered += 1;
        };
        assert!(publish.retain);
        subscriber.acknowledge(&publish);
        seen.push(publish.topic);
        // Others are served in the meantime, this client too.
        if number % 1000 == 0 {
            subscriber.send(&crate::harness::pingreq());
        }
        if number % 1000 == 500 {
            publisher.ping();
        }
        assert_eq!(seen.len(), number + 1);
    }
    for _ in answered..3 {
        subscriber.expect(&Packet::PingResp);
    }
    seen.sort();
    assert_eq!(seen, topics);
    broker.assert_healthy();
}

#[test]
fn a_subscribe_is_answered_while_retained_messages_wait_for_their_client() {
    // Its client has first to acknowledge what it was sent for another one.
    let broker = Broker::shared();
    let base = unique("waiting");
    let mut publisher = broker.client(Version::V5, &unique("waiting"));
    for number in 0..3 {
        retain(&mut publisher, &format!("{base}/{number}"), "kept", 1);
    }
    let connect = Connect::new(Version::V5, &unique("waiting")).with(Property::two(id::RECEIVE_MAXIMUM, 1));
    let mut subscriber = broker.connect(&connect);
    assert_eq!(subscriber.subscribe(&format!("{base}/+"), 1), 1);
    assert_eq!(subscriber.subscribe(&format!("{base}/2"), 0), 0);
    let mut seen: Vec<String> = (0..4)
        .map(|_| {
            let publish = subscriber.expect_any_publish();
            subscriber.acknowledge(&publish);
            publish.topic
        })
        .collect();
    seen.sort();
    assert_eq!(seen, ["0", "1", "2", "2"].map(|number| format!("{base}/{number}")));
    for number in 0..3 {
        retain(&mut publisher, &format!("{base}/{number}"), "", 0);
    }
}

#[test]
fn what_a_client_has_just_retained_is_found() {
    // [MQTT-3.3.1-5] [MQTT-3.3.1-9]
    let broker = Broker::shared();
    for version in Version::ALL {
        let topic = unique("just-retained");
        let mut client = broker.client(version, &unique("just-retained"));
        for number in 0..20 {
            let payload = number.to_string();
            let filter = if number % 2 == 0 { topic.clone() } else { format!("{topic}/#") };
            // In one write, and nothing says that the message is kept.
            let publish = Publish::new(&topic, &payload).retain().bytes(version);
            let subscribe = subscribe(version, 1, &[], &[(&filter, 0)]);
            client.send(&[publish, subscribe].concat());
            // [MQTT-3.8.4-2] does not say which of them comes first.
            let answers = [client.receive(), client.receive()];
            let kept = answers.iter().find_map(|packet| match packet {
                Packet::Publish(publish) => Some((publish.retain, publish.payload.as_slice())),
                _ => None,
            });
            assert_eq!(kept, Some((true, payload.as_bytes())), "{answers:?}");
            client.unsubscribe(&[&filter]);
        }
        retain(&mut client, &topic, "", 0);
    }
}

#[test]
fn retained_look_ups_that_find_nothing_hold_up_nobody() {
    // Thousands of filters, each of which has to be looked up in thousands of topics and matches none.
    let Some(broker) = Broker::with(&[("node.workers", "1")]) else { return };
    let mut publisher = broker.client(Version::V311, &unique("look-ups"));
    let retained: Vec<u8> = (0..3000)
        .flat_map(|number| Publish::new(&format!("s/{number}/x"), "x").retain().bytes(Version::V311))
        .collect();
    publisher.send(&retained);
    publisher.ping();
    let filters: Vec<String> = (0..10_000).map(|number| format!("s/+/none-{number}")).collect();
    let filters: Vec<(&str, u8)> = filters.iter().map(|filter| (filter.as_str(), 0)).collect();
    let mut searcher = broker.client(Version::V311, &unique("look-ups"));
    searcher.subscribe_with(&[], &filters);
    // While that goes on, everybody is served, the client itself too.
    for _ in 0..3 {
        publisher.ping();
        searcher.ping();
    }
    broker.assert_healthy();
}

#[test]
fn a_qos_2_message_that_is_refused_leaves_its_session_nothing() {
    // [MQTT-4.3.3-4]: the PUBREC ends it, and no PUBREL comes.
    let settings = [("retained.messages_max", "1"), ("session.awaiting_rel_max", "2")];
    let Some(broker) = Broker::with(&settings) else { return };
    broker.client(Version::V5, "other").publish_packet(&Publish::new("first", "x").qos(1, 1).retain());
    let mut client = broker.connect(&Connect::new(Version::V5, "publisher").persistent());
    for id in 1..=4 {
        client.send(&Publish::new("another", "x").qos(2, id).retain().bytes(Version::V5));
        assert!(matches!(client.receive(), Packet::PubRec { id: of, reason: 0x97, .. } if of == id));
    }
    // An identifier that none of them has had.
    assert!(client.publish_packet(&Publish::new("plain", "x").qos(2, 9)) < 0x80);
}
