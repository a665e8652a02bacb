//! Messages in flight to the client.

use std::{collections::VecDeque, num::NonZeroU16, sync::Arc};

use super::kept::Sequence;
use crate::{Message, PacketId, topic::TopicFilter};

/// QoS 1 and 2 messages that were sent and whose delivery is not complete, in the order in which they were sent.
///
/// Identifiers are given in turn and never while they are in use [MQTT-2.2.1-4].
#[derive(Debug)]
pub(super) struct Window {
    entries: VecDeque<InFlight>,
    /// The most entries. A PUBREL that waits for its PUBCOMP since an earlier connection has no part in the quota of
    /// this one, so the quota alone would let a client that never sends PUBCOMP gather more with each connection.
    max_inflight: NonZeroU16,
    /// How many more PUBLISH packets Receive Maximum allows on this connection [MQTT-3.3.4-9].
    quota: u16,
    next_id: PacketId,
    /// How many identifiers from `next_id` on are known not to be in use.
    free_run: u16,
}

/// One message in flight.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) id: PacketId,
    pub(super) stage: Stage,
    /// Its number, if others keep it for the session.
    pub(super) kept: Option<Sequence>,
    /// Whether it holds a part of the quota: a PUBLISH of this connection does, a PUBREL alone does not (section 4.9).
    counted: bool,
}

/// How far the delivery of a message is.
#[derive(Debug)]
pub(super) enum Stage {
    /// QoS 1: PUBLISH was sent. With `shared` another member of the group gets the message if PUBACK does not come.
    AtLeastOnce { shared: Option<(Arc<TopicFilter>, Arc<Message>)> },
    /// QoS 2: PUBLISH was sent.
    ExactlyOnce,
    /// QoS 2 of a message that others keep: PUBREC has come, and PUBREL waits until they have noted that.
    Releasing,
    /// QoS 2: PUBREC has come, PUBREL was sent; the message itself is the client's now.
    Released,
}

impl Window {
    pub(super) fn new(max_inflight: NonZeroU16, receive_maximum: NonZeroU16) -> Self {
        Self {
            entries: VecDeque::new(),
            max_inflight,
            quota: receive_maximum.get(),
            next_id: PacketId::MIN,
            free_run: u16::MAX,
        }
    }

    /// The identifier for another message, if it may be sent now.
    pub(super) fn vacancy(&mut self) -> Option<PacketId> {
        if !self.has_room() {
            return None;
        }
        if self.free_run == 0 {
            self.find_free_run()?;
        }
        Some(self.next_id)
    }

    /// Whether another message may be sent now.
    fn has_room(&self) -> bool {
        let is_full = self.entries.len() >= usize::from(self.max_inflight.get());
        self.quota > 0 && !is_full
    }

    /// Whether the kept message `sequence` may be sent now: also, whether the one that had its identifier before it is done.
    pub(super) fn has_room_for(&self, sequence: Sequence) -> bool {
        self.has_room() && self.is_id_free(sequence)
    }

    /// Kept messages are in flight in their order, so that the first of them is the oldest.
    pub(super) fn is_id_free(&self, sequence: Sequence) -> bool {
        let oldest = self.entries.iter().find_map(|entry| entry.kept);
        oldest.is_none_or(|oldest| sequence.shares_no_id_since(oldest))
    }

    /// Moves `next_id` to identifiers that are not in use; `None`: all are.
    ///
    /// Costs one look at each entry for each gap between them, so next to nothing per message.
    fn find_free_run(&mut self) -> Option<()> {
        for _ in 0..=self.entries.len() {
            let next = self.next_id.value();
            match self.entries.iter().map(|entry| distance(next, entry.id.value())).min() {
                Some(0) => self.next_id = self.next_id.next(),
                nearest => {
                    self.free_run = nearest.unwrap_or(u16::MAX);
                    return Some(());
                }
            }
        }
        None
    }

    /// Puts the message in flight that was sent with the identifier of [`Window::vacancy`].
    pub(super) fn push(&mut self, stage: Stage) {
        debug_assert!(
            self.entries.len() < usize::from(self.max_inflight.get()),
            "no more than may be in flight"
        );
        self.put(self.next_id, stage, None);
        self.next_id = self.next_id.next();
        self.free_run -= 1;
    }

