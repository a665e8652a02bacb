//! Bytes on their way to a socket.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes};

use crate::packet::PacketType;

/// What waits to be written to one client: small packets in one piece, large payloads shared with others.
///
/// Empty it owns no memory, and takes one word. The storage can be handed in and taken back, so that a pool of it serves many
/// connections.
#[derive(Debug, Default)]
pub struct SendBuffer(Option<Storage>);

/// What a [`SendBuffer`] writes into; empty where nobody has it.
#[derive(Debug, Default)]
pub struct Storage(Box<Pieces>);

#[derive(Debug, Default)]
struct Pieces {
    /// Whole pieces, oldest first.
    sealed: VecDeque<Bytes>,
    sealed_len: usize,
    /// The newest bytes, of which the first `start` are already written.
    tail: Vec<u8>,
    start: usize,
    tally: Tally,
}

/// How many packets of each type were written, PUBLISH apart: those are told by what delivers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally([u16; 16]);

impl Tally {
    /// The types that were written, and how often.
    pub fn iter(&self) -> impl Iterator<Item = (PacketType, u16)> + '_ {
        let types = (0u8..).zip(&self.0).filter(|(_, count)| **count > 0);
        types.filter_map(|(value, count)| Some((PacketType::from_u8(value)?, *count)))
    }
}

impl Storage {
    /// Bytes that it can take without more memory.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.0.tail.capacity()
    }
}

impl SendBuffer {
    /// An empty buffer without storage.
    #[must_use]
    pub const fn new() -> Self {
        Self(None)
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes to write.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces().map_or(0, |pieces| pieces.sealed_len + pieces.tail.len() - pieces.start)
    }

    /// Whether it owns storage.
    #[must_use]
    pub const fn has_storage(&self) -> bool {
        self.0.is_some()
    }

    /// Gives an empty buffer storage.
    pub fn lend_storage(&mut self, storage: Storage) {
        debug_assert!(self.is_empty(), "storage is exchanged only while empty");
        self.0 = Some(storage);
    }

    /// Takes the storage of an empty buffer; what it has counted must have been taken before.
    pub fn take_storage(&mut self) -> Option<Storage> {
        debug_assert!(self.is_empty(), "storage is exchanged only while empty");
        let mut storage = self.0.take()?;
        debug_assert_eq!(storage.0.tally, Tally::default(), "what was counted is lost");
        storage.0.tail.clear();
        storage.0.start = 0;
        Some(storage)
    }

