//! The routes of filters without wildcards: a compact table from fingerprints to sets of nodes.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Fingerprint,
    node_sets::{NodeSets, SetId},
    segment::Segment,
};
use crate::NodeId;

/// From fingerprints to the nodes that want the topic.
///
/// The table is cut into segments by the highest bits of the fingerprints, so that growing it copies a thousandth of it at a
/// time, and so that a snapshot can share the segments: a segment is copied when it is changed while a snapshot that has
/// not been written yet still holds it.
#[derive(Debug)]
pub(super) struct ExactRoutes {
    segments: Vec<Arc<Segment>>,
    sets: NodeSets,
    len: usize,
}

const SEGMENT_BITS: u32 = 10;

/// A consistent copy of the table, which shares its memory.
#[derive(Debug)]
pub(crate) struct ExactCopy {
    segments: Vec<Arc<Segment>>,
    sets: Vec<(SetId, Arc<[NodeId]>)>,
}

/// Puts a table together from what a copy lists.
#[derive(Debug)]
pub(super) struct ExactBuilder {
    table: ExactRoutes,
    /// By number. Each has one reference from here.
    sets: Vec<SetId>,
    /// The entries of the segment that is not complete yet.
    entries: Vec<(u64, SetId)>,
}

/// What becomes of the routes with a set when a node is taken out of it.
#[derive(Clone, Copy)]
enum Without {
    /// The node is not in the set.
    Same,
    /// The node was the only one.
    Gone,
    Other(SetId),
}

impl ExactRoutes {
    pub(super) fn new() -> Self {
        // All share one empty segment until they are written to.
        let empty = Arc::new(Segment::new(SEGMENT_BITS));
        let segments = vec![empty; 1 << SEGMENT_BITS];
        Self { segments, sets: NodeSets::default(), len: 0 }
    }

    /// How many fingerprints have a route.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The nodes that want the topic, in their order.
    pub(super) fn nodes(&self, fingerprint: Fingerprint) -> &[NodeId] {
        let key = fingerprint.get();
        self.segments[segment_index(key)].get(key).map_or(&[], |set| self.sets.nodes(set))
    }

    /// Adds a node to the route of a topic; returns whether it was not there.
    pub(super) fn add(&mut self, fingerprint: Fingerprint, node: NodeId) -> bool {
        let key = fingerprint.get();
        let segment = &mut self.segments[segment_index(key)];
        match segment.find(key) {
            Ok(slot) => {
                let Some(with) = self.sets.acquire_with(segment.value(slot), node) else { return false };
                self.sets.release(Arc::make_mut(segment).replace(slot, with));
            }
            Err(slot) => {
                Arc::make_mut(segment).insert(slot, key, self.sets.acquire(&[node]));
                self.len += 1;
            }
        }
        true
    }

    /// Removes a node from the route of a topic; returns whether it was there.
    pub(super) fn remove(&mut self, fingerprint: Fingerprint, node: NodeId) -> bool {
        let key = fingerprint.get();
        let segment = &mut self.segments[segment_index(key)];
        let Ok(slot) = segment.find(key) else { return false };
        let set = segment.value(slot);
        let Ok(position) = self.sets.nodes(set).binary_search(&node) else { return false };
        match self.sets.acquire_without(set, position) {
            Some(without) => {
                Arc::make_mut(segment).replace(slot, without);
            }
            None => {
                Arc::make_mut(segment).remove(slot);
                self.len -= 1;
            }
        }
        self.sets.release(set);
        true
    }

    /// Removes a node from all routes, in one pass over the table.
    pub(super) fn remove_node(&mut self, node: NodeId) {
        let ids: Vec<SetId> = self.sets.iter().map(|(id, _)| id).collect();
        let mut without = vec![Without::Same; ids.iter().map(|id| id.index() + 1).max().unwrap_or(0)];
        for id in ids {
            if let Ok(position) = self.sets.nodes(id).binary_search(&node) {
                // The reference that is taken here keeps the new set alive until its routes have theirs.
                without[id.index()] =
                    self.sets.acquire_without(id, position).map_or(Without::Gone, Without::Other);
            }
        }
        for segment in &mut self.segments {
            if segment.iter().all(|(_, set)| matches!(without[set.index()], Without::Same)) {
                continue;
            }
            let before = segment.len();
            let sets = &mut self.sets;
            Arc::make_mut(segment).filter_map(|set| match without[set.index()] {
                Without::Same => Some(set),
                Without::Gone => {
                    sets.release(set);
                    None
                }
                Without::Other(other) => {
                    sets.acquire_again(other);
                    sets.release(set);
                    Some(other)
                }
            });
            self.len -= before - segment.len();
        }
        for change in without {
            if let Without::Other(other) = change {
                self.sets.release(other);
            }
        }
    }

