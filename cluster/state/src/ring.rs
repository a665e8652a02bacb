//! Hash rings: which shard a key belongs to, and which nodes a shard prefers.
//!
//! Every node must come to the same answer, also one of another version or architecture: what is put on a ring, and what is
//! looked up, is hashed here, by xxh3, and never through `std::hash`.

use std::{
    collections::BTreeSet,
    fmt,
    hash::{BuildHasher, Hash, Hasher},
};

use hashring::HashRing;
use xxhash_rust::xxh3::xxh3_64;

use crate::{NodeId, ShardId};

/// From client identifiers and topics to shards, for a number of shards. About 32 bytes for each of 256 points a shard: it
/// is built once.
#[derive(Clone)]
pub struct ShardRing(Ring<u16>);

impl ShardRing {
    /// The ring of shards `0..shards`; there is one at least.
    pub fn new(shards: u16) -> Self {
        Self(Ring::new((0..shards.max(1)).map(|shard| (shard, shard.to_le_bytes()))))
    }

    /// The shard that a key belongs to.
    pub fn shard_of(&self, key: &[u8]) -> ShardId {
        // There is a shard, hence a point.
        ShardId(self.0.at(xxh3_64(key)).map_or(0, |point| point.of))
    }
}

impl fmt::Debug for ShardRing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ShardRing").field("points", &self.0.len()).finish()
    }
}

/// From shards to nodes.
pub(crate) struct NodeRing(Ring<NodeId>);

impl NodeRing {
    pub(crate) fn new(nodes: &[NodeId]) -> Self {
        Self(Ring::new(nodes.iter().map(|&node| (node, node.0.to_le_bytes()))))
    }

    /// All nodes, each once, those first that the shard prefers.
    pub(crate) fn preferences(&self, shard: ShardId) -> impl Iterator<Item = NodeId> {
        let mut seen = BTreeSet::new();
        let start = xxh3_64(&[b"shard".as_slice(), &shard.0.to_le_bytes()].concat());
        self.0.walk(start).map(|point| point.of).filter(move |node| seen.insert(*node))
    }
}

/// What is on a ring, at 256 points each.
#[derive(Clone)]
struct Ring<T>(HashRing<Point<T>, AsIs>);

#[derive(Clone, Copy)]
struct Point<T> {
    at: u64,
    of: T,
}

/// With that many points, the shards differ by a fifth in what they get; with one point each, by a factor of four.
const POINTS: u16 = 256;

impl<T: Copy> Ring<T> {
    /// A ring of things with the bytes that stand for them; two points at the same place keep this order.
    fn new<const N: usize>(things: impl Iterator<Item = (T, [u8; N])>) -> Self {
        let mut ring = HashRing::with_hasher(AsIs);
        let points = things.flat_map(|(of, bytes)| {
            (0..POINTS).map(move |number| {
                let at = xxh3_64(&[bytes.as_slice(), &number.to_le_bytes()].concat());
                Point { at, of }
            })
        });
        ring.batch_add(points.collect());
        Self(ring)
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    /// The first point at or behind a place.
    fn at(&self, place: u64) -> Option<Point<T>> {
        self.0.get(&Point { at: place, of: () }).copied()
    }

    /// The points at and behind a place, once around.
    fn walk(&self, start: u64) -> impl Iterator<Item = Point<T>> {
        let mut place = start;
        (0..self.len()).map_while(move |_| {
            let point = self.at(place)?;
            place = point.at.wrapping_add(1);
            Some(point)
        })
    }
}

/// Only the place counts: it is the hash.
impl<T> Hash for Point<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.at);
    }
}

/// Takes the one number that it is given for the hash.
#[derive(Clone, Default)]
struct AsIs;

impl BuildHasher for AsIs {
    type Hasher = TheNumber;

    fn build_hasher(&self) -> TheNumber {
        TheNumber(0)
    }
}

struct TheNumber(u64);

impl Hasher for TheNumber {
    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a point is hashed by its place alone");
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn shards_of_keys_never_change() {
        // A node that came to another shard than the others would ask the wrong registrar.
        let ring = ShardRing::new(16);
        let keys = ["", "a", "sensor-7", "plant/line-4/robot-2", "\u{1F600}"];
        assert_eq!(keys.map(|key| ring.shard_of(key.as_bytes()).0), [10, 8, 5, 0, 15]);
        assert_eq!(ShardRing::new(64).shard_of(b"sensor-7"), ShardId(36));
        assert_eq!(ShardRing::new(1).shard_of(b"sensor-7"), ShardId(0));
    }

    #[test]
    fn keys_are_spread_over_the_shards() {
        for shards in [2, 8, 16, 64] {
            let ring = ShardRing::new(shards);
            let mut counts: BTreeMap<ShardId, u32> = BTreeMap::new();
            for number in 0..2_000 * u32::from(shards) {
                *counts.entry(ring.shard_of(format!("client-{number}").as_bytes())).or_default() += 1;
            }
            assert_eq!(counts.len(), usize::from(shards));
            let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
            assert!(
                *most < 2_600 && *least > 1_400,
                "{shards} shards: {least} to {most} keys, 2000 on average"
            );
        }
    }

    #[test]
    fn a_shard_prefers_each_node_once() {
        let nodes: Vec<_> = (0..7).map(NodeId).collect();
        let ring = NodeRing::new(&nodes);
        for shard in (0..50).map(ShardId) {
            let mut preferred: Vec<_> = ring.preferences(shard).collect();
            // Without its first choice, the rest is the same.
            let others: Vec<_> = nodes.iter().copied().filter(|node| *node != preferred[0]).collect();
            assert!(NodeRing::new(&others).preferences(shard).eq(preferred[1..].iter().copied()));
            preferred.sort_unstable();
            assert_eq!(preferred, nodes);
        }
        assert_eq!(NodeRing::new(&[]).preferences(ShardId(0)).next(), None);
    }
}