    /// Where packets are appended. Nothing but appending may be done to it.
    pub fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.pieces_mut().tail
    }

    /// Counts a packet that was appended. A tally that is not taken stops at 65,535.
    pub fn note_packet(&mut self, packet_type: PacketType) {
        let count = &mut self.pieces_mut().tally.0[packet_type as usize];
        *count = count.saturating_add(1);
    }

    /// What was counted since the last call.
    pub fn take_tally(&mut self) -> Tally {
        self.0.as_mut().map(|storage| std::mem::take(&mut storage.0.tally)).unwrap_or_default()
    }

    /// Appends bytes without copying them.
    pub fn push_shared(&mut self, bytes: Bytes) {
        let pieces = self.pieces_mut();
        let tail = std::mem::take(&mut pieces.tail);
        let start = std::mem::take(&mut pieces.start);
        if start < tail.len() {
            let mut piece = Bytes::from(tail);
            piece.advance(start);
            pieces.sealed_len += piece.len();
            pieces.sealed.push_back(piece);
        }
        pieces.sealed_len += bytes.len();
        pieces.sealed.push_back(bytes);
    }

    /// Fills `slices` with the oldest bytes; returns how many it filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let Some(Pieces { sealed, tail, start, .. }) = self.pieces() else { return 0 };
        let pieces = sealed.iter().map(|piece| &piece[..]);
        let pieces = pieces.chain(std::iter::once(&tail[*start..])).filter(|piece| !piece.is_empty());
        let mut filled = 0;
        for (slot, piece) in slices.iter_mut().zip(pieces) {
            *slot = IoSlice::new(piece);
            filled += 1;
        }
        filled
    }

    /// Forgets the oldest `written` bytes.
    pub fn advance(&mut self, mut written: usize) {
        let Some(Storage(pieces)) = &mut self.0 else { return };
        let Pieces { sealed, sealed_len, tail, start, .. } = &mut **pieces;
        while written > 0 {
            let Some(front) = sealed.front_mut() else { break };
            let part = written.min(front.len());
            front.advance(part);
            *sealed_len -= part;
            written -= part;
            if front.is_empty() {
                sealed.pop_front();
            }
        }
        if sealed.is_empty() {
            *sealed = VecDeque::new();
        }
        *start += written;
        debug_assert!(*start <= tail.len(), "more was written than there was");
        if *start >= tail.len() - *start {
            // A client that is always a little behind would never let the tail become empty. What is moved is no longer
            // than what was written since the last time.
            tail.drain(..*start);
            *start = 0;
        }
    }

    fn pieces(&self) -> Option<&Pieces> {
        self.0.as_ref().map(|storage| &*storage.0)
    }

    fn pieces_mut(&mut self) -> &mut Pieces {
        &mut self.0.get_or_insert_default().0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_out_in_order() {
        let mut buffer = mixed();
        assert_eq!((buffer.len(), content(&buffer)), (15, b"one-SHARED-two!".to_vec()));
        for left in (0..15).rev() {
            buffer.advance(1);
            assert_eq!(buffer.len(), left);
            assert_eq!(content(&buffer), b"one-SHARED-two!"[15 - left..]);
        }
        assert!(buffer.is_empty());
    }

    #[test]
    fn any_part_can_be_written() {
        for written in 0..=15 {
            let mut buffer = mixed();
            buffer.advance(written);
            buffer.tail().extend_from_slice(b"more");
            assert_eq!(content(&buffer), [&b"one-SHARED-two!"[written..], b"more"].concat());
        }
    }

    #[test]
    fn a_half_written_tail_is_sealed_without_what_is_written() {
        let mut buffer = SendBuffer::new();
        buffer.tail().extend_from_slice(b"abc");
        buffer.advance(2);
        buffer.push_shared(Bytes::from_static(b"XYZ"));
        assert_eq!((buffer.len(), content(&buffer)), (4, b"cXYZ".to_vec()));
    }

    #[test]
    fn slices_are_limited_by_their_array() {
        let buffer = mixed();
        let mut slices = [IoSlice::new(&[]); 2];
        assert_eq!(buffer.slices(&mut slices), 2);
        assert_eq!((&*slices[0], &*slices[1]), (&b"one-"[..], &b"SHARED"[..]));
    }

    #[test]
    fn storage_goes_round() {
        let mut buffer = SendBuffer::new();
        assert!(!buffer.has_storage());
        assert!(buffer.take_storage().is_none());
        buffer.lend_storage(Storage::default());
        buffer.tail().extend_from_slice(b"abc");
        buffer.note_packet(PacketType::PubAck);
        buffer.advance(3);
        assert!(buffer.is_empty() && buffer.has_storage());
        assert_eq!(buffer.take_tally().iter().collect::<Vec<_>>(), [(PacketType::PubAck, 1)]);
        let storage = buffer.take_storage().expect("it has some");
        assert!(storage.capacity() >= 3 && !buffer.has_storage());
        buffer.lend_storage(storage);
        buffer.tail().extend_from_slice(b"def");
        assert_eq!(content(&buffer), b"def");
    }

    fn mixed() -> SendBuffer {
        let mut buffer = SendBuffer::new();
        buffer.tail().extend_from_slice(b"one-");
        buffer.push_shared(Bytes::from_static(b"SHARED"));
        buffer.tail().extend_from_slice(b"-two!");
        buffer
    }

    fn content(buffer: &SendBuffer) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 8];
        let filled = buffer.slices(&mut slices);
        slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect()
    }

    #[test]
    fn a_client_that_is_always_behind_does_not_make_it_grow() {
        let mut buffer = SendBuffer::new();
        buffer.tail().extend_from_slice(&[0; 1_000]);
        for _ in 0..10_000 {
            buffer.tail().extend_from_slice(&[1; 100]);
            buffer.advance(100);
        }
        assert_eq!(buffer.len(), 1_000);
        assert!(buffer.tail().capacity() < 8_192, "{}", buffer.tail().capacity());
    }
}
