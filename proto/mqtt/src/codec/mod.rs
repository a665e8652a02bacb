//! Bytes to packets and back.
//!
//! [`Decoder`] is strict: whatever the specification lets a receiver refuse as malformed or as a protocol error, it
//! refuses, each with a [`DecodeError`] of its own, whose reason code is the one that the peer is told. The fixed header
//! is judged before a byte of the body is there. Decoded packets borrow from the input; decoding allocates only the
//! box of a CONNECT or CONNACK. Every loop is over the bytes of one packet and takes each of them once.
//!
//! [`encode()`] writes any packet of any version; what it writes, a decoder with a sufficient Maximum Packet Size reads
//! back as the same packet. [`encode_publish`] is what a broker delivers with: it writes the common part of a message
//! and what differs between the receivers straight into a [`SendBuffer`].
//!
//! What is absent on purpose: rules that need more than one packet (aliases in use, Receive Maximum, order of packets),
//! and those that CONNACK, SUBACK or PUBACK answer (client identifiers, topic filters, will topics, payload format).

mod check;
mod decode;
mod encode;
mod error;
mod property;
mod reader;
mod send_buffer;
mod varint;

pub use decode::{Decoder, Header, refusal_version};
pub use encode::{
    MAX_PACKET_LEN, PublishHead, SHARED_PAYLOAD_MIN, TopicForm, encode, encode_publish, forward_properties,
    forward_will_properties, publish_len,
};
pub use error::{DecodeError, EncodeError};
pub use property::{PropertyId, USER_PROPERTIES_MAX};
pub use send_buffer::{SendBuffer, Storage, Tally};

pub(crate) use decode::check_forwarded_properties;
pub(crate) use property::{Property, SubscriptionId, read_checked};
pub(crate) use reader::Reader;

use decode::ConnectFlags;
use property::{Properties, Section};
