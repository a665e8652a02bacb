//! `flotilla start`, `check-config` and `version` as a script and an operator see them.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, ChildStdout, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

#[test]
fn the_version_is_told_in_two_ways() {
    let expected = format!("flotilla {}\n", env!("CARGO_PKG_VERSION"));
    for argument in ["version", "--version"] {
        let output = flotilla(&[argument]);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), expected.clone()));
    }
}

#[test]
fn wrong_arguments_are_told_apart_from_wrong_configurations() {
    for arguments in [&[][..], &["bogus"], &["check-config", "--bogus"], &["start", "-c"]] {
        assert_eq!(flotilla(arguments).status.code(), Some(2), "{arguments:?}");
    }
    for command in ["check-config", "start"] {
        let output = flotilla(&[command, "--set", "mqtt.max_inflght=1", "--set", "node.name=a/b"]);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""));
        let faults = text(&output.stderr);
        assert!(
            faults.starts_with("error: mqtt.max_inflght: unknown key; did you mean \"max_inflight\"?"),
            "{faults}"
        );
        assert!(faults.lines().nth(1).is_some_and(|line| line.starts_with("error: node.name: ")), "{faults}");
    }
}

#[test]
fn a_configuration_is_checked_and_printed() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/config/flotilla.toml");
    for arguments in [&["check-config"][..], &["check-config", "-c", shipped]] {
        let output = flotilla(arguments);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "ok\n"));
    }
    let mut command = Command::new(PROGRAM);
    command.args(["check-config", "--print", "--set", "mqtt.max_packet_size=2MiB"]);
    let printed = text(&command.env("FLOTILLA_NODE__NAME", "n7").output().expect("it runs").stdout);
    assert!(printed.contains("name = \"n7\"\n"), "{printed}");
    assert!(printed.contains("max_packet_size = \"2MiB\"\n"), "{printed}");
    let directory = tempfile::tempdir().expect("there is room for a file");
    let file = directory.path().join("printed.toml");
    std::fs::write(&file, &printed).expect("the directory is new");
    let again = flotilla(&["check-config", "--print", "-c", file.to_str().expect("it is UTF-8")]);
    assert_eq!(text(&again.stdout), printed);
}

#[test]
fn start_says_what_listens_where_and_a_signal_stops_it() {
    // Row F11, as far as one node goes.
    for signal in ["-TERM", "-INT"] {
        let mut broker = Started::with(&["--set", "listeners.b.bind=[::1]:0", "--set", "node.name=n7"]);
        let ready = format!("flotilla {} ready, node n7", env!("CARGO_PKG_VERSION"));
        assert_eq!(broker.said.last(), Some(&ready));
        assert_eq!(broker.said.len(), 3, "{:?}", broker.said);
        let mut clients = [broker.connect("b"), broker.connect("tcp")];
        broker.signal(signal);
        for client in &mut clients {
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).expect("the broker closes in order");
            assert_eq!(rest.get(..3), Some(&[0xE0, rest[1], 0x8B][..]), "DISCONNECT, Server shutting down");
        }
        drop(clients);
        assert_eq!(broker.finish(), Some(0));
    }
}

#[test]
fn a_second_signal_does_not_wait_for_a_client_that_does_not_read() {
    // Row F12.
    let patient = ["--set", "node.shutdown_grace=1h", "--set", "mqtt.write_timeout=1h"];
    let mut broker = Started::with(&patient);
    let (mut subscriber, mut publisher) = (broker.connect("tcp"), broker.connect("tcp"));
    subscriber.write_all(b"\x82\x07\x00\x01\x00\x00\x01a\x00").expect("the broker reads a SUBSCRIBE");
    let mut suback = [0; 6];
    subscriber.read_exact(&mut suback).expect("the broker answers");
    let payload = vec![0; 1_000_000];
    // More than the buffers of both sockets and the broker's own can hold.
    for _ in 0..64 {
        publisher.write_all(b"\x30\xC4\x84\x3D\x00\x01a\x00").expect("the broker reads a PUBLISH");
        publisher.write_all(&payload).expect("the broker reads its payload");
    }
    broker.signal("-TERM");
    broker.await_log("stopping");
    assert_eq!(broker.child.try_wait().expect("it is ours"), None, "the subscriber holds it up");
    broker.signal("-TERM");
    assert_eq!(broker.finish(), Some(128 + 15));
}

#[test]
fn an_address_that_is_taken_ends_the_start_with_a_reason() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let output = start_elsewhere(&["--set", &format!("listeners.tcp.bind={address}")]);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""));
    let reason = text(&output.stderr);
    assert!(reason.contains("cannot start") && reason.contains(&address), "{reason}");
}

