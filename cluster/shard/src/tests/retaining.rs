//! Retained messages.

use flotilla_mqtt::topic::{check_name, matches};
use proptest::{collection::vec, prelude::*};

use super::harness::{Published, Replica, publish, say};
use crate::{FlushError, Op};

fn retained(topic: &str, payload: &str) -> Published {
    Published { retain: true, retains: true, ..Published::new(topic, payload) }
}

fn retain(topic: &str, payload: &str) -> Op {
    publish(&[retained(topic, payload)])
}

/// The topics and payloads of what a filter finds, page by page.
fn find(replica: &Replica, filter: &str) -> Vec<(String, String)> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = replica.shard.retained(filter, after.as_deref(), (3, 100), replica.stamp);
        let page = page.expect("valid rows");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        found.extend(
            page.messages.iter().map(|message| (message.topic().to_owned(), text(message.payload()))),
        );
        after = page.next;
        if after.is_none() {
            return found;
        }
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(topic, payload)| ((*topic).to_owned(), (*payload).to_owned())).collect()
}

#[test]
fn a_topic_keeps_the_last_message_until_it_is_deleted() {
    // [MQTT-3.3.1-5] [MQTT-3.3.1-6] [MQTT-3.3.1-8]
    for flushes in [false, true] {
        let mut replica = Replica::new();
        for (op, expected) in [
            (retain("a", "1"), &[("a", "1")][..]),
            (retain("a", "22"), &[("a", "22")]),
            (say("a", "passing by"), &[("a", "22")]),
            (say("a", ""), &[("a", "22")]),
            (publish(&[retained("a/b", "3"), retained("b", "4")]), &[("a", "22"), ("a/b", "3"), ("b", "4")]),
            (retain("a", ""), &[("a/b", "3"), ("b", "4")]),
            (retain("never", ""), &[("a/b", "3"), ("b", "4")]),
            (retain("a", "5"), &[("a", "5"), ("a/b", "3"), ("b", "4")]),
        ] {
            replica.one(op);
            if flushes {
                replica.flush();
                replica.reopen();
            }
            assert_eq!(find(&replica, "#"), pairs(expected));
        }
        replica.flush();
        assert_eq!(replica.rows(), [(11, 3), (12, 3)]);
    }
}

#[test]
fn what_is_set_and_deleted_between_two_flushes_never_touches_the_store() {
    let mut replica = Replica::new();
    replica.apply(vec![retain("a", "1"), retain("a", "2"), retain("a", "")]);
    assert_eq!(replica.shard.stats().fresh_bytes, 0);
    replica.apply(vec![retain("a", "3")]);
    replica.flush();
    replica.apply(vec![retain("a", "4"), retain("a", "")]);
    let before = replica.shard.stats();
    replica.flush();
    let after = replica.shard.stats();
    assert_eq!((after.rows_written, after.rows_deleted), (before.rows_written, before.rows_deleted + 2));
    assert!(replica.rows().is_empty());
}

#[test]
fn a_topic_that_is_set_again_and_again_takes_no_more_memory() {
    let mut replica = Replica::new();
    replica.one(retain("a", "0000"));
    let once = replica.shard.stats().fresh_bytes;
    for number in 1..1_000 {
        replica.one(retain("a", &format!("{number:04}")));
    }
    assert_eq!((replica.shard.stats().fresh_bytes, replica.shard.stats().flushes), (once, 0));
    assert_eq!(find(&replica, "a"), pairs(&[("a", "0999")]));
}

#[test]
fn a_message_is_retained_and_goes_to_the_sessions_that_match() {
    let mut replica = Replica::new();
    let session = replica.subscriber("c", "a");
    replica.one(retain("a", "1"));
    assert_eq!(replica.payloads(session), [(1, "1".to_owned())]);
    assert_eq!(find(&replica, "a"), pairs(&[("a", "1")]));
}

#[test]
fn a_repetition_of_qos_2_does_not_set_again() {
    let origin = flotilla_lane::Origin { shard: super::harness::SHARD, session: 1, number: 1, floor: 1 };
    let first = publish(&[Published { origin: Some(origin), ..retained("a", "1") }]);
    let mut replica = Replica::new();
    replica.apply(vec![first.clone(), retain("a", "2"), first]);
    assert_eq!(find(&replica, "a"), pairs(&[("a", "2")]));
}

