//! What can be wrong with a topic name or filter.

use crate::ReasonCode;

/// A text that is not a Topic Name or not a Topic Filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Not a Topic Name.
    #[error("invalid topic name: {0}")]
    Name(TopicFault),
    /// Not a Topic Filter.
    #[error("invalid topic filter: {0}")]
    Filter(TopicFault),
}

/// The rule that a name or filter breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicFault {
    /// At least one character is needed [MQTT-4.7.3-1].
    #[error("it is empty")]
    Empty,
    /// At most 65,535 bytes are allowed [MQTT-4.7.3-3].
    #[error("it is longer than 65535 bytes")]
    TooLong,
    /// U+0000 is not allowed [MQTT-4.7.3-2].
    #[error("it contains a null character")]
    Nul,
    /// Our own limit: deeper topics cost more than they are good for.
    #[error("it has more than {limit} levels")]
    TooManyLevels {
        /// How many levels are allowed.
        limit: u16,
    },
    /// A name has no wildcards [MQTT-4.7.0-1]; a filter has `#` as the whole last level [MQTT-4.7.1-1] and `+` as a whole
    /// level [MQTT-4.7.1-2] (v3.1.1: MQTT-4.7.1-1, MQTT-4.7.1-2, MQTT-4.7.1-3).
    #[error("it has a wildcard where none is allowed")]
    Wildcard,
    /// `$share/` is followed by a ShareName of at least one character, without wildcards, and by a filter
    /// [MQTT-4.8.2-1] [MQTT-4.8.2-2]; `$queue/` is followed by a filter.
    #[error("it is not of the form $share/<name>/<filter> or $queue/<filter>")]
    Share,
    /// The filter of a shared subscription names a shared subscription again.
    #[error("it is a shared subscription within a shared subscription")]
    NestedShare,
}

impl TopicError {
    /// What the client is told.
    ///
    /// An empty Topic Name in a PUBLISH without Topic Alias is a Protocol Error instead (section 3.3.2.1): its caller knows.
    pub fn reason(&self) -> ReasonCode {
        match self {
            // Not a string of the protocol at all [MQTT-1.5.4-2].
            Self::Name(TopicFault::Nul) | Self::Filter(TopicFault::Nul) => ReasonCode::MalformedPacket,
            Self::Name(_) => ReasonCode::TopicNameInvalid,
            Self::Filter(_) => ReasonCode::TopicFilterInvalid,
        }
    }

    /// The rule that was broken.
    pub fn fault(&self) -> TopicFault {
        match self {
            Self::Name(fault) | Self::Filter(fault) => *fault,
        }
    }
}
