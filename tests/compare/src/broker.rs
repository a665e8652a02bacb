//! A broker that runs: fresh, on free ports of the loopback, in a directory of its own.

use std::{
    fs::{self, File},
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    description::Description,
    error::RunError,
    place::Place,
    probe,
    stop::Stop,
    template::{Values, fill},
};

/// Its processes. They are stopped when it is dropped, and what they kept is removed.
#[derive(Debug)]
pub(crate) struct Broker {
    nodes: Vec<Node>,
    directory: PathBuf,
}

#[derive(Debug)]
struct Node {
    child: Child,
    address: SocketAddr,
}

impl Broker {
    /// Starts it, and waits until each node lets clients in.
    ///
    /// # Errors
    /// It does not start, ends, or lets nobody in for long.
    pub(crate) fn start(description: &Description, place: &Place, stop: &mut Stop) -> Result<Self, RunError> {
        let directory = place.scratch.join(format!("{}-{}", description.name, process::id()));
        // Numbers of processes come again: this may be left from one that was killed.
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).map_err(RunError::io("a directory for the broker"))?;
        // From here on, whatever goes wrong, the directory and the processes in it do not stay.
        let mut broker = Self { nodes: Vec::new(), directory };
        let ports = free_ports(2 * description.nodes).map_err(RunError::io("free ports"))?;
        let (ports, peer_ports) = ports.split_at(description.nodes);
        let peers: Vec<_> = peer_ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
        for (index, (port, peer_port)) in ports.iter().zip(peer_ports).enumerate() {
            let directory = broker.directory.join(format!("node-{}", index + 1));
            let mut values = place.values();
            values.extend([
                ("directory", directory.display().to_string()),
                ("port", port.to_string()),
                ("node", (index + 1).to_string()),
                ("nodes", description.nodes.to_string()),
                ("peer-port", peer_port.to_string()),
                ("peers", peers.join(", ")),
            ]);
            let child = spawn(description, &directory, &values)?;
            broker.nodes.push(Node { child, address: (Ipv4Addr::LOCALHOST, *port).into() });
        }
        broker.await_ready(stop)?;
        Ok(broker)
    }

    /// Its processes, all.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.child.id()).collect()
    }

    /// Where MQTT is spoken, node by node.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.address).collect()
    }

    /// A place for files that go when the broker goes.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// # Errors
    /// A node has ended, which nobody has asked for.
    pub(crate) fn check(&mut self) -> Result<(), RunError> {
        for node in &mut self.nodes {
            let status = node.child.try_wait().map_err(RunError::io("the broker's process"))?;
            if let Some(status) = status {
                return Err(RunError::Ended { status, log: log_tails(&self.directory) });
            }
        }
        Ok(())
    }

    /// Ends its processes: politely, and after a while not; whether all of them went politely.
    pub(crate) fn stop(&mut self) -> bool {
        let children = self.nodes.iter_mut().map(|node| &mut node.child);
        let running: Vec<_> = children.filter_map(|child| (!has_ended(child)).then_some(child)).collect();
        for child in &running {
            // It has not been waited for, so nobody else can have its number.
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            if let Some(pid) = pid {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        let deadline = Instant::now() + STOPPED_WITHIN;
        let mut is_polite = true;
        for child in running {
            while !has_ended(child) && Instant::now() < deadline {
                thread::sleep(LOOK_INTERVAL);
            }
            if !has_ended(child) {
                is_polite = false;
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        is_polite
    }

    fn await_ready(&mut self, stop: &mut Stop) -> Result<(), RunError> {
        let deadline = Instant::now() + READY_WITHIN;
        for address in self.addresses() {
            while !probe::is_let_in(address).unwrap_or(false) {
                self.check()?;
                if Instant::now() >= deadline {
                    return Err(RunError::NotReady { within: READY_WITHIN, log: log_tails(&self.directory) });
                }
                if stop.wait(LOOK_INTERVAL) {
                    return Err(RunError::Interrupted);
                }
            }
        }
        // The answer may have come from somebody who was there before.
        self.check()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Writes the files of a node and starts it there.
fn spawn(description: &Description, directory: &Path, values: &Values) -> Result<Child, RunError> {
    fs::create_dir(directory).map_err(RunError::io("a directory for a node"))?;
    for (name, text) in &description.files {
        let text = fill(text.trim_start(), values)?;
        fs::write(directory.join(name), text).map_err(RunError::io("a file of the broker"))?;
    }
    let command: Vec<_> =
        description.start.iter().map(|argument| fill(argument, values)).collect::<Result<_, _>>()?;
    let (program, arguments) = command.split_first().expect("a description has a program");
    let log = || File::options().create(true).append(true).open(directory.join("output.log"));
    let mut starter = Command::new(program);
    starter.args(arguments).current_dir(directory).stdin(Stdio::null());
    starter.stdout(log().map_err(RunError::io("a log of the broker"))?);
    starter.stderr(log().map_err(RunError::io("a log of the broker"))?);
    for (name, value) in &description.environment {
        starter.env(name, fill(value, values)?);
    }
    starter.spawn().map_err(|source| RunError::Start { program: program.clone(), source })
}

fn has_ended(child: &mut Child) -> bool {
    // Who cannot be asked is no child of ours any more.
    !matches!(child.try_wait(), Ok(None))
}

/// Ports that nobody has; all are held until all are known, so that they differ.
fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let held: io::Result<Vec<_>> = (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect();
    held?.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// The ends of all logs of all nodes, each on a line of its own below its name; empty: they say nothing.
fn log_tails(directory: &Path) -> String {
    let entries = |directory: &Path| {
        let mut paths: Vec<_> =
            fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let mut tails = String::new();
    for path in entries(directory).iter().flat_map(|node| entries(node)) {
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let text = fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
            tails.push_str("\n    ");
            tails.push_str(line);
        }
    }
    tails
}

const READY_WITHIN: Duration = Duration::from_secs(60);
/// Longer than any broker should need that has had a few thousand clients.
const STOPPED_WITHIN: Duration = Duration::from_secs(15);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
const LOG_LINES: usize = 10;
