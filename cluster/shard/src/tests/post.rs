//! Several shards that exchange letters through a post that is late, repeats itself and loses things: each message of a group
//! goes to one member, and what is under way arrives in the end.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use flotilla_mqtt::{
    QoS,
    session::{QueueFull, SessionExpiry},
    topic::TopicFilter,
};
use flotilla_state::ShardId;
use flotilla_store::{MemoryStore, Store};
use proptest::{collection::vec, prelude::*};

use super::harness::{Published, connection, filter, member, open, position, publish, subscription};
use crate::{
    Answer, Answers, Entry, GroupStrategy, Letter, Op, Open, Options, Part, PartAnswer, QueueLimits, Queued,
    Seq, SessionId, Shard, To, WillFate,
};

const SHARDS: usize = 3;
const CLIENTS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// The client with the number of a group never leaves it. Two of the groups are in one shard.
const GROUPS: [&str; 3] = ["$share/g/t/+", "$share/h/t/1", "$queue/u"];
const TOPICS: [&str; 3] = ["t/1", "t/2", "u"];

/// What happens, and numbers that mean something where it happens.
type Step = (u8, [u8; 4]);

/// A shard: its log and two replicas.
struct Node {
    log: Vec<Bytes>,
    replicas: [(MemoryStore, Shard, Options); 2],
    /// The last letter that its leader has sent.
    sent: u64,
}

/// Letters on their way, those that were sent together.
/// With the number of the letter before them.
type Mail = VecDeque<(u64, Vec<(u64, Letter)>)>;

/// A client and what it knows.
#[derive(Default)]
struct Client {
    epoch: u64,
    is_attached: bool,
    session: Option<SessionId>,
    groups: BTreeSet<usize>,
    /// Everything before it was sent on this connection.
    sent_until: u64,
}

/// A message of a group: the number of the group, and of the message.
type Name = (usize, u64);
/// A place in the inbox of a client: its number, its session and the place.
type Place = (usize, SessionId, u64);

#[derive(Default)]
struct Oracle {
    published: BTreeMap<Name, bool>,
    /// Where messages were sent at QoS 2: they must be sent nowhere else.
    exact: BTreeMap<Name, Place>,
    finished: BTreeSet<Name>,
    /// What a session had that has ended: nobody else may get it.
    excused: BTreeSet<Name>,
}

struct World {
    nodes: Vec<Node>,
    /// From one shard to another, of each life of the leader.
    post: BTreeMap<(usize, usize), VecDeque<Mail>>,
    /// The last letter that the present leader of the one has sent to the other.
    sent_to: BTreeMap<(usize, usize), u64>,
    clients: Vec<Client>,
    stamp: u64,
    messages: u64,
    oracle: Oracle,
}

fn id(shard: usize) -> ShardId {
    ShardId(u16::try_from(shard).expect("few"))
}

impl Node {
    fn new(shard: usize) -> Self {
        let options = [
            Options::default(),
            Options { dirty_bytes_soft: 900, references_read_max: 1, ..Options::default() },
        ];
        let replicas = options.map(|options| {
            let store = MemoryStore::new();
            let shard =
                Shard::open(id(shard), Arc::new(store.clone()), options.clone()).expect("an empty store");
            (store, shard, options)
        });
        Self { log: Vec::new(), replicas, sent: 0 }
    }

    fn shard(&self) -> &Shard {
        &self.replicas[0].1
    }

    fn apply(&mut self, stamp: u64, source: usize, ops: Vec<Op>) -> Vec<Answer> {
        let parts = vec![Part { source: member(source as u64 + 1), number: 0, ops }];
        let entry = Entry { stamp, retained_full: false, parts };
        let bytes = entry.encode();
        assert_eq!(Entry::decode(&bytes).as_ref(), Ok(&entry));
        self.log.push(bytes.clone());
        let index = self.log.len() as u64;
        let [one, other] = self.replicas.each_mut().map(|(_, shard, _)| {
            let answers = shard.apply(index, &bytes).expect("the entry is valid");
            shard.set_position(position(index));
            shard.check_invariants();
            answers
        });
        assert_eq!(one, other);
        if index.is_multiple_of(3) {
            self.check();
        }
        match Answers::decode(&one).expect("answers are valid").parts.pop() {
            Some(PartAnswer::Applied(answers)) => answers,
            other => panic!("{other:?}"),
        }
    }

