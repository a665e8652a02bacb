//! The one writer of the log: batches, segments, and what becomes of old ones.

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    files::{DirectoryLock, File, Files},
    index::{Found, From, Place},
    layout::{self, FORMAT_VERSION, FRAME_HEADER, Origin, RECORD_HEADER, SEGMENT_HEADER, SegmentHeader},
    options::Sync,
    record::Record,
    recovery::{Segment, read_entry, segment_name},
    spares::{Refused, Spares},
    wal::{Shared, State, Woken},
};

/// Called when a submission is durable, or has failed.
pub(crate) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// What waits for the writer.
pub(crate) enum Job {
    /// Records of a caller. Record `k` has the ticket `ticket + k`.
    Submission { ticket: u64, records: Vec<Record>, done: Done },
    /// Records that are needed, brought forward from an old segment.
    Carry { from: u64, records: Vec<Record> },
    /// Nothing in this segment, the oldest, is needed once all that was queued before is durable.
    Free { segment: u64 },
}

impl Job {
    fn records(&self) -> &[Record] {
        match self {
            Self::Submission { records, .. } | Self::Carry { records, .. } => records,
            Self::Free { .. } => &[],
        }
    }

    /// Whether what it has, and all before it, is to be on the medium before anything else happens. A segment is free only when what is
    /// needed of it is elsewhere for certain.
    fn is_flushed_always(&self) -> bool {
        matches!(self, Self::Free { .. }) || self.records().iter().any(Record::is_flushed_always)
    }

    /// Bytes in the body of a frame.
    pub(crate) fn bytes(&self) -> usize {
        layout::body_bytes(self.records())
    }
}

/// A batch is at most so large, unless one submission is larger.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// How much is brought forward at once.
const CARRY_BYTES_MAX: usize = 1 << 20;

/// A full disk is asked so often whether there is space.
const FULL_PAUSE: Duration = Duration::from_millis(100);

/// So often it is tried to make the reserve whole: that may write most of a segment in vain.
const REFILL_PAUSE: Duration = Duration::from_secs(1);

/// What became of a turn of the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// A batch was written, or has failed.
    Wrote,
    /// Nothing waits.
    Idle,
    /// There is no space for what is first.
    Full,
}

/// Everything the writer alone has.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    files: Arc<dyn Files>,
    dir: PathBuf,
    /// The segment that is written to; `None` only before the first.
    active: Option<Active>,
    spares: Spares,
    /// When to try to make the reserve whole; `None` while it is.
    refill_at: Option<Instant>,
    /// When to remove the spares, where none is taken or given until then; `None` while only the reserve is there.
    shrink_at: Option<Instant>,
    buffer: Vec<u8>,
    _lock: DirectoryLock,
}

struct Active {
    sequence: u64,
    file: Arc<dyn File>,
    bytes: u32,
    end: u32,
    /// Up to where it is flushed.
    flushed: u32,
    /// When the first write after that was made.
    written_at: Option<Instant>,
}

impl Active {
    fn room(&self) -> usize {
        self.bytes.saturating_sub(self.end) as usize
    }

    /// Bytes of what the next frame has to say about its predecessors.
    fn mark_bytes(&self) -> usize {
        if self.flushed < self.end { RECORD_HEADER as usize } else { 0 }
    }
}

impl Writer {
    /// A writer that goes on at `end` of the last segment.
    pub(crate) fn new(
        shared: Arc<Shared>,
        files: Arc<dyn Files>,
        dir: PathBuf,
        end: u32,
        spares: Spares,
        lock: DirectoryLock,
    ) -> Self {
        let active = shared.state().segments.last_key_value().map(|(&sequence, segment)| Active {
            sequence,
            file: segment.file.clone(),
            bytes: segment.bytes,
            end,
            flushed: end,
            written_at: None,
        });
        Self {
            shared,
            files,
            dir,
            active,
            spares,
            refill_at: None,
            shrink_at: None,
            buffer: Vec::new(),
            _lock: lock,
        }
    }

