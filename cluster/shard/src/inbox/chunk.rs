//! Up to [`CHUNK_ENTRIES`] consecutive places of an inbox: one row with their messages, one with their state.
//!
//! The state stays in memory: four bytes a place, eight more where messages expire, four more where they have keys. The messages are in memory only until
//! they are in the store.

use bytes::Bytes;

use super::{
    entry::{ABSENT_ENTRY, NewBody, NewEntry, ReadBody, ReadEntry},
    slot::Slot,
};
use crate::{
    DecodeError, SessionId,
    ids::{ChunkId, MessageId},
    layout::{Reader, put_varint},
};

#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    /// Names its rows.
    pub(crate) id: ChunkId,
    /// The place of the first entry.
    pub(crate) first: u64,
    slots: Vec<Slot>,
    /// What most chunks do not have.
    extras: Option<Box<Extras>>,
    /// How many are not done.
    pub(crate) live: u32,
    /// Its messages, while they are not in the store.
    fresh: Option<Box<Fresh>>,
    /// Whether an entry refers to a message that is kept elsewhere.
    pub(crate) has_references: bool,
    /// Whether the row of the state must be written.
    pub(crate) is_dirty: bool,
}

/// What some messages have. Each list has an item for each place, or none.
#[derive(Debug, Clone, Default)]
struct Extras {
    /// When each expires, in milliseconds since the epoch, 0 for one that does not.
    expiries: Vec<u64>,
    /// What decides who of a group gets it.
    keys: Vec<u32>,
}

/// Entries that are not in the store.
#[derive(Debug, Clone, Default)]
struct Fresh {
    /// While it grows.
    entries: Vec<u8>,
    /// All of it, once it has been given to a flush.
    frozen: Option<Bytes>,
    /// Where each begins.
    offsets: Vec<u32>,
}

impl Chunk {
    /// An empty chunk that begins at this place.
    pub(crate) fn new(id: ChunkId, first: u64) -> Self {
        Self {
            id,
            first,
            slots: Vec::new(),
            extras: None,
            live: 0,
            fresh: Some(Box::default()),
            has_references: false,
            is_dirty: true,
        }
    }

    /// The place behind the last entry.
    pub(crate) const fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// Whether the store has it.
    pub(crate) const fn is_stored(&self) -> bool {
        self.fresh.is_none()
    }

    /// Bytes in memory that a flush writes.
    pub(crate) fn fresh_bytes(&self) -> usize {
        self.fresh.as_ref().map_or(0, |fresh| fresh.all().len())
    }

    /// Whether an entry with a body of about so many bytes belongs into the next chunk.
    pub(crate) fn is_full_for(&self, body: usize) -> bool {
        let Some(fresh) = &self.fresh else { return true };
        let has_bytes_left = self.slots.is_empty() || fresh.entries.len() + body <= CHUNK_BYTES;
        fresh.frozen.is_some() || self.slots.len() >= CHUNK_ENTRIES || !has_bytes_left
    }

    /// Appends an entry; there must be room. Returns by how many bytes the chunk has grown.
    pub(crate) fn push(&mut self, entry: &NewEntry<'_>) -> usize {
        let Some(fresh) = &mut self.fresh else { return 0 };
        let start = fresh.entries.len();
        if self.slots.len() == SLOTS_FEW {
            // One step more, instead of many.
            self.slots.reserve_exact(CHUNK_ENTRIES - SLOTS_FEW);
            fresh.offsets.reserve_exact(CHUNK_ENTRIES - SLOTS_FEW);
        }
        // A chunk has one entry or 64 KiB, and an entry comes from a packet of 256 MiB at most.
        fresh.offsets.push(u32::try_from(start).unwrap_or(u32::MAX));
        entry.write(&mut fresh.entries);
        if entry.expires_at.is_some() || entry.key != 0 || self.extras.is_some() {
            let extras = self.extras.get_or_insert_default();
            let expires_at = entry.expires_at.map_or(0, |at| at.max(1));
            push_extra(&mut extras.expiries, self.slots.len(), expires_at);
            push_extra(&mut extras.keys, self.slots.len(), entry.key);
        }
        self.slots.push(Slot::queued(entry.size));
        self.live += 1;
        self.has_references |= matches!(entry.body, NewBody::Reference(_));
        fresh.entries.len() - start
    }

    pub(crate) fn slot(&self, seq: u64) -> Option<Slot> {
        self.slots.get(self.index(seq)?).copied()
    }

