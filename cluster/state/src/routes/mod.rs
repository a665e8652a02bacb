//! Who wants what, per node.

mod exact;
mod groups;
mod node_sets;
mod segment;
mod wildcard;

use std::{collections::BTreeMap, num::NonZeroU64, sync::Arc};

use flotilla_mqtt::topic::TopicFilter;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{DecodeError, Invalid, NodeId, RouteChange};
use exact::{ExactBuilder, ExactCopy, ExactRoutes};
use groups::GroupRoutes;
pub(crate) use wildcard::WildcardRoute;
use wildcard::WildcardRoutes;

/// Who wants what: what a publisher's node asks before it sends a message on.
///
/// Filters without wildcards are kept as fingerprints, in about 16 bytes each, so that there may be tens of millions of
/// them. Filters with wildcards and shared subscriptions are kept as text.
#[derive(Debug)]
pub struct Routes {
    hash_seed: u64,
    exact: ExactRoutes,
    wildcard: WildcardRoutes,
    groups: GroupRoutes,
    /// Of each node that has routes.
    counts: BTreeMap<NodeId, RouteCount>,
}

impl Routes {
    pub(crate) fn new(hash_seed: u64) -> Self {
        Self {
            hash_seed,
            exact: ExactRoutes::new(),
            wildcard: WildcardRoutes::default(),
            groups: GroupRoutes::default(),
            counts: BTreeMap::new(),
        }
    }

    /// The fingerprint of a topic name, or of a filter without wildcards.
    pub fn fingerprint(&self, topic: &str) -> Fingerprint {
        Fingerprint::new(self.hash_seed, topic)
    }

    /// Visits each node that wants messages of a topic name, once, in the order of the nodes; and each shared subscription
    /// that matches it, once, in no particular order. The groups do not count for the nodes.
    pub fn matches(
        &self,
        topic: &str,
        visit_node: impl FnMut(NodeId),
        visit_group: impl FnMut(&Arc<GroupRoute>),
    ) {
        let mut first = self.exact.nodes(self.fingerprint(topic));
        // Nothing is merged, nor allocated, when one set of nodes is all there is.
        let mut merged = Vec::new();
        self.wildcard.for_each_match(topic, |nodes| {
            if first.is_empty() {
                first = nodes;
            } else if first != nodes {
                merged.extend_from_slice(nodes);
            }
        });
        if !merged.is_empty() {
            merged.extend_from_slice(first);
            merged.sort_unstable();
            merged.dedup();
            first = &merged;
        }
        first.iter().copied().for_each(visit_node);
        self.groups.for_each_match(topic, visit_group);
    }

    /// The members of a shared subscription, by its whole text.
    pub fn group(&self, filter: &str) -> Option<&Arc<GroupRoute>> {
        let filter = TopicFilter::parse(filter, u16::MAX).ok()?;
        self.groups.get(&filter)
    }

    /// Whether a topic with this fingerprint leads to a node, filters with wildcards aside.
    pub fn leads_to(&self, fingerprint: Fingerprint, node: NodeId) -> bool {
        self.exact.nodes(fingerprint).contains(&node)
    }

    /// Visits each fingerprint that leads to a node, in the order of the fingerprints. It looks at the whole table.
    pub fn for_each_exact_of(&self, node: NodeId, visit: impl FnMut(Fingerprint)) {
        if self.count(node).exact > 0 {
            self.exact.for_each_of(node, visit);
        }
    }

    /// Visits each filter with wildcards and the nodes that want what matches it, in no particular order.
    pub fn for_each_wildcard(&self, mut visit: impl FnMut(&str, &[NodeId])) {
        self.wildcard.iter().for_each(|route| visit(&route.filter, &route.nodes));
    }

    /// Visits each shared subscription, in no particular order.
    pub fn for_each_group(&self, visit: impl FnMut(&Arc<GroupRoute>)) {
        self.groups.iter().for_each(visit);
    }

