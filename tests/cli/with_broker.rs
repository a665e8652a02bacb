//! Against `flotilla start`.

use std::{fs, path::Path};

use crate::harness::{Broker, outcome, run_with_input, text, unique_topic};

#[test]
fn a_message_arrives_with_every_version_and_qos() {
    let broker = Broker::start();
    for version in ["31", "311", "5"] {
        for qos in 0..=2 {
            let topic = unique_topic("arrives");
            let subscriber = broker.subscribe(&format!("-V {version} -v -t {topic} -q {qos} -c 1"));
            broker.publish(&format!("-V {version} -t {topic} -q {qos} -m hello"));
            let (code, stdout, stderr) = subscriber.finish();
            assert_eq!((code, stdout), (Some(0), format!("{topic} hello\n")), "{version} {qos}: {stderr}");
        }
    }
}

#[test]
fn json_shows_the_properties() {
    let broker = Broker::start();
    let topic = unique_topic("json");
    let subscriber = broker.subscribe(&format!("--json -t {topic} -q 1 -c 1 --subscription-id 9"));
    broker.publish(&format!(
        "-t {topic} -q 2 -m hi --user-property k=v --user-property k=w --content-type text/plain \
         --response-topic answer --correlation-data 42 --payload-format utf8"
    ));
    let (code, stdout, stderr) = subscriber.finish();
    assert_eq!(code, Some(0), "{stderr}");
    let message: serde_json::Value = serde_json::from_str(&stdout).expect("one line of JSON");
    assert_eq!(message["topic"], topic);
    assert_eq!((&message["payload"], &message["qos"]), (&"hi".into(), &1.into()));
    assert_eq!((&message["retain"], &message["dup"]), (&false.into(), &false.into()));
    assert!(message["packet_id"].is_u64());
    let properties = serde_json::json!({
        "payload_format": "utf8", "content_type": "text/plain", "response_topic": "answer", "correlation_data": "42",
        "subscription_ids": [9], "user_properties": [["k", "v"], ["k", "w"]],
    });
    assert_eq!(message["properties"], properties);
}

#[test]
fn lines_are_messages_and_keep_their_order() {
    let broker = Broker::start();
    let lines: String = (0..500).map(|number| format!("line {number}\n")).collect();
    for qos in 0..=2 {
        let topic = unique_topic("lines");
        let subscriber = broker.subscribe(&format!("-t {topic} -q {qos} -c 500"));
        let output = run_with_input(broker.client(&format!("pub -t {topic} -q {qos} -l")), lines.as_bytes());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let (code, stdout, stderr) = subscriber.finish();
        assert_eq!(code, Some(0), "{stderr}");
        assert_eq!(stdout, lines, "at QoS {qos}");
    }
}

#[test]
fn binary_payloads_pass_unchanged() {
    let broker = Broker::start();
    let payload: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("payload-{}", std::process::id()));
    fs::write(&file, &payload).expect("it can be written");
    let topic = unique_topic("binary");
    broker.publish(&format!("-t {topic} -r -q 1 -f {}", file.display()));
    fs::remove_file(&file).expect("it is there");
    let from_file = broker.client(&format!("sub -N -t {topic} -c 1")).output().expect("it runs");
    assert!(from_file.stdout == payload);

    let output = run_with_input(broker.client(&format!("pub -t {topic} -r -q 1 -s")), &payload[1..]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let from_stdin = broker.client(&format!("sub -N -t {topic} -c 1")).output().expect("it runs");
    assert!(from_stdin.stdout == payload[1..]);
}

#[test]
fn retained_messages_come_are_skipped_and_removed() {
    let broker = Broker::start();
    let topic = unique_topic("retained");
    broker.publish(&format!("-t {topic} -m kept -r"));
    let output = broker.client(&format!("sub -t {topic} -c 1")).output().expect("it runs");
    assert_eq!((output.status.code(), output.stdout), (Some(0), b"kept\n".to_vec()));
    let (code, stderr) = outcome(broker.client(&format!("sub -t {topic} -c 1 -R -W 0.3")));
    assert_eq!((code, stderr.as_str()), (Some(27), "error: the time of --timeout is over\n"));
    broker.publish(&format!("-t {topic} -n -r"));
    assert_eq!(outcome(broker.client(&format!("sub -t {topic} -c 1 -W 0.3"))).0, Some(27));
}

