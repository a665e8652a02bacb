//! What the other nodes say of themselves: what they count, for operators, and whether they have space.

use std::collections::BTreeMap;

use flotilla_rpc::admin::ShardReplica;
use flotilla_state::{Member, NodeId, ShardId};
use parking_lot::Mutex;
use prost::Message as _;

/// What a node says of itself.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Report {
    /// With those of the shards that it leads whose clients are away.
    #[prost(uint64, tag = "1")]
    pub(crate) sessions: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) connections: u64,
    /// Whether its disk is nearly full.
    #[prost(bool, tag = "3")]
    pub(crate) is_short_of_space: bool,
    /// The shards that it leads.
    #[prost(btree_map = "uint32, message", tag = "4")]
    pub(crate) shards: BTreeMap<u32, ShardReplica>,
}

impl Report {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, prost::DecodeError> {
        Self::decode(bytes)
    }
}

/// The last report of each other node.
#[derive(Debug, Default)]
pub(super) struct Reports(Mutex<BTreeMap<NodeId, (Member, Report)>>);

impl Reports {
    pub(super) fn put(&self, from: Member, report: Report) {
        self.0.lock().insert(from.node, (from, report));
    }

    /// The last report of a node in its present life.
    pub(super) fn of(&self, member: Member) -> Option<Report> {
        self.0.lock().get(&member.node).filter(|(from, _)| *from == member).map(|(_, report)| report.clone())
    }

    /// How a shard is doing that a node leads in its present life.
    pub(super) fn shard(&self, leader: Member, shard: ShardId) -> Option<ShardReplica> {
        let reports = self.0.lock();
        let (_, report) = reports.get(&leader.node).filter(|(from, _)| *from == leader)?;
        report.shards.get(&shard.0.into()).copied()
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
        let shards = BTreeMap::from([(3, ShardReplica { sessions: 2, ..ShardReplica::default() })]);
        let report = Report { sessions: 7, connections: 5, is_short_of_space: true, shards };
        let reports = Reports::default();
        reports.put(member(1), Report::from_bytes(&report.to_bytes()).expect("it was encoded"));
        assert_eq!((reports.of(member(1)), reports.of(member(2))), (Some(report), None));
        let sessions = |incarnation| Some(reports.shard(member(incarnation), ShardId(3))?.sessions);
        assert_eq!((sessions(1), sessions(2)), (Some(2), None));
        assert_eq!(reports.shard(member(1), ShardId(4)), None);
        reports.ended(member(1));
        assert_eq!(reports.of(member(1)), None);
    }
}
