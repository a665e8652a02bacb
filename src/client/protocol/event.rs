//! What a broker says, in owned form.

use std::num::NonZeroU32;

use flotilla_mqtt::{
    ReasonCode,
    packet::{Delivery, PublishProperties},
};

/// What the broker says, as far as somebody has to decide something.
#[derive(Debug, PartialEq)]
pub(in crate::client) enum Event {
    /// It has answered CONNECT.
    Greeted(Greeting),
    /// A message, not seen before on this connection.
    Message(Received),
    /// It is done with a message of ours.
    Published { reason: ReasonCode, text: Option<String> },
    /// It has answered SUBSCRIBE.
    Subscribed { reasons: Vec<ReasonCode>, text: Option<String> },
    /// It is alive.
    Pong,
}

/// The answer to CONNECT.
#[derive(Debug, PartialEq)]
pub(in crate::client) struct Greeting {
    pub(in crate::client) reason: ReasonCode,
    pub(in crate::client) text: Option<String>,
    pub(in crate::client) session_present: bool,
    pub(in crate::client) assigned_client_id: Option<String>,
    pub(in crate::client) server_keep_alive: Option<u16>,
}

/// A message from the broker.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::client) struct Received {
    pub(in crate::client) topic: String,
    pub(in crate::client) payload: Vec<u8>,
    pub(in crate::client) delivery: Delivery,
    pub(in crate::client) retain: bool,
    pub(in crate::client) properties: ReceivedProperties,
}

/// Its properties.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::client) struct ReceivedProperties {
    pub(in crate::client) payload_is_utf8: Option<bool>,
    pub(in crate::client) message_expiry: Option<u32>,
    pub(in crate::client) content_type: Option<String>,
    pub(in crate::client) response_topic: Option<String>,
    pub(in crate::client) correlation_data: Option<Vec<u8>>,
    pub(in crate::client) subscription_ids: Vec<u32>,
    pub(in crate::client) user_properties: Vec<(String, String)>,
}

impl From<&PublishProperties<'_>> for ReceivedProperties {
    fn from(properties: &PublishProperties<'_>) -> Self {
        let user_properties = properties.user_properties.iter();
        Self {
            payload_is_utf8: properties.payload_is_utf8,
            message_expiry: properties.message_expiry,
            content_type: properties.content_type.map(str::to_owned),
            response_topic: properties.response_topic.map(str::to_owned),
            correlation_data: properties.correlation_data.map(<[u8]>::to_vec),
            subscription_ids: properties.subscription_ids.iter().map(NonZeroU32::get).collect(),
            user_properties: user_properties
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        }
    }
}
