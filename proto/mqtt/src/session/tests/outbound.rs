//! Messages to the client.

use super::*;
use QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};

/// A rig whose client has a Receive Maximum.
fn with_window(version: ProtocolVersion, receive_maximum: u16) -> Rig {
    let max_inflight = NonZeroU16::new(receive_maximum).expect("not 0");
    Rig::with(Limits { max_inflight, ..limits() }, &connect(version))
}

fn queued() -> Delivered {
    Delivered::Queued { displaced: 0 }
}

#[test]
fn qos_is_the_lower_of_message_and_subscription() {
    // [MQTT-3.8.4-8]
    for (published, granted, expected) in [
        (AtMostOnce, ExactlyOnce, "publish0 'a'"),
        (AtLeastOnce, AtMostOnce, "publish0 'a'"),
        (AtLeastOnce, ExactlyOnce, "publish1 'a' 1"),
        (ExactlyOnce, AtLeastOnce, "publish1 'a' 1"),
        (ExactlyOnce, ExactlyOnce, "publish2 'a' 1"),
    ] {
        let mut rig = Rig::new(V5);
        assert_eq!(rig.deliver(&message("a", published), &at(granted)), Delivered::Sent);
        rig.expect_sent(&[expected]);
    }
}

#[test]
fn retain_flag_and_subscription_identifiers_go_with_the_message() {
    let options = DeliveryOptions { retain: true, subscription_ids: many(&[3, 1]), ..at(AtLeastOnce) };
    for (version, expected) in [(V311, "publish1 'a' 1 retain"), (V5, "publish1 'a' 1 retain ids=[3, 1]")] {
        let mut rig = with_window(version, 1);
        rig.deliver(&message("a", AtLeastOnce), &options);
        rig.expect_sent(&[expected]);
        rig.deliver(&message("b", AtLeastOnce), &options);
        rig.take(Packet::PubAck(ack(1)));
        rig.expect_sent(&[&expected.replace("'a' 1", "'b' 2")]);
    }
}

#[test]
fn qos_1_ends_with_puback() {
    let mut rig = Rig::new(V5);
    rig.send("a", AtLeastOnce);
    assert_eq!(rig.session.inflight_len(), 1);
    rig.take(Packet::PubAck(ack(1)));
    assert_eq!(rig.session.inflight_len(), 0);
    assert_eq!(rig.session.take_report(), QueueReport { acked: 1, ..QueueReport::default() });
}

#[test]
fn qos_2_ends_with_pubcomp() {
    // [MQTT-4.3.3-4]
    let mut rig = Rig::new(V5);
    rig.send("a", ExactlyOnce);
    rig.take(Packet::PubRec(ack(1)));
    rig.take(Packet::PubRec(ack(1)));
    assert_eq!(rig.session.inflight_len(), 1);
    rig.take(Packet::PubComp(ack(1)));
    rig.expect_sent(&["publish2 'a' 1", "pubrel 1", "pubrel 1"]);
    assert_eq!(rig.session.inflight_len(), 0);
    assert_eq!(rig.session.take_report(), QueueReport { acked: 1, ..QueueReport::default() });
}

#[test]
fn error_codes_end_the_message() {
    // [MQTT-4.4.0-2]
    let mut rig = with_window(V5, 1);
    for (topic, qos) in [("a", AtLeastOnce), ("b", ExactlyOnce), ("c", ExactlyOnce), ("d", AtLeastOnce)] {
        rig.send(topic, qos);
    }
    rig.take(Packet::PubAck(nack(1)));
    rig.take(Packet::PubRec(nack(2)));
    rig.take(Packet::PubRec(ack(3)));
    rig.take(Packet::PubRec(nack(3)));
    rig.expect_sent(&["publish1 'a' 1", "publish2 'b' 2", "publish2 'c' 3", "pubrel 3", "publish1 'd' 4"]);
    rig.reconnect(&connect(V5));
    rig.expect_sent(&["publish1 'd' 4 dup"]);
}

