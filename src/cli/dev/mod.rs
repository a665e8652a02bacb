//! `flotilla dev`: a cluster on this machine, each node a real process of this program.
//!
//! `layout` says which node listens where and keeps its files where, `fleet` runs the processes.

mod fleet;
mod layout;

use std::{fmt::Write as _, io, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, builder::RangedU64ValueParser};
use flotilla::config::{Config, ConfigErrors};
use tokio::runtime::Builder;

use self::{
    fleet::{Fleet, Outcome},
    layout::{Layout, NodeLayout},
};
use super::{complain, report, say, signals::Signals};

#[derive(Debug, Args)]
pub(super) struct DevArgs {
    /// How many nodes, 1 to 7.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = RangedU64ValueParser::<u8>::new().range(1..=7))]
    nodes: u8,
    /// Where the nodes keep their files; they stay there. Without it: a new directory among the temporary files, which
    /// is removed in the end.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The first node serves clients on this port of 127.0.0.1, the others on those behind it; for each other, they
    /// listen 4,000 ports higher.
    #[arg(long, value_name = "PORT", default_value_t = 1883, value_parser = RangedU64ValueParser::<u16>::new().range(1..=61_000))]
    base_port: u16,
    /// Do not remove the directory among the temporary files.
    #[arg(long)]
    keep: bool,
    /// Override one key on all nodes, as in `--set log.level=debug`. May be repeated. The environment counts, too, but
    /// not its [node], [listeners] and [cluster].
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Starts the nodes and waits until they are to stop.
///
/// The exit code is 0 when all of them started, ran until they were told to stop, and did so in time.
pub(super) fn run(args: &DevArgs) -> ExitCode {
    match start(args) {
        Ok(Outcome::Stopped) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::FAILURE,
        Ok(Outcome::Hurried(number)) => u8::try_from(128 + number).map_or(ExitCode::FAILURE, ExitCode::from),
        Err(DevError::Config(errors)) => {
            report(&errors);
            ExitCode::FAILURE
        }
        Err(DevError::Io(error)) => {
            complain(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Why there are no nodes.
#[derive(Debug, thiserror::Error)]
enum DevError {
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn start(args: &DevArgs) -> Result<Outcome, DevError> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    // Before there is anything that a signal would leave behind.
    let mut signals = Signals::new(&runtime)?;
    let layout = Layout::create(args)?;
    let mut grace = Duration::ZERO;
    for node in layout.nodes() {
        // Whatever is wrong is told once, and not by each process.
        let config = Config::load(Some(&node.config_file()), layout::environment(), &args.set)?;
        grace = grace.max(config.node.shutdown_grace);
    }
    runtime.block_on(async {
        let mut fleet = Fleet::spawn(layout.nodes(), &args.set, grace + KILL_MARGIN).await?;
        let outcome = match fleet.until_ready(&mut signals).await {
            Some(outcome) => outcome,
            None => {
                // Nobody may be there to read it.
                let _ = say(format_args!("{}", introduction(&layout, &fleet)));
                fleet.until_stopped(&mut signals).await
            }
        };
        Ok(outcome)
    })
}

/// Where the nodes are, and what to try.
fn introduction(layout: &Layout, fleet: &Fleet) -> String {
    let mut text =
        format!("\n{} nodes are ready, their files are below {}\n\n", layout.nodes().len(), layout.root());
    for (node, pid) in layout.nodes().iter().zip(fleet.pids()) {
        let NodeLayout { name, mqtt_port, cluster_port, .. } = node;
        // Writing to a text cannot fail.
        let _ = writeln!(
            text,
            "  {name}   mqtt 127.0.0.1:{mqtt_port}   cluster 127.0.0.1:{cluster_port}   process {pid}"
        );
    }
    let [first, .., last] = layout.nodes() else {
        text.push_str("\nCtrl-C stops it.\n");
        return text;
    };
    let pid = fleet.pids().last().unwrap_or_default();
    let _ = write!(
        text,
        "\nTry, in other terminals:\n\
         \n  flotilla sub -p {} -t 'demo/#' -v\
         \n  flotilla pub -p {} -t demo/hello -m 'hello, world'\
         \n  flotilla ctl cluster status --addr 127.0.0.1:{}\
         \n  kill -9 {pid}\
         \n  flotilla start -c {}\n\
         \nThe last two kill {} and bring it back, where you are then. Ctrl-C here stops what runs here.\n",
        last.mqtt_port,
        first.mqtt_port,
        first.cluster_port,
        last.config_file().display(),
        last.name,
    );
    text
}

/// How much longer than its own grace a node may take before it is killed.
const KILL_MARGIN: Duration = Duration::from_secs(5);
