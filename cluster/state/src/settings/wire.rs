//! The bytes of settings. For the rules see [`crate::wire`].

use bytes::Bytes;

/// A command, and a part of a snapshot.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Setting {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    /// Missing only in a command, which then removes the setting.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) value: Option<Bytes>,
}
