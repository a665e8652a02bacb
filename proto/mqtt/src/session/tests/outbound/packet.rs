//! What goes into a packet, and which packets are not sent.

use super::*;

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
    let mut rig = with_window(V5, 1);
    let now = rig.now;
    let dropped = rig.deliver(&expiring("a", now), &at(AtLeastOnce));
    assert_eq!(dropped, Delivered::Dropped(DropReason::Expired));
    rig.send("first", AtLeastOnce);
    rig.deliver(&expiring("a", now + SECOND), &at(AtLeastOnce));
    rig.deliver(&expiring("b", now + SECOND * 3), &at(AtLeastOnce));
    rig.wait(SECOND);
    rig.take(Packet::PubAck(ack(1)));
    rig.expect_sent(&["publish1 'first' 1", "publish1 'b' 2 expiry=2"]);
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
fn queued_messages_above_maximum_packet_size_are_dropped() {
    let max_inflight = NonZeroU16::MIN;
    let mut rig = Rig::with(Limits { max_inflight, ..limits() }, &small(100));
    rig.send("a", AtLeastOnce);
    let mut large = message("b", AtLeastOnce);
    large.payload = vec![0; 100].into();
    assert_eq!(rig.deliver(&large, &at(AtLeastOnce)), queued());
    rig.send("c", AtLeastOnce);
    rig.take(Packet::PubAck(ack(1)));
    rig.expect_sent(&["publish1 'a' 1", "publish1 'c' 2"]);
    assert_eq!(
        rig.session.take_report(),
        QueueReport { sent: [0, 1, 0], acked: 1, too_large: 1, ..QueueReport::default() }
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
