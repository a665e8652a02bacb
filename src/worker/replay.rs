//! Retained messages for new subscriptions.
//!
//! They are looked up in the shards, page by page and one page of a session at a time, and sent bit by bit: the next ones only
//! when the client has taken the last. Those of the broker itself (`$SYS`) are on this node.
//!
//! A SUBACK waits for the first of them for a moment, and so does what its client has sent behind the SUBSCRIBE. What is published
//! meanwhile may be newer than what a look-up finds, and is not followed by that: it is looked up again, for a while.

use std::{
    collections::{HashSet, VecDeque},
    future::poll_fn,
    hash::{DefaultHasher, Hash, Hasher},
    mem,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use flotilla_mqtt::{
    Message, PacketId, SubscriptionIds, Timestamp, Transit,
    session::{DeliveryOptions, Subscription},
};
use flotilla_state::ShardId;
use tokio::task::yield_now;

use super::{Worker, WorkerCell};
use crate::{
    node::Node,
    retained::is_own,
    router::SessionRef,
    shards::{Page, Shards},
};

/// Retained messages for one new subscription.
#[derive(Debug)]
pub(super) struct Replay {
    subscription: Subscription,
    /// Where the next page is; `None`: nowhere.
    place: Option<Place>,
    /// The SUBSCRIBE that it belongs to.
    subscribe: PacketId,
    /// How many messages had passed before that.
    passed_before: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// Among the messages of the broker itself, behind this topic.
    Own(Option<String>),
    Shard(ShardId, Option<String>),
}

/// The replays of a session, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Replays {
    replays: VecDeque<Replay>,
    /// What was looked up for the first of them and has not been sent.
    page: VecDeque<Arc<Message>>,
    /// The look-up that is on its way for it.
    asked: Option<u64>,
    /// Messages that are to be retained and that the client has got of late.
    passed: VecDeque<Passed>,
    /// How many came before these.
    passed_before: u64,
    /// How often the present page was looked up and had something older than these.
    tries: u8,
    /// Whether the session is on the list of those that get more in their turn.
    is_listed: bool,
}

/// A message that has passed, by hashes of its topic and of what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Passed {
    topic: u64,
    content: u64,
}

/// Messages of the broker itself that are looked up at a time.
const PAGE: usize = 64;
/// Replays of one session that may wait; a SUBSCRIBE beyond that gets no retained messages.
const REPLAYS_MAX: usize = 100_000;
/// Steps that are done before others get their turn, for all sessions together.
const STEPS_PER_TURN: usize = 16;
/// How many messages are known to have passed: those that come while a change is on its way to its shard.
const PASSED_MAX: usize = 1_024;
/// How often a page is looked up that has something older than what has passed. What has passed may never be retained, if its
/// publisher's node has ended or there are too many.
const TRIES_MAX: u8 = 16;
/// How long a SUBACK waits for look-ups: longer than they take but where a shard has nobody to lead it.
const PATIENCE: Duration = Duration::from_secs(1);

