//! A session that moves to another node.

use proptest::prelude::*;

use super::*;

const ELSEWHERE: Timestamp = Timestamp::from_millis(5_000);

/// Moves the session of a client that is away, and has the client connect there.
fn moved(rig: &mut Rig) {
    rig.lose();
    rig.move_to(ELSEWHERE);
    let connect = connect(rig.session.version());
    rig.connect(&connect);
}

fn import(bytes: &[u8], limits: Limits) -> Result<Session, ImportError> {
    let client_id = ClientId::new("client").expect("not empty");
    Session::import(bytes, client_id, Arc::new(limits), ELSEWHERE)
}

fn filter(text: &str) -> Arc<TopicFilter> {
    Arc::new(TopicFilter::parse(text, 128).expect("valid"))
}

/// A session with something of everything, away.
fn rich() -> Rig {
    let mut rig = Rig::new(V5);
    let options = SubscriptionOptions { qos: QoS::ExactlyOnce, no_local: true, ..Default::default() };
    rig.session.subscribe(&filter("a/+"), options, NonZeroU32::new(7)).expect("there is room");
    rig.session.subscribe(&filter("$share/g/b"), Default::default(), None).expect("there is room");
    rig.publish_and_store(publish("up", qos2(3)));
    let shared = DeliveryOptions { shared: Some(filter("$share/g/b")), ..at(QoS::AtLeastOnce) };
    rig.deliver(&message("b", QoS::AtLeastOnce), &shared);
    rig.send("a/1", QoS::ExactlyOnce);
    rig.send("a/2", QoS::ExactlyOnce);
    rig.take(Packet::PubRec(ack(3)));
    rig.lose();
    let expires_at = Some(rig.now + Duration::from_secs(30));
    let message = Message { expires_at, ..message("a/3", QoS::AtLeastOnce) };
    let ids = DeliveryOptions { subscription_ids: many(&[7, 9]), retain: true, ..at(QoS::AtLeastOnce) };
    rig.deliver(&message, &ids);
    rig
}

#[test]
fn what_is_in_flight_is_sent_again_and_the_queue_follows() {
    // [MQTT-4.4.0-1]
    let mut rig = rich();
    rig.deliver(&message("a/4", QoS::ExactlyOnce), &at(QoS::ExactlyOnce));
    rig.move_to(ELSEWHERE);
    rig.connect(&connect(V5));
    rig.send("a/5", QoS::AtLeastOnce);
    rig.expect_sent(&[
        "publish1 'b' 1 dup",
        "publish2 'a/1' 2 dup",
        "pubrel 3",
        "publish1 'a/3' 4 retain expiry=30 ids=[7, 9]",
        "publish2 'a/4' 5",
        "publish1 'a/5' 6",
    ]);
    assert_eq!(rig.session.take_shared(None).len(), 1);
}

#[test]
fn messages_of_qos_0_that_wait_move_too() {
    let mut rig = Rig::with(Limits { queue_qos0: true, ..limits() }, &connect(V5));
    rig.lose();
    rig.send("a", QoS::AtMostOnce);
    rig.send("b", QoS::AtLeastOnce);
    rig.move_to(ELSEWHERE);
    rig.session.connect(rig.now, accept(&connect(V5), &rig.limits).expect("accepted"));
    rig.send("c", QoS::AtMostOnce); // It does not overtake.
    rig.session.resume(rig.now, &mut rig.out);
    rig.expect_sent(&["publish0 'a'", "publish1 'b' 1", "publish0 'c'"]);
}

#[test]
fn subscriptions_and_the_protocol_move() {
    let mut rig = rich();
    let before: Vec<_> = rig.session.subscriptions().cloned().collect();
    rig.move_to(ELSEWHERE);
    assert!(rig.session.subscriptions().eq(&before));
    assert_eq!((rig.session.version(), rig.session.expiry()), (V5, SessionExpiry::from_secs(3600)));
    assert!(!rig.session.is_connected());
}

