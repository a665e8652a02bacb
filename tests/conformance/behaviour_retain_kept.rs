//! Retained messages for sessions that outlive their connections (sections 3.3.1.3 and 4.4).

use std::collections::BTreeMap;

use crate::harness::{
    Broker, Client, Connect, Packet, Property, Publish, Version, ack, property_id as id, subscribe, unique,
};

fn retain(publisher: &mut Client, topic: &str, payload: &str) {
    let id = publisher.next_id();
    assert!(publisher.publish_packet(&Publish::new(topic, payload).qos(2, id).retain()) < 0x80);
}

/// Subscribes to one filter; returns what comes behind the SUBACK, which is the first to come.
#[track_caller]
fn subscribed(client: &mut Client, version: Version, filter: &str, options: u8) -> Publish {
    let properties = if version == Version::V5 { &[Property::subscription_id(9)][..] } else { &[] };
    let packet_id = client.next_id();
    client.send(&subscribe(version, packet_id, properties, &[(filter, options)]));
    client.expect(&Packet::SubAck { id: packet_id, reasons: vec![options & 0b11] });
    client.expect_any_publish()
}

#[test]
fn a_retained_message_that_is_not_acknowledged_is_sent_again() {
    // [MQTT-4.4.0-1] [MQTT-3.3.1-1] [MQTT-3.3.1-8]
    let broker = Broker::shared();
    for version in Version::ALL {
        for qos in 1..=2 {
            let topic = unique("kept");
            retain(&mut broker.client(version, &unique("kept")), &topic, "x");
            let connect = Connect::new(version, &unique("kept")).persistent();
            let mut client = broker.connect(&connect);
            let seen = subscribed(&mut client, version, &topic, qos);
            assert_eq!((seen.qos, seen.retain, seen.dup, seen.topic.as_str()), (qos, true, false, &*topic));
            for _ in 0..2 {
                client.vanish();
                client = broker.connect(&connect);
                client.assert_resumed();
                client.expect(&Packet::Publish(seen.clone().dup()));
            }
            if qos == 2 {
                client.send(&ack(0x50, seen.id));
                client.expect(&Packet::PubRel { id: seen.id, reason: 0 });
                client.vanish();
                client = broker.connect(&connect);
                client.expect(&Packet::PubRel { id: seen.id, reason: 0 });
                client.send(&ack(0x70, seen.id));
            } else {
                client.acknowledge(&seen);
            }
            client.ping();
            client.vanish();
            let mut client = broker.connect(&connect);
            client.assert_resumed();
            client.ping();
            // It is there for whoever subscribes again, and gets another identifier.
            let again = subscribed(&mut client, version, &topic, qos);
            assert!(again.retain && !again.dup && again.id != seen.id, "{again:?}");
            client.acknowledge(&again);
            retain(&mut client, &topic, "");
            let deleted = client.expect_any_publish();
            assert!(!deleted.retain && deleted.payload.is_empty(), "{deleted:?}");
            client.disconnect();
        }
    }
}

#[test]
fn what_the_broker_says_of_itself_is_sent_again_too() {
    // [MQTT-4.4.0-1]
    let Some(broker) = Broker::with(&[]) else { return };
    let topic = "$SYS/broker/version";
    let mut waiting = broker.client(Version::V5, "waiting");
    waiting.subscribe(topic, 0);
    waiting.expect_any_publish();
    let connect = Connect::new(Version::V5, "kept").persistent();
    let mut client = broker.connect(&connect);
    let seen = subscribed(&mut client, Version::V5, topic, 1);
    assert_eq!((seen.qos, seen.retain), (1, true));
    client.vanish();
    broker.connect(&connect).expect(&Packet::Publish(seen.dup()));
    broker.assert_healthy();
}

#[test]
fn a_kept_session_hears_what_the_broker_says_of_itself() {
    let Some(broker) = Broker::with(&[("sys.interval", "1s")]) else { return };
    let mut client = broker.connect(&Connect::new(Version::V5, "kept").persistent());
    let mut seen = vec![subscribed(&mut client, Version::V5, "$SYS/broker/uptime", 1)];
    while seen.len() < 3 {
        client.acknowledge(&seen[seen.len() - 1]);
        let next = client.expect_any_publish();
        assert_eq!((next.qos, next.retain), (1, false));
        seen.push(next);
    }
    assert!(seen.windows(2).all(|two| two[0].payload != two[1].payload));
    broker.assert_healthy();
}

