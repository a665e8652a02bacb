//! How a client can break the protocol.

use crate::{
    ReasonCode,
    packet::{PacketId, PacketType},
};

/// The client broke the protocol: send `reason()` in a DISCONNECT (5.0) and close.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// See section 3.3.4, and `session.awaiting_rel_max` for 3.1 and 3.1.1.
    #[error("more than {limit} publishes are unacknowledged")]
    ReceiveMaximumExceeded {
        /// What the server allows.
        limit: u16,
    },
    /// See [MQTT-3.3.2-9].
    #[error("topic alias {alias} is above the maximum of {maximum}")]
    TopicAliasInvalid {
        /// What the client sent.
        alias: u16,
        /// What the server allows.
        maximum: u16,
    },
    /// A PUBLISH without a topic, and its alias stands for none on this connection (section 3.3.2.3.4).
    #[error("topic alias {alias} stands for no topic")]
    TopicAliasUnknown {
        /// What the client sent.
        alias: u16,
    },
    /// A packet that a client never sends, or not now: a second CONNECT [MQTT-3.1.0-2], a CONNACK.
    #[error("unexpected {0}")]
    UnexpectedPacket(PacketType),
    /// An acknowledgement that is not the next step of the message with this identifier.
    #[error("{packet} does not belong to the state of message {id}")]
    UnexpectedAck {
        /// What the client sent.
        packet: PacketType,
        /// The identifier in it.
        id: PacketId,
    },
    /// DISCONNECT may not make a session outlive its connection that CONNECT did not (section 3.14.2.2.2).
    #[error("session expiry is raised from zero at disconnect")]
    SessionExpiryRaised,
    /// AUTH without, or not with the method of, the CONNECT [MQTT-4.12.1-1], or not the step that is due.
    #[error("unexpected step of authentication")]
    UnexpectedAuth,
    /// The answer to a SUBSCRIBE or UNSUBSCRIBE would be longer than the client's Maximum Packet Size [MQTT-3.1.2-24].
    #[error("an answer of {len} bytes is above the client's maximum packet size")]
    AnswerTooLarge {
        /// Bytes of the answer.
        len: usize,
    },
}

impl SessionError {
    /// What the client is told.
    #[must_use]
    pub const fn reason(&self) -> ReasonCode {
        match self {
            Self::ReceiveMaximumExceeded { .. } => ReasonCode::ReceiveMaximumExceeded,
            Self::TopicAliasInvalid { .. } => ReasonCode::TopicAliasInvalid,
            Self::TopicAliasUnknown { .. }
            | Self::UnexpectedPacket(_)
            | Self::UnexpectedAck { .. }
            | Self::SessionExpiryRaised
            | Self::UnexpectedAuth => ReasonCode::ProtocolError,
            Self::AnswerTooLarge { .. } => ReasonCode::PacketTooLarge,
        }
    }
}
