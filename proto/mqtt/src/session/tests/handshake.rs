//! CONNECT to CONNACK.

use super::*;

#[track_caller]
fn refused(connect: &Connect<'_>, limits: &Limits) -> ReasonCode {
    let refusal = accept(connect, limits).expect_err("refused");
    assert_eq!(refusal.version, connect.version);
    refusal.reason
}

#[track_caller]
fn accepted(connect: &Connect<'_>, limits: &Limits) -> Accepted {
    accept(connect, limits).expect("accepted")
}

/// The CONNACK that the client gets.
#[track_caller]
fn connack(connect: &Connect<'_>, limits: &Limits) -> String {
    connack_of(&accepted(connect, limits), limits)
}

#[track_caller]
fn connack_of(accepted: &Accepted, limits: &Limits) -> String {
    let mut bytes = b"before".to_vec();
    accepted.write_connack(limits, true, &mut bytes);
    let bytes = bytes.strip_prefix(b"before").expect("appended");
    let decoder = Decoder::client(accepted.version, u32::MAX);
    let (packet, len) = decoder.decode(bytes).expect("valid").expect("whole");
    assert_eq!(len, bytes.len());
    let Packet::ConnAck(connack) = packet else { panic!("{packet:?}") };
    assert!(connack.session_present);
    assert_eq!(connack.reason, ReasonCode::Success);
    let debug = format!("{:?}", connack.properties);
    let parts = debug.trim_start_matches("ConnAckProperties { ").trim_end_matches(" }").split(", ");
    let said = parts.filter(|part| part.contains("Some("));
    said.map(|part| part.replace("Some(", "").replace([')', '"'], "")).collect::<Vec<_>>().join(", ")
}

/// Limits that equal the defaults of the specification, so that the CONNACK says nothing.
fn default_limits() -> Limits {
    Limits {
        receive_maximum: NonZeroU16::MAX,
        max_packet_size: NonZeroU32::MAX,
        topic_alias_max: 0,
        ..limits()
    }
}

#[test]
fn connack_says_what_is_not_the_default() {
    assert_eq!(connack(&connect(V5), &default_limits()), "");
    assert_eq!(
        connack(&connect(V5), &limits()),
        "receive_maximum: 100, maximum_packet_size: 1048576, topic_alias_maximum: 32"
    );
    assert_eq!(connack(&connect(V311), &limits()), "");
}

#[test]
fn client_without_an_identifier_gets_one() {
    // [MQTT-3.1.3-6] [MQTT-3.2.2-16], B12
    let nameless = Connect { client_id: "", clean_start: true, ..connect(V5) };
    let name = "flotilla-0000000000000000000000000000f107";
    for version in [V31, V311, V5] {
        let accepted = accepted(&Connect { version, ..nameless.clone() }, &limits());
        assert!(accepted.client_id_assigned);
        assert_eq!(accepted.client_id.as_str(), name);
    }
    let also_without_clean_start = Connect { clean_start: false, ..nameless };
    assert_eq!(connack(&also_without_clean_start, &default_limits()), format!("assigned_client_id: {name}"));
}

#[test]
fn client_without_an_identifier_cannot_keep_a_3_1_1_session() {
    // (v3.1.1: MQTT-3.1.3-8), B11
    for version in [V31, V311] {
        let nameless = Connect { client_id: "", clean_start: false, ..connect(version) };
        assert_eq!(refused(&nameless, &limits()), ReasonCode::ClientIdentifierNotValid);
        let mut bytes = Vec::new();
        accept(&nameless, &limits()).expect_err("refused").write_connack(&mut bytes);
        assert_eq!(bytes, [0x20, 2, 0, 2]);
    }
}

#[test]
fn identifiers_are_bounded() {
    let limits = Limits { max_client_id_len: 5, ..limits() };
    assert_eq!(
        refused(&Connect { client_id: "sixsix", ..connect(V5) }, &limits),
        ReasonCode::ClientIdentifierNotValid
    );
    assert_eq!(accepted(&Connect { client_id: "+/#%u", ..connect(V5) }, &limits).client_id.as_str(), "+/#%u");
}

