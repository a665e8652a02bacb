//! Publishes without measure.

use crate::{
    finding::{Finding, Outcome},
    others::Others,
    stage::{Report, Stage},
    usage::{forget_peak, mebibytes, memory, peak_memory},
};

/// O07.
pub(super) fn by_one(stage: &Stage) -> Outcome {
    let settings = [("sys.interval", "0s")];
    let (cluster, beside) = (stage.broker(&settings), stage.broker(&settings));
    let node = cluster.node(0);
    let pid = node.pid();
    // Nothing that it waits for: only TCP holds it back.
    let flood = "pairs -n 1 -q 0 -w 0 -t 600 --warm-up 0";
    let (others, (report, grown)) = Others::see(stage, node, beside.node(0), |node, measure| {
        let before = memory(pid);
        forget_peak(pid);
        let ((), report) = stage.under(node, flood, 2, measure);
        (report, peak_memory(pid).saturating_sub(before))
    });
    let mut finding =
        Finding::of("one publisher of 256 B at QoS 0 as fast as TCP lets it, with a subscriber");
    others.tell(&mut finding);
    finding.state("it sends", report.number("/traffic/sent_per_second"), "messages/s");
    finding.state("its subscriber gets", report.number("/traffic/received_per_second"), "/s");
    // An output buffer of 1 MiB and what the queue of its subscriber may hold, twice over.
    finding.at_most("memory grows by", mebibytes(grown), "MiB", 32.0);
    Outcome::Found(finding)
}

/// O08.
pub(super) fn by_all(stage: &Stage) -> Outcome {
    let mut finding =
        Finding::of("50 pairs, 256 B: the peak with a window of 64, then twice that rate offered");
    for qos in [0, 1] {
        let cluster = stage.broker(&[("sys.interval", "0s")]);
        let node = cluster.node(0);
        let time = stage.seconds();
        let run = |more: String| stage.run(node, &format!("pairs -n 50 -q {qos} -t {time} {more}"));
        let peak = goodput(&run("-w 64".to_owned()));
        let offered = 2.0 * peak;
        let over = run(format!("-r {offered:.0}"));
        finding.state(format!("QoS {qos}: peak"), peak, "messages/s");
        finding.state("sent of twice that", over.number("/traffic/sent_per_second"), "/s");
        finding.at_least("goodput", goodput(&over), "/s", 0.8 * peak);
        if qos > 0 {
            // Beyond the queue of a subscriber, as session.queue_full has it.
            finding.state("dropped at full queues", over.number("/messages/lost"), "");
        }
        // It has got over it.
        let after = run(format!("-r {:.0}", peak / 4.0));
        finding.at_most("p99 at a quarter of the peak after it", after.delivery("p99"), "ms", 50.0);
    }
    Outcome::Found(finding)
}

fn goodput(report: &Report) -> f64 {
    report.number("/traffic/received_per_second")
}
