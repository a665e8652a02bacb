//! PUBACK, PUBREC, PUBREL, PUBCOMP, DISCONNECT and AUTH.

use super::{Properties, Reader, Sender, packet_id, reason};
use crate::{
    ProtocolVersion, ReasonCode,
    codec::{DecodeError, Property, Section, check},
    packet::{Ack, Auth, AuthProperties, Disconnect, DisconnectProperties, PacketType, UserProperties},
};

/// PUBACK, PUBREC, PUBREL or PUBCOMP. In 5.0 the end of the packet may be left out: a Remaining Length of 2 means
/// Success, one of 3 means no properties (section 3.4.2.1).
#[inline]
pub(super) fn ack<'a>(
    packet: PacketType,
    version: ProtocolVersion,
    mut reader: Reader<'a>,
) -> Result<Ack<'a>, DecodeError> {
    let id = packet_id(packet, &mut reader)?;
    if reader.is_empty() {
        return Ok(Ack::new(id, ReasonCode::Success));
    }
    if !version.is_v5() {
        return Err(DecodeError::TrailingBytes);
    }
    let value = reader.u8()?;
    let reason = ReasonCode::from_u8(value).filter(|reason| reason.is_allowed_in(packet));
    let reason = reason.ok_or(DecodeError::InvalidReasonCode { packet, value })?;
    let mut ack = Ack::new(id, reason);
    if !reader.is_empty() {
        let section = match packet {
            PacketType::PubAck => Section::PubAck,
            PacketType::PubRec => Section::PubRec,
            PacketType::PubRel => Section::PubRel,
            _ => Section::PubComp,
        };
        (ack.reason_string, ack.user_properties) = reason_properties(section, &mut reader)?;
        reader.finish()?;
    }
    Ok(ack)
}

/// A section that holds Reason String and User Properties only.
pub(super) fn reason_properties<'a>(
    section: Section,
    reader: &mut Reader<'a>,
) -> Result<(Option<&'a str>, UserProperties<'a>), DecodeError> {
    let mut properties = Properties::new(section, reader.property_section()?);
    let mut reason_string = None;
    while let Some(property) = properties.next()? {
        match property {
            Property::ReasonString(value) => reason_string = Some(value),
            Property::UserProperty(_) => {}
            other => return Err(properties.refuse(&other)),
        }
    }
    Ok((reason_string, UserProperties::decoded(properties.user_properties())))
}

/// DISCONNECT. In 5.0 both Reason Code and properties may be left out (section 3.14.2).
pub(super) fn disconnect<'a>(
    sender: Sender,
    version: ProtocolVersion,
    mut reader: Reader<'a>,
) -> Result<Disconnect<'a>, DecodeError> {
    let mut read = Disconnect { reason: ReasonCode::Success, properties: DisconnectProperties::default() };
    // The header has made sure that nothing follows in 3.1 and 3.1.1.
    if !version.is_v5() || reader.is_empty() {
        return Ok(read);
    }
    read.reason = reason(sender, PacketType::Disconnect, reader.u8()?)?;
    if reader.is_empty() {
        return Ok(read);
    }
    let mut properties = Properties::new(Section::Disconnect, reader.property_section()?);
    reader.finish()?;
    while let Some(property) = properties.next()? {
        match property {
            // Only from client to server [MQTT-3.14.2-2], only from server to client (section 3.14.2.2.5).
            Property::SessionExpiryInterval(value) if sender == Sender::Client => {
                read.properties.session_expiry = Some(value);
            }
            Property::ServerReference(value) if sender == Sender::Server => {
                read.properties.server_reference = Some(value);
            }
            Property::ReasonString(value) => read.properties.reason_string = Some(value),
            Property::UserProperty(_) => {}
            other => return Err(properties.refuse(&other)),
        }
    }
    read.properties.user_properties = UserProperties::decoded(properties.user_properties());
    Ok(read)
}

/// AUTH. An empty one means Success (section 3.15.2.1), which only a server can say.
pub(super) fn auth<'a>(sender: Sender, mut reader: Reader<'a>) -> Result<Auth<'a>, DecodeError> {
    let code = if reader.is_empty() { ReasonCode::Success.value() } else { reader.u8()? };
    let reason = reason(sender, PacketType::Auth, code)?;
    let mut read = AuthProperties::default();
    if !reader.is_empty() {
        let mut properties = Properties::new(Section::Auth, reader.property_section()?);
        reader.finish()?;
        while let Some(property) = properties.next()? {
            match property {
                Property::AuthenticationMethod(value) => read.authentication_method = Some(value),
                Property::AuthenticationData(value) => read.authentication_data = Some(value),
                Property::ReasonString(value) => read.reason_string = Some(value),
                Property::UserProperty(_) => {}
                other => return Err(properties.refuse(&other)),
            }
        }
        read.user_properties = UserProperties::decoded(properties.user_properties());
    }
    let auth = Auth { reason, properties: read };
    check::auth(&auth)?;
    Ok(auth)
}
