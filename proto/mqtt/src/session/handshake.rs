//! CONNECT to CONNACK, enhanced authentication included.
//!
//! Rules, where the specification leaves a choice:
//!
//! * Identifiers longer than 23 bytes are taken in 3.1 too, and an empty one in all versions, if the session is clean
//!   (v3.1.1: [MQTT-3.1.3-8]).
//! * `mqtt.server_keepalive` and `mqtt.max_keepalive` rule 5.0 clients only: the others cannot be told, and a client
//!   that keeps to its own Keep Alive would be taken for dead.
//! * Whether the payload of a will is the UTF-8 that its Payload Format Indicator says is not checked.
//! * A client whose Maximum Packet Size has no room for its CONNACK is refused with 0x95.

use std::{
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::{ClientId, Limits, SessionExpiry, Will, wire::allowed};
use crate::{
    Message, ProtocolVersion, ReasonCode,
    codec::{MAX_PACKET_LEN, encode, forward_will_properties},
    packet::{Auth, AuthProperties, ConnAck, ConnAckProperties, Connect, LastWill, Packet, PacketType},
    topic::{check_name, is_publishable},
};

/// A CONNECT that was accepted: what the session needs to know of the new connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// The protocol.
    pub version: ProtocolVersion,
    /// The client's identifier, or the one that was assigned.
    pub client_id: ClientId,
    /// Whether the server chose the identifier.
    pub client_id_assigned: bool,
    /// Clean Start.
    pub clean_start: bool,
    /// How long the session outlives this connection.
    pub expiry: SessionExpiry,
    /// What the client asked for: `expiry` may be shorter.
    pub asked_expiry: SessionExpiry,
    /// Keep Alive in force, in seconds; 0: none. `server_keep_alive` says whether it differs from the client's.
    pub keep_alive: u16,
    /// Whether `keep_alive` is the server's.
    pub server_keep_alive: bool,
    /// QoS 1 and 2 publishes that may be in flight to the client: its Receive Maximum or `mqtt.max_inflight`.
    pub receive_maximum: NonZeroU16,
    /// The client's Maximum Packet Size.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Aliases that may be used towards the client.
    pub topic_alias_maximum: u16,
    /// Request Response Information.
    pub request_response_information: bool,
    /// Request Problem Information.
    pub request_problem_information: bool,
    /// The will: the caller sees to it that it is published, unless the connection ends with [`Cause::Normal`](super::Cause::Normal).
    pub will: Option<Will>,
    /// Authentication Method of this connection; re-authentication must use it again [MQTT-4.12.1-1].
    pub authentication_method: Option<Box<str>>,
    /// The last Authentication Data, for the CONNACK.
    pub authentication_data: Vec<u8>,
}

/// A CONNECT that is refused; the connection is closed after the CONNACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The version in which the CONNACK is written.
    pub version: ProtocolVersion,
    /// Why.
    pub reason: ReasonCode,
}

/// Decides on a CONNECT, over several steps if it asks for enhanced authentication.
#[derive(Debug)]
pub struct Handshake {
    version: ProtocolVersion,
    /// What is accepted once authentication is complete.
    pending: Option<Box<Accepted>>,
    /// Packets that the client has sent for its authentication.
    rounds: u8,
    /// The client's Maximum Packet Size.
    packet_len_max: usize,
    /// Bytes of the CONNACK without Authentication Data and what may be left out.
    connack_len: usize,
}

/// What comes next in a handshake.
#[derive(Debug)]
pub enum HandshakeStep {
    /// Send these bytes (an AUTH) and give the client's answer to [`Handshake::handle_auth`].
    Continue(Vec<u8>),
    /// Claim the client identifier, then answer with [`Accepted::write_connack`].
    Accept(Box<Accepted>),
}

/// Who a client is: the interface where authentication attaches.
pub trait Authenticator {
    /// Whether the user name and password are good; called when there is no Authentication Method.
    ///
    /// # Errors
    /// The reason code of the CONNACK.
    fn check_password(
        &mut self,
        client_id: &str,
        username: Option<&str>,
        password: Option<&[u8]>,
    ) -> Result<(), ReasonCode>;
    /// One step of enhanced authentication (section 4.12). `BadAuthenticationMethod` for an unknown method.
    ///
    /// # Errors
    /// The reason code of the CONNACK or DISCONNECT.
    fn step(&mut self, method: &str, data: Option<&[u8]>) -> Result<AuthStep, ReasonCode>;
}

/// The answer of an [`Authenticator`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthStep {
    /// Ask the client for more, with this Authentication Data.
    Continue(Vec<u8>),
    /// The client is who it says, with this last Authentication Data.
    Done(Vec<u8>),
}

