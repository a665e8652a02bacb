//! Which messages of QoS 2 have been stored already.

use std::collections::BTreeMap;

use flotilla_lane::Origin;
use flotilla_state::ShardId;

use crate::{DecodeError, RECEIVED_SPAN, SessionId, rows::PublisherRow};

/// What was stored, by the session that published it.
#[derive(Debug, Default)]
pub(crate) struct Publishers {
    known: BTreeMap<(ShardId, SessionId), Publisher>,
    /// Whose rows must be written or deleted.
    dirty: Vec<(ShardId, SessionId)>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Publisher {
    stored: Admitted,
    is_dirty: bool,
}

/// Which messages of one publisher have come already.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// No message below it comes again.
    floor: u64,
    /// What has come and is not below the floor, ascending.
    numbers: Vec<u64>,
}

impl Admitted {
    /// Whether a message comes now for the first time; if so, it is known from now on. `floor` is that of its
    /// [`Origin`].
    pub fn admit(&mut self, number: u64, floor: u64) -> bool {
        // The publisher's shard lets no more than this lie between what is not released; the bound is for its mistakes.
        let floor = floor.max(number.saturating_sub(RECEIVED_SPAN - 1));
        if floor > self.floor {
            self.floor = floor;
            let below = self.numbers.partition_point(|&number| number < floor);
            self.numbers.drain(..below);
        }
        number >= self.floor
            && match self.numbers.binary_search(&number) {
                Ok(_) => false,
                Err(index) => {
                    self.numbers.insert(index, number);
                    true
                }
            }
    }

    fn is_valid(&self) -> bool {
        self.numbers.is_sorted_by(|left, right| left < right)
            && self.numbers.first().is_none_or(|first| *first >= self.floor)
    }
}

impl Publishers {
    /// Whether the message is stored now for the first time; if so, it is known from now on.
    pub(crate) fn admit(&mut self, origin: Origin) -> bool {
        let key = (origin.shard, SessionId(origin.session));
        let publisher = self.known.entry(key).or_default();
        let floor_before = publisher.stored.floor;
        let is_new = publisher.stored.admit(origin.number, origin.floor);
        let has_changed = is_new || publisher.stored.floor > floor_before;
        if has_changed && !publisher.is_dirty {
            publisher.is_dirty = true;
            self.dirty.push(key);
        }
        is_new
    }

    /// Nothing of this publisher comes any more.
    pub(crate) fn forget(&mut self, shard: ShardId, session: SessionId) {
        let key = (shard, session);
        if self.known.remove(&key).is_some_and(|publisher| !publisher.is_dirty) {
            self.dirty.push(key);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    pub(crate) fn dirty_len(&self) -> usize {
        self.dirty.len()
    }

    /// In order, behind `after`.
    pub(crate) fn after(
        &self,
        after: Option<(ShardId, SessionId)>,
    ) -> impl Iterator<Item = (ShardId, SessionId)> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.known.range((after.map_or(Unbounded, Excluded), Unbounded)).map(|(key, _)| *key)
    }

    /// Those whose rows must be written, or deleted where there is none.
    pub(crate) fn dirty(&self) -> impl Iterator<Item = ((ShardId, SessionId), Option<PublisherRow>)> {
        self.dirty.iter().map(|key| {
            let row = |publisher: &Publisher| PublisherRow {
                floor: publisher.stored.floor,
                numbers: publisher.stored.numbers.clone(),
            };
            (*key, self.known.get(key).map(row))
        })
    }

    /// All of them, in words.
    #[cfg(feature = "simulation")]
    pub(crate) fn describe(&self) -> impl Iterator<Item = String> {
        self.known.iter().map(|((shard, session), publisher)| {
            format!("publisher {shard:?} {session:?} {:?}", publisher.stored)
        })
    }

    /// All rows have been written.
    pub(crate) fn set_stored(&mut self) {
        for key in std::mem::take(&mut self.dirty) {
            if let Some(publisher) = self.known.get_mut(&key) {
                publisher.is_dirty = false;
            }
        }
    }

    pub(crate) fn restore(
        &mut self,
        shard: ShardId,
        session: SessionId,
        row: PublisherRow,
    ) -> Result<(), DecodeError> {
        let PublisherRow { floor, numbers } = row;
        let stored = Admitted { floor, numbers };
        if !stored.is_valid() {
            return Err(DecodeError::Field("numbers"));
        }
        self.known.insert((shard, session), Publisher { stored, is_dirty: false });
        Ok(())
    }

    pub(crate) fn check_invariants(&self) {
        for publisher in self.known.values() {
            assert!(publisher.stored.is_valid());
            assert!(publisher.stored.numbers.len() as u64 <= RECEIVED_SPAN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(publishers: &mut Publishers, number: u64, floor: u64, is_new: bool) {
        let origin = Origin { shard: ShardId(1), session: 2, number, floor };
        assert_eq!(publishers.admit(origin), is_new, "{number} above {floor}");
        publishers.check_invariants();
    }

    #[test]
    fn a_message_counts_once() {
        let mut publishers = Publishers::default();
        check(&mut publishers, 1, 1, true);
        check(&mut publishers, 1, 1, false);
        check(&mut publishers, 3, 1, true);
        check(&mut publishers, 2, 1, true);
        check(&mut publishers, 3, 3, false);
        check(&mut publishers, 2, 2, false);
        check(&mut publishers, 1, 1, false);
        check(&mut publishers, 4, 2, true);
        check(&mut publishers, 5, 5, true);
        check(&mut publishers, 4, 4, false);
        // Another session counts for itself.
        let other = Origin { shard: ShardId(1), session: 3, number: 1, floor: 1 };
        assert!(publishers.admit(other));
        assert_eq!(publishers.len(), 2);
        publishers.forget(ShardId(1), SessionId(3));
        assert!(publishers.admit(other));
    }

    #[test]
    fn what_is_kept_is_bounded_also_if_the_floor_never_rises() {
        let mut publishers = Publishers::default();
        for number in 1..RECEIVED_SPAN * 3 {
            publishers.admit(Origin { shard: ShardId(1), session: 2, number, floor: 1 });
        }
        publishers.check_invariants();
        check(&mut publishers, u64::MAX - 1, 1, true);
    }

    #[test]
    fn a_floor_that_rises_is_written_also_with_a_message_that_is_known() {
        let mut publishers = Publishers::default();
        check(&mut publishers, 3, 1, true);
        publishers.set_stored();
        check(&mut publishers, 3, 1, false);
        assert_eq!(publishers.dirty_len(), 0);
        check(&mut publishers, 3, 3, false);
        assert_eq!(
            publishers.dirty().filter_map(|(_, row)| row).map(|row| row.floor).collect::<Vec<_>>(),
            [3]
        );
    }

    #[test]
    fn who_is_forgotten_before_a_flush_has_no_row_to_delete() {
        let mut publishers = Publishers::default();
        check(&mut publishers, 1, 1, true);
        publishers.forget(ShardId(1), SessionId(2));
        assert!(publishers.dirty().all(|(_, row)| row.is_none()));
        publishers.set_stored();
        check(&mut publishers, 1, 1, true);
        publishers.set_stored();
        publishers.forget(ShardId(1), SessionId(2));
        assert_eq!(publishers.dirty().count(), 1);
    }
}
