//! The broker under test.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc},
    thread,
    time::{Duration, Instant},
};

use super::{Client, Connect, DEADLINE, Property, Version, Will, place, property_id, unique};

/// A running broker: a process of its own, killed on drop, or one that `FLOTILLA_TEST_ADDR` names.
#[derive(Debug)]
pub(crate) struct Broker {
    address: SocketAddr,
    process: Option<Process>,
}

#[derive(Debug)]
struct Process {
    child: Mutex<Child>,
    node: String,
    /// Where it runs, and so where it keeps its data.
    directory: PathBuf,
    log: Arc<Mutex<String>>,
}

impl Broker {
    /// The broker with default settings that the tests of this binary share. It ends with the last test that holds it.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Broker>> = Mutex::new(Weak::new());
        let mut shared = lock(&SHARED);
        if let Some(broker) = shared.upgrade() {
            return broker;
        }
        let broker = Arc::new(external().map_or_else(|| Self::start(&[]), Self::at));
        *shared = Arc::downgrade(&broker);
        broker
    }

    /// A broker of its own with these settings, as `--set` takes them; `None` when an external one is tested, which has settings of its own.
    pub(crate) fn with(settings: &[(&str, &str)]) -> Option<Self> {
        if external().is_some() {
            eprintln!("SKIPPED: {} needs a broker with settings {settings:?}", current_test());
            return None;
        }
        Some(Self::start(settings))
    }

    fn at(address: SocketAddr) -> Self {
        Self { address, process: None }
    }

    fn start(settings: &[(&str, &str)]) -> Self {
        let directory = place().scratch.join(unique("broker"));
        fs::create_dir_all(&directory).expect("a directory for the broker can be made");
        Self::start_in(directory, settings)
    }

    /// Kills the process, and starts another with these settings on what is on the disk. It may listen elsewhere.
    pub(crate) fn kill_and_start(&mut self, settings: &[(&str, &str)]) {
        let process = self.process.as_ref().expect("asked of our own process only");
        let mut child = lock(&process.child);
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
        drop(child);
        let mut next = Self::start_in(process.directory.clone(), settings);
        self.address = next.address;
        // The directory is not removed: what is dropped has no process.
        self.process = next.process.take();
    }

    fn start_in(directory: PathBuf, settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(&place().program);
        command.args(["start", "--set", "listeners.tcp.bind=127.0.0.1:0"]);
        command.current_dir(&directory);
        // So many that there is something between workers, and between shards, on every machine.
        let several = [("node.workers", "2"), ("cluster.shards", "4")];
        for (key, value) in several.iter().chain(settings) {
            command.args(["--set", &format!("{key}={value}")]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the broker's binary runs");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().expect("stderr is piped");
        collect(stderr, Arc::clone(&log));
        let stdout = child.stdout.take().expect("stdout is piped");
        let (address, node) = wait_until_ready(stdout).unwrap_or_else(|| {
            child.kill().expect("a child can be killed");
            panic!("the broker did not become ready:\n{}", lock(&log));
        });
        Self { address, process: Some(Process { child: Mutex::new(child), node, directory, log }) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The name of the node; an external broker does not tell it.
    pub(crate) fn node(&self) -> &str {
        &self.process.as_ref().expect("asked of our own process only").node
    }

    /// A clean client with this identifier.
    #[track_caller]
    pub(crate) fn client(&self, version: Version, client_id: &str) -> Client {
        self.connect(&Connect::new(version, client_id))
    }

    /// A client that was accepted.
    #[track_caller]
    pub(crate) fn connect(&self, connect: &Connect) -> Client {
        Client::connect(self.address, connect)
    }

    /// A TCP connection on which nothing was sent.
    pub(crate) fn open(&self, version: Version) -> Client {
        Client::open(self.address, version)
    }

    /// Lets time pass by the broker's own clock: a will is delayed for as long, and waited for.
    #[track_caller]
    pub(crate) fn let_pass(&self, seconds: u32) {
        let topic = unique("clock");
        let mut observer = self.client(Version::V5, &unique("clock"));
        observer.subscribe(&topic, 0);
        let will = Will::new(&topic, "").with(Property::four(property_id::WILL_DELAY, seconds));
        self.connect(&Connect::new(Version::V5, &unique("clock")).persistent().will(will)).vanish();
        observer.expect_publish(&topic, "");
    }

    /// The process runs and has not panicked.
    #[track_caller]
    pub(crate) fn assert_healthy(&self) {
        let Some(process) = &self.process else { return };
        let status = lock(&process.child).try_wait().expect("a child can be asked");
        let log = lock(&process.log);
        assert!(status.is_none(), "the broker ended with {status:?}:\n{log}");
        assert!(!log.contains("panicked"), "the broker panicked:\n{log}");
    }

    /// What the broker wrote to stderr.
    pub(crate) fn log(&self) -> String {
        self.process.as_ref().map(|process| lock(&process.log).clone()).unwrap_or_default()
    }

    /// Resident memory in bytes, where the system tells it (Linux).
    pub(crate) fn resident_memory(&self) -> Option<usize> {
        let pid = lock(&self.process.as_ref()?.child).id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kibibytes: usize = line.trim().trim_end_matches("kB").trim().parse().ok()?;
        Some(kibibytes * 1024)
    }

    /// Open sockets, where the system tells it (Linux). What is on the disk has files that come and go.
    pub(crate) fn open_sockets(&self) -> Option<usize> {
        let pid = lock(&self.process.as_ref()?.child).id();
        let files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
        let targets = files.filter_map(|file| fs::read_link(file.path()).ok());
        Some(targets.filter(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:")).count())
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let process = self.process.as_ref().expect("asked of our own process only");
        let pid = lock(&process.child).id();
        let status = Command::new("sh").args(["-c", &format!("kill -TERM {pid}")]).status();
        assert!(status.expect("there is a shell").success(), "the process can be signalled");
    }

    /// How it ended, after [`Broker::terminate`].
    pub(crate) fn wait(&self) -> ExitStatus {
        let process = self.process.as_ref().expect("asked of our own process only");
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if let Some(status) = lock(&process.child).try_wait().expect("a child can be asked") {
                return status;
            }
            // The standard library has no wait with a deadline; this is the one place that polls.
            thread::park_timeout(Duration::from_millis(10));
        }
        panic!("the broker did not end within {DEADLINE:?}:\n{}", lock(&process.log));
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let Some(process) = &self.process else { return };
        let mut child = lock(&process.child);
        // Both fail only when it has ended already.
        let _ = child.kill();
        let _ = child.wait();
        let _ = fs::remove_dir_all(&process.directory);
        let log = lock(&process.log);
        assert!(thread::panicking() || !log.contains("panicked"), "the broker panicked:\n{log}");
    }
}

fn external() -> Option<SocketAddr> {
    let address = env::var("FLOTILLA_TEST_ADDR").ok()?;
    Some(address.parse().expect("FLOTILLA_TEST_ADDR is an address and a port"))
}

fn current_test() -> String {
    thread::current().name().unwrap_or("a test").to_owned()
}

/// Reads what a new process prints until it is ready; the address of its listener and the name of its node.
fn wait_until_ready(stdout: ChildStdout) -> Option<(SocketAddr, String)> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        // Goes on to the end: a process whose pipe is full stands still.
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let deadline = Instant::now() + DEADLINE;
    let mut address = None;
    loop {
        let line = receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()?;
        if let Some((_, bound)) = line.split_once("mqtt on ") {
            address = bound.trim().parse().ok();
        }
        if let Some((_, node)) = line.split_once(" ready, node ") {
            return Some((address?, node.trim().to_owned()));
        }
    }
}

fn collect(stderr: impl Read + Send + 'static, log: Arc<Mutex<String>>) {
    thread::spawn(move || {
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            let mut log = lock(&log);
            log.push_str(&String::from_utf8_lossy(&line));
            log.push('\n');
        }
    });
}

/// A test that failed while it held the lock has reported it already.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
