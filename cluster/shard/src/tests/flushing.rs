//! Memory and disk.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use flotilla_store::{Change, Fault, Item, MemoryStore, Store, StoreError, StoreStatus, View};

use super::harness::{
    Published, Replica, SHARD, connection, done, member, open, position, publish, released, say, subscribe,
};
use crate::{
    Answers, ApplyError, DecodeError, Entry, FlushError, Op, Open, Options, Part, QueueLimits, Seq, Shard,
    WillFate,
};

#[test]
fn what_is_acknowledged_before_a_flush_writes_no_rows() {
    let mut replica = Replica::new();
    let session = replica.subscriber("a", "t");
    replica.subscriber("b", "u");
    replica.flush();
    let before = (replica.rows(), replica.shard.stats());
    let mut next = 1;
    for _ in 0..1_000 {
        let batch: Vec<_> = (0..100).map(|_| Published::new("t", vec![7; 256])).collect();
        let part =
            Part { source: member(1), number: 0, ops: vec![publish(&batch), done("a", next..next + 100)] };
        next += 100;
        let entry = Entry { stamp: 1, retained_full: false, parts: vec![part] }.encode();
        replica.shard.apply(replica.shard.applied() + 1, &entry).unwrap();
    }
    assert_eq!(replica.shard.stats().flushes, before.1.flushes, "it has no reason to flush");
    replica.flush();
    let after = replica.shard.stats();
    assert_eq!(after.appended, 100_000);
    // Where the inbox ends, which is in the row of the session.
    assert_eq!(after.rows_written - before.1.rows_written, 1);
    assert_eq!(replica.rows(), before.0);
    replica.reopen();
    assert_eq!(replica.shard.bounds(session), Some((Seq(100_001), Seq(100_001))));
}

#[test]
fn a_drained_inbox_leaves_no_rows() {
    let mut replica = Replica::new();
    for client in ["a", "b"] {
        replica.subscriber(client, "both");
        replica.one(subscribe(client, 1, &[(client, 2)]));
    }
    replica.flush();
    let before = replica.rows();
    for round in 0..10 {
        let both: Vec<_> = (0..30).map(|_| Published::new("both", vec![1; 100])).collect();
        let own: Vec<_> = (0..50).map(|_| Published::new("a", vec![2; 2_000])).collect();
        replica.apply(vec![publish(&both), publish(&own)]);
        if round % 2 == 0 {
            replica.flush();
        }
    }
    replica.flush();
    let tags: Vec<u8> = replica.rows().iter().map(|(tag, _)| *tag).collect();
    assert_eq!(tags, [1, 2, 4, 5, 6, 7], "sessions, subscriptions, chunks and shared messages");
    // One after the other, in two orders; a is opened again in between.
    replica.apply(vec![done("a", (1..=800).rev()), done("b", 1..=100)]);
    replica.flush();
    replica.reopen();
    replica.one(done("b", 101..=300));
    replica.flush();
    assert_eq!(replica.rows(), before);
    assert_eq!(replica.shard.stats().queued_messages, 0);
    for client in ["a", "b"] {
        replica.one(Op::End { connection: connection(client, 1) });
    }
    replica.flush();
    assert_eq!(replica.rows(), []);
}

#[test]
fn a_session_that_ends_takes_everything_along() {
    let mut replica = Replica::with(Options { references_read_max: 2, ..Options::default() });
    for client in ["a", "b"] {
        replica.subscriber(client, "t");
    }
    replica.close("a", 1, WillFate::Drop);
    for _ in 0..20 {
        let batch: Vec<_> = (0..70).map(|_| Published::new("t", vec![1; 100])).collect();
        replica.one(publish(&batch));
        replica.flush();
    }
    replica.apply(vec![Op::End { connection: connection("a", 1) }, done("b", 1..=1_400)]);
    replica.flush();
    let left = replica.shard.stats().trash;
    assert_eq!(left, 78, "two chunks of eighty have given their references back");
    // What waits is not taken for something else, whoever goes on with it.
    let snapshot: Vec<_> = replica.shard.snapshot().unwrap().map(Result::unwrap).collect();
    let mut other = Replica::with(Options::default());
    other.shard.restore(position(9), &mut snapshot.into_iter().map(Ok)).unwrap();
    let mut flushes = 0;
    while replica.shard.stats().trash > 0 {
        flushes += 1;
        let before = replica.shard.stats().rows_written;
        replica.flush();
        assert!(replica.shard.stats().rows_written - before <= 2 * 64, "only counts of references");
        if flushes == 5 {
            replica.reopen();
        }
    }
    for mut replica in [replica, other] {
        replica.flush();
        replica.flush();
        assert_eq!(replica.rows().iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), [1, 2]);
    }
}

