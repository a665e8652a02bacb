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

/// The tick in which a session's next reminder comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NextReminder(u64);

impl NextReminder {
    /// There is none.
    pub(super) const NONE: Self = Self(u64::MAX);
}

/// How exact timers are.
pub(super) const TICK: Duration = Duration::from_millis(TICK_MILLIS);

const TICK_MILLIS: u64 = 100;

/// A turn of the wheel is 102.4 seconds; what is due later passes by once in a turn.
const SLOTS: u64 = 1_024;

/// The tick in which `at` is over.
fn tick_of(at: Timestamp) -> u64 {
    at.as_millis().div_ceil(TICK_MILLIS)
}

impl Wheel {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), tick: tick_of(now) }
    }

    /// Makes sure that a reminder comes when `at` is over, or before that when it is more than a turn away.
    pub(super) fn remind(&mut self, at: Timestamp, reminder: Reminder, next: &mut NextReminder) {
        if tick_of(at) < next.0 {
            let tick = tick_of(at).clamp(self.tick + 1, self.tick + SLOTS - 1);
            self.slots[(tick % SLOTS) as usize].push(reminder);
            next.0 = tick;
        }
    }

    /// Whether a reminder that has come is the next one of its session, which then has none. If not, an earlier one has
    /// taken its place and made another: were this one to make one too, there would be ever more of them.
    pub(super) fn is_next(&self, next: &mut NextReminder) -> bool {
        let has_come = next.0 <= self.tick;
        if has_come {
            *next = NextReminder::NONE;
        }
        has_come
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

    fn remind(wheel: &mut Wheel, millis: u64, slot: u32) {
        wheel.remind(Timestamp::from_millis(millis), reminder(slot), &mut NextReminder::NONE.clone());
    }

    fn due_at(wheel: &mut Wheel, millis: u64) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.advance(Timestamp::from_millis(millis), &mut due);
        due.iter().map(|reminder| reminder.slot).collect()
    }

    #[test]
    fn a_reminder_comes_in_its_tick_and_never_early() {
        let mut wheel = Wheel::new(Timestamp::from_millis(1_000));
        remind(&mut wheel, 1_250, 7);
        assert_eq!(due_at(&mut wheel, 1_249), Vec::<u32>::new());
        assert_eq!(due_at(&mut wheel, 1_299), Vec::<u32>::new());
        assert_eq!(due_at(&mut wheel, 1_300), [7]);
        assert_eq!(due_at(&mut wheel, 9_000), Vec::<u32>::new());
    }

    #[test]
    fn a_moment_in_the_past_comes_with_the_next_tick() {
        let mut wheel = Wheel::new(Timestamp::from_millis(5_000));
        remind(&mut wheel, 10, 1);
        assert_eq!(due_at(&mut wheel, 5_100), [1]);
    }

    #[test]
    fn what_is_far_away_reminds_once_a_turn() {
        let mut wheel = Wheel::new(Timestamp::ORIGIN);
        remind(&mut wheel, 3_600_000, 2);
        assert_eq!(due_at(&mut wheel, (SLOTS - 2) * 100), Vec::<u32>::new());
        assert_eq!(due_at(&mut wheel, (SLOTS - 1) * 100), [2]);
    }

    #[test]
    fn a_long_pause_loses_no_reminder() {
        let mut wheel = Wheel::new(Timestamp::ORIGIN);
        for slot in 1..=1_000 {
            remind(&mut wheel, u64::from(slot) * 100, slot);
        }
        let mut due = due_at(&mut wheel, 10_000_000);
        due.sort_unstable();
        assert_eq!(due, (1..=1_000).collect::<Vec<_>>());
        remind(&mut wheel, 10_000_150, 3);
        assert_eq!(due_at(&mut wheel, 10_000_200), [3]);
    }

    #[test]
    fn deadlines_that_come_and_go_do_not_multiply_reminders() {
        let mut wheel = Wheel::new(Timestamp::ORIGIN);
        let mut next = NextReminder::NONE;
        let (mut due, mut most) = (Vec::new(), 0);
        for millis in (0..3_600_000).step_by(100) {
            let now = Timestamp::from_millis(millis);
            wheel.advance(now, &mut due);
            most = most.max(due.len());
            for reminder in due.drain(..) {
                if wheel.is_next(&mut next) {
                    wheel.remind(now + Duration::from_secs(90), reminder, &mut next); // Keep Alive
                }
            }
            wheel.remind(now + Duration::from_secs(15), reminder(0), &mut next); // a part of a packet
        }
        let waiting: usize = wheel.slots.iter().map(Vec::len).sum();
        assert!(most < 10 && waiting < 20, "{most} at once, {waiting} in the wheel");
    }
}