    /// Visits each fingerprint that leads to a node, in one pass over the table.
    pub(super) fn for_each_of(&self, node: NodeId, mut visit: impl FnMut(Fingerprint)) {
        let routes = self.segments.iter().flat_map(|segment| segment.iter());
        for (key, _) in routes.filter(|(_, set)| self.sets.nodes(*set).contains(&node)) {
            Fingerprint::from_bits(key).into_iter().for_each(&mut visit);
        }
    }

    /// A consistent copy: a thousand references, and one for each distinct set of nodes.
    pub(super) fn copy(&self) -> ExactCopy {
        let sets = self.sets.iter().map(|(id, nodes)| (id, Arc::clone(nodes))).collect();
        ExactCopy { segments: self.segments.clone(), sets }
    }

    /// How many routes lead to each node.
    pub(super) fn counts(&self) -> BTreeMap<NodeId, usize> {
        let mut counts = BTreeMap::new();
        for (id, nodes) in self.sets.iter() {
            for node in nodes.iter() {
                *counts.entry(*node).or_default() += self.sets.references(id);
            }
        }
        counts
    }

    /// Checks one segment, and the sets when there are few; `turn` chooses the segment.
    pub(super) fn check_invariants(&self, turn: u64, node_is_live: impl Fn(NodeId) -> bool) {
        let index = segment_index(turn << (u64::BITS - SEGMENT_BITS));
        self.segments[index].check_invariants();
        for (key, set) in self.segments[index].iter() {
            assert_eq!(segment_index(key), index);
            assert!(!self.sets.nodes(set).is_empty());
        }
        if self.sets.len() <= CHECKED_SETS_MAX {
            self.sets.check_invariants(self.len, node_is_live);
        }
    }
}

impl ExactCopy {
    /// The sets, in an order that does not depend on how the table came to be, and the fingerprints in their order, each with
    /// the number of its set.
    pub(crate) fn into_numbered(self) -> (Vec<Arc<[NodeId]>>, impl Iterator<Item = (u64, u32)> + Send) {
        let Self { segments, mut sets } = self;
        sets.sort_unstable_by(|(_, left), (_, right)| left.cmp(right));
        let mut numbers = vec![0; sets.iter().map(|(id, _)| id.index() + 1).max().unwrap_or(0)];
        for (number, (id, _)) in (0..).zip(&sets) {
            numbers[id.index()] = number;
        }
        // A segment is let go as soon as it has been read: a change need not copy it any more.
        let routes = segments.into_iter().flat_map(move |segment| {
            let routes: Vec<_> = segment.iter().map(|(key, set)| (key, numbers[set.index()])).collect();
            routes
        });
        (sets.into_iter().map(|(_, nodes)| nodes).collect(), routes)
    }
}

impl ExactBuilder {
    pub(super) fn new() -> Self {
        Self { table: ExactRoutes::new(), sets: Vec::new(), entries: Vec::new() }
    }

    /// The next set, whose nodes are in their order.
    pub(super) fn push_set(&mut self, nodes: &[NodeId]) {
        self.sets.push(self.table.sets.acquire(nodes));
    }

    /// The next route; `None` when there is no such set, or when the fingerprint is not greater than the last one.
    pub(super) fn push(&mut self, fingerprint: Fingerprint, set: u32) -> Option<()> {
        let set = *self.sets.get(set as usize)?;
        let key = fingerprint.get();
        if let Some(&(last, _)) = self.entries.last() {
            if last >= key {
                return None;
            }
            if segment_index(last) != segment_index(key) {
                self.complete_segment();
            }
        }
        self.table.sets.acquire_again(set);
        self.entries.push((key, set));
        Some(())
    }

    pub(super) fn finish(mut self) -> ExactRoutes {
        self.complete_segment();
        for set in self.sets {
            self.table.sets.release(set);
        }
        self.table
    }

    fn complete_segment(&mut self) {
        if let Some(&(key, _)) = self.entries.first() {
            self.table.segments[segment_index(key)] =
                Arc::new(Segment::from_sorted(SEGMENT_BITS, &self.entries));
            self.table.len += self.entries.len();
            self.entries.clear();
        }
    }
}

/// With more sets than this, they are not checked after each command.
const CHECKED_SETS_MAX: usize = 64;

