//! Retained messages without measure.

use flotilla_compare::figure::grouped;

use crate::{
    finding::{Finding, Outcome},
    others::{Others, steady},
    stage::Stage,
    usage::{mebibytes, memory, peak_memory},
};

/// O15.
pub(super) fn flood(stage: &Stage) -> Outcome {
    // On the disk of a single node all of them are acknowledged together, so that what is limited is the work and not the flush.
    let settings = [("sys.interval", "0s")];
    let (cluster, beside) = (stage.broker(&settings), stage.broker(&settings));
    let node = cluster.node(0);
    let pid = node.pid();
    let before = memory(pid);
    let load = format!("retained --messages {MESSAGES} --publishers 8 --subscribers 4 -w 100 -s 256");
    let (others, report) = Others::see(stage, node, beside.node(0), |node, measure| {
        // It ends by itself: others are measured meanwhile, while messages are set and while they are looked up.
        let mut load = stage.start(node, &load);
        load.await_connections(node, 8);
        measure();
        load.end()
    });
    let mut finding = Finding::of(format!(
        "{} retained messages of 256 B, then 4 subscriptions to all of them; a limit of {} for {}",
        grouped(MESSAGES),
        grouped(LIMIT),
        grouped(OVER)
    ));
    others.tell(&mut finding);
    finding.state("set", report.number("/store/messages_per_second"), "/s");
    finding.state("looked up", report.number("/fetch/messages_per_second"), "messages/s");
    finding.exactly("missing", report.number("/messages/lost"), "", 0.0);
    let grown = peak_memory(pid).saturating_sub(before);
    finding.state("memory for each", grown as f64 / MESSAGES as f64, "bytes at most");
    finding.at_most("memory grows by at most", mebibytes(grown), "MiB", 1_024.0);

    let limit = LIMIT.to_string();
    let limited = stage.broker(&[("sys.interval", "0s"), ("retained.messages_max", limit.as_str())]);
    let node = limited.node(0);
    let report =
        stage.run(node, &format!("retained --messages {OVER} --publishers 8 --subscribers 1 -w 100 -s 256"));
    let refused = report.number("/messages/refused");
    // What is on its way at that moment may go beyond the limit, or be acknowledged and not retained.
    finding.at_least("refused (0x97) beyond the limit", refused, "", (OVER - LIMIT - ON_THEIR_WAY) as f64);
    finding.at_most("and no more than those", refused, "", (OVER - LIMIT) as f64);
    let missing = report.number("/messages/lost");
    finding.at_most("acknowledged and not retained", missing, "", ON_THEIR_WAY as f64);
    finding.at_most("p99 of others after it", steady(stage, node).delivery("p99"), "ms", 50.0);
    Outcome::Found(finding)
}

const MESSAGES: u64 = 100_000;
const LIMIT: u64 = 10_000;
const OVER: u64 = 15_000;
/// Of 8 publishers with a window of 100.
const ON_THEIR_WAY: u64 = 800;
