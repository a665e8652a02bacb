//! The log as its callers see it, over both kinds of files and through crashes.

use std::{
    collections::BTreeMap,
    fmt, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use proptest::{collection::vec, prelude::*};

use crate::{
    DirectoryLock, DiskFiles, File, Files, Flushing, GroupState, MemoryFiles, Record, Wal, WalError,
    WalOptions,
};

const EVERYTHING: Range<u64> = 0..u64::MAX;

fn options(segment_bytes: u32) -> WalOptions {
    WalOptions { segment_bytes, flushing: Flushing::InSubmit, ..WalOptions::default() }
}

fn dir() -> PathBuf {
    PathBuf::from("wal")
}

fn open(files: &MemoryFiles, options: &WalOptions) -> Wal {
    Wal::open(&dir(), options.clone(), Arc::new(files.clone())).unwrap()
}

fn entry(group: u64, index: u64, bytes: impl Into<Bytes>) -> Record {
    Record::Entry { group, index, bytes: bytes.into() }
}

fn vote(group: u64, bytes: &'static [u8]) -> Record {
    Record::Vote { group, bytes: Bytes::from_static(bytes) }
}

fn purged(group: u64, index: u64) -> Record {
    Record::Purged { group, index, bytes: Bytes::from(format!("id {index}")) }
}

/// Submits, and waits for what `done` is told.
fn submit(wal: &Wal, records: Vec<Record>) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel();
    wal.submit(records, move |result| sender.send(result).unwrap());
    receiver.recv_timeout(Duration::from_secs(20)).expect("done is called")
}

fn indexes(wal: &Wal, group: u64) -> Vec<u64> {
    wal.entries(group, EVERYTHING, usize::MAX).unwrap().into_iter().map(|entry| entry.0).collect()
}

/// What a log has to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Model(BTreeMap<u64, (GroupState, BTreeMap<u64, Bytes>)>);

impl Model {
    fn apply(&mut self, record: &Record) {
        let (state, entries) = self.0.entry(record.group()).or_default();
        match record {
            Record::Vote { bytes, .. } => state.vote = Some(bytes.clone()),
            Record::Meta { key, bytes, .. } => {
                state.meta.insert(*key, bytes.clone());
            }
            Record::Entry { index, bytes, .. } => {
                entries.insert(*index, bytes.clone());
            }
            Record::TruncateFrom { index, .. } => {
                entries.split_off(index);
            }
            Record::Purged { index, bytes, .. } => {
                if state.purged.as_ref().is_none_or(|purged| purged.0 < *index) {
                    *entries = entries.split_off(&(index + 1));
                    state.purged = Some((*index, bytes.clone()));
                }
            }
        }
        state.first_index = entries.first_key_value().map(|first| *first.0);
        state.last = entries.last_key_value().map(|last| (*last.0, last.1.clone()));
    }

    fn of(wal: &Wal) -> Self {
        let group = |group| {
            let entries = wal.entries(group, EVERYTHING, usize::MAX).unwrap().into_iter().collect();
            (group, (wal.group(group), entries))
        };
        Self(wal.groups().into_iter().map(group).collect())
    }

    /// Without groups that have nothing.
    fn normal(mut self) -> Self {
        self.0.retain(|_, group| *group != Default::default());
        self
    }

    fn next_index(&self, group: u64) -> u64 {
        let Some((state, _)) = self.0.get(&group) else { return 0 };
        state.last.as_ref().or(state.purged.as_ref()).map_or(0, |end| end.0 + 1)
    }
}

