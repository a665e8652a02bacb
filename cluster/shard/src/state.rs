//! The state of a shard in memory, and what entries do to it.

mod acknowledge;
mod apply;
mod attach;
mod borrow;
mod former;
mod groups;
mod letters;
mod lifetime;
mod publish;
mod restore;
mod retain;
mod subscribe;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use flotilla_mqtt::{Message, Timestamp, session::SessionExpiry};
use flotilla_state::ShardId;

pub(crate) use borrow::{Borrowed, Borrowing};

use crate::{
    Changes, FilterChange, SessionId, Stats, WillId,
    groups::Groups,
    ids::MessageId,
    inbox::{Freed, GoneChunk},
    index::{MatchIndex, Subscriber},
    letters::Letters,
    publishers::Publishers,
    retained::Retained,
    rows::{Format, RestoringRow, Row},
    sessions::{Former, Sessions, Slot},
    sources::Sources,
};

/// What all entries so far add up to. It knows of the store only what it must write there.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Of the last entry.
    pub(crate) stamp: Timestamp,
    pub(crate) next: NextIds,
    pub(crate) sessions: Sessions,
    pub(crate) index: MatchIndex,
    pub(crate) sources: Sources,
    pub(crate) publishers: Publishers,
    pub(crate) retained: Retained,
    /// Groups of shared subscriptions.
    pub(crate) groups: Groups,
    /// What sessions have borrowed from groups.
    pub(crate) borrowed: Borrowed,
    /// What other shards are to hear.
    pub(crate) letters: Letters,
    /// The last letter that was heard of each shard.
    pub(crate) heard: BTreeMap<ShardId, u64>,
    /// Wills that are to be published.
    pub(crate) firing: BTreeMap<WillId, Arc<Message>>,
    /// Sessions that come out of a backup and are not complete.
    pub(crate) restoring: BTreeMap<SessionId, RestoringRow>,
    /// What Opens have changed whose connections may come to nothing.
    pub(crate) former: BTreeMap<SessionId, Former>,
    /// Sessions of clients that are away, by when something is due.
    pub(crate) deadlines: BTreeSet<(Timestamp, SessionId)>,
    /// Messages that several entries refer to and that are not in the store.
    pub(crate) messages: BTreeMap<MessageId, FreshMessage>,
    pub(crate) dirty: Dirty,
    /// Whether somebody takes the changes.
    pub(crate) is_watched: bool,
    pub(crate) changes: Changes,
    pub(crate) stats: Stats,
    /// Kept for its memory.
    pub(crate) matching: Vec<Subscriber>,
}

/// The next name of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NextIds {
    pub(crate) session: u64,
    pub(crate) message: u64,
    pub(crate) will: u64,
    /// It differs from replica to replica, as flushes do.
    pub(crate) chunk: u64,
    pub(crate) retained: u64,
}

impl Default for NextIds {
    fn default() -> Self {
        Self { session: 1, message: 1, will: 1, chunk: 1, retained: 1 }
    }
}

/// A message that several entries refer to.
#[derive(Debug)]
pub(crate) struct FreshMessage {
    pub(crate) bytes: Bytes,
    /// Entries that need it.
    pub(crate) references: u64,
}

/// What the next flush must write.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    /// Sessions with something to write; some may have ended.
    pub(crate) sessions: Vec<SessionId>,
    /// Rows that change seldom, as they must be.
    pub(crate) rows: BTreeMap<Row, Option<Bytes>>,
    /// Chunks whose rows must go.
    pub(crate) gone: Vec<GoneChunk>,
    /// The same, those that earlier flushes have left: they refer to messages, and the store knows that they are gone.
    pub(crate) trash: VecDeque<GoneChunk>,
    /// Bytes of messages in memory.
    pub(crate) message_bytes: usize,
    /// Bytes of `rows`, about.
    pub(crate) row_bytes: usize,
}

impl Dirty {
    pub(crate) fn put(&mut self, row: Row, value: Bytes) {
        self.row_bytes += ROW_COST + value.len();
        let before = self.rows.insert(row, Some(value));
        self.no_longer(before);
    }

    /// A flush has seen to what is gone, and to the references of at most so many chunks.
    pub(crate) fn sweep(&mut self, references_read_max: usize) {
        let swept = self.trash.len().min(references_read_max);
        self.trash.drain(..swept);
        let with_references = std::mem::take(&mut self.gone).into_iter().filter(|chunk| chunk.has_references);
        self.trash.extend(with_references.skip(references_read_max - swept));
    }

    /// The row must go, if the store has it or may have it.
    pub(crate) fn delete(&mut self, row: Row, is_stored: bool) {
        let before = if is_stored {
            self.row_bytes += ROW_COST;
            self.rows.insert(row, None)
        } else {
            self.rows.remove(&row)
        };
        self.no_longer(before);
    }

    /// What was to be written is not.
    fn no_longer(&mut self, before: Option<Option<Bytes>>) {
        if let Some(value) = before {
            self.row_bytes -= ROW_COST + value.map_or(0, |value| value.len());
        }
    }
}

impl State {
    /// What a flush would write, in bytes, about.
    pub(crate) fn dirty_bytes(&self) -> usize {
        let others = self.publishers.dirty_len() + self.sources.dirty_len() + self.dirty.gone.len();
        let sessions = self.dirty.sessions.len() * SESSION_COST;
        self.dirty.message_bytes + self.dirty.row_bytes + sessions + others * ROW_COST
    }

