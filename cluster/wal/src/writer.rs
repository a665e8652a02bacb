//! The one writer of the log: batches, segments, and what becomes of old ones.

use std::{io, path::PathBuf, sync::Arc};

use crate::{
    files::{DirectoryLock, File, Files},
    index::{Found, From, Place},
    layout::{self, FRAME_HEADER, Origin, RECORD_HEADER, SEGMENT_HEADER, SegmentHeader},
    record::Record,
    recovery::{Segment, number_in, read_entry, segment_name, spare_name},
    wal::{Shared, State},
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

    /// Bytes in the body of a frame.
    pub(crate) fn bytes(&self) -> usize {
        layout::body_bytes(self.records())
    }
}

/// A batch is at most so large, unless one submission is larger.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// How much is brought forward at once.
const CARRY_BYTES_MAX: usize = 1 << 20;

/// How much of a new segment is zeroed at once.
const ZEROES: &[u8] = &[0; 256 << 10];

/// Everything the writer alone has.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    files: Arc<dyn Files>,
    dir: PathBuf,
    /// The segment that is written to; `None` only before the first.
    active: Option<Active>,
    spares: Vec<String>,
    next_spare: u64,
    buffer: Vec<u8>,
    _lock: DirectoryLock,
}

struct Active {
    sequence: u64,
    file: Arc<dyn File>,
    bytes: u32,
    end: u32,
}

impl Active {
    fn room(&self) -> usize {
        self.bytes.saturating_sub(self.end) as usize
    }
}

impl Writer {
    /// A writer that goes on at `end` of the last segment.
    pub(crate) fn new(
        shared: Arc<Shared>,
        files: Arc<dyn Files>,
        dir: PathBuf,
        end: u32,
        spares: Vec<String>,
        lock: DirectoryLock,
    ) -> Self {
        let active = shared.state().segments.last_key_value().map(|(&sequence, segment)| Active {
            sequence,
            file: segment.file.clone(),
            bytes: segment.bytes,
            end,
        });
        let next_spare =
            spares.iter().filter_map(|name| number_in(name, ".spare")).max().map_or(0, |last| last + 1);
        Self { shared, files, dir, active, spares, next_spare, buffer: Vec::new(), _lock: lock }
    }

    /// Makes the first segment of a new log, and removes spares that are too many.
    pub(crate) fn prepare(&mut self) -> io::Result<()> {
        let (spares, segment_bytes) = (std::mem::take(&mut self.spares), self.shared.options.segment_bytes);
        for name in spares {
            let path = self.dir.join(&name);
            let fits = self.files.open(&path)?.size()? == u64::from(segment_bytes);
            if fits && self.spares.len() < self.shared.options.spares_max {
                self.spares.push(name);
            } else {
                self.files.remove(&path)?;
            }
        }
        if self.active.is_none() {
            self.next_segment(0)?;
        }
        self.shared.state().spares = self.spares.len();
        Ok(())
    }

    /// Writes and flushes until the log is closed and nothing waits.
    pub(crate) fn run(mut self) {
        let _end = EndOnPanic(self.shared.clone());
        while self.shared.wait_for_jobs() {
            self.write_batch();
        }
    }

    /// Takes what waits, as much as fits in one write, makes it durable and tells the callers. False when nothing waits.
    pub(crate) fn write_batch(&mut self) -> bool {
        let (jobs, failed) = self.next_batch();
        if jobs.is_empty() {
            return false;
        }
        let result = match failed {
            Some(failed) => Err(io::Error::other(failed.to_string())),
            None => self.write_jobs(&jobs),
        };
        let freed = self.complete(&jobs, &result);
        for job in jobs {
            if let Job::Submission { done, .. } = job {
                done(match &result {
                    Ok(_) => Ok(()),
                    Err(error) => Err(for_caller(error)),
                });
            }
        }
        if result.is_ok() {
            let result = freed.map_or(Ok(()), |segment| self.recycle(segment)).and_then(|()| self.reclaim());
            if let Err(error) = result {
                self.shared.state().fail(&error);
            }
        }
        true
    }

