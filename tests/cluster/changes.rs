//! Leaders that die, and networks that break, while the voters change: F59.
//!
//! The voters change by a joint configuration, which takes two entries of the log. Whatever happens in between: the change is
//! finished or taken back, nobody leads a term in which another one leads, and the cluster ends with the voters that it
//! should have.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    thread,
    time::{Duration, Instant},
};

use crate::{
    fleet::{Cluster, Node, PATIENCE, Status, fence, in_own_network, poll},
    harness::{Client, Connect, Event, Packet, Version, subscribe, unique},
};

#[test]
fn a_leader_dies_at_any_moment_of_a_change_of_the_voters() {
    // F59: four nodes, of which one leaves and comes again.
    let mut moments = Moments::new();
    let mut cluster = Cluster::start(3);
    let mut leaders = Leaders::default();
    cluster.add_core();
    for _ in 0..2 {
        await_voters(&cluster, 4, &mut leaders);
        let (leader, number) = (cluster.leader(), cluster.follower());
        let begun = Said::so_far(&cluster, TAKEN_OUT);
        thread::scope(|scope| {
            let leaving = scope.spawn(|| cluster.node(number).ctl(&["nodes", "leave"]));
            begun.await_again(&cluster);
            moments.wait();
            cluster.node(leader).kill();
            let _ = leaving.join();
        });
        cluster.node(leader).start();
        leave(&cluster, number);
        await_voters(&cluster, 3, &mut leaders);

        let leader = cluster.leader();
        let begun = Said::so_far(&cluster, CHANGED);
        cluster.node(number).start();
        begun.await_again(&cluster);
        moments.wait();
        cluster.node(leader).kill();
        // It is finished by those that are left, although one of the four is dead.
        cluster.until("all vote", || {
            let voters = leaders.look(&cluster).into_iter().map(|status| status.voters());
            voters.max().filter(|voters| *voters == 4).map(|_| ())
        });
        cluster.node(leader).start();
    }
    await_voters(&cluster, 4, &mut leaders);
    assert_serves(&cluster);
}

#[test]
fn a_change_of_the_voters_that_reached_a_minority_when_its_leader_died_is_made_again() {
    // F59: the followers stand still while the leader writes the first entry of the change. On a busy machine it may have
    // lost its certainty of them before it looks.
    assert!((0..5).any(|_| change_is_begun_and_its_leader_dies()), "no change has begun");
}

/// Whether the change had begun.
#[track_caller]
fn change_is_begun_and_its_leader_dies() -> bool {
    let mut cluster = Cluster::start(3);
    let mut leaders = Leaders::default();
    let leader = cluster.leader();
    let followers: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
    let (joined, begun) = (Said::so_far(&cluster, JOINED), Said::so_far(&cluster, CHANGED));
    cluster.add_core();
    joined.await_again(&cluster);
    followers.iter().for_each(|follower| cluster.node(*follower).pause());
    // It is certain of its followers for a second yet, and looks twice a second whether somebody should vote.
    let is_begun = poll(Duration::from_secs(3), || begun.again(&cluster)).is_some();
    cluster.node(leader).kill();
    followers.iter().for_each(|follower| cluster.node(*follower).resume());
    cluster.await_formed();
    cluster.node(leader).start();
    await_voters(&cluster, 4, &mut leaders);
    assert_serves(&cluster);
    is_begun
}

#[test]
fn a_node_that_was_only_a_learner_when_a_partition_came_is_admitted_by_the_next_leader() {
    // F59: the next leader does not know it, or forgets it, and it hears from no leader any more.
    in_own_network(|| check_partition(When::Learned));
}

#[test]
fn a_partition_before_a_change_of_the_voters_is_committed_leaves_one_majority() {
    // F59: the leader and the new node are on one side, two of three voters on the other.
    in_own_network(|| check_partition(When::Joined));
}