    /// The places that are not done, from `from` on.
    pub(crate) fn live_from(&self, from: u64) -> impl Iterator<Item = (u64, Slot)> + '_ {
        let skip = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let places = (self.first..).zip(self.slots.iter().copied());
        places.skip(skip).filter(|(_, slot)| !slot.is_done())
    }

    /// When the message at a place expires, in milliseconds since the epoch.
    pub(crate) fn expires_at(&self, seq: u64) -> Option<u64> {
        let expires_at = *self.extras.as_ref()?.expiries.get(self.index(seq)?)?;
        (expires_at != 0).then_some(expires_at)
    }

    /// What decides who of a group gets the message at a place; 0: nothing does.
    pub(crate) fn key(&self, seq: u64) -> u32 {
        let key = |extras: &Extras| extras.keys.get(self.index(seq)?).copied();
        self.extras.as_deref().and_then(key).unwrap_or_default()
    }

    /// Marks a place as done; returns the message that it referred to, if that is not in the store yet.
    pub(crate) fn finish(&mut self, seq: u64) -> Option<MessageId> {
        let index = self.index(seq)?;
        let message = self.fresh_reference(index);
        self.slots[index] = Slot::DONE;
        self.live -= 1;
        self.is_dirty = true;
        message
    }

    /// Marks a place as released; the same.
    pub(crate) fn release(&mut self, seq: u64) -> Option<MessageId> {
        let index = self.index(seq)?;
        let message = self.fresh_reference(index);
        self.slots[index] = Slot::RELEASED;
        self.is_dirty = true;
        message
    }

    /// The message that a place refers to, if it needs it and it is not in the store yet.
    fn fresh_reference(&self, index: usize) -> Option<MessageId> {
        let fresh = self.fresh.as_ref().filter(|_| self.has_references && self.slots[index].is_queued())?;
        match fresh.entry(index).ok()?.body {
            ReadBody::Reference(message) => Some(message),
            ReadBody::Absent | ReadBody::Inline(_) => None,
        }
    }

    /// The entry at a place, while it is in memory.
    pub(crate) fn fresh_entry(&self, seq: u64) -> Option<Result<ReadEntry<'_>, DecodeError>> {
        Some(self.fresh.as_ref()?.entry(self.index(seq)?))
    }

    fn index(&self, seq: u64) -> Option<usize> {
        let index = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        (index < self.slots.len()).then_some(index)
    }

    /// The row of its messages, which is written once; `None`: it has been. What is done or released has no body there.
    /// Tells `refer` which messages it refers to. Nothing is appended from now on.
    pub(crate) fn messages_row(&mut self, mut refer: impl FnMut(MessageId)) -> Option<Bytes> {
        let fresh = self.fresh.as_mut()?;
        let all = fresh.freeze();
        if !self.has_references && self.slots.iter().all(|slot| slot.is_queued()) {
            return Some(all);
        }
        let fresh = self.fresh.as_ref()?;
        let mut row = Vec::with_capacity(all.len());
        for (index, slot) in self.slots.iter().enumerate() {
            if slot.is_queued() {
                row.extend_from_slice(fresh.bytes(index));
                self.fresh_reference(index).into_iter().for_each(&mut refer);
            } else {
                row.push(ABSENT_ENTRY);
            }
        }
        Some(row.into())
    }

    /// It is in the store as it is here. Nothing is appended any more.
    pub(crate) fn set_stored(&mut self) {
        self.is_dirty = false;
        if self.fresh.take().is_some() {
            self.slots.shrink_to_fit();
        }
    }

    /// The row of its state.
    ///
    /// ```text
    /// state    flags: u8 (0 refers to other rows, 1 has expiries, 2 has keys), session, first place, number of places,
    ///          place..., [for each place that is not done: milliseconds since the epoch, 0: never],
    ///          [for each place that is not done: its key]
    /// place    0: done, 1: released, otherwise size + 2
    /// ```
    pub(crate) fn state_row(&self, session: SessionId) -> Bytes {
        let mut row = Vec::with_capacity(8 + self.slots.len() * 3);
        let none = Extras::default();
        let Extras { expiries, keys } = self.extras.as_deref().unwrap_or(&none);
        let has_extras = u8::from(!expiries.is_empty()) << 1 | u8::from(!keys.is_empty()) << 2;
        row.push(u8::from(self.has_references) | has_extras);
        put_varint(session.0, &mut row);
        put_varint(self.first, &mut row);
        put_varint(self.slots.len() as u64, &mut row);
        for slot in &self.slots {
            put_varint(slot.number(), &mut row);
        }
        let keys = keys.iter().copied().map(u64::from);
        for extras in [&mut expiries.iter().copied() as &mut dyn Iterator<Item = u64>, &mut { keys }] {
            for (slot, extra) in self.slots.iter().zip(extras) {
                if !slot.is_done() {
                    put_varint(extra, &mut row);
                }
            }
        }
        row.into()
    }

    /// The row of the state of a chunk that nobody needs, but whose references have not been given back.
    pub(crate) fn gone_row() -> Bytes {
        Bytes::from_static(&[1, 0, 0, 0])
    }

    /// Reads what [`Chunk::state_row`] wrote, with the session that it is of. Its messages are in the store.
    pub(crate) fn read(id: ChunkId, row: &[u8]) -> Result<(SessionId, Self), DecodeError> {
        let mut reader = Reader::new(row);
        let flags = reader.u8()?;
        let (session, first, count) = (SessionId(reader.varint()?), reader.varint()?, reader.varint()?);
        if flags & !0b111 != 0 || count > CHUNK_ENTRIES as u64 || first.checked_add(count).is_none() {
            return Err(DecodeError::Row(
                "the state of a chunk has flags that mean nothing, or too many places",
            ));
        }
        let slots = (0..count).map(|_| Slot::of_number(reader.varint()?)).collect::<Result<Vec<_>, _>>()?;
        let mut extras = |flag: u8| {
            let read = |slot: &Slot| if slot.is_done() { Ok(0) } else { reader.varint() };
            if flags & flag == 0 {
                Ok(Vec::new())
            } else {
                slots.iter().map(read).collect::<Result<Vec<_>, _>>()
            }
        };
        let (expiries, keys) = (extras(0b10)?, extras(0b100)?);
        reader.finish()?;
        let key = |key| u32::try_from(key).map_err(|_| DecodeError::Row("the key of a message has 32 bits"));
        let keys = keys.into_iter().map(key).collect::<Result<Vec<_>, _>>()?;
        let extras = (flags & 0b110 != 0).then(|| Box::new(Extras { expiries, keys }));
        let live = slots.iter().filter(|slot| !slot.is_done()).count();
        let live = u32::try_from(live).unwrap_or(u32::MAX);
        let has_references = flags & 1 != 0;
        Ok((session, Self { id, first, slots, extras, live, fresh: None, has_references, is_dirty: false }))
    }

    pub(crate) fn check_invariants(&self) {
        assert!(!self.slots.is_empty() && self.slots.len() <= CHUNK_ENTRIES);
        let live = self.slots.iter().filter(|slot| !slot.is_done()).count();
        assert_eq!(live, self.live as usize, "places that are not done");
        assert!(live > 0, "a chunk without a live place is removed");
        if let Some(Extras { expiries, keys }) = self.extras.as_deref() {
            assert!([expiries.len(), keys.len()].iter().all(|len| [0, self.slots.len()].contains(len)));
            assert!(!expiries.is_empty() || !keys.is_empty());
        }
        let Some(fresh) = &self.fresh else { return };
        assert_eq!(fresh.offsets.len(), self.slots.len());
        for index in 0..self.slots.len() {
            let entry = fresh.entry(index).expect("what was written can be read");
            assert!(self.has_references || !matches!(entry.body, ReadBody::Reference(_)));
        }
    }
}

