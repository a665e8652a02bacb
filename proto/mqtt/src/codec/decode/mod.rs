//! Bytes to packets.

mod ack;
mod connect;
mod header;
mod publish;
mod subscribe;
#[cfg(test)]
mod tests;

pub(super) use connect::ConnectFlags;
pub use connect::refusal_version;
pub use header::Header;
pub(crate) use publish::check_forwarded_properties;

use super::{DecodeError, Properties, Reader};
use crate::{
    PacketId, ProtocolVersion, ReasonCode,
    packet::{Packet, PacketType},
};

/// Decodes one side's packets from a byte stream, however the stream is cut into pieces.
///
/// ```
/// use flotilla_mqtt::{codec::Decoder, packet::Packet};
///
/// let decoder = Decoder::client(flotilla_mqtt::ProtocolVersion::V5, 1024);
/// assert_eq!(decoder.decode(b"\xD0"), Ok(None)); // not all of it is there yet
/// assert_eq!(decoder.decode(b"\xD0\x00\x40"), Ok(Some((Packet::PingResp, 2))));
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Decoder {
    sender: Sender,
    version: Option<ProtocolVersion>,
    max_packet_size: u32,
}

/// Whose packets are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    Client,
    Server,
}

impl Decoder {
    /// For a server: the first packet must be CONNECT, whose version then rules the others.
    #[must_use]
    pub const fn server(max_packet_size: u32) -> Self {
        Self { sender: Sender::Client, version: None, max_packet_size }
    }

    /// For a client that speaks `version`.
    #[must_use]
    pub const fn client(version: ProtocolVersion, max_packet_size: u32) -> Self {
        Self { sender: Sender::Server, version: Some(version), max_packet_size }
    }

    /// Sets the version that the client's CONNECT named. From here on another CONNECT is an error [MQTT-3.1.0-2].
    pub const fn set_version(&mut self, version: ProtocolVersion) {
        self.version = Some(version);
    }

    /// The fixed header at the start of `bytes`; `None`: not all of it is there yet.
    ///
    /// # Errors
    /// The header is wrong, or its packet is not allowed here or too large. Nothing has been allocated for it.
    #[inline]
    pub fn header(&self, bytes: &[u8]) -> Result<Option<Header>, DecodeError> {
        header::read(self, bytes)
    }

    /// The packet at the start of `bytes` and its length; `None`: not all of it is there yet.
    ///
    /// What follows the packet is not looked at. In particular, what a client sends right behind its CONNECT must be
    /// decoded after [`Decoder::set_version`].
    ///
    /// # Errors
    /// The packet is wrong. It and whatever follows it must not be processed.
    #[inline]
    pub fn decode<'a>(&self, bytes: &'a [u8]) -> Result<Option<(Packet<'a>, usize)>, DecodeError> {
        let Some(header) = self.header(bytes)? else { return Ok(None) };
        let Some(body) = bytes.get(header.header_len..header.packet_len()) else { return Ok(None) };
        let packet = self.packet(header, Reader::new(body))?;
        Ok(Some((packet, header.packet_len())))
    }

    #[inline]
    fn packet<'a>(&self, header: Header, reader: Reader<'a>) -> Result<Packet<'a>, DecodeError> {
        let Some(version) = self.version else {
            // The header of anything else did not get here.
            return connect::connect(reader).map(|connect| Packet::Connect(Box::new(connect)));
        };
        if header.packet_type == PacketType::Publish {
            return publish::publish(self.sender, version, header.flags, reader).map(Packet::Publish);
        }
        other(self.sender, version, header, reader)
    }
}

/// Away from the hot path.
fn other(
    sender: Sender,
    version: ProtocolVersion,
    header: Header,
    reader: Reader<'_>,
) -> Result<Packet<'_>, DecodeError> {
    let packet_type = header.packet_type;
    let ack = |reader| ack::ack(packet_type, version, reader);
    match packet_type {
        PacketType::Connect => connect::connect(reader).map(|connect| Packet::Connect(Box::new(connect))),
        PacketType::ConnAck => {
            connect::connack(version, reader).map(|connack| Packet::ConnAck(Box::new(connack)))
        }
        PacketType::Publish => publish::publish(sender, version, header.flags, reader).map(Packet::Publish),
        PacketType::PubAck => ack(reader).map(Packet::PubAck),
        PacketType::PubRec => ack(reader).map(Packet::PubRec),
        PacketType::PubRel => ack(reader).map(Packet::PubRel),
        PacketType::PubComp => ack(reader).map(Packet::PubComp),
        PacketType::Subscribe => subscribe::subscribe(version, reader).map(Packet::Subscribe),
        PacketType::SubAck => subscribe::suback(version, reader).map(Packet::SubAck),
        PacketType::Unsubscribe => subscribe::unsubscribe(version, reader).map(Packet::Unsubscribe),
        PacketType::UnsubAck => subscribe::unsuback(version, reader).map(Packet::UnsubAck),
        PacketType::PingReq => reader.finish().map(|()| Packet::PingReq),
        PacketType::PingResp => reader.finish().map(|()| Packet::PingResp),
        PacketType::Disconnect => ack::disconnect(sender, version, reader).map(Packet::Disconnect),
        PacketType::Auth => ack::auth(sender, reader).map(Packet::Auth),
    }
}

#[inline]
fn packet_id(packet: PacketType, reader: &mut Reader<'_>) -> Result<PacketId, DecodeError> {
    PacketId::new(reader.u16()?).ok_or(DecodeError::PacketIdZero(packet))
}

/// The Reason Code of a packet that may be sent by either side.
fn reason(sender: Sender, packet: PacketType, value: u8) -> Result<ReasonCode, DecodeError> {
    let is_allowed = |reason: &ReasonCode| match sender {
        Sender::Client => reason.is_allowed_from_client(packet),
        Sender::Server => reason.is_allowed_from_server(packet),
    };
    let reason = ReasonCode::from_u8(value).filter(is_allowed);
    reason.ok_or(DecodeError::InvalidReasonCode { packet, value })
}
