//! Nodes, links and the log, on a virtual clock.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use flotilla_mqtt::{
    Message, QoS, Timestamp,
    session::{ClientId, SessionExpiry},
};
use flotilla_registry::{
    KeptWill, Limits, Output, Refusal, Registry, RequestId, Source, Stats, Tenure, View, WillId,
};
use flotilla_state::{
    ConnectionEpoch, Incarnation, LogIndex, Member, NodeId, Placement, ShardEpoch, ShardRing,
};

use crate::{oracle::Oracle, random::Random};

pub(crate) const CLAIM_TIMEOUT: u64 = 10_000;
const SHARDS: u16 = 2;
const REPLICAS: usize = 3;

/// How a client connects.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connect {
    pub(crate) clean: bool,
    pub(crate) persistent: bool,
    /// Its Will Delay Interval, in milliseconds.
    pub(crate) will: Option<u64>,
}

/// How a node ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    /// The process is gone at once.
    Crash,
    /// It is cut off, and notices in time.
    Fence,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Deliver {
        from: Member,
        to: Member,
    },
    Apply {
        node: usize,
        index: usize,
    },
    /// In one life of a shell.
    Shell {
        node: usize,
        life: u64,
        job: Job,
    },
    Commit(Change),
    Admit {
        node: usize,
        life: u64,
        member: Member,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Job {
    Export { client: ClientId, epoch: ConnectionEpoch, discard: bool },
    Imported { client: ClientId, tenure: Tenure },
    Settle { client: ClientId, epoch: ConnectionEpoch },
    StubEnds { client: ClientId, epoch: ConnectionEpoch },
    WillDue { client: ClientId, will: u64 },
    Published { id: WillId },
    Deadline,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Down { member: Member },
    Join { node: usize, life: u64 },
}

#[derive(Debug)]
struct Node {
    id: NodeId,
    registry: Registry,
    /// Counts processes and admissions: what was planned for an older one is void.
    life: u64,
    /// The member that it is, until it is cut off.
    me: Option<Member>,
    is_running: bool,
    applied: usize,
    sessions: BTreeMap<ClientId, Session>,
    copies: BTreeMap<(ClientId, ConnectionEpoch), Session>,
    stubs: BTreeSet<(ClientId, ConnectionEpoch)>,
    requests: BTreeMap<RequestId, Waiting>,
}

/// A CONNECT that waits.
#[derive(Debug)]
struct Waiting {
    at: u64,
    client: ClientId,
    connect: Connect,
    will: u64,
}

#[derive(Debug, Clone)]
struct Session {
    token: u64,
    tenure: Tenure,
    is_connected: bool,
    is_persistent: bool,
    will: Option<SessionWill>,
}

#[derive(Debug, Clone, Copy)]
struct SessionWill {
    no: u64,
    delay: u64,
    is_delayed: bool,
}

#[derive(Debug, Default)]
struct Link {
    queue: std::collections::VecDeque<Bytes>,
    last_at: u64,
}

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) oracle: Oracle,
    pub(crate) now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    log: Vec<View>,
    nodes: Vec<Node>,
    links: BTreeMap<(Member, Member), Link>,
    shards: ShardRing,
    tokens: u64,
    wills: u64,
    requests: u64,
    pub(crate) granted: u64,
    pub(crate) refused: u64,
    pub(crate) trace: bool,
    /// Links are slow now and then.
    pub(crate) is_slow: bool,
}

impl World {
    pub(crate) fn new(seed: u64, nodes: usize) -> Self {
        let shards = ShardRing::new(SHARDS);
        let make = |node: usize| Node {
            id: NodeId(100 + node as u64),
            registry: Registry::new(limits(), shards.clone()),
            life: 0,
            me: None,
            is_running: true,
            applied: 0,
            sessions: BTreeMap::new(),
            copies: BTreeMap::new(),
            stubs: BTreeSet::new(),
            requests: BTreeMap::new(),
        };
        let placements = vec![Placement { epoch: ShardEpoch(0), nodes: Vec::new() }; usize::from(SHARDS)];
        let mut world = Self {
            random: Random::new(seed),
            oracle: Oracle::default(),
            now: 0,
            events: BinaryHeap::new(),
            sequence: 0,
            log: vec![View { index: LogIndex(0), members: Vec::new(), placements }],
            nodes: (0..nodes).map(make).collect(),
            links: BTreeMap::new(),
            shards: shards.clone(),
            tokens: 0,
            wills: 0,
            requests: 0,
            granted: 0,
            refused: 0,
            trace: false,
            is_slow: true,
        };
        for node in 0..nodes {
            world.join(node);
        }
        world.replace_placements();
        world
    }

