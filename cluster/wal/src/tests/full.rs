//! A disk without space.

use super::*;

/// Results in the order in which they were told.
type Told = Arc<Mutex<Vec<(u64, io::Result<()>)>>>;

fn submit_entry(wal: &Wal, told: &Told, index: u64) {
    let told = told.clone();
    wal.submit(vec![entry(1, index, vec![7; 50])], move |result| told.lock().push((index, result)));
}

/// A log that has written entries until the disk was full, the reserve included; how many are submitted.
fn full(files: &MemoryFiles, options: &WalOptions) -> (Wal, Told, u64) {
    let wal = open(files, options);
    files.set_capacity(files.bytes() + 1300);
    let told = Told::default();
    let mut index = 0;
    while !wal.status().full {
        submit_entry(&wal, &told, index);
        index += 1;
        assert!(index < 1000 && wal.status().failed.is_none());
        while (told.lock().len() as u64) < index && !wal.status().full {
            std::thread::yield_now();
        }
    }
    (wal, told, index)
}

fn names(files: &MemoryFiles) -> Vec<String> {
    files.list(&dir()).unwrap()
}

#[test]
fn what_is_submitted_to_a_full_disk_waits_and_goes_on_when_there_is_space() {
    let files = MemoryFiles::new();
    let (wal, told, mut count) = full(&files, &options(512));
    for _ in 0..20 {
        submit_entry(&wal, &told, count);
        count += 1;
    }
    let status = wal.status();
    assert_eq!(told.lock().len() as u64, count - 21);
    assert!(status.reserve_in_use && status.spares == 0 && status.queued_bytes > 21 * 50, "{status:?}");
    assert_eq!(indexes(&wal, 1), (0..count).collect::<Vec<_>>(), "it can be read");
    assert!(
        names(&files).iter().all(|name| name.ends_with(".wal")),
        "nothing half-made is left: {:?}",
        names(&files)
    );

    files.lift_capacity();
    wal.flush();
    let status = wal.status();
    assert!(!status.full && !status.reserve_in_use && status.failed.is_none(), "{status:?}");
    let told = told.lock();
    assert!(told.iter().all(|told| told.1.is_ok()));
    assert!(told.iter().map(|told| told.0).eq(0..count), "in order, each once");
    drop(wal);
    assert_eq!(indexes(&open(&files.crash(|_| 0..0), &options(512)), 1).len() as u64, count);
}

#[test]
fn the_reserve_is_used_last_and_says_so() {
    let files = MemoryFiles::new();
    let wal = open(&files, &options(512));
    assert_eq!((wal.status().spares, wal.status().reserve_in_use), (1, false));
    files.set_capacity(files.bytes() + 700);
    let (mut index, mut segments) = (0, Vec::new());
    while !wal.status().full {
        wal.submit(vec![entry(1, index, vec![7; 50])], |_| {});
        index += 1;
        let status = wal.status();
        segments.push((status.segments, status.reserve_in_use));
    }
    segments.dedup();
    // One was there, one was made, and one is the reserve.
    assert_eq!(segments, [(1, false), (2, false), (3, true)]);
}

/// A purge that is written into the reserve frees segments, also for those that wait.
#[test]
fn what_is_freed_is_used_and_makes_the_reserve_whole() {
    let files = MemoryFiles::new();
    let wal = open(&files, &options(512));
    files.set_capacity(files.bytes() + 1300);
    let mut index = 0;
    while !wal.status().reserve_in_use {
        submit(&wal, vec![entry(1, index, vec![7; 50])]).unwrap();
        index += 1;
    }
    submit(&wal, vec![purged(1, index - 1)]).unwrap();
    for _ in 0..200 {
        submit(&wal, vec![entry(1, index, vec![7; 50]), purged(1, index - 1)]).unwrap();
        index += 1;
    }
    let status = wal.status();
    assert!(!status.full && !status.reserve_in_use, "{status:?}");
    wal.check_invariants();
}

