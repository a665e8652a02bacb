//! More than a broker can take: the rows of the overload table, each a load on a real `flotilla` process, what was seen, and whether
//! that is what is expected.
//!
//! [`rows`] has the table and what is done for each row. A row stands on a [`stage`], which starts brokers and loads: `flotilla bench`
//! for whatever it can do, a [`crowd`] of bare clients or a [`slow`] one for the rest. [`others`] are those who must not notice.
//! [`finding`] and [`table`] are pure.
//!
//! Nodes come from the fleet of the cluster tests, packets by hand from the harness of the black-box tests. How to read and extend it is
//! in `README.md` beside this crate's manifest.

#[path = "../../cluster/fleet/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests of clusters use the rest of it")]
mod fleet;
#[path = "../../harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests of one node use the rest of it")]
mod harness;

mod crowd;
mod finding;
mod mounts;
mod options;
mod others;
mod rows;
mod slow;
mod stage;
mod table;
mod usage;

use std::{
    any::Any,
    env,
    fs::{self, File},
    io::{self, Write},
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Instant, SystemTime},
};

use clap::Parser;
use flotilla_compare::{
    disturbance::{Tolerance, other_share},
    machine::{self, Ticks, await_quiet, used},
};

use crate::{
    finding::{Outcome, Verdict},
    harness::place::{Place, set_place},
    options::Options,
    rows::{ROWS, Row, Run},
    stage::Stage,
};

fn main() -> ExitCode {
    let options = Options::parse();
    match start(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::from(2)
        }
    }
}

/// Whether every row that ran met its expectation.
fn start(options: &Options) -> io::Result<bool> {
    let files = rlimit::increase_nofile_limit(rlimit::INFINITY)?;
    if let Some((address, count)) = options.wills().map_err(io::Error::other)? {
        rows::hold_wills(address, count);
        return Ok(true);
    }
    let rows = chosen(&options.rows)?;
    if options.list {
        return list(&rows).map(|()| true);
    }
    if rows.iter().any(|row| row.id == rows::DISK_FULL) {
        mounts::enter();
    }
    let scratch = prepare(options)?;
    let path = options.out.clone().unwrap_or_else(|| scratch.join("rows.jsonl"));
    let mut out = File::create(&path).map_err(|error| named(&path, &error))?;
    say(&format!("what is found goes to {}", path.display()));
    let stage = Stage::new(options.time, files);
    let mut results = Vec::new();
    for row in rows {
        let result = run(row, &stage, options)?;
        writeln!(out, "{}", result.json())?;
        say(&format!("{} after {:.0} s: {:?}", row.id, result.seconds, result.outcome));
        results.push(result);
    }
    let mut stdout = io::stdout().lock();
    stdout.write_all(head(files).as_bytes())?;
    stdout.write_all(table::render(&results).as_bytes())?;
    stdout.flush()?;
    let ran = results.iter().any(|result| result.outcome.verdict() != Verdict::NotRun);
    if !ran {
        return Err(io::Error::other("none of these rows is for this machine"));
    }
    Ok(results.iter().all(|result| result.outcome.verdict() != Verdict::NotMet))
}

/// Waits for a quiet machine, and does what the row says.
fn run(row: &'static Row, stage: &Stage, options: &Options) -> io::Result<table::Result> {
    await_quiet(&TOLERANCE, options.quiet_within, |time| {
        thread::park_timeout(time);
        false
    })?;
    let is_disturbed = is_disturbed()?;
    let began = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let start = Instant::now();
    let outcome = match row.run {
        Run::Not(reason) => Outcome::NotRun(reason.to_owned()),
        // Who finds something that must not be panics, as tests do; the next row begins with brokers of its own.
        Run::Scenario(scenario) => panic::catch_unwind(AssertUnwindSafe(|| scenario(stage)))
            .unwrap_or_else(|panic| Outcome::Broken(words(&*panic))),
    };
    Ok(table::Result { row, outcome, began, seconds: start.elapsed().as_secs_f64(), is_disturbed })
}

/// Whether other work is much right now.
fn is_disturbed() -> io::Result<bool> {
    let (ticks, own) = (Ticks::now()?, used(&[]));
    thread::park_timeout(LOOK);
    let other = other_share(ticks, Ticks::now()?, used(&[]).saturating_sub(own));
    Ok(TOLERANCE.is_disturbed(other))
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason");
    text.chars().take(WORDS_MAX).collect()
}

/// What stands above the table.
fn head(files: u64) -> String {
    format!(
        "Measured by `scripts/overload` on {}: {}, {files} open files a process. Broker and load share it and talk over loopback.\n\n",
        humantime::format_rfc3339_seconds(SystemTime::now()),
        machine::describe(),
    )
}

/// Says where things are; where the brokers may have their files.
fn prepare(options: &Options) -> io::Result<PathBuf> {
    let program = env::current_exe()?;
    let flotilla = options.flotilla.clone().unwrap_or_else(|| program.with_file_name("flotilla"));
    let flotilla = fs::canonicalize(&flotilla).map_err(|error| named(&flotilla, &error))?;
    let scratch = match &options.directory {
        Some(directory) => directory.clone(),
        // target/release/flotilla-overload: target/overload.
        None => program.ancestors().nth(2).unwrap_or(Path::new(".")).join("overload"),
    };
    fs::create_dir_all(&scratch).map_err(|error| named(&scratch, &error))?;
    let scratch = fs::canonicalize(&scratch)?;
    set_place(Place { program: flotilla, scratch: scratch.clone() });
    Ok(scratch)
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

/// The rows that were asked for, in the order of the table.
fn chosen(names: &[String]) -> io::Result<Vec<&'static Row>> {
    if let Some(name) = names.iter().find(|name| ROWS.iter().all(|row| row.id != **name)) {
        return Err(io::Error::other(format!("there is no row {name}: --list says which there are")));
    }
    Ok(ROWS.iter().filter(|row| names.is_empty() || names.iter().any(|name| name == row.id)).collect())
}

fn list(rows: &[&Row]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    for row in rows {
        let not =
            if let Run::Not(reason) = row.run { format!(" [not run here: {reason}]") } else { String::new() };
        writeln!(stdout, "{}  {}: {}{not}", row.id, row.load, row.expectation)?;
    }
    stdout.flush()
}

/// A line on standard error. Nobody may be there to read it, which `eprintln!` would panic about.
fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

const TOLERANCE: Tolerance = Tolerance { other_max: 0.1, repeats: 0 };
const LOOK: std::time::Duration = std::time::Duration::from_millis(300);
const WORDS_MAX: usize = 500;
