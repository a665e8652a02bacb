//! What is submitted can be read, and is found again.

use super::*;

/// A day in the life of a log, closed and opened again on the way.
fn check_log(options: &WalOptions, dir: &Path, files: &Arc<dyn Files>) {
    let open = || Wal::open(dir, options.clone(), files.clone()).unwrap();
    let wal = open();
    assert_eq!(wal.group(7), GroupState::default());
    let meta = Record::Meta { group: 7, key: 3, bytes: Bytes::from_static(b"meta") };
    submit(&wal, vec![vote(7, b"one"), meta, entry(7, 0, "a"), entry(7, 1, "b")]).unwrap();
    submit(&wal, vec![entry(8, 100, "x"), vote(7, b"two")]).unwrap();
    for index in 2..200 {
        submit(&wal, vec![entry(7, index, vec![0; 20])]).unwrap();
    }
    assert!(matches!(Wal::open(dir, options.clone(), files.clone()), Err(WalError::Locked { .. })));
    wal.close();

    let wal = open();
    let state = wal.group(7);
    assert_eq!(state.vote.as_deref(), Some(&b"two"[..]));
    assert_eq!(state.meta[&3], "meta");
    assert_eq!((state.first_index, state.purged), (Some(0), None));
    assert_eq!(state.last, Some((199, vec![0; 20].into())));
    assert_eq!(indexes(&wal, 8), [100]);
    assert_eq!(wal.entries(7, 0..2, usize::MAX).unwrap(), [(0, "a".into()), (1, "b".into())]);
    assert_eq!(wal.entries(7, 5..100, 50).unwrap().len(), 2);
    assert_eq!(wal.entries(7, 5..100, 0).unwrap().len(), 1);
    assert!(wal.entries(7, 200..300, 100).unwrap().is_empty());
    assert_eq!(wal.bytes_since_purge(7), 2 + 198 * 20);
    submit(&wal, vec![Record::TruncateFrom { group: 7, index: 150 }, entry(7, 150, "new")]).unwrap();
    submit(&wal, vec![purged(7, 99), purged(8, 500)]).unwrap();
    drop(wal);

    let wal = open();
    assert_eq!(indexes(&wal, 7), (100..151).collect::<Vec<_>>());
    assert_eq!(wal.group(7).last, Some((150, "new".into())));
    assert_eq!(wal.group(7).purged, Some((99, "id 99".into())));
    assert_eq!((wal.group(8).last, wal.group(8).purged), (None, Some((500, "id 500".into()))));
    submit(&wal, vec![entry(8, 501, "y")]).unwrap();
    assert_eq!(wal.groups(), [7, 8]);
    wal.check_invariants();
    let other = wal.clone();
    wal.close();
    assert!(submit(&other, vec![vote(1, b"late")]).is_err());
    assert_eq!(indexes(&other, 8), [501], "a closed log can be read");
}

#[test]
fn a_log_is_found_again_after_a_restart() {
    for (segment_bytes, cache_bytes_max) in [(512, 100), (512, 1 << 20), (1 << 20, 1 << 20)] {
        for flushing in [Flushing::InSubmit, Flushing::OnThread] {
            let options = WalOptions { segment_bytes, cache_bytes_max, flushing, ..WalOptions::default() };
            let files: Arc<dyn Files> = Arc::new(MemoryFiles::new());
            check_log(&options, &dir(), &files);
            let temporary = tempfile::tempdir().unwrap();
            let files: Arc<dyn Files> = Arc::new(DiskFiles);
            check_log(&options, &temporary.path().join("node/wal"), &files);
        }
    }
}