#[test]
fn acknowledgements_of_unknown_messages_are_counted() {
    // B56
    for (version, expected) in [(V311, "pubrel 9"), (V5, "pubrel 9 PacketIdentifierNotFound")] {
        let mut rig = Rig::new(version);
        rig.take(Packet::PubAck(ack(9)));
        rig.take(Packet::PubComp(ack(9)));
        rig.take(Packet::PubRec(ack(9)));
        rig.take(Packet::PubRec(nack(9)));
        rig.expect_sent(&[expected]);
        assert_eq!(rig.session.take_report().unknown_acks, 4);
    }
}

#[test]
fn acknowledgements_of_the_wrong_kind_are_errors() {
    // B56
    for (qos, packet) in [
        (AtLeastOnce, Packet::PubRec(ack(1))),
        (AtLeastOnce, Packet::PubRec(nack(1))),
        (AtLeastOnce, Packet::PubComp(ack(1))),
        (ExactlyOnce, Packet::PubAck(ack(1))),
        (ExactlyOnce, Packet::PubComp(ack(1))),
    ] {
        let mut rig = Rig::new(V5);
        rig.send("a", qos);
        let error = rig.handle(packet.clone()).expect_err("wrong kind");
        assert_eq!(error, SessionError::UnexpectedAck { packet: packet.packet_type(), id: id(1) });
        assert_eq!(error.reason(), ReasonCode::ProtocolError);
    }
    let mut rig = Rig::new(V5);
    rig.send("a", ExactlyOnce);
    rig.take(Packet::PubRec(ack(1)));
    rig.handle(Packet::PubAck(ack(1))).expect_err("wrong kind");
}

#[test]
fn no_more_than_receive_maximum_is_in_flight() {
    // [MQTT-3.3.4-9]
    let mut rig = with_window(V5, 2);
    assert_eq!(rig.send("a", AtLeastOnce), Delivered::Sent);
    assert_eq!(rig.send("b", ExactlyOnce), Delivered::Sent);
    assert_eq!(rig.send("c", AtLeastOnce), queued());
    assert_eq!(rig.send("d", AtLeastOnce), queued());
    assert_eq!(rig.send("q0", AtMostOnce), Delivered::Sent); // Does not count.
    rig.expect_sent(&["publish1 'a' 1", "publish2 'b' 2", "publish0 'q0'"]);
    rig.take(Packet::PubRec(ack(2))); // Not yet complete.
    rig.expect_sent(&["pubrel 2"]);
    rig.take(Packet::PubComp(ack(2)));
    rig.expect_sent(&["publish1 'c' 3"]);
    assert_eq!((rig.session.inflight_len(), rig.session.queue_len()), (2, 1));
    rig.take(Packet::PubAck(ack(1)));
    rig.expect_sent(&["publish1 'd' 4"]);
    let report = rig.session.take_report();
    assert_eq!(report, QueueReport { sent: [0, 2, 0], acked: 2, ..QueueReport::default() });
}

#[test]
fn receive_maximum_of_the_client_is_the_lower_bound() {
    let mut connect = connect(V5);
    connect.properties.receive_maximum = NonZeroU16::MIN;
    let mut rig = Rig::with(limits(), &connect);
    rig.send("a", AtLeastOnce);
    rig.send("b", AtLeastOnce);
    rig.expect_sent(&["publish1 'a' 1"]);
}

#[test]
fn identifiers_are_given_in_turn_and_skip_those_in_use() {
    // [MQTT-2.2.1-4]
    let mut rig = with_window(V311, 3);
    rig.send("stays", ExactlyOnce);
    rig.sent();
    for round in 0..200_000_u32 {
        rig.send("a", AtLeastOnce);
        let expected = u16::try_from(round % 65_534 + 2).expect("2 to 65,535");
        rig.expect_sent(&[&format!("publish1 'a' {expected}")]);
        rig.take(Packet::PubAck(ack(expected)));
    }
}

