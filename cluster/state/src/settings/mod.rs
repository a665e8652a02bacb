//! What an operator changes at run time, for the whole cluster.
//!
//! A setting is a value under a key. The state does not look into values: what they mean is the business of those who
//! read them, such as [`ban`]. Everything has a bound, see [`limits`].

pub(crate) mod ban;
pub(crate) mod wire;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use crate::{DecodeError, Invalid, Reply, limits};

/// The settings, in the order of their keys. A clone shares them, and stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Shared with snapshots that are being written: copied by the next change, keys and values excepted.
    by_key: Arc<BTreeMap<Arc<str>, Bytes>>,
    /// Of all keys and values.
    bytes: usize,
}

impl Settings {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// The value under a key.
    pub fn value(&self, key: &str) -> Option<&Bytes> {
        self.by_key.get(key)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.by_key.iter().map(|(key, value)| (&**key, value))
    }

    /// Those whose keys begin with `prefix`.
    pub fn with_prefix(&self, prefix: &str) -> impl Iterator<Item = (&str, &Bytes)> {
        let from =
            self.by_key.range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        from.map(|(key, value)| (&**key, value)).take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// All of them, for a snapshot. Nothing is copied before the first is asked for.
    pub(crate) fn into_entries(self) -> impl Iterator<Item = (Arc<str>, Bytes)> + Send {
        let all = move || self.by_key.iter().map(|(key, value)| (Arc::clone(key), value.clone())).collect();
        std::iter::once_with(all).flat_map(|all: Vec<_>| all)
    }

    /// Changes one; `None` removes it. Returns whether that changed anything.
    pub(crate) fn set(&mut self, key: &str, value: Option<Bytes>) -> Result<bool, Reply> {
        check_key(key).map_err(Reply::Invalid)?;
        let before = self.by_key.get(key);
        let Some(value) = value else {
            let cost = key.len() + before.ok_or(Reply::UnknownSetting)?.len();
            Arc::make_mut(&mut self.by_key).remove(key);
            self.bytes -= cost;
            return Ok(true);
        };
        check_value(&value).map_err(Reply::Invalid)?;
        if before == Some(&value) {
            return Ok(false);
        }
        if before.is_none() && self.by_key.len() >= limits::SETTINGS_MAX {
            return Err(Reply::TooManySettings);
        }
        let replaced = before.map_or(0, |before| key.len() + before.len());
        let bytes = self.bytes - replaced + key.len() + value.len();
        if bytes > limits::SETTINGS_BYTES_MAX {
            return Err(Reply::SettingsFull);
        }
        Arc::make_mut(&mut self.by_key).insert(key.into(), value);
        self.bytes = bytes;
        Ok(true)
    }

    /// Appends the next one of a snapshot.
    pub(crate) fn push(&mut self, key: &str, value: Bytes) -> Result<(), DecodeError> {
        let is_next = self.by_key.last_key_value().is_none_or(|(last, _)| **last < *key);
        match self.set(key, Some(value)) {
            Ok(true) if is_next => Ok(()),
            _ => Err(DecodeError::Field("setting")),
        }
    }

    pub(crate) fn check_invariants(&self) {
        assert!(self.len() <= limits::SETTINGS_MAX && self.bytes <= limits::SETTINGS_BYTES_MAX);
        if self.len() <= CHECKED_SETTINGS_MAX {
            assert_eq!(self.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>(), self.bytes);
            assert!(self.iter().all(|(key, value)| check_key(key).and(check_value(value)).is_ok()));
        }
    }
}

/// A key is a path: parts of what needs no percent-encoding in a URL (RFC 3986, section 2.3), and the percent sign, with
/// slashes between them.
fn check_key(key: &str) -> Result<(), Invalid> {
    let is_part =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte == b'%' || is_unreserved(byte));
    let is_key = key.len() <= limits::SETTING_KEY_BYTES_MAX && key.split('/').all(is_part);
    if is_key { Ok(()) } else { Err(Invalid::SettingKey) }
}

