//! Bytes on their way to a socket.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes};

use crate::packet::PacketType;

/// What waits to be written to one client: small packets in one piece, large payloads shared with others.
///
/// Empty it owns no memory. The storage of the tail can be handed in and taken back, so that a pool of them serves
/// many connections.
#[derive(Debug, Default)]
pub struct SendBuffer {
    /// Whole pieces, oldest first.
    #[expect(
        clippy::box_collection,
        reason = "absent for nearly every connection, so it takes one word, not four"
    )]
    sealed: Option<Box<VecDeque<Bytes>>>,
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

impl SendBuffer {
    /// An empty buffer without storage.
    #[must_use]
    pub const fn new() -> Self {
        Self { sealed: None, sealed_len: 0, tail: Vec::new(), start: 0, tally: Tally([0; 16]) }
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes to write.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sealed_len + self.tail.len() - self.start
    }

    /// Whether it owns storage for its tail.
    #[must_use]
    pub fn has_storage(&self) -> bool {
        self.tail.capacity() > 0
    }

    /// Gives an empty buffer storage; `storage` must be empty.
    pub fn lend_storage(&mut self, storage: Vec<u8>) {
        debug_assert!(storage.is_empty() && self.tail.is_empty(), "storage is exchanged only while empty");
        self.tail = storage;
        self.start = 0;
    }

    /// Takes the storage of an empty buffer.
    pub fn take_storage(&mut self) -> Vec<u8> {
        debug_assert!(self.is_empty(), "storage is exchanged only while empty");
        self.sealed = None;
        self.start = 0;
        let mut storage = std::mem::take(&mut self.tail);
        storage.clear();
        storage
    }

    /// Where packets are appended. Nothing but appending may be done to it.
    pub fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.tail
    }

    /// Counts a packet that was appended. A tally that is not taken stops at 65,535.
    pub fn note_packet(&mut self, packet_type: PacketType) {
        let count = &mut self.tally.0[packet_type as usize];
        *count = count.saturating_add(1);
    }

    /// What was counted since the last call.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Appends bytes without copying them.
    pub fn push_shared(&mut self, bytes: Bytes) {
        let tail = std::mem::take(&mut self.tail);
        let start = std::mem::take(&mut self.start);
        let sealed = self.sealed.get_or_insert_default();
        if start < tail.len() {
            let mut piece = Bytes::from(tail);
            piece.advance(start);
            self.sealed_len += piece.len();
            sealed.push_back(piece);
        }
        self.sealed_len += bytes.len();
        sealed.push_back(bytes);
    }

    /// Fills `slices` with the oldest bytes; returns how many it filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let tail = &self.tail[self.start..];
        let pieces = self.sealed.iter().flat_map(|sealed| sealed.iter().map(|piece| &piece[..]));
        let pieces = pieces.chain(std::iter::once(tail)).filter(|piece| !piece.is_empty());
        let mut filled = 0;
        for (slot, piece) in slices.iter_mut().zip(pieces) {
            *slot = IoSlice::new(piece);
            filled += 1;
        }
        filled
    }

    /// Forgets the oldest `written` bytes.
    pub fn advance(&mut self, mut written: usize) {
        if let Some(sealed) = &mut self.sealed {
            while written > 0 {
                let Some(front) = sealed.front_mut() else { break };
                let part = written.min(front.len());
                front.advance(part);
                self.sealed_len -= part;
                written -= part;
                if front.is_empty() {
                    sealed.pop_front();
                }
            }
            if sealed.is_empty() {
                self.sealed = None;
            }
        }
        self.start += written;
        debug_assert!(self.start <= self.tail.len(), "more was written than there was");
        if self.start >= self.tail.len() - self.start {
            // A client that is always a little behind would never let the tail become empty. What is moved is no longer
            // than what was written since the last time.
            self.tail.drain(..self.start);
            self.start = 0;
        }
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
        buffer.lend_storage(Vec::with_capacity(64));
        buffer.tail().extend_from_slice(b"abc");
        buffer.advance(3);
        assert!(buffer.is_empty() && buffer.has_storage());
        let storage = buffer.take_storage();
        assert!(storage.is_empty() && storage.capacity() >= 64 && !buffer.has_storage());
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
        assert!(buffer.tail.capacity() < 8_192, "{}", buffer.tail.capacity());
    }
}
