//! Subscriptions.

use std::sync::Arc;

use flotilla_mqtt::{session::Subscription, topic::TopicFilter};
use prost::Message as _;

use super::State;
use crate::{
    Answer,
    index::Subscriber,
    rows::Row,
    sessions::{Kept, Slot},
    wire::Subscription as SubscriptionRow,
};

impl State {
    pub(super) fn subscribe(&mut self, slot: Slot, subscriptions: &[Subscription]) -> Answer {
        for subscription in subscriptions {
            let is_matched = self.keep_subscription(slot, subscription);
            if !is_matched {
                self.tell_group(slot, subscription.filter.as_str().into());
            } else {
                let session = self.sessions.at(slot);
                let (id, queue_qos0) = (session.id, session.limits.queue_qos0);
                let subscriber = Subscriber::new(id, slot, subscription.options, subscription.id, queue_qos0);
                let change = self.index.insert(subscription.filter.as_str(), subscriber);
                self.note_filter(subscription.filter.as_str(), change);
            }
        }
        self.touch(slot);
        Answer::Done
    }

    /// Keeps a subscription, and nothing else; returns whether it is one to be matched.
    pub(super) fn keep_subscription(&mut self, slot: Slot, subscription: &Subscription) -> bool {
        let session = self.sessions.at_mut(slot);
        let number = match session.subscriptions.find(subscription.filter.as_str()) {
            Some(kept) => kept.number,
            None => {
                session.next_subscription += 1;
                session.next_subscription
            }
        };
        let row = SubscriptionRow::from(subscription).encode_to_vec();
        self.dirty.put(Row::Subscription(session.id, number), row.into());
        let kept = Kept::new(subscription, number);
        let is_matched = kept.matched_filter().is_some();
        let replaced = session.subscriptions.insert(kept);
        self.stats.subscriptions += u64::from(replaced.is_none());
        is_matched
    }

    pub(super) fn unsubscribe(&mut self, slot: Slot, filters: &[Arc<TopicFilter>]) -> Answer {
        for filter in filters {
            if let Some(kept) = self.sessions.at_mut(slot).subscriptions.remove(filter.as_str()) {
                self.drop_subscription(slot, &kept);
            }
        }
        Answer::Done
    }

    /// The session keeps QoS 0 now, or no longer does, or begins to serve: nodes need other routes.
    pub(super) fn route_again(&mut self, slot: Slot) {
        let session = self.sessions.at(slot);
        for kept in session.subscriptions.iter() {
            let Some(filter) = kept.matched_filter() else { continue };
            let queue_qos0 = session.limits.queue_qos0;
            let subscriber = Subscriber::new(session.id, slot, kept.options(), kept.id, queue_qos0);
            let change = self.index.insert(filter, subscriber);
            if let Some(change) = change.filter(|_| self.is_watched) {
                self.changes.filters.push((filter.into(), change));
            }
        }
    }

    /// All subscriptions of a session that ends.
    pub(super) fn drop_subscriptions(&mut self, slot: Slot) {
        let subscriptions = std::mem::take(&mut self.sessions.at_mut(slot).subscriptions);
        for kept in subscriptions.iter() {
            self.drop_subscription(slot, kept);
        }
    }

    fn drop_subscription(&mut self, slot: Slot, kept: &Kept) {
        let session = self.sessions.at(slot);
        let (id, is_stored) = (session.id, session.is_stored);
        if let Some(filter) = kept.matched_filter() {
            let change = self.index.remove(filter, id);
            self.note_filter(filter, change);
        }
        if kept.is_shared() && !self.restoring.contains_key(&id) {
            self.leave_group(id, (*kept.filter).into());
        }
        self.dirty.delete(Row::Subscription(id, kept.number), is_stored);
        self.stats.subscriptions -= 1;
    }
}
