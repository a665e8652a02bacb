//! What the other nodes count: for operators, not for decisions.

use std::collections::BTreeMap;

use flotilla_state::{Member, NodeId};
use parking_lot::Mutex;

/// What a node counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Report {
    pub(crate) sessions: u64,
    pub(crate) connections: u64,
}

/// The last report of each other node.
#[derive(Debug, Default)]
pub(super) struct Reports(Mutex<BTreeMap<NodeId, (Member, Report)>>);

impl Report {
    /// Two numbers of eight bytes, in little endian; a later version may append more.
    pub(super) fn encode(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.sessions.to_le_bytes());
        bytes[8..].copy_from_slice(&self.connections.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        Some(Self { sessions: number(0)?, connections: number(8)? })
    }
}

impl Reports {
    pub(super) fn handle(&self, from: Member, bytes: &[u8]) {
        match Report::decode(bytes) {
            Some(report) => drop(self.0.lock().insert(from.node, (from, report))),
            None => tracing::warn!(%from, "report of a node does not decode"),
        }
    }

    /// The last report of a node in its present life.
    pub(super) fn of(&self, member: Member) -> Option<Report> {
        self.0.lock().get(&member.node).filter(|(from, _)| *from == member).map(|(_, report)| *report)
    }

    pub(super) fn ended(&self, member: Member) {
        self.0.lock().retain(|_, (from, _)| *from != member);
    }
}

#[cfg(test)]
mod tests {
    use flotilla_state::Incarnation;

    use super::*;

    #[test]
    fn a_report_counts_for_the_life_that_sent_it() {
        let member = |incarnation| Member { node: NodeId(1), incarnation: Incarnation(incarnation) };
        let report = Report { sessions: 7, connections: 5 };
        let reports = Reports::default();
        reports.handle(member(1), &report.encode());
        reports.handle(member(1), &[0; 15]);
        assert_eq!((reports.of(member(1)), reports.of(member(2))), (Some(report), None));
        reports.ended(member(1));
        assert_eq!(reports.of(member(1)), None);
    }
}
