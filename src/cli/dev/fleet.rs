//! The processes of the nodes: their lines, their ends.
//!
//! A node's standard input is a pipe that nobody writes to. It ends when we close it, and also when we are killed, and
//! either stops the node in order.

use std::{
    env,
    io::{self, IsTerminal, Write},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::{mpsc, watch},
    time::{self, Instant},
};

use super::{
    super::{complain, signals::Signals},
    layout::{self, NodeLayout},
};

/// All nodes.
pub(super) struct Fleet {
    nodes: Vec<Node>,
    orders: watch::Sender<Order>,
    events: mpsc::Receiver<Event>,
    /// How long the nodes may take to stop.
    grace: Duration,
    /// A node did not what it should.
    failed: bool,
}

/// What became of all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// They were told to stop, and did.
    Stopped,
    /// One of them could not start, ended on its own, or did not stop as it should.
    Failed,
    /// A second signal of this number came while they were stopping.
    Hurried(i32),
}

struct Node {
    name: String,
    pid: u32,
    ready: bool,
    ended: bool,
}

/// What a process is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Run,
    Stop,
    Kill,
}

/// What a process did; with the number of its node.
enum Event {
    Ready(usize),
    Ended(usize, io::Result<ExitStatus>),
}

impl Fleet {
    /// Starts a process for each node. When one of them cannot be started, the others are killed.
    pub(super) async fn spawn(nodes: &[NodeLayout], set: &[String], grace: Duration) -> io::Result<Self> {
        let (orders, order) = watch::channel(Order::Run);
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let mut fleet = Self { nodes: Vec::new(), orders, events, grace, failed: false };
        let width = nodes.iter().map(|node| node.name.len()).max().unwrap_or(0);
        for (number, layout) in nodes.iter().enumerate() {
            let child = command(layout, set)?.spawn()?;
            let pid = child.id().unwrap_or_default();
            fleet.nodes.push(Node { name: layout.name.clone(), pid, ready: false, ended: false });
            let prefix = Prefix::new(&layout.name, width, number);
            tokio::spawn(attend(number, child, prefix, order.clone(), sender.clone()));
        }
        Ok(fleet)
    }

    /// The numbers of the processes.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> + '_ {
        self.nodes.iter().map(|node| node.pid)
    }

    /// Waits until every node is ready. If that does not happen, everything is stopped, and the outcome is known.
    pub(super) async fn until_ready(&mut self, signals: &mut Signals) -> Option<Outcome> {
        while !self.nodes.iter().all(|node| node.ready) {
            tokio::select! {
                _ = signals.next() => return Some(self.stop(signals).await),
                event = self.events.recv() => self.note(event),
            }
            if self.failed {
                return Some(self.stop(signals).await);
            }
        }
        None
    }

    /// Runs until a signal comes, or nothing is left that runs. A node that ends before is told about, and makes the
    /// outcome a failure; the others go on, for that is what a cluster is for.
    pub(super) async fn until_stopped(&mut self, signals: &mut Signals) -> Outcome {
        while self.is_running() {
            tokio::select! {
                _ = signals.next() => break,
                event = self.events.recv() => self.note(event),
            }
        }
        self.stop(signals).await
    }

    /// Stops every node in order, then whatever is left.
    async fn stop(&mut self, signals: &mut Signals) -> Outcome {
        self.orders.send_replace(Order::Stop);
        let deadline = Instant::now() + self.grace;
        let mut hurried = None;
        while self.is_running() {
            let order = *self.orders.borrow();
            tokio::select! {
                event = self.events.recv() => self.note(event),
                number = signals.next(), if order == Order::Stop => {
                    hurried = Some(number);
                    self.orders.send_replace(Order::Kill);
                }
                () = time::sleep_until(deadline), if order == Order::Stop => {
                    self.failed = true;
                    complain(format_args!("error: not every node stopped in time; killing those that did not"));
                    self.orders.send_replace(Order::Kill);
                }
            }
        }
        match hurried {
            Some(number) => Outcome::Hurried(number),
            None if self.failed => Outcome::Failed,
            None => Outcome::Stopped,
        }
    }

    fn is_running(&self) -> bool {
        self.nodes.iter().any(|node| !node.ended)
    }

    fn note(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Ready(number)) => self.nodes[number].ready = true,
            Some(Event::Ended(number, status)) => {
                let told = *self.orders.borrow() != Order::Run;
                let node = &mut self.nodes[number];
                node.ended = true;
                let in_order = status.as_ref().is_ok_and(ExitStatus::success);
                if told && in_order {
                    return;
                }
                self.failed = true;
                let what = match (node.ready, told) {
                    (false, _) => "did not start",
                    (true, true) => "did not stop in order",
                    (true, false) => "has ended",
                };
                match status {
                    Ok(status) => complain(format_args!("error: {} {what}: {status}", node.name)),
                    Err(error) => complain(format_args!("error: {} {what}: {error}", node.name)),
                }
            }
            // Every task that attends a node is over, and so is every node.
            None => self.nodes.iter_mut().for_each(|node| node.ended = true),
        }
    }
}

