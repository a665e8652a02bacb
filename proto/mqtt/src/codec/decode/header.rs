//! The fixed header: everything that can be refused before a byte of the body is looked at.

use super::{Decoder, Sender};
use crate::{
    ProtocolVersion,
    codec::{DecodeError, varint},
    packet::PacketType,
};

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

/// Reads a fixed header. What is wrong with the first byte is found before the second is there.
#[inline]
pub(super) fn read(decoder: &Decoder, bytes: &[u8]) -> Result<Option<Header>, DecodeError> {
    let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
    let packet_type = match (first >> 4, decoder.version) {
        (3, Some(_)) => PacketType::Publish,
        (number, version) => other_type(decoder.sender, version, number)?,
    };
    let flags = first & 0x0F;
    check_flags(decoder.version, packet_type, flags)?;

    let Some((remaining, len)) = varint::read(rest)? else { return Ok(None) };
    let packet_len = 1 + len + remaining as usize;
    if packet_len > decoder.max_packet_size as usize {
        return Err(too_large(decoder, packet_len));
    }
    check_remaining_len(decoder.version, packet_type, flags, remaining)?;
    Ok(Some(Header { packet_type, flags, header_len: 1 + len, remaining_len: remaining as usize }))
}

/// The type of a packet that is not a PUBLISH in the middle of a connection.
fn other_type(
    sender: Sender,
    version: Option<ProtocolVersion>,
    number: u8,
) -> Result<PacketType, DecodeError> {
    let packet_type = PacketType::from_u8(number).ok_or(DecodeError::ReservedPacketType(number))?;
    let Some(version) = version else {
        let is_connect = packet_type == PacketType::Connect;
        return if is_connect {
            Ok(packet_type)
        } else {
            Err(DecodeError::FirstPacketNotConnect(packet_type))
        };
    };
    let is_from_this_side = match packet_type {
        PacketType::Auth if !version.is_v5() => return Err(DecodeError::ReservedPacketType(number)),
        PacketType::Connect if sender == Sender::Client => return Err(DecodeError::SecondConnect),
        PacketType::Connect | PacketType::Subscribe | PacketType::Unsubscribe | PacketType::PingReq => {
            sender == Sender::Client
        }
        PacketType::ConnAck | PacketType::SubAck | PacketType::UnsubAck | PacketType::PingResp => {
            sender == Sender::Server
        }
        // A server has no DISCONNECT before 5.0 (v3.1.1: section 3.14).
        PacketType::Disconnect => sender == Sender::Client || version.is_v5(),
        PacketType::Publish
        | PacketType::PubAck
        | PacketType::PubRec
        | PacketType::PubRel
        | PacketType::PubComp
        | PacketType::Auth => true,
    };
    if is_from_this_side { Ok(packet_type) } else { Err(DecodeError::WrongSide(packet_type)) }
}

/// Flags are fixed for every packet but PUBLISH [MQTT-2.1.3-1].
#[inline]
fn check_flags(version: Option<ProtocolVersion>, packet: PacketType, flags: u8) -> Result<(), DecodeError> {
    let expected = match packet {
        PacketType::Publish => {
            return match flags {
                _ if flags & 0b0110 == 0b0110 => Err(DecodeError::PublishQoS3),
                _ if flags & 0b1110 == 0b1000 => Err(DecodeError::DupAtQoS0),
                _ => Ok(()),
            };
        }
        PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe => 0b0010,
        _ => 0,
    };
    // In 3.1 flags that a packet does not use are to be ignored, and clients do set DUP when they repeat a PUBREL,
    // SUBSCRIBE or UNSUBSCRIBE.
    if flags == expected || version == Some(ProtocolVersion::V31) {
        return Ok(());
    }
    Err(DecodeError::FixedHeaderFlags { packet, flags })
}

/// Refuses a length that no packet of this type has, so that nobody waits for its end.
#[inline]
fn check_remaining_len(
    version: Option<ProtocolVersion>,
    packet: PacketType,
    flags: u8,
    remaining_len: u32,
) -> Result<(), DecodeError> {
    let is_v5 = version == Some(ProtocolVersion::V5);
    let properties = u32::from(is_v5);
    let is_possible = match packet {
        // Topic Name, Packet Identifier, properties.
        PacketType::Publish => remaining_len >= 2 + u32::from(flags & 0b0110 != 0) * 2 + properties,
        // Enough for Protocol Name and Level, so that an unsupported protocol is told so.
        PacketType::Connect => remaining_len >= 3,
        PacketType::PubAck | PacketType::PubRec | PacketType::PubRel | PacketType::PubComp => {
            remaining_len == 2 || is_v5 && remaining_len > 2
        }
        PacketType::ConnAck | PacketType::UnsubAck if is_v5 => remaining_len > 2,
        PacketType::ConnAck | PacketType::UnsubAck => remaining_len == 2,
        // An empty payload is another error than a short packet, and is found later.
        PacketType::Subscribe | PacketType::SubAck | PacketType::Unsubscribe => {
            remaining_len >= 2 + properties
        }
        PacketType::PingReq | PacketType::PingResp => remaining_len == 0,
        PacketType::Disconnect => is_v5 || remaining_len == 0,
        PacketType::Auth => true,
    };
    if is_possible { Ok(()) } else { Err(DecodeError::WrongLength { packet, remaining_len }) }
}

#[cold]
fn too_large(decoder: &Decoder, packet_len: usize) -> DecodeError {
    // At most five bytes more than a Remaining Length can say.
    let len = u32::try_from(packet_len).unwrap_or(u32::MAX);
    DecodeError::PacketTooLarge { len, max: decoder.max_packet_size }
}
