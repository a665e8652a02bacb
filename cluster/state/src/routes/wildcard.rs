//! The routes of filters with wildcards.

use std::sync::Arc;

use flotilla_mqtt::topic::FilterTree;

use crate::NodeId;

/// From filters with wildcards to the nodes that want what matches them.
#[derive(Debug, Default)]
pub(super) struct WildcardRoutes {
    /// `None` only while a route is being changed.
    tree: FilterTree<Option<Arc<WildcardRoute>>>,
}

/// The nodes that want what matches a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WildcardRoute {
    pub(crate) filter: Box<str>,
    /// Never empty, in their order.
    pub(crate) nodes: Vec<NodeId>,
}

impl WildcardRoutes {
    /// How many filters have a route.
    pub(super) fn len(&self) -> usize {
        self.tree.len()
    }

    /// Puts a route in that was not there.
    pub(super) fn insert(&mut self, route: WildcardRoute) {
        let filter = route.filter.clone();
        *self.tree.entry(&filter) = Some(Arc::new(route));
    }

    /// Adds a node to the route of a filter; returns whether it was not there.
    pub(super) fn add(&mut self, filter: &str, node: NodeId) -> bool {
        match self.tree.entry(filter) {
            Some(route) => {
                let Err(position) = route.nodes.binary_search(&node) else { return false };
                // Shared with a snapshot that is being written: copied.
                Arc::make_mut(route).nodes.insert(position, node);
            }
            empty => *empty = Some(Arc::new(WildcardRoute { filter: filter.into(), nodes: vec![node] })),
        }
        true
    }

    /// Removes a node from the route of a filter; returns whether it was there.
    pub(super) fn remove(&mut self, filter: &str, node: NodeId) -> bool {
        let Some(Some(route)) = self.tree.value_mut(filter) else { return false };
        let Ok(position) = route.nodes.binary_search(&node) else { return false };
        if route.nodes.len() == 1 {
            self.tree.remove(filter);
        } else {
            Arc::make_mut(route).nodes.remove(position);
        }
        true
    }

    /// Removes a node from all routes, in one pass over them.
    pub(super) fn remove_node(&mut self, node: NodeId) {
        let with_node = |route: &&Arc<WildcardRoute>| route.nodes.binary_search(&node).is_ok();
        let affected: Vec<_> = self.iter().filter(with_node).map(|route| route.filter.clone()).collect();
        for filter in affected {
            self.remove(&filter, node);
        }
    }

    /// Visits the nodes of each route that matches a topic name.
    pub(super) fn for_each_match<'r>(&'r self, topic: &str, mut visit: impl FnMut(&'r [NodeId])) {
        if self.len() == 0 {
            return;
        }
        self.tree.for_each_match(topic, |route| visit(route.as_ref().map_or(&[], |route| &route.nodes)));
    }

    /// All routes, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<WildcardRoute>> {
        self.tree.values().flatten()
    }
}
