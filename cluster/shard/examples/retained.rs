//! How long it takes to open shards with many retained messages, what memory that takes, and how fast they are looked up.
//!
//! `cargo run --release -p flotilla-shard --example retained <directory> [messages]`: fills the directory if it is empty.
#![expect(clippy::disallowed_methods, reason = "it measures")]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use flotilla_lane::{BatchWriter, Forwarded, Frame, Texts};
use flotilla_mqtt::{QoS, Timestamp, Transit};
use flotilla_shard::{Entry, Op, Options, Part, Shard};
use flotilla_state::{Incarnation, Member, NodeId, ShardId, ShardRing};
use flotilla_store::{FjallStore, Store, StoreOptions};

const SHARDS: u16 = 16;
const PER_ENTRY: usize = 256;
const PAYLOAD: [u8; 128] = [7; 128];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let place = arguments.next().expect("a directory");
    let messages: u64 = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(1_000_000);
    let store: Arc<dyn Store> =
        Arc::new(FjallStore::open(Path::new(&place), &StoreOptions::default()).expect("the store opens"));
    let mut shards = measure("open", || open(&store));
    if retained(&shards) == 0 {
        measure("fill", || fill(&mut shards, messages));
        measure("sync", || store.sync().expect("the store syncs"));
    }
    println!("{} messages, {:?}", retained(&shards), shards[0].stats());
    let ring = ShardRing::new(SHARDS);
    let exact = messages.min(100_000);
    let found: usize = measure("look up 100,000 topics", || {
        let topics = (0..exact).map(|number| topic(number * (messages / exact)));
        let found =
            topics.map(|topic| page(&shards[usize::from(ring.shard_of(topic.as_bytes()).0)], &topic, None).0);
        found.sum()
    });
    assert_eq!(found as u64, exact);
    let found: u64 = measure("look up all", || shards.iter().map(all).sum());
    assert_eq!(found, retained(&shards));
}

fn open(store: &Arc<dyn Store>) -> Vec<Shard> {
    let open = |shard| Shard::open(ShardId(shard), Arc::clone(store), Options::default());
    (0..SHARDS).map(|shard| open(shard).expect("the shard opens")).collect()
}

fn retained(shards: &[Shard]) -> u64 {
    shards.iter().map(|shard| shard.stats().retained_messages).sum()
}

fn topic(number: u64) -> String {
    format!("plant/{}/line/{}/sensor/{number}", number % 50, number % 700)
}

fn fill(shards: &mut [Shard], messages: u64) {
    let ring = ShardRing::new(SHARDS);
    let mut writers: Vec<BatchWriter> = shards.iter().map(|_| BatchWriter::new()).collect();
    for number in 0..messages {
        let topic = topic(number);
        let shard = usize::from(ring.shard_of(topic.as_bytes()).0);
        let message = Transit::new(&topic, &[], &PAYLOAD, QoS::AtLeastOnce, true, None, None, None);
        let message = Forwarded::new(&message, Timestamp::ORIGIN);
        writers[shard].push(&Frame::Store {
            origin: None,
            retains: true,
            without: Texts::default(),
            message,
        });
        if writers[shard].len() >= PER_ENTRY {
            apply(&mut shards[shard], &mut writers[shard]);
        }
    }
    for (shard, writer) in shards.iter_mut().zip(&mut writers) {
        apply(shard, writer);
        shard.flush().expect("the store takes it");
    }
}

fn apply(shard: &mut Shard, writer: &mut BatchWriter) {
    let Some(batch) = writer.take() else { return };
    let source = Member { node: NodeId(1), incarnation: Incarnation(1) };
    let parts = vec![Part { source, number: 0, ops: vec![Op::Publish { batch }] }];
    let entry = Entry { stamp: 1_000, retained_full: false, parts }.encode();
    shard.apply(shard.applied() + 1, &entry).expect("the entry is valid");
}

fn page(shard: &Shard, filter: &str, after: Option<&str>) -> (usize, Option<String>) {
    let page = shard.retained(filter, after, (64, 64 << 10), 2_000).expect("valid rows");
    (page.messages.len(), page.next)
}

fn all(shard: &Shard) -> u64 {
    let (mut found, mut after) = (0, None);
    loop {
        let (count, next) = page(shard, "#", after.as_deref());
        found += count as u64;
        after = next;
        if after.is_none() {
            return found;
        }
    }
}

/// Runs it and prints how long that took, in wall time and in CPU time of all threads, and what memory this process has then.
fn measure<T>(name: &str, run: impl FnOnce() -> T) -> T {
    let (started, before) = (Instant::now(), cpu_time());
    let done = run();
    let (took, cpu) = (started.elapsed(), cpu_time().saturating_sub(before));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
    println!("{name}: {took:?}, {cpu:?} of CPU, {memory}");
    done
}

/// User and system time of this process.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let behind_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = behind_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
    Duration::from_millis(ticks.sum::<u64>() * 10)
}
