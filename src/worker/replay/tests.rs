//! Replays without a worker around them.

use std::{collections::HashSet, sync::Arc, time::Duration};

use flotilla_mqtt::{
    Message, PacketId, QoS, Timestamp, Transit, packet::SubscriptionOptions, session::Subscription,
    topic::TopicFilter,
};
use flotilla_shard::Seq;
use flotilla_state::ShardId;

use super::replays::{DirectLimits, PASSED_MAX, Place, Replay, Replays, TRIES_MAX};
use crate::shards::Page;

const NOW: Timestamp = Timestamp::from_millis(1_000);
const ID: u64 = 7;

fn replay(filter: &str, subscribe: u16) -> Replay {
    let filter = Arc::new(TopicFilter::parse(filter, 8).expect("valid"));
    let subscription = Subscription { filter, options: SubscriptionOptions::default(), id: None };
    let subscribe = PacketId::new(subscribe).expect("not zero");
    let place = Some(Place::Shard(ShardId(0), None));
    Replay { subscription, place, subscribe, passed_before: 0 }
}

/// Begins replays of one SUBSCRIBE.
fn begin(replays: &mut Replays, mut new: Vec<Replay>) {
    replays.prepare(&mut new);
    replays.extend(new);
}

/// A look-up that is on its way finds these in the shard; what is to be sent then.
fn find(replays: &mut Replays, shard: u16, topics: &[&str], next: Option<&str>) -> Vec<String> {
    replays.asked = Some(ID);
    assert!(replays.take_page(ShardId(shard), &Page::of(ID, topics, next), 3, NOW));
    replays.page.iter().map(|message| message.topic.to_string()).collect()
}

#[test]
fn a_filter_with_wildcards_goes_through_all_shards_page_by_page() {
    let mut replays = Replays::default();
    begin(&mut replays, vec![replay("+", 1)]);
    let place = |replays: &Replays| replays.replays[0].place.clone();
    for (shard, next) in [(0, Some("a")), (0, None), (1, None), (2, Some("b")), (2, None)] {
        assert!(matches!(place(&replays), Some(Place::Shard(at, _)) if at == ShardId(shard)));
        assert_eq!(find(&mut replays, shard, &[], next), [""; 0]);
    }
    assert_eq!(place(&replays), None);
    let mut exact = Replays::default();
    begin(&mut exact, vec![replay("a", 1)]);
    assert_eq!(find(&mut exact, 0, &["a"], None), ["a"]);
    assert_eq!(place(&exact), None);
}

fn transit<'a>(topic: &'a str, payload: &'a str, retain: bool) -> Transit<'a> {
    Transit::new(topic, b"", payload.as_bytes(), QoS::AtLeastOnce, retain, None, None, None)
}

/// Somebody publishes; `Page::of` has messages with the payload "x".
fn pass(replays: &mut Replays, topic: &str, payload: &str) {
    replays.pass(&transit(topic, payload, true));
}

#[test]
fn what_is_older_than_what_has_passed_is_looked_up_again() {
    let mut replays = Replays::default();
    begin(&mut replays, vec![replay("+", 1)]);
    pass(&mut replays, "a", "x");
    pass(&mut replays, "a", "newer");
    assert_eq!(find(&mut replays, 0, &["a", "b"], None), [""; 0]);
    assert_eq!(replays.replays[0].place, Some(Place::Shard(ShardId(0), None)));
    // Somebody has set what was there before.
    pass(&mut replays, "a", "x");
    assert_eq!(find(&mut replays, 0, &["a", "b"], None), ["a", "b"]);
    replays.page.clear();
    // A deletion that is never done does not keep the rest.
    pass(&mut replays, "c", "");
    for _ in 0..TRIES_MAX {
        assert_eq!(find(&mut replays, 1, &["c", "d"], None), [""; 0]);
    }
    assert_eq!(find(&mut replays, 1, &["c", "d"], None), ["d"]);
}

#[test]
fn what_passes_takes_the_place_of_what_waits_for_its_client() {
    let mut replays = Replays::default();
    begin(&mut replays, vec![replay("+", 1)]);
    find(&mut replays, 0, &["a", "b", "c"], None);
    pass(&mut replays, "a", "newer");
    pass(&mut replays, "b", "");
    let page: Vec<_> = replays.page.iter().map(|found| (&*found.topic, &found.payload[..])).collect();
    assert_eq!(page, [("a", &b"newer"[..]), ("c", b"x")]);
}

#[test]
fn what_was_published_before_a_subscribe_is_no_news_for_it() {
    let mut replays = Replays::default();
    begin(&mut replays, vec![replay("+", 1)]);
    (0..10).for_each(|number| pass(&mut replays, &number.to_string(), "newer"));
    begin(&mut replays, vec![replay("1", 2)]);
    replays.replays.pop_front();
    assert_eq!(find(&mut replays, 0, &["1"], None), ["1"]);
}

#[test]
fn few_messages_that_have_passed_are_known() {
    let mut replays = Replays::default();
    (0..10).for_each(|number| pass(&mut replays, &number.to_string(), "newer"));
    begin(&mut replays, vec![replay("+", 1)]);
    (0..=PASSED_MAX).for_each(|number| pass(&mut replays, &format!("t{number}"), "newer"));
    assert_eq!(replays.passed.len(), PASSED_MAX);
    assert_eq!(find(&mut replays, 0, &["1", "t0"], Some("t0")), ["1", "t0"]);
    replays.page.clear();
    assert_eq!(find(&mut replays, 0, &["t1024"], None), [""; 0]);
}

