//! SUBSCRIBE and UNSUBSCRIBE.

use std::{collections::HashSet, sync::Arc};

use flotilla_shard::Op;

use flotilla_mqtt::{
    PacketId, ReasonCode,
    packet::{RetainHandling, Subscribe, SubscriptionOptions, Unsubscribe},
    session::{Cause, Subscription},
    topic::TopicFilter,
};

use super::{
    Worker,
    replay::{Replay, forget_look_up},
    sessions::Subscribing,
};
use crate::{
    cluster::{Awaited, Completion, Receipt},
    router::{RouteChange, SessionRef, Subscriber, Terms},
    sys::ClientEvent,
};

impl Worker {
    pub(super) fn subscribe(&mut self, slot: u32, subscribe: &Subscribe<'_>) {
        if self.is_subscribing(slot, subscribe.id) {
            // Its SUBACK could mean the one or the other [MQTT-2.2.1-3].
            return self.end_link(slot, Cause::Server(ReasonCode::ProtocolError));
        }
        let here = self.session_ref(slot);
        let done = Completion { session: here, what: Awaited::Routes(subscribe.id) };
        let (mut reasons, mut replays, mut outstanding) = (Vec::new(), Vec::new(), 0);
        let (is_kept, mut granted_all, mut joining) = (self.is_kept(slot), Vec::new(), Vec::new());
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
            self.announce_event(slot, ClientEvent::Subscribed(&subscription));
            granted_all.push(subscription.clone());
            if is_kept && subscription.filter.is_shared() {
                joining.push(Arc::clone(&subscription.filter));
            }
            let wants_retained = match options.retain_handling {
                RetainHandling::Send => true,
                RetainHandling::SendIfNew => is_new,
                RetainHandling::DoNotSend => false,
            };
            // No retained messages for shared subscriptions (section 4.8.2).
            if wants_retained && !subscription.filter.is_shared() {
                replays.push(Replay::new(subscription, subscribe.id, self.node.cluster.shards()));
            }
        }
        if !granted_all.is_empty() && is_kept {
            let bytes = granted_all.iter().map(|granted| granted.filter.as_str().len()).sum();
            self.tell_shard(slot, bytes, done, |connection| Op::Subscribe {
                connection,
                subscriptions: granted_all,
            });
            outstanding += 1;
        }
        if let Some(entry) = self.sessions.entry(slot) {
            let unfinished = entry.unfinished.get_or_insert_default();
            unfinished.replays.prepare(&mut replays);
            let id = subscribe.id;
            let subscribing = Subscribing { id, reasons, replays, joining, outstanding, look_ups: 0 };
            unfinished.subscribing.push(subscribing);
        }
        if outstanding == 0 {
            self.begin_replays(slot, subscribe.id);
        }
    }

    /// Whether a SUBSCRIBE with this identifier has not been answered yet.
    fn is_subscribing(&mut self, slot: u32, id: PacketId) -> bool {
        let unfinished = self.sessions.entry(slot).and_then(|entry| entry.unfinished.as_ref());
        unfinished.is_some_and(|unfinished| unfinished.subscribing.iter().any(|one| one.id == id))
    }

    /// Makes one subscription, in the session and in the router; says whether it is new. A kept session joins a group later.
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
        let joins_later = filter.is_shared() && entry.session.is_kept();
        let subscription = Subscription { filter, options, id: subscribe.subscription_id };
        let change = if joins_later { RouteChange::None } else { self.make_known(here, &subscription) };
        let metrics = self.metrics();
        metrics.client_subscribe.increment();
        if replaced.is_none() {
            metrics.subscriptions.increment();
            if subscription.filter.is_shared() {
                metrics.shared_subscriptions.increment();
            }
        }
        Ok((subscription, replaced.is_none(), change))
    }

    /// Puts a subscription into the router.
    pub(super) fn make_known(&mut self, here: SessionRef, subscription: &Subscription) -> RouteChange {
        let Subscription { filter, options, id } = subscription;
        let Some(entry) = self.sessions.entry(here.slot) else { return RouteChange::None };
        let load = if filter.is_shared() { entry.share_load() } else { Arc::default() };
        let subscriber = Subscriber { session: here, terms: Terms::new(*options, *id) };
        self.node.router.subscribe(filter, subscriber, &load)
    }

    /// Joins the groups of a SUBSCRIBE that the shard of the session has answered; returns how many routes are still to be confirmed.
    fn join_groups(&mut self, slot: u32, id: PacketId, joining: &[Arc<TopicFilter>]) -> usize {
        if joining.is_empty() {
            return 0;
        }
        let here = self.session_ref(slot);
        let done = Completion { session: here, what: Awaited::Routes(id) };
        let Some(entry) = self.sessions.entry(slot) else { return 0 };
        let joining: HashSet<&Arc<TopicFilter>> = joining.iter().collect();
        // The client may have unsubscribed meanwhile.
        let joined = entry.session.subscriptions().filter(|one| joining.contains(&one.filter));
        let mut outstanding = 0;
        for subscription in joined.cloned().collect::<Vec<_>>() {
            let change = self.make_known(here, &subscription);
            let receipt = self.node.cluster.announce(&subscription.filter, change, Some(done));
            outstanding += usize::from(receipt == Receipt::Later);
        }
        outstanding
    }

    /// A route of a SUBSCRIBE is known everywhere.
    pub(super) fn routes_known(&mut self, slot: u32, id: PacketId) {
        let Some(entry) = self.sessions.entry(slot) else { return };
        let Some(waiting) = entry.unfinished.as_mut().map(|unfinished| &mut unfinished.subscribing) else {
            return;
        };
        let Some(position) = waiting.iter().position(|subscribing| subscribing.id == id) else { return };
        waiting[position].outstanding -= 1;
        if waiting[position].outstanding > 0 {
            return;
        }
        let joining = std::mem::take(&mut waiting[position].joining);
        let outstanding = self.join_groups(slot, id, &joining);
        let Some(entry) = self.sessions.entry(slot) else { return };
        let Some(unfinished) = entry.unfinished.as_mut() else { return };
        let Some(subscribing) = unfinished.subscribing.get_mut(position) else { return };
        subscribing.outstanding = outstanding;
        if outstanding == 0 {
            self.begin_replays(slot, id);
        }
    }

    /// Answers a SUBSCRIBE whose routes are known, if it is not answered yet.
    pub(super) fn answer_subscribe(&mut self, slot: u32, id: PacketId) {
        let Some(entry) = self.sessions.entry(slot) else { return };
        let Some(unfinished) = entry.unfinished.as_mut() else { return };
        let mut waiting = unfinished.subscribing.iter();
        let Some(position) = waiting.position(|one| one.id == id && one.outstanding == 0) else { return };
        let subscribing = unfinished.subscribing.remove(position);
        if unfinished.is_done() {
            entry.unfinished = None;
        }
        entry.session.handle_subscribed(id, &subscribing.reasons, &mut entry.link.out);
        if entry.link.is_paused {
            entry.link.wake();
        }
        self.mark_dirty(slot);
    }

    pub(super) fn unsubscribe(&mut self, slot: u32, unsubscribe: &Unsubscribe<'_>) {
        let here = self.session_ref(slot);
        let (mut reasons, mut removed, mut filters) = (Vec::new(), HashSet::new(), Vec::new());
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
            filters.push(Arc::clone(&subscription.filter));
            if entry.unfinished.is_some() {
                removed.insert(text);
            }
            let orphans = if subscription.filter.is_shared() {
                entry.session.take_shared(&subscription.filter)
            } else {
                Vec::new()
            };
            self.withdraw(here, &subscription);
            self.redispatch(here, orphans);
            self.metrics().client_unsubscribe.increment();
            self.announce_event(slot, ClientEvent::Unsubscribed(&subscription));
        }
        let Some(entry) = self.sessions.entry(slot) else { return };
        if let Some(unfinished) = &mut entry.unfinished {
            // Once for the whole packet: both lists may have many thousands.
            let asked = unfinished.replays.remove(&removed);
            forget_look_up(&self.node, asked);
            self.replay(slot);
        }
        let Some(entry) = self.sessions.entry(slot) else { return };
        if !filters.is_empty() && entry.session.is_kept() {
            entry.unfinished.get_or_insert_default().unsubscribing.push((unsubscribe.id, reasons));
            let bytes = filters.iter().map(|filter| filter.as_str().len()).sum();
            let done = Completion { session: here, what: Awaited::Unsubscribed(unsubscribe.id) };
            return self.tell_shard(slot, bytes, done, |connection| Op::Unsubscribe { connection, filters });
        }
        self.answer_unsubscribe(slot, unsubscribe.id, &reasons);
    }

    fn answer_unsubscribe(&mut self, slot: u32, id: PacketId, reasons: &[ReasonCode]) {
        let Some(entry) = self.sessions.entry(slot) else { return };
        entry.session.handle_unsubscribed(id, reasons, &mut entry.link.out);
        self.mark_dirty(slot);
    }

    /// The shard of a session has forgotten the subscriptions of an UNSUBSCRIBE.
    pub(super) fn unsubscribed(&mut self, slot: u32, id: PacketId) {
        let Some(entry) = self.sessions.entry(slot) else { return };
        let Some(unfinished) = entry.unfinished.as_mut() else { return };
        let Some(position) = unfinished.unsubscribing.iter().position(|(waiting, _)| *waiting == id) else {
            return;
        };
        let (_, reasons) = unfinished.unsubscribing.remove(position);
        if unfinished.is_done() {
            entry.unfinished = None;
        }
        self.answer_unsubscribe(slot, id, &reasons);
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
