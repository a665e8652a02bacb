//! The snapshot files of a group.
//!
//! There is one snapshot, `snapshot`; what is written or received goes to a file that ends in `.tmp` and is given that name once it
//! is whole and on the disk. A file is
//!
//! ```text
//! "FLOTSNAP" | format: u32 | record*        record: kind: u8 | length: u32 | CRC-32 of kind, length, payload: u32 | payload
//! ```
//!
//! in little endian: one record for what the snapshot holds, one for each chunk of the state machine, and one with their number.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use flotilla_wal::{File, Files};
use parking_lot::Mutex;

use super::error::SnapshotError;
use super::types::SnapshotMeta;
use super::wire;

const MAGIC: &[u8; 8] = b"FLOTSNAP";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 12;
const RECORD_HEADER_BYTES: usize = 9;

/// Where the records begin.
const RECORDS_AT: u64 = HEADER_BYTES as u64;

/// A longer record is damage: nothing is allocated on the word of a broken length.
const RECORD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Writes of this size go to the file.
const WRITE_BYTES: usize = 256 * 1024;

const NAME: &str = "snapshot";
const TEMPORARY: &str = ".tmp";

/// The folder of the snapshot of a group.
pub(super) struct SnapshotStore {
    files: Arc<dyn Files>,
    dir: PathBuf,
    current: Mutex<Option<SnapshotFile>>,
    temporaries: AtomicU64,
}

impl SnapshotStore {
    /// Opens the folder, makes it where it is missing, and removes what an interrupted write left.
    ///
    /// Of the snapshot only the head is verified here; the chunks are when they are read.
    pub(super) fn open(dir: PathBuf, files: Arc<dyn Files>) -> Result<Self, SnapshotError> {
        let store = Self { files, dir, current: Mutex::new(None), temporaries: AtomicU64::new(0) };
        store.at_dir(store.files.create_dir(&store.dir))?;
        let names = store.at_dir(store.files.list(&store.dir))?;
        for name in names.iter().filter(|name| name.ends_with(TEMPORARY)) {
            store.at_dir(store.files.remove(&store.dir.join(name)))?;
        }
        if names.iter().any(|name| name == NAME) {
            let path = store.dir.join(NAME);
            let file = store.at_dir(store.files.open(&path))?;
            *store.current.lock() = Some(SnapshotFile::open(path, file)?);
        }
        Ok(store)
    }

    /// The latest snapshot.
    pub(super) fn current(&self) -> Option<SnapshotFile> {
        self.current.lock().clone()
    }

    /// The index of the last entry that the latest snapshot covers.
    pub(super) fn last_index(&self) -> Option<u64> {
        self.current.lock().as_ref().and_then(SnapshotFile::last_index)
    }

    /// Writes a snapshot to the disk. It is not the latest yet: see [`SnapshotStore::install`].
    pub(super) fn write(
        &self,
        meta: &SnapshotMeta,
        chunks: &mut dyn Iterator<Item = Bytes>,
    ) -> Result<SnapshotFile, SnapshotError> {
        let mut writer =
            Writer { target: self.create()?, buffer: Vec::with_capacity(WRITE_BYTES), offset: 0 };
        writer.buffer.extend_from_slice(MAGIC);
        writer.buffer.extend_from_slice(&VERSION.to_le_bytes());
        writer.record(Kind::Meta, &wire::encode_snapshot_meta(meta))?;
        let mut count = 0u64;
        for chunk in chunks {
            writer.record(Kind::Chunk, &chunk)?;
            count += 1;
        }
        writer.record(Kind::End, &count.to_le_bytes())?;
        writer.flush()?;
        writer.target.sync()?;
        Ok(SnapshotFile {
            meta: meta.clone(),
            bytes: writer.offset,
            file: Arc::clone(&writer.target.file),
            path: writer.target.path.clone(),
            temporary: Some(Arc::new(writer.target)),
        })
    }

    /// Takes a snapshot file of `bytes` bytes that another node sends.
    pub(super) fn receive(&self, bytes: u64) -> Result<Receiving, SnapshotError> {
        Ok(Receiving { target: self.create()?, expected: bytes, received: 0 })
    }

