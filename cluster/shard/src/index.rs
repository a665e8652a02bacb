//! Which sessions subscribe to what.

use std::{collections::BTreeMap, num::NonZeroU32};

use flotilla_mqtt::{QoS, packet::SubscriptionOptions, topic::FilterTree};

use crate::{FilterChange, SessionId, sessions::Slot};

/// The subscriptions of all sessions, but for those of shared groups: each of these groups has one.
#[derive(Debug, Default)]
pub(crate) struct MatchIndex {
    filters: FilterTree<Subscribers>,
    /// Filters with subscriptions that nodes need a route for.
    routed: u64,
}

/// A subscription that matches.
///
/// Two of one session that are equal as this are the same for everybody, so that their order, which the index does not know,
/// makes no difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Subscriber {
    pub(crate) session: SessionId,
    /// Its identifier.
    pub(crate) id: Option<NonZeroU32>,
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    /// Whether the session keeps messages of QoS 0 while its client is away.
    pub(crate) queue_qos0: bool,
    pub(crate) slot: Slot,
}

/// Who subscribes to one filter. Nearly all filters have one subscriber, a few have a million.
#[derive(Debug, Default)]
enum Subscribers {
    #[default]
    None,
    One(Subscriber),
    Many(Box<Many>),
}

#[derive(Debug, Default)]
struct Many {
    by_session: BTreeMap<SessionId, Subscriber>,
    /// How many need a route.
    routed: u64,
}

impl Subscriber {
    pub(crate) fn new(
        session: SessionId,
        slot: Slot,
        options: SubscriptionOptions,
        id: Option<NonZeroU32>,
        queue_qos0: bool,
    ) -> Self {
        let SubscriptionOptions { qos, no_local, retain_as_published, retain_handling: _ } = options;
        Self { session, id, qos, no_local, retain_as_published, queue_qos0, slot }
    }

    /// Whether nodes need a route for it.
    fn is_routed(&self) -> bool {
        self.qos != QoS::AtMostOnce || self.queue_qos0
    }
}

impl MatchIndex {
    /// Adds or replaces the subscription of a session.
    pub(crate) fn insert(&mut self, filter: &str, subscriber: Subscriber) -> Option<FilterChange> {
        let subscribers = self.filters.entry(filter);
        let was_routed = subscribers.is_routed();
        subscribers.insert(subscriber);
        let is_routed = subscribers.is_routed();
        self.count(was_routed, is_routed)
    }

    /// Removes the subscription of a session.
    pub(crate) fn remove(&mut self, filter: &str, session: SessionId) -> Option<FilterChange> {
        let subscribers = self.filters.value_mut(filter)?;
        let was_routed = subscribers.is_routed();
        subscribers.remove(session);
        let is_routed = subscribers.is_routed();
        if matches!(subscribers, Subscribers::None) {
            self.filters.remove(filter);
        }
        self.count(was_routed, is_routed)
    }

    fn count(&mut self, was_routed: bool, is_routed: bool) -> Option<FilterChange> {
        match (was_routed, is_routed) {
            (false, true) => {
                self.routed += 1;
                Some(FilterChange::First)
            }
            (true, false) => {
                self.routed -= 1;
                Some(FilterChange::Last)
            }
            _ => None,
        }
    }

    /// Collects the subscriptions that match; those of one session come together, in an order that is the same everywhere.
    pub(crate) fn collect(&self, topic: &str, matching: &mut Vec<Subscriber>) {
        matching.clear();
        self.filters.for_each_match(topic, |subscribers| match subscribers {
            Subscribers::None => {}
            Subscribers::One(one) => matching.push(*one),
            Subscribers::Many(many) => matching.extend(many.by_session.values()),
        });
        if matching.len() > 1 {
            matching.sort_unstable();
        }
    }

    /// Filters with subscriptions that nodes need a route for.
    pub(crate) const fn routed(&self) -> u64 {
        self.routed
    }

    /// Visits each of these, in no particular order.
    pub(crate) fn for_each_routed(&self, mut visit: impl FnMut(&str)) {
        for (filter, subscribers) in self.filters.iter() {
            if subscribers.is_routed() {
                visit(&filter);
            }
        }
    }

    /// How many subscriptions are of sessions that keep QoS 0: for tests.
    pub(crate) fn queueing_qos0(&self) -> usize {
        let all = self.filters.values().map(|subscribers| match subscribers {
            Subscribers::None => 0,
            Subscribers::One(one) => usize::from(one.queue_qos0),
            Subscribers::Many(many) => many.by_session.values().filter(|one| one.queue_qos0).count(),
        });
        all.sum()
    }

    pub(crate) fn check_invariants(&self, subscriptions: usize) {
        let mut count = 0;
        let mut routed = 0;
        for subscribers in self.filters.values() {
            count += match subscribers {
                Subscribers::None => panic!("a filter without subscribers is removed"),
                Subscribers::One(_) => 1,
                Subscribers::Many(many) => {
                    let routed = many.by_session.values().filter(|subscriber| subscriber.is_routed());
                    assert_eq!(many.routed, routed.count() as u64);
                    many.by_session.len()
                }
            };
            routed += u64::from(subscribers.is_routed());
        }
        assert_eq!(count, subscriptions);
        assert_eq!(routed, self.routed);
    }
}

impl Subscribers {
    fn is_routed(&self) -> bool {
        match self {
            Self::None => false,
            Self::One(one) => one.is_routed(),
            Self::Many(many) => many.routed > 0,
        }
    }

    fn insert(&mut self, subscriber: Subscriber) {
        match self {
            Self::None => *self = Self::One(subscriber),
            Self::One(one) if one.session == subscriber.session => *one = subscriber,
            Self::One(one) => {
                let mut many = Box::<Many>::default();
                many.insert(*one);
                many.insert(subscriber);
                *self = Self::Many(many);
            }
            Self::Many(many) => many.insert(subscriber),
        }
    }

    fn remove(&mut self, session: SessionId) {
        match self {
            Self::None => {}
            Self::One(one) if one.session == session => *self = Self::None,
            Self::One(_) => {}
            Self::Many(many) => {
                let removed = many.by_session.remove(&session);
                many.routed -= u64::from(removed.is_some_and(|removed| removed.is_routed()));
                if many.by_session.len() == 1 {
                    *self = many.by_session.values().next().map_or(Self::None, |last| Self::One(*last));
                }
            }
        }
    }
}

impl Many {
    fn insert(&mut self, subscriber: Subscriber) {
        let replaced = self.by_session.insert(subscriber.session, subscriber);
        self.routed -= u64::from(replaced.is_some_and(|replaced| replaced.is_routed()));
        self.routed += u64::from(subscriber.is_routed());
    }
}