#[test]
fn a_kept_session_has_the_options_of_its_subscription() {
    // [MQTT-3.8.3-3] [MQTT-3.3.1-8] [MQTT-3.3.1-12] [MQTT-3.3.4-3]
    const NO_LOCAL: u8 = 0x04;
    const RETAIN_AS_PUBLISHED: u8 = 0x08;
    let broker = Broker::shared();
    let base = unique("options");
    let mut client = broker.connect(&Connect::new(Version::V5, &unique("options")).persistent());
    let mut other = broker.client(Version::V5, &unique("options"));
    retain(&mut client, &format!("{base}/own"), "own");
    retain(&mut other, &format!("{base}/other"), "other");
    let options = 1 | NO_LOCAL | RETAIN_AS_PUBLISHED;
    let seen = subscribed(&mut client, Version::V5, &format!("{base}/+"), options);
    assert_eq!((seen.payload.as_slice(), seen.properties.subscription_ids()), (&b"other"[..], vec![9]));
    client.acknowledge(&seen);
    // One that is published now has the flag, too, and is none of those that were found.
    retain(&mut other, &format!("{base}/other"), "newer");
    let live = client.expect_publish(&format!("{base}/other"), "newer");
    assert!(live.retain && live.id != seen.id);
    client.acknowledge(&live);
    // Only what its own publisher has retained is left, at any QoS.
    retain(&mut other, &format!("{base}/other"), "");
    let deleted = client.expect_publish(&format!("{base}/other"), "");
    client.acknowledge(&deleted);
    client.ping();
    assert_eq!(client.subscribe(&format!("{base}/own"), 0), 0);
    assert!(client.expect_publish(&format!("{base}/own"), "own").retain);
    for name in ["own", "other"] {
        retain(&mut other, &format!("{base}/{name}"), "");
    }
}

#[test]
fn many_retained_messages_do_not_overflow_the_queue_of_their_session() {
    // [MQTT-3.3.1-9] [MQTT-3.3.4-9] [MQTT-4.5.0-1]
    const RETAINED: usize = 2_000;
    const BURST: usize = 60;
    for full in ["drop_newest", "drop_oldest"] {
        let settings = [("session.queue_messages_max", "100"), ("session.queue_full", full)];
        let Some(broker) = Broker::with(&settings) else { return };
        let mut publisher = broker.client(Version::V5, "publisher");
        let topics: Vec<String> = (0..RETAINED).map(|number| format!("kept/{number}")).collect();
        for topics in topics.chunks(20) {
            for (packet_id, topic) in (1..).zip(topics) {
                publisher.send(&Publish::new(topic, "x").qos(1, packet_id).retain().bytes(Version::V5));
            }
            for _ in topics {
                let answer = publisher.receive();
                assert!(matches!(answer, Packet::PubAck { reason: ..0x80, .. }), "{answer:?}");
            }
        }
        let connect = Connect::new(Version::V5, "subscriber").persistent();
        let mut subscriber = broker.connect(&connect.clone().with(Property::two(id::RECEIVE_MAXIMUM, 10)));
        assert_eq!(subscriber.subscribe("live", 1), 1);
        assert_eq!(subscriber.subscribe("kept/#", 2), 2);
        let (mut kept, mut live, mut published) = (BTreeMap::new(), 0, 0);
        while kept.len() < RETAINED || live < published {
            let publish = subscriber.expect_any_publish();
            subscriber.acknowledge(&publish);
            if publish.topic == "live" {
                assert_eq!(publish.payload, live.to_string().as_bytes(), "{full}: in order, none is lost");
                live += 1;
                continue;
            }
            assert!(publish.retain && !publish.dup && publish.qos == 1, "{publish:?}");
            assert_eq!(kept.insert(publish.topic, ()), None, "{full}: it came once");
            if kept.len() % 200 == 100 {
                for _ in 0..BURST {
                    publisher.publish("live", published.to_string(), 1);
                    published += 1;
                }
            }
        }
        assert_eq!(live, BURST * RETAINED / 200);
        subscriber.ping();
        subscriber.disconnect();
        broker.connect(&connect).ping();
        broker.assert_healthy();
    }
}

#[test]
fn retained_messages_that_expire_on_their_way_hold_up_no_others() {
    // [MQTT-3.3.2-5]
    let Some(broker) = Broker::with(&[("session.queue_messages_max", "16")]) else { return };
    let mut publisher = broker.client(Version::V5, "publisher");
    let count = 40;
    for number in 0..count {
        let publish = Publish::new(&format!("kept/{number}"), "x").qos(1, 1).retain();
        publisher.publish_packet(&publish.with(Property::four(id::MESSAGE_EXPIRY, 3)));
    }
    let connect = Connect::new(Version::V5, "subscriber").persistent();
    let mut subscriber = broker.connect(&connect.with(Property::two(id::RECEIVE_MAXIMUM, 1)));
    subscriber.subscribe("kept/#", 1);
    // The client takes none of them any more until all have expired, but the first.
    let first = subscriber.expect_any_publish();
    while broker.client(Version::V5, "reader").subscribed_to_any("kept/#") {}
    publisher.publish_packet(&Publish::new("last", "x").qos(1, 1).retain());
    assert_eq!(subscriber.subscribe("last", 1), 1);
    subscriber.acknowledge(&first);
    let seen = subscriber.expect_publish("last", "x");
    subscriber.acknowledge(&seen);
    subscriber.ping();
    broker.assert_healthy();
}

impl Client {
    /// Whether anything is retained for a filter.
    fn subscribed_to_any(mut self, filter: &str) -> bool {
        self.subscribe(filter, 0);
        // What is found comes before the answer to a ping.
        self.send(&crate::harness::pingreq());
        matches!(self.receive(), Packet::Publish(_))
    }
}
