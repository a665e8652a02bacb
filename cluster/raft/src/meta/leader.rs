//! What the leader does by itself: it declares silent members down, gives votes and takes them, and forgets edge nodes that stay
//! away.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use flotilla_state::{Command, NodeId, Role};
use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    admission::{is_caught_up, live_members},
    shared::Shared,
    voters::{self, Change, NodeView, View},
};
use crate::{
    clock,
    group::{GroupStatus, Role as RaftRole},
};

/// Runs until the node stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    let stop = shared.stop.clone();
    let leading = async {
        let mut term = Term::default();
        loop {
            sleep(shared.timing.interval() / 2).await;
            term.step(&shared).await;
        }
    };
    stop.run_until_cancelled(leading).await;
}

/// What is known in one term of this node's leadership.
#[derive(Default)]
struct Term {
    term: Option<u64>,
    /// Edge nodes that are down, since when.
    away: BTreeMap<NodeId, Instant>,
}

impl Term {
    async fn step(&mut self, shared: &Arc<Shared>) {
        let status = shared.group.status();
        let term = (status.role == RaftRole::Leader).then_some(status.term);
        if term.is_none() || term != self.term || !shared.is_certain_leader() {
            // A new leader, or one that was cut off: nobody could reach it, so everybody gets the full time.
            shared.leases.lock().clear();
            self.away.clear();
            self.term = term;
            return;
        }
        if shared.created().is_none() {
            return;
        }
        declare_down(shared).await;
        self.forget_edge_nodes(shared).await;
        let long_ago = shared.timing.node_down_after * SPARED_FOR;
        shared.spared.lock().retain(|_, since| clock::since(*since) < long_ago);
        change_members(shared, &status).await;
    }

    async fn forget_edge_nodes(&mut self, shared: &Arc<Shared>) {
        let now = clock::now();
        let down: Vec<NodeId> = {
            let state = shared.state.read();
            let down = state.nodes().filter(|node| node.role == Role::Edge && !node.status.is_live());
            down.map(|node| node.id).collect()
        };
        self.away.retain(|node, _| down.contains(node));
        for node in down {
            let since = *self.away.entry(node).or_insert(now);
            if now.duration_since(since) > shared.options.edge_forget_after {
                let name = shared.name_of(node);
                info!(node = name, "an edge node stays away and is forgotten");
                if let Err(reason) = shared.apply(Command::Remove { node }).await {
                    warn!(node = name, reason, "an edge node was not forgotten");
                }
            }
        }
    }
}

async fn declare_down(shared: &Arc<Shared>) {
    let live = live_members(shared);
    let lapsed = {
        let mut leases = shared.leases.lock();
        leases.lapsed(&live, clock::now(), shared.timing)
    };
    for member in lapsed {
        let name = shared.name_of(member.node);
        warn!(node = name, %member, "a node is silent for too long: it counts as dead");
        if let Err(reason) = shared.apply(Command::NodeDown { member }).await {
            warn!(node = name, %member, reason, "a node could not be declared dead");
        }
    }
}

/// One change of the members of the group at most.
async fn change_members(shared: &Arc<Shared>, status: &GroupStatus) {
    let Some(change) = voters::plan(&view(shared, status)) else { return };
    let Ok(_changing) = shared.changing.try_lock() else { return };
    let outcome = match change {
        Change::Voters(voters) => {
            let names: Vec<String> = voters.iter().map(|node| shared.name_of(*node)).collect();
            info!(voters = names.join(", "), "the voters change");
            let voters = voters.iter().map(|node| node.0).collect();
            shared.within(shared.group.change_voters(voters)).await
        }
        Change::Forget(node) => {
            info!(node = shared.name_of(node), "a learner is forgotten");
            shared.within(shared.group.remove_learner(node.0)).await
        }
    };
    if let Err(error) = outcome {
        warn!(%error, "the members of the Raft group were not changed");
    }
}

fn view(shared: &Shared, status: &GroupStatus) -> View {
    let state = shared.state.read();
    let ids = |nodes: &BTreeSet<u64>| nodes.iter().copied().map(NodeId).collect();
    let nodes = state
        .nodes()
        .map(|node| {
            let view = NodeView {
                name: node.name.to_string(),
                core: node.role == Role::Core,
                live: node.status.is_live(),
                caught_up: is_caught_up(status, node.id),
            };
            (node.id, view)
        })
        .collect();
    let attempt = shared.attempt.read();
    let founders = attempt
        .as_ref()
        .filter(|attempt| state.cluster().is_some_and(|cluster| cluster.id == attempt.cluster_id.0))
        .map(|attempt| attempt.members.clone())
        .unwrap_or_default();
    View {
        voters: ids(&status.voters),
        learners: ids(&status.learners),
        is_joint: status.is_joint,
        nodes,
        founders,
        spared: shared.spared.lock().keys().copied().collect(),
    }
}

/// How many times `node_down_after` a node that asked to join, or was removed, keeps its place in the group.
const SPARED_FOR: u32 = 6;
