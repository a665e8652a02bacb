//! Retained messages.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use flotilla_mqtt::{Message, Timestamp, topic::TopicMap};
use parking_lot::RwLock;

use crate::config;

/// Where retained messages are kept: the interface where the shards of a cluster attach.
pub(crate) trait Retained: Send + Sync + std::fmt::Debug {
    /// Keeps `message` for its topic; one with an empty payload deletes instead [MQTT-3.3.1-6].
    ///
    /// # Errors
    /// There is no room: nothing has changed.
    fn set(&self, message: &Arc<Message>, now: Timestamp) -> Result<(), RetainedFull>;

    /// Visits up to `count` messages that match `filter`, in the order of their topics, after the topic `after`. Returns
    /// where to go on, or `None` at the end. Nothing is collected, and the store is locked for one page only.
    fn page(
        &self,
        filter: &str,
        after: Option<&str>,
        count: usize,
        now: Timestamp,
        visit: &mut dyn FnMut(&Arc<Message>),
    ) -> Option<String>;

    /// Removes what has expired, a bounded number of messages at a time; returns how many went.
    fn expire(&self, now: Timestamp) -> usize;

    /// How many messages are kept.
    fn len(&self) -> usize;
}

/// The limits of the store are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no room for another retained message (retained.messages_max, retained.bytes_max)")]
pub(crate) struct RetainedFull;

/// Retained messages of a cluster of one, in memory.
#[derive(Debug)]
pub(crate) struct MemoryRetained {
    store: RwLock<Store>,
    messages_max: usize,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Store {
    topics: TopicMap<Arc<Message>>,
    bytes: usize,
    /// When messages expire. An entry whose message has been replaced since is passed over.
    expiries: BinaryHeap<Reverse<(Timestamp, Box<str>)>>,
}

/// Tree look-ups in one page: bounds how long the store is locked, also when hardly anything matches.
const STEPS: usize = 4_096;
/// Messages that one call of `expire` removes.
const EXPIRE_BATCH: usize = 1_024;
/// What a message costs beside its bytes: the tree's entry and the message's own fields.
const OVERHEAD: usize = 200;

impl MemoryRetained {
    pub(crate) fn new(limits: &config::Retained) -> Self {
        let bytes_max = limits.bytes_max.and_then(|bytes| usize::try_from(bytes).ok());
        Self {
            store: RwLock::default(),
            messages_max: limits.messages_max.unwrap_or(usize::MAX),
            bytes_max: bytes_max.unwrap_or(usize::MAX),
        }
    }
}

impl Retained for MemoryRetained {
    fn set(&self, message: &Arc<Message>, now: Timestamp) -> Result<(), RetainedFull> {
        let mut store = self.store.write();
        let old_bytes = store.topics.value(&message.topic).map(|old| cost(old));
        if message.payload.is_empty() || message.is_expired(now) {
            store.topics.remove(&message.topic);
            store.bytes -= old_bytes.unwrap_or(0);
            return Ok(());
        }
        let bytes = store.bytes - old_bytes.unwrap_or(0) + cost(message);
        if bytes > self.bytes_max || (old_bytes.is_none() && store.topics.len() >= self.messages_max) {
            return Err(RetainedFull);
        }
        store.topics.insert(&message.topic, Arc::clone(message));
        store.bytes = bytes;
        if let Some(at) = message.expires_at {
            store.note_expiry(at, &message.topic);
        }
        Ok(())
    }

    fn page(
        &self,
        filter: &str,
        after: Option<&str>,
        count: usize,
        now: Timestamp,
        visit: &mut dyn FnMut(&Arc<Message>),
    ) -> Option<String> {
        let mut left = count;
        self.store.read().topics.page(filter, after, STEPS, |_, message| {
            if !message.is_expired(now) {
                visit(message);
                left -= 1;
            }
            left > 0
        })
    }

    fn expire(&self, now: Timestamp) -> usize {
        let mut store = self.store.write();
        let mut removed = 0;
        for _ in 0..EXPIRE_BATCH {
            if store.expiries.peek().is_none_or(|Reverse((at, _))| *at > now) {
                break;
            }
            let Some(Reverse((at, topic))) = store.expiries.pop() else { break };
            if store.topics.value(&topic).is_some_and(|message| message.expires_at == Some(at)) {
                let message = store.topics.remove(&topic).expect("it was there a line ago");
                store.bytes -= cost(&message);
                removed += 1;
            }
        }
        removed
    }

    fn len(&self) -> usize {
        self.store.read().topics.len()
    }
}

impl Store {
    /// A topic that is set again and again leaves passed-over entries behind: they go when they outnumber the others.
    fn note_expiry(&mut self, at: Timestamp, topic: &str) {
        if self.expiries.len() > 2 * self.topics.len() + 64 {
            let topics = &self.topics;
            let is_live =
                |at: Timestamp, topic: &str| topics.value(topic).is_some_and(|m| m.expires_at == Some(at));
            self.expiries.retain(|Reverse((at, topic))| is_live(*at, topic));
        }
        self.expiries.push(Reverse((at, topic.into())));
    }
}

fn cost(message: &Message) -> usize {
    message.size() + OVERHEAD
}
