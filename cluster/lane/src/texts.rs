//! Texts one behind the other.

use crate::layout::{DecodeError, Reader, put_blob};

/// A list of texts, none of which is empty, that borrows from where it was written or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Texts<'a>(&'a [u8]);

/// A list of texts that is being written. It keeps its memory.
#[derive(Debug, Default)]
pub struct TextsWriter(Vec<u8>);

impl TextsWriter {
    /// Appends a text of 1 to 65,535 bytes.
    pub fn push(&mut self, text: &str) {
        put_blob(text.as_bytes(), &mut self.0);
    }

    /// Forgets all texts.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// What has been written.
    #[must_use]
    pub fn texts(&self) -> Texts<'_> {
        Texts(&self.0)
    }
}

impl<'a> Texts<'a> {
    /// The texts that these bytes are: one at least.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        // No list is written where there is none.
        reader.text()?;
        while reader.len() > 0 {
            reader.text()?;
        }
        Ok(Self(bytes))
    }

    pub(crate) const fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// In the order in which they were written.
    pub fn iter(self) -> impl Iterator<Item = &'a str> {
        let mut reader = Reader::new(self.0);
        // Reading the list has checked it.
        std::iter::from_fn(move || if reader.len() > 0 { reader.text().ok() } else { None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_in_their_order() {
        let mut writer = TextsWriter::default();
        assert!(writer.texts().is_empty());
        writer.push("$share/a/b");
        writer.push("$queue/#");
        let texts = Texts::read(writer.texts().bytes()).expect("it was written");
        assert_eq!(texts.iter().collect::<Vec<_>>(), ["$share/a/b", "$queue/#"]);
        assert!(Texts::read(&texts.bytes()[..4]).is_err());
        assert!(Texts::read(b"").is_err() && Texts::read(b"\x00").is_err());
        assert!(Texts::read(b"\x01\xFF").is_err(), "it is not UTF-8");
        writer.clear();
        assert_eq!(writer.texts(), Texts::default());
    }
}
