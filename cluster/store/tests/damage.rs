//! Files that are damaged or torn: what is read is what was written, or an error.

#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use flotilla_store::{Change, FjallStore, Item, Store, StoreError, StoreOptions, prefix_end};
use tempfile::TempDir;

#[test]
fn a_flipped_bit_is_never_read_as_data() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    for number in 1..=60 {
        store.write(batch(number)).unwrap();
    }
    store.compact().unwrap();
    for number in 61..=70 {
        store.write(batch(number)).unwrap();
    }
    store.sync().unwrap();
    drop(store);
    let files = Files::of(dir.path());
    assert_eq!(read(&files.write()).unwrap(), rows_after(70));

    let mut found = BTreeMap::new();
    for (path, bytes) in &files.0 {
        let step = (bytes.len() / 120).max(1);
        // The end of a table says where its parts are.
        let end = if path.to_str().unwrap().contains("/1/tables/") { 240 } else { 0 };
        for at in (0..bytes.len()).step_by(step).chain(bytes.len() - end..bytes.len()) {
            let mut damaged = files.clone();
            damaged.0.get_mut(path).unwrap()[at] ^= 1 << (at % 8);
            let (refused, read) = found.entry(path.clone()).or_insert((0, 0));
            match self::read(&damaged.write()) {
                Ok(rows) => {
                    assert_eq!(rows, rows_after(70), "bit {} of byte {at} of {path:?}", at % 8);
                    *read += 1;
                }
                Err(StoreError::Damaged { .. }) => *refused += 1,
                Err(error) => panic!("byte {at} of {path:?}: {error}"),
            }
        }
    }
    // Where damage is not found, it was not read: a table has blocks that no scan needs, and old manifests stay for a while.
    let mut manifests = 0;
    for (path, (refused, read)) in found {
        println!("{path:?}: {refused} refused, {read} read");
        let name = path.to_str().unwrap();
        let all = name.ends_with("current") || name.ends_with("version");
        assert!(!all || read == 0, "{name}: {read} of {refused}");
        // fjall's number of a batch may be another, as long as the order stays.
        assert!(!name.ends_with(".jnl") || refused > 100 * read, "{name}: {read} of {refused}");
        assert!(!name.contains("/tables/") || refused > read, "{name}: {refused} of {read}");
        manifests += usize::from(name.contains("/v") && read == 0);
    }
    assert!(manifests >= 2, "one of the rows, and one of fjall's own");
}

#[test]
fn a_torn_end_is_dropped_as_far_as_it_was_not_synced() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let journal = dir.path().join("state/0.jnl");
    let mut ends = vec![0];
    for number in 1..=12 {
        store.write(batch(number)).unwrap();
        if number == 8 {
            store.sync().unwrap();
        }
        ends.push(written(&journal));
    }
    // The process lives: this is what a power cut may leave.
    let files = Files::of(dir.path());
    let whole = files.journal(0).clone();
    assert_eq!(whole.len(), ends[12]);
    let mut seen = BTreeMap::new();
    for cut in (ends[7]..ends[12]).step_by(37).chain(ends[7..12].iter().copied()) {
        let kept = ends.iter().filter(|&&end| end <= cut).count() as u64 - 1;
        for torn in [
            // The file is shorter, the rest is not written or is something else, or only a part is not written.
            whole[..cut].to_vec(),
            [&whole[..cut], &vec![0; 100_000]].concat(),
            [&whole[..cut], &vec![0xA5; 5_000]].concat(),
            [&whole[..cut], &vec![0; (whole.len() - cut).min(64)], &whole[whole.len().min(cut + 64)..]]
                .concat(),
        ] {
            let mut damaged = files.clone();
            let same = torn == whole;
            *damaged.0.get_mut(Path::new("state/0.jnl")).unwrap() = torn;
            let dir = damaged.write();
            let kept = if same { 12 } else { kept };
            match open(dir.path()) {
                Ok(store) => {
                    // Zeros in the place of zeros are no damage.
                    let last = store.status().written;
                    assert!(last >= 8 && last >= kept, "{cut}: {last} of {kept}");
                    assert_eq!(all(&store).unwrap(), rows_after(last), "{cut}");
                    *seen.entry(last).or_insert(0) += 1;
                    // It goes on from there.
                    store.write(batch(last + 1)).unwrap();
                    drop(store);
                    assert_eq!(read(&dir).unwrap(), rows_after(last + 1));
                }
                Err(StoreError::Damaged { .. }) => assert!(kept < 8, "{cut} is behind what was synced"),
                Err(error) => panic!("{cut}: {error}"),
            }
        }
    }
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), [8, 9, 10, 11]);
}

#[test]
fn the_first_batch_of_a_new_journal_may_be_torn() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    for number in 1..=5 {
        store.write(batch(number)).unwrap();
    }
    store.compact().unwrap();
    store.sync().unwrap();
    let journal = dir.path().join("state/0.jnl");
    let old = written(&journal);
    store.write(batch(6)).unwrap();
    let mut files = Files::of(dir.path());
    // All before it is in tables, so fjall would have removed the old journal.
    let new = files.0.remove(Path::new("state/0.jnl")).unwrap().split_off(old);
    for cut in (0..new.len()).step_by(7).chain([new.len() - 1, new.len()]) {
        files.0.insert("state/1.jnl".into(), new[..cut].to_vec());
        let last = if cut == new.len() { 6 } else { 5 };
        assert_eq!(read(&files.write()).unwrap(), rows_after(last), "{cut}");
    }
}

