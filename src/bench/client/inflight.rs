//! Messages of QoS 1 and 2 that the broker is not done with.

use flotilla_mqtt::PacketId;

/// Which Packet Identifiers are taken, by which message and since when.
///
/// Owns no memory before the first message, and then for as many as were ever in flight together.
#[derive(Debug)]
pub(super) struct InFlight {
    slots: Vec<Slot>,
    /// Identifiers of slots that are free.
    free: Vec<u16>,
    limit: u16,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// When the message was meant to be sent.
    time: u64,
    step: Step,
}

/// What is expected next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing: the identifier is free.
    Free,
    /// PUBACK.
    Acknowledge,
    /// PUBREC.
    Receive,
    /// PUBCOMP.
    Complete,
}

impl InFlight {
    pub(super) const fn new(limit: u16) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), limit }
    }

    /// Takes no more than this together from here on; call it before the first message.
    pub(super) fn lower_limit(&mut self, limit: u16) {
        self.limit = self.limit.min(limit);
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    #[inline]
    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty() || self.slots.len() < usize::from(self.limit)
    }

    /// An identifier for a message; `None`: there are too many.
    #[inline]
    pub(super) fn take(&mut self, time: u64, step: Step) -> Option<PacketId> {
        let id = match self.free.pop() {
            Some(id) => id,
            None if self.has_room() => {
                self.slots.push(Slot { time, step: Step::Free });
                u16::try_from(self.slots.len()).ok()?
            }
            None => return None,
        };
        self.slots[usize::from(id) - 1] = Slot { time, step };
        PacketId::new(id)
    }

    /// The broker has sent the PUBREC. False: it has no reason to.
    #[inline]
    pub(super) fn handle_received(&mut self, id: PacketId) -> bool {
        let slot = self.slots.get_mut(usize::from(id.value()) - 1);
        let slot = slot.filter(|slot| matches!(slot.step, Step::Receive | Step::Complete));
        slot.map(|slot| slot.step = Step::Complete).is_some()
    }

    /// The broker is done with it: when the message was meant to be sent. `None`: it has no reason to say so.
    #[inline]
    pub(super) fn finish(&mut self, id: PacketId, expected: Step) -> Option<u64> {
        let slot = self.slots.get_mut(usize::from(id.value()) - 1)?;
        if slot.step != expected {
            return None;
        }
        slot.step = Step::Free;
        self.free.push(id.value());
        Some(slot.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_given_once() {
        let mut in_flight = InFlight::new(10);
        in_flight.lower_limit(2);
        let first = in_flight.take(11, Step::Acknowledge).unwrap();
        let second = in_flight.take(22, Step::Receive).unwrap();
        assert_ne!(first, second);
        assert!(!in_flight.has_room() && in_flight.take(33, Step::Acknowledge).is_none());

        assert_eq!(in_flight.finish(first, Step::Complete), None);
        assert_eq!(in_flight.finish(first, Step::Acknowledge), Some(11));
        assert_eq!(in_flight.finish(first, Step::Acknowledge), None);
        assert_eq!(in_flight.take(44, Step::Acknowledge), Some(first));

        assert_eq!(in_flight.finish(second, Step::Complete), None);
        assert!(in_flight.handle_received(second) && in_flight.handle_received(second));
        assert_eq!(in_flight.finish(second, Step::Complete), Some(22));
        assert!(!in_flight.handle_received(second));
        assert_eq!(in_flight.len(), 1);
    }

    #[test]
    fn what_was_never_given_is_not_known() {
        let mut in_flight = InFlight::new(2);
        let id = PacketId::new(u16::MAX).unwrap();
        assert!(!in_flight.handle_received(id));
        assert_eq!(in_flight.finish(id, Step::Acknowledge), None);
    }
}