#[test]
fn session_expiry_of_5_0_is_bounded() {
    for (asked, expiry_max, expected, said) in [
        (0, None, SessionExpiry::AtDisconnect, ""),
        (0, Some(5), SessionExpiry::AtDisconnect, ""),
        (10, None, SessionExpiry::After(Duration::from_secs(10)), ""),
        (10, Some(10), SessionExpiry::After(Duration::from_secs(10)), ""),
        (10, Some(5), SessionExpiry::After(Duration::from_secs(5)), "session_expiry: 5"),
        (10, Some(0), SessionExpiry::AtDisconnect, "session_expiry: 0"),
        (u32::MAX, None, SessionExpiry::Never, ""),
        (u32::MAX, Some(5), SessionExpiry::After(Duration::from_secs(5)), "session_expiry: 5"),
    ] {
        let limits = Limits { expiry_max: expiry_max.map(Duration::from_secs), ..default_limits() };
        let mut connect = connect(V5);
        connect.properties.session_expiry = asked;
        assert_eq!(accepted(&connect, &limits).expiry, expected);
        assert_eq!(connack(&connect, &limits), said);
    }
}

#[test]
fn session_expiry_of_3_1_1_is_configured() {
    let hour = Duration::from_secs(3600);
    for (clean_start, expiry_v3, expiry_max, expected) in [
        (true, Some(hour), None, SessionExpiry::AtDisconnect),
        (false, Some(hour), None, SessionExpiry::After(hour)),
        (false, None, None, SessionExpiry::Never),
        (false, None, Some(hour), SessionExpiry::After(hour)),
        (false, Some(hour * 2), Some(hour), SessionExpiry::After(hour)),
    ] {
        let limits = Limits { expiry_v3, expiry_max, ..limits() };
        assert_eq!(accepted(&Connect { clean_start, ..connect(V311) }, &limits).expiry, expected);
    }
}

#[test]
fn server_keep_alive() {
    // [MQTT-3.2.2-21], B29
    for (asked, server, max, expected) in [
        (60, None, None, 60),
        (0, None, None, 0),
        (60, Some(30), None, 30),
        (60, Some(90), None, 90),
        (60, Some(60), None, 60),
        (60, None, Some(30), 30),
        (0, None, Some(30), 30),
        (10, None, Some(30), 10),
        (60, Some(0), Some(30), 30),
        (60, Some(90), Some(30), 30),
    ] {
        let max_keepalive = max.and_then(NonZeroU16::new);
        let limits = Limits { server_keepalive: server, max_keepalive, ..default_limits() };
        let asking = Connect { keep_alive: asked, ..connect(V5) };
        assert_eq!(accepted(&asking, &limits).keep_alive, expected);
        let said = if asked == expected { String::new() } else { format!("server_keep_alive: {expected}") };
        assert_eq!(connack(&asking, &limits), said);
        assert_eq!(
            accepted(&Connect { version: V311, ..asking }, &limits).keep_alive,
            asked,
            "cannot be told"
        );
    }
}

#[test]
fn limits_towards_the_client_are_the_lower_ones() {
    let mut connect = connect(V5);
    let both = |connect: &Connect<'_>| {
        let accepted = accepted(connect, &limits());
        (accepted.receive_maximum.get(), accepted.topic_alias_maximum)
    };
    assert_eq!(both(&connect), (32, 0));
    connect.properties.receive_maximum = NonZeroU16::new(3).expect("not 0");
    connect.properties.topic_alias_maximum = 4;
    assert_eq!(both(&connect), (3, 4));
    connect.properties.topic_alias_maximum = 400;
    assert_eq!(both(&connect), (3, 32));
    assert_eq!(accepted(&super::connect(V311), &limits()).receive_maximum.get(), 32);
}

#[test]
fn will_topic_must_be_one_that_a_client_may_publish_to() {
    // B14
    let deep = "/".repeat(128);
    for topic in ["", "+", "a/#", "$SYS/a", "$share/g/a", "$queue/a", &deep] {
        for version in [V311, V5] {
            let will = will(0, None).map(|will| LastWill { topic, ..will });
            assert_eq!(
                refused(&Connect { will, ..connect(version) }, &limits()),
                ReasonCode::TopicNameInvalid
            );
        }
    }
}

