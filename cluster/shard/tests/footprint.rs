//! What a session takes in memory, and what a message does that is in the store.

use std::{alloc::System, num::NonZeroU32, sync::Arc};

use bytes::Bytes;
use flotilla_lane::{BatchWriter, Forwarded, Frame, Texts};
use flotilla_mqtt::{
    QoS, Timestamp, Transit,
    packet::SubscriptionOptions,
    session::{ClientId, QueueFull, SessionExpiry, Subscription},
    topic::TopicFilter,
};
use flotilla_shard::{
    Connection, Entry, GroupStrategy, Op, Open, Options, Overlap, Part, QueueLimits, Seq, Shard, WillFate,
};
use flotilla_state::{ConnectionEpoch, Incarnation, Member, NodeId, ShardEpoch, ShardId};
use flotilla_store::{Change, Item, Store, StoreError, StoreStatus, View};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[path = "../../../src/scale/constants.rs"]
#[allow(dead_code, reason = "the page that has them needs the rest")]
mod constants;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A store that forgets: its own memory must not be counted.
#[derive(Debug)]
struct Nowhere;

impl Store for Nowhere {
    fn value(&self, _: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(None)
    }

    fn scan(&self, _: &[u8], _: &[u8], _: usize) -> Result<Vec<Item>, StoreError> {
        Ok(Vec::new())
    }

    fn write(&self, _: Vec<Change>) -> Result<(), StoreError> {
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn view(&self) -> Result<Box<dyn View>, StoreError> {
        Err(std::io::Error::other("there is nothing to view").into())
    }

    fn is_nearly_full(&self) -> bool {
        false
    }

    fn status(&self) -> StoreStatus {
        StoreStatus::default()
    }
}

const SESSIONS: u64 = 20_000;
const MEMBER: Member = Member { node: NodeId(1), incarnation: Incarnation(1) };

fn connection(number: u64) -> Connection {
    // They do not come in the order of their names.
    let number = number * 7_919 % SESSIONS;
    let client = ClientId::new(&format!("device-{number:012}")).expect("not empty");
    Connection { client, epoch: ConnectionEpoch { shard: ShardEpoch(1), sequence: number }, turn: 0 }
}

fn topic(number: u64) -> String {
    format!("device/{number:012}/orders")
}

fn open(number: u64) -> Op {
    Op::Open(Box::new(Open {
        connection: connection(number),
        clean_start: false,
        only_present: false,
        expiry: SessionExpiry::from_secs(7_200),
        window: 32,
        queue: QueueLimits { messages_max: 1_000, bytes_max: 16 << 20, full: QueueFull::DropNewest },
        awaiting_rel_max: 100,
        queue_qos0: false,
        overlap: Overlap::Merge,
        group_strategy: GroupStrategy::RoundRobin,
        will: None,
    }))
}

fn subscribe(number: u64) -> Op {
    let filter = Arc::new(TopicFilter::parse(&topic(number), 9).expect("valid"));
    let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() };
    let subscriptions = vec![Subscription { filter, options, id: NonZeroU32::new(1) }];
    Op::Subscribe { connection: connection(number), subscriptions }
}

fn close(number: u64) -> Op {
    Op::Close {
        connection: connection(number),
        expiry: SessionExpiry::from_secs(7_200),
        will: WillFate::Drop,
        sent_until: Seq(1),
        stored: Vec::new(),
    }
}

fn publish(number: u64) -> Op {
    let topic = topic(number);
    let message = Transit::new(&topic, b"", &[7; 256], QoS::AtLeastOnce, false, None, None, None);
    let mut writer = BatchWriter::new();
    writer.push(&Frame::Store {
        origin: None,
        retains: false,
        without: Texts::default(),
        message: Forwarded::new(&message, Timestamp::ORIGIN),
    });
    Op::Publish { batch: writer.take().expect("there is a message") }
}

/// Applies an op for each session, flushes, and tells how many bytes more there are for each.
fn grown(shard: &mut Shard, op: impl Fn(u64) -> Vec<Op>) -> usize {
    let region = Region::new(ALLOCATOR);
    for number in 0..SESSIONS {
        let entry = Entry {
            stamp: 1,
            retained_full: false,
            parts: vec![Part { source: MEMBER, number: 0, ops: op(number) }],
        };
        shard.apply(shard.applied() + 1, &entry.encode()).expect("the entry is valid");
    }
    shard.flush().expect("the store takes it");
    let change = region.change();
    change.bytes_allocated.saturating_sub(change.bytes_deallocated)
        / usize::try_from(SESSIONS).expect("it is small")
}

#[test] // One test, for allocations are counted in the whole process.
fn sessions_and_stored_messages_are_small() {
    let mut shard = Shard::open(ShardId(1), Arc::new(Nowhere), Options::default()).expect("it is empty");
    let attached = grown(&mut shard, |number| vec![open(number), subscribe(number)]);
    println!("a session with one subscription: {attached} bytes");
    // Of these, 71 are the bytes of its texts: its name, and its filter twice.
    assert!(attached <= 440, "a session with one subscription takes {attached} bytes");
    assert!(constants::SESSION.agrees_with(attached as f64), "{attached} bytes");
    let away = grown(&mut shard, |number| vec![close(number)]);
    println!("more while its client is away: {away} bytes");
    assert!(away <= 48, "a session whose client is away takes {away} bytes more");
    let inbox = grown(&mut shard, |number| vec![publish(number); 64]);
    println!("an inbox with 64 messages in the store: {inbox} bytes");
    assert!(inbox <= 64 * 4 + 200, "64 messages in the store take {inbox} bytes");
}
