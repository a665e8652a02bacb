//! The filters with wildcards: a trie over levels with compressed paths.
//!
//! A node stands for one or more levels below its parent. Where no other filter branches off, a whole path of levels is
//! one node, so that there are at most two nodes per filter, however many levels the filters have. `#` is not a level:
//! `a/#` is a second value of the node of `a`, which is what makes it match `a` itself.
//!
//! The children of all nodes are in one hash table, keyed by their parent and the first of their levels, except for the
//! child that starts with `+`, which its parent knows.

use std::{
    num::NonZeroU32,
    ops::{Index, IndexMut},
};

use super::{
    chunks::Chunks,
    id_table::{IdTable, KeyHash},
    label::{Label, match_label, shared_levels},
};
use crate::topic::levels::first_level;

/// Filters with wildcards and their values.
///
/// Invariant: every node but the root has a value or at least two children.
#[derive(Debug)]
pub(super) struct Trie<V> {
    nodes: Nodes<V>,
    /// Nodes that are not in use.
    free: Vec<NodeId>,
    /// The nodes whose first level is literal, by parent and first level.
    literal_children: IdTable<NodeId>,
    len: usize,
}

#[derive(Debug)]
struct Node<V> {
    /// Its levels below the parent; of no meaning at the root, which stands for no level at all.
    label: Label,
    parent: NodeId,
    /// The child whose first level is `+`.
    plus_child: Option<NodeId>,
    /// How many children there are, with the one for `+`.
    children: u32,
    /// The identifiers of all children, combined by exclusive or: the child itself when there is only one.
    children_xor: u32,
    /// The value of the filter that ends here.
    here: Option<Box<V>>,
    /// The value of the filter that ends here and goes on with `/#`.
    below: Option<Box<V>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct NodeId(NonZeroU32);

const ROOT: NodeId = NodeId(NonZeroU32::MIN);

impl<V> Trie<V> {
    pub(super) fn new() -> Self {
        let mut nodes = Nodes(Chunks::new());
        nodes.push(Node::new(ROOT, b""));
        Self { nodes, free: Vec::new(), literal_children: IdTable::new(), len: 0 }
    }

    /// How many filters there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn entry(&mut self, filter: &str) -> &mut V
    where
        V: Default,
    {
        let (levels, end) = parse(filter);
        let id = levels.map_or(ROOT, |levels| self.insert_node(levels));
        let slot = self.nodes[id].slot_mut(end);
        self.len += usize::from(slot.is_none());
        slot.get_or_insert_default()
    }

    pub(super) fn value(&self, filter: &str) -> Option<&V> {
        let (levels, end) = parse(filter);
        let id = self.find(levels)?;
        self.nodes[id].slot(end)
    }

    pub(super) fn value_mut(&mut self, filter: &str) -> Option<&mut V> {
        let (levels, end) = parse(filter);
        let id = self.find(levels)?;
        self.nodes[id].slot_mut(end).as_deref_mut()
    }

    pub(super) fn remove(&mut self, filter: &str) -> Option<V> {
        let (levels, end) = parse(filter);
        let id = self.find(levels)?;
        let value = self.nodes[id].slot_mut(end).take()?;
        self.len -= 1;
        self.prune(id);
        self.shrink();
        Some(*value)
    }

    /// Visits the value of each filter that matches a topic name; returns how many nodes were tried for that.
    ///
    /// A node is tried when its parent's whole path and its own first level match the beginning of the name, hence at most
    /// once, and only when some filter begins with levels that match.
    pub(super) fn for_each_match<'t>(&'t self, name: &str, mut visit: impl FnMut(&'t V)) -> usize {
        let name = name.as_bytes();
        // Filters that start with a wildcard do not match topics that start with `$` [MQTT-4.7.2-1].
        let is_dollar = name.first() == Some(&b'$');
        let mut tried = 0;
        let mut branches = Branches::new();
        let mut at = Some((ROOT, 0));
        while let Some((id, start)) = at.take().or_else(|| branches.pop()) {
            let node = &self.nodes[id];
            let skips_wildcards = is_dollar && id == ROOT;
            if let Some(value) = node.below.as_deref().filter(|_| !skips_wildcards) {
                visit(value);
            }
            if start > name.len() {
                node.here.as_deref().into_iter().for_each(&mut visit);
                continue;
            }
            if let Some(child) = node.plus_child.filter(|_| !skips_wildcards) {
                tried += 1;
                if let Some(next) = match_label(self.nodes[child].label.as_bytes(), name, start) {
                    branches.push((child, next));
                }
            }
            if let Some(child) = self.literal_child(id, first_level(&name[start..])) {
                tried += 1;
                at = match_label(self.nodes[child].label.as_bytes(), name, start).map(|next| (child, next));
            }
        }
        tried
    }

