//! Disks that are nearly full.
//!
//! A node whose disk is nearly full tells the others. It leads no shard as long as another can (`members`). Where it leads one all the
//! same, or where so many replicas are short of space that the others are no majority, every node holds back what the shard would
//! have to store, in its [`Line`]: no new messages, and nothing for clients that have no session yet. What frees
//! space goes on: acknowledgements, expiry, the ends of sessions. When there is space again, so does everything.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use flotilla_state::{ClusterState, NodeId, ShardId};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::{Shards, line::Line};

/// Which nodes are short of space, as far as this one knows.
#[derive(Debug)]
pub(super) struct Space {
    /// Whether this node is.
    here: watch::Sender<bool>,
    others: Mutex<BTreeSet<NodeId>>,
    changed: Notify,
}

/// How often a node looks at its disk.
const LOOK: Duration = Duration::from_millis(250);
/// Space counts as being there again after so long: it comes and goes while what is stored is rewritten.
const RELIEF: Duration = Duration::from_secs(1);

impl Default for Space {
    fn default() -> Self {
        Self { here: watch::Sender::new(false), others: Mutex::default(), changed: Notify::new() }
    }
}

impl Space {
    /// The life of a node has ended: it says itself how it is in the next one.
    pub(super) fn ended(&self, node: NodeId) {
        self.others.lock().remove(&node);
        self.changed.notify_one();
    }
}

impl Shards {
    /// Whether the disk of this node is nearly full.
    pub(crate) fn is_short_of_space(&self) -> watch::Receiver<bool> {
        self.space.here.subscribe()
    }

    /// Another node says whether its disk is nearly full.
    pub(crate) fn note_space(&self, node: NodeId, is_short: bool) {
        let mut others = self.space.others.lock();
        let is_news = if is_short { others.insert(node) } else { others.remove(&node) };
        if is_news {
            self.space.changed.notify_one();
        }
    }

    /// Whether a client that has nothing in a shard is refused, for want of space.
    pub(crate) fn is_short(&self, shard: ShardId) -> bool {
        self.line(shard).is_some_and(Line::is_short)
    }

    /// The nodes whose disks are nearly full.
    pub(super) fn short_nodes(&self) -> BTreeSet<NodeId> {
        let mut nodes = self.space.others.lock().clone();
        if *self.space.here.borrow() {
            nodes.insert(self.node());
        }
        nodes
    }

    /// Looks after the disk of this node, and what other nodes say of theirs, for as long as the node runs.
    pub(super) async fn watch_space(self: Arc<Self>) {
        let mut short_at = None;
        loop {
            let now = Instant::now();
            if self.is_disk_nearly_full() {
                short_at = Some(now);
            }
            let is_short = short_at.is_some_and(|at| now.duration_since(at) < RELIEF);
            let is_news = |here: &mut bool| std::mem::replace(here, is_short) != is_short;
            if self.space.here.send_if_modified(is_news) {
                self.tell_of_space(is_short);
            }
            self.review_space();
            let _ = tokio::time::timeout(LOOK, self.space.changed.notified()).await;
        }
    }

    fn is_disk_nearly_full(&self) -> bool {
        let log = self.ground.wal.status();
        log.full || log.reserve_in_use || self.ground.store.is_nearly_full()
    }

    fn tell_of_space(&self, is_short: bool) {
        let dir = self.ground.dir.parent().unwrap_or(&self.ground.dir).display();
        if is_short {
            tracing::error!(
                %dir,
                "the disk is nearly full: other nodes lead the shards where they can, and where they cannot, messages for offline \
                 sessions are held back and new sessions refused; make room there, or have clients fetch what is queued"
            );
        } else {
            tracing::info!(%dir, "the disk has space again");
        }
    }

    /// Holds back what shards have no space for, and lets go on what waited for it.
    fn review_space(&self) {
        let short = self.short_nodes();
        let mut has_relief = false;
        for shard in self.ids() {
            let Some(line) = self.line(shard) else { continue };
            let leader = line.leader().map(|leader| leader.member.node);
            let is_short = !short.is_empty() && is_shard_short(&self.state().read(), shard, leader, &short);
            if line.set_short(is_short, |outgoing| self.send_all(outgoing)) {
                has_relief |= !is_short;
            }
        }
        if let Some(node) = self.node.get().filter(|_| has_relief) {
            node.note_decongested();
        }
    }
}

/// Whether a shard can take no more: its leader has to store what comes, and so has a majority of its replicas.
fn is_shard_short(
    state: &ClusterState,
    shard: ShardId,
    leader: Option<NodeId>,
    short: &BTreeSet<NodeId>,
) -> bool {
    let Some(shard) = state.shards().shard(shard) else { return false };
    let replicas = &shard.replicas.nodes;
    let with_space = replicas.iter().filter(|node| !short.contains(node)).count();
    leader.is_some_and(|leader| short.contains(&leader)) || with_space * 2 <= replicas.len()
}

#[cfg(test)]
mod tests {
    use flotilla_state::{Command, LogIndex, NewStatus, Role};

    use super::*;

    #[test]
    fn a_shard_is_short_with_its_leader_or_with_most_of_its_replicas() {
        let mut state = ClusterState::new();
        let join = |number: u64| Command::Join {
            id: NodeId(number),
            name: format!("node-{number}").into(),
            role: Role::Core,
            address: "127.0.0.1:1".into(),
            client_addresses: Vec::new(),
            version: "1".into(),
        };
        let create =
            Command::Create { cluster_id: 1, name: "c".into(), shards: 1, replicas: 3, hash_seed: 1 };
        for (index, command) in (1..).zip([create, join(1), join(2), join(3)]) {
            state.apply(LogIndex(index), command);
        }
        for node in 1..=3 {
            let member = state.member(NodeId(node)).expect("it has joined");
            state.apply(LogIndex(4 + node), Command::SetStatus { member, status: NewStatus::Up });
        }
        state.apply(LogIndex(8), Command::FoundShards);
        let replicas = state.shards().shard(ShardId(0)).map(|shard| shard.replicas.nodes.len());
        assert_eq!(replicas, Some(3));
        let check = |leader: Option<u64>, short: &[u64], expected| {
            let short = short.iter().copied().map(NodeId).collect();
            assert_eq!(is_shard_short(&state, ShardId(0), leader.map(NodeId), &short), expected);
        };
        check(Some(1), &[], false);
        check(Some(1), &[2], false);
        check(Some(1), &[1], true);
        check(Some(1), &[2, 3], true);
        check(None, &[1], false);
        check(None, &[1, 2], true);
        check(Some(4), &[4], true);
    }
}
