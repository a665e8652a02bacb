//! What a session asks of its caller.

use std::sync::Arc;

use super::Cause;
use crate::{
    PacketId, ReasonCode,
    packet::{Auth, Publish, Subscribe, Unsubscribe},
};

/// What the caller must do for a packet. Borrows from the packet, never from the session.
#[derive(Debug)]
pub enum Request<'a> {
    /// Nothing: the session answered by itself.
    Nothing,
    /// Route this message. For QoS 1 and 2 call [`Session::handle_stored`](super::Session::handle_stored) with the
    /// ticket once it is kept by all who must keep it; until then the client is not told.
    Publish(Incoming<'a>, Option<Ticket>),
    /// A PUBLISH that goes nowhere, and why: count it. The client has been told as far as its protocol and the QoS
    /// have words for it.
    Refused(ReasonCode),
    /// Check each filter, call [`Session::subscribe`](super::Session::subscribe) for those that are granted, make the
    /// routes known, then call [`Session::handle_subscribed`](super::Session::handle_subscribed).
    Subscribe(Subscribe<'a>),
    /// Call [`Session::unsubscribe`](super::Session::unsubscribe) for each filter, then
    /// [`Session::handle_unsubscribed`](super::Session::handle_unsubscribed).
    Unsubscribe(Unsubscribe<'a>),
    /// In a kept session, PUBREL: have those who keep the identifier forget it, then call
    /// [`Session::handle_release_kept`](super::Session::handle_release_kept).
    Release(PacketId),
    /// The client said goodbye: end the connection for this cause.
    Disconnect(Cause),
    /// Re-authentication (5.0, section 4.12.1): hand it to the authenticator, then call
    /// [`Session::handle_authenticated`](super::Session::handle_authenticated), or close with its reason code.
    Authenticate(Auth<'a>),
}

/// A PUBLISH with its topic alias resolved.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// The full Topic Name.
    pub topic: IncomingTopic<'a>,
    /// As it was received; `publish.topic` may be empty.
    pub publish: Publish<'a>,
}

/// Where the topic of a PUBLISH comes from.
#[derive(Debug, Clone)]
pub enum IncomingTopic<'a> {
    /// The packet.
    Packet(&'a str),
    /// The session's table of aliases.
    Alias(Arc<str>),
}

impl IncomingTopic<'_> {
    /// The full Topic Name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Packet(topic) => topic,
            Self::Alias(topic) => topic,
        }
    }
}

/// Stands for a PUBLISH that is not acknowledged yet: its number within the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub(super) u32);
