//! PUBLISH of QoS 2 from a client that wait for their PUBREL.

use std::collections::BTreeSet;

use flotilla_mqtt::PacketId;

use crate::ReceivedId;

/// The identifiers that are taken [MQTT-4.3.3-10], and which messages they stand for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Received(Vec<ReceivedId>);

impl Received {
    /// In ascending order of their numbers.
    pub(crate) fn from_list(list: Vec<ReceivedId>) -> Option<Self> {
        list.is_sorted_by(|left, right| left.number < right.number).then_some(Self(list))
    }

    /// The number of the message that has this identifier.
    pub(crate) fn number(&self, id: PacketId) -> Option<u64> {
        self.0.iter().find(|taken| taken.id == id).map(|taken| taken.number)
    }

    /// Takes an identifier; its number is above all others.
    pub(crate) fn take(&mut self, id: PacketId, number: u64) {
        self.0.push(ReceivedId { id, number, is_stored: false });
    }

    /// Every shard has the messages of these identifiers. It stays so until they are free.
    pub(crate) fn set_stored(&mut self, ids: &[PacketId]) {
        let ids: BTreeSet<PacketId> = ids.iter().copied().collect();
        for taken in &mut self.0 {
            taken.is_stored |= ids.contains(&taken.id);
        }
    }

    /// Frees an identifier; returns whether it was taken.
    pub(crate) fn free(&mut self, id: PacketId) -> bool {
        let Some(index) = self.0.iter().position(|taken| taken.id == id) else { return false };
        self.0.remove(index);
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
        true
    }

    /// The lowest number.
    pub(crate) fn floor(&self) -> Option<u64> {
        self.0.first().map(|taken| taken.number)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Ascending by number.
    pub(crate) fn list(&self) -> &[ReceivedId] {
        &self.0
    }
}