#[test]
fn acknowledgements_may_come_in_any_order() {
    let mut rig = with_window(V5, 5);
    for _ in 0..5 {
        rig.send("a", AtLeastOnce);
    }
    for value in [3, 1, 5, 4, 2] {
        rig.take(Packet::PubAck(ack(value)));
    }
    assert_eq!(rig.session.inflight_len(), 0);
    for value in 6..11 {
        rig.send("a", AtLeastOnce);
        rig.take(Packet::PubAck(ack(value)));
    }
}

#[test]
fn resume_sends_again_in_the_order_of_old() {
    // [MQTT-4.4.0-1] [MQTT-3.3.1-1]
    for version in [V311, V5] {
        let mut rig = with_window(version, 4);
        for (topic, qos) in [
            ("a", ExactlyOnce),
            ("b", AtLeastOnce),
            ("c", ExactlyOnce),
            ("d", AtLeastOnce),
            ("e", AtLeastOnce),
        ] {
            rig.send(topic, qos);
        }
        rig.take(Packet::PubRec(ack(1)));
        rig.take(Packet::PubAck(ack(2))); // Makes room for e.
        rig.sent();
        rig.reconnect(&connect(version));
        rig.expect_sent(&["pubrel 1", "publish2 'c' 3 dup", "publish1 'd' 4 dup", "publish1 'e' 5 dup"]);
        rig.reconnect(&connect(version));
        rig.take(Packet::PubRec(ack(3)));
        rig.take(Packet::PubComp(ack(3)));
        rig.take(Packet::PubComp(ack(1)));
        rig.take(Packet::PubAck(ack(5)));
        rig.take(Packet::PubAck(ack(4)));
        rig.reconnect(&connect(version));
        rig.expect_sent(&[]);
    }
}

#[test]
fn resume_respects_the_new_receive_maximum() {
    let mut rig = with_window(V5, 4);
    for topic in ["a", "b", "c", "d", "queued"] {
        rig.send(topic, AtLeastOnce);
    }
    let mut narrow = connect(V5);
    narrow.properties.receive_maximum = NonZeroU16::new(2).expect("not 0");
    rig.reconnect(&narrow);
    rig.expect_sent(&["publish1 'a' 1 dup", "publish1 'b' 2 dup"]);
    assert_eq!(rig.send("later", AtLeastOnce), queued());
    rig.take(Packet::PubAck(ack(2)));
    rig.expect_sent(&["publish1 'c' 3 dup"]);
    rig.take(Packet::PubAck(ack(1)));
    rig.expect_sent(&["publish1 'd' 4 dup"]);
    rig.take(Packet::PubAck(ack(3)));
    rig.expect_sent(&["publish1 'queued' 5"]);
    rig.take(Packet::PubAck(ack(4)));
    rig.expect_sent(&["publish1 'later' 6"]);
}

#[test]
fn acknowledgement_from_before_the_reconnect_still_counts() {
    let mut rig = with_window(V5, 3);
    for topic in ["a", "b", "c"] {
        rig.send(topic, ExactlyOnce);
    }
    let mut narrow = connect(V5);
    narrow.properties.receive_maximum = NonZeroU16::MIN;
    rig.reconnect(&narrow);
    rig.take(Packet::PubRec(ack(2))); // Not sent on this connection, but the client has it.
    rig.take(Packet::PubRec(ack(3)));
    rig.take(Packet::PubComp(ack(3)));
    rig.expect_sent(&["publish2 'a' 1 dup", "pubrel 2", "pubrel 3"]);
    rig.take(Packet::PubRec(nack(1)));
    rig.send("d", AtLeastOnce);
    rig.expect_sent(&["publish1 'd' 4"]);
    rig.take(Packet::PubComp(ack(2)));
}

