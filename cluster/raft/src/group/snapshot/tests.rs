use std::collections::BTreeSet;
use std::error::Error;
use std::io;

use flotilla_wal::MemoryFiles;

use super::super::SNAPSHOT_CHUNK_BYTES_MAX;
use super::super::machine::{Failure, Outgoing};
use super::super::types::{LeaderId, LogId, Membership, Seat, StoredMembership};
use super::record::RECORD_BYTES_MAX;
use super::*;
use openraft::vote::RaftLeaderId;

type TestResult<T = ()> = Result<T, Box<dyn Error>>;

#[test]
fn what_is_written_is_read_again() -> TestResult {
    let files = MemoryFiles::new();
    for chunks in
        [vec![], vec![Bytes::new()], vec![Bytes::from(vec![7; 300_000]), Bytes::from_static(b"end")]]
    {
        let store = open(&files)?;
        let index = store.last_index().unwrap_or(0) + 1;
        store.install(store.write(&meta(index), &mut chunks.clone().into_iter())?)?;
        let snapshot = open(&files)?.current().ok_or("no snapshot")?;
        assert_eq!(snapshot.meta, meta(index));
        assert_eq!(snapshot.chunks().collect::<io::Result<Vec<_>>>()?, chunks);
        snapshot.chunks().finish()?;
    }
    Ok(())
}

#[test]
fn any_damage_is_noticed() -> TestResult {
    let files = MemoryFiles::new();
    let store = open(&files)?;
    let chunks = [Bytes::from_static(b"first"), Bytes::from_static(b"second")];
    store.install(store.write(&meta(3), &mut chunks.into_iter())?)?;
    let path = dir().join(NAME);
    let intact = files.contents(&path).ok_or("no file")?;
    let is_refused = |bytes: &[u8]| {
        files.damage(&path, bytes);
        let snapshot = open(&files).map(|store| store.current().expect("there is a file"));
        snapshot.and_then(|snapshot| snapshot.chunks().finish()).is_err()
    };
    assert!(!is_refused(&intact));
    for bit in 0..intact.len() * 8 {
        let mut damaged = intact.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(is_refused(&damaged), "bit {bit}");
    }
    for length in 0..intact.len() {
        assert!(is_refused(&intact[..length]), "cut to {length}");
    }
    assert!(is_refused(&[&intact[..], b"more"].concat()));
    Ok(())
}

#[test]
fn an_older_snapshot_does_not_replace_a_newer_one() -> TestResult {
    let files = MemoryFiles::new();
    let store = open(&files)?;
    let older = store.write(&meta(3), &mut [Bytes::from_static(b"older")].into_iter())?;
    store.install(store.write(&meta(5), &mut [Bytes::from_static(b"newer")].into_iter())?)?;
    assert_eq!(store.install(older)?.last_index(), Some(5));
    assert_eq!(open(&files)?.last_index(), Some(5));
    assert_eq!(files.list(&dir())?, [NAME]);
    Ok(())
}

#[test]
fn what_was_not_installed_is_removed() -> TestResult {
    let files = MemoryFiles::new();
    let store = open(&files)?;
    let given_up = store.write(&meta(3), &mut [].into_iter())?;
    assert_eq!(files.list(&dir())?.len(), 1);
    drop(given_up);
    assert!(files.list(&dir())?.is_empty());

    // The process ends before it can remove it.
    let lost = store.write(&meta(3), &mut [].into_iter())?;
    let files = files.kill();
    drop(lost);
    assert_eq!(files.list(&dir())?.len(), 1);
    assert!(open(&files)?.current().is_none());
    assert!(files.list(&dir())?.is_empty());
    Ok(())
}

#[test]
fn a_snapshot_stays_readable_when_it_is_replaced() -> TestResult {
    let store = open(&MemoryFiles::new())?;
    let chunk = Bytes::from_static(b"old");
    let old = store.install(store.write(&meta(3), &mut [chunk.clone()].into_iter())?)?;
    store.install(store.write(&meta(5), &mut [].into_iter())?)?;
    assert_eq!(old.chunks().collect::<io::Result<Vec<_>>>()?, [chunk]);
    Ok(())
}

#[test]
fn a_received_snapshot_is_what_was_announced() -> TestResult {
    let store = open(&MemoryFiles::new())?;
    let sent = store.write(&meta(3), &mut [Bytes::from_static(b"chunk")].into_iter())?;
    let bytes = sent.read_raw(0, usize::MAX)?;
    let receive = |announced: u64, bytes: &[u8], meta: &SnapshotMeta| {
        let mut receiving = store.receive(announced)?;
        for part in bytes.chunks(7) {
            receiving.push(part)?;
        }
        receiving.finish(meta)
    };
    let length = sent.bytes();
    assert!(receive(length, &bytes, &meta(3)).is_ok());
    assert!(matches!(receive(length, &bytes, &meta(4)), Err(SnapshotError::Received(_))));
    assert!(matches!(receive(length - 1, &bytes, &meta(3)), Err(SnapshotError::Received(_))));
    assert!(matches!(receive(length + 1, &bytes, &meta(3)), Err(SnapshotError::Received(_))));
    let mut damaged = bytes.to_vec();
    damaged[40] ^= 1;
    assert!(matches!(receive(length, &damaged, &meta(3)), Err(SnapshotError::Received(_))));
    Ok(())
}

