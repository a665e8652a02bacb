//! Bans: clients that no node lets in.
//!
//! A ban is a setting. Its key says who is banned, and that alone counts when clients connect; its value says why, by whom
//! and since when, for people. So a value that a program does not understand does not lift the ban.

use std::{fmt, fmt::Write as _, net::IpAddr};

use bytes::Bytes;
use prost::Message;

use super::{check_key, is_unreserved, wire};
use crate::{
    DecodeError, limits,
    wire::{VERSION, Versioned},
};

/// Who is banned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Banned {
    kind: BanKind,
    /// Of an address: as [`IpAddr`] writes it. Never empty.
    who: Box<str>,
}

/// What a client is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BanKind {
    /// Its client identifier.
    ClientId,
    /// Its user name.
    Username,
    /// The address that it connects from, without its port.
    PeerHost,
}

/// What is known of a ban besides who is banned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ban {
    /// Why, in words; may be empty.
    pub reason: Box<str>,
    /// Who has banned.
    pub by: Box<str>,
    /// When, in milliseconds since 1970.
    pub at: u64,
}

/// Why something cannot be banned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BanError {
    /// Nothing is named.
    #[error("whom to ban must not be empty")]
    Empty,
    /// It does not fit into a key.
    #[error(
        "it is too long to be banned: percent-encoded it may have no more than {} bytes",
        limits::SETTING_KEY_BYTES_MAX - PREFIX.len() - BanKind::ClientId.name().len() - 1
    )]
    TooLong,
    /// Not an address.
    #[error("not an IP address")]
    Address,
    /// See [`limits::BAN_TEXT_BYTES_MAX`].
    #[error("a reason, and who has banned, may have no more than {} bytes", limits::BAN_TEXT_BYTES_MAX)]
    Text,
}

/// All keys of bans begin so.
pub const PREFIX: &str = "ban/";

impl Banned {
    /// A client identifier, a user name or an address.
    ///
    /// # Errors
    /// It is empty, too long, or not an address where that is meant.
    pub fn new(kind: BanKind, who: &str) -> Result<Self, BanError> {
        let who: Box<str> = match kind {
            BanKind::ClientId | BanKind::Username => who.into(),
            // A listener of both families sees an IPv4 address as one of IPv6.
            BanKind::PeerHost => {
                let address: IpAddr = who.parse().map_err(|_| BanError::Address)?;
                address.to_canonical().to_string().into()
            }
        };
        if who.is_empty() {
            return Err(BanError::Empty);
        }
        let banned = Self { kind, who };
        check_key(&banned.key()).map_err(|_| BanError::TooLong)?;
        Ok(banned)
    }

    /// What it is known by.
    pub fn kind(&self) -> BanKind {
        self.kind
    }

    /// The client identifier, user name or address.
    pub fn who(&self) -> &str {
        &self.who
    }

    /// The address; `None` of what is none.
    pub fn peer_host(&self) -> Option<IpAddr> {
        self.who.parse().ok().filter(|_| self.kind == BanKind::PeerHost)
    }

    /// The key of its setting.
    pub fn key(&self) -> String {
        let mut key = format!("{PREFIX}{}/", self.kind);
        for byte in self.who.bytes() {
            if is_unreserved(byte) {
                key.push(char::from(byte));
            } else {
                write!(key, "%{byte:02X}").expect("a string takes everything");
            }
        }
        key
    }

    /// Whom the setting with this key bans; `None`: it is no ban that this program knows.
    pub fn from_key(key: &str) -> Option<Self> {
        let (kind, encoded) = key.strip_prefix(PREFIX)?.split_once('/')?;
        let banned = Self::new(BanKind::from_name(kind)?, &percent_decoded(encoded)?).ok()?;
        // Each has one key.
        (banned.key() == key).then_some(banned)
    }
}

impl BanKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ClientId, Self::Username, Self::PeerHost];

    /// As operators and keys call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientId => "clientid",
            Self::Username => "username",
            Self::PeerHost => "peerhost",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for BanKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl Ban {
    /// The value of the setting.
    ///
    /// # Errors
    /// A text is too long.
    pub fn encode(&self) -> Result<Bytes, BanError> {
        if self.reason.len().max(self.by.len()) > limits::BAN_TEXT_BYTES_MAX {
            return Err(BanError::Text);
        }
        let Self { reason, by, at } = self;
        let wire = wire::Ban { version: VERSION, reason: reason.to_string(), by: by.to_string(), at: *at };
        Ok(wire.encode_to_vec().into())
    }

    /// Reads the value of a setting.
    ///
    /// # Errors
    /// It is not the value of a ban, or of a version that this program does not know.
    pub fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let wire::Ban { reason, by, at, .. } = wire::Ban::decode_versioned(value)?;
        Ok(Self { reason: reason.into(), by: by.into(), at })
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || char::from(rest.next()?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        bytes.push(if byte == b'%' { digit()? << 4 | digit()? } else { byte });
    }
    String::from_utf8(bytes).ok()
}

