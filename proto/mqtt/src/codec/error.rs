//! What can be wrong with bytes, or with a packet that should become bytes.

use super::PropertyId;
use crate::{ProtocolVersion, ReasonCode, packet::PacketType};

/// Why bytes are not a packet, or not one that is allowed here. The stream cannot be read on after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The first packet is not CONNECT [MQTT-3.1.0-1]. Nothing is sent back, for the peer may not speak MQTT at all.
    #[error("the first packet is {0}, not CONNECT")]
    FirstPacketNotConnect(PacketType),
    /// CONNECT on a connection that already had one [MQTT-3.1.0-2].
    #[error("a second CONNECT")]
    SecondConnect,
    /// Packet type 0, or 15 (AUTH) before 5.0 (section 2.1.2).
    #[error("packet type {0} is reserved")]
    ReservedPacketType(u8),
    /// A packet that only the other side sends (section 2.1.2).
    #[error("{0} from the wrong side")]
    WrongSide(PacketType),
    /// The lower four bits of the first byte [MQTT-2.1.3-1].
    #[error("{packet} with fixed header flags {flags:#06b}")]
    FixedHeaderFlags {
        /// Of this packet.
        packet: PacketType,
        /// The four bits.
        flags: u8,
    },
    /// PUBLISH with both QoS bits set [MQTT-3.3.1-4].
    #[error("PUBLISH with QoS 3")]
    PublishQoS3,
    /// PUBLISH with DUP at QoS 0 [MQTT-3.3.1-2].
    #[error("PUBLISH with DUP at QoS 0")]
    DupAtQoS0,
    /// A Variable Byte Integer that goes on after its fourth byte (section 1.5.5).
    #[error("a variable byte integer of more than four bytes")]
    VarIntTooLong,
    /// A Variable Byte Integer with more bytes than its value needs [MQTT-1.5.5-1].
    #[error("a variable byte integer with needless bytes")]
    VarIntNotMinimal,
    /// The packet is longer than this side takes [MQTT-3.1.2-24] [MQTT-3.2.2-15].
    #[error("a packet of {len} bytes, more than the maximum of {max}")]
    PacketTooLarge {
        /// The length of the whole packet.
        len: u32,
        /// What is allowed.
        max: u32,
    },
    /// A Remaining Length that no such packet can have.
    #[error("{packet} with a Remaining Length of {remaining_len}")]
    WrongLength {
        /// Of this packet.
        packet: PacketType,
        /// Its Remaining Length.
        remaining_len: u32,
    },
    /// A field, or the property section, goes on after the end of what contains it.
    #[error("a field ends after its packet")]
    Truncated,
    /// The packet goes on after its last field.
    #[error("bytes after the last field")]
    TrailingBytes,
    /// A string is not well-formed UTF-8 [MQTT-1.5.4-1].
    #[error("a string that is not UTF-8")]
    InvalidUtf8,
    /// A string contains U+0000 [MQTT-1.5.4-2].
    #[error("a string with a NUL character")]
    NulCharacter,
    /// Packet Identifier 0 [MQTT-2.2.1-3].
    #[error("{0} with Packet Identifier 0")]
    PacketIdZero(PacketType),
    /// A Protocol Name or Protocol Level that is not one of the three that are spoken here [MQTT-3.1.2-1] [MQTT-3.1.2-2].
    #[error("unsupported protocol name or level {level}")]
    UnsupportedProtocol {
        /// The Protocol Level.
        level: u8,
        /// The version in whose form a CONNACK can be understood: see [`super::refusal_version`].
        answer: ProtocolVersion,
    },
    /// Bit 0 of the Connect Flags is set [MQTT-3.1.2-3].
    #[error("the reserved connect flag is set")]
    ConnectReservedFlag,
    /// Will QoS or Will Retain without Will Flag [MQTT-3.1.2-11] [MQTT-3.1.2-13], or Will QoS 3 [MQTT-3.1.2-12].
    #[error("the will's connect flags contradict each other")]
    WillFlags,
    /// A Password without User Name, which only 5.0 allows (v3.1.1: MQTT-3.1.2-22).
    #[error("a password without a user name")]
    PasswordWithoutUserName,
    /// Bits 7 to 1 of the Connect Acknowledge Flags are set [MQTT-3.2.2-1].
    #[error("reserved CONNACK flags are set")]
    ConnAckFlags,
    /// Session Present together with a refusal [MQTT-3.2.2-6].
    #[error("Session Present with a refusal")]
    SessionPresentWithRefusal,
    /// A Topic Name with `+` or `#` [MQTT-3.3.2-2].
    #[error("a topic name with a wildcard")]
    TopicNameWildcard,
    /// An empty Topic Name without Topic Alias (section 3.3.2.1) [MQTT-4.7.3-1].
    #[error("an empty topic name without a topic alias")]
    TopicNameEmpty,
    /// Topic Alias 0 [MQTT-3.3.2-8].
    #[error("topic alias 0")]
    TopicAliasZero,
    /// An empty Response Topic, or one with wildcards [MQTT-3.3.2-14].
    #[error("an empty response topic, or one with a wildcard")]
    InvalidResponseTopic,
    /// Subscription Identifier in a PUBLISH to the server [MQTT-3.3.4-6].
    #[error("a subscription identifier in a client's PUBLISH")]
    SubscriptionIdFromClient,
    /// A Property Identifier that the specification does not have.
    #[error("unknown property {0:#04x}")]
    UnknownProperty(u32),
    /// A property that belongs to other packets, or to the other side.
    #[error("property {property} does not belong into this {packet}")]
    PropertyNotAllowed {
        /// The property.
        property: PropertyId,
        /// Where it stood; CONNECT for Will Properties too.
        packet: PacketType,
    },
    /// A property that may be there once only.
    #[error("property {0} twice")]
    DuplicateProperty(PropertyId),
    /// A boolean that is neither 0 nor 1, a Maximum QoS that is neither 0 nor 1, or a zero that is not allowed.
    #[error("property {property} with value {value}")]
    PropertyValue {
        /// The property.
        property: PropertyId,
        /// What it was.
        value: u8,
    },
    /// More User Properties than [`super::USER_PROPERTIES_MAX`] in one section.
    #[error("too many user properties")]
    TooManyUserProperties,
    /// Authentication Data without Authentication Method (section 3.1.2.11.10).
    #[error("authentication data without a method")]
    AuthDataWithoutMethod,
    /// AUTH without Authentication Method (section 3.15.2.2.2).
    #[error("AUTH without a method")]
    AuthWithoutMethod,
    /// A reason or return code that the packet cannot carry, or not from this side.
    #[error("{packet} with reason code {value:#04x}")]
    InvalidReasonCode {
        /// The packet.
        packet: PacketType,
        /// The code.
        value: u8,
    },
    /// SUBSCRIBE or UNSUBSCRIBE without filters [MQTT-3.8.3-2] [MQTT-3.10.3-2], SUBACK or UNSUBACK without codes.
    #[error("{0} with an empty payload")]
    EmptyPayload(PacketType),
    /// Reserved bits of the Subscription Options are set [MQTT-3.8.3-5].
    #[error("reserved subscription options are set")]
    SubscriptionOptionsReserved,
    /// A subscription to QoS 3 (section 3.8.3.1).
    #[error("a subscription to QoS 3")]
    SubscriptionQoS3,
    /// Retain Handling 3 (section 3.8.3.1).
    #[error("retain handling 3")]
    RetainHandling3,
    /// No Local on a Shared Subscription [MQTT-3.8.3-4].
    #[error("No Local on a shared subscription")]
    NoLocalOnSharedSubscription,
}

