//! The records of a snapshot file, and how they are written.

use std::io;

use bytes::{BufMut, BytesMut};

use super::Temporary;
use crate::group::error::SnapshotError;

pub(super) const MAGIC: &[u8; 8] = b"FLOTSNAP";
pub(super) const VERSION: u32 = 1;
pub(super) const HEADER_BYTES: usize = 12;
pub(super) const RECORD_HEADER_BYTES: usize = 9;

/// Where the records begin.
pub(super) const RECORDS_AT: u64 = HEADER_BYTES as u64;

/// A longer record is damage: nothing is allocated on the word of a broken length.
pub(super) const RECORD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Writes of this size go to the file.
const WRITE_BYTES: usize = 256 * 1024;

/// Writes the records of a file.
pub(super) struct Writer {
    target: Temporary,
    buffer: BytesMut,
    /// Where the buffer goes in the file.
    offset: u64,
}

impl Writer {
    pub(super) fn new(target: Temporary) -> Self {
        let mut buffer = BytesMut::with_capacity(WRITE_BYTES);
        begin(&mut buffer);
        Self { target, buffer, offset: 0 }
    }

    pub(super) fn record(&mut self, kind: Kind, payload: &[u8]) -> Result<(), SnapshotError> {
        if payload.len() > RECORD_BYTES_MAX {
            let reason =
                format!("a chunk of {} bytes, at most {RECORD_BYTES_MAX} are allowed", payload.len());
            return Err(self.target.failed(io::Error::new(io::ErrorKind::InvalidInput, reason)));
        }
        put(&mut self.buffer, kind, payload);
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    /// Brings the file to the disk; returns it with its length.
    pub(super) fn finish(mut self) -> Result<(Temporary, u64), SnapshotError> {
        self.flush()?;
        self.target.sync()?;
        Ok((self.target, self.offset))
    }

    fn flush(&mut self) -> Result<(), SnapshotError> {
        self.target.write(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Begins a file.
pub(super) fn begin(buffer: &mut BytesMut) {
    buffer.put_slice(MAGIC);
    buffer.put_u32_le(VERSION);
}

/// Adds a record of at most [`RECORD_BYTES_MAX`] bytes.
pub(super) fn put(buffer: &mut BytesMut, kind: Kind, payload: &[u8]) {
    buffer.put_u8(kind as u8);
    buffer.put_u32_le(length(payload));
    buffer.put_u32_le(checksum_of(kind as u8, payload));
    buffer.put_slice(payload);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Meta = 1,
    Chunk = 2,
    End = 3,
}

impl Kind {
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Meta, Self::Chunk, Self::End].into_iter().find(|kind| *kind as u8 == byte)
    }
}

pub(super) fn checksum_of(kind: u8, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind]);
    hasher.update(&length(payload).to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

fn length(payload: &[u8]) -> u32 {
    u32::try_from(payload.len()).expect("a record is at most RECORD_BYTES_MAX long")
}
