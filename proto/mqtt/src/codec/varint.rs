//! Variable Byte Integers (section 1.5.5).

use super::DecodeError;

/// The largest value: four bytes of seven bits.
pub(crate) const MAX: u32 = 268_435_455;

/// The integer at the start of `bytes` and its length; `None`: not all of it is there yet.
///
/// More bytes than the value needs are an error: the encoding MUST be minimal [MQTT-1.5.5-1].
#[inline]
pub(crate) fn read(bytes: &[u8]) -> Result<Option<(u32, usize)>, DecodeError> {
    match bytes {
        [] => Ok(None),
        [first @ 0..=0x7F, ..] => Ok(Some((u32::from(*first), 1))),
        _ => read_long(bytes),
    }
}

fn read_long(bytes: &[u8]) -> Result<Option<(u32, usize)>, DecodeError> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            let is_minimal = index == 0 || *byte != 0;
            return if is_minimal {
                Ok(Some((value, index + 1)))
            } else {
                Err(DecodeError::VarIntNotMinimal)
            };
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(DecodeError::VarIntTooLong) }
}

/// The bytes that `value` takes.
pub(crate) const fn len(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// Appends `value`, which must not be above [`MAX`].
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the lowest seven bits are meant")]
pub(crate) fn write(mut value: usize, out: &mut Vec<u8>) {
    debug_assert!(value <= MAX as usize, "the caller has checked the length");
    while value > 0x7F {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Inserts `value` at `start`; what is there moves up.
pub(crate) fn insert(value: usize, start: usize, out: &mut Vec<u8>) {
    // Written behind the content, then turned to its front: no memory beside the output's own.
    write(value, out);
    out[start..].rotate_right(len(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_at_its_borders() {
        check(b"\x00", 0);
        check(b"\x7F", 127);
        check(b"\x80\x01", 128);
        check(b"\xFF\x7F", 16_383);
        check(b"\x80\x80\x01", 16_384);
        check(b"\xFF\xFF\x7F", 2_097_151);
        check(b"\x80\x80\x80\x01", 2_097_152);
        check(b"\xFF\xFF\xFF\x7F", 268_435_455);
    }

    #[test]
    fn b32_a_fifth_byte() {
        assert_eq!(read(b"\x80\x80\x80\x80"), Err(DecodeError::VarIntTooLong));
        assert_eq!(read(b"\xFF\xFF\xFF\xFF\x01"), Err(DecodeError::VarIntTooLong));
    }

    #[test]
    fn b33_needless_bytes() {
        assert_eq!(read(b"\x80\x00"), Err(DecodeError::VarIntNotMinimal));
        assert_eq!(read(b"\xFF\x00"), Err(DecodeError::VarIntNotMinimal));
        assert_eq!(read(b"\x81\x80\x00"), Err(DecodeError::VarIntNotMinimal));
        assert_eq!(read(b"\x80\x80\x80\x00"), Err(DecodeError::VarIntNotMinimal));
    }

    #[test]
    fn insertion_moves_what_follows() {
        let mut out = b"ab-cd".to_vec();
        insert(300, 2, &mut out);
        assert_eq!(out, b"ab\xAC\x02-cd");
    }

    /// `bytes` are `value`, and every part of them is not all of it.
    fn check(bytes: &[u8], value: u32) {
        assert_eq!(read(bytes), Ok(Some((value, bytes.len()))));
        assert_eq!(len(value as usize), bytes.len());
        let mut out = Vec::new();
        write(value as usize, &mut out);
        assert_eq!(out, bytes);
        for cut in 0..bytes.len() {
            assert_eq!(read(&bytes[..cut]), Ok(None));
        }
    }
}
