//! Who gets a message, and what a queue does when it is full.

use flotilla_lane::Origin;
use flotilla_mqtt::{
    QoS,
    session::{DeliveryOptions, QueueFull},
};
use flotilla_state::ShardId;

use super::{
    harness::{
        Published, Replica, connection, done, member, message, open, publish, released, say, subscribe,
        subscription,
    },
    model::ids,
};
use crate::{
    Answer, FilterChange, IN_FLIGHT_SPAN, Op, Open, Overlap, Part, PartAnswer, QueueLimits, Queued,
    QueuedMessage, Seq, SessionId, WillFate,
};

fn messages(replica: &Replica, session: SessionId) -> Vec<QueuedMessage> {
    let message = |queued| match queued {
        Queued::Publish(message) => message,
        Queued::Release { seq } => panic!("{seq:?} was not released"),
    };
    replica.all(session).into_iter().map(message).collect()
}

#[test]
fn overlapping_subscriptions_make_one_copy_or_each_its_own() {
    let mut replica = Replica::new();
    let subscriptions = |client| Op::Subscribe {
        connection: connection(client, 1),
        subscriptions: vec![subscription("t/#", 1, 9), subscription("t/1", 2, 4), subscription("+/+", 0, 7)],
    };
    let mut session = |client, overlap| {
        let (_, session) = replica.open(Open { overlap, ..open(client, 1) });
        replica.one(subscriptions(client));
        session.unwrap().id
    };
    let (merge, each) = (session("m", Overlap::Merge), session("e", Overlap::Each));
    replica.one(say("t/1", "x"));
    for _ in 0..2 {
        let merged = messages(&replica, merge);
        // The highest QoS [MQTT-3.3.4-2] and every identifier [MQTT-3.3.4-4].
        assert_eq!(merged.len(), 1);
        assert_eq!((merged[0].qos, ids(&merged[0].subscription_ids)), (QoS::ExactlyOnce, vec![4, 7, 9]));
        let each: Vec<_> =
            messages(&replica, each).iter().map(|copy| (copy.qos, ids(&copy.subscription_ids))).collect();
        assert_eq!(each, [(QoS::ExactlyOnce, vec![4]), (QoS::AtLeastOnce, vec![9])]);
        replica.flush();
        replica.reopen();
    }
}

#[test]
fn what_goes_at_qos_0_is_not_kept() {
    let mut replica = Replica::new();
    let session = replica.subscriber("a", "t");
    replica.one(subscribe("a", 1, &[("u", 0)]));
    let at_most_once = Published { qos: QoS::AtMostOnce, ..Published::new("t", "0") };
    replica.apply(vec![publish(&[at_most_once]), say("u", "0"), say("t", "2")]);
    assert_eq!(replica.payloads(session), [(1, "2".to_owned())]);
    // Nobody needs a route for it either.
    let filters = replica.shard.take_changes().filters;
    assert_eq!(filters.iter().map(|(filter, _)| &**filter).collect::<Vec<_>>(), ["t"]);
}

#[test]
fn qos_0_is_kept_for_a_client_that_is_away_and_wants_it() {
    let mut replica = Replica::new();
    let queue = QueueLimits { messages_max: 4, bytes_max: 1_000, full: QueueFull::DropNewest };
    let of = |client, queue_qos0| Open { queue_qos0, queue, overlap: Overlap::Each, ..open(client, 1) };
    let session = replica.open(of("a", true)).1.unwrap().id;
    let other = replica.open(of("b", false)).1.unwrap().id;
    for client in ["a", "b"] {
        replica.one(subscribe(client, 1, &[("t", 0), ("+", 1)]));
    }
    let at_most_once =
        |payload: &str| publish(&[Published { qos: QoS::AtMostOnce, ..Published::new("t", payload) }]);
    let direct = Op::Direct {
        connection: connection("a", 1),
        options: DeliveryOptions { qos: QoS::AtMostOnce, ..DeliveryOptions::default() },
        message: message("t", "kept"),
        expires_in: None,
    };
    // A client that is there gets it from its node.
    replica.apply(vec![at_most_once("0"), direct.clone(), say("t", "1")]);
    assert_eq!(replica.payloads(session), [(1, "1".to_owned())]);
    replica.one(done("a", [1]));
    replica.close("a", 1, WillFate::Drop);
    replica.close("b", 1, WillFate::Drop);
    // Two subscriptions, two copies, each with its own QoS.
    replica.apply(vec![at_most_once("2"), direct, say("u", "3"), at_most_once("refused")]);
    for _ in 0..2 {
        let kept = messages(&replica, session);
        let kept: Vec<_> = kept.iter().map(|it| (it.qos, it.message.payload().to_vec())).collect();
        let expected = [(QoS::AtMostOnce, "2"), (QoS::AtMostOnce, "2"), (QoS::AtMostOnce, "kept")];
        let expected = expected.into_iter().chain([(QoS::AtLeastOnce, "3")]);
        let expected: Vec<_> = expected.map(|(qos, payload)| (qos, payload.as_bytes().to_vec())).collect();
        assert_eq!(kept, expected);
        assert_eq!(replica.payloads(other), [(1, "1".to_owned()), (2, "3".to_owned())]);
        replica.flush();
        replica.reopen();
    }
    // It is there for the next connection, and leaves as any other.
    let (_, opened) = replica.open(Open { queue_qos0: false, ..of("a", true) });
    assert_eq!(opened.unwrap().head, Seq(2));
    replica.one(done("a", [2, 3, 4]));
    assert_eq!(replica.payloads(session), [(5, "3".to_owned())]);
}

