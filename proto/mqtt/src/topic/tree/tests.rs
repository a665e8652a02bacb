//! The tree against the plain matching rules, and against its bounds.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::topic::matches;

#[derive(Debug, Clone)]
enum Op {
    Insert(String),
    Remove(String),
    Match(String),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn tree_agrees_with_the_plain_rules(ops in prop::collection::vec(op(), 0..120)) {
        let mut model: BTreeMap<String, u32> = BTreeMap::new();
        let mut tree: FilterTree<u32> = FilterTree::new();
        for (number, op) in (1..).zip(ops) {
            match op {
                Op::Insert(filter) => {
                    let value = tree.entry(&filter);
                    prop_assert_eq!(*value, model.get(&filter).copied().unwrap_or_default());
                    *value = number;
                    model.insert(filter, number);
                }
                Op::Remove(filter) => prop_assert_eq!(tree.remove(&filter), model.remove(&filter)),
                Op::Match(name) => {
                    let expected = model.iter().filter(|(filter, _)| matches(filter, &name)).map(|(_, value)| *value);
                    prop_assert_eq!(found(&tree, &name), sorted(expected));
                }
            }
            tree.check_invariants();
            prop_assert_eq!(tree.len(), model.len());
            prop_assert!(tree.wildcard.node_count().0 <= 2 * tree.wildcard.len() + 1);
        }
        for (filter, value) in &mut model {
            prop_assert_eq!(tree.value(filter), Some(&*value));
            prop_assert_eq!(tree.value_mut(filter), Some(value));
        }
        let listed: BTreeMap<_, _> = tree.iter().map(|(filter, value)| (filter, *value)).collect();
        prop_assert_eq!(&listed, &model);
        prop_assert_eq!(sorted(tree.values().copied()), sorted(model.values().copied()));
        for filter in model.keys() {
            tree.remove(filter);
        }
        prop_assert!(tree.is_empty());
        tree.check_invariants();
        prop_assert_eq!(tree.wildcard.node_count().0, 1);
    }
}

#[test]
fn values_are_found_by_text_and_not_by_match() {
    let mut tree = tree(&["a/+", "a/b", "#", "a/#", "+/b"]);
    assert_eq!(tree.value("a/c"), None);
    assert_eq!(tree.value("+"), None);
    assert_eq!(tree.value("a"), None);
    assert_eq!(tree.value("a/b/#"), None);
    assert_eq!(tree.remove("+/c"), None);
    assert_eq!(tree.remove("+/#"), None);
    assert_eq!(tree.value_mut("a/+/#"), None);
    assert_eq!(tree.len(), 5);
    assert_eq!(found(&tree, "a/b"), ["#", "+/b", "a/#", "a/+", "a/b"]);
    assert_eq!(tree.remove("#").as_deref(), Some("#"));
    assert_eq!(found(&tree, "a"), ["a/#"]);
}

#[test]
fn leading_wildcards_skip_dollar_topics() {
    // [MQTT-4.7.2-1]
    let tree = tree(&["#", "+/uptime", "+/#", "$SYS/#", "$SYS/+", "$SYS/uptime", "+", "$x", "$+"]);
    assert_eq!(found(&tree, "$SYS/uptime"), ["$SYS/#", "$SYS/+", "$SYS/uptime"]);
    assert_eq!(found(&tree, "$SYS"), ["$SYS/#"]);
    assert_eq!(found(&tree, "$x"), ["$x"]);
    assert_eq!(found(&tree, "x/uptime"), ["#", "+/#", "+/uptime"]);
}

#[test]
fn paths_are_split_and_joined() {
    let mut tree = tree(&["a/b/c/d/+"]);
    assert_eq!(tree.wildcard.node_count().0, 2);
    tree.entry("a/b/+/#");
    assert_eq!(tree.wildcard.node_count().0, 4);
    tree.entry("a/b/#");
    assert_eq!(tree.wildcard.node_count().0, 4);
    tree.check_invariants();
    assert_eq!(found(&tree, "a/b/c/d/e").len(), 3);
    tree.remove("a/b/+/#");
    assert_eq!(tree.wildcard.node_count().0, 3);
    tree.remove("a/b/#");
    assert_eq!(tree.wildcard.node_count().0, 2);
    tree.check_invariants();
    assert_eq!(found(&tree, "a/b/c/d/e"), ["a/b/c/d/+"]);
}

#[test]
fn deep_filters_cost_two_nodes_at_most() {
    let deep = vec!["+"; 65_535 / 2].join("/");
    let mut tree = tree(&[&deep, &format!("{deep}/#"), &format!("{deep}/a"), "+/a/#"]);
    tree.check_invariants();
    assert!(tree.wildcard.node_count().0 <= 2 * 4 + 1);
    assert_eq!(found(&tree, &vec!["a"; 65_535 / 2].join("/")).len(), 3);
    assert_eq!(tree.remove(&deep), Some(deep));
    tree.check_invariants();
}