/// What every file system has to do for the log.
fn check_files(files: &dyn Files, dir: &Path) {
    let (a, b) = (dir.join("a"), dir.join("b"));
    files.create_dir(dir).unwrap();
    assert!(files.list(dir).unwrap().is_empty());
    assert_eq!(files.open(&a).unwrap_err().kind(), io::ErrorKind::NotFound);
    let file = files.create(&a).unwrap();
    assert_eq!(files.create(&a).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    file.write_at(b"world", 5).unwrap();
    file.write_at(b"hello", 0).unwrap();
    file.sync().unwrap();
    assert_eq!(file.size().unwrap(), 10);
    let mut bytes = [0; 4];
    files.open(&a).unwrap().read_at(&mut bytes, 3).unwrap();
    assert_eq!(&bytes, b"lowo");
    assert_eq!(file.read_at(&mut bytes, 7).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);

    files.create(&b).unwrap();
    assert_eq!(files.list(dir).unwrap(), ["a", "b"]);
    files.rename(&a, &b).unwrap();
    assert_eq!(files.list(dir).unwrap(), ["b"]);
    assert_eq!(files.open(&b).unwrap().size().unwrap(), 10);
    files.remove(&b).unwrap();
    files.sync_dir(dir).unwrap();
    file.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"hell", "an open handle outlives the name");
    assert_eq!(files.remove(&b).unwrap_err().kind(), io::ErrorKind::NotFound);

    let lock = files.lock(&dir.join("lock")).unwrap();
    assert!(lock.is_some());
    assert!(files.lock(&dir.join("lock")).unwrap().is_none());
    drop(lock);
    assert!(files.lock(&dir.join("lock")).unwrap().is_some());
}

#[test]
fn both_kinds_of_files_keep_the_contract() {
    check_files(&MemoryFiles::new(), &dir());
    let temporary = tempfile::tempdir().unwrap();
    check_files(&DiskFiles, &temporary.path().join("two/levels"));
}

#[test]
fn files_in_memory_lose_what_was_not_flushed() {
    let files = MemoryFiles::new();
    let kept = files.create(Path::new("wal/kept")).unwrap();
    files.sync_dir(Path::new("wal")).unwrap();
    files.create(Path::new("wal/lost")).unwrap();
    kept.write_at(b"flushed", 0).unwrap();
    kept.sync().unwrap();
    kept.write_at(b"FLUSHED", 0).unwrap();
    let next = files.crash(|length| 2..length - 1);
    assert!(kept.size().is_err(), "the run has ended");
    assert_eq!(next.list(Path::new("wal")).unwrap(), ["kept"]);
    assert_eq!(next.contents(Path::new("wal/kept")).unwrap(), b"flUSHEd");
}

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

#[test]
fn a_failed_flush_is_final() {
    for flushing in [Flushing::InSubmit, Flushing::OnThread] {
        let files = MemoryFiles::new();
        let options = WalOptions { flushing, ..options(4096) };
        let wal = open(&files, &options);
        submit(&wal, vec![entry(1, 0, "kept")]).unwrap();
        files.fail_sync(0);
        assert!(submit(&wal, vec![entry(1, 1, "lost")]).is_err());
        // The files would do it again.
        assert!(submit(&wal, vec![entry(1, 2, "refused")]).is_err());
        assert!(submit(&wal, vec![entry(1, 77, "wrong")]).unwrap_err().kind() != io::ErrorKind::InvalidInput);
        assert!(wal.status().failed.unwrap().contains("sync failed"));
        drop(wal);
        assert_eq!(indexes(&open(&files.crash(|_| 0..0), &options), 1), [0]);
    }
}

#[test]
fn a_failed_flush_fails_all_that_waits() {
    let files = MemoryFiles::new();
    let wal = open(&files, &options(256));
    let held = wal.hold().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    for index in 0..50 {
        let told = told.clone();
        wal.submit(vec![entry(1, index, vec![0; 60])], move |result| told.lock().push(result.is_ok()));
    }
    files.fail_sync(3);
    wal.release(held);
    let told = told.lock();
    let good = told.iter().take_while(|good| **good).count();
    assert!(good > 0 && told.len() == 50 && told[good..].iter().all(|good| !good), "{told:?}");
}

