//! Leadership never goes back.
//!
//! openraft orders leaders by their term, and within a term by their number: a candidate with a higher one may get the votes of
//! a term that has a leader already, which leads no longer then. So a term has one leader in force at most, and one with a lower
//! number is never elected after it: whoever voted for the higher one would have forgotten its vote.

use std::collections::BTreeMap;

use flotilla_raft::group::{GroupStatus, Role};

use super::Violation;
use crate::trace::Trace;

/// Who has led in each term, in the order of elections.
#[derive(Default)]
pub struct Leaders(BTreeMap<u64, Vec<u64>>);

impl Leaders {
    /// Looks at one node after a step.
    pub fn check(
        &mut self,
        trace: &Trace,
        name: &str,
        node: u64,
        status: &GroupStatus,
    ) -> Result<(), Violation> {
        let term = status.term;
        let leaders = self.0.entry(term).or_default();
        if status.role != Role::Leader || leaders.contains(&node) {
            return Ok(());
        }
        trace.note(format_args!("{name} ({node:016x}) leads in term {term}"));
        if let Some(last) = leaders.last().filter(|last| **last > node) {
            return Err(format!("{name} ({node:016x}) is elected in term {term} after {last:016x}"));
        }
        leaders.push(node);
        Ok(())
    }

    /// How often a leader was elected.
    pub fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
}
