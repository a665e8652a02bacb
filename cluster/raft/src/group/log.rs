//! The log of the group in the write-ahead log of the node.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use flotilla_wal::{Record, Wal};
use futures_util::{Stream, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{LogIdOptionExt, RaftLogReader};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::error::DecodeError;
use super::ports::GroupId;
use super::types::{Entry, LogId, Types, Vote};
use super::wire;

/// What one message to a follower carries; a single entry may be larger.
const MESSAGE_BYTES_MAX: usize = 512 * 1024;

/// What is read at once to be applied.
const READ_BYTES_MAX: usize = 1024 * 1024;

/// The key of the small value that names the last committed entry.
const COMMITTED_KEY: u8 = 0;

/// The log of one group. Clones are the same log.
///
/// All that is written goes through [`Wal::submit`], which keeps the order; votes and truncations wait for the disk here, entries
/// in openraft, by their callback.
#[derive(Clone)]
pub(super) struct LogStore {
    wal: Wal,
    group: u64,
    shared: Arc<Shared>,
}

struct Shared {
    vote: Mutex<Option<Vote>>,
    /// What is committed and not noted in the log yet. It is written with whatever is written next, for a flush of its own would
    /// double the time of every command; after a crash, some of the last commands may so have to be committed again.
    committed: Mutex<Option<LogId>>,
    /// The group has stopped for good; nothing is noted any more.
    is_closed: AtomicBool,
}

impl LogStore {
    pub(super) fn open(wal: Wal, group: GroupId) -> Result<Self, DecodeError> {
        let vote = wal.group(group.0).vote.map(wire::load_vote).transpose()?;
        let shared =
            Shared { vote: Mutex::new(vote), committed: Mutex::new(None), is_closed: AtomicBool::new(false) };
        Ok(Self { wal, group: group.0, shared: Arc::new(shared) })
    }

    /// How many bytes the entries take that are not purged.
    pub(super) fn bytes(&self) -> u64 {
        self.wal.bytes_since_purge(self.group)
    }

    /// The index up to which the log was cut.
    pub(super) fn purged(&self) -> Option<u64> {
        self.wal.group(self.group).purged.map(|(index, _)| index)
    }

    /// Whether neither a vote nor an entry was ever written.
    pub(super) fn is_pristine(&self) -> bool {
        let state = self.wal.group(self.group);
        state.vote.is_none() && state.last.is_none() && state.purged.is_none()
    }

    /// Whether [`LogStore::note_committed`] has something to write.
    pub(super) fn has_unnoted_commit(&self) -> bool {
        !self.shared.is_closed.load(Ordering::Relaxed) && self.shared.committed.lock().is_some()
    }

    /// Waits for all that was submitted.
    pub(super) async fn flush(&self) -> io::Result<()> {
        self.submit(Vec::new()).await
    }

    /// Notes what is committed, for a group that has nothing else to write.
    pub(super) async fn note_committed(&self) -> io::Result<()> {
        if self.has_unnoted_commit() { self.flush().await } else { Ok(()) }
    }

    /// Forgets all that the group has here. The group has stopped, and writes nothing any more.
    pub(super) async fn forget(&self) -> io::Result<()> {
        // What is committed is not to be noted after this: it would be of a log that is not there.
        self.shared.is_closed.store(true, Ordering::Relaxed);
        self.shared.committed.lock().take();
        let (sender, receiver) = oneshot::channel();
        self.wal.forget_group(self.group, move |result| {
            let _ = sender.send(result);
        });
        receiver.await.unwrap_or_else(|_| Err(io::Error::other("the write-ahead log was closed")))
    }

    /// Writes records and waits until they are on the disk.
    async fn submit(&self, records: Vec<Record>) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        self.wal.submit(self.with_committed(records), move |result| {
            let _ = sender.send(result);
        });
        receiver.await.unwrap_or_else(|_| Err(io::Error::other("the write-ahead log was closed")))
    }

    fn with_committed(&self, mut records: Vec<Record>) -> Vec<Record> {
        if let Some(id) = self.shared.committed.lock().take() {
            let bytes = wire::store_log_id(&id);
            records.insert(0, Record::Meta { group: self.group, key: COMMITTED_KEY, bytes });
        }
        records
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        self.wal
            .entries(self.group, range, bytes_max)?
            .into_iter()
            .map(|(_, bytes)| wire::load_entry(bytes).map_err(damaged))
            .collect()
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<Entry>>
    where
        R: RangeBounds<u64> + Clone + Debug + Send,
    {
        let mut range = half_open(&range);
        let mut entries = Vec::new();
        while range.start < range.end {
            let part = self.read(range.clone(), READ_BYTES_MAX)?;
            let Some(last) = part.last() else { break };
            range.start = last.log_id.index() + 1;
            entries.extend(part);
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(*self.shared.vote.lock())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start..end, MESSAGE_BYTES_MAX)
    }

    /// What is to be applied is read piece by piece: after a restart it may be the whole log.
    async fn entries_stream<R>(&mut self, range: R) -> impl Stream<Item = io::Result<Entry>> + Send
    where
        R: RangeBounds<u64> + Clone + Debug + Send,
    {
        let state = (self.clone(), half_open(&range), Vec::new().into_iter());
        stream::try_unfold(state, |(log, mut range, mut part)| async move {
            loop {
                if let Some(entry) = part.next() {
                    return Ok(Some((entry, (log, range, part))));
                }
                if range.start >= range.end {
                    return Ok(None);
                }
                let read = log.read(range.clone(), READ_BYTES_MAX)?;
                // The log has lost what was being written when its disk broke.
                let Some(last) = read.last().filter(|_| read[0].log_id.index() == range.start) else {
                    return Err(io::Error::other(format!(
                        "entry {} is not there to be applied",
                        range.start
                    )));
                };
                range.start = last.log_id.index() + 1;
                part = read.into_iter();
            }
        })
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let state = self.wal.group(self.group);
        let purged = state.purged.map(|(_, bytes)| wire::load_log_id(bytes)).transpose().map_err(damaged)?;
        let last = state.last.map(|(_, bytes)| wire::load_entry(bytes)).transpose().map_err(damaged)?;
        Ok(LogState { last_purged_log_id: purged, last_log_id: last.map(|entry| entry.log_id).or(purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.submit(vec![Record::Vote { group: self.group, bytes: wire::store_vote(vote) }]).await?;
        *self.shared.vote.lock() = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        if committed.is_some() {
            *self.shared.committed.lock() = committed;
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let bytes: Option<Bytes> = self.wal.group(self.group).meta.remove(&COMMITTED_KEY);
        bytes.map(wire::load_log_id).transpose().map_err(damaged)
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let records = entries
            .into_iter()
            .map(|entry| Record::Entry {
                group: self.group,
                index: entry.log_id.index(),
                bytes: wire::store_entry(entry),
            })
            .collect();
        self.wal.submit(self.with_committed(records), move |result| flushed.io_completed(result));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let state = self.wal.group(self.group);
        let index = last.next_index();
        match state.last {
            // Waits: a snapshot may follow, which would otherwise be on the disk beside entries that contradict it.
            Some((last, _)) if last >= index => {
                self.submit(vec![Record::TruncateFrom { group: self.group, index }]).await
            }
            _ => Ok(()),
        }
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let record =
            Record::Purged { group: self.group, index: upto.index(), bytes: wire::store_log_id(&upto) };
        tracing::debug!(
            group = self.group,
            index = upto.index(),
            "the log is cut: a snapshot covers it up to here"
        );
        // Does not wait: entries that come back after a crash do no harm.
        self.wal.submit(self.with_committed(vec![record]), |result| {
            if let Err(error) = result {
                tracing::error!(error = %error, "cannot purge the log");
            }
        });
        Ok(())
    }
}

fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

fn damaged(error: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
