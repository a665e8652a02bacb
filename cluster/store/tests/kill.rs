//! A process that is killed with `kill -9` while it writes: what it synced is there, and batches are whole.

#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use flotilla_store::{Change, FjallStore, Item, Store, StoreOptions, prefix_end};

/// The store is in the directory this names, in the process that is killed.
const DIR: &str = "FLOTILLA_STORE_KILL_DIR";

const ROUNDS: u64 = 12;

/// Batches live so long, so that there are removals, and rows that come again.
const LIFE: u64 = 40;

#[test]
fn what_was_synced_survives_a_kill_and_batches_are_whole() {
    if let Ok(dir) = env::var(DIR) {
        return write_until_killed(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut synced = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "what_was_synced_survives_a_kill_and_batches_are_whole"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut told = lines.filter_map(|line| line.unwrap().strip_prefix("synced ")?.parse::<u64>().ok());
        // Another number of syncs each round; the process is anywhere when it dies.
        for _ in 0..=(round * 7) % 30 {
            synced = told.next().expect("it runs until it is killed");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died counts too.
        synced = told.last().unwrap_or(synced);

        let store = FjallStore::open(dir.path(), &StoreOptions::default()).unwrap();
        let last = last_batch(&store);
        assert!(last >= synced, "round {round}: batch {synced} was synced, and {last} is the last");
        assert_eq!(all(&store), rows_after(last), "round {round}: a batch is not whole");
    }
    assert!(synced > ROUNDS, "the processes wrote something");
}

fn write_until_killed(dir: &Path) {
    let store = FjallStore::open(dir, &StoreOptions::default()).unwrap();
    let mut out = std::io::stdout();
    writeln!(out).unwrap();
    for number in last_batch(&store) + 1.. {
        store.write(batch(number)).unwrap();
        if number % 5 == 0 {
            store.sync().unwrap();
            writeln!(out, "synced {number}").unwrap();
        }
        if number % 100 == 0 {
            store.compact().unwrap();
        }
    }
}

/// The batch of this number: its rows, those of an older one removed, and its number.
fn batch(number: u64) -> Vec<Change> {
    let mut changes: Vec<Change> =
        rows(number).into_iter().map(|(key, value)| Change::set(key, value)).collect();
    if let Some(old) = number.checked_sub(LIFE) {
        changes.extend(rows(old).into_iter().map(|(key, _)| Change::remove(key)));
    }
    changes.push(Change::set(&b"last"[..], number.to_be_bytes().to_vec()));
    changes
}

/// Between 1 and 37 rows, some of them larger than a block.
fn rows(number: u64) -> Vec<Item> {
    (0..=number % 37)
        .map(|row| {
            let key = [&b"row"[..], &number.to_be_bytes(), &row.to_be_bytes()].concat();
            let fill = u8::try_from((number + row) % 256).unwrap();
            (key.into(), vec![fill; usize::try_from(row * row * 7 % 6000).unwrap()].into())
        })
        .collect()
}

fn rows_after(last: u64) -> Vec<Item> {
    let mut items = Vec::new();
    if last > 0 {
        items.push((b"last".to_vec().into(), last.to_be_bytes().to_vec().into()));
    }
    for number in (last + 1).saturating_sub(LIFE).max(1)..=last {
        items.extend(rows(number));
    }
    items
}

fn last_batch(store: &FjallStore) -> u64 {
    let value = store.value(b"last").unwrap();
    value.map_or(0, |value| u64::from_be_bytes(value.as_ref().try_into().unwrap()))
}

fn all(store: &FjallStore) -> Vec<Item> {
    store.scan(b"", &prefix_end(b""), usize::MAX).unwrap()
}
