//! Snapshots.

use std::io;

use bytes::Bytes;
use flotilla_store::{Fault, Store, StoreError};

use super::harness::{
    Published, Replica, SHARD, connection, done, open, position, publish, say, subscribe, will,
};
use crate::{Op, Open, RestoreError, SNAPSHOT_CHUNK_BYTES, Seq, SessionId, WillFate};

/// A shard with something of everything, and a session in it.
fn filled() -> (Replica, SessionId) {
    let mut replica = Replica::new();
    let session = replica.subscriber("a", "t/#");
    replica.subscriber("b", "t/#");
    replica.open(Open { will: Some(will("w", 30)), ..open("c", 1) });
    replica.close("c", 1, WillFate::Keep);
    replica.open(Open { will: Some(will("w", 0)), ..open("d", 1) });
    replica.close("d", 1, WillFate::Keep);
    replica.one(subscribe("a", 1, &[("own", 1)]));
    let own: Vec<_> = (0..100).map(|_| Published::new("own", vec![3; 3_000])).collect();
    let long = Published::new("own", vec![4; 1 << 20]);
    let retained = Published { retains: true, expires_in: Some(9_000), ..Published::new("t/1", "x") };
    replica.apply(vec![publish(&[retained]), publish(&own), publish(&[long]), done("a", [2, 3])]);
    (replica, session)
}

fn chunks(replica: &mut Replica) -> Vec<Bytes> {
    replica
        .shard
        .snapshot()
        .expect("the store takes it")
        .map(|chunk| chunk.expect("it can be read"))
        .collect()
}

fn restore(replica: &mut Replica, chunks: Vec<Bytes>) -> Result<(), RestoreError> {
    let restored = replica.shard.restore(position(77), &mut chunks.into_iter().map(Ok));
    replica.shard.check_invariants();
    restored
}

fn generations(replica: &Replica) -> Vec<u8> {
    let rows = replica.store.scan(&SHARD.0.to_be_bytes(), &[0xFF; 4], usize::MAX).unwrap();
    let mut generations: Vec<u8> =
        rows.iter().filter(|(key, _)| key.len() > 3).map(|(key, _)| key[5]).collect();
    generations.dedup();
    generations
}

#[test]
fn a_snapshot_brings_everything_in_chunks() {
    let (mut source, session) = filled();
    let chunks = chunks(&mut source);
    assert!(chunks.len() > 5);
    let (last, whole) = chunks.split_last().unwrap();
    assert!(whole.iter().all(|chunk| chunk.len() == SNAPSHOT_CHUNK_BYTES));
    assert!((1..=SNAPSHOT_CHUNK_BYTES).contains(&last.len()));
    let mut target = Replica::new();
    let gone = target.subscriber("z", "z");
    target.one(say("z", "z"));
    target.flush();
    restore(&mut target, chunks.clone()).unwrap();
    for _ in 0..2 {
        assert_eq!(
            target.shard.session(gone).map(|info| info.client),
            source.shard.session(gone).map(|info| info.client)
        );
        assert_eq!(target.all(session), source.all(session));
        assert_eq!(target.shard.sessions(None, 9), source.shard.sessions(None, 9));
        assert_eq!(target.shard.firing_wills(), source.shard.firing_wills());
        assert_eq!(target.shard.next_deadline(), source.shard.next_deadline());
        let retained = |replica: &Replica| replica.shard.retained("t/+", None, (9, 9), 0).unwrap();
        assert_eq!(retained(&target), retained(&source));
        assert_eq!(retained(&target).messages.len(), 1);
        assert_eq!(
            (target.shard.applied(), target.shard.position()),
            (source.shard.applied(), &position(77))
        );
        assert_eq!(target.rows(), source.rows());
        assert_eq!(generations(&target), [2]);
        target.reopen();
    }
    // Names go on where the source was.
    let next = |replica: &mut Replica| replica.open(open("new", 1)).1.map(|session| session.id);
    assert_eq!(next(&mut target), next(&mut source));
    // A snapshot over a snapshot.
    restore(&mut target, chunks).unwrap();
    assert_eq!(generations(&target), [3]);
    assert_eq!(target.all(session), source.all(session));
}

#[test]
fn a_snapshot_is_of_its_moment() {
    let (mut source, session) = filled();
    let expected = source.all(session);
    let taken = source.shard.snapshot().unwrap();
    source.apply(vec![done("a", 1..50), say("own", "later"), Op::End { connection: connection("b", 1) }]);
    source.flush();
    let chunks = taken.map(|chunk| chunk.unwrap()).collect();
    let mut target = Replica::new();
    restore(&mut target, chunks).unwrap();
    assert_eq!(target.all(session), expected);
    assert!(target.shard.session_of(&connection("b", 1).client).is_some());
}

