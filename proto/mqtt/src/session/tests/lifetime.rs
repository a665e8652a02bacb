//! Keep alive, wills, expiry, and what is neither a message nor a handshake.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// What is due at the next deadline, in seconds from now.
#[track_caller]
fn next_deadline(rig: &Rig) -> Option<u64> {
    rig.session.next_deadline().map(|at| {
        let left = at.since(rig.now);
        assert_eq!(left.subsec_millis(), 0);
        left.as_secs()
    })
}

#[track_caller]
fn due(rig: &mut Rig) -> Ending {
    match rig.session.handle_deadline(rig.now) {
        Due::Ending(ending) => ending,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn expect_nothing_due(rig: &mut Rig) {
    assert!(matches!(rig.session.handle_deadline(rig.now), Due::Nothing));
}

#[test]
fn client_may_be_silent_for_one_and_a_half_times_its_keep_alive() {
    // [MQTT-3.1.2-22]
    let mut rig = Rig::new(V5);
    assert_eq!(next_deadline(&rig), Some(90));
    rig.wait(89 * SECOND);
    expect_nothing_due(&mut rig);
    rig.take(Packet::PingReq); // Any packet counts.
    assert_eq!(next_deadline(&rig), Some(90));
    rig.wait(90 * SECOND);
    assert!(matches!(rig.session.handle_deadline(rig.now), Due::KeepAliveTimeout));
}

#[test]
fn keep_alive_backoff_is_configurable_and_0_turns_it_off() {
    for (keep_alive, backoff, expected) in
        [(60, 0.5, Some(60)), (60, 1.0, Some(120)), (0, 0.75, None), (u16::MAX, 2.0, Some(262_140))]
    {
        let limits = Limits { keepalive_backoff: backoff, ..limits() };
        let rig = Rig::with(limits, &Connect { keep_alive, ..connect(V311) });
        assert_eq!(next_deadline(&rig), expected);
    }
    for keepalive_backoff in [f64::NAN, f64::INFINITY, -1.0, 1e300] {
        let rig = Rig::with(Limits { keepalive_backoff, ..limits() }, &connect(V5));
        assert!(rig.session.next_deadline().is_some_and(|at| at.since(rig.now) > SECOND), "no panic");
    }
}

#[test]
fn pingreq_is_answered() {
    // [MQTT-3.12.4-1]
    let mut rig = Rig::new(V311);
    rig.take(Packet::PingReq);
    rig.expect_sent(&["pingresp"]);
}

#[test]
fn packets_that_a_client_does_not_send_are_errors() {
    // B02, B37
    for packet in [Packet::Connect(Box::new(connect(V5))), Packet::PingResp] {
        let mut rig = Rig::new(V5);
        let packet_type = packet.packet_type();
        let error = rig.handle(packet).expect_err("unexpected");
        assert_eq!(error, SessionError::UnexpectedPacket(packet_type));
        assert_eq!(error.reason(), ReasonCode::ProtocolError);
    }
}

#[test]
fn packets_without_a_connection_are_errors() {
    let mut rig = Rig::new(V5);
    rig.lose();
    rig.handle(Packet::PingReq).expect_err("not connected");
    rig.expect_sent(&[]);
}

#[test]
fn subscribe_and_unsubscribe_are_answered_by_the_caller() {
    let codes = [ReasonCode::GrantedQoS1, ReasonCode::TopicFilterInvalid];
    let gone = [ReasonCode::Success, ReasonCode::NoSubscriptionExisted];
    for (version, expected) in [
        (V5, ["suback 1 [GrantedQoS1, TopicFilterInvalid]", "unsuback 2 [Success, NoSubscriptionExisted]"]),
        (V311, ["suback 1 [GrantedQoS1, UnspecifiedError]", "unsuback 2 []"]),
    ] {
        let mut rig = Rig::new(version);
        rig.session.handle_subscribed(id(1), &codes, &mut rig.out);
        rig.session.handle_unsubscribed(id(2), &gone, &mut rig.out);
        rig.expect_sent(&expected);
    }
}

#[test]
fn subscriptions_have_a_quota() {
    let mut rig = Rig::with(Limits { subscriptions_max: 2, ..limits() }, &connect(V5));
    let filter = |text: &str| Arc::new(TopicFilter::parse(text, 128).expect("valid"));
    let options = SubscriptionOptions::default();
    let no_local = SubscriptionOptions { no_local: true, ..options };
    let id = NonZeroU32::new(7);
    assert_eq!(rig.session.subscribe(&filter("b"), options, None), Ok(None));
    assert_eq!(rig.session.subscribe(&filter("a"), options, id), Ok(None));
    assert_eq!(rig.session.subscribe(&filter("c"), options, None), Err(ReasonCode::QuotaExceeded));
    let replaced = rig.session.subscribe(&filter("a"), no_local, None); // [MQTT-3.8.4-3]
    assert_eq!(replaced, Ok(Some(Subscription { filter: filter("a"), options, id })));
    assert_eq!(rig.session.unsubscribe("c"), None);
    assert!(rig.session.unsubscribe("b").is_some());
    assert_eq!(rig.session.subscribe(&filter("c"), options, None), Ok(None));
    let texts: Vec<_> =
        rig.session.subscriptions().map(|subscription| subscription.filter.as_str()).collect();
    assert_eq!(texts, ["a", "c"]);
}

#[test]
fn answer_to_subscribe_must_fit() {
    // [MQTT-3.1.2-24]
    let options = SubscriptionOptions::default();
    let filters = [("a", options); 30];
    let subscribe = |count| crate::packet::Subscribe {
        id: id(1),
        subscription_id: None,
        user_properties: UserProperties::default(),
        filters: crate::packet::Filters::from(&filters[..count]),
    };
    let mut connect = connect(V5);
    connect.properties.maximum_packet_size = NonZeroU32::new(30);
    let mut rig = Rig::with(limits(), &connect);
    assert!(matches!(rig.handle(Packet::Subscribe(subscribe(22))), Ok(Request::Subscribe(_))));
    let error = rig.handle(Packet::Subscribe(subscribe(30))).expect_err("too large");
    assert_eq!(error.reason(), ReasonCode::PacketTooLarge);
}

#[test]
fn disconnect_drops_the_will() {
    // [MQTT-3.14.4-3]
    for version in [V311, V5] {
        let mut rig = Rig::with(limits(), &Connect { will: will(0, None), ..connect(version) });
        let request = rig.handle(disconnect(ReasonCode::Success, None)).expect("no error");
        assert!(matches!(request, Request::Disconnect(Cause::Normal)));
        assert!(rig.session.disconnect(rig.now, Cause::Normal).will.is_none());
        assert!(rig.session.end(rig.now).will.is_none());
    }
}

#[test]
fn every_other_end_of_a_connection_sends_the_will() {
    // [MQTT-3.1.2-8]
    for cause in [
        Cause::ConnectionLost,
        Cause::WithWill(ReasonCode::DisconnectWithWill),
        Cause::WithWill(ReasonCode::UnspecifiedError),
        Cause::Server(ReasonCode::KeepAliveTimeout),
        Cause::Server(ReasonCode::SessionTakenOver),
    ] {
        let mut rig = Rig::with(limits(), &Connect { will: will(0, None), ..connect(V5) });
        let ending = rig.session.disconnect(rig.now, cause);
        let will = ending.will.expect("published");
        assert_eq!((&*will.topic, &*will.payload, will.qos), ("will", &b"gone"[..], QoS::AtLeastOnce));
        assert_eq!(will.publisher.as_ref().map(ClientId::as_str), Some("client"));
        assert!(!ending.ended);
        assert!(rig.session.disconnect(rig.now, cause).will.is_none(), "once");
        assert!(rig.session.end(rig.now).will.is_none(), "once");
    }
}

#[test]
fn disconnect_with_will_says_so() {
    let mut rig = Rig::new(V5);
    let request = rig.handle(disconnect(ReasonCode::DisconnectWithWill, None)).expect("no error");
    assert!(matches!(request, Request::Disconnect(Cause::WithWill(ReasonCode::DisconnectWithWill))));
}

#[test]
fn will_waits_for_its_delay() {
    let mut rig = Rig::with(limits(), &Connect { will: will(10, Some(5)), ..connect(V5) });
    assert!(rig.lose().will.is_none());
    assert_eq!(next_deadline(&rig), Some(10));
    rig.wait(9 * SECOND);
    expect_nothing_due(&mut rig);
    rig.wait(2 * SECOND);
    let ending = due(&mut rig);
    let will = ending.will.expect("due");
    assert_eq!(will.expires_at, Some(rig.now + 5 * SECOND), "its expiry starts with its publication");
    assert!(!ending.ended);
    assert_eq!(next_deadline(&rig), Some(3600 - 11));
    rig.wait(3600 * SECOND);
    let ending = due(&mut rig);
    assert!(ending.will.is_none() && ending.ended);
    assert_eq!(next_deadline(&rig), None);
    expect_nothing_due(&mut rig);
}

#[test]
fn will_is_sent_at_the_end_of_the_session_if_its_delay_is_longer() {
    let mut connect = Connect { will: will(u32::MAX, None), ..connect(V5) };
    connect.properties.session_expiry = 10;
    let mut rig = Rig::with(limits(), &connect);
    assert!(rig.lose().will.is_none());
    assert_eq!(next_deadline(&rig), Some(10));
    rig.wait(10 * SECOND);
    let ending = due(&mut rig);
    assert!(ending.will.is_some() && ending.ended);

    let mut rig = Rig::with(limits(), &Connect { will: will(10, None), ..transient(V5) });
    let ending = rig.lose();
    assert!(ending.will.is_some() && ending.ended);
}

#[test]
fn reconnecting_in_time_cancels_the_will() {
    // [MQTT-3.1.3-9]
    let mut rig = Rig::with(limits(), &Connect { will: will(10, None), ..connect(V5) });
    rig.reconnect(&connect(V5));
    rig.wait(20 * SECOND);
    expect_nothing_due(&mut rig);
    let ending = rig.lose();
    assert!(ending.will.is_none());
    assert_eq!(next_deadline(&rig), Some(3600));
}

#[test]
fn end_of_the_session_sends_a_waiting_will() {
    // Clean Start of the next connection (section 3.1.3.2.2).
    let mut rig = Rig::with(limits(), &Connect { will: will(10, Some(3)), ..connect(V5) });
    rig.lose();
    let ending = rig.session.end(rig.now);
    assert_eq!(ending.will.expect("due").expires_at, Some(rig.now + 3 * SECOND));
    assert!(ending.ended);
    assert_eq!(next_deadline(&rig), None);
}

#[test]
fn session_outlives_its_connection_for_its_expiry() {
    for (expiry_max, asked, expected) in [
        (None, 10, Some(10)),
        (None, u32::MAX, None),
        (Some(20), 10, Some(10)),
        (Some(5), 10, Some(5)),
        (Some(5), u32::MAX, Some(5)),
    ] {
        let limits = Limits { expiry_max: expiry_max.map(Duration::from_secs), ..limits() };
        let mut connect = connect(V5);
        connect.properties.session_expiry = asked;
        let mut rig = Rig::with(limits, &connect);
        assert!(!rig.lose().ended);
        assert_eq!(next_deadline(&rig), expected);
    }
}

#[test]
fn disconnect_changes_the_expiry() {
    // Section 3.14.2.2.2
    for (expiry_max, asked, expected) in
        [(None, 7, Some(7)), (None, u32::MAX, None), (Some(5), 7, Some(5)), (Some(5), u32::MAX, Some(5))]
    {
        let limits = Limits { expiry_max: expiry_max.map(Duration::from_secs), ..limits() };
        let mut rig = Rig::with(limits, &connect(V5));
        rig.handle(disconnect(ReasonCode::Success, Some(asked))).expect("no error");
        assert!(!rig.session.disconnect(rig.now, Cause::Normal).ended);
        assert_eq!(next_deadline(&rig), expected);
    }
    let mut rig = Rig::new(V5);
    rig.handle(disconnect(ReasonCode::Success, Some(0))).expect("no error");
    assert!(rig.session.disconnect(rig.now, Cause::Normal).ended);
}

#[test]
fn disconnect_cannot_raise_the_expiry_from_zero() {
    // B71
    let mut rig = Rig::with(limits(), &Connect { will: will(0, None), ..transient(V5) });
    let error = rig.handle(disconnect(ReasonCode::Success, Some(1))).expect_err("raised");
    assert_eq!(error, SessionError::SessionExpiryRaised);
    assert_eq!(error.reason(), ReasonCode::ProtocolError);
    let ending = rig.session.disconnect(rig.now, Cause::Server(error.reason()));
    assert!(ending.will.is_some() && ending.ended, "an abnormal end");
    let mut rig = Rig::with(limits(), &transient(V5));
    rig.handle(disconnect(ReasonCode::Success, Some(0))).expect("nothing raised");
}

#[test]
fn only_5_0_has_a_disconnect_for_the_server() {
    for (version, expected) in [(V5, &["disconnect SessionTakenOver"][..]), (V311, &[])] {
        let mut rig = Rig::new(version);
        rig.session.write_disconnect(ReasonCode::SessionTakenOver, &mut rig.out);
        rig.expect_sent(expected);
        rig.lose();
        rig.session.write_disconnect(ReasonCode::SessionTakenOver, &mut rig.out);
        rig.expect_sent(&[]);
    }
}

/// Accepts a method "m" at once.
struct Method;

impl Authenticator for Method {
    fn check_password(&mut self, _: &str, _: Option<&str>, _: Option<&[u8]>) -> Result<(), ReasonCode> {
        panic!("enhanced authentication replaces the password")
    }

    fn step(&mut self, method: &str, _: Option<&[u8]>) -> Result<AuthStep, ReasonCode> {
        assert_eq!(method, "m");
        Ok(AuthStep::Done(Vec::new()))
    }
}

fn authenticated() -> Rig {
    let mut connect = connect(V5);
    connect.properties.authentication_method = Some("m");
    let mut rig = Rig::new(V5);
    rig.lose();
    match Handshake::start(&connect, &limits(), 0, &mut Method).expect("accepted").1 {
        HandshakeStep::Accept(accepted) => rig.session.connect(rig.now, *accepted),
        HandshakeStep::Continue(_) => panic!("nobody asked for more"),
    }
    rig
}

fn auth(reason: ReasonCode, authentication_method: Option<&str>) -> Packet<'_> {
    let properties = AuthProperties { authentication_method, ..AuthProperties::default() };
    Packet::Auth(Auth { reason, properties })
}

#[test]
fn reauthentication_goes_to_the_authenticator() {
    // [MQTT-4.12.1-1]
    let mut rig = authenticated();
    for _ in 0..2 {
        let request = rig.handle(auth(ReasonCode::Reauthenticate, Some("m"))).expect("no error");
        assert!(matches!(request, Request::Authenticate(_)));
        rig.session.handle_authenticated(&AuthStep::Continue(b"more".to_vec()), &mut rig.out);
        let request = rig.handle(auth(ReasonCode::ContinueAuthentication, Some("m"))).expect("no error");
        assert!(matches!(request, Request::Authenticate(_)));
        rig.session.handle_authenticated(&AuthStep::Done(b"yes".to_vec()), &mut rig.out);
        rig.expect_sent(&["auth ContinueAuthentication \"more\"", "auth Success \"yes\""]);
    }
}

#[test]
fn unexpected_auth_is_an_error() {
    // B24, [MQTT-4.12.0-7]
    let mut rig = Rig::new(V5);
    let error = rig.handle(auth(ReasonCode::Reauthenticate, Some("m"))).expect_err("no method");
    assert_eq!((error.reason(), error), (ReasonCode::ProtocolError, SessionError::UnexpectedAuth));
    for packet in [
        auth(ReasonCode::Reauthenticate, Some("n")),
        auth(ReasonCode::Reauthenticate, None),
        auth(ReasonCode::ContinueAuthentication, Some("m")),
        auth(ReasonCode::Success, Some("m")),
    ] {
        authenticated().handle(packet).expect_err("unexpected");
    }
    let mut rig = authenticated();
    rig.handle(auth(ReasonCode::Reauthenticate, Some("m"))).expect("no error");
    for _ in 1..16 {
        rig.session.handle_authenticated(&AuthStep::Continue(Vec::new()), &mut rig.out);
        rig.handle(auth(ReasonCode::ContinueAuthentication, Some("m"))).expect("no error");
    }
    rig.handle(auth(ReasonCode::ContinueAuthentication, Some("m"))).expect_err("too many rounds");
}

#[test]
fn an_idle_session_is_small() {
    assert!(size_of::<Session>() <= 200, "{}", size_of::<Session>());
    let mut rig = Rig::new(V5);
    rig.send("a", QoS::AtLeastOnce);
    rig.take(Packet::PubAck(ack(1)));
    rig.publish_and_store(publish("a", qos2(1)));
    rig.take(Packet::PubRel(ack(1)));
    rig.session.take_report();
    assert!(rig.session.inbound.is_some() && rig.session.outbound.is_some());
    rig.take(Packet::PingReq);
    assert!(rig.session.inbound.is_none() && rig.session.outbound.is_none(), "given back");
    rig.send("a", QoS::AtLeastOnce);
    rig.take(Packet::PubAck(ack(1)));
}

#[test]
fn codes_that_a_packet_cannot_carry_become_unspecified() {
    let mut rig = Rig::new(V5);
    let ticket = rig.publish(publish("a", qos1(1)));
    rig.stored(ticket, ReasonCode::ServerBusy);
    rig.session.write_disconnect(ReasonCode::BadUserNameOrPassword, &mut rig.out);
    rig.expect_sent(&["puback 1 UnspecifiedError", "disconnect UnspecifiedError"]);
    for reason in [ReasonCode::TopicFilterInvalid, ReasonCode::Success] {
        let mut bytes = Vec::new();
        Refusal { version: V5, reason }.write_connack(&mut bytes);
        assert_eq!(bytes, [0x20, 3, 0, 0x80, 0]);
    }
}