#[test]
fn will_keeps_its_delay_and_expiry() {
    let will =
        accepted(&Connect { will: will(10, Some(20)), ..connect(V5) }, &limits()).will.expect("there is one");
    assert_eq!((will.delay, will.expiry), (Duration::from_secs(10), Some(Duration::from_secs(20))));
    assert_eq!(will.message.expires_at, None);
}

#[test]
fn response_information_is_for_those_who_ask() {
    // [MQTT-3.1.2-28]
    let limits = Limits { response_information: Some("responses/".into()), ..default_limits() };
    let mut connect = connect(V5);
    assert_eq!(connack(&connect, &limits), "");
    connect.properties.request_response_information = true;
    assert_eq!(connack(&connect, &limits), "response_information: responses/");
    assert_eq!(connack(&connect, &default_limits()), "");
    connect.properties.maximum_packet_size = NonZeroU32::new(17);
    assert_eq!(connack(&connect, &limits), "", "there is no room for it");
    connect.properties.maximum_packet_size = NonZeroU32::new(18);
    assert_eq!(connack(&connect, &limits), "response_information: responses/");
}

#[test]
fn client_that_does_not_take_its_connack_is_refused() {
    // [MQTT-3.1.2-24]
    let mut connect = connect(V5);
    for (size, fits) in [(1, false), (4, false), (5, true)] {
        connect.properties.maximum_packet_size = NonZeroU32::new(size);
        assert_eq!(accept(&connect, &default_limits()).is_ok(), fits, "{size}");
    }
    connect.properties.maximum_packet_size = NonZeroU32::new(10);
    assert_eq!(refused(&connect, &limits()), ReasonCode::PacketTooLarge);
}

/// Wants the password "secret".
struct Password;

impl Authenticator for Password {
    fn check_password(
        &mut self,
        client_id: &str,
        user: Option<&str>,
        password: Option<&[u8]>,
    ) -> Result<(), ReasonCode> {
        assert_eq!((client_id, user), ("client", Some("user")));
        if password == Some(b"secret") { Ok(()) } else { Err(ReasonCode::BadUserNameOrPassword) }
    }

    fn step(&mut self, _: &str, _: Option<&[u8]>) -> Result<AuthStep, ReasonCode> {
        panic!("no method was named")
    }
}

#[test]
fn password_is_checked() {
    // B28
    for (version, expected) in [(V5, &[0x20, 3, 0, 0x86, 0][..]), (V311, &[0x20, 2, 0, 4])] {
        let wrong = Connect { username: Some("user"), password: Some(b"guess"), ..connect(version) };
        let refusal = Handshake::start(&wrong, &limits(), 0, &mut Password).expect_err("refused");
        let mut bytes = Vec::new();
        refusal.write_connack(&mut bytes);
        assert_eq!(bytes, expected);
        let right = Connect { password: Some(b"secret"), ..wrong };
        Handshake::start(&right, &limits(), 0, &mut Password).expect("accepted");
    }
}

/// Method "count": the client counts as far as the server wants.
struct Count(u8);

impl Authenticator for Count {
    fn check_password(&mut self, _: &str, _: Option<&str>, _: Option<&[u8]>) -> Result<(), ReasonCode> {
        panic!("enhanced authentication replaces the password")
    }

    fn step(&mut self, method: &str, data: Option<&[u8]>) -> Result<AuthStep, ReasonCode> {
        match (method, data) {
            ("count", Some([n])) if *n == self.0 => Ok(AuthStep::Done(vec![*n])),
            ("count", Some([n])) => Ok(AuthStep::Continue(vec![n + 1])),
            ("count", _) => Err(ReasonCode::NotAuthorized),
            _ => Err(ReasonCode::BadAuthenticationMethod),
        }
    }
}

fn counting(data: Option<&[u8]>) -> Connect<'_> {
    let mut connect: Connect<'_> = connect(V5);
    connect.properties.authentication_method = Some("count");
    connect.properties.authentication_data = data;
    connect
}

