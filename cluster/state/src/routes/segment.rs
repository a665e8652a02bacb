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
    /// 0 in a free slot.
    keys: Box<[u64]>,
    values: Box<[SetId]>,
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
        Self { prefix_bits, homes: 0, len: 0, keys: Box::default(), values: Box::default() }
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
        self.find(key).ok().map(|slot| self.values[slot])
    }

    /// The slot of a key, or the one that it would have.
    pub(super) fn find(&self, key: u64) -> Result<usize, usize> {
        let home = self.home(key);
        for (slot, &taken) in (home..).zip(&self.keys[home..]) {
            if taken == key {
                return Ok(slot);
            }
            if taken == 0 || taken > key {
                return Err(slot);
            }
        }
        Err(self.keys.len())
    }

    pub(super) fn value(&self, slot: usize) -> SetId {
        self.values[slot]
    }

    /// Gives another value to a slot that is taken; returns the old one.
    pub(super) fn replace(&mut self, slot: usize, value: SetId) -> SetId {
        std::mem::replace(&mut self.values[slot], value)
    }

    /// Inserts a key at the slot where `find` missed it.
    pub(super) fn insert(&mut self, slot: usize, key: u64, value: SetId) {
        let mut slot = slot;
        if is_crowded(self.len + 1, self.homes) {
            let entries: Vec<_> = self.iter().collect();
            self.rebuild((self.homes + self.homes / 4).max(HOMES_MIN), &entries);
            slot = self.find(key).expect_err("the key is not there");
        }
        let run = self.keys[slot..].iter().position(|&key| key == 0);
        let free = run.map_or(self.keys.len(), |run| slot + run);
        if free == self.keys.len() {
            self.resize(free + TAIL);
        }
        self.keys.copy_within(slot..free, slot + 1);
        self.values.copy_within(slot..free, slot + 1);
        self.keys[slot] = key;
        self.values[slot] = value;
        self.len += 1;
    }

    /// Removes the key of a slot; those behind it that are not at home move up.
    pub(super) fn remove(&mut self, slot: usize) {
        let follows = |(slot, &key): (usize, &u64)| key != 0 && self.home(key) < slot;
        let run = (slot + 1..).zip(&self.keys[slot + 1..]).take_while(|entry| follows(*entry)).count();
        self.keys.copy_within(slot + 1..slot + 1 + run, slot);
        self.values.copy_within(slot + 1..slot + 1 + run, slot);
        self.keys[slot + run] = 0;
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
        self.keys.iter().copied().zip(self.values.iter().copied()).filter(|(key, _)| *key != 0)
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
        self.keys = vec![0; slots].into();
        self.values = vec![SetId::default(); slots].into();
        let mut next = 0;
        for (key, value) in entries {
            let slot = self.home(*key).max(next);
            self.keys[slot] = *key;
            self.values[slot] = *value;
            next = slot + 1;
        }
    }

    fn resize(&mut self, slots: usize) {
        let mut keys = std::mem::take(&mut self.keys).into_vec();
        keys.reserve_exact(slots - keys.len());
        keys.resize(slots, 0);
        self.keys = keys.into();
        let mut values = std::mem::take(&mut self.values).into_vec();
        values.reserve_exact(slots - values.len());
        values.resize(slots, SetId::default());
        self.values = values.into();
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
        for (slot, &key) in self.keys.iter().enumerate().filter(|(_, key)| **key != 0) {
            assert!(self.keys[self.home(key)..slot].iter().all(|&key| key != 0));
        }
    }

    #[cfg(test)]
    pub(super) fn slots(&self) -> usize {
        self.keys.len()
    }
}
