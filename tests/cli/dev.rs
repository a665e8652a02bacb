//! `flotilla dev`: processes that start together and leave nothing behind.

use std::{
    io::{BufRead, BufReader, Read},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

#[test]
fn the_nodes_of_a_fleet_serve_clients_until_a_signal_stops_all() {
    for signal in ["-TERM", "-INT"] {
        let mut dev = Dev::start(2, &[]);
        let said = dev.await_introduction();
        assert!(said.contains("2 nodes are ready") && said.contains("kill -9"), "{said}");
        for (number, port) in dev.ports().enumerate() {
            assert!(said.contains(&format!("node-{}   mqtt 127.0.0.1:{port} ", number + 1)), "{said}");
            dev.connect(port);
        }
        let root =
            PathBuf::from(said.lines().find_map(|line| line.split_once(" below ")).expect("it says so").1);
        assert!(root.join("node-2/flotilla.toml").exists());
        dev.signal(signal);
        assert_eq!(dev.finish(), Some(0), "{}", dev.log());
        let log = dev.log();
        assert!(log.contains("node-1 | ") && log.contains("node-2 | "), "{log}");
        assert_eq!(log.matches("stopped").count(), 2, "both stop in order: {log}");
        assert!(!root.exists(), "a scratch directory is removed");
        dev.ports().for_each(assert_closed);
    }
}

#[test]
fn a_node_that_cannot_start_stops_the_others_and_fails() {
    let base = free_ports(2);
    let _taken = TcpListener::bind(("127.0.0.1", base + 1)).expect("it was free");
    let mut dev = Dev::start_at(base, 2, &[]);
    assert_eq!(dev.finish(), Some(1));
    let log = dev.log();
    assert!(log.contains("error: node-2 did not start: exit status: 1"), "{log}");
    assert!(log.contains("cannot listen on"), "its own words are there: {log}");
    assert_closed(base);
}

#[test]
fn a_node_that_dies_is_told_about_and_the_others_go_on() {
    let mut dev = Dev::start(2, &[]);
    let said = dev.await_introduction();
    let pid = said.lines().find(|line| line.contains("node-2 ")).and_then(|line| line.rsplit_once(' '));
    let status =
        Command::new("kill").args(["-KILL", pid.expect("it is told").1]).status().expect("kill runs");
    assert!(status.success());
    dev.await_log("error: node-2 has ended: signal: 9");
    dev.connect(dev.base);
    dev.signal("-TERM");
    assert_eq!(dev.finish(), Some(1), "not everything went as it should");
}

#[test]
fn nodes_do_not_outlive_the_process_that_started_them() {
    let mut dev = Dev::start(2, &[]);
    dev.await_introduction();
    dev.signal("-KILL");
    dev.finish();
    dev.ports().for_each(assert_closed);
}

#[test]
fn what_is_wrong_is_told_once_and_a_given_directory_stays() {
    let directory = tempfile::tempdir().expect("there is room");
    let root = directory.path().join("fleet");
    let arguments = ["--dir", root.to_str().expect("it is UTF-8"), "--set", "mqtt.max_inflight=0"];
    let mut dev = Dev::start(3, &arguments);
    assert_eq!(dev.finish(), Some(1));
    assert_eq!(dev.log().matches("error: mqtt.max_inflight").count(), 1, "{}", dev.log());
    assert!(root.join("node-3/flotilla.toml").exists());
    for wrong in [["--nodes", "0"], ["--nodes", "8"], ["--base-port", "0"], ["--base-port", "65535"]] {
        let output = Command::new(PROGRAM).arg("dev").args(wrong).output().expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn a_broker_stops_with_its_input_only_when_it_is_told_to() {
    let start = |arguments: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(["start", "--set", "listeners.tcp.bind=127.0.0.1:0"]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("it starts");
        let mut said = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        while !said.contains(" ready, ") && stdout.read_line(&mut said).is_ok_and(|length| length > 0) {}
        assert!(said.contains(" ready, "), "{said}");
        child
    };
    let mut stops = start(&["--stop-with-stdin"]);
    assert_eq!(poll(|| stops.try_wait().expect("it is ours")).expect("it ends").code(), Some(0));
    let mut goes_on = start(&[]);
    assert_eq!(goes_on.try_wait().expect("it is ours"), None);
    goes_on.kill().expect("it runs");
    goes_on.wait().expect("it is ours");
}

/// `flotilla dev`; interrupted when dropped, so that it takes its nodes along.
struct Dev {
    child: Child,
    base: u16,
    nodes: u16,
    stdout: BufReader<ChildStdout>,
    log: Arc<Mutex<String>>,
}

impl Dev {
    fn start(nodes: u16, arguments: &[&str]) -> Self {
        Self::start_at(free_ports(nodes), nodes, arguments)
    }

    fn start_at(base: u16, nodes: u16, arguments: &[&str]) -> Self {
        let mut command = Command::new(PROGRAM);
        command
            .args(["dev", "--nodes", &nodes.to_string(), "--base-port", &base.to_string()])
            .args(arguments);
        // It would give two nodes one name.
        command.env("FLOTILLA_NODE__NAME", "everybody");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let log = Arc::default();
        collect(child.stderr.take().expect("it is piped"), Arc::clone(&log));
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, base, nodes, stdout, log }
    }

    fn ports(&self) -> impl Iterator<Item = u16> + use<> {
        self.base..self.base + self.nodes
    }

    /// What it says when all nodes are ready.
    fn await_introduction(&mut self) -> String {
        let mut said = String::new();
        while !said.contains("Ctrl-C stops") {
            let length = self.stdout.read_line(&mut said).expect("it can be read");
            assert_ne!(length, 0, "it ended before it was ready: {said}\n{}", self.log());
        }
        said
    }

    fn connect(&self, port: u16) {
        TcpStream::connect(("127.0.0.1", port))
            .unwrap_or_else(|error| panic!("{port}: {error}\n{}", self.log()));
    }

    fn signal(&self, name: &str) {
        let status =
            Command::new("kill").args([name, &self.child.id().to_string()]).status().expect("kill runs");
        assert!(status.success());
    }

    fn log(&self) -> String {
        self.log.lock().expect("nobody panics with it").clone()
    }

    fn await_log(&self, words: &str) {
        let found = poll(|| self.log().contains(words).then_some(()));
        found.unwrap_or_else(|| panic!("{words:?} is not in the log: {}", self.log()));
    }

    /// The exit code, once it has ended.
    fn finish(&mut self) -> Option<i32> {
        let status = poll(|| self.child.try_wait().expect("it is ours"));
        let status = status.unwrap_or_else(|| panic!("it does not end: {}", self.log()));
        // The rest of its log is read by a thread.
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("it can be read");
        poll(|| (Arc::strong_count(&self.log) == 1).then_some(()));
        status.code()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Its nodes see that it is gone.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn collect(stderr: ChildStderr, log: Arc<Mutex<String>>) {
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let mut log = log.lock().expect("nobody panics with it");
            log.push_str(&line);
            log.push('\n');
        }
    });
}

/// Nothing listens there, at the latest after a while.
fn assert_closed(port: u16) {
    let closed = poll(|| TcpStream::connect(("127.0.0.1", port)).is_err().then_some(()));
    assert!(closed.is_some(), "something still listens on port {port}");
}

/// The first of so many ports that are free, together with those 4,000 higher. They are below those that the system
/// deals out, and no two tests get the same.
fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 500).expect("it is below 500") * 8;
    for _ in 0..500 {
        let base = 20_000 + (start + NEXT.fetch_add(8, Ordering::Relaxed)) % 4_000;
        let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (base..base + count).all(|port| free(port) && free(port + 4_000)) {
            return base;
        }
    }
    panic!("no ports are free");
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
