//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::Parser;

use crate::{fault::Fault, workload::Workload};

/// Runs clients against a cluster of real processes, breaks things at random moments, and holds what was promised against what
/// came. The exit code is 0 when every promise was kept.
#[derive(Debug, Clone, Parser)]
#[command(name = "flotilla-campaign")]
pub(crate) struct Options {
    /// Nodes of the cluster, 3 to 7.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=7))]
    pub(crate) nodes: u8,
    /// How long new rounds begin.
    #[arg(long, default_value = "120s", value_parser = humantime::parse_duration)]
    pub(crate) time: Duration,
    /// How long things are broken in one round; then everything heals and is checked.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub(crate) round: Duration,
    /// Repeats the decisions of a run, though not how they meet in time.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// What clients do: names or W numbers with commas, or "all".
    #[arg(long, default_value = "all", value_parser = workloads)]
    pub(crate) workloads: Chosen<Workload>,
    /// What happens to the nodes: names with commas, "all", "harmless" (blink, blip), or "none".
    #[arg(long, default_value = "all", value_parser = faults)]
    pub(crate) faults: Chosen<Fault>,
    /// Publishers of each workload.
    #[arg(long, default_value_t = 4)]
    pub(crate) publishers: u16,
    /// Messages a second of each publisher.
    #[arg(long, default_value_t = 20)]
    pub(crate) rate: u32,
    /// Sessions that are away in the offline workload.
    #[arg(long, default_value_t = 100)]
    pub(crate) sessions: usize,
    /// The broker's program; the one beside this one, if nothing else is said.
    #[arg(long)]
    pub(crate) binary: Option<PathBuf>,
    /// Where the nodes keep their data and logs, and leave them when a promise was not kept.
    #[arg(long)]
    pub(crate) directory: Option<PathBuf>,
    /// A setting of all nodes, as `flotilla start --set` takes it.
    #[arg(long, value_name = "KEY=VALUE", value_parser = setting)]
    pub(crate) set: Vec<(String, String)>,
}

/// A choice of several things; a type of its own, for clap takes a plain list as one value for each argument.
#[derive(Debug, Clone)]
pub(crate) struct Chosen<T>(pub(crate) Vec<T>);

fn workloads(text: &str) -> Result<Chosen<Workload>, String> {
    match text {
        "all" => Ok(Chosen(Workload::ALL.iter().map(|(workload, ..)| *workload).collect())),
        _ => text.split(',').map(str::parse).collect::<Result<_, _>>().map(Chosen),
    }
}

fn faults(text: &str) -> Result<Chosen<Fault>, String> {
    match text {
        "all" => Ok(Chosen(Fault::ALL.iter().map(|(fault, ..)| *fault).collect())),
        "harmless" => Ok(Chosen(vec![Fault::Blink, Fault::Blip])),
        "none" => Ok(Chosen(Vec::new())),
        _ => text.split(',').map(str::parse).collect::<Result<_, _>>().map(Chosen),
    }
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_of_rows_are_understood() {
        let parse = |arguments: &[&str]| Options::try_parse_from([&["c"], arguments].concat());
        let options =
            parse(&["--workloads", "w1,offline", "--faults", "kill-one,flip"]).expect("it is right");
        assert_eq!(options.workloads.0, [Workload::Unique, Workload::Offline]);
        assert_eq!(options.faults.0, [Fault::KillOne, Fault::Flip]);
        assert!(parse(&["--faults", "none"]).expect("it is right").faults.0.is_empty());
        assert_eq!(parse(&[]).expect("it is right").workloads.0.len(), Workload::ALL.len());
        assert!(parse(&["--faults", "kill-two"]).is_err());
    }
}
