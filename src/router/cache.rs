//! One worker's memory of the topics that it routed lately.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use hashbrown::HashTable;

use super::{MatchSet, Router, matches::Matching};

/// Match sets by topic. Bounded: it holds two generations and the last set; when the young generation is full, in topics or
/// in bytes, it becomes the old one, and the old one, less what was used since, is forgotten. From then on a topic has to come twice
/// before it is remembered: of more topics than there is room for most are gone before they come again, and to remember and forget
/// them costs more than to match them.
#[derive(Debug, Default)]
pub(crate) struct MatchCache {
    hasher: RandomState,
    young: HashTable<Known>,
    /// What the young generation takes, about.
    young_bytes: usize,
    old: HashTable<Known>,
    newcomers: Newcomers,
    /// The topic that was asked for last, and its set: messages come in bursts on one topic. Usually nobody else has that of a newcomer
    /// when the next one comes, which then needs no new set.
    last: (String, Option<Arc<MatchSet>>),
    matching: Matching,
}

#[derive(Debug)]
struct Known {
    hash: u64,
    topic: Box<str>,
    set: Arc<MatchSet>,
}

/// Topics that have come once, about: a few bits of the hash of the last one of each place. There are none as long as there was room
/// for all topics.
#[derive(Debug, Default)]
struct Newcomers(Option<Box<[u16]>>);

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
            self.look_up(topic, router);
            self.last.0.clear();
            if topic.len() <= Self::LAST_BYTES {
                self.last.0.push_str(topic);
            }
        }
        self.last.1.as_ref().expect("it is there now")
    }

    /// Makes the last set that of `topic`.
    fn look_up(&mut self, topic: &str, router: &Router) {
        let hash = self.hasher.hash_one(topic);
        let is_it = |known: &Known| known.hash == hash && *known.topic == *topic;
        let young = self.young.find(hash, is_it);
        if let Some(known) = young.filter(|known| router.is_current(known.set.generations)) {
            self.last.1 = Some(Arc::clone(&known.set));
            return;
        }
        let mut is_known = young.is_some();
        if let Ok(old) = self.old.find_entry(hash, is_it) {
            let known = old.remove().0;
            if router.is_current(known.set.generations) {
                self.last.1 = Some(Arc::clone(&known.set));
                return self.remember(known);
            }
            is_known = true;
        }
        let mut set = self.last.1.take().unwrap_or_default();
        if Arc::get_mut(&mut set).is_none() {
            set = Arc::default();
        }
        let new = Arc::get_mut(&mut set).expect("nobody else has it");
        router.match_into(topic, new, &mut self.matching);
        if is_known || self.newcomers.has_come(hash) {
            new.shrink();
            self.remember(Known { hash, topic: topic.into(), set: Arc::clone(&set) });
        }
        self.last.1 = Some(set);
    }

    fn remember(&mut self, known: Known) {
        let bytes = known.bytes();
        if self.young.len() >= Self::TOPICS || self.young_bytes + bytes > Self::BYTES {
            // The room stays: growing anew would cost as much again.
            std::mem::swap(&mut self.old, &mut self.young);
            self.young.clear();
            self.young_bytes = 0;
            self.newcomers.begin();
        }
        self.young_bytes += bytes;
        let is_it = |other: &Known| other.hash == known.hash && other.topic == known.topic;
        if let Some(outdated) = self.young.find_mut(known.hash, is_it) {
            self.young_bytes -= outdated.bytes();
            *outdated = known;
        } else {
            self.young.insert_unique(known.hash, known, |known| known.hash);
        }
    }
}

impl Known {
    fn bytes(&self) -> usize {
        self.topic.len() + self.set.bytes()
    }
}

impl Newcomers {
    const PLACES: usize = 16_384;

    /// There are more topics than there is room for.
    fn begin(&mut self) {
        self.0.get_or_insert_with(|| vec![0; Self::PLACES].into());
    }

    /// Whether a topic with this hash has come before, as far as is known; it has from now on.
    fn has_come(&mut self, hash: u64) -> bool {
        let Some(places) = &mut self.0 else { return true };
        let [high, low, ..] = hash.to_be_bytes();
        // That of an empty place is no topic's.
        let mark = u16::from_be_bytes([high, low]) | 1;
        let place = usize::try_from(hash % Self::PLACES as u64).expect("it is less than that");
        std::mem::replace(&mut places[place], mark) == mark
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
            let bytes: usize = cache.young.iter().map(Known::bytes).sum();
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
    fn of_more_topics_than_there_is_room_for_those_are_remembered_that_come_again() {
        let (router, mut cache) = (router_with(3), MatchCache::default());
        let mut match_all = |topics: std::ops::Range<usize>| {
            for topic in topics {
                assert_eq!(cache.matches(&topic.to_string(), &router).of_worker(0).len(), 3);
            }
            cache.young.len()
        };
        assert_eq!(match_all(0..MatchCache::TOPICS), MatchCache::TOPICS, "there is room for all");
        assert_eq!(match_all(20_000..20_001), 1, "that was one too many");
        assert!(match_all(30_000..31_000) < 10);
        assert!((1_001..1_010).contains(&match_all(0..1_000)), "they were known");
        // Some have taken the places of others.
        assert!(match_all(30_000..31_000) > 1_800);
    }

    #[test]
    fn a_set_that_somebody_has_does_not_change() {
        let (router, mut cache) = (router_with(1), MatchCache::default());
        cache.newcomers.begin();
        let held = Arc::clone(cache.matches("a", &router));
        let first = Arc::as_ptr(cache.matches("$SYS/a", &router));
        assert_eq!((held.of_worker(0).len(), cache.matches("$SYS/b", &router).is_empty()), (1, true));
        assert_eq!(Arc::as_ptr(cache.matches("$SYS/c", &router)), first, "nobody has that one");
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