    /// Makes a file of [`SnapshotStore::write`] or [`Receiving::finish`] the latest snapshot, durably, and returns the latest: when
    /// that was overtaken by a newer one, the file is given up.
    pub(super) fn install(&self, snapshot: SnapshotFile) -> Result<SnapshotFile, SnapshotError> {
        let mut current = self.current.lock();
        if let Some(current) = &*current
            && current.meta.last_log_id >= snapshot.meta.last_log_id
        {
            return Ok(current.clone());
        }
        if let Some(temporary) = &snapshot.temporary {
            let path = self.dir.join(NAME);
            self.at_dir(self.files.rename(&temporary.path, &path))?;
            temporary.installed.store(true, Ordering::Relaxed);
            self.at_dir(self.files.sync_dir(&self.dir))?;
            let installed = SnapshotFile { path, temporary: None, ..snapshot };
            *current = Some(installed.clone());
            return Ok(installed);
        }
        Ok(snapshot)
    }

    /// The log was cut up to `purged`, which only a snapshot at least as new justifies.
    pub(super) fn require(&self, purged: Option<u64>) -> Result<(), SnapshotError> {
        match purged {
            Some(needed) if self.last_index().is_none_or(|last| last < needed) => {
                Err(SnapshotError::Missing { path: self.dir.display().to_string(), needed })
            }
            _ => Ok(()),
        }
    }

    fn create(&self) -> Result<Temporary, SnapshotError> {
        let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{number}{TEMPORARY}"));
        let file = self.at_dir(self.files.create(&path))?;
        Ok(Temporary { files: Arc::clone(&self.files), file, path, installed: AtomicBool::new(false) })
    }

    fn at_dir<T>(&self, result: io::Result<T>) -> Result<T, SnapshotError> {
        result.map_err(|source| SnapshotError::Io { path: self.dir.display().to_string(), source })
    }
}

/// A snapshot on the disk. It stays readable when a newer one takes its place.
#[derive(Clone)]
pub(super) struct SnapshotFile {
    pub(super) meta: SnapshotMeta,
    bytes: u64,
    file: Arc<dyn File>,
    path: PathBuf,
    /// Present until it is installed.
    temporary: Option<Arc<Temporary>>,
}

impl fmt::Debug for SnapshotFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} of {} bytes", self.path.display(), self.bytes)
    }
}

impl SnapshotFile {
    fn open(path: PathBuf, file: Arc<dyn File>) -> Result<Self, SnapshotError> {
        let mut snapshot = Self { meta: SnapshotMeta::default(), bytes: 0, file, path, temporary: None };
        snapshot.bytes = snapshot.file.size().map_err(|error| snapshot.failed(error))?;
        let mut header = [0; HEADER_BYTES];
        snapshot.read(&mut header, 0)?;
        let (magic, version) = header.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(snapshot.damaged("it does not begin as a snapshot does"));
        }
        let version = u32::from_le_bytes(version.try_into().expect("the rest of the header is a u32"));
        if version != VERSION {
            return Err(snapshot.damaged(&format!("format {version}, this flotilla reads {VERSION}")));
        }
        match snapshot.record(RECORDS_AT)? {
            (Kind::Meta, payload) => {
                snapshot.meta = wire::decode_snapshot_meta(payload)
                    .map_err(|error| snapshot.damaged(&error.to_string()))?;
            }
            (kind, _) => return Err(snapshot.damaged(&format!("it begins with a record of kind {kind:?}"))),
        }
        Ok(snapshot)
    }

    /// The index of the last entry that it covers.
    pub(super) fn last_index(&self) -> Option<u64> {
        self.meta.last_log_id.as_ref().map(|id| id.index())
    }

    /// The length of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The file as it is, from `offset`; at most `bytes_max` bytes, none at the end.
    pub(super) fn read_raw(&self, offset: u64, bytes_max: usize) -> Result<Bytes, SnapshotError> {
        let left = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut buffer = vec![0; left.min(bytes_max)];
        self.read(&mut buffer, offset)?;
        Ok(buffer.into())
    }

    /// The chunks, verified one by one.
    pub(super) fn chunks(&self) -> Chunks {
        Chunks { snapshot: self.clone(), offset: RECORDS_AT, count: 0, state: ChunksState::Reading }
    }

    fn record(&self, offset: u64) -> Result<(Kind, Bytes), SnapshotError> {
        let mut header = [0; RECORD_HEADER_BYTES];
        self.read(&mut header, offset)?;
        let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
        let checksum = u32::from_le_bytes([header[5], header[6], header[7], header[8]]);
        if length > RECORD_BYTES_MAX {
            return Err(self.damaged(&format!("a record of {length} bytes at {offset}")));
        }
        let mut payload = vec![0; length];
        self.read(&mut payload, offset + RECORD_HEADER_BYTES as u64)?;
        if checksum != checksum_of(header[0], &payload) {
            return Err(self.damaged(&format!("the checksum of the record at {offset} differs")));
        }
        let kind = Kind::from_byte(header[0])
            .ok_or_else(|| self.damaged(&format!("a record of kind {} at {offset}", header[0])))?;
        Ok((kind, payload.into()))
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), SnapshotError> {
        self.file.read_at(buffer, offset).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                self.damaged(&format!("it ends before {}", offset + buffer.len() as u64))
            } else {
                self.failed(error)
            }
        })
    }

    fn damaged(&self, reason: &str) -> SnapshotError {
        SnapshotError::Damaged { path: self.path.display().to_string(), reason: reason.to_owned() }
    }

    fn failed(&self, source: io::Error) -> SnapshotError {
        SnapshotError::Io { path: self.path.display().to_string(), source }
    }
}