impl Handshake {
    /// Takes the CONNECT. `random` is the source of an assigned identifier.
    ///
    /// # Errors
    /// The CONNECT is refused: send the CONNACK that says why, and close.
    pub fn start(
        connect: &Connect<'_>,
        limits: &Limits,
        random: u128,
        authenticator: &mut impl Authenticator,
    ) -> Result<(Self, HandshakeStep), Refusal> {
        let version = connect.version;
        let refuse = |reason| Refusal { version, reason };
        let accepted = Box::new(Accepted::decide(connect, limits, random).map_err(refuse)?);
        let mut handshake = Self {
            version,
            packet_len_max: accepted.packet_len_max(),
            connack_len: accepted.connack_len(limits),
            pending: None,
            rounds: 0,
        };
        handshake.check_fits(handshake.connack_len)?;
        let properties = &connect.properties;
        let step = match properties.authentication_method {
            Some(method) => {
                let step = authenticator.step(method, properties.authentication_data).map_err(refuse)?;
                handshake.take_step(accepted, step)?
            }
            None => {
                let client_id = accepted.client_id.as_str();
                authenticator
                    .check_password(client_id, connect.username, connect.password)
                    .map_err(refuse)?;
                HandshakeStep::Accept(accepted)
            }
        };
        Ok((handshake, step))
    }

    /// Takes the client's answer to an AUTH.
    ///
    /// # Errors
    /// The CONNECT is refused: send the CONNACK that says why, and close.
    pub fn handle_auth(
        &mut self,
        auth: &Auth<'_>,
        authenticator: &mut impl Authenticator,
    ) -> Result<HandshakeStep, Refusal> {
        let refuse = |reason| Refusal { version: self.version, reason };
        let Some(accepted) = self.pending.take() else {
            return Err(refuse(ReasonCode::ProtocolError));
        };
        let method = accepted.authentication_method.as_deref();
        let (Some(method), true) = (method, auth.properties.authentication_method == method) else {
            return Err(refuse(ReasonCode::ProtocolError)); // [MQTT-4.12.0-5]
        };
        if auth.reason != ReasonCode::ContinueAuthentication || self.rounds >= AUTH_ROUNDS_MAX {
            return Err(refuse(ReasonCode::ProtocolError)); // [MQTT-4.12.0-3]
        }
        let step = authenticator.step(method, auth.properties.authentication_data).map_err(refuse)?;
        self.take_step(accepted, step)
    }

    fn take_step(&mut self, mut accepted: Box<Accepted>, step: AuthStep) -> Result<HandshakeStep, Refusal> {
        self.rounds += 1;
        match step {
            AuthStep::Continue(data) => {
                let properties = AuthProperties {
                    authentication_method: accepted.authentication_method.as_deref(),
                    authentication_data: (!data.is_empty()).then_some(&data),
                    ..AuthProperties::default()
                };
                let auth = Auth { reason: ReasonCode::ContinueAuthentication, properties };
                let mut bytes = Vec::new();
                // An authenticator whose data cannot be written down is at fault, not the client.
                encode(&Packet::Auth(auth), self.version, &mut bytes).map_err(|_| Refusal {
                    version: self.version,
                    reason: ReasonCode::ImplementationSpecificError,
                })?;
                self.check_fits(bytes.len())?;
                self.pending = Some(accepted);
                Ok(HandshakeStep::Continue(bytes))
            }
            AuthStep::Done(data) => {
                if data.len() > usize::from(u16::MAX) {
                    return Err(Refusal {
                        version: self.version,
                        reason: ReasonCode::ImplementationSpecificError,
                    });
                }
                self.check_fits(self.connack_len + data.len() + AUTHENTICATION_DATA_OVERHEAD)?;
                accepted.authentication_data = data;
                Ok(HandshakeStep::Accept(accepted))
            }
        }
    }

    /// Checks that the client takes a packet of this size [MQTT-3.1.2-24].
    fn check_fits(&self, packet_len: usize) -> Result<(), Refusal> {
        if packet_len <= self.packet_len_max {
            return Ok(());
        }
        Err(Refusal { version: self.version, reason: ReasonCode::PacketTooLarge })
    }
}

impl Accepted {
    /// Applies the limits to a CONNECT, or refuses it.
    fn decide(connect: &Connect<'_>, limits: &Limits, random: u128) -> Result<Self, ReasonCode> {
        let version = connect.version;
        if connect.client_id.len() > usize::from(limits.max_client_id_len) {
            return Err(ReasonCode::ClientIdentifierNotValid);
        }
        let named = ClientId::new(connect.client_id);
        let client_id_assigned = named.is_none();
        if client_id_assigned && !version.is_v5() && !connect.clean_start {
            return Err(ReasonCode::ClientIdentifierNotValid); // (v3.1.1: MQTT-3.1.3-8)
        }
        let client_id = named.unwrap_or_else(|| ClientId::assigned(random));
        let properties = &connect.properties;
        let asked_expiry = match (version.is_v5(), connect.clean_start) {
            (true, _) => SessionExpiry::from_secs(properties.session_expiry),
            (false, true) => SessionExpiry::AtDisconnect,
            (false, false) => SessionExpiry::from_config(limits.expiry_v3),
        };
        let keep_alive = match version.is_v5() {
            true => limits.keep_alive(connect.keep_alive),
            false => connect.keep_alive,
        };
        let will = connect.will.as_ref().map(|will| decide_will(will, &client_id, limits)).transpose()?;
        Ok(Self {
            version,
            client_id,
            client_id_assigned,
            clean_start: connect.clean_start,
            expiry: asked_expiry.bounded_by(limits.expiry_max),
            asked_expiry,
            keep_alive,
            server_keep_alive: keep_alive != connect.keep_alive,
            receive_maximum: properties.receive_maximum.min(limits.max_inflight),
            maximum_packet_size: properties.maximum_packet_size,
            topic_alias_maximum: properties.topic_alias_maximum.min(limits.topic_alias_max),
            request_response_information: properties.request_response_information,
            request_problem_information: properties.request_problem_information,
            will,
            authentication_method: properties.authentication_method.map(Into::into),
            authentication_data: Vec::new(),
        })
    }