#[test]
fn nothing_comes_back_of_what_was_given_up() {
    let (mut source, _) = filled();
    let chunks = chunks(&mut source);
    let mut target = Replica::new();
    target.subscriber("z", "z");
    target.flush();
    target.shard.give_up();
    crate::Shard::erase(SHARD, &target.store).unwrap();
    // What was under way when its replica was taken away.
    assert!(matches!(restore(&mut target, chunks), Err(RestoreError::Read(_))));
    assert!(target.shard.flush().is_err());
    assert_eq!(target.rows(), []);
    target.reopen();
    assert_eq!((target.shard.applied(), target.shard.position().len()), (0, 0));
}

#[test]
fn what_is_not_a_whole_snapshot_changes_nothing() {
    let (mut source, _) = filled();
    let whole = chunks(&mut source).concat();
    let mut target = Replica::new();
    let session = target.subscriber("z", "z");
    target.one(say("z", "z"));
    let expected = target.all(session);
    let check = |target: &mut Replica, bytes: Vec<u8>| {
        let cut = bytes.chunks(100_000).map(Bytes::copy_from_slice).collect();
        let refused = restore(target, cut);
        assert!(matches!(refused, Err(RestoreError::Corrupt(_))), "{refused:?}");
        assert_eq!(target.all(session), expected);
        assert!(generations(target).iter().all(|generation| *generation == 1));
    };
    for cut in [0, 1, 10, 1_000, 300_000, whole.len() - 1] {
        check(&mut target, whole[..cut].to_vec());
    }
    let mut longer = whole.clone();
    longer.extend([0, 0]);
    check(&mut target, longer);
    // A version that is not known, and a row of a kind that is not.
    let mut other = whole.clone();
    assert_eq!(other[..4], [0, other[1], 0x08, 1]);
    other[3] = 4;
    check(&mut target, other);
    let mut other = whole.clone();
    let first_key = 2 + usize::from(whole[1]);
    assert_eq!(other[first_key..first_key + 2], [9, 1]);
    other[first_key + 1] = 99;
    check(&mut target, other);
    let unreadable = [Ok(Bytes::copy_from_slice(&whole[..9])), Err(io::Error::other("the connection broke"))];
    let refused = target.shard.restore(position(1), &mut unreadable.into_iter());
    assert!(matches!(refused, Err(RestoreError::Read(_))));
    assert_eq!(target.all(session), expected);
    target.flush();
    target.reopen();
    assert_eq!(target.all(session), expected);
}

#[test]
fn what_an_interrupted_restore_has_left_goes_at_the_next_opening() {
    let (mut source, session) = filled();
    let chunks = chunks(&mut source);
    // The power goes after each of its writes.
    for kept in 0..20 {
        let mut target = Replica::new();
        let own = target.subscriber("z", "z");
        target.one(say("z", "z"));
        target.flush();
        target.store.sync().unwrap();
        let expected = target.all(own);
        restore(&mut target, chunks.clone()).unwrap();
        let is_whole = kept >= target.store.unsynced();
        target.store.lose_unsynced(kept);
        target.reopen();
        if target.shard.position() == &position(77) {
            assert_eq!(target.all(session), source.all(session));
            assert_eq!(generations(&target), [2]);
        } else {
            assert!(!is_whole);
            assert_eq!(target.all(own), expected);
            assert_eq!(generations(&target), [1]);
        }
    }
}

#[test]
fn a_store_that_fails_during_a_restore() {
    let (mut source, _) = filled();
    let chunks = chunks(&mut source);
    let mut target = Replica::new();
    let own = target.subscriber("z", "z");
    target.one(say("z", "z"));
    target.flush();
    target.store.fail_next(Fault::Write { kept: true });
    assert!(matches!(restore(&mut target, chunks), Err(RestoreError::Store(_))));
    target.store.reopen();
    target.reopen();
    assert_eq!(target.payloads(own), [(1, "z".to_owned())]);
    assert_eq!(generations(&target), [1]);
    assert_eq!(target.shard.bounds(own), Some((Seq(1), Seq(2))));
}

#[test]
fn where_the_disk_is_full_a_snapshot_is_that_of_the_last_flush() {
    let (mut source, session) = filled();
    source.flush();
    let expected = (source.all(session), source.shard.flushed_position().clone());
    source.store.set_full(true);
    source.one(say("own", "later"));
    let chunks = chunks(&mut source);
    assert_eq!(source.shard.flushed_position(), &expected.1);
    let mut target = Replica::new();
    restore(&mut target, chunks).unwrap();
    assert_eq!(target.all(session), expected.0);
    assert_eq!(target.shard.applied(), source.shard.flushed_index());
}

#[test]
fn a_snapshot_that_finds_no_space_can_be_taken_over_once_there_is_some() {
    let (mut source, session) = filled();
    let chunks = chunks(&mut source);
    let mut target = Replica::new();
    let own = target.subscriber("z", "z");
    target.flush();
    target.store.set_full(true);
    let refused = restore(&mut target, chunks.clone());
    assert!(matches!(refused, Err(RestoreError::Store(StoreError::Full { .. }))), "{refused:?}");
    assert_eq!((target.shard.failure(), target.shard.bounds(own)), (None, Some((Seq(1), Seq(1)))));
    target.store.set_full(false);
    restore(&mut target, chunks).unwrap();
    assert_eq!(target.all(session), source.all(session));
}
