//! The subscriptions of one session.

use std::{num::NonZeroU32, sync::Arc};

use flotilla_mqtt::{packet::SubscriptionOptions, session::Subscription, topic::TopicFilter};

/// Subscriptions, ordered by the text of their filters.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions(Vec<Kept>);

/// A subscription that a session keeps. Most have one or two, and there may be millions of sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The whole filter.
    pub(crate) filter: Box<str>,
    pub(crate) id: Option<NonZeroU32>,
    /// Names its row within the session.
    pub(crate) number: u32,
    /// As in SUBSCRIBE.
    options: u8,
}

impl Kept {
    pub(crate) fn new(subscription: &Subscription, number: u32) -> Self {
        Self {
            filter: subscription.filter.as_str().into(),
            id: subscription.id,
            number,
            options: subscription.options.bits(),
        }
    }

    pub(crate) fn options(&self) -> SubscriptionOptions {
        SubscriptionOptions::from_bits(self.options).unwrap_or_default()
    }

    /// The filter to match, if it is not one of a shared group.
    pub(crate) fn matched_filter(&self) -> Option<&str> {
        (!self.is_shared()).then_some(&self.filter)
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.filter.starts_with("$share/") || self.filter.starts_with("$queue/")
    }

    pub(crate) fn to_subscription(&self) -> Subscription {
        let filter = TopicFilter::parse(&self.filter, u16::MAX).expect("it was parsed before it was kept");
        Subscription { filter: Arc::new(filter), options: self.options(), id: self.id }
    }
}

impl Subscriptions {
    /// Adds a subscription; returns the one that it replaces.
    pub(crate) fn insert(&mut self, kept: Kept) -> Option<Kept> {
        match self.search(&kept.filter) {
            Ok(index) => Some(std::mem::replace(&mut self.0[index], kept)),
            Err(index) => {
                if self.0.len() < 2 {
                    self.0.reserve_exact(1);
                }
                self.0.insert(index, kept);
                None
            }
        }
    }

    pub(crate) fn remove(&mut self, filter: &str) -> Option<Kept> {
        let removed = self.0.remove(self.search(filter).ok()?);
        if self.0.len() * 4 <= self.0.capacity() {
            self.0.shrink_to_fit();
        }
        Some(removed)
    }

    pub(crate) fn find(&self, filter: &str) -> Option<&Kept> {
        self.search(filter).ok().map(|index| &self.0[index])
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Kept> {
        self.0.iter()
    }

    /// Those of shared groups.
    pub(crate) fn shared(&self) -> impl Iterator<Item = &Kept> {
        // There is nothing between the two prefixes but what begins with one of them, and very little else.
        let from = self.0.partition_point(|kept| *kept.filter < *"$queue/");
        self.0[from..].iter().take_while(|kept| *kept.filter < *"$share0").filter(|kept| kept.is_shared())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    fn search(&self, filter: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|kept| (*kept.filter).cmp(filter))
    }
}