#[test]
fn a_message_of_qos_2_from_the_client_is_taken_once() {
    // [MQTT-4.3.3-10]
    let mut rig = Rig::new(V5);
    rig.publish_and_store(publish("up", qos2(3)));
    let held_up = rig.publish(publish("up", qos1(4)));
    rig.publish_and_store(publish("up", qos2(5))); // Stored, and its PUBREC waits for the PUBACK before it.
    rig.expect_sent(&["pubrec 3"]);
    moved(&mut rig);
    rig.stored(held_up, ReasonCode::Success); // It means nothing any more.
    rig.take(Packet::PubRel(ack(5))); // Too early: the client has no PUBREC for it.
    rig.expect_sent(&["pubcomp 5 PacketIdentifierNotFound"]);
    rig.take(Packet::Publish(publish("up", qos2(5))));
    rig.take(Packet::PubRel(ack(3)));
    rig.take(Packet::PubRel(ack(5)));
    rig.expect_sent(&["pubrec 5", "pubcomp 3", "pubcomp 5"]);
    rig.publish_and_store(publish("up", qos2(3)));
    rig.expect_sent(&["pubrec 3"]);
}

#[test]
fn a_message_of_qos_2_that_was_being_stored_is_a_new_one() {
    let mut rig = Rig::new(V5);
    let late = rig.publish(publish("up", qos2(3)));
    rig.publish_and_store(publish("up", qos2(4)));
    assert!(rig.session.is_storing());
    moved(&mut rig);
    assert!(!rig.session.is_storing());
    let ticket = rig.publish(publish("up", qos2(3)));
    rig.stored(late, ReasonCode::Success);
    rig.expect_sent(&[]);
    rig.stored(ticket, ReasonCode::Success);
    rig.expect_sent(&["pubrec 3"]);
}

#[test]
fn the_ticket_may_come_back_before_the_session_moves() {
    let mut rig = Rig::new(V5);
    let ticket = rig.publish(publish("up", qos2(3)));
    rig.lose();
    assert!(rig.session.is_storing());
    rig.stored(ticket, ReasonCode::Success);
    assert!(!rig.session.is_storing());
    rig.move_to(ELSEWHERE);
    rig.connect(&connect(V5));
    rig.take(Packet::Publish(publish("up", qos2(3))));
    rig.expect_sent(&["pubrec 3"]);
}

#[test]
fn tickets_mean_nothing_after_the_export_also_when_the_session_stays_or_comes_back() {
    let mut rig = Rig::new(V5);
    let late = rig.publish(publish("up", qos2(3)));
    rig.lose();
    rig.session.export(rig.now);
    rig.stored(late, ReasonCode::Success);
    rig.move_to(ELSEWHERE);
    rig.move_to(rig.now);
    rig.connect(&connect(V5));
    rig.publish(publish("up", qos2(3)));
    rig.stored(late, ReasonCode::Success);
    rig.expect_sent(&[]);
}

#[test]
fn what_is_left_of_every_time_moves() {
    let mut rig = rich();
    rig.wait(Duration::from_secs(20));
    rig.move_to(ELSEWHERE);
    assert_eq!(rig.session.next_deadline(), Some(ELSEWHERE + Duration::from_secs(3580)));
    let mut too_late = rich();
    too_late.wait(Duration::from_secs(30));
    too_late.move_to(ELSEWHERE);
    too_late.connect(&connect(V5));
    assert_eq!(too_late.session.take_report().expired, 1);
}

#[test]
fn a_will_that_waits_does_not_move() {
    // [MQTT-3.1.3-9]
    let mut rig = Rig::with(limits(), &Connect { will: will(10, None), ..connect(V5) });
    assert!(rig.lose().will.is_none());
    let due = rig.session.next_deadline();
    let bytes = rig.session.export(rig.now);
    assert_eq!(rig.session.next_deadline(), due, "in case that the session stays");
    let moved = import(&bytes, limits()).expect("exported");
    assert_eq!(moved.next_deadline(), Some(ELSEWHERE + Duration::from_secs(3600)));
}