    /// Puts a kept message in flight that was sent, or whose PUBREL was, for which there is room.
    pub(super) fn push_kept(&mut self, sequence: Sequence, stage: Stage) {
        debug_assert!(self.is_id_free(sequence), "an identifier is in flight once [MQTT-2.2.1-4]");
        self.free_run = 0; // Which of those that are given in turn are free is not known any more.
        self.put(sequence.packet_id(), stage, Some(sequence));
    }

    fn put(&mut self, id: PacketId, stage: Stage, kept: Option<Sequence>) {
        let counted = matches!(stage, Stage::AtLeastOnce { .. } | Stage::ExactlyOnce);
        self.quota -= u16::from(counted);
        self.entries.push_back(InFlight { id, stage, kept, counted });
    }

    /// The place of the message with this identifier.
    pub(super) fn position(&self, id: PacketId) -> Option<usize> {
        let front = self.entries.front()?;
        // Where it is as long as nothing before it was acknowledged out of turn.
        let likely = usize::from(distance(front.id.value(), id.value()));
        if self.entries.get(likely).is_some_and(|entry| entry.id == id) {
            return Some(likely);
        }
        self.entries.iter().position(|entry| entry.id == id)
    }

    /// How far the message at this place is.
    pub(super) fn stage(&self, index: usize) -> &Stage {
        &self.entries[index].stage
    }

    /// How far the kept message is, with its place.
    pub(super) fn position_of(&self, sequence: Sequence) -> Option<usize> {
        self.position(sequence.packet_id()).filter(|index| self.entries[*index].kept == Some(sequence))
    }

    /// The number of the message at this place, if others keep it.
    pub(super) fn kept(&self, index: usize) -> Option<Sequence> {
        self.entries[index].kept
    }

    /// PUBREC of a kept message: the message is the client's, and those who keep it are told first.
    pub(super) fn begin_release(&mut self, index: usize) {
        self.entries[index].stage = Stage::Releasing;
    }

    /// PUBREC: the message is the client's, and its PUBREL is sent.
    pub(super) fn release(&mut self, index: usize) {
        self.entries[index].stage = Stage::Released;
    }

    /// The delivery is over.
    pub(super) fn remove(&mut self, index: usize) -> Option<InFlight> {
        let entry = self.entries.remove(index)?;
        self.quota += u16::from(entry.counted);
        Some(entry)
    }

    /// The messages that were sent at QoS 1 through shared subscriptions and not acknowledged, oldest first.
    pub(super) fn into_shared(self) -> impl Iterator<Item = (Arc<TopicFilter>, Arc<Message>)> {
        self.entries.into_iter().filter_map(|entry| match entry.stage {
            Stage::AtLeastOnce { shared } => shared,
            Stage::ExactlyOnce | Stage::Releasing | Stage::Released => None,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn check_invariants(&self, receive_maximum: NonZeroU16) {
        let mut in_use = [0_u64; 1 << 10];
        for entry in &self.entries {
            let (word, bit) = (entry.id.value() >> 6, 1 << (entry.id.value() & 63));
            let word = &mut in_use[usize::from(word)];
            assert!(*word & bit == 0, "identifier {} is in flight once", entry.id);
            *word |= bit;
        }
        let next = std::iter::successors(Some(self.next_id), |id| Some(id.next()));
        for id in next.take(usize::from(self.free_run).min(256)) {
            let is_free = in_use[usize::from(id.value() >> 6)] & 1 << (id.value() & 63) == 0;
            assert!(is_free, "identifier {id} is not in flight");
        }
        let counted = self.entries.iter().filter(|entry| entry.counted).count();
        assert_eq!(counted + usize::from(self.quota), usize::from(receive_maximum.get()), "quota");
    }
}

/// How many identifiers `to` is after `from`; 1 follows 65,535.
const fn distance(from: u16, to: u16) -> u16 {
    if to >= from { to - from } else { u16::MAX - from + to }
}