#[test]
fn a_partition_during_a_change_of_the_voters_leaves_at_most_one_majority() {
    // F59: the change has begun, and may be committed or not.
    in_own_network(|| check_partition(When::Changing));
}

/// When a network breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// The new node gets the log, and is not admitted yet.
    Learned,
    /// It is admitted, and has no vote yet.
    Joined,
    /// It is about to have one.
    Changing,
}

impl When {
    /// What tells it.
    fn what(self) -> &'static str {
        match self {
            Self::Learned => LEARNS,
            Self::Joined => JOINED,
            Self::Changing => CHANGED,
        }
    }
}

/// Parts the leader and a new node from the others at this time.
#[track_caller]
fn check_partition(when: When) {
    let mut moments = Moments::new();
    let mut cluster = Cluster::start(3);
    let mut leaders = Leaders::default();
    let leader = cluster.leader();
    let others: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
    let said = Said::so_far(&cluster, when.what());
    let new = cluster.add_core();
    said.await_again(&cluster);
    match when {
        When::Learned => {
            // Nothing more is committed, and the new one learns who leads.
            others.iter().for_each(|other| cluster.node(*other).pause());
            let knows_leader = || cluster.node(new).status()?.leader.map(|_| ());
            cluster.until("the new node hears from the leader", knows_leader);
        }
        When::Joined => {}
        When::Changing => moments.wait(),
    }
    let sides = [&[leader, new][..], &others];
    cluster.split(sides[0], sides[1]);
    if when == When::Learned {
        others.iter().for_each(|other| cluster.node(*other).resume());
    }
    // Until the leases have lapsed on any side that has no majority, both sides may serve clients that they have.
    cluster.until("the leader that was cut off is none any more", || {
        leaders.look(&cluster);
        let is_fenced = |number: &usize| !cluster.node(*number).is_ready();
        sides.iter().any(|side| side.iter().all(is_fenced)).then_some(())
    });
    let filter = unique("committed");
    let committed = sides.map(|side| side.iter().find_map(|number| commit(cluster.node(*number), &filter)));
    assert!(committed.iter().flatten().count() < 2, "there are two majorities");
    leaders.look(&cluster);
    cluster.heal();
    await_voters(&cluster, 4, &mut leaders);
    // What was committed on one side holds on both.
    for mut subscriber in committed.into_iter().flatten() {
        for node in cluster.nodes() {
            let mut publisher = node.connect_soon(&Connect::new(Version::V5, &unique("publisher")));
            publisher.publish(&filter, "held", 1);
            let came = subscriber.expect_publish(&filter, "held");
            subscriber.acknowledge(&came);
        }
    }
    assert_serves(&cluster);
}

/// A client of this node whose subscription the cluster has committed; none when there is no majority.
fn commit(node: &Node, filter: &str) -> Option<Client> {
    let soon = Duration::from_secs(4);
    poll(soon, || {
        let mut client = node.attempt(&Connect::new(Version::V5, &unique("committer")).keep_alive(0)).ok()?;
        client.send(&subscribe(Version::V5, 1, &[], &[(filter, 1)]));
        let answer = client.next_event(soon);
        matches!(answer, Some(Event::Packet(Packet::SubAck { .. }))).then_some(client)
    })
}

/// Lets a node leave that may have begun to.
#[track_caller]
fn leave(cluster: &Cluster, number: usize) {
    cluster.until("it leaves", || {
        if cluster.node(number).is_running() {
            let _ = cluster.node(number).ctl(&["nodes", "leave"]);
        }
        (!cluster.node(number).is_running()).then_some(())
    });
    assert!(cluster.node(number).await_end().success());
    cluster.await_forgotten(number);
}

