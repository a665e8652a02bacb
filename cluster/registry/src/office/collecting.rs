//! What a registrar that has just taken office does not know yet.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_state::{LogIndex, Member};

use crate::context::Context;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Collecting {
    /// Members whose report is not complete.
    awaited: BTreeSet<Member>,
    /// Members whose report is complete: before it, they have sent their wills.
    reported: BTreeSet<Member>,
    /// For a member that has ended before its report was complete: who has not yet said which of its wills it keeps.
    vacated: BTreeMap<Member, Vacated>,
    /// The highest of the reports.
    authority: LogIndex,
}

#[derive(Debug)]
struct Vacated {
    /// How far this node had read the log when it learnt that the member had ended.
    at: LogIndex,
    awaited: BTreeSet<Member>,
}

impl Collecting {
    /// Who has joined with the very entry of the log that made the term has nothing that must be known first: what it brings
    /// from an older life goes behind everything else.
    pub(super) fn new(context: &Context<'_>) -> Self {
        let index = context.cluster.index();
        let awaited = context
            .cluster
            .members()
            .filter(|member| *member == context.me || member.incarnation.0 != index.0)
            .collect();
        Self { awaited, ..Self::default() }
    }

    /// Whether the report of a member is complete.
    pub(super) fn has_reported(&self, member: Member) -> bool {
        self.reported.contains(&member)
    }

    /// Whether nothing is left to wait for.
    pub(super) fn is_known(&self) -> bool {
        self.awaited.is_empty() && self.vacated.values().all(|vacated| vacated.awaited.is_empty())
    }

    /// The highest authority that anybody has had.
    pub(super) fn authority(&self) -> LogIndex {
        self.authority
    }

    pub(super) fn handle_authority(&mut self, authority: LogIndex) {
        self.authority = self.authority.max(authority);
    }

    /// The report of a member, which had read the log up to `as_of`, is complete.
    pub(super) fn handle_reported(&mut self, from: Member, as_of: LogIndex) {
        if self.awaited.remove(&from) {
            self.reported.insert(from);
        }
        for vacated in self.vacated.values_mut().filter(|vacated| vacated.at <= as_of) {
            vacated.awaited.remove(&from);
        }
    }

    /// A member has named all wills of an ended owner that it keeps. Returns whether that was waited for.
    pub(super) fn handle_orphans_end(&mut self, from: Member, owner: Member) -> bool {
        let Some(vacated) = self.vacated.get_mut(&owner) else { return false };
        vacated.awaited.remove(&from);
        true
    }

    /// Waits no longer for members that have ended, but for what the others have of them.
    pub(super) fn vacate(&mut self, context: &Context<'_>, ended: &[Member]) {
        for vacated in self.vacated.values_mut() {
            vacated.awaited.retain(|member| !ended.contains(member));
        }
        let at = context.cluster.index();
        for member in ended {
            if self.awaited.remove(member) {
                // Also who has joined since the term began may keep wills of it. Who learns of its end only as it joins
                // reports so much.
                let awaited = context.cluster.members().collect();
                self.vacated.insert(*member, Vacated { at, awaited });
            }
        }
    }
}
