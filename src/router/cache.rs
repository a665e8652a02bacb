//! One worker's memory of the topics that it routed lately.

use std::{collections::HashMap, sync::Arc};

use super::{MatchSet, Router};

/// Match sets by topic. Bounded: it holds two generations of at most [`MatchCache::TOPICS`] topics each; when the young
/// one is full it becomes the old one, and the old one, less what was used since, is forgotten.
#[derive(Debug, Default)]
pub(crate) struct MatchCache {
    young: HashMap<Box<str>, Arc<MatchSet>>,
    old: HashMap<Box<str>, Arc<MatchSet>>,
}

impl MatchCache {
    /// Topics in one generation.
    pub(crate) const TOPICS: usize = 16_384;

    /// The receivers of `topic`, as the router has them now.
    pub(crate) fn matches(&mut self, topic: &str, router: &Router) -> Arc<MatchSet> {
        if let Some(known) = self.young.get(topic)
            && router.is_current(known.generations)
        {
            return Arc::clone(known);
        }
        let known = self.old.remove(topic).filter(|known| router.is_current(known.generations));
        let set = known.unwrap_or_else(|| Arc::new(router.matches(topic)));
        if self.young.len() >= Self::TOPICS {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(topic.into(), Arc::clone(&set));
        set
    }
}