#[test]
fn who_keeps_qos_0_needs_its_routes() {
    let mut replica = Replica::new();
    replica.open(open("a", 1));
    replica.one(subscribe("a", 1, &[("t", 0), ("u", 1), ("$share/g/t", 0)]));
    let check = |replica: &mut Replica, expected: &[(&str, FilterChange)]| {
        let changes = replica.shard.take_changes().filters;
        let changes: Vec<_> = changes.iter().map(|(filter, change)| (&**filter, *change)).collect();
        assert_eq!(changes, expected);
        replica.flush();
        replica.reopen();
    };
    let filters = |replica: &Replica| {
        let mut filters = Vec::new();
        replica.shard.for_each_filter(|filter| filters.push(filter.to_owned()));
        filters.sort();
        assert_eq!(replica.shard.stats().filters, filters.len() as u64);
        filters
    };
    check(&mut replica, &[("u", FilterChange::First)]);
    replica.open(Open { queue_qos0: true, ..open("a", 1) });
    check(&mut replica, &[("t", FilterChange::First)]);
    assert_eq!(filters(&replica), ["t", "u"]);
    replica.one(subscribe("a", 1, &[("v", 0)]));
    check(&mut replica, &[("v", FilterChange::First)]);
    replica.open(open("a", 2));
    check(&mut replica, &[("t", FilterChange::Last), ("v", FilterChange::Last)]);
    assert_eq!(filters(&replica), ["u"]);
}

#[test]
fn no_local_and_retain_as_published() {
    let mut replica = Replica::new();
    let session = replica.open(open("a", 1)).1.unwrap().id;
    let mut own = subscription("t", 1, 1);
    own.options.no_local = true;
    let mut kept = subscription("#", 1, 2);
    kept.options.retain_as_published = true;
    replica.one(Op::Subscribe { connection: connection("a", 1), subscriptions: vec![own, kept] });
    let mut say = |publisher: &str, topic: &str| {
        let publisher = Some(publisher.to_owned());
        replica.one(publish(&[Published { publisher, retain: true, ..Published::new(topic, "x") }]));
        let last = messages(&replica, session).pop().unwrap();
        (last.retain, ids(&last.subscription_ids))
    };
    assert_eq!(say("b", "t"), (true, vec![1, 2]));
    assert_eq!(say("a", "t"), (true, vec![2])); // [MQTT-3.8.3-3]
    replica
        .one(Op::Unsubscribe { connection: connection("a", 1), filters: vec![super::harness::filter("#")] });
    let publisher = Some("a".to_owned());
    replica.one(publish(&[Published { publisher, ..Published::new("t", "own") }]));
    assert_eq!(messages(&replica, session).len(), 2);
}

#[test]
fn subscriptions_of_shared_groups_are_kept_and_not_matched() {
    let mut replica = Replica::new();
    let session = replica.open(open("a", 1)).1.unwrap().id;
    replica.one(subscribe("a", 1, &[("$share/g/t", 1), ("$queue/t", 1)]));
    replica.one(say("t", "x"));
    assert!(replica.all(session).is_empty());
    assert!(replica.shard.take_changes().filters.is_empty());
    assert_eq!(replica.shard.stats().subscriptions, 2);
    replica.flush();
    replica.reopen();
    let (_, session) = replica.open(open("a", 2));
    assert_eq!(session.unwrap().subscriptions.len(), 2);
    replica.one(Op::End { connection: connection("a", 2) });
    assert_eq!(replica.shard.stats().subscriptions, 0);
}

