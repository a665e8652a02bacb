//! The replicas of the shards, and the topics that their sessions want.
//!
//! Every shard is a Raft group. The state says which nodes its replicas *shall* be on; the leader of the group brings that about,
//! one step after the other, and says which members it *has*: before it adds one, and after one has gone. A node of neither list may
//! delete what it holds.
//!
//! A replica has an identifier as long as its node is in one of the lists. Who is in neither loses it for good: should the node hold
//! a replica again, that is another one, which begins with nothing, and nobody takes it for the one that has gone.
//!
//! A group begins once: when there are enough nodes, those that its replicas shall be on become its *founders*, for good. Each of
//! them begins the same group, if it has none of its data, until the first leader has said which members there are. A node that
//! has lost its disk comes back under another identifier, so that it is no founder.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    DecodeError, Invalid, LogIndex, NodeId, Placement, ReplicaId, Reply, RouteChange, Routes, ShardId,
    limits, placement, routes::Changed,
};

/// The shards of the cluster.
#[derive(Debug)]
pub struct Shards {
    /// By shard.
    pub(crate) shards: Vec<Shard>,
    /// The core nodes that shall hold replicas, in their order. A node that is down remains one until it is removed.
    pub(crate) holders: Vec<NodeId>,
    /// Which shards want what; a shard stands as a node with its number.
    pub(crate) routes: Routes,
}

/// One shard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shard {
    /// Where its replicas shall be; first the node that shall lead.
    pub replicas: Placement,
    /// The nodes that its group began with; empty before.
    pub founders: Vec<NodeId>,
    /// The nodes that are members of its group, as its leader has said; empty before.
    pub members: Vec<NodeId>,
    /// The replica of each node that shall hold one, or is a member; a founder is one until there are members.
    pub ids: BTreeMap<NodeId, ReplicaId>,
    /// The highest term of a leader that was heard of.
    pub term: u64,
    /// The number of the last members that the leader of this term has told; 0: it has told none.
    pub told_members: u64,
    /// The number of the last changes of routes that the leader of this term has told; 0: it has told none.
    pub told: u64,
}

/// What the leader of a shard says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardChange {
    /// These replicas are the members of its group, or may be one very soon.
    Members {
        /// 1, 2, 3... for each term: what comes twice, or late, changes nothing.
        number: u64,
        /// In the order of the nodes. One that has lost its identifier cannot become a member any more.
        members: Vec<(NodeId, ReplicaId)>,
    },
    /// Its sessions want other topics than before.
    Routes {
        /// 1, 2, 3... for each term: what comes twice, or late, changes nothing. The first ones of a term may be none: what an
        /// earlier leader has said is refused from then on.
        number: u64,
        /// At most [`limits::CHANGES_MAX`].
        changes: Vec<RouteChange>,
    },
}

impl Shard {
    /// The leader of a term has said something.
    fn hear(&mut self, term: u64) {
        if term > self.term {
            self.term = term;
            (self.told, self.told_members) = (0, 0);
        }
    }

    /// The nodes that have a replica.
    fn nodes(&self) -> impl Iterator<Item = NodeId> {
        let founders: &[NodeId] = if self.members.is_empty() { &self.founders } else { &[] };
        self.replicas.nodes.iter().chain(&self.members).chain(founders).copied()
    }

    /// Whether those, and no others, have an identifier.
    fn are_identified(&self) -> bool {
        self.nodes().collect::<BTreeSet<_>>().iter().eq(self.ids.keys())
    }

    /// Gives and takes identifiers after a change that an entry has made.
    fn identify(&mut self, index: LogIndex) {
        let id = |node| (node, self.ids.get(&node).copied().unwrap_or(ReplicaId(index.0)));
        self.ids = self.nodes().map(id).collect();
    }
}

impl Shards {
    pub(crate) fn new(shards: u16, hash_seed: u64) -> Self {
        Self {
            shards: vec![Shard::default(); usize::from(shards)],
            holders: Vec::new(),
            routes: Routes::new(hash_seed),
        }
    }

    /// A shard; `None` when there is no such shard.
    pub fn shard(&self, shard: ShardId) -> Option<&Shard> {
        self.shards.get(usize::from(shard.0))
    }

