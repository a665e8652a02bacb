//! Several clients that believe to be the same.

use super::{Storm, random::Random};
use crate::harness::{Client, Connect, DEADLINE, Event, Packet, Publish, Version, pingreq, subscribe};

/// Connects again and again with one client identifier; returns the last connection, which nobody closed here.
pub(super) fn run(storm: &Storm<'_>, number: usize, mut random: Random) -> Client {
    let name = name(storm, number);
    let topic = format!("rivals/{}-{number}", storm.round);
    loop {
        let version = random.pick(&Version::ALL);
        let connect = Connect::new(version, &name);
        let connect = if random.once_in(2) { connect.persistent() } else { connect };
        let mut client = storm.broker.open(version);
        // What comes behind the CONNECT must follow the connection to whatever worker has the session.
        let mut bytes = connect.bytes();
        bytes.extend(subscribe(version, 1, &[], &[(&topic, 1)]));
        bytes.extend(Publish::new(&topic, "x").qos(1, 2).bytes(version));
        client.try_send(&bytes).expect("nobody has closed a connection without a CONNACK");
        match client.next_event(DEADLINE) {
            Some(Event::Packet(Packet::ConnAck(connack))) => assert_eq!(connack.code, 0, "{name} is refused"),
            other => panic!("{name}: CONNECT is answered by {other:?}"),
        }
        if !storm.goes_on() {
            return client;
        }
        for _ in 0..random.below(6) {
            match client.next_event(DEADLINE) {
                Some(Event::Packet(packet)) => expect_usual(&packet),
                Some(Event::Closed) => break,
                None => panic!("{name}: nothing comes"),
            }
            if client.try_send(&pingreq()).is_err() {
                break;
            }
        }
    }
}

fn name(storm: &Storm<'_>, number: usize) -> String {
    format!("rival{}-{number}", storm.round)
}

/// Every CONNECT was answered: of these connections the broker serves exactly one. Ends their session.
pub(super) fn expect_one_survivor(storm: &Storm<'_>, number: usize, rivals: Vec<Client>) {
    let alive: Vec<Client> = rivals.into_iter().filter_map(survivor).collect();
    assert_eq!(alive.len(), 1, "live connections of one client identifier [MQTT-3.1.4-3]");
    storm.broker.client(Version::V5, &name(storm, number)).disconnect();
}

/// The connection, if it is served.
fn survivor(mut client: Client) -> Option<Client> {
    // That it is closed may show now or only when it is read.
    let _ = client.try_send(&pingreq());
    loop {
        match client.next_event(DEADLINE) {
            Some(Event::Packet(Packet::PingResp)) => return Some(client),
            Some(Event::Packet(packet)) => expect_usual(&packet),
            Some(Event::Closed) => return None,
            None => panic!("a connection is neither served nor closed"),
        }
    }
}

fn expect_usual(packet: &Packet) {
    match packet {
        Packet::Publish(_) | Packet::SubAck { .. } | Packet::PubAck { .. } | Packet::PingResp => {}
        Packet::Disconnect { reason: 0x8E, .. } => {}
        other => panic!("a rival gets {other:?}"),
    }
}
