//! What is published, and what everybody remembers of it.

use std::{collections::HashMap, time::Instant};

use crate::harness::Publish;

/// A message: who published it, and as the how manieth.
pub(super) type Id = (String, u32);

/// What its publisher knows of a message.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) topic: String,
    pub(super) qos: u8,
    /// Before its first byte was sent.
    pub(super) at: Instant,
    /// How often it was sent as a message of its own: at QoS 1 each repetition may become one.
    pub(super) copies: u32,
    /// The broker has taken it over: PUBACK or PUBREC.
    pub(super) acked: bool,
}

/// All messages of a round.
pub(super) type Sendings = HashMap<Id, Sent>;

/// What a subscriber knows of a message: one entry for each copy that is not a repetition to it.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub(super) id: Id,
    pub(super) topic: String,
    pub(super) qos: u8,
    pub(super) dup: bool,
    /// The client has acknowledged it. A message that was not may go to another member of the group.
    pub(super) consumed: bool,
}

/// First levels of the topics.
pub(super) const ZONES: [&str; 4] = ["z0", "z1", "z2", "z3"];

/// The topic of a zone in a round, for one publisher.
pub(super) fn topic(zone: &str, round: usize, publisher: usize) -> String {
    format!("{zone}/{round}/{publisher}")
}

/// A payload that names the message, with as much behind it.
pub(super) fn payload(publisher: &str, number: u32, padding: usize) -> Vec<u8> {
    let mut payload = format!("{publisher}/{number} ").into_bytes();
    payload.resize(payload.len() + padding, b'.');
    payload
}

/// The message that a payload names.
#[track_caller]
pub(super) fn identify(publish: &Publish) -> Id {
    let text = str::from_utf8(&publish.payload).expect("what was published is text");
    let (name, padding) = text.split_once(' ').unwrap_or_else(|| panic!("nobody published {publish:?}"));
    assert!(padding.bytes().all(|byte| byte == b'.'), "the payload of {name} is damaged");
    let (publisher, number) = name.rsplit_once('/').expect("a publisher and a number");
    (publisher.to_owned(), number.parse().expect("a number"))
}

/// Whether a filter matches a topic (section 4.7); no topic here begins with `$`.
pub(super) fn matches(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for part in filter.split('/') {
        match (part, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (part, Some(level)) if part == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}