    /// Makes the first segment of a new log, or the first of the format that is written (`is_current`: it is there), and the reserve
    /// where there is space.
    pub(crate) fn prepare(&mut self, is_current: bool) -> io::Result<()> {
        if !is_current {
            self.next_segment(0).map_err(Refused::into_error)?;
        }
        self.spares.refill()?;
        self.count_spares();
        Ok(())
    }

    /// Writes and flushes until the log is closed and nothing waits.
    pub(crate) fn run(mut self) {
        let _end = EndOnPanic(self.shared.clone());
        loop {
            let until = [self.flush_at(), self.refill_at, self.shrink_at].into_iter().flatten().min();
            match self.shared.wait_for_jobs(until) {
                Woken::Jobs => {
                    if self.write_batch() == Turn::Full && self.shared.pause(FULL_PAUSE) {
                        self.refuse_waiting();
                    }
                }
                Woken::Late => {}
                Woken::Closed => break self.flush_written(),
            }
            // Also where jobs never cease.
            let now = Instant::now();
            if self.flush_at().is_some_and(|at| at <= now) {
                self.flush_written();
            }
            if self.refill_at.is_some_and(|at| at <= now) {
                self.refill();
            }
            if self.shrink_at.is_some_and(|at| at <= now) {
                self.change_spares(Spares::shrink);
            }
        }
    }

    /// When what was written has to be flushed.
    fn flush_at(&self) -> Option<Instant> {
        match self.shared.options.sync {
            Sync::Always => None,
            Sync::Interval(interval) => self.active.as_ref()?.written_at?.checked_add(interval),
        }
    }

    /// Flushes what was written. An error fails the log.
    pub(crate) fn flush_written(&mut self) {
        if self.shared.state().failed.is_none()
            && let Err(error) = self.flush()
        {
            self.shared.state().fail(&error);
        }
    }

    /// Makes the reserve whole, where there is space.
    pub(crate) fn refill(&mut self) {
        self.change_spares(Spares::refill);
    }

    fn change_spares(&mut self, change: impl FnOnce(&mut Spares) -> io::Result<()>) {
        if self.shared.state().failed.is_none()
            && let Err(error) = change(&mut self.spares)
        {
            self.shared.state().fail(&error);
        }
        self.count_spares();
    }

    fn count_spares(&mut self) {
        self.shared.state().spares = self.spares.count();
        let is_whole = self.spares.is_reserve_whole();
        let now = Instant::now();
        self.refill_at = (!is_whole).then(|| now + REFILL_PAUSE);
        let idle = self.shared.options.spares_for;
        self.shrink_at = self.spares.can_shrink().then(|| now.checked_add(idle)).flatten();
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(active) = self.active.as_mut().filter(|active| active.flushed < active.end) else {
            return Ok(());
        };
        active.written_at = None;
        active.file.sync()?;
        active.flushed = active.end;
        let state = &mut *self.shared.state();
        state.flushes += 1;
        state.unflushed_bytes = 0;
        Ok(())
    }

    /// Takes what waits, as much as fits in one write, makes it durable and tells the callers.
    pub(crate) fn write_batch(&mut self) -> Turn {
        let (jobs, failed) = self.next_batch();
        if jobs.is_empty() {
            return Turn::Idle;
        }
        let result = match failed {
            Some(failed) => Err(io::Error::other(failed.to_string())),
            None => match self.write_jobs(&jobs) {
                Ok(written) => Ok(written),
                Err(Refused::Failed(error)) => Err(error),
                Err(Refused::Full(error)) => {
                    self.wait_for_space(jobs, &error);
                    return Turn::Full;
                }
            },
        };
        self.shared.state().full = false;
        let freed = self.tell(jobs, &result);
        if result.is_ok() {
            let result = freed.map_or(Ok(()), |segment| self.recycle(segment)).and_then(|()| self.reclaim());
            if let Err(error) = result {
                self.shared.state().fail(&error);
            }
        }
        Turn::Wrote
    }