#[test]
fn the_same_message_of_the_same_session_counts_once() {
    let mut replica = Replica::new();
    let session = replica.subscriber("a", "t");
    let mut say = |number, floor, publisher, expected: &str| {
        let origin = Some(Origin { shard: ShardId(9), session: publisher, number, floor });
        replica.one(publish(&[Published { origin, ..Published::new("t", format!("{publisher}:{number}")) }]));
        replica.flush();
        replica.reopen();
        let payloads: Vec<String> =
            replica.payloads(session).into_iter().map(|(_, payload)| payload).collect();
        assert_eq!(payloads.join(" "), expected);
    };
    say(1, 1, 5, "5:1");
    say(1, 1, 5, "5:1");
    say(1, 1, 6, "5:1 6:1");
    say(3, 1, 5, "5:1 6:1 5:3");
    say(2, 2, 5, "5:1 6:1 5:3 5:2");
    say(3, 3, 5, "5:1 6:1 5:3 5:2");
    say(1, 1, 5, "5:1 6:1 5:3 5:2");
    assert_eq!(replica.shard.stats().publishers, 2);
    for id in [5, 6] {
        replica.one(Op::ForgetPublisher { shard: ShardId(9), session: SessionId(id) });
    }
    replica.flush();
    assert_eq!(replica.shard.stats().publishers, 0);
    assert!(replica.rows().iter().all(|(tag, _)| *tag != 8), "{:?}", replica.rows());
}

/// Seven messages for a queue: what is there afterwards.
fn check_queue(window: u16, messages_max: u32, bytes_max: u64, full: QueueFull, expected: &[u64]) {
    let mut replica = Replica::new();
    let queue = QueueLimits { messages_max, bytes_max, full };
    let session = replica.open(Open { window, queue, ..open("a", 1) }).1.unwrap().id;
    replica.one(subscribe("a", 1, &[("t", 1)]));
    for number in 1..=7 {
        // 4 bytes: the topic, two of properties, and the payload.
        replica.one(say("t", &number.to_string()));
        if number % 3 == 0 {
            replica.flush();
        }
    }
    let payloads: Vec<u64> =
        replica.payloads(session).iter().map(|(_, payload)| payload.parse().unwrap()).collect();
    assert_eq!(
        payloads, expected,
        "{window} in flight, {messages_max} messages, {bytes_max} bytes, {full:?}"
    );
    let stats = replica.shard.stats();
    let dropped = stats.dropped_newest + stats.dropped_oldest;
    assert_eq!(dropped, 7 - expected.len() as u64);
}

#[test]
fn what_a_full_queue_keeps() {
    use QueueFull::{DropNewest, DropOldest};
    let any = u64::MAX;
    check_queue(2, 3, any, DropNewest, &[1, 2, 3, 4, 5]);
    check_queue(2, 3, any, DropOldest, &[1, 2, 5, 6, 7]);
    check_queue(0, 3, any, DropNewest, &[1, 2, 3]);
    check_queue(0, 3, any, DropOldest, &[5, 6, 7]);
    check_queue(2, 0, any, DropOldest, &[1, 2]);
    check_queue(0, 0, any, DropNewest, &[]);
    check_queue(2, 9, 8, DropNewest, &[1, 2, 3, 4]);
    check_queue(2, 9, 8, DropOldest, &[1, 2, 6, 7]);
    check_queue(2, 9, 3, DropOldest, &[1, 2]);
    check_queue(9, 0, 0, DropNewest, &[1, 2, 3, 4, 5, 6, 7]);
}

