//! Topic names in order: the retained store.

use std::{
    collections::{BTreeMap, btree_map::Range},
    fmt,
    ops::Bound,
};

use super::{
    level_order::{Name, OrderedName},
    scan::{Step, first_place, step},
};

/// Maps topic names to values, in the order of their levels: `a`, `a/b`, `a/b/c`, `a/c`, `b`.
///
/// A wildcard look-up touches about as many names as match, plus one or two for each beginning that the filter's `+` can
/// take. It is done in pages of bounded work, between which the map may change.
pub struct TopicMap<V> {
    topics: BTreeMap<OrderedName, V>,
}

impl<V> TopicMap<V> {
    /// A map without topics.
    pub fn new() -> Self {
        Self { topics: BTreeMap::new() }
    }

    /// How many topics there are.
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Whether there are no topics.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Sets the value of a topic and returns the one it had.
    pub fn insert(&mut self, name: &str, value: V) -> Option<V> {
        match self.value_mut(name) {
            Some(old) => Some(std::mem::replace(old, value)),
            None => self.topics.insert(OrderedName(name.into()), value),
        }
    }

    /// Removes a topic and returns its value.
    pub fn remove(&mut self, name: &str) -> Option<V> {
        self.topics.remove(&name as &dyn Name)
    }

    /// The value of a topic.
    pub fn value(&self, name: &str) -> Option<&V> {
        self.topics.get(&name as &dyn Name)
    }

    /// The value of a topic, to be changed.
    pub fn value_mut(&mut self, name: &str) -> Option<&mut V> {
        self.topics.get_mut(&name as &dyn Name)
    }

    /// Visits the topics that match `filter` (which has no share prefix) and come after the topic `after`, in order; with
    /// `None`, from the start.
    ///
    /// Stops when `visit` returns false, and after looking at `steps` topics (at least one), whether they match or not.
    /// Returns the topic that was looked at last, as `after` for the next page, or `None` when there is no further match.
    ///
    /// The topic of `after` need not exist any more. Over all pages, a topic that stays in the map is visited exactly once;
    /// one that comes or goes meanwhile, at most once for each time it is inserted behind the pages so far.
    pub fn page(
        &self,
        filter: &str,
        after: Option<&str>,
        steps: usize,
        mut visit: impl FnMut(&str, &V) -> bool,
    ) -> Option<String> {
        let mut place = String::new();
        let mut topics = match after {
            None => {
                first_place(filter, &mut place);
                self.range(Bound::Included(&place))
            }
            Some(after) => match step(filter, after, &mut place) {
                Step::Match => self.range(Bound::Excluded(after)),
                Step::Seek => self.range(Bound::Included(&place)),
                Step::End => return None,
            },
        };
        let mut looked_at = 0;
        while let Some((OrderedName(name), value)) = topics.next() {
            looked_at += 1;
            let go_on = match step(filter, name, &mut place) {
                Step::Match => visit(name, value),
                Step::Seek => {
                    topics = self.range(Bound::Included(&place));
                    true
                }
                Step::End => return None,
            };
            if !go_on || looked_at >= steps {
                return Some(String::from(&**name));
            }
        }
        None
    }

    /// All topics in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &V)> {
        self.topics.iter().map(|(name, value)| (&*name.0, value))
    }

    fn range(&self, start: Bound<&str>) -> Range<'_, OrderedName, V> {
        let start = start.as_ref().map(|name| name as &dyn Name);
        self.topics.range::<dyn Name, _>((start, Bound::Unbounded))
    }
}

