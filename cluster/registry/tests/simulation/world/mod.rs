//! Nodes, links and the log, on a virtual clock.

mod checks;
mod clients;
mod log;
mod shell;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use flotilla_mqtt::{Timestamp, session::ClientId};
use flotilla_registry::{Limits, Output, Refusal, Registry, RequestId, Stats, Tenure, View};
use flotilla_state::{
    ConnectionEpoch, Incarnation, LogIndex, Member, NodeId, Placement, ShardEpoch, ShardRing,
};

use crate::random::Random;

pub(crate) const CLAIM_TIMEOUT: u64 = 10_000;
const SHARDS: u16 = 2;
const REPLICAS: usize = 3;

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
    /// A connection of an older life has ended.
    Ended {
        node: usize,
        client: ClientId,
        tenure: Tenure,
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
    /// The connection of a grant begins, or comes to nothing.
    Attach {
        client: ClientId,
        tenure: Tenure,
    },
    Close {
        client: ClientId,
        epoch: ConnectionEpoch,
    },
    Closed {
        client: ClientId,
        epoch: ConnectionEpoch,
    },
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
    connections: BTreeMap<ClientId, Tenure>,
    arriving: BTreeMap<ClientId, Arrival>,
    /// CONNECTs that wait, and since when.
    requests: BTreeMap<RequestId, u64>,
}

/// A grant whose connection has not begun.
#[derive(Debug)]
struct Arrival {
    tenure: Tenure,
    /// What waits for that.
    later: VecDeque<Output>,
}

#[derive(Debug, Default)]
struct Link {
    queue: VecDeque<Bytes>,
    last_at: u64,
}

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    log: Vec<View>,
    nodes: Vec<Node>,
    links: BTreeMap<(Member, Member), Link>,
    shards: ShardRing,
    /// What was granted last.
    tenures: BTreeMap<ClientId, Tenure>,
    requests: u64,
    pub(crate) granted: u64,
    pub(crate) refused: u64,
    pub(crate) trace: bool,
    /// Links are slow now and then.
    pub(crate) is_slow: bool,
    /// No client goes away while it is granted.
    pub(crate) are_clients_patient: bool,
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
            connections: BTreeMap::new(),
            arriving: BTreeMap::new(),
            requests: BTreeMap::new(),
        };
        let placements = vec![Placement { epoch: ShardEpoch(0), nodes: Vec::new() }; usize::from(SHARDS)];
        let mut world = Self {
            random: Random::new(seed),
            now: 0,
            events: BinaryHeap::new(),
            sequence: 0,
            log: vec![View { index: LogIndex(0), members: Vec::new(), placements }],
            nodes: (0..nodes).map(make).collect(),
            links: BTreeMap::new(),
            shards: shards.clone(),
            tenures: BTreeMap::new(),
            requests: 0,
            granted: 0,
            refused: 0,
            trace: false,
            is_slow: true,
            are_clients_patient: false,
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
                    entry.registry.handle_admitted(member);
                    self.drain(node);
                }
            }
            Event::Ended { node, client, tenure } => {
                self.nodes[node].registry.release(&client, tenure);
                self.drain(node);
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
            self.nodes[node].registry.handle_view(view);
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
        self.nodes[node].registry.handle_message(from, &bytes).expect("it decodes");
        self.drain(node);
    }
}

fn limits() -> Limits {
    Limits { claim_timeout: Duration::from_millis(CLAIM_TIMEOUT), ..Limits::default() }
}
