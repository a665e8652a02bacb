//! A log that is flushed now and then.

use super::*;

fn interval(segment_bytes: u32) -> WalOptions {
    WalOptions { sync: Sync::Interval(Duration::from_secs(3600)), ..options(segment_bytes) }
}

#[test]
fn a_power_cut_loses_entries_since_the_last_flush_and_a_kill_none() {
    let files = MemoryFiles::new();
    let wal = open(&files, &interval(1 << 16));
    let syncs = files.syncs();
    for index in 0..10 {
        submit(&wal, vec![entry(1, index, "entry")]).unwrap();
    }
    let status = wal.status();
    assert_eq!((files.syncs() - syncs, status.writes, status.flushes), (0, 10, 0));
    assert!(status.unflushed_bytes > 50, "{status:?}");
    assert_eq!(indexes(&open(&files.copy().kill(), &interval(1 << 16)), 1), (0..10).collect::<Vec<_>>());
    let cut = open(&files.copy().crash(|_| 0..0), &interval(1 << 16));
    assert!(indexes(&cut, 1).is_empty());

    wal.flush();
    assert_eq!((wal.status().flushes, wal.status().unflushed_bytes), (1, 0));
    wal.flush();
    assert_eq!(wal.status().flushes, 1, "there is nothing to flush");
    let cut = open(&files.copy().crash(|_| 0..0), &interval(1 << 16));
    assert_eq!(indexes(&cut, 1), (0..10).collect::<Vec<_>>());
}

#[test]
fn a_vote_and_a_truncation_are_flushed_with_all_before_them() {
    for record in
        [vote(1, b"vote"), Record::TruncateFrom { group: 1, index: 1 }, Record::Forgotten { group: 2 }]
    {
        let files = MemoryFiles::new();
        let wal = open(&files, &interval(1 << 16));
        submit(&wal, vec![entry(1, 0, "a"), entry(1, 1, "b"), entry(2, 0, "c")]).unwrap();
        submit(&wal, vec![record]).unwrap();
        let expected = Model::of(&wal);
        submit(&wal, vec![entry(3, 0, "lost")]).unwrap();
        assert_eq!(Model::of(&open(&files.crash(|_| 0..0), &interval(1 << 16))), expected);
    }
}

#[test]
fn a_segment_is_flushed_before_the_next() {
    let files = MemoryFiles::new();
    let wal = open(&files, &interval(512));
    for index in 0..100 {
        submit(&wal, vec![entry(1, index, vec![7; 50])]).unwrap();
    }
    let segments = wal.status().segments;
    assert!(segments > 10 && wal.status().flushes >= segments as u64 - 1);
    let kept = indexes(&open(&files.crash(|_| 0..0), &interval(512)), 1).len();
    assert!(kept > 100 - 512 / 50, "{kept}");
}

/// The disk may keep a later write and lose an earlier one.
#[test]
fn a_hole_in_what_was_not_flushed_is_the_end_of_the_log() {
    let files = MemoryFiles::new();
    let wal = open(&files, &interval(1 << 12));
    submit(&wal, vec![vote(1, b"flushed")]).unwrap();
    for index in 0..8 {
        submit(&wal, vec![entry(1, index, vec![7; 60])]).unwrap();
    }
    for lost in 0..8 {
        let mut write = 0;
        let next = files.copy().crash(|length| {
            write += 1;
            if write - 1 == lost { 0..length / 2 } else { 0..length }
        });
        let wal = open(&next, &interval(1 << 12));
        assert_eq!(indexes(&wal, 1), (0..lost).collect::<Vec<_>>());
        // Those behind the hole stay away when it is filled.
        submit(&wal, vec![entry(1, lost, vec![8; 60])]).unwrap();
        drop(wal);
        let wal = open(&next.kill(), &interval(1 << 12));
        assert_eq!(indexes(&wal, 1), (0..=lost).collect::<Vec<_>>());
        assert_eq!(wal.group(1).vote, Some("flushed".into()));
    }
}

#[test]
fn damage_before_the_last_flush_is_found() {
    let files = MemoryFiles::new();
    let wal = open(&files, &interval(1 << 12));
    submit(&wal, vec![entry(1, 0, "damaged")]).unwrap();
    submit(&wal, vec![entry(1, 1, "whole")]).unwrap();
    wal.flush();
    submit(&wal, vec![entry(1, 2, "says that the others were flushed")]).unwrap();
    let path = dir().join("0000000000000001.wal");
    let mut bytes = files.contents(&path).unwrap();
    let at = bytes.windows(7).position(|part| part == b"damaged").unwrap();
    bytes[at] ^= 1;
    files.damage(&path, &bytes);
    let result = Wal::open(&dir(), interval(1 << 12), Arc::new(files.kill()));
    assert!(matches!(result, Err(WalError::Damaged { .. })), "{result:?}");
}

#[test]
fn the_thread_flushes_in_time_and_at_the_end() {
    let files = MemoryFiles::new();
    let sync = Sync::Interval(Duration::from_millis(30));
    let options = WalOptions { sync, flushing: Flushing::OnThread, ..options(1 << 20) };
    let wal = open(&files, &options);
    submit(&wal, vec![entry(1, 0, "entry")]).unwrap();
    let start = std::time::Instant::now();
    while wal.status().flushes == 0 {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(1));
    }
    // Also while there is always something to write.
    let (mut index, flushes) = (1, wal.status().flushes);
    while wal.status().flushes < flushes + 2 {
        assert!(start.elapsed() < Duration::from_secs(20));
        submit(&wal, vec![entry(1, index, "entry")]).unwrap();
        index += 1;
    }
    wal.close();
    assert_eq!(indexes(&open(&files.crash(|_| 0..0), &options), 1).len() as u64, index);
}

#[test]
fn a_flush_that_fails_later_fails_the_log() {
    let files = MemoryFiles::new();
    let sync = Sync::Interval(Duration::from_millis(10));
    let wal = open(&files, &WalOptions { sync, flushing: Flushing::OnThread, ..options(1 << 20) });
    files.fail_sync(0);
    submit(&wal, vec![entry(1, 0, "entry")]).unwrap();
    let start = std::time::Instant::now();
    while wal.status().failed.is_none() {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(submit(&wal, vec![entry(1, 1, "entry")]).is_err());
}

#[test]
fn a_log_of_the_first_format_is_read_and_goes_on_in_a_segment_of_the_second() {
    let files = MemoryFiles::new();
    let wal = open(&files, &options(4096));
    submit(&wal, vec![vote(1, b"vote"), entry(1, 0, "a")]).unwrap();
    let before = Model::of(&wal);
    drop(wal);
    let path = dir().join("0000000000000001.wal");
    let mut bytes = files.contents(&path).unwrap();
    assert_eq!(bytes[8], 2);
    bytes[8] = 1;
    let crc = crc32fast::hash(&bytes[..28]).to_le_bytes();
    bytes[28..32].copy_from_slice(&crc);
    files.damage(&path, &bytes);
    let wal = open(&files, &options(4096));
    assert_eq!(Model::of(&wal), before);
    submit(&wal, vec![Record::Forgotten { group: 1 }, entry(1, 5, "new")]).unwrap();
    let (after, files) = (Model::of(&wal), files.crash(|_| 0..0));
    if let Some(first) = files.contents(&path) {
        assert_eq!(first, bytes, "nothing was written into the old segment");
    }
    assert_eq!(Model::of(&open(&files, &options(4096))), after);
}
