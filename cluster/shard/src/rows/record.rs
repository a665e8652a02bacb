//! Rows in protobuf.

use bytes::Bytes;

use crate::wire::{Expiry, Member, Overlap, WireWill};

/// A session without its subscriptions, its will and its inbox.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SessionRow {
    #[prost(string, tag = "1")]
    pub(crate) client: String,
    #[prost(uint64, tag = "2")]
    pub(crate) epoch_shard: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) epoch_sequence: u64,
    #[prost(message, optional, tag = "4")]
    pub(crate) owner: Option<Member>,
    /// What the last Open was answered.
    #[prost(bool, tag = "5")]
    pub(crate) present: bool,
    #[prost(message, optional, tag = "6")]
    pub(crate) expiry: Option<Expiry>,
    #[prost(uint64, optional, tag = "7")]
    pub(crate) ends_at: Option<u64>,
    #[prost(uint32, tag = "8")]
    pub(crate) window: u32,
    #[prost(uint32, tag = "9")]
    pub(crate) awaiting_rel_max: u32,
    #[prost(uint32, tag = "10")]
    pub(crate) messages_max: u32,
    #[prost(uint64, tag = "11")]
    pub(crate) bytes_max: u64,
    #[prost(uint32, tag = "12")]
    pub(crate) full: u32,
    #[prost(enumeration = "Overlap", tag = "13")]
    pub(crate) overlap: i32,
    #[prost(uint64, tag = "14")]
    pub(crate) next_seq: u64,
    #[prost(uint64, tag = "15")]
    pub(crate) maybe_sent_until: u64,
    #[prost(uint64, tag = "16")]
    pub(crate) next_number: u64,
    #[prost(uint32, repeated, tag = "17")]
    pub(crate) received_ids: Vec<u32>,
    #[prost(uint64, repeated, tag = "18")]
    pub(crate) received_numbers: Vec<u64>,
    #[prost(uint32, tag = "19")]
    pub(crate) next_subscription: u32,
    /// The numbers whose messages every shard has, in the same order.
    #[prost(uint64, repeated, tag = "20")]
    pub(crate) received_stored: Vec<u64>,
    /// What is before it may be in flight.
    #[prost(uint64, tag = "21")]
    pub(crate) kept_until: u64,
    /// Nothing else may: the client is away, and said what had been sent to it.
    #[prost(bool, tag = "22")]
    pub(crate) is_window_closed: bool,
    #[prost(bool, tag = "23")]
    pub(crate) queue_qos0: bool,
    #[prost(uint32, tag = "24")]
    pub(crate) turn: u32,
    #[prost(uint32, tag = "25")]
    pub(crate) group_strategy: u32,
}

/// The will of a session.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WillRow {
    #[prost(message, optional, tag = "1")]
    pub(crate) will: Option<WireWill>,
    /// Milliseconds since the epoch; absent while the client is connected.
    #[prost(uint64, optional, tag = "2")]
    pub(crate) due: Option<u64>,
}

/// What the last Open of a session has changed, as long as its connection may come to nothing.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FormerRow {
    #[prost(message, optional, tag = "1")]
    pub(crate) expiry: Option<Expiry>,
    /// Milliseconds since the epoch.
    #[prost(uint64, optional, tag = "2")]
    pub(crate) ends_at: Option<u64>,
    #[prost(message, optional, tag = "3")]
    pub(crate) will: Option<WireWill>,
    /// When the will would be published, in milliseconds since the epoch.
    #[prost(uint64, optional, tag = "4")]
    pub(crate) due: Option<u64>,
}

/// A will that is to be published.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FiringRow {
    /// Without its expiry.
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) message: Bytes,
    /// Milliseconds since the epoch.
    #[prost(uint64, optional, tag = "2")]
    pub(crate) expires_at: Option<u64>,
}

/// What a session that comes out of a backup gets when it is complete. Its time stands still until then.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct RestoringRow {
    #[prost(message, optional, tag = "1")]
    pub(crate) expiry: Option<Expiry>,
    /// Milliseconds that it has left; absent: as many as `expiry` says.
    #[prost(uint64, optional, tag = "2")]
    pub(crate) ends_in: Option<u64>,
    /// Milliseconds until its will is published; absent: as many as that says.
    #[prost(uint64, optional, tag = "3")]
    pub(crate) will_due_in: Option<u64>,
    #[prost(uint64, tag = "4")]
    pub(crate) maybe_sent_until: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) kept_until: u64,
}

/// What was stored of a publisher's messages of QoS 2.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PublisherRow {
    /// Nothing below it comes again.
    #[prost(uint64, tag = "1")]
    pub(crate) floor: u64,
    /// What is not below it and was stored, in ascending order.
    #[prost(uint64, repeated, tag = "2")]
    pub(crate) numbers: Vec<u64>,
}

/// How far the parts of a source have been applied.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SourceRow {
    #[prost(uint64, tag = "1")]
    pub(crate) incarnation: u64,
    /// The number of its last part.
    #[prost(uint64, tag = "2")]
    pub(crate) last: u64,
    #[prost(bool, tag = "3")]
    pub(crate) ended: bool,
}
