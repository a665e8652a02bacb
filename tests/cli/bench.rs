//! `flotilla bench` against `flotilla start`: every scenario, small and short. What the figures say must agree with each other.

use std::{
    net::TcpListener,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::harness::{Broker, Running, text};

/// Runs a scenario to its end.
fn bench(broker: &Broker, arguments: &str) -> (Option<i32>, Value, String) {
    let output = command(broker.port(), &format!("{arguments} --json")).output().expect("it runs");
    let json = serde_json::from_slice(&output.stdout);
    (output.status.code(), json.unwrap_or_default(), text(&output.stderr))
}

/// The same; everything must have happened that was asked for.
fn good(broker: &Broker, arguments: &str) -> Value {
    let (code, json, stderr) = bench(broker, arguments);
    assert_eq!(code, Some(0), "{arguments}: {stderr}{json:#}");
    assert_eq!((json["faults"].as_array().map(Vec::len), &json["interrupted"]), (Some(0), &false.into()));
    let connections = &json["connections"];
    assert_eq!(connections["asked"], connections["connected"], "{json:#}");
    assert_eq!((&connections["failed"], &connections["disconnected"]), (&0.into(), &0.into()), "{json:#}");
    json
}

fn command(port: u16, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flotilla"));
    command.arg("bench").args(arguments.split_whitespace()).args(["-b", &format!("127.0.0.1:{port}")]);
    command.stdin(Stdio::null()).env_remove("FLOTILLA_PASSWORD");
    command
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is not a number"))
}

fn float(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

/// The messages of a run with traffic: each arrived `fan` times, once each and in order, and latencies are in order, too.
fn check_traffic(json: &Value, fan: u64) {
    let messages = &json["messages"];
    assert!(number(&messages["sent"]) > 0);
    assert_eq!(number(&messages["expected"]), number(&messages["sent"]) * fan, "{json:#}");
    assert_eq!(messages["received"], messages["expected"], "{json:#}");
    for none in ["lost", "duplicates", "refused", "unacknowledged", "foreign", "written_off"] {
        assert_eq!(messages[none], 0, "{none} {json:#}");
    }
    if json["scenario"] != "shared" {
        assert_eq!(messages["reordered"], 0, "{json:#}");
    }
    let traffic = &json["traffic"];
    assert!(number(&traffic["sent"]) > 0 && number(&traffic["sent"]) <= number(&messages["sent"]));
    // Every message that was meant for the measured time is in the latencies, once for each subscriber.
    check_latency(&traffic["delivery_latency"], number(&traffic["sent"]) * fan);
    let acknowledged = if json["settings"]["qos"] == 0 { 0 } else { number(&messages["sent"]) };
    assert_eq!(number(&messages["acknowledged"]), acknowledged);
    let measured = if json["settings"]["qos"] == 0 { 0 } else { number(&traffic["sent"]) };
    check_latency(&traffic["acknowledgement_latency"], measured);
    let rate = number(&traffic["received"]) as f64 / float(&traffic["seconds"]);
    assert!((rate / float(&traffic["received_per_second"]) - 1.0).abs() < 0.01, "{json:#}");
}

fn check_latency(latency: &Value, count: u64) {
    assert_eq!(number(&latency["count"]), count, "{latency}");
    let names = ["p50_us", "p90_us", "p99_us", "p99.9_us", "p99.99_us", "max_us"];
    let values = names.map(|name| float(&latency[name]));
    assert!(values.is_sorted() && (values[0] > 0.0) == (count > 0), "{latency}");
}

#[test]
fn connections_are_kept_and_measured() {
    let broker = Broker::start();
    let pid = broker.pid();
    let json = good(&broker, &format!("connections -n 30 --subscribe -t 0.2 --broker-pid {pid}"));
    assert_eq!(json["connections"]["connected"], 30);
    check_latency(&json["connections"]["latency"], 30);
    assert_eq!(json["subscriptions"]["subscribed"], 30);
    assert!(float(&json["connections"]["broker_cpu_us_per_connect"]) > 0.0);
    let idle = &json["idle"];
    assert!(float(&idle["seconds"]) >= 0.2 && number(&idle["broker_memory_bytes"]) > 0);
    let growth = idle["broker_memory_growth_bytes"].as_i64().expect("it is known") as f64;
    assert!((growth / 30.0 - float(&idle["broker_memory_bytes_per_connection"])).abs() < 1.0);
}

#[test]
fn a_connect_rate_is_kept() {
    let broker = Broker::start();
    let json = good(&broker, "connections -n 20 -t 0 --connect-rate 50 --threads 2");
    // The last of 20 begins after 0.38 s; on two threads of 10 each after at least 0.36 s.
    assert!(float(&json["connections"]["seconds"]) >= 0.36, "{json:#}");
}

#[test]
fn pairs_at_every_qos_and_version() {
    let broker = Broker::start();
    for version in ["311", "5"] {
        for qos in 0..=2 {
            let json = good(&broker, &format!("pairs -n 3 -q {qos} -V {version} -t 0.3 --warm-up 0.1"));
            assert_eq!(
                (&json["connections"]["connected"], &json["settings"]["qos"]),
                (&6.into(), &qos.into())
            );
            check_traffic(&json, 1);
        }
    }
}

#[test]
fn a_fixed_rate_is_kept() {
    let broker = Broker::start();
    let json = good(&broker, "pairs -n 4 -q 1 -r 200 -t 0.5 --warm-up 0.1 --threads 2");
    check_traffic(&json, 1);
    assert_eq!((&json["traffic"]["unsent"], &json["settings"]["window"]), (&0.into(), &Value::Null));
    assert!(number(&json["traffic"]["sent"]).abs_diff(100) <= 2, "{json:#}");
}

#[test]
fn a_rate_that_cannot_be_reached_fails() {
    let broker = Broker::start();
    // Nothing comes back in less than 1 µs.
    let (code, json, stderr) = bench(&broker, "pairs -n 1 -q 1 -r 1000000 --ack-window 1 -t 0.2 --warm-up 0");
    assert_eq!(code, Some(1), "{json:#}");
    assert!(stderr.contains("error: the rate was not reached"), "{stderr}");
    let (sent, unsent) = (number(&json["traffic"]["sent"]), number(&json["traffic"]["unsent"]));
    assert!((sent + unsent).abs_diff(200_000) <= 1, "{json:#}");
}

#[test]
fn messages_fan_out() {
    let broker = Broker::start();
    let json = good(&broker, "fan-out --publishers 2 --subscribers 7 -w 4 -t 0.3 --warm-up 0.1 --threads 2");
    check_traffic(&json, 7);
    let json = good(&broker, "fan-out --subscribers 5 -q 2 --subscribe-qos 1 -w 4 -t 0.3 --warm-up 0.1");
    check_traffic(&json, 5);
}

#[test]
fn messages_fan_in() {
    let broker = Broker::start();
    check_traffic(&good(&broker, "fan-in --publishers 20 -w 2 -t 0.3 --warm-up 0.1"), 1);
}

#[test]
fn a_group_shares() {
    let broker = Broker::start();
    let json = good(&broker, "shared --publishers 10 --members 3 -q 1 -w 2 -t 0.3 --warm-up 0.1 --threads 2");
    check_traffic(&json, 1);
}

#[test]
fn wildcards_match_once() {
    let broker = Broker::start();
    let json = good(&broker, "wildcard --filters 1000 --subscribers 4 --publishers 2 -t 0.3 --warm-up 0.1");
    assert_eq!(json["subscriptions"]["subscribed"], 1_000);
    check_traffic(&json, 1);
}

#[test]
fn retained_messages_reach_all_subscribers_and_are_removed() {
    let broker = Broker::start();
    let arguments = "retained --messages 60 --publishers 3 --subscribers 4 --topic-prefix kept";
    let json = good(&broker, arguments);
    assert_eq!((&json["store"]["messages"], &json["fetch"]["messages"]), (&60.into(), &240.into()));
    check_latency(&json["store"]["latency"], 60);
    check_latency(&json["fetch"]["latency"], 240);
    assert_eq!((&json["messages"]["lost"], &json["messages"]["duplicates"]), (&0.into(), &0.into()));
    // The first message that a subscriber gets is the one that is published now.
    let subscriber = broker.subscribe("-t kept/# -c 1");
    broker.publish("-t kept/new -m new");
    assert_eq!(subscriber.finish().1, "new\n");
}

#[test]
fn sessions_get_what_was_queued_while_they_were_away() {
    let broker = Broker::start();
    for (qos, version) in [(1, "5"), (2, "311"), (2, "5")] {
        let json = good(
            &broker,
            &format!("offline --sessions 6 --messages 15 --publishers 4 -q {qos} -V {version} --threads 2"),
        );
        let messages = &json["messages"];
        for all in ["sent", "acknowledged", "expected", "received"] {
            assert_eq!(messages[all], 90, "{all} {json:#}");
        }
        for none in ["lost", "duplicates", "reordered", "refused"] {
            assert_eq!(messages[none], 0, "{none} {json:#}");
        }
        check_latency(&json["store"]["latency"], 90);
        check_latency(&json["fetch"]["latency"], 90);
    }
}

#[test]
fn traffic_goes_from_one_broker_to_where_it_was_told() {
    let broker = Broker::start();
    let port = broker.port();
    // Nobody listens at --broker, which nobody uses then.
    let closed = closed_port();
    let output = command(closed, "pairs -n 2 -t 0.2 --warm-up 0 --json")
        .args(["--publish-to", &format!("127.0.0.1:{port}"), "--subscribe-at", &format!("localhost:{port}")])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    check_traffic(&serde_json::from_slice(&output.stdout).expect("it is JSON"), 1);
}

#[test]
fn a_table_and_a_plot_are_made() {
    let broker = Broker::start();
    let directory = tempfile::tempdir().expect("there is room for a file");
    let file = directory.path().join("latency.svg");
    let mut command = command(broker.port(), "pairs -n 2 -q 1 -t 0.2 --warm-up 0");
    let output = command.arg("--plot").arg(&file).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    for title in ["pairs  ", "connections  ", "messages  ", "latency  ", "checked  "] {
        assert!(table.lines().any(|line| line.starts_with(title)), "{title}: {table}");
    }
    let svg = std::fs::read_to_string(file).expect("it was written");
    assert_eq!(svg.matches("<polyline").count(), 2, "deliveries and acknowledgements");
}

#[test]
fn nobody_at_the_address_is_a_failure() {
    let output = command(closed_port(), "pairs -n 2 --json").output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("error: 4 of 4 clients did not connect"), "{stderr}");
    assert!(stderr.contains("is the broker running there? (4 times)"), "{stderr}");
    let json: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(json["connections"]["failed"], 4);
    assert!(json.get("traffic").is_none());
}

#[test]
fn what_listens_and_is_silent_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let output = command(port, "connections -n 2 --connect-timeout 0.5").output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("no answer within the time of --connect-timeout"), "{stderr}");
}

