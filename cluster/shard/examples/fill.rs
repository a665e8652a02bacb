//! How fast a shard takes messages for clients that are away, and gives them out again.
//!
//! `cargo run --release -p flotilla-shard --example fill [memory | <directory>] [messages]`
#![expect(clippy::disallowed_methods, reason = "it measures")]

use std::{
    num::NonZeroU32,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use flotilla_lane::{BatchWriter, Forwarded, Frame, Texts};
use flotilla_mqtt::{
    QoS, Timestamp, Transit,
    packet::SubscriptionOptions,
    session::{ClientId, QueueFull, SessionExpiry, Subscription},
    topic::TopicFilter,
};
use flotilla_shard::{
    Connection, Entry, GroupStrategy, Op, Open, Options, Overlap, Part, QueueLimits, Queued, Seq, Shard,
    WillFate,
};
use flotilla_state::{ConnectionEpoch, Incarnation, Member, NodeId, ShardEpoch, ShardId};
use flotilla_store::{FjallStore, MemoryStore, Store, StoreOptions};

const SESSIONS: u64 = 500;
const PER_ENTRY: u64 = 128;
const PAYLOAD: [u8; 256] = [7; 256];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let place = arguments.next().unwrap_or_else(|| "memory".to_owned());
    let messages: u64 = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(1_000_000);
    let store: Arc<dyn Store> = if place == "memory" {
        Arc::new(MemoryStore::new())
    } else {
        Arc::new(FjallStore::open(Path::new(&place), &StoreOptions::default()).expect("the store opens"))
    };
    let mut shard = Shard::open(ShardId(1), Arc::clone(&store), Options::default()).expect("the shard opens");
    let mut bench = Bench { index: shard.applied() };
    let sessions: Vec<Op> = (0..SESSIONS).flat_map(session).collect();
    bench.apply(&mut shard, &sessions.chunks(1_000).map(|ops| entry(ops.to_vec())).collect::<Vec<_>>());

    let entries: Vec<Bytes> = (0..messages / PER_ENTRY).map(|number| entry(vec![publish(number)])).collect();
    let count = entries.len() as u64 * PER_ENTRY;
    measure("fill", count, || {
        bench.apply(&mut shard, &entries);
        shard.flush().expect("the store takes it");
        store.sync().expect("the store syncs");
    });
    println!("{:?}", shard.stats());

    let drained = measure("read", count, || drain(&shard));
    assert_eq!(drained, count);
    let per_session = count / SESSIONS;
    let entries: Vec<Bytes> = (0..SESSIONS)
        .flat_map(|client| {
            let seqs = (1..=per_session + 1).map(Seq).collect::<Vec<_>>();
            seqs.chunks(64).map(|seqs| entry(vec![done(client, seqs.to_vec())])).collect::<Vec<_>>()
        })
        .collect();
    measure("acknowledge", count, || {
        bench.apply(&mut shard, &entries);
        shard.flush().expect("the store takes it");
        store.sync().expect("the store syncs");
    });
    println!("{:?}", shard.stats());
    let entries: Vec<Bytes> = (0..messages / PER_ENTRY)
        .map(|number| {
            let clients: Vec<Op> = (0..PER_ENTRY)
                .map(|step| {
                    let client = (number * PER_ENTRY + step) % SESSIONS;
                    let seq = per_session + 2 + (number * PER_ENTRY + step) / SESSIONS;
                    done(client, (seq.saturating_sub(2)..seq + 2).map(Seq).collect())
                })
                .collect();
            entry([vec![publish(number)], clients].concat())
        })
        .collect();
    measure("through", count, || {
        bench.apply(&mut shard, &entries);
        shard.flush().expect("the store takes it");
    });
    println!("{:?}", shard.stats());
}

struct Bench {
    index: u64,
}

impl Bench {
    fn apply(&mut self, shard: &mut Shard, entries: &[Bytes]) {
        for entry in entries {
            self.index += 1;
            shard.apply(self.index, entry).expect("the entry is valid");
            shard.set_position(Bytes::copy_from_slice(&self.index.to_le_bytes()));
        }
    }
}