    /// The next flush looks at this session.
    fn list(&mut self, slot: Slot) {
        let session = self.sessions.at_mut(slot);
        if !session.is_listed {
            session.is_listed = true;
            self.dirty.sessions.push(session.id);
        }
    }

    /// The next flush writes the row of this session.
    fn touch(&mut self, slot: Slot) {
        self.sessions.at_mut(slot).is_dirty = true;
        self.list(slot);
    }

    /// Takes note of what follows from a place that is done or released.
    fn freed(&mut self, freed: &Freed) {
        self.stats.queued_bytes -= freed.size;
        self.dirty.message_bytes -= freed.fresh_bytes;
        if let Some(message) = freed.message {
            self.drop_reference(message);
        }
        self.dirty.gone.extend(freed.chunk);
    }

    /// A message that is not in the store is needed by one less.
    fn drop_reference(&mut self, id: MessageId) {
        let Some(message) = self.messages.get_mut(&id) else { return };
        message.references -= 1;
        if message.references == 0 {
            self.dirty.message_bytes -= message.bytes.len();
            self.messages.remove(&id);
        }
    }

    fn note_filter(&mut self, filter: &str, change: Option<FilterChange>) {
        if let Some(change) = change.filter(|_| self.is_watched) {
            self.changes.filters.push((filter.into(), change));
        }
    }

    /// Figures, each of them kept up to date.
    pub(crate) fn stats(&self) -> Stats {
        Stats {
            sessions: (self.sessions.len() - self.groups.len()) as u64,
            filters: self.index.routed(),
            restoring: self.restoring.len() as u64,
            wills_firing: self.firing.len() as u64,
            publishers: self.publishers.len() as u64,
            groups: self.groups.len() as u64,
            group_members: self.groups.members(),
            loans: self.groups.loans().len() as u64,
            borrowed: self.borrowed.len() as u64,
            letters: self.letters.len() as u64,
            retained_messages: self.retained.len() as u64,
            retained_bytes: self.retained.bytes(),
            fresh_bytes: self.dirty_bytes() as u64,
            trash: self.dirty.trash.len() as u64,
            ..self.stats
        }
    }

    /// The oldest format that has everything.
    pub(crate) fn format(&self) -> Format {
        match (self.former.is_empty(), self.has_groups()) {
            (false, _) => Format::Former,
            (true, true) => Format::Groups,
            (true, false) => Format::Plain,
        }
    }

    pub(crate) fn check_invariants(&self) {
        let (mut attached, mut subscriptions, mut matched, mut queueing_qos0) = (0, 0, 0, 0);
        let (mut queued, mut bytes, mut fresh, mut deadlines) = (0, 0, 0, 0);
        for (slot, session) in self.sessions.iter() {
            session.check_invariants();
            assert_eq!(self.sessions.of_client(&session.client), Some(slot));
            assert!(session.id.0 < self.next.session);
            attached += u64::from(session.owner.is_some());
            subscriptions += session.subscriptions.len() as u64;
            let of_session =
                session.subscriptions.iter().filter(|kept| kept.matched_filter().is_some()).count();
            assert_eq!(session.is_group, self.groups.of(session.id).is_some());
            if !self.restoring.contains_key(&session.id) {
                matched += of_session + usize::from(session.is_group);
                queueing_qos0 += if session.limits.queue_qos0 { of_session } else { 0 };
            }
            if let Some(inbox) = &session.inbox {
                queued += inbox.live();
                bytes += inbox.bytes();
                fresh += inbox.chunks_from(0).map(|chunk| chunk.fresh_bytes()).sum::<usize>();
                let is_fresh = inbox.chunks_from(0).any(|chunk| !chunk.is_stored() || chunk.is_dirty);
                assert!(session.is_listed || !is_fresh, "a flush must know of what is fresh");
            }
            if let Some(deadline) = session.deadline {
                deadlines += 1;
                assert!(self.deadlines.contains(&(deadline.into(), session.id)));
            }
        }
        assert!(self.restoring.keys().all(|id| self.sessions.of_id(*id).is_some()));
        for (id, former) in &self.former {
            let slot = self.sessions.of_id(*id).expect("what was before is of a session");
            assert!(self.sessions.at(slot).present && former.expiry != SessionExpiry::AtDisconnect);
        }
        assert_eq!(self.deadlines.len(), deadlines);
        assert_eq!((self.stats.attached, self.stats.subscriptions), (attached, subscriptions));
        assert_eq!((self.stats.queued_messages, self.stats.queued_bytes), (queued, bytes));
        let shared: usize = self.messages.values().map(|message| message.bytes.len()).sum();
        assert_eq!(self.dirty.message_bytes, fresh + shared);
        assert!(self.messages.values().all(|message| message.references > 0));
        assert_eq!(self.index.queueing_qos0(), queueing_qos0);
        self.index.check_invariants(matched);
        self.publishers.check_invariants();
        self.check_groups();
        self.retained.check_invariants(self.next.retained);
    }
}

/// What writing a session costs besides its messages, about.
const SESSION_COST: usize = 160;
/// What writing a row costs besides its value, about.
const ROW_COST: usize = 48;
