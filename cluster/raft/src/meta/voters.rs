//! Who should vote.
//!
//! # Invariants
//!
//! - One change at a time, and one node more, fewer or exchanged with each.
//! - A voter that is down stays one: the quorum does not shrink by itself. It gives its vote up only when it has left, was
//!   removed, or there are seven voters and another core node is up.
//! - Only a node that has caught up gets a vote, and no vote is taken away if those that remain have no live majority.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_state::NodeId;

use super::bootstrap::Founder;

/// At most so many nodes vote.
pub(crate) const VOTERS_MAX: usize = 7;

/// What the leader sees.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    pub(crate) voters: BTreeSet<NodeId>,
    pub(crate) learners: BTreeSet<NodeId>,
    /// A change was interrupted.
    pub(crate) is_joint: bool,
    /// The nodes of the state.
    pub(crate) nodes: BTreeMap<NodeId, NodeView>,
    /// The founding members, some of which may not have joined yet.
    pub(crate) founders: Vec<Founder>,
    /// Learners that are about to join, or were removed a moment ago: they are left alone.
    pub(crate) spared: BTreeSet<NodeId>,
}

#[derive(Debug, Clone)]
pub(crate) struct NodeView {
    pub(crate) name: String,
    pub(crate) core: bool,
    pub(crate) live: bool,
    pub(crate) caught_up: bool,
}

/// A change of the Raft group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// These shall vote.
    Voters(BTreeSet<NodeId>),
    /// The learner belongs to the group no more.
    Forget(NodeId),
}

/// The next change, if one is due.
pub(crate) fn plan(view: &View) -> Option<Change> {
    let mut voters: BTreeSet<NodeId> = view.voters.iter().copied().filter(|id| may_vote(view, *id)).collect();
    if voters.is_empty() {
        return None;
    }
    if voters == view.voters {
        let candidate = view.nodes.iter().find(|(id, node)| {
            node.core && node.live && node.caught_up && view.learners.contains(id) && !voters.contains(id)
        });
        let down = voters.iter().copied().find(|id| !is_live(view, *id));
        match (candidate, down) {
            (Some((id, _)), _) if voters.len() < VOTERS_MAX => {
                voters.insert(*id);
            }
            (Some((id, _)), Some(down)) => {
                voters.remove(&down);
                voters.insert(*id);
            }
            _ => {}
        }
    }
    let live = voters.iter().filter(|id| is_live(view, **id)).count();
    if (voters != view.voters || view.is_joint) && live * 2 > voters.len() {
        return Some(Change::Voters(voters));
    }
    let stranger = |id: &&NodeId| !view.nodes.contains_key(id) && !view.spared.contains(id);
    view.learners.iter().find(stranger).map(|id| Change::Forget(*id))
}

/// Core nodes of the state vote, and founding members that have not joined yet, unless their disk was lost.
fn may_vote(view: &View, id: NodeId) -> bool {
    match view.nodes.get(&id) {
        Some(node) => node.core,
        None => view
            .founders
            .iter()
            .any(|founder| founder.id == id && view.nodes.values().all(|node| node.name != founder.name)),
    }
}

fn is_live(view: &View, id: NodeId) -> bool {
    view.nodes.get(&id).is_some_and(|node| node.live)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(ids: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
        ids.into_iter().map(NodeId).collect()
    }

    /// Nodes are written as `c` (core, live, caught up), `d` (core, down), `b` (core, live, behind), `e` (edge); node 1 is first.
    fn view(voters: &[u64], nodes: &str) -> View {
        let nodes: BTreeMap<NodeId, NodeView> = (1..)
            .zip(nodes.chars())
            .filter(|(_, kind)| *kind != '-')
            .map(|(id, kind)| {
                let (live, caught_up) = (kind != 'd', kind == 'c' || kind == 'e');
                (NodeId(id), NodeView { name: id.to_string(), core: kind != 'e', live, caught_up })
            })
            .collect();
        let voters = ids(voters.iter().copied());
        let learners = nodes.keys().copied().filter(|id| !voters.contains(id)).collect();
        View { voters, learners, nodes, ..View::default() }
    }

    fn check(voters: &[u64], nodes: &str, expected: Option<&[u64]>) {
        let expected = expected.map(|voters| Change::Voters(ids(voters.iter().copied())));
        assert_eq!(plan(&view(voters, nodes)), expected, "{voters:?} {nodes}");
    }

    #[test]
    fn core_nodes_that_have_caught_up_get_a_vote() {
        check(&[1], "ccc", Some(&[1, 2]));
        check(&[1, 2], "ccc", Some(&[1, 2, 3]));
        check(&[1, 2], "ccb", None);
        check(&[1, 2], "cce", None);
        check(&[1, 2], "ccd", None);
        check(&[1, 2, 3, 4, 5, 6, 7], "ccccccccc", None);
    }

    #[test]
    fn a_down_voter_is_exchanged_only_when_there_are_seven() {
        check(&[1, 2, 3], "ccd", None);
        check(&[1, 2, 3], "ccdc", Some(&[1, 2, 3, 4]));
        check(&[1, 2, 3, 4, 5, 6, 7], "ccccccdc", Some(&[1, 2, 3, 4, 5, 6, 8]));
    }

    #[test]
    fn who_has_left_votes_no_more_if_a_majority_remains() {
        check(&[1, 2, 3], "cc-", Some(&[1, 2]));
        check(&[1, 2, 3], "cd-", None);
        check(&[1, 2, 3], "cce", Some(&[1, 2]));
    }

    #[test]
    fn founding_members_are_waited_for_unless_their_disk_was_lost() {
        let mut view = view(&[1, 2, 9], "cc");
        view.founders = vec![Founder { name: "late".into(), id: NodeId(9) }];
        assert_eq!(plan(&view), None);
        view.nodes
            .insert(NodeId(3), NodeView { name: "late".into(), core: true, live: true, caught_up: true });
        view.learners.insert(NodeId(3));
        assert_eq!(plan(&view), Some(Change::Voters(ids([1, 2]))));
    }

    #[test]
    fn strangers_are_forgotten_and_joint_changes_ended() {
        let mut view = view(&[1, 2], "cc");
        view.learners = ids([8, 9]);
        view.spared = ids([8]);
        assert_eq!(plan(&view), Some(Change::Forget(NodeId(9))));
        view.is_joint = true;
        assert_eq!(plan(&view), Some(Change::Voters(ids([1, 2]))));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_plan_comes_to_rest(nodes in "[cdbe-]{1,12}", mask in 1_u16..4096) {
            let voters: Vec<u64> = (1..=12).filter(|id| mask & (1 << (id - 1)) != 0).take(VOTERS_MAX).collect();
            let mut view = view(&voters, &nodes);
            for _ in 0..64 {
                match plan(&view) {
                    Some(Change::Voters(voters)) => {
                        prop_assert!(!voters.is_empty() && voters.len() <= VOTERS_MAX);
                        let known: Vec<_> = view.voters.union(&view.learners).copied().collect();
                        prop_assert!(voters.iter().all(|id| known.contains(id)));
                        prop_assert!(voters.difference(&view.voters).count() <= 1);
                        view.learners = known.into_iter().filter(|id| !voters.contains(id)).collect();
                        view.voters = voters;
                    }
                    Some(Change::Forget(id)) => prop_assert!(view.learners.remove(&id)),
                    None => return Ok(()),
                }
            }
            prop_assert!(false, "no rest");
        }
    }
}
