//! What packets are written with.

use crate::{
    codec::{EncodeError, Property, check, varint},
    packet::UserProperties,
};

/// Appends Binary Data (section 1.5.6).
pub(crate) fn binary(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let len = u16::try_from(bytes.len()).map_err(|_| EncodeError::FieldTooLong(bytes.len()))?;
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

/// Appends a UTF-8 Encoded String (section 1.5.4).
pub(crate) fn string(string: &str, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    check::no_nul(string)?;
    binary(string.as_bytes(), out)
}

/// Appends a section: its length, then what `content` writes. `follows` more bytes, which the length counts too, are
/// for the caller to append.
pub(super) fn section(
    out: &mut Vec<u8>,
    follows: usize,
    content: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    content(out)?;
    let len = out.len() - start + follows;
    if len > varint::MAX as usize {
        return Err(EncodeError::PacketTooLong(len));
    }
    varint::insert(len, start, out);
    Ok(())
}

/// Appends a property unless it is absent.
pub(super) fn property(property: Option<Property<'_>>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    property.map_or(Ok(()), |property| property.write(out))
}

/// Appends User Properties, in order.
pub(super) fn user_properties(properties: &UserProperties<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    properties.iter().try_for_each(|pair| Property::UserProperty(pair).write(out))
}
