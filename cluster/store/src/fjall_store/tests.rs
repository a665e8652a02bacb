use super::*;
use crate::contract::{self, set};

fn open(dir: &Path) -> FjallStore {
    FjallStore::open(dir, &StoreOptions::default()).unwrap()
}

#[test]
fn keeps_the_contract() {
    for check in [contract::check, contract::check_views, contract::check_readers] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/store");
        check(&|| Box::new(open(&path)));
    }
}

#[test]
fn agrees_with_a_map() {
    let dir = tempfile::tempdir().unwrap();
    contract::check_against_map(24, &|| Box::new(open(dir.path())));
}

#[test]
fn agrees_with_a_map_while_it_compacts_all_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { compact_above_bytes: 0, ..StoreOptions::default() };
    contract::check_against_map(24, &|| Box::new(FjallStore::open(dir.path(), &options).unwrap()));
}

#[test]
fn a_view_outlives_a_compaction_of_what_it_sees() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let all = |view: &dyn View| view.scan(b"", b"z", usize::MAX).unwrap();
    store.write((0..500).map(|row| set(&format!("{row:03}"), "1")).collect()).unwrap();
    store.compact().unwrap();
    let view = store.view().unwrap();
    let rows = all(&*view);
    assert_eq!(rows.len(), 500);
    store.write((0..500).map(|row| Change::remove(format!("{row:03}"))).collect()).unwrap();
    store.write(vec![set("999", "2")]).unwrap();
    for _ in 0..2 {
        store.compact().unwrap();
        assert_eq!(all(&*view), rows);
        assert_eq!(store.scan(b"", b"z", usize::MAX).unwrap().len(), 1);
    }
    drop(view);
    store.compact().unwrap();
    // The row, and ours a few times.
    assert!(store.status().rows_about < 20, "{:?}", store.status());
}

#[test]
fn a_damaged_table_that_a_compaction_reads_is_not_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.write((0..500).map(|row| set(&format!("{row:03}"), "1")).collect()).unwrap();
    store.compact().unwrap();
    store.sync().unwrap();
    for table in fs::read_dir(dir.path().join("state/keyspaces/1/tables")).unwrap() {
        let path = table.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        bytes[40] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    assert!(matches!(store.compact(), Err(StoreError::Damaged { .. })));
    assert!(matches!(store.write(vec![set("a", "1")]), Err(StoreError::Failed { .. })));
    assert!(matches!(store.value(b"000"), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_store_in_use_is_locked_also_by_a_view() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let locked = || {
        let second = FjallStore::open(dir.path(), &StoreOptions::default());
        matches!(second, Err(StoreError::Locked { dir: named }) if named == dir.path())
    };
    assert!(locked());
    let view = store.view().unwrap();
    drop(store);
    assert!(locked());
    drop(view);
    open(dir.path());
}

#[test]
fn a_full_disk_refuses_whole_batches_and_takes_them_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.write(vec![set("a", "1")]).unwrap();
    store.set_free_bytes_min(u64::MAX);
    assert!(store.is_nearly_full());
    let refused = store.write(vec![set("b", "2"), set("a", "2")]);
    assert!(matches!(refused, Err(StoreError::Full { needed_bytes: u64::MAX, .. })));
    let refused = store.write(vec![Change::remove("a")]);
    assert!(matches!(refused, Err(StoreError::Full { needed_bytes, .. }) if needed_bytes == u64::MAX / 2));
    assert_eq!(store.value(b"a").unwrap().unwrap(), "1");
    assert_eq!(store.value(b"b").unwrap(), None);
    assert_eq!(store.status().failed, None);
    store.sync().unwrap();
    store.set_free_bytes_min(0);
    assert!(!store.is_nearly_full());
    store.write(vec![set("b", "2")]).unwrap();
    store.sync().unwrap();
    drop(store);
    assert_eq!(open(dir.path()).value(b"b").unwrap().unwrap(), "2");
}

#[test]
fn a_failed_sync_is_not_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.write(vec![set("a", "1")]).unwrap();
    store.engine.fail(StoreError::Io(io::Error::other("injected")));
    assert!(matches!(store.sync(), Err(StoreError::Failed { what }) if what.contains("injected")));
    assert!(matches!(store.write(vec![set("b", "2")]), Err(StoreError::Failed { .. })));
    assert!(store.status().failed.unwrap().contains("injected"));
    assert_eq!(store.status().synced, 0);
    assert_eq!(store.value(b"a").unwrap().unwrap(), "1");
    drop(store);
    open(dir.path()).write(vec![set("b", "2")]).unwrap();
}

#[test]
fn a_process_that_died_while_it_made_the_store_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    for left in ["new/keyspaces/0", "new/keyspaces/1"] {
        fs::create_dir_all(dir.path().join(left)).unwrap();
    }
    fs::write(dir.path().join("new/0.jnl"), b"").unwrap();
    fs::write(dir.path().join("new/version"), b"").unwrap();
    let store = open(dir.path());
    store.write(vec![set("a", "1")]).unwrap();
    assert!(!dir.path().join("new").exists());
}

#[test]
fn status_counts_what_was_written_and_synced() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for _ in 0..3 {
        store.write(vec![set("a", "1")]).unwrap();
    }
    let status = store.status();
    assert_eq!((status.written, status.synced, status.failed), (3, 0, None));
    store.sync().unwrap();
    drop(store);
    let status = open(dir.path()).status();
    assert_eq!((status.written, status.synced), (3, 3));
    assert!(status.disk_bytes > 0);
}

#[test]
fn a_store_at_rest_is_compacted_after_fewer_removals() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { compact_above_bytes: 1 << 20, ..StoreOptions::default() };
    let store = FjallStore::open(dir.path(), &options).unwrap();
    let key = |row: u32| row.to_be_bytes().to_vec();
    for row in 0..1_000 {
        // Not to be compressed.
        let value: Vec<u8> =
            (0..4_096_u32).map(|byte| (byte.wrapping_mul(row) >> 3).to_le_bytes()[0]).collect();
        store.write(vec![Change::set(key(row), value)]).unwrap();
    }
    store.compact().unwrap();
    assert!(!store.engine.compaction_is_due(compactor::PART_REMOVED_AT_REST));
    store.write((0..100).map(|row| Change::remove(key(row))).collect()).unwrap();
    assert!(!store.engine.compaction_is_due(PART_REMOVED));
    assert!(store.engine.compaction_is_due(compactor::PART_REMOVED_AT_REST));
    store.compact().unwrap();
    assert!(!store.engine.compaction_is_due(compactor::PART_REMOVED_AT_REST));
}
