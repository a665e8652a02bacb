//! What the tests of whole shards have in common.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_lane::{Batch, BatchWriter, Forwarded, Frame, Origin, Texts};
use flotilla_mqtt::{
    Message, PacketId, QoS, Timestamp, Transit,
    packet::SubscriptionOptions,
    session::{ClientId, QueueFull, SessionExpiry, Subscription},
    topic::TopicFilter,
};
use flotilla_state::{ConnectionEpoch, Incarnation, Member, NodeId, ShardEpoch, ShardId};
use flotilla_store::{MemoryStore, Store};

use crate::{
    Answer, Answers, Connection, Entry, GroupStrategy, Op, Open, OpenedSession, Options, Overlap, Part,
    PartAnswer, QueueLimits, Queued, Seq, SessionId, Shard, Will, WillFate,
};

pub(super) const SHARD: ShardId = ShardId(0x0102);

/// A shard and its store, whose log goes on by itself.
pub(super) struct Replica {
    pub(super) store: MemoryStore,
    pub(super) shard: Shard,
    pub(super) stamp: u64,
    pub(super) retained_full: bool,
}

impl Replica {
    pub(super) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(super) fn with(options: Options) -> Self {
        let store = MemoryStore::new();
        let mut shard = Shard::open(SHARD, Arc::new(store.clone()), options).expect("an empty store");
        shard.watch(true);
        Self { store, shard, stamp: 1_000, retained_full: false }
    }

    /// Applies an entry of the leader's own ops and checks the shard.
    pub(super) fn apply(&mut self, ops: Vec<Op>) -> Vec<Answer> {
        let part = Part { source: member(1), number: 0, ops };
        self.apply_parts(vec![part]).pop().map_or_else(Vec::new, |answer| match answer {
            PartAnswer::Applied(answers) => answers,
            refused => panic!("{refused:?}"),
        })
    }

    pub(super) fn apply_parts(&mut self, parts: Vec<Part>) -> Vec<PartAnswer> {
        let index = self.shard.applied() + 1;
        let entry = Entry { stamp: self.stamp, retained_full: self.retained_full, parts }.encode();
        let answers = self.shard.apply(index, &entry).expect("the entry is valid");
        self.shard.set_position(position(index));
        self.shard.check_invariants();
        Answers::decode(&answers).expect("answers are valid").parts
    }

    pub(super) fn one(&mut self, op: Op) -> Answer {
        self.apply(vec![op]).pop().expect("an answer for each op")
    }

    pub(super) fn open(&mut self, open: Open) -> (bool, Option<OpenedSession>) {
        match self.one(Op::Open(Box::new(open))) {
            Answer::Opened(opened) => (opened.present, opened.session),
            answer => panic!("{answer:?}"),
        }
    }

    /// A durable session with one subscription of QoS 2, whose client is connected.
    pub(super) fn subscriber(&mut self, client: &str, filter: &str) -> SessionId {
        let (_, session) = self.open(open(client, 1));
        self.one(subscribe(client, 1, &[(filter, 2)]));
        session.expect("it is durable").id
    }

    pub(super) fn close(&mut self, client: &str, epoch: u64, will: WillFate) {
        let connection = connection(client, epoch);
        let (expiry, sent_until, stored) = (SessionExpiry::Never, Seq(1), Vec::new());
        let close = Op::Close { connection, expiry, will, sent_until, stored };
        assert_eq!(self.one(close), Answer::Done);
    }

    pub(super) fn flush(&mut self) {
        self.shard.flush().expect("the store takes it");
        self.shard.check_invariants();
    }

    /// The shard is opened again; what was not flushed is gone.
    pub(super) fn reopen(&mut self) {
        self.shard =
            Shard::open(SHARD, Arc::new(self.store.clone()), Options::default()).expect("valid rows");
        self.shard.watch(true);
        self.shard.check_invariants();
    }

    pub(super) fn all(&self, session: SessionId) -> Vec<Queued> {
        self.shard.deliverable(session, Seq(0), usize::MAX, usize::MAX).expect("valid rows")
    }

    /// The places and payloads of what is to be delivered; a released one has no payload.
    pub(super) fn payloads(&self, session: SessionId) -> Vec<(u64, String)> {
        let text = |queued: &Queued| match queued {
            Queued::Publish(message) => String::from_utf8_lossy(message.message.payload()).into_owned(),
            Queued::Release { .. } => String::new(),
        };
        self.all(session).iter().map(|queued| (queued.seq().0, text(queued))).collect()
    }

