//! Space comes back.

#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use flotilla_store::{Change, FjallStore, Store, StoreOptions};

const ROWS: u64 = 28_000;
const ROWS_A_BATCH: usize = 32;
const VALUE_BYTES: usize = 8_000;

#[test]
fn the_disk_is_free_again_after_all_was_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for first in (0..ROWS).step_by(ROWS_A_BATCH) {
        store.write(rows(first).map(|row| Change::set(key(row), value(row))).collect()).unwrap();
    }
    store.sync().unwrap();
    let full = store.status().disk_bytes;
    assert!(full > 200 << 20, "{full} bytes were written");

    for first in (0..ROWS).step_by(ROWS_A_BATCH) {
        store.write(rows(first).map(|row| Change::remove(key(row))).collect()).unwrap();
    }
    store.sync().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    // Small writes go on.
    for round in 0.. {
        store.write(vec![Change::set(&b"x"[..], value(round))]).unwrap();
        let status = store.status();
        if status.disk_bytes < 64 << 20 {
            break;
        }
        assert!(Instant::now() < deadline, "{status:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.scan(b"", b"\xFF", usize::MAX).unwrap().len(), 1);
}

fn open(dir: &Path) -> FjallStore {
    FjallStore::open(dir, &StoreOptions::default()).unwrap()
}

fn rows(first: u64) -> std::ops::Range<u64> {
    first..(first + ROWS_A_BATCH as u64).min(ROWS)
}

/// Not in order.
fn key(row: u64) -> Vec<u8> {
    row.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes().to_vec()
}

fn value(row: u64) -> Vec<u8> {
    let mut value = vec![7; VALUE_BYTES];
    value[..8].copy_from_slice(&row.to_be_bytes());
    value
}
