//! Which nodes hold which shard.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use crate::{LogIndex, NodeId, Placement, ShardEpoch, ShardId, ring::NodeRing};

/// Gives the shards to nodes anew, and returns which shards have other ones now.
///
/// Of `n` nodes, each is the registrar of `shards / n` shards, rounded down or up. A registrar keeps its shards as far as
/// that allows; what must move goes to the first node with room in the order in which the shard prefers the nodes, which
/// mostly is one of its followers. The followers are the first other nodes in that order.
pub(crate) fn place(
    placements: &mut [Placement],
    nodes: &[NodeId],
    replicas: u8,
    index: LogIndex,
) -> Vec<ShardId> {
    debug_assert!(nodes.is_sorted_by(|left, right| left < right));
    let ring = NodeRing::new(nodes);
    let registrars = registrars(placements, nodes, &ring);
    let mut changed = Vec::new();
    for ((shard, placement), registrar) in shards().zip(placements).zip(registrars) {
        let holders: Vec<NodeId> = match registrar {
            Some(registrar) => {
                let others = ring.preferences(shard).filter(|node| *node != registrar);
                std::iter::once(registrar).chain(others).take(usize::from(replicas)).collect()
            }
            None => Vec::new(),
        };
        if holders == placement.nodes {
            continue;
        }
        if placement.registrar() != registrar {
            placement.epoch = ShardEpoch(index.0);
        }
        placement.nodes = holders;
        changed.push(shard);
    }
    changed
}

/// The registrar of each shard; none when there are no nodes.
fn registrars(placements: &[Placement], nodes: &[NodeId], ring: &NodeRing) -> Vec<Option<NodeId>> {
    let mut registrars = vec![None; placements.len()];
    if nodes.is_empty() {
        return registrars;
    }
    let mut room = quotas(placements, nodes);
    for (node, mut held) in held_shards(placements, nodes) {
        let quota = room.get_mut(&node).expect("each node has a quota");
        if held.len() > *quota {
            // It gives away what it only holds for a node that was not there, and another one would rather have.
            let rank = |shard: &ShardId| ring.preferences(*shard).take_while(|other| *other != node).count();
            held.sort_by_cached_key(|shard| (rank(shard), *shard));
            held.truncate(*quota);
        }
        *quota -= held.len();
        for shard in held {
            registrars[usize::from(shard.0)] = Some(node);
        }
    }
    for (shard, registrar) in shards().zip(&mut registrars) {
        if registrar.is_none() {
            *registrar = ring.preferences(shard).find(|node| take(&mut room, *node));
            assert!(registrar.is_some(), "the quotas add up to the number of shards");
        }
    }
    registrars
}

/// How many shards each node shall be the registrar of. Where that cannot be even, those that have the most keep one more.
fn quotas(placements: &[Placement], nodes: &[NodeId]) -> BTreeMap<NodeId, usize> {
    let held = held_shards(placements, nodes).into_iter();
    let mut by_held: Vec<_> = held.map(|(node, held)| (Reverse(held.len()), node)).collect();
    by_held.sort_unstable();
    let (each, one_more) = (placements.len() / nodes.len(), placements.len() % nodes.len());
    let quota = |(position, (_, node))| (node, each + usize::from(position < one_more));
    by_held.into_iter().enumerate().map(quota).collect()
}

/// The shards of which each node is the registrar, as far as it is one of `nodes`.
fn held_shards(placements: &[Placement], nodes: &[NodeId]) -> BTreeMap<NodeId, Vec<ShardId>> {
    let mut held: BTreeMap<NodeId, Vec<ShardId>> = nodes.iter().map(|node| (*node, Vec::new())).collect();
    for (shard, placement) in shards().zip(placements) {
        if let Some(held) = placement.registrar().and_then(|registrar| held.get_mut(&registrar)) {
            held.push(shard);
        }
    }
    held
}

/// Takes room for one more shard at a node, if there is any.
fn take(room: &mut BTreeMap<NodeId, usize>, node: NodeId) -> bool {
    match room.get_mut(&node) {
        Some(room) if *room > 0 => {
            *room -= 1;
            true
        }
        _ => false,
    }
}

/// What holds for placements over these nodes.
pub(crate) fn check_invariants(placements: &[Placement], nodes: &[NodeId], replicas: u8) {
    for placement in placements {
        let distinct: BTreeSet<_> = placement.nodes.iter().collect();
        assert_eq!(distinct.len(), placement.nodes.len());
        assert_eq!(distinct.len(), nodes.len().min(usize::from(replicas)));
        assert!(placement.nodes.iter().all(|node| nodes.contains(node)));
    }
    let held = held_shards(placements, nodes);
    let (least, most) = (held.values().map(Vec::len).min(), held.values().map(Vec::len).max());
    assert!(most.unwrap_or(0) - least.unwrap_or(0) <= 1, "the registrars are not even: {held:?}");
}

