//! A node that has ceased to lead in a term never leads in it again, not even after a restart.
//!
//! openraft tells leaders apart by their term and their number: of two candidates of a term the one with the higher number may get
//! the votes of those who voted for the other one, so that both have led in it for a moment. The entries of the two are never taken
//! for each other, for an entry names its leader. What must not happen is that one and the same leader, who may have forgotten
//! what it had not flushed, goes on.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_raft::group::{GroupStatus, Role};

use super::Violation;
use crate::trace::Trace;

/// Who has led in each term, and leads in it yet.
#[derive(Default)]
pub struct Leaders {
    seen: BTreeMap<(u64, u64), bool>,
    present: BTreeSet<(u64, u64)>,
}

impl Leaders {
    /// Looks at one node after a step.
    pub fn check(
        &mut self,
        trace: &Trace,
        name: &str,
        node: u64,
        status: &GroupStatus,
    ) -> Result<(), Violation> {
        if status.role != Role::Leader {
            return Ok(());
        }
        let term = status.term;
        self.present.insert((term, node));
        match self.seen.insert((term, node), true) {
            Some(true) => Ok(()),
            Some(false) => Err(format!("{name} leads in term {term} again")),
            None => {
                trace.note(format_args!("{name} leads in term {term}"));
                Ok(())
            }
        }
    }

    /// All nodes were looked at.
    pub fn end_step(&mut self) {
        let present = std::mem::take(&mut self.present);
        self.seen.iter_mut().for_each(|(leader, leads)| *leads = present.contains(leader));
    }

    /// How often a leader was elected.
    pub fn len(&self) -> usize {
        self.seen.len()
    }
}