/// Reads everything that may be delivered now, in pages.
fn drain(shard: &Shard) -> u64 {
    let mut count = 0;
    for info in shard.sessions(None, usize::MAX) {
        let mut from = Seq(0);
        loop {
            let page = shard.deliverable(info.id, from, 256, 1 << 20).expect("valid rows");
            let Some(last) = page.last().map(Queued::seq) else { break };
            count += page.len() as u64;
            from = Seq(last.0 + 1);
        }
    }
    count
}

/// Runs it and prints what a message costs: in wall time, in CPU time of this thread, and of all threads.
fn measure<T>(name: &str, count: u64, run: impl FnOnce() -> T) -> T {
    let cpu = || [cpu_time("/proc/thread-self/stat"), cpu_time("/proc/self/stat")];
    let (started, before) = (Instant::now(), cpu());
    let result = run();
    let (wall, after) = (started.elapsed(), cpu());
    let each = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
    let [own, all] = [0, 1].map(|at| each(after[at] - before[at]));
    println!(
        "{name}: {count} messages, each {:.2} us, {own:.2} us of CPU here, {all:.2} us of all",
        each(wall)
    );
    result
}

/// User and system time of a thread or a process with all its threads.
fn cpu_time(stat: &str) -> Duration {
    let stat = std::fs::read_to_string(stat).unwrap_or_default();
    let behind_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = behind_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

fn entry(ops: Vec<Op>) -> Bytes {
    let source = Member { node: NodeId(1), incarnation: Incarnation(1) };
    Entry { stamp: 1_000, retained_full: false, parts: vec![Part { source, number: 0, ops }] }.encode()
}

fn connection(client: u64) -> Connection {
    let client_id = ClientId::new(&format!("device-{client:06}")).expect("not empty");
    Connection { client: client_id, epoch: ConnectionEpoch { shard: ShardEpoch(1), sequence: 1 }, turn: 0 }
}

fn topic(client: u64) -> String {
    format!("device/{client:06}/orders")
}

fn session(client: u64) -> [Op; 3] {
    let open = Open {
        connection: connection(client),
        clean_start: false,
        only_present: false,
        expiry: SessionExpiry::Never,
        window: 32,
        queue: QueueLimits { messages_max: u32::MAX, bytes_max: u64::MAX, full: QueueFull::DropNewest },
        awaiting_rel_max: 100,
        queue_qos0: false,
        overlap: Overlap::Merge,
        group_strategy: GroupStrategy::RoundRobin,
        will: None,
    };
    let filter = Arc::new(TopicFilter::parse(&topic(client), 9).expect("valid"));
    let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() };
    [
        Op::Open(Box::new(open)),
        Op::Subscribe {
            connection: connection(client),
            subscriptions: vec![Subscription { filter, options, id: NonZeroU32::new(1) }],
        },
        Op::Close {
            connection: connection(client),
            expiry: SessionExpiry::Never,
            will: WillFate::Drop,
            sent_until: Seq(1),
            stored: Vec::new(),
        },
    ]
}

fn publish(number: u64) -> Op {
    let mut writer = BatchWriter::new();
    let publisher = ClientId::new("a-publisher");
    for step in 0..PER_ENTRY {
        let topic = topic((number * PER_ENTRY + step) % SESSIONS);
        let message =
            Transit::new(&topic, b"", &PAYLOAD, QoS::AtLeastOnce, false, None, publisher.as_ref(), None);
        writer.push(&Frame::Store {
            origin: None,
            retains: false,
            without: Texts::default(),
            message: Forwarded::new(&message, Timestamp::ORIGIN),
        });
    }
    Op::Publish { batch: writer.take().expect("there are messages") }
}

fn done(client: u64, done: Vec<Seq>) -> Op {
    Op::Acknowledge { connection: connection(client), released: Vec::new(), done }
}
