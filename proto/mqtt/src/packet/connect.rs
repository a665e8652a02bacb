//! CONNECT and CONNACK.

use std::num::{NonZeroU16, NonZeroU32};

use super::{ProtocolVersion, QoS, UserProperties};
use crate::ReasonCode;

/// CONNECT (section 3.1).
#[derive(Debug, Clone, PartialEq)]
pub struct Connect<'a> {
    /// The protocol that the client speaks from here on.
    pub version: ProtocolVersion,
    /// Clean Start (v3.1.1: Clean Session).
    pub clean_start: bool,
    /// Keep Alive in seconds; 0 turns it off.
    pub keep_alive: u16,
    /// The Client Identifier; empty asks the server for one.
    pub client_id: &'a str,
    /// What to publish when the connection ends without a DISCONNECT.
    pub will: Option<LastWill<'a>>,
    /// User Name.
    pub username: Option<&'a str>,
    /// Password: binary data.
    pub password: Option<&'a [u8]>,
    /// 5.0 only.
    pub properties: ConnectProperties<'a>,
}

/// Properties of CONNECT (section 3.1.2.11). What the client left out is at the specification's default.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectProperties<'a> {
    /// Session Expiry Interval in seconds; 0 ends the session with the connection, 0xFFFF_FFFF means never.
    pub session_expiry: u32,
    /// Receive Maximum: QoS 1 and 2 publishes that the client takes concurrently; 65,535 when absent.
    pub receive_maximum: NonZeroU16,
    /// Maximum Packet Size that the client takes, in bytes; `None`: no limit beyond the protocol's.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Topic Alias Maximum: the highest alias that the client takes; 0 allows none.
    pub topic_alias_maximum: u16,
    /// Request Response Information.
    pub request_response_information: bool,
    /// Request Problem Information; true when absent.
    pub request_problem_information: bool,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
    /// Authentication Method; present asks for enhanced authentication.
    pub authentication_method: Option<&'a str>,
    /// Authentication Data; never without a method.
    pub authentication_data: Option<&'a [u8]>,
}

impl Default for ConnectProperties<'_> {
    fn default() -> Self {
        Self {
            session_expiry: 0,
            receive_maximum: NonZeroU16::MAX,
            maximum_packet_size: None,
            topic_alias_maximum: 0,
            request_response_information: false,
            request_problem_information: true,
            user_properties: UserProperties::default(),
            authentication_method: None,
            authentication_data: None,
        }
    }
}

/// The Will Message of a CONNECT (sections 3.1.2.5 and 3.1.3.2).
#[derive(Debug, Clone, PartialEq)]
pub struct LastWill<'a> {
    /// Will Topic, checked for UTF-8 only: whether it is a Topic Name is for the session to say (0x90).
    pub topic: &'a str,
    /// Will Payload.
    pub payload: &'a [u8],
    /// Will QoS.
    pub qos: QoS,
    /// Will Retain.
    pub retain: bool,
    /// 5.0 only.
    pub properties: WillProperties<'a>,
}

/// Will Properties (section 3.1.3.2).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WillProperties<'a> {
    /// Will Delay Interval, in whole seconds from the end of the connection; 0 sends at once.
    pub delay: u32,
    /// Payload Format Indicator; true: the payload is UTF-8.
    pub payload_is_utf8: Option<bool>,
    /// Message Expiry Interval in seconds.
    pub message_expiry: Option<u32>,
    /// Content Type.
    pub content_type: Option<&'a str>,
    /// Response Topic.
    pub response_topic: Option<&'a str>,
    /// Correlation Data.
    pub correlation_data: Option<&'a [u8]>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
}

/// CONNACK (section 3.2).
#[derive(Debug, Clone, PartialEq)]
pub struct ConnAck<'a> {
    /// Session Present; never with a refusal [MQTT-3.2.2-6].
    pub session_present: bool,
    /// The answer. 3.1 and 3.1.1 have six of them: see [`ReasonCode::connack_v3`].
    pub reason: ReasonCode,
    /// 5.0 only.
    pub properties: ConnAckProperties<'a>,
}

/// Properties of CONNACK (section 3.2.2.3). `None` is not sent; nor is a Maximum QoS of 2, which only absence can say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConnAckProperties<'a> {
    /// Session Expiry Interval in seconds, when the server does not use the client's.
    pub session_expiry: Option<u32>,
    /// Receive Maximum of the server; 65,535 when absent.
    pub receive_maximum: Option<NonZeroU16>,
    /// Maximum QoS; absent: 2.
    pub maximum_qos: Option<QoS>,
    /// Retain Available; absent: true.
    pub retain_available: Option<bool>,
    /// Maximum Packet Size that the server takes, in bytes.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Assigned Client Identifier.
    pub assigned_client_id: Option<&'a str>,
    /// Topic Alias Maximum of the server; absent: 0.
    pub topic_alias_maximum: Option<u16>,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
    /// Wildcard Subscription Available; absent: true.
    pub wildcard_subscription_available: Option<bool>,
    /// Subscription Identifiers Available; absent: true.
    pub subscription_identifiers_available: Option<bool>,
    /// Shared Subscription Available; absent: true.
    pub shared_subscription_available: Option<bool>,
    /// Server Keep Alive in seconds: replaces the client's.
    pub server_keep_alive: Option<u16>,
    /// Response Information: the basis of the client's response topics.
    pub response_information: Option<&'a str>,
    /// Server Reference: another server to use.
    pub server_reference: Option<&'a str>,
    /// Authentication Method.
    pub authentication_method: Option<&'a str>,
    /// Authentication Data.
    pub authentication_data: Option<&'a [u8]>,
}
