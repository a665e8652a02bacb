//! PUBLISH.

use std::num::NonZeroU16;

use super::{IdList, PacketId, QoS, UserProperties};

/// PUBLISH (section 3.3).
#[derive(Debug, Clone, PartialEq)]
pub struct Publish<'a> {
    /// QoS, with the identifier and DUP where the QoS has them.
    pub delivery: Delivery,
    /// RETAIN.
    pub retain: bool,
    /// Topic Name, without wildcards; empty only in 5.0 and only with a Topic Alias.
    pub topic: &'a str,
    /// 5.0 only.
    pub properties: PublishProperties<'a>,
    /// The Application Message.
    pub payload: &'a [u8],
}

/// How a PUBLISH is delivered. An identifier [MQTT-2.2.1-2] or DUP [MQTT-3.3.1-2] at QoS 0 cannot be written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// QoS 0.
    AtMostOnce,
    /// QoS 1.
    AtLeastOnce {
        /// Packet Identifier.
        id: PacketId,
        /// Sent before, perhaps.
        dup: bool,
    },
    /// QoS 2.
    ExactlyOnce {
        /// Packet Identifier.
        id: PacketId,
        /// Sent before, perhaps.
        dup: bool,
    },
}

impl Delivery {
    /// The QoS.
    #[must_use]
    pub const fn qos(self) -> QoS {
        match self {
            Self::AtMostOnce => QoS::AtMostOnce,
            Self::AtLeastOnce { .. } => QoS::AtLeastOnce,
            Self::ExactlyOnce { .. } => QoS::ExactlyOnce,
        }
    }

    /// The Packet Identifier, where there is one.
    #[must_use]
    pub const fn packet_id(self) -> Option<PacketId> {
        match self {
            Self::AtMostOnce => None,
            Self::AtLeastOnce { id, .. } | Self::ExactlyOnce { id, .. } => Some(id),
        }
    }
}

/// Properties of PUBLISH (section 3.3.2.3).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PublishProperties<'a> {
    /// Payload Format Indicator; true: the payload is UTF-8.
    pub payload_is_utf8: Option<bool>,
    /// Message Expiry Interval in seconds.
    pub message_expiry: Option<u32>,
    /// Topic Alias; zero does not get past the decoder (0x94).
    pub topic_alias: Option<NonZeroU16>,
    /// Response Topic, without wildcards.
    pub response_topic: Option<&'a str>,
    /// Correlation Data.
    pub correlation_data: Option<&'a [u8]>,
    /// User Properties, in order [MQTT-3.3.2-18].
    pub user_properties: UserProperties<'a>,
    /// Subscription Identifiers; only from server to client.
    pub subscription_ids: IdList<'a>,
    /// Content Type.
    pub content_type: Option<&'a str>,
    /// The property section as it was read, without its length; empty for a packet that was not decoded.
    ///
    /// Lets a broker forward properties without encoding them again: see [`crate::codec::forward_properties`].
    pub raw: RawProperties<'a>,
}

/// Encoded properties that take no part in comparisons.
#[derive(Debug, Clone, Copy, Default)]
pub struct RawProperties<'a>(pub &'a [u8]);

impl PartialEq for RawProperties<'_> {
    /// Always true: two packets are equal when they say the same, however they were encoded.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
