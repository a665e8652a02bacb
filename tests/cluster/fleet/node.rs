//! One node: a process, its address, its files.

use std::{
    fs::{self, File},
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{PATIENCE, Status, poll};
use crate::harness::{Client, Connect, Version, client::NotConnected, place};

/// A node of a cluster under test.
pub(crate) struct Node {
    number: usize,
    address: Ipv4Addr,
    settings: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    directory: PathBuf,
    process: Mutex<Option<Child>>,
    /// Of all processes that this node has had; beside its directory, so that a lost disk does not take it along.
    log: PathBuf,
}

impl Node {
    pub(super) fn new(
        number: usize,
        address: Ipv4Addr,
        founders: &[Ipv4Addr],
        settings: &[(String, String)],
        directory: &Path,
    ) -> Self {
        let founders: Vec<String> = founders.iter().map(|ip| format!("\"{ip}:{CLUSTER_PORT}\"")).collect();
        let mut settings = settings.to_vec();
        // In front, so that a test can override it.
        settings.insert(0, ("cluster.discovery.static".to_owned(), format!("[{}]", founders.join(", "))));
        let log = directory.join(format!("node-{number}.log"));
        let directory = directory.join(format!("node-{number}"));
        fs::create_dir_all(&directory).expect("a directory for the node can be made");
        let environment = Vec::new();
        Self { number, address, settings, environment, directory, process: Mutex::default(), log }
    }

    /// A setting that only this node has, from its next start on. It overrides those of the cluster.
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        self.settings.push((key.to_owned(), value.to_owned()));
    }

    /// A variable of its environment, from its next start on.
    pub(crate) fn set_environment(&mut self, variable: &str, value: &str) {
        self.environment.push((variable.to_owned(), value.to_owned()));
    }

    pub(crate) fn name(&self) -> String {
        format!("node-{}", self.number)
    }

    pub(crate) fn address(&self) -> Ipv4Addr {
        self.address
    }

    pub(super) fn set_address(&mut self, address: Ipv4Addr) {
        self.address = address;
    }

    /// Where it takes clients.
    pub(crate) fn mqtt(&self) -> SocketAddr {
        (self.address, MQTT_PORT).into()
    }

    /// Where it takes other nodes.
    pub(crate) fn cluster(&self) -> SocketAddr {
        (self.address, CLUSTER_PORT).into()
    }
}

/// Its process.
impl Node {
    /// Starts the process, and waits for nothing.
    #[track_caller]
    pub(crate) fn start(&self) {
        let mut process = self.process();
        assert!(process.is_none(), "{} runs already", self.name());
        let mut command = Command::new(&place().program);
        // When the tests are killed, the pipe to the node breaks, and it stops.
        command.args(["start", "--stop-with-stdin"]).current_dir(&self.directory);
        // What a terminal tells the tests, such as an interrupt, is not for the node.
        command.process_group(0);
        command.args(self.configuration());
        command.envs(self.environment.iter().map(|(variable, value)| (variable, value)));
        let log = self.note("it is started");
        command.stdin(Stdio::piped()).stdout(log.try_clone().expect("it is open")).stderr(log);
        *process = Some(command.spawn().expect("the broker's binary runs"));
    }

    /// Its configuration, as arguments.
    fn configuration(&self) -> Vec<String> {
        let own = [
            ("node.name", self.name()),
            ("node.data_dir", "data".to_owned()),
            ("node.workers", "2".to_owned()),
            ("listeners.tcp.bind", self.mqtt().to_string()),
            ("cluster.listen", self.cluster().to_string()),
            // A test build is slow, and several clusters run at a time: a few shards show the same as many.
            ("cluster.shards", "4".to_owned()),
        ];
        let own = own.map(|(key, value)| (key.to_owned(), value));
        let all = own.iter().chain(&self.settings);
        all.flat_map(|(key, value)| ["--set".to_owned(), format!("{key}={value}")]).collect()
    }