    fn at(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((self.now + delay, self.sequence, event)));
    }

    fn later(&mut self, node: usize, delay: u64, job: Job) {
        let life = self.nodes[node].life;
        self.at(delay, Event::Shell { node, life, job });
    }

    fn note(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>6} {}", self.now, text());
        }
    }

    // The log.

    fn commit(&mut self, mut view: View) {
        view.index = LogIndex(self.log.last().expect("it began").index.0 + 1);
        let live: BTreeSet<NodeId> = view.members.iter().map(|member| member.node).collect();
        let before = &self.log.last().expect("it began").placements;
        for (placement, before) in view.placements.iter_mut().zip(before) {
            placement.nodes.retain(|node| live.contains(node));
            let mut spare = live.iter().filter(|node| !placement.nodes.contains(node)).copied();
            let missing = REPLICAS.saturating_sub(placement.nodes.len());
            let spare: Vec<NodeId> = spare.by_ref().take(missing).collect();
            // A node that has just joined is not up yet.
            if placement.nodes.is_empty() || before.nodes.len() > placement.nodes.len() {
                placement.nodes.extend(spare);
            }
            let is_same = placement.nodes.first() == before.nodes.first();
            placement.epoch = if is_same { before.epoch } else { ShardEpoch(view.index.0) };
        }
        self.note(|| format!("LOG {view:?}"));
        if view.placements.iter().any(|placement| placement.epoch.0 == view.index.0) {
            self.oracle.placed(self.now);
        }
        self.log.push(view);
        let index = self.log.len() - 1;
        for node in 0..self.nodes.len() {
            let delay = if self.random.percent(20) { self.random.below(300) } else { self.random.below(30) };
            self.at(delay, Event::Apply { node, index });
        }
    }

    fn view(&self) -> View {
        self.log.last().expect("it began").clone()
    }

    fn join(&mut self, node: usize) {
        let life = self.nodes[node].life;
        self.commit_change(&Change::Join { node, life });
    }

    fn commit_change(&mut self, change: &Change) {
        let mut view = self.view();
        match *change {
            Change::Down { member } => {
                if !view.members.contains(&member) {
                    return;
                }
                view.members.retain(|other| *other != member);
                self.commit(view);
            }
            Change::Join { node, life } => {
                let id = self.nodes[node].id;
                if self.nodes[node].life != life || !self.nodes[node].is_running {
                    return;
                }
                view.members.retain(|member| member.node != id);
                let member = Member { node: id, incarnation: Incarnation(view.index.0 + 1) };
                view.members.push(member);
                view.members.sort();
                self.commit(view);
                let delay = self.random.below(100);
                self.at(delay, Event::Admit { node, life, member });
            }
        }
    }

    /// Gives every shard other nodes.
    pub(crate) fn replace_placements(&mut self) {
        let mut view = self.view();
        for placement in &mut view.placements {
            let mut nodes: Vec<NodeId> = view.members.iter().map(|member| member.node).collect();
            for index in (1..nodes.len()).rev() {
                nodes.swap(index, self.random.index(index + 1));
            }
            nodes.truncate(REPLICAS);
            placement.nodes = nodes;
        }
        self.commit(view);
    }

    // What the test does.

    pub(crate) fn nodes_len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn serving(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].me.is_some()).collect()
    }

    pub(crate) fn connect(&mut self, node: usize, client: &str, connect: Connect) {
        if !self.nodes[node].is_running {
            return;
        }
        let client = ClientId::new(client).expect("not empty");
        self.requests += 1;
        let request = RequestId(self.requests);
        let will = connect.will.map(|delay| {
            self.wills += 1;
            (self.wills, delay)
        });
        self.note(|| format!("n{node} CONNECT {client} {request:?} {connect:?} will {will:?}"));
        let no = will.map_or(0, |(no, _)| no);
        self.nodes[node]
            .requests
            .insert(request, Waiting { at: self.now, client: client.clone(), connect, will: no });
        let kept = will.map(|(no, delay)| kept_will(no, delay, connect.persistent));
        let now = self.timestamp();
        self.nodes[node].registry.claim(now, request, &client, connect.clean, kept);
        self.drain(node);
    }

    /// Some client that waits goes away.
    pub(crate) fn cancel_one(&mut self, node: usize, client: &str) {
        let Some((&request, _)) = self.nodes[node].requests.last_key_value() else { return };
        let client = ClientId::new(client).expect("not empty");
        let now = self.timestamp();
        let before = self.nodes[node].registry.stats().pending;
        self.nodes[node].registry.cancel(now, &client, request);
        if self.nodes[node].registry.stats().pending < before {
            self.note(|| format!("n{node} cancelled {request:?}"));
            let waited = self.nodes[node].requests.remove(&request).expect("it waited");
            if let Some(me) = self.nodes[node].me {
                note_withdrawn(&mut self.oracle, self.now, &waited, me);
            }
        }
        self.drain(node);
    }

    /// The client of a session goes, with or without a DISCONNECT.
    pub(crate) fn disconnect(&mut self, node: usize, client: &str, is_normal: bool) {
        let client = ClientId::new(client).expect("not empty");
        let Some(session) = self.nodes[node].sessions.get(&client).cloned() else { return };
        if !session.is_connected {
            return;
        }
        self.note(|| format!("n{node} disconnect {client} normal {is_normal}"));
        let now = self.timestamp();
        if let Some(will) = session.will {
            if is_normal {
                self.oracle.will_dropped(self.now, will.no);
            } else if will.delay == 0 || !session.is_persistent {
                self.oracle.will_published_by_owner(self.now, will.no);
            } else {
                self.nodes[node].registry.delay_will(now, &client, session.tenure);
                self.later(node, will.delay, Job::WillDue { client: client.clone(), will: will.no });
            }
        }
        let registry = &mut self.nodes[node].registry;
        let delayed = session.will.filter(|will| !is_normal && will.delay > 0 && session.is_persistent);
        if session.will.is_some() && delayed.is_none() {
            registry.keep_will(now, &client, session.tenure, None);
        }
        let entry = self.nodes[node].sessions.get_mut(&client).expect("it is there");
        entry.is_connected = false;
        entry.will = delayed.map(|will| SessionWill { is_delayed: true, ..will });
        if !session.is_persistent {
            self.end_session(node, &client);
        }
        self.drain(node);
    }

    /// A session that is away expires.
    pub(crate) fn expire(&mut self, node: usize, client: &str) {
        let client = ClientId::new(client).expect("not empty");
        if self.nodes[node].sessions.get(&client).is_some_and(|session| !session.is_connected) {
            self.note(|| format!("n{node} expire {client}"));
            self.end_session(node, &client);
            self.drain(node);
        }
    }

    fn end_session(&mut self, node: usize, client: &ClientId) {
        let session = self.nodes[node].sessions.remove(client).expect("it is there");
        let now = self.timestamp();
        if let Some(will) = session.will {
            self.oracle.will_published_by_owner(self.now, will.no);
            self.nodes[node].registry.keep_will(now, client, session.tenure, None);
        }
        self.oracle.session_ends(client, session.token);
        self.nodes[node].registry.release(now, client, session.tenure);
    }

    pub(crate) fn end(&mut self, node: usize, how: End, comes_back_after: u64, is_declared: bool) {
        let Some(member) = self.nodes[node].me.take() else { return };
        self.note(|| format!("n{node} ENDS {how:?} {member:?} declared {is_declared}"));
        for request in self.nodes[node].requests.values() {
            note_withdrawn(&mut self.oracle, self.now, request, member);
        }
        self.oracle.member_ended(self.now, member);
        let now = self.timestamp();
        let entry = &mut self.nodes[node];
        entry.life += 1;
        entry.stubs.clear();
        match how {
            End::Crash => {
                entry.registry = Registry::new(limits(), self.shards.clone());
                entry.sessions.clear();
                entry.copies.clear();
                entry.requests.clear();
                entry.applied = 0;
                entry.is_running = false;
                // What it had not sent is gone.
                for ((from, _), link) in &mut self.links {
                    if *from == member {
                        let len = self.random.index(link.queue.len() + 1);
                        link.queue.truncate(len);
                    }
                }
            }
            End::Fence => {
                entry.registry.handle_fenced();
                let clients: Vec<ClientId> = entry.sessions.keys().cloned().collect();
                for client in clients {
                    let session = entry.sessions.get_mut(&client).expect("it is there");
                    session.will = None;
                    session.is_connected = false;
                    if !session.is_persistent {
                        let (tenure, token) = (session.tenure, session.token);
                        entry.sessions.remove(&client);
                        self.oracle.session_ends(&client, token);
                        entry.registry.release(now, &client, tenure);
                    }
                }
                self.drain(node);
                assert!(self.nodes[node].requests.is_empty(), "a fenced node refuses what waits");
                self.nodes[node].copies.clear();
            }
        }
        let life = self.nodes[node].life;
        if is_declared {
            let delay = self.random.within(100, 1_500);
            self.at(delay, Event::Commit(Change::Down { member }));
        }
        self.at(comes_back_after, Event::Commit(Change::Join { node, life }));
    }

    fn timestamp(&self) -> Timestamp {
        Timestamp::from_millis(self.now)
    }

    // The course of events.

    /// Until nothing more happens, or until a moment.
    pub(crate) fn run(&mut self, until: u64) {
        while let Some(Reverse((at, ..))) = self.events.peek() {
            if *at > until {
                break;
            }
            let Some(Reverse((at, _, event))) = self.events.pop() else { break };
            self.now = at;
            self.handle(event);
            self.check_connections();
        }
        self.now = self.now.max(until.min(self.now + 600_000));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to } => self.deliver(from, to),
            Event::Apply { node, index } => {
                if self.nodes[node].is_running {
                    self.apply_up_to(node, index);
                }
            }
            Event::Commit(Change::Join { node, life }) => {
                if self.nodes[node].life == life && self.nodes[node].me.is_none() {
                    self.nodes[node].is_running = true;
                    self.commit_change(&Change::Join { node, life });
                }
            }
            Event::Commit(change) => self.commit_change(&change),
            Event::Admit { node, life, member } => {
                let entry = &mut self.nodes[node];
                if entry.life == life && self.log.last().expect("it began").members.contains(&member) {
                    entry.life += 1;
                    entry.me = Some(member);
                    let now = Timestamp::from_millis(self.now);
                    entry.registry.handle_admitted(now, member);
                    self.drain(node);
                }
            }
            Event::Shell { node, life, job } => {
                if self.nodes[node].life == life {
                    self.do_job(node, job);
                    self.drain(node);
                }
            }
        }
    }

    fn apply_up_to(&mut self, node: usize, index: usize) {
        while self.nodes[node].applied < index {
            self.nodes[node].applied += 1;
            let view = self.log[self.nodes[node].applied].clone();
            let now = self.timestamp();
            self.nodes[node].registry.handle_view(now, view);
            self.drain(node);
        }
    }

    fn deliver(&mut self, from: Member, to: Member) {
        let is_admitted = self.nodes.iter().any(|node| node.me == Some(to));
        let node = self.nodes.iter().find(|node| node.id == to.node).expect("it exists");
        let is_pending = node.is_running && self.log.last().expect("it began").members.contains(&to);
        if !is_admitted && is_pending && node.me.is_none() {
            // It does not know yet that it is this member: the lane begins then.
            return self.at(20, Event::Deliver { from, to });
        }
        let Some(bytes) = self.links.get_mut(&(from, to)).and_then(|link| link.queue.pop_front()) else {
            return;
        };
        let Some(node) = self.nodes.iter().position(|node| node.me == Some(to)) else { return };
        let now = self.timestamp();
        self.nodes[node].registry.handle_message(now, from, &bytes).expect("it decodes");
        self.drain(node);
    }

    fn do_job(&mut self, node: usize, job: Job) {
        let now = self.timestamp();
        match job {
            Job::Export { client, epoch, discard } => self.export(node, &client, epoch, discard),
            Job::Imported { client, tenure } => {
                self.nodes[node].registry.handle_imported(now, &client, tenure);
                let delay = self.random.below(200);
                self.later(node, delay, Job::Settle { client, epoch: tenure.epoch });
            }
            Job::Settle { client, epoch } => {
                let index = LogIndex(self.nodes[node].applied as u64);
                self.nodes[node].registry.settle(now, &client, epoch, index);
            }
            Job::StubEnds { client, epoch } => {
                self.nodes[node].stubs.remove(&(client.clone(), epoch));
                self.nodes[node].registry.handle_stub_ended(&client, epoch);
            }
            Job::WillDue { client, will } => {
                let Some(session) = self.nodes[node].sessions.get_mut(&client) else { return };
                if session.will.is_some_and(|own| own.no == will && own.is_delayed) {
                    session.will = None;
                    let tenure = session.tenure;
                    self.oracle.will_published_by_owner(self.now, will);
                    self.nodes[node].registry.keep_will(now, &client, tenure, None);
                }
            }
            Job::Published { id } => self.nodes[node].registry.handle_published(now, id),
            Job::Deadline => {
                if self.nodes[node].registry.next_deadline().is_some_and(|at| at <= now) {
                    self.nodes[node].registry.handle_deadline(now);
                }
            }
        }
    }

    fn export(&mut self, node: usize, client: &ClientId, epoch: ConnectionEpoch, discard: bool) {
        let now = self.timestamp();
        let Some(mut session) = self.nodes[node].sessions.remove(client) else {
            return self.nodes[node].registry.handle_exported(now, client, epoch, None);
        };
        self.close_will(&session, discard);
        session.will = None;
        session.is_connected = false;
        let exported = if discard || !session.is_persistent {
            self.oracle.session_ends(client, session.token);
            self.nodes[node].registry.release(now, client, session.tenure);
            None
        } else {
            self.nodes[node].stubs.insert((client.clone(), epoch));
            self.nodes[node].copies.insert((client.clone(), epoch), session.clone());
            Some(session_bytes(session.token))
        };
        self.nodes[node].registry.handle_exported(now, client, epoch, exported);
    }

    /// The client is connected elsewhere or anew.
    fn close_will(&mut self, session: &Session, session_ends: bool) {
        let Some(will) = session.will else { return };
        if will.delay == 0 || session_ends || !session.is_persistent {
            self.oracle.will_published_by_owner(self.now, will.no);
        } else {
            self.oracle.will_dropped(self.now, will.no);
        }
    }

    // Outputs.

    fn drain(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].registry.poll_output() {
            self.obey(node, output);
        }
        if let Some(at) = self.nodes[node].registry.next_deadline() {
            let delay = at.as_millis().saturating_sub(self.now);
            self.later(node, delay, Job::Deadline);
        }
    }

    fn obey(&mut self, node: usize, output: Output) {
        if !matches!(output, Output::Send { .. }) {
            self.note(|| format!("n{node} {output:?}").chars().take(300).collect());
        }
        match output {
            Output::Send { to, bytes } => {
                let Some(from) = self.nodes[node].me else { return };
                let slow = self.is_slow && self.random.percent(5);
                let delay = if slow { self.random.within(50, 600) } else { self.random.within(1, 20) };
                let link = self.links.entry((from, to)).or_default();
                link.queue.push_back(bytes);
                link.last_at = link.last_at.max(self.now + delay);
                let delay = link.last_at - self.now;
                self.at(delay, Event::Deliver { from, to });
            }
            Output::Granted { request, client, tenure, source } => {
                self.grant(node, request, client, tenure, source);
            }
            Output::Refused { request, refusal } => {
                let waited = self.nodes[node].requests.remove(&request).expect("it waits");
                assert!(self.now - waited.at <= CLAIM_TIMEOUT, "answered too late");
                if let Some(me) = self.nodes[node].me {
                    note_withdrawn(&mut self.oracle, self.now, &waited, me);
                }
                if refusal == Refusal::Unavailable && self.nodes[node].me.is_some() {
                    self.refused += 1;
                }
            }
            Output::Export { client, epoch, discard, .. } => {
                let delay = self.random.below(30);
                self.later(node, delay, Job::Export { client, epoch, discard });
            }
            Output::TakeBack { client, epoch } => {
                let key = (client.clone(), epoch);
                let session = self.nodes[node].copies.remove(&key).expect("it was exported");
                self.nodes[node].stubs.remove(&key);
                let me = self.nodes[node].me.expect("it is a member");
                self.oracle.session_returns(&client, session.token, me);
                let before = self.nodes[node].sessions.insert(client, session);
                assert!(before.is_none(), "a session is taken back over another one");
            }
            Output::Taken { client, epoch } => {
                self.nodes[node].copies.remove(&(client, epoch)).expect("it was exported");
            }
            Output::Settle { client, epoch, to, .. } => {
                let delay = self.random.below(100);
                self.later(node, delay, Job::StubEnds { client: client.clone(), epoch });
                if let Some(other) = self.nodes.iter().position(|node| node.me == Some(to)) {
                    let delay = self.random.within(100, 200);
                    self.later(other, delay, Job::StubEnds { client, epoch });
                }
            }
            Output::StubVoid { client, epoch } => {
                self.nodes[node].stubs.remove(&(client, epoch));
            }
            Output::Discard { client, .. } => {
                self.nodes[node].copies.retain(|(of, _), _| *of != client);
                if let Some(session) = self.nodes[node].sessions.remove(&client) {
                    assert!(
                        !session.is_connected || self.nodes[node].me.is_none(),
                        "a connection of {client} is void on {node}"
                    );
                    self.close_will(&session, true);
                }
            }
            Output::PublishWill { id, message, .. } => {
                let no = u64::from_be_bytes(message.payload[..8].try_into().expect("a number"));
                self.oracle.will_published(no);
                let delay = self.random.below(50);
                self.later(node, delay, Job::Published { id });
            }
        }
    }

    fn grant(&mut self, node: usize, request: RequestId, client: ClientId, tenure: Tenure, source: Source) {
        self.granted += 1;
        let now = self.timestamp();
        let Waiting { at, connect, will, .. } = self.nodes[node].requests.remove(&request).expect("it waits");
        assert!(self.now - at <= CLAIM_TIMEOUT, "answered too late");
        let me = self.nodes[node].me.expect("it is a member");
        let before = self.nodes[node].sessions.remove(&client);
        if connect.clean {
            self.oracle.session_discarded(&client);
        }
        let token = match source {
            Source::Nowhere => {
                assert!(before.is_none(), "the registry did not know of {before:?}");
                if !connect.clean {
                    self.oracle.session_missing(&client);
                }
                None
            }
            Source::Here => {
                if before.is_none() && !connect.clean {
                    self.oracle.session_missing(&client);
                }
                before.and_then(|before| {
                    let ends = connect.clean || (before.is_connected && !before.is_persistent);
                    self.close_will(&before, ends);
                    self.nodes[node].registry.keep_will(now, &client, before.tenure, None);
                    if ends {
                        self.oracle.session_ends(&client, before.token);
                        self.nodes[node].registry.release(now, &client, before.tenure);
                    }
                    (!ends).then_some(before.token)
                })
            }
            Source::Elsewhere { session, .. } => {
                assert!(before.is_none(), "the registry did not know of {before:?}");
                if self.random.percent(5) {
                    // It does not decode: the client is refused, the session goes back.
                    return self.nodes[node].registry.release(now, &client, tenure);
                }
                let token = u64::from_be_bytes(session[..8].try_into().expect("a number"));
                assert_eq!(session.len(), session_bytes(token).len());
                self.oracle.session_moves(&client, token, me);
                let delay = self.random.below(10);
                self.later(node, delay, Job::Imported { client: client.clone(), tenure });
                Some(token)
            }
        };
        self.oracle.claimed(self.now, &client, connect.clean);
        let token = token.unwrap_or_else(|| {
            self.tokens += 1;
            if connect.persistent {
                self.oracle.session_begins(&client, self.tokens, me);
            }
            self.tokens
        });
        if !connect.persistent {
            // It ends with its connection, whatever it was before.
            self.oracle.session_ends(&client, token);
        }
        let own_will = connect.will.map(|delay| SessionWill { no: will, delay, is_delayed: false });
        if let Some(own) = own_will {
            let delay = if connect.persistent { own.delay } else { 0 };
            self.oracle.will_begins(own.no, &client, me, delay);
        }
        let session =
            Session { token, tenure, is_connected: true, is_persistent: connect.persistent, will: own_will };
        self.nodes[node].sessions.insert(client, session);
    }

    // Checks.

    /// A client has one live connection at most.
    fn check_connections(&self) {
        let mut connected = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.me.is_some()) {
            for (client, _) in node.sessions.iter().filter(|(_, session)| session.is_connected) {
                if let Some(other) = connected.insert(client, index) {
                    panic!("{client} is connected to {other} and {index}");
                }
            }
        }
    }

    pub(crate) fn connections(&self, client: &str) -> usize {
        let is_connected = |node: &&Node| {
            node.me.is_some() && node.sessions.get(client).is_some_and(|session| session.is_connected)
        };
        self.nodes.iter().filter(is_connected).count()
    }

    /// All sessions are in one place.
    pub(crate) fn check_sessions(&self) {
        let mut places = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            assert!(node.requests.is_empty(), "{:?} wait on {index}", node.requests);
            assert!(node.copies.is_empty(), "{index} still has copies: {:?}", node.copies);
            assert!(node.stubs.is_empty(), "{index} still has stubs: {:?}", node.stubs);
            for client in node.sessions.keys() {
                if let Some(other) = places.insert(client, index) {
                    panic!("{client} has sessions on {other} and {index}");
                }
            }
        }
    }

    /// Everybody leaves.
    pub(crate) fn end_all_sessions(&mut self) {
        for node in 0..self.nodes.len() {
            let clients: Vec<ClientId> = self.nodes[node].sessions.keys().cloned().collect();
            for client in clients {
                self.disconnect(node, client.as_str(), true);
                self.expire(node, client.as_str());
            }
        }
    }

    /// Nothing is left of them.
    pub(crate) fn check_empty(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            if self.trace && node.registry.stats() != Stats::default() {
                println!("{:?}", node.registry);
            }
            assert_eq!(node.registry.stats(), Stats::default(), "on {index}");
        }
    }
}

fn note_withdrawn(oracle: &mut Oracle, now: u64, request: &Waiting, owner: Member) {
    if request.connect.will.is_some() {
        oracle.will_withdrawn(now, &request.client, owner);
    }
}

fn limits() -> Limits {
    Limits { claim_timeout: Duration::from_millis(CLAIM_TIMEOUT), ..Limits::default() }
}

fn kept_will(no: u64, delay: u64, is_persistent: bool) -> KeptWill {
    let message = Message {
        topic: "will".into(),
        properties: Bytes::new(),
        payload: Bytes::copy_from_slice(&no.to_be_bytes()),
        qos: QoS::AtLeastOnce,
        retain: false,
        expires_at: None,
        publisher: None,
    };
    let session_expiry = if is_persistent { SessionExpiry::Never } else { SessionExpiry::AtDisconnect };
    KeptWill { message: Arc::new(message), delay: Duration::from_millis(delay), expiry: None, session_expiry }
}

/// Now and then a large one, which goes in parts.
fn session_bytes(token: u64) -> Bytes {
    let len = if token.is_multiple_of(97) { 700_000 } else { 8 };
    let mut bytes = token.to_be_bytes().to_vec();
    bytes.resize(len, 7);
    bytes.into()
}