#[test]
fn match_does_not_try_what_cannot_match() {
    let mut tree = FilterTree::<u32>::new();
    for number in 0..2_000 {
        tree.entry(&format!("site/{number}/dev/+"));
        tree.entry(&format!("+/{number}/dev/#"));
        tree.entry(&format!("other/{number}/+/x"));
        tree.entry(&format!("exact/{number}"));
    }
    let mut visited = 0;
    let tried = tree.wildcard.for_each_match("site/77/dev/5", |_| visited += 1);
    assert_eq!(visited, 2);
    assert_eq!(tried, 4, "site, its 77/dev/+, the first +, its 77/dev");
    assert_eq!(tree.wildcard.for_each_match("nobody/x/y", |_| ()), 1);
}

#[test]
fn match_tries_each_node_at_most_once() {
    // Every mixture of + and a over twelve levels: the worst there is, as all paths match the topic.
    let mut tree = FilterTree::<u32>::new();
    for mask in 0_u32..1 << 12 {
        let levels: Vec<_> = (0..12).map(|bit| if mask >> bit & 1 == 1 { "+" } else { "a" }).collect();
        tree.entry(&format!("{}/+", levels.join("/")));
    }
    let (nodes, _) = tree.wildcard.node_count();
    let mut visited = 0;
    let tried = tree.wildcard.for_each_match(&["a"; 13].join("/"), |_| visited += 1);
    assert_eq!(visited, 1 << 12);
    assert_eq!(tried, nodes - 1);
    assert!(tree.wildcard.for_each_match(&["b"; 13].join("/"), |_| ()) <= 2 * 13);
}

#[test]
fn many_open_branches() {
    let depth = 128;
    let filters: Vec<_> = (0..depth)
        .map(|plus| {
            (0..depth).map(|level| if level == plus { "+" } else { "a" }).collect::<Vec<_>>().join("/")
        })
        .collect();
    let filters: Vec<_> = filters.iter().map(String::as_str).collect();
    let tree = tree(&filters);
    assert_eq!(found(&tree, &vec!["a"; depth].join("/")).len(), depth);
}

#[test]
fn churn_does_not_grow_the_tree() {
    let mut tree = FilterTree::<u32>::new();
    let filters = |round: u32| {
        (0..100).flat_map(move |i| {
            [format!("x/{round}/{i}/+"), format!("x/{round}/{i}/y/#"), format!("{round}/{i}")]
        })
    };
    for round in 0..200 {
        for filter in filters(round) {
            tree.entry(&filter);
        }
        for filter in filters(round) {
            assert!(tree.remove(&filter).is_some());
        }
        assert_eq!(tree.wildcard.node_count().0, 1);
        assert!(tree.wildcard.node_count().1 <= 64);
        assert!(tree.exact.room() <= 8 * 64);
    }
}

#[test]
fn shrinking_keeps_what_is_left() {
    let mut tree = FilterTree::<u32>::new();
    let filter = |number: u32| format!("a/{}/{number}/+", number % 7);
    for number in 0..3_000 {
        *tree.entry(&filter(number)) = number;
        *tree.entry(&format!("e/{number}")) = number;
    }
    for number in (0..3_000).filter(|number| number % 100 != 5) {
        assert_eq!(tree.remove(&filter(number)), Some(number));
        assert_eq!(tree.remove(&format!("e/{number}")), Some(number));
    }
    tree.check_invariants();
    assert!(tree.wildcard.node_count().1 < 500);
    assert!(tree.exact.room() < 1_024);
    for number in 0..3_000 {
        let expected = if number % 100 == 5 { vec![number] } else { vec![] };
        assert_eq!(found(&tree, &format!("a/{}/{number}/z", number % 7)), expected);
        assert_eq!(found(&tree, &format!("e/{number}")), expected);
    }
}

fn tree(filters: &[&str]) -> FilterTree<String> {
    let mut tree = FilterTree::new();
    for filter in filters {
        *tree.entry(filter) = (*filter).to_owned();
    }
    tree
}

fn found<V: Ord + Clone>(tree: &FilterTree<V>, name: &str) -> Vec<V> {
    let mut values = Vec::new();
    tree.for_each_match(name, |value| values.push(value.clone()));
    sorted(values)
}

fn sorted<V: Ord>(values: impl IntoIterator<Item = V>) -> Vec<V> {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort();
    values
}

fn op() -> impl Strategy<Value = Op> {
    use crate::topic::arbitrary::{filter, name};
    prop_oneof![filter().prop_map(Op::Insert), filter().prop_map(Op::Remove), name().prop_map(Op::Match)]
}
