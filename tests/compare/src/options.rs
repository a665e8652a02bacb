//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::Parser;

use crate::disturbance::Tolerance;

/// Runs the same loads against Flotilla and against other brokers on this machine, and prints one Markdown table. The exit code is 0
/// when every run did what was asked for, 1 when one did not, and 2 when there was none.
#[derive(Debug, Clone, Parser)]
#[command(name = "flotilla-compare")]
pub(crate) struct Options {
    /// Which brokers, by name, with commas; "*" is anything. The others are compared with the first one. Without it, all that are
    /// installed here.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) brokers: Vec<String>,
    /// Which loads, by name, with commas; "*" is anything. Without it, all.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) scenarios: Vec<String>,
    /// How often each load runs against each broker.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) rounds: u32,
    /// Seconds of measuring in a run, after one of warming up.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub(crate) time: Duration,
    /// A further broker; names in double braces in the command are replaced. No shell is between: it is divided at spaces, and the
    /// process that is started is the broker.
    #[arg(long, value_name = "NAME=COMMAND", value_parser = addition)]
    pub(crate) add: Vec<(String, Vec<String>)>,
    /// Descriptions of brokers, in place of tests/compare/brokers.toml.
    #[arg(long, value_name = "FILE")]
    pub(crate) descriptions: Option<PathBuf>,
    /// The figures of each run, a JSON document a line. Without it, compare/runs.jsonl beside the program's directory, which is
    /// target/compare/runs.jsonl.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Write the table between the markers of this file, too; README.md, if none is named.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "README.md")]
    pub(crate) readme: Option<PathBuf>,
    /// Say which brokers and loads there are, and run nothing.
    #[arg(long)]
    pub(crate) list: bool,
    /// The program under test, which is also the load generator; the one beside this one, if nothing else is said.
    #[arg(long, value_name = "FILE")]
    pub(crate) flotilla: Option<PathBuf>,
    /// Where brokers keep their data while they run: on the disk that is to be measured. Without it, compare beside the program's
    /// directory.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) directory: Option<PathBuf>,
    /// Repeat a run during which other work used more than so much of the machine.
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) other_max: u8,
    /// How often such a run is repeated.
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    pub(crate) repeats: u32,
    /// How long to wait before a run for other work to become less than that.
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    pub(crate) quiet_within: Duration,
}

impl Options {
    pub(crate) fn tolerance(&self) -> Tolerance {
        Tolerance { other_max: f64::from(self.other_max) / 100.0, repeats: self.repeats }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| format!("a number of seconds from 0 to {SECONDS_MAX}"))
}

fn addition(text: &str) -> Result<(String, Vec<String>), String> {
    let (name, command) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=COMMAND"))?;
    Ok((name.to_owned(), command.split_whitespace().map(str::to_owned).collect()))
}

const SECONDS_MAX: f64 = 3_600.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        let parse = |arguments: &[&str]| Options::try_parse_from([&["c"], arguments].concat());
        let options = parse(&[]).unwrap();
        assert_eq!((options.rounds, options.time), (3, Duration::from_secs(5)));
        assert_eq!(options.readme, None);
        assert_eq!(options.tolerance().other_max, 0.1);
        let options =
            parse(&["--brokers", "a,b*", "--readme", "--time", "0.5", "--add", "x=y -p {{port}}"]).unwrap();
        assert_eq!(options.brokers, ["a", "b*"]);
        assert_eq!(options.readme, Some("README.md".into()));
        assert_eq!(options.time, Duration::from_millis(500));
        assert_eq!(
            options.add[0],
            ("x".to_owned(), vec!["y".to_owned(), "-p".to_owned(), "{{port}}".to_owned()])
        );
        assert_eq!(parse(&["--readme=a.md"]).unwrap().readme, Some("a.md".into()));
        for wrong in [&["--rounds", "0"][..], &["--add", "x"], &["--time", "-1"], &["--readme", "a.md"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