#[test]
fn an_inbox_whose_head_never_moves_stays_small() {
    let mut replica = Replica::new();
    let queue = QueueLimits {
        messages_max: 10,
        bytes_max: 1 << 30,
        full: flotilla_mqtt::session::QueueFull::DropOldest,
    };
    let session = replica.open(Open { queue, ..open("a", 1) }).1.unwrap().id;
    replica.one(subscribe("a", 1, &[("t", 1)]));
    for _ in 0..300 {
        let batch: Vec<_> = (0..10).map(|_| Published::new("t", "x")).collect();
        replica.one(publish(&batch));
        replica.flush();
    }
    let places: Vec<u64> = replica.payloads(session).into_iter().map(|(seq, _)| seq).collect();
    assert_eq!(places, [1, 2, 3].into_iter().chain(2_991..=3_000).collect::<Vec<_>>());
    let chunks = replica.rows().iter().find(|(tag, _)| *tag == 5).map(|(_, count)| *count);
    assert!(chunks.is_some_and(|chunks| chunks <= 3), "{chunks:?}");
}

#[test]
fn an_entry_that_does_not_decode_changes_nothing() {
    let mut replica = Replica::new();
    let session = replica.subscriber("a", "t");
    let entry = Entry {
        retained_full: false,
        stamp: 9_999,
        parts: vec![Part { source: member(1), number: 1, ops: vec![say("t", "x"), say("t", "y")] }],
    };
    let whole = entry.encode();
    let (stats, applied) = (replica.shard.stats(), replica.shard.applied());
    for cut in 1..whole.len() {
        let refused = replica.shard.apply(applied + 1, &whole.slice(..cut));
        assert!(matches!(refused, Err(ApplyError::Corrupt(_))), "{cut}");
    }
    // A fault in its last message: its topic has a wildcard.
    let mut broken = whole.to_vec();
    let topic = broken.windows(2).rposition(|bytes| bytes == b"\x01t").unwrap();
    broken[topic + 1] = b'+';
    let refused = replica.shard.apply(applied + 1, &broken.into());
    assert!(matches!(refused, Err(ApplyError::Corrupt(DecodeError::Batch(_)))), "{refused:?}");
    assert_eq!((replica.shard.stats(), replica.shard.applied()), (stats, applied));
    assert_eq!(replica.shard.stamp(), 1_000);
    assert!(replica.all(session).is_empty());
    replica.shard.apply(applied + 1, &whole).unwrap();
    assert_eq!(replica.all(session).len(), 2);
}

#[test]
fn an_entry_counts_once() {
    let mut replica = Replica::new();
    let session = replica.subscriber("a", "t");
    let part = Part { source: member(1), number: 0, ops: vec![say("t", "x")] };
    let entry = Entry { stamp: 1_000, retained_full: false, parts: vec![part] }.encode();
    let index = replica.shard.applied() + 5;
    replica.shard.apply(index, &entry).unwrap();
    for again in [index, index - 1] {
        let answers = replica.shard.apply(again, &entry).unwrap();
        assert_eq!(Answers::decode(&answers), Ok(Answers::default()));
    }
    assert_eq!(replica.all(session).len(), 1);
}

#[test]
fn too_much_in_memory_is_flushed_before_the_next_entry() {
    let mut replica = Replica::with(Options { dirty_bytes_soft: 10_000, ..Options::default() });
    let session = replica.subscriber("a", "t");
    for number in 0..50 {
        replica.one(publish(&[Published::new("t", vec![b'0' + number; 1_000])]));
        assert!(replica.shard.stats().fresh_bytes < 11_500);
    }
    let flushed = replica.shard.flushed_index();
    assert!(flushed >= 40 && replica.shard.flushed_position() == &position(flushed));
    replica.reopen();
    assert_eq!((replica.shard.applied(), replica.shard.position()), (flushed, &position(flushed)));
    assert_eq!(replica.all(session).len() as u64, flushed - 2);
}

#[test]
fn a_store_that_fails_fails_the_shard() {
    for kept in [false, true] {
        let mut replica = Replica::new();
        let session = replica.subscriber("a", "t");
        replica.flush();
        let flushed = replica.shard.applied();
        replica.one(say("t", "x"));
        replica.store.fail_next(Fault::Write { kept });
        assert!(matches!(replica.shard.flush(), Err(FlushError::Store(StoreError::Io(_)))));
        assert!(replica.shard.failure().is_some());
        assert!(matches!(replica.shard.flush(), Err(FlushError::Failed(_))));
        let tick = Part { source: member(1), number: 0, ops: vec![Op::Tick] };
        let entry = Entry { stamp: 0, retained_full: false, parts: vec![tick] }.encode();
        let refused = replica.shard.apply(99, &entry);
        assert!(matches!(refused, Err(ApplyError::Flush(FlushError::Failed(_)))));
        replica.store.reopen();
        replica.reopen();
        assert_eq!(replica.shard.applied(), flushed + u64::from(kept));
        assert_eq!(replica.all(session).len(), usize::from(kept));
    }
}

