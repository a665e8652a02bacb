//! The order of one client's messages, where workers hand over to each other.

use std::thread;

use crate::harness::{Broker, Client, Connect, Packet, Publish, Version, disconnect, unique};

/// Connections of the publisher.
const CONNECTIONS: u32 = 1_500;
const SUBSCRIBERS: usize = 8;

/// Messages of a client that comes again and again with a clean session, each time on whatever worker, reach every
/// subscriber in the order in which the client sent them [MQTT-4.6.0-6].
#[test]
fn order_of_a_client_holds_over_its_clean_sessions() {
    let Some(broker) = Broker::with(&[("node.workers", "4"), ("log.level", "warn")]) else { return };
    let topic = unique("order");
    let subscribers: Vec<Client> = (0..SUBSCRIBERS)
        .map(|_| {
            let mut client = broker.client(Version::V311, &unique("order"));
            client.subscribe(&topic, 0);
            client
        })
        .collect();
    thread::scope(|scope| {
        for mut subscriber in subscribers {
            scope.spawn(move || {
                let mut last = None;
                while last != Some(CONNECTIONS - 1) {
                    let Packet::Publish(publish) = subscriber.receive() else { panic!("only messages come") };
                    let number = u32::from_be_bytes(publish.payload.try_into().expect("four bytes"));
                    assert!(last < Some(number), "{number} after {last:?}");
                    last = Some(number);
                }
            });
        }
        for number in 0..CONNECTIONS {
            let mut client = broker.client(Version::V311, "publisher");
            let mut bytes = Publish::new(&topic, number.to_be_bytes()).bytes(Version::V311);
            bytes.extend(disconnect(Version::V311, 0, &[]));
            client.send(&bytes);
            if number + 1 == CONNECTIONS {
                client.expect_closed();
            }
        }
    });
}

/// Sessions that are all resumed at once.
const SESSIONS: usize = 600;
/// Messages that wait for each of them.
const QUEUED: u32 = 150;

/// Sessions whose clients come back together get all that waits for them, in its order, while others begin [MQTT-4.6.0-6].
#[test]
fn order_of_what_waited_holds_while_others_come_back() {
    let settings = [("node.workers", "1"), ("mqtt.max_inflight", "1000"), ("log.level", "warn")];
    let Some(broker) = Broker::with(&settings) else { return };
    let topic = unique("waiting");
    let connect = |number: usize| Connect::new(Version::V311, &format!("waiting-{number}")).persistent();
    for number in 0..SESSIONS {
        let mut client = broker.connect(&connect(number));
        client.subscribe(&topic, 1);
        client.disconnect();
    }
    let mut publisher = broker.client(Version::V311, "publisher");
    for number in 0..QUEUED {
        publisher.publish(&topic, number.to_be_bytes(), 1);
    }
    let mut clients: Vec<_> = (0..SESSIONS).map(|_| broker.open(Version::V311)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&connect(number).bytes());
    }
    for client in &mut clients {
        assert!(client.expect_connack(0).session_present);
        for number in 0..QUEUED {
            let publish = client.expect_publish(&topic, number.to_be_bytes());
            client.acknowledge(&publish);
        }
    }
}
