//! The file of a backup: what a cluster keeps, for another cluster to take over.
//!
//! ```text
//! file     magic: 8 bytes, record...
//! record   length of the protobuf: u32, CRC-32 of the length and the protobuf: u32, protobuf      big-endian
//! ```
//! The first record is a [`Header`]. Bans follow, and then each shard: when it was looked at, and what it had in that moment. The
//! last record is a [`Record::End`] with the number of all others, so that no part of a file is taken for the whole. Records are checked
//! completely when they are read; a kind that is not known is an error, for nothing may be left out in silence.
//!
//! Pure: bytes in, records out.

#[cfg(test)]
mod tests;
mod wire;

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};
use flotilla_shard::Saved;

/// One record of a file.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// The first one.
    Header(Header),
    /// A client that no node lets in.
    Ban(Ban),
    /// A shard begins.
    Shard(ShardPoint),
    /// Something of the shard that has begun.
    Saved(Box<Saved>),
    /// The last one.
    End(Totals),
}

/// Where a file comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// The name of the cluster.
    pub cluster_name: String,
    /// Its identifier, in hexadecimal digits.
    pub cluster_id: String,
    /// When the export began, in milliseconds since the epoch.
    pub at: u64,
    /// How many shards the cluster has.
    pub shards: u32,
}

/// A client that no node lets in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ban {
    /// What the client is known by: `clientid`, `username`, `peerhost`.
    pub kind: String,
    /// Who it is.
    pub who: String,
    /// Why.
    pub reason: String,
    /// Who has banned.
    pub by: String,
}

/// The moment at which a shard was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShardPoint {
    /// Which shard.
    pub shard: u32,
    /// When, on its clock, in milliseconds since the epoch.
    pub at: u64,
}

/// How many of what a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Records besides the header and the end.
    pub records: u64,
    /// Shards.
    pub shards: u64,
    /// Sessions.
    pub sessions: u64,
    /// Subscriptions of these.
    pub subscriptions: u64,
    /// Messages in their queues; one that is in several counts in each.
    pub messages: u64,
    /// Retained messages.
    pub retained: u64,
    /// Bans.
    pub bans: u64,
}

/// Why a file is none.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It begins with something else.
    #[error("this is no backup of Flotilla")]
    Foreign,
    /// Of a format that this program does not know.
    #[error("format version {0} is not known to this program")]
    UnknownVersion(u32),
    /// A checksum does not fit.
    #[error("it is damaged: the record at byte {at} has another checksum")]
    Damaged {
        /// Where the record begins.
        at: u64,
    },
    /// The end is missing.
    #[error("it is cut off after {at} bytes")]
    CutOff {
        /// How long it is.
        at: u64,
    },
    /// Records that make no sense.
    #[error("the record at byte {at} is not valid: {what}")]
    Invalid {
        /// Where the record begins.
        at: u64,
        /// What is wrong with it.
        what: String,
    },
}

/// Reads records, in whatever pieces their bytes come.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: BytesMut,
    /// How many bytes were before these.
    at: u64,
}

/// Reads a whole file, in whatever pieces its bytes come.
#[derive(Debug, Default)]
pub struct Reader {
    decoder: Decoder,
    has_magic: bool,
    header: Option<Header>,
    totals: Totals,
    is_complete: bool,
}

/// What a file begins with.
pub const MAGIC: [u8; 8] = *b"FLOTBKP\n";
/// The version of the format.
const VERSION: u32 = 1;
/// The length and the checksum in front of a record.
const PREFIX: usize = 8;
/// The largest packet, and what is stored beside it.
const RECORD_BYTES_MAX: usize = 260 << 20;

impl Record {
    /// The record as it is in a file.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let record = wire::encode(self);
        // A record has one message, or as many as fit into some hundred KiB.
        let length = u32::try_from(record.len()).unwrap_or(u32::MAX).to_be_bytes();
        let mut bytes = BytesMut::with_capacity(PREFIX + record.len());
        bytes.extend_from_slice(&length);
        bytes.extend_from_slice(&checksum(&length, &record).to_be_bytes());
        bytes.extend_from_slice(&record);
        bytes.freeze()
    }
}

