//! SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK.

use std::num::NonZeroU32;

use super::{FilterNames, Filters, PacketId, QoS, ReasonCodes, UserProperties};
use crate::codec::DecodeError;

/// SUBSCRIBE (section 3.8).
#[derive(Debug, Clone, PartialEq)]
pub struct Subscribe<'a> {
    /// Packet Identifier.
    pub id: PacketId,
    /// Subscription Identifier, 1..=268,435,455.
    pub subscription_id: Option<NonZeroU32>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
    /// At least one filter with its options, in order. Checked for UTF-8 only: whether each is a valid Topic Filter
    /// decides its code in the SUBACK.
    pub filters: Filters<'a>,
}

/// Subscription Options (section 3.8.3.1). 3.1 and 3.1.1 have the QoS only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SubscriptionOptions {
    /// Maximum QoS at which the server sends.
    pub qos: QoS,
    /// No Local: not what this client published itself.
    pub no_local: bool,
    /// Retain As Published: keep the RETAIN flag of the publisher.
    pub retain_as_published: bool,
    /// When retained messages are sent.
    pub retain_handling: RetainHandling,
}

impl SubscriptionOptions {
    /// Reads the byte that follows a filter. Those of 3.1.1 are a subset: there the upper six bits are reserved.
    ///
    /// # Errors
    /// Reserved bits are set, or a QoS or Retain Handling of 3.
    pub const fn from_bits(bits: u8) -> Result<Self, DecodeError> {
        if bits & 0b1100_0000 != 0 {
            return Err(DecodeError::SubscriptionOptionsReserved);
        }
        let Some(qos) = QoS::from_u8(bits & 0b11) else { return Err(DecodeError::SubscriptionQoS3) };
        let retain_handling = match bits >> 4 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return Err(DecodeError::RetainHandling3),
        };
        let (no_local, retain_as_published) = (bits & 0b100 != 0, bits & 0b1000 != 0);
        Ok(Self { qos, no_local, retain_as_published, retain_handling })
    }

    /// The byte that follows a filter.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.qos as u8
            | (self.no_local as u8) << 2
            | (self.retain_as_published as u8) << 3
            | (self.retain_handling as u8) << 4
    }
}

/// Retain Handling (section 3.8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum RetainHandling {
    /// Send retained messages at each SUBSCRIBE.
    #[default]
    Send = 0,
    /// Send them only when the subscription is new.
    SendIfNew = 1,
    /// Do not send them.
    DoNotSend = 2,
}

/// SUBACK (section 3.9).
#[derive(Debug, Clone, PartialEq)]
pub struct SubAck<'a> {
    /// Of the SUBSCRIBE.
    pub id: PacketId,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
    /// One code for each filter, in order [MQTT-3.8.4-6].
    pub reasons: ReasonCodes<'a>,
}

/// UNSUBSCRIBE (section 3.10).
#[derive(Debug, Clone, PartialEq)]
pub struct Unsubscribe<'a> {
    /// Packet Identifier.
    pub id: PacketId,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
    /// At least one filter, in order.
    pub filters: FilterNames<'a>,
}

/// UNSUBACK (section 3.11). 3.1 and 3.1.1 have no codes: `reasons` is empty there.
#[derive(Debug, Clone, PartialEq)]
pub struct UnsubAck<'a> {
    /// Of the UNSUBSCRIBE.
    pub id: PacketId,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
    /// One code for each filter, in order [MQTT-3.11.3-1].
    pub reasons: ReasonCodes<'a>,
}
