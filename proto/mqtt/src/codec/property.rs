//! Properties (section 2.2.2): one table says what there is, of which type, and where it belongs.

use std::{
    fmt,
    num::{NonZeroU16, NonZeroU32},
};

use super::{DecodeError, EncodeError, check, encode::write, reader::Reader, varint};
use crate::{QoS, packet::PacketType};

/// The most User Properties in one property section.
///
/// MQTT has no limit. Every receiver of a message gets its User Properties, so without one a single small publisher
/// can make all of its subscribers parse hundreds of thousands of them.
pub const USER_PROPERTIES_MAX: u32 = 1_000;

/// Declares [`PropertyId`] and [`Property`] from one table: identifier, name, type, name in the specification, and the
/// sections that it belongs to.
macro_rules! properties {
    ($($id:literal $name:ident($type:ty) $title:literal in $($section:ident)|*;)*) => {
        /// The identifier of a property (Table 2-4).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "the names of the specification")]
        pub enum PropertyId {
            $($name = $id,)*
        }

        impl PropertyId {
            const fn from_u32(value: u32) -> Option<Self> {
                match value {
                    $($id => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The sections that it belongs to, one bit each.
            const fn sections(self) -> u32 {
                match self {
                    $(Self::$name => $(Section::$section.bit())|*,)*
                }
            }
        }

        impl fmt::Display for PropertyId {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$name => $title,)*
                })
            }
        }

        /// A property with its value.
        #[derive(Debug, Clone, Copy, PartialEq)]
        #[expect(clippy::enum_variant_names, reason = "User Property is its name")]
        pub(crate) enum Property<'a> {
            $($name($type),)*
        }

        impl<'a> Property<'a> {
            /// Its identifier.
            pub(crate) const fn id(&self) -> PropertyId {
                match self {
                    $(Self::$name(_) => PropertyId::$name,)*
                }
            }

            /// Reads the value that follows the identifier.
            fn read_value(id: PropertyId, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
                Ok(match id {
                    $(PropertyId::$name => Self::$name(Value::read(id, reader)?),)*
                })
            }

            /// Appends identifier and value.
            pub(crate) fn write(self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
                match self {
                    $(Self::$name(value) => {
                        out.push($id);
                        value.write(out)
                    })*
                }
            }
        }
    };
}

