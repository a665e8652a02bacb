//! Values as they are written in a configuration: counts, sizes, durations, shares of memory, `"none"`.
//!
//! Each type carries its range, so that the schema in `raw.rs` reads as the reference and a fault can say what would
//! have been right.

mod bind;
mod count;
mod node_address;
mod secret;
mod size;
mod span;
mod words;

use std::fmt;

use flotilla_mqtt::topic::TopicFilter;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, Unexpected},
};
use toml::Value;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

pub use bind::BindAddress;
pub(super) use count::{Count, Factor};
pub use node_address::NodeAddress;
pub(super) use node_address::ServiceName;
pub use secret::Secret;
pub(super) use size::{MemoryShare, Size};
pub(super) use span::{SpanOf, WholeSeconds};

/// A value of the configuration with its own notation.
pub(super) trait Setting: Sized {
    /// Whether a message must not repeat the value.
    const SECRET: bool = false;

    /// What a valid value looks like, as in "must be ...".
    fn expected() -> String;
    /// Reads the value; `None`: it is of the wrong type or out of range.
    fn read(value: &Value) -> Option<Self>;
    /// Writes it as it would be read.
    fn write(&self) -> Value;
}

/// A setting that may be switched off with the word `"none"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OrNone<T> {
    /// The word `"none"`.
    None,
    /// A value.
    Is(T),
}

impl<T> OrNone<T> {
    /// The value, if there is one.
    pub(super) fn into_option(self) -> Option<T> {
        match self {
            Self::None => None,
            Self::Is(value) => Some(value),
        }
    }
}

impl<T: Setting> Setting for OrNone<T> {
    const SECRET: bool = T::SECRET;

    fn expected() -> String {
        format!("{}, or \"none\"", T::expected())
    }

    fn read(value: &Value) -> Option<Self> {
        if value.as_str() == Some("none") { Some(Self::None) } else { T::read(value).map(Self::Is) }
    }

    fn write(&self) -> Value {
        match self {
            Self::None => Value::from("none"),
            Self::Is(value) => value.write(),
        }
    }
}

/// A text of 1 to `MAX` characters without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text<const MAX: usize>(pub(super) String);

impl<const MAX: usize> Setting for Text<MAX> {
    fn expected() -> String {
        format!("a text of 1 to {MAX} bytes without control characters")
    }

    fn read(value: &Value) -> Option<Self> {
        let text = value.as_str()?;
        let fits = !text.is_empty() && text.len() <= MAX && !text.contains(char::is_control);
        fits.then(|| Self(text.to_owned()))
    }

    fn write(&self) -> Value {
        Value::from(self.0.as_str())
    }
}

/// A topic filter that is not of a shared subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlainFilter(pub(super) String);

impl Setting for PlainFilter {
    fn expected() -> String {
        "a valid topic filter such as \"#\" or \"a/+/b\", without $share/ or $queue/".to_owned()
    }

    fn read(value: &Value) -> Option<Self> {
        let filter = TopicFilter::parse(value.as_str()?, u16::MAX).ok()?;
        (!filter.is_shared()).then(|| Self(filter.as_str().to_owned()))
    }

    fn write(&self) -> Value {
        Value::from(self.0.as_str())
    }
}

/// A node's name: one level of a topic name, for it stands in `$SYS/brokers/<node>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeName(pub(super) String);

impl Setting for NodeName {
    fn expected() -> String {
        "a text of 1 to 255 bytes without \"/\", \"+\", \"#\", spaces or control characters".to_owned()
    }

    fn read(value: &Value) -> Option<Self> {
        let text = value.as_str()?;
        let bad = |c: char| matches!(c, '/' | '+' | '#') || c.is_whitespace() || c.is_control();
        let fits = !text.is_empty() && text.len() <= 255 && !text.contains(bad);
        fits.then(|| Self(text.to_owned()))
    }

    fn write(&self) -> Value {
        Value::from(self.0.as_str())
    }
}

/// A cluster's name: it goes along with every request between nodes, where only ASCII can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClusterName(pub(super) String);

impl Setting for ClusterName {
    fn expected() -> String {
        "a text of 1 to 64 letters, digits, \"-\", \"_\" or \".\"".to_owned()
    }

    fn read(value: &Value) -> Option<Self> {
        let text = value.as_str()?;
        let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let fits = (1..=64).contains(&text.len()) && text.chars().all(in_name);
        fits.then(|| Self(text.to_owned()))
    }

    fn write(&self) -> Value {
        Value::from(self.0.as_str())
    }
}

/// A level of the log, or a filter by module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogFilter(pub(super) String);

impl Setting for LogFilter {
    fn expected() -> String {
        "\"error\", \"warn\", \"info\", \"debug\", \"trace\", \"off\" or a filter such as \"info,flotilla=debug\"".to_owned()
    }

    fn read(value: &Value) -> Option<Self> {
        let text = value.as_str()?;
        // The parser takes a lone word for the name of a module, and logs nothing else.
        let level =
            |part: &str| part.contains('=') || (!part.is_empty() && part.parse::<LevelFilter>().is_ok());
        let fits = text.split(',').all(level) && EnvFilter::builder().parse(text).is_ok();
        fits.then(|| Self(text.to_owned()))
    }

