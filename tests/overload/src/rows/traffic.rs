//! Much traffic of the ordinary kind.

use flotilla_compare::figure::grouped;

use crate::{
    finding::{Finding, Outcome},
    stage::Stage,
    usage::{forget_peak, mebibytes, memory, peak_memory},
};

/// O09.
pub(super) fn fan_out(stage: &Stage) -> Outcome {
    let subscribers = stage.clients(15_000);
    let mut finding = Finding::of(format!(
        "1 publisher, {} subscribers, messages of 16 KiB, one every 2 s",
        grouped(subscribers.into())
    ));
    for qos in [0, 1] {
        let cluster = stage.broker(&[("sys.interval", "0s")]);
        let node = cluster.node(0);
        let pid = node.pid();
        // The first message is late enough for memory to be looked at before it.
        let mut load = stage.start(
            node,
            &format!(
                "fan-out --publishers 1 --subscribers {subscribers} -q {qos} -r 0.5 -s {PAYLOAD} --warm-up 1 -t {}",
                2.0 * stage.seconds()
            ),
        );
        load.await_connections(node, subscribers as usize);
        let before = memory(pid);
        forget_peak(pid);
        let report = load.end();
        let grown = peak_memory(pid).saturating_sub(before);
        let all_copies = f64::from(subscribers) * PAYLOAD as f64 / f64::from(1 << 20);
        finding.state(format!("QoS {qos}: p50"), report.delivery("p50"), "ms");
        finding.state("p99", report.delivery("p99"), "ms");
        finding.state("broker CPU", report.number("/traffic/broker_cpu_us_per_message"), "µs/delivery");
        finding.at_most(
            format!("memory grows by (a copy for each would be {all_copies:.0} MiB)"),
            mebibytes(grown),
            "MiB",
            all_copies / 4.0,
        );
        if qos > 0 {
            finding.exactly("lost", report.number("/messages/lost"), "", 0.0);
        } else {
            finding.state("lost", report.number("/messages/lost"), "");
        }
    }
    Outcome::Found(finding)
}

/// O11.
pub(super) fn point_to_point(stage: &Stage) -> Outcome {
    let pairs = stage.clients(17_000) / 2;
    let cluster = stage.broker(&[("sys.interval", "0s")]);
    let report = stage
        .run(cluster.node(0), &format!("pairs -n {pairs} -q 1 -r {PAIRS_RATE} -t {}", 2.0 * stage.seconds()));
    let mut finding = Finding::of(format!(
        "{} pairs, QoS 1, {PAIRS_RATE} messages/s together, 256 B",
        grouped(pairs.into())
    ));
    finding.at_most("p50", report.delivery("p50"), "ms", 5.0);
    finding.at_most("p99", report.delivery("p99"), "ms", 50.0);
    finding.state("max", report.delivery("max"), "ms");
    finding.state("broker CPU", report.number("/traffic/broker_cores"), "cores");
    finding.exactly("lost", report.number("/messages/lost"), "", 0.0);
    Outcome::Found(finding)
}

/// O12.
pub(super) fn per_core(stage: &Stage) -> Outcome {
    let cluster = stage.broker(&[("sys.interval", "0s")]);
    let mut finding = Finding::of("50 pairs, window 64, 256 B, broker and load on the same cores");
    for qos in 0..3 {
        let report =
            stage.run(cluster.node(0), &format!("pairs -n 50 -w 64 -q {qos} -t {}", stage.seconds()));
        let (rate, cores) =
            (report.number("/traffic/received_per_second"), report.number("/traffic/broker_cores"));
        finding.state(format!("QoS {qos}"), rate, "messages/s");
        finding.state("for a core of the broker", rate / cores, "/s");
        finding.exactly("lost", report.number("/messages/lost"), "", 0.0);
    }
    Outcome::Found(finding)
}

const PAYLOAD: u32 = 16 << 10;
const PAIRS_RATE: u32 = 5_000;
