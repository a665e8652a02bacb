//! Who gets a message: the subscriptions of every session of this node, shared by all workers.
//!
//! [`Router::matches`] turns a topic into a [`MatchSet`]; each worker caches those by topic ([`MatchCache`]), and checks
//! with two atomic loads that no subscription that could matter has changed since. A SUBSCRIBE or UNSUBSCRIBE only
//! invalidates the topics that share its first level; one that begins with a wildcard invalidates all. What other nodes
//! want is in the same set ([`RemoteRoutes`]), with generations of its own.

mod cache;
mod group;
mod matches;
mod remote;
mod share;
mod subscribers;

pub(crate) use cache::MatchCache;
pub(crate) use group::{Group, Load, Members, Picked};
pub(crate) use matches::{Grant, MatchSet, OwnMessage, Target};
#[cfg(test)]
pub(crate) use remote::PARTS;
pub(crate) use remote::{RemoteMatches, RemoteRoutes};
pub(crate) use share::{GroupTarget, NodeChoice};
pub(crate) use subscribers::{Subscriber, Subscribers, Terms};

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use flotilla_mqtt::{
    QoS, Transit,
    session::ClientId,
    topic::{FilterTree, TopicFilter},
};
use parking_lot::RwLock;

use self::matches::Matching;
use crate::config::{Overlap, SharedStrategy};

/// Names one session of this node. The epoch keeps a message for a session that has ended from reaching the one that
/// got its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionRef {
    pub(crate) worker: u16,
    pub(crate) slot: u32,
    pub(crate) epoch: u32,
}

/// The subscriptions of this node.
#[derive(Debug)]
pub(crate) struct Router {
    /// Filters by their first level, `PARTITIONS` of them, and last those that begin with a wildcard.
    partitions: Box<[Partition]>,
    hasher: RandomState,
    workers: usize,
    overlap: Overlap,
    strategy: SharedStrategy,
    remote: RemoteRoutes,
}

#[derive(Debug, Default)]
struct Partition {
    /// Counts the changes that make a cached [`MatchSet`] wrong.
    generation: AtomicU64,
    tree: RwLock<FilterTree<Subscribers>>,
}

/// The generations that a [`MatchSet`] was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Generations {
    partition: u32,
    literal: u64,
    wildcard: u64,
    remote: remote::RemoteGenerations,
}

/// What a change of subscriptions means for the routes that other nodes know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RouteChange {
    /// The filter has its first subscriber here, groups not counted.
    First,
    /// The filter has lost its last subscriber here, groups not counted.
    Last,
    /// The group of a shared subscription has gained or lost a member.
    Group,
    /// Other nodes need not know.
    None,
}

const PARTITIONS: usize = 64;
const WILDCARD: usize = PARTITIONS;

impl Router {
    pub(crate) fn new(workers: usize, overlap: Overlap, strategy: SharedStrategy) -> Self {
        let partitions = (0..=PARTITIONS).map(|_| Partition::default()).collect();
        let remote = RemoteRoutes::none();
        Self { partitions, hasher: RandomState::new(), workers, overlap, strategy, remote }
    }

    /// The same in a cluster.
    pub(crate) fn with_remote(self, remote: RemoteRoutes) -> Self {
        Self { remote, ..self }
    }

    /// What the other nodes want.
    pub(crate) fn remote(&self) -> &RemoteRoutes {
        &self.remote
    }

    pub(crate) fn strategy(&self) -> SharedStrategy {
        self.strategy
    }

    /// Adds or replaces a subscription.
    pub(crate) fn subscribe(
        &self,
        filter: &Arc<TopicFilter>,
        subscriber: Subscriber,
        load: &Arc<Load>,
    ) -> RouteChange {
        let partition = self.partition(filter.filter());
        let mut tree = partition.tree.write();
        let entry = tree.entry(filter.filter());
        if filter.is_shared() {
            if entry.join(filter, self.strategy, subscriber, load) {
                partition.generation.fetch_add(1, Ordering::Release);
            }
            return RouteChange::Group;
        }
        let first = !entry.has_direct();
        entry.insert(subscriber);
        partition.generation.fetch_add(1, Ordering::Release);
        if first { RouteChange::First } else { RouteChange::None }
    }

