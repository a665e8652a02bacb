//! Subscriptions without measure.

use flotilla_compare::figure::grouped;

use crate::{
    finding::{Finding, Outcome},
    stage::Stage,
};

/// O16.
pub(super) fn flood(stage: &Stage) -> Outcome {
    let mut finding = Finding::of(format!(
        "wildcard filters, {} to {}, of 200 clients, 10 publishers; a client with a quota of {QUOTA}",
        grouped(SIZES[0]),
        grouped(SIZES[SIZES.len() - 1])
    ));
    let mut first = f64::NAN;
    for filters in SIZES {
        let cluster = stage.broker(&[("sys.interval", "0s")]);
        let report = stage.run(
            cluster.node(0),
            &format!(
                "wildcard --filters {filters} --subscribers 200 --publishers 10 -q 0 -r {RATE} \
                 --connect-timeout 60 -t {}",
                stage.seconds()
            ),
        );
        let cpu = report.number("/traffic/broker_cpu_us_per_message");
        let what = format!("{}: broker CPU", grouped(filters));
        if first.is_nan() {
            first = cpu;
            finding.state(what, cpu, "µs/message");
        } else {
            finding.at_most(what, cpu, "µs/message", GROWTH * first);
        }
        finding.state("p99", report.delivery("p99"), "ms");
        finding.state("subscribes/s", report.number("/subscriptions/subscribes_per_second"), "");
        finding.at_most(
            "bytes/filter",
            report.number("/subscriptions/broker_memory_bytes_per_subscription"),
            "",
            1_024.0,
        );
        finding.exactly("refused", report.number("/subscriptions/refused"), "", 0.0);
    }
    let quota = QUOTA.to_string();
    let cluster = stage.broker(&[("sys.interval", "0s"), ("session.subscriptions_max", quota.as_str())]);
    let mut client = cluster.node(0).client("greedy");
    let (mut granted, mut refused) = (0, 0);
    for number in 0..2 * QUOTA {
        match client.subscribe(&format!("greedy/{number}/+"), 1) {
            1 => granted += 1,
            // Quota exceeded.
            0x97 => refused += 1,
            other => panic!("SUBACK {other:#04x}"),
        }
    }
    finding.exactly("of the quota granted", f64::from(granted), "", f64::from(QUOTA));
    finding.exactly("refused (0x97)", f64::from(refused), "", f64::from(QUOTA));
    // Who is refused is still served, and has room again when it gives something back.
    client.unsubscribe(&["greedy/0/+"]);
    finding.holds("one given back, another is granted", client.subscribe("greedy/again", 1) == 1);
    Outcome::Found(finding)
}

const SIZES: [u64; 3] = [10_000, 100_000, 1_000_000];
const RATE: u32 = 5_000;
/// From the smallest number on, a hundred times as many: memory that is further away, and no more work.
const GROWTH: f64 = 2.0;
const QUOTA: u32 = 1_000;