    /// How many rows the store has, by tag; the header is not counted.
    pub(super) fn rows(&self) -> Vec<(u8, usize)> {
        let rows = self.store.scan(&SHARD.0.to_be_bytes(), &[0xFF; 4], usize::MAX).expect("it can be read");
        let mut counts: Vec<(u8, usize)> = Vec::new();
        for (key, _) in rows.iter().filter(|(key, _)| key.len() > 3) {
            match counts.last_mut().filter(|(tag, _)| *tag == key[6]) {
                Some((_, count)) => *count += 1,
                None => counts.push((key[6], 1)),
            }
        }
        counts
    }
}

pub(super) fn position(index: u64) -> Bytes {
    Bytes::copy_from_slice(format!("at {index}").as_bytes())
}

pub(super) fn member(node: u64) -> Member {
    Member { node: NodeId(node), incarnation: Incarnation(1) }
}

pub(super) fn connection(client: &str, epoch: u64) -> Connection {
    let client = ClientId::new(client).expect("not empty");
    Connection { client, epoch: ConnectionEpoch { shard: ShardEpoch(1), sequence: epoch }, turn: 0 }
}

/// A CONNECT that keeps its session for ever.
pub(super) fn open(client: &str, epoch: u64) -> Open {
    Open {
        connection: connection(client, epoch),
        clean_start: false,
        only_present: false,
        expiry: SessionExpiry::Never,
        window: 3,
        queue: QueueLimits { messages_max: 1_000_000, bytes_max: 1 << 40, full: QueueFull::DropNewest },
        awaiting_rel_max: 4,
        queue_qos0: false,
        overlap: Overlap::Merge,
        group_strategy: GroupStrategy::RoundRobin,
        will: None,
    }
}

pub(super) fn will(topic: &str, delay_secs: u64) -> Will {
    Will { message: message(topic, "gone"), delay: Duration::from_secs(delay_secs), expiry: None }
}

pub(super) fn message(topic: &str, payload: &str) -> Arc<Message> {
    Arc::new(Message {
        topic: topic.into(),
        properties: Bytes::new(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos: QoS::ExactlyOnce,
        retain: false,
        expires_at: None,
        publisher: None,
    })
}

pub(super) fn filter(text: &str) -> Arc<TopicFilter> {
    Arc::new(TopicFilter::parse(text, 128).expect("valid"))
}

pub(super) fn subscription(text: &str, qos: u8, id: u32) -> Subscription {
    let qos = QoS::from_u8(qos).expect("a QoS");
    let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
    Subscription { filter: filter(text), options, id: NonZeroU32::new(id) }
}

/// Subscriptions with a QoS each.
pub(super) fn subscribe(client: &str, epoch: u64, filters: &[(&str, u8)]) -> Op {
    Op::Subscribe {
        connection: connection(client, epoch),
        subscriptions: filters.iter().map(|(text, qos)| subscription(text, *qos, 0)).collect(),
    }
}

pub(super) fn done(client: &str, seqs: impl IntoIterator<Item = u64>) -> Op {
    Op::Acknowledge {
        connection: connection(client, 1),
        released: Vec::new(),
        done: seqs.into_iter().map(Seq).collect(),
    }
}

pub(super) fn released(client: &str, seqs: impl IntoIterator<Item = u64>) -> Op {
    Op::Acknowledge {
        connection: connection(client, 1),
        released: seqs.into_iter().map(Seq).collect(),
        done: Vec::new(),
    }
}

/// A message to be published.
#[derive(Debug, Clone)]
pub(super) struct Published {
    pub(super) origin: Option<Origin>,
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// Whether the shard keeps it for later subscriptions.
    pub(super) retains: bool,
    pub(super) publisher: Option<String>,
    pub(super) expires_in: Option<u64>,
}

impl Published {
    pub(super) fn new(topic: &str, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            origin: None,
            topic: topic.to_owned(),
            payload: payload.into(),
            qos: QoS::ExactlyOnce,
            retain: false,
            retains: false,
            publisher: None,
            expires_in: None,
        }
    }
}

pub(super) fn publish(messages: &[Published]) -> Op {
    let mut writer = BatchWriter::new();
    for published in messages {
        let publisher = published.publisher.as_deref().and_then(ClientId::new);
        let expires_at = published.expires_in.map(Timestamp::from_millis);
        let transit = Transit::new(
            &published.topic,
            b"\x01\x01",
            &published.payload,
            published.qos,
            published.retain,
            expires_at,
            publisher.as_ref(),
            None,
        );
        let message = Forwarded::new(&transit, Timestamp::ORIGIN);
        writer.push(&Frame::Store {
            origin: published.origin,
            retains: published.retains,
            without: Texts::default(),
            message,
        });
    }
    let batch: Batch = writer.take().expect("there are messages");
    Op::Publish { batch }
}

/// One message.
pub(super) fn say(topic: &str, payload: &str) -> Op {
    publish(&[Published::new(topic, payload)])
}

pub(super) fn packet(id: u16) -> PacketId {
    PacketId::new(id).expect("not zero")
}