    /// Appends the CONNACK. Response Information is left out when the client's Maximum Packet Size has no room for it.
    pub fn write_connack(&self, limits: &Limits, session_present: bool, out: &mut Vec<u8>) {
        let start = out.len();
        let mut properties = self.connack_properties(limits);
        if self.request_response_information {
            properties.response_information = limits.response_information.as_deref();
        }
        let may_shrink = properties.response_information.is_some();
        self.encode_connack(session_present, properties, out);
        if may_shrink && out.len() - start > self.packet_len_max() {
            out.truncate(start);
            self.encode_connack(session_present, self.connack_properties(limits), out);
        }
    }

    fn encode_connack(&self, session_present: bool, properties: ConnAckProperties<'_>, out: &mut Vec<u8>) {
        let connack = ConnAck { session_present, reason: ReasonCode::Success, properties };
        let written = encode(&Packet::ConnAck(Box::new(connack)), self.version, out);
        debug_assert_eq!(written, Ok(()), "every part was decoded or checked");
    }

    /// Everything but Response Information. What equals the default of the specification is left out.
    fn connack_properties(&self, limits: &Limits) -> ConnAckProperties<'_> {
        let data = Some(&*self.authentication_data);
        ConnAckProperties {
            session_expiry: (self.expiry != self.asked_expiry).then(|| self.expiry.as_secs()),
            receive_maximum: Some(limits.receive_maximum).filter(|maximum| *maximum != NonZeroU16::MAX),
            maximum_packet_size: Some(limits.max_packet_size)
                .filter(|max| (max.get() as usize) < MAX_PACKET_LEN),
            assigned_client_id: self.client_id_assigned.then(|| self.client_id.as_str()),
            topic_alias_maximum: Some(limits.topic_alias_max).filter(|maximum| *maximum > 0),
            server_keep_alive: self.server_keep_alive.then_some(self.keep_alive),
            authentication_method: self.authentication_method.as_deref(),
            authentication_data: data.filter(|data| !data.is_empty()),
            ..ConnAckProperties::default()
        }
    }

    /// Bytes of the CONNACK without Response Information; 0 for a client that takes any packet.
    fn connack_len(&self, limits: &Limits) -> usize {
        let mut bytes = Vec::new();
        if self.maximum_packet_size.is_some() {
            self.encode_connack(false, self.connack_properties(limits), &mut bytes);
        }
        bytes.len()
    }

    /// The longest packet that the client takes.
    fn packet_len_max(&self) -> usize {
        self.maximum_packet_size.map_or(usize::MAX, |max| usize::try_from(max.get()).unwrap_or(usize::MAX))
    }
}

fn decide_will(will: &LastWill<'_>, client_id: &ClientId, limits: &Limits) -> Result<Will, ReasonCode> {
    if check_name(will.topic, limits.max_topic_levels).is_err() || !is_publishable(will.topic) {
        return Err(ReasonCode::TopicNameInvalid);
    }
    let mut properties = Vec::new();
    forward_will_properties(&will.properties, &mut properties);
    let message = Message {
        topic: will.topic.into(),
        properties: properties.into(),
        payload: Bytes::copy_from_slice(will.payload),
        qos: will.qos,
        retain: will.retain,
        expires_at: None,
        publisher: Some(client_id.clone()),
    };
    let secs = |secs| Duration::from_secs(u64::from(secs));
    Ok(Will {
        message: Arc::new(message),
        delay: secs(will.properties.delay),
        expiry: will.properties.message_expiry.map(secs),
    })
}

impl Refusal {
    /// Appends the CONNACK. A reason that it cannot carry becomes [`ReasonCode::UnspecifiedError`].
    pub fn write_connack(&self, out: &mut Vec<u8>) {
        let properties = ConnAckProperties::default();
        let reason = match self.reason.is_error() {
            true => allowed(self.reason, PacketType::ConnAck),
            false => ReasonCode::UnspecifiedError,
        };
        let connack = ConnAck { session_present: false, reason, properties };
        let written = encode(&Packet::ConnAck(Box::new(connack)), self.version, out);
        debug_assert_eq!(written, Ok(()), "it has no variable part");
    }
}

/// The most AUTH steps of one authentication.
pub(super) const AUTH_ROUNDS_MAX: u8 = 16;

/// Bytes that Authentication Data adds to a packet besides itself: its property identifier and length, and two lengths
/// of the packet that may take two bytes more each.
const AUTHENTICATION_DATA_OVERHEAD: usize = 3 + 4;
