//! CONNECT to CONNACK, enhanced authentication included.

use std::{
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
    time::Duration,
};

use super::{ClientId, Limits, SessionExpiry};
use crate::{
    Message, ProtocolVersion, ReasonCode, Timestamp,
    packet::{Auth, Connect},
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
    /// The will and its delay.
    pub will: Option<(Arc<Message>, Duration)>,
    /// Authentication Method of this connection; re-authentication must use it again [MQTT-4.12.1-1].
    pub authentication_method: Option<Box<str>>,
}

/// A CONNECT that is refused; the connection is closed after the CONNACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The version in which the CONNACK is written.
    pub version: ProtocolVersion,
    /// Why.
    pub reason: ReasonCode,
}

/// Decides on a CONNECT. To be written: see the plan of the session.
#[derive(Debug)]
pub struct Handshake {}

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

#[expect(unused_variables, clippy::todo, missing_docs, reason = "signatures only, for now")]
impl Handshake {
    /// `random` is the source of an assigned identifier.
    pub fn start(
        now: Timestamp,
        connect: &Connect<'_>,
        limits: &Limits,
        random: u128,
        authenticator: &mut impl Authenticator,
    ) -> Result<(Self, HandshakeStep), Refusal> {
        todo!()
    }
    pub fn handle_auth(
        &mut self,
        auth: &Auth<'_>,
        authenticator: &mut impl Authenticator,
    ) -> Result<HandshakeStep, Refusal> {
        todo!()
    }
}

#[expect(unused_variables, clippy::todo, missing_docs, reason = "signatures only, for now")]
impl Accepted {
    pub fn write_connack(&self, limits: &Limits, session_present: bool, out: &mut Vec<u8>) {
        todo!()
    }
}

#[expect(unused_variables, clippy::todo, missing_docs, reason = "signatures only, for now")]
impl Refusal {
    pub fn write_connack(&self, out: &mut Vec<u8>) {
        todo!()
    }
}
