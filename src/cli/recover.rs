//! `flotilla recover`.

use std::{io, process::ExitCode};

use clap::Args;
use flotilla::{Recovery, recover};

use super::{ConfigArgs, complain, report, say};

#[derive(Debug, Args)]
pub(super) struct RecoverArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Do it. Without this, it only tells what would become of the cluster.
    #[arg(long)]
    yes: bool,
}

/// Has a node go on alone whose cluster has lost its majority for good.
pub(super) fn run(args: &RecoverArgs) -> ExitCode {
    let config = match args.config.load() {
        Ok((config, _)) => config,
        Err(errors) => {
            report(&errors);
            return ExitCode::FAILURE;
        }
    };
    let recovered = recover(&config, |recovery| {
        // Whoever cannot read what will be lost has not agreed to it.
        tell(&config.node.name, recovery).is_ok() && args.yes
    });
    match recovered {
        Ok(true) => {
            complain(format_args!(
                "{} is the only node of its cluster now: start it. Before another node joins again, remove its data directory.",
                config.node.name
            ));
            ExitCode::SUCCESS
        }
        Ok(false) => {
            complain(format_args!("error: nothing has changed yet; run it again with --yes to do this"));
            ExitCode::FAILURE
        }
        Err(error) => {
            complain(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn tell(node: &str, recovery: &Recovery) -> io::Result<()> {
    let Recovery { cluster: (name, id), removed, kept, lost, .. } = recovery;
    let list = |items: Vec<String>| if items.is_empty() { "none".to_owned() } else { items.join(", ") };
    let shards =
        |shards: &[flotilla_state::ShardId]| list(shards.iter().map(|shard| shard.0.to_string()).collect());
    say(format_args!("cluster  {name} ({id}), under another identifier from then on"))?;
    say(format_args!("node     {node}, alone"))?;
    say(format_args!("removed  {}", list(removed.clone())))?;
    say(format_args!("kept     shards {}, as far as they had come to this node", shards(kept)))?;
    say(format_args!("LOST     shards {}, with their sessions and messages", shards(lost)))?;
    say(format_args!(
        "LOST     what only the other nodes had of the shards that are kept, acknowledged or not"
    ))
}