/// Opens a session with a window of 2 and a queue of 3, says 1 to `before`, ends the connection by `end`, and says up to 9:
/// what is there afterwards, also for the next connection, which has a window of `next_window` and hears 10.
fn check_away(before: u64, end: &Op, full: QueueFull, expected: &[u64], next_window: u16, at_last: &[u64]) {
    for is_reopened in [false, true] {
        let mut replica = Replica::new();
        let queue = QueueLimits { messages_max: 3, bytes_max: 1_000, full };
        let session = replica.open(Open { window: 2, queue, ..open("a", 1) }).1.unwrap().id;
        replica.one(subscribe("a", 1, &[("t", 1)]));
        let say_until = |replica: &mut Replica, numbers: std::ops::RangeInclusive<u64>| {
            let said = numbers.map(|number| say("t", &number.to_string()));
            replica.apply(said.chain([Op::Tick]).collect());
            if is_reopened {
                replica.flush();
                replica.reopen();
            }
            let payloads = replica.payloads(session);
            payloads.iter().map(|(_, payload)| payload.parse().unwrap()).collect::<Vec<u64>>()
        };
        say_until(&mut replica, 1..=before);
        replica.one(end.clone());
        let there = say_until(&mut replica, before + 1..=9);
        assert_eq!(there, expected, "{end:?} after {before}, {full:?}, {is_reopened}");
        replica.open(Open { window: next_window, queue, ..open("a", 2) });
        let there = say_until(&mut replica, 10..=10);
        assert_eq!(there, at_last, "{end:?} after {before}, {full:?}, then {next_window}, {is_reopened}");
    }
}

#[test]
fn while_a_client_is_away_the_queue_begins_behind_what_was_sent() {
    use QueueFull::{DropNewest, DropOldest};
    let close = |sent_until| Op::Close {
        connection: connection("a", 1),
        expiry: flotilla_mqtt::session::SessionExpiry::Never,
        will: WillFate::Drop,
        sent_until: Seq(sent_until),
        stored: Vec::new(),
    };
    // Nothing was in flight: the queue has exactly what it may have.
    check_away(0, &close(1), DropNewest, &[1, 2, 3], 2, &[1, 2, 3, 10]);
    check_away(0, &close(1), DropOldest, &[7, 8, 9], 2, &[7, 8, 9, 10]);
    check_away(0, &close(1), DropOldest, &[7, 8, 9], 0, &[8, 9, 10]);
    // One was, of two that might have been.
    check_away(2, &close(2), DropNewest, &[1, 2, 3, 4], 2, &[1, 2, 3, 4, 10]);
    check_away(2, &close(2), DropOldest, &[1, 7, 8, 9], 2, &[1, 7, 8, 9, 10]);
    // All were. They are not dropped because the next connection has a smaller window.
    check_away(2, &close(3), DropOldest, &[1, 2, 7, 8, 9], 0, &[1, 2, 8, 9, 10]);
    check_away(2, &close(99), DropNewest, &[1, 2, 3, 4, 5], 1, &[1, 2, 3, 4, 5]);
    // Nobody knows what was sent.
    let ended = || Op::MemberEnded { member: super::harness::member(1) };
    check_away(0, &ended(), DropNewest, &[1, 2, 3, 4, 5], 2, &[1, 2, 3, 4, 5]);
    check_away(0, &ended(), DropOldest, &[1, 2, 7, 8, 9], 1, &[1, 2, 8, 9, 10]);
    check_away(0, &ended(), DropOldest, &[1, 2, 7, 8, 9], 4, &[1, 2, 7, 8, 9, 10]);
}

#[test]
fn what_an_earlier_connection_may_have_sent_stays_in_flight_when_the_next_one_sends_nothing() {
    let mut replica = Replica::new();
    let queue = QueueLimits { messages_max: 1, bytes_max: 1_000, full: QueueFull::DropOldest };
    let opening = || Open { window: 2, queue, ..open("a", 1) };
    let session = replica.open(opening()).1.unwrap().id;
    replica.one(subscribe("a", 1, &[("t", 1)]));
    replica.apply((1..=3).map(|number| say("t", &number.to_string())).collect());
    replica.one(Op::MemberEnded { member: super::harness::member(1) });
    replica.open(opening());
    replica.close("a", 1, WillFate::Drop);
    replica.one(say("t", "4"));
    let seqs: Vec<u64> = replica.payloads(session).iter().map(|(seq, _)| *seq).collect();
    assert_eq!(seqs, [1, 2, 4]);
}

