//! `flotilla ctl`: what an operator asks of a running cluster.
//!
//! It speaks to the Admin service of one node. A node knows the whole cluster, but only its own clients: for those, and to
//! drain another node or let it leave, each node is asked at the address that it advertises.

mod bans;
mod clients;
mod cluster;
mod connection;
mod export;
mod import;
mod json;
mod nodes;
mod routes;
mod shards;
mod table;

use std::{fmt, io, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use flotilla::config::Config;
use serde::Serialize;
use tokio::runtime::Builder;

use self::connection::Access;
use super::{ConfigArgs, complain, report, say};

#[derive(Debug, Args)]
pub(super) struct CtlArgs {
    /// The node to ask, as host:port of its port for nodes. Without it, cluster.listen of the configuration, or
    /// 127.0.0.1:5883.
    #[arg(long, global = true, value_name = "HOST:PORT")]
    addr: Option<String>,
    /// Print JSON instead of a table.
    #[arg(long, global = true)]
    json: bool,
    /// How long the whole command may take; `export` and `import`: how long nothing may go on.
    #[arg(long, global = true, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// The configuration file that names the cluster and its secret; without it no file is read. The environment counts,
    /// too (FLOTILLA_CLUSTER__SECRET).
    #[arg(short, long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override one key, as in `--set cluster.name=fleet`. May be repeated.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// The cluster as a whole.
    #[command(subcommand)]
    Cluster(cluster::Verb),
    /// Its nodes.
    #[command(subcommand)]
    Nodes(nodes::Verb),
    /// Clients, on whatever node they are.
    #[command(subcommand)]
    Clients(clients::Verb),
    /// Who wants which topics.
    #[command(subcommand)]
    Routes(routes::Verb),
    /// Where each part of the clients is kept.
    #[command(subcommand)]
    Shards(shards::Verb),
    /// Clients that no node lets in.
    #[command(subcommand)]
    Bans(bans::Verb),
    /// Write the sessions that outlive their connections, with their queues, and the bans into a file, while the cluster serves.
    Export(export::ExportArgs),
    /// Take over such a file, into a cluster without sessions.
    Import(import::ImportArgs),
}

impl Noun {
    /// Whether the time for the whole command is that for each of its steps: it takes as long as there is something to do.
    const fn is_long(&self) -> bool {
        matches!(self, Self::Export(_) | Self::Import(_))
    }
}

/// Asks, and prints the answer. The exit code is 0 only when all of it was done.
pub(super) fn run(args: CtlArgs) -> ExitCode {
    let CtlArgs { addr, json, timeout, config, set, noun } = args;
    let config = match (ConfigArgs { config, set }).load() {
        Ok((config, _)) => config,
        Err(errors) => {
            report(&errors);
            return ExitCode::FAILURE;
        }
    };
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&CtlError::Io(error)),
    };
    let addr = addr.unwrap_or_else(|| usual_address(&config));
    let result = runtime.block_on(async {
        let is_long = noun.is_long();
        let deadline = tokio::time::sleep(timeout);
        tokio::select! {
            result = ask(&addr, &config, noun, timeout, Output { json }) => result,
            () = deadline, if !is_long => Err(CtlError::Late(timeout)),
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

async fn ask(
    addr: &str,
    config: &Config,
    noun: Noun,
    patience: Duration,
    output: Output,
) -> Result<(), CtlError> {
    let node = Access::new(&config.cluster).node(addr)?;
    match noun {
        Noun::Cluster(verb) => cluster::run(verb, node, output).await,
        Noun::Nodes(verb) => nodes::run(verb, node, output).await,
        Noun::Clients(verb) => clients::run(verb, node, output).await,
        Noun::Routes(verb) => routes::run(verb, node, output).await,
        Noun::Shards(verb) => shards::run(verb, node, output).await,
        Noun::Bans(verb) => bans::run(verb, node, output).await,
        Noun::Export(args) => export::run(args, node, patience, output).await,
        Noun::Import(args) => import::run(args, node, patience, output).await,
    }
}

/// Where this machine's own node listens.
fn usual_address(config: &Config) -> String {
    match &config.cluster.listen {
        Some(listen) if listen.is_unspecified() => format!("127.0.0.1:{}", listen.port()),
        Some(listen) => listen.to_string(),
        None => USUAL_ADDRESS.to_owned(),
    }
}

fn fail(error: &CtlError) -> ExitCode {
    complain(format_args!("error: {error}"));
    ExitCode::FAILURE
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
enum CtlError {
    #[error("{0:?} is not host:port")]
    Address(String),
    #[error(
        "no node answers at {addr}: {reason} (nodes answer at their cluster.listen; one without it is alone and takes no orders)"
    )]
    Unreachable { addr: String, reason: String },
    #[error("{addr} answers: {reason}")]
    Refused { addr: String, reason: String },
    #[error("there is no {0}")]
    NotFound(String),
    #[error("not every node answered, so this is not all")]
    Incomplete,
    #[error("nobody is known to lead shard {0}")]
    NoLeader(u32),
    #[error("the cluster has {0} sessions; with --merge they stay as they are, and the others are imported")]
    HasSessions(u64),
    #[error("the import did not come to its end: run it again, with --merge")]
    Unfinished,
    #[error("the backup cannot be used: {0}")]
    Backup(#[from] flotilla::backup::BackupError),
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Late(Duration),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

impl CtlError {
    /// Whether it may be otherwise in a moment, when another node leads.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Refused { .. } | Self::Incomplete | Self::NoLeader(_))
    }
}

/// How the answer is printed.
#[derive(Debug, Clone, Copy)]
struct Output {
    json: bool,
}

impl Output {
    /// Prints one or the other.
    fn print(self, json: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), CtlError> {
        if self.json {
            say(format_args!("{}", serde_json::to_string_pretty(json)?))?;
        } else {
            say(format_args!("{}", text().trim_end()))?;
        }
        Ok(())
    }

    /// Prints that something was done.
    fn done(self, what: fmt::Arguments<'_>) -> Result<(), CtlError> {
        self.print(&serde_json::json!({ "done": true }), || what.to_string())
    }
}

/// Where `flotilla start` listens for nodes when the file has the usual port.
const USUAL_ADDRESS: &str = "127.0.0.1:5883";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_of_this_machine_is_asked() {
        let check = |listen: &str, addr: &str| {
            let config = Config::load(None, [], &[format!("cluster.listen={listen}")]).unwrap();
            assert_eq!(usual_address(&config), addr);
        };
        check("none", "127.0.0.1:5883");
        check("0.0.0.0:7", "127.0.0.1:7");
        check("[::]:7", "127.0.0.1:7");
        check("10.0.0.1:5884", "10.0.0.1:5884");
        check("[::1]:7", "[::1]:7");
    }
}
