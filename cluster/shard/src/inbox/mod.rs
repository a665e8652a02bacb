//! The inbox of one session.
//!
//! Messages have places: 1, 2, 3... Those that are done leave, in any order. The first that are left may be in flight to the
//! client, as the [`Window`] says; the bounds of the queue are about those behind them. The `cursor` stands between the two.

mod chunk;
mod entry;
mod slot;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

pub(crate) use chunk::Chunk;
pub(crate) use entry::{NewBody, NewEntry, ReadBody, ReadEntry};
pub(crate) use slot::Slot;

use crate::ids::{ChunkId, MessageId};

/// What a session has in its inbox. Exists only while there is something.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// In order; none without a place that is not done.
    chunks: VecDeque<Chunk>,
    /// Places that are not done.
    live: u64,
    /// Their sizes, in bytes.
    bytes: u64,
    /// The first place that is not done and not in the window; `u64::MAX` if there is none. All behind it are not in it.
    cursor: u64,
    /// How many places that are not done are before the cursor.
    in_window: u64,
    /// Sizes of those from the cursor on, in bytes.
    beyond_bytes: u64,
    window: Window,
}

/// Which places may be in flight: those before one place, and in any case so many of the first that are not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) places: u16,
    /// It is not behind the place of the next message.
    pub(crate) kept_until: u64,
}

/// What follows when a place is done or released.
#[derive(Debug, Default)]
pub(crate) struct Freed {
    /// How many bytes less are queued.
    pub(crate) size: u64,
    /// How many bytes less a flush writes.
    pub(crate) fresh_bytes: usize,
    /// A message that is not in the store and is referred to once less.
    pub(crate) message: Option<MessageId>,
    /// A chunk in the store that nobody needs any more.
    pub(crate) chunk: Option<GoneChunk>,
}

/// A chunk whose rows are to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GoneChunk {
    pub(crate) id: ChunkId,
    pub(crate) has_references: bool,
}

impl Inbox {
    pub(crate) const fn new(window: Window) -> Self {
        Self {
            chunks: VecDeque::new(),
            live: 0,
            bytes: 0,
            cursor: u64::MAX,
            in_window: 0,
            beyond_bytes: 0,
            window,
        }
    }

    /// Appends an entry at the place `seq`, which is behind all others, with the next number if it takes a new chunk. Returns
    /// how many bytes more a flush writes.
    pub(crate) fn push(&mut self, seq: u64, entry: &NewEntry<'_>, next_chunk: &mut u64) -> usize {
        let body = match entry.body {
            NewBody::Inline(parts) => parts.stored_len(),
            NewBody::Reference(_) => 0,
        };
        if self.chunks.back().is_none_or(|last| last.end() != seq || last.is_full_for(body)) {
            if self.chunks.is_empty() {
                self.chunks.reserve_exact(1); // Most inboxes are short.
            }
            self.chunks.push_back(Chunk::new(ChunkId(*next_chunk), seq));
            *next_chunk += 1;
        }
        let last = self.chunks.back_mut().expect("there is one now");
        let grown = last.push(entry);
        let size = last.slot(seq).map_or(0, Slot::size);
        self.live += 1;
        self.bytes += size;
        if self.window_has_room() {
            self.in_window += 1;
        } else {
            self.cursor = self.cursor.min(seq);
            self.beyond_bytes += size;
        }
        grown
    }

    /// Puts back a chunk that was read, behind the others. [`Inbox::set_window`] must follow.
    pub(crate) fn restore(&mut self, chunk: Chunk) {
        self.live += u64::from(chunk.live);
        self.bytes += chunk.live_from(0).map(|(_, slot)| slot.size()).sum::<u64>();
        if self.chunks.is_empty() {
            self.chunks.reserve_exact(1);
        }
        self.chunks.push_back(chunk);
    }

    /// Sets which messages may be in flight. It looks at these alone: the queue may be long.
    pub(crate) fn set_window(&mut self, window: Window) {
        self.window = window;
        (self.in_window, self.cursor, self.beyond_bytes) = (0, u64::MAX, self.bytes);
        for (seq, slot) in self.chunks.iter().flat_map(|chunk| chunk.live_from(0)) {
            if self.in_window >= window.places.into() && seq >= window.kept_until {
                self.cursor = seq;
                break;
            }
            self.in_window += 1;
            self.beyond_bytes -= slot.size();
        }
    }

    /// What is before this place may be in flight from now on. It looks at that alone.
    pub(crate) fn keep_until(&mut self, seq: u64) {
        self.window.kept_until = self.window.kept_until.max(seq);
        while self.cursor < self.window.kept_until {
            let index = self.index_of(self.cursor);
            self.beyond_bytes -= index.and_then(|at| self.chunks[at].slot(self.cursor)).map_or(0, Slot::size);
            self.in_window += 1;
            self.cursor = self.next_live(self.cursor + 1);
        }
    }

    /// When the message at a place expires, in milliseconds since the epoch.
    pub(crate) fn expires_at(&self, seq: u64) -> Option<u64> {
        self.chunks[self.index_of(seq)?].expires_at(seq)
    }

    /// What decides who of a group gets the message at a place; 0: nothing does.
    pub(crate) fn key(&self, seq: u64) -> u32 {
        self.index_of(seq).map_or(0, |index| self.chunks[index].key(seq))
    }

    /// The places before one that are not done.
    pub(crate) fn live_before(&self, seq: u64) -> impl Iterator<Item = u64> {
        let places = self.chunks.iter().flat_map(|chunk| chunk.live_from(0)).map(|(seq, _)| seq);
        places.take_while(move |place| *place < seq)
    }

