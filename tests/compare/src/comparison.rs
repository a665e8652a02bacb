//! All runs, one after another.

use std::{
    fs::File,
    io::Write,
    process,
    time::{Duration, SystemTime},
};

use crate::{
    broker::Broker,
    description::Description,
    disturbance::{Tolerance, other_share},
    error::{RunError, SetupError},
    figure::short,
    load::{self, Outcome},
    machine::{Ticks, await_quiet, used},
    order::{Turn, order},
    place::Place,
    result::Run,
    scenario::Scenario,
    source::sources,
    stop::Stop,
    template::Values,
};

/// What is compared, and how.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) brokers: Vec<Description>,
    pub(crate) scenarios: Vec<&'static Scenario>,
    pub(crate) rounds: u32,
    pub(crate) time: Duration,
    pub(crate) tolerance: Tolerance,
    /// How long to wait before a run for others to be done.
    pub(crate) quiet_within: Duration,
    pub(crate) place: Place,
    /// For the names in scenarios.
    pub(crate) values: Values,
}

impl Comparison {
    /// Those who take part in each scenario, as indexes.
    pub(crate) fn participants(&self) -> Vec<Vec<usize>> {
        let of = |scenario: &Scenario| {
            let all = self.brokers.iter().enumerate();
            all.filter(|(_, broker)| broker.takes_part(scenario, &self.brokers))
                .map(|(index, _)| index)
                .collect()
        };
        self.scenarios.iter().map(|scenario| of(scenario)).collect()
    }

    /// Runs everything, until it is done or is to end. Each run is a line of `out` as soon as it is over.
    ///
    /// # Errors
    /// The file cannot be written, or the machine does not say what it does.
    pub(crate) fn run(&self, out: &mut File, stop: &mut Stop) -> Result<Vec<Run>, SetupError> {
        let turns = order(self.rounds, &self.participants());
        let mut runs = Vec::new();
        for (index, turn) in turns.iter().enumerate() {
            let mut attempt = 0;
            loop {
                if stop.is_set() {
                    return Ok(runs);
                }
                let run = self.measure(*turn, attempt, runs.len(), stop)?;
                if stop.is_set() {
                    // It was cut short, by the same Ctrl-C perhaps, and says nothing about the broker.
                    return Ok(runs);
                }
                let line = serde_json::to_string(&run).map_err(std::io::Error::from)?;
                writeln!(out, "{line}")?;
                self.tell(&run, index + 1, turns.len(), self.scenarios[turn.scenario]);
                let other_share = run.other_share;
                runs.push(run);
                if !self.tolerance.repeats(attempt, other_share) {
                    break;
                }
                attempt += 1;
            }
        }
        Ok(runs)
    }

    /// `number`: how many runs were before.
    fn measure(&self, turn: Turn, attempt: u32, number: usize, stop: &mut Stop) -> Result<Run, SetupError> {
        let (scenario, broker) = (self.scenarios[turn.scenario], &self.brokers[turn.broker]);
        await_quiet(&self.tolerance, self.quiet_within, |time| stop.wait(time))?;
        let began = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let (outcome, other_share) = match Broker::start(broker, &self.place, stop) {
            Ok(mut running) => {
                let pids = running.pids();
                let (ticks, own) = (Ticks::now()?, used(&pids));
                let mut values = self.values.clone();
                values.insert("sources", sources(process::id() as usize + number));
                let outcome = load::run(scenario, &mut running, &self.place, &values, self.time, stop);
                let share = other_share(ticks, Ticks::now()?, used(&pids).saturating_sub(own));
                if !running.stop() {
                    say(&format!("note: {} did not end when it was told to, and was killed", broker.name));
                }
                (outcome, share)
            }
            Err(error) => (Outcome { report: None, failure: Some(error) }, 0.0),
        };
        Ok(Run {
            scenario: scenario.name,
            broker: broker.name.clone(),
            round: turn.round,
            attempt,
            began,
            other_share,
            failure: outcome.failure.as_ref().map(RunError::to_string),
            report: outcome.report,
        })
    }

    fn tell(&self, run: &Run, number: usize, all: usize, scenario: &Scenario) {
        let figures = scenario.figures.iter().filter_map(|figure| {
            let value = figure.read(run.report.as_ref()?)?;
            Some(format!("{} {}", short(value), figure.title))
        });
        let mut text = figures.collect::<Vec<_>>().join(", ");
        if let Some(failure) = &run.failure {
            text = format!("FAILED: {failure}");
        }
        if self.tolerance.is_disturbed(run.other_share) {
            text += &format!(" (disturbed: other work used {:.0} % of the machine", 100.0 * run.other_share);
            let is_repeated = self.tolerance.repeats(run.attempt, run.other_share);
            text += if is_repeated { "; once more)" } else { ")" };
        }
        say(&format!("[{number}/{all}] round {}, {}, {}: {text}", run.round + 1, run.scenario, run.broker));
    }
}

/// A line on standard error. Nobody may be there to read it, which `eprintln!` would panic about.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