impl Replay {
    pub(super) fn new(subscription: Subscription, subscribe: PacketId, shards: Option<&Shards>) -> Self {
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
    fn turn_page(&mut self, next: Option<String>, shards: usize) {
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
    pub(super) fn is_empty(&self) -> bool {
        self.replays.is_empty()
    }

    /// Adds what there is room for; returns how many that are.
    fn extend(&mut self, replays: Vec<Replay>) -> usize {
        let before = self.replays.len();
        self.replays.extend(replays.into_iter().take(REPLAYS_MAX - before));
        self.replays.len() - before
    }

    /// Whether something was found that has not been sent.
    pub(super) fn has_found(&self) -> bool {
        !self.page.is_empty()
    }

    /// These are those of a SUBSCRIBE that has just come.
    pub(super) fn prepare(&self, replays: &mut [Replay]) {
        let passed_before = self.passed_before + self.passed.len() as u64;
        replays.iter_mut().for_each(|replay| replay.passed_before = passed_before);
    }

    /// The subscriptions with these filters are gone; returns the look-up that nobody waits for any more.
    pub(super) fn remove(&mut self, filters: &HashSet<&str>) -> Option<(ShardId, u64)> {
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
    pub(super) fn take_asked(&mut self) -> Option<(ShardId, u64)> {
        let id = self.asked.take()?;
        match self.replays.front()?.place {
            Some(Place::Shard(shard, _)) => Some((shard, id)),
            _ => None,
        }
    }

    /// Takes what was looked up for the first replay in this shard, of so many `shards`; returns whether anybody waited for it.
    fn take_page(&mut self, shard: ShardId, page: &Page, shards: usize, now: Timestamp) -> bool {
        let Some(front) = self.replays.front_mut() else { return false };
        let is_at = matches!(front.place, Some(Place::Shard(at, _)) if at == shard);
        if !is_at || self.asked != Some(page.id) {
            return false; // The connection that asked has ended, or the subscription.
        }
        self.asked = None;
        let seen = front.passed_before.saturating_sub(self.passed_before);
        let seen = usize::try_from(seen).unwrap_or(usize::MAX);
        let is_old = |message: &Arc<Message>| {
            let found = Passed::of(&Transit::from_message(message));
            let mut passed = self.passed.iter().skip(seen).rev();
            passed.find(|passed| passed.topic == found.topic).is_some_and(|latest| *latest != found)
        };
        let mut messages: Vec<Arc<Message>> = page.messages(now).collect();
        if !self.passed.is_empty() && messages.iter().any(is_old) {
            if self.tries < TRIES_MAX {
                self.tries += 1;
                return true;
            }
            // The shard will have what has passed, and the client has it.
            messages.retain(|message| !is_old(message));
        }
        self.tries = 0;
        front.turn_page(page.next.clone(), shards);
        self.page.extend(messages);
        true
    }

    /// The client gets a message that is to be retained: it takes the place of what was found and has not been sent.
    fn pass(&mut self, message: &Transit<'_>) {
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

/// Goes on with replays, a few steps at a time.
pub(super) async fn replay_in_turns(cell: Rc<WorkerCell>) {
    loop {
        poll_fn(|cx| {
            let mut worker = cell.worker.borrow_mut();
            if worker.replaying.is_empty() {
                worker.replayer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
        cell.with(Worker::replay_some);
        // A task that only wakes itself is run many times before the runtime looks at the sockets again.
        yield_now().await;
    }
}

impl Worker {
    /// The routes of a SUBSCRIBE are known: its replays begin, and its SUBACK waits for the first that finds something.
    pub(super) fn begin_replays(&mut self, slot: u32, subscribe: PacketId) {
        let session = self.session_ref(slot);
        let Some(unfinished) = self.sessions.entry(slot).and_then(|entry| entry.unfinished.as_mut()) else {
            return;
        };
        let Some(subscribing) = unfinished.subscribing.iter_mut().find(|one| one.id == subscribe) else {
            return;
        };
        subscribing.look_ups = unfinished.replays.extend(mem::take(&mut subscribing.replays));
        if subscribing.look_ups == 0 {
            return self.answer_subscribe(slot, subscribe);
        }
        self.impatient.push_back((self.now + PATIENCE, session, subscribe));
        self.replay_step(slot);
        self.replay(slot);
    }

    /// SUBACKs that have waited for look-ups for too long wait no more.
    pub(super) fn end_patience(&mut self) {
        while let Some((until, SessionRef { slot, epoch, .. }, subscribe)) = self.impatient.front().copied()
            && until <= self.now
        {
            self.impatient.pop_front();
            if self.sessions.entry_of(slot, epoch).is_some() {
                self.guard(slot, |worker| worker.answer_subscribe(slot, subscribe));
            }
        }
    }

    /// A session gets a message that somebody publishes now: it is not followed by an older one.
    pub(super) fn pass(&mut self, to: SessionRef, message: &Transit<'_>) {
        if !message.retain {
            return;
        }
        if let Some(entry) = self.sessions.entry_of(to.slot, to.epoch)
            && let Some(unfinished) = entry.unfinished.as_mut()
            && !(unfinished.replays.is_empty() && unfinished.subscribing.is_empty())
        {
            unfinished.replays.pass(message);
        }
    }

    /// Sees to it that a session gets more retained messages, if any are still to be sent. This is called with every
    /// acknowledgement, so it does nothing itself.
    pub(super) fn replay(&mut self, slot: u32) {
        let session = self.session_ref(slot);
        let Some(entry) = self.sessions.entry(slot) else { return };
        let keeps_up = entry.keeps_up();
        let Some(unfinished) = entry.unfinished.as_mut().filter(|_| entry.link.is_some()) else { return };
        let replays = &mut unfinished.replays;
        let waits = if replays.page.is_empty() { replays.asked.is_some() } else { !keeps_up };
        if !replays.is_listed && !replays.is_empty() && !waits {
            replays.is_listed = true;
            self.replaying.push_back(session);
            if let Some(replayer) = self.replayer.take() {
                replayer.wake();
            }
        }
    }

    /// Goes on with the retained messages of those whose turn it is.
    fn replay_some(&mut self) {
        for _ in 0..STEPS_PER_TURN {
            let Some(SessionRef { slot, epoch, .. }) = self.replaying.pop_front() else { return };
            let Some(entry) = self.sessions.entry_of(slot, epoch) else { continue };
            let Some(unfinished) = entry.unfinished.as_mut() else { continue };
            unfinished.replays.is_listed = false;
            self.guard(slot, |worker| {
                if worker.replay_step(slot) {
                    worker.replay(slot);
                }
            });
        }
    }

    /// A look-up is answered.
    pub(super) fn looked_up(&mut self, who: SessionRef, shard: ShardId, page: &Page) {
        let (now, shards) = (self.now, self.node.cluster.shards().map_or(0, Shards::count));
        let Some(entry) = self.sessions.entry_of(who.slot, who.epoch) else { return };
        let Some(unfinished) = entry.unfinished.as_mut() else { return };
        if unfinished.replays.take_page(shard, page, shards, now) {
            self.guard(who.slot, |worker| {
                worker.replay_step(who.slot);
                worker.replay(who.slot);
            });
        }
    }

    /// Sends what was looked up, as long as the client keeps up, and looks up more; returns whether it can go on at once.
    fn replay_step(&mut self, slot: u32) -> bool {
        if !self.send_page(slot) {
            return false;
        }
        let Some(entry) = self.sessions.entry(slot).filter(|entry| entry.link.is_some()) else {
            return false;
        };
        let Some(replays) = entry.unfinished.as_mut().map(|unfinished| &mut unfinished.replays) else {
            return false;
        };
        let Some(front) = replays.replays.front_mut().filter(|_| replays.asked.is_none()) else {
            return false;
        };
        let filter = front.subscription.filter.filter();
        match front.place.clone() {
            None => self.end_replay(slot),
            Some(Place::Own(after)) => {
                let next = self.node.own_retained.page(filter, after.as_deref(), PAGE, &mut replays.page);
                front.turn_page(next, 0);
            }
            Some(Place::Shard(shard, after)) => {
                let filter = filter.into();
                self.look_up(slot, shard, filter, after);
                return false;
            }
        }
        true
    }

    /// The first replay of a session is over.
    fn end_replay(&mut self, slot: u32) {
        let Some(entry) = self.sessions.entry(slot) else { return };
        let Some(unfinished) = entry.unfinished.as_mut() else { return };
        let Some(replay) = unfinished.replays.replays.pop_front() else { return };
        if unfinished.replays.is_empty() && unfinished.subscribing.is_empty() {
            (unfinished.replays.passed, unfinished.replays.passed_before) = (VecDeque::new(), 0);
        }
        let mut looking = unfinished.subscribing.iter_mut().filter(|one| one.look_ups > 0);
        if let Some(subscribing) = looking.find(|one| one.id == replay.subscribe) {
            subscribing.look_ups -= 1;
            if subscribing.look_ups == 0 {
                self.answer_subscribe(slot, replay.subscribe);
            }
        } else if unfinished.is_done() {
            entry.unfinished = None;
        }
    }

    /// The SUBSCRIBE that something has been found for.
    fn found_for(&mut self, slot: u32) -> Option<PacketId> {
        let replays = &self.sessions.entry(slot)?.unfinished.as_ref()?.replays;
        replays.replays.front().filter(|_| !replays.page.is_empty()).map(|front| front.subscribe)
    }

    fn look_up(&mut self, slot: u32, shard: ShardId, filter: Arc<str>, after: Option<String>) {
        // What was published here before is found.
        self.hand_over_all_stored();
        let session = self.session_ref(slot);
        let Some(shards) = self.node.cluster.shards() else { return };
        let asked = shards.look_up(shard, filter, after, session);
        if let Some(unfinished) = self.sessions.entry(slot).and_then(|entry| entry.unfinished.as_mut()) {
            unfinished.replays.asked = asked;
        }
    }

    /// Sends what was looked up; returns whether that is all of it.
    fn send_page(&mut self, slot: u32) -> bool {
        if let Some(subscribe) = self.found_for(slot) {
            self.answer_subscribe(slot, subscribe);
        }
        loop {
            let Some(entry) = self.sessions.entry(slot) else { return false };
            let keeps_up = entry.keeps_up();
            let own = entry.session.client_id().clone();
            let Some(unfinished) = entry.unfinished.as_mut() else { return false };
            let replays = &mut unfinished.replays;
            let Some(front) = replays.replays.front() else { return false };
            if replays.page.is_empty() {
                return true;
            }
            if !keeps_up {
                // It may not have been read for the sake of this.
                entry.link.iter_mut().filter(|link| link.is_paused).for_each(|link| link.wake());
                return false;
            }
            let Subscription { options, id, .. } = &front.subscription;
            // The RETAIN flag says that it is an old message, whatever Retain As Published says [MQTT-3.3.1-8].
            let delivery = DeliveryOptions {
                qos: options.qos,
                retain: true,
                subscription_ids: id.map_or(SubscriptionIds::None, SubscriptionIds::One),
                shared: None,
            };
            let no_local = options.no_local;
            let Some(message) = replays.page.pop_front() else { return true };
            if !(no_local && message.publisher.as_ref() == Some(&own)) {
                self.deliver(self.session_ref(slot), &Transit::from_message(&message), &delivery);
            }
        }
    }
}

/// Nobody waits for a look-up any more.
pub(super) fn forget_look_up(node: &Node, asked: Option<(ShardId, u64)>) {
    if let (Some((shard, id)), Some(shards)) = (asked, node.cluster.shards()) {
        shards.forget_look_up(shard, id);
    }
}

#[cfg(test)]
mod tests {
    use flotilla_mqtt::{packet::SubscriptionOptions, topic::TopicFilter};

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000);
    const ID: u64 = 7;

    fn replay(filter: &str, subscribe: u16) -> Replay {
        let filter = Arc::new(TopicFilter::parse(filter, 8).expect("valid"));
        let subscription = Subscription { filter, options: SubscriptionOptions::default(), id: None };
        let subscribe = PacketId::new(subscribe).expect("not zero");
        let place = Some(Place::Shard(ShardId(0), None));
        Replay { subscription, place, subscribe, passed_before: 0 }
    }

    /// Begins replays of one SUBSCRIBE.
    fn begin(replays: &mut Replays, mut new: Vec<Replay>) {
        replays.prepare(&mut new);
        replays.extend(new);
    }

    /// A look-up that is on its way finds these in the shard; what is to be sent then.
    fn find(replays: &mut Replays, shard: u16, topics: &[&str], next: Option<&str>) -> Vec<String> {
        replays.asked = Some(ID);
        assert!(replays.take_page(ShardId(shard), &Page::of(ID, topics, next), 3, NOW));
        replays.page.iter().map(|message| message.topic.to_string()).collect()
    }

    #[test]
    fn a_filter_with_wildcards_goes_through_all_shards_page_by_page() {
        let mut replays = Replays::default();
        begin(&mut replays, vec![replay("+", 1)]);
        let place = |replays: &Replays| replays.replays[0].place.clone();
        for (shard, next) in [(0, Some("a")), (0, None), (1, None), (2, Some("b")), (2, None)] {
            assert!(matches!(place(&replays), Some(Place::Shard(at, _)) if at == ShardId(shard)));
            assert_eq!(find(&mut replays, shard, &[], next), [""; 0]);
        }
        assert_eq!(place(&replays), None);
        let mut exact = Replays::default();
        begin(&mut exact, vec![replay("a", 1)]);
        assert_eq!(find(&mut exact, 0, &["a"], None), ["a"]);
        assert_eq!(place(&exact), None);
    }

    /// Somebody publishes; `Page::of` has messages with the payload "x".
    fn pass(replays: &mut Replays, topic: &str, payload: &str) {
        let qos = flotilla_mqtt::QoS::AtLeastOnce;
        replays.pass(&Transit::new(topic, b"", payload.as_bytes(), qos, true, None, None, None));
    }

    #[test]
    fn what_is_older_than_what_has_passed_is_looked_up_again() {
        let mut replays = Replays::default();
        begin(&mut replays, vec![replay("+", 1)]);
        pass(&mut replays, "a", "x");
        pass(&mut replays, "a", "newer");
        assert_eq!(find(&mut replays, 0, &["a", "b"], None), [""; 0]);
        assert_eq!(replays.replays[0].place, Some(Place::Shard(ShardId(0), None)));
        // Somebody has set what was there before.
        pass(&mut replays, "a", "x");
        assert_eq!(find(&mut replays, 0, &["a", "b"], None), ["a", "b"]);
        replays.page.clear();
        // A deletion that is never done does not keep the rest.
        pass(&mut replays, "c", "");
        for _ in 0..TRIES_MAX {
            assert_eq!(find(&mut replays, 1, &["c", "d"], None), [""; 0]);
        }
        assert_eq!(find(&mut replays, 1, &["c", "d"], None), ["d"]);
    }

    #[test]
    fn what_passes_takes_the_place_of_what_waits_for_its_client() {
        let mut replays = Replays::default();
        begin(&mut replays, vec![replay("+", 1)]);
        find(&mut replays, 0, &["a", "b", "c"], None);
        pass(&mut replays, "a", "newer");
        pass(&mut replays, "b", "");
        let page: Vec<_> = replays.page.iter().map(|found| (&*found.topic, &found.payload[..])).collect();
        assert_eq!(page, [("a", &b"newer"[..]), ("c", b"x")]);
    }

    #[test]
    fn what_was_published_before_a_subscribe_is_no_news_for_it() {
        let mut replays = Replays::default();
        begin(&mut replays, vec![replay("+", 1)]);
        (0..10).for_each(|number| pass(&mut replays, &number.to_string(), "newer"));
        begin(&mut replays, vec![replay("1", 2)]);
        replays.replays.pop_front();
        assert_eq!(find(&mut replays, 0, &["1"], None), ["1"]);
    }

    #[test]
    fn few_messages_that_have_passed_are_known() {
        let mut replays = Replays::default();
        (0..10).for_each(|number| pass(&mut replays, &number.to_string(), "newer"));
        begin(&mut replays, vec![replay("+", 1)]);
        (0..=PASSED_MAX).for_each(|number| pass(&mut replays, &format!("t{number}"), "newer"));
        assert_eq!(replays.passed.len(), PASSED_MAX);
        assert_eq!(find(&mut replays, 0, &["1", "t0"], Some("t0")), ["1", "t0"]);
        replays.page.clear();
        assert_eq!(find(&mut replays, 0, &["t1024"], None), [""; 0]);
    }

    #[test]
    fn an_answer_that_nobody_waits_for_is_ignored() {
        let mut replays = Replays::default();
        begin(&mut replays, vec![replay("+", 1), replay("a", 1)]);
        replays.asked = Some(ID);
        let page = Page::of(ID, &["a"], None);
        assert!(!replays.take_page(ShardId(1), &page, 3, NOW), "of another shard");
        assert!(!replays.take_page(ShardId(0), &Page::of(8, &["a"], None), 3, NOW), "of another look-up");
        assert_eq!(replays.remove(&HashSet::from(["+"])), Some((ShardId(0), ID)));
        assert!(!replays.take_page(ShardId(0), &page, 3, NOW), "of a subscription that is gone");
        assert_eq!(replays.replays.len(), 1);
    }
}
