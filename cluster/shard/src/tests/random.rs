//! A shard agrees with the model, whatever happens to it, and so do replicas that flush at other moments.

mod letters;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_lane::Origin;
use flotilla_mqtt::{
    QoS, SubscriptionIds,
    packet::{RetainHandling, SubscriptionOptions},
    session::{DeliveryOptions, QueueFull, SessionExpiry, Subscription},
    topic::matches,
};
use flotilla_state::{Incarnation, Member, NodeId, ShardId};
use flotilla_store::MemoryStore;
use proptest::{collection::vec, prelude::*};

use super::{
    harness::{Published, SHARD, connection, filter, message, packet, position, publish},
    model::{Model, ModelEntry, ModelMessage, ids},
};
use crate::{
    Answers, Connection, Entry, FilterChange, GroupStrategy, Letter, Op, Open, Options, Overlap, Part,
    QueueLimits, Queued, Seq, SessionId, Shard, Will, WillFate, WillId,
};

/// Something that happens; the numbers mean something in the state in which it happens.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// An entry with one part for each list.
    Apply { later_by: u64, parts: Vec<(Numbering, Vec<RawOp>)> },
    /// One replica flushes.
    Flush(usize),
    /// One store syncs.
    Sync(usize),
    /// The power of one replica goes; so many unsynced batches stay.
    PowerCut(usize, usize),
    /// One replica takes over a snapshot of the other.
    Restore(usize),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Numbering {
    Own,
    Next,
    Repeated,
    Gap,
    /// Of a new life of the node.
    NewLife,
    /// Of a life before.
    OldLife,
}

pub(super) type RawOp = (u8, [u8; 6]);

const CLIENTS: [&str; 4] = ["a", "b", "c", "d"];
const FILTERS: [&str; 8] = ["t", "t/1", "t/+", "#", "u", "$share/g/t/+", "t/#", "+"];
const TOPICS: [&str; 4] = ["t", "t/1", "t/2", "u"];

pub(super) fn step() -> impl Strategy<Value = Step> {
    let op = (0..36_u8, any::<[u8; 6]>());
    let numbering = prop_oneof![
        6 => Just(Numbering::Next),
        4 => Just(Numbering::Own),
        1 => Just(Numbering::Repeated),
        1 => Just(Numbering::Gap),
        1 => Just(Numbering::NewLife),
        1 => Just(Numbering::OldLife),
    ];
    let parts = vec((numbering, vec(op, 1..6)), 1..3);
    let later_by = prop_oneof![3 => 0..50_u64, 1 => 0..20_000_u64];
    prop_oneof![
        12 => (later_by, parts).prop_map(|(later_by, parts)| Step::Apply { later_by, parts }),
        2 => (0..2_usize).prop_map(Step::Flush),
        1 => (0..2_usize).prop_map(Step::Sync),
        1 => (0..2_usize, 0..4_usize).prop_map(|(replica, kept)| Step::PowerCut(replica, kept)),
        1 => (0..2_usize).prop_map(Step::Restore),
    ]
}

/// Two replicas, their log and the model.
pub(super) struct World {
    pub(super) model: Model,
    stamp: u64,
    log: Vec<(Bytes, Bytes)>,
    pub(super) replicas: [(MemoryStore, Shard, Options); 2],
    /// Of each node: its life, and the number of its last part.
    nodes: [(u64, u64); 2],
    epochs: u64,
    /// What the changes of the first replica add up to.
    told: Told,
    origins: u64,
    /// The last letter of each shard that the tests play.
    letters: [u64; 2],
}

#[derive(Default)]
struct Told {
    filters: Vec<String>,
    wills: Vec<WillId>,
}

impl World {
    pub(super) fn new() -> Self {
        let options = [
            Options::default(),
            Options { dirty_bytes_soft: 900, references_read_max: 1, ..Options::default() },
        ];
        let replicas = options.map(|options| {
            let store = MemoryStore::new();
            let shard = Shard::open(SHARD, Arc::new(store.clone()), options.clone()).expect("an empty store");
            (store, shard, options)
        });
        let mut world = Self {
            model: Model::default(),
            stamp: 10_000,
            log: Vec::new(),
            replicas,
            nodes: [(1, 0), (1, 0)],
            epochs: 0,
            told: Told::default(),
            origins: 0,
            letters: [0; 2],
        };
        world.replicas[0].1.watch(true);
        world
    }

