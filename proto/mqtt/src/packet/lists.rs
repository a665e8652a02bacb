//! Lists inside packets, kept encoded and parsed while they are iterated.

use std::{fmt, num::NonZeroU32, slice};

use super::SubscriptionOptions;
use crate::{
    ReasonCode,
    codec::{Property, Reader, SubscriptionId, read_checked},
};

/// Declares a list: its documentation, its name, the type of its elements.
macro_rules! lists {
    ($($(#[$doc:meta])* $name:ident of $element:ty;)*) => { $(
        $(#[$doc])*
        ///
        /// Iterating what was decoded parses again what the decoder has checked, and allocates nothing. For a packet
        /// that is to be encoded it is made from a slice.
        #[derive(Clone, Copy)]
        pub struct $name<'a>(List<'a, $element>);

        impl<'a> $name<'a> {
            /// `count` elements that the decoder has found in `bytes`.
            pub(crate) const fn decoded((bytes, count): (&'a [u8], u32)) -> Self {
                if count == 0 { Self(List::Slice(&[])) } else { Self(List::Decoded { bytes, count }) }
            }

            /// The elements, in order.
            pub fn iter(&self) -> impl Iterator<Item = $element> + Clone + fmt::Debug + use<'a> {
                self.0.iter()
            }

            /// How many there are; costs nothing.
            #[must_use]
            pub const fn len(&self) -> usize {
                self.0.len()
            }

            /// Whether there are none.
            #[must_use]
            pub const fn is_empty(&self) -> bool {
                self.len() == 0
            }
        }

        impl<'a> From<&'a [$element]> for $name<'a> {
            fn from(slice: &'a [$element]) -> Self {
                Self(List::Slice(slice))
            }
        }

        impl<'a, const N: usize> From<&'a [$element; N]> for $name<'a> {
            fn from(slice: &'a [$element; N]) -> Self {
                Self(List::Slice(slice))
            }
        }

        impl Default for $name<'_> {
            /// The empty list.
            fn default() -> Self {
                Self(List::Slice(&[]))
            }
        }

        impl PartialEq for $name<'_> {
            /// By content, whether it was decoded or not.
            fn eq(&self, other: &Self) -> bool {
                self.len() == other.len() && self.iter().eq(other.iter())
            }
        }

        impl fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_list().entries(self.iter()).finish()
            }
        }
    )* };
}

lists! {
    /// User Properties: names with values, in order, names not unique (section 3.3.2.3.7).
    UserProperties of (&'a str, &'a str);
    /// The payload of SUBSCRIBE: filters with their options.
    Filters of (&'a str, SubscriptionOptions);
    /// The payload of UNSUBSCRIBE: filters.
    FilterNames of &'a str;
    /// The payload of SUBACK and UNSUBACK.
    ReasonCodes of ReasonCode;
    /// Subscription Identifiers of a PUBLISH.
    IdList of NonZeroU32;
}

/// The two forms of a list.
#[derive(Clone, Copy)]
enum List<'a, T> {
    /// Checked by the decoder. For properties `bytes` is a whole property section, with the others among them.
    Decoded { bytes: &'a [u8], count: u32 },
    /// Given by whoever builds a packet.
    Slice(&'a [T]),
}

impl<'a, T: Element<'a>> List<'a, T> {
    fn iter(&self) -> Iter<'a, T> {
        match *self {
            Self::Decoded { bytes, .. } => Iter::Decoded(Reader::new(bytes)),
            Self::Slice(slice) => Iter::Slice(slice.iter()),
        }
    }
}

impl<T> List<'_, T> {
    const fn len(&self) -> usize {
        match self {
            Self::Decoded { count, .. } => *count as usize,
            Self::Slice(slice) => slice.len(),
        }
    }
}

#[derive(Debug, Clone)]
enum Iter<'a, T> {
    Decoded(Reader<'a>),
    Slice(slice::Iter<'a, T>),
}

impl<'a, T: Element<'a>> Iterator for Iter<'a, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        match self {
            Self::Decoded(reader) => T::read(reader),
            Self::Slice(slice) => slice.next().copied(),
        }
    }
}

/// What a list is made of.
trait Element<'a>: Copy + 'a {
    /// The next element; `None` at the end.
    fn read(reader: &mut Reader<'a>) -> Option<Self>;
}

impl<'a> Element<'a> for (&'a str, &'a str) {
    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        loop {
            if let Property::UserProperty(pair) = read_checked(reader)? {
                return Some(pair);
            }
        }
    }
}

impl<'a> Element<'a> for NonZeroU32 {
    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        loop {
            if let Property::SubscriptionIdentifier(SubscriptionId(id)) = read_checked(reader)? {
                return Some(id);
            }
        }
    }
}

impl<'a> Element<'a> for (&'a str, SubscriptionOptions) {
    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        let filter = reader.string().ok()?;
        let options = SubscriptionOptions::from_bits(reader.u8().ok()?).ok()?;
        Some((filter, options))
    }
}

impl<'a> Element<'a> for &'a str {
    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        reader.string().ok()
    }
}

impl<'a> Element<'a> for ReasonCode {
    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        ReasonCode::from_u8(reader.u8().ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{QoS, packet::RetainHandling};

    const OPTIONS: SubscriptionOptions = SubscriptionOptions {
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: false,
        retain_handling: RetainHandling::SendIfNew,
    };

    #[test]
    fn properties_are_found_among_others() {
        let section = b"\x03\0\x01t\x26\0\x01a\0\x01b\x0B\x07\x26\0\0\0\0\x0B\x80\x01";
        let user_properties = UserProperties::decoded((section, 2));
        assert_eq!(user_properties.iter().collect::<Vec<_>>(), [("a", "b"), ("", "")]);
        assert_eq!(user_properties, UserProperties::from(&[("a", "b"), ("", "")]));
        assert_ne!(user_properties, UserProperties::from(&[("", ""), ("a", "b")]));
        let ids = IdList::decoded((section, 2));
        assert_eq!(ids.iter().map(NonZeroU32::get).collect::<Vec<_>>(), [7, 128]);
        assert_eq!(format!("{user_properties:?} {ids:?}"), r#"[("a", "b"), ("", "")] [7, 128]"#);
    }

    #[test]
    fn payloads_are_read_to_their_end() {
        let filters = Filters::decoded((b"\0\x01a\x16\0\x02#/\0", 2));
        assert_eq!(filters, Filters::from(&[("a", OPTIONS), ("#/", SubscriptionOptions::default())]));
        assert_eq!(FilterNames::decoded((b"\0\x01a\0\0", 2)), FilterNames::from(&["a", ""]));
        let reasons = [ReasonCode::Success, ReasonCode::NotAuthorized];
        assert_eq!(ReasonCodes::decoded((b"\0\x87", 2)), ReasonCodes::from(&reasons));
        assert_ne!(ReasonCodes::decoded((b"\0\x87", 2)), ReasonCodes::from(&reasons[..1]));
    }

    #[test]
    fn empty_lists_are_equal() {
        assert_eq!(UserProperties::default(), UserProperties::decoded((b"\x03\0\x01t", 0)));
        assert!(UserProperties::default().is_empty() && UserProperties::default().iter().next().is_none());
    }

    #[test]
    fn options_survive_their_byte() {
        for bits in 0..=u8::MAX {
            if let Ok(options) = SubscriptionOptions::from_bits(bits) {
                assert_eq!(options.bits(), bits);
            }
        }
        assert_eq!(OPTIONS.bits(), 0x16);
    }
}
