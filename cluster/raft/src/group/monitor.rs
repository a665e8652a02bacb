//! What goes on beside openraft.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::sync::watch;
use tokio::time::Instant;

use super::current_status;
use super::log::LogStore;
use super::machine::{Failure, Outgoing};
use super::ports::GroupId;
use super::rest::{AtRest, Rest};
use super::status::{GroupStatus, Role};
use super::types::{Raft, Seat};

/// Keeps the status, and does what openraft leaves undone: makes snapshots when the log is long or the group at rest, has a leader without a vote
/// step down, and notes what is committed when the group is quiet.
pub(super) struct Monitor {
    pub(super) group: GroupId,
    pub(super) me: u64,
    pub(super) raft: Raft,
    pub(super) log: LogStore,
    pub(super) failure: Failure,
    pub(super) status: watch::Sender<GroupStatus>,
    /// The role and the term of the status.
    pub(super) role: watch::Sender<(Role, u64)>,
    pub(super) snapshots: SnapshotTrigger,
    pub(super) rest: Rest,
    pub(super) outgoing: Outgoing,
    /// The term in which the leadership was handed over.
    pub(super) handed_over_in: Option<u64>,
    /// Whether openraft's clock, by which heartbeats and elections come, has been stopped.
    pub(super) is_clock_stopped: bool,
}

impl Monitor {
    pub(super) async fn run(mut self) {
        let mut metrics = self.raft.metrics();
        let mut note_at = None;
        loop {
            metrics.borrow_and_update();
            let mut now = current_status(&self.raft, &self.log, &self.failure);
            now.millis_since_quorum_ack = None;
            now.millis_since_answer.clear();
            self.act(&now).await;
            let ended = now.role == Role::Stopped;
            if let Some(failed) = &now.failed {
                tracing::error!(error = %failed, group = %self.group, "the Raft group has stopped");
            }
            let role = (now.role, now.term);
            self.status.send_if_modified(|last| {
                let changed = *last != now;
                *last = now;
                changed
            });
            self.role.send_if_modified(|last| std::mem::replace(last, role) != role);
            if ended {
                return;
            }
            // The metrics change with every heartbeat, so the pause is counted from when there is something to note.
            note_at = match note_at {
                _ if !self.log.has_unnoted_commit() => None,
                None => Some(Instant::now() + QUIET),
                at => at,
            };
            tokio::select! {
                changed = metrics.changed() => {
                    if changed.is_err() {
                        self.status.send_modify(|last| last.role = Role::Stopped);
                        self.role.send_modify(|(role, _)| *role = Role::Stopped);
                        return;
                    }
                }
                () = until(note_at) => {
                    note_at = None;
                    // An error stops the group at its next write.
                    let _ = self.log.note_committed().await;
                }
                () = tokio::time::sleep_until(self.rest.next_look()) => {}
            }
        }
    }

    /// An error means that the group has stopped, which the status tells next.
    async fn act(&mut self, now: &GroupStatus) {
        // A leader without other members has nobody to send heartbeats to, and a node has a dozen such groups or more.
        let is_alone = now.role == Role::Leader && now.members.len() == 1 && !now.is_joint;
        if self.is_clock_stopped != is_alone {
            self.is_clock_stopped = is_alone;
            self.raft.runtime_config().tick(!is_alone);
        }
        if self.snapshots.is_due(now, self.outgoing.is_any()) {
            let _ = self.raft.trigger().snapshot().await;
        }
        match self.rest.look(now, self.outgoing.is_any(), Instant::now()) {
            AtRest::Snapshot => drop(self.raft.trigger().snapshot().await),
            AtRest::Purge(upto) => drop(self.raft.trigger().purge_log(upto).await),
            AtRest::Nothing => {}
        }
        // openraft lets a leader lead on that has become a learner.
        let leads_without_vote = now.role == Role::Leader
            && !now.is_joint
            && !now.voters.contains(&self.me)
            && now.committed >= now.membership_at;
        if leads_without_vote && self.handed_over_in != Some(now.term) {
            self.handed_over_in = Some(now.term);
            let next = now.voters.iter().max_by_key(|voter| now.replication.get(voter));
            if let Some((node, group)) = next.and_then(|next| now.members.get_key_value(next)) {
                let _ = self.raft.trigger().transfer_leader(Seat::new(*node, *group)).await;
            }
        }
    }
}

/// Decides when the log is long enough for a snapshot.
pub(super) struct SnapshotTrigger {
    log_bytes_max: u64,
    /// The length that the log cannot be cut below, as far as seen: entries are kept, and a follower may still need others.
    kept: u64,
    asked: Option<Asked>,
}

