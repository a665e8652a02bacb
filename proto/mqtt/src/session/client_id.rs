//! Client Identifiers.

use std::{borrow::Borrow, fmt, sync::Arc};

/// A Client Identifier: UTF-8, not empty, shared.
///
/// It is data and nothing else: whoever puts one into a topic, a pattern, a log line or a page escapes it there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(Arc<str>);

impl ClientId {
    /// `None` for the empty string, which asks for an identifier and is none.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        if text.is_empty() { None } else { Some(Self(text.into())) }
    }

    /// An identifier for a client that brought none [MQTT-3.1.3-6]; as unique as `random` is.
    #[must_use]
    pub(super) fn assigned(random: u128) -> Self {
        Self(format!("flotilla-{random:032x}").into())
    }

    /// The identifier as the client wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for ClientId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for ClientId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