/// Reads the chunks of a snapshot. It ends after the last chunk, or with the first error, which [`Chunks::finish`] tells again.
pub(super) struct Chunks {
    snapshot: SnapshotFile,
    offset: u64,
    count: u64,
    state: ChunksState,
}

enum ChunksState {
    Reading,
    Complete,
    Failed(SnapshotError),
}

impl Chunks {
    /// Reads what the reader of the chunks left, and tells whether the snapshot was whole.
    pub(super) fn finish(mut self) -> Result<(), SnapshotError> {
        while matches!(self.state, ChunksState::Reading) {
            let _ = self.next();
        }
        match self.state {
            ChunksState::Failed(error) => Err(error),
            ChunksState::Reading | ChunksState::Complete => Ok(()),
        }
    }

    fn read(&mut self) -> Result<Option<Bytes>, SnapshotError> {
        loop {
            let (kind, payload) = self.snapshot.record(self.offset)?;
            let first = self.offset == RECORDS_AT;
            self.offset += (RECORD_HEADER_BYTES + payload.len()) as u64;
            match kind {
                Kind::Meta if first => {}
                Kind::Chunk if !first => {
                    self.count += 1;
                    return Ok(Some(payload));
                }
                Kind::End if !first => {
                    if *payload != self.count.to_le_bytes() || self.offset != self.snapshot.bytes {
                        return Err(self.snapshot.damaged("it does not end where it says"));
                    }
                    return Ok(None);
                }
                kind => {
                    return Err(self.snapshot.damaged(&format!("a record of kind {kind:?} out of place")));
                }
            }
        }
    }
}

impl Iterator for Chunks {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        if !matches!(self.state, ChunksState::Reading) {
            return None;
        }
        match self.read() {
            Ok(Some(chunk)) => Some(Ok(chunk)),
            Ok(None) => {
                self.state = ChunksState::Complete;
                None
            }
            Err(error) => {
                let told = io::Error::new(io::ErrorKind::InvalidData, error.to_string());
                self.state = ChunksState::Failed(error);
                Some(Err(told))
            }
        }
    }
}

/// A snapshot that is being received.
pub(super) struct Receiving {
    target: Temporary,
    expected: u64,
    received: u64,
}

impl Receiving {
    /// Takes the next bytes of the file.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let end = self.received + bytes.len() as u64;
        if end > self.expected {
            return Err(SnapshotError::Received(format!(
                "more came than the announced {} bytes",
                self.expected
            )));
        }
        self.target.write(bytes, self.received)?;
        self.received = end;
        Ok(())
    }

    /// Brings the file to the disk and verifies all of it; it must hold `meta`.
    pub(super) fn finish(self, meta: &SnapshotMeta) -> Result<SnapshotFile, SnapshotError> {
        if self.received != self.expected {
            return Err(SnapshotError::Received(format!(
                "{} of the announced {} bytes came",
                self.received, self.expected
            )));
        }
        self.target.sync()?;
        let path = self.target.path.clone();
        let refused = |error: SnapshotError| match error {
            SnapshotError::Damaged { reason, .. } => SnapshotError::Received(reason),
            other => other,
        };
        let mut snapshot = SnapshotFile::open(path, Arc::clone(&self.target.file)).map_err(refused)?;
        if snapshot.meta != *meta {
            return Err(SnapshotError::Received("the file holds something else than was announced".into()));
        }
        snapshot.chunks().finish().map_err(refused)?;
        snapshot.temporary = Some(Arc::new(self.target));
        Ok(snapshot)
    }
}

