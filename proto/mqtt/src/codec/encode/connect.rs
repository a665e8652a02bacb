//! CONNECT and CONNACK.

use super::{ack::allowed, first_byte, write};
use crate::{
    ProtocolVersion, QoS,
    codec::{ConnectFlags, DecodeError, EncodeError, Property, check},
    packet::{ConnAck, ConnAckProperties, Connect, ConnectProperties, LastWill, PacketType, WillProperties},
};

pub(super) fn connect(connect: &Connect<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let version = connect.version;
    if !version.is_v5() && connect.password.is_some() && connect.username.is_none() {
        return Err(DecodeError::PasswordWithoutUserName.into());
    }
    out.push(first_byte(PacketType::Connect));
    write::section(out, 0, |out| {
        write::string(version.protocol_name(), out)?;
        out.extend_from_slice(&[version as u8, connect_flags(connect)]);
        out.extend_from_slice(&connect.keep_alive.to_be_bytes());
        if version.is_v5() {
            connect_properties(&connect.properties, out)?;
        }
        write::string(connect.client_id, out)?;
        if let Some(LastWill { topic, payload, properties, .. }) = &connect.will {
            if version.is_v5() {
                write::section(out, 0, |out| will_properties(properties, out))?;
            }
            write::string(topic, out)?;
            write::binary(payload, out)?;
        }
        if let Some(username) = connect.username {
            write::string(username, out)?;
        }
        if let Some(password) = connect.password {
            write::binary(password, out)?;
        }
        Ok(())
    })
}

fn connect_flags(connect: &Connect<'_>) -> u8 {
    let flag = |is_set, flag| if is_set { flag } else { 0 };
    let will = connect.will.as_ref().map_or(0, |will| {
        ConnectFlags::WILL | (will.qos as u8) << 3 | flag(will.retain, ConnectFlags::WILL_RETAIN)
    });
    will | flag(connect.clean_start, ConnectFlags::CLEAN_START)
        | flag(connect.username.is_some(), ConnectFlags::USERNAME)
        | flag(connect.password.is_some(), ConnectFlags::PASSWORD)
}

fn connect_properties(properties: &ConnectProperties<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    check::auth_data(properties.authentication_method, properties.authentication_data)?;
    let default = ConnectProperties::default();
    let ConnectProperties { session_expiry, receive_maximum, topic_alias_maximum, .. } = *properties;
    let response = properties.request_response_information;
    let problem = properties.request_problem_information;
    write::section(out, 0, |out| {
        let unless_default = |is_default: bool, property| if is_default { None } else { Some(property) };
        for property in [
            unless_default(
                session_expiry == default.session_expiry,
                Property::SessionExpiryInterval(session_expiry),
            ),
            unless_default(
                receive_maximum == default.receive_maximum,
                Property::ReceiveMaximum(receive_maximum),
            ),
            properties.maximum_packet_size.map(Property::MaximumPacketSize),
            unless_default(topic_alias_maximum == 0, Property::TopicAliasMaximum(topic_alias_maximum)),
            unless_default(!response, Property::RequestResponseInformation(response)),
            unless_default(problem, Property::RequestProblemInformation(problem)),
            properties.authentication_method.map(Property::AuthenticationMethod),
            properties.authentication_data.map(Property::AuthenticationData),
        ] {
            write::property(property, out)?;
        }
        write::user_properties(&properties.user_properties, out)
    })
}

/// Will Properties without their length.
fn will_properties(properties: &WillProperties<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let delay = Some(properties.delay).filter(|delay| *delay != 0);
    write::property(delay.map(Property::WillDelayInterval), out)?;
    write::property(properties.message_expiry.map(Property::MessageExpiryInterval), out)?;
    forwarded_will_properties(properties, out)
}

/// Those Will Properties that become properties of the published will, in the order in which they are written.
pub(super) fn forwarded_will_properties(
    properties: &WillProperties<'_>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    properties.response_topic.map_or(Ok(()), check::response_topic)?;
    write::property(properties.payload_is_utf8.map(Property::PayloadFormatIndicator), out)?;
    write::property(properties.content_type.map(Property::ContentType), out)?;
    write::property(properties.response_topic.map(Property::ResponseTopic), out)?;
    write::property(properties.correlation_data.map(Property::CorrelationData), out)?;
    write::user_properties(&properties.user_properties, out)
}

pub(super) fn connack(
    connack: &ConnAck<'_>,
    version: ProtocolVersion,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    allowed(connack.reason, PacketType::ConnAck)?;
    check::session_present(connack.session_present, connack.reason)?;
    let first = first_byte(PacketType::ConnAck);
    let flags = u8::from(connack.session_present);
    match version {
        // 3.1 has no Session Present: the byte is not used there.
        ProtocolVersion::V31 => out.extend_from_slice(&[first, 2, 0, connack.reason.connack_v3()]),
        ProtocolVersion::V311 => out.extend_from_slice(&[first, 2, flags, connack.reason.connack_v3()]),
        ProtocolVersion::V5 => {
            out.push(first);
            write::section(out, 0, |out| {
                out.extend_from_slice(&[flags, connack.reason.value()]);
                connack_properties(&connack.properties, out)
            })?;
        }
    }
    Ok(())
}

fn connack_properties(properties: &ConnAckProperties<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    check::auth_data(properties.authentication_method, properties.authentication_data)?;
    // A Maximum QoS of 2 must not be written (section 3.2.2.3.4).
    let maximum_qos = properties.maximum_qos.filter(|qos| *qos != QoS::ExactlyOnce);
    write::section(out, 0, |out| {
        for property in [
            properties.session_expiry.map(Property::SessionExpiryInterval),
            properties.receive_maximum.map(Property::ReceiveMaximum),
            maximum_qos.map(Property::MaximumQoS),
            properties.retain_available.map(Property::RetainAvailable),
            properties.maximum_packet_size.map(Property::MaximumPacketSize),
            properties.assigned_client_id.map(Property::AssignedClientIdentifier),
            properties.topic_alias_maximum.map(Property::TopicAliasMaximum),
            properties.reason_string.map(Property::ReasonString),
            properties.wildcard_subscription_available.map(Property::WildcardSubscriptionAvailable),
            properties.subscription_identifiers_available.map(Property::SubscriptionIdentifierAvailable),
            properties.shared_subscription_available.map(Property::SharedSubscriptionAvailable),
            properties.server_keep_alive.map(Property::ServerKeepAlive),
            properties.response_information.map(Property::ResponseInformation),
            properties.server_reference.map(Property::ServerReference),
            properties.authentication_method.map(Property::AuthenticationMethod),
            properties.authentication_data.map(Property::AuthenticationData),
        ] {
            write::property(property, out)?;
        }
        write::user_properties(&properties.user_properties, out)
    })
}
