//! Wills that shards have published, each until all who must keep it do.
//!
//! A shard asks for the same will again when another node leads it, and when this node begins a life: what was on its way may have been
//! lost. What answers an earlier attempt says nothing of the last one.

use std::{collections::HashMap, sync::Arc};

use flotilla_lane::Origin;
use flotilla_mqtt::Message;
use flotilla_shard::WillId;
use flotilla_state::ShardId;

use super::{Worker, delivery::Reach};
use crate::{
    cluster::{Awaited, Completion},
    router::SessionRef,
};

/// The wills that are on their way.
#[derive(Debug, Default)]
pub(super) struct Wills {
    on_their_way: HashMap<(ShardId, WillId), Attempt>,
    attempts: u32,
}

/// The last attempt to publish a will.
#[derive(Debug)]
struct Attempt {
    number: u32,
    /// How many have not said yet that they keep it.
    awaited: u32,
}

impl Wills {
    /// Names the next attempt.
    fn next_attempt(&mut self) -> u32 {
        self.attempts = self.attempts.wrapping_add(1);
        self.attempts
    }

    /// So many will say that they keep the will; returns whether it is done already.
    fn begin(&mut self, will: (ShardId, WillId), number: u32, awaited: u32) -> bool {
        if awaited == 0 {
            self.on_their_way.remove(&will);
        } else {
            self.on_their_way.insert(will, Attempt { number, awaited });
        }
        awaited == 0
    }

    /// One more keeps the will; returns whether all do who must.
    fn note_kept(&mut self, will: (ShardId, WillId), number: u32) -> bool {
        let Some(attempt) = self.on_their_way.get_mut(&will).filter(|attempt| attempt.number == number)
        else {
            return false;
        };
        attempt.awaited -= 1;
        let is_done = attempt.awaited == 0;
        if is_done {
            self.on_their_way.remove(&will);
        }
        is_done
    }

    /// This node's life has ended: nobody answers any more.
    pub(super) fn clear(&mut self) {
        self.on_their_way.clear();
    }
}

impl Worker {
    /// Publishes a will that a shard has asked for.
    pub(super) fn publish_shard_will(&mut self, origin: Origin, message: &Arc<Message>) {
        let (shard, id) = (origin.shard, WillId(origin.number));
        let attempt = self.wills.next_attempt();
        let who = Completion {
            session: SessionRef { worker: self.id, slot: u32::MAX, epoch: 0 },
            what: Awaited::Will { shard, id, attempt },
        };
        let awaited = self.publish_kept_message(message, Reach::Cluster, Some(who), Some(origin));
        self.hand_over();
        if self.wills.begin((shard, id), attempt, awaited) {
            self.will_done(shard, id);
        }
    }

    /// One of those who must keep a will does.
    pub(super) fn will_kept(&mut self, shard: ShardId, id: WillId, attempt: u32) {
        if self.wills.note_kept((shard, id), attempt) {
            self.will_done(shard, id);
        }
    }

    fn will_done(&self, shard: ShardId, id: WillId) {
        if let Some(shards) = self.node.cluster.shards() {
            shards.will_done(shard, id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WILL: (ShardId, WillId) = (ShardId(1), WillId(7));

    #[test]
    fn a_will_is_done_when_all_keep_its_last_attempt() {
        let mut wills = Wills::default();
        let first = wills.next_attempt();
        assert!(!wills.begin(WILL, first, 3));
        assert!(!wills.note_kept(WILL, first));
        // Two of the first attempt are yet to come.
        let second = wills.next_attempt();
        assert!(!wills.begin(WILL, second, 2));
        assert!(!wills.note_kept(WILL, first) && !wills.note_kept(WILL, first));
        assert!(!wills.note_kept(WILL, second));
        assert!(wills.note_kept(WILL, second));
        assert!(!wills.note_kept(WILL, second), "it is done once");
    }

    #[test]
    fn nothing_is_left_of_attempts_that_nobody_answers() {
        let mut wills = Wills::default();
        for awaited in [2, 3, 0] {
            let number = wills.next_attempt();
            assert_eq!(wills.begin(WILL, number, awaited), awaited == 0);
        }
        assert!(wills.on_their_way.is_empty());
        let number = wills.next_attempt();
        wills.begin(WILL, number, 1);
        wills.clear();
        assert!(!wills.note_kept(WILL, number) && wills.on_their_way.is_empty());
    }
}