    /// The replicas are equal, whatever happened to each of them.
    fn check(&self) {
        let [(_, one, _), (_, other, _)] = &self.replicas;
        let seen = |shard: &Shard| {
            let sessions = shard.sessions(None, usize::MAX);
            let inbox =
                |session| shard.deliverable(session, Seq(0), usize::MAX, usize::MAX).expect("valid rows");
            let inboxes: Vec<_> = sessions.iter().map(|info| inbox(info.id)).collect();
            let letters = shard.letters(0, usize::MAX, usize::MAX).expect("valid rows");
            let stats = shard.stats();
            let figures = [stats.groups, stats.group_members, stats.loans, stats.borrowed, stats.letters];
            let groups = shard.groups(None, usize::MAX);
            (
                sessions,
                inboxes,
                letters,
                groups,
                figures,
                shard.last_letter(),
                shard.first_unposted_membership(),
            )
        };
        assert_eq!(seen(one), seen(other));
    }

    fn power_cut(&mut self, shard: usize, replica: usize, kept: usize) {
        let (store, kept_shard, options) = &mut self.replicas[replica];
        store.lose_unsynced(kept);
        *kept_shard = Shard::open(id(shard), Arc::new(store.clone()), options.clone()).expect("valid rows");
        let from = usize::try_from(kept_shard.applied()).expect("short");
        for (index, entry) in (1..).zip(&self.log).skip(from) {
            kept_shard.apply(index, entry).expect("the entry is valid");
        }
        kept_shard.check_invariants();
        self.check();
    }

    fn restore(&mut self, replica: usize) {
        let chunks: Vec<_> = self.replicas[1 - replica].1.snapshot().expect("the store takes it").collect();
        let mut chunks = chunks.into_iter().map(|chunk| Ok(chunk.expect("it can be read")));
        let shard = &mut self.replicas[replica].1;
        shard.restore(position(self.log.len() as u64), &mut chunks).expect("a valid snapshot");
        shard.check_invariants();
        self.check();
    }
}

impl World {
    fn new(strategy: u8) -> Self {
        let mut world = Self {
            nodes: (0..SHARDS).map(Node::new).collect(),
            post: BTreeMap::new(),
            sent_to: BTreeMap::new(),
            clients: CLIENTS.iter().map(|_| Client::default()).collect(),
            stamp: 10_000,
            messages: 0,
            oracle: Oracle::default(),
        };
        for anchor in 0..GROUPS.len() {
            world.connect(anchor, [strategy, 2, 0, 0]);
            world.subscribe(anchor, anchor, 2);
        }
        world.post_all();
        world
    }

    fn take(&mut self, (kind, bytes): Step) {
        let [a, b, c, d] = bytes;
        let (client, shard) = (usize::from(a) % CLIENTS.len(), usize::from(a) % SHARDS);
        match kind {
            0..5 => self.publish(bytes),
            5..9 => self.send(shard, usize::from(b % 7) + 1, usize::from(c) * 4 + 1),
            9..14 if d % 16 == 4 => self.lose((shard, usize::from(b) % SHARDS), usize::from(c)),
            9..14 => self.deliver((shard, usize::from(b) % SHARDS), usize::from(c), d % 4 > 0),
            14 => self.lead_anew(shard, b % 2 == 0),
            15..20 => self.work(client, usize::from(b % 4), c, d),
            20 => self.close(client, SessionExpiry::Never),
            21 => self.breaks(client),
            22..24 => self.connect(client, [b, c, d, 1]),
            24 => self.end(client, b),
            25 => self.subscribe(client, usize::from(b) % GROUPS.len(), c % 2 + 1),
            26 => self.unsubscribe(client, usize::from(b) % GROUPS.len()),
            27 => self.nodes[shard].replicas[usize::from(b) % 2].1.flush().expect("the store takes it"),
            28 => self.nodes[shard].replicas[usize::from(b) % 2].0.sync().expect("the store syncs"),
            29 => self.nodes[shard].power_cut(shard, usize::from(b) % 2, usize::from(c % 4)),
            30 => self.nodes[shard].restore(usize::from(b) % 2),
            _ => self.stamp += u64::from(b % 50),
        }
    }

