//! Entries and their parts.

use bytes::Bytes;
use prost::Message as _;

use super::{VERSION, decode_versioned, fields::Member, op::Op};
use crate::{DecodeError, Entry as ShardEntry, OPS_MAX, Part as ShardPart};

#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint64, tag = "2")]
    stamp: u64,
    /// Each a [`Part`] with its own version: they are written by different members.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    parts: Vec<Bytes>,
    /// How many parts: one that is cut off must not be taken for a shorter one.
    #[prost(uint32, tag = "4")]
    count: u32,
    #[prost(bool, tag = "5")]
    retained_full: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Part {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, optional, tag = "2")]
    source: Option<Member>,
    #[prost(uint64, tag = "3")]
    number: u64,
    #[prost(message, repeated, tag = "4")]
    ops: Vec<Op>,
    /// How many ops; the same.
    #[prost(uint32, tag = "5")]
    count: u32,
}

pub(crate) fn encode_entry(entry: &ShardEntry) -> Bytes {
    let parts: Vec<Bytes> = entry.parts.iter().map(encode_part).collect();
    encode_parts(entry.stamp, entry.retained_full, parts.iter())
}

pub(crate) fn encode_parts<'a>(
    stamp: u64,
    retained_full: bool,
    parts: impl Iterator<Item = &'a Bytes>,
) -> Bytes {
    let parts: Vec<Bytes> = parts.map(Bytes::clone).collect();
    let count = count(&parts);
    Entry { version: VERSION, stamp, parts, count, retained_full }.encode_to_vec().into()
}

pub(crate) fn encode_part(part: &ShardPart) -> Bytes {
    let ops: Vec<Op> = part.ops.iter().map(Op::from).collect();
    let (source, count) = (Some(part.source.into()), count(&ops));
    Part { version: VERSION, source, number: part.number, ops, count }.encode_to_vec().into()
}

pub(crate) fn decode_entry(bytes: &Bytes) -> Result<ShardEntry, DecodeError> {
    let entry: Entry = decode_versioned(bytes)?;
    if entry.parts.is_empty() || entry.count != count(&entry.parts) {
        return Err(DecodeError::Field("parts"));
    }
    let parts = entry.parts.iter().map(decode_part).collect::<Result<_, _>>()?;
    Ok(ShardEntry { stamp: entry.stamp, retained_full: entry.retained_full, parts })
}

pub(crate) fn decode_part(bytes: &Bytes) -> Result<ShardPart, DecodeError> {
    let part: Part = decode_versioned(bytes)?;
    if part.ops.len() > OPS_MAX {
        return Err(DecodeError::TooLong("ops"));
    }
    if part.ops.is_empty() || part.count != count(&part.ops) {
        return Err(DecodeError::Field("ops"));
    }
    Ok(ShardPart {
        source: part.source.ok_or(DecodeError::Field("source"))?.into(),
        number: part.number,
        ops: part.ops.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
    })
}

fn count<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}
