//! How numbers and texts are written, and read with every bound checked.

/// Why bytes are not a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The peer writes a layout that this node does not know.
    #[error("batches of version {0} are not known here")]
    UnknownVersion(u8),
    /// It ends within something.
    #[error("the batch is cut off")]
    CutOff,
    /// The number of frames is not the one that it states, or there are bytes behind the last.
    #[error("the batch does not have the frames that it states")]
    FrameCount,
    /// A number of more than 64 bits, or too large for what it stands for.
    #[error("a number is out of range")]
    Number,
    /// There is no such kind of frame.
    #[error("there is no frame of kind {0}")]
    UnknownKind(u8),
    /// Bits are set that mean nothing, or a QoS of 3.
    #[error("the flags {0:#010b} mean nothing")]
    Flags(u8),
    /// A text is not UTF-8, empty, or too long.
    #[error("a text is not valid")]
    Text,
    /// Not a Topic Name.
    #[error("the topic name is not valid")]
    TopicName,
    /// Not the filter of a shared subscription.
    #[error("the filter of a shared subscription is not valid")]
    SharedFilter,
    /// A frame is longer than what it holds.
    #[error("there are bytes behind the end of a frame")]
    TrailingBytes,
}

/// The longest text in bytes, as in MQTT.
const TEXT_BYTES_MAX: usize = 65_535;

/// Reads a slice from its front.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn len(self) -> usize {
        self.0.len()
    }

    /// All that is left.
    #[inline]
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    #[inline]
    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (front, rest) = self.0.split_at_checked(len).ok_or(DecodeError::CutOff)?;
        self.0 = rest;
        Ok(front)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        let (first, rest) = self.0.split_first().ok_or(DecodeError::CutOff)?;
        self.0 = rest;
        Ok(*first)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        let (front, rest) = self.0.split_first_chunk().ok_or(DecodeError::CutOff)?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*front))
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, DecodeError> {
        match self.0 {
            [first @ 0..=0x7F, rest @ ..] => {
                self.0 = rest;
                Ok(u64::from(*first))
            }
            _ => self.varint_long(),
        }
    }

    fn varint_long(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for index in 0..VARINT_BYTES_MAX {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7F);
            // The tenth byte holds the last bit of 64.
            if index == VARINT_BYTES_MAX - 1 && byte > 1 {
                return Err(DecodeError::Number);
            }
            value |= bits << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Number)
    }

    /// Bytes behind their length.
    #[inline]
    pub(crate) fn blob(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = usize::try_from(self.varint()?).map_err(|_| DecodeError::CutOff)?;
        self.bytes(len)
    }

    /// A text behind its length: not empty, at most 65,535 bytes.
    #[inline]
    pub(crate) fn text(&mut self) -> Result<&'a str, DecodeError> {
        let bytes = self.blob()?;
        if bytes.is_empty() || bytes.len() > TEXT_BYTES_MAX {
            return Err(DecodeError::Text);
        }
        std::str::from_utf8(bytes).map_err(|_| DecodeError::Text)
    }

    pub(crate) const fn finish(self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes) }
    }
}

/// Appends a number, seven bits a byte, the lowest first.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the lowest seven bits are meant")]
pub(crate) fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value > 0x7F {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends bytes behind their length.
pub(crate) fn put_blob(bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// 64 bits, seven a byte.
const VARINT_BYTES_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_at_their_borders() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX >> 1, u64::MAX] {
            let mut out = Vec::new();
            put_varint(value, &mut out);
            let mut reader = Reader::new(&out);
            assert_eq!(reader.varint(), Ok(value));
            assert_eq!(reader.finish(), Ok(()));
            for cut in 0..out.len() {
                assert_eq!(Reader::new(&out[..cut]).varint(), Err(DecodeError::CutOff));
            }
        }
    }

    #[test]
    fn numbers_of_more_than_64_bits() {
        assert_eq!(
            Reader::new(b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x02").varint(),
            Err(DecodeError::Number)
        );
        assert_eq!(
            Reader::new(b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x81\x00").varint(),
            Err(DecodeError::Number)
        );
    }

    #[test]
    fn texts() {
        assert_eq!(Reader::new(b"\x02ab").text(), Ok("ab"));
        assert_eq!(Reader::new(b"\x00").text(), Err(DecodeError::Text));
        assert_eq!(Reader::new(b"\x01\xFF").text(), Err(DecodeError::Text));
        assert_eq!(Reader::new(b"\x03ab").text(), Err(DecodeError::CutOff));
        let mut long = Vec::new();
        put_blob(&[b'a'; 65_535], &mut long);
        assert!(Reader::new(&long).text().is_ok());
        long.clear();
        put_blob(&[b'a'; 65_536], &mut long);
        assert_eq!(Reader::new(&long).text(), Err(DecodeError::Text));
    }

    proptest! {
        #[test]
        fn any_number_comes_back(value: u64) {
            let mut out = Vec::new();
            put_varint(value, &mut out);
            prop_assert_eq!(Reader::new(&out).varint(), Ok(value));
        }
    }
}
