//! The bytes of a segment.
//!
//! A segment begins with its header: magic, format version, sequence number, where the segment before it ends, CRC32 of these.
//! Frames follow, each at a multiple of 8 bytes, up to the first place where there is none. A frame is what one write makes, and so
//! one flush: magic, length of the body, CRC32 of the body, CRC32 of these together with the sequence number of the segment and the
//! position of the frame. Segments are used again without being zeroed, so an old frame may well be whole; that last CRC is what
//! keeps it from being taken for one of this segment. The body is records: kind, group, index, length, bytes. Integers are
//! little-endian.
//!
//! A frame says by being there that all before it was flushed before it was written, unless it begins with a record that says up to
//! where it was. So a place without a whole frame is damage where a later frame vouches for it. Else it is the end of what a power cut
//! left, whatever follows.
//!
//! Version 2 added that record, and the one by which a group is forgotten. Both versions are read. Version 2 is written, never into a
//! segment of version 1.

use std::ops::Range;

use bytes::Bytes;

use crate::record::Record;

/// Length of the header of a segment.
pub(crate) const SEGMENT_HEADER: u32 = 32;
/// Length of the header of a frame.
pub(crate) const FRAME_HEADER: u32 = 16;
/// Length of what stands before the bytes of a record.
pub(crate) const RECORD_HEADER: u32 = 21;
/// The format this program writes.
pub(crate) const FORMAT_VERSION: u32 = 2;
/// The oldest format it reads.
pub(crate) const FORMAT_VERSION_MIN: u32 = 1;

const SEGMENT_MAGIC: [u8; 8] = *b"FLOTWAL\n";
const FRAME_MAGIC: [u8; 4] = *b"FRM\n";
const ALIGNMENT: u32 = 8;

const VOTE: u8 = 1;
const ENTRY: u8 = 2;
const TRUNCATE_FROM: u8 = 3;
const PURGED: u8 = 4;
const META: u8 = 5;
const CARRIED_ENTRY: u8 = 6;
const FLUSHED_TO: u8 = 7;
const FORGOTTEN: u8 = 8;

/// Header of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) version: u32,
    pub(crate) sequence: u64,
    /// Where the frames of the segment before this one end. Only a segment that is full has one after it.
    pub(crate) previous_end: u32,
}

/// Why a header is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderError {
    Damaged,
    UnknownVersion(u32),
}

impl SegmentHeader {
    pub(crate) fn encode(self) -> [u8; SEGMENT_HEADER as usize] {
        let mut bytes = [0; SEGMENT_HEADER as usize];
        bytes[..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&self.version.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.previous_end.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let bytes = bytes.first_chunk::<{ SEGMENT_HEADER as usize }>().ok_or(HeaderError::Damaged)?;
        if bytes[..8] != SEGMENT_MAGIC || u32_at(bytes, 28) != Some(crc32fast::hash(&bytes[..28])) {
            return Err(HeaderError::Damaged);
        }
        match (u32_at(bytes, 8), u64_at(bytes, 12), u32_at(bytes, 20)) {
            (Some(version @ FORMAT_VERSION_MIN..=FORMAT_VERSION), Some(sequence), Some(previous_end)) => {
                Ok(Self { version, sequence, previous_end })
            }
            (Some(version), ..) => Err(HeaderError::UnknownVersion(version)),
            _ => Err(HeaderError::Damaged),
        }
    }
}

/// Bytes that `records` take in the body of a frame.
pub(crate) fn body_bytes(records: &[Record]) -> usize {
    records.iter().map(|record| RECORD_HEADER as usize + record.bytes().len()).sum()
}

/// Bytes that a frame with such a body takes in a segment, up to where the next may begin.
pub(crate) fn frame_bytes(body: usize) -> usize {
    (FRAME_HEADER as usize + body).next_multiple_of(ALIGNMENT as usize)
}

/// Whether an entry is new, or was brought forward from an older segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    New,
    Carried,
}

/// Begins a frame in `buffer`, which is empty.
pub(crate) fn begin_frame(buffer: &mut Vec<u8>) {
    buffer.resize(FRAME_HEADER as usize, 0);
}

