//! Retained messages.

use std::sync::Arc;

use flotilla_mqtt::{Message, Timestamp};
pub(crate) use flotilla_retained::Full as RetainedFull;
use flotilla_retained::{Limits, Store};
use parking_lot::RwLock;

use crate::{
    cluster::{Completion, Receipt},
    config,
};

/// Where retained messages are kept: the interface where the shards of a cluster attach.
pub(crate) trait Retained: Send + Sync + std::fmt::Debug {
    /// Keeps `message` for its topic, on all nodes; one with an empty payload deletes instead [MQTT-3.3.1-6]. `done` tells
    /// when, if that cannot be said at once.
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

/// Retained messages of a cluster of one, in memory.
#[derive(Debug)]
pub(crate) struct MemoryRetained(RwLock<Store>);

impl MemoryRetained {
    pub(crate) fn new(limits: &config::Retained) -> Self {
        let bytes_max = limits.bytes_max.and_then(|bytes| usize::try_from(bytes).ok());
        Self(RwLock::new(Store::new(Limits {
            messages_max: limits.messages_max.unwrap_or(usize::MAX),
            bytes_max: bytes_max.unwrap_or(usize::MAX),
        })))
    }
}

impl Retained for MemoryRetained {
    fn set(
        &self,
        message: &Arc<Message>,
        now: Timestamp,
        _: Option<Completion>,
    ) -> Result<Receipt, RetainedFull> {
        self.0.write().set(message, now).map(|()| Receipt::Done)
    }

    fn page(
        &self,
        filter: &str,
        after: Option<&str>,
        count: usize,
        now: Timestamp,
        visit: &mut dyn FnMut(&Arc<Message>),
    ) -> Option<String> {
        self.0.read().page(filter, after, count, now, visit)
    }

    fn expire(&self, now: Timestamp) -> usize {
        self.0.write().expire(now, |_| {})
    }

    fn len(&self) -> usize {
        self.0.read().len()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use flotilla_mqtt::{QoS, session::ClientId};

    use super::*;

    #[test]
    fn the_configured_limits_hold() {
        let now = Timestamp::from_millis(1_000);
        let message = |topic: &str, payload: &'static [u8]| {
            Arc::new(Message {
                topic: topic.into(),
                properties: Bytes::new(),
                payload: Bytes::from_static(payload),
                qos: QoS::AtLeastOnce,
                retain: true,
                expires_at: None,
                publisher: ClientId::new("p"),
            })
        };
        let messages = MemoryRetained::new(&config::Retained { messages_max: Some(1), bytes_max: None });
        messages.set(&message("a", b"1"), now, None).expect("there is room");
        assert_eq!(messages.set(&message("b", b"1"), now, None), Err(RetainedFull));
        let bytes = MemoryRetained::new(&config::Retained { messages_max: None, bytes_max: Some(1_000) });
        bytes.set(&message("a", b"1"), now, None).expect("there is room");
        assert_eq!(bytes.set(&message("b", &[0; 1_000]), now, None), Err(RetainedFull));
        let none = MemoryRetained::new(&config::Retained { messages_max: None, bytes_max: None });
        none.set(&message("b", &[0; 1_000]), now, None).expect("there is room");
        assert_eq!(none.len(), 1);
    }
}
