//! The log itself.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, io,
    ops::Range,
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::{
    files::{File, Files},
    index::{Found, Index, Place, Slot},
    layout,
    options::{Flushing, GroupState, SUBMISSION_BYTES_MAX, WalError, WalOptions, WalStatus},
    record::Record,
    recovery::{self, Segment, read_entry},
    spares::Spares,
    writer::{Done, Job, Turn, Writer},
};

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
            full: false,
            queue: VecDeque::new(),
            queued_bytes: 0,
            next_ticket: 0,
            reclaiming: false,
            closing: false,
            failed: None,
            appends: 0,
            writes: 0,
            flushes: 0,
            unflushed_bytes: 0,
        };
        let shared = Arc::new(Shared { options, state: Mutex::new(state), wake: Condvar::new() });
        let spares = Spares::open(files.clone(), dir, recovered.spares, &shared.options).map_err(failed)?;
        let mut writer = Writer::new(shared.clone(), files, dir.to_owned(), recovered.end, spares, lock);
        writer.prepare(recovered.is_current).map_err(failed)?;
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
    /// Where the disk has no space for a new segment, what is submitted waits until there is: neither told nor lost
    /// ([`WalStatus::full`]). With [`Flushing::InSubmit`] the next call then tries again.
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
            full: state.full,
            reserve_in_use: state.spares < shared.options.reserve_segments,
            bytes: used + state.spares as u64 * u64::from(shared.options.segment_bytes),
            live_bytes: state.index.live_bytes_total(),
            queued_bytes: state.queued_bytes,
            cached_bytes: state.index.cache_bytes(),
            appends: state.appends,
            writes: state.writes,
            flushes: state.flushes,
            unflushed_bytes: state.unflushed_bytes,
            failed: state.failed.clone(),
        }
    }

    /// With [`Flushing::OnCall`] and [`Flushing::InSubmit`]: flushes what was submitted, and returns after each `done` was called. Not
    /// to be called inside a `done`. Otherwise it does nothing, for what was submitted is flushed without it.
    pub fn flush(&self) {
        match &self.handle.driver {
            Driver::OnThread(_) => {}
            Driver::InSubmit(writer) | Driver::OnCall(writer) => {
                write_all(&self.handle.shared, writer);
                if let Some(mut writer) = writer.try_lock()
                    && let Some(writer) = writer.as_mut()
                {
                    writer.flush_written();
                    writer.refill();
                }
            }
        }
    }

    /// Forgets all that there is of a group, for a node that is no member of it any more: its entries and small values, and its votes.
    /// What was submitted of it before is void, what is submitted later is that of a new group. The space is used again. `done` is
    /// called as that of [`Wal::submit`].
    ///
    /// A node that still counts as a member of the group must not do this: it could vote twice.
    pub fn forget_group(&self, group: u64, done: impl FnOnce(io::Result<()>) + Send + 'static) {
        self.submit(vec![Record::Forgotten { group }], done);
    }

    /// Flushes what was submitted and written, and lets go of the directory. Later submissions on other clones get an error; reads go on.
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
            Driver::InSubmit(writer) => {
                if let Some(mut writer) = writer.try_lock()
                    && let Some(mut writer) = writer.take()
                {
                    writer.refuse_waiting();
                    writer.flush_written();
                }
            }
            Driver::OnCall(writer) => {
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
        loop {
            match writer.write_batch() {
                Turn::Wrote => {}
                Turn::Idle => break,
                // The next call tries again.
                Turn::Full => return,
            }
        }
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
    /// There is no space for what is first in the queue.
    pub(crate) full: bool,
    pub(crate) queue: VecDeque<Job>,
    pub(crate) queued_bytes: usize,
    next_ticket: u64,
    /// Whether a segment is being freed.
    pub(crate) reclaiming: bool,
    pub(crate) closing: bool,
    pub(crate) failed: Option<Arc<str>>,
    appends: u64,
    pub(crate) writes: u64,
    pub(crate) flushes: u64,
    pub(crate) unflushed_bytes: u64,
}

/// Why the writer goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    Jobs,
    /// It is as late as it was to become.
    Late,
    /// The log is closed, and nothing is queued.
    Closed,
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Waits until something is queued, the log is closed, or it is `until`.
    pub(crate) fn wait_for_jobs(&self, until: Option<Instant>) -> Woken {
        let mut state = self.state.lock();
        loop {
            if !state.queue.is_empty() {
                return Woken::Jobs;
            }
            if state.closing {
                return Woken::Closed;
            }
            match until {
                Some(until) if self.wake.wait_until(&mut state, until).timed_out() => return Woken::Late,
                Some(_) => {}
                None => self.wake.wait(&mut state),
            }
        }
    }

    /// Waits for so long; true when the log is closed meanwhile.
    pub(crate) fn pause(&self, pause: Duration) -> bool {
        let mut state = self.state.lock();
        let until = Instant::now() + pause;
        while !state.closing && !self.wake.wait_until(&mut state, until).timed_out() {}
        state.closing
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
