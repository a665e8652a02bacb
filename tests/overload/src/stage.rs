//! What every row stands on: brokers, and loads on them.

use std::{
    fs::{self, File},
    mem,
    path::PathBuf,
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use flotilla_compare::source::sources;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    fleet::{Cluster, Node, poll},
    harness::place,
};

/// How rows run.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Of measuring in each part of a row.
    pub(crate) time: Duration,
    /// The limit of open files.
    pub(crate) files: u64,
    /// How many loads there were.
    loads: AtomicUsize,
}

/// `flotilla bench`, while it runs. It is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Load {
    child: Child,
    report: PathBuf,
    log: PathBuf,
}

/// What it has printed.
#[derive(Debug)]
pub(crate) struct Report(Value);

impl Stage {
    pub(crate) fn new(time: Duration, files: u64) -> Self {
        // Another run of this program may have been a moment ago.
        let first = usize::try_from(process::id()).unwrap_or_default();
        Self { time, files, loads: AtomicUsize::new(first) }
    }

    /// Seconds of measuring, for the arguments of a load.
    pub(crate) fn seconds(&self) -> f64 {
        self.time.as_secs_f64()
    }

    /// A node by itself, with the defaults for everything but these settings.
    pub(crate) fn broker(&self, settings: &[(&str, &str)]) -> Cluster {
        self.cluster(1, settings)
    }

    /// Nodes that have formed a cluster.
    pub(crate) fn cluster(&self, nodes: usize, settings: &[(&str, &str)]) -> Cluster {
        Cluster::with(nodes, &[DEFAULTS, settings].concat())
    }

    /// So many clients as there may be on a node beside others, and no more than are wanted.
    pub(crate) fn clients(&self, wanted: u32) -> u32 {
        let most = u32::try_from(self.files.saturating_sub(FILES_BESIDE)).unwrap_or(u32::MAX);
        wanted.min(most).max(1)
    }

    /// The number of a load that nobody has had: it connects from other addresses than those before it.
    pub(crate) fn next_number(&self) -> usize {
        self.loads.fetch_add(1, Ordering::Relaxed)
    }

    /// Starts `flotilla bench` with these arguments, divided by spaces, against a node.
    #[track_caller]
    pub(crate) fn start(&self, node: &Node, arguments: &str) -> Load {
        let number = self.next_number();
        let file = |extension| {
            let directory = node.log_file().parent().expect("a log is in a directory");
            directory.join(format!("bench-{number}")).with_extension(extension)
        };
        let (report, log) = (file("json"), file("err"));
        let mut command = Command::new(&place().program);
        command.arg("bench").args(arguments.split_whitespace()).arg("--json").stdin(Stdio::null());
        command.args(["--local-addresses", &sources(number), "-b", &node.mqtt().to_string()]);
        command.args(["--broker-pid", &node.pid().to_string()]);
        command.stdout(File::create(&report).expect("there is space for a report"));
        command.stderr(File::create(&log).expect("there is space for a log"));
        Load { child: command.spawn().expect("the broker's binary runs"), report, log }
    }

    /// The same, to its end.
    #[track_caller]
    pub(crate) fn run(&self, node: &Node, arguments: &str) -> Report {
        self.start(node, arguments).end()
    }

    /// Puts a load on a node and has something done while it is there: the load ends when that is done.
    ///
    /// `connections`: how many it has, so that it is known when it is there.
    #[track_caller]
    pub(crate) fn under<T>(
        &self,
        node: &Node,
        arguments: &str,
        connections: usize,
        work: impl FnOnce() -> T,
    ) -> (T, Report) {
        let mut load = self.start(node, arguments);
        load.await_connections(node, connections);
        let result = work();
        load.interrupt();
        (result, load.end())
    }
}

impl Load {
    /// Waits until it has so many connections with a node, all but one in a hundred, and the node no new ones any more.
    #[track_caller]
    pub(crate) fn await_connections(&mut self, node: &Node, connections: usize) {
        let enough = (connections - connections / 100).max(1) + FILES_OF_LOAD;
        let there = poll(CONNECTED_WITHIN, || {
            self.assert_running();
            // Its own, for those of others come and go.
            let files = fs::read_dir(format!("/proc/{}/fd", self.child.id())).map_or(0, Iterator::count);
            (files >= enough).then_some(())
        });
        assert!(
            there.is_some(),
            "{connections} clients of the load are not there within {CONNECTED_WITHIN:?}"
        );
        await_settled(node);
    }

