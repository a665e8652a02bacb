//! QoS 2 under connections that break at every step, on both sides (section 4.3.3, 4.4).

use std::collections::BTreeSet;

use crate::harness::{Broker, Client, Connect, Event, Packet, Publish, Version, ack, unique};

/// Where in the exchange the publisher's connection breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Break {
    AfterPublish,
    AfterPubrec,
    AfterPubrel,
    Never,
}

const BREAKS: [Break; 7] = [
    Break::Never,
    Break::AfterPublish,
    Break::Never,
    Break::AfterPubrec,
    Break::AfterPubrel,
    Break::AfterPublish,
    Break::Never,
];

/// Breaks the connection and comes back to the session.
fn come_back(broker: &Broker, client: Client, connect: &Connect) -> Client {
    // Half of the time the broker learns of it only by the takeover.
    drop(client);
    let client = broker.connect(connect);
    client.assert_resumed();
    client
}

/// Sends one message, with the connection breaking once on the way.
fn publish_once(
    broker: &Broker,
    mut client: Client,
    connect: &Connect,
    publish: &Publish,
    at: Break,
) -> Client {
    let version = connect.version;
    client.send(&publish.bytes(version));
    if at == Break::AfterPublish {
        // Whether the broker has it is unknown, so it is sent again.
        client = come_back(broker, client, connect);
        client.send(&publish.clone().dup().bytes(version));
    }
    expect_pubrec(&mut client, publish.id);
    if at == Break::AfterPubrec {
        client = come_back(broker, client, connect);
    }
    client.send(&ack(0x62, publish.id));
    if at == Break::AfterPubrel {
        client = come_back(broker, client, connect);
        client.send(&ack(0x62, publish.id));
    }
    match client.receive() {
        // 0x92 when the first PUBREL was taken already.
        Packet::PubComp { id, reason: 0x00 | 0x92 } if id == publish.id => client,
        other => panic!("expected PUBCOMP {}, got {other:?}", publish.id),
    }
}

#[track_caller]
fn expect_pubrec(client: &mut Client, expected: u16) {
    match client.receive() {
        Packet::PubRec { id, reason: 0 } if id == expected => {}
        other => panic!("expected PUBREC {expected}, got {other:?}"),
    }
}

#[test]
fn publisher_breaks_at_every_step() {
    // [MQTT-4.3.3-10] [MQTT-4.3.3-12] [MQTT-4.6.0-5]
    let broker = Broker::shared();
    for version in Version::ALL {
        let topic = unique("exactly-once");
        let mut subscriber = broker.client(Version::V5, &unique("exactly-once"));
        subscriber.subscribe(&topic, 2);
        let connect = Connect::new(version, &unique("exactly-once")).persistent();
        let mut client = broker.connect(&connect);
        for (number, at) in (0..70_u16).zip(BREAKS.into_iter().cycle()) {
            // Few identifiers, so that each is used again and again.
            let publish = Publish::new(&topic, number.to_string()).qos(2, 1 + number % 3);
            client = publish_once(&broker, client, &connect, &publish, at);
        }
        for number in 0..70 {
            let seen = subscriber.expect_publish(&topic, number.to_string());
            assert!(!seen.dup);
            subscriber.acknowledge(&seen);
        }
        subscriber.expect_nothing_from(&mut client);
    }
    broker.assert_healthy();
}

#[test]
fn subscriber_breaks_at_every_step() {
    // [MQTT-4.3.3-4] [MQTT-4.3.3-6] [MQTT-4.4.0-1]
    let broker = Broker::shared();
    for version in Version::ALL {
        let topic = unique("exactly-once");
        let connect = Connect::new(version, &unique("exactly-once")).persistent();
        let mut client = broker.connect(&connect);
        client.subscribe(&topic, 2);
        let mut publisher = broker.client(Version::V5, &unique("exactly-once"));
        for number in 0..100 {
            publisher.publish(&topic, number.to_string(), 2);
        }
        // A receiver as section 4.3.3 describes it (method B is the same to the other side).
        let (mut taken, mut payloads) = (BTreeSet::new(), Vec::new());
        let mut completed = 0;
        let mut step = 0;
        while completed < 100 {
            step += 1;
            let packet = match client.next_event(crate::harness::DEADLINE) {
                Some(Event::Packet(packet)) => packet,
                other => panic!("{completed} completed, then {other:?}"),
            };
            let answer = match packet {
                Packet::Publish(publish) => {
                    if taken.insert(publish.id) {
                        payloads.push(publish.payload);
                    }
                    ack(0x50, publish.id)
                }
                Packet::PubRel { id, reason: 0 } => {
                    completed += usize::from(taken.remove(&id));
                    ack(0x70, id)
                }
                other => panic!("unexpected: {other:?}"),
            };
            // Every seventh packet is the last of its connection, answered or not.
            if step % 14 == 0 {
                client.send(&answer);
            }
            if step % 7 == 0 {
                client = come_back(&broker, client, &connect);
            } else {
                client.send(&answer);
            }
        }
        let expected: Vec<Vec<u8>> = (0..100).map(|number| number.to_string().into_bytes()).collect();
        assert_eq!(payloads, expected);
    }
    broker.assert_healthy();
}
