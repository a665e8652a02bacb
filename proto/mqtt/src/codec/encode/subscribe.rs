//! SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK.

use super::{
    ack::{allowed, reason_properties},
    first_byte, write,
};
use crate::{
    ProtocolVersion,
    codec::{DecodeError, EncodeError, Property, SubscriptionId, check},
    packet::{PacketType, ReasonCodes, SubAck, Subscribe, UnsubAck, Unsubscribe},
};

pub(super) fn subscribe(
    subscribe: &Subscribe<'_>,
    version: ProtocolVersion,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    if subscribe.filters.is_empty() {
        return Err(DecodeError::EmptyPayload(PacketType::Subscribe).into());
    }
    out.push(first_byte(PacketType::Subscribe));
    write::section(out, 0, |out| {
        out.extend_from_slice(&subscribe.id.value().to_be_bytes());
        if version.is_v5() {
            write::section(out, 0, |out| {
                let id =
                    subscribe.subscription_id.map(|id| Property::SubscriptionIdentifier(SubscriptionId(id)));
                write::property(id, out)?;
                write::user_properties(&subscribe.user_properties, out)
            })?;
        }
        subscribe.filters.iter().try_for_each(|(filter, options)| {
            write::string(filter, out)?;
            if version.is_v5() {
                check::no_local(filter, options)?;
                out.push(options.bits());
            } else {
                out.push(options.qos as u8);
            }
            Ok(())
        })
    })
}

pub(super) fn unsubscribe(
    unsubscribe: &Unsubscribe<'_>,
    version: ProtocolVersion,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    if unsubscribe.filters.is_empty() {
        return Err(DecodeError::EmptyPayload(PacketType::Unsubscribe).into());
    }
    out.push(first_byte(PacketType::Unsubscribe));
    write::section(out, 0, |out| {
        out.extend_from_slice(&unsubscribe.id.value().to_be_bytes());
        if version.is_v5() {
            write::section(out, 0, |out| write::user_properties(&unsubscribe.user_properties, out))?;
        }
        unsubscribe.filters.iter().try_for_each(|filter| write::string(filter, out))
    })
}

pub(super) fn suback(
    suback: &SubAck<'_>,
    version: ProtocolVersion,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    check_reasons(&suback.reasons, PacketType::SubAck)?;
    out.push(first_byte(PacketType::SubAck));
    write::section(out, 0, |out| {
        out.extend_from_slice(&suback.id.value().to_be_bytes());
        if version.is_v5() {
            reason_properties(suback.reason_string, &suback.user_properties, out)?;
            out.extend(suback.reasons.iter().map(|reason| reason.value()));
        } else {
            out.extend(suback.reasons.iter().map(|reason| reason.suback_v3()));
        }
        Ok(())
    })
}

pub(super) fn unsuback(
    unsuback: &UnsubAck<'_>,
    version: ProtocolVersion,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let id = unsuback.id.value().to_be_bytes();
    out.push(first_byte(PacketType::UnsubAck));
    if !version.is_v5() {
        out.extend_from_slice(&[2, id[0], id[1]]);
        return Ok(());
    }
    check_reasons(&unsuback.reasons, PacketType::UnsubAck)?;
    write::section(out, 0, |out| {
        out.extend_from_slice(&id);
        reason_properties(unsuback.reason_string, &unsuback.user_properties, out)?;
        out.extend(unsuback.reasons.iter().map(|reason| reason.value()));
        Ok(())
    })
}

fn check_reasons(reasons: &ReasonCodes<'_>, packet: PacketType) -> Result<(), EncodeError> {
    if reasons.is_empty() {
        return Err(DecodeError::EmptyPayload(packet).into());
    }
    reasons.iter().try_for_each(|reason| allowed(reason, packet))
}
