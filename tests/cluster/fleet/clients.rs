//! What clients of several nodes can know of each other's messages.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Node, PATIENCE, poll};
use crate::harness::{Client, Event, Packet, Publish, unique};

/// The next so many messages, acknowledged.
#[track_caller]
pub(crate) fn receive(client: &mut Client, count: usize) -> Vec<Publish> {
    let mut publishes = Vec::new();
    while publishes.len() < count {
        let publish = client.expect_any_publish();
        client.acknowledge(&publish);
        publishes.push(publish);
    }
    publishes
}

/// Waits until what `publisher` sends reaches `subscriber`, over all routes that `subscriber` has announced and behind all that
/// `publisher` has sent; returns what came of that, acknowledged.
///
/// A node that has not applied a route yet does not use it, so the first messages of the fence may go nowhere.
#[track_caller]
pub(crate) fn fence(subscriber: &mut Client, publisher: &mut Client) -> Vec<Publish> {
    let topic = unique("fence");
    assert_eq!(subscriber.subscribe(&topic, 1), 1);
    let deadline = Instant::now() + PATIENCE;
    let (mut publishes, mut sent, mut seen) = (Vec::new(), 0u32, 0u32);
    // The last one that was sent ends it, so that none comes later.
    while seen == 0 || seen < sent {
        assert!(Instant::now() < deadline, "nothing gets from the one client to the other");
        if seen == 0 {
            sent += 1;
            publisher.publish(&topic, sent.to_string(), 1);
        }
        while let Some(publish) = next_publish(subscriber, FENCE_PAUSE) {
            if publish.topic == topic {
                seen = number(&publish);
                break;
            }
            publishes.push(publish);
        }
    }
    subscriber.unsubscribe(&[&topic]);
    publishes
}

/// The next message, acknowledged; `None` when none comes within this time.
#[track_caller]
pub(crate) fn next_publish(client: &mut Client, within: Duration) -> Option<Publish> {
    match client.next_event(within)? {
        Event::Packet(Packet::Publish(publish)) => {
            client.acknowledge(&publish);
            Some(publish)
        }
        other => panic!("expected a PUBLISH, got {other:?}"),
    }
}

/// The node lets its client go because it is cut off from the others: the client is to try another one.
///
/// The acknowledgement of a publish must not come first. Server unavailable (0x88), which a CONNACK says, is no reason of a
/// DISCONNECT (table 3.10 of MQTT 5.0): Server busy, Server shutting down and Use another server are.
#[track_caller]
pub(crate) fn expect_let_go(client: &mut Client) {
    match client.receive() {
        Packet::Disconnect { reason: 0x89 | 0x8B | 0x9C, .. } => client.expect_closed(),
        other => panic!("expected DISCONNECT 0x89, 0x8B or 0x9C, got {other:02x?}"),
    }
}

/// A payload that is a number.
#[track_caller]
pub(crate) fn number(publish: &Publish) -> u32 {
    let text = std::str::from_utf8(&publish.payload).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("its payload is no number: {publish:?}"))
}

/// The payloads, which are numbers.
#[track_caller]
pub(crate) fn numbers(publishes: &[Publish]) -> Vec<u32> {
    publishes.iter().map(number).collect()
}

/// Publishes the numbers from 0 on to a topic at QoS 1, one after the other, until it is told to stop.
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    publisher: JoinHandle<u32>,
}

impl Traffic {
    /// From a client of this node.
    #[track_caller]
    pub(crate) fn start(node: &Node, topic: &str) -> Self {
        let mut client = node.client(&unique("traffic"));
        let stop = Arc::new(AtomicBool::new(false));
        let (topic, stopped) = (topic.to_owned(), Arc::clone(&stop));
        let publisher = thread::spawn(move || {
            let mut next = 0;
            while !stopped.load(Ordering::Relaxed) {
                let reason = client.publish(&topic, next.to_string(), 1);
                assert!(reason < 0x80, "a publish must not fail: {reason:#04x}");
                next += 1;
            }
            next
        });
        Self { stop, publisher }
    }

    /// How many messages were acknowledged. Fails when one was not.
    #[track_caller]
    pub(crate) fn stop(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.publisher.join().expect("every message was acknowledged")
    }
}

/// A client that takes and acknowledges what comes, all the time. The payloads must be numbers.
pub(crate) struct Ear {
    stop: Arc<AtomicBool>,
    heard: Arc<Mutex<Vec<u32>>>,
    listener: JoinHandle<Client>,
}

impl Ear {
    pub(crate) fn start(mut client: Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (stopped, hears) = (Arc::clone(&stop), Arc::clone(&heard));
        let listener = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Some(publish) = next_publish(&mut client, EAR_PAUSE) {
                    hears.lock().expect("nobody panics with it").push(number(&publish));
                }
            }
            client
        });
        Self { stop, heard, listener }
    }

    /// How many messages it has heard so far.
    pub(crate) fn count(&self) -> usize {
        self.heard.lock().expect("nobody panics with it").len()
    }

    /// Waits until it has heard so many messages, and stops; the client, and what it has heard.
    #[track_caller]
    pub(crate) fn hear(self, count: u32) -> (Client, Vec<u32>) {
        let wanted = usize::try_from(count).expect("it fits");
        let all = poll(PATIENCE, || (self.count() >= wanted || self.listener.is_finished()).then_some(()));
        let heard = self.count();
        self.stop.store(true, Ordering::Relaxed);
        let client = self.listener.join().expect("its connection goes on");
        assert!(all.is_some(), "it has heard {heard} of {count} messages");
        let heard = self.heard.lock().expect("nobody panics with it").clone();
        (client, heard)
    }
}

/// How long an ear listens before it looks whether it may stop.
const EAR_PAUSE: Duration = Duration::from_millis(50);

/// How long one message of a fence is waited for before the next is sent.
const FENCE_PAUSE: Duration = Duration::from_millis(200);