#[test]
fn a_will_is_published_for_a_killed_client_only() {
    let broker = Broker::start();
    let (topic, other) = (unique_topic("will"), unique_topic("other"));
    let watcher = broker.subscribe(&format!("-v -t {topic} -q 1 -c 1"));
    let will = format!("--will-topic {topic} --will-qos 1 --will-payload");
    let polite = broker.subscribe(&format!("-t {other} {will} polite"));
    polite.signal("-INT");
    assert_eq!(polite.finish().0, Some(0));
    broker.subscribe(&format!("-t {other} {will} killed")).kill();
    let (code, stdout, _) = watcher.finish();
    assert_eq!((code, stdout), (Some(0), format!("{topic} killed\n")));
}

#[test]
fn a_session_is_resumed() {
    let broker = Broker::start();
    for (version, options) in [("5", "-x 60"), ("311", "")] {
        let topic = unique_topic("session");
        let client = topic.replace('/', "-");
        let session = format!("sub -V {version} -i {client} {options} --no-clean-start -t {topic} -q 2");
        assert_eq!(outcome(broker.client(&format!("{session} -E"))).0, Some(0));
        broker.publish(&format!("-t {topic} -q 2 -m one"));
        broker.publish(&format!("-t {topic} -q 1 -m two"));
        for message in ["one\n", "two\n"] {
            // What is beyond the count is not acknowledged, and so there the next time.
            let output = broker.client(&format!("{session} -c 1")).output().expect("it runs");
            assert_eq!(
                (output.status.code(), text(&output.stdout)),
                (Some(0), message.to_owned()),
                "{version}"
            );
        }
        assert_eq!(outcome(broker.client(&format!("{session} -c 1 -W 0.3"))).0, Some(27));
    }
}

#[test]
fn a_reader_that_leaves_ends_sub_quietly() {
    let broker = Broker::start();
    let topic = unique_topic("pipe");
    let mut subscriber = broker.subscribe(&format!("-t {topic}"));
    subscriber.close_stdout();
    broker.publish(&format!("-t {topic} -m x"));
    let (code, _, stderr) = subscriber.finish();
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
}

#[test]
fn an_interrupt_ends_an_endless_sub_well_and_a_counted_one_not() {
    let broker = Broker::start();
    for (options, signal, expected) in [("", "-INT", 0), ("", "-TERM", 0), ("-c 2", "-INT", 130)] {
        let topic = unique_topic("interrupt");
        let subscriber = broker.subscribe(&format!("-t {topic} {options}"));
        subscriber.signal(signal);
        let (code, stdout, _) = subscriber.finish();
        assert_eq!((code, stdout.as_str()), (Some(expected), ""), "{options} {signal}");
    }
}

#[test]
fn messages_without_subscribers_are_told_of_on_request() {
    let broker = Broker::start();
    let topic = unique_topic("nobody");
    for qos in [1, 2] {
        let arguments = format!("pub -t {topic} -q {qos} -m x");
        assert_eq!(outcome(broker.client(&arguments)), (Some(0), String::new()));
        let told = format!("{topic}: nobody is subscribed\n");
        assert_eq!(outcome(broker.client(&format!("{arguments} -v"))), (Some(0), told));
    }
}

#[test]
fn a_message_is_repeated_under_its_alias() {
    let broker = Broker::start();
    let topic = unique_topic("repeat");
    let subscriber = broker.subscribe(&format!("-v -t {topic} -c 3"));
    broker.publish(&format!("-t {topic} -m again --repeat 3 --repeat-delay 0.01 --topic-alias 2"));
    assert_eq!(subscriber.finish().1, format!("{topic} again\n").repeat(3));
}

#[test]
fn a_file_that_cannot_be_read_is_not_the_brokers_fault() {
    let broker = Broker::start();
    let missing = Path::new(env!("CARGO_TARGET_TMPDIR")).join("missing");
    let (code, stderr) = outcome(broker.client(&format!("pub -t t -f {}", missing.display())));
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with("error: cannot read "), "{stderr}");
}
