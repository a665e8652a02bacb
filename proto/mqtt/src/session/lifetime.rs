//! How long things last: the session after its connection, the will after its client.

use std::{sync::Arc, time::Duration};

use crate::{Message, ReasonCode};

/// How long a session outlives its connection. 0 and 0xFFFF_FFFF seconds are not durations, so they are not stored as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionExpiry {
    /// It ends with the connection.
    AtDisconnect,
    /// It ends this long after the connection.
    After(Duration),
    /// It stays until somebody starts clean.
    Never,
}

impl SessionExpiry {
    /// What a Session Expiry Interval means (section 3.1.2.11.2).
    #[must_use]
    pub const fn from_secs(secs: u32) -> Self {
        match secs {
            0 => Self::AtDisconnect,
            u32::MAX => Self::Never,
            _ => Self::After(Duration::from_secs(secs as u64)),
        }
    }

    /// The Session Expiry Interval that means this.
    #[must_use]
    pub fn as_secs(self) -> u32 {
        match self {
            Self::AtDisconnect => 0,
            Self::After(duration) => u32::try_from(duration.as_secs()).unwrap_or(u32::MAX),
            Self::Never => u32::MAX,
        }
    }

    /// A configured time; whole seconds, so that a client can be told exactly.
    #[must_use]
    pub(super) fn from_config(duration: Option<Duration>) -> Self {
        match duration.map(|duration| duration.as_secs()) {
            None => Self::Never,
            Some(0) => Self::AtDisconnect,
            Some(secs) => Self::After(Duration::from_secs(secs)),
        }
    }

    /// The shorter of this and `maximum`; no maximum: this.
    #[must_use]
    pub(super) fn bounded_by(self, maximum: Option<Duration>) -> Self {
        match (self, Self::from_config(maximum)) {
            (Self::AtDisconnect, _) | (_, Self::AtDisconnect) => Self::AtDisconnect,
            (Self::After(asked), Self::After(maximum)) => Self::After(asked.min(maximum)),
            (Self::Never, bound) => bound,
            (asked, Self::Never) => asked,
        }
    }
}

/// A Will Message and when it is due.
#[derive(Debug, Clone, PartialEq)]
pub struct Will {
    /// The message; its `expires_at` is set when it is published.
    pub message: Arc<Message>,
    /// Will Delay Interval, in whole seconds from the end of the connection; 0 sends at once.
    pub delay: Duration,
    /// Message Expiry Interval; it starts when the will is published (section 3.1.3.2.4).
    pub expiry: Option<Duration>,
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// DISCONNECT 0x00: the will is dropped.
    Normal,
    /// DISCONNECT 0x04 or any other client code that is not 0x00: the will is sent.
    WithWill(ReasonCode),
    /// The network connection broke or was closed by the client without a DISCONNECT.
    ConnectionLost,
    /// The server ends it, for this reason.
    Server(ReasonCode),
}
