//! The log itself.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::{
    files::{File, Files},
    index::{Found, Index, Place, Slot},
    layout,
    record::Record,
    recovery::{self, Segment, read_entry},
    writer::{Done, Job, Writer},
};

/// How the log is kept.
#[derive(Debug, Clone)]
pub struct WalOptions {
    /// Size of a segment; 16 MiB. A submission that does not fit gets a larger segment of its own.
    pub segment_bytes: u32,
    /// Segments that wait to be used again; 2.
    pub spares_max: usize,
    /// Bytes of recent entries in memory; 16 MiB. What is not flushed yet and the last entry of each group count, and stay.
    pub cache_bytes_max: usize,
    /// Who writes.
    pub flushing: Flushing,
}

/// Who writes and flushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushing {
    /// A thread of its own, which takes all that waits in one write and one flush.
    OnThread,
    /// The caller of `submit`, which returns after `done` was called: for simulations, which have one thread.
    InSubmit,
    /// The caller of [`Wal::flush`], for simulations in which the power can fail between a submission and its flush. Nobody else
    /// flushes, not even [`Wal::close`].
    OnCall,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
            spares_max: 2,
            cache_bytes_max: 16 << 20,
            flushing: Flushing::OnThread,
        }
    }
}

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// Another process works in the directory.
    #[error("the log in {dir} is in use by another process")]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// What is on the medium is not what was written.
    #[error(
        "the log is damaged: {file} at byte {offset}: {what}. Nothing was changed. Check the disk, then let this node rejoin with an \
         empty data directory, or put back a copy of this directory that was made after its last start"
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// Written by a version that this one does not know.
    #[error("{file} has format version {version}, which this program does not know")]
    UnknownVersion {
        /// The file.
        file: PathBuf,
        /// The version it names.
        version: u32,
    },
    /// The file system refused.
    #[error("the log in {dir}: {source}")]
    Io {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What the log has of one group, what is not flushed yet included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupState {
    /// The last vote.
    pub vote: Option<Bytes>,
    /// The last purge point, and what was kept with it.
    pub purged: Option<(u64, Bytes)>,
    /// Index of the first entry; `None` without entries.
    pub first_index: Option<u64>,
    /// The last entry; `None` without entries, and then `purged` is the end of the log.
    pub last: Option<(u64, Bytes)>,
    /// The small values.
    pub meta: BTreeMap<u8, Bytes>,
}

/// Figures of the log.
#[derive(Debug, Clone, Default)]
pub struct WalStatus {
    /// Segments in use.
    pub segments: usize,
    /// Segments that wait to be used again.
    pub spares: usize,
    /// Bytes of the files of the log, the spares included.
    pub bytes: u64,
    /// Bytes of the records that are still needed.
    pub live_bytes: u64,
    /// Bytes of records that wait for the writer.
    pub queued_bytes: usize,
    /// Bytes of entries in memory.
    pub cached_bytes: usize,
    /// Submissions taken since the log was opened.
    pub appends: u64,
    /// Flushes of a batch since the log was opened.
    pub flushes: u64,
    /// The first error of a write or a flush. The log takes nothing any more.
    pub failed: Option<Arc<str>>,
}

/// The log. Clones are the same log; it is closed with the last of them, or by [`Wal::close`].
#[derive(Clone)]
pub struct Wal {
    handle: Arc<Handle>,
}

impl Wal {
    /// Opens the log in `dir`, which is made where it is missing, and recovers what it has.
    ///
    /// # Errors
    /// Another process has the log, it is damaged, or the file system refused.
    pub fn open(dir: &Path, options: WalOptions, files: Arc<dyn Files>) -> Result<Self, WalError> {
        let failed = |source| WalError::Io { dir: dir.to_owned(), source };
        let options = options.bounded();
        files.create_dir(dir).map_err(failed)?;
        let lock = files.lock(&dir.join("lock")).map_err(failed)?;
        let lock = lock.ok_or_else(|| WalError::Locked { dir: dir.to_owned() })?;
        let recovered = recovery::recover(dir, &*files, options.cache_bytes_max)?;
        let flushing = options.flushing;
        let state = State {
            index: recovered.index,
            segments: recovered.segments,
            spares: 0,
            queue: VecDeque::new(),
            queued_bytes: 0,
            next_ticket: 0,
            reclaiming: false,
            closing: false,
            failed: None,
            appends: 0,
            flushes: 0,
        };
        let shared = Arc::new(Shared { options, state: Mutex::new(state), wake: Condvar::new() });
        let mut writer =
            Writer::new(shared.clone(), files, dir.to_owned(), recovered.end, recovered.spares, lock);
        writer.prepare().map_err(failed)?;
        let driver = match flushing {
            Flushing::InSubmit => Driver::InSubmit(Mutex::new(Some(writer))),
            Flushing::OnCall => Driver::OnCall(Mutex::new(Some(writer))),
            Flushing::OnThread => {
                let thread = thread::Builder::new().name("wal".to_owned()).spawn(move || writer.run());
                Driver::OnThread(Mutex::new(Some(thread.map_err(failed)?)))
            }
        };
        Ok(Self { handle: Arc::new(Handle { shared, driver }) })
    }

    /// What there is of a group, what is not flushed yet included.
    #[must_use]
    pub fn group(&self, group: u64) -> GroupState {
        self.handle.shared.state().index.group(group)
    }

    /// The groups that have anything, in order.
    #[must_use]
    pub fn groups(&self) -> Vec<u64> {
        self.handle.shared.state().index.groups().collect()
    }

    /// Takes records to be made durable, after all that was submitted before. They are visible to reads when this returns, and
    /// kept whole or not at all. `done` is called once, in the order of submission, on the writer's thread: it must be short. Where
    /// it panics, the log has failed, and those that were flushed together with it may be dropped without a call.
    ///
    /// Never waits for a flush. There is no bound on what waits: callers bound their pipeline by what is not `done`
    /// ([`WalStatus::queued_bytes`] has the sum). A truncation behind the cached entries reads one entry from the disk.
    ///
    /// `done` gets an error
    /// - of kind `InvalidInput` for records that do not follow on what is there (see [`Record`]), or have more than
    ///   [`SUBMISSION_BYTES_MAX`] bytes; nothing of them is taken, and the log goes on. It is called on the caller's thread, before
    ///   this returns;
    /// - of any other kind where it cannot be known whether they are kept: the log has failed, or is closed.
    pub fn submit(&self, records: Vec<Record>, done: impl FnOnce(io::Result<()>) + Send + 'static) {
        match self.handle.shared.enqueue(records, Box::new(done)) {
            Ok(()) => self.handle.driver.wake(&self.handle.shared),
            Err((done, error)) => done(Err(error)),
        }
    }

    /// The entries of `range` that exist, in order, from the first on without a gap; as many as have `bytes_max` bytes
    /// together, but at least one where there is one.
    ///
    /// # Errors
    /// An entry could not be read from the disk, or is not what was written.
    pub fn entries(&self, group: u64, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<(u64, Bytes)>> {
        let (found, files) = {
            let state = &*self.handle.shared.state();
            let found = state.index.entries(group, &range, bytes_max);
            // The files are held from here on: the writer does not write to a segment again that a reader has.
            let mut files: BTreeMap<u64, Arc<dyn File>> = BTreeMap::new();
            for entry in &found {
                if let Found::OnDisk(Slot { place: Place::At { segment, .. }, .. }) = &entry.1 {
                    files.entry(*segment).or_insert_with(|| state.segments[segment].file.clone());
                }
            }
            (found, files)
        };
        read_found(found, &files)
    }

    /// Bytes of the entries of the group since its last purge.
    #[must_use]
    pub fn bytes_since_purge(&self, group: u64) -> u64 {
        self.handle.shared.state().index.entry_bytes(group)
    }

    /// Figures.
    #[must_use]
    pub fn status(&self) -> WalStatus {
        let shared = &self.handle.shared;
        let state = &*shared.state();
        let used: u64 = state.segments.values().map(|segment| u64::from(segment.bytes)).sum();
        WalStatus {
            segments: state.segments.len(),
            spares: state.spares,
            bytes: used + state.spares as u64 * u64::from(shared.options.segment_bytes),
            live_bytes: state.index.live_bytes_total(),
            queued_bytes: state.queued_bytes,
            cached_bytes: state.index.cache_bytes(),
            appends: state.appends,
            flushes: state.flushes,
            failed: state.failed.clone(),
        }
    }

    /// With [`Flushing::OnCall`]: flushes what was submitted, and returns after each `done` was called. Not to be called inside a
    /// `done`. Otherwise it does nothing, for what was submitted is flushed without it.
    pub fn flush(&self) {
        if let Driver::OnCall(writer) = &self.handle.driver {
            write_all(&self.handle.shared, writer);
        }
    }

    /// Flushes what was submitted, and lets go of the directory. Later submissions on other clones get an error; reads go on.
    /// Called inside a `done`, it does not wait.
    pub fn close(self) {
        self.handle.close();
    }
}

#[cfg(test)]
impl Wal {
    /// With [`Flushing::InSubmit`]: what is submitted waits until [`Wal::release`], to be written together.
    pub(crate) fn hold(&self) -> Option<Writer> {
        match &self.handle.driver {
            Driver::InSubmit(writer) => writer.lock().take(),
            Driver::OnThread(_) | Driver::OnCall(_) => None,
        }
    }

    pub(crate) fn release(&self, held: Writer) {
        if let Driver::InSubmit(writer) = &self.handle.driver {
            *writer.lock() = Some(held);
        }
        self.handle.driver.wake(&self.handle.shared);
    }

    pub(crate) fn check_invariants(&self) {
        self.handle.shared.state().index.check_invariants();
    }
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal").field("status", &self.status()).finish()
    }
}

/// The records of one submission have at most so many bytes together.
pub const SUBMISSION_BYTES_MAX: usize = 256 << 20;

/// Segments are at least so large, and at most [`SEGMENT_BYTES_MAX`].
const SEGMENT_BYTES_MIN: u32 = 256;
const SEGMENT_BYTES_MAX: u32 = 1 << 30;

impl WalOptions {
    fn bounded(self) -> Self {
        let segment_bytes =
            self.segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX).next_multiple_of(8);
        Self { segment_bytes, ..self }
    }
}