fn check_value(value: &Bytes) -> Result<(), Invalid> {
    if value.len() <= limits::SETTING_VALUE_BYTES_MAX { Ok(()) } else { Err(Invalid::SettingValue) }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// With more settings than this, they are not counted after each command.
const CHECKED_SETTINGS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_set_replaced_and_removed() {
        let mut settings = Settings::default();
        let value = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        assert_eq!(settings.set("a/b", value("1")), Ok(true));
        assert_eq!(settings.set("a/b", value("1")), Ok(false), "it is so already");
        let before = settings.clone();
        assert_eq!(settings.set("a/b", value("")), Ok(true), "an empty value is one");
        assert_eq!(settings.set("a/b", None), Ok(true));
        assert_eq!(settings.set("a/b", None), Err(Reply::UnknownSetting));
        assert!(settings.is_empty() && settings.bytes == 0);
        assert_eq!(before.value("a/b").map(|value| &value[..]), Some(&b"1"[..]), "a clone stays as it is");
    }

    #[test]
    fn a_prefix_finds_what_begins_so() {
        let mut settings = Settings::default();
        for key in ["a", "ban/x", "ban/y", "bans", "b"] {
            settings.set(key, Some(Bytes::new())).unwrap();
        }
        assert_eq!(settings.with_prefix("ban/").map(|(key, _)| key).collect::<Vec<_>>(), ["ban/x", "ban/y"]);
        assert_eq!(settings.with_prefix("c").count(), 0);
        assert!(settings.iter().map(|(key, _)| key).is_sorted());
    }

    #[test]
    fn keys_are_paths() {
        let longest = "x".repeat(limits::SETTING_KEY_BYTES_MAX);
        for key in ["a", "ban/peerhost/10.0.0.1", "a/%C3%BC~-_.", &longest] {
            assert_eq!(check_key(key), Ok(()), "{key}");
        }
        let too_long = format!("{longest}x");
        for key in ["", "/", "/a", "a/", "a//b", "a b", "a\0", "ü", "a:b", "a+", "#", &too_long] {
            assert_eq!(check_key(key), Err(Invalid::SettingKey), "{key}");
        }
    }

    #[test]
    fn there_is_room_for_so_much() {
        let mut settings = Settings::default();
        let largest = Bytes::from(vec![0; limits::SETTING_VALUE_BYTES_MAX]);
        let too_large = Bytes::from(vec![0; limits::SETTING_VALUE_BYTES_MAX + 1]);
        let refused = Err(Reply::Invalid(Invalid::SettingValue));
        assert_eq!(settings.set("a", Some(too_large)), refused);
        let mut numbers = 0..;
        let mut add = |settings: &mut Settings, value: &Bytes| {
            settings.set(&format!("{:08}", numbers.next().unwrap()), Some(value.clone()))
        };
        while settings.bytes + 8 + largest.len() <= limits::SETTINGS_BYTES_MAX {
            assert_eq!(add(&mut settings, &largest), Ok(true));
        }
        assert_eq!(add(&mut settings, &largest), Err(Reply::SettingsFull));
        let other = Bytes::from(vec![1; limits::SETTING_VALUE_BYTES_MAX]);
        assert_eq!(settings.set("00000000", Some(other)), Ok(true), "it is no longer than the one before");
        settings.check_invariants();
    }

    #[test]
    fn there_is_room_for_so_many() {
        let mut settings = Settings::default();
        for number in 0..limits::SETTINGS_MAX {
            assert_eq!(settings.set(&number.to_string(), Some(Bytes::new())), Ok(true));
        }
        assert_eq!(settings.set("new", Some(Bytes::new())), Err(Reply::TooManySettings));
        assert_eq!(settings.set("7", Some(Bytes::from_static(b"1"))), Ok(true), "it is there already");
        assert_eq!(settings.set("7", None), Ok(true));
        assert_eq!(settings.set("new", Some(Bytes::new())), Ok(true));
        settings.check_invariants();
    }

    #[test]
    fn a_snapshot_has_them_in_order() {
        let mut settings = Settings::default();
        settings.push("b", Bytes::new()).unwrap();
        for key in ["a", "b", "", "c d"] {
            assert_eq!(settings.clone().push(key, Bytes::new()), Err(DecodeError::Field("setting")), "{key}");
        }
        assert_eq!(settings.push("c", Bytes::new()), Ok(()));
    }
}
