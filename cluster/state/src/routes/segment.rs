//! A part of the table of exact routes.

use super::node_sets::SetId;

/// A hash table with open addressing from keys, whose highest bits all are the same, to sets of nodes: 12 bytes a slot.
///
/// The home slot of a key grows with the key, and the keys are in their order: a look-up ends at the first greater key, so
/// that nine of ten slots may be taken, and the entries come out sorted, whatever the history of the table.
///
/// Invariants: keys increase from slot to slot, free slots aside; no slot is free between the home of a key and its slot.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    /// How many of the highest bits are the same in all keys.
    prefix_bits: u32,
    /// How many slots are homes; behind them are some for keys that do not fit in front of them.
    homes: usize,
    len: usize,
    slots: Box<[Slot]>,
}

/// A key with its value, side by side: a look-up in a big table waits for memory once. The key is in halves, so that a slot
/// has 12 bytes and not 16.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    key_low: u32,
    key_high: u32,
    value: SetId,
}

const _: () = assert!(size_of::<Slot>() == 12);

impl Slot {
    fn new(key: u64, value: SetId) -> Self {
        let half = |key: u64| u32::try_from(key & u64::from(u32::MAX)).expect("it is half of the key");
        Self { key_low: half(key), key_high: half(key >> u32::BITS), value }
    }

    /// 0 in a free slot.
    fn key(self) -> u64 {
        u64::from(self.key_high) << u32::BITS | u64::from(self.key_low)
    }

    fn is_free(self) -> bool {
        self.key() == 0
    }
}

/// A table grows by a quarter when more than nine tenths of its homes are taken.
const fn is_crowded(len: usize, homes: usize) -> bool {
    len * 10 > homes * 9
}

/// A table shrinks when less than four tenths of its homes are taken.
const fn is_sparse(len: usize, homes: usize) -> bool {
    homes > HOMES_MIN && len * 10 < homes * 4
}

const HOMES_MIN: usize = 8;
/// How many slots there are behind the homes, at least, and how many more there are when these are taken.
const TAIL: usize = 16;

impl Segment {
    pub(super) fn new(prefix_bits: u32) -> Self {
        Self { prefix_bits, homes: 0, len: 0, slots: Box::default() }
    }

    /// A segment with these entries, whose keys increase.
    pub(super) fn from_sorted(prefix_bits: u32, entries: &[(u64, SetId)]) -> Self {
        let mut segment = Self::new(prefix_bits);
        segment.rebuild(entries.len() + entries.len() / 3, entries);
        segment
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, key: u64) -> Option<SetId> {
        self.find(key).ok().map(|slot| self.slots[slot].value)
    }

    /// The slot of a key, or the one that it would have.
    pub(super) fn find(&self, key: u64) -> Result<usize, usize> {
        let home = self.home(key);
        for (slot, taken) in (home..).zip(&self.slots[home..]) {
            let taken = taken.key();
            if taken == key {
                return Ok(slot);
            }
            if taken == 0 || taken > key {
                return Err(slot);
            }
        }
        Err(self.slots.len())
    }

    pub(super) fn value(&self, slot: usize) -> SetId {
        self.slots[slot].value
    }

    /// Gives another value to a slot that is taken; returns the old one.
    pub(super) fn replace(&mut self, slot: usize, value: SetId) -> SetId {
        std::mem::replace(&mut self.slots[slot].value, value)
    }

    /// Inserts a key at the slot where `find` missed it.
    pub(super) fn insert(&mut self, slot: usize, key: u64, value: SetId) {
        let mut slot = slot;
        if is_crowded(self.len + 1, self.homes) {
            let entries: Vec<_> = self.iter().collect();
            self.rebuild((self.homes + self.homes / 4).max(HOMES_MIN), &entries);
            slot = self.find(key).expect_err("the key is not there");
        }
        let run = self.slots[slot..].iter().position(|slot| slot.is_free());
        let free = run.map_or(self.slots.len(), |run| slot + run);
        if free == self.slots.len() {
            self.lengthen(TAIL);
        }
        self.slots.copy_within(slot..free, slot + 1);
        self.slots[slot] = Slot::new(key, value);
        self.len += 1;
    }

    /// Removes the key of a slot; those behind it that are not at home move up.
    pub(super) fn remove(&mut self, slot: usize) {
        let follows = |(at, slot): &(usize, &Slot)| !slot.is_free() && self.home(slot.key()) < *at;
        let run = (slot + 1..).zip(&self.slots[slot + 1..]).take_while(follows).count();
        self.slots.copy_within(slot + 1..slot + 1 + run, slot);
        self.slots[slot + run] = Slot::default();
        self.len -= 1;
        if is_sparse(self.len, self.homes) {
            let entries: Vec<_> = self.iter().collect();
            self.rebuild(self.len + self.len / 3, &entries);
        }
    }

    /// Gives each entry the value that `change` says, or removes it.
    pub(super) fn filter_map(&mut self, mut change: impl FnMut(SetId) -> Option<SetId>) {
        let entries: Vec<_> =
            self.iter().filter_map(|(key, value)| change(value).map(|value| (key, value))).collect();
        self.rebuild(entries.len() + entries.len() / 3, &entries);
    }

    /// All entries, sorted.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, SetId)> {
        self.slots.iter().filter(|slot| !slot.is_free()).map(|slot| (slot.key(), slot.value))
    }

    fn rebuild(&mut self, homes: usize, entries: &[(u64, SetId)]) {
        if entries.is_empty() && homes < HOMES_MIN {
            *self = Self::new(self.prefix_bits);
            return;
        }
        self.homes = homes.max(HOMES_MIN);
        self.len = entries.len();
        let mut next = 0;
        for (key, _) in entries {
            next = self.home(*key).max(next) + 1;
        }
        let slots = (self.homes + TAIL).max(next);
        self.slots = vec![Slot::default(); slots].into();
        let mut next = 0;
        for (key, value) in entries {
            let slot = self.home(*key).max(next);
            self.slots[slot] = Slot::new(*key, *value);
            next = slot + 1;
        }
    }

    /// Puts more slots behind the last one.
    fn lengthen(&mut self, more: usize) {
        let mut slots = std::mem::take(&mut self.slots).into_vec();
        slots.reserve_exact(more);
        slots.resize(slots.len() + more, Slot::default());
        self.slots = slots.into();
    }

    fn home(&self, key: u64) -> usize {
        let fraction = u128::from(key << self.prefix_bits);
        let home = (fraction * self.homes as u128) >> u64::BITS;
        usize::try_from(home).expect("it is less than the number of homes")
    }

    pub(super) fn check_invariants(&self) {
        assert_eq!(self.iter().count(), self.len);
        assert!(!is_crowded(self.len, self.homes));
        assert!(self.iter().is_sorted_by(|(left, _), (right, _)| left < right));
        for (at, slot) in self.slots.iter().enumerate().filter(|(_, slot)| !slot.is_free()) {
            assert!(self.slots[self.home(slot.key())..at].iter().all(|slot| !slot.is_free()));
        }
    }

    #[cfg(test)]
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }
}
