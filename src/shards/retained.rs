//! Looking up retained messages in the shards that keep them.
//!
//! A node asks the leader of a shard, which answers with a page. What the node itself has put into the line to that shard before
//! is done by then, so whoever publishes and subscribes here finds what it has published. Few look-ups of a line are on their way
//! at a time, for each may bring a page; the others wait for their turn. A new leader is asked again.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use flotilla_mqtt::{Message, Timestamp, session::ClientId};
use flotilla_shard::{Shard, StoredMessage};
use flotilla_state::ShardId;

use super::Shards;
use crate::{config, router::SessionRef};

/// What a node wants to know of the leader of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LookUp {
    /// Unique among those of its line.
    pub(super) id: u64,
    /// Without a share prefix.
    pub(super) filter: Arc<str>,
    /// The topic behind which the page begins.
    pub(super) after: Option<String>,
}

/// What a look-up has found.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Page {
    /// Of the look-up.
    pub(crate) id: u64,
    /// The time of the shard at which they were found, in milliseconds since the epoch.
    pub(super) now: u64,
    pub(super) messages: Vec<StoredMessage>,
    /// The topic behind which the next page begins; `None`: there is nothing more.
    pub(crate) next: Option<String>,
}

/// The look-ups of a line that are not answered.
#[derive(Debug, Default)]
pub(super) struct LookUps {
    last_id: u64,
    /// Each with who waits for it, if anybody still does.
    asked: BTreeMap<u64, (LookUp, Option<SessionRef>)>,
    /// Each with how many ops have to be done before it.
    waiting: BTreeMap<u64, (LookUp, SessionRef, u64)>,
}

/// Messages of one page, and their bytes; one more may be longer.
pub(super) const PAGE_COUNT: usize = 64;
pub(super) const PAGE_BYTES: usize = 64 << 10;
/// Look-ups of one line on their way at a time.
const ASKED_MAX: usize = 32;

impl Page {
    /// The messages, as they go on where it is `now`.
    pub(crate) fn messages(&self, now: Timestamp) -> impl Iterator<Item = Arc<Message>> {
        self.messages.iter().map(move |message| {
            let left = message.expires_at().map(|at| Duration::from_millis(at.saturating_sub(self.now)));
            let publisher = message.publisher().and_then(ClientId::new);
            message.transit(left.map(|left| now + left), publisher.as_ref()).keep()
        })
    }
}

#[cfg(test)]
impl Page {
    /// A page with a message of one byte for each topic, at which nothing expires.
    pub(crate) fn of(id: u64, topics: &[&str], next: Option<&str>) -> Self {
        let message = |topic: &&str| {
            let len = u8::try_from(topic.len()).expect("a short topic");
            let bytes = [&[1, len], topic.as_bytes(), b"\0x"].concat();
            StoredMessage::read(bytes.into()).expect("valid")
        };
        let messages = topics.iter().map(message).collect();
        Self { id, now: 0, messages, next: next.map(ToOwned::to_owned) }
    }
}

impl LookUps {
    /// Wants something looked up when so many ops are done; returns its name.
    pub(super) fn put(
        &mut self,
        after_ops: u64,
        filter: Arc<str>,
        after: Option<String>,
        who: SessionRef,
    ) -> u64 {
        self.last_id += 1;
        let look_up = LookUp { id: self.last_id, filter, after };
        self.waiting.insert(self.last_id, (look_up, who, after_ops));
        self.last_id
    }

    /// The next one that may be asked when so many ops are done; it counts as asked.
    pub(super) fn next(&mut self, ops_done: u64) -> Option<LookUp> {
        if self.asked.len() >= ASKED_MAX {
            return None;
        }
        let (id, (look_up, who, _)) = {
            let first = self.waiting.first_entry().filter(|first| first.get().2 <= ops_done)?;
            first.remove_entry()
        };
        self.asked.insert(id, (look_up.clone(), Some(who)));
        Some(look_up)
    }

    /// Those that are asked, to be asked again.
    pub(super) fn asked(&self) -> impl Iterator<Item = &LookUp> {
        self.asked.values().map(|(look_up, _)| look_up)
    }

    /// One is answered; returns whether it was asked, and who waits for it.
    pub(super) fn answered(&mut self, id: u64) -> Option<Option<SessionRef>> {
        self.asked.remove(&id).map(|(_, who)| who)
    }

    /// Nobody waits for one any more. If it is asked, it keeps its place until it is answered: the leader has it.
    pub(super) fn forget(&mut self, id: u64) {
        self.waiting.remove(&id);
        if let Some((_, who)) = self.asked.get_mut(&id) {
            *who = None;
        }
    }

    /// Nobody waits any more.
    pub(super) fn clear(&mut self) {
        *self = Self { last_id: self.last_id, ..Self::default() };
    }
}