#[test]
fn unfinished_messages_do_not_gather_over_reconnects() {
    let mut rig = with_window(V5, 2);
    for _ in 0..10 {
        rig.send("a", ExactlyOnce);
        rig.take(Packet::PubRec(ack(1)));
        rig.take(Packet::PubRec(ack(2)));
        rig.reconnect(&connect(V5));
        rig.pump();
        assert!(rig.session.inflight_len() <= 2);
    }
    rig.sent();
    rig.take(Packet::PubComp(ack(1)));
    rig.expect_sent(&["publish2 'a' 3"]);
}

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

fn expiring(topic: &str, at: Timestamp) -> Message {
    Message { expires_at: Some(at), ..message(topic, AtLeastOnce) }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn message_expiry_counts_down() {
    // [MQTT-3.3.2-6]
    for (version, sent, queued) in [
        (V5, "publish1 'a' 1 expiry=10", "publish1 'b' 2 expiry=7"),
        (V311, "publish1 'a' 1", "publish1 'b' 2"),
    ] {
        let mut rig = with_window(version, 1);
        let at_ten = rig.now + 10 * SECOND;
        rig.deliver(&expiring("a", at_ten), &at(AtLeastOnce));
        rig.deliver(&expiring("b", at_ten), &at(AtLeastOnce));
        rig.wait(SECOND * 3);
        rig.take(Packet::PubAck(ack(1)));
        rig.expect_sent(&[sent, queued]);
    }
    let mut rig = Rig::new(V5);
    let at_ten = rig.now + 10 * SECOND;
    rig.wait(Duration::from_millis(9_001)); // Never 0 while it is valid.
    rig.deliver(&expiring("a", at_ten), &at(AtLeastOnce));
    rig.expect_sent(&["publish1 'a' 1 expiry=1"]);
}

#[test]
fn expired_messages_are_not_sent() {
    // [MQTT-3.3.2-5]
    let mut rig = Rig::new(V5);
    let now = rig.now;
    let dropped = rig.deliver(&expiring("a", now), &at(AtLeastOnce));
    assert_eq!(dropped, Delivered::Dropped(DropReason::Expired));
    rig.lose();
    rig.deliver(&expiring("a", now + SECOND), &at(AtLeastOnce));
    rig.deliver(&expiring("b", now + SECOND * 3), &at(AtLeastOnce));
    rig.wait(SECOND);
    rig.connect(&connect(V5));
    rig.expect_sent(&["publish1 'b' 1 expiry=2"]);
    assert_eq!(rig.session.take_report().expired, 1);
}

#[test]
fn expired_messages_in_flight_are_sent_again() {
    // [MQTT-4.3.3-7]
    let mut rig = Rig::new(V5);
    let soon = rig.now + SECOND;
    rig.deliver(&expiring("a", soon), &at(AtLeastOnce));
    rig.wait(SECOND * 2);
    rig.reconnect(&connect(V5));
    rig.expect_sent(&["publish1 'a' 1 dup expiry=0"]);
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

/// A CONNECT of a client that takes packets up to this size.
fn small(maximum: u32) -> Connect<'static> {
    let mut connect = connect(V5);
    connect.properties.maximum_packet_size = NonZeroU32::new(maximum);
    connect
}

#[test]
fn messages_above_maximum_packet_size_are_dropped() {
    // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
    let mut rig = Rig::with(limits(), &small(40));
    let mut large = message("a", ExactlyOnce);
    large.payload = vec![0; 40].into();
    for qos in [AtMostOnce, AtLeastOnce, ExactlyOnce] {
        assert_eq!(rig.deliver(&large, &at(qos)), Delivered::Dropped(DropReason::TooLarge));
    }
    assert_eq!(rig.session.inflight_len(), 0);
    let mut fits = message("a", ExactlyOnce);
    fits.payload = vec![0; 40 - 2 - 3 - 2 - 1].into(); // Fixed header, topic, identifier, property length.
    assert_eq!(rig.deliver(&fits, &at(ExactlyOnce)), Delivered::Sent);
    rig.expect_sent(&["publish2 'a' 1"]);
    assert_eq!(
        rig.deliver(&fits, &DeliveryOptions { subscription_ids: many(&[1]), ..at(AtLeastOnce) }),
        Delivered::Dropped(DropReason::TooLarge)
    );
}

#[test]
fn messages_above_the_maximum_packet_size_of_a_new_connection_are_dropped() {
    let mut rig = with_window(V5, 2);
    let mut large = message("a", AtLeastOnce);
    large.payload = vec![0; 100].into();
    rig.deliver(&large, &at(AtLeastOnce));
    rig.send("b", AtLeastOnce);
    rig.deliver(&large, &at(AtLeastOnce));
    rig.send("c", AtLeastOnce);
    rig.reconnect(&small(100));
    rig.expect_sent(&["publish1 'b' 2 dup", "publish1 'c' 3"]);
    assert_eq!(
        rig.session.take_report(),
        QueueReport { sent: [0, 1, 0], too_large: 2, ..QueueReport::default() }
    );
}

#[test]
fn messages_above_the_longest_packet_of_the_protocol_are_dropped() {
    for connect in [connect(V311), connect(V5), small(u32::MAX)] {
        let mut rig = Rig::with(limits(), &connect);
        let mut large = message("a", AtMostOnce);
        // Zeros that nobody looks at take no memory.
        large.payload = vec![0; crate::codec::MAX_PACKET_LEN - 5].into();
        assert_eq!(rig.deliver(&large, &at(AtMostOnce)), Delivered::Dropped(DropReason::TooLarge));
        large.payload.truncate(large.payload.len() - 4);
        assert_eq!(rig.deliver(&large, &at(AtMostOnce)), Delivered::Sent);
    }
}

#[test]
fn qos_2_message_above_the_maximum_packet_size_of_a_new_connection_is_released() {
    // The client may hold its identifier, and would take the next message with it for a repetition.
    let mut rig = Rig::new(V5);
    let mut large = message("a", ExactlyOnce);
    large.payload = vec![0; 100].into();
    rig.deliver(&large, &at(ExactlyOnce));
    rig.send("b", ExactlyOnce);
    rig.reconnect(&small(100));
    rig.expect_sent(&["pubrel 1", "publish2 'b' 2 dup"]);
    assert_eq!(rig.session.inflight_len(), 2);
    rig.take(Packet::PubComp(Ack::new(id(1), ReasonCode::PacketIdentifierNotFound)));
    assert_eq!(rig.session.inflight_len(), 1);
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
fn first_topics_get_aliases() {
    // [MQTT-3.3.2-11]
    let mut connect = connect(V5);
    connect.properties.topic_alias_maximum = 2;
    let mut rig = Rig::with(limits(), &connect);
    for topic in ["a", "b", "c", "b", "a", "c"] {
        rig.send(topic, AtMostOnce);
    }
    rig.expect_sent(&[
        "publish0 'a' alias=1",
        "publish0 'b' alias=2",
        "publish0 'c'",
        "publish0 '' alias=2",
        "publish0 '' alias=1",
        "publish0 'c'",
    ]);
    rig.reconnect(&connect); // [MQTT-3.3.2-7]
    rig.send("c", AtMostOnce);
    rig.expect_sent(&["publish0 'c' alias=1"]);
}

#[test]
fn aliases_start_when_the_packet_is_sent() {
    let mut connect = connect(V5);
    connect.properties.topic_alias_maximum = 9;
    connect.properties.maximum_packet_size = NonZeroU32::new(50);
    connect.properties.receive_maximum = NonZeroU16::MIN;
    let mut rig = Rig::with(limits(), &connect);
    let mut large = message("a", AtLeastOnce);
    large.payload = vec![0; 50].into();
    rig.deliver(&large, &at(AtLeastOnce));
    rig.send("b", AtLeastOnce);
    rig.send("a", AtLeastOnce);
    rig.send("c", AtMostOnce);
    rig.take(Packet::PubAck(ack(1)));
    rig.expect_sent(&["publish1 'b' 1 alias=1", "publish0 'c' alias=2", "publish1 'a' 2 alias=3"]);
    let mut tight = message("d", AtMostOnce);
    tight.payload = vec![0; 50 - 2 - 3 - 1].into(); // No room for the property.
    assert_eq!(rig.deliver(&tight, &at(AtMostOnce)), Delivered::Sent);
    rig.send("d", AtMostOnce);
    rig.expect_sent(&["publish0 'd'", "publish0 'd' alias=4"]);
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

/// Delivers through the shared subscription `filter`.
fn share(rig: &mut Rig, topic: &str, qos: QoS, filter: &Arc<TopicFilter>) {
    let options = DeliveryOptions { shared: Some(Arc::clone(filter)), ..at(qos) };
    rig.deliver(&message(topic, qos), &options);
}

fn filter(text: &str) -> Arc<TopicFilter> {
    Arc::new(TopicFilter::parse(text, 128).expect("valid"))
}

fn taken(rig: &mut Rig, filter: Option<&TopicFilter>) -> Vec<String> {
    let taken = rig.session.take_shared(filter);
    taken.iter().map(|(filter, message)| format!("{} {}", filter.as_str(), message.topic)).collect()
}

#[test]
fn shared_messages_are_given_back_when_the_session_ends() {
    // [MQTT-4.8.2-5]
    let max_inflight = NonZeroU16::new(4).expect("not 0");
    for connect in [connect(V5), transient(V5)] {
        let mut rig = Rig::with(Limits { max_inflight, ..limits() }, &connect);
        let (g, h) = (filter("$share/g/+"), filter("$share/h/+"));
        share(&mut rig, "acknowledged", AtLeastOnce, &g);
        share(&mut rig, "sent", AtLeastOnce, &g);
        share(&mut rig, "sent2", ExactlyOnce, &g);
        rig.send("own", AtLeastOnce);
        share(&mut rig, "queued", AtLeastOnce, &h);
        share(&mut rig, "queued2", ExactlyOnce, &g);
        rig.send("own", AtLeastOnce);
        rig.take(Packet::PubAck(ack(1)));
        assert_eq!((rig.session.inflight_len(), rig.session.queue_len()), (4, 2));
        rig.lose();
        rig.session.end(rig.now);
        assert_eq!(taken(&mut rig, None), ["$share/g/+ sent", "$share/h/+ queued", "$share/g/+ queued2"]);
        assert_eq!(taken(&mut rig, None), [""; 0]);
    }
}

#[test]
fn queued_shared_messages_are_given_back_when_the_client_unsubscribes() {
    // [MQTT-3.10.4-3]
    let mut rig = with_window(V5, 1);
    let (g, h) = (filter("$share/g/+"), filter("$share/h/+"));
    share(&mut rig, "sent", AtLeastOnce, &g);
    share(&mut rig, "a", AtLeastOnce, &g);
    share(&mut rig, "b", AtLeastOnce, &h);
    share(&mut rig, "c", ExactlyOnce, &g);
    assert_eq!(taken(&mut rig, Some(&g)), ["$share/g/+ a", "$share/g/+ c"]);
    rig.take(Packet::PubAck(ack(1)));
    rig.expect_sent(&["publish1 'sent' 1", "publish1 'b' 2"]);
}

#[test]
fn shared_messages_of_a_transient_session_leave_the_window_with_puback() {
    let mut rig = Rig::with(limits(), &transient(V311));
    let g = filter("$share/g/+");
    share(&mut rig, "a", AtLeastOnce, &g);
    rig.take(Packet::PubAck(ack(1)));
    rig.lose();
    assert_eq!(taken(&mut rig, None), [""; 0]);
}
