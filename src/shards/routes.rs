//! Telling the cluster what the sessions of a shard want.
//!
//! The leader of a shard tells the meta group which filters have a subscription of QoS 1 or 2 among its sessions. What leaders before
//! it have said may still be on its way to the cluster, so it first has the cluster hear of its term, which refuses that from then on. Then it compares
//! all filters with what the cluster knows, and tells what differs; after that, what changes. A SUBSCRIBE is answered when its
//! routes are known, and those of all before it: somebody else's may still be on their way.

use std::collections::{HashMap, HashSet, VecDeque};

use flotilla_mqtt::topic::TopicFilter;
use flotilla_shard::FilterChange;
use flotilla_state::{
    ClusterState, Fingerprint, NodeId, RouteChange, ShardChange, ShardId, limits::CHANGES_MAX,
};

/// What the cluster has not been told yet, and who waits for that.
#[derive(Debug)]
pub(super) struct RouteTeller<T> {
    shard: ShardId,
    standing: Standing,
    /// By fingerprint, how many filters without wildcards have it: nearly always one.
    exact: HashMap<Fingerprint, u32>,
    queue: VecDeque<RouteChange>,
    /// How many changes have been queued, and how many of them are known to the cluster.
    queued: u64,
    told: u64,
    /// The changes that are on their way have this number, and are so many.
    number: u64,
    sent: u64,
    /// In the order of what they wait for.
    waiting: VecDeque<(u64, T)>,
}

/// How far the cluster can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It may still take what somebody else has said.
    Unheard,
    /// What it knows is to be compared with what the sessions want.
    Heard,
    Compared,
}

/// About how many bytes of filters go into one entry.
const CHANGES_BYTES: usize = 256 << 10;

impl<T> RouteTeller<T> {
    pub(super) fn new(shard: ShardId) -> Self {
        Self {
            shard,
            standing: Standing::Unheard,
            exact: HashMap::new(),
            queue: VecDeque::new(),
            queued: 0,
            told: 0,
            number: 0,
            sent: 0,
            waiting: VecDeque::new(),
        }
    }

    /// Whether [`RouteTeller::compare`] is due.
    pub(super) fn is_to_compare(&self) -> bool {
        self.standing == Standing::Heard
    }

    /// `filters` are all that the shard has; what differs from what the cluster knows is to be told. Returns who waits no longer.
    pub(super) fn compare(&mut self, state: &ClusterState, filters: impl Iterator<Item = String>) -> Vec<T> {
        self.standing = Standing::Compared;
        let routes = state.shards().routes();
        let me = NodeId(self.shard.0.into());
        let mut wildcards = HashSet::new();
        for filter in filters {
            if is_wildcard(&filter) {
                wildcards.insert(filter);
            } else {
                *self.exact.entry(routes.fingerprint(&filter)).or_default() += 1;
            }
        }
        let missing = self.exact.keys().copied().filter(|fingerprint| !routes.leads_to(*fingerprint, me));
        let mut changes: Vec<_> = missing.map(RouteChange::AddExact).collect();
        let mut known = HashSet::new();
        routes.for_each_wildcard(|filter, nodes| {
            if nodes.contains(&me) {
                if wildcards.contains(filter) {
                    known.insert(filter.to_owned());
                } else {
                    changes.push(RouteChange::RemoveWildcard(filter.into()));
                }
            }
        });
        let new = wildcards.into_iter().filter(|filter| !known.contains(filter));
        changes.extend(new.map(|filter| RouteChange::AddWildcard(filter.into())));
        routes.for_each_exact_of(me, |fingerprint| {
            if !self.exact.contains_key(&fingerprint) {
                changes.push(RouteChange::RemoveExact(fingerprint));
            }
        });
        changes.into_iter().for_each(|change| self.queue(change));
        // Theirs are among all these.
        self.waiting.iter_mut().for_each(|(until, _)| *until = self.queued);
        self.known()
    }