/// Adds a record to the body of a frame.
pub(crate) fn put_record(buffer: &mut Vec<u8>, record: &Record, origin: Origin) {
    let (kind, index) = match *record {
        Record::Vote { .. } => (VOTE, 0),
        Record::Entry { index, .. } if origin == Origin::Carried => (CARRIED_ENTRY, index),
        Record::Entry { index, .. } => (ENTRY, index),
        Record::TruncateFrom { index, .. } => (TRUNCATE_FROM, index),
        Record::Purged { index, .. } => (PURGED, index),
        Record::Meta { key, .. } => (META, u64::from(key)),
        Record::Forgotten { .. } => (FORGOTTEN, 0),
    };
    put(buffer, kind, record.group(), index, record.bytes());
}

/// Says, as the first record of a frame, that the segment was flushed only up to `offset` when the frame was written.
pub(crate) fn put_flushed_to(buffer: &mut Vec<u8>, offset: u32) {
    put(buffer, FLUSHED_TO, 0, u64::from(offset), &[]);
}

fn put(buffer: &mut Vec<u8>, kind: u8, group: u64, index: u64, bytes: &[u8]) {
    buffer.push(kind);
    buffer.extend_from_slice(&group.to_le_bytes());
    buffer.extend_from_slice(&index.to_le_bytes());
    buffer.extend_from_slice(&length(bytes).to_le_bytes());
    buffer.extend_from_slice(bytes);
}

/// Completes the frame that is to be written at `offset` of the segment.
pub(crate) fn end_frame(buffer: &mut Vec<u8>, sequence: u64, offset: u32) {
    let (header, body) = buffer.split_at_mut(FRAME_HEADER as usize);
    header[..4].copy_from_slice(&FRAME_MAGIC);
    header[4..8].copy_from_slice(&length(body).to_le_bytes());
    header[8..12].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    let crc = frame_crc(&header[..12], sequence, offset);
    header[12..].copy_from_slice(&crc.to_le_bytes());
    buffer.resize(buffer.len().next_multiple_of(ALIGNMENT as usize), 0);
}

/// The body of the frame at `offset` of a segment; `None` where no whole frame of this segment is.
pub(crate) fn frame_at(segment: &[u8], sequence: u64, offset: u32) -> Option<Range<usize>> {
    let start = offset as usize;
    let header = segment.get(start..start.checked_add(FRAME_HEADER as usize)?)?;
    if header[..4] != FRAME_MAGIC || u32_at(header, 12)? != frame_crc(&header[..12], sequence, offset) {
        return None;
    }
    let body = start + FRAME_HEADER as usize;
    let body = body..body.checked_add(u32_at(header, 4)? as usize)?;
    (crc32fast::hash(segment.get(body.clone())?) == u32_at(header, 8)?).then_some(body)
}

/// Whether a whole frame of this segment behind `offset` says that what is there was flushed. `None` where no frame follows.
pub(crate) fn is_vouched_for(segment: &[u8], sequence: u64, offset: u32) -> Option<bool> {
    let end = u32::try_from(segment.len()).unwrap_or(u32::MAX);
    let mut follows = None;
    for place in ((offset + 1).next_multiple_of(ALIGNMENT)..end).step_by(ALIGNMENT as usize) {
        if let Some(body) = frame_at(segment, sequence, place) {
            let flushed_to = match record_at(&segment[body], 0).map(|record| record.kind) {
                Some(Kind::FlushedTo { offset }) => offset,
                _ => u64::from(place),
            };
            if flushed_to > u64::from(offset) {
                return Some(true);
            }
            follows = Some(false);
        }
    }
    follows
}

/// A record as it stands in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored<'a> {
    pub(crate) kind: Kind,
    pub(crate) group: u64,
    pub(crate) bytes: &'a [u8],
    /// Where the bytes are in the body.
    pub(crate) position: usize,
}

/// What a stored record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Vote,
    Entry { index: u64, origin: Origin },
    TruncateFrom { index: u64 },
    Purged { index: u64 },
    Meta { key: u8 },
    FlushedTo { offset: u64 },
    Forgotten,
}

