//! A message as it is stored.
//!
//! ```text
//! message  flags: u8 (0-1 QoS, 2 RETAIN, 3 expires, 4 has a publisher), [milliseconds since the epoch], topic: blob,
//!          [publisher: blob], properties: blob, payload: the rest
//! ```
//! Numbers have seven bits a byte, the lowest first; a blob follows its length.

use std::ops::Range;

use bytes::Bytes;
use flotilla_lane::Forwarded;
use flotilla_mqtt::{Message, QoS, session::ClientId};

use crate::{
    DecodeError, StoredMessage,
    layout::{Reader, put_blob, put_varint, varint_len},
};

/// The parts of a message that is to be stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) topic: &'a str,
    pub(crate) publisher: Option<&'a str>,
    pub(crate) properties: &'a [u8],
    pub(crate) payload: &'a [u8],
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    /// Milliseconds since the epoch.
    pub(crate) expires_at: Option<u64>,
}

impl<'a> Parts<'a> {
    pub(crate) fn of_forwarded(message: &Forwarded<'a>, stamp: u64) -> Self {
        let left = message.expires_in.map(crate::wire::millis);
        Self {
            topic: message.topic,
            publisher: message.publisher,
            properties: message.properties,
            payload: message.payload,
            qos: message.qos,
            retain: message.retain,
            expires_at: left.map(|left| stamp.saturating_add(left)),
        }
    }

    pub(crate) fn of_message(message: &'a Message, expires_at: Option<u64>) -> Self {
        Self {
            topic: &message.topic,
            publisher: message.publisher.as_ref().map(ClientId::as_str),
            properties: &message.properties,
            payload: &message.payload,
            qos: message.qos,
            retain: message.retain,
            expires_at,
        }
    }

    pub(crate) fn of_stored(message: &'a StoredMessage, expires_at: Option<u64>) -> Self {
        Self {
            topic: message.topic(),
            publisher: message.publisher(),
            properties: message.properties(),
            payload: message.payload(),
            qos: message.qos(),
            retain: message.retain(),
            expires_at,
        }
    }

    /// What it counts against the bound of a queue, in bytes.
    pub(crate) const fn size(&self) -> usize {
        self.topic.len() + self.properties.len() + self.payload.len()
    }

    /// How many bytes [`Parts::write`] appends.
    pub(crate) fn stored_len(&self) -> usize {
        let blob = |len: usize| varint_len(len as u64) + len;
        1 + self.expires_at.map_or(0, varint_len)
            + blob(self.topic.len())
            + self.publisher.map_or(0, |publisher| blob(publisher.len()))
            + blob(self.properties.len())
            + self.payload.len()
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let has_expiry = u8::from(self.expires_at.is_some()) << 3;
        let has_publisher = u8::from(self.publisher.is_some()) << 4;
        out.push(self.qos as u8 | u8::from(self.retain) << 2 | has_expiry | has_publisher);
        if let Some(expires_at) = self.expires_at {
            put_varint(expires_at, out);
        }
        put_blob(self.topic.as_bytes(), out);
        if let Some(publisher) = self.publisher {
            put_blob(publisher.as_bytes(), out);
        }
        put_blob(self.properties, out);
        out.extend_from_slice(self.payload);
    }
}

impl StoredMessage {
    /// Reads what [`StoredMessage::bytes`] gave out.
    ///
    /// # Errors
    /// The bytes are not those of a message.
    pub fn read(bytes: Bytes) -> Result<Self, DecodeError> {
        let whole = u32::try_from(bytes.len()).map_err(|_| DecodeError::Row("a message has 4 GiB"))?;
        let mut reader = Reader::new(&bytes);
        let at = |reader: &Reader<'_>| whole - u32::try_from(reader.len()).unwrap_or(whole);
        let flags = reader.u8()?;
        let qos = QoS::from_u8(flags & 0b11).filter(|_| flags & !0b1_1111 == 0);
        let expires_at = if flags & 1 << 3 == 0 { None } else { Some(reader.varint()?) };
        let blob = |reader: &mut Reader<'_>| -> Result<Range<u32>, DecodeError> {
            let len = u32::try_from(reader.blob()?.len()).unwrap_or(whole);
            Ok(at(reader) - len..at(reader))
        };
        let topic = blob(&mut reader)?;
        let publisher = if flags & 1 << 4 == 0 { 0..0 } else { blob(&mut reader)? };
        let properties = blob(&mut reader)?;
        let payload = at(&reader);
        for text in [&topic, &publisher] {
            std::str::from_utf8(&bytes[text.start as usize..text.end as usize])
                .map_err(|_| DecodeError::Row("a text is not UTF-8"))?;
        }
        Ok(Self {
            topic,
            publisher,
            properties,
            payload,
            qos: qos.ok_or(DecodeError::Row("the flags of a message mean nothing"))?,
            retain: flags & 1 << 2 != 0,
            expires_at,
            bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn messages_come_back(
            topic in "[a-z/\u{E9}]{1,20}",
            publisher in option::of("[a-z]{1,9}"),
            properties in vec(any::<u8>(), 0..20),
            payload in vec(any::<u8>(), 0..300),
            (qos, retain, expires_at) in (0..3_u8, any::<bool>(), option::of(any::<u64>())),
        ) {
            let parts = Parts {
                topic: &topic,
                publisher: publisher.as_deref(),
                properties: &properties,
                payload: &payload,
                qos: QoS::from_u8(qos).unwrap(),
                retain,
                expires_at,
            };
            let mut bytes = Vec::new();
            parts.write(&mut bytes);
            prop_assert_eq!(bytes.len(), parts.stored_len());
            let read = StoredMessage::read(bytes.into()).expect("valid");
            prop_assert_eq!(read.topic(), topic);
            prop_assert_eq!(read.publisher(), publisher.as_deref());
            prop_assert_eq!(read.properties(), &properties[..]);
            prop_assert_eq!(read.payload(), &payload[..]);
            prop_assert_eq!((read.qos() as u8, read.retain(), read.expires_at()), (qos, retain, expires_at));
        }

        #[test]
        fn random_bytes_do_no_harm(bytes: Vec<u8>) {
            let _ = StoredMessage::read(bytes.into());
        }
    }
}
