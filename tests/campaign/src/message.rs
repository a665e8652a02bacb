//! Payloads that say which message they are, and show when they are damaged.

use crate::history::MessageId;

/// The payload of a message.
pub(crate) fn payload(id: MessageId) -> Vec<u8> {
    let mut bytes = format!("{id} ").into_bytes();
    bytes.extend(padding(id));
    bytes
}

/// The message that a payload names.
///
/// # Errors
/// It is none of ours, or not whole.
pub(crate) fn identify(payload: &[u8]) -> Result<MessageId, String> {
    let shown = || format!("{:?}", String::from_utf8_lossy(&payload[..payload.len().min(60)]));
    let space = payload.iter().position(|byte| *byte == b' ').ok_or_else(shown)?;
    let name = str::from_utf8(&payload[..space]).map_err(|_| shown())?;
    let mut parts = name.split('.').map(str::parse::<u32>);
    let (Some(Ok(publisher)), Some(Ok(incarnation)), Some(Ok(sequence)), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(shown());
    };
    let publisher = u16::try_from(publisher).map_err(|_| shown())?;
    let id = MessageId { publisher, incarnation, sequence };
    if payload[space + 1..].iter().copied().eq(padding(id)) { Ok(id) } else { Err(shown()) }
}

/// Up to 250 bytes that no other message has in the same places.
fn padding(id: MessageId) -> impl Iterator<Item = u8> {
    let seed = id.sequence.wrapping_mul(31).wrapping_add(u32::from(id.publisher));
    (0..seed % 251).map(move |place| (seed.wrapping_add(place.wrapping_mul(7)) % 256).to_le_bytes()[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_names_its_message_and_shows_damage() {
        for sequence in 0..600 {
            let id = MessageId { publisher: 3, incarnation: 1, sequence };
            let mut bytes = payload(id);
            assert_eq!(identify(&bytes), Ok(id));
            let last = bytes.len() - 1;
            bytes[last] ^= 0x10;
            assert_ne!(identify(&bytes), Ok(id));
            bytes.truncate(last);
            assert_ne!(identify(&bytes), Ok(id));
        }
    }
}