#[test]
fn records_that_do_not_follow_are_refused_and_nothing_of_them_is_taken() {
    let wal = open(&MemoryFiles::new(), &options(4096));
    submit(&wal, vec![purged(1, 9), entry(1, 10, "a"), entry(1, 11, "b")]).unwrap();
    let truncate = |index| Record::TruncateFrom { group: 1, index };
    for refused in [
        vec![entry(1, 11, "twice")],
        vec![entry(1, 13, "gap")],
        vec![truncate(9)],
        vec![entry(1, 12, "good"), entry(1, 12, "twice")],
        vec![truncate(11), entry(1, 12, "gap")],
        vec![purged(1, 20), entry(1, 12, "purged")],
        vec![entry(2, 5, "a"), purged(2, 3)],
        vec![entry(2, u64::MAX, "end")],
    ] {
        let error = submit(&wal, refused.clone()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{refused:?}");
    }
    assert_eq!(indexes(&wal, 1), [10, 11]);
    submit(&wal, vec![purged(1, 5), truncate(11), entry(1, 11, "c"), truncate(40), entry(1, 12, "d")])
        .unwrap();
    assert_eq!(wal.group(1).purged, Some((9, "id 9".into())), "a purge point does not go back");
    submit(&wal, vec![purged(1, 50), entry(1, 51, "e")]).unwrap();
    submit(&wal, vec![entry(2, 5, "a"), purged(2, 4)]).unwrap();
    assert_eq!(indexes(&wal, 1), [51]);
    assert_eq!(wal.status().failed, None);
}

#[test]
fn what_nobody_has_flushed_is_lost_with_the_power() {
    let files = MemoryFiles::new();
    let on_call = WalOptions { flushing: Flushing::OnCall, ..options(1 << 16) };
    let wal = open(&files, &on_call);
    let told = Arc::new(Mutex::new(0));
    let submit = |index| {
        let told = told.clone();
        wal.submit(vec![entry(1, index, "entry")], move |result| {
            result.unwrap();
            *told.lock() += 1;
        });
    };
    submit(0);
    submit(1);
    assert_eq!((*told.lock(), indexes(&wal, 1)), (0, vec![0, 1]), "it can be read before");
    wal.flush();
    assert_eq!((*told.lock(), files.syncs() > 0), (2, true));
    submit(2);
    let files = files.crash(|_| 0..0);
    drop(wal);
    assert_eq!((*told.lock(), indexes(&open(&files, &on_call), 1)), (2, vec![0, 1]));
}

#[test]
fn what_waits_is_written_and_flushed_together() {
    let files = MemoryFiles::new();
    let wal = open(&files, &options(1 << 16));
    let told = Arc::new(Mutex::new(Vec::new()));
    let held = wal.hold().unwrap();
    for index in 0..100 {
        let told = told.clone();
        wal.submit(vec![entry(1, index, "entry")], move |result| {
            result.unwrap();
            told.lock().push(index);
        });
        assert_eq!(wal.group(1).last.unwrap().0, index, "it is visible at once");
    }
    assert!(wal.status().queued_bytes > 500);
    assert!(told.lock().is_empty());
    let syncs = files.syncs();
    wal.release(held);
    assert_eq!(files.syncs(), syncs + 1);
    assert_eq!(*told.lock(), (0..100).collect::<Vec<_>>());
    let status = wal.status();
    assert_eq!((status.queued_bytes, status.appends, status.flushes), (0, 100, 1));
}

#[test]
fn many_threads_share_the_log() {
    let files = MemoryFiles::new();
    let options = WalOptions { segment_bytes: 4096, cache_bytes_max: 1000, ..WalOptions::default() };
    let wal = open(&files, &options);
    std::thread::scope(|scope| {
        for group in 0..4 {
            let wal = wal.clone();
            scope.spawn(move || {
                let (sender, receiver) = mpsc::channel();
                for index in 0..500 {
                    let sender = sender.clone();
                    let mut records = vec![entry(group, index, vec![1; 50])];
                    if index % 100 == 99 {
                        records.push(purged(group, index - 50));
                    }
                    wal.submit(records, move |result| sender.send(result.map(|()| index)).unwrap());
                    let read = wal.entries(group, index.saturating_sub(20)..index + 1, usize::MAX).unwrap();
                    assert_eq!(read.last().unwrap().0, index);
                }
                drop(sender);
                assert_eq!(
                    receiver.into_iter().map(Result::unwrap).collect::<Vec<_>>(),
                    (0..500).collect::<Vec<_>>()
                );
            });
        }
    });
    wal.check_invariants();
    wal.close();
    let wal = open(&files.kill(), &options);
    for group in 0..4 {
        assert_eq!(indexes(&wal, group), (450..500).collect::<Vec<_>>());
    }
}
