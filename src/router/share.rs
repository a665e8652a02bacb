//! Shared subscriptions across nodes: which node's members get a message.
//!
//! A publisher's node picks the node, by how many members each has, and that node picks the member. Each strategy keeps
//! its meaning: `hash_*` pick the same node for the same key, `sticky` the same node as long as it has members,
//! `round_robin` takes nodes in turn by their weight. `least_inflight` knows the load of this node's members only, so it
//! picks the node at random by its weight, and the least busy member there.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use flotilla_state::{GroupRoute, NodeId};

use super::{Group, Members, PickHint, group::stable_hash};
use crate::config::SharedStrategy;

/// One group that gets a message on a topic.
#[derive(Debug)]
pub(crate) struct GroupTarget {
    /// Its members on this node.
    pub(crate) local: Option<Arc<Group>>,
    /// Its members on other nodes.
    remote: Option<Arc<GroupRoute>>,
    me: NodeId,
    /// Counts picks, for `round_robin`.
    turn: AtomicU64,
}

/// Where a message for a group goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeChoice {
    /// To a member on this node.
    Here,
    /// To a member on that node.
    Node(NodeId),
}

impl GroupTarget {
    /// Brings together what this node and the others know of the same groups.
    pub(super) fn join(local: Vec<Arc<Group>>, remote: Vec<Arc<GroupRoute>>, me: NodeId) -> Box<[Self]> {
        let mut remote: Vec<Option<Arc<GroupRoute>>> = remote.into_iter().map(Some).collect();
        let same = |route: &Option<Arc<GroupRoute>>, group: &Group| {
            route.as_ref().is_some_and(|route| *route.filter == *group.filter().as_str())
        };
        let mut targets: Vec<Self> = local
            .into_iter()
            .map(|group| {
                let route = remote.iter_mut().find(|route| same(route, &group)).and_then(Option::take);
                Self::new(Some(group), route, me)
            })
            .collect();
        targets.extend(remote.into_iter().flatten().map(|route| Self::new(None, Some(route), me)));
        targets.into()
    }

    /// A group, as one node knows it.
    pub(crate) fn new(local: Option<Arc<Group>>, remote: Option<Arc<GroupRoute>>, me: NodeId) -> Self {
        Self { local, remote, me, turn: AtomicU64::new(0) }
    }

    /// Its filter, with the share prefix.
    pub(crate) fn filter(&self) -> &str {
        match (&self.local, &self.remote) {
            (Some(group), _) => group.filter().as_str(),
            (None, Some(route)) => &route.filter,
            (None, None) => "",
        }
    }

    /// The node for one message: one with connected members, or else one whose sessions keep it for later. `avoid` is
    /// passed over; `None` when nobody else is there.
    pub(crate) fn choose(
        &self,
        strategy: SharedStrategy,
        hint: &PickHint<'_>,
        avoid: Option<NodeId>,
    ) -> Option<NodeChoice> {
        let Some(remote) = &self.remote else {
            // Nobody is counted where there is no choice: the group itself knows whether it has members.
            return (avoid != Some(self.me) && self.local.is_some()).then_some(NodeChoice::Here);
        };
        let local = self.local.as_ref().map_or(Members::default(), |group| group.members());
        let others = remote.members.iter().filter(|members| members.node != self.me).map(|members| {
            (NodeChoice::Node(members.node), Members { online: members.online, away: members.away })
        });
        let all = std::iter::once((NodeChoice::Here, local)).chain(others);
        let all = all.filter(|(choice, _)| avoid != Some(self.node_of(*choice)));
        let online = all.clone().map(|(choice, members)| (choice, members.online));
        let away = all.map(|(choice, members)| (choice, members.away));
        self.pick(strategy, hint, online).or_else(|| self.pick(strategy, hint, away))
    }

    fn node_of(&self, choice: NodeChoice) -> NodeId {
        match choice {
            NodeChoice::Here => self.me,
            NodeChoice::Node(node) => node,
        }
    }

