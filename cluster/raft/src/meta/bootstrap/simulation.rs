//! The founding of a cluster on a virtual network, from a seed: loss, delay, partitions, restarts, lost disks and late
//! nodes.
//!
//! The Raft group is modelled coarsely: who is initialised sends entries to the other voters, a node takes them when it is
//! bound to the attempt, and leads when a majority of the voters holds them.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::*;

/// What a node keeps on its disk.
#[derive(Debug, Default, Clone)]
struct Disk {
    id: u64,
    kept: Option<Attempt>,
    belongs: Option<ClusterId>,
    /// The attempt whose entries its Raft log holds.
    raft: Option<Attempt>,
    created: Option<ClusterId>,
}

#[derive(Debug)]
struct Node {
    disk: Disk,
    /// None while the process is down.
    up: Option<Bootstrap>,
    /// Tells messages to an earlier process apart.
    process: u64,
    matched: BTreeSet<NodeId>,
    wiped: bool,
}

#[derive(Debug, Clone)]
enum Message {
    Hello { round: u64 },
    HelloReply { round: u64, seen: Seen },
    Grant { to: NodeId, attempt: Attempt },
    GrantReply { from: NodeId, cluster_id: ClusterId, answer: GrantAnswer },
    Release { to: NodeId, cluster_id: ClusterId },
    Append { attempt: Attempt, created: Option<ClusterId> },
    Matched { attempt: ClusterId, from: NodeId },
    Join { cluster_id: ClusterId },
    Joined { cluster_id: ClusterId },
}

struct Letter {
    from: usize,
    to: usize,
    /// The process that an answer is for.
    process: Option<u64>,
    message: Message,
}

struct World {
    random: StdRng,
    now: Duration,
    nodes: Vec<Node>,
    expect: usize,
    /// Messages under way, by the time of their arrival.
    wire: BTreeMap<(Duration, u64), Letter>,
    sent: u64,
    loss: f64,
    delay_max: u64,
    /// The side that each node is on; only nodes on the same side hear each other.
    sides: u64,
    next_id: u64,
    created: BTreeSet<ClusterId>,
    initialized: BTreeSet<ClusterId>,
}

impl World {
    fn new(seed: u64, nodes: usize, expect: usize) -> Self {
        let mut world = Self {
            random: StdRng::seed_from_u64(seed),
            now: Duration::ZERO,
            nodes: Vec::new(),
            expect,
            wire: BTreeMap::new(),
            sent: 0,
            loss: 0.0,
            delay_max: 50,
            sides: 0,
            next_id: 100,
            created: BTreeSet::new(),
            initialized: BTreeSet::new(),
        };
        for _ in 0..nodes {
            let id = world.draw_id();
            let disk = Disk { id, ..Disk::default() };
            world.nodes.push(Node { disk, up: None, process: 0, matched: BTreeSet::new(), wiped: false });
        }
        world
    }

    fn draw_id(&mut self) -> u64 {
        // The order of the identifiers is not that of the names.
        self.next_id += 1;
        self.random.random_range(0..1_u64 << 32) << 16 | self.next_id
    }

    fn me(&self, node: usize) -> Founder {
        Founder { name: format!("node-{node}"), id: NodeId(self.nodes[node].disk.id) }
    }

    fn start(&mut self, node: usize) {
        let options = BootstrapOptions {
            expect: self.expect,
            core: true,
            pause: Duration::from_millis(500),
            attempt_timeout: Duration::from_secs(3),
        };
        let (me, seed) = (self.me(node), self.random.random());
        let disk = self.nodes[node].disk.clone();
        let mut bootstrap = Bootstrap::new(options, me, disk.kept, disk.belongs, disk.raft.is_none(), seed);
        bootstrap.handle_discovered((0..self.nodes.len()).map(|it| it.to_string()).collect());
        if let Some(created) = disk.created {
            bootstrap.handle_created(created);
        }
        self.nodes[node].up = Some(bootstrap);
        self.nodes[node].process += 1;
    }

    fn stop(&mut self, node: usize) {
        self.nodes[node].up = None;
        self.nodes[node].matched.clear();
    }

    fn wipe(&mut self, node: usize) {
        self.stop(node);
        let id = self.draw_id();
        self.nodes[node].disk = Disk { id, ..Disk::default() };
        self.nodes[node].wiped = true;
    }