fn auth(reason: ReasonCode, method: &'static str, data: &'static [u8]) -> Auth<'static> {
    let (authentication_method, authentication_data) = (Some(method), Some(data));
    let properties =
        AuthProperties { authentication_method, authentication_data, ..AuthProperties::default() };
    Auth { reason, properties }
}

#[test]
fn unknown_authentication_method() {
    // [MQTT-4.12.0-1], B23
    assert_eq!(refused(&counting(None), &limits()), ReasonCode::BadAuthenticationMethod);
}

#[test]
fn authentication_in_one_step() {
    let start = Handshake::start(&counting(Some(&[1])), &limits(), 0, &mut Count(1)).expect("accepted");
    let HandshakeStep::Accept(accepted) = start.1 else { panic!("one step is enough") };
    assert_eq!(accepted.authentication_method.as_deref(), Some("count"));
    // [MQTT-4.12.0-5]
    assert_eq!(
        connack_of(&accepted, &default_limits()),
        "authentication_method: count, authentication_data: [1]"
    );
}

#[test]
fn authentication_in_several_steps() {
    // [MQTT-4.12.0-2]
    let authenticator = &mut Count(3);
    let (mut handshake, step) =
        Handshake::start(&counting(Some(&[1])), &limits(), 0, authenticator).expect("goes on");
    let HandshakeStep::Continue(bytes) = step else { panic!("{step:?}") };
    assert_eq!(packets(&bytes, V5), ["auth ContinueAuthentication \"\\u{2}\""]);
    let answer = auth(ReasonCode::ContinueAuthentication, "count", &[3]);
    let step = handshake.handle_auth(&answer, authenticator).expect("accepted");
    assert!(matches!(step, HandshakeStep::Accept(_)));
    handshake.handle_auth(&answer, authenticator).expect_err("it is over");
}

#[test]
fn faulty_steps_of_authentication() {
    // B24
    for (answer, reason) in [
        (auth(ReasonCode::ContinueAuthentication, "other", &[3]), ReasonCode::ProtocolError),
        (auth(ReasonCode::Reauthenticate, "count", &[3]), ReasonCode::ProtocolError), // [MQTT-4.12.0-3]
        (auth(ReasonCode::Success, "count", &[3]), ReasonCode::ProtocolError),
        (auth(ReasonCode::ContinueAuthentication, "count", &[]), ReasonCode::NotAuthorized), // [MQTT-4.12.0-4]
    ] {
        let mut handshake =
            Handshake::start(&counting(Some(&[1])), &limits(), 0, &mut Count(3)).expect("goes on").0;
        assert_eq!(handshake.handle_auth(&answer, &mut Count(3)).expect_err("refused").reason, reason);
        handshake.handle_auth(&answer, &mut Count(3)).expect_err("it is over");
    }
    let start = Handshake::start(&counting(Some(&[])), &limits(), 0, &mut Count(3));
    assert_eq!(start.expect_err("refused").reason, ReasonCode::NotAuthorized);
}

#[test]
fn authentication_ends_at_last() {
    // B24
    let mut handshake =
        Handshake::start(&counting(Some(&[0])), &limits(), 0, &mut Count(9)).expect("goes on").0;
    let answer = auth(ReasonCode::ContinueAuthentication, "count", &[0]);
    for _ in 1..16 {
        let step = handshake.handle_auth(&answer, &mut Count(9)).expect("goes on");
        assert!(matches!(step, HandshakeStep::Continue(_)));
    }
    let refusal = handshake.handle_auth(&answer, &mut Count(9)).expect_err("too many rounds");
    assert_eq!(refusal.reason, ReasonCode::ProtocolError);
}

#[test]
fn authentication_data_must_fit_the_client() {
    let mut connect = counting(Some(&[1]));
    connect.properties.maximum_packet_size = NonZeroU32::new(14);
    let refusal =
        Handshake::start(&connect, &default_limits(), 0, &mut Count(9)).expect_err("AUTH does not fit");
    assert_eq!(refusal.reason, ReasonCode::PacketTooLarge);
    let refusal =
        Handshake::start(&connect, &default_limits(), 0, &mut Count(1)).expect_err("CONNACK does not fit");
    assert_eq!(refusal.reason, ReasonCode::PacketTooLarge);
}
