//! Messages that wait to be sent to the client.

use std::collections::VecDeque;

use super::{DropReason, Limits, QueueFull, delivery::Held};
use crate::{QoS, Timestamp, topic::TopicFilter};

/// Messages that wait to be sent, oldest first; bounded in messages and bytes.
#[derive(Debug, Default)]
pub(super) struct Queue {
    messages: VecDeque<Held>,
    /// The sum of [`Message::size`](crate::Message::size).
    bytes: usize,
    /// How many are of QoS 0.
    qos0: usize,
}

impl Queue {
    /// Makes room for a message of `size`; returns how many older ones were dropped for it under
    /// [`QueueFull::DropOldest`]. What had expired goes first and is counted in `expired`.
    pub(super) fn make_room(
        &mut self,
        now: Timestamp,
        size: usize,
        limits: &Limits,
        expired: &mut u32,
    ) -> Result<u32, DropReason> {
        if limits.queue_messages_max == 0 || size > limits.queue_bytes_max {
            return Err(DropReason::QueueFull);
        }
        let mut displaced = 0;
        while self.messages.len() >= limits.queue_messages_max || self.bytes > limits.queue_bytes_max - size {
            let oldest_is_expired = self.front().is_some_and(|oldest| oldest.message.is_expired(now));
            match limits.queue_full {
                _ if oldest_is_expired => *expired += 1,
                QueueFull::DropNewest => return Err(DropReason::QueueFull),
                QueueFull::DropOldest => displaced += 1,
            }
            self.pop();
        }
        Ok(displaced)
    }

    /// Adds a message for which there is room.
    pub(super) fn push(&mut self, held: Held) {
        self.bytes += held.message.size();
        self.qos0 += usize::from(held.options.qos == QoS::AtMostOnce);
        self.messages.push_back(held);
    }

    pub(super) fn front(&self) -> Option<&Held> {
        self.messages.front()
    }

    pub(super) fn pop(&mut self) -> Option<Held> {
        let held = self.messages.pop_front()?;
        self.bytes -= held.message.size();
        self.qos0 -= usize::from(held.options.qos == QoS::AtMostOnce);
        if self.messages.is_empty() && self.messages.capacity() > CAPACITY_KEPT {
            self.messages = VecDeque::new();
        }
        Some(held)
    }

    /// Takes what came through the shared subscription `filter`, or through any.
    pub(super) fn take_shared(&mut self, filter: Option<&TopicFilter>) -> Vec<Held> {
        let (taken, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.messages).into_iter().partition(|held| held.is_shared(filter));
        self.messages = kept.into();
        for held in &taken {
            self.bytes -= held.message.size();
            self.qos0 -= usize::from(held.options.qos == QoS::AtMostOnce);
        }
        taken
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Whether a message of QoS 0 waits: another one must not overtake it.
    pub(super) fn has_qos0(&self) -> bool {
        self.qos0 > 0
    }

    pub(super) fn check_invariants(&self, limits: &Limits) {
        assert!(self.messages.len() <= limits.queue_messages_max && self.bytes <= limits.queue_bytes_max);
        if self.messages.len() > COUNTED_MAX {
            return;
        }
        assert_eq!(self.bytes, self.messages.iter().map(|held| held.message.size()).sum::<usize>(), "bytes");
        let qos0 = self.messages.iter().filter(|held| held.options.qos == QoS::AtMostOnce);
        assert_eq!(self.qos0, qos0.count(), "messages of QoS 0");
    }
}

/// Longer queues are not counted through after each change: a debug build would do little else.
const COUNTED_MAX: usize = 256;
/// An empty queue keeps room for this many messages.
const CAPACITY_KEPT: usize = 16;
