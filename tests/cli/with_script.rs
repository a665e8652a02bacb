//! Against a listener that plays back bytes.

use std::net::TcpListener;

use crate::harness::{
    Running, Script,
    Turn::{Expect, Send},
    client, outcome, run_with_input, text,
};

const CONNECT: u8 = 0x10;
const PUBLISH: u8 = 0x30;
const PUBLISH_QOS1: u8 = 0x32;
const PUBREL: u8 = 0x62;
const SUBSCRIBE: u8 = 0x82;
const PINGREQ: u8 = 0xC0;

/// Success, no properties.
const CONNACK: &[u8] = &[0x20, 3, 0, 0, 0];

fn check(script: Script, arguments: &str, code: i32, message: &str) {
    let (actual, stderr) = outcome(client(script.port, arguments));
    assert_eq!(actual, Some(code), "{arguments}: {stderr}");
    assert!(stderr.contains(message), "{arguments}: {stderr}");
    script.finish();
}

#[test]
fn nobody_there_is_3() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = listener.local_addr().expect("it is bound").port();
    drop(listener);
    let (code, stderr) = outcome(client(port, "pub -t t -m x"));
    let expected = format!(
        "error: cannot connect to 127.0.0.1:{port}: connection refused: is the broker running there?\n"
    );
    assert_eq!((code, stderr), (Some(3), expected));
    let (code, stderr) = outcome(client(port, "pub -t t -m x -h name.invalid"));
    assert_eq!(code, Some(3));
    assert!(stderr.starts_with("error: cannot find the host name.invalid: "), "{stderr}");
}

#[test]
fn something_that_is_not_a_broker_is_3() {
    check(
        Script::hanging_up(vec![Expect(CONNECT)]),
        "sub -t t",
        3,
        "closed the connection without an answer",
    );
    let http = vec![Expect(CONNECT), Send(b"HTTP/1.1 400 Bad Request\r\n\r\n")];
    check(Script::play(http), "sub -t t", 3, "its answer is not a CONNACK: is it an MQTT broker");
    check(Script::play(vec![]), "sub -t t --connect-timeout 0.1", 3, "no answer within 0.1 s");
}

#[test]
fn arguments_that_make_no_sense_are_2() {
    for arguments in
        ["pub -t t", "pub -t a/# -m x", "pub -t t -m x -V 311 --message-expiry 1", "sub -t t -q 3"]
    {
        let (code, stderr) = outcome(client(1, arguments));
        assert_eq!(code, Some(2), "{arguments}: {stderr}");
        assert!(stderr.starts_with("error: "), "{stderr}");
    }
}

#[test]
fn a_refused_connection_is_4() {
    let v5: &[u8] = &[0x20, 3, 0, 0x86, 0];
    let script = Script::hanging_up(vec![Expect(CONNECT), Send(v5)]);
    check(script, "sub -t t", 4, "the broker refused the connection: ");
    let v311: &[u8] = &[0x20, 2, 0, 5];
    let script = Script::hanging_up(vec![Expect(CONNECT), Send(v311)]);
    check(script, "sub -V 311 -t t", 4, "-u and --password-file say who you are");
}

#[test]
fn refused_filters_are_named() {
    let none: &[u8] = &[0x90, 4, 0, 1, 0, 0x87];
    let script = Script::play(vec![Expect(CONNECT), Send(CONNACK), Expect(SUBSCRIBE), Send(none)]);
    check(script, "sub -t secret", 4, "the broker refused the subscription to secret: ");
    // One of two is refused: the other one goes on, and the exit code says that not all went well.
    let one: &[u8] = &[0x90, 5, 0, 1, 0, 0, 0x87];
    let publish: &[u8] = &[PUBLISH, 5, 0, 1, b'a', 0, b'x'];
    let script =
        Script::play(vec![Expect(CONNECT), Send(CONNACK), Expect(SUBSCRIBE), Send(one), Send(publish)]);
    let output = client(script.port, "sub -t a -t secret -c 1").output().expect("it runs");
    assert_eq!((output.status.code(), output.stdout), (Some(4), b"x\n".to_vec()));
    let stderr = text(&output.stderr);
    assert!(stderr.starts_with("the broker refused the subscription to secret: "), "{stderr}");
    script.finish();
}

#[test]
fn a_refused_message_is_4_and_the_others_are_sent() {
    let (refusal, success): (&[u8], &[u8]) = (&[0x40, 3, 0, 1, 0x97], &[0x40, 2, 0, 2]);
    let turns = vec![
        Expect(CONNECT),
        Send(CONNACK),
        Expect(PUBLISH_QOS1),
        Send(refusal),
        Expect(PUBLISH_QOS1),
        Send(success),
    ];
    let script = Script::play(turns);
    let output = run_with_input(client(script.port, "pub -t t -q 1 -l"), b"one\ntwo\n");
    assert_eq!(output.status.code(), Some(4));
    let stderr = text(&output.stderr);
    assert!(stderr.starts_with("the broker refused the message for t: "), "{stderr}");
    assert!(stderr.contains("(0x97)"), "{stderr}");
    let sent = script.finish();
    assert!(sent.ends_with(&[0x32, 9, 0, 1, b't', 0, 2, 0, b't', b'w', b'o', 0xE0, 0]), "{sent:x?}");
}

