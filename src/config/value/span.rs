//! Durations: `"30s"`, `"1m30s"`, `"500ms"`.

use std::{fmt, time::Duration};

use toml::Value;

use super::{Setting, count::narrow, size::digits};

/// A duration from `MIN_MS` to `MAX_MS` milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct SpanOf<const MIN_MS: u64, const MAX_MS: u64>(u64);

impl<const MIN_MS: u64, const MAX_MS: u64> SpanOf<MIN_MS, MAX_MS> {
    /// A duration that is known when this is compiled.
    pub(in crate::config) const fn of_secs(secs: u64) -> Self {
        assert!(MIN_MS <= secs * 1_000 && secs * 1_000 <= MAX_MS, "a default within its range");
        Self(secs * 1_000)
    }

    /// The duration.
    pub(in crate::config) const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl<const MIN_MS: u64, const MAX_MS: u64> Setting for SpanOf<MIN_MS, MAX_MS> {
    fn expected() -> String {
        format!("a duration such as \"30s\" or \"1m30s\", from {} to {}", Millis(MIN_MS), Millis(MAX_MS))
    }

    fn read(value: &Value) -> Option<Self> {
        let millis = read_millis(value)?;
        (MIN_MS..=MAX_MS).contains(&millis).then_some(Self(millis))
    }

    fn write(&self) -> Value {
        Value::from(Millis(self.0).to_string())
    }
}

/// A duration of `MIN` to `MAX` seconds without a fraction: MQTT carries it as an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct WholeSeconds<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> WholeSeconds<MIN, MAX> {
    /// The seconds in a type that holds the whole range.
    pub(in crate::config) fn narrow<T: TryFrom<u64>>(self) -> T {
        narrow(self.0)
    }
}

impl<const MIN: u64, const MAX: u64> Setting for WholeSeconds<MIN, MAX> {
    fn expected() -> String {
        format!("a duration in whole seconds such as \"60s\", from {MIN}s to {MAX}s")
    }

    fn read(value: &Value) -> Option<Self> {
        let millis = read_millis(value)?;
        let seconds = millis / 1_000;
        (millis.is_multiple_of(1_000) && (MIN..=MAX).contains(&seconds)).then_some(Self(seconds))
    }

    fn write(&self) -> Value {
        Value::from(Millis(self.0 * 1_000).to_string())
    }
}

/// Reads numbers with units, the largest unit first and each at most once.
fn read_millis(value: &Value) -> Option<u64> {
    let mut rest = value.as_str()?;
    let mut units = UNITS.iter();
    let mut total: u64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let (unit, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
        // The iterator has passed the larger units, which keeps the order and refuses a repetition.
        let (_, millis) = units.find(|(name, _)| *name == unit)?;
        total = total.checked_add(digits(number)?.checked_mul(*millis)?)?;
        rest = tail;
    }
    Some(total)
}

/// A duration as it is read.
struct Millis(u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (name, millis) in UNITS {
            if rest >= millis {
                write!(f, "{}{name}", rest / millis)?;
                rest %= millis;
            }
        }
        Ok(())
    }
}

/// The units, largest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_units() {
        let check = |text: &str, millis: Option<u64>| assert_eq!(read_millis(&text.into()), millis, "{text}");
        check("0s", Some(0));
        check("500ms", Some(500));
        check("30s", Some(30_000));
        check("1m30s", Some(90_000));
        check("2h", Some(7_200_000));
        check("1d2h3m4s5ms", Some(93_784_005));
        check("90m", Some(5_400_000));
        check("", None);
        check("30", None);
        check("s", None);
        check("30 s", None);
        check("-1s", None);
        check("1.5s", None);
        check("30s1m", None);
        check("1s1s", None);
        check("30S", None);
        check("30sec", None);
        check("99999999999999999999s", None);
        check("213503982335d", None);
        assert_eq!(read_millis(&30.into()), None);
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for text in ["0s", "1ms", "1s", "1m30s", "2h", "1d12h", "1d2h3m4s5ms"] {
            assert_eq!(Millis(read_millis(&text.into()).unwrap()).to_string(), text);
        }
    }

    #[test]
    fn durations_keep_their_range() {
        assert_eq!(SpanOf::<10, 1_000>::read(&"10ms".into()).unwrap().duration(), Duration::from_millis(10));
        assert!(SpanOf::<10, 1_000>::read(&"1s".into()).is_some());
        assert!(SpanOf::<10, 1_000>::read(&"9ms".into()).is_none());
        assert!(SpanOf::<10, 1_000>::read(&"1s1ms".into()).is_none());
    }

    #[test]
    fn seconds_of_the_protocol_have_no_fraction() {
        assert_eq!(WholeSeconds::<0, 65_535>::read(&"1m".into()).unwrap().narrow::<u16>(), 60);
        assert_eq!(WholeSeconds::<0, 65_535>::read(&"18h12m15s".into()).unwrap().narrow::<u16>(), 65_535);
        assert!(WholeSeconds::<0, 65_535>::read(&"1500ms".into()).is_none());
        assert!(WholeSeconds::<0, 65_535>::read(&"65536s".into()).is_none());
        assert!(WholeSeconds::<1, 65_535>::read(&"0s".into()).is_none());
    }
}