#[test]
fn what_was_in_flight_leaves_and_what_was_not_does_not_take_its_place() {
    let mut replica = Replica::new();
    let queue = QueueLimits { messages_max: 2, bytes_max: 1_000, full: QueueFull::DropOldest };
    let session = replica.open(Open { window: 3, queue, ..open("a", 1) }).1.unwrap().id;
    replica.one(subscribe("a", 1, &[("t", 1)]));
    replica.apply((1..=3).map(|number| say("t", &number.to_string())).collect());
    let mut check = |op: Op, number: u64, expected: &[u64]| {
        replica.apply(vec![op, say("t", &number.to_string())]);
        replica.flush();
        replica.reopen();
        let seqs: Vec<u64> = replica.payloads(session).iter().map(|(seq, _)| *seq).collect();
        assert_eq!(seqs, expected, "after {number}");
    };
    // The leader drops one while the client is away: the queue has no more places for it.
    let close = Op::Close {
        connection: connection("a", 1),
        expiry: flotilla_mqtt::session::SessionExpiry::Never,
        will: WillFate::Drop,
        sent_until: Seq(4),
        stored: Vec::new(),
    };
    check(close, 4, &[1, 2, 3, 4]);
    check(Op::Discard { session, seqs: vec![Seq(2)] }, 5, &[1, 3, 4, 5]);
    check(Op::Tick, 6, &[1, 3, 5, 6]);
    // With a window of one, two are in flight until one of them is done.
    check(Op::Open(Box::new(Open { window: 1, queue, ..open("a", 1) })), 7, &[1, 3, 6, 7]);
    check(done("a", [1]), 8, &[3, 7, 8]);
    check(done("a", [3]), 9, &[7, 8, 9]);
}

#[test]
fn what_has_expired_makes_room_first() {
    let mut replica = Replica::new();
    let queue = QueueLimits { messages_max: 2, bytes_max: 1_000, full: QueueFull::DropNewest };
    let session = replica.open(Open { window: 1, queue, ..open("a", 1) }).1.unwrap().id;
    replica.one(subscribe("a", 1, &[("t", 1)]));
    let short =
        |payload: &str| publish(&[Published { expires_in: Some(100), ..Published::new("t", payload) }]);
    replica.apply(vec![short("1"), short("2"), say("t", "3"), say("t", "refused")]);
    replica.flush();
    replica.reopen();
    replica.stamp += 100;
    replica.apply(vec![say("t", "4"), say("t", "refused")]);
    // The first may be in flight.
    let payloads: Vec<_> = replica.payloads(session).into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(payloads, ["1", "3", "4"]);
    assert_eq!(replica.shard.stats().expired, 1);
    replica.one(Op::Discard { session, seqs: vec![Seq(1), Seq(2), Seq(99)] });
    assert_eq!((replica.all(session).len(), replica.shard.stats().expired), (2, 2));
}

#[test]
fn acknowledgements_come_in_any_order() {
    let mut replica = Replica::new();
    let session = replica.subscriber("a", "t");
    replica.apply((1..=6).map(|number| say("t", &number.to_string())).collect());
    for is_cold in [false, true] {
        if is_cold {
            replica.flush();
            replica.reopen();
        }
        // Unknown ones, and the same again, change nothing.
        replica.apply(vec![released("a", [2, 5, 0, 77]), done("a", [4, 0, 77]), released("a", [4])]);
        let queued = replica.payloads(session);
        let queued: Vec<_> = queued.iter().map(|(seq, payload)| (*seq, payload.as_str())).collect();
        assert_eq!(queued, [(1, "1"), (2, ""), (3, "3"), (5, ""), (6, "6")]);
        assert_eq!(replica.shard.session(session).unwrap().bytes, 12);
    }
    replica.one(done("a", [2, 1, 3, 6, 5]));
    assert_eq!(replica.shard.bounds(session), Some((Seq(7), Seq(7))));
    replica.one(say("t", "7"));
    assert_eq!(replica.payloads(session), [(7, "7".to_owned())]);
}

#[test]
fn a_retained_message_goes_to_one_session() {
    let mut replica = Replica::new();
    let (session, other) = (replica.subscriber("a", "t"), replica.subscriber("b", "t"));
    let direct = |qos| Op::Direct {
        connection: connection("a", 1),
        options: DeliveryOptions { qos, retain: true, ..DeliveryOptions::default() },
        message: message("t", "kept"),
        expires_in: None,
    };
    let answers = replica.apply(vec![direct(QoS::AtMostOnce), direct(QoS::AtLeastOnce)]);
    assert_eq!(answers, [Answer::Queued(None), Answer::Queued(Some(Seq(1)))]);
    let queued = messages(&replica, session);
    assert_eq!(queued.len(), 1);
    assert_eq!((queued[0].qos, queued[0].retain), (QoS::AtLeastOnce, true));
    assert!(replica.all(other).is_empty());
}