    fn write(&self) -> Value {
        Value::from(self.0.as_str())
    }
}

/// `Deserialize` for every [`Setting`].
pub(super) fn read<'de, T: Setting, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let value = Value::deserialize(deserializer)?;
    T::read(&value).ok_or_else(|| match T::SECRET {
        true => D::Error::custom(format!("must be {}", T::expected())),
        false => D::Error::custom(format!("must be {}, not {}", T::expected(), Shown(&value))),
    })
}

/// `Serialize` for every [`Setting`].
pub(super) fn write<T: Setting, S: Serializer>(setting: &T, serializer: S) -> Result<S::Ok, S::Error> {
    setting.write().serialize(serializer)
}

/// A value in a message: short whatever it is.
struct Shown<'a>(&'a Value);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::String(text) if text.len() <= 80 => write!(f, "{text:?}"),
            Value::String(text) => write!(f, "a text of {} bytes", text.len()),
            Value::Integer(number) => write!(f, "{number}"),
            Value::Float(number) => write!(f, "{number}"),
            Value::Boolean(flag) => write!(f, "{flag}"),
            Value::Datetime(time) => write!(f, "{time}"),
            Value::Array(_) => write!(f, "{}", Unexpected::Seq),
            Value::Table(_) => f.write_str("a table"),
        }
    }
}

macro_rules! serde_by_setting {
    ($([$($generics:tt)*] $type:ty),* $(,)?) => {$(
        impl<'de, $($generics)*> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                read(deserializer)
            }
        }
        impl<$($generics)*> Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                write(self, serializer)
            }
        }
    )*};
}

serde_by_setting! {
    [T: Setting] OrNone<T>,
    [const MAX: usize] Text<MAX>,
    [] NodeName,
    [] ClusterName,
    [] LogFilter,
    [] BindAddress,
    [] NodeAddress,
    [] ServiceName,
    [] Secret,
    [] PlainFilter,
    [const MIN: u64, const MAX: u64] Count<MIN, MAX>,
    [] Factor,
    [const MIN: u64, const MAX: u64] Size<MIN, MAX>,
    [] MemoryShare,
    [const MIN_MS: u64, const MAX_MS: u64] SpanOf<MIN_MS, MAX_MS>,
    [const MIN: u64, const MAX: u64] WholeSeconds<MIN, MAX>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_a_value_only_where_it_is_offered() {
        assert_eq!(OrNone::<Count<1, 9>>::read(&"none".into()), Some(OrNone::None));
        assert_eq!(OrNone::<Count<1, 9>>::read(&3.into()), Some(OrNone::Is(Count::of(3))));
        assert_eq!(OrNone::<Count<1, 9>>::read(&0.into()), None);
        assert_eq!(Count::<1, 9>::read(&"none".into()), None);
        assert_eq!(OrNone::<Count<1, 9>>::expected(), "an integer from 1 to 9, or \"none\"");
    }

    #[test]
    fn node_names_are_one_topic_level() {
        for name in ["a", "flotilla@127.0.0.1", "node-1.example.org", "größe"] {
            assert!(NodeName::read(&name.into()).is_some(), "{name}");
        }
        for name in ["", "a/b", "+", "a#", "a b", "a\0", "a\n"] {
            assert!(NodeName::read(&name.into()).is_none(), "{name:?}");
        }
        assert!(NodeName::read(&"n".repeat(255).into()).is_some());
        assert!(NodeName::read(&"n".repeat(256).into()).is_none());
    }

    #[test]
    fn cluster_names_are_ascii() {
        for name in ["flotilla", "eu-1.example.org", "a", &"n".repeat(64)] {
            assert!(ClusterName::read(&name.into()).is_some(), "{name}");
        }
        for name in ["", "größe", "a b", "a/b", "a\n", &"n".repeat(65)] {
            assert!(ClusterName::read(&name.into()).is_none(), "{name:?}");
        }
    }

    #[test]
    fn log_filters_are_levels_or_directives() {
        for filter in ["info", "off", "WARN", "info,flotilla=debug", "flotilla::broker=trace,error"] {
            assert!(LogFilter::read(&filter.into()).is_some(), "{filter}");
        }
        for filter in ["", "loud", "info,", "flotilla", "flotilla=loud", "info,[=debug"] {
            assert!(LogFilter::read(&filter.into()).is_none(), "{filter}");
        }
    }

    #[test]
    fn plain_filters_are_valid_and_not_shared() {
        for filter in ["#", "a/+/b", "$SYS/#"] {
            assert!(PlainFilter::read(&filter.into()).is_some(), "{filter}");
        }
        for filter in ["", "a/#/b", "$share/g/a", "$queue/a"] {
            assert!(PlainFilter::read(&filter.into()).is_none(), "{filter}");
        }
    }

    #[test]
    fn long_texts_are_not_repeated_in_messages() {
        assert_eq!(Shown(&"x".repeat(81).into()).to_string(), "a text of 81 bytes");
    }
}
