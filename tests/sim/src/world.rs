//! One run: a cluster from a seed, faults, then peace, in which all must be well again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use flotilla_raft::group::Role;
use flotilla_registry::Registry;
use flotilla_state::{Member, NodeId, ShardId};
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use turmoil::Sim;

use crate::{
    disk::Disk,
    faults::Fault,
    invariants::{Connections, Leaders, Violation, check_routes, lacks, shards_lack},
    node::{Node, Process, Shared},
    shards::Clients,
    trace::Trace,
};

/// What a run has come to.
pub struct Outcome {
    /// What was wrong.
    pub verdict: Result<(), Violation>,
    /// A hash of what has happened, and of how much.
    pub digest: (u64, u64),
    /// What was done, in words.
    pub counts: String,
}

/// Runs a seed, with shards or without.
pub fn run(seed: u64, has_shards: bool, trace: &Trace) -> Outcome {
    flotilla_raft::seed(seed);
    let mut world = World::new(seed, has_shards, trace.clone());
    let verdict = world.live();
    let (digest, counts) = (trace.digest(), world.counts());
    Outcome { verdict, digest, counts }
}

struct World {
    sim: Sim<'static>,
    random: StdRng,
    shared: Arc<Shared>,
    nodes: Vec<Arc<Node>>,
    /// Those of durable sessions, if there are shards.
    clients: Option<Clients>,
    leaders: Leaders,
    shard_leaders: BTreeMap<ShardId, Leaders>,
    /// Faults that last, and until when.
    faults: Vec<(u64, Fault)>,
    faults_count: usize,
    has_wiped: bool,
    serving_steps: u64,
}