    pub(super) fn take(&mut self, step: Step) {
        match step {
            Step::Apply { later_by, parts } => self.apply(later_by, parts),
            Step::Flush(replica) => self.replicas[replica].1.flush().expect("the store takes it"),
            Step::Sync(replica) => {
                flotilla_store::Store::sync(&self.replicas[replica].0).expect("the store syncs");
            }
            Step::PowerCut(replica, kept) => self.power_cut(replica, kept),
            Step::Restore(replica) => self.restore(replica),
        }
    }

    fn apply(&mut self, later_by: u64, parts: Vec<(Numbering, Vec<RawOp>)>) {
        // Now and then the clock of a new leader is behind.
        self.stamp = if later_by == 13 { self.stamp.saturating_sub(5_000) } else { self.stamp + later_by };
        let mut written = Vec::new();
        for (index, (numbering, ops)) in parts.into_iter().enumerate() {
            let (source, number) = self.number(index % 2, numbering);
            let ops = ops.into_iter().map(|op| self.op(op).unwrap_or(Op::Tick)).collect();
            written.push(Part { source, number, ops });
        }
        let retained_full = later_by % 5 == 4;
        let entry = Entry { stamp: self.stamp, retained_full, parts: written };
        let bytes = entry.encode();
        assert_eq!(Entry::decode(&bytes).as_ref(), Ok(&entry));
        let expected = self.model.apply(&entry);
        self.log.push((bytes.clone(), expected.encode()));
        let index = self.log.len() as u64;
        for (_, shard, _) in &mut self.replicas {
            let answers = shard.apply(index, &bytes).expect("the entry is valid");
            assert_eq!(Answers::decode(&answers), Ok(expected.clone()), "{entry:?}");
            // The position lags behind: entries come again that have been applied.
            if index.is_multiple_of(3) {
                shard.set_position(position(index));
            }
        }
    }

    fn number(&mut self, node: usize, numbering: Numbering) -> (Member, u64) {
        let (life, last) = &mut self.nodes[node];
        let number = match numbering {
            Numbering::Own => 0,
            Numbering::Next => *last + 1,
            Numbering::Repeated => (*last).max(1),
            Numbering::Gap => *last + 2,
            Numbering::NewLife => {
                (*life, *last) = (*life + 1, 0);
                1
            }
            Numbering::OldLife => 1,
        };
        if matches!(numbering, Numbering::Next | Numbering::Repeated | Numbering::NewLife) {
            *last = number;
        }
        let life = if matches!(numbering, Numbering::OldLife) { *life - 1 } else { *life };
        (Member { node: NodeId(node as u64 + 1), incarnation: Incarnation(life) }, number)
    }

    /// An op that means something here.
    fn op(&mut self, (kind, bytes): RawOp) -> Option<Op> {
        let [a, b, c, d, e, f] = bytes;
        let client = CLIENTS[usize::from(a) % 4];
        let session = self.model.sessions.get(client);
        // Mostly the connection that has the session.
        let connection = match session {
            Some(session) if b > 20 => session.open.connection.clone(),
            // One of an earlier or a later turn.
            Some(session) if b > 10 => {
                let turn = session.open.connection.turn.wrapping_add_signed([1, -1][usize::from(b) % 2]);
                Connection { turn, ..session.open.connection.clone() }
            }
            _ => connection(client, u64::from(b)),
        };
        let head = session.map_or(0, |session| session.head());
        let seqs = |count: u8, start: u8| -> Vec<Seq> {
            (0..u64::from(count % 5))
                .map(|step| Seq(head + u64::from(start % 8) + step * u64::from(d % 3)))
                .collect()
        };
        Some(match kind {
            0..3 => Op::Open(Box::new(self.open(client, bytes))),
            3 | 4 => Op::Subscribe {
                connection,
                subscriptions: (0..=c % 3).map(|step| subscription(c.wrapping_add(step), d, e)).collect(),
            },
            5 => Op::Unsubscribe { connection, filters: vec![filter(FILTERS[usize::from(c) % 8])] },
            6 | 7 => Op::Acknowledge { connection, released: seqs(c, e), done: seqs(d, f) },
            8 => Op::Acknowledge {
                connection,
                released: Vec::new(),
                done: (0..u64::from(c)).map(|step| Seq(head + step)).collect(),
            },
            9 | 24 | 25 => Op::Receive { connection, packet_id: packet(u16::from(c % 6) + 1) },
            10 => Op::Release { connection, packet_id: packet(u16::from(c % 6) + 1) },
            11 | 26 => Op::Close {
                connection,
                expiry: expiry(c),
                will: if d % 3 == 0 { WillFate::Drop } else { WillFate::Keep },
                sent_until: Seq(head + u64::from(e % 4)),
                stored: (1..=6).filter(|id| f & 1 << id != 0).map(packet).collect(),
            },
            12 if c % 4 == 0 => Op::End { connection },
            34.. => Op::Abandon { connection, expiry: expiry(d) },
            13..20 => self.publish(bytes),
            20 => direct(connection, bytes),
            21 if c % 3 == 0 => {
                let (life, _) = self.nodes[usize::from(d) % 2];
                let life = life - u64::from(e % 2);
                let member = Member { node: NodeId(u64::from(d) % 2 + 1), incarnation: Incarnation(life) };
                Op::MemberEnded { member }
            }
            23 if c % 2 == 0 => self.posted(),
            27..34 => self.letter(kind, session.map(|session| session.id), bytes),
            22 if c % 2 == 0 => Op::Discard { session: session?.id, seqs: seqs(d, e) },
            22 => match self.model.firing.keys().next() {
                Some(will) => Op::WillDone { will: *will },
                None => Op::ForgetPublisher {
                    shard: ShardId(u16::from(d % 2)),
                    session: SessionId(u64::from(e % 2)),
                },
            },
            _ => Op::Tick,
        })
    }

