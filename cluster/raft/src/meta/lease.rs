//! Leases: how long a member may act as one, and which members the leader has lost.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use flotilla_state::Member;
use parking_lot::Mutex;

/// The right of this node to act as a member. Clones share it.
///
/// It ends before the leader can declare the node down: it runs from the time at which the last answered heartbeat was
/// *sent*, and the leader waits a fifth of `node_down_after` longer, from the time at which it arrived. A lease that has lapsed is
/// never extended: the node is admitted anew.
#[derive(Debug, Clone)]
pub struct Lease(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    base: Instant,
    /// Microseconds after `base`; 0 when there is none.
    until: AtomicU64,
    /// Held while `until` is changed.
    change: Mutex<()>,
}

impl Lease {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Arc::new(Inner { base: now, until: AtomicU64::new(0), change: Mutex::new(()) }))
    }

    /// Whether the node may act as a member. One atomic load.
    pub fn is_valid(&self, now: Instant) -> bool {
        self.micros(now) < self.0.until.load(Ordering::Acquire)
    }

    /// How long it is valid yet.
    pub fn remaining(&self, now: Instant) -> Duration {
        let until = self.0.until.load(Ordering::Acquire);
        Duration::from_micros(until.saturating_sub(self.micros(now)))
    }

    /// A new life of the node begins.
    pub(crate) fn begin(&self, until: Instant) {
        let _change = self.0.change.lock();
        self.0.until.store(self.micros(until), Ordering::Release);
    }

    /// Extends a lease that has not lapsed; false when it has.
    pub(crate) fn extend(&self, now: Instant, until: Instant) -> bool {
        let _change = self.0.change.lock();
        if !self.is_valid(now) {
            return false;
        }
        self.0.until.fetch_max(self.micros(until), Ordering::AcqRel);
        true
    }

    /// Gives the present life up: the node cannot go on with it. It asks for admission in a new one.
    pub fn give_up(&self) {
        self.end();
    }

    /// The life of the node has ended.
    pub(crate) fn end(&self) {
        let _change = self.0.change.lock();
        self.0.until.store(0, Ordering::Release);
    }

    fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.0.base).as_micros()).unwrap_or(u64::MAX)
    }
}

/// The intervals that follow from `node_down_after`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    pub(crate) node_down_after: Duration,
}

impl Timing {
    /// The interval of a member's heartbeats.
    pub(crate) fn interval(self) -> Duration {
        self.node_down_after / 5
    }

    /// How much longer than a member the leader waits. An answer of a leader counts only if a quorum has confirmed the leader
    /// within this time: so whoever leads next begins to wait later than the lease that was promised, less this margin.
    pub(crate) fn margin(self) -> Duration {
        self.node_down_after / 5
    }
}

/// When the leader has last heard of each member. A new leader starts with an empty one, and so gives everybody the full time.
#[derive(Debug, Default)]
pub(crate) struct LeaseTable {
    heard: BTreeMap<Member, Instant>,
}

impl LeaseTable {
    /// A heartbeat of the member has arrived.
    pub(crate) fn heard(&mut self, member: Member, now: Instant) {
        self.heard.insert(member, now);
    }

    /// The members that have been silent for too long. `live` are all that there are: others are forgotten, and new ones have
    /// the full time from now on.
    pub(crate) fn lapsed(&mut self, live: &[Member], now: Instant, timing: Timing) -> Vec<Member> {
        self.heard.retain(|member, _| live.contains(member));
        let after = timing.node_down_after + timing.margin();
        let mut lapsed = Vec::new();
        for member in live {
            let heard = *self.heard.entry(*member).or_insert(now);
            if now.saturating_duration_since(heard) > after {
                lapsed.push(*member);
            }
        }
        lapsed
    }

    /// Nothing is known any more.
    pub(crate) fn clear(&mut self) {
        self.heard.clear();
    }
}

#[cfg(test)]
mod tests {
    use flotilla_state::{Incarnation, NodeId};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_lapsed_lease_is_not_extended() {
        let start = Instant::now();
        let lease = Lease::new(start);
        assert!(!lease.is_valid(start) && !lease.extend(start, start + 9 * MS));
        lease.begin(start + 10 * MS);
        assert!(lease.is_valid(start + 9 * MS) && !lease.is_valid(start + 10 * MS));
        assert!(lease.extend(start + 5 * MS, start + 20 * MS));
        assert!(lease.extend(start + 6 * MS, start + 15 * MS), "an older answer takes nothing away");
        assert!(lease.is_valid(start + 19 * MS));
        assert!(!lease.extend(start + 20 * MS, start + 30 * MS));
        lease.end();
        assert!(!lease.is_valid(start) && lease.remaining(start) == Duration::ZERO);
    }

    #[test]
    fn a_member_is_silent_before_the_leader_gives_it_up() {
        let timing = Timing { node_down_after: 1_000 * MS };
        let (start, mut table) = (Instant::now(), LeaseTable::default());
        let member = |node| Member { node: NodeId(node), incarnation: Incarnation(1) };
        let live = [member(1), member(2)];
        // A new leader gives everybody the full time.
        assert_eq!(table.lapsed(&live, start, timing), []);
        let sent = start + 500 * MS;
        table.heard(member(1), sent + 30 * MS);
        let until = sent + timing.node_down_after;
        assert_eq!(table.lapsed(&live, start + 1_201 * MS, timing), [member(2)]);
        assert_eq!(table.lapsed(&live[..1], until + 200 * MS, timing), []);
        assert_eq!(table.lapsed(&live[..1], until + 231 * MS, timing), [member(1)]);
        assert_eq!(table.lapsed(&[], until, timing), []);
    }
}