/// A file that is removed unless it becomes the snapshot.
struct Temporary {
    files: Arc<dyn Files>,
    file: Arc<dyn File>,
    path: PathBuf,
    installed: AtomicBool,
}

impl Temporary {
    fn write(&self, bytes: &[u8], offset: u64) -> Result<(), SnapshotError> {
        self.file.write_at(bytes, offset).map_err(|source| self.failed(source))
    }

    fn sync(&self) -> Result<(), SnapshotError> {
        self.file.sync().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> SnapshotError {
        SnapshotError::Io { path: self.path.display().to_string(), source }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.installed.load(Ordering::Relaxed)
            && let Err(error) = self.files.remove(&self.path)
        {
            // The next start tries again.
            tracing::warn!(error = %error, path = %self.path.display(), "cannot remove a temporary snapshot");
        }
    }
}

struct Writer {
    target: Temporary,
    buffer: Vec<u8>,
    /// Where the buffer goes in the file.
    offset: u64,
}

impl Writer {
    fn record(&mut self, kind: Kind, payload: &[u8]) -> Result<(), SnapshotError> {
        let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= RECORD_BYTES_MAX);
        let Some(length) = length else {
            let reason =
                format!("a chunk of {} bytes, at most {RECORD_BYTES_MAX} are allowed", payload.len());
            return Err(self.target.failed(io::Error::new(io::ErrorKind::InvalidInput, reason)));
        };
        self.buffer.push(kind as u8);
        self.buffer.extend_from_slice(&length.to_le_bytes());
        self.buffer.extend_from_slice(&checksum_of(kind as u8, payload).to_le_bytes());
        self.buffer.extend_from_slice(payload);
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), SnapshotError> {
        self.target.write(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Meta = 1,
    Chunk = 2,
    End = 3,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Meta, Self::Chunk, Self::End].into_iter().find(|kind| *kind as u8 == byte)
    }
}

