//! The bytes of entries and answers: protobuf, with the version of the format in each.
//!
//! Field numbers are never given to something else. What a new program adds and an old one must not skip takes a new
//! version.

mod answer;
mod entry;
mod fields;
mod letter;
mod op;
#[cfg(test)]
mod tests;

pub(crate) use answer::{decode_answers, encode_answers};
pub(crate) use entry::{decode_entry, decode_part, encode_entry, encode_part, encode_parts};
pub(crate) use fields::{
    Expiry, Member, Overlap, Subscription, WireWill, client_id, decode_message, encode_message,
    group_strategy, group_strategy_number, millis, queue_full, queue_full_number, received_ids,
    session_client, shard_id, stored_numbers, will_from, will_to,
};
pub(crate) use letter::Letter;

use bytes::Bytes;

use crate::DecodeError;

/// The version of all formats of this module.
pub(crate) const VERSION: u32 = 1;

/// Reads a message of the top level after its version: the rest of another version may mean anything.
pub(crate) fn decode_versioned<M: prost::Message + Default>(bytes: &Bytes) -> Result<M, DecodeError> {
    let OnlyVersion { version } = prost::Message::decode(bytes.clone())?;
    if version != VERSION {
        return Err(DecodeError::UnknownVersion(version));
    }
    Ok(M::decode(bytes.clone())?)
}

#[derive(Clone, PartialEq, prost::Message)]
struct OnlyVersion {
    #[prost(uint32, tag = "1")]
    version: u32,
}
