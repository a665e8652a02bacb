//! What every store has to do. `open` gives the same store again, after the one before was dropped.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*, test_runner::TestRunner};

use crate::{Change, Item, KEY_BYTES_MAX, Store, StoreError, prefix_end};

pub(crate) type Open<'a> = &'a dyn Fn() -> Box<dyn Store>;

pub(crate) fn check(open: Open<'_>) {
    let store = open();
    assert_eq!(store.value(b"a").unwrap(), None);
    assert_eq!(all(&*store), []);
    store.write(vec![set("a", "1"), set("ab", "2"), set("b", "3"), remove("none"), set("", "0")]).unwrap();
    assert_eq!(store.value(b"a").unwrap().unwrap(), "1");
    assert_eq!(store.value(b"").unwrap().unwrap(), "0");
    assert_eq!(all(&*store), [pair("", "0"), pair("a", "1"), pair("ab", "2"), pair("b", "3")]);
    assert_eq!(store.scan(b"a", &prefix_end(b"a"), usize::MAX).unwrap(), [pair("a", "1"), pair("ab", "2")]);
    // The end is exclusive, the beginning is not.
    assert_eq!(store.scan(b"ab", b"b", usize::MAX).unwrap(), [pair("ab", "2")]);
    assert_eq!(store.scan(b"b", b"b", usize::MAX).unwrap(), []);
    assert_eq!(store.scan(b"b", b"a", usize::MAX).unwrap(), []);
    // Sizes are of keys and values: 1, 2, 3 and 2 bytes.
    for (bytes_max, items) in [(0, 1), (1, 1), (2, 1), (3, 2), (5, 2), (6, 3), (8, 4), (9, 4)] {
        assert_eq!(store.scan(b"", b"c", bytes_max).unwrap().len(), items, "{bytes_max}");
    }

    // Later changes win.
    store
        .write(vec![remove("a"), set("b", "4"), set("b", "5"), set("c", ""), set("d", "6"), remove("d")])
        .unwrap();
    store.write(vec![remove("ab"), set("ab", "7")]).unwrap();
    store.write(vec![]).unwrap();
    let expected = [pair("", "0"), pair("ab", "7"), pair("b", "5"), pair("c", "")];
    assert_eq!(all(&*store), expected);
    store.sync().unwrap();
    drop(store);
    let store = open();
    assert_eq!(all(&*store), expected);

    // What is too large is refused with all that is beside it.
    let refused = store.write(vec![set("e", "1"), Change::set(vec![b'e'; KEY_BYTES_MAX + 1], "")]);
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })));
    assert_eq!(store.value(b"e").unwrap(), None);
    assert_eq!(store.value(&[b'e'; KEY_BYTES_MAX + 1]).unwrap(), None);
    let largest = (Bytes::from(vec![0xFF; KEY_BYTES_MAX]), Bytes::from(vec![7; 3 << 20]));
    store.write(vec![Change::set(largest.0.clone(), largest.1.clone())]).unwrap();
    store.sync().unwrap();
    drop(store);
    let store = open();
    assert_eq!(store.value(&largest.0).unwrap().as_ref(), Some(&largest.1));
    assert_eq!(store.scan(b"\xFF", &prefix_end(b"\xFF"), 1).unwrap(), [largest]);
}

/// Views stay as they are while writes go on.
pub(crate) fn check_views(open: Open<'_>) {
    let store = open();
    let mut views = Vec::new();
    for round in 0..40_u32 {
        store.write((0..50_u32).map(|row| Change::set(key(row), round.to_string())).collect()).unwrap();
        store.write(vec![Change::remove(key(round))]).unwrap();
        views.push(store.view().unwrap());
    }
    store.write((0..50_u32).map(|row| Change::remove(key(row))).collect()).unwrap();
    assert_eq!(all(&*store), []);
    drop(store);
    for (round, view) in (0_u32..).zip(&views) {
        let items = view.scan(b"", b"\xFF", usize::MAX).unwrap();
        let rows = (0..50).filter(|&row| row != round);
        let expected: Vec<Item> = rows.map(|row| (key(row).into(), round.to_string().into())).collect();
        assert_eq!(items, expected, "{round}");
        assert_eq!(view.value(&key(round)).unwrap(), None);
        assert_eq!(view.value(&key(49)).unwrap().unwrap(), round.to_string());
    }
}

