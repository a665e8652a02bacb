//! The order of one client's messages, where workers hand over to each other.

use std::thread;

use crate::harness::{Broker, Client, Packet, Publish, Version, disconnect, unique};

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
