//! The same loads for Flotilla and for other brokers on this machine, in one table.
//!
//! [`comparison`] takes turns: a fresh [`broker`], the [`load`] on it, and what came of it as a line of a file. What is run is in
//! [`scenario`], against whom in `brokers.toml`, read by [`description`]. [`order`], [`result`], [`table`],
//! [`readme`] and [`template`] are pure: they decide and write, and touch nothing that runs. What others that measure need, too, is in
//! the library of this crate.
//!
//! How to read and extend it is in `README.md` beside this crate's manifest.
//!
//! # What is absent on purpose
//!
//! It knows no broker: what there is to know is in a description. It works on Linux only, for nobody else tells what a process
//! has used in this way.

mod broker;
mod comparison;
mod description;
mod error;
mod glob;
mod head;
mod load;
mod options;
mod order;
mod place;
mod probe;
mod readme;
mod result;
mod scenario;
mod stop;
mod table;
mod template;

use std::{
    env,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use flotilla_compare::{disturbance, figure, machine, source};

use crate::{
    comparison::{Comparison, say},
    description::{Description, choose, parse},
    error::SetupError,
    figure::grouped,
    head::Conditions,
    options::Options,
    place::Place,
    result::{Cell, Run},
    scenario::{CONNECTIONS, SCENARIOS, Scenario},
    stop::Stop,
    table::Row,
    template::fill,
};

fn main() -> ExitCode {
    let options = Options::parse();
    let done = if options.list { list(&options).map(|()| true) } else { compare(&options) };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::from(2)
        }
    }
}

/// Runs everything and prints the table; whether every run did what was asked for.
fn compare(options: &Options) -> Result<bool, SetupError> {
    let place = place(options)?;
    if let Some(path) = &options.readme {
        readme::check(path).map_err(|source| SetupError::Readme { path: path.clone(), source })?;
    }
    let comparison = Comparison {
        brokers: brokers(options, &place)?,
        scenarios: scenarios(&options.scenarios)?,
        rounds: options.rounds,
        time: options.time,
        tolerance: options.tolerance(),
        quiet_within: options.quiet_within,
        values: [("connections", connections(&place).to_string())].into(),
        place,
    };
    if comparison.participants().iter().all(Vec::is_empty) {
        return Err(SetupError::Nothing);
    }
    let path = match &options.out {
        Some(path) => path.clone(),
        None => comparison.place.scratch.join("runs.jsonl"),
    };
    let mut out = File::create(&path).map_err(|source| SetupError::File { path: path.clone(), source })?;
    say(&format!("the figures of each run go to {}", path.display()));
    let mut stop = Stop::watch()?;
    let runs = comparison.run(&mut out, &mut stop)?;
    let text = report(&comparison, &runs)?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())?;
    if stop.is_set() {
        say("error: interrupted before it was done");
        return Ok(false);
    }
    if let Some(path) = &options.readme {
        readme::write(path, &text).map_err(|source| SetupError::Readme { path: path.clone(), source })?;
    }
    Ok(tell_failures(&comparison, &runs))
}

/// What is said above the table, and the table.
fn report(comparison: &Comparison, runs: &[Run]) -> Result<String, SetupError> {
    let mut rows = Vec::new();
    for (scenario, participants) in comparison.scenarios.iter().zip(comparison.participants()) {
        let title = title(scenario, &comparison.place)?;
        let brokers = participants.iter().map(|index| comparison.brokers[*index].name.clone()).collect();
        rows.push(Row { scenario, title, brokers });
    }
    // A column for nobody says nothing.
    let took_part = |broker: &&Description| rows.iter().any(|row| row.brokers.contains(&broker.name));
    let brokers: Vec<_> = comparison.brokers.iter().filter(took_part).cloned().collect();
    let names: Vec<_> = brokers.iter().map(|broker| broker.name.clone()).collect();
    let conditions = Conditions {
        rounds: comparison.rounds,
        time: comparison.time,
        tolerance: comparison.tolerance,
        connections: connections(&comparison.place),
        place: &comparison.place,
    };
    let table = table::render(&rows, &names, runs, &comparison.tolerance);
    Ok(head::render(&brokers, &conditions) + "\n" + &table)
}

/// Says what failed; whether nothing did.
fn tell_failures(comparison: &Comparison, runs: &[Run]) -> bool {
    let mut is_good = true;
    for scenario in &comparison.scenarios {
        for broker in &comparison.brokers {
            let cell = Cell::of(runs, scenario, &broker.name, &comparison.tolerance);
            if let Some(failures) = cell.failures() {
                say(&format!("error: {}, {}: {failures}", scenario.name, broker.name));
                is_good = false;
            }
        }
    }
    is_good
}