    /// A filter has its first subscription now, or has lost its last.
    pub(super) fn change(&mut self, state: &ClusterState, filter: &str, change: FilterChange) {
        if self.standing != Standing::Compared {
            return; // It will be among all filters.
        }
        let is_first = change == FilterChange::First;
        if is_wildcard(filter) {
            let make = if is_first { RouteChange::AddWildcard } else { RouteChange::RemoveWildcard };
            return self.queue(make(filter.into()));
        }
        let fingerprint = state.shards().routes().fingerprint(filter);
        let count = self.exact.entry(fingerprint).or_default();
        if is_first {
            *count += 1;
            if *count == 1 {
                self.queue(RouteChange::AddExact(fingerprint));
            }
            return;
        }
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.exact.remove(&fingerprint);
            self.queue(RouteChange::RemoveExact(fingerprint));
        }
    }

    /// Waits until everything that is queued now is known; returns it at once if it is.
    pub(super) fn wait(&mut self, who: T) -> Option<T> {
        if self.standing == Standing::Compared && self.told == self.queued {
            return Some(who);
        }
        self.waiting.push_back((self.queued, who));
        None
    }

    /// What to tell next, after what was told before is known; `None`: nothing.
    pub(super) fn next(&mut self) -> Option<ShardChange> {
        let mut bytes = 0;
        let mut changes = Vec::new();
        while changes.len() < CHANGES_MAX && bytes < CHANGES_BYTES {
            let Some(change) = self.queue.pop_front() else { break };
            bytes += match &change {
                RouteChange::AddWildcard(filter) | RouteChange::RemoveWildcard(filter) => filter.len(),
                _ => 0,
            };
            changes.push(change);
        }
        if changes.is_empty() && self.standing != Standing::Unheard {
            return None;
        }
        self.number += 1;
        self.sent = changes.len() as u64;
        Some(ShardChange::Routes { number: self.number, changes })
    }

    /// What was told is known now, to this node, too; returns who waited for that.
    pub(super) fn told(&mut self) -> Vec<T> {
        if self.standing == Standing::Unheard {
            self.standing = Standing::Heard;
        }
        self.told += std::mem::take(&mut self.sent);
        self.known()
    }

    /// What was told was not taken: what the cluster knows must be compared again.
    pub(super) fn refused(&mut self) {
        self.standing = Standing::Unheard;
        self.exact.clear();
        self.queue.clear();
        (self.queued, self.told, self.sent) = (0, 0, 0);
    }

    fn known(&mut self) -> Vec<T> {
        if self.standing != Standing::Compared {
            return Vec::new();
        }
        let split = self.waiting.partition_point(|(until, _)| *until <= self.told);
        self.waiting.drain(..split).map(|(_, who)| who).collect()
    }

    fn queue(&mut self, change: RouteChange) {
        self.queue.push_back(change);
        self.queued += 1;
    }
}

fn is_wildcard(filter: &str) -> bool {
    TopicFilter::parse(filter, u16::MAX).is_ok_and(|filter| filter.has_wildcard())
}

#[cfg(test)]
mod tests {
    use flotilla_state::{Command, LogIndex, Reply};

    use super::*;

    const SHARD: ShardId = ShardId(3);

    /// A cluster that leaders of a shard talk to.
    struct Cluster(ClusterState, u64);

    impl Cluster {
        fn new() -> Self {
            let mut state = ClusterState::new();
            let create =
                Command::Create { cluster_id: 1, name: "c".into(), shards: 8, replicas: 1, hash_seed: 5 };
            state.apply(LogIndex(1), create);
            Self(state, 1)
        }

        fn apply(&mut self, term: u64, change: ShardChange) -> Reply {
            self.1 += 1;
            self.0.apply(LogIndex(self.1), Command::Shard { shard: SHARD, term, change }).reply
        }

        /// Tells everything; returns how many changes that were, and who waited for them.
        fn tell(&mut self, term: u64, teller: &mut RouteTeller<u32>, filters: &[&str]) -> (usize, Vec<u32>) {
            let (mut count, mut known) = (0, Vec::new());
            loop {
                if teller.is_to_compare() {
                    known.extend(teller.compare(&self.0, filters.iter().map(|&filter| filter.to_owned())));
                }
                let Some(change) = teller.next() else { return (count, known) };
                let ShardChange::Routes { changes, .. } = &change else { panic!("nothing else is told") };
                count += changes.len();
                assert_eq!(self.apply(term, change), Reply::Done);
                known.extend(teller.told());
            }
        }