fn shards() -> impl Iterator<Item = ShardId> {
    (0..=u16::MAX).map(ShardId)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn placements_never_change() {
        // Another version must come to the same ones: nodes of neighbouring versions share a cluster.
        let mut placements = vec![Placement::default(); 8];
        place(&mut placements, &nodes(&[1, 2, 3, 4]), 3, LogIndex(5));
        let listed: Vec<Vec<u64>> =
            placements.iter().map(|placement| placement.nodes.iter().map(|node| node.0).collect()).collect();
        assert_eq!(listed, GOLDEN);
        assert!(placements.iter().all(|placement| placement.epoch == ShardEpoch(5)));
    }

    const GOLDEN: [[u64; 3]; 8] =
        [[2, 1, 3], [2, 1, 3], [3, 2, 4], [3, 4, 2], [1, 3, 2], [1, 4, 3], [4, 3, 1], [4, 3, 1]];

    #[test]
    fn a_node_that_joins_takes_its_share_and_nothing_else_moves() {
        let mut placements = vec![Placement::default(); 64];
        place(&mut placements, &nodes(&[1, 2, 3]), 2, LogIndex(1));
        let before = registrars_of(&placements);
        place(&mut placements, &nodes(&[1, 2, 3, 9]), 2, LogIndex(2));
        let moved: Vec<_> =
            before.iter().zip(registrars_of(&placements)).filter(|(old, new)| **old != *new).collect();
        assert_eq!(moved.len(), 16);
        assert!(moved.iter().all(|(_, new)| *new == Some(NodeId(9))));
    }

    #[test]
    fn a_node_that_goes_is_followed_by_its_followers() {
        let mut placements = vec![Placement::default(); 64];
        place(&mut placements, &nodes(&[1, 2, 3, 4, 5]), 3, LogIndex(1));
        let before = placements.clone();
        place(&mut placements, &nodes(&[1, 2, 4, 5]), 3, LogIndex(2));
        let moved = before.iter().zip(&placements).filter(|(old, new)| old.registrar() != new.registrar());
        let (followers, others): (Vec<_>, Vec<_>) =
            moved.partition(|(old, new)| old.nodes.contains(&new.nodes[0]));
        assert_eq!(followers.len() + others.len(), 13, "those of the node that has gone");
        assert!(others.len() <= 3, "{others:?}");
    }

    #[test]
    fn a_node_that_comes_back_gets_its_shards_back() {
        let mut placements = vec![Placement::default(); 64];
        place(&mut placements, &nodes(&[1, 2, 3]), 3, LogIndex(1));
        let before = registrars_of(&placements);
        place(&mut placements, &nodes(&[1, 3]), 3, LogIndex(2));
        place(&mut placements, &nodes(&[1, 2, 3]), 3, LogIndex(3));
        let same = before.iter().zip(registrars_of(&placements)).filter(|(old, new)| **old == *new).count();
        assert!(same >= 56, "{same} of 64");
    }

    #[test]
    fn epochs_change_with_the_registrar_and_not_with_followers() {
        let mut placements = vec![Placement::default(); 16];
        place(&mut placements, &nodes(&[1]), 3, LogIndex(1));
        let changed = place(&mut placements, &nodes(&[1, 2]), 3, LogIndex(2));
        assert_eq!(changed.len(), 16);
        for placement in &placements {
            let expected = if placement.nodes[0] == NodeId(1) { 1 } else { 2 };
            assert_eq!(placement.epoch, ShardEpoch(expected));
            assert_eq!(placement.nodes.len(), 2);
        }
        place(&mut placements, &[], 3, LogIndex(3));
        assert!(
            placements
                .iter()
                .all(|placement| *placement == Placement { epoch: ShardEpoch(3), nodes: vec![] })
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn placements_are_even_and_move_no_more_than_they_must(
            shards in 1..40_usize,
            replicas in 1..4_u8,
            steps in prop::collection::vec(prop::collection::btree_set(0..9_u64, 0..9), 1..8),
        ) {
            let mut placements = vec![Placement::default(); shards];
            for (index, step) in (1..).map(LogIndex).zip(steps) {
                let nodes: Vec<_> = step.into_iter().map(NodeId).collect();
                let before = placements.clone();
                let held_before = held_shards(&before, &nodes);
                let changed = place(&mut placements, &nodes, replicas, index);
                check_invariants(&placements, &nodes, replicas);
                let held = held_shards(&placements, &nodes);
                for (shard, (old, new)) in super::shards().zip(before.iter().zip(&placements)) {
                    prop_assert_eq!(changed.contains(&shard), old.nodes != new.nodes);
                    let moved = old.registrar() != new.registrar();
                    prop_assert_eq!(new.epoch, if moved { ShardEpoch(index.0) } else { old.epoch });
                    if let Some(kept) = old.registrar().filter(|node| moved && nodes.contains(node)) {
                        // It had too many, and got none instead.
                        prop_assert!(held_before[&kept].len() > held[&kept].len());
                        prop_assert!(held[&kept].iter().all(|shard| held_before[&kept].contains(shard)));
                    }
                }
                if !nodes.is_empty() {
                    let (each, one_more) = (shards / nodes.len(), shards % nodes.len());
                    let could_stay = held_before.values().map(|held| held.len().min(each)).sum::<usize>()
                        + held_before.values().filter(|held| held.len() > each).count().min(one_more);
                    let stayed = before.iter().zip(&placements).filter(|(old, new)| {
                        old.registrar().is_some() && old.registrar() == new.registrar()
                    });
                    prop_assert_eq!(stayed.count(), could_stay);
                }
                prop_assert_eq!(place(&mut placements, &nodes, replicas, LogIndex(index.0 + 1)), []);
            }
        }
    }

    fn registrars_of(placements: &[Placement]) -> Vec<Option<NodeId>> {
        placements.iter().map(Placement::registrar).collect()
    }

    fn nodes(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }
}
