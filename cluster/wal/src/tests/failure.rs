//! Files that fail, and callbacks that do.

use super::*;

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