    /// Puts the jobs back to where they were: nothing of them was written.
    fn wait_for_space(&self, jobs: Vec<Job>, error: &io::Error) {
        let state = &mut *self.shared.state();
        for job in jobs.into_iter().rev() {
            state.queue.push_front(job);
        }
        if !std::mem::replace(&mut state.full, true) {
            tracing::error!(%error, "no space for the log: what is submitted waits until there is; make room there");
        }
    }

    /// Tells those who wait for space that there will be none: the log is closed.
    pub(crate) fn refuse_waiting(&mut self) {
        let jobs = {
            let state = &mut *self.shared.state();
            if !state.full {
                return;
            }
            Vec::from(std::mem::take(&mut state.queue))
        };
        self.tell(jobs, &Err(io::ErrorKind::StorageFull.into()));
    }

    /// Notes what became of the jobs, and tells the callers. Gives the segment that is free now.
    fn tell(&self, jobs: Vec<Job>, result: &io::Result<Option<(u64, u32)>>) -> Option<(u64, Segment)> {
        let freed = self.complete(&jobs, result);
        for job in jobs {
            if let Job::Submission { done, .. } = job {
                done(match result {
                    Ok(_) => Ok(()),
                    Err(error) => Err(for_caller(error)),
                });
            }
        }
        freed
    }

    /// The jobs of the next frame. All go into one segment: the active one where there is room, else a new one.
    fn next_batch(&mut self) -> (Vec<Job>, Option<Arc<str>>) {
        let state = &mut *self.shared.state();
        let room = self.active.as_ref().map_or(0, |active| active.room().saturating_sub(active.mark_bytes()));
        let (mut jobs, mut body) = (Vec::new(), 0);
        while let Some(job) = state.queue.front() {
            let with = body + job.bytes();
            // The first that does not fit begins the next segment, and the next batch.
            if !jobs.is_empty() && (with > BATCH_BYTES_MAX || layout::frame_bytes(with) > room) {
                break;
            }
            body = with;
            jobs.extend(state.queue.pop_front());
        }
        (jobs, state.failed.clone())
    }

    /// Writes the records of `jobs` as one frame, and flushes it where that cannot wait. Gives the place of the first record; `None`
    /// without records.
    fn write_jobs(&mut self, jobs: &[Job]) -> Result<Option<(u64, u32)>, Refused> {
        let first = self.write_frame(jobs)?;
        if self.shared.options.sync == Sync::Always || jobs.iter().any(Job::is_flushed_always) {
            self.flush()?;
        }
        Ok(first)
    }

    fn write_frame(&mut self, jobs: &[Job]) -> Result<Option<(u64, u32)>, Refused> {
        let body: usize = jobs.iter().map(Job::bytes).sum();
        if body == 0 {
            return Ok(None);
        }
        let needed = |active: &Active| layout::frame_bytes(body + active.mark_bytes());
        if self.active.as_ref().is_none_or(|active| needed(active) > active.room()) {
            self.next_segment(layout::frame_bytes(body))?;
        }
        let active = self.active.as_mut().expect("there is one after the first");
        let (needed, mark_bytes) = (needed(active), active.mark_bytes());
        self.buffer.clear();
        layout::begin_frame(&mut self.buffer);
        if mark_bytes > 0 {
            layout::put_flushed_to(&mut self.buffer, active.flushed);
        }
        for job in jobs {
            let origin = if matches!(job, Job::Carry { .. }) { Origin::Carried } else { Origin::New };
            for record in job.records() {
                layout::put_record(&mut self.buffer, record, origin);
            }
        }
        layout::end_frame(&mut self.buffer, active.sequence, active.end);
        active.file.write_at(&self.buffer, u64::from(active.end))?;
        let first = (active.sequence, active.end + FRAME_HEADER + segment_offset(mark_bytes));
        active.end += segment_offset(needed);
        if active.written_at.is_none() && self.shared.options.sync != Sync::Always {
            active.written_at = Some(Instant::now());
        }
        if self.buffer.capacity() > 2 * BATCH_BYTES_MAX {
            self.buffer = Vec::new();
        }
        self.shared.state().unflushed_bytes = u64::from(active.end - active.flushed);
        Ok(Some(first))
    }

