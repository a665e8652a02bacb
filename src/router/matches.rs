//! The receivers of one topic.

use std::{num::NonZeroU32, sync::Arc};

use flotilla_state::{NodeId, ShardId};

use flotilla_mqtt::{QoS, SubscriptionIds};

use super::{Generations, Group, GroupTarget, RemoteMatches, Subscriber, Subscribers, subscribers::Terms};
use crate::config::Overlap;

/// Everybody who gets a message on one topic: the sessions of this node in the order in which the workers need it, and
/// other nodes.
#[derive(Debug, Default)]
pub(crate) struct MatchSet {
    pub(crate) generations: Generations,
    /// By worker.
    targets: Vec<Target>,
    /// Where the targets of each worker end.
    ends: Vec<usize>,
    pub(crate) groups: Box<[GroupTarget]>,
    /// Other nodes with subscribers.
    pub(crate) nodes: Box<[NodeId]>,
    /// Shards that keep it for their sessions, if it is of QoS 1 or 2.
    pub(crate) shards: Box<[ShardId]>,
}

/// How a message goes to one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) slot: u32,
    pub(crate) epoch: u32,
    pub(crate) grant: Grant,
    pub(crate) own: OwnMessage,
}

/// What the matching subscriptions of one session add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) qos: QoS,
    pub(crate) retain_as_published: bool,
    pub(crate) subscription_ids: SubscriptionIds,
}

/// What a session gets of a message that it published itself (No Local).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OwnMessage {
    /// The same as of any other.
    Same,
    /// Nothing: each of its matching subscriptions says No Local.
    Nothing,
    /// What those of its subscriptions add up to that do not say No Local.
    Less(Box<Grant>),
}

impl MatchSet {
    /// What it takes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.targets.capacity() * size_of::<Target>()
            + self.ends.capacity() * size_of::<usize>()
            + self.groups.len() * size_of::<GroupTarget>()
            + self.nodes.len() * size_of::<NodeId>()
            + self.shards.len() * size_of::<ShardId>()
    }

    pub(crate) fn of_worker(&self, worker: usize) -> &[Target] {
        let start = worker.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.targets[start..self.ends[worker]]
    }

    /// How many deliveries a message on the topic causes.
    pub(crate) fn deliveries(&self) -> usize {
        self.targets.len() + self.nodes.len() + self.groups.len() + self.shards.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.deliveries() == 0
    }

    /// Gives back the room that it does not need.
    pub(super) fn shrink(&mut self) {
        self.targets.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    /// Makes it that of the subscriptions that match.
    pub(super) fn fill(
        &mut self,
        matching: &mut Matching,
        (workers, overlap): (usize, Overlap),
        generations: Generations,
        remote: RemoteMatches,
        me: NodeId,
    ) {
        let Matching { subscribers, groups } = matching;
        self.generations = generations;
        // Stable, and by worker and session: the subscriptions of one session come together.
        subscribers.sort_by_key(|subscriber| subscriber.session);
        let same_copy = |a: &Subscriber, b: &Subscriber| overlap == Overlap::Merge && a.session == b.session;
        self.targets.clear();
        self.targets.shrink_to(TARGETS_ROOM);
        self.ends.clear();
        for copy in subscribers.chunk_by(same_copy) {
            self.ends.resize(usize::from(copy[0].session.worker), self.targets.len());
            self.targets.push(target(copy));
        }
        self.ends.resize(workers, self.targets.len());
        subscribers.clear();
        subscribers.shrink_to(SUBSCRIBERS_ROOM);
        self.groups = GroupTarget::join(std::mem::take(groups), remote.groups, me);
        self.nodes = remote.nodes;
        self.shards = remote.shards;
    }
}

/// The subscriptions that match, while they are collected.
#[derive(Debug, Default)]
pub(super) struct Matching {
    subscribers: Vec<Subscriber>,
    groups: Vec<Arc<Group>>,
}

impl Matching {
    /// Forgets what a match that came to nothing has left.
    pub(super) fn begin(&mut self) {
        self.subscribers.clear();
        self.groups.clear();
    }

    pub(super) fn add(&mut self, subscribers: &Subscribers) {
        subscribers.for_each_direct(|subscriber| self.subscribers.push(subscriber));
        self.groups.extend(subscribers.groups().iter().map(Arc::clone));
    }
}

/// How much room for subscribers is kept for the next topic, and how much a set has for its own: that may wait in a mailbox.
const SUBSCRIBERS_ROOM: usize = 1_024;
const TARGETS_ROOM: usize = 16;

fn target(subscriptions: &[Subscriber]) -> Target {
    let session = subscriptions[0].session;
    let all = merge(subscriptions.iter().map(|subscriber| subscriber.terms)).expect("chunks are not empty");
    let own = if subscriptions.iter().any(|subscriber| subscriber.terms.no_local) {
        let others = subscriptions.iter().map(|subscriber| subscriber.terms).filter(|terms| !terms.no_local);
        merge(others).map_or(OwnMessage::Nothing, |grant| OwnMessage::Less(Box::new(grant)))
    } else {
        OwnMessage::Same
    };
    Target { slot: session.slot, epoch: session.epoch, grant: all, own }
}

/// The highest QoS [MQTT-3.3.4-2] and every identifier [MQTT-3.3.4-4]; `None` if there is nothing to merge.
fn merge(terms: impl Iterator<Item = Terms> + Clone) -> Option<Grant> {
    let qos = terms.clone().map(|terms| terms.qos).max()?;
    let retain_as_published = terms.clone().any(|terms| terms.retain_as_published);
    let mut ids = terms.filter_map(|terms| terms.id);
    let subscription_ids = match (ids.next(), ids.next()) {
        (None, _) => SubscriptionIds::None,
        (Some(id), None) => SubscriptionIds::One(id),
        (Some(first), Some(second)) => {
            let all: Vec<NonZeroU32> = [first, second].into_iter().chain(ids).collect();
            SubscriptionIds::Many(all.into())
        }
    };
    Some(Grant { qos, retain_as_published, subscription_ids })
}

impl Grant {
    /// What a single subscription asks for.
    pub(crate) fn of(subscriber: &Subscriber) -> Self {
        merge(std::iter::once(subscriber.terms)).expect("there is one")
    }
}
