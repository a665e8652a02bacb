//! PUBLISH: the hot path. Nothing is allocated.

use super::{Properties, Reader, Sender, packet_id};
use crate::{
    ProtocolVersion,
    codec::{DecodeError, Property, PropertyId, Section},
    packet::{Delivery, IdList, PacketType, Publish, PublishProperties, RawProperties, UserProperties},
};

#[inline]
pub(super) fn publish<'a>(
    sender: Sender,
    version: ProtocolVersion,
    flags: u8,
    mut reader: Reader<'a>,
) -> Result<Publish<'a>, DecodeError> {
    let topic = reader.topic_name()?;
    let delivery = delivery(flags, &mut reader)?;
    let mut properties = PublishProperties::default();
    if version.is_v5() {
        let section = reader.property_section()?;
        if !section.is_empty() {
            properties = read_properties(sender, section)?;
        }
    }
    // An empty Topic Name needs an alias; 3.1 and 3.1.1 have none [MQTT-4.7.3-1].
    if topic.is_empty() && properties.topic_alias.is_none() {
        return Err(DecodeError::TopicNameEmpty);
    }
    Ok(Publish { delivery, retain: flags & 1 != 0, topic, properties, payload: reader.rest() })
}

#[inline]
fn delivery(flags: u8, reader: &mut Reader<'_>) -> Result<Delivery, DecodeError> {
    let dup = flags & 0b1000 != 0;
    match flags & 0b0110 {
        0 => Ok(Delivery::AtMostOnce),
        0b0010 => Ok(Delivery::AtLeastOnce { id: packet_id(PacketType::Publish, reader)?, dup }),
        // QoS 3 did not get past the header.
        _ => Ok(Delivery::ExactlyOnce { id: packet_id(PacketType::Publish, reader)?, dup }),
    }
}

/// Checks properties that are to be forwarded: see [`crate::codec::forward_properties`].
pub(crate) fn check_forwarded_properties(properties: &[u8]) -> Result<(), DecodeError> {
    if properties.is_empty() {
        return Ok(());
    }
    let read = read_properties(Sender::Client, Reader::new(properties))?;
    let refuse = |property| Err(DecodeError::PropertyNotAllowed { property, packet: PacketType::Publish });
    if read.topic_alias.is_some() {
        return refuse(PropertyId::TopicAlias);
    }
    if read.message_expiry.is_some() {
        return refuse(PropertyId::MessageExpiryInterval);
    }
    Ok(())
}

#[inline(never)]
fn read_properties<'a>(sender: Sender, section: Reader<'a>) -> Result<PublishProperties<'a>, DecodeError> {
    let mut properties = Properties::new(Section::Publish, section);
    let mut read = PublishProperties { raw: RawProperties(section.rest()), ..PublishProperties::default() };
    while let Some(property) = properties.next()? {
        match property {
            Property::PayloadFormatIndicator(value) => read.payload_is_utf8 = Some(value),
            Property::MessageExpiryInterval(value) => read.message_expiry = Some(value),
            Property::TopicAlias(value) => read.topic_alias = Some(value),
            Property::ResponseTopic(value) => read.response_topic = Some(value),
            Property::CorrelationData(value) => read.correlation_data = Some(value),
            Property::ContentType(value) => read.content_type = Some(value),
            // They say which subscriptions of the receiver matched; a client cannot know [MQTT-3.3.4-6].
            Property::SubscriptionIdentifier(_) if sender == Sender::Client => {
                return Err(DecodeError::SubscriptionIdFromClient);
            }
            Property::SubscriptionIdentifier(_) | Property::UserProperty(_) => {}
            other => return Err(properties.refuse(&other)),
        }
    }
    read.user_properties = UserProperties::decoded(properties.user_properties());
    read.subscription_ids = IdList::decoded(properties.subscription_ids());
    Ok(read)
}