    fn open(&mut self, client: &str, [_, b, c, d, e, f]: [u8; 6]) -> Open {
        self.epochs += 1;
        let before = self.model.sessions.get(client).map(|session| &session.open.connection);
        let opening = match before {
            // A takeover within a node, or what is left of one.
            Some(before) if b.is_multiple_of(3) => {
                let turn = (before.turn + u32::from(c % 4)).saturating_sub(1);
                Connection { turn, ..before.clone() }
            }
            _ if b < 20 => connection(client, u64::from(b)),
            _ => Connection { turn: u32::from(c % 3), ..connection(client, self.epochs + 20) },
        };
        let will = (e % 3 == 0).then(|| Will {
            message: message("w", "will"),
            delay: Duration::from_millis([0, 10, 5_000][usize::from(f) % 3]),
            expiry: (f % 2 == 0).then_some(Duration::from_millis(500)),
        });
        Open {
            connection: opening,
            clean_start: c % 8 == 0,
            only_present: c & 0b1_1000 == 0b1_0000,
            expiry: expiry(d),
            window: u16::from(b % 4),
            queue: QueueLimits {
                messages_max: [0, 1, 3, 200][usize::from(c) % 4],
                bytes_max: [40, 400, 1 << 30][usize::from(d) % 3],
                full: if f % 2 == 0 { QueueFull::DropOldest } else { QueueFull::DropNewest },
            },
            awaiting_rel_max: u16::from(e % 4),
            queue_qos0: e & 0b1_0000 != 0,
            overlap: if f % 4 < 2 { Overlap::Each } else { Overlap::Merge },
            group_strategy: if e % 2 == 0 { GroupStrategy::RoundRobin } else { GroupStrategy::HashTopic },
            will,
        }
    }

    fn publish(&mut self, [a, b, c, d, e, f]: [u8; 6]) -> Op {
        let messages = (0..=a % 12).map(|step| {
            self.origins += 1;
            let number =
                if d % 4 == 0 { self.origins - self.origins.min(u64::from(e % 8)) + 1 } else { self.origins };
            let origin = Origin {
                shard: ShardId(u16::from(d % 2)),
                session: u64::from(e % 2),
                number,
                floor: number.saturating_sub(u64::from(f % 5)),
            };
            let retains = f % 3 == 0;
            let len = if retains && (a % 12 + step).is_multiple_of(4) { 0 } else { usize::from(c) % 100 };
            Published {
                origin: (b % 3 == 0).then_some(origin),
                topic: TOPICS[usize::from(b.wrapping_add(step)) % 4].to_owned(),
                payload: vec![step; len],
                qos: [QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::AtMostOnce]
                    [usize::from(d) % 4],
                retain: e % 2 == 0,
                retains,
                publisher: (f % 2 == 0).then(|| CLIENTS[usize::from(f) % 4].to_owned()),
                expires_in: (e % 5 == 0).then_some(u64::from(f)),
            }
        });
        publish(&messages.collect::<Vec<_>>())
    }

    fn power_cut(&mut self, replica: usize, kept: usize) {
        let (store, shard, options) = &mut self.replicas[replica];
        store.lose_unsynced(kept);
        *shard = Shard::open(SHARD, Arc::new(store.clone()), options.clone()).expect("valid rows");
        // From the position on, which may be before what is there.
        let from = shard.applied().saturating_sub(2);
        for (index, (entry, answers)) in (1..).zip(&self.log).skip(usize::try_from(from).unwrap()) {
            let is_new = index > shard.applied();
            let again = shard.apply(index, entry).expect("the entry is valid");
            assert_eq!(again, if is_new { answers.clone() } else { Answers::default().encode() });
        }
        if replica == 0 {
            self.watch_again();
        }
    }