/// A snapshot that was asked for.
struct Asked {
    /// It is there when one up to this entry, or beyond, is.
    index: u64,
    /// Where the log becomes so long without it, it is asked for again: a checkpoint may have brought less than was hoped for.
    again_at: u64,
}

impl SnapshotTrigger {
    pub(super) fn new(log_bytes_max: u64) -> Self {
        Self { log_bytes_max, kept: 0, asked: None }
    }

    /// `is_sending`: a member is to have the log from the snapshot on that is on its way to it. To cut it meanwhile would have it need
    /// another one, and so on for ever.
    fn is_due(&mut self, status: &GroupStatus, is_sending: bool) -> bool {
        match &self.asked {
            Some(asked) if status.snapshot >= Some(asked.index) => {
                self.asked = None;
                self.kept = status.log_bytes;
            }
            Some(asked) if status.log_bytes > asked.again_at => self.asked = None,
            _ => {}
        }
        self.kept = self.kept.min(status.log_bytes);
        // Without the second term, a log that cannot be cut would get a snapshot with every entry.
        let mut limit = self.log_bytes_max.max(self.kept.saturating_add(self.log_bytes_max / 2));
        if is_sending {
            limit = limit.saturating_mul(SENDING_FACTOR);
        }
        let due = self.asked.is_none() && status.log_bytes > limit && status.applied > status.snapshot;
        if let Some(index) = status.applied.filter(|_| due) {
            // openraft ignores it while it makes one.
            let again_at = status.log_bytes.saturating_add(self.log_bytes_max);
            self.asked = Some(Asked { index, again_at });
        }
        due
    }
}

/// While a snapshot of a durable state is sent, the log may become so many times as long.
const SENDING_FACTOR: u64 = 16;

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What is committed is noted after so long, when nothing else was written that it could go with.
const QUIET: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_gets_one_snapshot_at_a_time() {
        let mut trigger = SnapshotTrigger::new(1_000);
        assert!(!trigger.is_due(&status(1_000, 10, None), false));
        assert!(trigger.is_due(&status(1_001, 11, None), false));
        assert!(!trigger.is_due(&status(1_500, 15, None), false));
        assert!(!trigger.is_due(&status(100, 16, Some(11)), false));
        assert!(trigger.is_due(&status(1_001, 30, Some(11)), false));
    }

    #[test]
    fn a_log_that_cannot_be_cut_gets_a_snapshot_now_and_then() {
        let mut trigger = SnapshotTrigger::new(1_000);
        assert!(trigger.is_due(&status(1_100, 11, None), false));
        assert!(!trigger.is_due(&status(1_200, 12, Some(11)), false));
        assert!(!trigger.is_due(&status(1_700, 17, Some(11)), false));
        assert!(trigger.is_due(&status(1_701, 18, Some(11)), false));
        // It was cut after all.
        assert!(!trigger.is_due(&status(100, 19, Some(18)), false));
        assert!(trigger.is_due(&status(1_001, 29, Some(18)), false));
    }

    #[test]
    fn a_checkpoint_that_brought_less_is_asked_for_again() {
        let mut trigger = SnapshotTrigger::new(1_000);
        assert!(trigger.is_due(&status(1_100, 11, None), false));
        assert!(!trigger.is_due(&status(1_500, 15, Some(9)), false));
        assert!(!trigger.is_due(&status(2_100, 21, Some(9)), false));
        assert!(trigger.is_due(&status(2_101, 22, Some(9)), false));
        assert!(!trigger.is_due(&status(2_200, 23, Some(9)), false));
    }

    #[test]
    fn a_snapshot_that_would_hold_nothing_new_is_not_made() {
        let mut trigger = SnapshotTrigger::new(1_000);
        assert!(!trigger.is_due(&status(5_000, 11, Some(11)), false));
        assert!(trigger.is_due(&status(5_000, 12, Some(11)), false));
    }

    #[test]
    fn the_log_is_not_cut_while_a_snapshot_is_sent_unless_it_becomes_very_long() {
        let mut trigger = SnapshotTrigger::new(1_000);
        assert!(!trigger.is_due(&status(1_001, 11, None), true));
        assert!(!trigger.is_due(&status(16_000, 160, None), true));
        assert!(trigger.is_due(&status(16_001, 161, None), true));
        let mut trigger = SnapshotTrigger::new(1_000);
        assert!(!trigger.is_due(&status(1_001, 11, None), true));
        assert!(trigger.is_due(&status(1_001, 11, None), false));
    }

    fn status(log_bytes: u64, applied: u64, snapshot: Option<u64>) -> GroupStatus {
        GroupStatus { log_bytes, applied: Some(applied), snapshot, ..GroupStatus::default() }
    }
}
