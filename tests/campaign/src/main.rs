//! The campaign: clients, faults and books. What a cluster of Flotilla promises, held against what it does, for as long as
//! anybody likes.
//!
//! A run is a series of rounds. In a round [`workload`]s set clients going, [`fault`] breaks things at random moments, then
//! everything heals, everybody gets what he is owed, and [`check`] reads the history that was recorded outside the broker. Only
//! the cluster outlives a round, so a long run needs no more memory than a short one.
//!
//! The clients share no code with the broker: packets come from the harness of the black-box tests, nodes and networks from the
//! fleet of the cluster tests. How to read what is printed, and which rows of the fault table are covered, is in `README.md`
//! beside this crate's manifest.

#[path = "../../cluster/fleet/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests of clusters use the rest of it")]
mod fleet;
#[path = "../../harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests of one node use the rest of it")]
mod harness;

mod check;
mod connection;
mod fault;
mod history;
mod message;
mod options;
mod publisher;
mod receiver;
mod report;
mod shelf;
mod tally;
mod watch;
mod workload;
mod world;

use std::{
    env, fs, io,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use clap::Parser;
use tokio::task::JoinSet;

use crate::{
    fault::{Breaker, Disk, Fault},
    fleet::{Cluster, is_own_network, with_own_network},
    harness::{
        place::{Place, set_place},
        random::Random,
    },
    history::Check,
    options::Options,
    workload::{Crew, Sizes},
    world::{Books, Phase, World},
};

fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        (now.as_secs() << 20) ^ u64::from(now.subsec_nanos())
    });
    match prepare(&options, seed).and_then(|breaker| run(&options, seed, breaker)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// A cluster that is not started, in a network that may be broken, if that is to be had.
fn prepare(options: &Options, seed: u64) -> io::Result<Setting> {
    let wants_network = |fault: &Fault| matches!(fault, Fault::Partition | Fault::Blip | Fault::Lossy);
    if options.faults.0.iter().any(wants_network) && !is_own_network() {
        let program = env::current_exe()?;
        if let Some(mut command) = with_own_network(&program) {
            command.args(env::args_os().skip(1));
            if options.seed.is_none() {
                command.args(["--seed", &seed.to_string()]);
            }
            // Returns only where it fails.
            return Err(command.exec());
        }
    }
    let program = match &options.binary {
        Some(program) => program.clone(),
        None => env::current_exe()?.with_file_name("flotilla"),
    };
    let program = fs::canonicalize(&program).map_err(|error| {
        let text = format!("{}: {error}; build it, or name one with --binary", program.display());
        io::Error::other(text)
    })?;
    let scratch = options.directory.clone().unwrap_or_else(|| env::temp_dir().join("flotilla-campaign"));
    fs::create_dir_all(&scratch)?;
    set_place(Place { program, scratch: fs::canonicalize(scratch)? });
    connection::install_panic_hook();
    let settings: Vec<(&str, &str)> = SETTINGS
        .into_iter()
        .chain(options.set.iter().map(|(key, value)| (key.as_str(), value.as_str())))
        .collect();
    let nodes = usize::from(options.nodes);
    let mut cluster = Cluster::prepare(nodes, &settings);
    let wants_disk =
        |fault: &Fault| matches!(fault, Fault::DiskFull | Fault::DiskError | Fault::LoseUnsynced);
    let disk = if options.faults.0.iter().any(wants_disk) { Disk::of(&mut cluster, nodes)? } else { None };
    Ok(Setting { cluster, disk })
}

/// What a run begins with.
struct Setting {
    cluster: Cluster,
    disk: Option<Disk>,
}

/// Whether every promise was kept.
fn run(options: &Options, seed: u64, setting: Setting) -> io::Result<bool> {
    let Setting { cluster, disk } = setting;
    let mut faults = options.faults.0.clone();
    for fault in &options.faults.0 {
        if let Some(missing) = fault.missing(disk.as_ref()) {
            eprintln!("SKIPPED: {} needs {missing}", fault.name());
            faults.retain(|other| other != fault);
        }
    }
    println!("campaign: seed {seed}, {} nodes, {:?}", options.nodes, options.time);
    println!("campaign: repeat it with: {}", command_to_repeat(options, seed));
    println!("campaign: the nodes' data and logs are in {}", cluster.directory().display());
    // One thread for all clients, however many, and one for who breaks things.
    let runtime =
        tokio::runtime::Builder::new_current_thread().max_blocking_threads(2).enable_all().build()?;
    let stop = Arc::new(AtomicBool::new(false));
    let interrupted = Arc::clone(&stop);
    runtime.spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            eprintln!("campaign: interrupted, the round is brought to its end");
            interrupted.store(true, Ordering::Relaxed);
        }
    });
    let books = Arc::new(Books::new());
    println!("campaign: 0.000 s is {}", humantime::format_rfc3339_millis(SystemTime::now()));
    cluster.nodes().iter().for_each(fleet::Node::start);
    cluster.await_formed();
    let mut breaker = Breaker::new(cluster, Arc::clone(&books), disk, Arc::clone(&stop));
    let mut random = Random::new(seed);
    let ends = Instant::now() + options.time;
    let mut round = 0;
    while round == 0 || Instant::now() < ends && !stop.load(Ordering::Relaxed) {
        let lasts = options.round.min(ends.saturating_duration_since(Instant::now())).max(ROUND_MIN);
        let healthy;
        (breaker, healthy) =
            runtime.block_on(one_round(options, &faults, &books, breaker, round, lasts, &mut random));
        if !healthy {
            println!("campaign: the cluster does not heal, so there is no next round");
            break;
        }
        round += 1;
    }
    let passed = report::print(&books);
    if passed {
        println!("\ncampaign: PASSED, seed {seed}");
    } else {
        breaker.cluster.keep();
        println!("\ncampaign: FAILED, seed {seed}; repeat it with: {}", command_to_repeat(options, seed));
        println!("campaign: the nodes' data and logs stay in {}", breaker.cluster.directory().display());
    }
    Ok(passed)
}

