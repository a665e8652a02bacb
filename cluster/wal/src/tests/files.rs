//! What the log needs of its files.

use super::*;

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