properties! {
    0x01 PayloadFormatIndicator(bool) "Payload Format Indicator" in Publish | Will;
    0x02 MessageExpiryInterval(u32) "Message Expiry Interval" in Publish | Will;
    0x03 ContentType(&'a str) "Content Type" in Publish | Will;
    0x08 ResponseTopic(&'a str) "Response Topic" in Publish | Will;
    0x09 CorrelationData(&'a [u8]) "Correlation Data" in Publish | Will;
    0x0B SubscriptionIdentifier(SubscriptionId) "Subscription Identifier" in Publish | Subscribe;
    0x11 SessionExpiryInterval(u32) "Session Expiry Interval" in Connect | ConnAck | Disconnect;
    0x12 AssignedClientIdentifier(&'a str) "Assigned Client Identifier" in ConnAck;
    0x13 ServerKeepAlive(u16) "Server Keep Alive" in ConnAck;
    0x15 AuthenticationMethod(&'a str) "Authentication Method" in Connect | ConnAck | Auth;
    0x16 AuthenticationData(&'a [u8]) "Authentication Data" in Connect | ConnAck | Auth;
    0x17 RequestProblemInformation(bool) "Request Problem Information" in Connect;
    0x18 WillDelayInterval(u32) "Will Delay Interval" in Will;
    0x19 RequestResponseInformation(bool) "Request Response Information" in Connect;
    0x1A ResponseInformation(&'a str) "Response Information" in ConnAck;
    0x1C ServerReference(&'a str) "Server Reference" in ConnAck | Disconnect;
    0x1F ReasonString(&'a str) "Reason String" in ConnAck | PubAck | PubRec | PubRel | PubComp | SubAck | UnsubAck
        | Disconnect | Auth;
    0x21 ReceiveMaximum(NonZeroU16) "Receive Maximum" in Connect | ConnAck;
    0x22 TopicAliasMaximum(u16) "Topic Alias Maximum" in Connect | ConnAck;
    0x23 TopicAlias(NonZeroU16) "Topic Alias" in Publish;
    0x24 MaximumQoS(QoS) "Maximum QoS" in ConnAck;
    0x25 RetainAvailable(bool) "Retain Available" in ConnAck;
    0x26 UserProperty((&'a str, &'a str)) "User Property" in Connect | ConnAck | Publish | Will | PubAck | PubRec | PubRel
        | PubComp | Subscribe | SubAck | Unsubscribe | UnsubAck | Disconnect | Auth;
    0x27 MaximumPacketSize(NonZeroU32) "Maximum Packet Size" in Connect | ConnAck;
    0x28 WildcardSubscriptionAvailable(bool) "Wildcard Subscription Available" in ConnAck;
    0x29 SubscriptionIdentifierAvailable(bool) "Subscription Identifier Available" in ConnAck;
    0x2A SharedSubscriptionAvailable(bool) "Shared Subscription Available" in ConnAck;
}

// `Section::seen` has a bit for each identifier.
const _: () = assert!((PropertyId::SharedSubscriptionAvailable as u8) < 64);

/// A Subscription Identifier, the only property that is a Variable Byte Integer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct SubscriptionId(pub(crate) NonZeroU32);

/// Where a property section stands: the packets of Table 2-4, and the will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Will,
    Connect,
    ConnAck,
    Publish,
    PubAck,
    PubRec,
    PubRel,
    PubComp,
    Subscribe,
    SubAck,
    Unsubscribe,
    UnsubAck,
    Disconnect,
    Auth,
}

impl Section {
    const fn bit(self) -> u32 {
        1 << self as u32
    }

    const fn packet(self) -> PacketType {
        match self {
            Self::Will | Self::Connect => PacketType::Connect,
            Self::ConnAck => PacketType::ConnAck,
            Self::Publish => PacketType::Publish,
            Self::PubAck => PacketType::PubAck,
            Self::PubRec => PacketType::PubRec,
            Self::PubRel => PacketType::PubRel,
            Self::PubComp => PacketType::PubComp,
            Self::Subscribe => PacketType::Subscribe,
            Self::SubAck => PacketType::SubAck,
            Self::Unsubscribe => PacketType::Unsubscribe,
            Self::UnsubAck => PacketType::UnsubAck,
            Self::Disconnect => PacketType::Disconnect,
            Self::Auth => PacketType::Auth,
        }
    }

    /// Whether a property may be here more than once: User Property anywhere, and Subscription Identifier in a PUBLISH
    /// that matched several subscriptions (section 3.3.2.3.8).
    const fn is_repeatable(self, id: PropertyId) -> bool {
        match id {
            PropertyId::UserProperty => true,
            PropertyId::SubscriptionIdentifier => matches!(self, Self::Publish),
            _ => false,
        }
    }
}

/// Reads the properties of one section and holds them against the rules that are the same for all sections.
#[derive(Debug)]
pub(crate) struct Properties<'a> {
    section: Section,
    reader: Reader<'a>,
    whole: &'a [u8],
    seen: u64,
    user_properties: u32,
    subscription_ids: u32,
}

impl<'a> Properties<'a> {
    pub(crate) const fn new(section: Section, reader: Reader<'a>) -> Self {
        let whole = reader.rest();
        Self { section, reader, whole, seen: 0, user_properties: 0, subscription_ids: 0 }
    }

    /// The next property; one that comes out of here belongs into this section.
    pub(crate) fn next(&mut self) -> Result<Option<Property<'a>>, DecodeError> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let id = self.reader.varint()?;
        let id = PropertyId::from_u32(id).ok_or(DecodeError::UnknownProperty(id))?;
        if id.sections() & self.section.bit() == 0 {
            return Err(self.not_allowed(id));
        }
        let bit = 1 << id as u8;
        if self.seen & bit != 0 && !self.section.is_repeatable(id) {
            return Err(DecodeError::DuplicateProperty(id));
        }
        self.seen |= bit;
        self.user_properties += u32::from(id == PropertyId::UserProperty);
        if self.user_properties > USER_PROPERTIES_MAX {
            return Err(DecodeError::TooManyUserProperties);
        }
        self.subscription_ids += u32::from(id == PropertyId::SubscriptionIdentifier);
        Property::read_value(id, &mut self.reader).map(Some)
    }

    /// The whole section, and how many User Properties have been read.
    pub(crate) const fn user_properties(&self) -> (&'a [u8], u32) {
        (self.whole, self.user_properties)
    }

    /// The whole section, and how many Subscription Identifiers have been read.
    pub(crate) const fn subscription_ids(&self) -> (&'a [u8], u32) {
        (self.whole, self.subscription_ids)
    }

    /// The error for a property that does not belong here, or not from this side.
    ///
    /// The table lets none through that the caller does not know; should the two ever differ, this is what says so.
    pub(crate) const fn refuse(&self, property: &Property<'_>) -> DecodeError {
        self.not_allowed(property.id())
    }

    const fn not_allowed(&self, property: PropertyId) -> DecodeError {
        DecodeError::PropertyNotAllowed { property, packet: self.section.packet() }
    }
}

/// The property at the start of a section that has been checked before.
pub(crate) fn read_checked<'a>(reader: &mut Reader<'a>) -> Option<Property<'a>> {
    let id = PropertyId::from_u32(reader.varint().ok()?)?;
    Property::read_value(id, reader).ok()
}

/// A value of one of the types that properties have.
trait Value<'a>: Sized {
    fn read(id: PropertyId, reader: &mut Reader<'a>) -> Result<Self, DecodeError>;
    fn write(self, out: &mut Vec<u8>) -> Result<(), EncodeError>;
}

impl Value<'_> for bool {
    fn read(property: PropertyId, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(DecodeError::PropertyValue { property, value }),
        }
    }

    fn write(self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.push(u8::from(self));
        Ok(())
    }
}

impl Value<'_> for QoS {
    /// Maximum QoS is 0 or 1; 2 is said by leaving it out (section 3.2.2.3.4).
    fn read(property: PropertyId, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.u8()? {
            0 => Ok(Self::AtMostOnce),
            1 => Ok(Self::AtLeastOnce),
            value => Err(DecodeError::PropertyValue { property, value }),
        }
    }

    fn write(self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.push(self as u8);
        Ok(())
    }
}

impl Value<'_> for u16 {
    fn read(_: PropertyId, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.u16()
    }

    fn write(self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(&self.to_be_bytes());
        Ok(())
    }
}