/// Waits until all nodes that run agree on a leader and on so many voters, which are those that run.
#[track_caller]
fn await_voters(cluster: &Cluster, count: usize, leaders: &mut Leaders) {
    cluster.await_formed();
    cluster.until(&format!("all know {count} voters"), || {
        let seen = leaders.look(cluster);
        let running = cluster.nodes().iter().filter(|node| node.is_running());
        let names: BTreeSet<String> = running.map(Node::name).collect();
        let is_so = |status: &Status| {
            let voters = status.nodes.iter().filter(|node| node.voter).map(|node| node.name.clone());
            voters.collect::<BTreeSet<_>>() == names
        };
        (names.len() == count && seen.len() == count && seen.iter().all(is_so)).then_some(())
    });
    let ids: BTreeSet<_> = leaders.look(cluster).into_iter().map(|status| status.id).collect();
    assert_eq!(ids.len(), 1, "there are several clusters: {ids:?}");
}

/// Each node brings messages to the next.
#[track_caller]
fn assert_serves(cluster: &Cluster) {
    let nodes = cluster.nodes();
    for (from, to) in nodes.iter().zip(nodes.iter().cycle().skip(1)) {
        let client = |node: &Node| node.connect_soon(&Connect::new(Version::V5, &unique("c")));
        assert!(fence(&mut client(to), &mut client(from)).is_empty());
    }
}

/// Who was seen to lead each term.
#[derive(Default)]
struct Leaders(BTreeMap<u64, String>);

impl Leaders {
    /// What all nodes that answer know now. Nobody may lead a term that somebody else has led.
    #[track_caller]
    fn look(&mut self, cluster: &Cluster) -> Vec<Status> {
        let running = cluster.nodes().iter().filter(|node| node.is_running());
        let seen: Vec<Status> = running.filter_map(Node::status).collect();
        for status in &seen {
            let Some(leader) = &status.leader else { continue };
            let known = self.0.entry(status.term).or_insert_with(|| leader.clone());
            assert_eq!(known, leader, "two nodes lead term {}", status.term);
        }
        seen
    }
}

/// How often nodes have said something, those that were there when it was counted first.
struct Said {
    what: &'static str,
    /// The nodes from the first to this one.
    nodes: usize,
    times: usize,
}

impl Said {
    fn so_far(cluster: &Cluster, what: &'static str) -> Self {
        let said = Self { what, nodes: cluster.nodes().len(), times: 0 };
        Self { times: said.count(cluster), ..said }
    }

    fn count(&self, cluster: &Cluster) -> usize {
        let nodes = cluster.nodes().iter().take(self.nodes);
        nodes.map(|node| node.log().matches(self.what).count()).sum()
    }

    fn again(&self, cluster: &Cluster) -> Option<()> {
        (self.count(cluster) > self.times).then_some(())
    }

    /// Waits for the next time, and misses its moment by some milliseconds at most.
    #[track_caller]
    fn await_again(&self, cluster: &Cluster) {
        let deadline = Instant::now() + PATIENCE;
        while self.again(cluster).is_none() {
            assert!(Instant::now() < deadline, "nobody says {:?}", self.what);
            thread::park_timeout(Duration::from_millis(1));
        }
    }
}

/// Moments within a change, which takes some milliseconds: other ones in each run.
struct Moments(u64);

impl Moments {
    fn new() -> Self {
        let seed = RandomState::new().hash_one(0) | 1;
        eprintln!("seed {seed:#x}");
        Self(seed)
    }

    /// Lets some of the change pass: this is about the moment itself, and waits for nothing.
    fn wait(&mut self) {
        // Xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let moment = Duration::from_micros(self.0 % CHANGE_MICROS);
        eprintln!("{moment:?} into the change");
        thread::sleep(moment);
    }
}

/// What nodes say: when the leader takes a node in, when it is admitted, and when the leader gives or takes a vote.
const LEARNS: &str = "a new learner";
const JOINED: &str = "a node has joined";
const CHANGED: &str = "the voters change";
const TAKEN_OUT: &str = "a voter is taken out";

/// A change of the voters takes no longer than this, unless the machine is busy.
const CHANGE_MICROS: u64 = 30_000;
