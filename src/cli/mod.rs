//! The command line.
//!
//! Exit codes: 0, it was done; 1, it could not be done, and standard error says why; 2, the arguments are wrong. What
//! somebody asked for goes to standard output, everything else to standard error. `pub` and `sub` have some codes more,
//! which their help lists.

mod check_config;
mod ctl;
mod dev;
mod recover;
mod signals;
mod start;

use std::{
    fmt,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use flotilla::{
    bench, client,
    config::{Config, ConfigErrors},
};

/// Reads the arguments and does what they say.
pub(crate) fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Start(args) => start::run(&args),
        Command::Ctl(args) => ctl::run(*args),
        Command::Dev(args) => dev::run(&args),
        Command::CheckConfig(args) => check_config::run(&args),
        Command::Recover(args) => recover::run(&args),
        Command::Pub(args) => client::run_pub(*args),
        Command::Sub(args) => client::run_sub(*args),
        Command::Bench(args) => bench::run_bench(&args),
        Command::Version => match say(format_args!("flotilla {VERSION}")) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
    }
}

/// A clustered MQTT broker.
#[derive(Debug, Parser)]
#[command(name = "flotilla", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a broker; SIGINT or SIGTERM stops it, a second one at once.
    Start(start::StartArgs),
    /// Ask a running cluster, and tell it what to do.
    Ctl(Box<ctl::CtlArgs>),
    /// Start a cluster on this machine, to try things out: several brokers, each a process of its own.
    Dev(dev::DevArgs),
    /// Check a configuration: tell everything that is wrong with it, or "ok".
    CheckConfig(check_config::CheckConfigArgs),
    /// The last resort when the majority of the nodes is lost for good: have one that is left, and stopped, go on alone.
    Recover(recover::RecoverArgs),
    /// Publish messages, and say in the exit code whether the broker took them.
    Pub(Box<client::PubArgs>),
    /// Subscribe to topics and print the messages that arrive.
    Sub(Box<client::SubArgs>),
    /// Put a load on a broker, and measure rates, latencies, CPU time and memory.
    Bench(Box<bench::BenchArgs>),
    /// Print the version.
    Version,
}

/// Where the configuration comes from.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// The configuration file; without it no file is read.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override one key, as in `--set mqtt.max_inflight=64`; wins over the file and the environment. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl ConfigArgs {
    /// The configuration, and the same as text.
    fn load(&self) -> Result<(Config, String), ConfigErrors> {
        // What is not UTF-8 is no valid value either, and is then told with the place of the strange bytes marked.
        let env = std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()));
        Config::load_with_text(self.config.as_deref(), env, &self.set)
    }
}

/// Tells each fault on a line of its own.
fn report(errors: &ConfigErrors) {
    for fault in errors.faults() {
        complain(format_args!("error: {fault}"));
    }
}

/// Writes a line to standard output. Nobody may be there to read it, which `println!` would panic about.
fn say(line: fmt::Arguments<'_>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// Writes a line to standard error. Nobody may be there to read it either, which `eprintln!` would panic about.
fn complain(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// The version of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn overrides_can_be_repeated() {
        let cli = Cli::try_parse_from(["flotilla", "start", "-c", "f", "--set", "a.b=1", "--set", "c.d=2"])
            .unwrap();
        let Command::Start(args) = cli.command else { panic!("it is `start`") };
        assert_eq!(args.config.set, ["a.b=1", "c.d=2"]);
        assert_eq!(args.config.config, Some(PathBuf::from("f")));
    }
}
