//! Clients that mean no good.

use std::net::Shutdown;

use super::{Storm, message::ZONES, random::Random};
use crate::harness::{
    Client, Connect, DEADLINE, Event, Publish, Version, ack, pingreq, subscribe, unsubscribe,
};

/// Sends anything after a CONNECT, and expects to be got rid of.
pub(super) fn send_garbage(storm: &Storm<'_>, mut random: Random) {
    let name = format!("garbler{}", storm.round);
    while storm.goes_on() {
        let version = random.pick(&Version::ALL);
        let mut client = storm.broker.client(version, &name);
        // The broker may have closed before it is all sent.
        let _ = client.try_send(&garbage(version, &mut random));
        let _ = client.stream().shutdown(Shutdown::Write);
        loop {
            match client.next_event(DEADLINE) {
                Some(Event::Closed) => break,
                Some(Event::Packet(_)) => {}
                None => panic!("{name} is still connected"),
            }
        }
    }
}

/// Noise, or packets with a few wrong bits.
fn garbage(version: Version, random: &mut Random) -> Vec<u8> {
    let len = 1 + random.below(300);
    if random.once_in(3) {
        return random.bytes(len);
    }
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let id = 1 + u16::try_from(random.below(4)).expect("a small number");
        bytes.extend(match random.below(6) {
            0 => Publish::new("garbage/a", "text").qos(random.pick(&[1, 2]), id).bytes(version),
            1 => Publish::new("garbage/b", "text").bytes(version),
            2 => subscribe(version, id, &[], &[("garbage/#", 1), ("$share/g/garbage/+", 2)]),
            3 => unsubscribe(version, id, &["garbage/#"]),
            4 => ack(random.pick(&[0x40, 0x50, 0x62, 0x70]), id),
            _ => pingreq(),
        });
    }
    for _ in 0..random.below(6) {
        let at = random.below(bytes.len());
        bytes[at] ^= 1 << random.below(8);
    }
    bytes.truncate(1 + random.below(bytes.len()));
    bytes
}

/// Subscribes to everything and never reads again.
pub(super) fn never_read(storm: &Storm<'_>) -> Client {
    let mut client = storm.broker.connect(&Connect::new(Version::V5, &format!("deaf{}", storm.round)));
    for (qos, zone) in [0, 1, 2, 0].into_iter().zip(ZONES) {
        client.send(&subscribe(Version::V5, 1 + u16::from(qos), &[], &[(&format!("{zone}/#"), qos)]));
    }
    client
}
