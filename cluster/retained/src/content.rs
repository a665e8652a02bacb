//! A node's copy of all retained messages, and what it takes to compare it with another node's.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use flotilla_mqtt::{Message, Timestamp};
use flotilla_state::{ShardEpoch, ShardId};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::store::{Limits, Store, deletes};

/// Which shard a topic belongs to; the same on every node.
pub type ShardOf = Arc<dyn Fn(&str) -> ShardId + Send + Sync>;

/// The place of a change in the order of its shard; it belongs to no other change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    /// The term of office of the registrar that gave it out.
    pub(crate) epoch: ShardEpoch,
    /// Its number within the term, from 1.
    pub(crate) sequence: u64,
}

/// What becomes of a topic.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// It has this message, whose payload is not empty.
    Set(Arc<Message>),
    /// It has none.
    Delete(Box<str>),
}

impl Change {
    /// What a message with the RETAIN flag means: one with an empty payload deletes [MQTT-3.3.1-6].
    pub(crate) fn of(message: &Arc<Message>, now: Timestamp) -> Self {
        if deletes(message, now) {
            return Self::Delete(message.topic.clone());
        }
        Self::Set(Arc::clone(message))
    }

    pub(crate) fn topic(&self) -> &str {
        match self {
            Self::Set(message) => &message.topic,
            Self::Delete(topic) => topic,
        }
    }
}

/// A message with its version.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) version: Version,
    pub(crate) message: Arc<Message>,
}

/// All messages by topic, and those that are the same on every node once more by shard.
pub(crate) struct Content {
    pub(crate) store: Store,
    shards: Vec<Index>,
    shard_of: ShardOf,
}

impl Content {
    pub(crate) fn new(shards: u16, shard_of: ShardOf, limits: Limits) -> Self {
        let shards = (0..shards).map(|_| Index::default()).collect();
        Self { store: Store::new(limits), shards, shard_of }
    }

    pub(crate) fn shard_of(&self, topic: &str) -> ShardId {
        (self.shard_of)(topic)
    }

    pub(crate) fn index(&self, shard: ShardId) -> &Index {
        &self.shards[usize::from(shard.0)]
    }

    /// Applies a change of `shard`, to which its topic belongs.
    pub(crate) fn apply(&mut self, shard: ShardId, version: Version, change: &Change) {
        let index = &mut self.shards[usize::from(shard.0)];
        match change {
            Change::Set(message) => {
                self.store.put(message);
                index.insert(message, version);
            }
            Change::Delete(topic) => {
                self.store.remove(topic);
                index.remove(topic);
            }
        }
    }

    /// Keeps or deletes a message that is this node's alone.
    pub(crate) fn set_local(&mut self, message: &Arc<Message>, now: Timestamp) {
        let change = Change::of(message, now);
        let shard = self.shard_of(change.topic());
        self.shards[usize::from(shard.0)].remove(change.topic()); // It is none of the others any more.
        match change {
            Change::Set(message) => drop(self.store.put(&message)),
            Change::Delete(topic) => drop(self.store.remove(&topic)),
        }
    }

    /// Removes what has expired, a bounded number of messages at a time; returns how many went.
    pub(crate) fn expire(&mut self, now: Timestamp) -> usize {
        let (shards, shard_of) = (&mut self.shards, &self.shard_of);
        self.store.expire(now, |message| {
            shards[usize::from(shard_of(&message.topic).0)].remove(&message.topic);
        })
    }