    /// Notes where the records are, or that the log has failed. Gives the segment that is free now.
    fn complete(&self, jobs: &[Job], result: &io::Result<Option<(u64, u32)>>) -> Option<(u64, Segment)> {
        let state = &mut *self.shared.state();
        for job in jobs {
            if let Job::Submission { .. } = job {
                state.queued_bytes -= job.bytes();
            }
        }
        let written = match result {
            Ok(written) => *written,
            Err(error) => {
                state.fail(error);
                return None;
            }
        };
        if let Some((segment, mut offset)) = written {
            state.writes += 1;
            for job in jobs {
                for (number, record) in job.records().iter().enumerate() {
                    offset += RECORD_HEADER;
                    let from = match job {
                        Job::Submission { ticket, .. } => From::Ticket(ticket + number as u64),
                        Job::Carry { from, .. } | Job::Free { segment: from } => From::Segment(*from),
                    };
                    state.index.written(record, from, Place::At { segment, offset });
                    offset += segment_offset(record.bytes().len());
                }
            }
            state.index.evict();
        }
        let mut freed = None;
        for job in jobs {
            match job {
                Job::Submission { .. } => {}
                Job::Carry { .. } => state.reclaiming = false,
                Job::Free { segment } => {
                    state.reclaiming = false;
                    state.index.forget_segment(*segment);
                    freed = state.segments.remove(segment).map(|removed| (*segment, removed));
                }
            }
        }
        freed
    }

    /// Goes on in a new segment, which has room for `needed` bytes. Where there is no space for one, nothing has changed.
    fn next_segment(&mut self, needed: usize) -> Result<(), Refused> {
        // The next segment says where this one ends, and with that, that it is whole.
        self.flush()?;
        let usual = self.shared.options.segment_bytes;
        let bytes = segment_offset(needed + SEGMENT_HEADER as usize).max(usual);
        let (sequence, previous_end) =
            self.active.as_ref().map_or((1, 0), |active| (active.sequence + 1, active.end));
        let (name, file) = self.spares.take(bytes)?;
        if let Err(refused) = self.begin_segment(&name, &*file, sequence, previous_end) {
            if matches!(refused, Refused::Full(_)) && bytes == usual {
                self.spares.give(name);
            }
            return Err(refused);
        }
        self.files.sync_dir(&self.dir)?;
        self.count_spares();
        self.shared.state().segments.insert(sequence, Segment { file: file.clone(), bytes });
        let end = SEGMENT_HEADER;
        self.active = Some(Active { sequence, file, bytes, end, flushed: end, written_at: None });
        Ok(())
    }

    /// Makes a segment of a file.
    fn begin_segment(
        &self,
        name: &str,
        file: &dyn File,
        sequence: u64,
        previous_end: u32,
    ) -> Result<(), Refused> {
        let header = SegmentHeader { version: FORMAT_VERSION, sequence, previous_end };
        file.write_at(&header.encode(), 0).map_err(Refused::of)?;
        // The name makes it a part of the log, so what it says has to be durable before.
        file.sync()?;
        self.files.rename(&self.dir.join(name), &self.dir.join(segment_name(sequence))).map_err(Refused::of)
    }

