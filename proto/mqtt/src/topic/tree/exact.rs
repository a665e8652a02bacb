//! The filters without wildcards: a hash map.

use super::{chunks::Chunks, id_table::IdTable};

/// Filters without wildcards and their values.
#[derive(Debug)]
pub(super) struct ExactFilters<V> {
    /// Without gaps.
    entries: Chunks<Entry<V>>,
    /// Indexes of `entries`, by filter.
    table: IdTable<u32>,
}

#[derive(Debug)]
struct Entry<V> {
    filter: Box<str>,
    value: V,
}

impl<V> ExactFilters<V> {
    pub(super) fn new() -> Self {
        Self { entries: Chunks::new(), table: IdTable::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn entry(&mut self, filter: &str) -> &mut V
    where
        V: Default,
    {
        let index = self.find(filter).unwrap_or_else(|| self.insert(filter, V::default()));
        &mut self.entries[index].value
    }

    pub(super) fn value(&self, filter: &str) -> Option<&V> {
        self.find(filter).map(|index| &self.entries[index].value)
    }

    pub(super) fn value_mut(&mut self, filter: &str) -> Option<&mut V> {
        self.find(filter).map(|index| &mut self.entries[index].value)
    }

    pub(super) fn remove(&mut self, filter: &str) -> Option<V> {
        let index = self.find(filter)?;
        self.table.remove(self.table.hash(filter), id(index));
        let removed = self.entries.swap_remove(index);
        let moved_from = self.entries.len();
        if index < moved_from {
            let hash = self.table.hash(&*self.entries[index].filter);
            self.table.replace(hash, id(moved_from), id(index));
        }
        Some(removed.value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &V)> {
        self.entries.iter().map(|entry| (&*entry.filter, &entry.value))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.iter().map(|entry| &entry.value)
    }

    fn insert(&mut self, filter: &str, value: V) -> usize {
        let index = self.entries.len();
        self.table.insert(self.table.hash(filter), id(index));
        self.entries.push(Entry { filter: filter.into(), value });
        index
    }

    fn find(&self, filter: &str) -> Option<usize> {
        if self.len() == 0 {
            return None;
        }
        let is_it = |id| *self.entries[id as usize].filter == *filter;
        self.table.find(self.table.hash(filter), is_it).map(|id| id as usize)
    }
}

fn id(index: usize) -> u32 {
    u32::try_from(index).expect("four thousand million filters do not fit into memory")
}

#[cfg(test)]
impl<V> ExactFilters<V> {
    /// How many filters the table has room for.
    pub(super) fn room(&self) -> usize {
        self.table.room()
    }

    pub(super) fn check_invariants(&self) {
        assert_eq!(self.table.len(), self.entries.len());
        for (index, entry) in self.entries.iter().enumerate() {
            assert_eq!(self.find(&entry.filter), Some(index));
        }
    }
}
