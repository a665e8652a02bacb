//! Segments come and go, also while they are read.

use super::*;

#[test]
fn an_idle_group_does_not_hold_old_segments() {
    let files = MemoryFiles::new();
    let options = options(1024);
    let wal = open(&files, &options);
    // Group 1 says something once. Group 2 writes and purges for ever.
    let meta = Record::Meta { group: 1, key: 1, bytes: "m".into() };
    submit(&wal, vec![vote(1, b"old"), meta, purged(1, 4), entry(1, 5, "a"), entry(1, 6, "b")]).unwrap();
    for index in 0..2000 {
        submit(&wal, vec![entry(2, index, vec![7; 40])]).unwrap();
        if index % 10 == 0 && index > 20 {
            submit(&wal, vec![purged(2, index - 20)]).unwrap();
        }
        let status = wal.status();
        assert!(status.bytes < 10 * 1024, "{status:?}");
    }
    wal.check_invariants();
    let before = Model::of(&wal);
    let names = files.list(&dir()).unwrap();
    assert!(!names.contains(&"0000000000000001.wal".to_owned()), "{names:?}");
    drop(wal);
    let wal = open(&files.crash(|_| 0..0), &options);
    assert_eq!(Model::of(&wal), before);
    assert_eq!(indexes(&wal, 1), [5, 6]);
    assert_eq!(wal.group(1).vote.unwrap(), "old");
}

#[test]
fn segments_are_used_again_and_their_old_records_do_not_count() {
    let files = MemoryFiles::new();
    let options = options(1024);
    let wal = open(&files, &options);
    let mut largest = 0;
    for index in 0..500 {
        submit(&wal, vec![entry(1, index, vec![7; 40])]).unwrap();
        if index % 30 == 0 && index > 0 {
            submit(&wal, vec![purged(1, index - 1)]).unwrap();
        }
        largest = largest.max(wal.status().segments + wal.status().spares);
        let copy = files.copy();
        assert_eq!(Model::of(&open(&copy, &options)), Model::of(&wal));
    }
    assert!(largest < 8, "{largest}");
}

#[test]
fn a_log_at_rest_gives_its_spares_back_but_the_reserve() {
    for spares_for in [Duration::ZERO, Duration::from_secs(3600)] {
        let files = MemoryFiles::new();
        let flushing = Flushing::OnThread;
        let options =
            WalOptions { spares_max: 4, reserve_segments: 1, spares_for, flushing, ..options(1024) };
        let wal = open(&files, &options);
        for index in 0..100 {
            submit(&wal, vec![entry(1, index, vec![7; 40])]).unwrap();
        }
        submit(&wal, vec![purged(1, 99)]).unwrap();
        let start = std::time::Instant::now();
        let at_rest = if spares_for.is_zero() { 1 } else { 5 };
        while wal.status().spares != at_rest || wal.status().segments > 2 {
            assert!(start.elapsed() < Duration::from_secs(20), "{:?}", wal.status());
            std::thread::sleep(Duration::from_millis(1));
        }
        let names = files.list(&dir()).unwrap();
        assert_eq!(names.iter().filter(|name| name.ends_with(".spare")).count(), at_rest, "{names:?}");
    }
}

/// Does something before the next read, as another thread might.
type BeforeRead = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

#[derive(Clone)]
struct Interrupted {
    files: MemoryFiles,
    before_read: BeforeRead,
}

impl fmt::Debug for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(f)
    }
}

impl Files for Interrupted {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.files.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.files.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(InterruptedFile {
            file: self.files.create(path)?,
            before_read: self.before_read.clone(),
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(InterruptedFile { file: self.files.open(path)?, before_read: self.before_read.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.files.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<DirectoryLock>> {
        self.files.lock(path)
    }
}

struct InterruptedFile {
    file: Arc<dyn File>,
    before_read: BeforeRead,
}

impl fmt::Debug for InterruptedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl File for InterruptedFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let interruption = self.before_read.lock().take();
        if let Some(interruption) = interruption {
            interruption();
        }
        self.file.read_at(buffer, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

fn interrupted() -> (Interrupted, WalOptions, Wal) {
    let files = Interrupted { files: MemoryFiles::new(), before_read: Arc::default() };
    let options = WalOptions { cache_bytes_max: 0, ..options(512) };
    let wal = Wal::open(&dir(), options.clone(), Arc::new(files.clone())).unwrap();
    (files, options, wal)
}

#[test]
fn a_segment_that_is_read_is_not_written_again() {
    let (files, _, wal) = interrupted();
    submit(&wal, vec![entry(1, 0, "the first"), entry(1, 1, "the second")]).unwrap();
    let writer = wal.clone();
    *files.before_read.lock() = Some(Box::new(move || {
        for index in 2..100 {
            submit(&writer, vec![entry(1, index, vec![9; 100]), purged(1, index - 1)]).unwrap();
        }
    }));
    assert_eq!(wal.entries(1, 0..1, 100).unwrap(), [(0, "the first".into())]);
    assert_eq!(indexes(&wal, 1), [99]);
}

#[test]
fn what_is_truncated_while_it_is_brought_forward_stays_away() {
    let (files, options, wal) = interrupted();
    submit(&wal, vec![entry(1, 5, "a"), entry(1, 6, "b"), entry(1, 7, "c")]).unwrap();
    let truncated = Arc::new(Mutex::new(false));
    let (writer, also) = (wal.clone(), truncated.clone());
    *files.before_read.lock() = Some(Box::new(move || {
        writer.submit(vec![Record::TruncateFrom { group: 1, index: 5 }], |_| {});
        *also.lock() = true;
    }));
    // Until the log is large enough that the first segment has to go.
    let mut index = 0;
    while !*truncated.lock() {
        submit(&wal, vec![entry(2, index, vec![9; 100])]).unwrap();
        if index > 0 {
            submit(&wal, vec![purged(2, index - 1)]).unwrap();
        }
        index += 1;
        assert!(index < 200);
    }
    assert!(indexes(&wal, 1).is_empty());
    drop(wal);
    assert!(indexes(&open(&files.files.kill(), &options), 1).is_empty());
}
