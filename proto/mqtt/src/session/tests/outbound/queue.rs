//! Messages that wait for room.

use super::*;

/// A rig whose client has not read what it has got: what comes now waits.
fn congested(limits: Limits) -> Rig {
    let mut rig = Rig::with(Limits { output_buffer_max: 100, ..limits }, &connect(V5));
    assert_eq!(rig.send(&"x".repeat(100), AtMostOnce), Delivered::Sent);
    rig
}

/// The client reads.
fn relieve(rig: &mut Rig) {
    rig.sent();
    rig.pump();
}

#[test]
fn full_queue_drops_the_newest() {
    let mut rig = congested(Limits { queue_messages_max: 2, ..limits() });
    rig.send("a", AtLeastOnce);
    rig.send("b", AtLeastOnce);
    assert_eq!(rig.send("c", AtLeastOnce), Delivered::Dropped(DropReason::QueueFull));
    relieve(&mut rig);
    rig.expect_sent(&["publish1 'a' 1", "publish1 'b' 2"]);
}

#[test]
fn full_queue_drops_the_oldest() {
    let limits = Limits { queue_messages_max: 2, queue_full: QueueFull::DropOldest, ..limits() };
    let mut rig = congested(limits);
    rig.send("a", AtLeastOnce);
    rig.send("b", AtLeastOnce);
    assert_eq!(rig.send("c", AtLeastOnce), Delivered::Queued { displaced: 1 });
    relieve(&mut rig);
    rig.expect_sent(&["publish1 'b' 1", "publish1 'c' 2"]);
}

#[test]
fn queue_is_bounded_in_bytes() {
    let limits = Limits { queue_bytes_max: 10, queue_full: QueueFull::DropOldest, ..limits() };
    let mut rig = congested(limits);
    for topic in ["1", "22", "333", "4444"] {
        assert_eq!(rig.send(topic, AtLeastOnce), queued());
    }
    assert_eq!(rig.send("elevenbytes", AtLeastOnce), Delivered::Dropped(DropReason::QueueFull));
    assert_eq!(rig.send("55555", AtLeastOnce), Delivered::Queued { displaced: 3 });
    relieve(&mut rig);
    rig.expect_sent(&["publish1 '4444' 1", "publish1 '55555' 2"]);
}

#[test]
fn a_queue_may_be_forbidden() {
    for queue_full in [QueueFull::DropNewest, QueueFull::DropOldest] {
        let mut rig = congested(Limits { queue_messages_max: 0, queue_full, ..limits() });
        assert_eq!(rig.send("a", AtLeastOnce), Delivered::Dropped(DropReason::QueueFull));
    }
}

#[test]
fn expired_messages_make_room_first() {
    let mut rig = congested(Limits { queue_messages_max: 1, ..limits() });
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
}

#[test]
fn what_is_in_flight_is_not_held() {
    let mut rig = Rig::new(V5);
    let message = Arc::new(message("a", AtLeastOnce));
    let transit = Transit::from_message(&message);
    let delivered = rig.session.deliver(rig.now, &transit, &at(AtLeastOnce), &mut rig.out);
    assert_eq!(delivered, Delivered::Sent);
    assert_eq!(Arc::strong_count(&message), 2, "the transit's and ours");
}
