//! Small packets to the client.

use crate::{
    PacketId, ProtocolVersion, ReasonCode,
    codec::{SendBuffer, encode},
    packet::{Ack, Packet, PacketType},
};

/// Appends a PUBACK, PUBREC, PUBREL or PUBCOMP.
pub(super) fn write_ack(
    packet_type: PacketType,
    id: PacketId,
    reason: ReasonCode,
    version: ProtocolVersion,
    out: &mut SendBuffer,
) {
    let ack = Ack::new(id, reason);
    let packet = match packet_type {
        PacketType::PubAck => Packet::PubAck(ack),
        PacketType::PubRec => Packet::PubRec(ack),
        PacketType::PubRel => Packet::PubRel(ack),
        _ => Packet::PubComp(ack),
    };
    write(&packet, version, out);
}

/// The code nearest to `reason` that such a packet of ours may carry: callers bring codes of their own.
pub(super) fn allowed(reason: ReasonCode, packet_type: PacketType) -> ReasonCode {
    match reason.is_allowed_from_server(packet_type) {
        true => reason,
        false if reason.is_error() => ReasonCode::UnspecifiedError,
        false => ReasonCode::Success,
    }
}

/// Appends a packet whose every part has been checked to fit.
pub(super) fn write(packet: &Packet<'_>, version: ProtocolVersion, out: &mut SendBuffer) {
    let written = encode(packet, version, out.tail());
    out.note_packet(packet.packet_type());
    debug_assert_eq!(written, Ok(()), "the packet fits: {packet:?}");
}
