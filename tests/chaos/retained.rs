//! Retained messages that are set and deleted while others look.

use std::{collections::HashMap, time::Instant};

use super::{
    Storm,
    message::{identify, payload},
    random::Random,
};
use crate::harness::{Client, DEADLINE, Event, Packet, Publish, Version, disconnect, unique};

/// The number of the value of each topic; `None`: there is none.
pub(super) type Values = HashMap<String, Option<u32>>;

/// Messages of one writer in one round at most: the watcher must keep up.
const MESSAGES_MAX: u32 = 1_500;
/// Topics of one writer.
const TOPICS: usize = 5;

fn filter(round: usize) -> String {
    format!("keep/r{round}/#")
}

/// Sets and deletes, each time acknowledged; returns what is there at the end.
pub(super) fn write(storm: &Storm<'_>, number: usize, mut random: Random) -> Values {
    let mut values = Values::new();
    let version = random.pick(&Version::ALL);
    let mut client = storm.broker.client(version, &format!("k{}-{number}", storm.round));
    let mut next = 0;
    while storm.goes_on() && next < MESSAGES_MAX {
        let topic = format!("keep/r{}/{number}-{}", storm.round, random.below(TOPICS));
        let value = (!random.once_in(4)).then_some(next);
        let payload = value.map_or_else(Vec::new, |value| payload(&topic, value, random.below(30)));
        let qos = random.pick(&[1, 2]);
        let id = client.next_id();
        let reason = client.publish_packet(&Publish::new(&topic, payload).qos(qos, id).retain());
        assert!(reason < 0x80, "a retained message is refused with {reason:#04x}");
        values.insert(topic, value);
        next += 1;
    }
    client.disconnect();
    values
}

/// Looks, with a new subscription each time.
pub(super) fn read(storm: &Storm<'_>, number: usize, mut random: Random) {
    while storm.goes_on() {
        let mut view = View::new(storm, number, random.pick(&Version::ALL), random.pick(&[0, 1, 2]));
        for _ in 0..random.below(40) {
            view.step();
        }
        if random.once_in(2) {
            view.leave();
        }
    }
}

/// Looks from beginning to end, and must know the last values from what it saw.
pub(super) fn watch(storm: &Storm<'_>) {
    let mut view = View::new(storm, 100, Version::V5, 1);
    let mut deadline = None;
    loop {
        assert!(!storm.is_lost(), "another actor has failed");
        view.step();
        let Some(expected) = storm.retained.get() else { continue };
        let is_seen =
            |(topic, value): (&String, &Option<u32>)| view.seen.get(topic).copied().flatten() == *value;
        if expected.iter().all(is_seen) {
            return;
        }
        let deadline = *deadline.get_or_insert_with(|| Instant::now() + DEADLINE);
        assert!(Instant::now() < deadline, "saw {:?} at last, not {expected:?}", view.seen);
    }
}

/// A new subscription gets the last values and nothing else. Deletes them.
pub(super) fn expect_final(storm: &Storm<'_>) {
    let expected = storm.retained.get().expect("the storm is over");
    let mut publisher = storm.broker.client(Version::V5, &unique("retained"));
    let mut client = storm.broker.client(Version::V5, &unique("retained"));
    client.subscribe(&filter(storm.round), 0);
    let seen: Values = client
        .publishes_from(&mut publisher)
        .into_iter()
        .map(|publish| (publish.topic.clone(), Some(identify(&publish).1)))
        .collect();
    let expected_now: Values = expected
        .iter()
        .filter(|(_, value)| value.is_some())
        .map(|(topic, value)| (topic.clone(), *value))
        .collect();
    assert_eq!(seen, expected_now, "retained messages, and the last that was acknowledged");
    for topic in expected.keys() {
        publisher.publish_packet(&Publish::new(topic, "").retain());
    }
    publisher.ping();
    publisher.disconnect();
    client.vanish();
}

/// A subscription to all retained messages.
struct View {
    client: Client,
    version: Version,
    /// The last value of each topic.
    seen: Values,
    /// The last value of each topic that was published since, not kept from before.
    live: HashMap<String, u32>,
}

impl View {
    fn new(storm: &Storm<'_>, number: usize, version: Version, qos: u8) -> Self {
        let mut client = storm.broker.client(version, &format!("v{}-{number}", storm.round));
        assert_eq!(client.subscribe(&filter(storm.round), qos), qos);
        Self { client, version, seen: Values::new(), live: HashMap::new() }
    }

    /// Says goodbye whatever is on its way.
    fn leave(mut self) {
        self.client.send(&disconnect(self.version, 0, &[]));
        while self.client.next_event(DEADLINE).expect("the broker closes") != Event::Closed {}
    }

    /// Takes what comes, if anything comes soon.
    fn step(&mut self) {
        let publish = match self.client.next_event(std::time::Duration::from_millis(2)) {
            None => return,
            Some(Event::Packet(Packet::Publish(publish))) => publish,
            other => panic!("a reader gets {other:?}"),
        };
        self.client.acknowledge(&publish);
        let topic = &publish.topic;
        assert!(!(publish.retain && publish.payload.is_empty()), "{topic}: nothing, retained");
        let value = (!publish.payload.is_empty()).then(|| {
            let (named, value) = identify(&publish);
            assert_eq!(named, *topic, "a value of another topic");
            value
        });
        if let (false, Some(value)) = (publish.retain, value) {
            let before = self.live.insert(topic.clone(), value);
            assert!(before.is_none_or(|before| before < value), "{topic}: {value} after {before:?}");
        }
        self.seen.insert(topic.clone(), value);
    }
}
