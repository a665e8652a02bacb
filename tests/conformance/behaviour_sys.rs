//! `$SYS`: what the broker says of itself.

use crate::harness::{Broker, Client, Connect, Packet, Property, Publish, Version, property_id, unique};

fn text(publish: &Publish) -> String {
    String::from_utf8(publish.payload.clone()).expect("$SYS is text")
}

/// Waits for a `$SYS` value that is good enough.
#[track_caller]
fn wait_for(client: &mut Client, topic: &str, good: impl Fn(&str) -> bool) {
    let deadline = std::time::Instant::now() + crate::harness::DEADLINE;
    loop {
        let seen = client.expect_any_publish();
        let value = text(&seen);
        if seen.topic == topic && good(&value) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{topic} is {value:?}");
    }
}

#[test]
fn versions_are_readable() {
    let Some(broker) = Broker::with(&[]) else { return };
    let node = broker.node();
    for version in Version::ALL {
        let mut client = broker.client(version, &unique("sys"));
        let expected = env!("CARGO_PKG_VERSION");
        for topic in ["$SYS/broker/version".to_owned(), format!("$SYS/brokers/{node}/version")] {
            // The first may come when it is published; from then on it is there.
            client.subscribe(&topic, 0);
            client.expect_any_publish();
            client.subscribe(&topic, 0);
            let mut seen = client.expect_any_publish();
            if !seen.retain {
                // The value was published while the first subscription was made, and came in both ways.
                seen = client.expect_any_publish();
            }
            assert_eq!(seen.topic, topic);
            assert!(seen.retain, "$SYS values are retained");
            assert!(text(&seen).contains(expected), "{topic}: {:?}", text(&seen));
        }
        client.subscribe("$SYS/brokers", 0);
        let seen = client.expect_any_publish();
        assert_eq!((seen.topic.as_str(), text(&seen).as_str()), ("$SYS/brokers", node));
    }
}

#[test]
fn descriptive_values_are_published() {
    let Some(broker) = Broker::with(&[("sys.interval", "1s")]) else { return };
    let base = format!("$SYS/brokers/{}", broker.node());
    let mut client = broker.client(Version::V5, "sys");
    for name in ["uptime", "datetime", "sysdescr"] {
        let topic = format!("{base}/{name}");
        client.subscribe(&topic, 0);
        wait_for(&mut client, &topic, |value| !value.is_empty());
        client.unsubscribe(&[&topic]);
    }
    client.subscribe("$SYS/broker/uptime", 0);
    wait_for(&mut client, "$SYS/broker/uptime", |value| value.ends_with("seconds"));
}

#[test]
fn counters_count() {
    let Some(broker) = Broker::with(&[("sys.interval", "1s")]) else { return };
    let base = format!("$SYS/brokers/{}", broker.node());
    let mut watcher = broker.client(Version::V5, "watcher");
    let mut clients: Vec<Client> = (0..3).map(|_| broker.client(Version::V311, &unique("counted"))).collect();
    clients[0].subscribe("t", 2);
    for qos in 0..=2 {
        clients[1].publish("t", "x", qos);
        let seen = clients[0].expect_publish("t", "x");
        clients[0].acknowledge(&seen);
    }
    clients[1].publish("nobody", "x", 0);
    clients[1].publish("kept", "", 0);
    clients[1].publish_packet(&Publish::new("kept", "x").retain());
    clients[0].ping();
    clients[1].ping();
    for (name, expected) in [
        ("stats/connections/count", "4"),
        ("stats/sessions/count", "4"),
        ("stats/retained/count", ""),
        ("metrics/messages/qos0/received", "4"),
        ("metrics/messages/qos1/received", "1"),
        ("metrics/messages/qos2/received", "1"),
        ("metrics/messages/qos1/sent", "1"),
        ("metrics/messages/qos2/sent", "1"),
        ("metrics/packets/connect/received", "4"),
        ("metrics/packets/publish/received", "6"),
        ("metrics/packets/puback/received", "1"),
        ("metrics/packets/pubrec/received", "1"),
        ("metrics/packets/pubrel/received", "1"),
        ("metrics/packets/puback/sent", "1"),
        ("metrics/packets/pubrec/sent", "1"),
        ("metrics/packets/pubcomp/sent", "1"),
        ("metrics/packets/pubrel/sent", "1"),
        ("metrics/packets/pingresp/sent", "2"),
        ("metrics/packets/publish/sent", ""),
        ("metrics/packets/pingreq/received", "2"),
        ("metrics/messages/dropped/no_subscribers", "3"),
        ("metrics/client/connected", "4"),
    ] {
        let topic = format!("{base}/{name}");
        watcher.subscribe(&topic, 0);
        wait_for(&mut watcher, &topic, |value| {
            value == expected || (expected.is_empty() && !value.is_empty())
        });
        watcher.unsubscribe(&[&topic]);
    }
    for name in
        ["clients/connected", "clients/total", "messages/received", "bytes/sent", "subscriptions/count"]
    {
        let topic = format!("$SYS/broker/{name}");
        watcher.subscribe(&topic, 0);
        wait_for(&mut watcher, &topic, |value| value.parse::<u64>().is_ok_and(|number| number > 0));
        watcher.unsubscribe(&[&topic]);
    }
}