/// Clients and faults, then the end of both, and the books; whether the cluster is healthy.
async fn one_round(
    options: &Options,
    faults: &[Fault],
    books: &Arc<Books>,
    mut breaker: Breaker,
    round: u32,
    lasts: Duration,
    random: &mut Random,
) -> (Breaker, bool) {
    let world = Arc::new(World::new(Arc::clone(books), round, options.rate, breaker.doors()));
    let sizes = Sizes { publishers: options.publishers, offline: options.sessions };
    let mut tasks = JoinSet::new();
    let crew = Crew::start(&world, &options.workloads.0, sizes, random, &mut tasks);
    let deadline = Instant::now() + READY_WITHIN;
    while world.unready() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if world.unready() > 0 {
        let text = format!("{} clients cannot subscribe within {READY_WITHIN:?}", world.unready());
        books.report_now(Check::Healing, text);
    }
    tokio::time::sleep(ROUTES_KNOWN_AFTER).await;
    println!("campaign: round {round} begins at {}", books.now());
    world.begin(Phase::Storm);
    let (faults, until) = (faults.to_vec(), Instant::now() + lasts);
    let (witness, mut chances) = (Arc::clone(&world), random.fork());
    let storm = tokio::task::spawn_blocking(move || {
        breaker.storm(&witness, &faults, until, &mut chances);
        let healthy = breaker.heal();
        (breaker, healthy)
    });
    let (breaker, healthy) = storm.await.expect("who breaks things does not break");
    world.begin(Phase::Drain);
    println!("campaign: round {round} is mended at {}", books.now());
    let patience = if healthy { DRAINED_WITHIN } else { Duration::from_secs(20) };
    let drained = tokio::time::timeout(patience, join(&mut tasks)).await;
    if drained.is_err() {
        world.begin(Phase::Over);
        let text = format!("not done {patience:?} after everything was mended: {}", world.busy());
        books.report_now(Check::Healing, text);
        let _ = tokio::time::timeout(GIVEN_UP_WITHIN, join(&mut tasks)).await;
        tasks.abort_all();
    }
    if healthy {
        crew.close(&world, random).await;
    }
    world.begin(Phase::Over);
    for violation in crew.check(&world) {
        books.report(violation);
    }
    let inspected = tokio::task::spawn_blocking(move || {
        let mut breaker = breaker;
        breaker.inspect();
        breaker
    });
    let breaker = inspected.await.expect("who looks does not break");
    let found: Vec<String> = books
        .found()
        .iter()
        .map(|(check, found)| format!("{check:?} {}", found.count).to_lowercase())
        .collect();
    let found = if found.is_empty() { "nothing wrong so far".to_owned() } else { found.join(", ") };
    println!("campaign: round {round} is checked at {}: {found}", books.now());
    (breaker, healthy)
}

/// Waits for all of them. Who panics ends the run, for his history is not whole.
async fn join(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        ended.expect("no client of the campaign panics");
    }
}

fn command_to_repeat(options: &Options, seed: u64) -> String {
    let mut arguments: Vec<String> = env::args().collect();
    if options.seed.is_none() {
        arguments.extend(["--seed".to_owned(), seed.to_string()]);
    }
    let program = PathBuf::from(&arguments[0]);
    arguments[0] = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    arguments.join(" ")
}

/// What all nodes have besides what the fleet gives them.
const SETTINGS: [(&str, &str); 3] =
    [("session.awaiting_rel_max", "1000"), ("sys.interval", "0s"), ("log.level", "info")];

const ROUND_MIN: Duration = Duration::from_secs(5);
const READY_WITHIN: Duration = Duration::from_secs(60);
/// All nodes know of a subscription within milliseconds of its SUBACK; longer only where the machine has too much to do.
const ROUTES_KNOWN_AFTER: Duration = Duration::from_secs(1);
const DRAINED_WITHIN: Duration = Duration::from_secs(120);
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(30);