impl<V> Default for TopicMap<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V: fmt::Debug> fmt::Debug for TopicMap<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::topic::{arbitrary, matches};

    #[test]
    fn topics_are_in_the_order_of_their_levels() {
        let map = map(&["b", "a/b", "a!", "a", "a/c", "a/b/c", "/", "$SYS/x"]);
        let names: Vec<_> = map.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["/", "$SYS/x", "a", "a/b", "a/b/c", "a/c", "a!", "b"]);
    }

    #[test]
    fn values_by_name() {
        let mut map = TopicMap::new();
        assert!(map.is_empty());
        assert_eq!(map.insert("a/b", 1), None);
        assert_eq!(map.insert("a/b", 2), Some(1));
        assert_eq!(map.insert("a", 3), None);
        assert_eq!(map.value("a/b"), Some(&2));
        assert_eq!(map.value("a/"), None);
        *map.value_mut("a").unwrap() = 4;
        assert_eq!(map.len(), 2);
        assert_eq!(map.remove("a"), Some(4));
        assert_eq!(map.remove("a"), None);
        assert_eq!(format!("{map:?}"), r#"{"a/b": 2}"#);
    }

    #[test]
    fn look_ups_skip_what_cannot_match() {
        let mut map = TopicMap::new();
        for room in 0..100 {
            for number in 0..100 {
                map.insert(&format!("{room}/{number}/x"), ());
                map.insert(&format!("{room}/{number}/y/z"), ());
            }
        }
        check_work(&map, "+/7/x", 100, 300);
        check_work(&map, "42/+/x", 100, 400);
        check_work(&map, "42/7/#", 2, 3);
        check_work(&map, "42/7/x", 1, 2);
        check_work(&map, "+/7/+/z", 100, 500);
        check_work(&map, "nothing/+/x", 0, 0);
        check_work(&map, "+/nothing/x", 0, 200);
        check_work(&map, "#", 20_000, 20_000);
    }

    #[test]
    fn wildcards_skip_the_topics_of_the_server() {
        // [MQTT-4.7.2-1]
        let mut names: Vec<_> = (0..1_000).map(|number| format!("$SYS/{number}")).collect();
        names.extend(["!".to_owned(), "$".to_owned(), "%".to_owned()]);
        let map = map(&names.iter().map(String::as_str).collect::<Vec<_>>());
        check_work(&map, "#", 2, 3);
        check_work(&map, "+", 2, 3);
        check_work(&map, "$SYS/+", 1_000, 1_001);
    }

    #[test]
    fn a_page_ends_when_the_visitor_says_so() {
        let map = map(&["a/1", "a/2", "a/3"]);
        let mut visited = Vec::new();
        let mut visit = |name: &str, _: &()| {
            visited.push(name.to_owned());
            false
        };
        let cursor = map.page("a/+", None, 100, &mut visit);
        assert_eq!(cursor.as_deref(), Some("a/1"));
        let cursor = map.page("a/+", cursor.as_deref(), 100, &mut visit);
        let cursor = map.page("a/+", cursor.as_deref(), 100, &mut visit);
        assert_eq!(cursor.as_deref(), Some("a/3"));
        assert_eq!(map.page("a/+", cursor.as_deref(), 100, &mut visit), None);
        assert_eq!(visited, ["a/1", "a/2", "a/3"]);
    }

    #[test]
    fn no_steps_are_one_step() {
        let map = map(&["a", "b"]);
        assert_eq!(map.page("+", None, 0, |_, ()| true).as_deref(), Some("a"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn pages_agree_with_the_plain_rules(
            names in prop::collection::vec(arbitrary::name(), 0..60),
            filter in arbitrary::filter(),
            pages in prop::collection::vec((1_usize..8, 1_usize..4), 1..20),
            changes in prop::collection::vec((any::<prop::sample::Index>(), arbitrary::name()), 20),
        ) {
            let mut map = map(&names.iter().map(String::as_str).collect::<Vec<_>>());
            let mut expected: Vec<String> = map.iter().map(|(name, ())| name.to_owned()).filter(|name| matches(&filter, name)).collect();
            let mut visited: Vec<String> = Vec::new();
            let mut cursor: Option<String> = None;
            for ((steps, take), (removed, inserted)) in pages.into_iter().cycle().zip(changes.into_iter().cycle()) {
                let mut left = take;
                cursor = map.page(&filter, cursor.as_deref(), steps, |name, ()| {
                    visited.push(name.to_owned());
                    left -= 1;
                    left > 0
                });
                let Some(last) = cursor.clone() else { break };
                prop_assert!(map.value(&last).is_some());
                // Half of the time the topic of the cursor itself goes.
                let gone = if steps % 2 == 0 { last.clone() } else { removed.get(&names).clone() };
                let is_ahead = |name: &String| super::super::level_order::compare(name, &last).is_gt();
                if map.remove(&gone).is_some() && is_ahead(&gone) {
                    expected.retain(|name| *name != gone);
                }
                if map.insert(&inserted, ()).is_none() && is_ahead(&inserted) && matches(&filter, &inserted) {
                    expected.push(inserted);
                }
                expected.sort_by(|left, right| super::super::level_order::compare(left, right));
            }
            prop_assert_eq!(visited, expected);
        }
    }

    fn map(names: &[&str]) -> TopicMap<()> {
        let mut map = TopicMap::new();
        for name in names {
            map.insert(name, ());
        }
        map
    }

    /// Looks a filter up one step at a time: there are as many matches as expected, and not more steps than `steps_max`.
    fn check_work(map: &TopicMap<()>, filter: &str, expected: usize, steps_max: usize) {
        let (mut matched, mut steps) = (0, 0);
        let mut cursor = None;
        loop {
            cursor = map.page(filter, cursor.as_deref(), 1, |name, ()| {
                assert!(matches(filter, name));
                matched += 1;
                true
            });
            if cursor.is_none() {
                break;
            }
            steps += 1;
        }
        assert_eq!(matched, expected, "{filter}");
        assert!(steps <= steps_max, "{filter} took {steps} steps");
    }
}
