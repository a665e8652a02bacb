//! PUBACK, PUBREC, PUBREL, PUBCOMP, DISCONNECT and AUTH.

use super::{PacketId, UserProperties};
use crate::ReasonCode;

/// PUBACK, PUBREC, PUBREL or PUBCOMP (sections 3.4 to 3.7).
#[derive(Debug, Clone, PartialEq)]
pub struct Ack<'a> {
    /// The identifier of the PUBLISH that this belongs to.
    pub id: PacketId,
    /// [`ReasonCode::Success`] in 3.1 and 3.1.1.
    pub reason: ReasonCode,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
}

impl Ack<'_> {
    /// An acknowledgement without properties.
    #[must_use]
    pub fn new(id: PacketId, reason: ReasonCode) -> Self {
        Self { id, reason, reason_string: None, user_properties: UserProperties::default() }
    }
}

/// DISCONNECT (section 3.14).
#[derive(Debug, Clone, PartialEq)]
pub struct Disconnect<'a> {
    /// [`ReasonCode::Success`] (Normal disconnection) in 3.1 and 3.1.1.
    pub reason: ReasonCode,
    /// 5.0 only.
    pub properties: DisconnectProperties<'a>,
}

/// Properties of DISCONNECT (section 3.14.2.2).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DisconnectProperties<'a> {
    /// A new Session Expiry Interval in seconds; only from client to server.
    pub session_expiry: Option<u32>,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
    /// Server Reference; only from server to client.
    pub server_reference: Option<&'a str>,
}

/// AUTH (section 3.15).
#[derive(Debug, Clone, PartialEq)]
pub struct Auth<'a> {
    /// Success, Continue authentication or Re-authenticate.
    pub reason: ReasonCode,
    /// What the step carries.
    pub properties: AuthProperties<'a>,
}

/// Properties of AUTH (section 3.15.2.2).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AuthProperties<'a> {
    /// Authentication Method.
    pub authentication_method: Option<&'a str>,
    /// Authentication Data.
    pub authentication_data: Option<&'a [u8]>,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
}
