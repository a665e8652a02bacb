//! CONNECT and CONNACK.

use super::{Properties, Reader};
use crate::{
    ProtocolVersion, QoS, ReasonCode,
    codec::{DecodeError, Property, Section, check, varint},
    packet::{
        ConnAck, ConnAckProperties, Connect, ConnectProperties, LastWill, PacketType, UserProperties,
        WillProperties,
    },
};

/// The version in whose form a refusal of the CONNECT at the start of `bytes` can be written; `None`: these bytes are
/// not a CONNECT, or not enough of one, and whoever sent them gets no answer.
///
/// For a server whose decoder has refused the first packet, and which wants to say why. Levels 5 to 127 are taken
/// for something that understands the form of 5.0, all others for something that understands that of 3.1.1; among these
/// are 3 and 4 with the top bit set, by which Mosquitto's bridges ask for a peer of their kind: refused with the return
/// code 1 of 3.1.1, they try again without.
#[must_use]
pub fn refusal_version(bytes: &[u8]) -> Option<ProtocolVersion> {
    let (first, rest) = bytes.split_first()?;
    let (_, len) = varint::read(rest).ok()??;
    let mut reader = Reader::new(rest.get(len..)?);
    let is_connect = first >> 4 == PacketType::Connect as u8;
    match protocol(&mut reader) {
        Ok(version) if is_connect => Some(version),
        Err(DecodeError::UnsupportedProtocol { answer, .. }) if is_connect => Some(answer),
        _ => None,
    }
}

/// Protocol Name and Protocol Level.
fn protocol(reader: &mut Reader<'_>) -> Result<ProtocolVersion, DecodeError> {
    // Any bytes will do for a name that is not spoken here: they need not be UTF-8 to be refused.
    let name = reader.binary()?;
    let level = reader.u8()?;
    match (name, level) {
        (b"MQTT", 5) => Ok(ProtocolVersion::V5),
        (b"MQTT", 4) => Ok(ProtocolVersion::V311),
        (b"MQIsdp", 3) => Ok(ProtocolVersion::V31),
        (_, 5..=127) => Err(DecodeError::UnsupportedProtocol { level, answer: ProtocolVersion::V5 }),
        _ => Err(DecodeError::UnsupportedProtocol { level, answer: ProtocolVersion::V311 }),
    }
}

/// The Connect Flags (section 3.1.2.3).
#[derive(Clone, Copy)]
pub(in crate::codec) struct ConnectFlags(u8);

impl ConnectFlags {
    pub(in crate::codec) const CLEAN_START: u8 = 1 << 1;
    pub(in crate::codec) const WILL: u8 = 1 << 2;
    pub(in crate::codec) const WILL_RETAIN: u8 = 1 << 5;
    pub(in crate::codec) const PASSWORD: u8 = 1 << 6;
    pub(in crate::codec) const USERNAME: u8 = 1 << 7;

    const fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    /// Checks that the flags do not contradict each other; returns Will QoS.
    fn check(self, version: ProtocolVersion) -> Result<QoS, DecodeError> {
        if self.has(1) {
            return Err(DecodeError::ConnectReservedFlag);
        }
        let will_qos = QoS::from_u8(self.0 >> 3 & 0b11).ok_or(DecodeError::WillFlags)?;
        let has_will_options = will_qos != QoS::AtMostOnce || self.has(Self::WILL_RETAIN);
        if has_will_options && !self.has(Self::WILL) {
            return Err(DecodeError::WillFlags);
        }
        if !version.is_v5() && self.has(Self::PASSWORD) && !self.has(Self::USERNAME) {
            return Err(DecodeError::PasswordWithoutUserName);
        }
        Ok(will_qos)
    }
}

pub(super) fn connect(mut reader: Reader<'_>) -> Result<Connect<'_>, DecodeError> {
    let version = protocol(&mut reader)?;
    let flags = ConnectFlags(reader.u8()?);
    let will_qos = flags.check(version)?;
    let keep_alive = reader.u16()?;
    let properties =
        if version.is_v5() { connect_properties(&mut reader)? } else { ConnectProperties::default() };

    let client_id = reader.string()?;
    let will = if flags.has(ConnectFlags::WILL) {
        let properties =
            if version.is_v5() { will_properties(&mut reader)? } else { WillProperties::default() };
        let (topic, payload) = (reader.string()?, reader.binary()?);
        let retain = flags.has(ConnectFlags::WILL_RETAIN);
        Some(LastWill { topic, payload, qos: will_qos, retain, properties })
    } else {
        None
    };
    // "The Remaining Length field takes precedence over the User Name flag" (v3.1: section 3.1), for 3.1 alone.
    let may_be_missing = version == ProtocolVersion::V31;
    let is_there = |flag, reader: &Reader<'_>| flags.has(flag) && !(may_be_missing && reader.is_empty());
    let username = is_there(ConnectFlags::USERNAME, &reader).then(|| reader.string()).transpose()?;
    let password = is_there(ConnectFlags::PASSWORD, &reader).then(|| reader.binary()).transpose()?;
    reader.finish()?;
    let clean_start = flags.has(ConnectFlags::CLEAN_START);
    Ok(Connect { version, clean_start, keep_alive, client_id, will, username, password, properties })
}

fn connect_properties<'a>(reader: &mut Reader<'a>) -> Result<ConnectProperties<'a>, DecodeError> {
    let mut properties = Properties::new(Section::Connect, reader.property_section()?);
    let mut read = ConnectProperties::default();
    while let Some(property) = properties.next()? {
        match property {
            Property::SessionExpiryInterval(value) => read.session_expiry = value,
            Property::ReceiveMaximum(value) => read.receive_maximum = value,
            Property::MaximumPacketSize(value) => read.maximum_packet_size = Some(value),
            Property::TopicAliasMaximum(value) => read.topic_alias_maximum = value,
            Property::RequestResponseInformation(value) => read.request_response_information = value,
            Property::RequestProblemInformation(value) => read.request_problem_information = value,
            Property::AuthenticationMethod(value) => read.authentication_method = Some(value),
            Property::AuthenticationData(value) => read.authentication_data = Some(value),
            Property::UserProperty(_) => {}
            other => return Err(properties.refuse(&other)),
        }
    }
    read.user_properties = UserProperties::decoded(properties.user_properties());
    check::auth_data(read.authentication_method, read.authentication_data)?;
    Ok(read)
}

