//! A cursor over the bytes of one packet.

use super::{DecodeError, check, varint};

/// What is left to read. Nothing is copied and nothing is allocated: every field borrows from the input.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Everything that is left.
    #[inline]
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        let (value, rest) = self.rest.split_first().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*value)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        let (value, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(u16::from_be_bytes(*value))
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        let (value, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*value))
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u32, DecodeError> {
        let (value, len) = varint::read(self.rest)?.ok_or(DecodeError::Truncated)?;
        self.take(len)?;
        Ok(value)
    }

    /// Binary Data (section 1.5.6).
    #[inline]
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// A UTF-8 Encoded String (section 1.5.4).
    ///
    /// Ill-formed UTF-8, surrogates and over-long forms included [MQTT-1.5.4-1], and U+0000 [MQTT-1.5.4-2] are errors.
    /// U+FEFF stays where it is [MQTT-1.5.4-3]. Control characters and non-characters, which a receiver MAY refuse, are
    /// taken: it is for whoever prints a string to escape it.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<&'a str, DecodeError> {
        let string = self.utf8()?;
        check::no_nul(string)?;
        Ok(string)
    }

    /// A UTF-8 Encoded String that is a Topic Name; it may be empty.
    #[inline]
    pub(crate) fn topic_name(&mut self) -> Result<&'a str, DecodeError> {
        let string = self.utf8()?;
        check::topic_name(string)?;
        Ok(string)
    }

    #[inline]
    fn utf8(&mut self) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.binary()?).map_err(|_| DecodeError::InvalidUtf8)
    }

    /// The property section at this place, without its length (section 2.2.2.1).
    #[inline]
    pub(crate) fn property_section(&mut self) -> Result<Reader<'a>, DecodeError> {
        let len = self.varint()?;
        self.take(len as usize).map(Reader::new)
    }

    /// The packet must end here.
    #[inline]
    pub(crate) fn finish(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes) }
    }
}
