//! What happens to the nodes: a schedule that a seed decides, against real processes.

mod disk;
mod flip;
mod partition;

use std::{
    str::FromStr,
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::{Duration, Instant},
};

use crate::{
    fleet::{Cluster, is_own_network},
    harness::random::Random,
    history::Check,
    watch::Watch,
    world::{Books, Door, World},
};

pub(crate) use disk::Disk;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    KillOne,
    KillMajority,
    KillAll,
    Terminate,
    Pause,
    Blink,
    Partition,
    Blip,
    Lossy,
    Wipe,
    DiskFull,
    DiskError,
    LoseUnsynced,
    Flip,
    Churn,
}

impl Fault {
    pub(crate) const ALL: [(Self, &'static str, &'static str); 15] = [
        (Self::KillOne, "kill-one", "kill -9 of one node (F01 to F04)"),
        (Self::KillMajority, "kill-majority", "kill -9 of more than half (F07)"),
        (Self::KillAll, "kill-all", "kill -9 of all at once (F06)"),
        (Self::Terminate, "terminate", "SIGTERM of one node (F11)"),
        (Self::Pause, "pause", "SIGSTOP of one node for longer than its lease (F09, F10)"),
        (Self::Blink, "blink", "SIGSTOP for less than a lease: harmless"),
        (Self::Partition, "partition", "the network broken for seconds, in every shape (F18 to F25)"),
        (Self::Blip, "blip", "the network broken for less than a lease: harmless"),
        (Self::Lossy, "lossy", "packets lost between nodes (F27)"),
        (Self::Wipe, "wipe", "a node loses its disk and comes back under its name (F49, F58)"),
        (Self::DiskFull, "disk-full", "a disk without space for a while (F44)"),
        (Self::DiskError, "disk-error", "flushes that fail (F45)"),
        (Self::LoseUnsynced, "lose-unsynced", "kill -9, and what was not flushed is gone (F37, F38)"),
        (Self::Flip, "flip", "a flipped bit in a file of a stopped node (F40 to F42)"),
        (Self::Churn, "churn", "W7: a member more, which leaves again (F56)"),
    ];

    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(fault, ..)| *fault == self).map_or("", |(_, name, _)| name)
    }

    /// What this machine has no means for.
    pub(crate) fn missing(self, disk: Option<&Disk>) -> Option<&'static str> {
        match self {
            Self::Partition | Self::Blip | Self::Lossy if !is_own_network() => {
                Some("a network namespace (unshare, ip and nft, and the right to)")
            }
            Self::DiskFull | Self::DiskError | Self::LoseUnsynced if disk.is_none() => {
                Some("a C compiler (cc)")
            }
            _ => None,
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(_, name, _)| *name == text).map(|(fault, ..)| *fault);
        found.ok_or_else(|| format!("no fault is called {text:?}"))
    }
}

/// The cluster, in the hands of who breaks it.
pub(crate) struct Breaker {
    pub(crate) cluster: Cluster,
    books: Arc<Books>,
    watch: Watch,
    disk: Option<Disk>,
    /// The nodes that found the cluster; others come and go.
    nodes: usize,
    /// The number of the node that comes and goes, once there was one.
    guest: Option<usize>,
    /// Ends the storm before its time.
    stop: Arc<AtomicBool>,
}

impl Breaker {
    pub(crate) fn new(
        cluster: Cluster,
        books: Arc<Books>,
        disk: Option<Disk>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let nodes = cluster.nodes().len();
        Self { cluster, watch: Watch::new(Arc::clone(&books)), books, disk, nodes, guest: None, stop }
    }

    /// Where clients may connect: the nodes that stay.
    pub(crate) fn doors(&self) -> Vec<Door> {
        let door = |number| Door { number, address: self.cluster.node(number).mqtt() };
        (0..self.nodes).map(door).collect()
    }

    /// Breaks things at random moments until the time is over; returns with everything mended, as far as it mends.
    pub(crate) fn storm(&mut self, world: &World, faults: &[Fault], until: Instant, random: &mut Random) {
        while Instant::now() < until && !self.is_stopped() {
            let calm = Duration::from_millis(500 + self.up_to(random, 4_000));
            self.look_on(calm.min(until.saturating_duration_since(Instant::now())));
            if Instant::now() >= until || self.is_stopped() {
                break;
            }
            if !faults.is_empty() {
                let fault = random.pick(faults);
                self.inject(fault, world, random);
            }
            self.revive();
        }
    }

    /// Everything is mended; whether the cluster serves in time.
    pub(crate) fn heal(&mut self) -> bool {
        self.revive();
        let begin = self.books.now();
        if self.await_formed(HEALED_WITHIN) {
            return true;
        }
        let told: Vec<String> = self.founders().map(|number| self.tell(number)).collect();
        let text = format!(
            "the cluster does not serve {HEALED_WITHIN:?} after everything was mended at {begin}: {}",
            told.join("; ")
        );
        self.books.report_now(Check::Healing, text);
        false
    }