fn command(layout: &NodeLayout, set: &[String]) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["start", "--stop-with-stdin", "-c"]).arg(layout.config_file());
    for argument in set {
        command.args(["--set", argument]);
    }
    for (name, _) in env::vars_os().filter(|(name, _)| layout::is_own(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command.current_dir(layout.directory());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Ctrl-C is for us alone: a node that got it, too, would take our own order to stop for its second signal.
    command.process_group(0).kill_on_drop(true);
    Ok(command)
}

/// Stays with a process until its end.
async fn attend(
    number: usize,
    mut child: Child,
    prefix: Prefix,
    mut orders: watch::Receiver<Order>,
    events: mpsc::Sender<Event>,
) {
    let mut stdin = child.stdin.take();
    let stderr = tokio::spawn(forward(child.stderr.take(), prefix.clone(), None));
    let stdout = tokio::spawn(forward(child.stdout.take(), prefix, Some((number, events.clone()))));
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            changed = orders.changed() => {
                stdin = None;
                // The fleet is gone when nobody gives orders any more.
                if changed.is_err() || *orders.borrow() == Order::Kill {
                    break match child.kill().await {
                        Ok(()) => child.wait().await,
                        Err(error) => Err(error),
                    };
                }
            }
        }
    };
    drop(stdin);
    // Its last lines explain its end.
    let _ = (stderr.await, stdout.await);
    // A fleet that is gone does not want to know.
    let _ = events.send(Event::Ended(number, status)).await;
}

/// Repeats each line on standard error, and tells when one says that the node is ready.
async fn forward(
    pipe: Option<impl AsyncRead + Unpin>,
    prefix: Prefix,
    ready: Option<(usize, mpsc::Sender<Event>)>,
) {
    let Some(pipe) = pipe else { return };
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    // A pipe that cannot be read has come to its end.
    while pipe.read_until(b'\n', &mut line).await.is_ok_and(|length| length > 0) {
        let text = String::from_utf8_lossy(&line);
        prefix.write(text.trim_end_matches(['\r', '\n']));
        if let Some((number, events)) = &ready
            && text.contains(" ready, node ")
        {
            let _ = events.send(Event::Ready(*number)).await;
        }
        line.clear();
    }
}

/// What stands before each line of a node.
#[derive(Debug, Clone)]
struct Prefix(String);

impl Prefix {
    fn new(name: &str, width: usize, number: usize) -> Self {
        let plain =
            !io::stderr().is_terminal() || env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = COLOURS[number % COLOURS.len()];
        Self(if plain {
            format!("{name:width$} | ")
        } else {
            format!("\x1b[{colour}m{name:width$} |\x1b[0m ")
        })
    }

    fn write(&self, line: &str) {
        // In one piece, so that lines of two nodes do not mix. Nobody may be there to read it.
        let _ = writeln!(io::stderr().lock(), "{}{line}", self.0);
    }
}

/// Cyan, yellow, magenta, green, blue, and the bright forms of the first two.
const COLOURS: [u8; 7] = [36, 33, 35, 32, 34, 96, 93];

/// Each node has two events in its life.
const EVENTS_MAX: usize = 16;