    fn pick(
        &self,
        strategy: SharedStrategy,
        hint: &PickHint<'_>,
        weights: impl Iterator<Item = (NodeChoice, u32)> + Clone,
    ) -> Option<NodeChoice> {
        let total: u64 = weights.clone().map(|(_, weight)| u64::from(weight)).sum();
        if total == 0 {
            return None;
        }
        let key = match strategy {
            SharedStrategy::RoundRobin => {
                self.turn.fetch_add(1, Ordering::Relaxed).wrapping_add(self.first_turn(hint))
            }
            SharedStrategy::Random | SharedStrategy::LeastInflight => hint.random,
            SharedStrategy::HashClientid => stable_hash(&hint.publisher),
            SharedStrategy::HashTopic => stable_hash(&hint.topic),
            SharedStrategy::Sticky => {
                let present = weights.filter(|(_, weight)| *weight > 0);
                let score = |choice: NodeChoice| stable_hash(&(self.filter(), self.node_of(choice)));
                return present.map(|(choice, _)| choice).max_by_key(|choice| score(*choice));
            }
        };
        // The nodes come in one order everywhere, so that a hash means the same node on each of them.
        let mut ordered: Vec<_> = weights.collect();
        ordered.sort_unstable_by_key(|(choice, _)| self.node_of(*choice));
        let mut rest = key % total;
        ordered.into_iter().find_map(|(choice, weight)| match rest.checked_sub(u64::from(weight)) {
            Some(less) => {
                rest = less;
                None
            }
            None => Some(choice),
        })
    }

    /// Where the turns begin: not at the same node for each topic.
    fn first_turn(&self, hint: &PickHint<'_>) -> u64 {
        stable_hash(&hint.topic) % 1_024
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use flotilla_state::GroupMembers;

    use super::*;

    const ME: NodeId = NodeId(1);

    fn target(members: &[(u64, u32, u32)]) -> GroupTarget {
        let members =
            members.iter().map(|&(node, online, away)| GroupMembers { node: NodeId(node), online, away });
        let route = GroupRoute { filter: "$share/g/t".into(), members: members.collect() };
        GroupTarget::new(None, Some(Arc::new(route)), ME)
    }

    fn chosen(target: &GroupTarget, strategy: SharedStrategy, avoid: Option<NodeId>) -> BTreeMap<u64, u32> {
        let mut counts = BTreeMap::new();
        for random in 0..60 {
            let hint = PickHint { topic: "t", publisher: None, random, exclude: None };
            match target.choose(strategy, &hint, avoid) {
                Some(NodeChoice::Node(node)) => *counts.entry(node.0).or_insert(0) += 1,
                Some(NodeChoice::Here) => *counts.entry(ME.0).or_insert(0) += 1,
                None => {}
            }
        }
        counts
    }

    #[test]
    fn nodes_get_their_share_by_the_number_of_connected_members() {
        for strategy in [SharedStrategy::RoundRobin, SharedStrategy::Random, SharedStrategy::LeastInflight] {
            let counts = chosen(&target(&[(2, 1, 9), (3, 2, 0)]), strategy, None);
            assert_eq!(counts, BTreeMap::from([(2, 20), (3, 40)]), "{strategy:?}");
        }
    }

    #[test]
    fn a_key_goes_to_one_node() {
        for strategy in [SharedStrategy::Sticky, SharedStrategy::HashClientid, SharedStrategy::HashTopic] {
            assert_eq!(chosen(&target(&[(2, 5, 0), (3, 5, 0)]), strategy, None).len(), 1, "{strategy:?}");
        }
    }

    #[test]
    fn members_that_are_away_count_when_nobody_is_there() {
        let target = target(&[(2, 0, 3), (3, 1, 0)]);
        assert_eq!(chosen(&target, SharedStrategy::RoundRobin, None), BTreeMap::from([(3, 60)]));
        assert_eq!(chosen(&target, SharedStrategy::RoundRobin, Some(NodeId(3))), BTreeMap::from([(2, 60)]));
        assert!(chosen(&target_without_members(), SharedStrategy::Random, None).is_empty());
    }

    fn target_without_members() -> GroupTarget {
        target(&[(1, 7, 7)])
    }
}
