//! `flotilla check-config`.

use std::process::ExitCode;

use clap::Args;

use super::{ConfigArgs, report, say};

#[derive(Debug, Args)]
pub(super) struct CheckConfigArgs {
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// Instead of "ok", print the configuration that is in force, as TOML with every key.
    #[arg(long)]
    print: bool,
}

/// Tells all faults, or that there are none.
pub(super) fn run(args: &CheckConfigArgs) -> ExitCode {
    let said = match args.config.load() {
        Ok((_, text)) if args.print => say(format_args!("{}", text.trim_end())),
        Ok(_) => say(format_args!("ok")),
        Err(errors) => {
            report(&errors);
            return ExitCode::FAILURE;
        }
    };
    if said.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