#[test]
fn a_retained_message_is_told_from_one_that_is_published_now() {
    let mut replica = Replica::new();
    let session = replica.open(open("a", 1)).1.unwrap().id;
    let mut published = subscription("t", 1, 0);
    published.options.retain_as_published = true;
    replica.one(Op::Subscribe { connection: connection("a", 1), subscriptions: vec![published] });
    let live = Published { retain: true, retains: true, ..Published::new("t", "live") };
    let direct = Op::Direct {
        connection: connection("a", 1),
        options: DeliveryOptions { qos: QoS::AtLeastOnce, retain: true, ..DeliveryOptions::default() },
        message: message("t", "kept"),
        expires_in: None,
    };
    replica.apply(vec![publish(&[live]), direct]);
    for is_cold in [false, true] {
        if is_cold {
            replica.flush();
            replica.reopen();
        }
        let queued = messages(&replica, session);
        let flags: Vec<_> = queued.iter().map(|it| (it.retain, it.message.retain())).collect();
        assert_eq!(flags, [(true, true), (true, false)]);
    }
}

#[test]
fn the_place_of_a_retained_message_is_told_once() {
    let mut replica = Replica::new();
    let queue = QueueLimits { messages_max: 1, bytes_max: 1_000, full: QueueFull::DropNewest };
    replica.open(Open { window: 1, queue, ..open("a", 1) });
    let direct = |epoch| Op::Direct {
        connection: connection("a", epoch),
        options: DeliveryOptions { qos: QoS::ExactlyOnce, retain: true, ..DeliveryOptions::default() },
        message: message("t", "kept"),
        expires_in: None,
    };
    let part = Part { source: member(7), number: 1, ops: vec![direct(1), direct(1), direct(1)] };
    let places = |places: [Option<Seq>; 3]| [PartAnswer::Applied(places.map(Answer::Queued).to_vec())];
    // One is in flight, one in the queue.
    assert_eq!(replica.apply_parts(vec![part.clone()]), places([Some(Seq(1)), Some(Seq(2)), None]));
    assert_eq!(replica.apply_parts(vec![part]), places([None, None, None]));
    assert_eq!(replica.one(direct(0)), Answer::Fenced);
}

#[test]
fn the_leader_hears_once_who_was_fed() {
    let mut replica = Replica::new();
    let (a, b) = (replica.subscriber("a", "t"), replica.subscriber("b", "t"));
    replica.close("b", 1, WillFate::Drop);
    replica.apply(vec![say("t", "1"), say("t", "2")]);
    assert_eq!(replica.shard.take_changes().fed, [a]);
    assert!(replica.shard.take_changes().fed.is_empty());
    replica.open(open("b", 2));
    replica.one(say("t", "3"));
    assert_eq!(replica.shard.take_changes().fed, [a, b]);
    // Who does not watch is told nothing, and nothing is kept for him.
    replica.shard.watch(false);
    replica.one(say("t", "4"));
    assert_eq!(replica.shard.take_changes(), crate::Changes::default());
    replica.shard.watch(true);
    replica.one(say("t", "5"));
    assert_eq!(replica.shard.take_changes().fed, [a, b]);
}

#[test]
fn identifiers_in_flight_never_repeat() {
    let mut replica = Replica::new();
    let session = replica.subscriber("a", "t");
    let batch: Vec<_> = (0..1_000).map(|_| Published::new("t", "")).collect();
    let ops = vec![publish(&batch); 10];
    for _ in 0..5 {
        replica.apply(ops.clone());
    }
    replica.flush();
    let last = |replica: &Replica, from| {
        replica.shard.deliverable(session, Seq(from), usize::MAX, usize::MAX).unwrap().last().map(Queued::seq)
    };
    assert_eq!(last(&replica, 49_000), Some(Seq(IN_FLIGHT_SPAN)));
    assert_eq!(last(&replica, IN_FLIGHT_SPAN + 1), None);
    // The head does not move when others are done.
    replica.one(done("a", 2..49_000));
    assert_eq!(last(&replica, 0), Some(Seq(IN_FLIGHT_SPAN)));
    replica.one(done("a", [1]));
    assert_eq!(last(&replica, 0), Some(Seq(50_000)));
}
