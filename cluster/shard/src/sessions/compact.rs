//! What makes sessions small: there may be millions.

use std::{num::NonZeroU64, sync::Arc};

use flotilla_mqtt::Timestamp;

/// A time of which a session may have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(NonZeroU64);

impl From<Timestamp> for Moment {
    /// The origin of the clock is as good as the millisecond after it.
    fn from(at: Timestamp) -> Self {
        Self(NonZeroU64::new(at.as_millis()).unwrap_or(NonZeroU64::MIN))
    }
}

impl Moment {
    /// Milliseconds since the epoch.
    pub(crate) const fn as_millis(self) -> u64 {
        self.0.get()
    }
}

impl From<Moment> for Timestamp {
    fn from(at: Moment) -> Self {
        Self::from_millis(at.0.get())
    }
}

/// Values that many sessions have in common, and that few are different of.
#[derive(Debug)]
pub(crate) struct Shared<T>(Vec<Arc<T>>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: PartialEq> Shared<T> {
    /// The value, shared with whoever else has it.
    pub(crate) fn of(&mut self, value: T) -> Arc<T> {
        if let Some(known) = self.0.iter().find(|known| ***known == value) {
            return Arc::clone(known);
        }
        if self.0.len() == SHARED_MAX {
            self.0.retain(|known| Arc::strong_count(known) > 1);
        }
        let new = Arc::new(value);
        if self.0.len() < SHARED_MAX {
            self.0.push(Arc::clone(&new));
        }
        new
    }
}

/// How many values are looked for; more are not shared.
const SHARED_MAX: usize = 64;

const _: () = assert!(size_of::<Option<Moment>>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_shared_while_there_are_few() {
        let mut shared = Shared::default();
        let first = shared.of(1);
        assert!(Arc::ptr_eq(&first, &shared.of(1)));
        let many: Vec<_> = (0..200).map(|value| shared.of(value)).collect();
        assert!(many.iter().zip(0..).all(|(kept, value)| **kept == value));
        assert!(Arc::ptr_eq(&many[1], &first) && Arc::ptr_eq(&many[9], &shared.of(9)));
        // What nobody has makes room.
        drop(many);
        let other = shared.of(500);
        assert!(Arc::ptr_eq(&other, &shared.of(500)));
        assert!(Arc::ptr_eq(&first, &shared.of(1)));
    }
}