#[test]
fn client_events() {
    let Some(broker) = Broker::with(&[]) else { return };
    let base = format!("$SYS/brokers/{}/clients", broker.node());
    let mut watcher = broker.client(Version::V5, "watcher");
    watcher.subscribe(&format!("{base}/+/+"), 1);
    for version in Version::ALL {
        let client_id = unique("event");
        let client = broker.connect(&Connect::new(version, &client_id).username("somebody"));
        let seen = watcher.expect_any_publish();
        assert_eq!(seen.topic, format!("{base}/{client_id}/connected"));
        let event: serde_json::Value = serde_json::from_slice(&seen.payload).expect("events are JSON");
        assert_eq!(event["clientid"], client_id);
        assert_eq!(event["username"], "somebody");
        assert_eq!(event["ipaddress"], "127.0.0.1");
        assert_eq!(event["proto_ver"], version as u8);
        assert!(!seen.retain, "an event is not a state");
        watcher.acknowledge(&seen);
        client.disconnect();
        let seen = watcher.expect_any_publish();
        assert_eq!(seen.topic, format!("{base}/{client_id}/disconnected"));
        let event: serde_json::Value = serde_json::from_slice(&seen.payload).expect("events are JSON");
        assert_eq!(event["clientid"], client_id);
        assert!(event["reason"].is_string(), "{event}");
        watcher.acknowledge(&seen);
    }
}

#[test]
fn client_events_with_hostile_client_ids() {
    // A client identifier is data: in JSON it is quoted, in the topic it cannot become a level or a wildcard.
    let Some(broker) = Broker::with(&[]) else { return };
    let base = format!("$SYS/brokers/{}/clients", broker.node());
    let mut watcher = broker.client(Version::V5, "watcher");
    watcher.subscribe(&format!("{base}/#"), 0);
    for client_id in ["a/b", "+", "#", "\",\"admin\":\"", "line\nbreak", "../../x"] {
        broker.client(Version::V311, client_id).disconnect();
        // The strict client refuses a Topic Name with a wildcard by itself.
        for _ in 0..2 {
            let seen = watcher.expect_any_publish();
            let event: serde_json::Value = serde_json::from_slice(&seen.payload).expect("events are JSON");
            assert_eq!(event["clientid"], client_id, "{}", seen.topic);
        }
    }
    broker.assert_healthy();
}

#[test]
fn client_events_with_the_longest_client_ids() {
    // [MQTT-4.7.3-3] A topic name has 65,535 bytes at most: the identifier is cut there, and whole in the payload.
    let Some(broker) = Broker::with(&[]) else { return };
    let mut watcher = broker.client(Version::V5, "watcher");
    watcher.subscribe(&format!("$SYS/brokers/{}/clients/#", broker.node()), 0);
    for client_id in ["x".repeat(65_535), "/".repeat(65_535)] {
        broker.client(Version::V5, &client_id).disconnect();
        for _ in ["connected", "disconnected"] {
            let event = watcher.expect_any_publish();
            let payload: serde_json::Value = serde_json::from_slice(&event.payload).expect("JSON");
            assert_eq!(payload["clientid"], *client_id);
        }
    }
    broker.assert_healthy();
}

#[test]
fn subscription_events_when_asked_for() {
    let settings = [("sys.client_events", "[\"subscribed\", \"unsubscribed\"]")];
    let Some(broker) = Broker::with(&settings) else { return };
    let base = format!("$SYS/brokers/{}/clients", broker.node());
    let mut watcher = broker.client(Version::V5, "watcher");
    watcher.subscribe(&format!("{base}/event/+"), 0);
    let mut client = broker.client(Version::V5, "event");
    client.subscribe("a/+", 1);
    client.unsubscribe(&["a/+"]);
    for kind in ["subscribed", "unsubscribed"] {
        let seen = watcher.expect_any_publish();
        assert_eq!(seen.topic, format!("{base}/event/{kind}"));
        let event: serde_json::Value = serde_json::from_slice(&seen.payload).expect("events are JSON");
        assert_eq!((&event["clientid"], &event["topic"]), (&"event".into(), &"a/+".into()));
    }
    // connected and disconnected were not asked for.
    client.disconnect();
    watcher.expect_nothing_from(&mut broker.client(Version::V5, "publisher"));
}

