//! Records in protobuf.

use bytes::Bytes;
use flotilla_shard::Saved;
use prost::Message as _;

use super::{BackupError, Ban, Header, Record, ShardPoint, Totals, VERSION};

#[derive(Clone, PartialEq, prost::Message)]
struct WireRecord {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 15")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(message, tag = "1")]
    Header(WireHeader),
    #[prost(message, tag = "2")]
    Ban(WireBan),
    #[prost(message, tag = "3")]
    Shard(WireShard),
    /// With a version of its own.
    #[prost(bytes = "bytes", tag = "4")]
    Saved(Bytes),
    #[prost(message, tag = "15")]
    End(WireTotals),
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireHeader {
    /// Of the whole file.
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    cluster_name: String,
    #[prost(string, tag = "3")]
    cluster_id: String,
    #[prost(uint64, tag = "4")]
    at: u64,
    #[prost(uint32, tag = "5")]
    shards: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireBan {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    who: String,
    #[prost(string, tag = "3")]
    reason: String,
    #[prost(string, tag = "4")]
    by: String,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct WireShard {
    #[prost(uint32, tag = "1")]
    shard: u32,
    #[prost(uint64, tag = "2")]
    at: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct WireTotals {
    #[prost(uint64, tag = "1")]
    records: u64,
    #[prost(uint64, tag = "2")]
    shards: u64,
    #[prost(uint64, tag = "3")]
    sessions: u64,
    #[prost(uint64, tag = "4")]
    subscriptions: u64,
    #[prost(uint64, tag = "5")]
    messages: u64,
    #[prost(uint64, tag = "6")]
    bans: u64,
    #[prost(uint64, tag = "7")]
    retained: u64,
}

pub(super) fn encode(record: &Record) -> Vec<u8> {
    let kind = match record {
        Record::Header(Header { cluster_name, cluster_id, at, shards }) => Kind::Header(WireHeader {
            version: VERSION,
            cluster_name: cluster_name.clone(),
            cluster_id: cluster_id.clone(),
            at: *at,
            shards: *shards,
        }),
        Record::Ban(Ban { kind, who, reason, by }) => Kind::Ban(WireBan {
            kind: kind.clone(),
            who: who.clone(),
            reason: reason.clone(),
            by: by.clone(),
        }),
        Record::Shard(ShardPoint { shard, at }) => Kind::Shard(WireShard { shard: *shard, at: *at }),
        Record::Saved(saved) => Kind::Saved(saved.encode()),
        Record::End(Totals { records, shards, sessions, subscriptions, messages, retained, bans }) => {
            Kind::End(WireTotals {
                records: *records,
                shards: *shards,
                sessions: *sessions,
                subscriptions: *subscriptions,
                messages: *messages,
                retained: *retained,
                bans: *bans,
            })
        }
    };
    WireRecord { kind: Some(kind) }.encode_to_vec()
}

/// `at` is where the record is.
pub(super) fn decode(record: Bytes, at: u64) -> Result<Record, BackupError> {
    let invalid = |what: String| BackupError::Invalid { at, what };
    let record = WireRecord::decode(record).map_err(|error| invalid(error.to_string()))?;
    Ok(
        match record
            .kind
            .ok_or_else(|| invalid("it is of a kind that this program does not know".to_owned()))?
        {
            Kind::Header(WireHeader { version, .. }) if version != VERSION => {
                return Err(BackupError::UnknownVersion(version));
            }
            Kind::Header(WireHeader { cluster_name, cluster_id, at, shards, version: _ }) => {
                Record::Header(Header { cluster_name, cluster_id, at, shards })
            }
            Kind::Ban(WireBan { kind, who, reason, by }) => Record::Ban(Ban { kind, who, reason, by }),
            Kind::Shard(WireShard { shard, at }) => Record::Shard(ShardPoint { shard, at }),
            Kind::Saved(saved) => {
                let saved = Saved::decode(&saved).map_err(|error| invalid(error.to_string()))?;
                Record::Saved(Box::new(saved))
            }
            Kind::End(WireTotals { records, shards, sessions, subscriptions, messages, retained, bans }) => {
                Record::End(Totals { records, shards, sessions, subscriptions, messages, retained, bans })
            }
        },
    )
}
