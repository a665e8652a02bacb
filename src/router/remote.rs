//! What the other nodes want, as far as this node has heard.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use flotilla_state::{ClusterState, Effects, Event, Fingerprint, GroupRoute, NodeId, ShardId};
use parking_lot::RwLock;

/// The routes of the cluster's state, with what a cached match needs to know that it is still right.
#[derive(Debug)]
pub(crate) struct RemoteRoutes {
    /// `None`: a node alone.
    state: Option<Arc<RwLock<ClusterState>>>,
    me: NodeId,
    /// Count the changes of exact routes, by [`part`].
    exact: [AtomicU64; PARTS],
    /// Counts the changes of wildcard routes and of groups.
    wildcard: AtomicU64,
}

/// The generations that a [`RemoteMatches`] was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct RemoteGenerations {
    part: u8,
    exact: u64,
    wildcard: u64,
}

/// Everybody on other nodes who gets a message on one topic.
#[derive(Debug, Default)]
pub(crate) struct RemoteMatches {
    /// Nodes with subscribers, in order; without this one.
    pub(crate) nodes: Box<[NodeId]>,
    /// Groups with members on other nodes.
    pub(super) groups: Vec<Arc<GroupRoute>>,
    /// Shards with sessions that want it at QoS 1 or 2, in order.
    pub(super) shards: Box<[ShardId]>,
}

/// Generations of routes without wildcards: a change ages those topics in the caches whose fingerprints are in the same part.
pub(crate) const PARTS: usize = 64;

impl RemoteRoutes {
    /// Those of a node alone: none.
    pub(crate) fn none() -> Self {
        Self::over(None, NodeId(0))
    }

    /// Those of a cluster's state, as the node `me` sees them.
    pub(crate) fn of(state: Arc<RwLock<ClusterState>>, me: NodeId) -> Self {
        Self::over(Some(state), me)
    }

    fn over(state: Option<Arc<RwLock<ClusterState>>>, me: NodeId) -> Self {
        let exact = std::array::from_fn(|_| AtomicU64::new(0));
        Self { state, me, exact, wildcard: AtomicU64::new(0) }
    }

    /// This node.
    pub(crate) fn me(&self) -> NodeId {
        self.me
    }

    /// An entry has been applied to the state.
    pub(crate) fn note_applied(&self, effects: &Effects) {
        for event in &effects.events {
            match event {
                Event::RoutesChanged { member, .. } | Event::RoutesReset(member)
                    if member.node == self.me => {}
                Event::RoutesChanged { exact, wildcard, groups, .. } => {
                    self.note_changed(exact, *wildcard || *groups);
                }
                Event::ShardRoutesChanged { exact, wildcard, .. } => self.note_changed(exact, *wildcard),
                Event::RoutesReset(_) => self.invalidate(),
                _ => {}
            }
        }
    }

    fn note_changed(&self, exact: &[Fingerprint], is_any_affected: bool) {
        for fingerprint in exact {
            self.exact[part(*fingerprint)].fetch_add(1, Ordering::Release);
        }
        if is_any_affected {
            self.invalidate();
        }
    }

    /// The state was replaced as a whole.
    pub(crate) fn note_restored(&self) {
        self.invalidate();
    }

    fn invalidate(&self) {
        self.wildcard.fetch_add(1, Ordering::Release);
    }

    /// The members of a group on all nodes, as they have told.
    pub(crate) fn group(&self, filter: &str) -> Option<Arc<GroupRoute>> {
        self.state.as_ref()?.read().routes().group(filter).cloned()
    }

    /// Who wants `topic`, and from what generations that was read.
    pub(super) fn matches(&self, topic: &str) -> (RemoteMatches, RemoteGenerations) {
        let Some(state) = &self.state else { return Default::default() };
        // The generations are read under the lock: a change that comes later makes them differ.
        let state = state.read();
        let routes = state.routes();
        let part = part(routes.fingerprint(topic));
        let generations = RemoteGenerations {
            part: u8::try_from(part).expect("there are 64 parts"),
            exact: self.exact[part].load(Ordering::Acquire),
            wildcard: self.wildcard.load(Ordering::Acquire),
        };
        let (mut nodes, mut groups) = (Vec::new(), Vec::new());
        routes.matches(
            topic,
            |node| nodes.extend((node != self.me).then_some(node)),
            |group| {
                if group.members.iter().any(|members| members.node != self.me) {
                    groups.push(Arc::clone(group));
                }
            },
        );
        let mut shards = Vec::new();
        state.shards().matches(topic, |shard| shards.push(shard));
        (RemoteMatches { nodes: nodes.into(), groups, shards: shards.into() }, generations)
    }

    /// Whether what was read from these generations is still right.
    pub(super) fn is_current(&self, generations: RemoteGenerations) -> bool {
        self.state.is_none()
            || (self.exact[usize::from(generations.part)].load(Ordering::Acquire) == generations.exact
                && self.wildcard.load(Ordering::Acquire) == generations.wildcard)
    }
}

fn part(fingerprint: Fingerprint) -> usize {
    usize::try_from(fingerprint.get() % PARTS as u64).expect("less than 64")
}
