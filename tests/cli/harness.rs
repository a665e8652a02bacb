//! Programs to run, brokers to run them against, and a deadline for everything.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::{self, JoinHandle},
    time::Duration,
};

/// No single step takes longer, unless something hangs.
const DEADLINE: Duration = Duration::from_secs(20);

/// `flotilla start` on a port of its own; killed when dropped.
pub(crate) struct Broker {
    child: Child,
    port: u16,
    /// Where it runs, and so where its data are.
    _directory: tempfile::TempDir,
}

impl Broker {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("there is room for its data");
        let mut command = Command::new(env!("CARGO_BIN_EXE_flotilla"));
        command.current_dir(directory.path());
        command.args([
            "start",
            "--set",
            "listeners.tcp.bind=\"127.0.0.1:0\"",
            "--set",
            "auth.anonymous=true",
        ]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the broker starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let address = loop {
            let line = read_line(&mut stdout).expect("the broker says where it listens");
            if let Some(address) = line.strip_prefix("listener tcp: mqtt on ") {
                break address.to_owned();
            }
        };
        // The pipe stays open, so that the broker can go on writing to it.
        thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        Self { child, port: port.expect("the address ends with a port"), _directory: directory }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `flotilla pub` or `flotilla sub`, with a deadline.
    pub(crate) fn client(&self, arguments: &str) -> Command {
        client(self.port, arguments)
    }

    /// Publishes, and is sure that it worked.
    pub(crate) fn publish(&self, arguments: &str) {
        let output = self.client(&format!("pub {arguments}")).output().expect("it runs");
        assert_eq!(output.status.code(), Some(0), "pub {arguments}: {}", text(&output.stderr));
    }

    /// Starts `flotilla sub` and waits until the subscriptions are in place.
    pub(crate) fn subscribe(&self, arguments: &str) -> Running {
        let running = Running::start(self.client(&format!("sub -d {arguments}")));
        running.after("subscribed to ")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client for the broker on `port`. `arguments` are split at spaces.
pub(crate) fn client(port: u16, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flotilla"));
    command.args(arguments.split_whitespace()).args(["-p", &port.to_string()]);
    if !arguments.contains("-W ") {
        command.args(["-W", &DEADLINE.as_secs().to_string()]);
    }
    command.stdin(Stdio::null()).env_remove("FLOTILLA_PASSWORD");
    command
}

/// A client that is under way; killed when dropped.
pub(crate) struct Running {
    child: Child,
    stdout: Option<ChildStdout>,
    stderr: BufReader<ChildStderr>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        Self { stdout: child.stdout.take(), child, stderr }
    }

    /// Waits for a line that begins so on standard error.
    pub(crate) fn after(mut self, beginning: &str) -> Self {
        loop {
            let line = read_line(&mut self.stderr).expect("it says so");
            if line.starts_with(beginning) {
                return self;
            }
        }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([name, &pid]).status().expect("kill runs");
        assert!(status.success());
    }

    /// Kills it, so that it has no time for a DISCONNECT.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it is running");
    }

    /// Reads no more of what it prints.
    pub(crate) fn close_stdout(&mut self) {
        self.stdout = None;
    }

    /// Its exit code, standard output and standard error, once it has exited.
    pub(crate) fn finish(mut self) -> (Option<i32>, String, String) {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        if let Some(mut pipe) = self.stdout.take() {
            pipe.read_to_end(&mut stdout).expect("it can be read");
        }
        self.stderr.read_to_end(&mut stderr).expect("it can be read");
        let status = self.child.wait().expect("it exits");
        (status.code(), text(&stdout), text(&stderr))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs it to its end; `input` is its standard input.
pub(crate) fn run_with_input(mut command: Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input).expect("it reads its input");
    drop(stdin);
    child.wait_with_output().expect("it exits")
}

/// The exit code and standard error of a run.
pub(crate) fn outcome(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().expect("it runs");
    (output.status.code(), text(&output.stderr))
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A topic that no other test uses.
pub(crate) fn unique_topic(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("cli/{}/{}/{name}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// One turn of a broker that plays a part.
pub(crate) enum Turn {
    /// Wait for a packet whose first byte is this one.
    Expect(u8),
    /// Send these bytes.
    Send(&'static [u8]),
}

/// A listener for one client, which plays `turns`, then reads until the client hangs up unless the last thing it did
/// was to [`hang up`](Script::hanging_up) itself. Gives every byte that it read.
pub(crate) struct Script {
    pub(crate) port: u16,
    player: JoinHandle<Vec<u8>>,
}

impl Script {
    pub(crate) fn play(turns: Vec<Turn>) -> Self {
        Self::start(turns, false)
    }

    pub(crate) fn hanging_up(turns: Vec<Turn>) -> Self {
        Self::start(turns, true)
    }

    fn start(turns: Vec<Turn>, hang_up: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let player = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the client connects");
            stream.set_read_timeout(Some(DEADLINE)).expect("the time is not zero");
            let mut read = Vec::new();
            for turn in turns {
                match turn {
                    Turn::Send(bytes) => stream.write_all(bytes).expect("the client is there"),
                    Turn::Expect(first) => {
                        while read_packet(&mut stream, &mut read).expect("the client goes on") != first {}
                    }
                }
            }
            while !hang_up && read_packet(&mut stream, &mut read).is_some() {}
            read
        });
        Self { port, player }
    }

    /// Everything that the client sent.
    pub(crate) fn finish(self) -> Vec<u8> {
        // A client that never came must not be waited for.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        self.player.join().expect("the script was played to its end")
    }
}

/// Reads one packet whose Remaining Length has one byte; `None` at the end.
fn read_packet(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<u8> {
    let mut header = [0; 2];
    stream.read_exact(&mut header).ok()?;
    assert!(header[1] < 128, "the script expects short packets");
    let mut rest = vec![0; header[1].into()];
    stream.read_exact(&mut rest).ok()?;
    read.extend_from_slice(&header);
    read.extend_from_slice(&rest);
    Some(header[0])
}

fn read_line(reader: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    reader.read_line(&mut line).expect("it is text");
    (!line.is_empty()).then(|| line.trim_end().to_owned())
}