    /// Whether there is a message at this place that is neither done nor released.
    pub(crate) fn has_message(&self, seq: u64) -> bool {
        let slot = self.index_of(seq).and_then(|index| self.chunks[index].slot(seq));
        slot.is_some_and(Slot::is_queued)
    }

    /// The first place that is not done and not in the window; `None`: all are in it.
    pub(crate) fn window_end(&self) -> Option<u64> {
        (self.cursor != u64::MAX).then_some(self.cursor)
    }

    pub(crate) const fn window(&self) -> Window {
        self.window
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.live == 0
    }

    pub(crate) const fn live(&self) -> u64 {
        self.live
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the next message may be in flight at once.
    pub(crate) const fn window_has_room(&self) -> bool {
        self.in_window < self.window.places as u64
    }

    /// Messages in the queue, and their bytes: what is behind the window.
    pub(crate) const fn queued(&self) -> (u64, u64) {
        (self.live - self.in_window, self.beyond_bytes)
    }

    /// The oldest message in the queue, and when it expires.
    pub(crate) fn oldest_queued(&self) -> Option<(u64, Option<u64>)> {
        let chunk = &self.chunks[self.index_of(self.cursor)?];
        Some((self.cursor, chunk.expires_at(self.cursor)))
    }

    /// The first place that is not done.
    pub(crate) fn head(&self) -> Option<u64> {
        self.chunks.front()?.live_from(0).next().map(|(seq, _)| seq)
    }

    /// The place behind the last one that a chunk knows of.
    pub(crate) fn end(&self) -> u64 {
        self.chunks.back().map_or(0, Chunk::end)
    }

    /// The chunks that end behind `from`.
    pub(crate) fn chunks_from(&self, from: u64) -> impl Iterator<Item = &Chunk> {
        self.chunks.range(self.chunks.partition_point(|chunk| chunk.end() <= from)..)
    }

    pub(crate) fn chunks_mut(&mut self) -> impl Iterator<Item = &mut Chunk> {
        self.chunks.iter_mut()
    }

    /// The message at this place is no longer needed, and PUBREL is due; `None`: that was so, or there is none.
    pub(crate) fn release(&mut self, seq: u64) -> Option<Freed> {
        let index = self.index_of(seq)?;
        let chunk = &mut self.chunks[index];
        let slot = chunk.slot(seq).filter(|slot| slot.is_queued())?;
        let message = chunk.release(seq);
        self.bytes -= slot.size();
        if seq >= self.cursor {
            self.beyond_bytes -= slot.size();
        }
        Some(Freed { size: slot.size(), message, ..Freed::default() })
    }

    /// This place is done; `None`: there is no such place any more.
    pub(crate) fn finish(&mut self, seq: u64) -> Option<Freed> {
        let index = self.index_of(seq)?;
        let chunk = &mut self.chunks[index];
        let slot = chunk.slot(seq).filter(|slot| !slot.is_done())?;
        let mut freed = Freed { size: slot.size(), message: chunk.finish(seq), ..Freed::default() };
        self.live -= 1;
        self.bytes -= slot.size();
        self.move_cursor(seq, slot);
        let chunk = &self.chunks[index];
        if chunk.live == 0 {
            freed.fresh_bytes = chunk.fresh_bytes();
            let gone = GoneChunk { id: chunk.id, has_references: chunk.has_references };
            freed.chunk = chunk.is_stored().then_some(gone);
            self.chunks.remove(index);
        }
        Some(freed)
    }

    fn move_cursor(&mut self, done: u64, slot: Slot) {
        if done >= self.cursor {
            self.beyond_bytes -= slot.size();
            if done == self.cursor {
                self.cursor = self.next_live(done + 1);
            }
            return;
        }
        self.in_window -= 1;
        if !self.window_has_room() {
            return;
        }
        if let Some(index) = self.index_of(self.cursor) {
            // The oldest of the queue may be in flight now.
            self.beyond_bytes -= self.chunks[index].slot(self.cursor).map_or(0, Slot::size);
            self.in_window += 1;
            self.cursor = self.next_live(self.cursor + 1);
        }
    }

    /// The first place from `from` on that is not done; `u64::MAX` if there is none.
    fn next_live(&self, from: u64) -> u64 {
        let mut live = self.chunks_from(from).flat_map(|chunk| chunk.live_from(from));
        live.next().map_or(u64::MAX, |(seq, _)| seq)
    }

    fn index_of(&self, seq: u64) -> Option<usize> {
        let index = match self.chunks.front() {
            Some(front) if seq < front.end() => 0,
            _ => self.chunks.partition_point(|chunk| chunk.end() <= seq),
        };
        (self.chunks.get(index)?.first <= seq).then_some(index)
    }

    pub(crate) fn check_invariants(&self) {
        self.chunks.iter().for_each(Chunk::check_invariants);
        assert!(self.chunks.iter().zip(self.chunks.iter().skip(1)).all(|(a, b)| a.end() <= b.first));
        let live: Vec<(u64, Slot)> = self.chunks.iter().flat_map(|chunk| chunk.live_from(0)).collect();
        assert_eq!(self.live, live.len() as u64);
        assert!(self.live > 0, "an empty inbox is dropped");
        assert_eq!(self.bytes, live.iter().map(|(_, slot)| slot.size()).sum::<u64>());
        let kept = live.iter().filter(|(seq, _)| *seq < self.window.kept_until).count();
        let in_window = live.len().min(self.window.places.into()).max(kept);
        assert_eq!(self.in_window, in_window as u64);
        let beyond = &live[in_window..];
        assert_eq!(self.cursor, beyond.first().map_or(u64::MAX, |(seq, _)| *seq));
        assert_eq!(self.beyond_bytes, beyond.iter().map(|(_, slot)| slot.size()).sum::<u64>());
    }
}
