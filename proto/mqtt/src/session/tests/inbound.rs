//! Messages from the client.

use super::*;

#[test]
fn qos_0_is_routed_without_a_ticket() {
    let mut rig = Rig::new(V5);
    let request = rig.handle(Packet::Publish(publish("a", Delivery::AtMostOnce)));
    assert!(matches!(request, Ok(Request::Publish(incoming, None)) if incoming.topic.as_str() == "a"));
    rig.expect_sent(&[]);
}

#[test]
fn qos_1_is_acknowledged_once_it_is_stored() {
    // [MQTT-4.3.2-4]
    for version in [V31, V311, V5] {
        let mut rig = Rig::new(version);
        let ticket = rig.publish(publish("a", qos1(7)));
        rig.expect_sent(&[]);
        rig.stored(ticket, ReasonCode::Success);
        rig.expect_sent(&["puback 7"]);
        rig.stored(ticket, ReasonCode::Success);
        rig.expect_sent(&[]);
    }
}

#[test]
fn qos_2_is_acknowledged_in_two_steps() {
    // [MQTT-4.3.3-8] [MQTT-4.3.3-11]
    for version in [V31, V311, V5] {
        let mut rig = Rig::new(version);
        rig.publish_and_store(publish("a", qos2(7)));
        rig.expect_sent(&["pubrec 7"]);
        rig.take(Packet::PubRel(ack(7)));
        rig.expect_sent(&["pubcomp 7"]);
        rig.publish_and_store(publish("a", qos2(7))); // [MQTT-4.3.3-12]
        rig.expect_sent(&["pubrec 7"]);
    }
}

#[test]
fn codes_of_the_store_go_to_5_0_clients_only() {
    for (version, expected) in [
        (V5, ["puback 1 NoMatchingSubscribers", "pubrec 2 NoMatchingSubscribers", "puback 3 QuotaExceeded"]),
        (V311, ["puback 1", "pubrec 2", "puback 3"]),
    ] {
        let mut rig = Rig::new(version);
        for (delivery, reason) in [
            (qos1(1), ReasonCode::NoMatchingSubscribers),
            (qos2(2), ReasonCode::NoMatchingSubscribers),
            (qos1(3), ReasonCode::QuotaExceeded),
        ] {
            let ticket = rig.publish(publish("a", delivery));
            rig.stored(ticket, reason);
        }
        rig.expect_sent(&expected);
    }
}

#[test]
fn pubrec_with_an_error_frees_the_identifier() {
    // [MQTT-4.3.3-9]
    let mut rig = Rig::new(V5);
    let ticket = rig.publish(publish("a", qos2(1)));
    rig.stored(ticket, ReasonCode::QuotaExceeded);
    rig.expect_sent(&["pubrec 1 QuotaExceeded"]);
    rig.publish_and_store(publish("a", qos2(1)));
    rig.expect_sent(&["pubrec 1"]);

    let mut rig = Rig::new(V311); // It cannot be told, so the identifier is taken until PUBREL.
    let ticket = rig.publish(publish("a", qos2(1)));
    rig.stored(ticket, ReasonCode::QuotaExceeded);
    rig.take(Packet::Publish(publish("a", qos2(1))));
    rig.expect_sent(&["pubrec 1", "pubrec 1"]);
}

#[test]
fn acknowledgements_leave_in_the_order_of_the_publishes() {
    // [MQTT-4.6.0-2] [MQTT-4.6.0-3]
    let mut rig = Rig::new(V5);
    let tickets = [qos1(5), qos2(4), qos1(3), qos2(2)].map(|delivery| rig.publish(publish("a", delivery)));
    rig.stored(tickets[2], ReasonCode::Success);
    rig.stored(tickets[1], ReasonCode::QuotaExceeded);
    rig.expect_sent(&[]);
    rig.stored(tickets[0], ReasonCode::Success);
    rig.expect_sent(&["puback 5", "pubrec 4 QuotaExceeded", "puback 3"]);
    rig.stored(tickets[3], ReasonCode::Success);
    rig.expect_sent(&["pubrec 2"]);
}

