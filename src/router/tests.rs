//! The router against a plain list of subscriptions.

use super::*;
use flotilla_mqtt::{QoS, packet::SubscriptionOptions};
use std::num::NonZeroU32;

fn session(slot: u32) -> SessionRef {
    SessionRef { worker: u16::try_from(slot % 2).expect("0 or 1"), slot, epoch: 0 }
}

fn subscriber(slot: u32, qos: QoS, id: u32, no_local: bool) -> Subscriber {
    let options = SubscriptionOptions { qos, no_local, ..SubscriptionOptions::default() };
    Subscriber { session: session(slot), terms: Terms::new(options, NonZeroU32::new(id)) }
}

fn filter(text: &str) -> Arc<TopicFilter> {
    Arc::new(TopicFilter::parse(text, 128).expect("a valid filter"))
}

fn router(overlap: Overlap) -> Router {
    Router::new(2, overlap, SharedStrategy::RoundRobin)
}

fn slots(set: &MatchSet) -> Vec<u32> {
    let mut slots: Vec<u32> =
        (0..2).flat_map(|worker| set.of_worker(worker)).map(|target| target.slot).collect();
    slots.sort_unstable();
    slots
}

#[test]
fn a_message_finds_exact_and_wildcard_subscribers_on_every_worker() {
    let router = router(Overlap::Merge);
    let load = Arc::default();
    for (slot, text) in [(1, "a/b"), (2, "a/+"), (3, "#"), (4, "+/b"), (5, "a/c"), (6, "b/#")] {
        router.subscribe(&filter(text), subscriber(slot, QoS::AtMostOnce, 0, false), &load);
    }
    assert_eq!(slots(&router.matches("a/b")), [1, 2, 3, 4]);
    assert_eq!(slots(&router.matches("$SYS/b")), Vec::<u32>::new());
}

#[test]
fn overlapping_subscriptions_become_one_copy_with_the_highest_qos_and_every_identifier() {
    // [MQTT-3.3.4-2]
    let router = router(Overlap::Merge);
    let load = Arc::default();
    router.subscribe(&filter("a/#"), subscriber(1, QoS::AtMostOnce, 7, false), &load);
    router.subscribe(&filter("a/+"), subscriber(1, QoS::ExactlyOnce, 8, false), &load);
    let set = router.matches("a/b");
    let [target] = set.of_worker(1) else { panic!("one copy") };
    assert_eq!(target.grant.qos, QoS::ExactlyOnce);
    let mut ids: Vec<u32> = target.grant.subscription_ids.as_slice().iter().map(|id| id.get()).collect();
    ids.sort_unstable();
    assert_eq!(ids, [7, 8]);
}

#[test]
fn overlapping_subscriptions_become_a_copy_each_when_the_configuration_says_so() {
    let router = router(Overlap::Each);
    let load = Arc::default();
    router.subscribe(&filter("a/#"), subscriber(1, QoS::AtMostOnce, 7, false), &load);
    router.subscribe(&filter("a/+"), subscriber(1, QoS::ExactlyOnce, 8, false), &load);
    assert_eq!(router.matches("a/b").of_worker(1).len(), 2);
}

#[test]
fn no_local_takes_only_its_own_subscription_out_of_a_merged_copy() {
    // [MQTT-3.8.3-3]
    let router = router(Overlap::Merge);
    let load = Arc::default();
    router.subscribe(&filter("a/#"), subscriber(1, QoS::ExactlyOnce, 7, true), &load);
    router.subscribe(&filter("a/+"), subscriber(1, QoS::AtMostOnce, 8, false), &load);
    router.subscribe(&filter("a/b"), subscriber(3, QoS::AtMostOnce, 0, true), &load);
    let set = router.matches("a/b");
    let [first, second] = set.of_worker(1) else { panic!("two sessions") };
    let OwnMessage::Less(grant) = &first.own else { panic!("one subscription is left") };
    assert_eq!((grant.qos, grant.subscription_ids.as_slice().len()), (QoS::AtMostOnce, 1));
    assert_eq!(second.own, OwnMessage::Nothing);
}

#[test]
fn a_cached_match_is_dropped_by_the_changes_that_matter_and_kept_by_the_others() {
    let router = router(Overlap::Merge);
    let load = Arc::default();
    let mut cache = MatchCache::default();
    router.subscribe(&filter("a/b"), subscriber(1, QoS::AtMostOnce, 0, false), &load);
    let first = Arc::clone(cache.matches("a/b", &router));
    assert!(Arc::ptr_eq(&first, cache.matches("a/b", &router)));
    router.subscribe(&filter("+/b"), subscriber(2, QoS::AtMostOnce, 0, false), &load);
    assert_eq!(slots(cache.matches("a/b", &router)), [1, 2]);
    router.unsubscribe(&filter("a/b"), session(1));
    assert_eq!(slots(cache.matches("a/b", &router)), [2]);
}

