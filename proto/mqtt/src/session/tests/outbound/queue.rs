//! Messages that wait, for the client or for room.

use super::*;

#[test]
fn messages_wait_for_a_client_that_is_away() {
    let mut rig = Rig::new(V5);
    rig.lose();
    assert_eq!(rig.send("a", AtLeastOnce), queued());
    assert_eq!(rig.send("b", ExactlyOnce), queued());
    assert_eq!(rig.send("c", AtMostOnce), Delivered::Dropped(DropReason::Qos0Offline));
    rig.connect(&connect(V5));
    rig.expect_sent(&["publish1 'a' 1", "publish2 'b' 2"]);
    assert_eq!(rig.session.take_report(), QueueReport { sent: [0, 1, 1], ..QueueReport::default() });
}

#[test]
fn qos_0_can_be_kept_for_a_client_that_is_away_and_is_not_overtaken() {
    let limits = Limits { queue_qos0: true, max_inflight: NonZeroU16::MIN, ..limits() };
    let mut rig = Rig::with(limits, &connect(V5));
    rig.lose();
    for (topic, qos) in [("a", AtLeastOnce), ("b", AtLeastOnce), ("c", AtMostOnce)] {
        assert_eq!(rig.send(topic, qos), queued());
    }
    rig.connect(&connect(V5));
    rig.expect_sent(&["publish1 'a' 1"]);
    assert_eq!(rig.send("d", AtMostOnce), queued());
    rig.take(Packet::PubAck(ack(1)));
    rig.expect_sent(&["publish1 'b' 2", "publish0 'c'", "publish0 'd'"]);
    assert_eq!(rig.send("e", AtMostOnce), Delivered::Sent);
    assert_eq!(
        rig.session.take_report(),
        QueueReport { sent: [2, 2, 0], acked: 1, ..QueueReport::default() }
    );
}

#[test]
fn nothing_is_sent_before_connack() {
    // [MQTT-3.2.0-1]
    let mut rig = Rig::new(V5);
    rig.lose();
    let accepted = accept(&connect(V5), &limits()).expect("accepted");
    rig.session.connect(rig.now, accepted);
    assert_eq!(rig.send("a", AtLeastOnce), queued());
    rig.send("b", AtMostOnce);
    rig.pump();
    rig.expect_sent(&[]);
    rig.session.resume(rig.now, &mut rig.out);
    rig.expect_sent(&["publish1 'a' 1"]);
}

#[test]
fn full_queue_drops_the_newest() {
    let mut rig = Rig::with(Limits { queue_messages_max: 2, ..limits() }, &connect(V5));
    rig.lose();
    rig.send("a", AtLeastOnce);
    rig.send("b", AtLeastOnce);
    assert_eq!(rig.send("c", AtLeastOnce), Delivered::Dropped(DropReason::QueueFull));
    rig.connect(&connect(V5));
    rig.expect_sent(&["publish1 'a' 1", "publish1 'b' 2"]);
}

#[test]
fn full_queue_drops_the_oldest() {
    let limits = Limits { queue_messages_max: 2, queue_full: QueueFull::DropOldest, ..limits() };
    let mut rig = Rig::with(limits, &connect(V5));
    rig.lose();
    rig.send("a", AtLeastOnce);
    rig.send("b", AtLeastOnce);
    assert_eq!(rig.send("c", AtLeastOnce), Delivered::Queued { displaced: 1 });
    rig.connect(&connect(V5));
    rig.expect_sent(&["publish1 'b' 1", "publish1 'c' 2"]);
}

#[test]
fn queue_is_bounded_in_bytes() {
    let limits = Limits { queue_bytes_max: 10, queue_full: QueueFull::DropOldest, ..limits() };
    let mut rig = Rig::with(limits, &connect(V5));
    rig.lose();
    for topic in ["1", "22", "333", "4444"] {
        assert_eq!(rig.send(topic, AtLeastOnce), queued());
    }
    assert_eq!(rig.send("elevenbytes", AtLeastOnce), Delivered::Dropped(DropReason::QueueFull));
    assert_eq!(rig.send("55555", AtLeastOnce), Delivered::Queued { displaced: 3 });
    rig.connect(&connect(V5));
    rig.expect_sent(&["publish1 '4444' 1", "publish1 '55555' 2"]);
}

#[test]
fn a_queue_may_be_forbidden() {
    for queue_full in [QueueFull::DropNewest, QueueFull::DropOldest] {
        let mut rig = Rig::with(Limits { queue_messages_max: 0, queue_full, ..limits() }, &connect(V5));
        rig.lose();
        assert_eq!(rig.send("a", AtLeastOnce), Delivered::Dropped(DropReason::QueueFull));
    }
}

#[test]
fn expired_messages_make_room_first() {
    let mut rig = Rig::with(Limits { queue_messages_max: 1, ..limits() }, &connect(V5));
    rig.lose();
    let soon = rig.now + SECOND;
    rig.deliver(&expiring("a", soon), &at(AtLeastOnce));
    rig.wait(SECOND);
    assert_eq!(rig.send("b", AtLeastOnce), queued());
    assert_eq!(rig.session.take_report().expired, 1);
}

#[test]
fn queued_messages_are_not_overtaken() {
    let mut rig = Rig::with(Limits { output_buffer_max: 1, ..limits() }, &connect(V5));
    rig.send("a", AtLeastOnce);
    rig.send("b", AtLeastOnce);
    rig.expect_sent(&["publish1 'a' 1"]); // There is room again, but nobody has pumped.
    assert_eq!(rig.send("c", AtLeastOnce), queued());
    rig.pump();
    rig.expect_sent(&["publish1 'b' 2"]);
}

#[test]
fn full_send_buffer_drops_qos_0_and_queues_the_rest() {
    let mut rig = Rig::with(Limits { output_buffer_max: 1, ..limits() }, &connect(V5));
    assert_eq!(rig.send("a", AtMostOnce), Delivered::Sent);
    assert_eq!(rig.send("b", AtMostOnce), Delivered::Dropped(DropReason::QueueFull));
    assert_eq!(rig.send("c", AtLeastOnce), queued());
    assert_eq!(rig.send("d", ExactlyOnce), queued());
    rig.pump();
    rig.take(Packet::PingReq);
    rig.publish_and_store(publish("x", qos1(1)));
    rig.expect_sent(&["publish0 'a'", "pingresp", "puback 1"]); // Only answers pass.
    rig.pump();
    rig.expect_sent(&["publish1 'c' 1"]);
    rig.pump();
    rig.expect_sent(&["publish2 'd' 2"]);
    rig.reconnect(&connect(V5));
    rig.expect_sent(&["publish1 'c' 1 dup"]);
    rig.send("e", AtLeastOnce);
    rig.pump();
    rig.expect_sent(&["publish2 'd' 2 dup"]);
    rig.pump();
    rig.expect_sent(&["publish1 'e' 3"]);
}

#[test]
fn sessions_that_end_with_their_connection_keep_no_message() {
    let mut rig = Rig::with(limits(), &transient(V5));
    let message = Arc::new(message("a", AtLeastOnce));
    let transit = Transit::from_message(&message);
    let delivered = rig.session.deliver(rig.now, &transit, &at(AtLeastOnce), &mut rig.out);
    assert_eq!(delivered, Delivered::Sent);
    assert_eq!(Arc::strong_count(&message), 2, "the transit's and ours");
    assert!(rig.lose().ended);
}