    /// The jobs of the next frame. All go into one segment: the active one where there is room, else a new one.
    fn next_batch(&mut self) -> (Vec<Job>, Option<Arc<str>>) {
        let state = &mut *self.shared.state();
        let room = self.active.as_ref().map_or(0, Active::room);
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

    /// Writes the records of `jobs` as one frame and flushes it. Gives the place of the first record; `None` without records.
    fn write_jobs(&mut self, jobs: &[Job]) -> io::Result<Option<(u64, u32)>> {
        self.buffer.clear();
        layout::begin_frame(&mut self.buffer);
        for job in jobs {
            let origin = if matches!(job, Job::Carry { .. }) { Origin::Carried } else { Origin::New };
            for record in job.records() {
                layout::put_record(&mut self.buffer, record, origin);
            }
        }
        let body = self.buffer.len() - FRAME_HEADER as usize;
        if body == 0 {
            return Ok(None);
        }
        let needed = layout::frame_bytes(body);
        if self.active.as_ref().is_none_or(|active| needed > active.room()) {
            self.next_segment(needed)?;
        }
        let active = self.active.as_mut().expect("there is one after the first");
        layout::end_frame(&mut self.buffer, active.sequence, active.end);
        active.file.write_at(&self.buffer, u64::from(active.end))?;
        active.file.sync()?;
        let first = (active.sequence, active.end + FRAME_HEADER);
        active.end += segment_offset(needed);
        if self.buffer.capacity() > 2 * BATCH_BYTES_MAX {
            self.buffer = Vec::new();
        }
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
            state.flushes += 1;
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

    /// Goes on in a new segment, which has room for `needed` bytes.
    fn next_segment(&mut self, needed: usize) -> io::Result<()> {
        let usual = self.shared.options.segment_bytes;
        let bytes = segment_offset(needed + SEGMENT_HEADER as usize).max(usual);
        let (sequence, previous_end) =
            self.active.as_ref().map_or((1, 0), |active| (active.sequence + 1, active.end));
        let spare = if bytes == usual { self.spares.pop() } else { None };
        let (name, file) = match spare {
            Some(name) => {
                let file = self.files.open(&self.dir.join(&name))?;
                (name, file)
            }
            None => self.zeroed(bytes)?,
        };
        file.write_at(&SegmentHeader { sequence, previous_end }.encode(), 0)?;
        // The name makes it a part of the log, so what it says has to be durable before.
        file.sync()?;
        self.files.rename(&self.dir.join(&name), &self.dir.join(segment_name(sequence)))?;
        self.files.sync_dir(&self.dir)?;
        let state = &mut *self.shared.state();
        state.segments.insert(sequence, Segment { file: file.clone(), bytes });
        state.spares = self.spares.len();
        self.active = Some(Active { sequence, file, bytes, end: SEGMENT_HEADER });
        Ok(())
    }

    /// A new file of zeroes: a write into blocks that are there needs no change of the file's metadata, and is flushed faster.
    fn zeroed(&mut self, bytes: u32) -> io::Result<(String, Arc<dyn File>)> {
        let name = spare_name(self.next_spare);
        self.next_spare += 1;
        let file = self.files.create(&self.dir.join(&name))?;
        let mut written = 0;
        while written < bytes as usize {
            let part = ZEROES.len().min(bytes as usize - written);
            file.write_at(&ZEROES[..part], written as u64)?;
            written += part;
        }
        Ok((name, file))
    }

    /// Keeps the file of a segment that is not needed as a spare, or removes it.
    fn recycle(&mut self, (sequence, segment): (u64, Segment)) -> io::Result<()> {
        let path = self.dir.join(segment_name(sequence));
        let usual = segment.bytes == self.shared.options.segment_bytes;
        // A reader that still has the file must not see it written again. It got the file under the lock, so none is added.
        let unread = Arc::strong_count(&segment.file) == 1;
        if usual && unread && self.spares.len() < self.shared.options.spares_max {
            let name = spare_name(self.next_spare);
            self.next_spare += 1;
            self.files.rename(&path, &self.dir.join(&name))?;
            self.spares.push(name);
        } else {
            self.files.remove(&path)?;
        }
        // One by one: a power cut may keep any of several changes of names, and a gap between segments looks like damage.
        self.files.sync_dir(&self.dir)?;
        self.shared.state().spares = self.spares.len();
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
        let bloated = bytes > 3 * self.index.live_bytes_total() + 4 * u64::from(segment_bytes);
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
