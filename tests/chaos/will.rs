//! Clients that die, and clients that say goodbye.

use std::time::Instant;

use super::{
    Storm,
    message::{Sendings, Sent, ZONES, payload, topic},
    random::Random,
};
use crate::harness::{Connect, DEADLINE, Event, Packet, Version, Will};

/// Publishes wills until the storm is over. Those of clients that said goodbye are not among what is returned, so nobody
/// may get them.
pub(super) fn run(storm: &Storm<'_>, number: usize, mut random: Random) -> Sendings {
    let mut sendings = Sendings::new();
    let name = format!("w{}-{number}", storm.round);
    let mut next = 0;
    while storm.goes_on() {
        let version = random.pick(&[Version::V31, Version::V311, Version::V5]);
        let qos = u8::try_from(random.below(3)).expect("below three");
        let topic = topic(random.pick(&ZONES), storm.round, super::PUBLISHERS + number);
        let will = Will::new(&topic, payload(&name, next, 0)).qos(qos);
        let sent = Sent { topic, qos, at: Instant::now(), copies: 1, acked: true };
        let mut client = storm.broker.connect(&Connect::new(version, &name).will(will));
        let dies = match random.below(4) {
            0 => {
                client.disconnect();
                false
            }
            1 => {
                client.vanish();
                true
            }
            2 => {
                storm.broker.client(Version::V5, &name).disconnect();
                true
            }
            _ => {
                // A second CONNECT.
                client.send(&Connect::new(version, &name).bytes());
                loop {
                    match client.next_event(DEADLINE) {
                        Some(Event::Closed) => break,
                        Some(Event::Packet(Packet::Disconnect { reason: 0x82, .. })) => {}
                        other => panic!("a second CONNECT is answered by {other:?}"),
                    }
                }
                true
            }
        };
        if dies {
            sendings.insert((name.clone(), next), sent);
        }
        next += 1;
    }
    sendings
}

/// Whether this publisher is one of those whose connections are too short to be in any order.
pub(super) fn is_will(publisher: &str) -> bool {
    publisher.starts_with('w')
}