fn checksum(length: &[u8], record: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(length);
    crc.update(record);
    crc.finalize()
}

impl Totals {
    /// Counts a record.
    pub fn add(&mut self, record: &Record) {
        match record {
            Record::Header(_) | Record::End(_) => return,
            Record::Ban(_) => self.bans += 1,
            Record::Shard(_) => self.shards += 1,
            Record::Saved(saved) => {
                let count = saved.count();
                self.sessions += count.sessions;
                self.subscriptions += count.subscriptions;
                self.messages += count.messages;
                self.retained += count.retained;
            }
        }
        self.records += 1;
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sessions, subscriptions, messages, retained, bans, .. } = self;
        write!(
            f,
            "{sessions} sessions with {subscriptions} subscriptions and {messages} messages, {retained} retained \
             messages and {bans} bans"
        )
    }
}

impl Decoder {
    /// Takes bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next record; `None`: its bytes are not all there yet.
    ///
    /// # Errors
    /// They are no record. Nothing that comes behind is one, either.
    pub fn next_record(&mut self) -> Result<Option<Record>, BackupError> {
        let at = self.at;
        let Some((prefix, rest)) = self.bytes.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let [a, b, c, d, sum @ ..] = *prefix;
        let length = [a, b, c, d];
        let len = u32::from_be_bytes(length) as usize;
        if len > RECORD_BYTES_MAX {
            return Err(BackupError::Damaged { at });
        }
        let Some(record) = rest.get(..len) else { return Ok(None) };
        if checksum(&length, record) != u32::from_be_bytes(sum) {
            return Err(BackupError::Damaged { at });
        }
        self.skip(PREFIX);
        let record = self.bytes.split_to(len).freeze();
        self.at += len as u64;
        wire::decode(record, at).map(Some)
    }

    /// Whether nothing is left of what was fed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn skip(&mut self, bytes: usize) {
        self.bytes.advance(bytes);
        self.at += bytes as u64;
    }
}

impl Reader {
    /// Takes bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.decoder.feed(bytes);
    }

    /// The next record; `None`: its bytes are not all there yet.
    ///
    /// # Errors
    /// It is no record, or not one that comes here. The file is of no use.
    pub fn next_record(&mut self) -> Result<Option<Record>, BackupError> {
        if !self.has_magic {
            let Some(magic) = self.decoder.bytes.get(..MAGIC.len()) else { return Ok(None) };
            if magic != MAGIC {
                return Err(BackupError::Foreign);
            }
            self.decoder.skip(MAGIC.len());
            self.has_magic = true;
        }
        let at = self.decoder.at;
        let Some(record) = self.decoder.next_record()? else { return Ok(None) };
        let invalid = |what: &str| Err(BackupError::Invalid { at, what: what.to_owned() });
        match (&record, &self.header) {
            _ if self.is_complete => return invalid("the file goes on behind its end"),
            (Record::Header(header), None) => self.header = Some(header.clone()),
            (_, None) => return invalid("the file does not begin with its header"),
            (Record::Header(_), Some(_)) => return invalid("there is a second header"),
            (Record::Saved(_), Some(_)) if self.totals.shards == 0 => return invalid("it is of no shard"),
            (Record::End(totals), Some(header)) => {
                if *totals != self.totals || totals.shards != u64::from(header.shards) {
                    return invalid("the file does not have all that it should have");
                }
                self.is_complete = true;
            }
            (Record::Ban(_) | Record::Shard(_) | Record::Saved(_), Some(_)) => {}
        }
        self.totals.add(&record);
        Ok(Some(record))
    }

    /// What a file has that has been read to its end.
    ///
    /// # Errors
    /// The end has not come.
    pub fn finish(&self) -> Result<(&Header, Totals), BackupError> {
        let Decoder { bytes, at } = &self.decoder;
        match &self.header {
            Some(header) if self.is_complete && self.decoder.is_empty() => Ok((header, self.totals)),
            _ => Err(BackupError::CutOff { at: at + bytes.len() as u64 }),
        }
    }
}
