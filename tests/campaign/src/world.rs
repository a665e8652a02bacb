//! What all clients of a round share: the nodes, the time, and the books.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    connection::{Attempt, Connection},
    harness::{Connect, Property, Version, property_id, random::Random},
    history::{At, Check, FaultSpan, Outcome, Violation},
    tally::{Kind, Tally},
};

/// What outlives a round.
#[derive(Debug)]
pub(crate) struct Books {
    began: Instant,
    tally: Mutex<Tally>,
    faults: Mutex<Vec<FaultSpan>>,
    violations: Mutex<BTreeMap<Check, Found>>,
}

/// What a checker has found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    /// How many promises were not kept.
    pub(crate) count: usize,
    /// The first [`VIOLATIONS_KEPT`] texts.
    pub(crate) violations: Vec<Violation>,
}

impl Books {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            tally: Mutex::default(),
            faults: Mutex::default(),
            violations: Mutex::default(),
        }
    }

    pub(crate) fn now(&self) -> At {
        At(self.began.elapsed())
    }

    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    /// Counts something that was done since `begin`.
    pub(crate) fn count(&self, kind: Kind, outcome: Outcome, begin: At) {
        self.tally().count(kind, outcome, self.now().since(begin));
    }

    /// A fault begins; its number.
    pub(crate) fn fault_begins(&self, kind: &'static str, what: String) -> usize {
        self.tally().fault(kind);
        let mut faults = lock(&self.faults);
        faults.push(FaultSpan { what, begin: self.now(), end: At::NEVER });
        faults.len() - 1
    }

    pub(crate) fn fault_ends(&self, number: usize) {
        lock(&self.faults)[number].end = self.now();
    }

    /// The faults that were going on at some moment of this time.
    pub(crate) fn faults_between(&self, begin: At, end: At) -> Vec<FaultSpan> {
        let faults = lock(&self.faults);
        faults.iter().filter(|fault| fault.begin <= end && begin <= fault.end).cloned().collect()
    }

    /// In words, where nothing was broken at a time.
    pub(crate) fn last_fault_before(&self, begin: At) -> String {
        let faults = lock(&self.faults);
        let before = faults.iter().filter(|fault| fault.end < begin).max_by_key(|fault| fault.end);
        before.map_or_else(
            || "nothing was broken, nor before".to_owned(),
            |fault| format!("nothing was broken; {} ended at {}", fault.what, fault.end),
        )
    }

    /// Whether nothing was broken since then, nor shortly before.
    pub(crate) fn is_calm_since(&self, begin: At) -> bool {
        let shortly = At(begin.0.saturating_sub(AFTERMATH));
        self.faults_between(shortly, At::NEVER).is_empty()
    }

    pub(crate) fn report(&self, violation: Violation) {
        let mut found = lock(&self.violations);
        let found = found.entry(violation.check).or_default();
        found.count += violation.count;
        if found.violations.len() < VIOLATIONS_KEPT {
            found.violations.push(violation);
        }
    }

    /// Something is wrong right now.
    pub(crate) fn report_now(&self, check: Check, text: String) {
        let now = self.now();
        self.report(Violation { check, begin: now, end: now, count: 1, text });
    }

    pub(crate) fn found(&self) -> BTreeMap<Check, Found> {
        lock(&self.violations).clone()
    }
}

/// The parts of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Subscribers subscribe.
    Setup,
    /// Publishers publish, faults happen.
    Storm,
    /// Everything is whole again, and all get what they are owed.
    Drain,
    /// Who is not done is given up.
    Over,
}

/// A node as clients know it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Door {
    pub(crate) number: usize,
    pub(crate) address: SocketAddr,
}

/// One round.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) books: Arc<Books>,
    /// Part of all names.
    pub(crate) round: u32,
    /// Messages a second of each publisher.
    pub(crate) rate: u32,
    doors: Mutex<Vec<Door>>,
    phase: watch::Sender<Phase>,
    unready: AtomicUsize,
    /// Who is not done, by name.
    busy: Mutex<BTreeSet<String>>,
    /// Who is not let in, since when, and how the last attempt ended.
    outside: Mutex<BTreeMap<String, (At, String)>>,
    /// Sessions that were found to be lost are told here, and counted once.
    sessions: Mutex<BTreeMap<String, (usize, At)>>,
}

impl World {
    pub(crate) fn new(books: Arc<Books>, round: u32, rate: u32, doors: Vec<Door>) -> Self {
        Self {
            books,
            round,
            rate,
            doors: Mutex::new(doors),
            phase: watch::Sender::new(Phase::Setup),
            unready: AtomicUsize::new(0),
            busy: Mutex::default(),
            outside: Mutex::default(),
            sessions: Mutex::default(),
        }
    }

    pub(crate) fn now(&self) -> At {
        self.books.now()
    }

