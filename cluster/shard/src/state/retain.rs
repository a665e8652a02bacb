//! Retained messages.

use super::State;
use crate::{TICK_MAX, ids::RetainedId, message::Parts, retained::Kept, rows::Row};

impl State {
    /// Keeps a message for its topic; one with an empty payload, or that has expired, deletes instead [MQTT-3.3.1-6].
    pub(super) fn retain(&mut self, parts: &Parts<'_>) {
        let expires_at = parts.expires_at.map(|at| flotilla_mqtt::Timestamp::from_millis(at).into());
        let known = self.retained.of(parts.topic);
        let id = known.map_or(RetainedId(self.next.retained), |known| known.id);
        let kept = Kept { id, expires_at, size: u32::try_from(parts.size()).unwrap_or(u32::MAX) };
        if parts.payload.is_empty() || kept.is_over(self.stamp) {
            return self.delete_retained(parts.topic);
        }
        if self.retained.is_full && known.is_none_or(|known| known.size < kept.size) {
            self.stats.retained_refused += 1;
            return;
        }
        if known.is_none() {
            self.next.retained += 1;
        }
        if known != Some(kept) {
            self.retained.set(parts.topic, kept);
            self.dirty.put(Row::Retained(id), kept.row(parts.topic));
        }
        let mut message = Vec::with_capacity(parts.stored_len());
        parts.write(&mut message);
        self.dirty.put(Row::RetainedMessage(id), message.into());
    }

    fn delete_retained(&mut self, topic: &str) {
        let Some(Kept { id, .. }) = self.retained.remove(topic) else { return };
        let is_stored = self.retained.is_stored(id);
        self.dirty.delete(Row::Retained(id), is_stored);
        self.dirty.delete(Row::RetainedMessage(id), is_stored);
    }

    /// Deletes what has expired; the next tick does the rest.
    pub(super) fn expire_retained(&mut self) {
        for _ in 0..TICK_MAX {
            if self.retained.next_deadline().is_none_or(|at| at > self.stamp) {
                break;
            }
            let Some(topic) = self.retained.first_to_expire().map(ToOwned::to_owned) else { break };
            self.delete_retained(&topic);
        }
    }
}
