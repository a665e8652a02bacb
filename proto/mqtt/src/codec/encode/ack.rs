//! PUBACK, PUBREC, PUBREL, PUBCOMP, DISCONNECT and AUTH.

use super::{first_byte, write};
use crate::{
    ProtocolVersion, ReasonCode,
    codec::{DecodeError, EncodeError, Property, check},
    packet::{Ack, Auth, AuthProperties, Disconnect, DisconnectProperties, PacketType, UserProperties},
};

pub(super) fn ack(
    packet: PacketType,
    ack: &Ack<'_>,
    version: ProtocolVersion,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let [high, low] = ack.id.value().to_be_bytes();
    if !version.is_v5() {
        out.extend_from_slice(&[first_byte(packet), 2, high, low]);
        return Ok(());
    }
    allowed(ack.reason, packet)?;
    let has_properties = ack.reason_string.is_some() || !ack.user_properties.is_empty();
    // The end may be left out (section 3.4.2.1).
    match (ack.reason, has_properties) {
        (ReasonCode::Success, false) => out.extend_from_slice(&[first_byte(packet), 2, high, low]),
        (reason, false) => out.extend_from_slice(&[first_byte(packet), 3, high, low, reason.value()]),
        (reason, true) => {
            out.push(first_byte(packet));
            write::section(out, 0, |out| {
                out.extend_from_slice(&[high, low, reason.value()]);
                reason_properties(ack.reason_string, &ack.user_properties, out)
            })?;
        }
    }
    Ok(())
}

/// A section that holds Reason String and User Properties only.
pub(super) fn reason_properties(
    reason_string: Option<&str>,
    user_properties: &UserProperties<'_>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    write::section(out, 0, |out| {
        write::property(reason_string.map(Property::ReasonString), out)?;
        write::user_properties(user_properties, out)
    })
}

pub(super) fn disconnect(
    disconnect: &Disconnect<'_>,
    version: ProtocolVersion,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let first = first_byte(PacketType::Disconnect);
    if !version.is_v5() {
        out.extend_from_slice(&[first, 0]);
        return Ok(());
    }
    let (reason, properties) = (disconnect.reason, &disconnect.properties);
    allowed(reason, PacketType::Disconnect)?;
    let has_properties = *properties != DisconnectProperties::default();
    match (reason, has_properties) {
        (ReasonCode::Success, false) => out.extend_from_slice(&[first, 0]),
        (reason, false) => out.extend_from_slice(&[first, 1, reason.value()]),
        (reason, true) => {
            out.push(first);
            write::section(out, 0, |out| {
                out.push(reason.value());
                write::section(out, 0, |out| {
                    write::property(properties.session_expiry.map(Property::SessionExpiryInterval), out)?;
                    write::property(properties.reason_string.map(Property::ReasonString), out)?;
                    write::user_properties(&properties.user_properties, out)?;
                    write::property(properties.server_reference.map(Property::ServerReference), out)
                })
            })?;
        }
    }
    Ok(())
}

pub(super) fn auth(auth: &Auth<'_>, version: ProtocolVersion, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    if !version.is_v5() {
        return Err(EncodeError::NotInVersion { packet: PacketType::Auth, version });
    }
    allowed(auth.reason, PacketType::Auth)?;
    check::auth(auth)?;
    let first = first_byte(PacketType::Auth);
    if auth.reason == ReasonCode::Success && auth.properties == AuthProperties::default() {
        out.extend_from_slice(&[first, 0]);
        return Ok(());
    }
    let properties = &auth.properties;
    out.push(first);
    write::section(out, 0, |out| {
        out.push(auth.reason.value());
        write::section(out, 0, |out| {
            write::property(properties.authentication_method.map(Property::AuthenticationMethod), out)?;
            write::property(properties.authentication_data.map(Property::AuthenticationData), out)?;
            write::property(properties.reason_string.map(Property::ReasonString), out)?;
            write::user_properties(&properties.user_properties, out)
        })
    })
}

/// A packet must not carry the reason codes of others [MQTT-3.4.2-1] [MQTT-3.14.2-1] [MQTT-3.15.2-1].
pub(super) fn allowed(reason: ReasonCode, packet: PacketType) -> Result<(), EncodeError> {
    if reason.is_allowed_in(packet) {
        return Ok(());
    }
    Err(DecodeError::InvalidReasonCode { packet, value: reason.value() }.into())
}
