//! Keep alive, expiry, and what is neither a message nor a handshake.

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

#[test]
fn client_may_be_silent_for_one_and_a_half_times_its_keep_alive() {
    // [MQTT-3.1.2-22]
    let mut rig = Rig::new(V5);
    assert_eq!(next_deadline(&rig), Some(90));
    rig.wait(89 * SECOND);
    assert!(!rig.session.is_silent(rig.now));
    rig.take(Packet::PingReq); // Any packet counts.
    assert_eq!(next_deadline(&rig), Some(90));
    rig.wait(90 * SECOND);
    assert!(rig.session.is_silent(rig.now));
}

#[test]
fn the_time_in_which_a_client_is_not_read_does_not_count() {
    let mut rig = Rig::new(V5);
    rig.wait(3_600 * SECOND);
    rig.session.handle_resumed(rig.now);
    assert!(!rig.session.is_silent(rig.now));
    assert_eq!(next_deadline(&rig), Some(90));
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
fn disconnect_says_whether_the_will_is_sent() {
    // [MQTT-3.14.4-3] [MQTT-3.1.2-8]
    for version in [V311, V5] {
        let request = Rig::new(version)
            .handle(disconnect(ReasonCode::Success, None))
            .map(|request| format!("{request:?}"));
        assert_eq!(request, Ok("Disconnect(Normal)".to_owned()));
    }
    for reason in [ReasonCode::DisconnectWithWill, ReasonCode::UnspecifiedError] {
        let mut rig = Rig::new(V5);
        let request = rig.handle(disconnect(reason, None)).expect("no error");
        assert!(matches!(request, Request::Disconnect(Cause::WithWill(said)) if said == reason));
    }
}

/// A CONNECT for a session of an hour.
fn lasting() -> Connect<'static> {
    let mut connect = connect(V5);
    connect.properties.session_expiry = 3600;
    connect
}

#[test]
fn disconnect_changes_the_expiry() {
    // Section 3.14.2.2.2
    let secs = |secs| SessionExpiry::After(Duration::from_secs(secs));
    for (expiry_max, asked, expected) in [
        (None, None, secs(3600)),
        (None, Some(7), secs(7)),
        (None, Some(u32::MAX), SessionExpiry::Never),
        (None, Some(0), SessionExpiry::AtDisconnect),
        (Some(5), Some(7), secs(5)),
        (Some(5), Some(u32::MAX), secs(5)),
    ] {
        let limits = Limits { expiry_max: expiry_max.map(Duration::from_secs), ..limits() };
        let mut rig = Rig::with(limits, &lasting());
        rig.handle(disconnect(ReasonCode::Success, asked)).expect("no error");
        assert_eq!(rig.session.expiry(), expected);
    }
}

#[test]
fn disconnect_cannot_raise_the_expiry_from_zero() {
    // B71
    let mut rig = Rig::new(V5);
    let error = rig.handle(disconnect(ReasonCode::Success, Some(1))).expect_err("raised");
    assert_eq!(error, SessionError::SessionExpiryRaised);
    assert_eq!(error.reason(), ReasonCode::ProtocolError);
    assert_eq!(rig.session.expiry(), SessionExpiry::AtDisconnect);
    rig.handle(disconnect(ReasonCode::Success, Some(0))).expect("nothing raised");
}

#[test]
fn only_5_0_has_a_disconnect_for_the_server() {
    for (version, expected) in [(V5, &["disconnect SessionTakenOver"][..]), (V311, &[])] {
        let mut rig = Rig::new(version);
        rig.session.write_disconnect(ReasonCode::SessionTakenOver, &mut rig.out);
        rig.expect_sent(expected);
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
    match Handshake::start(&connect, &limits(), 0, &mut Method).expect("accepted").1 {
        HandshakeStep::Accept(accepted) => {
            rig.session = Session::new(rig.now, *accepted, Arc::new(limits()));
        }
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
    assert!(size_of::<Session>() <= 128, "{}", size_of::<Session>());
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
