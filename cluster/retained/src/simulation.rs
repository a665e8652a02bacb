//! Replicas of a cluster in which messages are late, members end and come back, and registrars change.
//!
//! One seed decides everything. Each node applies the same log of joins, ends and placements at its own pace. Checked
//! after each step: a member that is up has every change that was answered, or a later one. At the end faults stop, and
//! then: all copies are equal, all requests are answered, and each topic has a value that no answered change follows.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use flotilla_mqtt::{Message, QoS, Timestamp, session::ClientId};
use flotilla_state::{Incarnation, Member, NodeId, ShardEpoch, ShardId};
use proptest::prelude::*;

use crate::{Answer, Limits, Outcome, Replica, RequestId};

/// Simulations in one run of the test.
const CASES: u32 = 48;
const SHARDS: u16 = 2;
const TOPICS: usize = 12;
/// Below `TOPICS`, so that some changes are refused.
const MESSAGES_MAX: usize = 9;

/// An entry of the log; its index is its place, from 1.
#[derive(Debug, Clone, Copy)]
enum Entry {
    Joined(Member),
    Up(Member),
    Ended(Member),
    Placed(ShardId, Option<Member>),
}

/// One change, as its client sees it.
#[derive(Debug)]
struct Operation {
    topic: usize,
    /// Whether it deletes.
    deletes: bool,
    origin: Member,
    request: RequestId,
    started: u64,
    /// When the answer came.
    answered: Option<(u64, Outcome)>,
}

impl Operation {
    fn is_done(&self) -> bool {
        matches!(self.answered, Some((_, Outcome::Done)))
    }

    /// Whether its effect may be there at the end.
    fn may_have_been_made(&self) -> bool {
        !matches!(self.answered, Some((_, Outcome::Refused)))
    }

    /// Whether all of it comes before `other`.
    fn precedes(&self, other: &Self) -> bool {
        let answered_before = self.is_done() && self.answered.is_some_and(|(at, _)| at < other.started);
        answered_before || (self.origin == other.origin && self.started < other.started)
    }
}

#[derive(Debug)]
struct Node {
    id: NodeId,
    replica: Replica,
    member: Option<Member>,
    /// How much of the log it has applied.
    applied: usize,
    /// It has asked to be up; the entry may come much later.
    asked_up: bool,
}

#[derive(Debug)]
struct World {
    random: u64,
    step: u64,
    nodes: Vec<Node>,
    log: Vec<Entry>,
    // What the whole log says.
    live: BTreeSet<Member>,
    up: BTreeSet<Member>,
    placed: BTreeMap<ShardId, Option<Member>>,
    /// Members that have stopped, and whose end is not in the log yet.
    doomed: BTreeSet<Member>,
    links: BTreeMap<(Member, Member), VecDeque<Bytes>>,
    operations: Vec<Operation>,
}

fn shard_of(topic: &str) -> ShardId {
    ShardId(u16::from(topic.bytes().last().expect("not empty")) % SHARDS)
}

fn topic(number: usize) -> String {
    format!("topic/{number}")
}

fn replica() -> Replica {
    Replica::new(SHARDS, Arc::new(shard_of), Limits { messages_max: MESSAGES_MAX, bytes_max: usize::MAX })
}

/// What a replica has: the number of the operation by topic.
fn content(replica: &Replica) -> BTreeMap<String, usize> {
    let mut content = BTreeMap::new();
    let mut visit = |message: &Arc<Message>| {
        let number = std::str::from_utf8(&message.payload).expect("a number").parse().expect("a number");
        content.insert(message.topic.to_string(), number);
    };
    assert_eq!(replica.page("#", None, usize::MAX, Timestamp::ORIGIN, &mut visit), None);
    content
}

impl World {
    fn new(seed: u64, nodes: u64) -> Self {
        let nodes = (1..=nodes).map(|id| Node {
            id: NodeId(id),
            replica: replica(),
            member: None,
            applied: 0,
            asked_up: false,
        });
        let mut world = Self {
            random: seed,
            step: 0,
            nodes: nodes.collect(),
            log: Vec::new(),
            live: BTreeSet::new(),
            up: BTreeSet::new(),
            placed: (0..SHARDS).map(|shard| (ShardId(shard), None)).collect(),
            doomed: BTreeSet::new(),
            links: BTreeMap::new(),
            operations: Vec::new(),
        };
        for index in 0..world.nodes.len() {
            world.join(index, false);
        }
        world
    }

