//! What was acknowledged comes to whoever had subscribed: at QoS 1 at least once, at QoS 2 exactly once, and in the order in which its
//! publisher has sent it.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_mqtt::QoS;
use parking_lot::Mutex;

use super::Violation;
use crate::shards::Content;

/// What was published, and what has come.
#[derive(Default)]
pub struct Delivery(Mutex<Ledger>);

#[derive(Default)]
struct Ledger {
    /// Each message, and which of all it was.
    published: BTreeMap<Content, usize>,
    acknowledged: BTreeSet<Content>,
    subscribers: BTreeMap<usize, Subscriber>,
    repeated: u64,
}

/// A session with a subscription, and what has come to its client.
#[derive(Default)]
struct Subscriber {
    filter: &'static str,
    /// What was published after so many others must come; `None`: it is not subscribed.
    since: Option<usize>,
    /// In this session and those before.
    delivered: BTreeMap<Content, u64>,
    /// The last message of each publisher, topic and QoS that came for the first time.
    last: BTreeMap<(usize, usize, QoS), u64>,
}

impl Delivery {
    /// A client sends a message for the first time.
    pub fn published(&self, content: Content) {
        let published = &mut self.0.lock().published;
        let order = published.len();
        published.insert(content, order);
    }

    /// The cluster has taken it over.
    pub fn acknowledged(&self, content: Content) {
        self.0.lock().acknowledged.insert(content);
    }

    /// A client was told that it is subscribed.
    pub fn subscribed(&self, client: usize, filter: &'static str) {
        let ledger = &mut *self.0.lock();
        let subscriber = ledger.subscribers.entry(client).or_default();
        subscriber.filter = filter;
        subscriber.since.get_or_insert(ledger.published.len());
    }

    /// The session of a client has ended, and nothing has to come any more.
    pub fn ended(&self, client: usize) {
        if let Some(subscriber) = self.0.lock().subscribers.get_mut(&client) {
            subscriber.since = None;
            subscriber.last.clear();
        }
    }

    /// A message has come to a client.
    pub fn delivered(&self, client: usize, content: Content) -> Result<(), Violation> {
        let ledger = &mut *self.0.lock();
        let Some(order) = ledger.published.get(&content).copied() else {
            return Err(format!("{content} comes, and nobody has sent it"));
        };
        let subscriber = ledger.subscribers.entry(client).or_default();
        let times = subscriber.delivered.entry(content).or_default();
        *times += 1;
        let Content { publisher, topic, qos, number } = content;
        match (*times, qos) {
            (1, _) => {}
            (_, QoS::ExactlyOnce) => return Err(format!("{content} comes again")),
            _ => {
                ledger.repeated += 1;
                return Ok(());
            }
        }
        // What came before may have gone with an earlier session, and what was on its way meanwhile is no part of the order.
        if subscriber.since.is_none_or(|since| order < since) {
            return Ok(());
        }
        let last = subscriber.last.entry((publisher, topic, qos)).or_default();
        if number <= *last {
            return Err(format!("{content} comes after number {last}"));
        }
        *last = number;
        Ok(())
    }

    /// When all is quiet: nothing is missing.
    pub fn lacks(&self) -> Option<Violation> {
        let ledger = self.0.lock();
        for (client, subscriber) in &ledger.subscribers {
            let Some(since) = subscriber.since else { continue };
            let is_wanted = |content: &Content| is_match(subscriber.filter, content.topic);
            let is_due = |content: &&Content| ledger.published.get(*content).is_some_and(|at| *at >= since);
            let due = ledger.acknowledged.iter().filter(|content| is_wanted(content)).filter(is_due);
            let missing: Vec<&Content> =
                due.filter(|content| !subscriber.delivered.contains_key(content)).collect();
            if let Some(first) = missing.first() {
                return Some(format!(
                    "{} acknowledged messages have not come to client {client}: the first is {first}",
                    missing.len()
                ));
            }
        }
        None
    }

    /// How many were published and acknowledged, how often some came, and how often again.
    pub fn counts(&self) -> (usize, usize, u64, u64) {
        let ledger = self.0.lock();
        let came = ledger.subscribers.values().flat_map(|subscriber| subscriber.delivered.values()).sum();
        (ledger.published.len(), ledger.acknowledged.len(), came, ledger.repeated)
    }
}

/// Whether a filter of the simulation matches a topic.
fn is_match(filter: &str, topic: usize) -> bool {
    matches!(filter, "t/#" | "t/+") || filter == format!("t/{topic}")
}
