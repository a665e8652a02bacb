//! The routes of shared subscriptions.

use std::sync::Arc;

use flotilla_mqtt::topic::{FilterTree, TopicFilter};

use super::{GroupMembers, GroupRoute};
use crate::NodeId;

/// From shared subscriptions to their members on each node.
#[derive(Debug, Default)]
pub(super) struct GroupRoutes {
    /// By what is behind the share prefix: several groups may share a filter. Never empty, in the order of the whole texts.
    tree: FilterTree<Vec<Arc<GroupRoute>>>,
    len: usize,
}

impl GroupRoutes {
    /// How many shared subscriptions have a route.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Puts a route in that was not there.
    pub(super) fn insert(&mut self, filter: &TopicFilter, route: GroupRoute) {
        let groups = self.tree.entry(filter.filter());
        let position = groups.partition_point(|group| group.filter < route.filter);
        groups.insert(position, Arc::new(route));
        self.len += 1;
    }

    /// The route of a shared subscription.
    pub(super) fn get(&self, filter: &TopicFilter) -> Option<&Arc<GroupRoute>> {
        let groups = self.tree.value(filter.filter())?;
        groups.iter().find(|group| *group.filter == *filter.as_str())
    }

    /// Sets the members of a shared subscription on one node.
    pub(super) fn set(&mut self, filter: &TopicFilter, members: GroupMembers) -> Change {
        let GroupMembers { node, online, kept } = members;
        if (online, kept) == (0, 0) {
            return self.remove(filter, node);
        }
        let Some(groups) = self.tree.value_mut(filter.filter()) else {
            self.insert(filter, GroupRoute { filter: filter.as_str().into(), members: vec![members] });
            return Change::Added;
        };
        let Ok(index) = groups.binary_search_by(|group| (*group.filter).cmp(filter.as_str())) else {
            self.insert(filter, GroupRoute { filter: filter.as_str().into(), members: vec![members] });
            return Change::Added;
        };
        let group = &mut groups[index];
        match group.members.binary_search_by_key(&node, |members| members.node) {
            Ok(position) if group.members[position] == members => Change::None,
            Ok(position) => {
                Arc::make_mut(group).members[position] = members;
                Change::Counts
            }
            Err(position) => {
                Arc::make_mut(group).members.insert(position, members);
                Change::Added
            }
        }
    }

    /// Removes a node from all groups, in one pass over them.
    pub(super) fn remove_node(&mut self, node: NodeId) {
        let with_node = |group: &&Arc<GroupRoute>| {
            group.members.binary_search_by_key(&node, |members| members.node).is_ok()
        };
        let affected: Vec<_> = self.iter().filter(with_node).map(|group| group.filter.clone()).collect();
        for filter in affected {
            let filter = TopicFilter::parse(&filter, u16::MAX).expect("it was valid when it came in");
            self.remove(&filter, node);
        }
    }

    fn remove(&mut self, filter: &TopicFilter, node: NodeId) -> Change {
        let Some(groups) = self.tree.value_mut(filter.filter()) else { return Change::None };
        let found = groups.binary_search_by(|group| (*group.filter).cmp(filter.as_str()));
        let Ok(index) = found else { return Change::None };
        let group = &mut groups[index];
        let found = group.members.binary_search_by_key(&node, |members| members.node);
        let Ok(position) = found else { return Change::None };
        if group.members.len() > 1 {
            Arc::make_mut(group).members.remove(position);
            return Change::Removed;
        }
        groups.remove(index);
        self.len -= 1;
        if groups.is_empty() {
            self.tree.remove(filter.filter());
        }
        Change::Removed
    }

    /// Visits each group whose filter matches a topic name.
    pub(super) fn for_each_match<'r>(&'r self, topic: &str, mut visit: impl FnMut(&'r Arc<GroupRoute>)) {
        if self.len == 0 {
            return;
        }
        self.tree.for_each_match(topic, |groups| groups.iter().for_each(&mut visit));
    }

    /// All groups, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<GroupRoute>> {
        self.tree.values().flatten()
    }
}

/// What has become of the members of a group on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing.
    None,
    /// They are there now.
    Added,
    /// There are more or less of them.
    Counts,
    /// They are gone.
    Removed,
}