impl World {
    fn new(seed: u64, has_shards: bool, trace: Trace) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .tick_duration(STEP)
            .simulation_duration(Duration::from_secs(600))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(LATENCY_MAX)
            .tcp_capacity(1 << 16)
            .build();
        let shared = Arc::new(Shared::new(trace, seed, has_shards));
        let count = random.random_range(3..=5_usize);
        let names: Vec<String> = (0..count).map(|node| format!("node-{node}")).collect();
        let expect = if count == 4 || random.random_ratio(1, 2) { count } else { count / 2 + 1 };
        let expect = expect.max(3);
        let nodes: Vec<Arc<Node>> = (0..count)
            .map(|number| {
                let delay = Duration::from_millis(random.random_range(0..3_000));
                Arc::new(Node {
                    name: names[number].clone(),
                    names: names.clone(),
                    expect: u8::try_from(expect).unwrap_or(u8::MAX),
                    seed: seed.wrapping_mul(97).wrapping_add(number as u64),
                    disk: Mutex::new(Disk::default()),
                    process: Mutex::new(None),
                    starts: Mutex::new(0),
                    start_delay: Mutex::new(delay),
                    shared: Arc::clone(&shared),
                })
            })
            .collect();
        for node in &nodes {
            let node = Arc::clone(node);
            sim.host(node.name.clone(), move || Arc::clone(&node).run());
        }
        let clients = has_shards.then(|| {
            let (clients, living) = Clients::new(&nodes, &shared, seed);
            for client in living {
                sim.client(client.name(), client.run());
            }
            clients
        });
        shared.trace.note(format_args!("{count} nodes, of which {expect} found the cluster"));
        Self {
            sim,
            random,
            shared,
            nodes,
            clients,
            leaders: Leaders::default(),
            shard_leaders: BTreeMap::new(),
            faults: Vec::new(),
            faults_count: 0,
            has_wiped: false,
            serving_steps: 0,
        }
    }

    fn live(&mut self) -> Result<(), Violation> {
        // Some clusters are founded in peace.
        let peace = if self.random.random_ratio(1, 3) { 0 } else { 5_000 };
        self.run_for(peace)?;
        self.suffer(FAULTS_MILLIS)?;
        self.heal()?;
        self.recover()?;
        let pause = self.random.random_range(0..2_000);
        self.run_for(pause)?;
        self.settle()
    }

    /// Lets faults happen.
    fn suffer(&mut self, millis: u64) -> Result<(), Violation> {
        let end = self.now() + millis;
        while self.now() < end {
            let pause = self.random.random_range(100..3_000);
            self.run_for(pause)?;
            if self.clients.is_some() && self.random.random_ratio(2, 3) {
                self.shared.points.arm();
            }
            // Not too many at a time, or hardly anything ever works.
            if self.faults.len() < self.nodes.len() - 1 {
                if self.clients.is_some() && self.random.random_ratio(1, 10) {
                    self.crash_many();
                } else {
                    self.begin_fault()?;
                }
            }
        }
        Ok(())
    }

    fn begin_fault(&mut self) -> Result<(), Violation> {
        let may_wipe = !self.has_wiped
            && self.faults.is_empty()
            && lacks(&self.nodes).is_none()
            && self.shards_lack().is_none()
            && self.are_shards_threefold();
        let fault = Fault::draw(&mut self.random, self.nodes.len(), may_wipe);
        if fault
            .victim()
            .is_some_and(|node| self.faults.iter().any(|(_, other)| other.victim() == Some(node)))
        {
            return Ok(());
        }
        let duration = fault.duration(&mut self.random);
        self.shared.trace.note(format_args!("{fault} for {duration:?}"));
        self.faults_count += 1;
        fault.apply_to_network(&self.sim, &self.nodes, true);
        if let Some(node) = fault.victim() {
            if matches!(fault, Fault::BadDisk(_)) {
                self.nodes[node].disk.lock().fail_at(self.random.random_range(0..20));
                let pause = self.random.random_range(1..200);
                self.faults.push((u64::MAX, fault));
                self.run_for(pause)?;
                self.faults.retain(|(_, other)| *other != fault);
            }
            self.crash(node, matches!(fault, Fault::Wipe(_)));
        }
        let until = self.now() + u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.faults.push((until, fault));
        Ok(())
    }

    /// The power of most nodes fails at the same moment, or of all of them.
    fn crash_many(&mut self) {
        let is_running = |node: &usize| self.faults.iter().all(|(_, fault)| fault.victim() != Some(*node));
        let mut victims: Vec<usize> = (0..self.nodes.len()).filter(is_running).collect();
        if self.random.random_ratio(1, 2) && !victims.is_empty() {
            victims.remove(self.random.random_range(0..victims.len()));
        }
        self.shared.trace.note(format_args!("the power of {victims:?} fails"));
        self.faults_count += 1;
        victims.into_iter().for_each(|node| self.crash_for_a_while(node));
    }

    fn crash_for_a_while(&mut self, node: usize) {
        self.crash(node, false);
        let fault = Fault::Crash(node);
        let duration = fault.duration(&mut self.random);
        let until = self.now() + u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.faults.push((until, fault));
    }

    /// The power of some nodes has failed at a point: they end, and perhaps all others in the same moment.
    fn crash_fired(&mut self) {
        let fired = self.shared.points.take_fired();
        let has_any = !fired.is_empty();
        for (name, _) in fired {
            self.faults_count += 1;
            if let Some(node) = self.nodes.iter().position(|node| node.name == name) {
                self.crash_for_a_while(node);
            }
        }
        if has_any && self.random.random_ratio(1, 6) {
            self.crash_many();
        }
    }

    fn crash(&mut self, node: usize, wipe: bool) {
        let node = &self.nodes[node];
        // First the disk: what a process does while it ends must not reach it.
        let mut disk = node.disk.lock();
        disk.lose_power(&mut self.random);
        if wipe {
            *disk = Disk::default();
            self.has_wiped = true;
            // What is left is not to become too few by the will of an operator.
            self.shared.is_moving.store(false, Ordering::Relaxed);
        }
        drop(disk);
        *node.process.lock() = None;
        self.sim.crash(node.name.as_str());
    }

    fn end_faults(&mut self, now: u64) {
        let (over, last): (Vec<_>, Vec<_>) = self.faults.drain(..).partition(|(until, _)| *until <= now);
        self.faults = last;
        for (_, fault) in over {
            self.shared.trace.note(format_args!("{fault} is over"));
            fault.apply_to_network(&self.sim, &self.nodes, false);
            if let Some(node) = fault.victim() {
                self.sim.bounce(self.nodes[node].name.as_str());
            }
        }
    }

    fn heal(&mut self) -> Result<(), Violation> {
        self.shared.points.end();
        self.shared.is_moving.store(false, Ordering::Relaxed);
        self.end_faults(u64::MAX);
        self.shared.trace.note(format_args!("all faults are over"));
        self.run_for(1)
    }

    /// Everything must be up again in time.
    fn recover(&mut self) -> Result<(), Violation> {
        let begin = self.now();
        while let Some(what) = lacks(&self.nodes) {
            if self.now() > begin + RECOVERY_MILLIS {
                return Err(format!("{RECOVERY_MILLIS} ms after the last fault {what}"));
            }
            self.run_for(10)?;
        }
        self.shared.trace.note(format_args!("all nodes are up after {} ms", self.now() - begin));
        Ok(())
    }

    /// When the clients rest, everything must come to an end, and be right.
    fn settle(&mut self) -> Result<(), Violation> {
        self.shared.is_busy.store(false, Ordering::Relaxed);
        self.shared.trace.note(format_args!("clients rest"));
        let begin = self.now();
        let mut quiet_since = None;
        loop {
            self.run_for(10)?;
            match self.unrest() {
                None if self.now() > *quiet_since.get_or_insert(self.now()) + QUIET_MILLIS => break,
                None => {}
                Some(what) if self.now() > begin + SETTLE_MILLIS => {
                    return Err(format!("{SETTLE_MILLIS} ms after the clients came to rest {what}"));
                }
                Some(_) => quiet_since = None,
            }
        }
        let processes: Vec<Arc<Process>> = self.processes().into_iter().map(|(_, process)| process).collect();
        let wanted: BTreeMap<NodeId, BTreeSet<String>> =
            processes.iter().map(|process| (process.meta.node(), process.desk.lock().wanted())).collect();
        for process in &processes {
            check_routes(&process.node.name, &process.meta.state().read(), &wanted)?;
        }
        self.shared.trace.note(format_args!("all is well"));
        Ok(())
    }

    /// What is not at an end yet.
    fn unrest(&self) -> Option<Violation> {
        if let Some(what) = lacks(&self.nodes) {
            return Some(what);
        }
        let mut applied = BTreeMap::new();
        let mut lives: BTreeSet<Member> = BTreeSet::new();
        for (name, process) in self.processes() {
            if !process.claims.is_empty() || !process.requests.lock().is_empty() {
                return Some(format!("claims wait at {name}: {:?}", process.requests.lock()));
            }
            if process.is_announcing.load(Ordering::Relaxed) || !process.desk.lock().is_quiet() {
                return Some(format!("routes wait at {name}"));
            }
            if let Some(stats) = process.registry.lock().as_ref().map(Registry::stats)
                && (stats.pending, stats.shards_collecting, stats.held_bytes) != (0, 0, 0)
            {
                return Some(format!("the registry of {name} is not at rest: {stats:?}"));
            }
            applied.insert(process.meta.state().read().applied(), name);
            lives.extend(process.life());
        }
        if applied.len() > 1 {
            return Some(format!("not all have applied the same: {applied:?}"));
        }
        let lacking = self.shared.forwarding.lacks(|member| lives.contains(&member));
        lacking.or_else(|| self.unrest_of_shards())
    }

    fn unrest_of_shards(&self) -> Option<Violation> {
        if let Some((name, _)) = self.processes().iter().find(|(_, process)| !process.shards.is_idle()) {
            return Some(format!("something waits for a shard at {name}"));
        }
        let clients = self.clients.as_ref().and_then(Clients::lack);
        clients.or_else(|| self.shards_lack()).or_else(|| self.shared.delivery.lacks())
    }

    /// What shards lack, if there are any.
    fn shards_lack(&self) -> Option<Violation> {
        self.clients.as_ref().and_then(|_| shards_lack(&self.shared, &self.processes()))
    }

    /// Whether each shard survives the loss of a disk: that is promised where three nodes hold it.
    fn are_shards_threefold(&self) -> bool {
        let processes = self.processes();
        let Some((_, first)) = processes.first() else { return false };
        let state = first.meta.state();
        let state = state.read();
        self.clients.is_none() || state.shards().iter().all(|(_, shard)| shard.replicas.nodes.len() >= 3)
    }

    fn processes(&self) -> Vec<(&str, Arc<Process>)> {
        let running = |node: &Arc<Node>| node.process.lock().clone();
        self.nodes.iter().filter_map(|node| Some((node.name.as_str(), running(node)?))).collect()
    }

    fn now(&self) -> u64 {
        self.shared.trace.now()
    }

    fn run_for(&mut self, millis: u64) -> Result<(), Violation> {
        let end = self.now() + millis;
        while self.now() < end {
            self.sim.step().map_err(|error| format!("a node has ended: {error}"))?;
            self.shared.trace.set_now(u64::try_from(self.sim.elapsed().as_millis()).unwrap_or(u64::MAX));
            self.crash_fired();
            self.check()?;
            self.end_faults(self.now());
        }
        Ok(())
    }

    /// What must hold after every step.
    fn check(&mut self) -> Result<(), Violation> {
        if let Some(violation) = self.shared.violation() {
            return Err(violation);
        }
        let mut leaders = std::mem::take(&mut self.leaders);
        let mut shard_leaders = std::mem::take(&mut self.shard_leaders);
        let outcome = self.check_nodes(&mut leaders).and_then(|serving| {
            self.check_shards(&mut shard_leaders)?;
            Ok(serving)
        });
        leaders.end_step();
        shard_leaders.values_mut().for_each(Leaders::end_step);
        (self.leaders, self.shard_leaders) = (leaders, shard_leaders);
        self.serving_steps += outcome?;
        Ok(())
    }

    /// Counts the nodes that serve clients.
    fn check_nodes(&self, leaders: &mut Leaders) -> Result<u64, Violation> {
        let processes = self.processes();
        let mut connections = Connections::default();
        for (name, process) in &processes {
            let status = process.meta.group().status();
            leaders.check(&self.shared.trace, name, process.meta.node().0, &status)?;
            if status.role == Role::Stopped && !process.node.disk.lock().is_failing() {
                return Err(format!("the Raft group of {name} has stopped: {:?}", status.failed));
            }
            if process.is_member.load(Ordering::Relaxed) {
                connections.check(name, process.desk.lock().connected())?;
            }
        }
        let serving = processes.iter().filter(|(_, process)| process.is_up.load(Ordering::Relaxed)).count();
        Ok(serving as u64)
    }

    fn check_shards(&self, leaders: &mut BTreeMap<ShardId, Leaders>) -> Result<(), Violation> {
        for (name, process) in &self.processes() {
            for replica in process.shards.replicas() {
                let status = replica.group.watch();
                let status = status.borrow();
                let node = process.meta.node().0;
                leaders.entry(replica.id).or_default().check(&self.shared.trace, name, node, &status)?;
                if status.role == Role::Stopped && !process.node.disk.lock().is_failing() {
                    let (shard, why) = (replica.id.0, &status.failed);
                    return Err(format!("the group of shard {shard} at {name} has stopped: {why:?}"));
                }
            }
        }
        Ok(())
    }

    fn counts(&self) -> String {
        let (sent, received) = self.shared.forwarding.counts();
        let shards = if self.clients.is_some() { self.shard_counts() } else { String::new() };
        format!(
            "{} nodes, {} faults, {} elections, {} entries, {sent} messages sent, {received} received, {shards}up {} % of {} s",
            self.nodes.len(),
            self.faults_count,
            self.leaders.len(),
            self.shared.states.len(),
            self.serving_steps * 100 / (self.nodes.len() as u64 * self.now()).max(1),
            self.now() / 1_000,
        )
    }

    fn shard_counts(&self) -> String {
        let (published, acknowledged, came, again) = self.shared.delivery.counts();
        let points: Vec<String> =
            self.shared.points.counts().iter().map(|(point, count)| format!("{point:?} {count}")).collect();
        format!(
            "{published} kept, {acknowledged} acknowledged, {came} delivered, {again} of them again, power failed at {}, \
             {} elections of shards, {} states of them, {} snapshots, ",
            if points.is_empty() { "no point".to_owned() } else { points.join(", ") },
            self.shard_leaders.values().map(Leaders::len).sum::<usize>(),
            self.shared.replicas.len(),
            self.shared.installed.load(Ordering::Relaxed),
        )
    }
}

/// The greatest latency of a message when nothing is wrong.
pub const LATENCY_MAX: Duration = Duration::from_millis(10);

const STEP: Duration = Duration::from_millis(1);
const FAULTS_MILLIS: u64 = 20_000;
const RECOVERY_MILLIS: u64 = 30_000;
const SETTLE_MILLIS: u64 = 20_000;
const QUIET_MILLIS: u64 = 500;
