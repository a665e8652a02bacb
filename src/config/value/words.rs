//! Choices: each variant is one word.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::Value;

use super::{Setting, read, write};
use crate::config::{
    ClientEvent, LogFormat, Overlap, Protocol, Role, SharedStrategy, Sync, raw::RawQueueFull,
};

macro_rules! words {
    ($($type:ty { $($variant:ident = $word:literal),+ $(,)? })+) => {$(
        impl Setting for $type {
            fn expected() -> String {
                alternatives(&[$($word),+])
            }

            fn read(value: &Value) -> Option<Self> {
                match value.as_str()? {
                    $($word => Some(Self::$variant),)+
                    _ => None,
                }
            }

            fn write(&self) -> Value {
                Value::from(match self { $(Self::$variant => $word),+ })
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                read(deserializer)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                write(self, serializer)
            }
        }
    )+};
}

words! {
    Role { Core = "core", Edge = "edge" }
    Sync { Always = "always", Interval = "interval" }
    Protocol { Mqtt = "mqtt" }
    Overlap { Merge = "merge", Each = "each" }
    RawQueueFull { DropNewest = "drop_newest", DropOldest = "drop_oldest" }
    SharedStrategy {
        RoundRobin = "round_robin",
        Random = "random",
        Sticky = "sticky",
        HashClientid = "hash_clientid",
        HashTopic = "hash_topic",
        LeastInflight = "least_inflight",
    }
    ClientEvent {
        Connected = "connected",
        Disconnected = "disconnected",
        Subscribed = "subscribed",
        Unsubscribed = "unsubscribed",
    }
    LogFormat { Text = "text", Json = "json" }
}

/// `"a", "b" or "c"`.
fn alternatives(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_written() {
        for word in ["round_robin", "random", "sticky", "hash_clientid", "hash_topic", "least_inflight"] {
            assert_eq!(SharedStrategy::read(&word.into()).unwrap().write().as_str(), Some(word));
        }
        assert_eq!(SharedStrategy::read(&"Random".into()), None);
        assert_eq!(SharedStrategy::read(&1.into()), None);
    }

    #[test]
    fn choices_are_told() {
        assert_eq!(Protocol::expected(), "\"mqtt\"");
        assert_eq!(Overlap::expected(), "\"merge\" or \"each\"");
        let events = "\"connected\", \"disconnected\", \"subscribed\" or \"unsubscribed\"";
        assert_eq!(ClientEvent::expected(), events);
    }
}