#[test]
fn wrong_arguments_are_told_apart_from_failures() {
    for arguments in [
        "",
        "nothing",
        "pairs -n 0",
        "pairs -q 3",
        "offline -q 0",
        "pairs -s 19",
        "pairs -r 0",
        "pairs -V 31",
        "pairs --local-addresses nowhere",
        "pairs --topic-prefix a/#",
        "pairs -V 311 -P secret",
        "pairs --threads 0",
        "pairs -b no.such.host.invalid:1",
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flotilla"));
        let output = command.arg("bench").args(arguments.split_whitespace()).output().expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{arguments}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments}");
    }
    let output = command(1, "pairs --broker-pid 2147483647").output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("there is no process 2147483647"));
}

#[test]
fn a_broker_that_dies_fails_the_run() {
    let broker = Broker::start();
    let running = Running::start(command(broker.port(), "pairs -n 2 -q 1 -t 600 --warm-up 0 --json"));
    await_traffic(&broker);
    drop(broker);
    let (code, stdout, stderr) = running.finish();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("error: 4 of 4 clients lost their connection"), "{stderr}");
    let json: Value = serde_json::from_str(&stdout).expect("what was measured is printed");
    assert_eq!((&json["connections"]["disconnected"], &json["interrupted"]), (&4.into(), &false.into()));
    assert!(number(&json["messages"]["received"]) > 0);
}

