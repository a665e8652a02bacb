//! The replays of one session, without the worker around them.

use std::{
    collections::{HashSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use flotilla_mqtt::{
    Message, PacketId, Timestamp, Transit,
    session::{Limits, Subscription},
};
use flotilla_shard::Seq;
use flotilla_state::ShardId;

use crate::{
    retained::is_own,
    shards::{Page, Shards},
};

/// Retained messages for one new subscription.
#[derive(Debug)]
pub(in crate::worker) struct Replay {
    pub(super) subscription: Subscription,
    /// Where the next page is; `None`: nowhere.
    pub(super) place: Option<Place>,
    /// The SUBSCRIBE that it belongs to.
    pub(super) subscribe: PacketId,
    /// How many messages had passed before that.
    pub(super) passed_before: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Among the messages of the broker itself, behind this topic.
    Own(Option<String>),
    Shard(ShardId, Option<String>),
}

/// The replays of a session, the oldest first.
#[derive(Debug, Default)]
pub(in crate::worker) struct Replays {
    pub(super) replays: VecDeque<Replay>,
    /// What was looked up for the first of them, and neither sent nor asked for.
    pub(super) page: VecDeque<Arc<Message>>,
    /// The look-up that is on its way for it.
    pub(super) asked: Option<u64>,
    /// What the shard of the session was asked to keep, and has not come from there; the oldest first.
    pub(super) directs: VecDeque<Direct>,
    /// The number of the last of them.
    last_direct: u64,
    /// Messages that are to be retained and that the client has got of late.
    pub(super) passed: VecDeque<Passed>,
    /// How many came before these.
    passed_before: u64,
    /// How often the present page was looked up and had something older than these.
    tries: u8,
    /// Whether the session is on a list of those that get more in their turn.
    pub(super) is_listed: bool,
}

/// A retained message on its way through the shard of its session.
#[derive(Debug)]
pub(super) struct Direct {
    number: u64,
    topic: Box<str>,
    size: usize,
    /// As those of its [`Replay`].
    subscribe: PacketId,
    passed_before: u64,
    /// What was left of its Message Expiry Interval.
    expires_in: Option<Duration>,
    /// Where it is in the shard; `None`: that has not said so.
    place: Option<DirectPlace>,
}

#[derive(Debug, Clone, Copy)]
struct DirectPlace {
    seq: Seq,
    /// It is waited for no longer: if it expires before it is sent, it never comes.
    until: Option<Timestamp>,
}

/// How much may be on its way through the shard of a session.
#[derive(Debug, Clone, Copy)]
pub(in crate::worker) struct DirectLimits {
    pub(super) count: usize,
    pub(super) bytes: usize,
}

/// A message that has passed, by hashes of its topic and of what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Passed {
    topic: u64,
    content: u64,
}

/// Replays of one session that may wait; a SUBSCRIBE beyond that gets no retained messages.
const REPLAYS_MAX: usize = 100_000;
/// How many messages are known to have passed: those that come while a change is on its way to its shard.
pub(super) const PASSED_MAX: usize = 1_024;
/// How often a page is looked up that has something older than what has passed. What has passed may never be retained, if its
/// publisher's node has ended or there are too many.
pub(super) const TRIES_MAX: u8 = 16;
/// Messages of a session on their way through its shard, at most.
const DIRECTS_MAX: usize = 64;
/// They take this part of its queue, at most: it is for what is published now.
const DIRECTS_OF_QUEUE: usize = 8;

impl Replay {
    pub(in crate::worker) fn new(
        subscription: Subscription,
        subscribe: PacketId,
        shards: Option<&Shards>,
    ) -> Self {
        let filter = subscription.filter.filter();
        let place = if is_own(filter) {
            Some(Place::Own(None))
        } else if subscription.filter.has_wildcard() {
            shards.map(|_| Place::Shard(ShardId(0), None))
        } else {
            let shard = shards.and_then(|shards| shards.shard_of(filter.as_bytes()));
            shard.map(|shard| Place::Shard(shard, None))
        };
        Self { subscription, place, subscribe, passed_before: 0 }
    }

    /// The page was looked up; `next` is where it goes on there.
    pub(super) fn turn_page(&mut self, next: Option<String>, shards: usize) {
        let has_wildcard = self.subscription.filter.has_wildcard();
        self.place = match (self.place.take(), next) {
            (Some(Place::Own(_)), Some(after)) => Some(Place::Own(Some(after))),
            (Some(Place::Shard(shard, _)), Some(after)) => Some(Place::Shard(shard, Some(after))),
            (Some(Place::Shard(shard, _)), None) if has_wildcard && usize::from(shard.0) + 1 < shards => {
                Some(Place::Shard(ShardId(shard.0 + 1), None))
            }
            _ => None,
        };
    }
}

impl Replays {
    /// Whether there is nothing to wait for.
    pub(in crate::worker) fn is_empty(&self) -> bool {
        self.replays.is_empty() && self.directs.is_empty()
    }

    /// Adds what there is room for; returns how many that are.
    pub(super) fn extend(&mut self, replays: Vec<Replay>) -> usize {
        let before = self.replays.len();
        self.replays.extend(replays.into_iter().take(REPLAYS_MAX - before));
        self.replays.len() - before
    }

    /// Whether something was found that has not been sent.
    pub(in crate::worker) fn has_found(&self) -> bool {
        !self.page.is_empty()
    }

    /// These are those of a SUBSCRIBE that has just come.
    pub(in crate::worker) fn prepare(&self, replays: &mut [Replay]) {
        let passed_before = self.passed_before + self.passed.len() as u64;
        replays.iter_mut().for_each(|replay| replay.passed_before = passed_before);
    }

    /// The subscriptions with these filters are gone; returns the look-up that nobody waits for any more. What the shard of the
    /// session was asked for still comes.
    pub(in crate::worker) fn remove(&mut self, filters: &HashSet<&str>) -> Option<(ShardId, u64)> {
        let is_kept = |replay: &Replay| !filters.contains(replay.subscription.filter.as_str());
        let mut asked = None;
        if self.replays.front().is_some_and(|front| !is_kept(front)) {
            self.page.clear();
            asked = self.take_asked();
        }
        self.replays.retain(is_kept);
        asked
    }

    /// The look-up that is on its way: nobody waits for it any more. What it was for is looked up again.
    pub(in crate::worker) fn take_asked(&mut self) -> Option<(ShardId, u64)> {
        let id = self.asked.take()?;
        match self.replays.front()?.place {
            Some(Place::Shard(shard, _)) => Some((shard, id)),
            _ => None,
        }
    }

    /// Takes what was looked up for the first replay in this shard, of so many `shards`; returns whether anybody waited for it.
    pub(super) fn take_page(&mut self, shard: ShardId, page: &Page, shards: usize, now: Timestamp) -> bool {
        let Some(front) = self.replays.front() else { return false };
        let is_at = matches!(front.place, Some(Place::Shard(at, _)) if at == shard);
        if !is_at || self.asked != Some(page.id) {
            return false; // The connection that asked has ended, or the subscription.
        }
        self.asked = None;
        let passed_before = front.passed_before;
        let is_old = |message: &Arc<Message>| self.is_old(passed_before, &Transit::from_message(message));
        let mut messages: Vec<Arc<Message>> = page.messages(now).collect();
        if messages.iter().any(is_old) {
            if self.tries < TRIES_MAX {
                self.tries += 1;
                return true;
            }
            // The shard will have what has passed, and the client has it.
            messages.retain(|message| !is_old(message));
        }
        self.tries = 0;
        if let Some(front) = self.replays.front_mut() {
            front.turn_page(page.next.clone(), shards);
        }
        self.page.extend(messages);
        true
    }

    /// Whether the client has got something newer for the topic of a retained message, since so many messages had passed.
    fn is_old(&self, passed_before: u64, message: &Transit<'_>) -> bool {
        if self.passed.is_empty() {
            return false;
        }
        let seen = passed_before.saturating_sub(self.passed_before);
        let seen = usize::try_from(seen).unwrap_or(usize::MAX);
        let found = Passed::of(message);
        let mut passed = self.passed.iter().skip(seen).rev();
        passed.find(|passed| passed.topic == found.topic).is_some_and(|latest| *latest != found)
    }

    /// The client gets a message that is to be retained: it takes the place of what was found and has not been sent.
    pub(super) fn pass(&mut self, message: &Transit<'_>) {
        self.page.retain_mut(|found| {
            if *found.topic != *message.topic {
                return true;
            }
            *found = message.keep();
            !message.payload.is_empty()
        });
        if self.passed.len() == PASSED_MAX {
            self.passed.pop_front();
            self.passed_before += 1;
        }
        self.passed.push_back(Passed::of(message));
    }

    /// Nobody has to know any more what has passed.
    pub(super) fn forget_passed(&mut self) {
        (self.passed, self.passed_before) = (VecDeque::new(), 0);
    }

    /// Whether the shard of the session may be asked to keep another message, with so many bytes.
    pub(super) fn has_room(&self, limits: DirectLimits, size: usize) -> bool {
        let bytes: usize = self.directs.iter().map(|direct| direct.size).sum();
        self.directs.is_empty() || self.directs.len() < limits.count && bytes + size <= limits.bytes
    }

    /// The shard of the session is asked to keep a message that was found for the first replay; returns its number.
    pub(super) fn ask(&mut self, message: &Message, expires_in: Option<Duration>) -> Option<u64> {
        let &Replay { subscribe, passed_before, .. } = self.replays.front()?;
        self.last_direct += 1;
        self.directs.push_back(Direct {
            number: self.last_direct,
            topic: message.topic.clone(),
            size: message.size(),
            subscribe,
            passed_before,
            expires_in,
            place: None,
        });
        Some(self.last_direct)
    }

    /// The shard has answered; `next` is the first message that has not come from there. Returns the SUBSCRIBE.
    pub(super) fn answered(
        &mut self,
        number: u64,
        place: Option<Seq>,
        next: Seq,
        now: Timestamp,
    ) -> Option<PacketId> {
        let index = self.directs.iter().position(|direct| direct.number == number)?;
        let direct = &mut self.directs[index];
        let subscribe = direct.subscribe;
        match place.filter(|seq| *seq >= next) {
            Some(seq) => {
                let until = direct.expires_in.map(|left| now + left);
                direct.place = Some(DirectPlace { seq, until });
            }
            None => drop(self.directs.remove(index)),
        }
        Some(subscribe)
    }

    /// A message that was retained comes from the shard. Returns the SUBSCRIBE that it was asked for, and whether the client has
    /// something newer by now; `None`: it was asked for on an earlier connection.
    pub(super) fn meet(&self, seq: Seq, message: &Transit<'_>) -> Option<(PacketId, bool)> {
        let is_at = |direct: &&Direct| direct.place.is_some_and(|place| place.seq == seq);
        // Or it comes before the answer that tells its place.
        let may_be = |direct: &&Direct| direct.place.is_none() && *direct.topic == *message.topic;
        let direct = self.directs.iter().find(is_at).or_else(|| self.directs.iter().find(may_be))?;
        Some((direct.subscribe, self.is_old(direct.passed_before, message)))
    }

    /// All messages before `next` have come, and what expires until now is waited for no longer; returns whether that is news.
    pub(super) fn come(&mut self, next: Seq, now: Timestamp) -> bool {
        let before = self.directs.len();
        self.directs.retain(|direct| {
            direct.place.is_none_or(|place| place.seq >= next && place.until.is_none_or(|until| until > now))
        });
        self.directs.len() < before
    }

    /// When something that was asked for is waited for no longer.
    pub(in crate::worker) fn next_deadline(&self) -> Option<Timestamp> {
        self.directs.iter().filter_map(|direct| direct.place?.until).min()
    }

    /// Whether the shard is still to say that it keeps a message which was found for a SUBSCRIBE.
    pub(super) fn awaits_answer(&self, subscribe: PacketId) -> bool {
        self.directs.iter().any(|direct| direct.subscribe == subscribe && direct.place.is_none())
    }
}

impl DirectLimits {
    /// Those of sessions with such queues.
    pub(in crate::worker) fn of_queue(limits: &Limits) -> Self {
        Self {
            count: (limits.queue_messages_max / DIRECTS_OF_QUEUE).clamp(1, DIRECTS_MAX),
            bytes: limits.queue_bytes_max / DIRECTS_OF_QUEUE,
        }
    }
}

impl Passed {
    fn of(message: &Transit<'_>) -> Self {
        let hash = |parts: &[&[u8]]| {
            let mut hasher = DefaultHasher::new();
            parts.hash(&mut hasher);
            hasher.finish()
        };
        let content = hash(&[message.properties, message.payload]);
        Self { topic: hash(&[message.topic.as_bytes()]), content }
    }
}
