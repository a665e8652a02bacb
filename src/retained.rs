//! Retained messages of the broker itself: what `$SYS` says on this node. All others are in the shards.

use std::{collections::VecDeque, sync::Arc};

use flotilla_mqtt::{Message, topic::TopicMap};
use parking_lot::RwLock;

/// The last message of each topic below `$SYS`. They are few, and do not expire.
#[derive(Debug, Default)]
pub(crate) struct OwnRetained(RwLock<TopicMap<Arc<Message>>>);

/// Topics that are looked at for one page, whether they match or not.
const STEPS_MAX: usize = 4_096;

impl OwnRetained {
    /// Keeps a message for its topic; one with an empty payload deletes instead.
    pub(crate) fn set(&self, message: &Arc<Message>) {
        let mut topics = self.0.write();
        if message.payload.is_empty() {
            topics.remove(&message.topic);
        } else {
            topics.insert(&message.topic, Arc::clone(message));
        }
    }

    /// Adds up to `count` messages to `found` that match `filter` and come behind the topic `after`, in order. Returns where to
    /// go on; `None`: there is nothing more.
    pub(crate) fn page(
        &self,
        filter: &str,
        after: Option<&str>,
        count: usize,
        found: &mut VecDeque<Arc<Message>>,
    ) -> Option<String> {
        let mut left = count;
        self.0.read().page(filter, after, STEPS_MAX, |_, message| {
            found.push_back(Arc::clone(message));
            left -= 1;
            left > 0
        })
    }

    /// How many messages are kept.
    pub(crate) fn len(&self) -> usize {
        self.0.read().len()
    }
}

/// Whether only the broker itself publishes to topics like this, or to what matches this filter.
pub(crate) fn is_own(topic_or_filter: &str) -> bool {
    topic_or_filter.strip_prefix("$SYS").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether the broker says this of itself to the subscribers of this node alone. What names the node goes to those of all nodes; the
/// rest, such as `$SYS/broker`, would mix there with what the others say of themselves.
pub(crate) fn is_of_this_node(topic: &str) -> bool {
    is_own(topic) && !topic.starts_with("$SYS/brokers/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_message_of_a_topic_is_kept_until_it_is_deleted() {
        let own = OwnRetained::default();
        for (topic, value) in
            [("$SYS/a", "1"), ("$SYS/b", "1"), ("$SYS/a", "2"), ("$SYS/c", "1"), ("$SYS/b", "")]
        {
            own.set(&crate::sys::message(topic, value.into(), true));
        }
        assert_eq!(own.len(), 2);
        let mut found = VecDeque::new();
        let next = own.page("$SYS/+", None, 1, &mut found);
        assert_eq!(next.as_deref(), Some("$SYS/a"));
        assert_eq!(own.page("$SYS/+", next.as_deref(), 9, &mut found), None);
        let found: Vec<_> = found.iter().map(|message| (&*message.topic, &message.payload[..])).collect();
        assert_eq!(found, [("$SYS/a", &b"2"[..]), ("$SYS/c", b"1")]);
    }

    #[test]
    fn only_the_tree_of_the_server_is_its_own() {
        assert!(is_own("$SYS") && is_own("$SYS/#") && is_own("$SYS/a/b"));
        assert!(!is_own("$SYSTEM/a") && !is_own("#") && !is_own("a/$SYS"));
        assert!(is_of_this_node("$SYS/broker/uptime") && !is_of_this_node("$SYS/brokers/a/uptime"));
        assert!(!is_of_this_node("a"));
    }
}
