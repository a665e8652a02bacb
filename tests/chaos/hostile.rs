//! Clients that mean no good.

use std::net::Shutdown;

use super::{Storm, message::ZONES, random::Random};
use crate::harness::{Client, Connect, DEADLINE, Event, Version, garbage, subscribe};

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

/// Subscribes to everything and never reads again.
pub(super) fn never_read(storm: &Storm<'_>) -> Client {
    let mut client = storm.broker.connect(&Connect::new(Version::V5, &format!("deaf{}", storm.round)));
    for (qos, zone) in [0, 1, 2, 0].into_iter().zip(ZONES) {
        client.send(&subscribe(Version::V5, 1 + u16::from(qos), &[], &[(&format!("{zone}/#"), qos)]));
    }
    client
}
