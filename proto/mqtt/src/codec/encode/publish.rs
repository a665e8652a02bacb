//! PUBLISH: one message for one receiver, the hot path; and a packet as a client sends it.

use std::num::NonZeroU16;

use super::write;
use crate::{
    ProtocolVersion, SubscriptionIds, Transit,
    codec::{DecodeError, EncodeError, Property, PropertyId, SendBuffer, SubscriptionId, check, varint},
    packet::{Delivery, PacketType, Publish, PublishProperties},
};

/// What differs between the receivers of one message.
#[derive(Debug, Clone)]
pub struct PublishHead<'a> {
    /// QoS, identifier, DUP.
    pub delivery: Delivery,
    /// RETAIN.
    pub retain: bool,
    /// How the topic is written.
    pub topic: TopicForm,
    /// Message Expiry Interval: what is left of it, in seconds.
    pub message_expiry: Option<u32>,
    /// Subscription Identifiers.
    pub subscription_ids: &'a SubscriptionIds,
}

/// How the topic of an outgoing PUBLISH is written. 3.1 and 3.1.1 have [`TopicForm::Full`] only, and get it always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicForm {
    /// In full.
    Full,
    /// In full, together with an alias for the next time.
    Introduce(NonZeroU16),
    /// By its alias.
    Alias(NonZeroU16),
}

/// The length of the packet that [`encode_publish`] would write.
///
/// A packet longer than the receiver's Maximum Packet Size [MQTT-3.1.2-24], or than [`MAX_PACKET_LEN`], must not be
/// written.
#[must_use]
pub fn publish_len(transit: &Transit<'_>, version: ProtocolVersion, head: &PublishHead<'_>) -> usize {
    let Layout { remaining, .. } = Layout::of(transit, version, head);
    1 + varint::len(remaining) + remaining
}

/// The longest packet that the protocol can write down, in bytes: a Remaining Length of 268,435,455 after a fixed
/// header of five bytes.
pub const MAX_PACKET_LEN: usize = 5 + varint::MAX as usize;

/// Appends the PUBLISH of a message for one receiver. A large payload that can be shared is not copied.
///
/// The caller has held [`publish_len`] against [`MAX_PACKET_LEN`]. Of a longer packet nothing is written.
pub fn encode_publish(
    transit: &Transit<'_>,
    version: ProtocolVersion,
    head: &PublishHead<'_>,
    out: &mut SendBuffer,
) {
    let layout = Layout::of(transit, version, head);
    if layout.remaining > varint::MAX as usize {
        debug_assert!(false, "the caller has checked the length");
        return;
    }
    let payload = transit.payload;
    let shared = if payload.len() < SHARED_PAYLOAD_MIN { None } else { transit.shared_payload() };
    let copied = if shared.is_some() { 0 } else { payload.len() };

    let tail = out.tail();
    tail.reserve(1 + varint::len(layout.remaining) + layout.remaining - payload.len() + copied);
    tail.push(first_byte(head.delivery, head.retain));
    varint::write(layout.remaining, tail);
    tail.extend_from_slice(&layout.topic_len.to_be_bytes());
    tail.extend_from_slice(&transit.topic.as_bytes()[..usize::from(layout.topic_len)]);
    if let Some(id) = head.delivery.packet_id() {
        tail.extend_from_slice(&id.value().to_be_bytes());
    }
    if version.is_v5() {
        varint::write(layout.properties, tail);
        if layout.properties > 0 {
            write_properties(transit, head, tail);
        }
    }
    match shared {
        Some(shared) => out.push_shared(shared),
        None => tail.extend_from_slice(payload),
    }
}

/// From this length on a payload that can be shared is not copied: below it, copying is cheaper than one more piece
/// in the gathering write.
pub const SHARED_PAYLOAD_MIN: usize = 16 * 1024;

/// The lengths inside a PUBLISH.
struct Layout {
    topic_len: u16,
    /// Property Length.
    properties: usize,
    /// Remaining Length.
    remaining: usize,
}

