//! SUBSCRIBE and UNSUBSCRIBE.

use std::{collections::HashSet, future::poll_fn, rc::Rc, sync::Arc, task::Poll};

use flotilla_mqtt::{
    Message, PacketId, ReasonCode, SubscriptionIds, Transit,
    packet::{RetainHandling, Subscribe, SubscriptionOptions, Unsubscribe},
    session::{DeliveryOptions, Subscription},
    topic::TopicFilter,
};

use tokio::task::yield_now;

use super::{
    Worker, WorkerCell,
    sessions::{Entry, Subscribing},
};
use crate::{
    cluster::{Awaited, Completion, Receipt},
    router::{RouteChange, SessionRef, Subscriber, Terms},
    sys::ClientEvent,
};

/// Retained messages for a new subscription, sent bit by bit: the next ones only when the client has taken the last.
#[derive(Debug)]
pub(super) struct Replay {
    subscription: Subscription,
    /// The topic that was sent last.
    after: Option<String>,
}

impl Replay {
    /// What its next page costs, at most, next to the look-up of one topic.
    fn cost(&self) -> u32 {
        if self.subscription.filter.has_wildcard() { WILDCARD_COST } else { 1 }
    }
}

/// Retained messages that are looked up at a time.
const PAGE: usize = 64;
/// Bytes in the send buffer from which on a replay waits.
const REPLAY_BUFFER: usize = 64 << 10;
/// Replays of one session that may wait; a SUBSCRIBE beyond that gets no retained messages.
const REPLAYS_MAX: usize = 100_000;
/// What is looked up at the same moment as soon as it is asked for: a few pages, or a thousand topics.
const LOOK_UPS_AT_ONCE: u32 = 1_024;
const WILDCARD_COST: u32 = 256;
/// Pages that are looked up before others get their turn, for all sessions together.
const PAGES_PER_TURN: usize = 4;