    /// Makes a stretch of a shard what the registrar says.
    ///
    /// The stretch are the buckets `differing` after `from`, up to `next` or the end. `entries` are in order.
    ///
    /// # Errors
    /// An entry is not in the stretch, or not of this shard.
    pub(crate) fn replace(
        &mut self,
        shard: ShardId,
        differing: &Buckets,
        from: &Position,
        entries: &[Entry],
        next: Option<&Position>,
    ) -> Result<(), Misplaced> {
        let mut before = from.clone();
        for entry in entries {
            let place = Position::of(&entry.message.topic);
            let is_next = place > before && differing.contains(place.bucket);
            if !is_next || self.shard_of(&entry.message.topic) != shard {
                return Err(Misplaced);
            }
            before = place;
        }
        if next.is_some_and(|next| *next < before || *next <= *from) {
            return Err(Misplaced);
        }
        let named: BTreeSet<&str> = entries.iter().map(|entry| &*entry.message.topic).collect();
        let index = self.index(shard);
        let gone: Vec<Box<str>> = index
            .stretch(differing, from, next)
            .filter(|(topic, _)| !named.contains(topic.0.topic.as_ref()))
            .map(|(topic, _)| topic.0.topic.clone())
            .collect();
        for topic in gone {
            self.store.remove(&topic);
            self.shards[usize::from(shard.0)].remove(&topic);
        }
        for entry in entries {
            if self.index(shard).version(&entry.message.topic) != Some(entry.version) {
                self.apply(shard, entry.version, &Change::Set(Arc::clone(&entry.message)));
            }
        }
        Ok(())
    }

    pub(crate) fn check_invariants(&self) {
        let indexed: usize = self.shards.iter().map(Index::len).sum();
        assert!(indexed <= self.store.len(), "what has a version is kept");
        if self.store.len() > CHECKED_MAX {
            return;
        }
        for (shard, index) in (0..).zip(&self.shards) {
            for (&bucket, Bucket { digest, topics }) in &index.buckets {
                assert!(!topics.is_empty(), "empty buckets are removed");
                let sum = topics.iter().map(|(topic, version)| digest_of(&topic.0.topic, *version));
                assert_eq!(*digest, sum.fold(0, u64::wrapping_add), "digest");
                for ByTopic(message) in topics.keys() {
                    assert_eq!(
                        (self.shard_of(&message.topic), bucket_of(&message.topic)),
                        (ShardId(shard), bucket)
                    );
                    let kept = self.store.message(&message.topic);
                    assert!(kept.is_some_and(|kept| Arc::ptr_eq(kept, message)), "{} is kept", message.topic);
                }
            }
        }
    }
}

/// An entry of another shard, another bucket or out of order.
#[derive(Debug)]
pub(crate) struct Misplaced;

/// The topics of one shard and their versions, in buckets that can be compared by a sum.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Those that are not empty.
    buckets: BTreeMap<u8, Bucket>,
}

#[derive(Debug, Default)]
struct Bucket {
    /// The sum of the digests of its entries.
    digest: u64,
    topics: BTreeMap<ByTopic, Version>,
}

impl Index {
    fn insert(&mut self, message: &Arc<Message>, version: Version) {
        self.remove(&message.topic);
        let bucket = self.buckets.entry(bucket_of(&message.topic)).or_default();
        bucket.digest = bucket.digest.wrapping_add(digest_of(&message.topic, version));
        bucket.topics.insert(ByTopic(Arc::clone(message)), version);
    }

    fn remove(&mut self, topic: &str) {
        let place = bucket_of(topic);
        let Some(bucket) = self.buckets.get_mut(&place) else { return };
        let Some(version) = bucket.topics.remove(topic) else { return };
        bucket.digest = bucket.digest.wrapping_sub(digest_of(topic, version));
        if bucket.topics.is_empty() {
            self.buckets.remove(&place);
        }
    }

    fn version(&self, topic: &str) -> Option<Version> {
        self.buckets.get(&bucket_of(topic))?.topics.get(topic).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.buckets.values().map(|bucket| bucket.topics.len()).sum()
    }

    /// The digest of every bucket; 0 for an empty one.
    pub(crate) fn digests(&self) -> Box<[u64; BUCKETS]> {
        let mut digests = Box::new([0; BUCKETS]);
        for (&place, bucket) in &self.buckets {
            digests[usize::from(place)] = bucket.digest;
        }
        digests
    }

    /// The buckets that have other entries elsewhere.
    pub(crate) fn differing(&self, elsewhere: &[u64; BUCKETS]) -> Buckets {
        let here = self.digests();
        let mut differing = Buckets::default();
        for place in 0..=u8::MAX {
            if here[usize::from(place)] != elsewhere[usize::from(place)] {
                differing.insert(place);
            }
        }
        differing
    }

