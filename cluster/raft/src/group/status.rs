//! How a group is doing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::error::Fatal;
use openraft::{Instant, RaftMetrics, ServerState};

use super::ports::GroupId;
use super::types::Types;

/// What this node is to the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Receives the log and has no vote. Also what a node is before the group is initialised, or after it was removed.
    #[default]
    Learner,
    /// Votes, and follows the leader.
    Follower,
    /// Stands for election.
    Candidate,
    /// Leads the group. Whether a quorum still agrees tells [`GroupStatus::millis_since_quorum_ack`].
    Leader,
    /// Has stopped.
    Stopped,
}

/// How a group is doing, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupStatus {
    /// The present term.
    pub term: u64,
    /// What this node is to the group.
    pub role: Role,
    /// Who leads the term, as far as is known.
    pub leader: Option<u64>,
    /// The index of the last entry of the log.
    pub last_log: Option<u64>,
    /// The index of the last entry that is known to be committed.
    pub committed: Option<u64>,
    /// The index of the last entry that the state machine has applied.
    pub applied: Option<u64>,
    /// The index of the last entry that the snapshot covers, or the checkpoint of a durable state.
    pub snapshot: Option<u64>,
    /// The index of the last entry that the log has given up.
    pub purged: Option<u64>,
    /// The bytes of the log that are not purged.
    pub log_bytes: u64,
    /// The members that vote. While a change is under way, those of the old and of the new configuration.
    pub voters: BTreeSet<u64>,
    /// A change of the voters is under way, or was interrupted: [`Group::change_voters`](super::Group::change_voters) ends it.
    pub is_joint: bool,
    /// The members that do not vote.
    pub learners: BTreeSet<u64>,
    /// All members, and under which number each has the group.
    pub members: BTreeMap<u64, GroupId>,
    /// The index of the entry that set the members.
    pub membership_at: Option<u64>,
    /// On the leader: how far the log of each member is known to match.
    pub replication: BTreeMap<u64, Option<u64>>,
    /// On the leader: how long ago each other member last answered it, in milliseconds. Not told by [`Group::watch`](super::Group::watch),
    /// where it would change all the time.
    pub millis_since_answer: BTreeMap<u64, u64>,
    /// On the leader: how long ago a quorum last confirmed it. Not told by [`Group::watch`](super::Group::watch), where it would
    /// change all the time.
    pub millis_since_quorum_ack: Option<u64>,
    /// Why the group has stopped, if not on request.
    pub failed: Option<String>,
}

impl GroupStatus {
    /// Entries of the log that are not known to be committed.
    #[must_use]
    pub fn commit_lag(&self) -> u64 {
        entries(self.last_log).saturating_sub(entries(self.committed))
    }

    /// Committed entries that the state machine has not applied.
    #[must_use]
    pub fn apply_lag(&self) -> u64 {
        entries(self.committed).saturating_sub(entries(self.applied))
    }

    pub(super) fn new(
        metrics: &RaftMetrics<Types>,
        log_bytes: u64,
        reason: impl FnOnce(&Fatal<Types>) -> String,
    ) -> Self {
        let membership = metrics.membership_config.membership();
        Self {
            term: metrics.current_term,
            role: match (&metrics.running_state, metrics.state) {
                (Err(_), _) | (Ok(()), ServerState::Shutdown) => Role::Stopped,
                (Ok(()), ServerState::Learner) => Role::Learner,
                (Ok(()), ServerState::Follower) => Role::Follower,
                (Ok(()), ServerState::Candidate) => Role::Candidate,
                (Ok(()), ServerState::Leader) => Role::Leader,
            },
            leader: metrics.current_leader.map(|seat| seat.node),
            last_log: metrics.last_log_index,
            committed: metrics.local_committed.map(|id| id.index()),
            applied: metrics.last_applied.map(|id| id.index()),
            snapshot: metrics.snapshot.map(|id| id.index()),
            purged: metrics.purged.map(|id| id.index()),
            log_bytes,
            voters: membership.voter_ids().map(|seat| seat.node).collect(),
            is_joint: membership.get_joint_config().len() > 1,
            learners: membership.learner_ids().map(|seat| seat.node).collect(),
            members: membership.nodes().map(|(seat, _)| (seat.node, GroupId(seat.group))).collect(),
            membership_at: metrics.membership_config.log_id().map(|id| id.index()),
            replication: metrics
                .replication
                .iter()
                .flatten()
                .map(|(seat, id)| (seat.node, id.map(|id| id.index())))
                .collect(),
            millis_since_answer: metrics
                .heartbeat
                .iter()
                .flatten()
                .filter_map(|(seat, at)| Some((seat.node, millis(at.as_ref()?.elapsed()))))
                .collect(),
            millis_since_quorum_ack: metrics.last_quorum_acked.map(|at| millis(at.elapsed())),
            failed: match &metrics.running_state {
                Ok(()) | Err(Fatal::Stopped) => None,
                Err(fatal) => Some(reason(fatal)),
            },
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// So many entries there are up to an index.
fn entries(index: Option<u64>) -> u64 {
    index.map_or(0, |index| index.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_is_the_number_of_entries_between() {
        let status = |last_log, committed, applied| GroupStatus {
            last_log,
            committed,
            applied,
            ..GroupStatus::default()
        };
        let lags = |status: GroupStatus| (status.commit_lag(), status.apply_lag());
        assert_eq!(lags(status(None, None, None)), (0, 0));
        assert_eq!(lags(status(Some(0), None, None)), (1, 0));
        assert_eq!(lags(status(Some(9), Some(6), Some(2))), (3, 4));
        assert_eq!(lags(status(Some(9), Some(6), None)), (3, 7));
        // What is applied may be noted before what is committed.
        assert_eq!(lags(status(Some(9), Some(6), Some(8))), (3, 0));
    }
}