// Every ban has room in a setting.
const _: () = assert!(2 * limits::BAN_TEXT_BYTES_MAX + 64 <= limits::SETTING_VALUE_BYTES_MAX);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_ban_has_one_key() {
        check(BanKind::ClientId, "sensor-7", "ban/clientid/sensor-7");
        check(BanKind::ClientId, "a/b c%", "ban/clientid/a%2Fb%20c%25");
        check(BanKind::Username, "jürgen", "ban/username/j%C3%BCrgen");
        check(BanKind::PeerHost, "192.0.2.7", "ban/peerhost/192.0.2.7");
        check(BanKind::PeerHost, "::ffff:192.0.2.7", "ban/peerhost/192.0.2.7");
        check(BanKind::PeerHost, "2001:DB8:0:0::1", "ban/peerhost/2001%3Adb8%3A%3A1");
        for key in [
            "ban/clientid",
            "ban/clientid/",
            "ban/clientid/a/b",
            "ban/clientid/%61",
            "ban/clientid/%2f",
            "ban/clientid/%",
            "ban/clientid/%F",
            "ban/clientid/%FF",
            "ban/clientid_re/a",
            "ban/peerhost/localhost",
            "ban/peerhost/::ffff:192.0.2.7",
            "banner/clientid/a",
        ] {
            assert_eq!(Banned::from_key(key), None, "{key}");
        }
    }

    #[test]
    fn what_cannot_be_banned_is_refused() {
        let error = |kind, who: &str| Banned::new(kind, who).unwrap_err();
        assert_eq!(error(BanKind::ClientId, ""), BanError::Empty);
        assert_eq!(error(BanKind::Username, ""), BanError::Empty);
        assert_eq!(error(BanKind::PeerHost, ""), BanError::Address);
        assert_eq!(error(BanKind::PeerHost, "192.0.2.0/24"), BanError::Address);
        let longest = limits::SETTING_KEY_BYTES_MAX - "ban/clientid/".len();
        assert!(Banned::new(BanKind::ClientId, &"x".repeat(longest)).is_ok());
        assert_eq!(error(BanKind::ClientId, &"x".repeat(longest + 1)), BanError::TooLong);
        assert!(BanError::TooLong.to_string().ends_with(&format!(" {longest} bytes")));
        let ban = Ban { reason: "x".repeat(limits::BAN_TEXT_BYTES_MAX + 1).into(), ..Ban::default() };
        assert_eq!(ban.encode(), Err(BanError::Text));
    }

    #[test]
    fn the_bytes_of_a_value_never_change() {
        let ban = Ban { reason: "noisy".into(), by: "ctl".into(), at: 300 };
        let bytes = b"\x08\x01\x12\x05noisy\x1A\x03ctl\x20\xAC\x02";
        assert_eq!(ban.encode().as_deref(), Ok(&bytes[..]));
        assert_eq!(Ban::decode(bytes), Ok(ban));
        assert_eq!(Ban::decode(b"\x08\x02"), Err(DecodeError::UnknownVersion(2)));
        assert_eq!(Ban::decode(b""), Err(DecodeError::UnknownVersion(0)));
    }

    proptest! {
        #[test]
        fn whoever_is_banned_is_found_in_the_key(who in "\\PC{1,40}|[\\x00-\\x7f]{1,40}") {
            let banned = Banned::new(BanKind::Username, &who).unwrap();
            prop_assert_eq!(Banned::from_key(&banned.key()), Some(banned));
        }

        #[test]
        fn no_key_makes_it_panic(key in "(ban/(clientid|peerhost)/)?\\PC{0,20}", value in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Banned::from_key(&key);
            let _ = Ban::decode(&value);
        }
    }

    fn check(kind: BanKind, who: &str, key: &str) {
        let banned = Banned::new(kind, who).unwrap();
        assert_eq!(banned.key(), key);
        assert_eq!(Banned::from_key(key), Some(banned.clone()));
        assert_eq!(banned.peer_host().is_some(), kind == BanKind::PeerHost);
    }
}