impl Value<'_> for u32 {
    fn read(_: PropertyId, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.u32()
    }

    fn write(self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(&self.to_be_bytes());
        Ok(())
    }
}

impl Value<'_> for NonZeroU16 {
    fn read(property: PropertyId, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::new(reader.u16()?).ok_or(match property {
            PropertyId::TopicAlias => DecodeError::TopicAliasZero,
            property => DecodeError::PropertyValue { property, value: 0 },
        })
    }

    fn write(self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.get().write(out)
    }
}

impl Value<'_> for NonZeroU32 {
    fn read(property: PropertyId, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::new(reader.u32()?).ok_or(DecodeError::PropertyValue { property, value: 0 })
    }

    fn write(self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.get().write(out)
    }
}

impl Value<'_> for SubscriptionId {
    fn read(property: PropertyId, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let id = NonZeroU32::new(reader.varint()?);
        id.map(Self).ok_or(DecodeError::PropertyValue { property, value: 0 })
    }

    fn write(self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.0.get() > varint::MAX {
            return Err(DecodeError::VarIntTooLong.into());
        }
        varint::write(self.0.get() as usize, out);
        Ok(())
    }
}

impl<'a> Value<'a> for &'a [u8] {
    fn read(_: PropertyId, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        reader.binary()
    }

    fn write(self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        write::binary(self, out)
    }
}

impl<'a> Value<'a> for &'a str {
    fn read(property: PropertyId, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let string = reader.string()?;
        if property == PropertyId::ResponseTopic {
            check::response_topic(string)?;
        }
        Ok(string)
    }

    fn write(self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        write::string(self, out)
    }
}

impl<'a> Value<'a> for (&'a str, &'a str) {
    fn read(_: PropertyId, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok((reader.string()?, reader.string()?))
    }

    fn write(self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        write::string(self.0, out)?;
        write::string(self.1, out)
    }
}