#[test]
fn no_space_fails_the_append_and_keeps_what_was_acknowledged() {
    let files = MemoryFiles::new();
    let wal = open(&files, &options(512));
    files.set_capacity(2000);
    let mut kept = 0;
    while submit(&wal, vec![entry(1, kept, vec![0; 50])]).is_ok() {
        kept += 1;
    }
    assert!(kept > 10);
    assert!(wal.status().failed.is_some());
    drop(wal);
    assert_eq!(indexes(&open(&files.crash(|_| 0..0), &options(512)), 1), (0..kept).collect::<Vec<_>>());
}

#[test]
fn an_idle_group_does_not_hold_old_segments() {
    let files = MemoryFiles::new();
    let options = options(1024);
    let wal = open(&files, &options);
    // Group 1 says something once. Group 2 writes and purges for ever.
    let meta = Record::Meta { group: 1, key: 1, bytes: "m".into() };
    submit(&wal, vec![vote(1, b"old"), meta, purged(1, 4), entry(1, 5, "a"), entry(1, 6, "b")]).unwrap();
    for index in 0..2000 {
        submit(&wal, vec![entry(2, index, vec![7; 40])]).unwrap();
        if index % 10 == 0 && index > 20 {
            submit(&wal, vec![purged(2, index - 20)]).unwrap();
        }
        let status = wal.status();
        assert!(status.bytes < 10 * 1024, "{status:?}");
    }
    wal.check_invariants();
    let before = Model::of(&wal);
    let names = files.list(&dir()).unwrap();
    assert!(!names.contains(&"0000000000000001.wal".to_owned()), "{names:?}");
    drop(wal);
    let wal = open(&files.crash(|_| 0..0), &options);
    assert_eq!(Model::of(&wal), before);
    assert_eq!(indexes(&wal, 1), [5, 6]);
    assert_eq!(wal.group(1).vote.unwrap(), "old");
}

#[test]
fn segments_are_used_again_and_their_old_records_do_not_count() {
    let files = MemoryFiles::new();
    let options = options(1024);
    let wal = open(&files, &options);
    let mut largest = 0;
    for index in 0..500 {
        submit(&wal, vec![entry(1, index, vec![7; 40])]).unwrap();
        if index % 30 == 0 && index > 0 {
            submit(&wal, vec![purged(1, index - 1)]).unwrap();
        }
        largest = largest.max(wal.status().segments + wal.status().spares);
        let copy = files.copy();
        assert_eq!(Model::of(&open(&copy, &options)), Model::of(&wal));
    }
    assert!(largest < 8, "{largest}");
}

/// A log with several segments, and what it has before and after its last submission.
fn several_segments() -> (MemoryFiles, Model, Model) {
    let files = MemoryFiles::new();
    let wal = open(&files, &options(256));
    for index in 0..13 {
        submit(&wal, vec![entry(1, index, format!("entry {index}")), vote(2, b"vote")]).unwrap();
    }
    let before = Model::of(&wal);
    submit(&wal, vec![entry(1, 13, "the last"), entry(3, 9, "another")]).unwrap();
    let after = Model::of(&wal);
    assert!(wal.status().segments > 3);
    drop(wal);
    (files, before, after)
}

fn segments(files: &MemoryFiles) -> Vec<PathBuf> {
    let names = files.list(&dir()).unwrap();
    names.iter().filter(|name| name.ends_with(".wal")).map(|name| dir().join(name)).collect()
}

/// Where the frames of a segment begin, and where the last ends.
fn frames(bytes: &[u8]) -> Vec<usize> {
    let starts = (32..bytes.len() - 4).step_by(8).filter(|&at| bytes[at..at + 4] == *b"FRM\n");
    let mut starts: Vec<usize> = starts.collect();
    let last = *starts.last().unwrap();
    let body = u32::from_le_bytes(bytes[last + 4..last + 8].try_into().unwrap()) as usize;
    starts.push((last + 16 + body).next_multiple_of(8));
    starts
}

