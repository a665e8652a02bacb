//! Measures the store: `cargo run --release -p flotilla-store --example measure -- DIR`, on the disk that is to be measured.

use std::{
    env, fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use flotilla_store::{Change, FjallStore, Store, StoreOptions, prefix_end};

const SESSIONS: u64 = 10_000;
const ROWS_A_SESSION: u64 = 100;
const ROWS: u64 = SESSIONS * ROWS_A_SESSION;
const ROWS_A_BATCH: usize = 256;
const VALUE_BYTES: usize = 300;

fn main() {
    let dir = PathBuf::from(env::args().nth(1).expect("the directory is named")).join("measured-store");
    let open = || FjallStore::open(&dir, &StoreOptions::default()).expect("it opens");
    for synced in [false, true] {
        let _ = fs::remove_dir_all(&dir);
        let store = open();
        println!("{}", if synced { "a sync after each batch" } else { "a sync at the end" });
        measure("insert", ROWS, || {
            write(&store, synced, |row| Change::set(key(row), value(row)));
        });
        state("inserted", &store);
        drop(store);
        let begin = Instant::now();
        let store = open();
        println!("  reopened in {:?}", begin.elapsed());
        // fjall compacts what it finds.
        thread::sleep(Duration::from_secs(2));
        state("reopened", &store);
        measure("get", 200_000, || {
            for row in 0..200_000 {
                store.value(&key(shuffled(row * 5))).expect("it reads").expect("it is there");
            }
        });
        measure("scan of a session", SESSIONS, || {
            for session in 0..SESSIONS {
                let from = key(shuffled(session) / ROWS_A_SESSION * ROWS_A_SESSION);
                let items = store.scan(&from, &prefix_end(&from[..10]), usize::MAX).expect("it reads");
                assert_eq!(items.len() as u64, ROWS_A_SESSION);
            }
        });
        measure("delete", ROWS, || write(&store, synced, |row| Change::remove(key(row))));
        state("deleted", &store);
        measure("compaction", 1, || store.compact().expect("it compacts"));
        state("compacted", &store);
    }
    let _ = fs::remove_dir_all(&dir);
}

fn write(store: &FjallStore, synced: bool, change: impl Fn(u64) -> Change) {
    let mut batch = Vec::with_capacity(ROWS_A_BATCH);
    let mut slowest = Duration::ZERO;
    for row in 0..ROWS {
        batch.push(change(shuffled(row)));
        if batch.len() == ROWS_A_BATCH || row + 1 == ROWS {
            let begin = Instant::now();
            store.write(std::mem::take(&mut batch)).expect("it writes");
            if synced {
                store.sync().expect("it syncs");
            }
            slowest = slowest.max(begin.elapsed());
        }
    }
    store.sync().expect("it syncs");
    println!("  slowest batch {slowest:?}");
}

/// Rows come in an order that visits all sessions in turn.
fn shuffled(row: u64) -> u64 {
    row * 7_919_317 % ROWS
}

/// Shard, session, place in its inbox.
fn key(row: u64) -> Vec<u8> {
    let session = row / ROWS_A_SESSION;
    let hashed = session.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    [&(session % 16).to_be_bytes()[6..], &hashed.to_be_bytes(), &row.to_be_bytes()].concat()
}

/// No two are alike.
fn value(row: u64) -> Vec<u8> {
    let mut value = vec![0; VALUE_BYTES];
    value[..8].copy_from_slice(&row.to_be_bytes());
    value
}

fn measure(what: &str, times: u64, run: impl FnOnce()) {
    let (begin, cpu) = (Instant::now(), cpu_ticks());
    run();
    let elapsed = begin.elapsed();
    let cpu_us = (cpu_ticks() - cpu) as f64 * 10_000.0 / times as f64;
    println!("  {what}: {:.0}/s, {cpu_us:.1} us CPU each, {elapsed:?}", times as f64 / elapsed.as_secs_f64());
}

fn state(what: &str, store: &FjallStore) {
    let status = store.status();
    let memory = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = memory.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
    println!(
        "  {what}: {} MB on the disk, {} tables, {} journals, {resident}",
        status.disk_bytes / 1_000_000,
        status.tables,
        status.journals
    );
}

/// CPU time of the process, in hundredths of a second.
fn cpu_ticks() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}