#[test]
fn a_journal_in_the_middle_has_no_torn_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let journal = dir.path().join("state/0.jnl");
    let mut ends = vec![0];
    for number in 1..=9 {
        store.write(batch(number)).unwrap();
        ends.push(written(&journal));
    }
    drop(store);
    let mut files = Files::of(dir.path());
    // No mark: the journals have to speak for themselves.
    files.0.remove(Path::new("synced")).unwrap();
    let whole = files.0.remove(Path::new("state/0.jnl")).unwrap();
    let parts = |parts: &[&[u8]]| {
        let mut files = files.clone();
        for (number, part) in parts.iter().enumerate() {
            files.0.insert(format!("state/{number}.jnl").into(), part.to_vec());
        }
        read(&files.write())
    };
    let (first, last) = whole.split_at(ends[5]);
    assert_eq!(parts(&[first, last]).unwrap(), rows_after(9));
    assert_eq!(parts(&[first, &last[..last.len() - 1]]).unwrap(), rows_after(8));
    for cut in (0..ends[5]).step_by(41).chain([ends[4], ends[5] - 1]) {
        assert!(matches!(parts(&[&first[..cut], last]), Err(StoreError::Damaged { .. })) || cut == 0);
        let mut flipped = first.to_vec();
        flipped[cut] ^= 1;
        match parts(&[&flipped, last]) {
            Err(StoreError::Damaged { .. }) => {}
            read => panic!("byte {cut}: {read:?}"),
        }
    }
}

#[test]
fn files_that_are_missing_are_damage_and_not_an_empty_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    store.write(batch(1)).unwrap();
    store.compact().unwrap();
    store.write(batch(2)).unwrap();
    store.sync().unwrap();
    drop(store);
    let files = Files::of(dir.path());
    for path in files.0.keys() {
        let mut fewer = files.clone();
        fewer.0.remove(path).unwrap();
        let read = read(&fewer.write());
        match path.to_str().unwrap() {
            "lock" | "synced" => assert_eq!(read.unwrap(), rows_after(2)),
            "state/lock" => assert!(read.is_err()),
            // Perhaps an old one.
            name if name.contains("/v") && read.is_ok() => assert_eq!(read.unwrap(), rows_after(2)),
            name => assert!(matches!(read, Err(StoreError::Damaged { .. })), "{name}: {read:?}"),
        }
    }
    let mut none = files.clone();
    none.0.retain(|path, _| !path.starts_with("state"));
    assert!(matches!(read(&none.write()), Err(StoreError::Damaged { .. })));
}

/// The files of a store, without the zeros at the end of the journals.
#[derive(Clone)]
struct Files(BTreeMap<PathBuf, Vec<u8>>);

impl Files {
    fn of(root: &Path) -> Self {
        let mut files = BTreeMap::new();
        let mut dirs = vec![root.to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                    continue;
                }
                let mut bytes = fs::read(&path).unwrap();
                if path.extension().is_some_and(|extension| extension == "jnl") {
                    bytes.truncate(written(&path));
                }
                files.insert(path.strip_prefix(root).unwrap().to_owned(), bytes);
            }
        }
        Self(files)
    }

    fn journal(&self, number: u64) -> &Vec<u8> {
        &self.0[Path::new(&format!("state/{number}.jnl"))]
    }

    fn write(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, bytes) in &self.0 {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        dir
    }
}

/// Bytes of a journal that were written: a batch does not end with a zero.
fn written(journal: &Path) -> usize {
    let bytes = fs::read(journal).unwrap();
    bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1)
}

fn open(dir: &Path) -> Result<FjallStore, StoreError> {
    FjallStore::open(dir, &StoreOptions::default())
}

fn read(dir: &TempDir) -> Result<Vec<Item>, StoreError> {
    all(&open(dir.path())?)
}

/// All rows, by scans and one by one.
fn all(store: &FjallStore) -> Result<Vec<Item>, StoreError> {
    let items = store.scan(b"", &prefix_end(b""), usize::MAX)?;
    for (key, value) in &items {
        assert_eq!(store.value(key)?.as_ref(), Some(value));
    }
    Ok(items)
}

/// Sets a row of its own and some that others set too, and removes an older one.
fn batch(number: u64) -> Vec<Change> {
    let mut changes = vec![
        Change::set(format!("own {number:04}"), value(number)),
        Change::set(format!("shared {:04}", number % 7), value(number)),
        Change::set("last", value(number)),
    ];
    if number > 20 {
        changes.push(Change::remove(format!("own {:04}", number - 20)));
    }
    changes
}

fn rows_after(last: u64) -> Vec<Item> {
    let mut rows = BTreeMap::new();
    for number in 1..=last {
        for Change { key, value } in batch(number) {
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
    }
    rows.into_iter().collect()
}

fn value(number: u64) -> Vec<u8> {
    let fill = u8::try_from(number % 251).unwrap();
    (0..100 + fill).map(|byte| byte ^ fill).collect()
}
