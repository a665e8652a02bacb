//! The row that says what is in force.

use bytes::Bytes;
use prost::Message as _;

use crate::DecodeError;

/// What belongs to a shard as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Header {
    /// 0 in a snapshot, which has none.
    pub(crate) generation: u32,
    /// Of the log, as the shell says. Empty in a snapshot, which brings it along otherwise.
    pub(crate) position: Bytes,
    /// The index of the last entry that was applied.
    pub(crate) applied: u64,
    /// Of the last entry, in milliseconds since the epoch.
    pub(crate) stamp: u64,
    pub(crate) next_session: u64,
    pub(crate) next_message: u64,
    pub(crate) next_will: u64,
    pub(crate) next_chunk: u64,
    pub(crate) next_retained: u64,
    /// The number of the last letter; 0: there was none.
    pub(crate) last_letter: u64,
    pub(crate) format: Format,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HeaderRow {
    /// Of all rows.
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(uint32, tag = "2")]
    generation: u32,
    #[prost(bytes = "bytes", tag = "3")]
    position: Bytes,
    #[prost(uint64, tag = "4")]
    applied: u64,
    #[prost(uint64, tag = "5")]
    stamp: u64,
    #[prost(uint64, tag = "6")]
    next_session: u64,
    #[prost(uint64, tag = "7")]
    next_message: u64,
    #[prost(uint64, tag = "8")]
    next_will: u64,
    #[prost(uint64, tag = "9")]
    next_chunk: u64,
    #[prost(uint64, tag = "10")]
    next_retained: u64,
    #[prost(uint64, tag = "11")]
    last_letter: u64,
}

/// The format of all rows and snapshots: who does not know it must not read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Format {
    /// Of a shard that has had no groups and no letters.
    #[default]
    Plain = 1,
    /// Of one that has.
    Groups = 2,
    /// There are rows of what Opens have changed.
    Former = 3,
}

impl Format {
    fn read(format: u32) -> Result<Self, DecodeError> {
        let known =
            [Self::Plain, Self::Groups, Self::Former].into_iter().find(|known| *known as u32 == format);
        known.ok_or(DecodeError::UnknownVersion(format))
    }
}

impl Header {
    pub(crate) fn encode(&self) -> Bytes {
        let row = HeaderRow {
            format: self.format as u32,
            generation: self.generation,
            position: self.position.clone(),
            applied: self.applied,
            stamp: self.stamp,
            next_session: self.next_session,
            next_message: self.next_message,
            next_will: self.next_will,
            next_chunk: self.next_chunk,
            next_retained: self.next_retained,
            last_letter: self.last_letter,
        };
        row.encode_to_vec().into()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        #[derive(Clone, PartialEq, prost::Message)]
        struct OnlyFormat {
            #[prost(uint32, tag = "1")]
            format: u32,
        }
        // The rest of another format may mean anything.
        let OnlyFormat { format } = OnlyFormat::decode(bytes.clone())?;
        let format = Format::read(format)?;
        let row = HeaderRow::decode(bytes.clone())?;
        Ok(Self {
            generation: row.generation,
            // It must not keep what it was read from.
            position: Bytes::copy_from_slice(&row.position),
            applied: row.applied,
            stamp: row.stamp,
            next_session: row.next_session,
            next_message: row.next_message,
            next_will: row.next_will,
            next_chunk: row.next_chunk,
            next_retained: row.next_retained,
            last_letter: row.last_letter,
            format,
        })
    }
}