    fn send(&mut self, from: usize, to: usize, process: Option<u64>, message: Message) {
        let is_cut = (self.sides >> from ^ self.sides >> to) & 1 == 1;
        if is_cut || self.random.random_bool(self.loss) {
            return;
        }
        self.sent += 1;
        let at = self.now + Duration::from_millis(self.random.random_range(1..=self.delay_max));
        self.wire.insert((at, self.sent), Letter { from, to, process, message });
    }

    /// One step of 10 ms.
    fn step(&mut self) {
        self.now += Duration::from_millis(10);
        while let Some(entry) = self.wire.first_entry()
            && entry.key().0 <= self.now
        {
            let Letter { from, to, process, message } = entry.remove();
            let node = &self.nodes[to];
            if node.up.is_some() && process.is_none_or(|process| process == node.process) {
                self.deliver(from, to, message);
            }
        }
        for node in 0..self.nodes.len() {
            self.replicate(node);
            self.run(node, 64);
        }
    }

    /// Carries out what the node puts out, at most `limit` actions of it.
    fn run(&mut self, node: usize, limit: usize) {
        for _ in 0..limit {
            let now = self.now;
            let Some(bootstrap) = &mut self.nodes[node].up else { return };
            let Some(action) = bootstrap.poll(now) else { return };
            self.carry_out(node, action);
        }
    }

    fn carry_out(&mut self, node: usize, action: Action) {
        let to = |address: &String| address.parse::<usize>().unwrap();
        match action {
            Action::Keep(attempt) => self.nodes[node].disk.kept = attempt,
            Action::Hello { round, address } => self.send(node, to(&address), None, Message::Hello { round }),
            Action::Grant { address, to: id, attempt } => {
                self.send(node, to(&address), None, Message::Grant { to: id, attempt });
            }
            Action::Release { address, to: id, cluster_id } => {
                self.send(node, to(&address), None, Message::Release { to: id, cluster_id });
            }
            Action::Initialize(attempt) => {
                self.initialized.insert(attempt.cluster_id);
                self.nodes[node].disk.raft = Some(attempt);
            }
            Action::Create(cluster_id) => {
                self.created.insert(cluster_id);
                self.nodes[node].disk.created = Some(cluster_id);
                let bootstrap = self.nodes[node].up.as_mut().unwrap();
                bootstrap.handle_created(cluster_id);
            }
            Action::Join { cluster_id, address } => {
                self.nodes[node].disk.belongs = Some(cluster_id);
                self.send(node, to(&address), None, Message::Join { cluster_id });
            }
            Action::Warn(Warning::AttemptLost { .. }) => {
                self.wipe(node); // What the message tells the operator to do.
                self.start(node);
            }
            Action::Warn(warning) => panic!("{warning}"),
        }
    }

    fn deliver(&mut self, from: usize, to: usize, message: Message) {
        let (now, me, asker) = (self.now, self.me(to), Some(self.nodes[from].process));
        let node = &mut self.nodes[to];
        let bootstrap = node.up.as_mut().unwrap();
        match message {
            Message::Hello { round } => {
                let seen = Seen {
                    node: me,
                    core: true,
                    created: node.disk.created,
                    pristine: node.disk.raft.is_none() && node.disk.created.is_none(),
                    attempt: node.disk.kept.clone(),
                };
                self.send(to, from, asker, Message::HelloReply { round, seen });
            }
            Message::HelloReply { round, seen } => {
                bootstrap.handle_hello(now, round, &from.to_string(), seen);
            }
            Message::Grant { to: id, attempt } if id == me.id => {
                let cluster_id = attempt.cluster_id;
                let answer = bootstrap.handle_grant_request(now, attempt);
                self.run(to, 1); // The node may stop between the keeping and the answer.
                if self.nodes[to].up.is_some() {
                    self.send(to, from, asker, Message::GrantReply { from: me.id, cluster_id, answer });
                }
            }
            Message::GrantReply { from, cluster_id, answer } => {
                bootstrap.handle_grant_answer(now, from, cluster_id, &answer);
            }
            Message::Release { to: id, cluster_id } if id == me.id => bootstrap.handle_release(cluster_id),
            Message::Append { attempt, created } => {
                let is_bound =
                    node.disk.kept.as_ref().is_some_and(|kept| kept.cluster_id == attempt.cluster_id);
                if !is_bound || !attempt.members.contains(&me) || node.disk.belongs.is_some() {
                    return;
                }
                node.disk.raft = Some(attempt.clone());
                if let Some(created) = created {
                    node.disk.created = Some(created);
                    bootstrap.handle_created(created);
                }
                self.send(to, from, asker, Message::Matched { attempt: attempt.cluster_id, from: me.id });
            }
            Message::Matched { attempt, from } => {
                if node.disk.raft.as_ref().is_some_and(|own| own.cluster_id == attempt) {
                    node.matched.insert(from);
                }
            }
            Message::Join { cluster_id } if node.disk.created == Some(cluster_id) => {
                self.send(to, from, asker, Message::Joined { cluster_id });
            }
            Message::Joined { cluster_id } => {
                node.disk.created = Some(cluster_id);
                bootstrap.handle_created(cluster_id);
            }
            Message::Grant { .. } | Message::Release { .. } | Message::Join { .. } => {}
        }
    }