#[test]
fn routes_begin_with_the_first_subscriber_and_end_with_the_last() {
    let router = router(Overlap::Merge);
    let load = Arc::default();
    let plain = filter("a/b");
    let shared = filter("$share/g/a/b");
    assert_eq!(router.subscribe(&plain, subscriber(1, QoS::AtMostOnce, 0, false), &load), RouteChange::First);
    assert_eq!(
        router.subscribe(&shared, subscriber(2, QoS::AtMostOnce, 0, false), &load),
        RouteChange::Group
    );
    assert_eq!(router.unsubscribe(&plain, session(1)), RouteChange::Last);
    assert_eq!(router.unsubscribe(&plain, session(1)), RouteChange::None);
    assert_eq!(router.unsubscribe(&shared, session(2)), RouteChange::Group);
    assert_eq!(router.len(), 0);
}

#[test]
fn a_filter_with_many_subscribers_loses_none() {
    let mut subscribers = Subscribers::default();
    let all: Vec<u32> = (0..1_000).collect();
    for &slot in &all {
        subscribers.insert(subscriber(slot, QoS::AtMostOnce, 0, false));
        subscribers.insert(subscriber(slot, QoS::AtLeastOnce, 0, false));
    }
    let mut seen = Vec::new();
    subscribers.for_each_direct(|subscriber| seen.push(subscriber.session.slot));
    seen.sort_unstable();
    assert_eq!(seen, all);
    for &slot in &all {
        assert!(subscribers.remove(session(slot)));
        assert!(!subscribers.remove(session(slot)));
    }
    assert!(subscribers.is_empty());
}

const ALL: [SharedStrategy; 6] = [
    SharedStrategy::RoundRobin,
    SharedStrategy::Random,
    SharedStrategy::LeastInflight,
    SharedStrategy::Sticky,
    SharedStrategy::HashClientid,
    SharedStrategy::HashTopic,
];

/// A group of three, slots 0 to 2, each busier than the one before; those in `kept` have sessions that are kept.
fn group(strategy: SharedStrategy, kept: &[u32]) -> Group {
    let group = Group::new(filter("$share/g/t"), strategy);
    for slot in 0..3 {
        let load = Arc::new(Load::new(kept.contains(&slot)));
        load.set_pending(slot as usize + 1);
        group.join(subscriber(slot, QoS::AtLeastOnce, 0, false), &load);
    }
    group
}

/// The members that get this many messages.
fn picks(group: &Group, count: u64, qos: QoS) -> Vec<u32> {
    let publisher = ClientId::new("p");
    let picked = (0..count).filter_map(|random| {
        let hint = PickHint { topic: "t", publisher: publisher.as_ref(), qos, random, exclude: None };
        Some(group.pick(&hint)?.subscriber.session.slot)
    });
    picked.collect()
}

#[test]
fn each_strategy_picks_as_its_name_says() {
    let picks = |strategy, kept, count, qos| picks(&group(strategy, kept), count, qos);
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        assert_eq!(picks(SharedStrategy::RoundRobin, &[], 6, qos), [0, 1, 2, 0, 1, 2]);
        assert_eq!(picks(SharedStrategy::Random, &[], 4, qos), [0, 1, 2, 0]);
        assert_eq!(picks(SharedStrategy::LeastInflight, &[], 3, qos), [0, 0, 0]);
    }
    assert_eq!(picks(SharedStrategy::RoundRobin, &[1], 6, QoS::AtMostOnce), [0, 1, 2, 0, 1, 2]);
    assert_eq!(picks(SharedStrategy::RoundRobin, &[1], 4, QoS::AtLeastOnce), [0, 2, 0, 2]);
    assert_eq!(picks(SharedStrategy::Random, &[1], 4, QoS::ExactlyOnce), [0, 2, 0, 2]);
    assert_eq!(picks(SharedStrategy::LeastInflight, &[0], 3, QoS::AtMostOnce), [0, 0, 0]);
    assert_eq!(picks(SharedStrategy::LeastInflight, &[0], 3, QoS::AtLeastOnce), [1, 1, 1]);
    for strategy in [SharedStrategy::Sticky, SharedStrategy::HashClientid, SharedStrategy::HashTopic] {
        for (kept, qos) in [(&[][..], QoS::AtLeastOnce), (&[2], QoS::AtMostOnce), (&[2], QoS::AtLeastOnce)] {
            let picked = picks(strategy, kept, 5, qos);
            assert!(picked.iter().all(|slot| *slot == picked[0]), "{strategy:?} {picked:?}");
        }
    }
}

