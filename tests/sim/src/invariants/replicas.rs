//! Replicas of a shard that have applied equally much have equal states, also after a restart, a snapshot, or a move.

use std::collections::BTreeMap;

use flotilla_shard::Shard;
use flotilla_state::ShardId;
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use super::Violation;

/// The states that were seen, by shard and index.
#[derive(Default)]
pub struct Replicas(Mutex<BTreeMap<(ShardId, u64), Seen>>);

struct Seen {
    by: String,
    hash: u64,
    /// While it is one of the last that were seen: to say what is different.
    lines: Vec<String>,
}

impl Replicas {
    /// A node has a shard in this state now.
    pub fn check(&self, name: &str, shard: &Shard) -> Result<(), Violation> {
        let (id, index) = (shard.id(), shard.applied());
        if index == 0 {
            return Ok(());
        }
        let lines = shard
            .describe()
            .map_err(|error| format!("{name} cannot read its state of shard {}: {error}", id.0))?;
        let hash = xxh3_64(lines.join("\n").as_bytes());
        let mut states = self.0.lock();
        let Some(first) = states.get(&(id, index)) else {
            states.insert((id, index), Seen { by: name.to_owned(), hash, lines });
            if let Some(old) = index.checked_sub(KEPT)
                && let Some((_, seen)) = states.range_mut((id, 0)..=(id, old)).next_back()
            {
                seen.lines = Vec::new();
            }
            return Ok(());
        };
        if first.hash == hash {
            return Ok(());
        }
        let mut pairs = first.lines.iter().zip(&lines);
        let different = pairs.find(|(left, right)| left != right);
        Err(format!(
            "{name} has another state of shard {} at {index} than {}, with {} and {} lines: {different:#?}",
            id.0,
            first.by,
            lines.len(),
            first.lines.len()
        ))
    }

    /// How many states were compared.
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }
}

/// The words of so many entries are kept.
const KEPT: u64 = 400;