    fn apply(&mut self, shard: usize, source: usize, op: Op) -> Answer {
        let stamp = self.stamp;
        self.nodes[shard].apply(stamp, source, vec![op]).pop().expect("an answer for each op")
    }

    /// What is published comes to all shards.
    fn publish(&mut self, [a, b, c, d]: [u8; 4]) {
        let topic = TOPICS[usize::from(a) % 3];
        let qos = if c % 3 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        let expires_in = (d % 16 == 0).then_some(u64::from(c));
        let mut messages = Vec::new();
        for _ in 0..=b % 5 {
            self.messages += 1;
            let payload = self.messages.to_string();
            let publisher = Some(format!("p{}", d % 3));
            messages.push(Published { qos, expires_in, publisher, ..Published::new(topic, payload) });
            for (group, text) in GROUPS.iter().enumerate() {
                if TopicFilter::parse(text, 9).expect("valid").matches(topic) {
                    self.oracle.published.insert((group, self.messages), expires_in.is_some());
                }
            }
        }
        for shard in 0..SHARDS {
            self.apply(shard, shard, publish(&messages));
        }
    }

    /// The leader of a shard sends what it has not sent.
    fn send(&mut self, shard: usize, count: usize, bytes: usize) {
        let node = &mut self.nodes[shard];
        let letters = node.shard().letters(node.sent, count, bytes).expect("valid rows");
        let mut mail: BTreeMap<usize, Vec<(u64, Letter)>> = BTreeMap::new();
        for outbound in letters {
            node.sent = outbound.number;
            let to = match &outbound.to {
                To::Group(text) => {
                    GROUPS.iter().position(|group| *group == &**text).expect("one of them") / 2
                }
                To::Shard(shard) => usize::from(shard.0),
            };
            mail.entry(to).or_default().push((outbound.number, outbound.letter));
        }
        for (to, letters) in mail {
            let lives = self.post.entry((shard, to)).or_default();
            if lives.is_empty() {
                lives.push_back(Mail::new());
            }
            let last = letters.last().map_or(0, |(number, _)| *number);
            let after = self.sent_to.insert((shard, to), last).unwrap_or(0);
            lives.back_mut().expect("there is one").push_back((after, letters));
        }
    }

    /// Letters come, of one life of a leader in order; and the leader hears of it, or not.
    fn deliver(&mut self, (from, to): (usize, usize), life: usize, is_heard: bool) {
        let Some(lives) = self.post.get_mut(&(from, to)).filter(|lives| !lives.is_empty()) else { return };
        let life = life % lives.len();
        let Some((after, letters)) = lives[life].pop_front() else { return };
        let numbers = letters.iter().map(|(number, _)| *number).collect();
        let answer = self.apply(to, to, Op::Letters { from: id(from), after, letters });
        if is_heard && answer == Answer::Done {
            self.apply(from, from, Op::Posted { letters: numbers });
        }
    }

    /// Letters do not come, and those behind them do.
    fn lose(&mut self, (from, to): (usize, usize), life: usize) {
        if let Some(lives) = self.post.get_mut(&(from, to)).filter(|lives| !lives.is_empty()) {
            let life = life % lives.len();
            lives[life].pop_front();
        }
    }

    /// Another leader sends everything again. What the one before has sent is late, or lost.
    fn lead_anew(&mut self, shard: usize, is_lost: bool) {
        self.nodes[shard].sent = 0;
        for to in 0..SHARDS {
            self.sent_to.remove(&(shard, to));
            let lives = self.post.entry((shard, to)).or_default();
            if is_lost {
                lives.clear();
            }
            lives.push_back(Mail::new());
            while lives.len() > 3 {
                lives.pop_front();
            }
        }
    }

    fn shard_of(client: usize) -> usize {
        client % SHARDS
    }