    /// A number below `end`: SplitMix64.
    fn below(&mut self, end: usize) -> usize {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % end as u64).expect("below a usize")
    }

    fn one_in(&mut self, end: usize) -> bool {
        self.below(end) == 0
    }

    fn pick<T: Copy>(&mut self, among: impl IntoIterator<Item = T>) -> Option<T> {
        let among: Vec<T> = among.into_iter().collect();
        if among.is_empty() {
            return None;
        }
        let index = self.below(among.len());
        Some(among[index])
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.step)
    }

    fn commit(&mut self, entry: Entry) {
        self.log.push(entry);
        match entry {
            Entry::Joined(member) => {
                self.live.insert(member);
            }
            Entry::Up(member) => {
                self.up.insert(member);
            }
            Entry::Ended(member) => {
                self.live.remove(&member);
                self.up.remove(&member);
                self.doomed.remove(&member);
            }
            Entry::Placed(shard, registrar) => {
                self.placed.insert(shard, registrar);
            }
        }
    }

    /// Places the shards that have no registrar that lives, and now and then another.
    fn place(&mut self, also_others: bool) {
        for shard in (0..SHARDS).map(ShardId) {
            let present = self.placed[&shard];
            let is_gone = present.is_none_or(|member| !self.up.contains(&member));
            if is_gone || (also_others && self.one_in(2)) {
                let registrar = self.pick(self.up.clone());
                if registrar != present {
                    self.commit(Entry::Placed(shard, registrar));
                }
            }
        }
    }

    fn join(&mut self, index: usize, loses_memory: bool) {
        let id = self.nodes[index].id;
        if let Some(old) = self.live.iter().find(|member| member.node == id).copied() {
            self.commit(Entry::Ended(old));
            self.place(false);
        }
        let member = Member { node: id, incarnation: Incarnation(self.log.len() as u64 + 1) };
        self.commit(Entry::Joined(member));
        let now = self.now();
        let node = &mut self.nodes[index];
        if loses_memory {
            node.replica = replica();
        }
        node.replica.admit(member);
        (node.member, node.applied, node.asked_up) = (Some(member), self.log.len(), false);
        for other in &self.live {
            node.replica.member_joined(*other);
        }
        for (shard, registrar) in self.placed.clone() {
            let placed = |entry: &Entry| matches!(entry, Entry::Placed(other, _) if *other == shard);
            let epoch = self.log.iter().rposition(placed).map_or(0, |index| index as u64 + 1);
            self.nodes[index].replica.place(shard, ShardEpoch(epoch), registrar, now);
        }
        self.collect(index);
    }

    /// Takes what a replica has to send and to say.
    fn collect(&mut self, index: usize) {
        let (now, step) = (self.now(), self.step);
        let node = &mut self.nodes[index];
        if let Some(member) = node.member {
            while let Some((to, bytes)) = node.replica.poll_transmit(now) {
                self.links.entry((member, to)).or_default().push_back(bytes);
            }
        }
        while let Some(Answer { request, outcome }) = node.replica.poll_answer() {
            let asked = |operation: &&mut Operation| {
                operation.origin.node == node.id
                    && operation.request == request
                    && operation.answered.is_none()
            };
            let operation =
                self.operations.iter_mut().rev().find(asked).expect("asked for, and not answered");
            operation.answered = Some((step, outcome));
        }
    }

    fn apply(&mut self, index: usize) {
        let now = self.now();
        let node = &mut self.nodes[index];
        let (Some(me), Some(entry)) = (node.member, self.log.get(node.applied)) else { return };
        node.applied += 1;
        match *entry {
            Entry::Joined(member) => node.replica.member_joined(member),
            Entry::Up(_) => {}
            Entry::Ended(member) if member == me => {
                node.replica.fence();
                node.member = None;
            }
            Entry::Ended(member) => node.replica.member_ended(member, now),
            Entry::Placed(shard, registrar) => {
                node.replica.place(shard, ShardEpoch(node.applied as u64), registrar, now);
            }
        }
        self.collect(index);
    }

    /// Delivers the first message of a link whose receiver knows the sender.
    fn deliver(&mut self) -> bool {
        let ready = |((from, to), link): (&(Member, Member), &VecDeque<Bytes>)| {
            let node = self.nodes.iter().find(|node| node.id == to.node).expect("a node");
            let is_lost = node.member.is_none_or(|member| member.incarnation > to.incarnation);
            let knows = node.applied as u64 >= from.incarnation.0;
            (!link.is_empty() && (is_lost || knows)).then_some((*from, *to))
        };
        let ready: Vec<_> = self.links.iter().filter_map(ready).collect();
        let Some((from, to)) = self.pick(ready) else { return false };
        let bytes = self.links.get_mut(&(from, to)).and_then(VecDeque::pop_front).expect("not empty");
        let index = self.nodes.iter().position(|node| node.id == to.node).expect("a node");
        let now = self.now();
        let node = &mut self.nodes[index];
        if node.member == Some(to) {
            node.replica.handle(from, &bytes, now).expect("replicas understand each other");
            self.collect(index);
        }
        true
    }

    fn change(&mut self, index: usize) {
        let (now, number) = (self.now(), self.operations.len());
        let Some(origin) = self.nodes[index].member else { return };
        let (place, deletes) = (self.below(TOPICS), self.one_in(3));
        let message = Message {
            topic: topic(place).into(),
            properties: Bytes::new(),
            payload: if deletes { Bytes::new() } else { number.to_string().into() },
            qos: QoS::AtLeastOnce,
            retain: true,
            expires_at: None,
            publisher: ClientId::new("publisher"),
        };
        let request =
            self.nodes[index].replica.set(&Arc::new(message), now).expect("a member").expect("not its own");
        let started = self.step;
        self.operations.push(Operation { topic: place, deletes, origin, request, started, answered: None });
        self.collect(index);
    }

    /// Ends a node in one of several ways, unless too few would be left.
    fn stop(&mut self, index: usize) {
        let Some(member) = self.nodes[index].member.filter(|member| self.live.contains(member)) else {
            return;
        };
        let healthy = self.up.iter().filter(|up| **up != member && !self.doomed.contains(up)).count();
        if healthy == 0 {
            return;
        }
        match self.below(3) {
            0 => {
                // It crashes.
                self.nodes[index].replica = replica();
                self.nodes[index].member = None;
                self.doomed.insert(member);
            }
            1 => {
                // Its lease lapses.
                self.nodes[index].replica.fence();
                self.collect(index);
                self.nodes[index].member = None;
                self.doomed.insert(member);
            }
            _ => {
                // It is taken for dead and does not know it.
                self.commit(Entry::Ended(member));
                self.place(false);
            }
        }
    }

    fn run(&mut self) {
        self.step += 1;
        let index = self.below(self.nodes.len());
        match self.below(100) {
            0..50 => drop(self.deliver()),
            50..68 => self.apply(index),
            68..84 => self.change(index),
            84..90 => {
                if self.nodes[index].replica.is_synced() {
                    self.nodes[index].asked_up = true;
                }
            }
            90..94 => self.bring_up(index),
            94 => self.stop(index),
            95 => {
                if let Some(member) = self.pick(self.doomed.clone()) {
                    self.commit(Entry::Ended(member));
                    self.place(false);
                }
            }
            96..98 => {
                if self.nodes[index].member.is_none() {
                    let loses_memory = self.one_in(2);
                    self.join(index, loses_memory);
                }
            }
            98 => self.place(true),
            _ => {
                // Bursts: some links run dry.
                for _ in 0..20 {
                    self.deliver();
                }
            }
        }
        self.check_step();
    }

    fn bring_up(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(member) = node.member.filter(|_| std::mem::take(&mut node.asked_up)) else { return };
        if self.live.contains(&member) && !self.up.contains(&member) {
            self.commit(Entry::Up(member));
            let moves = self.one_in(2);
            self.place(moves);
        }
    }

    /// Whether a topic may have this value, while some changes are under way.
    fn check_value(&self, place: usize, value: Option<usize>, context: &dyn std::fmt::Debug) {
        let here = || self.operations.iter().filter(|operation| operation.topic == place);
        let is_overtaken =
            |operation: &Operation| here().any(|other| other.is_done() && operation.precedes(other));
        let fits = match value {
            Some(number) => {
                let operation = &self.operations[number];
                assert_eq!((operation.topic, operation.deletes), (place, false));
                operation.may_have_been_made() && !is_overtaken(operation)
            }
            None => {
                let never_set = !here().any(Operation::is_done);
                never_set
                    || here().any(|operation| {
                        operation.deletes && operation.may_have_been_made() && !is_overtaken(operation)
                    })
            }
        };
        if !fits {
            let history: Vec<_> = self
                .operations
                .iter()
                .enumerate()
                .filter(|(_, operation)| operation.topic == place)
                .collect();
            panic!(
                "step {}: topic {place} cannot have {value:?} at {context:?}: {history:#?}\n{:#?}",
                self.step, self.log
            );
        }
    }

    fn check_step(&self) {
        for node in &self.nodes {
            if let Some(member) = node.member.filter(|member| self.up.contains(member)) {
                let content = content(&node.replica);
                for place in 0..TOPICS {
                    self.check_value(place, content.get(&topic(place)).copied(), &member);
                }
            }
        }
    }

    /// Ends all faults, lets everything come to rest, and checks what is left.
    fn settle(&mut self) {
        for member in self.doomed.clone() {
            self.commit(Entry::Ended(member));
            self.place(false);
        }
        for index in 0..self.nodes.len() {
            if self.nodes[index].member.is_none_or(|member| !self.live.contains(&member)) && self.one_in(2) {
                let loses_memory = self.one_in(2);
                self.join(index, loses_memory);
            }
        }
        for _ in 0..100_000 {
            self.step += 1;
            let before = (
                self.log.len(),
                self.operations.iter().filter(|operation| operation.answered.is_some()).count(),
            );
            let mut is_quiet = !self.deliver();
            for index in 0..self.nodes.len() {
                is_quiet &= self.nodes[index].member.is_none() || self.nodes[index].applied == self.log.len();
                self.apply(index);
                if self.nodes[index].replica.is_synced() {
                    self.nodes[index].asked_up = true;
                    self.bring_up(index);
                }
            }
            self.check_step();
            if is_quiet && before.0 == self.log.len() {
                return self.check_end();
            }
        }
        panic!("it does not come to rest");
    }

    fn check_end(&self) {
        let members = || self.nodes.iter().filter(|node| node.member.is_some());
        let contents: Vec<_> = members().map(|node| content(&node.replica)).collect();
        assert!(!contents.is_empty());
        for (node, other) in members().zip(&contents) {
            assert_eq!(other, &contents[0], "all copies are equal");
            assert!(node.replica.is_synced() && node.member.is_some_and(|member| self.up.contains(&member)));
            assert_eq!(node.replica.pending_len(), 0);
        }
        for operation in &self.operations {
            let is_over = operation.answered.is_some() || !self.live.contains(&operation.origin);
            assert!(is_over, "{operation:?} is answered, or its origin has ended");
        }
    }
}

