//! What becomes of the log of a group at rest.
//!
//! A log is cut when it is long, and keeps some entries for members that are a little behind. A group that has got little for a while
//! would hold that for ever, and with it segments of the log of the node. So it brings its state to the disk, and then gives its log
//! up: nobody is a little behind any more.

use std::time::Duration;

use tokio::time::Instant;

use super::status::{GroupStatus, Role};

/// Looks at a group now and then, and decides what is to be done if it is at rest.
#[derive(Debug)]
pub(super) struct Rest {
    next_look: Instant,
    /// The last entry at the last look.
    seen: Option<u64>,
}

/// What is to be done for a group at rest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AtRest {
    Snapshot,
    /// The log up to this entry can go.
    Purge(u64),
    Nothing,
}

/// How often the group is looked at.
const LOOK: Duration = Duration::from_secs(30);
/// With more entries between two looks it is not at rest.
const ENTRIES_MAX: u64 = 64;
/// What a log may hold for ever.
const LOG_BYTES_MIN: u64 = 256 << 10;

impl Rest {
    pub(super) fn new(now: Instant) -> Self {
        Self { next_look: now + LOOK, seen: None }
    }

    /// When to look again.
    pub(super) fn next_look(&self) -> Instant {
        self.next_look
    }

    /// `is_sending`: a member is to have the log from the snapshot on that is on its way to it.
    pub(super) fn look(&mut self, status: &GroupStatus, is_sending: bool, now: Instant) -> AtRest {
        if now < self.next_look {
            return AtRest::Nothing;
        }
        self.next_look = now + LOOK;
        let seen = std::mem::replace(&mut self.seen, status.last_log);
        let is_at_rest = seen.is_some_and(|seen| status.last_log <= Some(seen + ENTRIES_MAX));
        if !is_at_rest || is_sending || status.log_bytes < LOG_BYTES_MIN {
            return AtRest::Nothing;
        }
        let is_behind = |snapshot: Option<u64>| {
            status.applied.unwrap_or(0).saturating_sub(snapshot.unwrap_or(0)) > ENTRIES_MAX
        };
        if is_behind(status.snapshot) {
            return AtRest::Snapshot;
        }
        let matching = match status.role {
            // A member that is away gets it when it is back.
            Role::Leader => status.replication.values().copied().min().flatten(),
            _ => status.snapshot,
        };
        match status.snapshot.min(matching) {
            Some(upto) if Some(upto) > status.purged => AtRest::Purge(upto),
            _ => AtRest::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A follower with a log of this length.
    fn status(last_log: u64, snapshot: u64, purged: u64) -> GroupStatus {
        GroupStatus {
            role: Role::Follower,
            last_log: Some(last_log),
            applied: Some(last_log),
            snapshot: Some(snapshot),
            purged: Some(purged),
            log_bytes: LOG_BYTES_MIN,
            ..GroupStatus::default()
        }
    }

    /// What a look finds after the last one, which found a last entry.
    fn check(seen: u64, now: &GroupStatus, expected: &AtRest) {
        let start = Instant::now();
        let mut rest = Rest::new(start);
        rest.look(&GroupStatus { last_log: Some(seen), ..GroupStatus::default() }, false, start + LOOK);
        assert_eq!(rest.look(now, false, start + LOOK), AtRest::Nothing, "it does not look all the time");
        assert_eq!(rest.look(now, true, start + 2 * LOOK), AtRest::Nothing, "a member needs the log");
        assert_eq!(rest.look(now, false, start + 3 * LOOK), *expected);
    }

    #[test]
    fn a_group_at_rest_gives_its_log_up() {
        check(1_000, &status(1_000, 800, 700), &AtRest::Snapshot);
        check(1_000, &status(1_000, 1_000, 872), &AtRest::Purge(1_000));
        check(1_000, &status(1_000, 990, 872), &AtRest::Purge(990));
        check(1_000, &status(1_000, 1_000, 1_000), &AtRest::Nothing);
        let short = GroupStatus { log_bytes: LOG_BYTES_MIN - 1, ..status(1_000, 1_000, 872) };
        check(1_000, &short, &AtRest::Nothing);
    }

    #[test]
    fn a_busy_group_keeps_its_log() {
        let start = Instant::now();
        let mut rest = Rest::new(start);
        for look in 1..10 {
            let busy = status(u64::from(look) * 100, u64::from(look) * 100 - 10, 1);
            assert_eq!(rest.look(&busy, false, start + LOOK * look), AtRest::Nothing);
        }
    }

    #[test]
    fn a_leader_keeps_what_a_member_lacks() {
        let leader = |others: [Option<u64>; 2]| GroupStatus {
            role: Role::Leader,
            replication: [(1, Some(1_000)), (2, others[0]), (3, others[1])].into(),
            ..status(1_000, 1_000, 872)
        };
        check(1_000, &leader([Some(1_000), Some(1_000)]), &AtRest::Purge(1_000));
        check(1_000, &leader([Some(1_000), Some(900)]), &AtRest::Purge(900));
        check(1_000, &leader([Some(1_000), None]), &AtRest::Nothing);
    }
}
