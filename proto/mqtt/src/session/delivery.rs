//! Messages on their way to one client: what the caller asks for and what it is told.

use std::sync::Arc;

use crate::{Message, QoS, SubscriptionIds, topic::TopicFilter};

/// How one message goes to one session: the sum of the matching subscriptions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeliveryOptions {
    /// The highest QoS that was granted; the message's own QoS is the other bound.
    pub qos: QoS,
    /// The RETAIN flag to send (Retain As Published is already applied).
    pub retain: bool,
    /// Identifiers of the matching subscriptions.
    pub subscription_ids: SubscriptionIds,
    /// The shared subscription that picked this session.
    pub shared: Option<Arc<TopicFilter>>,
}

/// What became of one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    /// It is in the send buffer.
    Sent,
    /// It waits in the session's queue; `displaced` older ones were dropped for it.
    Queued {
        /// Messages dropped under [`QueueFull::DropOldest`](super::QueueFull::DropOldest).
        displaced: u32,
    },
    /// It was dropped.
    Dropped(DropReason),
}

/// Why a message did not reach a session. Each is a counter of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// The queue, or for QoS 0 the send buffer, is full.
    QueueFull,
    /// Longer than the client's Maximum Packet Size.
    TooLarge,
    /// Its Message Expiry Interval has passed.
    Expired,
}

/// What a session did by itself with what it holds for its client since it was last asked: each message that was
/// [`Delivered::Queued`] shows up in `sent`, `expired` or `too_large`, is displaced, is taken with
/// [`Session::take_shared`](super::Session::take_shared), or is there when the session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueReport {
    /// Messages sent from the queue, by QoS.
    pub sent: [u32; 3],
    /// Dropped because they had expired.
    pub expired: u32,
    /// Dropped because they are too large for the client; may have been sent on an earlier connection.
    pub too_large: u32,
    /// Messages whose delivery the client completed (PUBACK, PUBCOMP, or an error code in PUBACK/PUBREC).
    pub acked: u32,
    /// PUBACK, PUBREC and PUBCOMP with an identifier that stands for no message.
    pub unknown_acks: u32,
}

/// A message that the session keeps, and how it goes to the client.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) message: Arc<Message>,
    /// `qos` is the one in effect.
    pub(super) options: DeliveryOptions,
}

impl Held {
    /// Whether it came through this shared subscription.
    pub(super) fn is_shared(&self, filter: &TopicFilter) -> bool {
        self.options.shared.as_ref().is_some_and(|shared| **shared == *filter)
    }

    /// The message with the shared subscription that it came through.
    pub(super) fn into_shared(self) -> Option<(Arc<TopicFilter>, Arc<Message>)> {
        Some((self.options.shared?, self.message))
    }
}