#[test]
fn the_last_submission_is_dropped_when_it_is_cut_anywhere() {
    let (files, before, after) = several_segments();
    let path = segments(&files).pop().unwrap();
    let whole = files.contents(&path).unwrap();
    let starts = frames(&whole);
    let [.., start, end] = starts[..] else { panic!("there is a frame") };
    for rest in [0_u8, 0xA5] {
        for cut in start..=end {
            let copy = files.copy();
            let mut torn = whole.clone();
            torn[cut..].fill(rest);
            copy.damage(&path, &torn);
            let wal = open(&copy, &options(256));
            // The padding does not matter.
            let expected = if cut + 8 > end && torn[..cut] == whole[..cut] && Model::of(&wal) == after {
                &after
            } else {
                &before
            };
            assert_eq!(&Model::of(&wal), expected, "cut at {cut} of {start}..{end}");
            // It goes on from there.
            submit(&wal, vec![vote(2, b"next")]).unwrap();
            let now = Model::of(&wal);
            drop(wal);
            assert_eq!(Model::of(&open(&copy.crash(|_| 0..0), &options(256))), now);

            // Also when the file itself is cut.
            let copy = files.copy();
            copy.damage(&path, &whole[..cut]);
            let wal = open(&copy, &options(256));
            assert!(Model::of(&wal) == before || cut + 8 > end);
            submit(&wal, vec![vote(2, &[0; 100])]).unwrap();
            let now = Model::of(&wal);
            drop(wal);
            assert_eq!(Model::of(&open(&copy.crash(|_| 0..0), &options(256))), now);
        }
    }
}

#[test]
fn garbage_after_the_last_record_does_not_count() {
    let (files, _, after) = several_segments();
    let path = segments(&files).pop().unwrap();
    let whole = files.contents(&path).unwrap();
    let end = *frames(&whole).last().unwrap();
    // Among the garbage is a frame of another place.
    let mut garbage = whole.clone();
    garbage[end..].fill(0x33);
    let frame = whole[32..end].to_vec();
    let room = garbage.len() - end;
    garbage[end..].copy_from_slice(&frame.iter().copied().cycle().take(room).collect::<Vec<_>>());
    files.damage(&path, &garbage);
    assert_eq!(Model::of(&open(&files, &options(256))), after);
}

#[test]
fn damage_before_the_end_is_found_and_changes_nothing() {
    let (files, ..) = several_segments();
    let paths = segments(&files);
    for (number, path) in paths.iter().enumerate() {
        let whole = files.contents(path).unwrap();
        let starts = frames(&whole);
        let is_last = number + 1 == paths.len();
        // The last frame of the last segment may be a torn one.
        let end = if is_last { starts[starts.len() - 2] } else { starts[starts.len() - 1] };
        for at in 0..end {
            // Padding says nothing.
            let padding = starts.windows(2).any(|pair| {
                let body = u32::from_le_bytes(whole[pair[0] + 4..pair[0] + 8].try_into().unwrap()) as usize;
                (pair[0] + 16 + body..pair[1]).contains(&at)
            });
            if padding {
                continue;
            }
            for bit in [0, 3, 7] {
                let copy = files.copy();
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                copy.damage(path, &flipped);
                let result = Wal::open(&dir(), options(256), Arc::new(copy.clone()));
                let Err(WalError::Damaged { file, offset, .. }) = result else {
                    panic!("{path:?} {at} {bit}: {result:?}")
                };
                assert_eq!(&file, path);
                assert!(usize::try_from(offset).unwrap() <= at);
                assert_eq!(copy.contents(path).unwrap(), flipped);
            }
        }
        if !is_last {
            let copy = files.copy();
            copy.remove(path).unwrap();
            let result = Wal::open(&dir(), options(256), Arc::new(copy));
            // Nobody can see that the oldest are gone, unless something in the others needs them.
            assert!(number == 0 || matches!(result, Err(WalError::Damaged { .. })), "{result:?}");
        }
    }
}