impl Layout {
    #[inline]
    fn of(transit: &Transit<'_>, version: ProtocolVersion, head: &PublishHead<'_>) -> Self {
        let is_v5 = version.is_v5();
        // A Topic Name was a string on the wire once, or was checked like one.
        let full = || u16::try_from(transit.topic.len()).expect("a topic name has at most 65,535 bytes");
        let topic_len = if is_v5 && matches!(head.topic, TopicForm::Alias(_)) { 0 } else { full() };
        let (mut properties, mut section) = (0, 0);
        if is_v5 {
            properties = transit.properties.len()
                + if matches!(head.topic, TopicForm::Full) { 0 } else { 1 + 2 }
                + if head.message_expiry.is_some() { 1 + 4 } else { 0 };
            for id in head.subscription_ids.as_slice() {
                properties += 1 + varint::len(id.get() as usize);
            }
            section = varint::len(properties) + properties;
        }
        let id = if head.delivery.packet_id().is_some() { 2 } else { 0 };
        Self {
            topic_len,
            properties,
            remaining: 2 + usize::from(topic_len) + id + section + transit.payload.len(),
        }
    }
}

fn write_properties(transit: &Transit<'_>, head: &PublishHead<'_>, out: &mut Vec<u8>) {
    if let Some(seconds) = head.message_expiry {
        out.push(PropertyId::MessageExpiryInterval as u8);
        out.extend_from_slice(&seconds.to_be_bytes());
    }
    if let TopicForm::Introduce(alias) | TopicForm::Alias(alias) = head.topic {
        out.push(PropertyId::TopicAlias as u8);
        out.extend_from_slice(&alias.get().to_be_bytes());
    }
    for id in head.subscription_ids.as_slice() {
        out.push(PropertyId::SubscriptionIdentifier as u8);
        varint::write(id.get() as usize, out);
    }
    out.extend_from_slice(transit.properties);
}

/// A PUBLISH as [`super::encode`] writes it.
pub(super) fn publish(
    publish: &Publish<'_>,
    version: ProtocolVersion,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    check::topic_name(publish.topic)?;
    let has_alias = version.is_v5() && publish.properties.topic_alias.is_some();
    if publish.topic.is_empty() && !has_alias {
        return Err(DecodeError::TopicNameEmpty.into());
    }
    out.push(first_byte(publish.delivery, publish.retain));
    write::section(out, publish.payload.len(), |out| {
        write::string(publish.topic, out)?;
        if let Some(id) = publish.delivery.packet_id() {
            out.extend_from_slice(&id.value().to_be_bytes());
        }
        if version.is_v5() { properties(&publish.properties, out) } else { Ok(()) }
    })?;
    out.extend_from_slice(publish.payload);
    Ok(())
}

/// In the order in which [`encode_publish`] writes them.
fn properties(properties: &PublishProperties<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    write::section(out, 0, |out| {
        write::property(properties.message_expiry.map(Property::MessageExpiryInterval), out)?;
        write::property(properties.topic_alias.map(Property::TopicAlias), out)?;
        for id in properties.subscription_ids.iter() {
            Property::SubscriptionIdentifier(SubscriptionId(id)).write(out)?;
        }
        forwarded_properties(properties, out)
    })
}

/// Those properties that go to every receiver.
pub(super) fn forwarded_properties(
    properties: &PublishProperties<'_>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    properties.response_topic.map_or(Ok(()), check::response_topic)?;
    write::property(properties.payload_is_utf8.map(Property::PayloadFormatIndicator), out)?;
    write::property(properties.content_type.map(Property::ContentType), out)?;
    write::property(properties.response_topic.map(Property::ResponseTopic), out)?;
    write::property(properties.correlation_data.map(Property::CorrelationData), out)?;
    write::user_properties(&properties.user_properties, out)
}

#[inline]
const fn first_byte(delivery: Delivery, retain: bool) -> u8 {
    let flags = match delivery {
        Delivery::AtMostOnce => 0,
        Delivery::AtLeastOnce { dup, .. } => 0b0010 | (dup as u8) << 3,
        Delivery::ExactlyOnce { dup, .. } => 0b0100 | (dup as u8) << 3,
    };
    (PacketType::Publish as u8) << 4 | flags | retain as u8
}
