//! When the faults are over, every shard is where it shall be, and all of its replicas have the same.

use std::{collections::BTreeSet, sync::Arc};

use flotilla_raft::group::Role;
use flotilla_state::{NodeId, ShardId};

use super::Violation;
use crate::node::{Process, Shared};

/// What is missing yet: each shard has its replicas where the cluster wants them, they follow one leader, and have applied the same.
pub fn shards_lack(shared: &Shared, processes: &[(&str, Arc<Process>)]) -> Option<Violation> {
    let Some((_, first)) = processes.first() else { return Some("no node runs".to_owned()) };
    let state = first.meta.state();
    let placed: Vec<_> = {
        let state = state.read();
        let placed = state.shards().iter();
        placed.map(|(id, shard)| (id, shard.replicas.nodes.clone(), shard.members.clone())).collect()
    };
    if placed.is_empty() {
        return Some("there are no shards".to_owned());
    }
    for (id, wanted, members) in placed {
        let wanted: BTreeSet<NodeId> = wanted.into_iter().collect();
        if members.into_iter().collect::<BTreeSet<_>>() != wanted {
            return Some(format!("the members of shard {} are not told", id.0));
        }
        if let Some(what) = shard_lacks(shared, id, &wanted, processes) {
            return Some(what);
        }
    }
    None
}

fn shard_lacks(
    shared: &Shared,
    id: ShardId,
    wanted: &BTreeSet<NodeId>,
    processes: &[(&str, Arc<Process>)],
) -> Option<Violation> {
    let (mut leaders, mut applied) = (BTreeSet::new(), BTreeSet::new());
    for (name, process) in processes {
        let node = process.meta.node();
        let replica = process.shards.replicas().into_iter().find(|replica| replica.id == id);
        let Some(replica) = replica.filter(|_| wanted.contains(&node)) else {
            if wanted.contains(&node) {
                return Some(format!("{name} has no replica of shard {}", id.0));
            }
            if process.shards.replicas().iter().any(|replica| replica.id == id) {
                return Some(format!("{name} has a replica of shard {} yet", id.0));
            }
            continue;
        };
        let status = replica.group.status();
        let voters: BTreeSet<NodeId> = status.voters.iter().copied().map(NodeId).collect();
        if voters != *wanted || status.is_joint || !status.learners.is_empty() {
            return Some(format!("{name} knows other members of shard {}: {status:?}", id.0));
        }
        if status.role == Role::Stopped {
            return Some(format!("the group of shard {} at {name} has stopped", id.0));
        }
        let Some(leader) = status.leader else {
            return Some(format!("{name} knows no leader of shard {}", id.0));
        };
        leaders.insert(leader);
        let shard = replica.state.shard.lock();
        applied.insert((status.applied, shard.applied()));
        let queued = shard.stats().queued_messages;
        if queued > 0 && !shared.is_busy.load(std::sync::atomic::Ordering::Relaxed) {
            return Some(format!("{queued} messages wait in shard {} at {name}", id.0));
        }
        shared.check(shared.replicas.check(name, &shard));
    }
    if leaders.len() != 1 || applied.len() != 1 {
        return Some(format!("shard {} has the leaders {leaders:?}, and applied {applied:?}", id.0));
    }
    None
}
