//! The sets of nodes that exact routes lead to, each kept once.

use std::{collections::BTreeMap, sync::Arc};

use crate::NodeId;

/// Sets of nodes, and how many routes have each. Almost all routes lead to one node, so that there are few sets.
#[derive(Debug, Default)]
pub(super) struct NodeSets {
    /// By identifier.
    sets: Vec<NodeSet>,
    ids: BTreeMap<Arc<[NodeId]>, SetId>,
    /// The identifiers that are not in use.
    free: Vec<SetId>,
}

#[derive(Debug)]
struct NodeSet {
    /// In order, each once; empty when the identifier is not in use.
    nodes: Arc<[NodeId]>,
    references: usize,
}

/// The identifier of a set. Replicas may have different ones for the same set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct SetId(u32);

impl SetId {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

impl NodeSets {
    /// How many sets there are.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// The nodes of a set, in their order.
    pub(super) fn nodes(&self, id: SetId) -> &[NodeId] {
        &self.sets[id.index()].nodes
    }

    /// How many routes have a set.
    pub(super) fn references(&self, id: SetId) -> usize {
        self.sets[id.index()].references
    }

    /// One more reference to the set of these nodes, which are in their order.
    pub(super) fn acquire(&mut self, nodes: &[NodeId]) -> SetId {
        debug_assert!(!nodes.is_empty() && nodes.is_sorted_by(|left, right| left < right));
        let id = match self.ids.get(nodes) {
            Some(&id) => id,
            None => self.insert(nodes.into()),
        };
        self.acquire_again(id);
        id
    }

    /// One more reference to a set.
    pub(super) fn acquire_again(&mut self, id: SetId) {
        self.sets[id.index()].references += 1;
    }

    /// A reference to the set with one more node; `None` when the node is in it.
    pub(super) fn acquire_with(&mut self, id: SetId, node: NodeId) -> Option<SetId> {
        let position = self.nodes(id).binary_search(&node).err()?;
        let mut nodes = self.nodes(id).to_vec();
        nodes.insert(position, node);
        Some(self.acquire(&nodes))
    }

    /// A reference to the set without the node at a position; `None` when that was its only one.
    pub(super) fn acquire_without(&mut self, id: SetId, position: usize) -> Option<SetId> {
        let mut nodes = self.nodes(id).to_vec();
        nodes.remove(position);
        (!nodes.is_empty()).then(|| self.acquire(&nodes))
    }

    /// Gives a reference back; a set without references is forgotten.
    pub(super) fn release(&mut self, id: SetId) {
        let set = &mut self.sets[id.index()];
        set.references -= 1;
        if set.references == 0 {
            self.ids.remove(&std::mem::take(&mut set.nodes));
            self.free.push(id);
        }
    }

    /// All sets, in the order of their identifiers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SetId, &Arc<[NodeId]>)> {
        let sets = (0..).map(SetId).zip(&self.sets);
        sets.filter(|(_, set)| set.references > 0).map(|(id, set)| (id, &set.nodes))
    }

    fn insert(&mut self, nodes: Arc<[NodeId]>) -> SetId {
        let set = NodeSet { nodes: Arc::clone(&nodes), references: 0 };
        let id = match self.free.pop() {
            Some(id) => {
                self.sets[id.index()] = set;
                id
            }
            None => {
                let number = u32::try_from(self.sets.len())
                    .expect("four thousand million routes do not fit into memory");
                self.sets.push(set);
                SetId(number)
            }
        };
        self.ids.insert(nodes, id);
        id
    }

    /// Checks the sets against the number of routes.
    pub(super) fn check_invariants(&self, routes: usize, node_is_live: impl Fn(NodeId) -> bool) {
        assert_eq!(self.sets.iter().map(|set| set.references).sum::<usize>(), routes);
        assert_eq!(self.ids.len() + self.free.len(), self.sets.len());
        for (id, nodes) in self.iter() {
            assert_eq!(self.ids.get(nodes), Some(&id));
            assert!(!nodes.is_empty() && nodes.is_sorted_by(|left, right| left < right));
            assert!(nodes.iter().all(|&node| node_is_live(node)));
        }
    }
}