#[test]
fn repeated_qos_2_is_acknowledged_and_not_routed() {
    // [MQTT-4.3.3-10]
    for version in [V311, V5] {
        let mut rig = Rig::new(version);
        let ticket = rig.publish(publish("a", qos2(1)));
        rig.take(Packet::Publish(publish("a", qos2(1)))); // Answered together with the first.
        rig.expect_sent(&[]);
        rig.stored(ticket, ReasonCode::Success);
        rig.expect_sent(&["pubrec 1"]);
        rig.take(Packet::Publish(publish("b", Delivery::ExactlyOnce { id: id(1), dup: true })));
        rig.take(Packet::Publish(publish("c", qos2(1))));
        rig.expect_sent(&["pubrec 1", "pubrec 1"]);
    }
}

#[test]
fn repetition_waits_for_its_turn() {
    let mut rig = Rig::new(V5);
    rig.publish_and_store(publish("a", qos2(1)));
    rig.expect_sent(&["pubrec 1"]);
    let ticket = rig.publish(publish("a", qos1(2)));
    for _ in 0..1000 {
        rig.take(Packet::Publish(publish("a", qos2(1))));
    }
    rig.expect_sent(&[]);
    rig.stored(ticket, ReasonCode::Success);
    rig.expect_sent(&["puback 2", "pubrec 1"]);
}

#[test]
fn repetition_that_was_released_is_not_acknowledged_any_more() {
    let mut rig = Rig::new(V5);
    rig.publish_and_store(publish("a", qos2(1)));
    let first = rig.publish(publish("a", qos1(2)));
    rig.take(Packet::Publish(publish("a", qos2(1)))); // Its PUBREC must wait for the PUBACK.
    rig.take(Packet::PubRel(ack(1)));
    let second = rig.publish(publish("b", qos2(1))); // A new message.
    rig.stored(first, ReasonCode::Success);
    rig.expect_sent(&["pubrec 1", "pubcomp 1", "puback 2"]);
    rig.take(Packet::PubRel(ack(1)));
    rig.stored(second, ReasonCode::Success);
    rig.expect_sent(&["pubcomp 1 PacketIdentifierNotFound", "pubrec 1"]);
}

#[test]
fn repeated_qos_1_is_a_new_message() {
    // [MQTT-4.3.2-5]
    let mut rig = Rig::new(V5);
    rig.publish_and_store(publish("a", qos1(1)));
    rig.publish_and_store(publish("a", Delivery::AtLeastOnce { id: id(1), dup: true }));
    rig.expect_sent(&["puback 1", "puback 1"]);
}

#[test]
fn pubrel_of_an_unknown_identifier() {
    for (version, expected) in [(V311, "pubcomp 9"), (V5, "pubcomp 9 PacketIdentifierNotFound")] {
        let mut rig = Rig::new(version);
        rig.take(Packet::PubRel(ack(9)));
        rig.expect_sent(&[expected]);
    }
}

#[test]
fn pubrel_before_pubrec_releases_nothing() {
    let mut rig = Rig::new(V5);
    let ticket = rig.publish(publish("a", qos2(1)));
    rig.take(Packet::PubRel(ack(1)));
    rig.expect_sent(&["pubcomp 1 PacketIdentifierNotFound"]);
    rig.stored(ticket, ReasonCode::Success);
    rig.take(Packet::PubRel(ack(1)));
    rig.expect_sent(&["pubrec 1", "pubcomp 1"]);
}

#[test]
fn more_than_receive_maximum_is_an_error() {
    // [MQTT-3.3.4-7]
    let limits = Limits { receive_maximum: NonZeroU16::new(3).expect("not 0"), ..limits() };
    let mut rig = Rig::with(limits, &connect(V5));
    let first = rig.publish(publish("a", qos1(1)));
    rig.publish_and_store(publish("a", qos2(2)));
    rig.publish(publish("a", qos2(3)));
    let error = rig.handle(Packet::Publish(publish("a", qos1(4)))).expect_err("too many");
    assert_eq!(error, SessionError::ReceiveMaximumExceeded { limit: 3 });
    assert_eq!(error.reason(), ReasonCode::ReceiveMaximumExceeded);
    rig.stored(first, ReasonCode::Success);
    rig.publish(publish("a", qos1(4)));
    rig.take(Packet::PubRel(ack(2))); // Does not count against it [MQTT-3.3.4-8].
    rig.publish(publish("a", qos1(5)));
    rig.handle(Packet::Publish(publish("a", Delivery::AtMostOnce))).expect("QoS 0 does not count");
    rig.handle(Packet::Publish(publish("a", qos1(6)))).expect_err("too many");
}