    /// A name that no other round has.
    pub(crate) fn name(&self, what: &str) -> String {
        format!("{what}-r{}", self.round)
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(crate) fn begin(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Waits until this phase, or a later one.
    pub(crate) async fn until(&self, phase: Phase) {
        let mut phases = self.phase.subscribe();
        // The sender lives as long as the world.
        let _ = phases.wait_for(|now| *now >= phase).await;
    }

    /// Waits so long, but not beyond the storm.
    pub(crate) async fn linger(&self, time: Duration) {
        let _ = tokio::time::timeout(time, self.until(Phase::Drain)).await;
    }

    /// Somebody will have to call [`Self::ready`] before the storm begins.
    pub(crate) fn expect_one(&self) {
        self.unready.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn ready(&self) {
        self.unready.fetch_sub(1, Ordering::Relaxed);
    }

    /// What a client does, which shows in [`Self::busy`] until it is done.
    pub(crate) async fn track(self: Arc<Self>, name: String, work: impl Future<Output = ()>) {
        lock(&self.busy).insert(name.clone());
        work.await;
        lock(&self.busy).remove(&name);
    }

    /// Who is not done, and who of them is not let in.
    pub(crate) fn busy(&self) -> String {
        let busy: Vec<String> = lock(&self.busy).iter().cloned().collect();
        let outside = lock(&self.outside);
        let outside = outside.iter().map(|(client, (since, how))| {
            format!("{client} is not let in since {since}: the last time {how}")
        });
        format!("{}; {}", busy.join(", "), outside.collect::<Vec<_>>().join("; "))
    }

    pub(crate) fn unready(&self) -> usize {
        self.unready.load(Ordering::Relaxed)
    }

    /// A node, as a load balancer deals them out.
    pub(crate) fn door(&self, random: &mut Random) -> Door {
        let doors = lock(&self.doors);
        doors[random.below(doors.len())]
    }

    pub(crate) fn doors(&self) -> Vec<Door> {
        lock(&self.doors).clone()
    }

    pub(crate) fn set_doors(&self, doors: Vec<Door>) {
        *lock(&self.doors) = doors;
    }

    /// Connects to one node, once.
    pub(crate) async fn attempt(&self, door: Door, connect: &Connect) -> Attempt {
        let begin = self.now();
        let attempt = Connection::attempt(door.number, door.address, connect).await;
        let outcome = match &attempt {
            Attempt::Accepted(..) => Outcome::Ok,
            Attempt::Refused(code) => Outcome::Failed(*code),
            Attempt::Unreachable => return attempt,
            Attempt::Unanswered => Outcome::Unknown,
            Attempt::Broken(why) => {
                let text = format!("{} at node-{}: {why}", connect.client_id, door.number);
                self.books.report_now(Check::Protocol, text);
                Outcome::Unknown
            }
        };
        self.books.count(Kind::Connect, outcome, begin);
        attempt
    }

    /// Connects to one node after the other until one accepts; whether there was a session. `None` when the round is over.
    pub(crate) async fn connect(&self, random: &mut Random, connect: &Connect) -> Option<(Connection, bool)> {
        while self.phase() < Phase::Over {
            let door = self.door(random);
            let how = match self.attempt(door, connect).await {
                Attempt::Accepted(connection, connack) => {
                    lock(&self.outside).remove(&connect.client_id);
                    return Some((*connection, connack.session_present));
                }
                Attempt::Refused(code) => format!("refused with {code:#04x}"),
                Attempt::Unreachable => "it was not there".to_owned(),
                Attempt::Unanswered | Attempt::Broken(_) => "there was no answer".to_owned(),
            };
            let how = format!("at node-{} {how} at {}", door.number, self.now());
            let since = self.now();
            lock(&self.outside).entry(connect.client_id.clone()).or_insert((since, String::new())).1 = how;
            let pause = 50 + u64::try_from(random.below(250)).expect("a small number");
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        None
    }

    /// The same for a session that its client never ends: it must be there after the first time.
    pub(crate) async fn resume(
        &self,
        random: &mut Random,
        client: &str,
        more: &[Property],
    ) -> Option<(Connection, bool)> {
        let known = lock(&self.sessions).get(client).copied();
        let connect = Connect::new(Version::V5, client)
            .keep_alive(KEEP_ALIVE)
            .with(Property::four(property_id::SESSION_EXPIRY, EXPIRY));
        let connect = more.iter().fold(connect, |connect, property| connect.with(property.clone()));
        let connect = if known.is_some() { connect.resume() } else { connect.clean() };
        let (connection, present) = self.connect(random, &connect).await?;
        let (now, node) = (self.now(), connection.node);
        let text = match known {
            Some((last, since)) if !present => Some(format!(
                "{client} has lost its session: found none at node-{node} at {now}; it had one since {since}, last at node-{last}"
            )),
            None if present => {
                Some(format!("{client} asked for a new session at node-{node} and got another"))
            }
            _ => None,
        };
        let begin = known.map_or(now, |(_, since)| since);
        if let Some(text) = text {
            self.books.report(Violation { check: Check::Session, begin, end: now, count: 1, text });
        }
        lock(&self.sessions).insert(client.to_owned(), (node, now));
        Some((connection, present))
    }
}

/// Who failed while it held the lock has said so.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In seconds. A client that is gone is noticed after one and a half times as long.
pub(crate) const KEEP_ALIVE: u16 = 10;

/// In seconds: longer than any round.
pub(crate) const EXPIRY: u32 = 7_200;

/// Of each checker, so that a run that goes wrong for hours has room.
const VIOLATIONS_KEPT: usize = 10_000;

/// How long after a fault things may still be odd.
const AFTERMATH: Duration = Duration::from_secs(10);
