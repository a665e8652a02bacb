//! How numbers and texts of rows are written, and read with every bound checked.

use crate::DecodeError;

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

    pub(crate) const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (front, rest) = self.0.split_at_checked(len).ok_or(CUT_OFF)?;
        self.0 = rest;
        Ok(front)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        let (first, rest) = self.0.split_first().ok_or(CUT_OFF)?;
        self.0 = rest;
        Ok(*first)
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for index in 0..VARINT_BYTES_MAX {
            let byte = self.u8()?;
            // The tenth byte holds the last bit of 64.
            if index == VARINT_BYTES_MAX - 1 && byte > 1 {
                return Err(DecodeError::Row("a number has more than 64 bits"));
            }
            value |= u64::from(byte & 0x7F) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Row("a number has more than 64 bits"))
    }

    /// Bytes behind their length.
    pub(crate) fn blob(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = usize::try_from(self.varint()?).map_err(|_| CUT_OFF)?;
        self.bytes(len)
    }

    pub(crate) const fn finish(self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Row("there are bytes behind its end")) }
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

/// How many bytes [`put_varint`] appends.
#[inline]
pub(crate) const fn varint_len(value: u64) -> usize {
    match value {
        0 => 1,
        _ => (70 - value.leading_zeros() as usize) / 7,
    }
}

/// Appends bytes behind their length.
#[inline]
pub(crate) fn put_blob(bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

const CUT_OFF: DecodeError = DecodeError::Row("it is cut off");
/// 64 bits, seven a byte.
const VARINT_BYTES_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_at_their_borders() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX >> 1, u64::MAX] {
            let mut out = Vec::new();
            put_varint(value, &mut out);
            assert_eq!(out.len(), varint_len(value), "{value}");
            let mut reader = Reader::new(&out);
            assert_eq!(reader.varint(), Ok(value));
            assert_eq!(reader.finish(), Ok(()));
            for cut in 0..out.len() {
                assert_eq!(Reader::new(&out[..cut]).varint(), Err(CUT_OFF));
            }
        }
        assert!(Reader::new(&[0xFF; 10]).varint().is_err());
    }
}
