//! One worker's memory of the topics that it routed lately.

use std::{collections::HashMap, sync::Arc};

use super::{MatchSet, Router};

/// Match sets by topic. Bounded: it holds two generations and the last set; when the young generation is full, in topics or
/// in bytes, it becomes the old one, and the old one, less what was used since, is forgotten.
#[derive(Debug, Default)]
pub(crate) struct MatchCache {
    young: HashMap<Box<str>, Arc<MatchSet>>,
    /// What the young generation takes, about.
    young_bytes: usize,
    old: HashMap<Box<str>, Arc<MatchSet>>,
    /// The topic that was asked for last, and its set: messages come in bursts on one topic.
    last: (String, Option<Arc<MatchSet>>),
}

impl MatchCache {
    /// Topics in one generation.
    const TOPICS: usize = 16_384;
    /// Bytes in one generation, unless a single set is larger. A topic may have 65,535 bytes, and a set as many receivers
    /// as there are sessions.
    const BYTES: usize = 16 << 20;

    /// A longer topic is looked up each time: it is not copied once more.
    const LAST_BYTES: usize = 256;

    /// The receivers of `topic`, as the router has them now.
    pub(crate) fn matches(&mut self, topic: &str, router: &Router) -> &Arc<MatchSet> {
        let (last_topic, last) = &self.last;
        let is_last = last_topic == topic
            && !topic.is_empty()
            && last.as_ref().is_some_and(|last| router.is_current(last.generations));
        if !is_last {
            let set = self.look_up(topic, router);
            self.last.0.clear();
            if topic.len() <= Self::LAST_BYTES {
                self.last.0.push_str(topic);
            }
            self.last.1 = Some(set);
        }
        self.last.1.as_ref().expect("it is there now")
    }

    fn look_up(&mut self, topic: &str, router: &Router) -> Arc<MatchSet> {
        if let Some(known) = self.young.get(topic)
            && router.is_current(known.generations)
        {
            return Arc::clone(known);
        }
        let known = self.old.remove(topic).filter(|known| router.is_current(known.generations));
        let set = known.unwrap_or_else(|| Arc::new(router.matches(topic)));
        self.remember(topic, &set);
        set
    }

    fn remember(&mut self, topic: &str, set: &Arc<MatchSet>) {
        let bytes = topic.len() + set.bytes();
        if self.young.len() >= Self::TOPICS || self.young_bytes + bytes > Self::BYTES {
            // The room stays: growing anew would cost as much again.
            std::mem::swap(&mut self.old, &mut self.young);
            self.young.clear();
            self.young_bytes = 0;
        }
        self.young_bytes += bytes;
        if let Some(outdated) = self.young.insert(topic.into(), Arc::clone(set)) {
            self.young_bytes -= topic.len() + outdated.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use flotilla_mqtt::{QoS, packet::SubscriptionOptions, topic::TopicFilter};

    use super::*;
    use crate::{
        config::{Overlap, SharedStrategy},
        router::{SessionRef, Subscriber, Terms},
    };

    fn router_with(subscribers: u32) -> Router {
        let router = Router::new(1, Overlap::Merge, SharedStrategy::RoundRobin);
        let filter = Arc::new(TopicFilter::parse("#", 128).expect("a valid filter"));
        for slot in 0..subscribers {
            let options = SubscriptionOptions { qos: QoS::AtMostOnce, ..SubscriptionOptions::default() };
            let terms = Terms::new(options, NonZeroU32::new(1));
            let session = SessionRef { worker: 0, slot, epoch: 0 };
            router.subscribe(&filter, Subscriber { session, terms }, &Arc::default());
        }
        router
    }

    fn check(router: &Router, topics: impl Iterator<Item = String>) {
        let mut cache = MatchCache::default();
        for topic in topics {
            cache.matches(&topic, router);
            let bytes: usize = cache.young.iter().map(|(topic, set)| topic.len() + set.bytes()).sum();
            assert_eq!(bytes, cache.young_bytes);
            assert!(bytes <= MatchCache::BYTES && cache.young.len() <= MatchCache::TOPICS);
        }
    }

    #[test]
    fn neither_long_topics_nor_many_receivers_fill_the_memory() {
        check(&router_with(0), (0..400).map(|number| format!("{number}/{}", "x".repeat(65_000))));
        check(&router_with(2_000), (0..200).map(|number| format!("{number}")));
    }

    #[test]
    fn the_topic_that_was_asked_for_last_is_not_answered_from_an_old_set() {
        let router = router_with(0);
        let (filter, session) = (TopicFilter::parse("t", 128), SessionRef { worker: 0, slot: 1, epoch: 0 });
        let filter = Arc::new(filter.expect("a valid filter"));
        let mut cache = MatchCache::default();
        let mut is_empty = |topic: &str| cache.matches(topic, &router).is_empty();
        assert!(is_empty("t") && is_empty("t"));
        let terms = Terms::new(SubscriptionOptions::default(), None);
        router.subscribe(&filter, Subscriber { session, terms }, &Arc::default());
        assert!(!is_empty("t") && is_empty("u") && is_empty("") && !is_empty("t"));
        let long = "x".repeat(MatchCache::LAST_BYTES + 1);
        assert!(is_empty(&long) && is_empty("") && !is_empty("t"));
        router.unsubscribe(&filter, session);
        assert!(is_empty("t"));
    }

    #[test]
    fn a_set_that_is_replaced_is_counted_once() {
        let router = router_with(0);
        let filter = Arc::new(TopicFilter::parse("+", 128).expect("a valid filter"));
        let session = SessionRef { worker: 0, slot: 1, epoch: 0 };
        let mut cache = MatchCache::default();
        for _ in 0..100 {
            cache.matches("t", &router);
            router.unsubscribe(&filter, session);
            let terms = Terms::new(SubscriptionOptions::default(), None);
            router.subscribe(&filter, Subscriber { session, terms }, &Arc::default());
        }
        let set = Arc::clone(cache.matches("t", &router));
        assert_eq!((cache.young.len(), cache.young_bytes), (1, 1 + set.bytes()));
    }
}