#[test]
fn an_interrupt_ends_the_run_and_shows_what_was_measured() {
    let broker = Broker::start();
    for signal in ["-INT", "-TERM"] {
        let running = Running::start(command(broker.port(), "pairs -n 2 -q 1 -t 600 --warm-up 0 --json"));
        await_traffic(&broker);
        running.signal(signal);
        let (code, stdout, stderr) = running.finish();
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains("error: interrupted before it was done"), "{stderr}");
        let json: Value = serde_json::from_str(&stdout).expect("what was measured is printed");
        assert_eq!((&json["interrupted"], &json["connections"]["disconnected"]), (&true.into(), &0.into()));
        assert!(number(&json["traffic"]["received"]) > 0 && float(&json["traffic"]["seconds"]) < 600.0);
        assert_eq!(json["messages"]["lost"], 0, "what was under way is waited for: {json:#}");
    }
}

#[test]
fn an_interrupted_offline_run_leaves_no_session() {
    let broker = Broker::start();
    // More than can be queued before the signal comes.
    let arguments =
        "offline --sessions 2 --messages 100000000 --client-id-prefix left --topic-prefix left -w 1";
    let running = Running::start(command(broker.port(), arguments));
    watch(&broker, "left/#");
    running.signal("-INT");
    let (code, _, stderr) = running.finish();
    assert_eq!(code, Some(1), "{stderr}");
    // Whoever comes back under the name of a session finds nothing in it.
    let resumed = broker.subscribe("-i left-s0 --no-clean-start -V 311 -t other -c 1");
    broker.publish("-t other -m other");
    assert_eq!(resumed.finish().1, "other\n");
}

/// Waits until a run against this broker sends messages.
fn await_traffic(broker: &Broker) {
    watch(broker, "+/pairs/#");
}

/// Waits until a message comes.
fn watch(broker: &Broker, filter: &str) {
    let output = broker.client(&format!("sub -t {filter} -c 1")).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

/// A port at which nobody listens.
fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}