    /// Removes a subscription, if it is there.
    pub(crate) fn unsubscribe(&self, filter: &TopicFilter, session: SessionRef) -> RouteChange {
        let partition = self.partition(filter.filter());
        let mut tree = partition.tree.write();
        let Some(entry) = tree.value_mut(filter.filter()) else { return RouteChange::None };
        let stale = if filter.is_shared() { entry.leave(filter, session) } else { entry.remove(session) };
        let change = match filter.is_shared() {
            true => RouteChange::Group,
            false if stale && !entry.has_direct() => RouteChange::Last,
            false => RouteChange::None,
        };
        if entry.is_empty() {
            tree.remove(filter.filter());
        }
        if stale {
            partition.generation.fetch_add(1, Ordering::Release);
        }
        change
    }

    /// The group of a shared subscription, if it has members.
    pub(crate) fn group(&self, filter: &TopicFilter) -> Option<Arc<Group>> {
        self.partition(filter.filter()).tree.read().value(filter.filter())?.group(filter).cloned()
    }

    /// Everybody who gets a message on `topic`.
    pub(crate) fn matches(&self, topic: &str) -> MatchSet {
        let mut set = MatchSet::default();
        self.match_into(topic, &mut set, &mut Matching::default());
        set
    }

    /// Makes a set that of `topic`, in the room that it has.
    fn match_into(&self, topic: &str, set: &mut MatchSet, matching: &mut Matching) {
        let partition = self.literal_index(topic);
        let (literal, wildcard) = (&self.partitions[partition], &self.partitions[WILDCARD]);
        // The generations are read under the locks: a change that comes later makes them differ.
        let (literal_tree, wildcard_tree) = (literal.tree.read(), wildcard.tree.read());
        let (remote, remote_generations) = self.remote.matches(topic);
        let generations = Generations {
            partition: u32::try_from(partition).expect("there are 64 partitions"),
            literal: literal.generation.load(Ordering::Acquire),
            wildcard: wildcard.generation.load(Ordering::Acquire),
            remote: remote_generations,
        };
        matching.begin();
        literal_tree.for_each_match(topic, |subscribers| matching.add(subscribers));
        wildcard_tree.for_each_match(topic, |subscribers| matching.add(subscribers));
        drop((literal_tree, wildcard_tree));
        set.fill(matching, (self.workers, self.overlap), generations, remote, self.remote.me());
    }

    /// Whether a set that was made from these generations is still right.
    pub(crate) fn is_current(&self, generations: Generations) -> bool {
        let literal = &self.partitions[generations.partition as usize];
        literal.generation.load(Ordering::Acquire) == generations.literal
            && self.partitions[WILDCARD].generation.load(Ordering::Acquire) == generations.wildcard
            && self.remote.is_current(generations.remote)
    }

    /// Visits each filter that has subscribers here, and each group.
    pub(crate) fn for_each_want(&self, visit: &mut dyn FnMut(&TopicFilter, RouteChange)) {
        for partition in &self.partitions {
            for (text, subscribers) in partition.tree.read().iter() {
                if subscribers.has_direct()
                    && let Ok(filter) = TopicFilter::parse(&text, u16::MAX)
                {
                    visit(&filter, RouteChange::First);
                }
                for group in subscribers.groups() {
                    visit(group.filter(), RouteChange::Group);
                }
            }
        }
    }

    /// Filters with at least one subscriber.
    pub(crate) fn len(&self) -> usize {
        self.partitions.iter().map(|partition| partition.tree.read().len()).sum()
    }

    fn partition(&self, filter: &str) -> &Partition {
        match filter.as_bytes().first() {
            Some(b'+' | b'#') => &self.partitions[WILDCARD],
            _ => &self.partitions[self.literal_index(filter)],
        }
    }

    fn literal_index(&self, topic: &str) -> usize {
        let end = topic.bytes().position(|byte| byte == b'/').unwrap_or(topic.len());
        usize::try_from(self.hasher.hash_one(&topic.as_bytes()[..end]) % PARTITIONS as u64)
            .expect("less than 64")
    }
}

/// What a strategy may look at when it picks a member of a group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PickHint<'a> {
    pub(crate) topic: &'a str,
    pub(crate) publisher: Option<&'a ClientId>,
    /// The QoS of the message: from 1 on the group's shard keeps it for members whose sessions are kept.
    pub(crate) qos: QoS,
    /// A random number for this pick.
    pub(crate) random: u64,
    /// A member that must not get it: it had it and went, or could not take it.
    pub(crate) exclude: Option<SessionRef>,
}

impl<'a> PickHint<'a> {
    /// That of a message that anybody may get.
    pub(crate) fn of(message: &Transit<'a>, random: u64) -> Self {
        let Transit { topic, publisher, qos, .. } = *message;
        Self { topic, publisher, qos, random, exclude: None }
    }
}

#[cfg(test)]
mod tests;
