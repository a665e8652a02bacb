//! The other clients: what they see of somebody's load.
//!
//! On a machine that everybody shares, a load makes things slow also where it does not go. So the same load is put on a broker beside the
//! one that is measured, too: what its clients lose then is the machine's doing, and what they lose beyond that is the broker's.

use crate::{
    finding::Finding,
    fleet::Node,
    stage::{Report, Stage},
};

/// Milliseconds from when a message was due until it was there, for 99 of 100.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Others {
    /// Alone.
    pub(crate) quiet: f64,
    /// While the load is on another broker of the machine.
    pub(crate) beside: f64,
    /// While it is on theirs.
    pub(crate) during: f64,
}

impl Others {
    /// What clients of a node see without a load, with it on a broker beside, and with it on theirs; and what came of the load itself,
    /// the last time. `load` puts it on a node and calls back when it is there.
    pub(crate) fn see<T>(
        stage: &Stage,
        node: &Node,
        beside: &Node,
        load: impl Fn(&Node, &mut dyn FnMut()) -> T,
    ) -> (Self, T) {
        let p99 = || steady(stage, node).delivery("p99");
        let mut others = Self { quiet: p99(), beside: f64::NAN, during: f64::NAN };
        load(beside, &mut || others.beside = p99());
        let outcome = load(node, &mut || others.during = p99());
        (others, outcome)
    }

    /// The most that they may see: twice of what they would without the load.
    pub(crate) fn limit(&self) -> f64 {
        (FACTOR * self.quiet.max(self.beside)).max(FLOOR)
    }

    /// Adds what they have seen.
    pub(crate) fn tell(&self, finding: &mut Finding) {
        finding.state("p99 of others before", self.quiet, "ms");
        finding.state("with the load on a broker beside", self.beside, "ms");
        finding.at_most("on their own", self.during, "ms", self.limit());
    }
}

/// Clients that send at a fixed rate, for the time of a part.
#[track_caller]
pub(crate) fn steady(stage: &Stage, node: &Node) -> Report {
    let report = stage.run(node, &format!("{STEADY} --warm-up 0.5 -t {}", stage.seconds()));
    let faults = report.faults();
    assert!(report.number("/messages/lost") == 0.0, "other clients lose messages: {faults}");
    report
}

/// QoS 1, so that acknowledgements are in it, too.
pub(crate) const STEADY: &str = "pairs -n 20 -q 1 -r 500";

const FACTOR: f64 = 2.0;
/// In milliseconds; what is below it depends on what else the machine does at that moment.
const FLOOR: f64 = 5.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_of_what_the_machine_does_is_allowed() {
        let check = |quiet, beside, expected| {
            assert_eq!(Others { quiet, beside, during: 0.0 }.limit(), expected);
        };
        check(10.0, 30.0, 60.0);
        check(30.0, 10.0, 60.0);
        check(0.1, 0.2, 5.0);
    }
}