    /// How many routes lead to a node.
    pub fn count(&self, node: NodeId) -> RouteCount {
        self.counts.get(&node).copied().unwrap_or_default()
    }

    /// How many routes there are in all; one that leads to several nodes counts once.
    pub fn len(&self) -> RouteCount {
        RouteCount { exact: self.exact.len(), wildcard: self.wildcard.len(), groups: self.groups.len() }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Whether a change keeps the rules.
    pub(crate) fn check(change: &RouteChange) -> Result<(), Invalid> {
        match change {
            RouteChange::AddExact(_) | RouteChange::RemoveExact(_) => Ok(()),
            RouteChange::AddWildcard(filter) | RouteChange::RemoveWildcard(filter) => check_wildcard(filter),
            RouteChange::SetGroup { filter, .. } => parse_group(filter).map(|_| ()),
        }
    }

    /// Makes changes that keep the rules.
    pub(crate) fn apply(&mut self, node: NodeId, changes: Vec<RouteChange>) -> Changed {
        let mut changed = Changed::default();
        let mut count = self.counts.remove(&node).unwrap_or_default();
        for change in changes {
            match change {
                RouteChange::AddExact(fingerprint) => {
                    if self.exact.add(fingerprint, node) {
                        count.exact += 1;
                        changed.exact.push(fingerprint);
                    }
                }
                RouteChange::RemoveExact(fingerprint) => {
                    if self.exact.remove(fingerprint, node) {
                        count.exact -= 1;
                        changed.exact.push(fingerprint);
                    }
                }
                RouteChange::AddWildcard(filter) => {
                    if self.wildcard.add(&filter, node) {
                        count.wildcard += 1;
                        changed.wildcard = true;
                    }
                }
                RouteChange::RemoveWildcard(filter) => {
                    if self.wildcard.remove(&filter, node) {
                        count.wildcard -= 1;
                        changed.wildcard = true;
                    }
                }
                RouteChange::SetGroup { filter, online, kept } => {
                    let filter = parse_group(&filter).expect("the change has been checked");
                    let change = self.groups.set(&filter, GroupMembers { node, online, kept });
                    count.groups += usize::from(change == groups::Change::Added);
                    count.groups -= usize::from(change == groups::Change::Removed);
                    changed.groups |= change != groups::Change::None;
                }
            }
        }
        if count != RouteCount::default() {
            self.counts.insert(node, count);
        }
        changed
    }

    /// Removes all routes of a node; returns whether it had any.
    pub(crate) fn remove_node(&mut self, node: NodeId) -> bool {
        let Some(count) = self.counts.remove(&node) else { return false };
        if count.exact > 0 {
            self.exact.remove_node(node);
        }
        if count.wildcard > 0 {
            self.wildcard.remove_node(node);
        }
        if count.groups > 0 {
            self.groups.remove_node(node);
        }
        true
    }

    /// A consistent copy, which shares what can be shared.
    pub(crate) fn copy(&self) -> RoutesCopy {
        RoutesCopy {
            exact: self.exact.copy(),
            wildcard: self.wildcard.iter().cloned().collect(),
            groups: self.groups.iter().cloned().collect(),
        }
    }

    /// The nodes that have routes.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.counts.keys().copied()
    }

    /// Checks a part of the routes, another one each `turn`.
    pub(crate) fn check_invariants(&self, turn: u64, node_is_live: impl Fn(NodeId) -> bool) {
        self.exact.check_invariants(turn, &node_is_live);
        let (mut exact, mut wildcard, mut groups) = (0, 0, 0);
        for (node, count) in &self.counts {
            assert!(node_is_live(*node));
            assert_ne!(*count, RouteCount::default());
            exact = exact.max(count.exact);
            wildcard += count.wildcard;
            groups += count.groups;
        }
        assert!(exact <= self.exact.len());
        if self.wildcard.len() <= CHECKED_ROUTES_MAX {
            assert_eq!(self.wildcard.iter().map(|route| route.nodes.len()).sum::<usize>(), wildcard);
            assert!(self.wildcard.iter().all(|route| route.nodes.is_sorted_by(|left, right| left < right)));
        }
        if self.groups.len() <= CHECKED_ROUTES_MAX {
            assert_eq!(self.groups.iter().count(), self.groups.len());
            assert_eq!(self.groups.iter().map(|group| group.members.len()).sum::<usize>(), groups);
            for group in self.groups.iter() {
                assert!(group.members.is_sorted_by(|left, right| left.node < right.node));
                assert!(group.members.iter().all(|members| (members.online, members.kept) != (0, 0)));
            }
        }
    }
}