#[test]
fn a_qos_2_message_that_nobody_wants_is_told_of_with_its_pubrec() {
    let (pubrec, pubcomp): (&[u8], &[u8]) = (&[0x50, 3, 0, 1, 0x10], &[0x70, 2, 0, 1]);
    for (options, message) in [("", ""), ("-v", "t: nobody is subscribed\n")] {
        let turns =
            vec![Expect(CONNECT), Send(CONNACK), Expect(0x34), Send(pubrec), Expect(PUBREL), Send(pubcomp)];
        let script = Script::play(turns);
        let outcome = outcome(client(script.port, &format!("pub -t t -m x -q 2 {options}")));
        assert_eq!(outcome, (Some(0), message.to_owned()));
        script.finish();
    }
}

#[test]
fn what_the_broker_does_not_take_is_not_sent() {
    let maximum_qos_0: &[u8] = &[0x20, 5, 0, 0, 2, 0x24, 0];
    let script = Script::play(vec![Expect(CONNECT), Send(maximum_qos_0)]);
    check(script, "pub -t t -m x -q 1", 4, "the broker does not take messages of this QoS: its highest is 0");
    let maximum_packet_size_8: &[u8] = &[0x20, 8, 0, 0, 5, 0x27, 0, 0, 0, 8];
    let script = Script::play(vec![Expect(CONNECT), Send(maximum_packet_size_8)]);
    check(script, "pub -t t -m longer", 4, "message not sent: the broker does not take packets of this size");
}

#[test]
fn a_lost_connection_is_5() {
    let script = Script::hanging_up(vec![Expect(CONNECT), Send(CONNACK), Expect(SUBSCRIBE)]);
    check(script, "sub -t t", 5, "the broker closed the connection without giving a reason");
    let script =
        Script::hanging_up(vec![Expect(CONNECT), Send(CONNACK), Expect(SUBSCRIBE), Send(&[0xE0, 1, 0x8E])]);
    check(script, "sub -t t", 5, "(0x8E)");
    let script =
        Script::hanging_up(vec![Expect(CONNECT), Send(CONNACK), Expect(SUBSCRIBE), Send(&[0xFF, 0xFF])]);
    check(script, "sub -t t", 5, "the broker sent something that is not MQTT: ");
    // QoS 0 has no acknowledgement, but a broker may still complain.
    let script =
        Script::hanging_up(vec![Expect(CONNECT), Send(CONNACK), Expect(PUBLISH), Send(&[0xE0, 1, 0x87])]);
    check(script, "pub -t t -m x", 5, "(0x87)");
}

#[test]
fn a_silent_connection_is_kept_alive() {
    let turns = vec![
        Expect(CONNECT),
        Send(CONNACK),
        Expect(SUBSCRIBE),
        Send(&[0x90, 4, 0, 1, 0, 0]),
        Expect(PINGREQ),
        Send(&[0xD0, 0]),
        Expect(PINGREQ),
        Send(&[PUBLISH, 5, 0, 1, b't', 0, b'x']),
    ];
    check(Script::play(turns), "sub -t t -k 1 -c 1", 0, "");
}

#[test]
fn the_brokers_keep_alive_replaces_the_clients() {
    // [MQTT-3.2.2-21]
    let server_keep_alive_1: &[u8] = &[0x20, 6, 0, 0, 3, 0x13, 0, 1];
    let publish: &[u8] = &[PUBLISH, 5, 0, 1, b't', 0, b'x'];
    let turns = vec![Expect(CONNECT), Send(server_keep_alive_1), Expect(PINGREQ), Send(publish)];
    check(Script::play(turns), "sub -t t -k 600 -c 1", 0, "");
}

#[test]
fn aliases_of_the_broker_are_resolved_and_qos_2_is_finished() {
    let turns = vec![
        Expect(CONNECT),
        Send(CONNACK),
        Expect(SUBSCRIBE),
        // Topic Alias 1 stands for `t`; then by the alias alone, at QoS 2, twice.
        Send(&[PUBLISH, 8, 0, 1, b't', 3, 0x23, 0, 1, b'x']),
        Send(&[0x34, 9, 0, 0, 0, 5, 3, 0x23, 0, 1, b'y']),
        Send(&[0x3C, 9, 0, 0, 0, 5, 3, 0x23, 0, 1, b'y']),
        Expect(0x50),
        Send(&[PUBREL, 2, 0, 5]),
    ];
    let script = Script::play(turns);
    let output = client(script.port, "sub -v -t t -q 2 -c 2").output().expect("it runs");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), "t x\nt y\n".to_owned()));
    let sent = script.finish();
    assert!(sent.ends_with(&[0x70, 2, 0, 5, 0xE0, 0]), "PUBCOMP, then DISCONNECT: {sent:x?}");
}

#[test]
fn an_interrupt_says_goodbye() {
    let script =
        Script::play(vec![Expect(CONNECT), Send(CONNACK), Expect(SUBSCRIBE), Send(&[0x90, 4, 0, 1, 0, 0])]);
    let subscriber = Running::start(client(script.port, "sub -d -t t")).after("subscribed to ");
    subscriber.signal("-INT");
    assert_eq!(subscriber.finish().0, Some(0));
    assert!(script.finish().ends_with(&[0xE0, 0]), "a DISCONNECT");
}

#[test]
fn the_password_comes_from_the_environment() {
    for (arguments, password) in [("-u me", &b"\0\x06secret"[..]), ("-u me -P other", b"\0\x05other")] {
        let script = Script::play(vec![Expect(CONNECT), Send(CONNACK)]);
        let mut command = client(script.port, &format!("pub -t t -n {arguments}"));
        command.env("FLOTILLA_PASSWORD", "secret");
        assert_eq!(outcome(command), (Some(0), String::new()));
        let sent = script.finish();
        let connect = &sent[..2 + usize::from(sent[1])];
        assert!(connect.ends_with(password), "{connect:x?}");
    }
}