#[test]
fn a_snapshot_that_the_log_needs_is_missed() -> TestResult {
    let store = open(&MemoryFiles::new())?;
    store.require(None)?;
    assert!(matches!(store.require(Some(0)), Err(SnapshotError::Missing { needed: 0, .. })));
    store.install(store.write(&meta(3), &mut [].into_iter())?)?;
    store.require(Some(3))?;
    assert!(matches!(store.require(Some(4)), Err(SnapshotError::Missing { needed: 4, .. })));
    Ok(())
}

#[test]
fn a_chunk_that_could_not_be_read_again_is_not_written() -> TestResult {
    let store = open(&MemoryFiles::new())?;
    let chunk = Bytes::from(vec![0; RECORD_BYTES_MAX + 1]);
    assert!(store.write(&meta(3), &mut [chunk].into_iter()).is_err());
    Ok(())
}

fn dir() -> PathBuf {
    PathBuf::from("/snapshots")
}

fn open(files: &MemoryFiles) -> Result<SnapshotStore, SnapshotError> {
    SnapshotStore::open(dir(), Arc::new(files.clone()))
}

fn meta(index: u64) -> SnapshotMeta {
    let id = |index| LogId::new(LeaderId::new(2, Seat { node: 9, group: 7 }), index);
    let seat = |node| Seat { node, group: 7 };
    let voters = BTreeSet::from([1, 2, 9].map(seat));
    let membership = Membership::new_with_defaults(vec![voters], [seat(4)]);
    SnapshotMeta {
        last_log_id: Some(id(index)),
        last_membership: StoredMembership::new(Some(id(1)), membership),
    }
}

/// What is sent is what would be in the file, in pieces, and the state is read only as far as the pieces need it.
#[test]
fn a_live_snapshot_is_read_as_it_is_sent() -> TestResult {
    let chunks: Vec<Bytes> = [0, 100, SNAPSHOT_CHUNK_BYTES_MAX, 200_000, 7]
        .iter()
        .map(|length| Bytes::from(vec![7; *length]))
        .collect();
    let read = Arc::new(AtomicU64::new(0));
    let counted = {
        let read = Arc::clone(&read);
        chunks.clone().into_iter().map(move |chunk| {
            read.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            Ok(chunk)
        })
    };
    let outgoing = Outgoing::default();
    let failure = Failure::default();
    let live = LiveSnapshot::new(&meta(3), Box::new(counted), outgoing.begin(), failure.clone());
    assert!(outgoing.is_any());

    let store = open(&MemoryFiles::new())?;
    let mut receiving = store.receive(0)?;
    let mut sent = 0;
    for piece in live {
        let piece = piece?;
        assert!(piece.len() <= SNAPSHOT_CHUNK_BYTES_MAX);
        sent += piece.len() as u64;
        receiving.push(&piece)?;
        assert!(read.load(Ordering::Relaxed) <= sent + 2 * SNAPSHOT_CHUNK_BYTES_MAX as u64);
    }
    let received = receiving.finish(&meta(3))?;
    assert!(!outgoing.is_any());
    assert_eq!(received.chunks().collect::<io::Result<Vec<_>>>()?, chunks);
    let file = store.write(&meta(3), &mut chunks.clone().into_iter())?;
    assert_eq!(file.read_raw(0, usize::MAX)?, received.read_raw(0, usize::MAX)?);

    // Cut short, it is refused: its own end tells its length.
    let live = LiveSnapshot::new(&meta(3), Box::new(chunks.into_iter().map(Ok)), outgoing.begin(), failure);
    let bytes: Vec<u8> = live.collect::<io::Result<Vec<_>>>()?.concat();
    for length in [0, 20, 100, bytes.len() - 1] {
        let mut receiving = store.receive(0)?;
        receiving.push(&bytes[..length])?;
        assert!(matches!(receiving.finish(&meta(3)), Err(SnapshotError::Received(_))), "{length}");
    }
    Ok(())
}

#[test]
fn a_live_snapshot_that_cannot_be_read_ends_with_an_error() {
    for broken in [Err(io::Error::other("a damaged block")), Ok(vec![0; SNAPSHOT_CHUNK_BYTES_MAX + 1].into())]
    {
        let failure = Failure::default();
        let chunks = [Ok(Bytes::from_static(b"good")), broken];
        let live = LiveSnapshot::new(
            &meta(3),
            Box::new(chunks.into_iter()),
            Outgoing::default().begin(),
            failure.clone(),
        );
        let pieces: Vec<_> = live.collect();
        assert!(pieces.len() == 1 && pieces[0].is_err(), "{pieces:?}");
        assert!(failure.reason().is_some());
    }
}
