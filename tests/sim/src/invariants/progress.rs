//! When the faults are over, everything is up again soon.

use std::sync::{Arc, atomic::Ordering};

use flotilla_state::Status;

use super::Violation;
use crate::node::Node;

/// What is missing yet: every node runs, is a member, is up, knows all others as up, and knows the same leader.
pub fn lacks(nodes: &[Arc<Node>]) -> Option<Violation> {
    let mut leaders = Vec::new();
    for node in nodes {
        let name = &node.name;
        let process = node.process.lock().clone();
        let Some(process) = process else { return Some(format!("{name} does not run")) };
        if !process.is_member.load(Ordering::Relaxed) {
            return Some(format!("{name} is no member"));
        }
        if !process.is_up.load(Ordering::Relaxed) {
            return Some(format!("{name} is not up"));
        }
        let state = process.meta.state();
        let state = state.read();
        let up = state.nodes().filter(|known| known.status == Status::Up).count();
        let all = state.nodes().count();
        if (up, all) != (nodes.len(), nodes.len()) {
            return Some(format!("{name} knows {all} nodes, of which {up} are up"));
        }
        let status = process.meta.group().status();
        let Some(leader) = status.leader else { return Some(format!("{name} knows no leader")) };
        if status.voters.len() != nodes.len() {
            return Some(format!("{name} knows {} voters", status.voters.len()));
        }
        leaders.push((name, leader));
    }
    let is_other = |pair: &&[(&String, u64)]| pair[0].1 != pair[1].1;
    leaders
        .windows(2)
        .find(is_other)
        .map(|pair| format!("{} and {} follow different leaders", pair[0].0, pair[1].0))
}