#[test]
fn nobody_publishes_to_sys() {
    // section 4.7.2
    let broker = Broker::shared();
    let topic = "$SYS/broker/version";
    for version in Version::ALL {
        let mut forger = broker.client(version, &unique("forger"));
        for qos in 0..=2 {
            let forged = Publish::new(topic, "forged").retain().qos(qos, u16::from(qos > 0));
            let code = forger.publish_packet(&forged);
            assert_eq!(code, if version == Version::V5 && qos > 0 { 0x87 } else { 0 });
        }
        let mut client = broker.client(version, &unique("sys"));
        client.subscribe(topic, 0);
        match client.receive() {
            Packet::Publish(seen) => assert_ne!(seen.payload, b"forged"),
            other => panic!("expected a PUBLISH, got {other:?}"),
        }
    }
}

#[test]
fn accepted_sockets_are_counted() {
    let Some(broker) = Broker::with(&[("sys.interval", "1s")]) else { return };
    let mut watcher = broker.client(Version::V5, "watcher");
    let topic = format!("$SYS/brokers/{}/metrics/sockets/accepted", broker.node());
    watcher.subscribe(&topic, 0);
    wait_for(&mut watcher, &topic, |accepted| accepted != "0");
}

#[test]
fn what_is_lost_in_queues_and_sessions_that_end_while_their_clients_are_away_are_counted() {
    let settings = [("sys.interval", "1s"), ("session.queue_messages_max", "2")];
    let Some(broker) = Broker::with(&settings) else { return };
    let expires_in = |seconds| Property::four(property_id::SESSION_EXPIRY, seconds);
    let mut away = broker.connect(&Connect::new(Version::V5, "away").with(expires_in(60)));
    away.subscribe("queue", 1);
    away.disconnect();
    broker.connect(&Connect::new(Version::V5, "expires").with(expires_in(1))).disconnect();
    broker.connect(&Connect::new(Version::V5, "begins anew").persistent()).disconnect();
    broker.client(Version::V5, "begins anew").disconnect();
    let mut publisher = broker.client(Version::V5, "publisher");
    for number in 0..50 {
        publisher.publish("queue", number.to_string(), 1);
    }
    let mut watcher = broker.client(Version::V5, "watcher");
    watcher.subscribe("$SYS/broker/clients/expired", 0);
    wait_for(&mut watcher, "$SYS/broker/clients/expired", |value| value == "1");
    let full = format!("$SYS/brokers/{}/metrics/delivery/dropped/queue_full", broker.node());
    watcher.subscribe(&full, 0);
    wait_for(&mut watcher, &full, |value| value == "48");
    let discarded = format!("$SYS/brokers/{}/metrics/session/discarded", broker.node());
    watcher.subscribe(&discarded, 0);
    wait_for(&mut watcher, &discarded, |value| value == "1");
}

#[test]
fn sessions_whose_clients_are_away_are_counted() {
    let Some(broker) = Broker::with(&[("sys.interval", "1s")]) else { return };
    for client_id in ["away-1", "away-2"] {
        broker.connect(&Connect::new(Version::V5, client_id).persistent()).disconnect();
    }
    let mut watcher = broker.client(Version::V5, "watcher");
    let base = format!("$SYS/brokers/{}", broker.node());
    for (topic, expected) in [
        ("$SYS/broker/clients/total".to_owned(), "3"),
        ("$SYS/broker/clients/connected".to_owned(), "1"),
        ("$SYS/broker/clients/disconnected".to_owned(), "2"),
        (format!("{base}/stats/sessions/count"), "3"),
        (format!("{base}/stats/disk/nearly_full"), "false"),
    ] {
        watcher.subscribe(&topic, 0);
        wait_for(&mut watcher, &topic, |value| value == expected);
    }
    for what in ["log", "store"] {
        let topic = format!("{base}/stats/disk/{what}/bytes");
        watcher.subscribe(&topic, 0);
        wait_for(&mut watcher, &topic, |value| value.parse::<u64>().is_ok_and(|bytes| bytes > 0));
    }
}