#[test]
fn what_has_expired_is_not_found_and_goes_with_the_next_tick() {
    let mut replica = Replica::new();
    let expiring = |topic, after| publish(&[Published { expires_in: Some(after), ..retained(topic, "x") }]);
    replica.apply(vec![expiring("a", 50), expiring("b", 80), expiring("c", 50), retain("d", "x")]);
    replica.apply(vec![retain("c", "stays"), expiring("d", 0)]);
    replica.flush();
    replica.reopen();
    assert_eq!(replica.shard.next_deadline(), Some(1_050));
    assert_eq!(find(&replica, "#"), pairs(&[("a", "x"), ("b", "x"), ("c", "stays")]));
    replica.stamp += 50;
    assert_eq!(find(&replica, "#"), pairs(&[("b", "x"), ("c", "stays")]));
    assert_eq!(replica.shard.stats().retained_messages, 3);
    replica.one(Op::Tick);
    assert_eq!((replica.shard.stats().retained_messages, replica.shard.next_deadline()), (2, Some(1_080)));
    replica.flush();
    assert_eq!(replica.rows(), [(11, 2), (12, 2)]);
}

#[test]
fn a_tick_has_bounded_work() {
    let mut replica = Replica::new();
    let many: Vec<Published> = (0..5_000)
        .map(|number| Published { expires_in: Some(1), ..retained(&number.to_string(), "x") })
        .collect();
    replica.apply(many.chunks(500).map(publish).collect());
    replica.stamp += 10;
    for left in [904, 0] {
        replica.one(Op::Tick);
        assert_eq!(replica.shard.stats().retained_messages, left);
    }
    assert_eq!(replica.shard.next_deadline(), None);
}

#[test]
fn beyond_the_limit_nothing_grows() {
    let mut replica = Replica::new();
    replica.apply(vec![retain("a", "22"), retain("b", "22")]);
    replica.retained_full = true;
    let stats = |replica: &Replica| {
        let stats = replica.shard.stats();
        (stats.retained_messages, stats.retained_bytes, stats.retained_refused)
    };
    let (_, bytes, _) = stats(&replica);
    replica.apply(vec![retain("c", "1"), retain("a", "333"), retain("b", "44")]);
    assert_eq!(find(&replica, "#"), pairs(&[("a", "22"), ("b", "44")]));
    assert_eq!(stats(&replica), (2, bytes, 2));
    replica.apply(vec![retain("a", ""), retain("b", "5")]);
    assert_eq!(find(&replica, "#"), pairs(&[("b", "5")]));
    replica.retained_full = false;
    replica.one(retain("c", "1"));
    assert_eq!(find(&replica, "#"), pairs(&[("b", "5"), ("c", "1")]));
}

#[test]
fn a_full_disk_loses_nothing() {
    let mut replica = Replica::new();
    replica.one(retain("a", "1"));
    replica.store.set_full(true);
    assert!(matches!(replica.shard.flush(), Err(FlushError::Store(_))));
    assert_eq!(find(&replica, "a"), pairs(&[("a", "1")]));
    replica.store.set_full(false);
    replica.flush();
    replica.reopen();
    assert_eq!(find(&replica, "a"), pairs(&[("a", "1")]));
}

fn name() -> impl Strategy<Value = String> {
    "[ab/]{1,6}".prop_filter("it is a name", |name| check_name(name, 16).is_ok())
}

proptest! {
    #[test]
    fn look_ups_agree_with_the_plain_rules(
        names in vec(name(), 0..40),
        filter in "([ab]?/|\\+/){0,3}([ab]|\\+|#)",
    ) {
        let mut replica = Replica::new();
        let messages: Vec<_> = names.iter().map(|name| retained(name, name)).collect();
        for (step, message) in messages.iter().enumerate() {
            replica.one(publish(std::slice::from_ref(message)));
            if step % 7 == 3 {
                replica.flush();
            }
        }
        let mut expected: Vec<_> = names.into_iter().filter(|name| matches(&filter, name)).collect();
        expected.sort();
        expected.dedup();
        let mut found = find(&replica, &filter);
        prop_assert!(found.iter().all(|(topic, payload)| topic == payload));
        found.sort();
        let topics: Vec<_> = found.into_iter().map(|(topic, _)| topic).collect();
        prop_assert_eq!(topics, expected);
    }
}
