//! Sizes in bytes: `"1MiB"`, `"64KB"`, `4096`; and shares of the memory: `"25%"`.

use std::fmt;

use toml::Value;

use super::{Setting, count::narrow};

/// A size from `MIN` to `MAX` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct Size<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Size<MIN, MAX> {
    /// A size that is known when this is compiled.
    pub(in crate::config) const fn of(bytes: u64) -> Self {
        assert!(MIN <= bytes && bytes <= MAX, "a default within its range");
        Self(bytes)
    }

    /// The size in a type that holds the whole range.
    pub(in crate::config) fn narrow<T: TryFrom<u64>>(self) -> T {
        narrow(self.0)
    }
}

impl<const MIN: u64, const MAX: u64> Setting for Size<MIN, MAX> {
    fn expected() -> String {
        format!("a size such as \"64KiB\", from {} to {}", Bytes(MIN), Bytes(MAX))
    }

    fn read(value: &Value) -> Option<Self> {
        let bytes = read_bytes(value)?;
        (MIN..=MAX).contains(&bytes).then_some(Self(bytes))
    }

    fn write(&self) -> Value {
        Value::from(Bytes(self.0).to_string())
    }
}

/// A size, or a share of the memory that this process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum MemoryShare {
    /// So many bytes.
    Bytes(u64),
    /// 1 to 100 in a hundred.
    Percent(u8),
}

impl MemoryShare {
    /// The number of bytes, where there are `memory` bytes in all.
    pub(in crate::config) fn of(self, memory: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            // Divided first, so that it cannot overflow; what is lost is less than 100 bytes.
            Self::Percent(percent) => memory / 100 * u64::from(percent),
        }
    }
}

impl Setting for MemoryShare {
    fn expected() -> String {
        "a size such as \"64MiB\" or a share of the memory from \"1%\" to \"100%\"".to_owned()
    }

    fn read(value: &Value) -> Option<Self> {
        if let Some(number) = value.as_str().and_then(|text| text.strip_suffix('%')) {
            let percent = u8::try_from(digits(number.trim_end())?).ok()?;
            return (1..=100).contains(&percent).then_some(Self::Percent(percent));
        }
        read_bytes(value).filter(|bytes| (1..=SIZE_MAX).contains(bytes)).map(Self::Bytes)
    }

    fn write(&self) -> Value {
        match self {
            Self::Bytes(bytes) => Value::from(Bytes(*bytes).to_string()),
            Self::Percent(percent) => Value::from(format!("{percent}%")),
        }
    }
}

/// Reads an integer, which counts bytes, or a text with a unit.
fn read_bytes(value: &Value) -> Option<u64> {
    let text = match value {
        Value::Integer(bytes) => return u64::try_from(*bytes).ok(),
        Value::String(text) => text,
        _ => return None,
    };
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start();
    let factor =
        if unit.is_empty() { 1 } else { UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1 };
    digits(number)?.checked_mul(factor)
}

/// A number of ASCII digits only; `str::parse` would take a sign.
pub(super) fn digits(text: &str) -> Option<u64> {
    let all_digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if all_digits { text.parse().ok() } else { None }
}

/// A number of bytes in the largest binary unit that divides it.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = UNITS.iter().filter(|(name, _)| name.contains('i'));
        match binary.rev().find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor)) {
            Some((name, factor)) => write!(f, "{}{name}", self.0 / factor),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// The units, smallest first of each kind.
const UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// The largest size that makes sense anywhere; it keeps sums of sizes far from overflow.
pub(in crate::config) const SIZE_MAX: u64 = 1 << 50;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit() {
        let check = |value: Value, bytes: Option<u64>| assert_eq!(read_bytes(&value), bytes, "{value}");
        check("0".into(), Some(0));
        check("17".into(), Some(17));
        check("17B".into(), Some(17));
        check("1KB".into(), Some(1_000));
        check("1KiB".into(), Some(1_024));
        check("1MiB".into(), Some(1_048_576));
        check("1 MiB".into(), Some(1_048_576));
        check("1mib".into(), Some(1_048_576));
        check("2GB".into(), Some(2_000_000_000));
        check("3TiB".into(), Some(3 << 40));
        check(4_096.into(), Some(4_096));
        check((-1).into(), None);
        check(1.5.into(), None);
        check("".into(), None);
        check("MiB".into(), None);
        check("-1MiB".into(), None);
        check("+1MiB".into(), None);
        check("1.5MiB".into(), None);
        check("1XB".into(), None);
        check("1Mi B".into(), None);
        check("18446744073709551616".into(), None);
        check("99999999TiB".into(), None);
    }

    #[test]
    fn sizes_are_written_as_they_are_read() {
        for text in ["1B", "1000B", "1KiB", "1025B", "3MiB", "1GiB", "1TiB", "0B"] {
            let bytes = read_bytes(&text.into()).unwrap();
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn sizes_keep_their_range() {
        assert!(Size::<16, 1_024>::read(&16.into()).is_some());
        assert!(Size::<16, 1_024>::read(&"1KiB".into()).is_some());
        assert!(Size::<16, 1_024>::read(&15.into()).is_none());
        assert!(Size::<16, 1_024>::read(&"1025B".into()).is_none());
        assert_eq!(Size::<16, 1_024>::expected(), "a size such as \"64KiB\", from 16B to 1KiB");
    }

    #[test]
    fn shares_of_memory() {
        let check = |value: Value, bytes: Option<u64>| {
            assert_eq!(MemoryShare::read(&value).map(|share| share.of(8_000)), bytes, "{value}");
        };
        check("25%".into(), Some(2_000));
        check("100%".into(), Some(8_000));
        check("1 %".into(), Some(80));
        check("1MiB".into(), Some(1 << 20));
        check(77.into(), Some(77));
        check("0%".into(), None);
        check("101%".into(), None);
        check("-1%".into(), None);
        check("2.5%".into(), None);
        check("%".into(), None);
        check(0.into(), None);
        assert_eq!(MemoryShare::Percent(100).of(u64::MAX), u64::MAX / 100 * 100);
    }
}
