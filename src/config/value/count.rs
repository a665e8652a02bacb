//! Integers and factors.

use toml::Value;

use super::Setting;

/// An integer from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct Count<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Count<MIN, MAX> {
    /// A value that is known when this is compiled.
    pub(in crate::config) const fn of(value: u64) -> Self {
        assert!(MIN <= value && value <= MAX, "a default within its range");
        Self(value)
    }

    /// The value in a type that holds the whole range.
    pub(in crate::config) fn narrow<T: TryFrom<u64>>(self) -> T {
        narrow(self.0)
    }
}

/// A number in a type that holds its whole range.
pub(super) fn narrow<T: TryFrom<u64>>(number: u64) -> T {
    T::try_from(number).ok().expect("the schema gives no range that its type cannot hold")
}

impl<const MIN: u64, const MAX: u64> Setting for Count<MIN, MAX> {
    fn expected() -> String {
        format!("an integer from {MIN} to {MAX}")
    }

    fn read(value: &Value) -> Option<Self> {
        let number = u64::try_from(value.as_integer()?).ok()?;
        (MIN..=MAX).contains(&number).then_some(Self(number))
    }

    fn write(&self) -> Value {
        Value::Integer(i64::try_from(self.0).expect("it was read from an i64, or is a default"))
    }
}

/// A factor from 0.5 to 10, written with or without a fraction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::config) struct Factor(pub(in crate::config) f64);

impl Setting for Factor {
    fn expected() -> String {
        "a number from 0.5 to 10".to_owned()
    }

    fn read(value: &Value) -> Option<Self> {
        let number = match value {
            Value::Float(number) => *number,
            Value::Integer(number) => f64::from(i32::try_from(*number).ok()?),
            _ => return None,
        };
        (0.5..=10.0).contains(&number).then_some(Self(number))
    }

    fn write(&self) -> Value {
        Value::Float(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_keep_their_range() {
        let check = |value: Value, valid: bool| {
            assert_eq!(Count::<1, 65_535>::read(&value).is_some(), valid, "{value}");
        };
        check(1.into(), true);
        check(65_535.into(), true);
        check(0.into(), false);
        check(65_536.into(), false);
        check((-1).into(), false);
        check(i64::MIN.into(), false);
        check(1.0.into(), false);
        check("1".into(), false);
        check(true.into(), false);
    }

    #[test]
    fn factors_are_numbers_of_either_kind() {
        let check = |value: Value, factor: Option<f64>| {
            assert_eq!(Factor::read(&value).map(|f| f.0), factor, "{value}");
        };
        check(0.75.into(), Some(0.75));
        check(1.into(), Some(1.0));
        check(10.into(), Some(10.0));
        check(0.49.into(), None);
        check(11.into(), None);
        check(f64::NAN.into(), None);
        check(f64::INFINITY.into(), None);
        check("1".into(), None);
    }
}