    fn connect(&mut self, client: usize, [a, b, c, _]: [u8; 4]) {
        let own = &mut self.clients[client];
        own.epoch += 1;
        let strategies = [
            GroupStrategy::RoundRobin,
            GroupStrategy::Random,
            GroupStrategy::HashClientid,
            GroupStrategy::HashTopic,
            GroupStrategy::Sticky,
            GroupStrategy::LeastInflight,
        ];
        let open = Open {
            window: if b == u8::MAX { 500 } else { u16::from(b % 3) + 1 },
            queue: QueueLimits { messages_max: 10_000, bytes_max: 1 << 30, full: QueueFull::DropNewest },
            group_strategy: strategies[usize::from(a) % 6],
            clean_start: c % 16 == 1 && client >= GROUPS.len(),
            ..open(CLIENTS[client], own.epoch)
        };
        if open.clean_start {
            self.ends(client);
        }
        let answer = self.apply(Self::shard_of(client), client, Op::Open(Box::new(open)));
        let Answer::Opened(opened) = answer else { panic!("{answer:?}") };
        let session = opened.session.expect("it is durable");
        let own = &mut self.clients[client];
        (own.session, own.is_attached, own.sent_until) = (Some(session.id), true, session.head.0);
    }

    /// The client's own view of its session: what is to be delivered.
    fn inbox(&self, client: usize) -> Vec<Queued> {
        let Some(session) = self.clients[client].session else { return Vec::new() };
        let shard = self.nodes[Self::shard_of(client)].shard();
        shard.deliverable(session, Seq(0), usize::MAX, usize::MAX).expect("valid rows")
    }

    fn name(queued: &crate::QueuedMessage) -> Name {
        let ids = super::model::ids(&queued.subscription_ids);
        let payload = std::str::from_utf8(queued.message.payload()).expect("a number");
        (ids[0] as usize - 1, payload.parse().expect("a number"))
    }

    /// The session of a client ends with all that it has.
    fn ends(&mut self, client: usize) {
        for queued in self.inbox(client) {
            if let Queued::Publish(message) = queued
                && message.qos == QoS::ExactlyOnce
            {
                self.oracle.excused.insert(Self::name(&message));
            }
        }
        let own = &mut self.clients[client];
        (own.session, own.is_attached) = (None, false);
        own.groups.clear();
    }

    fn close(&mut self, client: usize, expiry: SessionExpiry) {
        let own = &mut self.clients[client];
        if !own.is_attached {
            return;
        }
        own.is_attached = false;
        let connection = connection(CLIENTS[client], own.epoch);
        let (will, sent_until) = (WillFate::Drop, Seq(own.sent_until));
        self.apply(
            Self::shard_of(client),
            client,
            Op::Close { connection, expiry, will, sent_until, stored: Vec::new() },
        );
    }

    fn breaks(&mut self, client: usize) {
        self.clients[client].is_attached = false;
        let member = member(client as u64 + 1);
        self.apply(Self::shard_of(client), client, Op::MemberEnded { member });
    }

    fn end(&mut self, client: usize, how: u8) {
        if client < GROUPS.len() || self.clients[client].session.is_none() {
            return;
        }
        self.ends(client);
        let shard = Self::shard_of(client);
        let connection = connection(CLIENTS[client], self.clients[client].epoch);
        match how % 3 {
            0 => drop(self.apply(shard, client, Op::End { connection })),
            how => {
                let expiry = if how == 1 {
                    SessionExpiry::AtDisconnect
                } else {
                    SessionExpiry::After(Duration::from_millis(5))
                };
                let (will, sent_until) = (WillFate::Keep, Seq(self.clients[client].sent_until));
                let stored = Vec::new();
                self.apply(
                    shard,
                    client,
                    Op::Close { connection: connection.clone(), expiry, will, sent_until, stored },
                );
                self.stamp += 5;
                self.apply(shard, client, Op::Tick);
                // One that was away has not been told.
                self.apply(shard, client, Op::End { connection });
            }
        }
    }

    fn subscribe(&mut self, client: usize, group: usize, qos: u8) {
        let own = &mut self.clients[client];
        if own.session.is_some() {
            own.groups.insert(group);
            let connection = connection(CLIENTS[client], own.epoch);
            let id = u32::try_from(group).expect("few") + 1;
            let subscriptions = vec![subscription(GROUPS[group], qos, id)];
            self.apply(Self::shard_of(client), client, Op::Subscribe { connection, subscriptions });
        }
    }

    fn unsubscribe(&mut self, client: usize, group: usize) {
        if group != client && self.clients[client].groups.remove(&group) {
            let connection = connection(CLIENTS[client], self.clients[client].epoch);
            let filters = vec![filter(GROUPS[group])];
            self.apply(Self::shard_of(client), client, Op::Unsubscribe { connection, filters });
        }
    }