fn will_properties<'a>(reader: &mut Reader<'a>) -> Result<WillProperties<'a>, DecodeError> {
    let mut properties = Properties::new(Section::Will, reader.property_section()?);
    let mut read = WillProperties::default();
    while let Some(property) = properties.next()? {
        match property {
            Property::WillDelayInterval(value) => read.delay = value,
            Property::PayloadFormatIndicator(value) => read.payload_is_utf8 = Some(value),
            Property::MessageExpiryInterval(value) => read.message_expiry = Some(value),
            Property::ContentType(value) => read.content_type = Some(value),
            Property::ResponseTopic(value) => read.response_topic = Some(value),
            Property::CorrelationData(value) => read.correlation_data = Some(value),
            Property::UserProperty(_) => {}
            other => return Err(properties.refuse(&other)),
        }
    }
    read.user_properties = UserProperties::decoded(properties.user_properties());
    Ok(read)
}

pub(super) fn connack<'a>(
    version: ProtocolVersion,
    mut reader: Reader<'a>,
) -> Result<ConnAck<'a>, DecodeError> {
    // 3.1 has no such flags: the byte is not used there.
    let flags = match (version, reader.u8()?) {
        (ProtocolVersion::V31, _) => 0,
        (_, flags @ 0..=1) => flags,
        _ => return Err(DecodeError::ConnAckFlags),
    };
    let session_present = flags != 0;
    let value = reader.u8()?;
    let reason = if version.is_v5() {
        ReasonCode::from_u8(value).filter(|reason| reason.is_allowed_in(PacketType::ConnAck))
    } else {
        ReasonCode::from_connack_v3(value)
    };
    let reason = reason.ok_or(DecodeError::InvalidReasonCode { packet: PacketType::ConnAck, value })?;
    check::session_present(session_present, reason)?;
    let properties =
        if version.is_v5() { connack_properties(&mut reader)? } else { ConnAckProperties::default() };
    reader.finish()?;
    Ok(ConnAck { session_present, reason, properties })
}

fn connack_properties<'a>(reader: &mut Reader<'a>) -> Result<ConnAckProperties<'a>, DecodeError> {
    let mut properties = Properties::new(Section::ConnAck, reader.property_section()?);
    let mut read = ConnAckProperties::default();
    while let Some(property) = properties.next()? {
        match property {
            Property::SessionExpiryInterval(value) => read.session_expiry = Some(value),
            Property::ReceiveMaximum(value) => read.receive_maximum = Some(value),
            Property::MaximumQoS(value) => read.maximum_qos = Some(value),
            Property::RetainAvailable(value) => read.retain_available = Some(value),
            Property::MaximumPacketSize(value) => read.maximum_packet_size = Some(value),
            Property::AssignedClientIdentifier(value) => read.assigned_client_id = Some(value),
            Property::TopicAliasMaximum(value) => read.topic_alias_maximum = Some(value),
            Property::ReasonString(value) => read.reason_string = Some(value),
            Property::WildcardSubscriptionAvailable(value) => {
                read.wildcard_subscription_available = Some(value);
            }
            Property::SubscriptionIdentifierAvailable(value) => {
                read.subscription_identifiers_available = Some(value);
            }
            Property::SharedSubscriptionAvailable(value) => read.shared_subscription_available = Some(value),
            Property::ServerKeepAlive(value) => read.server_keep_alive = Some(value),
            Property::ResponseInformation(value) => read.response_information = Some(value),
            Property::ServerReference(value) => read.server_reference = Some(value),
            Property::AuthenticationMethod(value) => read.authentication_method = Some(value),
            Property::AuthenticationData(value) => read.authentication_data = Some(value),
            Property::UserProperty(_) => {}
            other => return Err(properties.refuse(&other)),
        }
    }
    read.user_properties = UserProperties::decoded(properties.user_properties());
    check::auth_data(read.authentication_method, read.authentication_data)?;
    Ok(read)
}