#[test]
fn refused_publishes_count_until_they_are_answered() {
    let limits = Limits { receive_maximum: NonZeroU16::new(3).expect("not 0"), ..limits() };
    let mut rig = Rig::with(limits, &connect(V5));
    let first = rig.publish(publish("a", qos1(1)));
    for value in [2, 3] {
        let request = rig.handle(Packet::Publish(publish("$SYS/a", qos2(value)))).expect("no error");
        assert!(matches!(request, Request::Refused(ReasonCode::NotAuthorized)));
    }
    rig.handle(Packet::Publish(publish("$SYS/a", qos2(4)))).expect_err("too many");
    rig.stored(first, ReasonCode::Success);
    rig.expect_sent(&["puback 1", "pubrec 2 NotAuthorized", "pubrec 3 NotAuthorized"]);
    rig.publish_and_store(publish("a", qos2(2)));
    rig.expect_sent(&["pubrec 2"]);
}

#[test]
fn too_many_unreleased_messages() {
    let few = Limits { awaiting_rel_max: 2, ..limits() };
    let mut rig = Rig::with(few.clone(), &connect(V5));
    for value in [1, 2] {
        rig.publish_and_store(publish("a", qos2(value)));
    }
    let request = rig.handle(Packet::Publish(publish("a", qos2(3)))).expect("no error");
    assert!(matches!(request, Request::Refused(ReasonCode::QuotaExceeded)));
    rig.expect_sent(&["pubrec 1", "pubrec 2", "pubrec 3 QuotaExceeded"]);

    let mut rig = Rig::with(few, &connect(V311));
    for value in [1, 2] {
        rig.publish_and_store(publish("a", qos2(value)));
    }
    let error = rig.handle(Packet::Publish(publish("a", qos2(3)))).expect_err("too many");
    assert_eq!(error, SessionError::ReceiveMaximumExceeded { limit: 2 });
}

#[test]
fn publishes_that_wait_for_the_store_hold_a_3_1_1_client_back() {
    let limits = Limits { receive_maximum: NonZeroU16::new(2).expect("not 0"), ..limits() };
    let mut rig = Rig::with(limits, &connect(V311));
    let first = rig.publish(publish("a", qos1(1)));
    assert!(!rig.session.is_saturated());
    rig.publish(publish("a", qos1(2)));
    assert!(rig.session.is_saturated());
    rig.publish(publish("a", qos1(3))); // Of the same read, perhaps.
    rig.stored(first, ReasonCode::Success);
    assert!(rig.session.is_saturated());
}

#[test]
fn topics_of_the_server_are_refused() {
    // B49
    for topic in ["$SYS/x", "$share/g/x", "$queue/x", "$SYS"] {
        check_refused(topic, ReasonCode::NotAuthorized);
    }
    let mut rig = Rig::new(V5);
    rig.publish_and_store(publish("$other/x", qos1(1)));
    rig.expect_sent(&["puback 1"]);
}

#[test]
fn topics_with_too_many_levels_are_refused() {
    // B48
    check_refused(&"/".repeat(128), ReasonCode::TopicNameInvalid);
    check_refused(&"/".repeat(65_535), ReasonCode::TopicNameInvalid);
    Rig::new(V5).publish_and_store(publish(&"/".repeat(127), qos1(1)));
}

#[track_caller]
fn check_refused(topic: &str, reason: ReasonCode) {
    for version in [V311, V5] {
        let mut rig = Rig::new(version);
        for delivery in [Delivery::AtMostOnce, qos1(1), qos2(2)] {
            let request = rig.handle(Packet::Publish(publish(topic, delivery))).expect("no error");
            assert!(matches!(request, Request::Refused(code) if code == reason), "{request:?}");
        }
        if version.is_v5() {
            rig.expect_sent(&[&format!("puback 1 {reason:?}"), &format!("pubrec 2 {reason:?}")]);
        } else {
            rig.take(Packet::PubRel(ack(2)));
            rig.expect_sent(&["puback 1", "pubrec 2", "pubcomp 2"]);
        }
    }
}

