//! What a million routes cost: memory, and the time to apply, to look up, to take a snapshot and to forget a node.
//!
//! `FLOTILLA_ROUTES=10000000 cargo test --release --test footprint -- --nocapture` measures more of them.

#![expect(clippy::disallowed_methods, reason = "the time is measured, and nothing depends on it")]

use std::{alloc::System, time::Instant};

use bytes::Bytes;
use flotilla_state::{
    CHUNK_BYTES_MAX, ClusterState, Command, Fingerprint, LogIndex, Member, NodeId, Reply, Role, RouteChange,
    limits,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[path = "../../../src/scale/constants.rs"]
#[allow(dead_code, reason = "the page that has them needs the rest")]
mod constants;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const BYTES_PER_ROUTE_MAX: f64 = 24.0;
const HASH_SEED: u64 = 5;

#[test] // One test, for allocations are counted in the whole process.
fn routes_are_small() {
    let routes: u64 =
        std::env::var("FLOTILLA_ROUTES").map_or(1_000_000, |routes| routes.parse().expect("a number"));
    let region = Region::new(ALLOCATOR);
    let (mut state, members) = cluster();

    let mut log = Log { index: 10, routes: 0 };
    let (mut worst, mut seconds) = (0_f64, 0.0);
    while log.routes < routes {
        let command = log.next_command(&members, routes);
        let index = LogIndex(log.index);
        seconds += cpu_time(|| assert_eq!(state.apply(index, command).reply, Reply::Done));
        if log.routes >= routes.min(500_000) {
            worst = worst.max(bytes_per_route(&region, &state));
        }
    }
    assert_eq!(state.routes().len().exact as u64, routes);
    let last = bytes_per_route(&region, &state);
    println!("{routes} exact routes: {last:.1} bytes a route, {worst:.1} at worst while they come");
    println!(
        "apply: {:.2} million routes a second, {:.0} ns each",
        per_second(routes, seconds),
        seconds * 1e9 / routes as f64
    );
    assert!(worst <= BYTES_PER_ROUTE_MAX, "{worst} bytes");
    // What it is depends on how full the segments are just now.
    assert!(constants::EXACT_ROUTE.agrees_with(worst), "{worst} bytes");

    measure_lookups(&state, routes);
    measure_snapshot(&region, &mut state, &members, &mut log);

    let gone = members[1];
    let remove = Command::NodeDown { member: gone };
    log.index += 1;
    let seconds = cpu_time(|| assert_eq!(state.apply(LogIndex(log.index), remove).reply, Reply::Done));
    println!(
        "forgetting a node with a third of the routes: {seconds:.3} s, {:.1} ns for each route of all",
        seconds * 1e9 / routes as f64
    );
    assert_eq!(state.routes().count(gone.node).exact, 0);
    let left = bytes_per_route(&region, &state);
    println!("then {left:.1} bytes a route");
    assert!(left <= BYTES_PER_ROUTE_MAX, "{left} bytes");
    measure_wildcards(&region, &mut state, members[0], log.index);
}

/// Filters with wildcards cost their text, and their part of the tree.
fn measure_wildcards(region: &Region<'_, System>, state: &mut ClusterState, member: Member, mut index: u64) {
    const FILTERS: u64 = 100_000;
    let before = live_bytes(region);
    let filters: Vec<u64> = (0..FILTERS).collect();
    for numbers in filters.chunks(limits::CHANGES_MAX) {
        let filter = |number: &u64| RouteChange::AddWildcard(format!("devices/{number:09}/events/#").into());
        let changes = numbers.iter().map(filter).collect();
        index += 1;
        assert_eq!(state.apply(LogIndex(index), Command::Routes { member, changes }).reply, Reply::Done);
    }
    let each = (live_bytes(region) - before) as f64 / FILTERS as f64;
    println!("a route with wildcards: {each:.1} bytes");
    assert!(constants::WILDCARD_ROUTE.agrees_with(each), "{each} bytes");
}

fn measure_lookups(state: &ClusterState, routes: u64) {
    let lookups = routes.min(1_000_000);
    let mut found = 0;
    let mut look_up = |first: u64| {
        for number in 0..lookups {
            let topic = topic(first + number * 7_919 % routes);
            state.routes().matches(&topic, |_| found += 1, |_| ());
        }
    };
    let (hits, misses) = (time(|| look_up(0)), time(|| look_up(routes)));
    assert_eq!(found, lookups);
    let making =
        time(|| (0..lookups).for_each(|number| assert!(!std::hint::black_box(topic(number)).is_empty())));
    let nanos = |seconds: f64| seconds * 1e9 / lookups as f64;
    println!(
        "a match: {:.0} ns with a route, {:.0} ns without one, of which making the topic {:.0} ns",
        nanos(hits),
        nanos(misses),
        nanos(making),
    );
}

fn measure_snapshot(
    region: &Region<'_, System>,
    state: &mut ClusterState,
    members: &[Member; 3],
    log: &mut Log,
) {
    let before = live_bytes(region);
    let mut snapshot = None;
    let copying = time(|| snapshot = Some(state.snapshot()));
    let snapshot = snapshot.expect("it was just made");
    println!(
        "a snapshot: {:.3} ms to take, with {} KiB",
        copying * 1e3,
        (live_bytes(region) - before) / 1024
    );
    let all = state.routes().len().exact as u64 + 40_960;
    let mut slowest = 0_f64;
    for _ in 0..10 {
        let command = log.next_command(members, all);
        let index = LogIndex(log.index);
        slowest = slowest.max(cpu_time(|| assert_eq!(state.apply(index, command).reply, Reply::Done)));
    }
    println!("the slowest command meanwhile: {:.1} ms", slowest * 1e3);

    let mut chunks: Vec<Bytes> = Vec::new();
    let encoding = cpu_time(|| chunks.extend(snapshot));
    assert!(chunks.iter().all(|chunk| chunk.len() <= CHUNK_BYTES_MAX));
    let bytes: usize = chunks.iter().map(Bytes::len).sum();
    let mut restored = None;
    let restoring = time(|| restored = Some(ClusterState::restore(chunks).expect("it is whole")));
    let restored = restored.expect("it was just made");
    let each = bytes as f64 / state.routes().len().exact as f64;
    println!("a route in it: {each:.1} bytes, {:.1} ns", encoding * 1e9 / state.routes().len().exact as f64);
    assert!(constants::SNAPSHOT_ROUTE.agrees_with(each), "{each} bytes");
    println!("{} MiB, {encoding:.2} s to encode, {restoring:.2} s to restore", bytes >> 20);
    assert_eq!(restored.routes().len().exact as u64, all - 40_960);
}

/// The commands that bring routes, each once.
struct Log {
    index: u64,
    routes: u64,
}

impl Log {
    fn next_command(&mut self, members: &[Member; 3], routes: u64) -> Command {
        self.index += 1;
        let member = members[usize::try_from(self.index % 3).expect("it is small")];
        let last = routes.min(self.routes + limits::CHANGES_MAX as u64);
        let fingerprints = (self.routes..last).map(|number| Fingerprint::new(HASH_SEED, &topic(number)));
        let changes = fingerprints.map(RouteChange::AddExact).collect();
        self.routes = last;
        Command::Routes { member, changes }
    }
}

fn topic(number: u64) -> String {
    format!("devices/{number:09}/commands")
}

fn cluster() -> (ClusterState, [Member; 3]) {
    let mut state = ClusterState::new();
    let create =
        Command::Create { cluster_id: 1, name: "test".into(), shards: 16, replicas: 3, hash_seed: HASH_SEED };
    assert_eq!(state.apply(LogIndex(1), create).reply, Reply::Done);
    let members = [2, 3, 4].map(|index| {
        let join = Command::Join {
            id: NodeId(index),
            name: format!("node-{index}").into(),
            role: Role::Core,
            address: "127.0.0.1:7000".into(),
            client_addresses: Vec::new(),
            version: "0.1.0".into(),
        };
        match state.apply(LogIndex(index), join).reply {
            Reply::Joined(member) => member,
            reply => panic!("{reply:?}"),
        }
    });
    (state, members)
}

fn bytes_per_route(region: &Region<'_, System>, state: &ClusterState) -> f64 {
    live_bytes(region) as f64 / state.routes().len().exact as f64
}

fn live_bytes(region: &Region<'_, System>) -> usize {
    let change = region.change();
    change.bytes_allocated - change.bytes_deallocated
}

fn per_second(routes: u64, seconds: f64) -> f64 {
    routes as f64 / seconds / 1e6
}

/// Seconds that this thread was on a core, where the system says so: what else runs on the machine does not count.
fn cpu_time(run: impl FnOnce()) -> f64 {
    let on_a_core = || {
        let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        told.split(' ').next()?.parse::<u64>().ok()
    };
    let before = on_a_core();
    let seconds = time(run);
    before.zip(on_a_core()).map_or(seconds, |(before, after)| (after - before) as f64 / 1e9)
}

fn time(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64()
}
