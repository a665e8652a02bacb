//! A message on its way between nodes.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use crate::{
    Message, QoS, Timestamp,
    codec::{DecodeError, check_forwarded_properties},
    session::ClientId,
    topic::{TopicError, check_name},
};

/// Bytes that are no message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// They do not decode.
    #[error(transparent)]
    Malformed(#[from] prost::DecodeError),
    /// The topic is not a Topic Name.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The properties are not those of a message that is forwarded.
    #[error("properties of a message: {0}")]
    Properties(#[from] DecodeError),
    /// There is no such QoS.
    #[error("a message of QoS {0}")]
    QoS(u32),
    /// The publisher has an empty Client Identifier.
    #[error("a message whose publisher has no name")]
    Publisher,
}

impl Message {
    /// The message as bytes for another node, with what is left of its Message Expiry Interval.
    ///
    /// They do not say which version of the format they are: what they are a part of does.
    #[must_use]
    pub fn encode(&self, now: Timestamp) -> Bytes {
        WireMessage::new(self, now).encode_to_vec().into()
    }

    /// The message of another node; what is left of its Message Expiry Interval starts `now`. Nothing is shared with
    /// `bytes`.
    ///
    /// # Errors
    /// They are not those of a message that could have been published.
    pub fn decode(bytes: &[u8], now: Timestamp) -> Result<Self, MessageError> {
        WireMessage::decode(bytes)?.into_message(now)
    }
}

/// A [`Message`].
#[derive(Clone, PartialEq, prost::Message)]
struct WireMessage {
    #[prost(string, tag = "1")]
    topic: String,
    #[prost(bytes = "bytes", tag = "2")]
    properties: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    payload: Bytes,
    #[prost(uint32, tag = "4")]
    qos: u32,
    #[prost(bool, tag = "5")]
    retain: bool,
    /// What is left of the Message Expiry Interval: clocks differ from node to node.
    #[prost(uint64, optional, tag = "6")]
    expires_in_millis: Option<u64>,
    #[prost(string, optional, tag = "7")]
    publisher: Option<String>,
}

impl WireMessage {
    fn new(message: &Message, now: Timestamp) -> Self {
        Self {
            topic: message.topic.to_string(),
            properties: message.properties.clone(),
            payload: message.payload.clone(),
            qos: message.qos as u32,
            retain: message.retain,
            expires_in_millis: message.expires_at.map(|at| millis_left(now, at)),
            publisher: message.publisher.as_ref().map(|publisher| publisher.as_str().to_owned()),
        }
    }

    fn into_message(self, now: Timestamp) -> Result<Message, MessageError> {
        check_name(&self.topic, u16::MAX)?; // Its publisher's node has its own limit.
        check_forwarded_properties(&self.properties)?;
        let qos = u8::try_from(self.qos).ok().and_then(QoS::from_u8);
        let publisher = match self.publisher {
            Some(publisher) => Some(ClientId::new(&publisher).ok_or(MessageError::Publisher)?),
            None => None,
        };
        Ok(Message {
            topic: self.topic.into(),
            properties: self.properties,
            payload: self.payload,
            qos: qos.ok_or(MessageError::QoS(self.qos))?,
            retain: self.retain,
            expires_at: self.expires_in_millis.map(|millis| now + Duration::from_millis(millis)),
            publisher,
        })
    }
}

/// What is left until `at`; 0 when it has passed.
fn millis_left(now: Timestamp, at: Timestamp) -> u64 {
    at.as_millis().saturating_sub(now.as_millis())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(10_000);

    fn message() -> Message {
        Message {
            topic: "a/b".into(),
            properties: Bytes::from_static(b"\x01\x01\x03\x00\x01t"),
            payload: Bytes::from_static(b"payload"),
            qos: QoS::ExactlyOnce,
            retain: true,
            expires_at: Some(Timestamp::from_millis(12_345)),
            publisher: ClientId::new("p"),
        }
    }

    #[test]
    fn what_is_left_of_the_expiry_starts_at_the_other_clock() {
        let bytes = message().encode(NOW);
        let arrived = Message::decode(&bytes, Timestamp::from_millis(500)).expect("valid");
        let expected = Message { expires_at: Some(Timestamp::from_millis(2_845)), ..message() };
        assert_eq!(arrived, expected);
        let bytes = message().encode(Timestamp::from_millis(99_000));
        assert!(Message::decode(&bytes, NOW).expect("valid").is_expired(NOW));
    }

    #[test]
    fn what_nobody_can_have_published_is_refused() {
        let refused = |change: fn(&mut Message)| {
            let mut message = message();
            change(&mut message);
            Message::decode(&message.encode(NOW), NOW).expect_err("refused")
        };
        assert!(matches!(refused(|message| message.topic = "a/#".into()), MessageError::Topic(_)));
        assert!(matches!(refused(|message| message.topic = "".into()), MessageError::Topic(_)));
        for properties in [&b"\x02\0\0\0\x01"[..], b"\x23\0\x01", b"\x0B\x01", b"\x11\0\0\0\x01", b"\x01"] {
            let message = Message { properties: properties.into(), ..message() };
            let refused = Message::decode(&message.encode(NOW), NOW).expect_err("refused");
            assert!(matches!(refused, MessageError::Properties(_)), "{properties:?}");
        }
        let odd = WireMessage { qos: 3, ..WireMessage::new(&message(), NOW) };
        assert!(matches!(odd.into_message(NOW), Err(MessageError::QoS(3))));
        let odd = WireMessage { publisher: Some(String::new()), ..WireMessage::new(&message(), NOW) };
        assert!(matches!(odd.into_message(NOW), Err(MessageError::Publisher)));
    }

    proptest! {
        #[test]
        fn random_bytes_do_no_harm(bytes: Vec<u8>) {
            let _ = Message::decode(&bytes, NOW);
        }
    }
}
