//! Retained messages.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use flotilla_mqtt::{Message, Timestamp, topic::TopicMap};
use parking_lot::RwLock;

use crate::{
    cluster::{Completion, Receipt},
    config,
};

/// Where retained messages are kept: the interface where the shards of a cluster attach.
pub(crate) trait Retained: Send + Sync + std::fmt::Debug {
    /// Keeps `message` for its topic, on all nodes; one with an empty payload deletes instead [MQTT-3.3.1-6]. `done` tells
    /// when that cannot be said at once.
    ///
    /// # Errors
    /// There is no room: nothing has changed.
    fn set(
        &self,
        message: &Arc<Message>,
        now: Timestamp,
        done: Option<Completion>,
    ) -> Result<Receipt, RetainedFull>;

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
    used: Use,
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
    fn set(
        &self,
        message: &Arc<Message>,
        now: Timestamp,
        _: Option<Completion>,
    ) -> Result<Receipt, RetainedFull> {
        let mut store = self.store.write();
        let old = store.topics.value(&message.topic).map_or(Use::NOTHING, |old| Use::of(old));
        if message.payload.is_empty() || message.is_expired(now) {
            store.topics.remove(&message.topic);
            store.used = store.used.exchange(old, Use::NOTHING);
            return Ok(Receipt::Done);
        }
        let used = store.used.exchange(old, Use::of(message));
        let grows = used.messages > store.used.messages || used.bytes > store.used.bytes;
        if grows && (used.messages > self.messages_max || used.bytes > self.bytes_max) {
            return Err(RetainedFull);
        }
        store.topics.insert(&message.topic, Arc::clone(message));
        store.used = used;
        if let Some(at) = message.expires_at {
            store.note_expiry(at, &message.topic);
        }
        Ok(Receipt::Done)
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
                store.used = store.used.exchange(Use::of(&message), Use::NOTHING);
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

/// What messages take of the store's limits. Those of the broker itself (`$SYS`) take nothing: their number is fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Use {
    messages: usize,
    bytes: usize,
}

impl Use {
    const NOTHING: Self = Self { messages: 0, bytes: 0 };

    fn of(message: &Message) -> Self {
        match message.publisher {
            Some(_) => Self { messages: 1, bytes: message.size() + OVERHEAD },
            None => Self::NOTHING,
        }
    }

    /// The sum after `old` has gone out of it and `new` has come in.
    fn exchange(self, old: Self, new: Self) -> Self {
        Self {
            messages: self.messages - old.messages + new.messages,
            bytes: self.bytes - old.bytes + new.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use flotilla_mqtt::{QoS, session::ClientId};

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    fn store(messages_max: usize, bytes_max: u64) -> MemoryRetained {
        MemoryRetained::new(&config::Retained {
            messages_max: Some(messages_max),
            bytes_max: Some(bytes_max),
        })
    }

    fn message(topic: &str, payload: &'static str, publisher: &str, expires_at: Option<u64>) -> Arc<Message> {
        Arc::new(Message {
            topic: topic.into(),
            properties: Bytes::new(),
            payload: payload.into(),
            qos: QoS::AtLeastOnce,
            retain: true,
            expires_at: expires_at.map(Timestamp::from_millis),
            publisher: ClientId::new(publisher),
        })
    }

    fn topics(store: &MemoryRetained, filter: &str, now: Timestamp) -> Vec<String> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let mut visit = |message: &Arc<Message>| found.push(message.topic.to_string());
            after = store.page(filter, after.as_deref(), 2, now, &mut visit);
            if after.is_none() {
                return found;
            }
        }
    }

    #[test]
    fn an_empty_payload_deletes() {
        // [MQTT-3.3.1-6]
        let store = store(10, 1 << 20);
        store.set(&message("a", "1", "p", None), NOW, None).expect("there is room");
        store.set(&message("a", "", "p", None), NOW, None).expect("deleting needs no room");
        assert_eq!((store.len(), store.store.read().used), (0, Use::NOTHING));
    }

    #[test]
    fn limits_refuse_what_is_new_and_let_what_is_there_be_replaced_and_deleted() {
        let store = store(2, 1 << 20);
        store.set(&message("a", "1", "p", None), NOW, None).expect("there is room");
        store.set(&message("b", "1", "p", None), NOW, None).expect("there is room");
        assert_eq!(store.set(&message("c", "1", "p", None), NOW, None), Err(RetainedFull));
        store.set(&message("a", "2", "p", None), NOW, None).expect("it replaces");
        store.set(&message("b", "", "p", None), NOW, None).expect("it deletes");
        store.set(&message("c", "1", "p", None), NOW, None).expect("there is room again");
        assert_eq!(topics(&store, "#", NOW), ["a", "c"]);
    }

    #[test]
    fn bytes_are_limited_too() {
        let store = store(10, 2 * (OVERHEAD as u64 + 2));
        store.set(&message("a", "1", "p", None), NOW, None).expect("there is room");
        store.set(&message("b", "1", "p", None), NOW, None).expect("it just fits");
        assert_eq!(store.set(&message("b", "12", "p", None), NOW, None), Err(RetainedFull));
    }

    #[test]
    fn the_brokers_own_messages_take_no_room() {
        let store = store(1, 1 << 20);
        store.set(&message("$SYS/a", "1", "", None), NOW, None).expect("they always fit");
        store.set(&message("$SYS/b", "1", "", None), NOW, None).expect("they always fit");
        store.set(&message("a", "1", "p", None), NOW, None).expect("there is room");
        assert_eq!(store.set(&message("b", "1", "p", None), NOW, None), Err(RetainedFull));
    }

    #[test]
    fn what_has_expired_is_not_found_and_goes() {
        let store = store(10, 1 << 20);
        store.set(&message("a", "1", "p", Some(2_000)), NOW, None).expect("there is room");
        store.set(&message("b", "1", "p", Some(2_000)), NOW, None).expect("there is room");
        store.set(&message("b", "2", "p", None), NOW, None).expect("it replaces");
        let later = Timestamp::from_millis(2_000);
        assert_eq!(topics(&store, "#", later), ["b"]);
        assert_eq!((store.expire(NOW), store.expire(later), store.len()), (0, 1, 1));
    }

    #[test]
    fn a_topic_that_is_set_again_and_again_leaves_nothing_behind() {
        let store = store(10, 1 << 20);
        for at in 2_000..12_000 {
            store.set(&message("a", "1", "p", Some(at)), NOW, None).expect("it replaces");
        }
        assert!(store.store.read().expiries.len() < 100);
    }
}