    /// All filters with their values.
    pub(super) fn iter(&self) -> impl Iterator<Item = (String, &V)> {
        self.nodes.ids().flat_map(|id| {
            let here = self.nodes[id].here.as_deref().map(|value| (self.filter(id, End::Here), value));
            let below = self.nodes[id].below.as_deref().map(|value| (self.filter(id, End::Below), value));
            here.into_iter().chain(below)
        })
    }

    /// All values.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.nodes.ids().flat_map(|id| {
            let node = &self.nodes[id];
            node.here.as_deref().into_iter().chain(node.below.as_deref())
        })
    }

    /// The text of the filter whose value a node holds.
    fn filter(&self, mut id: NodeId, end: End) -> String {
        let mut labels = Vec::new();
        if end == End::Below {
            labels.push(b"#".as_slice());
        }
        while id != ROOT {
            labels.push(self.nodes[id].label.as_bytes());
            id = self.nodes[id].parent;
        }
        labels.reverse();
        String::from_utf8(labels.join(&b'/')).expect("it is put together from whole levels of a filter")
    }

    /// The node of these levels, if there is one.
    fn find(&self, levels: Option<&[u8]>) -> Option<NodeId> {
        let Some(mut rest) = levels else { return Some(ROOT) };
        let mut id = ROOT;
        loop {
            id = self.child(id, first_level(rest))?;
            let label = self.nodes[id].label.as_bytes();
            if shared_levels(label, rest) < label.len() {
                return None;
            }
            if label.len() == rest.len() {
                return Some(id);
            }
            rest = &rest[label.len() + 1..];
        }
    }

    /// The node of these levels, which is made when there is none. The caller gives it a value.
    fn insert_node(&mut self, levels: &[u8]) -> NodeId {
        let mut rest = levels;
        let mut id = ROOT;
        loop {
            let Some(child) = self.child(id, first_level(rest)) else {
                return self.insert_child(id, rest);
            };
            let label = self.nodes[child].label.as_bytes();
            let shared = shared_levels(label, rest);
            id = if shared < label.len() { self.split(child, shared) } else { child };
            if shared == rest.len() {
                return id;
            }
            rest = &rest[shared + 1..];
        }
    }

    /// Cuts the label of a node behind `at` bytes, where a level ends; returns the new node of the upper part.
    fn split(&mut self, id: NodeId, at: usize) -> NodeId {
        self.unlink(id);
        let label = self.nodes[id].label.clone();
        let (upper, lower) = (&label.as_bytes()[..at], &label.as_bytes()[at + 1..]);
        let upper = self.insert_child(self.nodes[id].parent, upper);
        self.nodes[id].label = Label::new(lower);
        self.nodes[id].parent = upper;
        self.link(id);
        upper
    }

    /// Restores the invariant at a node that has just lost a value.
    fn prune(&mut self, id: NodeId) {
        let node = &self.nodes[id];
        let parent = node.parent;
        if node.has_value() || id == ROOT {
            return;
        }
        match node.children {
            0 => {
                self.unlink(id);
                self.release(id);
                // It has not become a leaf: it had a value or another child.
                let node = &self.nodes[parent];
                if parent != ROOT && node.children == 1 && !node.has_value() {
                    self.merge(parent);
                }
            }
            1 => self.merge(id),
            _ => {}
        }
    }

    /// Replaces a node without a value by its only child.
    fn merge(&mut self, id: NodeId) {
        let child = self.nodes[id].only_child();
        self.unlink(id);
        self.unlink(child);
        self.nodes[child].label = Label::joined(&self.nodes[id].label, &self.nodes[child].label);
        self.nodes[child].parent = self.nodes[id].parent;
        self.link(child);
        self.release(id);
    }

    fn child(&self, parent: NodeId, level: &[u8]) -> Option<NodeId> {
        if level == b"+" { self.nodes[parent].plus_child } else { self.literal_child(parent, level) }
    }

    fn literal_child(&self, parent: NodeId, level: &[u8]) -> Option<NodeId> {
        if !self.nodes[parent].has_literal_child() {
            return None;
        }
        let hash = self.literal_children.hash((parent, level));
        self.literal_children.find(hash, |id| {
            let node = &self.nodes[id];
            node.parent == parent && node.label.first_level() == level
        })
    }

    fn insert_child(&mut self, parent: NodeId, levels: &[u8]) -> NodeId {
        let node = Node::new(parent, levels);
        let id = match self.free.pop() {
            Some(id) => {
                self.nodes[id] = node;
                id
            }
            None => self.nodes.push(node),
        };
        self.link(id);
        id
    }

    /// Makes a node known to its parent.
    fn link(&mut self, id: NodeId) {
        let parent = self.nodes[id].parent;
        match self.literal_key(id) {
            Some(hash) => self.literal_children.insert(hash, id),
            None => self.nodes[parent].plus_child = Some(id),
        }
        self.nodes[parent].children += 1;
        self.nodes[parent].children_xor ^= id.0.get();
    }

    /// Undoes `link`; label and parent must still be the same.
    fn unlink(&mut self, id: NodeId) {
        let parent = self.nodes[id].parent;
        match self.literal_key(id) {
            Some(hash) => self.literal_children.remove(hash, id),
            None => self.nodes[parent].plus_child = None,
        }
        self.nodes[parent].children -= 1;
        self.nodes[parent].children_xor ^= id.0.get();
    }

    /// Under what a node is found in the table; `None` when its first level is `+`.
    fn literal_key(&self, id: NodeId) -> Option<KeyHash> {
        let Node { parent, label, .. } = &self.nodes[id];
        let level = label.first_level();
        (level != b"+").then(|| self.literal_children.hash((parent, level)))
    }

    fn release(&mut self, id: NodeId) {
        self.nodes[id] = Node::new(ROOT, b"");
        self.free.push(id);
    }

    /// Gives memory back when most nodes have become free, by numbering the others anew: seldom enough that the removals
    /// pay for it.
    fn shrink(&mut self) {
        let room = self.nodes.0.len();
        let used = room - self.free.len();
        if room <= 64 || used >= room / 4 {
            return;
        }
        let mut new_ids = vec![ROOT; room];
        let mut kept = Nodes(Chunks::new());
        for (id, mut node) in self.nodes.ids().zip(std::mem::replace(&mut self.nodes.0, Chunks::new())) {
            if id == ROOT || node.has_value() || node.children > 0 {
                (node.plus_child, node.children, node.children_xor) = (None, 0, 0);
                new_ids[id.index()] = kept.push(node);
            }
        }
        self.nodes = kept;
        self.free = Vec::new();
        self.literal_children = IdTable::new();
        for id in self.nodes.ids().skip(1) {
            let old_parent = self.nodes[id].parent;
            self.nodes[id].parent = new_ids[old_parent.index()];
            self.link(id);
        }
    }
}

