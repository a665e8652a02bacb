//! A coarse timer wheel.

use std::time::Duration;

use flotilla_mqtt::Timestamp;

/// Tells which sessions have something due, to a tenth of a second.
///
/// An entry is only a reminder to look at a session's deadlines again: nothing is ever taken out of the wheel, and a
/// deadline that moved away (a Keep Alive, with every packet) costs nothing until the reminder comes.
#[derive(Debug)]
pub(super) struct Wheel {
    slots: Box<[Vec<Reminder>]>,
    /// The tick that was handled last.
    tick: u64,
}

/// Look at this session again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reminder {
    pub(super) slot: u32,
    pub(super) epoch: u32,
}

/// How exact timers are.
pub(super) const TICK: Duration = Duration::from_millis(TICK_MILLIS);

const TICK_MILLIS: u64 = 100;

/// A turn of the wheel is 102.4 seconds; what is due later passes by once in a turn.
const SLOTS: u64 = 1_024;

/// The tick in which `at` is over.
pub(super) fn tick_of(at: Timestamp) -> u64 {
    at.as_millis().div_ceil(TICK_MILLIS)
}

impl Wheel {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), tick: tick_of(now) }
    }

    /// Adds a reminder; returns the tick in which it comes, which is before `at` when that is more than a turn away.
    pub(super) fn remind(&mut self, at: Timestamp, reminder: Reminder) -> u64 {
        let tick = tick_of(at).clamp(self.tick + 1, self.tick + SLOTS - 1);
        self.slots[(tick % SLOTS) as usize].push(reminder);
        tick
    }

    /// Moves on to `now` and appends the reminders that have come.
    pub(super) fn advance(&mut self, now: Timestamp, due: &mut Vec<Reminder>) {
        // A moment is due in the tick after it has passed.
        let target = now.as_millis() / TICK_MILLIS;
        // After a long pause of the process one turn covers all of it.
        let first = (self.tick + 1).max((target + 1).saturating_sub(SLOTS));
        for tick in first..=target {
            let slot = &mut self.slots[(tick % SLOTS) as usize];
            due.append(slot);
            slot.shrink_to(64);
        }
        self.tick = self.tick.max(target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reminder(slot: u32) -> Reminder {
        Reminder { slot, epoch: 0 }
    }

    fn due_at(wheel: &mut Wheel, millis: u64) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.advance(Timestamp::from_millis(millis), &mut due);
        due.iter().map(|reminder| reminder.slot).collect()
    }

    #[test]
    fn a_reminder_comes_in_its_tick_and_never_early() {
        let mut wheel = Wheel::new(Timestamp::from_millis(1_000));
        wheel.remind(Timestamp::from_millis(1_250), reminder(7));
        assert_eq!(due_at(&mut wheel, 1_249), Vec::<u32>::new());
        assert_eq!(due_at(&mut wheel, 1_299), Vec::<u32>::new());
        assert_eq!(due_at(&mut wheel, 1_300), [7]);
        assert_eq!(due_at(&mut wheel, 9_000), Vec::<u32>::new());
    }

    #[test]
    fn a_moment_in_the_past_comes_with_the_next_tick() {
        let mut wheel = Wheel::new(Timestamp::from_millis(5_000));
        wheel.remind(Timestamp::from_millis(10), reminder(1));
        assert_eq!(due_at(&mut wheel, 5_100), [1]);
    }

    #[test]
    fn what_is_far_away_reminds_once_a_turn() {
        let mut wheel = Wheel::new(Timestamp::ORIGIN);
        let tick = wheel.remind(Timestamp::from_millis(3_600_000), reminder(2));
        assert_eq!(tick, SLOTS - 1);
        assert_eq!(due_at(&mut wheel, tick * 100), [2]);
    }

    #[test]
    fn a_long_pause_loses_no_reminder() {
        let mut wheel = Wheel::new(Timestamp::ORIGIN);
        for slot in 1..=1_000 {
            wheel.remind(Timestamp::from_millis(u64::from(slot) * 100), reminder(slot));
        }
        let mut due = due_at(&mut wheel, 10_000_000);
        due.sort_unstable();
        assert_eq!(due, (1..=1_000).collect::<Vec<_>>());
        wheel.remind(Timestamp::from_millis(10_000_150), reminder(3));
        assert_eq!(due_at(&mut wheel, 10_000_200), [3]);
    }
}
