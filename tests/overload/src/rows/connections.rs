//! Connections: many that do nothing, and many at once.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use flotilla_compare::figure::grouped;

use crate::{
    finding::{Finding, Outcome},
    fleet::{Node, poll},
    harness::{Connect, Version},
    others::Others,
    stage::{Report, SetAtEnd, Stage},
    usage::{cpu, memory},
};

/// O01.
pub(super) fn idle(stage: &Stage) -> Outcome {
    let half = stage.clients(18_000) / 2;
    let cluster = stage.broker(&[("sys.interval", "0s")]);
    let node = cluster.node(0);
    let pid = node.pid();
    // What the first client costs alone is no matter here.
    drop(node.client("first"));
    let connections = format!("connections -n {half} -k {KEEP_ALIVE} -t 600");
    let before = memory(pid);
    let mut first = stage.start(node, &connections);
    first.await_connections(node, half as usize);
    let at_half = memory(pid);
    let mut second = stage.start(node, &connections);
    second.await_connections(node, half as usize);
    let at_all = memory(pid);
    // Long enough for everybody to have been heard of.
    let time = stage.time.max(Duration::from_secs(KEEP_ALIVE));
    let (begun, used) = (Instant::now(), cpu(pid));
    thread::sleep(time);
    let cores = (cpu(pid) - used).as_secs_f64() / begun.elapsed().as_secs_f64();

    let (half, all) = (f64::from(half), f64::from(2 * half));
    let mut finding = Finding::of(format!(
        "{} connections, Keep Alive {KEEP_ALIVE} s, {:.0} pings/s",
        grouped(u64::from(stage.clients(18_000) / 2 * 2)),
        all / KEEP_ALIVE as f64
    ));
    let slope = (at_all as f64 - at_half as f64) / half;
    finding.at_most("bytes/connection", (at_all as f64 - before as f64) / all, "", 5_000.0);
    finding.at_most("of the second half alone", slope, "", 5_000.0);
    finding.state("so 1,000,000 of them", (before as f64 + 1e6 * slope) / f64::from(1 << 30), "GiB");
    finding.at_most("broker CPU while idle", cores, "cores", 0.1);
    finding.state("so for each ping", 1e6 * cores * KEEP_ALIVE as f64 / all, "µs");
    for load in [first, second] {
        load.interrupt();
        finding.exactly("of them disconnected", load.end().number("/connections/disconnected"), "", 0.0);
    }
    Outcome::Found(finding)
}

/// O03.
pub(super) fn storm(stage: &Stage) -> Outcome {
    let settings = [("sys.interval", "0s")];
    let (cluster, beside) = (stage.broker(&settings), stage.broker(&settings));
    let node = cluster.node(0);
    let rated = stage.run(node, "connections -n 5000 -t 0").number("/connections/connects_per_second");
    // So many in progress that there is always ten times of what can be served in a hundred milliseconds.
    let at_once = stage.clients(8_000);
    let (others, storms) =
        Others::see(stage, node, beside.node(0), |node, measure| waves(stage, node, at_once, measure));
    let began = Instant::now();
    let connects = poll(Duration::from_secs(10), || node.attempt(&Connect::new(Version::V5, "after")).ok());
    let mut finding = Finding::of(format!(
        "{} connects at once, again and again; rated {rated:.0}/s; {:.0} s of the rated in one wave",
        grouped(at_once.into()),
        f64::from(at_once) / rated
    ));
    others.tell(&mut finding);
    let sum = |pointer: &str| storms.iter().map(|storm| storm.number(pointer)).sum::<f64>();
    let most = |pointer: &str| storms.iter().map(|storm| storm.number(pointer)).fold(0.0, f64::max);
    let rate = sum("/connections/connected") / sum("/connections/seconds");
    // Of whom the backlog has no room for, TCP tries again after a second or more.
    finding.at_least("connects/s in the storm", rate, "", rated / 4.0);
    finding.at_most("slowest CONNACK", most("/connections/latency/max_us") / 1e6, "s", 10.0);
    finding.state("not let in", sum("/connections/failed"), "");
    finding.at_most("a client after it", began.elapsed().as_secs_f64(), "s", 1.0);
    finding.holds("is let in", connects.is_some());
    Outcome::Found(finding)
}

/// Clients connect all at once and go, wave after wave, for as long as is measured.
fn waves(stage: &Stage, node: &Node, at_once: u32, measure: &mut dyn FnMut()) -> Vec<Report> {
    let storm = format!("connections -n {at_once} --connecting-max {at_once} --connect-timeout 20 -t 0 -k 0");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let waves = scope.spawn(|| {
            let mut reports = Vec::new();
            while reports.is_empty() || !is_over.load(Ordering::Relaxed) {
                reports.push(stage.run(node, &storm));
            }
            reports
        });
        let end = SetAtEnd(&is_over);
        measure();
        drop(end);
        waves.join().expect("the waves do not break")
    })
}

/// In seconds.
const KEEP_ALIVE: u64 = 15;
