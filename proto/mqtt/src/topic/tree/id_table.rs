//! A hash table of identifiers of things that are stored elsewhere, and hold their keys themselves.

use std::hash::{BuildHasher, Hash, RandomState};

use hashbrown::HashTable;

/// Finds identifiers by the hash of a key.
///
/// One big table would stop everything while it doubles, for a quarter of a second with a million entries. This one is
/// made of parts, each of which grows when it alone is full, and hashes are kept, so that growing does not look at the
/// keys. Empty, it takes two kilobytes: it is meant for the few indexes of a broker, not for every client.
///
/// Hashes are keyed at random: clients choose the keys, and must not be able to choose keys that collide.
#[derive(Debug)]
pub(super) struct IdTable<I> {
    parts: Box<[HashTable<Slot<I>>]>,
    hasher: RandomState,
}

/// The hash of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyHash(u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot<I> {
    hash: KeyHash,
    id: I,
}

const PARTS_BITS: u32 = 6;

impl<I: Copy + Eq> IdTable<I> {
    pub(super) fn new() -> Self {
        let parts = (0..1 << PARTS_BITS).map(|_| HashTable::new()).collect();
        Self { parts, hasher: RandomState::new() }
    }

    pub(super) fn hash(&self, key: impl Hash) -> KeyHash {
        KeyHash((self.hasher.hash_one(key) >> 32) as u32)
    }

    /// The identifier with this hash that `is_it` accepts.
    pub(super) fn find(&self, hash: KeyHash, is_it: impl Fn(I) -> bool) -> Option<I> {
        self.parts[hash.part()]
            .find(hash.spread(), |slot| slot.hash == hash && is_it(slot.id))
            .map(|slot| slot.id)
    }

    /// Adds an identifier that is not there yet.
    pub(super) fn insert(&mut self, hash: KeyHash, id: I) {
        self.parts[hash.part()].insert_unique(hash.spread(), Slot { hash, id }, |slot| slot.hash.spread());
    }

    /// Removes an identifier that was added with this hash.
    ///
    /// # Panics
    /// There is none.
    pub(super) fn remove(&mut self, hash: KeyHash, id: I) {
        let part = &mut self.parts[hash.part()];
        let slot = part.find_entry(hash.spread(), |slot| *slot == Slot { hash, id }).ok();
        slot.expect("the identifier was added with this hash").remove();
        if part.num_buckets() > 8 && part.len() < part.num_buckets() / 4 {
            part.shrink_to(part.len() * 2, |slot| slot.hash.spread());
        }
    }

    /// Replaces an identifier that was added with this hash.
    ///
    /// # Panics
    /// There is none.
    pub(super) fn replace(&mut self, hash: KeyHash, old: I, new: I) {
        let slot = self.parts[hash.part()].find_mut(hash.spread(), |slot| *slot == Slot { hash, id: old });
        slot.expect("the identifier was added with this hash").id = new;
    }

    /// How many identifiers there is room for.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.parts.iter().map(HashTable::num_buckets).sum()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(HashTable::len).sum()
    }
}

impl KeyHash {
    fn part(self) -> usize {
        (self.0 >> (u32::BITS - PARTS_BITS)) as usize
    }

    /// The hash within a part. The table takes the bucket from the lowest bits and a tag from the highest seven bits: this
    /// lets them be different bits of ours, and none of those that are the same in the whole part.
    fn spread(self) -> u64 {
        let hash = u64::from(self.0);
        hash << (u32::BITS + PARTS_BITS) | hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_by_key() {
        let keys: Vec<String> = (0..20_000).map(|number| format!("key {number}")).collect();
        let mut table = IdTable::new();
        for (id, key) in keys.iter().enumerate() {
            table.insert(table.hash(key), id);
        }
        assert_eq!(table.len(), keys.len());
        assert!(table.room() < keys.len() * 5 / 2);
        let find = |table: &IdTable<usize>, id: usize| {
            table.find(table.hash(&keys[id]), |found| found % keys.len() == id)
        };
        for id in 0..keys.len() {
            assert_eq!(find(&table, id), Some(id));
            table.replace(table.hash(&keys[id]), id, id + keys.len());
            assert_eq!(find(&table, id), Some(id + keys.len()));
        }
        for id in 0..keys.len() {
            table.remove(table.hash(&keys[id]), id + keys.len());
            assert_eq!(find(&table, id), None);
        }
        assert_eq!(table.len(), 0);
        assert!(table.room() <= 8 << PARTS_BITS, "{}", table.room());
    }
}