#[test]
fn a_format_of_the_future_is_named() {
    let (files, ..) = several_segments();
    let path = segments(&files).pop().unwrap();
    let mut bytes = files.contents(&path).unwrap();
    bytes[8] = 9;
    let crc = crc32fast::hash(&bytes[..28]).to_le_bytes();
    bytes[28..32].copy_from_slice(&crc);
    files.damage(&path, &bytes);
    let result = Wal::open(&dir(), options(256), Arc::new(files));
    assert!(matches!(result, Err(WalError::UnknownVersion { version: 9, .. })));
}

#[test]
fn an_entry_that_changes_on_the_disk_is_not_given_out() {
    let files = MemoryFiles::new();
    let options = WalOptions { cache_bytes_max: 0, ..options(4096) };
    let wal = open(&files, &options);
    submit(&wal, vec![entry(1, 0, "first"), entry(1, 1, "second")]).unwrap();
    let path = segments(&files).pop().unwrap();
    let mut bytes = files.contents(&path).unwrap();
    let at = bytes.windows(5).position(|part| part == b"first").unwrap();
    bytes[at] = b'F';
    files.damage(&path, &bytes);
    assert_eq!(wal.entries(1, 0..1, 100).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn a_panic_on_the_writers_thread_leaves_nobody_waiting() {
    let files = MemoryFiles::new();
    let options = WalOptions { flushing: Flushing::OnThread, ..options(4096) };
    let wal = open(&files, &options);
    let (sender, receiver) = mpsc::channel();
    wal.submit(vec![vote(1, b"one")], move |_| {
        // More is queued by the time of the panic.
        receiver.recv_timeout(Duration::from_secs(20)).unwrap();
        panic!("on purpose");
    });
    let (told, results) = mpsc::channel();
    wal.submit(vec![vote(1, b"two")], move |result| told.send(result.is_err()).unwrap());
    sender.send(()).unwrap();
    // Told, or dropped where it was in the same batch.
    assert_ne!(results.recv_timeout(Duration::from_secs(20)), Ok(false));
    assert!(submit(&wal, vec![vote(1, b"three")]).is_err());
    assert!(wal.status().failed.is_some());
    wal.close();
    assert!(open(&files, &options).group(1).vote.is_some());
}

/// Does something before the next read, as another thread might.
type BeforeRead = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

#[derive(Clone)]
struct Interrupted {
    files: MemoryFiles,
    before_read: BeforeRead,
}

impl fmt::Debug for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(f)
    }
}

