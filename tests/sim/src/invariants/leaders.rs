//! A term has one leader at most.

use std::collections::BTreeMap;

use flotilla_raft::group::{GroupStatus, Role};

use super::Violation;
use crate::trace::Trace;

/// Who has led in each term.
#[derive(Default)]
pub struct Leaders(BTreeMap<u64, u64>);

impl Leaders {
    /// Looks at one node after a step.
    pub fn check(&mut self, trace: &Trace, name: &str, node: u64, status: &GroupStatus) -> Result<(), Violation> {
        if status.role != Role::Leader {
            return Ok(());
        }
        match self.0.insert(status.term, node) {
            None => trace.note(format_args!("{name} leads in term {}", status.term)),
            Some(other) if other != node => {
                return Err(format!("{name} ({node:x}) leads in term {}, and {other:x} has led in it", status.term));
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// How many terms had a leader.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}