impl Fresh {
    fn all(&self) -> &[u8] {
        self.frozen.as_deref().unwrap_or(&self.entries)
    }

    fn freeze(&mut self) -> Bytes {
        let entries = &mut self.entries;
        self.frozen.get_or_insert_with(|| std::mem::take(entries).into()).clone()
    }

    fn bytes(&self, index: usize) -> &[u8] {
        let all = self.all();
        let end = self.offsets.get(index + 1).map_or(all.len(), |&end| end as usize);
        &all[self.offsets[index] as usize..end]
    }

    fn entry(&self, index: usize) -> Result<ReadEntry<'_>, DecodeError> {
        ReadEntry::read(&mut Reader::new(self.bytes(index)))
    }
}

/// Appends to a list that begins with the first value there is; so many places were before.
fn push_extra<T: Copy + Default + PartialEq>(list: &mut Vec<T>, places: usize, value: T) {
    if !list.is_empty() || value != T::default() {
        list.resize(places, T::default());
        list.push(value);
    }
}

/// How many messages a row has at most.
pub(crate) const CHUNK_ENTRIES: usize = 64;
/// How many bytes a row of messages has at most, unless it has one message.
const CHUNK_BYTES: usize = 64 << 10;
/// So many places are likely to stay few.
const SLOTS_FEW: usize = 4;
