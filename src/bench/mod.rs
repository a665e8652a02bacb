//! `flotilla bench`: puts a load on an MQTT broker, whichever it is, and measures what it does.
//!
//! [`run_bench`] does everything from checked arguments to the exit code. Beneath it, from the outside in: `run` takes a scenario
//! through its phases; `worker` is a thread that serves many clients; `client` is one client without its socket; `plan`, `schedule`,
//! `sequence`, `stamp` and `wildcard` say who there is, what is due when, what has come, and what it looks like. `report` and `plot`
//! are what comes out.
//!
//! # What is measured
//!
//! * **Latency** counts from the time at which a message was to be sent. At a fixed rate that is the time on the schedule: when the
//!   broker, or this program, is late with one message, those behind it are late as well, and all of that is in the figures.
//!   Without a rate there is no such time, and it counts from the moment of sending.
//! * **What belongs to the measured time** is decided by the time at which a message was to be sent, also when it arrives later. Rates
//!   count what arrived within it.
//! * **Losses, repetitions and order** are found from the number in each payload, over the whole run. Each subscriber keeps count of each
//!   publisher. In a group that shares a subscription a copy to another member is not recognised: it shows as one loss less.
//! * **A window** counts messages until all their subscribers have them. At QoS 0 what is lost would fill it: after two seconds in which
//!   nothing arrives, what is under way is no longer waited for.
//!
//! # Between the nodes of a cluster
//!
//! Every scenario can have its publishers on one node and everybody else on others (`--publish-to`, `--subscribe-at`): then each
//! message goes from node to node. With one list of brokers, clients take them in turn.
//!
//! # What is absent on purpose
//!
//! Nothing is reconnected: a connection that is lost is a fault of the run. TLS and WebSocket come when the broker has them.

mod args;
mod client;
mod clock;
mod error;
mod local;
mod plan;
mod plot;
mod process;
mod report;
mod run;
mod schedule;
mod sequence;
mod settings;
mod stamp;
mod stop;
mod tally;
mod wildcard;
mod worker;

pub use args::{
    BenchArgs, CommonArgs, ConnectionsArgs, FanInArgs, FanOutArgs, OfflineArgs, PairsArgs, RetainedArgs,
    Scenario, SharedArgs, StoredArgs, TrafficArgs, WildcardArgs,
};

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use crate::client::tell;
use error::BenchError;
use process::Brokers;
use run::Found;
use settings::Settings;

/// Runs `flotilla bench`: prints figures to standard output, what went wrong to standard error, and returns 0 only when nothing did.
#[must_use]
pub fn run_bench(args: &BenchArgs) -> ExitCode {
    let found = match find(&args.scenario) {
        Ok(found) => found,
        Err(error) => {
            tell(format_args!("error: {error}"));
            return error.exit_code();
        }
    };
    let common = args.scenario.common();
    let written = print(&found, common.json).and_then(|()| match &common.plot {
        Some(path) => plot(&found, path),
        None => Ok(()),
    });
    found.report.remarks.iter().for_each(|remark| tell(format_args!("note: {remark}")));
    found.report.faults.iter().for_each(|fault| tell(format_args!("error: {fault}")));
    if let Err(error) = &written {
        tell(format_args!("error: {error}"));
    }
    if written.is_ok() && found.report.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn find(scenario: &Scenario) -> Result<Found, BenchError> {
    let settings = Settings::resolve(scenario)?;
    let brokers = Brokers::find(&scenario.common().broker_pid)?;
    // What cannot be raised shows when a connection cannot be made.
    let _ = rlimit::increase_nofile_limit(rlimit::INFINITY);
    run::run(scenario, settings, brokers)
}

fn print(found: &Found, as_json: bool) -> Result<(), BenchError> {
    let text = if as_json {
        let json = serde_json::to_string_pretty(&found.report);
        json.map_err(|error| BenchError::Output(error.into()))? + "\n"
    } else {
        found.report.to_string()
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(BenchError::Output)
}

fn plot(found: &Found, path: &Path) -> Result<(), BenchError> {
    let settings = &found.report.settings;
    let qos = if found.report.traffic.is_some() { format!(", QoS {}", settings.qos) } else { String::new() };
    let title = format!("flotilla bench {}{qos}, MQTT {}", found.report.scenario, settings.mqtt_version);
    let series: Vec<_> = found.latencies.iter().map(|(name, histogram)| (*name, histogram)).collect();
    std::fs::write(path, plot::draw(&title, &series))
        .map_err(|source| BenchError::Plot { path: path.to_owned(), source })
}
