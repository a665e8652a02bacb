//! Which nodes hold which shard.

use std::collections::{BTreeMap, BTreeSet};

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
    let mut room = quotas(placements, nodes);
    let mut registrars = vec![None; placements.len()];
    if nodes.is_empty() {
        return registrars;
    }
    for (registrar, placement) in registrars.iter_mut().zip(placements) {
        *registrar = placement.registrar().filter(|node| take(&mut room, *node));
    }
    for (shard, registrar) in shards().zip(&mut registrars) {
        if registrar.is_none() {
            *registrar = ring.preferences(shard).find(|node| take(&mut room, *node));
            assert!(registrar.is_some(), "there is room for each shard");
        }
    }
    registrars
}

/// How many shards each node shall be the registrar of. Where that cannot be even, those that have the most keep one more.
fn quotas(placements: &[Placement], nodes: &[NodeId]) -> BTreeMap<NodeId, usize> {
    let mut held: BTreeMap<NodeId, usize> = nodes.iter().map(|node| (*node, 0)).collect();
    for registrar in placements.iter().filter_map(Placement::registrar) {
        held.entry(registrar).and_modify(|held| *held += 1);
    }
    let mut by_held: Vec<_> = held.into_iter().map(|(node, held)| (std::cmp::Reverse(held), node)).collect();
    by_held.sort_unstable();
    let (each, one_more) = match nodes.len() {
        0 => (0, 0),
        count => (placements.len() / count, placements.len() % count),
    };
    let quota = |(position, (_, node))| (node, each + usize::from(position < one_more));
    by_held.into_iter().enumerate().map(quota).collect()
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
    let mut held: BTreeMap<NodeId, usize> = nodes.iter().map(|node| (*node, 0)).collect();
    for placement in placements {
        let distinct: BTreeSet<_> = placement.nodes.iter().collect();
        assert_eq!(distinct.len(), placement.nodes.len());
        assert_eq!(distinct.len(), nodes.len().min(usize::from(replicas)));
        assert!(placement.nodes.iter().all(|node| held.contains_key(node)));
        if let Some(registrar) = placement.registrar() {
            held.entry(registrar).and_modify(|held| *held += 1);
        }
    }
    let (least, most) = (held.values().min().copied(), held.values().max().copied());
    assert!(most.unwrap_or(0) - least.unwrap_or(0) <= 1, "the registrars are not even: {held:?}");
}

fn shards() -> impl Iterator<Item = ShardId> {
    (0..=u16::MAX).map(ShardId)
}
