//! What is refused, with which error and which reason code: the rows of the table of bad input that a decoder decides,
//! and what must not be refused.

mod body;
mod connect;
mod header;
mod properties;

use super::*;
use crate::{
    ProtocolVersion::{V5, V31, V311},
    QoS,
    codec::{PropertyId, USER_PROPERTIES_MAX},
    packet::{Delivery, Publish},
};

const MAX: u32 = 1 << 20;

const CONNECT_V311: &[u8] = b"\0\x04MQTT\x04\x02\0\x3C\0\x01a";

/// A packet from its first byte and its body.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    crate::codec::varint::write(body.len(), &mut bytes);
    bytes.extend_from_slice(body);
    bytes
}

/// Reads what a client sends after its CONNECT.
fn client(version: ProtocolVersion) -> Decoder {
    let mut decoder = Decoder::server(MAX);
    decoder.set_version(version);
    decoder
}

/// Reads what a server sends.
fn server(version: ProtocolVersion) -> Decoder {
    Decoder::client(version, MAX)
}

fn taken(decoder: Decoder, bytes: &[u8]) -> Packet<'_> {
    let (packet, len) = decoder.decode(bytes).expect("it is right").expect("it is complete");
    assert_eq!(len, bytes.len());
    packet
}

fn connect_taken(body: &[u8]) -> Packet<'static> {
    taken(Decoder::server(MAX), packet(0x10, body).leak())
}

#[track_caller]
fn refused(decoder: Decoder, bytes: &[u8], code: u8, error: DecodeError) {
    assert_eq!(decoder.decode(bytes), Err(error), "{bytes:02X?}");
    assert_eq!(error.reason().value(), code, "{error}");
}

#[track_caller]
fn from_client(version: ProtocolVersion, bytes: &[u8], code: u8, error: DecodeError) {
    refused(client(version), bytes, code, error);
}

#[track_caller]
fn from_server(version: ProtocolVersion, bytes: &[u8], code: u8, error: DecodeError) {
    refused(server(version), bytes, code, error);
}

#[track_caller]
fn connect_refused(body: &[u8], code: u8, error: DecodeError) {
    refused(Decoder::server(MAX), &packet(0x10, body), code, error);
}

/// A CONNECT of 5.0 with these properties.
#[track_caller]
fn connect_v5(properties: &[u8], code: u8, error: DecodeError) {
    let len = u8::try_from(properties.len()).unwrap();
    let body = [b"\0\x04MQTT\x05\x02\0\0", &[len][..], properties, b"\0\0"].concat();
    connect_refused(&body, code, error);
}

/// A PUBLISH of a 5.0 client with these properties.
#[track_caller]
fn publish_v5(properties: &[u8], code: u8, error: DecodeError) {
    let len = u8::try_from(properties.len()).unwrap();
    let body = [b"\0\x01t", &[len][..], properties].concat();
    from_client(V5, &packet(0x30, &body), code, error);
}

fn unsupported(level: u8, answer: ProtocolVersion) -> DecodeError {
    DecodeError::UnsupportedProtocol { level, answer }
}

fn misplaced(property: PropertyId, packet: PacketType) -> DecodeError {
    DecodeError::PropertyNotAllowed { property, packet }
}

fn invalid_reason(packet: PacketType, value: u8) -> DecodeError {
    DecodeError::InvalidReasonCode { packet, value }
}

fn wrong_length(packet: PacketType, remaining_len: u32) -> DecodeError {
    DecodeError::WrongLength { packet, remaining_len }
}