/// Prints which loads and brokers there are.
fn list(options: &Options) -> Result<(), SetupError> {
    let place = place(options)?;
    let mut text = "Scenarios:\n".to_owned();
    for scenario in scenarios(&options.scenarios)? {
        text += &format!("  {:<18}{}\n", scenario.name, title(scenario, &place)?);
    }
    text += "Brokers:\n";
    for broker in known(options)? {
        let version = match missing(&place, &broker)? {
            Some(program) => format!("not here: there is no program {program}"),
            None => place.version(&broker).unwrap_or_else(|| "version unknown".to_owned()),
        };
        text += &format!("  {:<18}{version}\n", broker.name);
    }
    let mut stdout = io::stdout().lock();
    Ok(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())?)
}

/// What is found on this machine, and room to run in.
fn place(options: &Options) -> Result<Place, SetupError> {
    let program = env::current_exe()?;
    let flotilla = options.flotilla.clone().unwrap_or_else(|| program.with_file_name("flotilla"));
    let flotilla =
        fs::canonicalize(&flotilla).map_err(|source| SetupError::NoFlotilla { path: flotilla, source })?;
    let scratch = match &options.directory {
        Some(directory) => directory.clone(),
        // target/release/flotilla-compare: target/compare.
        None => program.ancestors().nth(2).unwrap_or(Path::new(".")).join("compare"),
    };
    let file = |path: &PathBuf| {
        let path = path.clone();
        move |source| SetupError::File { path, source }
    };
    fs::create_dir_all(&scratch).map_err(file(&scratch))?;
    let scratch = fs::canonicalize(&scratch).map_err(file(&scratch))?;
    // Brokers begin with it, too.
    let files = rlimit::increase_nofile_limit(rlimit::INFINITY)?;
    Ok(Place { flotilla, scratch, files })
}

/// How many idle connections are asked for: broker and load have files beside them.
fn connections(place: &Place) -> u64 {
    CONNECTIONS.min(place.files.saturating_sub(FILES_BESIDE)).max(1)
}

/// What a scenario is called here.
fn title(scenario: &Scenario, place: &Place) -> Result<String, SetupError> {
    let values = [("connections", grouped(connections(place)))].into();
    fill(scenario.title, &values)
        .map_err(|source| SetupError::Template { name: scenario.name.to_owned(), source })
}

/// All brokers that are described.
fn known(options: &Options) -> Result<Vec<Description>, SetupError> {
    let mut known = match &options.descriptions {
        Some(path) => {
            let text = fs::read_to_string(path);
            parse(&text.map_err(|source| SetupError::File { path: path.clone(), source })?)?
        }
        None => parse(DESCRIPTIONS)?,
    };
    for (name, command) in &options.add {
        if known.iter().any(|broker| broker.name == *name) {
            return Err(SetupError::Descriptions(format!("there is a broker {name} already")));
        }
        known.push(Description::of_command(name.clone(), command.clone())?);
    }
    Ok(known)
}

/// Those that were asked for. One that is named must be here; others are left out where they are not.
fn brokers(options: &Options, place: &Place) -> Result<Vec<Description>, SetupError> {
    let known = known(options)?;
    let everybody = ["*".to_owned()];
    let patterns = if options.brokers.is_empty() { &everybody[..] } else { &options.brokers };
    let mut here = Vec::new();
    for broker in choose(&known, patterns)? {
        match missing(place, &broker)? {
            None => here.push(broker),
            Some(program) if patterns.contains(&broker.name) => {
                return Err(SetupError::NoProgram { broker: broker.name, program });
            }
            Some(program) => say(&format!("{} is left out: there is no program {program}", broker.name)),
        }
    }
    Ok(here)
}

fn missing(place: &Place, broker: &Description) -> Result<Option<String>, SetupError> {
    place.missing(broker).map_err(|source| SetupError::Template { name: broker.name.clone(), source })
}

/// Those that were asked for, in their own order.
fn scenarios(patterns: &[String]) -> Result<Vec<&'static Scenario>, SetupError> {
    let fits = |pattern: &String| SCENARIOS.iter().any(|scenario| glob::fits(pattern, scenario.name));
    if let Some(pattern) = patterns.iter().find(|pattern| !fits(pattern)) {
        return Err(SetupError::Unknown { kind: "scenario", pattern: pattern.clone() });
    }
    let is_chosen = |scenario: &&Scenario| patterns.is_empty() || glob::any_fits(patterns, scenario.name);
    Ok(SCENARIOS.iter().filter(is_chosen).collect())
}

/// The brokers that this knows.
const DESCRIPTIONS: &str = include_str!("../brokers.toml");
/// Files that are open beside those of connections.
const FILES_BESIDE: u64 = 1_000;
