//! A snapshot that is made as it is sent. Its bytes are those of a snapshot file.

use std::fmt;
use std::io;

use bytes::{Bytes, BytesMut};

use super::record::{Kind, begin, put};
use crate::group::SNAPSHOT_CHUNK_BYTES_MAX;
use crate::group::machine::{Failure, OnItsWay};
use crate::group::ports::SnapshotChunks;
use crate::group::types::SnapshotMeta;
use crate::group::wire;

/// The state of a member, on its way to another. Yields the snapshot file in pieces of at most [`SNAPSHOT_CHUNK_BYTES_MAX`], of
/// which one is in memory at a time. It is to be driven on a thread that may wait for the disk.
pub(in crate::group) struct LiveSnapshot {
    chunks: Option<SnapshotChunks>,
    count: u64,
    buffer: BytesMut,
    failure: Failure,
    _on_its_way: OnItsWay,
}

impl fmt::Debug for LiveSnapshot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a snapshot after {} chunks", self.count)
    }
}

impl LiveSnapshot {
    pub(in crate::group) fn new(
        meta: &SnapshotMeta,
        chunks: SnapshotChunks,
        on_its_way: OnItsWay,
        failure: Failure,
    ) -> Self {
        let mut buffer = BytesMut::new();
        begin(&mut buffer);
        put(&mut buffer, Kind::Meta, &wire::encode_snapshot_meta(meta));
        Self { chunks: Some(chunks), count: 0, buffer, failure, _on_its_way: on_its_way }
    }

    /// Reads on until there is a whole piece, or nothing more to read.
    fn fill(&mut self) -> io::Result<()> {
        while self.buffer.len() < SNAPSHOT_CHUNK_BYTES_MAX
            && let Some(chunks) = &mut self.chunks
        {
            match chunks.next().transpose()? {
                Some(chunk) if chunk.len() > SNAPSHOT_CHUNK_BYTES_MAX => {
                    return Err(io::Error::other(format!("a chunk of {} bytes", chunk.len())));
                }
                Some(chunk) => {
                    put(&mut self.buffer, Kind::Chunk, &chunk);
                    self.count += 1;
                }
                None => {
                    put(&mut self.buffer, Kind::End, &self.count.to_le_bytes());
                    self.chunks = None;
                }
            }
        }
        Ok(())
    }
}

impl Iterator for LiveSnapshot {
    type Item = io::Result<Bytes>;

    /// An error means that the state cannot be read. It is noted as the reason why the group has failed.
    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.fill() {
            (self.chunks, self.buffer) = (None, BytesMut::new());
            return Some(Err(self
                .failure
                .note(&format!("the state cannot be read for another member: {error}"))));
        }
        let length = self.buffer.len().min(SNAPSHOT_CHUNK_BYTES_MAX);
        (length > 0).then(|| Ok(self.buffer.split_to(length).freeze()))
    }
}