        fn wants(&self, topic: &str) -> bool {
            let mut found = false;
            self.0.shards().matches(topic, |shard| found |= shard == SHARD);
            found
        }
    }

    #[test]
    fn a_new_leader_tells_what_differs() {
        let mut cluster = Cluster::new();
        assert_eq!(cluster.tell(1, &mut RouteTeller::new(SHARD), &["a", "b/#", "c"]).0, 3);
        assert!(cluster.wants("a") && cluster.wants("b/x") && cluster.wants("c"));
        assert_eq!(cluster.tell(2, &mut RouteTeller::new(SHARD), &["a", "d", "e/+"]).0, 4);
        assert!(cluster.wants("a") && cluster.wants("d") && cluster.wants("e/x"));
        assert!(!cluster.wants("b/x") && !cluster.wants("c"));
        assert_eq!(cluster.tell(3, &mut RouteTeller::new(SHARD), &["e/+", "a", "d"]).0, 0);
    }

    #[test]
    fn who_subscribes_waits_for_all_that_was_queued_before() {
        let mut cluster = Cluster::new();
        let mut teller = RouteTeller::new(SHARD);
        assert_eq!(teller.wait(0), None, "it has not compared yet");
        assert_eq!(cluster.tell(1, &mut teller, &[]), (0, vec![0]));
        assert_eq!(teller.wait(1), Some(1));
        teller.change(&cluster.0, "a", FilterChange::First);
        assert_eq!(teller.wait(2), None);
        teller.change(&cluster.0, "b/#", FilterChange::First);
        assert_eq!(teller.wait(3), None);
        assert_eq!(cluster.tell(1, &mut teller, &[]), (2, vec![2, 3]));
        assert_eq!(teller.wait(4), Some(4));
        teller.change(&cluster.0, "a", FilterChange::Last);
        teller.change(&cluster.0, "b/#", FilterChange::Last);
        cluster.tell(1, &mut teller, &[]);
        assert!(!cluster.wants("a") && !cluster.wants("b/x"));
    }

    #[test]
    fn what_an_earlier_leader_has_said_and_comes_late_changes_nothing() {
        let mut cluster = Cluster::new();
        let mut before = RouteTeller::new(SHARD);
        cluster.tell(1, &mut before, &["a"]);
        before.change(&cluster.0, "a", FilterChange::Last);
        let late = before.next().expect("it has lost its last subscription");
        // Its client has subscribed again since, at the next leader.
        let mut teller = RouteTeller::new(SHARD);
        assert_eq!(teller.wait(1), None);
        assert_eq!(cluster.tell(2, &mut teller, &["a"]), (0, vec![1]));
        assert_eq!(cluster.apply(1, late), Reply::Stale);
        assert!(cluster.wants("a"));
    }

    #[test]
    fn what_is_taken_twice_changes_nothing_the_second_time() {
        let mut cluster = Cluster::new();
        let mut teller = RouteTeller::new(SHARD);
        cluster.tell(1, &mut teller, &["a"]);
        teller.change(&cluster.0, "a", FilterChange::Last);
        let twice = teller.next().expect("it has lost its last subscription");
        assert_eq!(cluster.apply(1, twice.clone()), Reply::Done);
        teller.told();
        teller.change(&cluster.0, "a", FilterChange::First);
        cluster.tell(1, &mut teller, &[]);
        assert_eq!(cluster.apply(1, twice), Reply::Done);
        assert!(cluster.wants("a"));
    }

    #[test]
    fn what_is_refused_is_told_again() {
        let mut cluster = Cluster::new();
        let mut teller = RouteTeller::new(SHARD);
        cluster.tell(1, &mut teller, &[]);
        teller.change(&cluster.0, "a", FilterChange::First);
        assert_eq!(teller.wait(1), None);
        teller.next().expect("it is new");
        teller.refused();
        assert_eq!(teller.wait(2), None);
        assert_eq!(cluster.tell(1, &mut teller, &["a"]), (1, vec![1, 2]));
        assert!(cluster.wants("a"));
    }
}