    /// The entries of some buckets after `from`, as far as one page goes, and where the next page starts.
    pub(crate) fn page(&self, differing: &Buckets, from: &Position) -> (Vec<Entry>, Option<Position>) {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for (topic, &version) in self.stretch(differing, from, None) {
            if entries.len() >= PAGE_ENTRIES || bytes >= PAGE_BYTES {
                let last: Option<&Entry> = entries.last();
                return (entries.clone(), last.map(|last| Position::of(&last.message.topic)));
            }
            bytes += topic.0.size();
            entries.push(Entry { version, message: Arc::clone(&topic.0) });
        }
        (entries, None)
    }

    /// The entries of some buckets after `from`, up to and with `upto`.
    fn stretch<'a>(
        &'a self,
        differing: &'a Buckets,
        from: &'a Position,
        upto: Option<&'a Position>,
    ) -> impl Iterator<Item = (&'a ByTopic, &'a Version)> {
        let last = upto.map_or(u8::MAX, |upto| upto.bucket);
        let buckets = self.buckets.range(from.bucket..=last.max(from.bucket));
        buckets.filter(|(place, _)| differing.contains(**place)).flat_map(move |(&place, bucket)| {
            let after = from.after.as_deref().filter(|_| place == from.bucket);
            let upto = upto.filter(|upto| place == upto.bucket).and_then(|upto| upto.after.as_deref());
            let start = after.map_or(Bound::Unbounded, Bound::Excluded);
            bucket
                .topics
                .range::<str, _>((start, Bound::Unbounded))
                .take_while(move |(topic, _)| upto.is_none_or(|upto| *topic.0.topic <= *upto))
        })
    }
}

/// A place in the order of buckets and topics: after a topic, or before all of the bucket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Position {
    pub(crate) bucket: u8,
    pub(crate) after: Option<Box<str>>,
}

impl Position {
    fn of(topic: &str) -> Self {
        Self { bucket: bucket_of(topic), after: Some(topic.into()) }
    }
}

/// A set of buckets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Buckets(pub(crate) [u64; BUCKETS / 64]);

impl Buckets {
    fn insert(&mut self, bucket: u8) {
        self.0[usize::from(bucket >> 6)] |= 1 << (bucket & 63);
    }

    pub(crate) fn contains(&self, bucket: u8) -> bool {
        self.0[usize::from(bucket >> 6)] & 1 << (bucket & 63) != 0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

/// A message that is ordered by its topic, and found by it.
#[derive(Debug)]
struct ByTopic(Arc<Message>);

impl Borrow<str> for ByTopic {
    fn borrow(&self) -> &str {
        &self.0.topic
    }
}

impl PartialEq for ByTopic {
    fn eq(&self, other: &Self) -> bool {
        self.0.topic == other.0.topic
    }
}

impl Eq for ByTopic {}

impl PartialOrd for ByTopic {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByTopic {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.topic.cmp(&other.0.topic)
    }
}

/// The bucket of a topic; independent of its shard.
fn bucket_of(topic: &str) -> u8 {
    xxh3_64_with_seed(topic.as_bytes(), BUCKET_SEED).to_le_bytes()[0]
}

/// What a topic adds to the digest of its bucket. A version belongs to one message, so that the message need not be
/// looked at.
fn digest_of(topic: &str, version: Version) -> u64 {
    let seed = version.epoch.0.wrapping_mul(EPOCH_FACTOR).wrapping_add(version.sequence);
    xxh3_64_with_seed(topic.as_bytes(), seed)
}

/// The buckets of a shard. Part of the protocol between nodes, as are the two numbers below.
pub(crate) const BUCKETS: usize = 256;
const BUCKET_SEED: u64 = 0xB0C4_E75E;
/// Odd, so that it loses nothing of the epoch.
const EPOCH_FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
/// Entries in one page. One in tests, so that there are many pages.
const PAGE_ENTRIES: usize = if cfg!(test) { 1 } else { 512 };
/// A page that has reached this many bytes of messages is full.
const PAGE_BYTES: usize = 128 << 10;
/// Larger stores are not looked through after each change: a debug build would do little else.
const CHECKED_MAX: usize = 64;
