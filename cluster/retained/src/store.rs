//! Messages by topic, within limits: what every node looks retained messages up in.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use flotilla_mqtt::{Message, Timestamp, topic::TopicMap};

/// What retained messages may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `retained.messages_max`.
    pub messages_max: usize,
    /// `retained.bytes_max`.
    pub bytes_max: usize,
}

/// The limits are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no room for another retained message (retained.messages_max, retained.bytes_max)")]
pub struct Full;

/// Retained messages in the order of their topics.
#[derive(Debug)]
pub struct Store {
    topics: TopicMap<Arc<Message>>,
    limits: Limits,
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

impl Store {
    /// A store without messages.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { topics: TopicMap::new(), limits, used: Use::NOTHING, expiries: BinaryHeap::new() }
    }

    /// Keeps `message` for its topic; one with an empty payload deletes instead [MQTT-3.3.1-6].
    ///
    /// # Errors
    /// There is no room: nothing has changed.
    pub fn set(&mut self, message: &Arc<Message>, now: Timestamp) -> Result<(), Full> {
        if deletes(message, now) {
            self.remove(&message.topic);
            return Ok(());
        }
        if !self.has_room(message) {
            return Err(Full);
        }
        self.put(message);
        Ok(())
    }

    /// Whether the limits allow `message`: it takes no more than what it replaces, or there is room for it.
    #[must_use]
    pub fn has_room(&self, message: &Message) -> bool {
        let used = self.used.exchange(self.used_by(&message.topic), Use::of(message));
        let grows = used.messages > self.used.messages || used.bytes > self.used.bytes;
        !grows || (used.messages <= self.limits.messages_max && used.bytes <= self.limits.bytes_max)
    }

    /// Keeps `message`, whose payload is not empty, whatever the limits say; returns what it replaces.
    pub fn put(&mut self, message: &Arc<Message>) -> Option<Arc<Message>> {
        let old = self.topics.insert(&message.topic, Arc::clone(message));
        let old_use = old.as_deref().map_or(Use::NOTHING, Use::of);
        self.used = self.used.exchange(old_use, Use::of(message));
        if let Some(at) = message.expires_at {
            self.note_expiry(at, &message.topic);
        }
        old
    }

    /// Deletes the message of a topic.
    pub fn remove(&mut self, topic: &str) -> Option<Arc<Message>> {
        let old = self.topics.remove(topic)?;
        self.used = self.used.exchange(Use::of(&old), Use::NOTHING);
        Some(old)
    }

    /// The message of a topic, also when it has expired and is not removed yet.
    #[must_use]
    pub fn message(&self, topic: &str) -> Option<&Arc<Message>> {
        self.topics.value(topic)
    }

    /// Visits up to `count` messages that match `filter`, in the order of their topics, after the topic `after`. Returns
    /// where to go on, or `None` at the end. Nothing is collected, and the work of one page is bounded.
    pub fn page(
        &self,
        filter: &str,
        after: Option<&str>,
        count: usize,
        now: Timestamp,
        visit: &mut dyn FnMut(&Arc<Message>),
    ) -> Option<String> {
        let mut left = count;
        self.topics.page(filter, after, STEPS, |_, message| {
            if !message.is_expired(now) {
                visit(message);
                left -= 1;
            }
            left > 0
        })
    }

    /// Removes what has expired, a bounded number of messages at a time, and shows it to `removed`; returns how many
    /// went.
    pub fn expire(&mut self, now: Timestamp, mut removed: impl FnMut(&Message)) -> usize {
        let mut count = 0;
        for _ in 0..EXPIRE_BATCH {
            if self.expiries.peek().is_none_or(|Reverse((at, _))| *at > now) {
                break;
            }
            let Some(Reverse((at, topic))) = self.expiries.pop() else { break };
            let is_due = self.topics.value(&topic).is_some_and(|message| message.expires_at == Some(at));
            if is_due && let Some(message) = self.remove(&topic) {
                removed(&message);
                count += 1;
            }
        }
        count
    }

    /// How many messages are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Whether no message is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    fn used_by(&self, topic: &str) -> Use {
        self.topics.value(topic).map_or(Use::NOTHING, |message| Use::of(message))
    }

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

/// Whether setting `message` is deleting what its topic has.
pub(crate) fn deletes(message: &Message, now: Timestamp) -> bool {
    message.payload.is_empty() || message.is_expired(now)
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

    fn store(messages_max: usize, bytes_max: usize) -> Store {
        Store::new(Limits { messages_max, bytes_max })
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

    fn topics(store: &Store, filter: &str, now: Timestamp) -> Vec<String> {
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
        let mut store = store(10, 1 << 20);
        store.set(&message("a", "1", "p", None), NOW).expect("there is room");
        store.set(&message("a", "", "p", None), NOW).expect("deleting needs no room");
        assert_eq!((store.len(), store.used), (0, Use::NOTHING));
    }

    #[test]
    fn limits_refuse_what_is_new_and_let_what_is_there_be_replaced_and_deleted() {
        let mut store = store(2, 1 << 20);
        store.set(&message("a", "1", "p", None), NOW).expect("there is room");
        store.set(&message("b", "1", "p", None), NOW).expect("there is room");
        assert_eq!(store.set(&message("c", "1", "p", None), NOW), Err(Full));
        store.set(&message("a", "2", "p", None), NOW).expect("it replaces");
        store.set(&message("b", "", "p", None), NOW).expect("it deletes");
        store.set(&message("c", "1", "p", None), NOW).expect("there is room again");
        assert_eq!(topics(&store, "#", NOW), ["a", "c"]);
    }

    #[test]
    fn bytes_are_limited_too() {
        let mut store = store(10, 2 * (OVERHEAD + 2));
        store.set(&message("a", "1", "p", None), NOW).expect("there is room");
        store.set(&message("b", "1", "p", None), NOW).expect("it just fits");
        assert_eq!(store.set(&message("b", "12", "p", None), NOW), Err(Full));
    }

    #[test]
    fn the_brokers_own_messages_take_no_room() {
        let mut store = store(1, 1 << 20);
        store.set(&message("$SYS/a", "1", "", None), NOW).expect("they always fit");
        store.set(&message("$SYS/b", "1", "", None), NOW).expect("they always fit");
        store.set(&message("a", "1", "p", None), NOW).expect("there is room");
        assert_eq!(store.set(&message("b", "1", "p", None), NOW), Err(Full));
    }

    #[test]
    fn what_has_expired_is_not_found_and_goes() {
        let mut store = store(10, 1 << 20);
        store.set(&message("a", "1", "p", Some(2_000)), NOW).expect("there is room");
        store.set(&message("b", "1", "p", Some(2_000)), NOW).expect("there is room");
        store.set(&message("b", "2", "p", None), NOW).expect("it replaces");
        let later = Timestamp::from_millis(2_000);
        assert_eq!(topics(&store, "#", later), ["b"]);
        let mut gone = Vec::new();
        assert_eq!(store.expire(NOW, |message| gone.push(message.topic.clone())), 0);
        assert_eq!(store.expire(later, |message| gone.push(message.topic.clone())), 1);
        assert_eq!((gone, store.len()), (vec!["a".into()], 1));
    }

    #[test]
    fn a_topic_that_is_set_again_and_again_leaves_nothing_behind() {
        let mut store = store(10, 1 << 20);
        for at in 2_000..12_000 {
            store.set(&message("a", "1", "p", Some(at)), NOW).expect("it replaces");
        }
        assert!(store.expiries.len() < 100);
    }
}
