//! What goes on beside openraft.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::sync::watch;
use tokio::time::Instant;

use super::current_status;
use super::log::LogStore;
use super::machine::Failure;
use super::ports::GroupId;
use super::status::{GroupStatus, Role};
use super::types::Raft;

/// Keeps the status, and does what openraft leaves undone: makes snapshots when the log is long, has a leader without a vote
/// step down, and notes what is committed when the group is quiet.
pub(super) struct Monitor {
    pub(super) group: GroupId,
    pub(super) me: u64,
    pub(super) raft: Raft,
    pub(super) log: LogStore,
    pub(super) failure: Failure,
    pub(super) status: watch::Sender<GroupStatus>,
    pub(super) snapshots: SnapshotTrigger,
    /// The term in which the leadership was handed over.
    pub(super) handed_over_in: Option<u64>,
}

impl Monitor {
    pub(super) async fn run(mut self) {
        let mut metrics = self.raft.metrics();
        let mut note_at = None;
        loop {
            metrics.borrow_and_update();
            let mut now = current_status(&self.raft, &self.log, &self.failure);
            now.millis_since_quorum_ack = None;
            self.act(&now).await;
            let ended = now.role == Role::Stopped;
            if let Some(failed) = &now.failed {
                tracing::error!(error = %failed, group = %self.group, "the Raft group has stopped");
            }
            self.status.send_if_modified(|last| {
                let changed = *last != now;
                *last = now;
                changed
            });
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
                        return;
                    }
                }
                () = until(note_at) => {
                    note_at = None;
                    // An error stops the group at its next write.
                    let _ = self.log.note_committed().await;
                }
            }
        }
    }

    /// An error means that the group has stopped, which the status tells next.
    async fn act(&mut self, now: &GroupStatus) {
        if self.snapshots.is_due(now) {
            let _ = self.raft.trigger().snapshot().await;
        }
        // openraft lets a leader lead on that has become a learner.
        let leads_without_vote = now.role == Role::Leader
            && !now.is_joint
            && !now.voters.contains(&self.me)
            && now.committed >= now.membership_at;
        if leads_without_vote && self.handed_over_in != Some(now.term) {
            self.handed_over_in = Some(now.term);
            let next = now.voters.iter().max_by_key(|voter| now.replication.get(voter));
            if let Some(next) = next {
                let _ = self.raft.trigger().transfer_leader(*next).await;
            }
        }
    }
}

/// Decides when the log is long enough for a snapshot.
pub(super) struct SnapshotTrigger {
    log_bytes_max: u64,
    /// The length that the log cannot be cut below, as far as seen: entries are kept, and a follower may still need others.
    kept: u64,
    /// A snapshot up to this entry, or beyond, was asked for.
    asked: Option<u64>,
}

impl SnapshotTrigger {
    pub(super) fn new(log_bytes_max: u64) -> Self {
        Self { log_bytes_max, kept: 0, asked: None }
    }

    fn is_due(&mut self, status: &GroupStatus) -> bool {
        if self.asked.is_some() && status.snapshot >= self.asked {
            self.asked = None;
            self.kept = status.log_bytes;
        }
        self.kept = self.kept.min(status.log_bytes);
        // Without the second term, a log that cannot be cut would get a snapshot with every entry.
        let limit = self.log_bytes_max.max(self.kept.saturating_add(self.log_bytes_max / 2));
        let due = self.asked.is_none() && status.log_bytes > limit && status.applied > status.snapshot;
        if due {
            self.asked = status.applied;
        }
        due
    }
}

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
        assert!(!trigger.is_due(&status(1_000, 10, None)));
        assert!(trigger.is_due(&status(1_001, 11, None)));
        assert!(!trigger.is_due(&status(1_500, 15, None)));
        assert!(!trigger.is_due(&status(100, 16, Some(11))));
        assert!(trigger.is_due(&status(1_001, 30, Some(11))));
    }

    #[test]
    fn a_log_that_cannot_be_cut_gets_a_snapshot_now_and_then() {
        let mut trigger = SnapshotTrigger::new(1_000);
        assert!(trigger.is_due(&status(1_100, 11, None)));
        assert!(!trigger.is_due(&status(1_200, 12, Some(11))));
        assert!(!trigger.is_due(&status(1_700, 17, Some(11))));
        assert!(trigger.is_due(&status(1_701, 18, Some(11))));
        // It was cut after all.
        assert!(!trigger.is_due(&status(100, 19, Some(18))));
        assert!(trigger.is_due(&status(1_001, 29, Some(18))));
    }

    #[test]
    fn a_snapshot_that_would_hold_nothing_new_is_not_made() {
        let mut trigger = SnapshotTrigger::new(1_000);
        assert!(!trigger.is_due(&status(5_000, 11, Some(11))));
        assert!(trigger.is_due(&status(5_000, 12, Some(11))));
    }

    fn status(log_bytes: u64, applied: u64, snapshot: Option<u64>) -> GroupStatus {
        GroupStatus { log_bytes, applied: Some(applied), snapshot, ..GroupStatus::default() }
    }
}