#[test]
fn members_whose_sessions_are_kept_get_only_qos_0_from_here() {
    for strategy in ALL {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            assert!(picks(&group(strategy, &[0, 1, 2]), 9, qos).is_empty(), "{strategy:?}");
            let picked = picks(&group(strategy, &[0, 2]), 9, qos);
            assert_eq!(picked, [1; 9], "{strategy:?}");
        }
        assert_eq!(picks(&group(strategy, &[0, 1, 2]), 9, QoS::AtMostOnce).len(), 9, "{strategy:?}");
    }
}

#[test]
fn a_member_that_could_not_take_a_message_is_passed_over() {
    for strategy in ALL {
        let group = group(strategy, &[2]);
        let hint = |random, qos, exclude| PickHint { topic: "t", publisher: None, qos, random, exclude };
        for random in 0..9 {
            let pick = |qos, slot| group.pick(&hint(random, qos, Some(session(slot))));
            let slot = |picked: Option<Picked>| picked.map(|picked| picked.subscriber.session.slot);
            assert_eq!(slot(pick(QoS::AtLeastOnce, 0)), Some(1), "{strategy:?}");
            assert_ne!(slot(pick(QoS::AtMostOnce, 0)), Some(0), "{strategy:?}");
        }
    }
    let alone = Group::new(filter("$share/g/t"), SharedStrategy::Random);
    alone.join(subscriber(9, QoS::AtLeastOnce, 0, false), &Arc::default());
    assert_eq!(picks(&alone, 1, QoS::AtLeastOnce), [9]);
    let hint =
        PickHint { topic: "t", publisher: None, qos: QoS::AtLeastOnce, random: 0, exclude: Some(session(9)) };
    assert!(alone.pick(&hint).is_none());
}

#[test]
fn a_group_counts_its_members() {
    let group = group(SharedStrategy::RoundRobin, &[1, 2]);
    assert_eq!(group.members(), Members { online: 1, kept: 2 });
    // The client has come back with a session that is not kept.
    group.join(subscriber(1, QoS::AtMostOnce, 0, false), &Arc::default());
    assert_eq!(group.members(), Members { online: 2, kept: 1 });
    assert!(!group.leave(session(0)) && !group.leave(session(1)));
    assert_eq!(group.members(), Members { online: 0, kept: 1 });
    assert!(group.leave(session(2)));
}

#[test]
fn a_node_alone_chooses_between_its_members_and_the_shard_of_the_group() {
    let choices = |strategy, kept: &[u32], qos| -> Vec<Option<NodeChoice>> {
        let router = Router::new(2, Overlap::Merge, strategy);
        for slot in 0..3 {
            let load = Arc::new(Load::new(kept.contains(&slot)));
            router.subscribe(&filter("$share/g/t"), subscriber(slot, QoS::AtLeastOnce, 0, false), &load);
        }
        let set = router.matches("t");
        let [target] = &*set.groups else { panic!("one group") };
        let hint = |random| PickHint { topic: "t", publisher: None, qos, random, exclude: None };
        (0..6).map(|random| target.choose(strategy, &hint(random))).collect()
    };
    let (here, shard) = (Some(NodeChoice::Here), Some(NodeChoice::Shard));
    for strategy in ALL {
        assert_eq!(choices(strategy, &[], QoS::AtLeastOnce), [here; 6], "{strategy:?}");
        assert_eq!(choices(strategy, &[0, 1, 2], QoS::ExactlyOnce), [shard; 6], "{strategy:?}");
        assert_eq!(choices(strategy, &[0, 1, 2], QoS::AtMostOnce), [here; 6], "{strategy:?}");
        assert_eq!(choices(strategy, &[1], QoS::AtMostOnce), [here; 6], "{strategy:?}");
    }
    for strategy in [SharedStrategy::RoundRobin, SharedStrategy::Random, SharedStrategy::LeastInflight] {
        let mixed = choices(strategy, &[1], QoS::AtLeastOnce);
        let count = |choice| mixed.iter().filter(|one| **one == choice).count();
        assert_eq!((count(here), count(shard)), (4, 2), "{strategy:?}");
    }
    for strategy in [SharedStrategy::Sticky, SharedStrategy::HashClientid, SharedStrategy::HashTopic] {
        let mixed = choices(strategy, &[1], QoS::AtLeastOnce);
        assert!(mixed.iter().all(|choice| *choice == mixed[0]), "{strategy:?}");
    }
}