/// A consistent copy of the routes.
pub(crate) struct RoutesCopy {
    pub(crate) exact: ExactCopy,
    /// In no particular order.
    pub(crate) wildcard: Vec<Arc<WildcardRoute>>,
    /// In no particular order.
    pub(crate) groups: Vec<Arc<GroupRoute>>,
}

/// Puts routes together from what a copy lists.
#[derive(Debug)]
pub(crate) struct RoutesBuilder {
    exact: ExactBuilder,
    wildcard: WildcardRoutes,
    groups: GroupRoutes,
    counts: BTreeMap<NodeId, RouteCount>,
}

impl RoutesBuilder {
    /// The next set of nodes that exact routes lead to.
    pub(crate) fn push_set(&mut self, nodes: &[NodeId]) -> Result<(), DecodeError> {
        check_nodes(nodes)?;
        self.exact.push_set(nodes);
        Ok(())
    }

    /// The next exact route; the fingerprints increase, and the sets come before.
    pub(crate) fn push_exact(&mut self, fingerprint: Fingerprint, set: u32) -> Result<(), DecodeError> {
        self.exact.push(fingerprint, set).ok_or(DecodeError::Field("fingerprint"))
    }

    pub(crate) fn push_wildcard(&mut self, route: WildcardRoute) -> Result<(), DecodeError> {
        check_nodes(&route.nodes)?;
        check_wildcard(&route.filter).map_err(|_| DecodeError::Field("wildcard filter"))?;
        for node in &route.nodes {
            self.counts.entry(*node).or_default().wildcard += 1;
        }
        self.wildcard.insert(route);
        Ok(())
    }

    pub(crate) fn push_group(&mut self, route: GroupRoute) -> Result<(), DecodeError> {
        let nodes: Vec<_> = route.members.iter().map(|members| members.node).collect();
        check_nodes(&nodes)?;
        let filter = parse_group(&route.filter).map_err(|_| DecodeError::Field("group filter"))?;
        if self.groups.get(&filter).is_some() {
            return Err(DecodeError::Field("group filter"));
        }
        for node in nodes {
            self.counts.entry(node).or_default().groups += 1;
        }
        self.groups.insert(&filter, route);
        Ok(())
    }

    pub(crate) fn finish(self, hash_seed: u64) -> Routes {
        let Self { exact, wildcard, groups, mut counts } = self;
        let exact = exact.finish();
        for (node, count) in exact.counts() {
            counts.entry(node).or_default().exact = count;
        }
        Routes { hash_seed, exact, wildcard, groups, counts }
    }
}

impl Default for RoutesBuilder {
    fn default() -> Self {
        Self {
            exact: ExactBuilder::new(),
            wildcard: WildcardRoutes::default(),
            groups: GroupRoutes::default(),
            counts: BTreeMap::new(),
        }
    }
}

/// What has changed for a node.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    pub(crate) exact: Vec<Fingerprint>,
    pub(crate) wildcard: bool,
    pub(crate) groups: bool,
}

/// With more routes than this, they are not checked after each command.
const CHECKED_ROUTES_MAX: usize = 64;

fn check_nodes(nodes: &[NodeId]) -> Result<(), DecodeError> {
    let is_set = !nodes.is_empty() && nodes.is_sorted_by(|left, right| left < right);
    if is_set { Ok(()) } else { Err(DecodeError::Field("nodes")) }
}