    /// All shards, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (ShardId, &Shard)> {
        (0..=u16::MAX).map(ShardId).zip(&self.shards)
    }

    /// Visits each shard whose sessions want messages of a topic name at QoS 1 or 2, once, in their order.
    pub fn matches(&self, topic: &str, mut visit: impl FnMut(ShardId)) {
        let visit_shard = |node: NodeId| visit(shard_of(node));
        self.routes.matches(topic, visit_shard, |group| unreachable!("{group:?} of a shard"));
    }

    /// Which shards want what; a shard stands as a node with its number.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Whether a node shall hold replicas.
    pub fn is_holder(&self, node: NodeId) -> bool {
        self.holders.binary_search(&node).is_ok()
    }

    /// A core node shall hold replicas from now on; returns the shards that shall be elsewhere.
    pub(crate) fn add_holder(&mut self, node: NodeId, replicas: u8, index: LogIndex) -> Vec<ShardId> {
        let Err(position) = self.holders.binary_search(&node) else { return Vec::new() };
        self.holders.insert(position, node);
        self.place(replicas, index)
    }

    /// A node shall hold none any more.
    pub(crate) fn remove_holder(&mut self, node: NodeId, replicas: u8, index: LogIndex) -> Vec<ShardId> {
        let Ok(position) = self.holders.binary_search(&node) else { return Vec::new() };
        self.holders.remove(position);
        self.place(replicas, index)
    }

    fn place(&mut self, replicas: u8, index: LogIndex) -> Vec<ShardId> {
        let mut placements: Vec<Placement> =
            self.shards.iter_mut().map(|shard| std::mem::take(&mut shard.replicas)).collect();
        let changed = placement::place(&mut placements, &self.holders, replicas, index);
        for (shard, placement) in self.shards.iter_mut().zip(placements) {
            shard.replicas = placement;
            shard.identify(index);
        }
        changed
    }

    /// The groups of the shards that have none begin with the nodes that shall hold them.
    pub(crate) fn found(&mut self) -> Vec<ShardId> {
        let mut founded = Vec::new();
        for (id, shard) in (0..=u16::MAX).map(ShardId).zip(&mut self.shards) {
            if shard.founders.is_empty() && !shard.replicas.nodes.is_empty() {
                shard.founders.clone_from(&shard.replicas.nodes);
                founded.push(id);
            }
        }
        founded
    }

    /// One node is left, with replicas of these shards: it is their only member. The others begin anew with it; returns those of them
    /// whose sessions wanted something.
    pub(crate) fn recover(&mut self, survivor: NodeId, kept: &[ShardId], index: LogIndex) -> Vec<ShardId> {
        let mut silenced = Vec::new();
        for (id, shard) in (0..=u16::MAX).map(ShardId).zip(&mut self.shards) {
            shard.founders = vec![survivor];
            // The group goes on in the terms of the node that is left, which may be lower.
            (shard.term, shard.told, shard.told_members) = (0, 0, 0);
            if kept.contains(&id) {
                shard.members = vec![survivor];
            } else {
                shard.members = Vec::new();
                shard.ids.clear();
                silenced.extend(self.routes.remove_node(node_of(id)).then_some(id));
            }
            shard.identify(index);
        }
        silenced
    }

    /// What the leader of `term` says; `None`: nothing that anybody has to know has changed.
    pub(crate) fn change(
        &mut self,
        id: ShardId,
        term: u64,
        change: ShardChange,
        index: LogIndex,
    ) -> Result<Option<Told>, Reply> {
        let shard = self.shards.get_mut(usize::from(id.0)).ok_or(Reply::Invalid(Invalid::Shards))?;
        if term < shard.term {
            return Err(Reply::Stale);
        }
        match change {
            ShardChange::Members { number, members } => {
                let nodes: Vec<NodeId> = members.iter().map(|(node, _)| *node).collect();
                check_members(&nodes).map_err(Reply::Invalid)?;
                if !members.iter().all(|(node, id)| shard.ids.get(node) == Some(id)) {
                    return Err(Reply::Stale);
                }
                shard.hear(term);
                if number <= shard.told_members {
                    return Ok(None);
                }
                shard.told_members = number;
                let is_new = shard.members != nodes;
                shard.members = nodes;
                shard.identify(index);
                Ok(is_new.then_some(Told::Members))
            }
            ShardChange::Routes { number, changes } => {
                if changes.len() > limits::CHANGES_MAX {
                    return Err(Reply::Invalid(Invalid::Changes));
                }
                changes.iter().try_for_each(check_change).map_err(Reply::Invalid)?;
                shard.hear(term);
                if number <= shard.told {
                    return Ok(None);
                }
                shard.told = number;
                let changed = self.routes.apply(node_of(id), changes);
                let is_new = !changed.exact.is_empty() || changed.wildcard;
                Ok(is_new.then_some(Told::Routes(changed)))
            }
        }
    }

    /// Whether there is nothing but shards that nobody has.
    pub(crate) fn is_empty(&self) -> bool {
        self.holders.is_empty()
            && self.routes.is_empty()
            && self.shards.iter().all(|shard| *shard == Shard::default())
    }

    /// Checks that they fit together, as far as a snapshot may have it otherwise.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        let is_holder = |node: &NodeId| self.holders.binary_search(node).is_ok();
        let is_valid = |shard: &Shard| {
            shard.replicas.nodes.iter().all(is_holder)
                && shard.are_identified()
                && (shard.members.is_empty() || check_members(&shard.members).is_ok())
        };
        let is_shard = |node: NodeId| usize::try_from(node.0).is_ok_and(|number| number < self.shards.len());
        let are_sorted = self.holders.is_sorted_by(|left, right| left < right);
        if are_sorted && self.shards.iter().all(is_valid) && self.routes.nodes().all(is_shard) {
            Ok(())
        } else {
            Err(DecodeError::Field("shards"))
        }
    }

    pub(crate) fn check_invariants(&self, replicas: u8, turn: u64) {
        let placements: Vec<Placement> = self.shards.iter().map(|shard| shard.replicas.clone()).collect();
        placement::check_invariants(&placements, &self.holders, replicas);
        for shard in &self.shards {
            assert!(shard.are_identified(), "{shard:?}");
        }
        let shards = self.shards.len();
        self.routes.check_invariants(turn, |node| usize::try_from(node.0).is_ok_and(|node| node < shards));
    }
}

/// What everybody has to know.
pub(crate) enum Told {
    Members,
    Routes(Changed),
}

/// Shared subscriptions are told per node, not per shard.
fn check_change(change: &RouteChange) -> Result<(), Invalid> {
    match change {
        RouteChange::SetGroup { .. } => Err(Invalid::Group),
        other => Routes::check(other),
    }
}

/// The shard as the routes name it.
fn node_of(shard: ShardId) -> NodeId {
    NodeId(shard.0.into())
}

fn shard_of(node: NodeId) -> ShardId {
    ShardId(u16::try_from(node.0).expect("only shards have routes here"))
}

fn check_members(members: &[NodeId]) -> Result<(), Invalid> {
    let is_list = !members.is_empty() && members.len() <= limits::SHARD_MEMBERS_MAX;
    if is_list && members.is_sorted_by(|left, right| left < right) { Ok(()) } else { Err(Invalid::Members) }
}