    /// Keeps the file of a segment that is not needed as a spare, or removes it.
    fn recycle(&mut self, (sequence, segment): (u64, Segment)) -> io::Result<()> {
        let path = self.dir.join(segment_name(sequence));
        let usual = segment.bytes == self.shared.options.segment_bytes;
        // A reader that still has the file must not see it written again. It got the file under the lock, so none is added.
        let unread = Arc::strong_count(&segment.file) == 1;
        if usual && unread && self.spares.has_room() {
            let name = self.spares.new_name();
            self.files.rename(&path, &self.dir.join(&name))?;
            self.spares.give(name);
        } else {
            self.files.remove(&path)?;
        }
        // One by one: a power cut may keep any of several changes of names, and a gap between segments looks like damage.
        self.files.sync_dir(&self.dir)?;
        self.count_spares();
        Ok(())
    }

    /// Begins to free the oldest segment where nothing in it is needed, or where it is worth it to bring forward what is.
    ///
    /// What is needed is decided by the newest state, and that is durable only after all that is queued. So the decision is queued
    /// behind it.
    fn reclaim(&mut self) -> io::Result<()> {
        let (oldest, bytes_max) = {
            let state = &mut *self.shared.state();
            let Some(oldest) = state.reclaimable(self.shared.options.segment_bytes) else { return Ok(()) };
            if state.index.live_bytes(oldest) == 0 {
                state.reclaiming = true;
                state.queue.push_back(Job::Free { segment: oldest });
                return Ok(());
            }
            (oldest, CARRY_BYTES_MAX.min(self.shared.options.segment_bytes as usize / 8))
        };
        let (mut records, entries, file) = {
            let state = &mut *self.shared.state();
            let (values, entries) = state.index.live_records(oldest, bytes_max);
            (values, entries, state.segments[&oldest].file.clone())
        };
        for (group, index, found) in entries {
            let bytes = match found {
                Found::Cached(bytes) => bytes,
                Found::OnDisk(slot) => match slot.place {
                    Place::At { offset, .. } => read_entry(&*file, offset, slot.length, slot.crc)?.into(),
                    Place::Waiting(_) => continue,
                },
            };
            records.push(Record::Entry { group, index, bytes });
        }
        let state = &mut *self.shared.state();
        // What was truncated or purged while it was read would come back: those records stand before these in the queue.
        records.retain(|record| state.index.is_live_in(record, oldest));
        state.reclaiming = true;
        state.queue.push_back(Job::Carry { from: oldest, records });
        Ok(())
    }
}

impl State {
    /// The oldest segment, where it should be freed now. `None` while one is being freed.
    fn reclaimable(&self, segment_bytes: u32) -> Option<u64> {
        if self.reclaiming || self.failed.is_some() || self.segments.len() < 2 {
            return None;
        }
        let oldest = *self.segments.first_key_value()?.0;
        let live = self.index.live_bytes(oldest);
        // Votes, purge points and small values come along at once. Entries stay where they are, since most are purged soon, until
        // the log is much larger than what is needed of it: then the old segments are held by a few.
        let few = live <= u64::from(segment_bytes) / 64;
        let bytes: u64 = self.segments.values().map(|segment| u64::from(segment.bytes)).sum();
        let bloated = bytes > 3 * self.index.live_bytes_total() + 2 * u64::from(segment_bytes);
        (few || bloated).then_some(oldest)
    }
}

/// The error as each `done` gets it. `InvalidInput` means there that nothing was taken, so it is not passed on.
fn for_caller(error: &io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::InvalidInput => io::Error::other(error.to_string()),
        kind => io::Error::new(kind, error.to_string()),
    }
}

fn segment_offset(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("segments and submissions are far smaller than 4 GiB")
}

/// Ends the log when the thread of the writer panics, which only a `done` could make it do.
struct EndOnPanic(Arc<Shared>);

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let jobs = {
            let state = &mut *self.0.state();
            state.fail(&io::Error::other("the writer of the log panicked"));
            state.closing = true;
            std::mem::take(&mut state.queue)
        };
        for job in jobs {
            if let Job::Submission { done, .. } = job {
                done(Err(io::Error::other("the writer of the log panicked")));
            }
        }
    }
}
