//! Shared subscriptions across nodes: which node's members get a message.
//!
//! A publisher's node picks the node, by how many members each has, and that node picks the member. Of a message of QoS 1 or 2
//! that is so for members whose sessions end with their connections; for all the others, of whatever node, the group's shard
//! is one more candidate with the weight of those that are connected, and picks among them. Each strategy keeps its meaning:
//! `hash_*` pick the same candidate for the same key, `sticky` the same one as long as it has members, `round_robin` takes
//! them in turn by their weight. `least_inflight` knows the load of this node's members only, so it picks the candidate at
//! random by its weight, and the least busy member there.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use flotilla_mqtt::QoS;
use flotilla_state::{GroupMembers, GroupRoute, NodeId, ShardId};

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
    /// See [`GroupTarget::shard`]; once somebody has asked.
    shard: OnceLock<ShardId>,
}

/// Where a message for a group goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeChoice {
    /// To a member on this node.
    Here,
    /// To a member on that node.
    Node(NodeId),
    /// To the group's shard, which keeps it for the members whose sessions are kept.
    Shard,
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
        Self { local, remote, me, turn: AtomicU64::new(0), shard: OnceLock::new() }
    }

    /// Its filter, with the share prefix.
    pub(crate) fn filter(&self) -> &str {
        match (&self.local, &self.remote) {
            (Some(group), _) => group.filter().as_str(),
            (None, Some(route)) => &route.filter,
            (None, None) => "",
        }
    }

    /// The shard that keeps messages for the group if members have sessions that are kept; `shard_of` says it once.
    pub(crate) fn shard(&self, shard_of: impl FnOnce(&[u8]) -> Option<ShardId>) -> Option<ShardId> {
        if let Some(shard) = self.shard.get() {
            return Some(*shard);
        }
        let shard = shard_of(self.filter().as_bytes())?;
        Some(*self.shard.get_or_init(|| shard))
    }

    /// Where one message goes that comes from its publisher, and that the group's shard gets, too; `None` when nobody is connected.
    pub(crate) fn choose(&self, strategy: SharedStrategy, hint: &PickHint<'_>) -> Option<NodeChoice> {
        if hint.qos == QoS::AtMostOnce {
            return self.choose_member(strategy, hint, None);
        }
        let counts = self.counts();
        let kept = counts.clone().map(|(_, members)| u64::from(members.kept)).sum();
        let online = counts.map(|(choice, members)| (choice, u64::from(members.online)));
        self.pick(strategy, hint, online.chain([(NodeChoice::Shard, kept)]))
    }

    /// The node whose members get one message that no shard keeps for the group. `avoid` is passed over; `None` when nobody else is
    /// there.
    pub(crate) fn choose_member(
        &self,
        strategy: SharedStrategy,
        hint: &PickHint<'_>,
        avoid: Option<NodeId>,
    ) -> Option<NodeChoice> {
        let allowed = |choice: NodeChoice| avoid.is_none() || self.place(choice) != avoid;
        let count = |Members { online, kept }| match hint.qos {
            QoS::AtMostOnce => u64::from(online) + u64::from(kept),
            QoS::AtLeastOnce | QoS::ExactlyOnce => u64::from(online),
        };
        let others = self.counts().filter(|(choice, _)| allowed(*choice));
        self.pick(strategy, hint, others.map(|(choice, members)| (choice, count(members))))
    }

    /// How many members each node has.
    fn counts(&self) -> impl Iterator<Item = (NodeChoice, Members)> + Clone {
        let local = self.local.as_ref().map(|group| (NodeChoice::Here, group.members()));
        let others = self.remote.iter().flat_map(|remote| &remote.members);
        let others = others.filter(|members| members.node != self.me).map(|members| {
            let &GroupMembers { node, online, kept } = members;
            (NodeChoice::Node(node), Members { online, kept })
        });
        local.into_iter().chain(others)
    }

    /// The node of a choice; the shard may be on any.
    fn place(&self, choice: NodeChoice) -> Option<NodeId> {
        match choice {
            NodeChoice::Here => Some(self.me),
            NodeChoice::Node(node) => Some(node),
            NodeChoice::Shard => None,
        }
    }

    fn pick(
        &self,
        strategy: SharedStrategy,
        hint: &PickHint<'_>,
        weights: impl Iterator<Item = (NodeChoice, u64)> + Clone,
    ) -> Option<NodeChoice> {
        let present = weights.filter(|(_, weight)| *weight > 0);
        let mut some = present.clone();
        let (first, _) = some.next()?;
        if some.next().is_none() {
            return Some(first);
        }
        let key = match strategy {
            SharedStrategy::RoundRobin => {
                self.turn.fetch_add(1, Ordering::Relaxed).wrapping_add(self.first_turn(hint))
            }
            SharedStrategy::Random | SharedStrategy::LeastInflight => hint.random,
            SharedStrategy::HashClientid => stable_hash(&hint.publisher),
            SharedStrategy::HashTopic => stable_hash(&hint.topic),
            SharedStrategy::Sticky => {
                let score = |choice: NodeChoice| stable_hash(&(self.filter(), self.place(choice)));
                return present.map(|(choice, _)| choice).max_by_key(|choice| score(*choice));
            }
        };
        // They come in one order everywhere, so that a hash means the same one on each node.
        let mut ordered: Vec<_> = present.collect();
        ordered.sort_unstable_by_key(|(choice, _)| self.place(*choice));
        let mut rest = key % ordered.iter().map(|(_, weight)| weight).sum::<u64>();
        ordered.into_iter().find_map(|(choice, weight)| match rest.checked_sub(weight) {
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

    use flotilla_mqtt::session::ClientId;

    use super::*;

    const ME: NodeId = NodeId(1);
    const SHARD: u64 = 0;
    const ALL: [SharedStrategy; 6] = [
        SharedStrategy::RoundRobin,
        SharedStrategy::Random,
        SharedStrategy::LeastInflight,
        SharedStrategy::Sticky,
        SharedStrategy::HashClientid,
        SharedStrategy::HashTopic,
    ];

    /// Of each node: its number, its members whose sessions end with their connections, and the others.
    fn target(members: &[(u64, u32, u32)]) -> GroupTarget {
        let members =
            members.iter().map(|&(node, online, kept)| GroupMembers { node: NodeId(node), online, kept });
        let route = GroupRoute { filter: "$share/g/t".into(), members: members.collect() };
        GroupTarget::new(None, Some(Arc::new(route)), ME)
    }

    /// How often each node is chosen, or the shard, for 60 messages of as many publishers.
    fn count(choose: impl Fn(&PickHint<'_>) -> Option<NodeChoice>, qos: QoS) -> BTreeMap<u64, u32> {
        let mut counts = BTreeMap::new();
        for random in 0..60 {
            let publisher = ClientId::new(&format!("p{random}"));
            let publisher = publisher.as_ref();
            let hint = PickHint { topic: "t", publisher, qos, random, exclude: None };
            if let Some(choice) = choose(&hint) {
                let key = match choice {
                    NodeChoice::Here => ME.0,
                    NodeChoice::Node(node) => node.0,
                    NodeChoice::Shard => SHARD,
                };
                *counts.entry(key).or_insert(0) += 1;
            }
        }
        counts
    }

    fn chosen(target: &GroupTarget, strategy: SharedStrategy, qos: QoS) -> BTreeMap<u64, u32> {
        count(|hint| target.choose(strategy, hint), qos)
    }

    fn chosen_again(target: &GroupTarget, avoid: Option<NodeId>, qos: QoS) -> BTreeMap<u64, u32> {
        count(|hint| target.choose_member(SharedStrategy::RoundRobin, hint, avoid), qos)
    }

    #[test]
    fn each_candidate_gets_its_share_by_the_number_of_its_members() {
        let mixed = target(&[(2, 1, 2), (3, 2, 1)]);
        for strategy in [SharedStrategy::RoundRobin, SharedStrategy::Random, SharedStrategy::LeastInflight] {
            let counts = chosen(&mixed, strategy, QoS::AtMostOnce);
            assert_eq!(counts, BTreeMap::from([(2, 30), (3, 30)]), "{strategy:?}");
            for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
                let counts = chosen(&mixed, strategy, qos);
                assert_eq!(counts, BTreeMap::from([(SHARD, 30), (2, 10), (3, 20)]), "{strategy:?}");
            }
        }
    }

    #[test]
    fn a_key_goes_to_one_candidate_on_whatever_node_the_publisher_is() {
        let members = [(2, 5, 3), (3, 5, 3)];
        let (mixed, elsewhere) = (target(&members), target(&members));
        let elsewhere = GroupTarget { me: NodeId(9), ..elsewhere };
        for strategy in [SharedStrategy::Sticky, SharedStrategy::HashTopic] {
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
                let counts = chosen(&mixed, strategy, qos);
                assert_eq!(counts.len(), 1, "{strategy:?}");
                assert_eq!(counts, chosen(&elsewhere, strategy, qos), "{strategy:?}");
            }
        }
        let counts = chosen(&mixed, SharedStrategy::HashClientid, QoS::AtLeastOnce);
        assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [SHARD, 2, 3], "publishers are many");
        for publisher in ["a", "b", "c", "d"].map(ClientId::new) {
            let hint = |random| PickHint {
                topic: "t",
                publisher: publisher.as_ref(),
                qos: QoS::AtLeastOnce,
                random,
                exclude: None,
            };
            let choice =
                |target: &GroupTarget, random| target.choose(SharedStrategy::HashClientid, &hint(random));
            assert!((1..20).all(|random| choice(&mixed, random) == choice(&elsewhere, 0)));
        }
    }

    #[test]
    fn sticky_moves_on_only_when_its_candidate_is_gone() {
        let of = |members: &[_]| chosen(&target(members), SharedStrategy::Sticky, QoS::AtLeastOnce);
        let favourite = of(&[(2, 1, 1), (3, 1, 1)]);
        let rest = match favourite.keys().next() {
            Some(&SHARD) => of(&[(2, 1, 0), (3, 1, 0)]),
            Some(2) => of(&[(2, 0, 1), (3, 1, 1)]),
            _ => of(&[(2, 1, 1), (3, 0, 1)]),
        };
        assert_eq!(rest.len(), 1);
        assert_ne!(rest, favourite);
        assert_eq!(of(&[(2, 9, 0), (3, 1, 7)]), favourite, "how many there are does not matter");
    }

    #[test]
    fn a_group_without_kept_sessions_has_nothing_to_do_with_its_shard() {
        let target = target(&[(2, 2, 0), (3, 1, 0)]);
        for strategy in ALL {
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
                let counts = chosen(&target, strategy, qos);
                assert_eq!(counts.values().sum::<u32>(), 60, "{strategy:?}");
                assert!(!counts.contains_key(&SHARD), "{strategy:?}");
            }
        }
    }

    #[test]
    fn a_group_of_kept_sessions_gets_all_from_its_shard_but_for_qos_0() {
        let target = target(&[(2, 0, 2), (3, 0, 1)]);
        for strategy in ALL {
            assert_eq!(chosen(&target, strategy, QoS::AtLeastOnce), BTreeMap::from([(SHARD, 60)]));
            let counts = chosen(&target, strategy, QoS::AtMostOnce);
            assert_eq!(counts.values().sum::<u32>(), 60, "{strategy:?}");
            assert!(!counts.contains_key(&SHARD), "{strategy:?}");
        }
        assert!(chosen_again(&target, None, QoS::AtLeastOnce).is_empty(), "nobody may have it in memory");
    }

    #[test]
    fn what_no_shard_keeps_goes_to_a_node_that_is_not_avoided() {
        let mixed = target(&[(2, 1, 3), (3, 1, 0), (4, 0, 5)]);
        let (qos, avoid) = (QoS::AtLeastOnce, Some(NodeId(3)));
        assert_eq!(chosen_again(&mixed, avoid, qos), BTreeMap::from([(2, 60)]));
        assert_eq!(chosen_again(&mixed, None, qos), BTreeMap::from([(2, 30), (3, 30)]));
        let counts = chosen_again(&mixed, avoid, QoS::AtMostOnce);
        assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [2, 4]);
        let own = target(&[(1, 7, 7)]);
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            assert!(
                chosen(&own, SharedStrategy::Random, qos).is_empty(),
                "its members here are counted here"
            );
        }
    }

    #[test]
    fn the_shard_of_a_group_is_looked_up_once() {
        let target = target(&[(2, 1, 1)]);
        assert_eq!(target.shard(|_| None), None, "there is no cluster yet");
        let look_up = |name: &[u8]| {
            assert_eq!(name, b"$share/g/t");
            Some(ShardId(7))
        };
        assert_eq!(target.shard(look_up), Some(ShardId(7)));
        assert_eq!(target.shard(|_| panic!("it is known")), Some(ShardId(7)));
    }
}