/// Readers see whole batches, and never an older one after a newer.
pub(crate) fn check_readers(open: Open<'_>) {
    const ROWS: u32 = 64;
    let store = open();
    let write = |round: u32| {
        store
            .write((0..ROWS).map(|row| Change::set(key(row), round.to_be_bytes().to_vec())).collect())
            .unwrap();
    };
    write(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for reader in 0..3 {
            let (store, done) = (&store, &done);
            scope.spawn(move || {
                let mut last = Bytes::from_static(&[0; 4]);
                let mut seen = 0;
                while !done.load(Ordering::Relaxed) || seen == 0 {
                    let items = match reader {
                        0 => store.view().unwrap().scan(b"", b"\xFF", usize::MAX).unwrap(),
                        _ => all(&**store),
                    };
                    assert_eq!(items.len(), ROWS as usize);
                    assert!(items.iter().all(|item| item.1 == items[0].1), "half a batch is visible");
                    assert!(items[0].1 >= last, "an older batch is visible");
                    // The row that is written first is as new as the last one read before.
                    last = store.value(&key(ROWS - 1)).unwrap().unwrap();
                    assert!(store.value(&key(0)).unwrap().unwrap() >= last, "half a batch is visible");
                    seen += 1;
                }
            });
        }
        for round in 1..400 {
            write(round);
            if round % 100 == 0 {
                store.sync().unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// The store agrees with a map, also after each reopening, and a view with the map of its time.
pub(crate) fn check_against_map(cases: u32, open: Open<'_>) {
    let key = vec(0_u8..4, 0..3);
    let batch = vec((key.clone(), option::of(vec(any::<u8>(), 0..4))), 0..6);
    let after = prop_oneof![3 => Just(After::Nothing), 1 => Just(After::Sync), 1 => Just(After::Reopen)];
    let rounds = vec((batch, after, key.clone(), key, 0_usize..12), 1..12);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let result = TestRunner::new(config).run(&rounds, |rounds| {
        let mut store = open();
        store.write(all(&*store).into_iter().map(|(key, _)| Change::remove(key)).collect()).unwrap();
        let mut map = BTreeMap::new();
        let mut before = None;
        for (batch, after, from, to, bytes_max) in rounds {
            let changes = batch.iter().map(|(key, value)| Change {
                key: key.clone().into(),
                value: value.clone().map(Bytes::from),
            });
            store.write(changes.collect()).unwrap();
            for (key, value) in batch {
                match value {
                    Some(value) => map.insert(Bytes::from(key), Bytes::from(value)),
                    None => map.remove(&key[..]),
                };
            }
            let items: Vec<Item> = map.clone().into_iter().collect();
            match after {
                After::Nothing => {}
                After::Sync => store.sync().unwrap(),
                After::Reopen => {
                    before = None;
                    drop(store);
                    store = open();
                }
            }
            prop_assert_eq!(all(&*store), items.clone());
            prop_assert_eq!(store.value(&from).unwrap(), map.get(&from[..]).cloned());
            let found = store.scan(&from, &to, bytes_max).unwrap();
            let mut expected = items.clone();
            expected.retain(|item| from <= item.0 && item.0 < to);
            prop_assert_eq!(found.is_empty(), expected.is_empty());
            let bytes = |items: &[Item]| items.iter().map(|item| item.0.len() + item.1.len()).sum::<usize>();
            prop_assert!(found.len() <= 1 || bytes(&found) <= bytes_max);
            prop_assert!(found.len() == expected.len() || bytes(&expected[..=found.len()]) > bytes_max);
            prop_assert_eq!(&found[..], &expected[..found.len()]);
            if let Some((view, items)) = before.replace((store.view().unwrap(), items)) {
                prop_assert_eq!(view.scan(b"", b"\xFF", usize::MAX).unwrap(), items);
            }
        }
        Ok(())
    });
    result.unwrap();
}

#[derive(Debug, Clone, Copy)]
enum After {
    Nothing,
    Sync,
    Reopen,
}

fn all(store: &dyn Store) -> Vec<Item> {
    store.scan(b"", &prefix_end(b""), usize::MAX).unwrap()
}

fn key(row: u32) -> Vec<u8> {
    row.to_be_bytes().to_vec()
}

pub(crate) fn set(key: &str, value: &str) -> Change {
    Change::set(key.to_owned(), value.to_owned())
}

pub(crate) fn remove(key: &str) -> Change {
    Change::remove(key.to_owned())
}

fn pair(key: &str, value: &str) -> Item {
    (key.to_owned().into(), value.to_owned().into())
}