    fn replicate(&mut self, node: usize) {
        let (me, now) = (self.me(node), self.now);
        let Node { disk, up: Some(bootstrap), matched, .. } = &mut self.nodes[node] else { return };
        let Some(attempt) = disk.raft.clone() else { return };
        let votes = attempt.members.iter().filter(|it| **it == me || matched.contains(&it.id)).count();
        let leads = votes * 2 > attempt.members.len() && attempt.members.contains(&me);
        bootstrap.handle_raft(false, leads, matched.clone());
        let created = disk.created;
        if now.as_millis().is_multiple_of(100) {
            for other in 0..self.nodes.len() {
                if other != node && attempt.has_name(&self.me(other).name) {
                    self.send(node, other, None, Message::Append { attempt: attempt.clone(), created });
                }
            }
        }
    }

    fn check(&self, seed: u64) {
        assert!(self.created.len() <= 1, "seed {seed}: two clusters {:?}", self.created);
    }
}

/// Each with several sizes.
const SEEDS: u64 = 12;

/// Faults for 30 s, then none; the cluster must be there 90 s later, on every node.
fn run(seed: u64, nodes: usize, expect: usize, wipes: bool) {
    let mut world = World::new(seed, nodes, expect);
    world.loss = [0.0, 0.05, 0.3, 0.7][world.random.random_range(0..4)];
    world.delay_max = [20, 500, 4_000][world.random.random_range(0..3)];
    let late = Duration::from_secs(world.random.random_range(0..40));
    while world.now < Duration::from_secs(30) {
        if world.random.random_bool(0.003) {
            world.sides = if world.sides == 0 { world.random.random() } else { 0 };
        }
        for node in 0..nodes {
            let is_late = node == 0 && world.now < late;
            match &world.nodes[node].up {
                None if !is_late && world.random.random_bool(0.02) => world.start(node),
                Some(_) if world.random.random_bool(0.002) => {
                    let limit = world.random.random_range(0..3);
                    world.run(node, limit);
                    world.stop(node);
                    let Node { disk, wiped, .. } = &world.nodes[node];
                    // A disk is lost once at most, and before it has a part of the group's log.
                    let may_wipe = wipes && !wiped && disk.raft.is_none() && world.created.is_empty();
                    if may_wipe && world.random.random_bool(0.5) {
                        world.wipe(node);
                    }
                }
                _ => {}
            }
        }
        world.step();
        world.check(seed);
    }
    (world.loss, world.delay_max, world.sides) = (0.0, 50, 0);
    while world.now < Duration::from_secs(120) {
        for node in 0..nodes {
            if world.nodes[node].up.is_none() {
                world.start(node);
            }
        }
        world.step();
        world.check(seed);
    }
    let created: BTreeSet<_> = world.nodes.iter().map(|node| node.disk.created).collect();
    assert!(
        created.len() == 1 && !created.contains(&None),
        "seed {seed}: {nodes} nodes, expect {expect}: no common cluster: {:#?}",
        world.nodes
    );
    if !wipes {
        assert_eq!(world.initialized.len(), 1, "seed {seed}: {:?}", world.initialized);
    }
}

#[test]
fn one_cluster_is_founded_despite_loss_and_restarts() {
    for seed in 0..SEEDS {
        run(seed, 1, 1, false);
        run(seed, 3, 3, false);
        run(seed, 3, 2, false);
        run(seed, 5, 3, false);
        run(seed, 5, 5, false);
    }
}

#[test]
fn lost_disks_found_no_second_cluster() {
    for seed in 0..SEEDS {
        run(seed, 3, 3, true);
        run(seed, 3, 2, true);
        run(seed, 5, 3, true);
        run(seed, 7, 4, true);
    }
}