impl Files for Interrupted {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.files.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.files.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(InterruptedFile {
            file: self.files.create(path)?,
            before_read: self.before_read.clone(),
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(InterruptedFile { file: self.files.open(path)?, before_read: self.before_read.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.files.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<DirectoryLock>> {
        self.files.lock(path)
    }
}

struct InterruptedFile {
    file: Arc<dyn File>,
    before_read: BeforeRead,
}

impl fmt::Debug for InterruptedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl File for InterruptedFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let interruption = self.before_read.lock().take();
        if let Some(interruption) = interruption {
            interruption();
        }
        self.file.read_at(buffer, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

fn interrupted() -> (Interrupted, WalOptions, Wal) {
    let files = Interrupted { files: MemoryFiles::new(), before_read: Arc::default() };
    let options = WalOptions { cache_bytes_max: 0, ..options(512) };
    let wal = Wal::open(&dir(), options.clone(), Arc::new(files.clone())).unwrap();
    (files, options, wal)
}

#[test]
fn a_segment_that_is_read_is_not_written_again() {
    let (files, _, wal) = interrupted();
    submit(&wal, vec![entry(1, 0, "the first"), entry(1, 1, "the second")]).unwrap();
    let writer = wal.clone();
    *files.before_read.lock() = Some(Box::new(move || {
        for index in 2..100 {
            submit(&writer, vec![entry(1, index, vec![9; 100]), purged(1, index - 1)]).unwrap();
        }
    }));
    assert_eq!(wal.entries(1, 0..1, 100).unwrap(), [(0, "the first".into())]);
    assert_eq!(indexes(&wal, 1), [99]);
}

#[test]
fn what_is_truncated_while_it_is_brought_forward_stays_away() {
    let (files, options, wal) = interrupted();
    submit(&wal, vec![entry(1, 5, "a"), entry(1, 6, "b"), entry(1, 7, "c")]).unwrap();
    let truncated = Arc::new(Mutex::new(false));
    let (writer, also) = (wal.clone(), truncated.clone());
    *files.before_read.lock() = Some(Box::new(move || {
        writer.submit(vec![Record::TruncateFrom { group: 1, index: 5 }], |_| {});
        *also.lock() = true;
    }));
    // Until the log is large enough that the first segment has to go.
    let mut index = 0;
    while !*truncated.lock() {
        submit(&wal, vec![entry(2, index, vec![9; 100])]).unwrap();
        if index > 0 {
            submit(&wal, vec![purged(2, index - 1)]).unwrap();
        }
        index += 1;
        assert!(index < 200);
    }
    assert!(indexes(&wal, 1).is_empty());
    drop(wal);
    assert!(indexes(&open(&files.files.kill(), &options), 1).is_empty());
}

/// One step of a random run.
#[derive(Debug, Clone)]
enum Step {
    Submit(Vec<Change>),
    /// What is submitted waits from here on, or no longer.
    Hold,
    Release,
    Read(u64, u8, u8, u8),
    Reopen,
}

#[derive(Debug, Clone)]
enum Change {
    Vote(u64, u8),
    Meta(u64, u8, u8),
    Append(u64, u8),
    /// So many entries from the end, or none where so many are purged.
    Truncate(u64, u8),
    /// So far before, or beyond, the end.
    Purge(u64, i8),
}

impl Change {
    fn record(&self, model: &Model, unique: u64) -> Record {
        let bytes = |length: u8| {
            let mut bytes = unique.to_le_bytes().to_vec();
            bytes.resize(usize::from(length), 7);
            Bytes::from(bytes)
        };
        match *self {
            Self::Vote(group, length) => Record::Vote { group, bytes: bytes(length) },
            Self::Meta(group, key, length) => Record::Meta { group, key, bytes: bytes(length) },
            Self::Append(group, length) => {
                Record::Entry { group, index: model.next_index(group), bytes: bytes(length) }
            }
            Self::Truncate(group, back) => {
                let state = model.0.get(&group).map(|group| group.0.clone()).unwrap_or_default();
                let least = state.purged.map(|purged| purged.0 + 1).or(state.first_index).unwrap_or(0);
                let index = model.next_index(group).saturating_sub(u64::from(back)).max(least);
                Record::TruncateFrom { group, index }
            }
            Self::Purge(group, beyond) => {
                let first = model.0.get(&group).and_then(|group| group.0.first_index).unwrap_or(0);
                let index = model.next_index(group).saturating_add_signed(i64::from(beyond));
                Record::Purged { group, index: index.max(first), bytes: bytes(9) }
            }
        }
    }
}

fn changes() -> impl Strategy<Value = Change> {
    let group = 0..3_u64;
    prop_oneof![
        1 => (group.clone(), 0..30_u8).prop_map(|(group, length)| Change::Vote(group, length)),
        1 => (group.clone(), 0..3_u8, 0..30_u8).prop_map(|(group, key, length)| Change::Meta(group, key, length)),
        // Group 0 is nearly idle.
        8 => (group.clone(), 0..120_u8).prop_map(|(group, length)| Change::Append(group.max(u64::from(length > 10)), length)),
        1 => (group.clone(), 0..6_u8).prop_map(|(group, back)| Change::Truncate(group, back)),
        2 => (1..3_u64, -20..3_i8).prop_map(|(group, beyond)| Change::Purge(group, beyond)),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => vec(changes(), 1..5).prop_map(Step::Submit),
        1 => Just(Step::Hold),
        2 => Just(Step::Release),
        2 => (0..3_u64, any::<u8>(), 0..20_u8, any::<u8>()).prop_map(|(group, from, count, bytes)| Step::Read(group, from, count, bytes)),
        1 => Just(Step::Reopen),
    ];
    vec(step, 1..80)
}

/// How a run ends: after how many operations the files stop, and what survives of a write that was not flushed.
#[derive(Debug, Clone)]
struct End {
    stop: u64,
    survives: Survives,
    /// Whether each change of a name that was not flushed survives; repeated.
    names: u8,
}

#[derive(Debug, Clone, Copy)]
enum Survives {
    Nothing,
    /// So many percent from the beginning.
    Beginning(usize),
    Rest(usize),
    /// The process was killed.
    Everything,
}

fn ends() -> impl Strategy<Value = End> {
    let survives = prop_oneof![
        Just(Survives::Nothing),
        (0..=100_usize).prop_map(Survives::Beginning),
        (0..=100_usize).prop_map(Survives::Rest),
        Just(Survives::Everything),
    ];
    (0..200_u64, survives, any::<u8>()).prop_map(|(stop, survives, names)| End { stop, survives, names })
}

impl End {
    fn next_run(&self, files: &MemoryFiles) -> MemoryFiles {
        let mut names = self.names;
        let names = || {
            names = names.rotate_left(1);
            names & 1 == 1
        };
        match self.survives {
            Survives::Nothing => files.crash_keeping(|_| 0..0, names),
            Survives::Beginning(percent) => files.crash_keeping(|length| 0..length * percent / 100, names),
            Survives::Rest(percent) => files.crash_keeping(|length| length * percent / 100..length, names),
            Survives::Everything => files.kill(),
        }
    }
}

/// A run of the process over the files, against the model.
struct Run {
    wal: Option<Wal>,
    held: Option<crate::writer::Writer>,
    files: MemoryFiles,
    options: WalOptions,
    /// What the log has after each submission, from the first that may be missing after a crash.
    history: Vec<Model>,
    /// Submissions of the history that were acknowledged.
    acknowledged: Arc<Mutex<usize>>,
    unique: u64,
}

impl Run {
    fn model(&self) -> &Model {
        self.history.last().unwrap()
    }

    fn wal(&self) -> &Wal {
        self.wal.as_ref().unwrap()
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Submit(changes) => self.submit(changes),
            Step::Hold if self.held.is_none() => self.held = self.wal().hold(),
            Step::Hold => {}
            Step::Release => self.release(),
            Step::Read(group, from, count, bytes_max) => {
                let from = u64::from(*from);
                let range = from..from + u64::from(*count);
                self.read(*group, range, usize::from(*bytes_max));
            }
            Step::Reopen => {
                self.release();
                if self.wal().status().failed.is_none() {
                    self.wal = None;
                    let opened = Wal::open(&dir(), self.options.clone(), Arc::new(self.files.clone()));
                    // The files may stop in the middle of it.
                    self.wal = opened.ok();
                }
            }
        }
        if let Some(wal) = &self.wal {
            wal.check_invariants();
            if wal.status().failed.is_none() {
                assert_eq!(&Model::of(wal).normal(), &self.model().clone().normal());
            }
        }
    }

    fn submit(&mut self, changes: &[Change]) {
        let mut model = self.model().clone();
        let mut records = Vec::new();
        for change in changes {
            self.unique += 1;
            let record = change.record(&model, self.unique);
            model.apply(&record);
            records.push(record);
        }
        let failed = self.wal().status().failed.is_some();
        let (number, acknowledged) = (self.history.len(), self.acknowledged.clone());
        self.wal().submit(records, move |result| match result {
            Ok(()) => {
                let before = std::mem::replace(&mut *acknowledged.lock(), number);
                assert_eq!(before + 1, number, "in order, without a gap");
            }
            Err(error) => assert_ne!(error.kind(), io::ErrorKind::InvalidInput, "{error}"),
        });
        if !failed {
            self.history.push(model);
        }
    }

    fn read(&self, group: u64, range: Range<u64>, bytes_max: usize) {
        if self.wal().status().failed.is_some() {
            return;
        }
        let mut expected: Vec<(u64, Bytes)> = Vec::new();
        for (index, bytes) in self.model().0.get(&group).iter().flat_map(|group| group.1.range(range.clone()))
        {
            let sum: usize = expected.iter().map(|entry| entry.1.len()).sum();
            if !expected.is_empty() && sum + bytes.len() > bytes_max {
                break;
            }
            expected.push((*index, bytes.clone()));
        }
        assert_eq!(self.wal().entries(group, range, bytes_max).unwrap(), expected);
    }

    fn release(&mut self) {
        if let Some(held) = self.held.take() {
            self.wal().release(held);
        }
    }

    fn crash(&mut self, end: &End) {
        self.held = None;
        self.wal = None;
        self.files = end.next_run(&self.files);
        let wal = open(&self.files, &self.options);
        wal.check_invariants();
        let found = Model::of(&wal).normal();
        let acknowledged = *self.acknowledged.lock();
        let possible = &self.history[acknowledged..];
        let kept = possible.iter().find(|model| (*model).clone().normal() == found);
        assert!(kept.is_some(), "{found:?}\nis none of\n{possible:?}");
        self.history = vec![found];
        *self.acknowledged.lock() = 0;
        self.wal = Some(wal);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is done, and wherever the power fails: what was acknowledged is there, in order; each submission is there whole or
    /// not at all; what was truncated or purged does not come back.
    #[test]
    fn a_log_survives_crashes(
        runs in vec((steps(), ends()), 1..4),
        segment_bytes in 256..1500_u32,
        spares_max in 0..3_usize,
        cache_bytes_max in 0..600_usize,
    ) {
        let options = WalOptions { segment_bytes, spares_max, cache_bytes_max, flushing: Flushing::InSubmit };
        let files = MemoryFiles::new();
        let mut run = Run {
            wal: Some(open(&files, &options)),
            held: None,
            files,
            options,
            history: vec![Model::default()],
            acknowledged: Arc::default(),
            unique: 0,
        };
        for (steps, end) in runs {
            run.files.stop_at_operation(end.stop);
            for step in &steps {
                run.step(step);
                if run.wal.is_none() {
                    break;
                }
            }
            run.crash(&end);
        }
    }

    /// Without crashes the log stays small, however the groups behave.
    #[test]
    fn a_log_is_not_much_larger_than_what_is_needed(steps in vec(changes(), 1..400), segment_bytes in 256..1500_u32) {
        let wal = open(&MemoryFiles::new(), &options(segment_bytes));
        let mut model = Model::default();
        for (unique, change) in steps.into_iter().enumerate() {
            let record = change.record(&model, unique as u64);
            model.apply(&record);
            submit(&wal, vec![record]).unwrap();
            let status = wal.status();
            let spares = status.spares as u64 * u64::from(segment_bytes);
            let bound = 3 * status.live_bytes + 5 * u64::from(segment_bytes.next_multiple_of(8));
            prop_assert!(status.bytes - spares <= bound, "{status:?}");
        }
        wal.check_invariants();
    }

    /// Whatever is in the files, opening them ends, without a panic.
    #[test]
    fn any_bytes_are_opened_or_refused(flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..20), which in any::<prop::sample::Index>()) {
        let (files, ..) = several_segments();
        let paths = segments(&files);
        let path = &paths[which.index(paths.len())];
        let mut bytes = files.contents(path).unwrap();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        files.damage(path, &bytes);
        let _ = Wal::open(&dir(), options(256), Arc::new(files));
    }
}