/// Where the value of a filter is found in the node of its levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Here,
    Below,
}

/// Takes a `#` at the end off a filter. No levels are left of the filter `#`.
fn parse(filter: &str) -> (Option<&[u8]>, End) {
    if filter == "#" {
        return (None, End::Below);
    }
    match filter.strip_suffix("/#") {
        Some(levels) => (Some(levels.as_bytes()), End::Below),
        None => (Some(filter.as_bytes()), End::Here),
    }
}

impl<V> Node<V> {
    fn new(parent: NodeId, levels: &[u8]) -> Self {
        let label = Label::new(levels);
        Self { label, parent, plus_child: None, children: 0, children_xor: 0, here: None, below: None }
    }

    fn has_value(&self) -> bool {
        self.here.is_some() || self.below.is_some()
    }

    fn has_literal_child(&self) -> bool {
        self.children > u32::from(self.plus_child.is_some())
    }

    fn only_child(&self) -> NodeId {
        debug_assert_eq!(self.children, 1);
        NodeId(NonZeroU32::new(self.children_xor).expect("it is the identifier of the only child"))
    }

    fn slot(&self, end: End) -> Option<&V> {
        match end {
            End::Here => self.here.as_deref(),
            End::Below => self.below.as_deref(),
        }
    }

    fn slot_mut(&mut self, end: End) -> &mut Option<Box<V>> {
        match end {
            End::Here => &mut self.here,
            End::Below => &mut self.below,
        }
    }
}

