//! A snapshot file, and how it is read.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use flotilla_wal::File;

use super::Temporary;
use super::record::{
    HEADER_BYTES, Kind, MAGIC, RECORD_BYTES_MAX, RECORD_HEADER_BYTES, RECORDS_AT, VERSION, checksum_of,
};
use crate::group::error::SnapshotError;
use crate::group::types::SnapshotMeta;
use crate::group::wire;

/// A snapshot on the disk. It stays readable when a newer one takes its place.
#[derive(Clone)]
pub(in crate::group) struct SnapshotFile {
    pub(in crate::group) meta: SnapshotMeta,
    pub(super) bytes: u64,
    pub(super) file: Arc<dyn File>,
    pub(super) path: PathBuf,
    /// Present until it is installed.
    pub(super) temporary: Option<Arc<Temporary>>,
}

impl fmt::Debug for SnapshotFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} of {} bytes", self.path.display(), self.bytes)
    }
}

impl SnapshotFile {
    pub(super) fn open(path: PathBuf, file: Arc<dyn File>) -> Result<Self, SnapshotError> {
        let mut snapshot = Self { meta: SnapshotMeta::default(), bytes: 0, file, path, temporary: None };
        snapshot.bytes = snapshot.file.size().map_err(|error| snapshot.failed(error))?;
        let mut header = [0; HEADER_BYTES];
        snapshot.read(&mut header, 0)?;
        let (magic, version) = header.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(snapshot.damaged("it does not begin as a snapshot does"));
        }
        let version = u32::from_le_bytes(version.try_into().expect("the rest of the header is a u32"));
        if version != VERSION {
            return Err(snapshot.damaged(&format!("format {version}, this flotilla reads {VERSION}")));
        }
        match snapshot.record(RECORDS_AT)? {
            (Kind::Meta, payload) => {
                snapshot.meta = wire::decode_snapshot_meta(payload)
                    .map_err(|error| snapshot.damaged(&error.to_string()))?;
            }
            (kind, _) => return Err(snapshot.damaged(&format!("it begins with a record of kind {kind:?}"))),
        }
        Ok(snapshot)
    }

    /// The index of the last entry that it covers.
    pub(in crate::group) fn last_index(&self) -> Option<u64> {
        self.meta.last_log_id.as_ref().map(|id| id.index())
    }

    /// The length of the file.
    pub(in crate::group) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The file as it is, from `offset`; at most `bytes_max` bytes, none at the end.
    pub(in crate::group) fn read_raw(&self, offset: u64, bytes_max: usize) -> Result<Bytes, SnapshotError> {
        let left = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut buffer = vec![0; left.min(bytes_max)];
        self.read(&mut buffer, offset)?;
        Ok(buffer.into())
    }

    /// The chunks, verified one by one.
    pub(in crate::group) fn chunks(&self) -> Chunks {
        Chunks { snapshot: self.clone(), offset: RECORDS_AT, count: 0, state: ChunksState::Reading }
    }

    fn record(&self, offset: u64) -> Result<(Kind, Bytes), SnapshotError> {
        let mut header = [0; RECORD_HEADER_BYTES];
        self.read(&mut header, offset)?;
        let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
        let checksum = u32::from_le_bytes([header[5], header[6], header[7], header[8]]);
        if length > RECORD_BYTES_MAX {
            return Err(self.damaged(&format!("a record of {length} bytes at {offset}")));
        }
        let mut payload = vec![0; length];
        self.read(&mut payload, offset + RECORD_HEADER_BYTES as u64)?;
        if checksum != checksum_of(header[0], &payload) {
            return Err(self.damaged(&format!("the checksum of the record at {offset} differs")));
        }
        let kind = Kind::from_byte(header[0])
            .ok_or_else(|| self.damaged(&format!("a record of kind {} at {offset}", header[0])))?;
        Ok((kind, payload.into()))
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), SnapshotError> {
        self.file.read_at(buffer, offset).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                self.damaged(&format!("it ends before {}", offset + buffer.len() as u64))
            } else {
                self.failed(error)
            }
        })
    }

    fn damaged(&self, reason: &str) -> SnapshotError {
        SnapshotError::Damaged { path: self.path.display().to_string(), reason: reason.to_owned() }
    }

    fn failed(&self, source: io::Error) -> SnapshotError {
        SnapshotError::Io { path: self.path.display().to_string(), source }
    }
}

/// Reads the chunks of a snapshot. It ends after the last chunk, or with the first error, which [`Chunks::finish`] tells again.
pub(in crate::group) struct Chunks {
    snapshot: SnapshotFile,
    offset: u64,
    count: u64,
    state: ChunksState,
}

enum ChunksState {
    Reading,
    Complete,
    Failed(SnapshotError),
}

impl Chunks {
    /// Reads what the reader of the chunks left, and tells whether the snapshot was whole.
    pub(in crate::group) fn finish(mut self) -> Result<(), SnapshotError> {
        while matches!(self.state, ChunksState::Reading) {
            let _ = self.next();
        }
        match self.state {
            ChunksState::Failed(error) => Err(error),
            ChunksState::Reading | ChunksState::Complete => Ok(()),
        }
    }

    fn read(&mut self) -> Result<Option<Bytes>, SnapshotError> {
        loop {
            let (kind, payload) = self.snapshot.record(self.offset)?;
            let first = self.offset == RECORDS_AT;
            self.offset += (RECORD_HEADER_BYTES + payload.len()) as u64;
            match kind {
                Kind::Meta if first => {}
                Kind::Chunk if !first => {
                    self.count += 1;
                    return Ok(Some(payload));
                }
                Kind::End if !first => {
                    if *payload != self.count.to_le_bytes() || self.offset != self.snapshot.bytes {
                        return Err(self.snapshot.damaged("it does not end where it says"));
                    }
                    return Ok(None);
                }
                kind => {
                    return Err(self.snapshot.damaged(&format!("a record of kind {kind:?} out of place")));
                }
            }
        }
    }
}

impl Iterator for Chunks {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        if !matches!(self.state, ChunksState::Reading) {
            return None;
        }
        match self.read() {
            Ok(Some(chunk)) => Some(Ok(chunk)),
            Ok(None) => {
                self.state = ChunksState::Complete;
                None
            }
            Err(error) => {
                let told = io::Error::new(io::ErrorKind::InvalidData, error.to_string());
                self.state = ChunksState::Failed(error);
                Some(Err(told))
            }
        }
    }
}
