//! A message on its way through the broker.

use std::{cell::OnceCell, num::NonZeroU32, sync::Arc};

use bytes::Bytes;

use crate::{QoS, Timestamp, session::ClientId};

/// An Application Message that somebody keeps: a queue, an in-flight window, the retained store, a will.
///
/// One copy is shared by all who keep it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Topic Name: valid, not empty, without wildcards.
    pub topic: Box<str>,
    /// The properties that go to every receiver, encoded: see [`crate::codec::forward_properties`].
    pub properties: Bytes,
    /// The payload.
    pub payload: Bytes,
    /// The QoS at which it was published.
    pub qos: QoS,
    /// The RETAIN flag with which it was published.
    pub retain: bool,
    /// When its Message Expiry Interval ends.
    pub expires_at: Option<Timestamp>,
    /// Who published it, for No Local; `None`: the broker itself.
    pub publisher: Option<ClientId>,
}

impl Message {
    /// What this message counts against byte limits.
    #[must_use]
    pub fn size(&self) -> usize {
        self.topic.len() + self.properties.len() + self.payload.len()
    }

    /// Whether its Message Expiry Interval has passed.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// A message while it is routed: borrowed from wherever it was read, and copied only if somebody keeps it.
///
/// [`Transit::keep`] makes the shared copy at most once, however many keep it; a QoS 0 message that only goes to
/// connected clients is never copied into one.
#[derive(Debug)]
pub struct Transit<'a> {
    /// Topic Name: valid, not empty, without wildcards.
    pub topic: &'a str,
    /// As [`Message::properties`].
    pub properties: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
    /// The QoS at which it was published.
    pub qos: QoS,
    /// The RETAIN flag with which it was published.
    pub retain: bool,
    /// When its Message Expiry Interval ends.
    pub expires_at: Option<Timestamp>,
    /// Who published it; `None`: the broker itself.
    pub publisher: Option<&'a ClientId>,
    /// The buffer that `payload` and `properties` lie in, when it may be kept alive instead of copying out of it.
    backing: Option<&'a Bytes>,
    kept: OnceCell<Arc<Message>>,
}

impl<'a> Transit<'a> {
    /// A message that borrows everything.
    ///
    /// `backing`: give the buffer that `payload` lies in only if it holds little else, for keeping the message keeps
    /// the whole buffer.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "one for each part of a message")]
    pub fn new(
        topic: &'a str,
        properties: &'a [u8],
        payload: &'a [u8],
        qos: QoS,
        retain: bool,
        expires_at: Option<Timestamp>,
        publisher: Option<&'a ClientId>,
        backing: Option<&'a Bytes>,
    ) -> Self {
        let kept = OnceCell::new();
        Self { topic, properties, payload, qos, retain, expires_at, publisher, backing, kept }
    }

    /// A kept message on its way again.
    #[must_use]
    pub fn from_message(message: &'a Arc<Message>) -> Self {
        Self {
            topic: &message.topic,
            properties: &message.properties,
            payload: &message.payload,
            qos: message.qos,
            retain: message.retain,
            expires_at: message.expires_at,
            publisher: message.publisher.as_ref(),
            backing: None,
            kept: OnceCell::from(Arc::clone(message)),
        }
    }

    /// The shared copy of this message.
    #[must_use]
    pub fn keep(&self) -> Arc<Message> {
        Arc::clone(self.kept.get_or_init(|| {
            Arc::new(Message {
                topic: self.topic.into(),
                properties: self.own(self.properties),
                payload: self.own(self.payload),
                qos: self.qos,
                retain: self.retain,
                expires_at: self.expires_at,
                publisher: self.publisher.cloned(),
            })
        }))
    }

    /// Whether keeping the message keeps alive what it lies in.
    #[must_use]
    pub const fn is_backed(&self) -> bool {
        self.backing.is_some()
    }

    /// The payload as shared bytes, if that costs no copy.
    #[must_use]
    pub fn shared_payload(&self) -> Option<Bytes> {
        match (self.kept.get(), self.backing) {
            (Some(message), _) => Some(message.payload.clone()),
            (None, Some(backing)) => Some(backing.slice_ref(self.payload)),
            (None, None) => None,
        }
    }

    /// What this message counts against byte limits.
    #[must_use]
    pub fn size(&self) -> usize {
        self.topic.len() + self.properties.len() + self.payload.len()
    }

    fn own(&self, part: &[u8]) -> Bytes {
        match self.backing {
            _ if part.is_empty() => Bytes::new(),
            Some(backing) if is_within(part, backing) => backing.slice_ref(part),
            _ => Bytes::copy_from_slice(part),
        }
    }
}

/// Whether `part` lies in `whole`, by address.
fn is_within(part: &[u8], whole: &[u8]) -> bool {
    let (part, whole) = (part.as_ptr_range(), whole.as_ptr_range());
    whole.start <= part.start && part.end <= whole.end
}

/// The Subscription Identifiers that go with one delivery.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SubscriptionIds {
    /// The subscription has none.
    #[default]
    None,
    /// One matching subscription with an identifier: by far the most frequent.
    One(NonZeroU32),
    /// Several, when overlapping subscriptions are merged.
    Many(Arc<[NonZeroU32]>),
}

impl SubscriptionIds {
    /// The identifiers.
    #[must_use]
    pub fn as_slice(&self) -> &[NonZeroU32] {
        match self {
            Self::None => &[],
            Self::One(id) => std::slice::from_ref(id),
            Self::Many(ids) => ids,
        }
    }
}