impl NodeId {
    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// All nodes, by identifier. Identifiers of free nodes are used again.
#[derive(Debug)]
struct Nodes<V>(Chunks<Node<V>>);

impl<V> Nodes<V> {
    fn push(&mut self, node: Node<V>) -> NodeId {
        self.0.push(node);
        let number = u32::try_from(self.0.len()).ok().and_then(NonZeroU32::new);
        NodeId(number.expect("four thousand million nodes do not fit into memory"))
    }

    fn ids(&self) -> impl Iterator<Item = NodeId> + use<V> {
        let count = u32::try_from(self.0.len()).expect("every node has an identifier");
        (1..=count).filter_map(NonZeroU32::new).map(NodeId)
    }
}

impl<V> Index<NodeId> for Nodes<V> {
    type Output = Node<V>;

    fn index(&self, id: NodeId) -> &Node<V> {
        &self.0[id.index()]
    }
}

impl<V> IndexMut<NodeId> for Nodes<V> {
    fn index_mut(&mut self, id: NodeId) -> &mut Node<V> {
        &mut self.0[id.index()]
    }
}

/// The `+` branches that a match has yet to follow: each with the start of the levels of the name that are left.
///
/// Each level of the name leaves at most one open.
struct Branches {
    first: [(NodeId, usize); FIRST_BRANCHES],
    len: usize,
    more: Vec<(NodeId, usize)>,
}

const FIRST_BRANCHES: usize = 12;

impl Branches {
    fn new() -> Self {
        Self { first: [(ROOT, 0); FIRST_BRANCHES], len: 0, more: Vec::new() }
    }

    fn push(&mut self, branch: (NodeId, usize)) {
        match self.first.get_mut(self.len) {
            Some(place) => {
                *place = branch;
                self.len += 1;
            }
            None => self.more.push(branch),
        }
    }

    fn pop(&mut self) -> Option<(NodeId, usize)> {
        self.more.pop().or_else(|| {
            self.len = self.len.checked_sub(1)?;
            Some(self.first[self.len])
        })
    }
}

#[cfg(test)]
impl<V> Trie<V> {
    /// How many nodes are in use, with the root, and how many there is room for.
    pub(super) fn node_count(&self) -> (usize, usize) {
        (self.nodes.0.len() - self.free.len(), self.nodes.0.len())
    }

    pub(super) fn check_invariants(&self) {
        let room = self.nodes.0.len();
        let mut is_free = vec![false; room];
        self.free.iter().for_each(|id| is_free[id.index()] = true);
        let in_use = || self.nodes.ids().filter(|id| !is_free[id.index()]);
        assert_eq!(in_use().count() + self.free.len(), room, "no node is free twice");

        let mut children = vec![(0, 0); room];
        for id in in_use().filter(|id| *id != ROOT) {
            let node = &self.nodes[id];
            assert!(node.has_value() || node.children >= 2, "{id:?} is not needed");
            assert!(!is_free[node.parent.index()], "{id:?} has lost its parent");
            assert_eq!(self.child(node.parent, node.label.first_level()), Some(id));
            let (count, xor) = &mut children[node.parent.index()];
            *count += 1;
            *xor ^= id.0.get();
        }
        for (id, children) in self.nodes.ids().zip(children) {
            assert_eq!((self.nodes[id].children, self.nodes[id].children_xor), children, "{id:?}");
        }
        let values =
            |id| [End::Here, End::Below].into_iter().filter_map(move |end| self.nodes[id].slot(end)).count();
        assert_eq!(self.nodes.ids().map(values).sum::<usize>(), self.len, "free nodes have no values either");
        let literal = in_use().filter(|id| *id != ROOT && self.literal_key(*id).is_some());
        assert_eq!(literal.count(), self.literal_children.len());
    }
}
