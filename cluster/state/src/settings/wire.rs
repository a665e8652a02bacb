//! The bytes of settings, and of what is kept as one. For the rules see [`crate::wire`].

use bytes::Bytes;

use crate::wire::Versioned;

/// A command, and a part of a snapshot.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Setting {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    /// Missing only in a command, which then removes the setting.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) value: Option<Bytes>,
}

/// The value of a ban; its key says who is banned.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Ban {
    #[prost(uint32, tag = "1")]
    pub(crate) version: u32,
    #[prost(string, tag = "2")]
    pub(crate) reason: String,
    #[prost(string, tag = "3")]
    pub(crate) by: String,
    /// Milliseconds since 1970.
    #[prost(uint64, tag = "4")]
    pub(crate) at: u64,
}

impl Versioned for Ban {}