/// The record at `position` of the body of a frame; `None` where it is none.
pub(crate) fn record_at(body: &[u8], position: usize) -> Option<Stored<'_>> {
    let header = body.get(position..position.checked_add(RECORD_HEADER as usize)?)?;
    let index = u64_at(header, 9)?;
    let kind = match header[0] {
        VOTE => Kind::Vote,
        ENTRY => Kind::Entry { index, origin: Origin::New },
        CARRIED_ENTRY => Kind::Entry { index, origin: Origin::Carried },
        TRUNCATE_FROM => Kind::TruncateFrom { index },
        PURGED => Kind::Purged { index },
        META => Kind::Meta { key: u8::try_from(index).ok()? },
        FLUSHED_TO => Kind::FlushedTo { offset: index },
        FORGOTTEN => Kind::Forgotten,
        _ => return None,
    };
    let start = position + RECORD_HEADER as usize;
    let bytes = body.get(start..start.checked_add(u32_at(header, 17)? as usize)?)?;
    Some(Stored { kind, group: u64_at(header, 1)?, bytes, position: start })
}

/// The bytes of a stored record, of their own.
pub(crate) fn owned(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn frame_crc(header: &[u8], sequence: u64, offset: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&sequence.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.update(header);
    hasher.finalize()
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("submissions are far smaller than 4 GiB")
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(sequence: u64, offset: u32) -> Vec<u8> {
        let mut buffer = Vec::new();
        begin_frame(&mut buffer);
        put_record(&mut buffer, &Record::Vote { group: 7, bytes: Bytes::from_static(b"vote") }, Origin::New);
        put_record(
            &mut buffer,
            &Record::Entry { group: 8, index: 9, bytes: Bytes::from_static(b"entry") },
            Origin::Carried,
        );
        end_frame(&mut buffer, sequence, offset);
        buffer
    }

    #[test]
    fn what_is_put_is_found() {
        let segment = frame(3, 0);
        assert_eq!(segment.len(), frame_bytes(2 * RECORD_HEADER as usize + 9));
        let body = &segment[frame_at(&segment, 3, 0).unwrap()];
        let first = record_at(body, 0).unwrap();
        assert_eq!((first.kind, first.group, first.bytes), (Kind::Vote, 7, &b"vote"[..]));
        let second = record_at(body, first.position + first.bytes.len()).unwrap();
        let kind = Kind::Entry { index: 9, origin: Origin::Carried };
        assert_eq!((second.kind, second.group, second.bytes), (kind, 8, &b"entry"[..]));
        assert_eq!(record_at(body, second.position + second.bytes.len()), None);
    }

    #[test]
    fn a_frame_counts_only_in_its_segment_and_place_and_whole() {
        let segment = frame(3, 0);
        assert!(frame_at(&segment, 4, 0).is_none());
        let mut moved = vec![0; 8];
        moved.extend_from_slice(&segment);
        assert!(frame_at(&moved, 3, 8).is_none());
        let end = frame_at(&segment, 3, 0).unwrap().end;
        for cut in 0..end {
            assert!(frame_at(&segment[..cut], 3, 0).is_none());
        }
        for bit in 0..end * 8 {
            let mut flipped = segment.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(frame_at(&flipped, 3, 0).is_none());
        }
    }

    #[test]
    fn a_header_says_what_it_is() {
        let header = SegmentHeader { version: FORMAT_VERSION, sequence: 5, previous_end: 77 };
        let older = SegmentHeader { version: 1, ..header };
        assert_eq!(SegmentHeader::decode(&older.encode()), Ok(older));
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
        for bit in 0..SEGMENT_HEADER as usize * 8 {
            let mut flipped = header.encode();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&flipped), Err(HeaderError::Damaged));
        }
        let mut newer = header.encode();
        newer[8] = 3;
        let crc = crc32fast::hash(&newer[..28]);
        newer[28..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&newer), Err(HeaderError::UnknownVersion(3)));
    }
}