    fn restore(&mut self, replica: usize) {
        let chunks: Vec<_> = self.replicas[1 - replica].1.snapshot().expect("the store takes it").collect();
        let mut chunks = chunks.into_iter().map(|chunk| Ok(chunk.expect("it can be read")));
        let (_, shard, _) = &mut self.replicas[replica];
        shard.restore(position(self.log.len() as u64), &mut chunks).expect("a valid snapshot");
        if replica == 0 {
            self.watch_again();
        }
    }

    /// A new leader asks for what was before.
    fn watch_again(&mut self) {
        let (_, shard, _) = &mut self.replicas[0];
        shard.watch(true);
        self.told.filters.clear();
        shard.for_each_filter(|filter| self.told.filters.push(filter.to_owned()));
        self.told.wills = shard.firing_wills().into_iter().map(|(id, _)| id).collect();
    }

    fn check(&mut self) {
        for (_, shard, _) in &self.replicas {
            shard.check_invariants();
            self.check_replica(shard);
        }
        let changes = self.replicas[0].1.take_changes();
        for (filter, change) in changes.filters {
            match change {
                FilterChange::First => self.told.filters.push(filter.to_string()),
                FilterChange::Last => self.told.filters.retain(|told| **told != *filter),
            }
        }
        self.told.filters.sort();
        assert_eq!(self.told.filters, self.model.filters());
        self.told.wills.extend(changes.wills.iter().map(|(id, _)| *id));
        assert!(self.model.firing.keys().all(|will| self.told.wills.contains(will)));
    }

    fn check_replica(&self, shard: &Shard) {
        assert_eq!(shard.stamp(), self.model.stamp);
        let infos = shard.sessions(None, usize::MAX);
        assert_eq!(infos.len(), self.model.sessions.len());
        for (info, (client, session)) in infos.iter().zip(&self.model.sessions) {
            assert_eq!((info.client.as_str(), info.id), (client.as_str(), session.id));
            assert_eq!(info.owner, session.owner());
            assert_eq!(
                (info.messages, info.bytes),
                (session.queue.len() as u64, session.bytes()),
                "{client}"
            );
            assert_eq!(info.subscriptions, session.subscriptions.len());
            assert_eq!(shard.bounds(info.id), Some((Seq(session.head()), Seq(session.next_seq))));
            check_queue(shard, info.id, &session.deliverable().cloned().collect::<Vec<_>>());
        }
        let mut filters = Vec::new();
        shard.for_each_filter(|filter| filters.push(filter.to_owned()));
        filters.sort();
        assert_eq!(filters, self.model.filters());
        assert_eq!(shard.firing_wills(), self.model.firing.clone().into_iter().collect::<Vec<_>>());
        assert_eq!(shard.first_firing_will(), self.model.firing.keys().next().copied());
        let retained = self.model.retained.values().filter_map(|message| message.expires_at);
        let of_sessions = self.model.sessions.values().filter_map(|session| session.deadline());
        assert_eq!(shard.next_deadline(), of_sessions.chain(retained).min());
        let letters = shard.letters(0, usize::MAX, usize::MAX).expect("valid rows");
        let letters: Vec<(u64, Letter)> = letters.into_iter().map(|it| (it.number, it.letter)).collect();
        assert_eq!(letters, self.model.letters);
        self.check_groups(shard);
        self.check_retained(shard);
    }

    fn check_retained(&self, shard: &Shard) {
        assert_eq!(shard.stats().retained_messages, self.model.retained.len() as u64);
        let now = self.model.stamp + 100;
        for filter in ["#", "t/+", "t/1", "t/#", "+", "u/+"] {
            let is_found = |message: &&ModelMessage| {
                matches(filter, &message.topic) && message.expires_at.is_none_or(|at| at > now)
            };
            let expected: Vec<_> = self.model.retained.values().filter(is_found).cloned().collect();
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let page = shard.retained(filter, after.as_deref(), (2, 60), now).expect("valid rows");
                assert!(page.messages.len() <= 2);
                found.extend(page.messages.iter().map(ModelMessage::of));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(found, expected, "{filter}");
        }
    }

