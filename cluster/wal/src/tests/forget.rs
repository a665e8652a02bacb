//! Groups that are forgotten.

use super::*;

fn forget(wal: &Wal, group: u64) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel();
    wal.forget_group(group, move |result| sender.send(result).unwrap());
    receiver.recv_timeout(Duration::from_secs(20)).expect("done is called")
}

fn fill(wal: &Wal, group: u64) {
    let meta = Record::Meta { group, key: 1, bytes: "meta".into() };
    submit(wal, vec![vote(group, b"vote"), meta, purged(group, 9)]).unwrap();
    for index in 10..30 {
        submit(wal, vec![entry(group, index, vec![1; 40])]).unwrap();
    }
}

#[test]
fn a_group_that_is_forgotten_stays_away() {
    let files = MemoryFiles::new();
    let wal = open(&files, &options(512));
    fill(&wal, 1);
    fill(&wal, 2);
    let other = wal.group(2);
    forget(&wal, 1).unwrap();
    // Nothing is there to forget.
    forget(&wal, 3).unwrap();
    wal.check_invariants();
    assert_eq!((wal.groups(), wal.group(1)), (vec![2], GroupState::default()));
    drop(wal);
    let wal = open(&files.crash(|_| 0..0), &options(512));
    assert_eq!((wal.groups(), wal.group(1), wal.group(2)), (vec![2], GroupState::default(), other));
    assert!(indexes(&wal, 1).is_empty());
}

#[test]
fn what_was_submitted_before_is_void_and_what_comes_after_is_new() {
    let files = MemoryFiles::new();
    let wal = open(&files, &options(4096));
    fill(&wal, 1);
    let held = wal.hold().unwrap();
    wal.submit(vec![entry(1, 30, "void")], |result| result.unwrap());
    wal.forget_group(1, |result| result.unwrap());
    // It need not follow on what was there.
    wal.submit(vec![entry(1, 12, "new"), vote(1, b"new")], |result| result.unwrap());
    wal.release(held);
    for wal in [&wal, &open(&files.copy(), &options(4096))] {
        wal.check_invariants();
        assert_eq!(wal.entries(1, EVERYTHING, usize::MAX).unwrap(), [(12, "new".into())]);
        let state = wal.group(1);
        assert_eq!((state.vote, state.purged, state.meta.len()), (Some("new".into()), None, 0));
    }
}

#[test]
fn the_space_of_a_forgotten_group_is_used_again() {
    let files = MemoryFiles::new();
    let wal = open(&files, &options(1024));
    for index in 0..500 {
        submit(&wal, vec![entry(1, index, vec![1; 100])]).unwrap();
    }
    assert!(wal.status().bytes > 50_000);
    forget(&wal, 1).unwrap();
    submit(&wal, vec![vote(2, b"vote")]).unwrap();
    let status = wal.status();
    assert!(status.bytes < 6 * 1024, "{status:?}");
    assert_eq!(wal.group(2).vote, Some("vote".into()));
}