    /// It brings itself to its end and reports.
    pub(crate) fn interrupt(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // It has not been waited for, so nobody else can have its number.
        let _ = kill_process(pid.expect("a process has a number"), Signal::INT);
    }

    /// What it reports at its end.
    #[track_caller]
    pub(crate) fn end(mut self) -> Report {
        let ended = poll(ENDED_WITHIN, || self.child.try_wait().expect("it is ours"));
        assert!(ended.is_some(), "the load does not end within {ENDED_WITHIN:?}");
        let text = fs::read(&self.report).unwrap_or_default();
        match serde_json::from_slice(&text) {
            Ok(report) => {
                let report = Report(report);
                let faults = report.faults();
                if !faults.is_empty() {
                    crate::say(&format!("a load says: {faults}"));
                }
                report
            }
            Err(error) => panic!("the load has no report ({error}): {}", self.said()),
        }
    }

    #[track_caller]
    fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().expect("it is ours") {
            panic!("the load has ended early ({status}): {}", self.said());
        }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Report {
    /// A number in it, as `/traffic/received_per_second`; NaN, which meets no expectation, where it is not there.
    pub(crate) fn number(&self, pointer: &str) -> f64 {
        self.0.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN)
    }

    /// A percentile of the time from when a message was due until it was there, in milliseconds: "p99". NaN where none was.
    pub(crate) fn delivery(&self, percentile: &str) -> f64 {
        if self.number("/traffic/delivery_latency/count") == 0.0 {
            return f64::NAN;
        }
        self.number(&format!("/traffic/delivery_latency/{percentile}_us")) / 1e3
    }

    /// What did not happen although it was asked for, in words.
    pub(crate) fn faults(&self) -> String {
        let faults = self.0["faults"].as_array().into_iter().flatten();
        faults.filter_map(Value::as_str).collect::<Vec<_>>().join("; ")
    }
}

/// Waits until nobody comes to a node or goes, but not for ever.
fn await_settled(node: &Node) {
    let mut files = node.open_files();
    let _ = poll(SETTLED_WITHIN, || {
        thread::park_timeout(SETTLED_FOR);
        let before = mem::replace(&mut files, node.open_files());
        (before == files).then_some(())
    });
}

/// Tells threads that it is over, also where a row is broken off: else they would go on, and be waited for.
#[derive(Debug)]
pub(crate) struct SetAtEnd<'a>(pub(crate) &'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The fleet's settings are for tests; here the broker's own defaults count, or what a row says.
pub(crate) const DEFAULTS: &[(&str, &str)] =
    &[("cluster.shards", "16"), ("session.queue_messages_max", "1000"), ("session.queue_bytes_max", "16MiB")];

/// Files that are open beside those of the clients of a load: the broker's own, and the clients of a second load.
const FILES_BESIDE: u64 = 1_000;
/// For as many clients as there can be, on a busy machine.
const CONNECTED_WITHIN: Duration = Duration::from_secs(120);
/// Those that every process has: input, output, errors.
const FILES_OF_LOAD: usize = 3;
const SETTLED_FOR: Duration = Duration::from_millis(200);
const SETTLED_WITHIN: Duration = Duration::from_secs(3);
const ENDED_WITHIN: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_report_does_not_have_is_no_number() {
        let latency = |count| serde_json::json!({ "count": count, "p99_us": 2_500.0 });
        let report = |count| Report(serde_json::json!({ "traffic": { "delivery_latency": latency(count) } }));
        assert_eq!(report(7).delivery("p99"), 2.5);
        assert!(report(0).delivery("p99").is_nan(), "nothing came");
        assert!(report(7).number("/traffic/broker_cores").is_nan());
        assert_eq!(Report(serde_json::json!({ "faults": ["a", "b"] })).faults(), "a; b");
    }
}
