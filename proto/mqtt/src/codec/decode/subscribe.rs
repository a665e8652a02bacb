//! SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK.

use super::{Properties, Reader, ack::reason_properties, packet_id};
use crate::{
    ProtocolVersion, ReasonCode,
    codec::{DecodeError, Property, Section, check},
    packet::{
        FilterNames, Filters, PacketType, ReasonCodes, SubAck, Subscribe, SubscriptionOptions, UnsubAck,
        Unsubscribe, UserProperties,
    },
};

pub(super) fn subscribe<'a>(
    version: ProtocolVersion,
    mut reader: Reader<'a>,
) -> Result<Subscribe<'a>, DecodeError> {
    let id = packet_id(PacketType::Subscribe, &mut reader)?;
    let (mut subscription_id, mut user_properties) = (None, UserProperties::default());
    if version.is_v5() {
        let mut properties = Properties::new(Section::Subscribe, reader.property_section()?);
        while let Some(property) = properties.next()? {
            match property {
                Property::SubscriptionIdentifier(value) => subscription_id = Some(value.0),
                Property::UserProperty(_) => {}
                other => return Err(properties.refuse(&other)),
            }
        }
        user_properties = UserProperties::decoded(properties.user_properties());
    }
    let bytes = reader.rest();
    let mut count = 0;
    while !reader.is_empty() {
        let filter = reader.string()?;
        let options = options(version, reader.u8()?)?;
        check::no_local(filter, options)?;
        count += 1;
    }
    if count == 0 {
        return Err(DecodeError::EmptyPayload(PacketType::Subscribe));
    }
    Ok(Subscribe { id, subscription_id, user_properties, filters: Filters::decoded((bytes, count)) })
}

/// In 3.1.1 the upper six bits are reserved, and QoS 3 is malformed too (v3.1.1: MQTT-3.8.3-4).
fn options(version: ProtocolVersion, bits: u8) -> Result<SubscriptionOptions, DecodeError> {
    if !version.is_v5() && bits & 0b1111_1100 != 0 {
        return Err(DecodeError::SubscriptionOptionsReserved);
    }
    SubscriptionOptions::from_bits(bits)
}

pub(super) fn unsubscribe<'a>(
    version: ProtocolVersion,
    mut reader: Reader<'a>,
) -> Result<Unsubscribe<'a>, DecodeError> {
    let id = packet_id(PacketType::Unsubscribe, &mut reader)?;
    let mut user_properties = UserProperties::default();
    if version.is_v5() {
        let mut properties = Properties::new(Section::Unsubscribe, reader.property_section()?);
        while let Some(property) = properties.next()? {
            match property {
                Property::UserProperty(_) => {}
                other => return Err(properties.refuse(&other)),
            }
        }
        user_properties = UserProperties::decoded(properties.user_properties());
    }
    let bytes = reader.rest();
    let mut count = 0;
    while !reader.is_empty() {
        reader.string()?;
        count += 1;
    }
    if count == 0 {
        return Err(DecodeError::EmptyPayload(PacketType::Unsubscribe));
    }
    Ok(Unsubscribe { id, user_properties, filters: FilterNames::decoded((bytes, count)) })
}

pub(super) fn suback<'a>(
    version: ProtocolVersion,
    mut reader: Reader<'a>,
) -> Result<SubAck<'a>, DecodeError> {
    let id = packet_id(PacketType::SubAck, &mut reader)?;
    let (mut reason_string, mut user_properties) = (None, UserProperties::default());
    if version.is_v5() {
        (reason_string, user_properties) = reason_properties(Section::SubAck, &mut reader)?;
    }
    let is_allowed = |reason: ReasonCode| {
        reason.is_allowed_in(PacketType::SubAck) && (version.is_v5() || reason.suback_v3() == reason.value())
    };
    let reasons = reason_codes(PacketType::SubAck, reader, is_allowed)?;
    Ok(SubAck { id, reason_string, user_properties, reasons })
}

pub(super) fn unsuback<'a>(
    version: ProtocolVersion,
    mut reader: Reader<'a>,
) -> Result<UnsubAck<'a>, DecodeError> {
    let id = packet_id(PacketType::UnsubAck, &mut reader)?;
    if !version.is_v5() {
        reader.finish()?;
        let (user_properties, reasons) = (UserProperties::default(), ReasonCodes::default());
        return Ok(UnsubAck { id, reason_string: None, user_properties, reasons });
    }
    let (reason_string, user_properties) = reason_properties(Section::UnsubAck, &mut reader)?;
    let is_allowed = |reason: ReasonCode| reason.is_allowed_in(PacketType::UnsubAck);
    let reasons = reason_codes(PacketType::UnsubAck, reader, is_allowed)?;
    Ok(UnsubAck { id, reason_string, user_properties, reasons })
}

/// All that is left: at least one code.
fn reason_codes(
    packet: PacketType,
    reader: Reader<'_>,
    is_allowed: impl Fn(ReasonCode) -> bool,
) -> Result<ReasonCodes<'_>, DecodeError> {
    let bytes = reader.rest();
    let is_wrong = |value: &u8| !ReasonCode::from_u8(*value).is_some_and(&is_allowed);
    if let Some(&value) = bytes.iter().find(|value| is_wrong(value)) {
        return Err(DecodeError::InvalidReasonCode { packet, value });
    }
    match u32::try_from(bytes.len()) {
        Ok(count @ 1..) => Ok(ReasonCodes::decoded((bytes, count))),
        _ => Err(DecodeError::EmptyPayload(packet)),
    }
}