/// Looks up and sends retained messages, a few pages at a time.
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
    pub(super) fn subscribe(&mut self, slot: u32, subscribe: &Subscribe<'_>) {
        let here = self.session_ref(slot);
        let done = Completion { session: here, what: Awaited::Routes(subscribe.id) };
        let (mut reasons, mut replays, mut outstanding) = (Vec::new(), Vec::new(), 0);
        for (text, options) in subscribe.filters.iter() {
            let granted = match TopicFilter::parse(text, self.node.limits.max_topic_levels) {
                Ok(filter) => self.grant(slot, here, filter, options, subscribe),
                Err(error) => Err(error.reason()),
            };
            let Ok((subscription, is_new, change)) = granted else {
                reasons.extend(granted.err());
                continue;
            };
            reasons.push(granted_qos(options));
            if self.node.cluster.announce(&subscription.filter, change, Some(done)) == Receipt::Later {
                outstanding += 1;
            }
            self.announce_event(slot, None, ClientEvent::Subscribed(&subscription));
            let wants_retained = match options.retain_handling {
                RetainHandling::Send => true,
                RetainHandling::SendIfNew => is_new,
                RetainHandling::DoNotSend => false,
            };
            // No retained messages for shared subscriptions (section 4.8.2).
            if wants_retained && !subscription.filter.is_shared() {
                replays.push(Replay { subscription, after: None });
            }
        }
        let subscribing = Subscribing { id: subscribe.id, reasons, replays, outstanding };
        if outstanding == 0 {
            self.answer_subscribe(slot, subscribing);
        } else if let Some(entry) = self.sessions.entry(slot) {
            entry.unfinished.get_or_insert_default().subscribing.push(subscribing);
        }
    }

    /// Makes one subscription, in the session and in the router; says whether it is new.
    fn grant(
        &mut self,
        slot: u32,
        here: SessionRef,
        filter: TopicFilter,
        options: SubscriptionOptions,
        subscribe: &Subscribe<'_>,
    ) -> Result<(Subscription, bool, RouteChange), ReasonCode> {
        if self.node.config.auth.refused_filters.contains(filter.filter()) {
            // Unspecified error: "the Server does not wish to reveal the reason" (section 3.9.3).
            return Err(ReasonCode::UnspecifiedError);
        }
        let filter = Arc::new(filter);
        let entry = self.sessions.entry(slot).ok_or(ReasonCode::UnspecifiedError)?;
        let replaced = entry.session.subscribe(&filter, options, subscribe.subscription_id)?;
        // The text of a filter that is replaced is kept, so that it is in memory once.
        let filter = replaced.as_ref().map_or(filter, |old| Arc::clone(&old.filter));
        let load =
            if filter.is_shared() { Arc::clone(entry.load.get_or_insert_default()) } else { Arc::default() };
        let subscriber = Subscriber { session: here, terms: Terms::new(options, subscribe.subscription_id) };
        let change = self.node.router.subscribe(&filter, subscriber, &load);
        let metrics = self.metrics();
        metrics.client_subscribe.increment();
        if replaced.is_none() {
            metrics.subscriptions.increment();
            if filter.is_shared() {
                metrics.shared_subscriptions.increment();
            }
        }
        let subscription = Subscription { filter, options, id: subscribe.subscription_id };
        Ok((subscription, replaced.is_none(), change))
    }

    /// A route of a SUBSCRIBE is known everywhere.
    pub(super) fn routes_known(&mut self, slot: u32, id: PacketId) {
        let Some(entry) = self.sessions.entry(slot) else { return };
        let Some(waiting) = entry.unfinished.as_mut().map(|unfinished| &mut unfinished.subscribing) else {
            return;
        };
        let Some(position) = waiting.iter().position(|subscribing| subscribing.id == id) else { return };
        waiting[position].outstanding -= 1;
        if waiting[position].outstanding == 0 {
            let subscribing = waiting.remove(position);
            if let Some(link) = entry.link.as_mut().filter(|link| link.is_paused) {
                link.wake();
            }
            self.answer_subscribe(slot, subscribing);
        }
    }

    fn answer_subscribe(&mut self, slot: u32, subscribing: Subscribing) {
        let Some(entry) = self.sessions.entry(slot) else { return };
        let Some(link) = entry.link.as_mut() else { return };
        entry.session.handle_subscribed(subscribing.id, &subscribing.reasons, &mut link.out);
        let replays = subscribing.replays.into_iter();
        if replays.len() > 0 {
            let waiting = &mut entry.unfinished.get_or_insert_default().replays;
            waiting.extend(replays);
            waiting.truncate(REPLAYS_MAX);
        }
        self.mark_dirty(slot);
        // Before the SUBACK is written, if possible: what is published after it comes once, not as a retained message too.
        while self.may_look_up(slot) && self.replay_page(slot) {}
        self.replay(slot);
    }

    /// Whether the next page of a session may be looked up at once, instead of in its turn.
    fn may_look_up(&mut self, slot: u32) -> bool {
        let front = |entry: &Entry| entry.unfinished.as_ref()?.replays.front().map(Replay::cost);
        let Some(cost) = self.sessions.entry(slot).and_then(|entry| front(entry)) else { return false };
        if self.looked_up.0 != self.now {
            self.looked_up = (self.now, 0);
        }
        self.looked_up.1 += cost;
        self.looked_up.1 <= LOOK_UPS_AT_ONCE
    }

    /// Sees to it that a session gets more retained messages, if any are still to be sent. This is called with every
    /// acknowledgement, so it looks nothing up itself.
    pub(super) fn replay(&mut self, slot: u32) {
        let session = self.session_ref(slot);
        let Some(unfinished) = self.sessions.entry(slot).and_then(|entry| entry.unfinished.as_mut()) else {
            return;
        };
        if !unfinished.is_replaying && !unfinished.replays.is_empty() {
            unfinished.is_replaying = true;
            self.replaying.push_back(session);
            if let Some(replayer) = self.replayer.take() {
                replayer.wake();
            }
        }
    }

    /// Goes on with the retained messages of those whose turn it is.
    fn replay_some(&mut self) {
        for _ in 0..PAGES_PER_TURN {
            let Some(SessionRef { slot, epoch, .. }) = self.replaying.pop_front() else { return };
            let Some(entry) = self.sessions.entry_of(slot, epoch) else { continue };
            let Some(unfinished) = entry.unfinished.as_mut() else { continue };
            unfinished.is_replaying = false;
            if self.guard(slot, |worker| worker.replay_page(slot)) == Some(true) {
                self.replay(slot);
            }
        }
    }

    /// Sends a page of retained messages; returns whether the client keeps up.
    fn replay_page(&mut self, slot: u32) -> bool {
        let Some(entry) = self.sessions.entry(slot) else { return false };
        let Some(unfinished) = entry.unfinished.as_mut() else { return false };
        let keeps_up = entry.link.as_ref().is_some_and(|link| link.out.len() < REPLAY_BUFFER)
            && entry.session.queue_len() == 0;
        let Some(replay) = unfinished.replays.front_mut().filter(|_| keeps_up) else { return false };
        let subscription = replay.subscription.clone();
        let own = entry.session.client_id().clone();
        let filter = subscription.filter.filter();
        let mut page = Vec::new();
        let next = self.node.retained.page(filter, replay.after.as_deref(), PAGE, self.now, &mut |message| {
            page.push(Arc::clone(message));
        });
        let is_last = next.is_none();
        match next {
            Some(topic) => replay.after = Some(topic),
            None => drop(unfinished.replays.pop_front()),
        }
        if unfinished.replays.is_empty() && unfinished.subscribing.is_empty() {
            entry.unfinished = None;
        }
        let is_own = |message: &Message| message.publisher.as_ref() == Some(&own);
        for (position, message) in page.iter().enumerate() {
            if subscription.options.no_local && is_own(message) {
                continue;
            }
            if !self.replay_one(slot, &subscription, message) {
                self.replay_from(slot, subscription, page[position].topic.to_string(), is_last);
                return false;
            }
        }
        true
    }

    /// Sends one retained message; returns whether the client keeps up.
    fn replay_one(&mut self, slot: u32, subscription: &Subscription, message: &Arc<Message>) -> bool {
        // The RETAIN flag says that it is an old message, whatever Retain As Published says [MQTT-3.3.1-8].
        let options = DeliveryOptions {
            qos: subscription.options.qos,
            retain: true,
            subscription_ids: subscription.id.map_or(SubscriptionIds::None, SubscriptionIds::One),
            shared: None,
        };
        self.deliver(self.session_ref(slot), &Transit::from_message(message), &options);
        let Some(entry) = self.sessions.entry(slot) else { return false };
        entry.link.as_ref().is_some_and(|link| link.out.len() < REPLAY_BUFFER)
            && entry.session.queue_len() == 0
    }

    /// Goes on after `sent` when the client has taken what it got. `is_over`: the replay has been taken off the list.
    fn replay_from(&mut self, slot: u32, subscription: Subscription, sent: String, is_over: bool) {
        let Some(entry) = self.sessions.entry(slot) else { return };
        let replays = &mut entry.unfinished.get_or_insert_default().replays;
        if !is_over {
            replays.pop_front();
        }
        replays.push_front(Replay { subscription, after: Some(sent) });
    }

    pub(super) fn unsubscribe(&mut self, slot: u32, unsubscribe: &Unsubscribe<'_>) {
        let here = self.session_ref(slot);
        let (mut reasons, mut removed) = (Vec::new(), HashSet::new());
        for text in unsubscribe.filters.iter() {
            let Some(entry) = self.sessions.entry(slot) else { return };
            let Some(subscription) = entry.session.unsubscribe(text) else {
                reasons.push(match TopicFilter::parse(text, self.node.limits.max_topic_levels) {
                    Ok(_) => ReasonCode::NoSubscriptionExisted,
                    Err(error) => error.reason(),
                });
                continue;
            };
            reasons.push(ReasonCode::Success);
            if entry.unfinished.is_some() {
                removed.insert(text);
            }
            let orphans = if subscription.filter.is_shared() {
                entry.session.take_shared(Some(&subscription.filter))
            } else {
                Vec::new()
            };
            self.withdraw(here, &subscription);
            self.redispatch(here, orphans);
            self.metrics().client_unsubscribe.increment();
            self.announce_event(slot, None, ClientEvent::Unsubscribed(&subscription));
        }
        let Some(entry) = self.sessions.entry(slot) else { return };
        if let Some(unfinished) = &mut entry.unfinished {
            // Once for the whole packet: both lists may have many thousands.
            unfinished.replays.retain(|replay| !removed.contains(replay.subscription.filter.as_str()));
        }
        let Some(link) = entry.link.as_mut() else { return };
        entry.session.handle_unsubscribed(unsubscribe.id, &reasons, &mut link.out);
        self.mark_dirty(slot);
    }

    /// Tells the other nodes how many members of its groups a session makes, after its client has come or gone.
    pub(super) fn announce_groups(&mut self, slot: u32) {
        let Some(entry) = self.sessions.entry(slot) else { return };
        if entry.load.is_none() {
            return;
        }
        let shared = entry.session.subscriptions().filter(|subscription| subscription.filter.is_shared());
        for filter in shared.map(|subscription| Arc::clone(&subscription.filter)).collect::<Vec<_>>() {
            self.node.cluster.announce(&filter, RouteChange::Group, None);
        }
    }

    /// Takes a subscription out of the router.
    pub(super) fn withdraw(&mut self, session: SessionRef, subscription: &Subscription) {
        let change = self.node.router.unsubscribe(&subscription.filter, session);
        if change != RouteChange::None {
            self.node.cluster.announce(&subscription.filter, change, None);
        }
        self.metrics().subscriptions.decrement();
        if subscription.filter.is_shared() {
            self.metrics().shared_subscriptions.decrement();
        }
    }
}

/// The reason code of a subscription that was granted as asked.
fn granted_qos(options: SubscriptionOptions) -> ReasonCode {
    match options.qos {
        flotilla_mqtt::QoS::AtMostOnce => ReasonCode::Success,
        flotilla_mqtt::QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
        flotilla_mqtt::QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
    }
}