#[test]
fn a_full_disk_is_waited_for_as_long_as_there_is_memory() {
    let mut replica =
        Replica::with(Options { dirty_bytes_soft: 5_000, dirty_bytes_max: 50_000, ..Options::default() });
    let session = replica.subscriber("a", "t");
    replica.store.set_full(true);
    let entry = |replica: &Replica| {
        let ops = vec![publish(&[Published::new("t", vec![1; 1_000])])];
        let entry =
            Entry { stamp: 0, retained_full: false, parts: vec![Part { source: member(1), number: 0, ops }] }
                .encode();
        (replica.shard.applied() + 1, entry)
    };
    let mut applied = 0;
    while replica.shard.has_room().unwrap() {
        let (index, entry) = entry(&replica);
        replica.shard.apply(index, &entry).unwrap();
        applied += 1;
    }
    assert!((40..60).contains(&applied), "{applied}");
    assert_eq!(replica.shard.failure(), None);
    // What is acknowledged before it was written makes room, too.
    replica.apply(vec![done("a", 1..=10)]);
    assert!(replica.shard.has_room().unwrap());
    replica.store.set_full(false);
    let (index, entry) = entry(&replica);
    replica.shard.apply(index, &entry).unwrap();
    replica.flush();
    replica.reopen();
    assert_eq!(replica.all(session).len(), applied - 10 + 1);
}

/// A store that counts how often it is read.
#[derive(Debug)]
struct Counted {
    store: MemoryStore,
    reads: AtomicUsize,
}

impl Store for Counted {
    fn value(&self, key: &[u8]) -> Result<Option<bytes::Bytes>, StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.store.value(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], bytes_max: usize) -> Result<Vec<Item>, StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.store.scan(from, to, bytes_max)
    }

    fn write(&self, batch: Vec<Change>) -> Result<(), StoreError> {
        self.store.write(batch)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.store.sync()
    }

    fn view(&self) -> Result<Box<dyn View>, StoreError> {
        self.store.view()
    }

    fn is_nearly_full(&self) -> bool {
        self.store.is_nearly_full()
    }

    fn status(&self) -> StoreStatus {
        self.store.status()
    }
}

#[test]
fn a_page_of_a_long_inbox_costs_what_it_has() {
    let mut replica = Replica::new();
    let session = replica.subscriber("a", "t");
    let batch: Vec<_> = (0..640).map(|_| Published::new("t", vec![1; 50])).collect();
    replica.apply(vec![publish(&batch); 10]);
    replica.flush();
    let counted = Arc::new(Counted { store: replica.store.clone(), reads: AtomicUsize::new(0) });
    let shard = Shard::open(SHARD, counted.clone(), Options::default()).unwrap();
    let check = |from, count_max, bytes_max, expected: (usize, usize)| {
        counted.reads.store(0, Ordering::Relaxed);
        let page = shard.deliverable(session, Seq(from), count_max, bytes_max).unwrap();
        assert_eq!((page.len(), counted.reads.load(Ordering::Relaxed)), expected, "from {from}");
    };
    check(0, 10, 1 << 20, (10, 1));
    check(6_000, 64, 1 << 20, (64, 2));
    check(6_400, 10, 1 << 20, (1, 1));
    check(6_401, 10, 1 << 20, (0, 0));
    // 53 bytes each, and always one.
    check(1, 100, 530, (10, 1));
    check(1, 100, 0, (1, 1));
    check(1, 0, 100, (0, 0));
    // An acknowledgement reads nothing, also when a chunk is gone.
    let mut shard = shard;
    counted.reads.store(0, Ordering::Relaxed);
    let ops = vec![released("a", 1..70), done("a", 1..140)];
    let entry =
        Entry { stamp: 0, retained_full: false, parts: vec![Part { source: member(1), number: 0, ops }] }
            .encode();
    shard.apply(shard.applied() + 1, &entry).unwrap();
    shard.flush().unwrap();
    assert_eq!(counted.reads.load(Ordering::Relaxed), 0);
}

#[test]
fn a_long_message_is_shared_with_its_row_and_a_short_one_is_copied() {
    let mut replica = Replica::new();
    let session = replica.subscriber("a", "t");
    let long = Published::new("t", vec![1; 60_000]);
    let short = Published::new("t", vec![2; 100]);
    replica.one(publish(&[long, short]));
    replica.flush();
    let row = replica.shard.first_row(session);
    let within: Vec<bool> = replica
        .all(session)
        .iter()
        .map(|queued| {
            let crate::Queued::Publish(queued) = queued else { panic!("{queued:?}") };
            row.as_ptr_range().contains(&queued.message.payload().as_ptr())
        })
        .collect();
    assert_eq!(within, [true, false]);
}
