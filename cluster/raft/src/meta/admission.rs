//! What the leader does when a node wants to come or go.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use flotilla_rpc::membership as rpc;
use flotilla_state::{Command, Member, NodeId, Reply};
use tokio::time::{sleep, timeout};
use tracing::info;

use super::{META, shared::Shared, wire::NodeInfo};
use crate::{
    clock,
    group::{GroupError, GroupStatus, Role},
};

impl Shared {
    /// Admits a node: makes it a learner, waits until it has caught up, and begins its new life. Answers early when that takes
    /// long; the node asks again.
    pub(super) async fn admit(self: Arc<Self>, node: NodeInfo) -> rpc::join_reply::Outcome {
        use rpc::join_reply::Outcome;
        // A task of its own: a change that has begun is not broken off because the asker gives up.
        let shared = Arc::clone(&self);
        let id = node.id;
        if !self.admitting.lock().insert(id) {
            return Outcome::Wait("the admission is under way".to_owned());
        }
        let admission = tokio::spawn(async move {
            let _done = Admitting { shared: Arc::clone(&shared), id };
            shared.admit_node(node).await
        });
        match timeout(self.timing.node_down_after, admission).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Outcome::Wait("the admission broke off".to_owned()),
            Err(_) => Outcome::Wait("the admission is under way".to_owned()),
        }
    }

    async fn admit_node(self: Arc<Self>, node: NodeInfo) -> rpc::join_reply::Outcome {
        use rpc::join_reply::Outcome;
        if self.group.status().role != Role::Leader {
            return Outcome::NotLeader(self.not_leader());
        }
        if !self.is_certain_leader() {
            return Outcome::Wait("the leader has no quorum now".to_owned());
        }
        if node.id != self.local.node() {
            self.peers.told(node.id, &node.address);
        }
        let namesake = self
            .state
            .read()
            .nodes()
            .find(|known| *known.name == *node.name && known.id != node.id)
            .map(|known| (known.id, known.status.is_live()));
        match namesake {
            Some((_, true)) => return Outcome::Wait("a node of this name is up, or not down yet".to_owned()),
            // Its disk is lost. It must not count as a voter any more when the new one comes.
            Some((lost, false)) => {
                info!(node = %node.name, %lost, new = %node.id, "a node comes back without its disk, as a new one");
                if let Err(error) = self.take_vote(lost).await {
                    return Outcome::Wait(error.to_string());
                }
            }
            None => {}
        }
        self.spared.lock().insert(node.id, clock::now());
        if let Err(error) = self.make_member(node.id).await {
            return Outcome::Wait(error.to_string());
        }
        let waited_from = clock::now();
        while !is_caught_up(&self.group.status(), node.id) {
            if clock::since(waited_from) > self.timing.node_down_after / 2 {
                return Outcome::Wait("the node has not caught up yet".to_owned());
            }
            sleep(CATCH_UP_PAUSE).await;
        }
        let command = Command::Join {
            id: node.id,
            name: node.name.into(),
            role: node.role,
            address: node.address.into(),
            client_addresses: node.client_addresses.into_iter().map(Into::into).collect(),
            version: node.version.into(),
        };
        match self.apply(command).await {
            Ok(Reply::Joined(member)) => {
                self.leases.lock().heard(member, clock::now());
                Outcome::Admitted(member.incarnation.0)
            }
            Ok(Reply::NameTaken) => Outcome::Wait("a node of this name is up, or not down yet".to_owned()),
            Ok(Reply::NotCreated) => Outcome::Wait("the cluster is about to be created".to_owned()),
            Ok(reply) => Outcome::Refused(format!("{reply:?}")),
            Err(reason) => Outcome::Wait(reason),
        }
    }

    /// Takes a node out: its vote first, then its place in the state. Its place in the group is taken by the leader's task, so
    /// that it can still learn that it is gone.
    pub(super) async fn dismiss(
        self: Arc<Self>,
        node: NodeId,
        command: Command,
    ) -> rpc::change_reply::Outcome {
        use rpc::change_reply::Outcome;
        let shared = Arc::clone(&self);
        let dismissal = tokio::spawn(async move { shared.dismiss_node(node, command).await });
        match timeout(self.timing.node_down_after, dismissal).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Outcome::Wait("the change broke off".to_owned()),
            Err(_) => Outcome::Wait("the change is under way".to_owned()),
        }
    }

    async fn dismiss_node(&self, node: NodeId, command: Command) -> rpc::change_reply::Outcome {
        use rpc::change_reply::Outcome;
        let status = self.group.status();
        if status.role != Role::Leader {
            return Outcome::NotLeader(self.not_leader());
        }
        if !self.is_certain_leader() {
            return Outcome::Wait("the leader has no quorum now".to_owned());
        }
        if status.voters.iter().all(|voter| *voter == node.0) {
            return Outcome::Refused("it is the last voter of the cluster".to_owned());
        }
        if node == self.local.node() {
            return match self.hand_over_leadership().await {
                true => Outcome::NotLeader(self.not_leader()),
                false => Outcome::Wait("nobody can take the leadership over now".to_owned()),
            };
        }
        self.spared.lock().insert(node, clock::now());
        if let Err(error) = self.take_vote(node).await {
            return Outcome::Wait(error.to_string());
        }
        match self.apply(command).await {
            Ok(Reply::Done) => Outcome::Changed(rpc::Changed {}),
            // It has left by an earlier attempt, whose answer was lost.
            Ok(Reply::Stale) if self.state.read().node(node).is_none() => Outcome::Changed(rpc::Changed {}),
            Ok(reply) => Outcome::Refused(format!("{reply:?}")),
            Err(reason) => Outcome::Wait(reason),
        }
    }

    /// Makes the node a learner, if it is no member of the group.
    async fn make_member(&self, node: NodeId) -> Result<(), GroupError> {
        let _changing = self.changing.lock().await;
        let status = self.group.status();
        if status.voters.contains(&node.0) || status.learners.contains(&node.0) {
            return Ok(());
        }
        // Its name comes with its admission, which is next.
        info!(%node, "a new learner");
        self.within(self.group.add_learner(node.0, META)).await
    }

    /// The node votes no more.
    pub(super) async fn take_vote(&self, node: NodeId) -> Result<(), GroupError> {
        let _changing = self.changing.lock().await;
        let mut voters: BTreeSet<u64> = self.group.status().voters;
        if !voters.remove(&node.0) {
            return Ok(());
        }
        info!(node = self.name_of(node), voters = voters.len(), "a voter is taken out");
        self.within(self.group.change_voters(voters)).await
    }

    /// Waits for a change of the group, but not for ever: without a quorum it does not end.
    pub(super) async fn within(
        &self,
        change: impl Future<Output = Result<(), GroupError>>,
    ) -> Result<(), GroupError> {
        match timeout(self.timing.node_down_after, change).await {
            Ok(outcome) => outcome,
            Err(_) => Err(GroupError::Busy("the change of the members is not committed yet".to_owned())),
        }
    }

    /// Proposes at this node, and only here. An error leaves open whether the command is applied: all of those proposed so can
    /// be proposed again.
    pub(super) async fn apply(&self, command: Command) -> Result<Reply, String> {
        match timeout(self.timing.node_down_after, self.group.propose(command.encode())).await {
            Ok(Ok((_, reply))) => Reply::decode(&reply).map_err(|error| error.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("not committed yet".to_owned()),
        }
    }
}

/// One admission of a node at a time.
struct Admitting {
    shared: Arc<Shared>,
    id: NodeId,
}

impl Drop for Admitting {
    fn drop(&mut self) {
        self.shared.admitting.lock().remove(&self.id);
    }
}

/// The members of the state that live now.
pub(super) fn live_members(shared: &Shared) -> Vec<Member> {
    shared.state.read().nodes().filter_map(flotilla_state::Node::member).collect()
}

/// On the leader: whether the log of a node reaches as far as what is committed, nearly.
pub(super) fn is_caught_up(status: &GroupStatus, node: NodeId) -> bool {
    let matched = status.replication.get(&node.0).copied().flatten();
    matched.is_some_and(|matched| matched + CATCH_UP_ENTRIES >= status.committed.unwrap_or(0))
}

/// A node may lack so many entries and count as one that has caught up: entries come all the time.
const CATCH_UP_ENTRIES: u64 = 64;

const CATCH_UP_PAUSE: Duration = Duration::from_millis(20);