    /// Ends everything: then nothing is left in the stores.
    fn drain(&mut self) {
        let ends = self
            .model
            .sessions
            .values()
            .map(|session| Op::End { connection: session.open.connection.clone() });
        let delete = |topic| Published { retains: true, ..Published::new(topic, "") };
        let mut leaves = [Vec::new(), Vec::new()];
        for (text, group) in &self.model.groups {
            for (shard, session) in group.members.keys() {
                self.letters[usize::from(shard.0)] += 1;
                let letter = Letter::Leave { group: text.as_str().into(), session: *session };
                leaves[usize::from(shard.0)].push((self.letters[usize::from(shard.0)], letter));
            }
        }
        let leaves =
            (0..).zip(leaves).map(|(from, letters)| Op::Letters { from: ShardId(from), after: 0, letters });
        let ops: Vec<Op> = ends.chain([Op::Tick, publish(&TOPICS.map(delete))]).chain(leaves).collect();
        let entry = Entry {
            stamp: self.stamp,
            retained_full: true,
            parts: vec![Part { source: super::harness::member(1), number: 0, ops }],
        };
        self.model.apply(&entry);
        let bytes = entry.encode();
        let index = self.log.len() as u64 + 1;
        for (store, shard, _) in &mut self.replicas {
            shard.apply(index, &bytes).expect("the entry is valid");
            shard.flush().expect("the store takes it");
            let letters = shard.letters(0, usize::MAX, usize::MAX).expect("valid rows");
            let ops = vec![Op::Posted { letters: letters.iter().map(|it| it.number).collect() }];
            let parts = vec![Part { source: super::harness::member(1), number: 0, ops }];
            let entry = Entry { stamp: self.stamp, retained_full: true, parts };
            shard.apply(index + 1, &entry.encode()).expect("the entry is valid");
            shard.flush().expect("the store takes it");
            while shard.stats().trash > 0 {
                shard.flush().expect("the store takes it");
            }
            let rows =
                flotilla_store::Store::scan(store, &SHARD.0.to_be_bytes(), &[0xFF; 4], usize::MAX).unwrap();
            let left = rows.iter().filter(|(key, _)| key.len() > 3 && !matches!(key[6], 8..=10 | 18)).count();
            assert_eq!(left, 0, "rows of sessions and retained messages that are gone");
        }
        self.model.letters.clear();
        self.check();
    }
}

fn check_queue(shard: &Shard, session: SessionId, expected: &[ModelEntry]) {
    let mut queued = Vec::new();
    let mut from = Seq(0);
    loop {
        let page = shard.deliverable(session, from, 5, 150).expect("valid rows");
        let Some(last) = page.last() else { break };
        from = Seq(last.seq().0 + 1);
        queued.extend(page);
    }
    assert_eq!(queued.len(), expected.len());
    for (queued, expected) in queued.iter().zip(expected) {
        assert_eq!(queued.seq().0, expected.seq);
        let Queued::Publish(queued) = queued else {
            assert!(expected.released);
            continue;
        };
        assert!(!expected.released);
        let (message, of) = (&queued.message, &expected.message);
        assert_eq!(
            (queued.qos, queued.retain, queued.expires_at),
            (expected.qos, expected.retain, of.expires_at)
        );
        assert_eq!(ids(&queued.subscription_ids), expected.subscription_ids);
        assert_eq!(&ModelMessage::of(message), of);
    }
}

fn expiry(number: u8) -> SessionExpiry {
    match number % 4 {
        0 => SessionExpiry::AtDisconnect,
        1 => SessionExpiry::After(Duration::from_millis(300)),
        2 => SessionExpiry::After(Duration::from_secs(9)),
        _ => SessionExpiry::Never,
    }
}

fn subscription(filter_number: u8, options: u8, id: u8) -> Subscription {
    let filter = filter(FILTERS[usize::from(filter_number) % 8]);
    let options = SubscriptionOptions {
        qos: [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(options) % 3],
        no_local: options & 0b100 != 0 && !filter.is_shared(),
        retain_as_published: options & 0b1000 != 0,
        retain_handling: RetainHandling::Send,
    };
    Subscription { filter, options, id: NonZeroU32::new(u32::from(id % 4) * 100) }
}

fn direct(connection: Connection, [_, _, c, d, e, f]: [u8; 6]) -> Op {
    let id = NonZeroU32::new(u32::from(e % 3));
    Op::Direct {
        connection,
        options: DeliveryOptions {
            qos: [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(c) % 3],
            retain: d % 2 == 0,
            subscription_ids: id.map_or(SubscriptionIds::None, SubscriptionIds::One),
            shared: None,
        },
        message: message("t/1", "retained"),
        expires_in: (f % 3 == 0).then_some(Duration::from_millis(f.into())),
    }
}

proptest! {
    #[test]
    fn a_shard_agrees_with_the_model(steps in vec(step(), 1..60)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
            world.check();
        }
        world.drain();
    }
}
