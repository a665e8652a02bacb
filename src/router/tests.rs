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

/// Picks `count` times from a group of three, slots 0 to 2, of which slot 1 is away if `away`.
fn picks(strategy: SharedStrategy, count: u64, away: bool) -> Vec<u32> {
    let group = Group::new(filter("$share/g/t"), strategy);
    for slot in 0..3 {
        let load = Arc::new(Load::default());
        if away && slot == 1 {
            load.set_away();
        } else {
            load.set_pending(slot as usize + 1);
        }
        group.join(subscriber(slot, QoS::AtLeastOnce, 0, false), &load);
    }
    let publisher = ClientId::new("p");
    (0..count)
        .map(|random| {
            let hint = PickHint { topic: "t", publisher: publisher.as_ref(), random, exclude: None };
            group.pick(&hint).expect("somebody").subscriber.session.slot
        })
        .collect()
}

#[test]
fn each_strategy_picks_as_its_name_says() {
    assert_eq!(picks(SharedStrategy::RoundRobin, 6, false), [0, 1, 2, 0, 1, 2]);
    assert_eq!(picks(SharedStrategy::RoundRobin, 4, true), [0, 2, 0, 2]);
    assert_eq!(picks(SharedStrategy::Random, 4, false), [0, 1, 2, 0]);
    assert_eq!(picks(SharedStrategy::LeastInflight, 3, false), [0, 0, 0]);
    for strategy in [SharedStrategy::Sticky, SharedStrategy::HashClientid, SharedStrategy::HashTopic] {
        let picked = picks(strategy, 5, false);
        assert!(picked.iter().all(|slot| *slot == picked[0]), "{strategy:?} {picked:?}");
    }
}

#[test]
fn a_member_that_is_away_keeps_messages_only_when_nobody_is_there() {
    let group = Group::new(filter("$share/g/t"), SharedStrategy::RoundRobin);
    let load = Arc::new(Load::default());
    load.set_away();
    group.join(subscriber(9, QoS::AtLeastOnce, 0, false), &load);
    let hint = PickHint { topic: "t", publisher: None, random: 0, exclude: None };
    assert_eq!(group.pick(&hint).expect("the one that is away").subscriber.session.slot, 9);
    assert!(group.pick(&PickHint { exclude: Some(session(9)), ..hint }).is_none());
}

#[test]
fn a_pick_finds_somebody_while_clients_come_and_go() {
    let group = Arc::new(Group::new(filter("$share/g/t"), SharedStrategy::RoundRobin));
    let loads: Vec<Arc<Load>> = (0..4).map(|_| Arc::default()).collect();
    for (slot, load) in (0..).zip(&loads) {
        group.join(subscriber(slot, QoS::AtLeastOnce, 0, false), load);
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in (0..4).cycle() {
                loads[round].set_away();
                loads[(round + 1) % 4].set_pending(0);
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let lost = (0..200_000_u64).filter(|&random| {
            group.pick(&PickHint { topic: "t", publisher: None, random, exclude: None }).is_none()
        });
        let lost = lost.count();
        done.store(true, Ordering::Relaxed);
        assert_eq!(lost, 0);
    });
}
