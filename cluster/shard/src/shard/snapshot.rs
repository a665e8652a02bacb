//! All of a shard as a stream of bytes.
//!
//! ```text
//! stream   header, row..., end      cut into chunks anywhere
//! header   0: u8, the header row: blob                          without generation and position
//! row      length of the key, key without shard and generation, value: blob
//! end      0: u8, number of rows: blob with a number
//! ```

use bytes::Bytes;
use flotilla_store::{Item, StoreError, View};

use super::{Shard, load::PAGE_BYTES};
use crate::{
    DecodeError, FlushError,
    layout::{Reader, put_blob, put_varint},
    rows::{Header, PREFIX, Space},
};

/// A snapshot of a shard as it was at one moment, in chunks of at most [`SNAPSHOT_CHUNK_BYTES`]. It is read as it goes, on
/// any thread.
#[derive(Debug)]
pub struct SnapshotChunks {
    view: Box<dyn View>,
    /// The next page begins here.
    from: Vec<u8>,
    to: Vec<u8>,
    rows: u64,
    /// What has been read and not given out; the first `given` bytes have been.
    buffer: Vec<u8>,
    given: usize,
    is_complete: bool,
}

/// The most bytes of a chunk.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;

impl Shard {
    /// A snapshot as of this call, with everything that has been applied. It flushes first; where the disk is full, the
    /// snapshot is that of the last flush. Either way it reaches up to [`Shard::flushed_position`].
    ///
    /// # Errors
    /// As [`Shard::flush`], but for a full disk; or the store gives no view, which changes nothing.
    pub fn snapshot(&mut self) -> Result<SnapshotChunks, FlushError> {
        self.flush_where_there_is_space(0)?;
        let view = self.store.view()?;
        let header = match view.value(&Space::header_key(self.space.shard))? {
            Some(row) => Header::decode(&row)?,
            None => self.header(), // Nothing was applied, and nothing flushed.
        };
        let header = Header { generation: 0, position: Bytes::new(), ..header };
        let (from, to) = self.space.range();
        let mut buffer = vec![0];
        put_blob(&header.encode(), &mut buffer);
        Ok(SnapshotChunks { view, from, to, rows: 0, buffer, given: 0, is_complete: false })
    }
}

impl SnapshotChunks {
    /// Reads until there is a chunk, or all of it.
    fn fill(&mut self) -> Result<(), StoreError> {
        while !self.is_complete && self.buffer.len() - self.given < SNAPSHOT_CHUNK_BYTES {
            self.buffer.drain(..self.given);
            self.given = 0;
            let page = self.view.scan(&self.from, &self.to, PAGE_BYTES)?;
            match page.last() {
                Some((last, _)) => self.from = [last, &[0][..]].concat(),
                None => self.finish(),
            }
            for (key, value) in page {
                self.rows += 1;
                put_blob(key.get(PREFIX..).unwrap_or_default(), &mut self.buffer);
                put_blob(&value, &mut self.buffer);
            }
        }
        Ok(())
    }

    fn finish(&mut self) {
        let mut rows = Vec::new();
        put_varint(self.rows, &mut rows);
        self.buffer.push(0);
        put_blob(&rows, &mut self.buffer);
        self.is_complete = true;
    }
}

impl Iterator for SnapshotChunks {
    type Item = Result<Bytes, StoreError>;

    /// After an error there is nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.fill() {
            (self.is_complete, self.given) = (true, self.buffer.len());
            return Some(Err(error));
        }
        let len = (self.buffer.len() - self.given).min(SNAPSHOT_CHUNK_BYTES);
        let chunk = Bytes::copy_from_slice(&self.buffer[self.given..self.given + len]);
        self.given += len;
        (len > 0).then_some(Ok(chunk))
    }
}

/// Reads the stream of a snapshot.
#[derive(Debug, Default)]
pub(super) struct SnapshotReader {
    header: Option<Header>,
    rows: u64,
    is_complete: bool,
    /// The beginning of what is not complete.
    rest: Vec<u8>,
}

impl SnapshotReader {
    /// Takes a chunk, and gives the rows that are complete by now to `take`, with their keys behind the prefix.
    pub(super) fn feed(&mut self, chunk: &[u8], mut take: impl FnMut(Item)) -> Result<(), DecodeError> {
        self.rest.extend_from_slice(chunk);
        let rest = std::mem::take(&mut self.rest);
        let mut reader = Reader::new(&rest);
        loop {
            let mut next = reader;
            let Ok((key, value)) = record(&mut next) else { break };
            reader = next;
            if self.is_complete {
                return Err(DecodeError::Row("the snapshot goes on behind its end"));
            }
            match (&self.header, key) {
                (None, []) => self.header = Some(Header::decode(&Bytes::copy_from_slice(value))?),
                (None, _) => return Err(DecodeError::Row("the snapshot does not begin with its header")),
                (Some(_), []) => {
                    if Reader::new(value).varint()? != self.rows {
                        return Err(DecodeError::Row("the snapshot does not have all its rows"));
                    }
                    self.is_complete = true;
                }
                (Some(_), key) => {
                    self.rows += 1;
                    take((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
                }
            }
        }
        self.rest = rest[rest.len() - reader.len()..].to_vec();
        Ok(())
    }

    /// The header of a snapshot that has been read to its end.
    pub(super) fn finish(self) -> Result<Header, DecodeError> {
        let header = self.header.filter(|_| self.is_complete && self.rest.is_empty());
        header.ok_or(DecodeError::Row("the snapshot is cut off"))
    }
}

fn record<'a>(reader: &mut Reader<'a>) -> Result<(&'a [u8], &'a [u8]), DecodeError> {
    Ok((reader.blob()?, reader.blob()?))
}