#[test]
fn an_answer_that_nobody_waits_for_is_ignored() {
    let mut replays = Replays::default();
    begin(&mut replays, vec![replay("+", 1), replay("a", 1)]);
    replays.asked = Some(ID);
    let page = Page::of(ID, &["a"], None);
    assert!(!replays.take_page(ShardId(1), &page, 3, NOW), "of another shard");
    assert!(!replays.take_page(ShardId(0), &Page::of(8, &["a"], None), 3, NOW), "of another look-up");
    assert_eq!(replays.remove(&HashSet::from(["+"])), Some((ShardId(0), ID)));
    assert!(!replays.take_page(ShardId(0), &page, 3, NOW), "of a subscription that is gone");
    assert_eq!(replays.replays.len(), 1);
}

/// The shard is asked to keep what was found first; its number.
fn ask(replays: &mut Replays, expires_in: Option<Duration>) -> u64 {
    let found: Arc<Message> = replays.page.pop_front().expect("something was found");
    replays.ask(&found, expires_in).expect("there is a replay")
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).expect("not zero")
}

#[test]
fn what_is_older_than_what_has_passed_is_not_sent_when_it_comes_from_its_shard() {
    let mut replays = Replays::default();
    pass(&mut replays, "c", "before");
    begin(&mut replays, vec![replay("+", 1)]);
    find(&mut replays, 0, &["a", "b", "c", "d"], None);
    let numbers: Vec<u64> = (0..4).map(|_| ask(&mut replays, None)).collect();
    // The look-up is over, and something newer comes before what was found.
    replays.replays.pop_front();
    pass(&mut replays, "a", "newer");
    pass(&mut replays, "d", "newer");
    pass(&mut replays, "d", "x");
    assert_eq!(replays.answered(numbers[1], Some(Seq(12)), Seq(10), NOW), Some(id(1)));
    let meet = |replays: &Replays, seq, topic| replays.meet(Seq(seq), &transit(topic, "x", false));
    assert_eq!(meet(&replays, 11, "a"), Some((id(1), true)), "its place is not known yet");
    assert_eq!(meet(&replays, 12, "b"), Some((id(1), false)));
    assert_eq!(meet(&replays, 13, "c"), Some((id(1), false)), "that was known to the look-up");
    assert_eq!(meet(&replays, 14, "d"), Some((id(1), false)), "it says the same");
    assert_eq!(meet(&replays, 15, "e"), None, "of an earlier connection");
    pass(&mut replays, "b", "");
    assert_eq!(meet(&replays, 12, "b"), Some((id(1), true)), "it is deleted");
}

#[test]
fn a_message_is_waited_for_until_it_has_come_or_cannot_come() {
    let mut replays = Replays::default();
    begin(&mut replays, vec![replay("+", 1)]);
    find(&mut replays, 0, &["a", "b", "c", "d", "e"], None);
    let left = Duration::from_secs(9);
    let expiring = [None, None, Some(left), Some(left), None];
    let [a, b, c, d, e] = expiring.map(|expires_in| ask(&mut replays, expires_in));
    replays.replays.pop_front();
    assert!(replays.awaits_answer(id(1)) && !replays.awaits_answer(id(2)));
    assert_eq!(replays.next_deadline(), None, "it does not expire before it is kept");
    // It had come already; it is not kept; nobody has asked.
    assert_eq!(replays.answered(a, Some(Seq(4)), Seq(5), NOW), Some(id(1)));
    assert_eq!(replays.answered(b, None, Seq(5), NOW), Some(id(1)));
    assert_eq!(replays.answered(b, None, Seq(5), NOW), None);
    for (number, seq) in [(c, 5), (d, 6), (e, 7)] {
        replays.answered(number, Some(Seq(seq)), Seq(5), NOW);
    }
    assert!(!replays.awaits_answer(id(1)) && !replays.is_empty());
    assert_eq!(replays.next_deadline(), Some(NOW + left));
    assert!(!replays.come(Seq(5), NOW));
    assert!(replays.come(Seq(6), NOW));
    assert_eq!(replays.directs.len(), 2);
    assert!(replays.come(Seq(6), NOW + left));
    assert!(!replays.come(Seq(7), NOW + left) && !replays.is_empty());
    assert!(replays.come(Seq(8), NOW) && replays.is_empty());
}

#[test]
fn few_messages_are_on_their_way_through_a_shard() {
    let limits = DirectLimits { count: 2, bytes: 5 };
    let mut replays = Replays::default();
    begin(&mut replays, vec![replay("+", 1)]);
    find(&mut replays, 0, &["a", "b"], None);
    assert!(replays.has_room(limits, 99), "one may be larger");
    let first = ask(&mut replays, None);
    assert!(replays.has_room(limits, 3) && !replays.has_room(limits, 4));
    ask(&mut replays, None);
    assert!(!replays.has_room(limits, 0));
    // It is unsubscribed: what was asked for still comes.
    assert_eq!(replays.remove(&HashSet::from(["+"])), None);
    assert!(!replays.is_empty() && !replays.has_room(limits, 0));
    replays.answered(first, None, Seq(1), NOW);
    assert!(replays.has_room(limits, 3));
}