/// A QoS 0 PUBLISH with an alias.
fn aliased(topic: &str, alias: u16) -> Packet<'_> {
    let properties =
        PublishProperties { topic_alias: NonZeroU16::new(alias), ..PublishProperties::default() };
    Packet::Publish(Publish { properties, ..publish(topic, Delivery::AtMostOnce) })
}

#[track_caller]
fn expect_topic(request: Result<Request<'_>, SessionError>, expected: &str) {
    match request {
        Ok(Request::Publish(incoming, None)) => assert_eq!(incoming.topic.as_str(), expected),
        other => panic!("{other:?}"),
    }
}

#[test]
fn topic_alias_stands_for_its_topic() {
    let mut rig = Rig::new(V5);
    expect_topic(rig.handle(aliased("a", 32)), "a"); // [MQTT-3.3.2-12]
    expect_topic(rig.handle(aliased("b", 1)), "b");
    expect_topic(rig.handle(aliased("", 32)), "a");
    expect_topic(rig.handle(aliased("c", 32)), "c"); // A new meaning.
    expect_topic(rig.handle(aliased("", 32)), "c");
    expect_topic(rig.handle(aliased("", 1)), "b");
}

#[test]
fn faulty_topic_aliases() {
    let mut rig = Rig::new(V5);
    let error = rig.handle(aliased("a", 33)).expect_err("too high"); // [MQTT-3.3.2-9]
    assert_eq!(error, SessionError::TopicAliasInvalid { alias: 33, maximum: 32 });
    assert_eq!(error.reason(), ReasonCode::TopicAliasInvalid);
    let error = rig.handle(aliased("", 1)).expect_err("unknown");
    assert_eq!(error, SessionError::TopicAliasUnknown { alias: 1 });
    assert_eq!(error.reason(), ReasonCode::ProtocolError);
    let mut rig = Rig::with(Limits { topic_alias_max: 0, ..limits() }, &connect(V5));
    rig.handle(aliased("a", 1)).expect_err("none allowed");
}

#[test]
fn topic_alias_of_a_refused_topic_is_refused_too() {
    let mut rig = Rig::new(V5);
    for packet in [aliased("$SYS/a", 1), aliased("", 1)] {
        let request = rig.handle(packet).expect("no error");
        assert!(matches!(request, Request::Refused(ReasonCode::NotAuthorized)));
    }
}

#[test]
fn a_publish_that_nobody_answers_is_not_waited_for_for_ever() {
    let limit = Duration::from_secs(15);
    let check = |rig: &mut Rig, after: u64, stuck: bool| {
        rig.wait(Duration::from_secs(after));
        assert_eq!(rig.session.is_stuck(rig.now), stuck);
    };
    for version in [V311, V5] {
        let connect = Connect { keep_alive: 0, ..connect(version) };
        let mut rig = Rig::with(Limits { answer_timeout: Some(limit), ..limits() }, &connect);
        check(&mut rig, 100, false);
        assert_eq!(rig.session.next_deadline(), None);
        let first = rig.publish(publish("a", qos1(1)));
        assert_eq!(rig.session.next_deadline(), Some(rig.now + limit));
        let second = rig.publish(publish("a", qos2(2)));
        check(&mut rig, 14, false);
        rig.stored(first, ReasonCode::Success);
        // The answer to the first is progress, noticed when its time is over.
        check(&mut rig, 1, false);
        assert_eq!(rig.session.next_deadline(), Some(rig.now + limit));
        check(&mut rig, 15, true);
        rig.stored(second, ReasonCode::Success);
        check(&mut rig, 100, false);
        assert_eq!(rig.session.next_deadline(), None);
        rig.publish(publish("a", qos1(3)));
        check(&mut rig, 14, false);
    }
    let mut rig = Rig::new(V5);
    rig.publish(publish("a", qos1(1)));
    check(&mut rig, 1_000_000, false);
}
