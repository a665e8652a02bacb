//! When too much waits for a peer.

/// Counts what waits, and says when it is too much: above `high` until it is below `low` again, so that it does not change
/// with every batch.
#[derive(Debug, Clone)]
pub struct Congestion {
    bytes: usize,
    high: usize,
    low: usize,
    is_congested: bool,
}

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// It has become too much.
    Congested,
    /// It is no longer too much.
    Decongested,
}

impl Congestion {
    /// More than `high_bytes` are too much until fewer than half of them are left.
    #[must_use]
    pub const fn new(high_bytes: usize) -> Self {
        Self { bytes: 0, high: high_bytes, low: high_bytes / 2, is_congested: false }
    }

    /// So many more bytes wait.
    pub fn add(&mut self, bytes: usize) -> Change {
        self.bytes += bytes;
        if self.is_congested || self.bytes <= self.high {
            return Change::None;
        }
        self.is_congested = true;
        Change::Congested
    }

    /// So many of them do no longer.
    ///
    /// # Panics
    /// They had not been added.
    pub fn remove(&mut self, bytes: usize) -> Change {
        self.bytes = self.bytes.checked_sub(bytes).expect("what is removed has been added");
        if !self.is_congested || self.bytes > self.low {
            return Change::None;
        }
        self.is_congested = false;
        Change::Decongested
    }

    /// How many wait.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it is too much.
    #[must_use]
    pub const fn is_congested(&self) -> bool {
        self.is_congested
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_does_not_flap() {
        let mut congestion = Congestion::new(100);
        assert_eq!(congestion.add(100), Change::None);
        assert_eq!(congestion.add(1), Change::Congested);
        assert_eq!(congestion.add(50), Change::None);
        assert_eq!(congestion.remove(100), Change::None);
        assert!(congestion.is_congested());
        assert_eq!(congestion.remove(1), Change::Decongested);
        assert_eq!(congestion.add(50), Change::None);
        assert!(!congestion.is_congested());
        assert_eq!(congestion.bytes(), 100);
    }
}
