//! How the meta group is doing, and the changes that an operator asks for.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use flotilla_rpc::membership::{self as rpc, change_reply::Outcome};
use flotilla_state::{Command, Member, NodeId, Role};
use tokio::time::{sleep, timeout_at};
use tracing::{info, warn};

use super::{
    member::{Way, flatten},
    shared::{Departure, Shared, client},
};
use crate::{
    clock,
    group::{GroupStatus, Role as RaftRole},
    peers::Class,
};

/// How the meta group is doing, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaStatus {
    /// This node.
    pub node: NodeId,
    /// The life that it leads.
    pub me: Option<Member>,
    /// Who leads, as far as is known.
    pub leader: Option<NodeId>,
    /// Whether a quorum is behind what this node knows: on the leader, that it has been confirmed lately; on the others, that
    /// there is a leader that answers their heartbeats.
    pub quorum: bool,
    /// Some member that should be heard of is not: a part of the network may be cut off.
    pub partition_suspected: bool,
    /// On the leader: how many entries each node's log lacks; none when it never answered.
    pub lag: BTreeMap<NodeId, Option<u64>>,
    /// The nodes that were heard of within `node_down_after`.
    pub heard: Vec<NodeId>,
    /// The Raft group.
    pub group: GroupStatus,
}

/// A change of the members was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// It is refused.
    #[error("refused: {0}")]
    Refused(String),
    /// It was not made in time; it may be yet.
    #[error("not done in time: {0}")]
    Timeout(String),
    /// This node is no member.
    #[error("this node is not admitted to the cluster")]
    NotAdmitted,
}

impl MetaStatus {
    pub(super) fn encode(&self) -> rpc::StatusReply {
        let GroupStatus { term, last_log, committed, applied, voters, learners, replication, .. } =
            &self.group;
        let replication = replication
            .iter()
            .map(|(node, matched)| rpc::Replication { node: *node, matched: matched.unwrap_or(0) })
            .collect();
        rpc::StatusReply {
            node: self.node.0,
            term: *term,
            leader: self.leader.map_or(0, |leader| leader.0),
            last_log: last_log.unwrap_or(0),
            committed: committed.unwrap_or(0),
            applied: applied.unwrap_or(0),
            voters: voters.iter().copied().collect(),
            learners: learners.iter().copied().collect(),
            replication,
            millis_since_quorum: self.group.millis_since_quorum_ack,
            partition_suspected: self.partition_suspected,
            heard_recently: self.heard.iter().map(|node| node.0).collect(),
        }
    }
}

impl Shared {
    pub(super) fn status(&self) -> MetaStatus {
        let group = self.group.status();
        let me = *self.me.borrow();
        let leads = group.role == RaftRole::Leader;
        let quorum = if leads { self.is_certain_leader() } else { self.lease.is_valid(clock::now()) };
        let heard = self.peers.heard_within(self.timing.node_down_after);
        // Only the leader hears of everybody all the time.
        let silent = leads
            && self.state.read().nodes().any(|node| {
                let matters = node.role == Role::Core || node.status.is_live();
                matters && node.id != self.local.node() && !heard.contains(&node.id)
            });
        let last = group.last_log.unwrap_or(0);
        let lag = group
            .replication
            .iter()
            .map(|(node, matched)| (NodeId(*node), matched.map(|matched| last.saturating_sub(matched))))
            .collect();
        let is_member = self.local.cluster_id().is_some();
        MetaStatus {
            node: self.local.node(),
            me,
            leader: group.leader.map(NodeId),
            quorum,
            partition_suspected: is_member && (!quorum || silent),
            lag,
            heard,
            group,
        }
    }

    /// Gives the leadership to the live voter whose log reaches farthest.
    pub(super) async fn hand_over_leadership(&self) -> bool {
        let status = self.group.status();
        if status.role != RaftRole::Leader {
            return false;
        }
        let mut others: Vec<(Option<u64>, u64)> = {
            let state = self.state.read();
            let is_live = |node: &&u64| state.node(NodeId(**node)).is_some_and(|node| node.status.is_live());
            let others = status.voters.iter().filter(|node| **node != self.local.node().0).filter(is_live);
            others.map(|node| (status.replication.get(node).copied().flatten(), *node)).collect()
        };
        others.sort_unstable();
        for (_, node) in others.into_iter().rev() {
            match self.group.transfer_leadership(node).await {
                Ok(()) => {
                    info!(to = self.name_of(NodeId(node)), "handed the leadership over");
                    return true;
                }
                Err(error) => warn!(%error, "the leadership was not handed over"),
            }
            if self.group.status().role != RaftRole::Leader {
                return true;
            }
        }
        false
    }

    pub(super) async fn leave(self: &Arc<Self>, deadline: Instant) -> Result<(), ChangeError> {
        let member = (*self.me.borrow()).ok_or(ChangeError::NotAdmitted)?;
        self.departure.send_replace(Departure::Asked);
        let outcome = self.change(member.node, Command::Leave { member }, deadline).await;
        // What the node has seen in the log by itself counts for more than an answer that did not come.
        let mut has_left = outcome.is_ok();
        self.departure.send_modify(|departure| {
            has_left |= *departure == Departure::Done;
            *departure = if has_left { Departure::Done } else { Departure::No };
        });
        if !has_left {
            return outcome;
        }
        self.fence();
        Ok(())
    }

    pub(super) async fn remove(self: &Arc<Self>, node: NodeId, deadline: Instant) -> Result<(), ChangeError> {
        self.change(node, Command::Remove { node }, deadline).await
    }

    async fn change(
        self: &Arc<Self>,
        node: NodeId,
        command: Command,
        deadline: Instant,
    ) -> Result<(), ChangeError> {
        let mut last = "no leader is known".to_owned();
        while clock::now() < deadline {
            match self.try_to_change(node, command.clone(), deadline).await {
                Ok(Some(Outcome::Changed(_))) => return Ok(()),
                Ok(Some(Outcome::Refused(reason))) => return Err(ChangeError::Refused(reason)),
                Ok(Some(Outcome::Wait(reason))) | Err(reason) => last = reason,
                Ok(Some(Outcome::NotLeader(other))) => {
                    self.follow(other);
                }
                Ok(None) => {}
            }
            sleep(CHANGE_PAUSE).await;
        }
        Err(ChangeError::Timeout(last))
    }

    async fn try_to_change(
        self: &Arc<Self>,
        node: NodeId,
        command: Command,
        deadline: Instant,
    ) -> Result<Option<Outcome>, String> {
        let channel = match self.way_to_leader(Class::Admin) {
            None => return Ok(None),
            Some(Way::Here) => return Ok(Some(Arc::clone(self).dismiss(node, command).await)),
            Some(Way::There(channel)) => channel,
        };
        let mut client = client(channel);
        // A leader that is cut off does not take the whole time: there may be another one.
        let limit = deadline.min(clock::now() + self.timing.node_down_after * 2).into();
        let answer = match command {
            Command::Leave { member } => {
                let request = rpc::LeaveRequest { node: node.0, incarnation: member.incarnation.0 };
                timeout_at(limit, client.leave(request)).await
            }
            _ => timeout_at(limit, client.remove(rpc::RemoveRequest { node: node.0 })).await,
        };
        let reply = flatten(answer).map_err(|status| {
            self.doubt_way();
            status.message().to_owned()
        })?;
        Ok(reply.into_inner().outcome)
    }
}

const CHANGE_PAUSE: Duration = Duration::from_millis(100);
