//! Packets to bytes.

mod ack;
mod connect;
mod forward;
mod publish;
mod subscribe;
#[cfg(test)]
mod tests;
pub(crate) mod write;

pub use forward::{forward_properties, forward_will_properties};
pub use publish::{MAX_PACKET_LEN, PublishHead, SHARED_PAYLOAD_MIN, TopicForm, encode_publish, publish_len};

use super::EncodeError;
use crate::{
    ProtocolVersion,
    packet::{Packet, PacketType},
};

/// Appends `packet` to `out`; on an error `out` is as before.
///
/// What `version` does not have is left out: properties, reason codes. For CONNECT the version is the packet's own.
/// Properties at their default are not written, the others in a fixed order; an acknowledgement of Success without
/// properties takes its shortest form.
///
/// # Errors
/// The packet cannot be written down, or the other side's decoder would have to refuse it.
pub fn encode(packet: &Packet<'_>, version: ProtocolVersion, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let start = out.len();
    let result = append(packet, version, out);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

fn append(packet: &Packet<'_>, version: ProtocolVersion, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    match packet {
        Packet::Connect(connect) => connect::connect(connect, out),
        Packet::ConnAck(connack) => connect::connack(connack, version, out),
        Packet::Publish(publish) => publish::publish(publish, version, out),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            ack::ack(packet.packet_type(), ack, version, out)
        }
        Packet::Subscribe(subscribe) => subscribe::subscribe(subscribe, version, out),
        Packet::SubAck(suback) => subscribe::suback(suback, version, out),
        Packet::Unsubscribe(unsubscribe) => subscribe::unsubscribe(unsubscribe, version, out),
        Packet::UnsubAck(unsuback) => subscribe::unsuback(unsuback, version, out),
        Packet::PingReq | Packet::PingResp => {
            out.extend_from_slice(&[first_byte(packet.packet_type()), 0]);
            Ok(())
        }
        Packet::Disconnect(disconnect) => ack::disconnect(disconnect, version, out),
        Packet::Auth(auth) => ack::auth(auth, version, out),
    }
}

/// The first byte of any packet but PUBLISH [MQTT-2.1.3-1].
const fn first_byte(packet: PacketType) -> u8 {
    let flags = match packet {
        PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe => 0b0010,
        _ => 0,
    };
    (packet as u8) << 4 | flags
}
