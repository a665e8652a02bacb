//! `flotilla bench`, run against a broker.

use std::{
    ffi::OsString,
    fs::{self, File},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    broker::Broker,
    error::RunError,
    place::Place,
    scenario::{COMMON, Scenario},
    stop::Stop,
    template::{Values, fill},
};

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// What it printed; also a run that failed may have measured something.
    pub(crate) report: Option<Value>,
    /// Why it failed; `None`: all is well.
    pub(crate) failure: Option<RunError>,
}

/// Puts the load on the broker, and waits until it is done.
pub(crate) fn run(
    scenario: &Scenario,
    broker: &mut Broker,
    place: &Place,
    values: &Values,
    time: Duration,
    stop: &mut Stop,
) -> Outcome {
    let status = start(scenario, broker, place, values, time)
        .and_then(|mut child| await_end(&mut child, TIME_MAX + time, stop));
    let directory = broker.directory().to_owned();
    let read = |name| fs::read(directory.join(name)).unwrap_or_default();
    let report: Option<Value> = serde_json::from_slice(&read(REPORT)).ok();
    let failure = match (status, broker.check()) {
        (Err(error), _) | (Ok(_), Err(error)) => Some(error),
        (Ok(status), Ok(())) if status.success() && report.is_some() => None,
        (Ok(status), Ok(())) => Some(RunError::Load(explain(status, report.as_ref(), &read(LOG)))),
    };
    Outcome { report, failure }
}

fn start(
    scenario: &Scenario,
    broker: &Broker,
    place: &Place,
    values: &Values,
    time: Duration,
) -> Result<Child, RunError> {
    let arguments = arguments(scenario, broker, values, time)?;
    let file = |name| File::create(broker.directory().join(name));
    let mut command = Command::new(&place.flotilla);
    command.arg("bench").args(arguments).stdin(Stdio::null());
    command.stdout(file(REPORT).map_err(RunError::io("a file for the report"))?);
    command.stderr(file(LOG).map_err(RunError::io("a file for messages"))?);
    let program = place.flotilla.display().to_string();
    command.spawn().map_err(|source| RunError::Start { program, source })
}

/// What `flotilla bench` is told. In a cluster, publishers are at the first node and everybody else at the others, so that each
/// message goes from node to node.
fn arguments(
    scenario: &Scenario,
    broker: &Broker,
    values: &Values,
    time: Duration,
) -> Result<Vec<OsString>, RunError> {
    let mut arguments: Vec<OsString> = Vec::new();
    for argument in scenario.arguments.split_whitespace().chain(COMMON) {
        arguments.push(fill(argument, values)?.into());
    }
    if scenario.is_timed {
        arguments.extend(["-t".into(), time.as_secs_f64().to_string().into()]);
    }
    let list = |items: Vec<String>| OsString::from(items.join(","));
    let addresses: Vec<_> = broker.addresses().iter().map(ToString::to_string).collect();
    match addresses.split_first() {
        Some((first, others)) if !others.is_empty() => {
            arguments.extend(["--publish-to".into(), first.into()]);
            arguments.extend(["--subscribe-at".into(), list(others.to_vec())]);
        }
        _ => arguments.extend(["-b".into(), list(addresses)]),
    }
    let pids = broker.pids().iter().map(ToString::to_string).collect();
    arguments.extend(["--broker-pid".into(), list(pids), "--json".into()]);
    Ok(arguments)
}

fn await_end(child: &mut Child, within: Duration, stop: &mut Stop) -> Result<ExitStatus, RunError> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait().map_err(RunError::io("the load generator's process"))? {
            return Ok(status);
        }
        let is_late = Instant::now() >= deadline;
        if is_late || stop.wait(LOOK_INTERVAL) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(if is_late { RunError::Slow(within) } else { RunError::Interrupted });
        }
    }
}

/// Its faults, or what it said where there is no report.
fn explain(status: ExitStatus, report: Option<&Value>, log: &[u8]) -> String {
    let faults = report.and_then(|report| report["faults"].as_array()).into_iter().flatten();
    let faults: Vec<_> = faults.filter_map(Value::as_str).collect();
    if !faults.is_empty() {
        return faults.join("; ");
    }
    let log = String::from_utf8_lossy(log);
    let last = log.lines().rev().find(|line| !line.is_empty()).unwrap_or("it says nothing");
    format!("the load generator failed ({status}): {last}")
}

const REPORT: &str = "bench.json";
const LOG: &str = "bench.err";

/// Beside the measuring: enough for the slowest broker to be subscribed to and to hand over its queues.
const TIME_MAX: Duration = Duration::from_secs(180);
/// Rarely, for whoever looks uses time that is measured.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_failure_has_words() {
        let status = ExitStatus::from_raw(1 << 8);
        let report = json!({ "faults": ["a", "b"] });
        assert_eq!(explain(status, Some(&report), b""), "a; b");
        let expected = "the load generator failed (exit status: 1): error: x";
        assert_eq!(explain(status, None, b"note: y\nerror: x\n\n"), expected);
        assert!(explain(status, Some(&json!({"faults": []})), b"").ends_with("it says nothing"));
    }
}