/// What the clones share. Dropped, it closes the log.
struct Handle {
    shared: Arc<Shared>,
    driver: Driver,
}

impl Handle {
    fn close(&self) {
        self.shared.state().closing = true;
        self.shared.wake.notify_all();
        match &self.driver {
            Driver::OnThread(thread) => {
                let Some(thread) = thread.lock().take() else { return };
                // The writer does not wait for itself. Where it panicked, every caller has heard of it.
                if thread.thread().id() != thread::current().id() {
                    let _ = thread.join();
                }
            }
            Driver::InSubmit(writer) | Driver::OnCall(writer) => {
                if let Some(mut writer) = writer.try_lock() {
                    writer.take();
                }
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

enum Driver {
    OnThread(Mutex<Option<JoinHandle<()>>>),
    InSubmit(Mutex<Option<Writer>>),
    OnCall(Mutex<Option<Writer>>),
}

impl Driver {
    /// Something was queued.
    fn wake(&self, shared: &Shared) {
        match self {
            Self::OnThread(_) => {
                shared.wake.notify_one();
            }
            Self::InSubmit(writer) => write_all(shared, writer),
            Self::OnCall(_) => {}
        }
    }
}

/// Writes what is queued on this thread.
fn write_all(shared: &Shared, writer: &Mutex<Option<Writer>>) {
    // Who has the writer, perhaps this thread further down the stack, takes what is queued along.
    while shared.has_jobs() {
        let Some(mut writer) = writer.try_lock() else { return };
        let Some(writer) = writer.as_mut() else { return };
        while writer.write_batch() {}
    }
}

/// What callers and writer share.
pub(crate) struct Shared {
    pub(crate) options: WalOptions,
    state: Mutex<State>,
    wake: Condvar,
}

/// Under the lock. Nothing here waits for the disk, but for a truncation behind the cache.
pub(crate) struct State {
    pub(crate) index: Index,
    /// By sequence number; the last is written to.
    pub(crate) segments: BTreeMap<u64, Segment>,
    pub(crate) spares: usize,
    pub(crate) queue: VecDeque<Job>,
    pub(crate) queued_bytes: usize,
    next_ticket: u64,
    /// Whether a segment is being freed.
    pub(crate) reclaiming: bool,
    pub(crate) closing: bool,
    pub(crate) failed: Option<Arc<str>>,
    appends: u64,
    pub(crate) flushes: u64,
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Waits until something is queued; false when the log is closed and nothing is.
    pub(crate) fn wait_for_jobs(&self) -> bool {
        let mut state = self.state.lock();
        while state.queue.is_empty() && !state.closing {
            self.wake.wait(&mut state);
        }
        !state.queue.is_empty()
    }

    fn has_jobs(&self) -> bool {
        !self.state.lock().queue.is_empty()
    }

    fn enqueue(&self, mut records: Vec<Record>, done: Done) -> Result<(), (Done, io::Error)> {
        let state = &mut *self.state.lock();
        if state.closing {
            return Err((done, io::Error::other("the log is closed")));
        }
        if layout::body_bytes(&records) > SUBMISSION_BYTES_MAX {
            return Err((done, io::Error::new(io::ErrorKind::InvalidInput, "a submission is too large")));
        }
        let ticket = state.next_ticket;
        // A log that has failed says so in the order of submission, through the queue.
        if state.failed.is_none() {
            if let Err(what) = state.index.check(&records) {
                return Err((done, io::Error::new(io::ErrorKind::InvalidInput, what)));
            }
            state.take(&mut records);
        }
        state.appends += 1;
        state.queued_bytes += layout::body_bytes(&records);
        state.queue.push_back(Job::Submission { ticket, records, done });
        Ok(())
    }
}

impl State {
    fn take(&mut self, records: &mut Vec<Record>) {
        records.retain(|record| {
            let taken = self.index.take(record, self.next_ticket);
            self.next_ticket += u64::from(taken);
            taken
        });
        for record in &*records {
            // The last entry of a group is always in memory, so that `Wal::group` need not read.
            if let (Record::TruncateFrom { group, .. }, Some(last)) =
                (record, self.index.last_on_disk(record.group()))
            {
                match self.read(last) {
                    Ok(bytes) => self.index.cache_last(*group, bytes),
                    Err(error) => self.fail(&error),
                }
            }
        }
    }

    fn read(&self, slot: Slot) -> io::Result<Bytes> {
        match slot.place {
            Place::At { segment, offset } => {
                Ok(read_entry(&*self.segments[&segment].file, offset, slot.length, slot.crc)?.into())
            }
            Place::Waiting(_) => unreachable!("what waits is in memory"),
        }
    }

    /// Notes the first error.
    pub(crate) fn fail(&mut self, error: &io::Error) {
        if self.failed.is_none() {
            tracing::error!(%error, "the log has failed");
            self.failed = Some(error.to_string().into());
        }
    }
}

/// Reads what was not in memory: neighbours in a segment together.
fn read_found(
    found: Vec<(u64, Found)>,
    files: &BTreeMap<u64, Arc<dyn File>>,
) -> io::Result<Vec<(u64, Bytes)>> {
    let mut entries = Vec::with_capacity(found.len());
    let mut found = found.into_iter().peekable();
    while let Some((index, entry)) = found.next() {
        let slot = match entry {
            Found::Cached(bytes) => {
                entries.push((index, bytes));
                continue;
            }
            Found::OnDisk(slot) => slot,
        };
        let Place::At { segment, offset } = slot.place else { unreachable!("what waits is in memory") };
        let mut run = vec![(index, slot, offset)];
        let mut end = offset + slot.length;
        while let Some((next, Found::OnDisk(slot))) = found.next_if(|next| near(&next.1, segment, end)) {
            let Place::At { offset: at, .. } = slot.place else {
                unreachable!("it is near, so it is somewhere")
            };
            run.push((next, slot, at));
            end = at + slot.length;
        }
        let mut bytes = vec![0; (end - offset) as usize];
        files[&segment].read_at(&mut bytes, u64::from(offset))?;
        let bytes = Bytes::from(bytes);
        for (index, slot, at) in run {
            let start = (at - offset) as usize;
            let entry = bytes.slice(start..start + slot.length as usize);
            if crc32fast::hash(&entry) != slot.crc {
                return Err(recovery::not_what_was_written());
            }
            entries.push((index, entry));
        }
    }
    Ok(entries)
}

/// Entries so near to each other are read at once.
const READ_GAP_MAX: u32 = 4 << 10;

/// Whether the entry is in the segment, at `end` or not far behind it.
fn near(found: &Found, segment: u64, end: u32) -> bool {
    match found {
        Found::OnDisk(Slot { place: Place::At { segment: at, offset }, .. }) => {
            *at == segment && (end..=end.saturating_add(READ_GAP_MAX)).contains(offset)
        }
        Found::OnDisk(_) | Found::Cached(_) => false,
    }
}
