//! The index from topic names to the filters that match them.

mod label;
#[cfg(test)]
mod tests;
mod trie;

use std::hash::{BuildHasher, RandomState};

use hashbrown::{HashTable, hash_table::Entry};

use trie::Trie;

/// Maps filters (without share prefix) to values, and finds all filters that match a topic name.
///
/// Filters without wildcards are in one hash map: any number of them costs a match one look-up. Filters with wildcards
/// are in a trie, of which a match visits only the nodes whose path from the root matches the beginning of the name: its
/// cost does not depend on how many other filters there are. Nothing recurses, and a match of a name allocates nothing
/// unless a path of more than a dozen open `+` branches exists.
///
/// What is removed is freed, nodes included, and tables shrink when they have become mostly empty.
///
/// Hashes are keyed at random against clients that choose colliding topics. No result depends on them; only the order of
/// [`iter`](Self::iter) does.
#[derive(Debug)]
pub struct FilterTree<V> {
    exact: HashTable<Exact<V>>,
    wildcard: Trie<V>,
    hasher: RandomState,
}

/// A filter without wildcards.
#[derive(Debug)]
struct Exact<V> {
    filter: Box<str>,
    value: V,
}

impl<V> FilterTree<V> {
    /// A map without filters.
    pub fn new() -> Self {
        Self { exact: HashTable::new(), wildcard: Trie::new(), hasher: RandomState::new() }
    }

    /// How many filters there are.
    pub fn len(&self) -> usize {
        self.exact.len() + self.wildcard.len()
    }

    /// Whether there are no filters.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a filter, which is inserted when it is missing.
    pub fn entry(&mut self, filter: &str) -> &mut V
    where
        V: Default,
    {
        if has_wildcard(filter) {
            return self.wildcard.entry(filter);
        }
        let hash = self.hasher.hash_one(filter);
        let rehash = |entry: &Exact<V>| self.hasher.hash_one(&*entry.filter);
        match self.exact.entry(hash, |entry| &*entry.filter == filter, rehash) {
            Entry::Occupied(entry) => &mut entry.into_mut().value,
            Entry::Vacant(entry) => {
                &mut entry.insert(Exact { filter: filter.into(), value: V::default() }).into_mut().value
            }
        }
    }

    /// The value of a filter: of exactly this text, whatever it matches.
    pub fn value(&self, filter: &str) -> Option<&V> {
        if has_wildcard(filter) { self.wildcard.value(filter) } else { self.exact_value(filter) }
    }

    /// The value of a filter, to be changed.
    pub fn value_mut(&mut self, filter: &str) -> Option<&mut V> {
        if has_wildcard(filter) {
            return self.wildcard.value_mut(filter);
        }
        let hash = self.hasher.hash_one(filter);
        self.exact.find_mut(hash, |entry| &*entry.filter == filter).map(|entry| &mut entry.value)
    }

    /// Removes a filter and returns its value.
    pub fn remove(&mut self, filter: &str) -> Option<V> {
        if has_wildcard(filter) {
            return self.wildcard.remove(filter);
        }
        let hash = self.hasher.hash_one(filter);
        let (removed, _) = self.exact.find_entry(hash, |entry| &*entry.filter == filter).ok()?.remove();
        if is_mostly_empty(self.exact.len(), self.exact.num_buckets()) {
            self.exact.shrink_to(self.exact.len() * 2, |entry| self.hasher.hash_one(&*entry.filter));
        }
        Some(removed.value)
    }

    /// Visits the value of each filter that matches a topic name, each once, in no particular order.
    pub fn for_each_match<'t>(&'t self, name: &str, mut visit: impl FnMut(&'t V)) {
        if let Some(value) = self.exact_value(name) {
            visit(value);
        }
        self.wildcard.for_each_match(name, visit);
    }

    /// All filters with their values, in no particular order. The texts are put together on the way: this is for people.
    pub fn iter(&self) -> impl Iterator<Item = (String, &V)> {
        self.exact.iter().map(|entry| (entry.filter.to_string(), &entry.value)).chain(self.wildcard.iter())
    }

    #[cfg(test)]
    fn check_invariants(&self) {
        self.wildcard.check_invariants();
        assert!(!is_mostly_empty(self.exact.len() * 3, self.exact.num_buckets()));
    }

    fn exact_value(&self, filter: &str) -> Option<&V> {
        if self.exact.is_empty() {
            return None;
        }
        let hash = self.hasher.hash_one(filter);
        self.exact.find(hash, |entry| &*entry.filter == filter).map(|entry| &entry.value)
    }
}

impl<V> Default for FilterTree<V> {
    fn default() -> Self {
        Self::new()
    }
}

fn has_wildcard(filter: &str) -> bool {
    filter.contains(['+', '#'])
}

/// Whether so little of a table is used that it should shrink: rarely enough that removals pay for it.
fn is_mostly_empty(used: usize, room: usize) -> bool {
    room > 64 && used < room / 4
}