    /// `flotilla recover` with these arguments, on its files.
    pub(crate) fn recover(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&place().program);
        command.arg("recover").args(arguments).current_dir(&self.directory);
        command.args(self.configuration());
        command.stdin(Stdio::null()).output().expect("it runs")
    }

    /// Whether the process is there. It may be paused, and may not be ready.
    pub(crate) fn is_running(&self) -> bool {
        self.process().as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// It has not ended on its own.
    #[track_caller]
    pub(crate) fn assert_alive(&self) {
        let status = self.process().as_mut().map(|child| child.try_wait().expect("it is ours"));
        assert_eq!(status, Some(None), "{} has ended on its own", self.name());
    }

    /// SIGKILL. Does nothing when there is no process.
    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.process().take() {
            // Both fail only when it has ended already.
            let _ = child.kill();
            let _ = child.wait();
            self.note("it is killed");
        }
    }

    /// How its process ended, if it has: on its own, or because it was told to.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        let mut process = self.process();
        let status = process.as_mut()?.try_wait().expect("it is ours")?;
        *process = None;
        self.note("it has ended");
        Some(status)
    }

    /// Kills it and starts it again on the same files.
    #[track_caller]
    pub(crate) fn restart(&self) {
        self.kill();
        self.start();
    }

    /// SIGTERM; how it ended.
    #[track_caller]
    pub(crate) fn terminate(&self) -> ExitStatus {
        self.signal("TERM");
        self.await_end()
    }

    /// How it ended, once it has.
    #[track_caller]
    pub(crate) fn await_end(&self) -> ExitStatus {
        let mut process = self.process();
        let child = process.as_mut().expect("it runs");
        let status = poll(PATIENCE, || child.try_wait().expect("it is ours"));
        let status = status.unwrap_or_else(|| panic!("{} does not end", self.name()));
        *process = None;
        self.note("it has ended");
        status
    }

    /// SIGSTOP: it does nothing any more, and its connections stay open.
    #[track_caller]
    pub(crate) fn pause(&self) {
        self.signal("STOP");
        // Its threads stop one by one, each where it is.
        let pid = self.pid();
        let stopped = poll(PATIENCE, || is_stopped(pid).then_some(()));
        stopped.unwrap_or_else(|| panic!("{} goes on", self.name()));
    }

    /// SIGCONT.
    #[track_caller]
    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    #[track_caller]
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pid();
        let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
        assert!(status.expect("kill runs").success(), "{} can be signalled", self.name());
    }

    /// Removes all that it has kept: its disk is lost. It must not run.
    #[track_caller]
    pub(crate) fn wipe(&self) {
        assert!(self.process().is_none(), "{} runs", self.name());
        fs::remove_dir_all(&self.directory).expect("the files are ours");
        fs::create_dir_all(&self.directory).expect("a directory for the node can be made");
    }

    /// Where its files are.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Gives it a disk of its own, of so many MiB. Only within [`in_own_network_and_mounts`](super::in_own_network_and_mounts), and
    /// before its first start.
    #[track_caller]
    pub(crate) fn limit_disk(&self, mebibytes: u32) {
        fs::create_dir_all(self.data_dir()).expect("the files are ours");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "none"]).arg(self.data_dir());
        assert!(mount.status().expect("it has just worked").success(), "a disk for {}", self.name());
    }

    /// Leaves no space on its disk, which must be its own.
    #[track_caller]
    pub(crate) fn fill_disk(&self) {
        let mut ballast = File::create(self.ballast()).expect("there is space for a name");
        let full = poll(PATIENCE, || ballast.write_all(&[0; 1 << 20]).err()).map(|error| error.kind());
        assert_eq!(full, Some(io::ErrorKind::StorageFull));
    }

    /// Gives it the space back.
    #[track_caller]
    pub(crate) fn empty_disk(&self) {
        fs::remove_file(self.ballast()).expect("it was filled");
    }

    fn ballast(&self) -> PathBuf {
        self.data_dir().join("ballast")
    }

    /// The number of its process.
    #[track_caller]
    pub(crate) fn pid(&self) -> u32 {
        self.process().as_ref().expect("it runs").id()
    }

    /// Open files, sockets among them.
    pub(crate) fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// Threads of its process.
    pub(crate) fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.pid())).map_or(0, Iterator::count)
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        lock(&self.process)
    }
}