fn simulate(seed: u64, nodes: u64, steps: usize) -> World {
    let mut world = World::new(seed, nodes);
    for _ in 0..steps {
        world.run();
    }
    world.settle();
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, max_shrink_iters: 0, ..ProptestConfig::default() })]
    #[test]
    fn copies_stay_equal_and_nothing_that_was_answered_is_lost(seed: u64, nodes in 3..6_u64, steps in 100..2_500_usize) {
        simulate(seed, nodes, steps);
    }
}

#[test]
fn the_simulation_reaches_what_it_is_for() {
    let (mut done, mut refused, mut unknown, mut registrars) = (0, 0, 0, 0);
    for seed in 0..10 {
        let world = simulate(seed, 4, 2_000);
        let count = |outcome| {
            let answered = world.operations.iter().filter_map(|operation| operation.answered);
            answered.filter(|(_, other)| *other == outcome).count()
        };
        done += count(Outcome::Done);
        refused += count(Outcome::Refused);
        unknown += count(Outcome::Unknown);
        registrars += world.log.iter().filter(|entry| matches!(entry, Entry::Placed(..))).count();
    }
    assert!(
        done > 1_000 && refused > 50 && unknown > 50 && registrars > 100,
        "{done} {refused} {unknown} {registrars}"
    );
}