fn checksum_of(kind: u8, payload: &[u8]) -> u32 {
    let length = u32::try_from(payload.len()).expect("a record is at most RECORD_BYTES_MAX long");
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind]);
    hasher.update(&length.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::error::Error;

    use flotilla_wal::MemoryFiles;

    use super::super::types::{LeaderId, LogId, Membership, StoredMembership};
    use super::*;
    use openraft::vote::RaftLeaderId;

    type TestResult<T = ()> = Result<T, Box<dyn Error>>;

    #[test]
    fn what_is_written_is_read_again() -> TestResult {
        let files = MemoryFiles::new();
        for chunks in
            [vec![], vec![Bytes::new()], vec![Bytes::from(vec![7; 300_000]), Bytes::from_static(b"end")]]
        {
            let store = open(&files)?;
            let index = store.last_index().unwrap_or(0) + 1;
            store.install(store.write(&meta(index), &mut chunks.clone().into_iter())?)?;
            let snapshot = open(&files)?.current().ok_or("no snapshot")?;
            assert_eq!(snapshot.meta, meta(index));
            assert_eq!(snapshot.chunks().collect::<io::Result<Vec<_>>>()?, chunks);
            snapshot.chunks().finish()?;
        }
        Ok(())
    }

    #[test]
    fn any_damage_is_noticed() -> TestResult {
        let files = MemoryFiles::new();
        let store = open(&files)?;
        let chunks = [Bytes::from_static(b"first"), Bytes::from_static(b"second")];
        store.install(store.write(&meta(3), &mut chunks.into_iter())?)?;
        let path = dir().join(NAME);
        let intact = files.contents(&path).ok_or("no file")?;
        let is_refused = |bytes: &[u8]| {
            files.damage(&path, bytes);
            let snapshot = open(&files).map(|store| store.current().expect("there is a file"));
            snapshot.and_then(|snapshot| snapshot.chunks().finish()).is_err()
        };
        assert!(!is_refused(&intact));
        for bit in 0..intact.len() * 8 {
            let mut damaged = intact.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(is_refused(&damaged), "bit {bit}");
        }
        for length in 0..intact.len() {
            assert!(is_refused(&intact[..length]), "cut to {length}");
        }
        assert!(is_refused(&[&intact[..], b"more"].concat()));
        Ok(())
    }

    #[test]
    fn an_older_snapshot_does_not_replace_a_newer_one() -> TestResult {
        let files = MemoryFiles::new();
        let store = open(&files)?;
        let older = store.write(&meta(3), &mut [Bytes::from_static(b"older")].into_iter())?;
        store.install(store.write(&meta(5), &mut [Bytes::from_static(b"newer")].into_iter())?)?;
        assert_eq!(store.install(older)?.last_index(), Some(5));
        assert_eq!(open(&files)?.last_index(), Some(5));
        assert_eq!(files.list(&dir())?, [NAME]);
        Ok(())
    }

    #[test]
    fn what_was_not_installed_is_removed() -> TestResult {
        let files = MemoryFiles::new();
        let store = open(&files)?;
        let given_up = store.write(&meta(3), &mut [].into_iter())?;
        assert_eq!(files.list(&dir())?.len(), 1);
        drop(given_up);
        assert!(files.list(&dir())?.is_empty());

        // The process ends before it can remove it.
        let lost = store.write(&meta(3), &mut [].into_iter())?;
        let files = files.kill();
        drop(lost);
        assert_eq!(files.list(&dir())?.len(), 1);
        assert!(open(&files)?.current().is_none());
        assert!(files.list(&dir())?.is_empty());
        Ok(())
    }

    #[test]
    fn a_snapshot_stays_readable_when_it_is_replaced() -> TestResult {
        let store = open(&MemoryFiles::new())?;
        let chunk = Bytes::from_static(b"old");
        let old = store.install(store.write(&meta(3), &mut [chunk.clone()].into_iter())?)?;
        store.install(store.write(&meta(5), &mut [].into_iter())?)?;
        assert_eq!(old.chunks().collect::<io::Result<Vec<_>>>()?, [chunk]);
        Ok(())
    }

    #[test]
    fn a_received_snapshot_is_what_was_announced() -> TestResult {
        let store = open(&MemoryFiles::new())?;
        let sent = store.write(&meta(3), &mut [Bytes::from_static(b"chunk")].into_iter())?;
        let bytes = sent.read_raw(0, usize::MAX)?;
        let receive = |announced: u64, bytes: &[u8], meta: &SnapshotMeta| {
            let mut receiving = store.receive(announced)?;
            for part in bytes.chunks(7) {
                receiving.push(part)?;
            }
            receiving.finish(meta)
        };
        let length = sent.bytes();
        assert!(receive(length, &bytes, &meta(3)).is_ok());
        assert!(matches!(receive(length, &bytes, &meta(4)), Err(SnapshotError::Received(_))));
        assert!(matches!(receive(length - 1, &bytes, &meta(3)), Err(SnapshotError::Received(_))));
        assert!(matches!(receive(length + 1, &bytes, &meta(3)), Err(SnapshotError::Received(_))));
        let mut damaged = bytes.to_vec();
        damaged[40] ^= 1;
        assert!(matches!(receive(length, &damaged, &meta(3)), Err(SnapshotError::Received(_))));
        Ok(())
    }

    #[test]
    fn a_snapshot_that_the_log_needs_is_missed() -> TestResult {
        let store = open(&MemoryFiles::new())?;
        store.require(None)?;
        assert!(matches!(store.require(Some(0)), Err(SnapshotError::Missing { needed: 0, .. })));
        store.install(store.write(&meta(3), &mut [].into_iter())?)?;
        store.require(Some(3))?;
        assert!(matches!(store.require(Some(4)), Err(SnapshotError::Missing { needed: 4, .. })));
        Ok(())
    }

    #[test]
    fn a_chunk_that_could_not_be_read_again_is_not_written() -> TestResult {
        let store = open(&MemoryFiles::new())?;
        let chunk = Bytes::from(vec![0; RECORD_BYTES_MAX + 1]);
        assert!(store.write(&meta(3), &mut [chunk].into_iter()).is_err());
        Ok(())
    }

    fn dir() -> PathBuf {
        PathBuf::from("/snapshots")
    }

    fn open(files: &MemoryFiles) -> Result<SnapshotStore, SnapshotError> {
        SnapshotStore::open(dir(), Arc::new(files.clone()))
    }

    fn meta(index: u64) -> SnapshotMeta {
        let id = |index| LogId::new(LeaderId::new(2, 9), index);
        let voters = BTreeSet::from([1, 2, 9]);
        let membership = Membership::new_with_defaults(vec![voters], [4]);
        SnapshotMeta {
            last_log_id: Some(id(index)),
            last_membership: StoredMembership::new(Some(id(1)), membership),
        }
    }
}