#[test]
fn the_thread_tries_again_until_there_is_space() {
    let files = MemoryFiles::new();
    let options = WalOptions { flushing: Flushing::OnThread, ..options(512) };
    let (wal, told, count) = full(&files, &options);
    submit_entry(&wal, &told, count);
    std::thread::sleep(Duration::from_millis(250));
    assert!((told.lock().len() as u64) < count);
    files.lift_capacity();
    let start = std::time::Instant::now();
    while told.lock().len() as u64 <= count || wal.status().reserve_in_use {
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", wal.status());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(told.lock().iter().all(|told| told.1.is_ok()));
    assert!(!wal.status().full);
}

#[test]
fn a_log_that_is_closed_while_it_is_full_tells_those_who_wait() {
    for flushing in [Flushing::OnThread, Flushing::InSubmit] {
        let files = MemoryFiles::new();
        let options = WalOptions { flushing, ..options(512) };
        let (wal, told, count) = full(&files, &options);
        wal.close();
        let kept = {
            let told = told.lock();
            assert_eq!(told.len() as u64, count);
            let kept = told.iter().take_while(|told| told.1.is_ok()).count() as u64;
            let refused = told[usize::try_from(kept).unwrap()..].iter();
            assert!(refused.clone().count() > 0);
            assert!(
                refused.clone().all(|told| told.1.as_ref().unwrap_err().kind() == io::ErrorKind::StorageFull)
            );
            kept
        };
        assert_eq!(indexes(&open(&files.crash(|_| 0..0), &options), 1).len() as u64, kept);
    }
}

#[test]
fn a_power_cut_while_the_disk_is_full_loses_only_what_was_not_told() {
    let files = MemoryFiles::new();
    let (wal, told, count) = full(&files, &options(512));
    let kept = told.lock().len() as u64;
    assert!(kept < count);
    let next = files.crash(|_| 0..0);
    drop(wal);
    // The disk is as full as before: the log is read, waits again, and goes on later.
    next.set_capacity(next.bytes());
    let wal = open(&next, &options(512));
    assert_eq!(indexes(&wal, 1).len() as u64, kept);
    assert!(wal.status().reserve_in_use);
    let told = Told::default();
    for index in kept..kept + 20 {
        submit_entry(&wal, &told, index);
    }
    assert!(wal.status().full);
    next.lift_capacity();
    wal.flush();
    assert_eq!(told.lock().len(), 20);
    assert_eq!(indexes(&wal, 1).len() as u64, kept + 20);
}

/// At every operation while a disk fills up and has space again.
#[test]
fn a_power_cut_at_any_point_of_it_leaves_a_log() {
    for operation in 0..120 {
        let files = MemoryFiles::new();
        let wal = open(&files, &options(512));
        files.stop_at_operation(operation);
        files.set_capacity(files.bytes() + 1300);
        let told = Told::default();
        for index in 0..40 {
            submit_entry(&wal, &told, index);
        }
        files.lift_capacity();
        wal.flush();
        let kept = told.lock().iter().filter(|told| told.1.is_ok()).count();
        for survives in [0, 100] {
            let next = files.copy().crash_keeping(|length| 0..length * survives / 100, || survives > 0);
            let found = indexes(&open(&next, &options(512)), 1).len();
            assert!(found >= kept, "operation {operation}: {found} of {kept}");
        }
    }
}

#[test]
fn other_errors_of_a_new_segment_are_final() {
    let files = MemoryFiles::new();
    let wal = open(&files, &WalOptions { reserve_segments: 0, ..options(512) });
    let mut index = 0;
    while submit(&wal, vec![entry(1, index, vec![7; 50])]).is_ok() {
        index += 1;
        if index == 3 {
            files.stop_at_operation(8);
        }
    }
    assert!(wal.status().failed.is_some() && !wal.status().full);
}

#[test]
fn a_submission_that_needs_a_segment_of_its_own_waits_for_it() {
    let files = MemoryFiles::new();
    let wal = open(&files, &options(512));
    files.set_capacity(files.bytes() + 1000);
    let told = Told::default();
    let large = told.clone();
    wal.submit(vec![entry(1, 0, vec![7; 4000])], move |result| large.lock().push((0, result)));
    submit_entry(&wal, &told, 1);
    assert!(told.lock().is_empty() && wal.status().full);
    assert!(!wal.status().reserve_in_use, "it would not fit");
    files.lift_capacity();
    wal.flush();
    assert!(told.lock().iter().map(|told| told.0).eq(0..2));
}
