//! The index from topic names to the filters that match them.

mod chunks;
mod exact;
mod id_table;
mod label;
#[cfg(test)]
mod tests;
mod trie;

use exact::ExactFilters;
use trie::Trie;

/// Maps filters (without share prefix) to values, and finds all filters that match a topic name.
///
/// Filters without wildcards are in one hash map: any number of them costs a match one look-up. Filters with wildcards
/// are in a trie, of which a match visits only the nodes whose path from the root matches the beginning of the name: its
/// cost does not depend on how many other filters there are. Nothing recurses, and a match of a name allocates nothing
/// unless a path of more than a dozen open `+` branches exists.
///
/// What is removed is freed, nodes included, and tables shrink with what they hold. Nothing grows by copying itself: an
/// insertion is quick also when it is the millionth.
///
/// Hashes are keyed at random against clients that choose colliding topics. No result depends on them, nor does any order.
#[derive(Debug)]
pub struct FilterTree<V> {
    exact: ExactFilters<V>,
    wildcard: Trie<V>,
}

impl<V> FilterTree<V> {
    /// A map without filters.
    pub fn new() -> Self {
        Self { exact: ExactFilters::new(), wildcard: Trie::new() }
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
        if has_wildcard(filter) { self.wildcard.entry(filter) } else { self.exact.entry(filter) }
    }

    /// The value of a filter: of exactly this text, whatever it matches.
    pub fn value(&self, filter: &str) -> Option<&V> {
        if has_wildcard(filter) { self.wildcard.value(filter) } else { self.exact.value(filter) }
    }

    /// The value of a filter, to be changed.
    pub fn value_mut(&mut self, filter: &str) -> Option<&mut V> {
        if has_wildcard(filter) { self.wildcard.value_mut(filter) } else { self.exact.value_mut(filter) }
    }

    /// Removes a filter and returns its value.
    pub fn remove(&mut self, filter: &str) -> Option<V> {
        if has_wildcard(filter) { self.wildcard.remove(filter) } else { self.exact.remove(filter) }
    }

    /// Visits the value of each filter that matches a topic name, each once, in no particular order.
    pub fn for_each_match<'t>(&'t self, name: &str, mut visit: impl FnMut(&'t V)) {
        self.exact.value(name).into_iter().for_each(&mut visit);
        self.wildcard.for_each_match(name, visit);
    }

    /// All filters with their values, in no particular order. The texts are put together on the way: this is for people.
    pub fn iter(&self) -> impl Iterator<Item = (String, &V)> {
        self.exact.iter().map(|(filter, value)| (filter.to_owned(), value)).chain(self.wildcard.iter())
    }

    /// All values, in no particular order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.exact.values().chain(self.wildcard.values())
    }

    #[cfg(test)]
    fn check_invariants(&self) {
        self.exact.check_invariants();
        self.wildcard.check_invariants();
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
