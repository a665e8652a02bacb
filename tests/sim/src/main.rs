//! Runs clusters of three to five nodes on a virtual clock and a virtual network, from a seed: they are founded, suffer faults,
//! and must be well again when these are over. What must hold is in `invariants`, a file for each.
//!
//! The meta group, the lanes, the registry, the shards and everything below them are the real crates. In the place of the broker that
//! holds them together are `node`, `desk`, `claims` and `shards`, and `clients` and `shards::client` in the place of clients.
//!
//! Without `--shards` no shard is founded: claims, routes and messages between nodes happen, and faults of disks, nodes and the
//! network. With it there are two shards beside that, with clients of durable sessions; their replicas move, power also fails
//! between any two steps that must not come apart, and the power of most nodes at once. A seed is another run then. Shared
//! subscriptions are in neither.
//!
//! One seed is one process, for some of the libraries keep random state for a whole thread. The same seed gives the same run.
//!
//! - `flotilla-sim SEED [--trace]` runs one seed.
//! - `flotilla-sim run FIRST..END [--jobs N]` runs many, each in a process of its own.
//! - `flotilla-sim twice SEED` runs one in two processes and compares what has happened.
//!
//! Each takes `--shards`, too.

mod claims;
mod clients;
mod desk;
mod disk;
mod faults;
mod invariants;
mod network;
mod node;
mod runner;
mod shards;
mod trace;
mod world;

use std::process::ExitCode;

use crate::trace::Trace;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (shards, words): (Vec<&str>, Vec<&str>) =
        arguments.iter().map(String::as_str).partition(|word| *word == "--shards");
    let has_shards = !shards.is_empty();
    let outcome = match *words {
        ["run", range] => runner::run_many(range, 2, has_shards),
        ["run", range, "--jobs", jobs] => {
            jobs.parse().map_err(|_| USAGE.into()).and_then(|jobs| runner::run_many(range, jobs, has_shards))
        }
        ["twice", seed] => runner::run_twice(seed, has_shards),
        [seed] => run_one(seed, false, has_shards),
        [seed, "--trace"] => run_one(seed, true, has_shards),
        _ => Err(USAGE.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run_one(seed: &str, is_traced: bool, has_shards: bool) -> Result<(), String> {
    let seed: u64 = seed.parse().map_err(|_| USAGE)?;
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_default_env() {
        tracing_subscriber::fmt().with_env_filter(filter).without_time().init();
    }
    let trace = Trace::new(is_traced);
    runner::watch(seed, has_shards, trace.clone());
    let outcome = world::run(seed, has_shards, &trace);
    let (hash, lines) = outcome.digest;
    println!("seed {seed}: {}, {lines} events with hash {hash:016x}", outcome.counts);
    outcome.verdict.map_err(|violation| {
        if !is_traced {
            trace.recent().iter().for_each(|line| println!("  {line}"));
        }
        format!("seed {seed}: FAILED: {violation}\nto see it again: {}", runner::repeat(seed, has_shards))
    })
}

const USAGE: &str =
    "flotilla-sim SEED [--trace] | run FIRST..END [--jobs N] | twice SEED, each with [--shards]";
