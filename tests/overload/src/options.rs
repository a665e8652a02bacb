//! The command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;

/// Puts more on a broker than it can take, one row of the overload table after the other, and prints one Markdown table of what it did.
/// The exit code is 0 when every row that ran met its expectation, 1 when one did not, and 2 when there was none.
#[derive(Debug, Clone, Parser)]
#[command(name = "flotilla-overload")]
pub(crate) struct Options {
    /// Which rows, with commas, such as O05,O06. Without it, all.
    #[arg(long, value_name = "ROWS", value_delimiter = ',')]
    pub(crate) rows: Vec<String>,
    /// Seconds of measuring in each part of a row, 1 to 600.
    #[arg(long, value_name = "SECONDS", default_value = "4", value_parser = seconds)]
    pub(crate) time: Duration,
    /// The broker's program, which is also the load generator; the one beside this one, if nothing else is said.
    #[arg(long, value_name = "FILE")]
    pub(crate) flotilla: Option<PathBuf>,
    /// Where brokers keep their data while they run. Without it, overload beside the program's directory, which is target/overload.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) directory: Option<PathBuf>,
    /// What was found, a JSON document a line for each row. Without it, rows.jsonl in that directory.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// How long to wait before each row for other work on the machine to become little, 0 to 3,600 seconds.
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = patience)]
    pub(crate) quiet_within: Duration,
    /// Say which rows there are, and run nothing.
    #[arg(long)]
    pub(crate) list: bool,
    /// For the will storm: connect so many clients with wills, say so, and wait to be killed.
    #[arg(long, hide = true, num_args = 2, value_names = ["ADDRESS", "COUNT"])]
    pub(crate) hold_wills: Vec<String>,
}

impl Options {
    /// Where to hold how many clients with wills, if this is what the process is for.
    ///
    /// # Errors
    /// It is, and makes no sense.
    pub(crate) fn wills(&self) -> Result<Option<(SocketAddr, usize)>, String> {
        let [address, count] = &self.hold_wills[..] else { return Ok(None) };
        let address = address.parse().map_err(|error| format!("{address}: {error}"))?;
        let count = count.parse().map_err(|error| format!("{count}: {error}"))?;
        Ok(Some((address, count)))
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    parse(text, 1.0, 600.0)
}

fn patience(text: &str) -> Result<Duration, String> {
    parse(text, 0.0, 3_600.0)
}

fn parse(text: &str, min: f64, max: f64) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (min..=max).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| format!("a number of seconds from {min} to {max}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        let parse = |arguments: &[&str]| Options::try_parse_from([&["o"], arguments].concat());
        let options = parse(&["--rows", "O05,O06", "--time", "1.5"]).unwrap();
        assert_eq!(options.rows, ["O05", "O06"]);
        assert_eq!(options.time, Duration::from_millis(1_500));
        assert_eq!(options.wills(), Ok(None));
        let holder = parse(&["--hold-wills", "127.0.0.1:1883", "7"]).unwrap();
        assert_eq!(holder.wills(), Ok(Some((([127, 0, 0, 1], 1_883).into(), 7))));
        assert!(parse(&["--hold-wills", "x", "7"]).unwrap().wills().is_err());
        for wrong in [&["--time", "0"][..], &["--quiet-within", "-1"], &["--hold-wills", "x"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