    /// A client is sent some of what it has, and acknowledges some of that.
    fn work(&mut self, client: usize, sends: usize, acknowledges: u8, whether: u8) {
        if !self.clients[client].is_attached {
            return;
        }
        let session = self.clients[client].session.expect("who is attached has one");
        let (mut released, mut done) = (Vec::new(), Vec::new());
        for queued in self.inbox(client).into_iter().take(sends) {
            let seq = queued.seq();
            self.clients[client].sent_until = self.clients[client].sent_until.max(seq.0 + 1);
            let is_acknowledged = acknowledges & 1 << (seq.0 % 8) != 0;
            match queued {
                Queued::Release { .. } if is_acknowledged => done.push(seq),
                Queued::Release { .. } => {}
                Queued::Publish(message) => {
                    let name = Self::name(&message);
                    let place = (client, session, seq.0);
                    let exact = *self.oracle.exact.get(&name).unwrap_or(&place);
                    assert_eq!(exact, place, "{name:?} is known to somebody [MQTT-4.8.2-5]");
                    if message.qos == QoS::ExactlyOnce {
                        self.oracle.exact.insert(name, place);
                    }
                    if is_acknowledged {
                        assert!(self.oracle.finished.insert(name), "{name:?} is acknowledged once");
                        // A client may say that it wants no more of a message of QoS 2.
                        let releases = message.qos == QoS::ExactlyOnce && !whether.is_multiple_of(4);
                        if releases { released.push(seq) } else { done.push(seq) }
                    }
                }
            }
        }
        let connection = connection(CLIENTS[client], self.clients[client].epoch);
        self.apply(Self::shard_of(client), client, Op::Acknowledge { connection, released, done });
    }

    /// Everything that is told comes.
    fn post_all(&mut self) {
        for _ in 0..100 {
            for shard in 0..SHARDS {
                self.lead_anew(shard, true);
                self.send(shard, usize::MAX, usize::MAX);
                (0..SHARDS).for_each(|to| self.deliver((shard, to), 0, true));
            }
            if self.nodes.iter().all(|node| node.shard().stats().letters == 0) {
                return;
            }
        }
        panic!("letters that are never told");
    }

    fn sum(&self, figure: impl Fn(&crate::Stats) -> u64) -> u64 {
        self.nodes.iter().map(|node| figure(&node.shard().stats())).sum()
    }

    /// All clients that are left come back and take what there is.
    fn drain(mut self) {
        for client in 0..CLIENTS.len() {
            if self.clients[client].session.is_some() {
                self.connect(client, [0, u8::MAX, 0, 0]);
            }
        }
        for _ in 0..1_000 {
            self.post_all();
            if self.sum(|stats| stats.queued_messages) == 0 {
                break;
            }
            (0..CLIENTS.len()).for_each(|client| self.work(client, usize::MAX, 0xFF, 1));
        }
        for (name, expires) in &self.oracle.published {
            let is_over = self.oracle.finished.contains(name) || self.oracle.excused.contains(name);
            assert!(is_over || *expires, "{name:?} is lost");
        }
        assert_eq!(self.sum(|stats| stats.queued_messages + stats.loans + stats.borrowed + stats.letters), 0);
        for client in 0..CLIENTS.len() {
            self.close(client, SessionExpiry::AtDisconnect);
        }
        self.post_all();
        assert_eq!(self.sum(|stats| stats.groups + stats.group_members + stats.sessions + stats.filters), 0);
        for (shard, node) in self.nodes.iter_mut().enumerate() {
            let (store, replica, _) = &mut node.replicas[1];
            replica.flush().expect("the store takes it");
            while replica.stats().trash > 0 {
                replica.flush().expect("the store takes it");
            }
            let rows =
                store.scan(&id(shard).0.to_be_bytes(), &[0xFF; 4], usize::MAX).expect("it can be read");
            let left = rows.iter().filter(|(key, _)| key.len() > 3 && !matches!(key[6], 8 | 9 | 18)).count();
            assert_eq!(left, 0, "rows of what is over");
        }
    }
}

proptest! {
    #[test]
    fn each_message_goes_to_one_member(
        strategy in 0..6_u8,
        steps in vec((0..33_u8, any::<[u8; 4]>()), 1..150),
    ) {
        let mut world = World::new(strategy);
        for step in steps {
            world.take(step);
        }
        world.drain();
    }
}