fn check_wildcard(filter: &str) -> Result<(), Invalid> {
    match TopicFilter::parse(filter, u16::MAX) {
        Ok(filter) if filter.has_wildcard() && !filter.is_shared() => Ok(()),
        _ => Err(Invalid::Wildcard),
    }
}

fn parse_group(filter: &str) -> Result<TopicFilter, Invalid> {
    match TopicFilter::parse(filter, u16::MAX) {
        Ok(filter) if filter.is_shared() => Ok(filter),
        _ => Err(Invalid::Group),
    }
}

/// Stands for a topic name, or for a filter without wildcards.
///
/// Two topics may have the same one. Then a node gets messages that none of its clients wants, and drops them: it matches
/// the whole topic again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(NonZeroU64);

impl Fingerprint {
    /// The fingerprint of a topic in a cluster with this seed.
    pub fn new(hash_seed: u64, topic: &str) -> Self {
        Self(NonZeroU64::new(xxh3_64_with_seed(topic.as_bytes(), hash_seed)).unwrap_or(NonZeroU64::MIN))
    }

    /// The fingerprint of these bits; none has no bits.
    pub fn from_bits(bits: u64) -> Option<Self> {
        NonZeroU64::new(bits).map(Self)
    }

    /// Its bits.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

/// The connected members of a shared subscription, on all nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRoute {
    /// `$share/<group>/<filter>` or `$queue/<filter>`.
    pub filter: Box<str>,
    /// Never empty, in the order of the nodes, each once.
    pub members: Vec<GroupMembers>,
}

/// The connected members of a shared subscription on one node; at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupMembers {
    /// The node.
    pub node: NodeId,
    /// How many are connected, and have a session that ends with the connection.
    pub online: u32,
    /// How many are connected, and have a session that a shard keeps.
    pub kept: u32,
}

/// How many routes lead to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouteCount {
    /// Of filters without wildcards.
    pub exact: usize,
    /// Of filters with wildcards.
    pub wildcard: usize,
    /// Of shared subscriptions.
    pub groups: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_never_change() {
        // They are in the logs and snapshots of older versions.
        assert_eq!(Fingerprint::new(0, "a").get(), 0xE6C6_32B6_1E96_4E1F);
        assert_eq!(Fingerprint::new(7, "plant/line-4").get(), 0x0263_61A3_20E8_3373);
        assert_eq!(Fingerprint::from_bits(0), None);
    }

    #[test]
    fn the_sets_of_several_filters_are_merged() {
        let mut routes = Routes::new(7);
        let x = routes.fingerprint("a/x");
        for (node, changes) in [
            (4, vec![RouteChange::AddExact(x)]),
            (2, vec![RouteChange::AddExact(x), RouteChange::AddWildcard("a/+".into())]),
            (9, vec![RouteChange::AddWildcard("a/+".into()), RouteChange::AddWildcard("#".into())]),
            (1, vec![RouteChange::AddWildcard("#".into())]),
        ] {
            routes.apply(NodeId(node), changes);
        }
        check(&routes, "a/x", &[1, 2, 4, 9]);
        check(&routes, "a/y", &[1, 2, 9]);
        check(&routes, "b", &[1, 9]);
        check(&routes, "$SYS/b", &[]); // [MQTT-4.7.2-1]
        assert!(routes.remove_node(NodeId(9)));
        assert!(!routes.remove_node(NodeId(9)));
        check(&routes, "a/x", &[1, 2, 4]);
        check(&routes, "a/y", &[1, 2]);
        assert_eq!(routes.len(), RouteCount { exact: 1, wildcard: 2, groups: 0 });
    }

    fn check(routes: &Routes, topic: &str, expected: &[u64]) {
        let mut nodes = Vec::new();
        routes.matches(topic, |node| nodes.push(node.0), |group| panic!("{group:?}"));
        assert_eq!(nodes, expected, "{topic}");
    }
}
