//! A vector that grows and shrinks without moving what it holds.

use std::ops::{Index, IndexMut};

/// Like a `Vec`, in pieces: a push never copies more than a piece, and there is never room for much more than it holds.
/// With millions of elements a `Vec` would stop everything for as long as it takes to copy them.
#[derive(Debug)]
pub(super) struct Chunks<T> {
    /// All but the last one are full, and the last one is not empty.
    chunks: Vec<Vec<T>>,
}

const CHUNK_LEN: usize = 512;

impl<T> Chunks<T> {
    pub(super) fn new() -> Self {
        Self { chunks: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        match self.chunks.as_slice() {
            [] => 0,
            [full @ .., last] => full.len() * CHUNK_LEN + last.len(),
        }
    }

    /// Appends an element; its index is the length so far.
    pub(super) fn push(&mut self, element: T) {
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK_LEN => last.push(element),
            _ => self.chunks.push(vec![element]),
        }
    }

    /// Removes an element; the last one takes its place.
    ///
    /// # Panics
    /// There is no such element.
    pub(super) fn swap_remove(&mut self, index: usize) -> T {
        let last_chunk = self.chunks.last_mut().expect("the index is within the elements");
        let last = last_chunk.pop().expect("the last chunk is not empty");
        if last_chunk.is_empty() {
            self.chunks.pop();
            if self.chunks.len() < self.chunks.capacity() / 4 {
                self.chunks.shrink_to(self.chunks.len() * 2);
            }
        }
        if index == self.len() { last } else { std::mem::replace(&mut self[index], last) }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }
}

impl<T> IntoIterator for Chunks<T> {
    type Item = T;
    type IntoIter = std::iter::Flatten<std::vec::IntoIter<Vec<T>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.chunks.into_iter().flatten()
    }
}

impl<T> Index<usize> for Chunks<T> {
    type Output = T;

    fn index(&self, index: usize) -> &T {
        &self.chunks[index / CHUNK_LEN][index % CHUNK_LEN]
    }
}

impl<T> IndexMut<usize> for Chunks<T> {
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.chunks[index / CHUNK_LEN][index % CHUNK_LEN]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_like_a_vector() {
        let mut chunks = Chunks::new();
        let mut vec = Vec::new();
        for number in 0..2 * CHUNK_LEN + 3 {
            assert_eq!(chunks.len(), vec.len());
            chunks.push(number);
            vec.push(number);
        }
        let mut index = 5;
        while !vec.is_empty() {
            index = (index * 31 + 7) % vec.len();
            assert_eq!(chunks.swap_remove(index), vec.swap_remove(index));
            assert_eq!(chunks.len(), vec.len());
            if vec.len() % 100 == 0 {
                assert!(chunks.iter().eq(&vec));
            }
        }
        assert!(chunks.chunks.is_empty());
        assert_eq!(chunks.chunks.capacity(), 0);
    }
}
