//! The subscriptions of one session.

use std::{borrow::Borrow, cmp::Ordering, collections::BTreeSet, num::NonZeroU32, sync::Arc};

use crate::{packet::SubscriptionOptions, topic::TopicFilter};

/// One subscription of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The whole filter, `$share/<group>/` included.
    pub filter: Arc<TopicFilter>,
    /// Its options.
    pub options: SubscriptionOptions,
    /// Its identifier.
    pub id: Option<NonZeroU32>,
}

/// Subscriptions, ordered by the text of their filters.
///
/// Most sessions have one or two: a vector with room for no more. A tree from [`FEW_MAX`] on, so that the cost of one
/// more does not grow with the number.
#[derive(Debug)]
pub(super) enum Subscriptions {
    Few(Vec<Subscription>),
    #[expect(clippy::box_collection, reason = "eight bytes less for each session")]
    Many(Box<BTreeSet<ByFilter>>),
}

impl Default for Subscriptions {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Subscriptions {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few(few) => few.len(),
            Self::Many(many) => many.len(),
        }
    }

    pub(super) fn contains(&self, filter: &str) -> bool {
        match self {
            Self::Few(few) => search(few, filter).is_ok(),
            Self::Many(many) => many.contains(filter),
        }
    }

    /// Adds a subscription; returns the one that it replaces [MQTT-3.8.4-3].
    pub(super) fn insert(&mut self, subscription: Subscription) -> Option<Subscription> {
        let few = match self {
            Self::Many(many) => return many.replace(ByFilter(subscription)).map(|old| old.0),
            Self::Few(few) => few,
        };
        match search(few, subscription.filter.as_str()) {
            Ok(index) => Some(std::mem::replace(&mut few[index], subscription)),
            Err(index) if few.len() < FEW_MAX => {
                if few.len() < 2 {
                    few.reserve_exact(1);
                }
                few.insert(index, subscription);
                None
            }
            Err(_) => {
                let mut many: BTreeSet<_> = few.drain(..).map(ByFilter).collect();
                many.insert(ByFilter(subscription));
                *self = Self::Many(Box::new(many));
                None
            }
        }
    }

    pub(super) fn remove(&mut self, filter: &str) -> Option<Subscription> {
        match self {
            Self::Few(few) => {
                let removed = few.remove(search(few, filter).ok()?);
                if few.len() * 4 <= few.capacity() {
                    few.shrink_to_fit();
                }
                Some(removed)
            }
            Self::Many(many) => {
                let removed = many.take(filter)?.0;
                if many.len() <= FEW_MAX / 2 {
                    let few = std::mem::take(&mut **many);
                    *self = Self::Few(few.into_iter().map(|subscription| subscription.0).collect());
                }
                Some(removed)
            }
        }
    }

    pub(super) fn iter(&self) -> Iter<'_> {
        match self {
            Self::Few(few) => Iter::Few(few.iter()),
            Self::Many(many) => Iter::Many(many.iter()),
        }
    }
}

fn search(few: &[Subscription], filter: &str) -> Result<usize, usize> {
    few.binary_search_by(|subscription| subscription.filter.as_str().cmp(filter))
}

/// Iterates over subscriptions in the order of their filters.
#[derive(Debug)]
pub(super) enum Iter<'a> {
    Few(std::slice::Iter<'a, Subscription>),
    Many(std::collections::btree_set::Iter<'a, ByFilter>),
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a Subscription;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Few(few) => few.next(),
            Self::Many(many) => many.next().map(|subscription| &subscription.0),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            Self::Few(few) => few.size_hint(),
            Self::Many(many) => many.size_hint(),
        }
    }
}

impl ExactSizeIterator for Iter<'_> {}

/// A subscription that is ordered by its filter, and found by it.
#[derive(Debug)]
pub(super) struct ByFilter(Subscription);

impl Borrow<str> for ByFilter {
    fn borrow(&self) -> &str {
        self.0.filter.as_str()
    }
}

impl PartialEq for ByFilter {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for ByFilter {}

impl PartialOrd for ByFilter {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByFilter {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.filter.as_str().cmp(other.0.filter.as_str())
    }
}

/// The most subscriptions that are kept in a vector.
const FEW_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn subscription(filter: &str, id: u32) -> Subscription {
        let filter = TopicFilter::parse(filter, 128).expect("valid");
        let options = SubscriptionOptions::default();
        Subscription { filter: Arc::new(filter), options, id: NonZeroU32::new(id) }
    }

    proptest! {
        #[test]
        fn agrees_with_an_ordered_map(
            ops in prop::collection::vec((prop::bool::weighted(0.7), 0..200_u32), 0..500),
            drains: bool,
        ) {
            let mut subscriptions = Subscriptions::default();
            let mut map = BTreeMap::new();
            let drain = (0..200).filter(|_| drains).map(|key| (false, key));
            for (id, (insert, key)) in (1..).zip(ops.into_iter().chain(drain)) {
                let filter = format!("filter/{key}");
                if insert {
                    let new = subscription(&filter, id);
                    prop_assert_eq!(subscriptions.insert(new.clone()), map.insert(filter.clone(), new));
                } else {
                    prop_assert_eq!(subscriptions.remove(&filter), map.remove(&filter));
                }
                prop_assert_eq!(subscriptions.contains(&filter), map.contains_key(&filter));
                prop_assert_eq!(subscriptions.len(), map.len());
                prop_assert_eq!(subscriptions.iter().len(), map.len());
            }
            prop_assert!(subscriptions.iter().eq(map.values()));
        }
    }

    #[test]
    fn few_subscriptions_take_little_memory() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.insert(subscription("a", 1));
        assert!(matches!(&subscriptions, Subscriptions::Few(few) if few.capacity() == 1));
        for key in 1..FEW_MAX {
            subscriptions.insert(subscription(&key.to_string(), 1));
        }
        assert!(matches!(subscriptions, Subscriptions::Few(_)));
        subscriptions.insert(subscription("0", 1));
        assert!(matches!(subscriptions, Subscriptions::Many(_)));
        for key in 0..FEW_MAX {
            subscriptions.remove(&key.to_string());
        }
        assert!(matches!(&subscriptions, Subscriptions::Few(few) if few.capacity() <= 4));
    }
}