#[test]
fn a_queue_is_trimmed_to_the_limits_of_its_new_node() {
    let mut rig = Rig::new(V5);
    rig.lose();
    for topic in ["a", "b", "c", "d"] {
        rig.send(topic, QoS::AtLeastOnce);
    }
    let bytes = rig.session.export(rig.now);
    let check = |limits: Limits, expected: &[&str]| {
        let limits = Arc::new(limits);
        let client_id = ClientId::new("client").expect("not empty");
        let mut session =
            Session::import(&bytes, client_id, Arc::clone(&limits), ELSEWHERE).expect("exported");
        assert_eq!(session.take_report().trimmed, 2);
        let mut rig = Rig { session, out: SendBuffer::new(), now: ELSEWHERE, limits };
        rig.connect(&connect(V5));
        rig.expect_sent(expected);
    };
    let newest = QueueFull::DropNewest;
    let first = ["publish1 'a' 1", "publish1 'b' 2"];
    check(Limits { queue_messages_max: 2, queue_full: newest, ..limits() }, &first);
    check(Limits { queue_bytes_max: 2, queue_full: newest, ..limits() }, &first);
    let oldest = QueueFull::DropOldest;
    let last = ["publish1 'c' 1", "publish1 'd' 2"];
    check(Limits { queue_messages_max: 2, queue_full: oldest, ..limits() }, &last);
    check(Limits { queue_bytes_max: 2, queue_full: oldest, ..limits() }, &last);
}

#[test]
fn what_the_client_has_is_kept_beyond_the_limits_of_the_new_node() {
    let mut rig = rich();
    let narrow = Limits {
        subscriptions_max: 1,
        max_topic_levels: 1,
        max_inflight: NonZeroU16::new(2).expect("not 0"),
        awaiting_rel_max: 0,
        ..limits()
    };
    rig.limits = Arc::new(narrow);
    rig.move_to(ELSEWHERE);
    assert_eq!((rig.session.subscriptions().len(), rig.session.inflight_len()), (2, 3));
    let another = rig.session.subscribe(&filter("c"), SubscriptionOptions::default(), None);
    assert_eq!(another, Err(ReasonCode::QuotaExceeded));
    rig.connect(&connect(V5));
    rig.expect_sent(&["publish1 'b' 1 dup", "publish2 'a/1' 2 dup", "pubrel 3"]);
    rig.take(Packet::PubComp(ack(3)));
    rig.expect_sent(&[]);
    rig.take(Packet::PubAck(ack(1)));
    rig.expect_sent(&["publish1 'a/3' 4 retain expiry=30 ids=[7, 9]"]);
}

#[test]
fn a_message_that_came_twice_moves_once() {
    let mut rig = Rig::new(V5);
    rig.lose();
    let message = Arc::new(Message { payload: vec![0; 10_000].into(), ..message("a", QoS::AtLeastOnce) });
    for _ in 0..5 {
        let transit = Transit::from_message(&message);
        rig.session.deliver(rig.now, &transit, &at(QoS::AtLeastOnce), &mut rig.out);
    }
    assert!(rig.session.export(rig.now).len() < 11_000);
    rig.move_to(ELSEWHERE);
    assert_eq!(rig.session.queue_len(), 5);
}

#[test]
fn another_format_is_refused_by_name() {
    let refused = import(&[0x08, 0x02], limits()).expect_err("refused");
    assert!(matches!(refused, ImportError::UnknownFormat(2)), "{refused}");
    assert!(matches!(import(&[], limits()), Err(ImportError::UnknownFormat(0))), "no bytes are no session");
}

proptest! {
    #[test]
    fn random_bytes_do_no_harm(bytes: Vec<u8>) {
        let _ = import(&bytes, limits());
        let _ = import(&[&[0x08, 0x01], &bytes[..]].concat(), limits());
    }

    #[test]
    fn damaged_bytes_do_no_harm(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut rig = rich();
        let mut bytes = rig.session.export(rig.now).to_vec();
        for (index, byte) in damage {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        if let Ok(session) = import(&bytes, limits()) {
            let mut rig = Rig { session, out: SendBuffer::new(), now: ELSEWHERE, limits: Arc::new(limits()) };
            rig.connect(&connect(V5));
            rig.sent(); // It decodes.
        }
    }

    #[test]
    fn truncated_bytes_do_no_harm(len: prop::sample::Index) {
        let mut rig = rich();
        let bytes = rig.session.export(rig.now);
        let _ = import(&bytes[..len.index(bytes.len())], limits());
    }
}
