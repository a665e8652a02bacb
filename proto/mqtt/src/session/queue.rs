//! Messages that wait to be sent to the client.

use std::collections::VecDeque;

use super::{DropReason, Limits, QueueFull, delivery::Held};
use crate::{Timestamp, topic::TopicFilter};

/// Messages that wait to be sent, oldest first; bounded in messages and bytes.
#[derive(Debug, Default)]
pub(super) struct Queue {
    messages: VecDeque<Held>,
    /// The sum of [`Message::size`](crate::Message::size).
    bytes: usize,
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
        self.messages.push_back(held);
    }

    pub(super) fn front(&self) -> Option<&Held> {
        self.messages.front()
    }

    pub(super) fn pop(&mut self) -> Option<Held> {
        let held = self.messages.pop_front()?;
        self.bytes -= held.message.size();
        if self.messages.is_empty() && self.messages.capacity() > CAPACITY_KEPT {
            self.messages = VecDeque::new();
        }
        Some(held)
    }

    /// All of it, oldest first.
    pub(super) fn into_messages(self) -> impl Iterator<Item = Held> {
        self.messages.into_iter()
    }

    /// Takes what came through this shared subscription.
    pub(super) fn take_shared(&mut self, filter: &TopicFilter) -> Vec<Held> {
        let (taken, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.messages).into_iter().partition(|held| held.is_shared(filter));
        self.messages = kept.into();
        self.bytes -= taken.iter().map(|held| held.message.size()).sum::<usize>();
        taken
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(super) fn check_invariants(&self, limits: &Limits) {
        assert!(self.messages.len() <= limits.queue_messages_max && self.bytes <= limits.queue_bytes_max);
        if self.messages.len() > COUNTED_MAX {
            return;
        }
        assert_eq!(self.bytes, self.messages.iter().map(|held| held.message.size()).sum::<usize>(), "bytes");
    }
}

/// Longer queues are not counted through after each change: a debug build would do little else.
const COUNTED_MAX: usize = 256;
/// An empty queue keeps room for this many messages.
const CAPACITY_KEPT: usize = 16;
