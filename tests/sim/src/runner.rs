//! Runs seeds as processes of their own.

use std::{
    process::{Command, Output},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::trace::Trace;

/// How to run a seed again, with everything that happens.
pub fn repeat(seed: u64, has_shards: bool) -> String {
    format!("scripts/sim.sh --seed {seed}{}", if has_shards { " --shards" } else { "" })
}

/// Runs the seeds of a range, so many at a time.
pub fn run_many(range: &str, jobs: u64, has_shards: bool) -> Result<(), String> {
    let parse = || {
        let (first, end) = range.split_once("..")?;
        Some((first.parse().ok()?, end.parse().ok()?))
    };
    let (first, end): (u64, u64) = parse().ok_or("a range is FIRST..END, without END")?;
    let began = Instant::now();
    let (next, failed) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let outcome = run_child(seed, has_shards);
                    if let Err(error) = outcome.and_then(|output| report(seed, has_shards, &output)) {
                        failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((seed, error));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    println!(
        "{} seeds in {:.1} s, {} failed",
        end.saturating_sub(first),
        began.elapsed().as_secs_f64(),
        failed.len()
    );
    if failed.is_empty() {
        return Ok(());
    }
    Err(failed.into_iter().map(|(_, error)| error).collect::<Vec<_>>().join("\n"))
}

/// Ends this process when virtual time stands still: some task goes round in circles.
pub fn watch(seed: u64, has_shards: bool, trace: Trace) {
    std::thread::spawn(move || {
        let (mut last, mut since) = (trace.now(), Instant::now());
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let now = trace.now();
            if now != last {
                (last, since) = (now, Instant::now());
            } else if since.elapsed() > STANDSTILL {
                trace.recent().iter().for_each(|line| println!("  {line}"));
                eprintln!(
                    "seed {seed}: FAILED: time stands still at {now} ms\nto see it again: {}",
                    repeat(seed, has_shards)
                );
                std::process::exit(1);
            }
        }
    });
}

/// Runs a seed in two processes; they must do the same.
pub fn run_twice(seed: &str, has_shards: bool) -> Result<(), String> {
    let seed = seed.parse().map_err(|_| "a seed is a number")?;
    let (first, second) = (run_child(seed, has_shards)?, run_child(seed, has_shards)?);
    report(seed, has_shards, &first)?;
    if first.stdout == second.stdout {
        println!("seed {seed}: both runs are the same");
        return Ok(());
    }
    Err(format!(
        "seed {seed}: two runs differ:\n{}{}",
        String::from_utf8_lossy(&first.stdout),
        String::from_utf8_lossy(&second.stdout)
    ))
}

fn run_child(seed: u64, has_shards: bool) -> Result<Output, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.arg(seed.to_string()).args(has_shards.then_some("--shards"));
    command.output().map_err(|error| error.to_string())
}

fn report(seed: u64, has_shards: bool, output: &Output) -> Result<(), String> {
    print!("{}", String::from_utf8_lossy(&output.stdout));
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    // A panic says nothing of seeds.
    Err(format!(
        "seed {seed}: {}\n{}\nto see it again: {}",
        output.status,
        error.trim_end(),
        repeat(seed, has_shards)
    ))
}

/// A step takes milliseconds; this is far beyond, even on a machine that has other things to do.
const STANDSTILL: Duration = Duration::from_secs(30);
