//! Other work on the machine: how much there was, and what is done about it.

use crate::machine::Ticks;

/// What is done about a run that other work has disturbed.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// The share of the machine that other work may use, 0 to 1.
    pub other_max: f64,
    /// How often a run is repeated for it.
    pub repeats: u32,
}

impl Tolerance {
    /// Whether this share of other work, 0 to 1, is too much.
    pub fn is_disturbed(&self, other: f64) -> bool {
        other > self.other_max
    }

    /// Whether a run is to be repeated. `attempt`: 0 for the first one.
    pub fn repeats(&self, attempt: u32, other: f64) -> bool {
        self.is_disturbed(other) && attempt < self.repeats
    }

    /// Those of a cell that count: the undisturbed ones, or all where there are no others.
    pub fn counted<T>(&self, runs: Vec<T>, other: impl Fn(&T) -> f64) -> Vec<T> {
        if runs.iter().all(|run| self.is_disturbed(other(run))) {
            return runs;
        }
        runs.into_iter().filter(|run| !self.is_disturbed(other(run))).collect()
    }
}

/// What neither the broker nor the load has used of the machine, as a share of it, 0 to 1.
///
/// `own`: what these have used between the two. Interrupts are in nobody's time here: some kernels add them to that of the process
/// that they interrupt, others do not, and on loopback they are much. So a little other work stays unseen.
pub fn other_share(before: Ticks, after: Ticks, own: u64) -> f64 {
    let total = after.total.saturating_sub(before.total);
    let other = after.busy.saturating_sub(before.busy).saturating_sub(own);
    share(other, total)
}

#[expect(clippy::cast_precision_loss, reason = "a share to compare")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE: Tolerance = Tolerance { other_max: 0.1, repeats: 2 };

    #[test]
    fn what_is_not_ours_is_other_work() {
        let check = |busy: u64, total: u64, own, expected: f64| {
            let before = Ticks { busy: 1_000, total: 5_000 };
            let after = Ticks { busy: 1_000 + busy, total: 5_000 + total };
            assert_eq!(other_share(before, after, own), expected);
        };
        check(150, 200, 100, 0.25);
        check(150, 200, 150, 0.0);
        // Clocks that tick at different times.
        check(150, 200, 170, 0.0);
        check(0, 0, 0, 0.0);
    }

    #[test]
    fn a_disturbed_run_is_repeated_but_not_for_ever() {
        let check = |attempt, other, expected| assert_eq!(TOLERANCE.repeats(attempt, other), expected);
        check(0, 0.1, false);
        check(0, 0.2, true);
        check(1, 0.2, true);
        check(2, 0.2, false);
    }

    #[test]
    fn disturbed_runs_count_only_where_there_are_no_others() {
        let counted = |shares: &[f64]| TOLERANCE.counted(shares.to_vec(), |share| *share);
        assert_eq!(counted(&[0.5, 0.05, 0.3]), [0.05]);
        assert_eq!(counted(&[0.5, 0.3]), [0.5, 0.3]);
        assert_eq!(counted(&[]), [0.0; 0]);
    }
}
