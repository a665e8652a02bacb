//! Nodes that have applied equally much have equal states, also after a restart and after a snapshot.

use std::collections::BTreeMap;

use flotilla_state::{ClusterState, LogIndex};
use parking_lot::Mutex;
use xxhash_rust::xxh3::Xxh3;

use super::Violation;

/// A hash of the state at each index that any node has applied.
#[derive(Default)]
pub struct States(Mutex<BTreeMap<LogIndex, u64>>);

impl States {
    /// A node has this state now.
    pub fn check(&self, name: &str, state: &ClusterState) -> Result<(), Violation> {
        let mut hash = Xxh3::new();
        state.snapshot().for_each(|chunk| hash.update(&chunk));
        let (index, hash) = (state.applied(), hash.digest());
        match *self.0.lock().entry(index).or_insert(hash) {
            first if first != hash => {
                Err(format!("{name} has another state at {index:?} than the first to reach it"))
            }
            _ => Ok(()),
        }
    }

    /// How many different entries were applied.
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }
}