fn segment_index(key: u64) -> usize {
    usize::try_from(key >> (u64::BITS - SEGMENT_BITS)).expect("it has ten bits")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Op {
        Add(u64, u64),
        Remove(u64, u64),
        RemoveNode(u64),
        Copy,
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn table_agrees_with_a_plain_map(ops in prop::collection::vec(op(), 0..300)) {
            let mut model: BTreeMap<u64, BTreeSet<NodeId>> = BTreeMap::new();
            let mut table = ExactRoutes::new();
            let mut copies = Vec::new();
            for op in ops {
                match op {
                    Op::Add(bits, node) => {
                        let added = model.entry(bits).or_default().insert(NodeId(node));
                        prop_assert_eq!(table.add(fingerprint(bits), NodeId(node)), added);
                    }
                    Op::Remove(bits, node) => {
                        let removed = model.get_mut(&bits).is_some_and(|nodes| nodes.remove(&NodeId(node)));
                        prop_assert_eq!(table.remove(fingerprint(bits), NodeId(node)), removed);
                    }
                    Op::RemoveNode(node) => {
                        model.values_mut().for_each(|nodes| {
                            nodes.remove(&NodeId(node));
                        });
                        table.remove_node(NodeId(node));
                    }
                    Op::Copy => copies.push((listed(&table.copy()), table.copy())),
                }
                model.retain(|_, nodes| !nodes.is_empty());
                check(&table, &model);
            }
            for (before, copy) in copies {
                prop_assert_eq!(listed(&copy), before);
            }
        }
    }

    #[test]
    fn fingerprints_that_are_no_hashes_cost_time_only() {
        let mut table = ExactRoutes::new();
        for bits in 1..=2_000 {
            assert!(table.add(fingerprint(bits), NodeId(bits % 7)));
        }
        assert!((1..=2_000).all(|bits| table.nodes(fingerprint(bits)) == [NodeId(bits % 7)]));
        assert!(table.segments[0].slots() < 5_000, "{}", table.segments[0].slots());
        for bits in 1..=2_000 {
            assert!(table.remove(fingerprint(bits), NodeId(bits % 7)));
        }
        assert_eq!(table.len(), 0);
        assert!(table.segments[0].slots() < 100, "{}", table.segments[0].slots());
    }

    #[test]
    fn sorted_routes_make_the_same_table() {
        let mut table = ExactRoutes::new();
        for number in 1..20_000_u64 {
            let bits = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            table.add(fingerprint(bits), NodeId(number % 3));
            if number % 5 == 0 {
                table.add(fingerprint(bits), NodeId(7));
            }
        }
        let (sets, routes) = table.copy().into_numbered();
        let mut builder = ExactBuilder::new();
        sets.iter().for_each(|nodes| builder.push_set(nodes));
        routes.for_each(|(key, set)| builder.push(fingerprint(key), set).unwrap());
        let again = builder.finish();
        assert_eq!(again.len(), table.len());
        assert_eq!(listed(&again.copy()), listed(&table.copy()));
        assert_eq!(again.counts(), table.counts());
        for turn in 0..1024 {
            again.check_invariants(turn, |_| true);
        }
    }

    #[test]
    fn a_builder_takes_nothing_that_is_out_of_order() {
        let mut builder = ExactBuilder::new();
        assert_eq!(builder.push(fingerprint(1), 0), None);
        builder.push_set(&[NodeId(1)]);
        assert_eq!(builder.push(fingerprint(5), 0), Some(()));
        assert_eq!(builder.push(fingerprint(5), 0), None);
        assert_eq!(builder.push(fingerprint(4), 0), None);
        assert_eq!(builder.push(fingerprint(6), 1), None);
        assert_eq!(builder.push(fingerprint(1 << 60), 0), Some(()));
        assert_eq!(builder.push(fingerprint(6), 0), None);
        let table = builder.finish();
        assert_eq!(table.len(), 2);
        assert_eq!(table.nodes(fingerprint(1 << 60)), [NodeId(1)]);
    }

    fn check(table: &ExactRoutes, model: &BTreeMap<u64, BTreeSet<NodeId>>) {
        assert_eq!(table.len(), model.len());
        for (&bits, nodes) in model {
            assert!(table.nodes(fingerprint(bits)).iter().eq(nodes));
        }
        let all: Vec<_> =
            model.iter().map(|(bits, nodes)| (*bits, nodes.iter().copied().collect())).collect();
        assert_eq!(listed(&table.copy()), all);
        for turn in [0, 1, 511, 1023] {
            table.check_invariants(turn, |_| true);
        }
    }

    fn listed(copy: &ExactCopy) -> Vec<(u64, Vec<NodeId>)> {
        let sets: BTreeMap<SetId, _> = copy.sets.iter().map(|(id, nodes)| (*id, nodes)).collect();
        let routes = copy.segments.iter().flat_map(|segment| segment.iter());
        routes.map(|(key, set)| (key, sets[&set].to_vec())).collect()
    }

    fn fingerprint(bits: u64) -> Fingerprint {
        Fingerprint::from_bits(bits).unwrap()
    }

    fn op() -> impl Strategy<Value = Op> {
        // Close to each other and far from each other, at both ends of a segment.
        let bits = prop_oneof![
            1..40_u64,
            any::<u64>().prop_map(|bits| bits | 1),
            (0..40_u64).prop_map(|low| u64::MAX - low)
        ];
        let node = 0..4_u64;
        prop_oneof![
            8 => (bits.clone(), node.clone()).prop_map(|(bits, node)| Op::Add(bits, node)),
            4 => (bits, node.clone()).prop_map(|(bits, node)| Op::Remove(bits, node)),
            1 => node.prop_map(Op::RemoveNode),
            1 => Just(Op::Copy),
        ]
    }
}