/// What it says.
impl Node {
    /// `flotilla ctl` with these arguments, asked of this node.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&place().program);
        command.args(["ctl", "--addr", &self.cluster().to_string(), "--timeout", "5s"]);
        // The name of the cluster, which a test may have changed, is among them; the others do no harm.
        for (key, value) in &self.settings {
            if matches!(key.as_str(), "cluster.name" | "cluster.secret") {
                command.args(["--set", &format!("{key}={value}")]);
            }
        }
        command.args(arguments).stdin(Stdio::null()).output().expect("it runs")
    }

    /// What the node says of all shards; nothing if it cannot say.
    pub(crate) fn shards(&self) -> Vec<serde_json::Value> {
        serde_json::from_slice(&self.ctl(&["shards", "list", "--json"]).stdout).unwrap_or_default()
    }

    /// `flotilla ctl` with these arguments, which must work.
    #[track_caller]
    pub(crate) fn order(&self, arguments: &[&str]) {
        let output = self.ctl(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The cluster as it knows it; `None` while it does not answer.
    pub(crate) fn status(&self) -> Option<Status> {
        let output = self.ctl(&["--json", "cluster", "status"]);
        let status = output.status.success().then(|| serde_json::from_slice(&output.stdout));
        status.map(|status| status.expect("what it prints is JSON with the keys that scripts know"))
    }

    /// Whether it is ready to serve clients, by its own word.
    pub(crate) fn is_ready(&self) -> bool {
        self.status().is_some_and(|status| status.ready)
    }

    /// Waits until it is ready to serve clients, by its own word.
    #[track_caller]
    pub(crate) fn await_ready(&self) {
        let ready = poll(PATIENCE, || self.is_ready().then_some(()));
        assert!(ready.is_some(), "{} does not become ready", self.name());
    }

    /// Waits until clients can reach it, whatever it then tells them.
    #[track_caller]
    pub(crate) fn await_listening(&self) {
        let listening = poll(PATIENCE, || {
            self.assert_alive();
            TcpStream::connect(self.mqtt()).ok()
        });
        assert!(listening.is_some(), "{} does not listen", self.name());
    }

    /// All that it has logged and printed, also before it was restarted.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The file with all of that.
    pub(crate) fn log_file(&self) -> &Path {
        &self.log
    }

    /// A line of ours in the log, which more can be written to.
    #[track_caller]
    fn note(&self, what: &str) -> File {
        let mut log = File::options().append(true).create(true).open(&self.log).expect("the file is ours");
        writeln!(log, "---- {what}").expect("the file is ours");
        log
    }

    /// The last lines of it.
    pub(super) fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    #[track_caller]
    pub(super) fn assert_no_panic(&self) {
        let log = self.log();
        let panic =
            log.lines().find(|line| line.contains(" panicked at ") || line.contains("telemetry: panic "));
        assert_eq!(panic, None, "{} has panicked", self.name());
    }
}

/// Its clients. They speak 5.0, and are clean unless said otherwise.
impl Node {
    /// A client that was accepted.
    #[track_caller]
    pub(crate) fn client(&self, client_id: &str) -> Client {
        self.connect(&Connect::new(Version::V5, client_id))
    }

    /// A client that was accepted.
    #[track_caller]
    pub(crate) fn connect(&self, connect: &Connect) -> Client {
        Client::connect(self.mqtt(), connect)
    }

    /// A client, as soon as it is accepted: refusals in between are tried again.
    #[track_caller]
    pub(crate) fn connect_soon(&self, connect: &Connect) -> Client {
        let client = poll(PATIENCE, || self.attempt(connect).ok());
        client
            .unwrap_or_else(|| panic!("{} accepts no client: {:?}", self.name(), self.attempt(connect).err()))
    }

    /// A client, or why there is none.
    pub(crate) fn attempt(&self, connect: &Connect) -> Result<Client, NotConnected> {
        Client::attempt(self.mqtt(), connect, ATTEMPT)
    }
}

/// Whether no thread of a process does anything.
fn is_stopped(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it is there");
    let mut stats =
        threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
    // Behind the name of the program, which is in brackets.
    stats.all(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T")))
}

/// A test that failed while it held the lock has reported it already.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Below those ports that the system deals out; each node has an address of its own.
pub(super) const MQTT_PORT: u16 = 11_883;
pub(super) const CLUSTER_PORT: u16 = 15_883;

/// How long one attempt to connect may take.
const ATTEMPT: Duration = Duration::from_secs(5);

const LOG_LINES_SHOWN: usize = 150;