impl DecodeError {
    /// What the peer is told, where its version and the moment allow to tell it.
    ///
    /// Where the specification leaves the choice: what cannot be parsed is a Malformed Packet, what can be parsed and
    /// must not be is a Protocol Error. A violation that the text calls by one of the two names has that one.
    #[must_use]
    pub const fn reason(&self) -> ReasonCode {
        match self {
            Self::ReservedPacketType(_)
            | Self::FixedHeaderFlags { .. }
            | Self::PublishQoS3
            | Self::DupAtQoS0
            | Self::VarIntTooLong
            | Self::VarIntNotMinimal
            | Self::WrongLength { .. }
            | Self::Truncated
            | Self::TrailingBytes
            | Self::InvalidUtf8
            | Self::NulCharacter
            | Self::ConnectReservedFlag
            | Self::WillFlags
            | Self::PasswordWithoutUserName
            | Self::ConnAckFlags
            | Self::UnknownProperty(_)
            | Self::SubscriptionOptionsReserved => ReasonCode::MalformedPacket,
            Self::FirstPacketNotConnect(_)
            | Self::SecondConnect
            | Self::WrongSide(_)
            | Self::PacketIdZero(_)
            | Self::SessionPresentWithRefusal
            | Self::TopicNameEmpty
            | Self::InvalidResponseTopic
            | Self::SubscriptionIdFromClient
            | Self::PropertyNotAllowed { .. }
            | Self::DuplicateProperty(_)
            | Self::PropertyValue { .. }
            | Self::AuthDataWithoutMethod
            | Self::AuthWithoutMethod
            | Self::InvalidReasonCode { .. }
            | Self::EmptyPayload(_)
            | Self::SubscriptionQoS3
            | Self::RetainHandling3
            | Self::NoLocalOnSharedSubscription => ReasonCode::ProtocolError,
            Self::PacketTooLarge { .. } => ReasonCode::PacketTooLarge,
            Self::UnsupportedProtocol { .. } => ReasonCode::UnsupportedProtocolVersion,
            Self::TopicNameWildcard => ReasonCode::TopicNameInvalid,
            Self::TopicAliasZero => ReasonCode::TopicAliasInvalid,
            // CPU and memory are bounded by the packet's length too; this is about what every receiver would get.
            Self::TooManyUserProperties => ReasonCode::QuotaExceeded,
        }
    }
}

/// Why a packet cannot be written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A string or binary field is longer than 65,535 bytes.
    #[error("a field of {0} bytes, more than 65,535")]
    FieldTooLong(usize),
    /// The packet is longer than a Remaining Length can say.
    #[error("a packet of {0} bytes, more than the protocol allows")]
    PacketTooLong(usize),
    /// The protocol version does not have this packet.
    #[error("{version:?} has no {packet}")]
    NotInVersion {
        /// The packet.
        packet: PacketType,
        /// The version.
        version: ProtocolVersion,
    },
    /// It can be written, but the peer's decoder must refuse it.
    #[error("the peer must refuse the packet: {0}")]
    Refused(#[from] DecodeError),
}
