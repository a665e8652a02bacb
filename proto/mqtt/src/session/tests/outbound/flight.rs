//! Messages in flight: acknowledgements, identifiers and the window.

use super::*;

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
    assert_eq!(rig.session.inflight_len(), 1);
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