#[test]
fn two_brokers_do_not_share_a_port() {
    let first = Started::with(&["--set", "node.workers=2"]);
    let bind = format!("listeners.tcp.bind={}", first.address("tcp"));
    let output = start_elsewhere(&["--set", "node.workers=2", "--set", &bind]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot listen on"), "{}", text(&output.stderr));
}

#[test]
fn whoever_listens_beyond_loopback_is_warned() {
    let broker = Started::with(&["--set", "listeners.open.bind=0.0.0.0:0", "--set", "log.format=json"]);
    let line = broker.await_log("everybody who can reach this address may connect");
    assert!(line.starts_with('{') && line.ends_with('}') && line.contains("\"listener\":\"open\""), "{line}");
    let log = broker.log();
    assert!(!log.contains("\"listener\":\"tcp\""), "loopback is no reason to warn: {log}");
}

#[test]
fn two_brokers_do_not_share_their_data() {
    let first = Started::with(&[]);
    let data_dir = first.directory.path().join("flotilla-data");
    let data_dir = format!("node.data_dir={}", data_dir.display());
    let output = start_elsewhere(&["--set", "listeners.tcp.bind=127.0.0.1:0", "--set", &data_dir]);
    assert_eq!(output.status.code(), Some(1));
    let reason = text(&output.stderr);
    assert!(reason.contains("cannot start") && reason.contains("flotilla-data"), "{reason}");
}

/// `flotilla start` in a directory of its own, until it ends.
fn start_elsewhere(arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().expect("there is room for its data");
    let mut command = Command::new(PROGRAM);
    command.current_dir(directory.path()).arg("start").args(arguments).output().expect("it starts")
}

/// `flotilla start` with a listener `tcp` on loopback; killed when dropped.
struct Started {
    child: Child,
    /// What it said on standard output until it was ready.
    said: Vec<String>,
    /// Kept open, so that nothing changes for it.
    _stdout: BufReader<ChildStdout>,
    directory: tempfile::TempDir,
}

impl Started {
    fn with(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("there is room for its data and a log");
        let log = std::fs::File::create(directory.path().join("log")).expect("the directory is new");
        let mut command = Command::new(PROGRAM);
        command.current_dir(directory.path());
        command.args(["start", "--set", "listeners.tcp.bind=127.0.0.1:0"]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("it starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut said = Vec::new();
        while !said.last().is_some_and(|line: &String| line.contains(" ready, ")) {
            let mut line = String::new();
            let length = stdout.read_line(&mut line).expect("it can be read");
            assert_ne!(length, 0, "it ended before it was ready: {said:?}");
            said.push(line.trim_end().to_owned());
        }
        Self { child, said, _stdout: stdout, directory }
    }

    fn address(&self, listener: &str) -> SocketAddr {
        let prefix = format!("listener {listener}: mqtt on ");
        let address = self.said.iter().find_map(|line| line.strip_prefix(&prefix)).expect("it listens");
        address.parse().expect("it is an address and a port")
    }

    /// An MQTT 5.0 connection to a listener, accepted.
    fn connect(&self, listener: &str) -> TcpStream {
        let mut client = TcpStream::connect(self.address(listener)).expect("it listens there");
        client.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
        client.set_write_timeout(Some(DEADLINE)).expect("it is not zero");
        client.write_all(b"\x10\x0D\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x00").expect("it reads a CONNECT");
        let mut head = [0; 2];
        client.read_exact(&mut head).expect("it answers");
        let mut connack = vec![0; usize::from(head[1])];
        client.read_exact(&mut connack).expect("it answers in full");
        assert_eq!((head[0], connack[1]), (0x20, 0), "CONNACK, Success");
        client
    }

    fn signal(&self, name: &str) {
        let status =
            Command::new("kill").args([name, &self.child.id().to_string()]).status().expect("kill runs");
        assert!(status.success());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).expect("it is there since the start")
    }

    /// The line of the log with these words, once it is there.
    fn await_log(&self, words: &str) -> String {
        let find = || self.log().lines().find(|line| line.contains(words)).map(str::to_owned);
        poll(find).unwrap_or_else(|| panic!("{words:?} is not in the log: {}", self.log()))
    }

    /// The exit code, once it has ended.
    fn finish(&mut self) -> Option<i32> {
        let status = poll(|| self.child.try_wait().expect("it is ours"));
        status.unwrap_or_else(|| panic!("it does not end: {}", self.log())).code()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the program to its end.
fn flotilla(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asks again and again until there is something, or the deadline has passed.
fn poll<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match ask() {
            None if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
            answer => return answer,
        }
    }
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_flotilla");

/// No single step takes longer, unless something hangs.
const DEADLINE: Duration = Duration::from_secs(20);
