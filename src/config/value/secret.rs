//! What must not be shown.

use std::fmt;

use toml::Value;

use super::Setting;

/// A secret that the nodes of a cluster share: 16 to 1,024 bytes. Neither `Debug` nor `check-config --print` shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for whoever has to prove that it is known.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Setting for Secret {
    const SECRET: bool = true;

    fn expected() -> String {
        "a text of 16 to 1024 bytes without control characters".to_owned()
    }

    fn read(value: &Value) -> Option<Self> {
        let text = value.as_str()?;
        let fits = (MIN_LEN..=1_024).contains(&text.len()) && !text.contains(char::is_control);
        fits.then(|| Self(text.to_owned()))
    }

    fn write(&self) -> Value {
        Value::from(REDACTED)
    }
}

/// What stands for a secret. Too short to be one: a printed configuration that is loaded again is a fault, not a
/// cluster whose secret everybody knows.
const REDACTED: &str = "<redacted>";
const MIN_LEN: usize = 16;
const _: () = assert!(REDACTED.len() < MIN_LEN);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_have_a_length() {
        assert!(Secret::read(&"x".repeat(16).into()).is_some());
        assert!(Secret::read(&"x".repeat(1_024).into()).is_some());
        assert!(Secret::read(&"x".repeat(15).into()).is_none());
        assert!(Secret::read(&"x".repeat(1_025).into()).is_none());
        assert!(Secret::read(&"sixteen bytes or\nmore".into()).is_none());
        assert!(Secret::read(&0x7FFF_FFFF_FFFF_FFFF_i64.into()).is_none());
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = Secret::read(&"correct horse battery".into()).unwrap();
        assert_eq!(format!("{secret:?}"), "<redacted>");
        assert_eq!(secret.write().as_str(), Some("<redacted>"));
        assert_eq!(Secret::read(&secret.write()), None);
        assert_eq!(secret.reveal(), "correct horse battery");
    }
}