/// How much a replica has, for those who do not hold its lock.
#[derive(Debug, Default)]
pub(super) struct Usage {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Usage {
    pub(super) fn note(&self, shard: &Shard) {
        let stats = shard.stats();
        self.messages.store(stats.retained_messages, Ordering::Relaxed);
        self.bytes.store(stats.retained_bytes, Ordering::Relaxed);
    }

    pub(super) fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Shards {
    /// Looks up what a shard has for a filter behind a topic. `who` gets the page, or is disconnected with this node's life.
    /// Returns the name of the look-up in this shard.
    pub(crate) fn look_up(
        &self,
        shard: ShardId,
        filter: Arc<str>,
        after: Option<String>,
        who: SessionRef,
    ) -> Option<u64> {
        self.line(shard)?.look_up(filter, after, who, |outgoing| self.send_all(outgoing))
    }

    /// Nobody waits for a look-up any more.
    pub(crate) fn forget_look_up(&self, shard: ShardId, id: u64) {
        if let Some(line) = self.line(shard) {
            line.forget_look_up(id, |outgoing| self.send_all(outgoing));
        }
    }

    /// Whether there are as many retained messages in the cluster as there may be, as far as this node can tell: it knows those
    /// of the shards that it has replicas of, and takes the others for no different.
    pub(crate) fn are_retained_full(&self) -> bool {
        let (Some(node), Some(lines)) = (self.node.get(), self.lines()) else { return false };
        let config::Retained { messages_max, bytes_max } = node.config.retained;
        if messages_max.is_none() && bytes_max.is_none() {
            return false;
        }
        let replicas = self.replicas.read();
        let (mut messages, mut bytes) = (0_u64, 0_u64);
        for replica in replicas.values() {
            messages += replica.state.retained.messages();
            bytes += replica.state.retained.bytes();
        }
        let held = (replicas.len() as u64).max(1);
        let whole = |held_here: u64| held_here.saturating_mul(lines.lines.len() as u64) / held;
        messages_max.is_some_and(|max| whole(messages) >= max as u64)
            || bytes_max.is_some_and(|max| whole(bytes) >= max)
    }

    /// Whether a message may be retained, as far as this node can tell: there is room, or it takes no more than what its topic has.
    pub(crate) fn may_retain(&self, topic: &str, size: usize) -> bool {
        if !self.are_retained_full() {
            return true;
        }
        let Some(shard) = self.shard_of(topic.as_bytes()) else { return true };
        // Without a replica here its leader decides.
        let Some(replica) = self.replica(shard) else { return true };
        // A worker does not wait for a replica that is busy; its leader decides then.
        let Some(shard) = replica.state.shard.try_lock() else { return true };
        shard.retained_size(topic).is_some_and(|known| size <= known)
    }

    /// How many messages the shards retain that this node leads.
    pub(crate) fn retained_led(&self) -> u64 {
        let me = self.node().0;
        // A line may ask for the replicas, so it is not asked while they are locked.
        let led = self.ids().into_iter().filter(|id| self.leader(*id).is_some_and(|(node, _)| node == me));
        led.filter_map(|id| self.replica(id)).map(|replica| replica.state.retained.messages()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: SessionRef = SessionRef { worker: 0, slot: 1, epoch: 2 };

    fn put(look_ups: &mut LookUps, after_ops: u64) {
        look_ups.put(after_ops, "a".into(), None, WHO);
    }

    #[test]
    fn a_look_up_waits_for_what_was_put_before_it() {
        let mut look_ups = LookUps::default();
        for after_ops in [0, 3, 3, 4] {
            put(&mut look_ups, after_ops);
        }
        let mut next = |ops_done| look_ups.next(ops_done).map(|look_up| look_up.id);
        assert_eq!([next(2), next(2)], [Some(1), None]);
        assert_eq!([next(3), next(3), next(3)], [Some(2), Some(3), None]);
        assert_eq!(look_ups.answered(2), Some(Some(WHO)));
        assert_eq!(look_ups.answered(2), None);
        assert_eq!(look_ups.asked().map(|look_up| look_up.id).collect::<Vec<_>>(), [1, 3]);
        look_ups.forget(4);
        assert_eq!(look_ups.answered(4), None);
        look_ups.forget(3);
        assert_eq!(look_ups.asked().count(), 2, "the leader has it");
        assert_eq!(look_ups.answered(3), Some(None));
        assert_eq!(look_ups.next(9), None);
        look_ups.clear();
        assert_eq!(look_ups.answered(1), None);
        put(&mut look_ups, 0);
        assert_eq!(look_ups.next(0).map(|look_up| look_up.id), Some(5), "no name is used again");
    }

    #[test]
    fn few_are_on_their_way_at_a_time() {
        let mut look_ups = LookUps::default();
        (0..=ASKED_MAX).for_each(|_| put(&mut look_ups, 0));
        assert_eq!(std::iter::from_fn(|| look_ups.next(0)).count(), ASKED_MAX);
        look_ups.answered(7);
        assert_eq!(look_ups.next(0).map(|look_up| look_up.id), Some(ASKED_MAX as u64 + 1));
    }
}
