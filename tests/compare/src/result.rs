//! What runs have found.

use serde::Serialize;
use serde_json::Value;

use crate::{
    disturbance::Tolerance,
    figure::median,
    scenario::{Figure, Scenario},
};

/// One run, as a line of the file has it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Run {
    pub(crate) scenario: &'static str,
    pub(crate) broker: String,
    pub(crate) round: u32,
    /// 0, and more where other work disturbed the one before.
    pub(crate) attempt: u32,
    pub(crate) began: String,
    /// What other work used of the machine, 0 to 1.
    pub(crate) other_share: f64,
    pub(crate) failure: Option<String>,
    pub(crate) report: Option<Value>,
}

/// Those runs of one load against one broker that count.
#[derive(Debug)]
pub(crate) struct Cell<'a> {
    runs: Vec<&'a Run>,
    is_disturbed: bool,
}

impl<'a> Cell<'a> {
    pub(crate) fn of(runs: &'a [Run], scenario: &Scenario, broker: &str, tolerance: &Tolerance) -> Self {
        let runs = runs.iter().filter(|run| run.scenario == scenario.name && run.broker == broker).collect();
        let runs = tolerance.counted(runs, |run: &&Run| run.other_share);
        let is_disturbed = runs.iter().any(|run| tolerance.is_disturbed(run.other_share));
        Self { runs, is_disturbed }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The median of the runs that did what was asked for.
    pub(crate) fn median(&self, figure: &Figure) -> Option<f64> {
        let good = self.runs.iter().filter(|run| run.failure.is_none());
        median(good.filter_map(|run| figure.read(run.report.as_ref()?)))
    }

    /// What failed, each reason once, with how often; `None`: nothing.
    pub(crate) fn failures(&self) -> Option<String> {
        let mut reasons: Vec<&str> = Vec::new();
        let failures: Vec<_> = self.runs.iter().filter_map(|run| run.failure.as_deref()).collect();
        for failure in &failures {
            if !reasons.contains(failure) {
                reasons.push(failure);
            }
        }
        let (count, all) = (failures.len(), self.runs.len());
        (count > 0).then(|| format!("{count} of {all} runs failed: {}", reasons.join(" | ")))
    }

    /// What a reader must know of the runs behind the figures.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let mut remarks: Vec<String> = self.failures().into_iter().collect();
        let most = |part: &str, whole: &str| {
            let share = |run: &&Run| {
                let messages = run.report.as_ref()?.get("messages")?;
                let (part, whole) = (messages[part].as_f64()?, messages[whole].as_f64()?);
                (whole > 0.0).then(|| 100.0 * part / whole)
            };
            self.runs.iter().filter(|run| run.failure.is_none()).filter_map(share).fold(0.0, f64::max)
        };
        for (share, what) in [
            (most("lost", "expected"), "lost"),
            (most("duplicates", "expected"), "duplicated"),
            (most("reordered", "expected"), "out of order"),
        ] {
            if share > 0.0 {
                remarks.push(format!("up to {} % of messages {what}", percent(share)));
            }
        }
        if self.is_disturbed {
            remarks.push("disturbed by other work".to_owned());
        }
        remarks
    }
}

/// With as many decimals as it takes to see that it is not nothing.
fn percent(share: f64) -> String {
    if share < 0.001 { "0.001".to_owned() } else { format!("{share:.3}") }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;
    use crate::scenario::SCENARIOS;

    pub(crate) const TOLERANCE: Tolerance = Tolerance { other_max: 0.1, repeats: 2 };

    /// A run of the first scenario.
    pub(crate) fn run(broker: &str, rate: f64, other_share: f64, failure: Option<&str>) -> Run {
        Run {
            scenario: SCENARIOS[0].name,
            broker: broker.to_owned(),
            round: 0,
            attempt: 0,
            began: String::new(),
            other_share,
            failure: failure.map(str::to_owned),
            report: Some(json!({
                "traffic": { "received_per_second": rate, "broker_cpu_us_per_message": 10.0 },
                "messages": { "lost": 0, "duplicates": 0, "reordered": 0, "expected": 1_000 },
            })),
        }
    }

    #[test]
    fn only_good_and_quiet_runs_count() {
        let runs = [
            run("a", 1_000.0, 0.0, None),
            run("a", 9_000.0, 0.5, None),
            run("a", 3_000.0, 0.05, None),
            run("a", 7_000.0, 0.0, Some("gone")),
            run("b", 5_000.0, 0.0, None),
        ];
        let scenario = &SCENARIOS[0];
        let cell = Cell::of(&runs, scenario, "a", &TOLERANCE);
        assert_eq!(cell.median(&scenario.figures[0]), Some(2_000.0));
        assert_eq!(cell.remarks(), ["1 of 3 runs failed: gone"]);
        let nobody = Cell::of(&runs, scenario, "c", &TOLERANCE);
        assert!(nobody.is_empty() && nobody.median(&scenario.figures[0]).is_none());
    }

    #[test]
    fn what_a_reader_must_know_is_said() {
        let mut runs = [run("a", 1_000.0, 0.4, None), run("a", 1_000.0, 0.3, None)];
        runs[1].report.as_mut().unwrap()["messages"]["lost"] = 5.into();
        let cell = Cell::of(&runs, &SCENARIOS[0], "a", &TOLERANCE);
        assert_eq!(cell.remarks(), ["up to 0.500 % of messages lost", "disturbed by other work"]);
    }
}