    /// Looks into the logs, and whether all nodes live.
    pub(crate) fn inspect(&mut self) {
        self.watch.read_logs(&self.cluster);
        for number in 0..self.cluster.nodes().len() {
            self.expect_running(number, "nothing was done to it");
        }
    }

    fn founders(&self) -> std::ops::Range<usize> {
        0..self.nodes
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn up_to(&self, random: &mut Random, milliseconds: usize) -> u64 {
        u64::try_from(random.below(milliseconds)).expect("it is small")
    }

    /// Lets time pass.
    fn wait(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.is_stopped() && Instant::now() < until {
            thread::sleep(until.saturating_duration_since(Instant::now()).min(TURN));
        }
    }

    /// Lets time pass while all nodes answer, and looks who leads.
    fn look_on(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while !self.is_stopped() && Instant::now() < until {
            self.watch.look_at_leaders(&self.cluster, self.nodes);
            self.wait(until.saturating_duration_since(Instant::now()).min(4 * TURN));
        }
    }

    fn inject(&mut self, fault: Fault, world: &World, random: &mut Random) {
        match fault {
            Fault::KillOne => self.kill(fault, 1, random),
            Fault::KillMajority => self.kill(fault, self.nodes / 2 + 1, random),
            Fault::KillAll => self.kill(fault, self.nodes, random),
            Fault::Terminate => self.terminate(random),
            Fault::Pause => {
                let time = Duration::from_millis(6_000 + self.up_to(random, 9_000));
                self.pause(fault, time, random);
            }
            Fault::Blink => {
                let time = Duration::from_millis(100 + self.up_to(random, 1_400));
                self.pause(fault, time, random);
            }
            Fault::Partition => {
                let time = Duration::from_millis(1_000 + self.up_to(random, 14_000));
                self.partition(fault, time, random);
            }
            Fault::Blip => {
                let time = Duration::from_millis(100 + self.up_to(random, 1_400));
                self.partition(fault, time, random);
            }
            Fault::Lossy => self.lossy(random),
            Fault::Wipe => self.wipe(random),
            Fault::DiskFull => self.disk_full(random),
            Fault::DiskError => self.disk_error(random),
            Fault::LoseUnsynced => self.lose_unsynced(random),
            Fault::Flip => self.flip(random),
            Fault::Churn => self.churn(),
        }
        world.set_doors(self.doors());
    }

    /// So many nodes, at random.
    fn some(&self, count: usize, random: &mut Random) -> Vec<usize> {
        let mut numbers: Vec<usize> = self.founders().collect();
        while numbers.len() > count {
            numbers.remove(random.below(numbers.len()));
        }
        numbers
    }

    /// One node; the leader as often as all others together, for it is the one whose loss shows most.
    fn one(&self, random: &mut Random) -> usize {
        let leader = || {
            let name = self.founders().find_map(|number| self.cluster.node(number).status()?.leader)?;
            self.founders().find(|number| self.cluster.node(*number).name() == name)
        };
        let any = random.below(self.nodes);
        if random.once_in(2) { leader().unwrap_or(any) } else { any }
    }

    fn names(&self, numbers: &[usize]) -> String {
        let names: Vec<String> = numbers.iter().map(|number| self.cluster.node(*number).name()).collect();
        names.join(", ")
    }

    fn kill(&mut self, fault: Fault, count: usize, random: &mut Random) {
        let numbers = if count == 1 { vec![self.one(random)] } else { self.some(count, random) };
        let what = format!("kill -9 of {}", self.names(&numbers));
        let span = self.books.fault_begins(fault.name(), what);
        self.kill_at_once(&numbers);
        // Sometimes they are back before anybody has noticed.
        let dead = if random.once_in(3) { 0 } else { self.up_to(random, 9_000) };
        self.wait(Duration::from_millis(dead));
        for number in numbers {
            self.cluster.node(number).start();
            let apart = self.up_to(random, 300);
            self.wait(Duration::from_millis(apart));
        }
        self.settle(random);
        self.books.fault_ends(span);
    }

    fn kill_at_once(&mut self, numbers: &[usize]) {
        for number in numbers {
            self.expect_running(*number, "it was about to be killed");
        }
        thread::scope(|scope| {
            for number in numbers {
                let node = self.cluster.node(*number);
                scope.spawn(|| node.kill());
            }
        });
    }

    fn terminate(&mut self, random: &mut Random) {
        let number = self.one(random);
        self.expect_running(number, "it was about to be told to end");
        let span = self.books.fault_begins(Fault::Terminate.name(), format!("SIGTERM of node-{number}"));
        let status = self.cluster.node(number).terminate();
        if status.code() != Some(0) {
            self.books.report_now(Check::Process, format!("node-{number}, told to end, ends with {status}"));
        }
        let gone = self.up_to(random, 5_000);
        self.wait(Duration::from_millis(gone));
        self.cluster.node(number).start();
        self.settle(random);
        self.books.fault_ends(span);
    }

    fn pause(&mut self, fault: Fault, time: Duration, random: &mut Random) {
        let number = self.one(random);
        self.expect_running(number, "it was about to be stopped");
        let what = format!("SIGSTOP of node-{number} for {time:?}");
        let span = self.books.fault_begins(fault.name(), what);
        self.cluster.node(number).pause();
        self.wait(time);
        self.cluster.node(number).resume();
        self.books.fault_ends(span);
        self.settle(random);
    }

    fn wipe(&mut self, random: &mut Random) {
        // Whether the others have all that this one has shows only in that they serve.
        if !self.await_formed(HEALED_WITHIN) {
            return;
        }
        self.wait(COPIED_AFTER);
        let number = self.one(random);
        let span = self.books.fault_begins(Fault::Wipe.name(), format!("the disk of node-{number} is lost"));
        self.replace(number);
        self.books.fault_ends(span);
    }

    /// The node loses its disk and comes back under its name, which it may once it counts as dead.
    fn replace(&mut self, number: usize) {
        self.cluster.node(number).kill();
        self.cluster.node(number).wipe();
        self.cluster.node(number).start();
        if !self.await_formed(HEALED_WITHIN) {
            let text = format!("node-{number} with an empty disk does not come back: {}", self.tell(number));
            self.books.report_now(Check::Healing, text);
        }
        self.wait(COPIED_AFTER);
    }

    fn churn(&mut self) {
        let span = self.books.fault_begins(Fault::Churn.name(), "a node more joins, and leaves".to_owned());
        let number = match self.guest {
            None => *self.guest.insert(self.cluster.add_core()),
            Some(number) => {
                self.cluster.node(number).wipe();
                self.cluster.node(number).start();
                number
            }
        };
        let all: Vec<usize> = (0..self.cluster.nodes().len()).collect();
        if self.await_formed_of(&all, HEALED_WITHIN) {
            self.wait(Duration::from_secs(2));
            let output = self.cluster.node(number).ctl(&["nodes", "leave"]);
            let deadline = Instant::now() + HEALED_WITHIN;
            while self.cluster.node(number).is_running() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(100));
            }
            if self.cluster.node(number).is_running() {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                self.books.report_now(Check::Healing, format!("node-{number} does not leave: {said}"));
            }
        } else {
            let text = format!("node-{number} does not join: {}", self.tell(number));
            self.books.report_now(Check::Healing, text);
        }
        // Whatever came of it, it goes.
        self.cluster.node(number).kill();
        let name = self.cluster.node(number).name();
        for other in self.founders() {
            if self.cluster.node(other).status().is_some_and(|status| status.node(&name).is_some()) {
                let _ = self.cluster.node(other).ctl(&["nodes", "remove", &name]);
            }
        }
        self.books.fault_ends(span);
    }

    /// Waits for the cluster to be whole again, most of the time: what comes next may hit it in the middle of that.
    fn settle(&mut self, random: &mut Random) {
        if !random.once_in(3) {
            self.await_formed(HEALED_WITHIN);
        }
    }

    fn await_formed(&mut self, within: Duration) -> bool {
        let all: Vec<usize> = self.founders().collect();
        self.await_formed_of(&all, within)
    }

    fn await_formed_of(&mut self, numbers: &[usize], within: Duration) -> bool {
        let deadline = Instant::now() + within;
        while !self.cluster.is_formed_of(numbers) {
            if Instant::now() >= deadline {
                return false;
            }
            for number in numbers {
                if !self.cluster.node(*number).is_running() {
                    self.expect_running(*number, "the cluster was about to heal");
                }
            }
            thread::sleep(Duration::from_millis(200));
        }
        true
    }

    /// Takes back whatever may still be broken.
    fn revive(&mut self) {
        if is_own_network() {
            self.cluster.heal();
        }
        if let Some(disk) = &self.disk {
            self.founders().for_each(|number| disk.mend(number));
        }
        for number in self.founders() {
            self.expect_running(number, "everything was to be mended");
        }
    }

    /// A node that has ended on its own is reported, and started again.
    fn expect_running(&mut self, number: usize, meanwhile: &str) {
        if self.guest == Some(number) {
            return;
        }
        if let Some(status) = self.cluster.node(number).ended() {
            let text = format!("node-{number} has ended on its own with {status} when {meanwhile}");
            self.books.report_now(Check::Process, text);
            self.cluster.node(number).start();
        }
    }

    fn tell(&self, number: usize) -> String {
        let node = self.cluster.node(number);
        node.status().map_or_else(
            || format!("{} does not answer", node.name()),
            |status| {
                let nodes: Vec<String> =
                    status.nodes.iter().map(|it| format!("{} {}", it.name, it.status)).collect();
                let (leader, ready, quorum) = (status.leader, status.ready, status.quorum);
                format!(
                    "{}: leader {leader:?}, ready {ready}, quorum {quorum}, {}",
                    node.name(),
                    nodes.join(", ")
                )
            },
        )
    }
}

/// How soon an interrupt is noticed.
const TURN: Duration = Duration::from_millis(250);

/// C10 asks for full service within 30 s and for agreement within 60.
const HEALED_WITHIN: Duration = Duration::from_secs(60);

/// How long a node that is back may take to have a copy of everything again; its peers do not tell.
const COPIED_AFTER: Duration = Duration::from_secs(3);
