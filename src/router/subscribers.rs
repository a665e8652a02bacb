//! Who subscribes to one filter.

use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc};

use flotilla_mqtt::{QoS, packet::SubscriptionOptions, topic::TopicFilter};

use super::{Group, Load, SessionRef};
use crate::config::SharedStrategy;

/// One session's subscription to one filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subscriber {
    pub(crate) session: SessionRef,
    pub(crate) terms: Terms,
}

/// What a subscription asks for, as far as routing cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) id: Option<NonZeroU32>,
}

impl Terms {
    pub(crate) fn new(options: SubscriptionOptions, id: Option<NonZeroU32>) -> Self {
        let SubscriptionOptions { qos, no_local, retain_as_published, retain_handling: _ } = options;
        Self { qos, no_local, retain_as_published, id }
    }
}

/// Everybody who subscribes to one filter: sessions, and groups that share a subscription.
#[derive(Debug, Default)]
pub(crate) struct Subscribers {
    direct: Direct,
    #[expect(clippy::box_collection, reason = "nearly all filters have none: one word, not three")]
    groups: Option<Box<Vec<Arc<Group>>>>,
}

// There is one for each filter.
const _: () = assert!(size_of::<Subscribers>() <= 32);

/// Most filters have one subscriber, a few have a million: the first must be small, the second must not be searched
/// from end to end.
#[derive(Debug, Default)]
enum Direct {
    #[default]
    None,
    One(Subscriber),
    #[expect(clippy::box_collection, reason = "it is rare, and would make all others larger")]
    Few(Box<Vec<Subscriber>>),
    #[expect(clippy::box_collection, reason = "it is rare, and would make all others larger")]
    Many(Box<BTreeMap<SessionRef, Terms>>),
}

const FEW: usize = 64;

impl Subscribers {
    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_none() && self.direct.len() == 0
    }

    /// Whether sessions subscribe to it for themselves.
    pub(crate) fn has_direct(&self) -> bool {
        self.direct.len() > 0
    }

    pub(crate) fn groups(&self) -> &[Arc<Group>] {
        self.groups.as_ref().map_or(&[], |groups| groups)
    }

    pub(crate) fn for_each_direct(&self, mut visit: impl FnMut(Subscriber)) {
        match &self.direct {
            Direct::None => {}
            Direct::One(one) => visit(*one),
            Direct::Few(few) => few.iter().copied().for_each(visit),
            Direct::Many(many) => {
                many.iter().for_each(|(&session, &terms)| visit(Subscriber { session, terms }));
            }
        }
    }

    /// Adds or replaces the subscription of a session.
    pub(crate) fn insert(&mut self, subscriber: Subscriber) {
        match &mut self.direct {
            Direct::None => self.direct = Direct::One(subscriber),
            Direct::One(one) if one.session == subscriber.session => *one = subscriber,
            Direct::One(one) => self.direct = Direct::Few(Box::new(vec![*one, subscriber])),
            Direct::Few(few) => {
                if let Some(old) = few.iter_mut().find(|old| old.session == subscriber.session) {
                    *old = subscriber;
                } else if few.len() < FEW {
                    few.push(subscriber);
                } else {
                    let mut many: BTreeMap<_, _> = few.iter().map(|old| (old.session, old.terms)).collect();
                    many.insert(subscriber.session, subscriber.terms);
                    self.direct = Direct::Many(Box::new(many));
                }
            }
            Direct::Many(many) => {
                many.insert(subscriber.session, subscriber.terms);
            }
        }
    }

    /// Removes the subscription of a session; returns whether there was one.
    pub(crate) fn remove(&mut self, session: SessionRef) -> bool {
        match &mut self.direct {
            Direct::One(one) if one.session == session => {
                self.direct = Direct::None;
                true
            }
            Direct::None | Direct::One(_) => false,
            Direct::Few(few) => {
                let Some(position) = few.iter().position(|old| old.session == session) else { return false };
                few.swap_remove(position);
                if let [one] = few[..] {
                    self.direct = Direct::One(one);
                }
                true
            }
            Direct::Many(many) => {
                let removed = many.remove(&session).is_some();
                if many.len() < FEW / 2 {
                    let few = many.iter().map(|(&session, &terms)| Subscriber { session, terms }).collect();
                    self.direct = Direct::Few(Box::new(few));
                }
                removed
            }
        }
    }

    pub(crate) fn group(&self, filter: &TopicFilter) -> Option<&Arc<Group>> {
        self.groups().iter().find(|group| group.filter().share_group() == filter.share_group())
    }

    /// Makes a session a member of the group of `filter`; returns whether the group is new.
    pub(crate) fn join(
        &mut self,
        filter: &Arc<TopicFilter>,
        strategy: SharedStrategy,
        subscriber: Subscriber,
        load: &Arc<Load>,
    ) -> bool {
        if let Some(group) = self.group(filter) {
            group.join(subscriber, load);
            return false;
        }
        let group = Group::new(Arc::clone(filter), strategy);
        group.join(subscriber, load);
        self.groups.get_or_insert_default().push(Arc::new(group));
        true
    }

    /// Takes a session out of the group of `filter`; returns whether the group is gone.
    pub(crate) fn leave(&mut self, filter: &TopicFilter, session: SessionRef) -> bool {
        let Some(groups) = &mut self.groups else { return false };
        let is_it = |group: &Arc<Group>| group.filter().share_group() == filter.share_group();
        let Some(position) = groups.iter().position(is_it) else { return false };
        let now_empty = groups[position].leave(session);
        if now_empty {
            groups.swap_remove(position);
        }
        if groups.is_empty() {
            self.groups = None;
        }
        now_empty
    }
}

impl Direct {
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::Few(few) => few.len(),
            Self::Many(many) => many.len(),
        }
    }
}
