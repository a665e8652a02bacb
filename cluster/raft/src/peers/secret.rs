//! The secret that the nodes of a cluster share.

use std::fmt;

/// A shared secret. It is never shown, and compared in constant time.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// The secret with these bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into().into_boxed_slice())
    }

    /// As it travels: hexadecimal digits, for the bytes need not be text.
    pub(super) fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether `hex` is this secret. The time it takes does not tell how much of it is right.
    pub(super) fn is(&self, hex: &[u8]) -> bool {
        let own = self.to_hex();
        own.len() == hex.len()
            && own.as_bytes().iter().zip(hex).fold(0, |differs, (ours, theirs)| differs | (ours ^ theirs))
                == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(not shown)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown_and_compares() {
        let secret = Secret::new("open sesame");
        assert!(!format!("{secret:?}").contains("sesame"));
        assert!(secret.is(secret.to_hex().as_bytes()));
        assert!(!secret.is(b"") && !secret.is(Secret::new("open sesamf").to_hex().as_bytes()));
    }
}
