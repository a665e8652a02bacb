//! Bytes to packets and back.

mod send_buffer;

pub use send_buffer::SendBuffer;

use std::num::NonZeroU16;

use crate::{
    ProtocolVersion, ReasonCode, SubscriptionIds, Transit,
    packet::{Delivery, Packet, PacketType, PublishProperties, WillProperties},
};

/// Decodes one side's packets from a byte stream, however the stream is cut into pieces.
#[derive(Debug, Clone, Copy)]
pub struct Decoder {
    side: Side,
    version: Option<ProtocolVersion>,
    max_packet_size: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Server,
    Client,
}

/// A fixed header (section 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What follows.
    pub packet_type: PacketType,
    /// The lower four bits of the first byte.
    pub flags: u8,
    /// Bytes of the fixed header itself, 2..=5.
    pub header_len: usize,
    /// Remaining Length.
    pub remaining_len: usize,
}

impl Header {
    /// Bytes of the whole packet.
    #[must_use]
    pub const fn packet_len(&self) -> usize {
        self.header_len + self.remaining_len
    }
}

/// Why bytes are not a packet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// To be replaced by one variant for each way to be wrong.
    #[error("malformed packet")]
    Malformed,
}

impl DecodeError {
    /// What the client is told.
    #[must_use]
    pub fn reason(&self) -> ReasonCode {
        ReasonCode::MalformedPacket
    }
}

/// Why a packet cannot be written down.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A string or binary field is longer than 65,535 bytes, or the packet longer than 268,435,455.
    #[error("too long to be encoded")]
    TooLong,
}

#[expect(unused_variables, clippy::todo, reason = "signatures only, for now")]
impl Decoder {
    /// For a server: the first packet must be CONNECT, whose version then rules the others.
    #[must_use]
    pub const fn server(max_packet_size: u32) -> Self {
        Self { side: Side::Server, version: None, max_packet_size }
    }

    /// For a client that speaks `version`.
    #[must_use]
    pub const fn client(version: ProtocolVersion, max_packet_size: u32) -> Self {
        Self { side: Side::Client, version: Some(version), max_packet_size }
    }

    /// Sets the version that the client's CONNECT named.
    pub const fn set_version(&mut self, version: ProtocolVersion) {
        self.version = Some(version);
    }

    /// The fixed header at the start of `bytes`; `None`: not all of it is there yet.
    ///
    /// # Errors
    /// The header is wrong, or its packet is not allowed here or too large. Nothing has been allocated for it.
    pub fn header(&self, bytes: &[u8]) -> Result<Option<Header>, DecodeError> {
        todo!()
    }

    /// The packet at the start of `bytes` and its length; `None`: not all of it is there yet.
    ///
    /// # Errors
    /// The packet is wrong. It and whatever follows it must not be processed.
    pub fn decode<'a>(&self, bytes: &'a [u8]) -> Result<Option<(Packet<'a>, usize)>, DecodeError> {
        todo!()
    }
}

/// Appends `packet` to `out`; on an error `out` is as before.
///
/// # Errors
/// The packet cannot be written down.
#[expect(unused_variables, clippy::todo, reason = "signatures only, for now")]
pub fn encode(packet: &Packet<'_>, version: ProtocolVersion, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    todo!()
}

/// What differs between the receivers of one message.
#[derive(Debug, Clone)]
pub struct PublishHead<'a> {
    /// QoS, identifier, DUP.
    pub delivery: Delivery,
    /// RETAIN.
    pub retain: bool,
    /// How the topic is written.
    pub topic: TopicForm,
    /// Message Expiry Interval: what is left of it, in seconds.
    pub message_expiry: Option<u32>,
    /// Subscription Identifiers.
    pub subscription_ids: &'a SubscriptionIds,
}

/// How the topic of an outgoing PUBLISH is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicForm {
    /// In full.
    Full,
    /// In full, together with an alias for the next time.
    Introduce(NonZeroU16),
    /// By its alias.
    Alias(NonZeroU16),
}

/// The length of the packet that [`encode_publish`] would write.
#[must_use]
#[expect(unused_variables, clippy::todo, reason = "signatures only, for now")]
pub fn publish_len(transit: &Transit<'_>, version: ProtocolVersion, head: &PublishHead<'_>) -> usize {
    todo!()
}

/// Appends the PUBLISH of a message for one receiver. A large payload that can be shared is not copied.
#[expect(unused_variables, clippy::todo, reason = "signatures only, for now")]
pub fn encode_publish(
    transit: &Transit<'_>,
    version: ProtocolVersion,
    head: &PublishHead<'_>,
    out: &mut SendBuffer,
) {
    todo!()
}

/// The properties of a PUBLISH that go on to every receiver, encoded: all but Message Expiry Interval, Topic Alias
/// and Subscription Identifier. Borrows from the packet when nothing has to be left out, else is built in `scratch`.
#[must_use]
#[expect(unused_variables, clippy::todo, reason = "signatures only, for now")]
pub fn forward_properties<'a>(properties: &PublishProperties<'a>, scratch: &'a mut Vec<u8>) -> &'a [u8] {
    todo!()
}

/// The same for the properties of a will.
#[expect(unused_variables, clippy::todo, reason = "signatures only, for now")]
pub fn forward_will_properties(properties: &WillProperties<'_>, out: &mut Vec<u8>) {
    todo!()
}
