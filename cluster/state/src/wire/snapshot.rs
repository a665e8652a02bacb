//! Snapshots.

use super::{
    cluster::{Cluster, Node},
    command::Replica,
};
use crate::{NodeId, ShardEpoch, routes, settings::wire::Setting};

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SnapshotChunk {
    #[prost(uint32, tag = "1")]
    pub(crate) version: u32,
    /// In the first chunk.
    #[prost(message, optional, tag = "2")]
    pub(crate) header: Option<Header>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) nodes: Vec<Node>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) placements: Vec<Placement>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) sets: Vec<NodeSet>,
    #[prost(fixed64, repeated, tag = "6")]
    pub(crate) fingerprints: Vec<u64>,
    /// The set of each fingerprint, as its number among all sets.
    #[prost(uint32, repeated, tag = "7")]
    pub(crate) fingerprint_sets: Vec<u32>,
    #[prost(message, repeated, tag = "8")]
    pub(crate) wildcards: Vec<WildcardRoute>,
    #[prost(message, repeated, tag = "9")]
    pub(crate) groups: Vec<GroupRoute>,
    /// In the last chunk, which has nothing else.
    #[prost(message, optional, tag = "10")]
    pub(crate) end: Option<SnapshotEnd>,
    #[prost(message, repeated, tag = "11")]
    pub(crate) settings: Vec<Setting>,
    /// In their order.
    #[prost(message, repeated, tag = "12")]
    pub(crate) shards: Vec<Shard>,
    /// The nodes that shall hold replicas of shards.
    #[prost(fixed64, repeated, tag = "13")]
    pub(crate) holders: Vec<u64>,
    /// As fields 5 to 8, for the shards.
    #[prost(message, optional, tag = "14")]
    pub(crate) shard_routes: Option<ShardRoutes>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ShardRoutes {
    #[prost(message, repeated, tag = "1")]
    pub(crate) sets: Vec<NodeSet>,
    #[prost(fixed64, repeated, tag = "2")]
    pub(crate) fingerprints: Vec<u64>,
    #[prost(uint32, repeated, tag = "3")]
    pub(crate) fingerprint_sets: Vec<u32>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) wildcards: Vec<WildcardRoute>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Shard {
    #[prost(message, optional, tag = "1")]
    pub(crate) replicas: Option<Placement>,
    #[prost(fixed64, repeated, tag = "2")]
    pub(crate) founders: Vec<u64>,
    #[prost(fixed64, repeated, tag = "3")]
    pub(crate) members: Vec<u64>,
    #[prost(uint64, tag = "4")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) told: u64,
    #[prost(message, repeated, tag = "6")]
    pub(crate) ids: Vec<Replica>,
    #[prost(uint64, tag = "7")]
    pub(crate) told_members: u64,
}

impl From<&crate::Shard> for Shard {
    fn from(shard: &crate::Shard) -> Self {
        Self {
            replicas: Some((&shard.replicas).into()),
            founders: numbers(&shard.founders),
            members: numbers(&shard.members),
            term: shard.term,
            told: shard.told,
            ids: shard.ids.iter().map(|(node, id)| Replica::of(*node, *id)).collect(),
            told_members: shard.told_members,
        }
    }
}

impl From<Shard> for crate::Shard {
    fn from(shard: Shard) -> Self {
        Self {
            replicas: shard.replicas.unwrap_or_default().into(),
            founders: nodes(shard.founders),
            members: nodes(shard.members),
            ids: shard.ids.into_iter().map(Replica::parts).collect(),
            term: shard.term,
            told_members: shard.told_members,
            told: shard.told,
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Header {
    #[prost(uint64, tag = "1")]
    pub(crate) applied: u64,
    #[prost(message, optional, tag = "2")]
    pub(crate) cluster: Option<Cluster>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Placement {
    #[prost(uint64, tag = "1")]
    pub(crate) epoch: u64,
    #[prost(fixed64, repeated, tag = "2")]
    pub(crate) nodes: Vec<u64>,
}

impl From<&crate::Placement> for Placement {
    fn from(placement: &crate::Placement) -> Self {
        Self { epoch: placement.epoch.0, nodes: numbers(&placement.nodes) }
    }
}

impl From<Placement> for crate::Placement {
    fn from(placement: Placement) -> Self {
        Self { epoch: ShardEpoch(placement.epoch), nodes: nodes(placement.nodes) }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct NodeSet {
    #[prost(fixed64, repeated, tag = "1")]
    pub(crate) nodes: Vec<u64>,
}

impl From<&[NodeId]> for NodeSet {
    fn from(set: &[NodeId]) -> Self {
        Self { nodes: numbers(set) }
    }
}

impl From<NodeSet> for Vec<NodeId> {
    fn from(set: NodeSet) -> Self {
        nodes(set.nodes)
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WildcardRoute {
    #[prost(string, tag = "1")]
    pub(crate) filter: String,
    #[prost(fixed64, repeated, tag = "2")]
    pub(crate) nodes: Vec<u64>,
}

impl From<&routes::WildcardRoute> for WildcardRoute {
    fn from(route: &routes::WildcardRoute) -> Self {
        Self { filter: route.filter.to_string(), nodes: numbers(&route.nodes) }
    }
}

impl From<WildcardRoute> for routes::WildcardRoute {
    fn from(route: WildcardRoute) -> Self {
        Self { filter: route.filter.into(), nodes: nodes(route.nodes) }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct GroupRoute {
    #[prost(string, tag = "1")]
    pub(crate) filter: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) members: Vec<GroupMembers>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct GroupMembers {
    #[prost(fixed64, tag = "1")]
    pub(crate) node: u64,
    #[prost(uint32, tag = "2")]
    pub(crate) online: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) kept: u32,
}

impl From<&crate::GroupRoute> for GroupRoute {
    fn from(route: &crate::GroupRoute) -> Self {
        let members = route.members.iter().map(|members| {
            let crate::GroupMembers { node, online, kept } = *members;
            GroupMembers { node: node.0, online, kept }
        });
        Self { filter: route.filter.to_string(), members: members.collect() }
    }
}

impl From<GroupRoute> for crate::GroupRoute {
    fn from(route: GroupRoute) -> Self {
        let members = route.members.into_iter().map(|members| {
            let GroupMembers { node, online, kept } = members;
            crate::GroupMembers { node: NodeId(node), online, kept }
        });
        Self { filter: route.filter.into(), members: members.collect() }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SnapshotEnd {
    /// How many chunks there are before this one.
    #[prost(uint64, tag = "1")]
    pub(crate) chunks: u64,
    /// Of these: the hash of each chunk is seeded with that of the one before.
    #[prost(fixed64, tag = "2")]
    pub(crate) checksum: u64,
}

fn numbers(nodes: &[NodeId]) -> Vec<u64> {
    nodes.iter().map(|node| node.0).collect()
}

pub(crate) fn nodes(numbers: Vec<u64>) -> Vec<NodeId> {
    numbers.into_iter().map(NodeId).collect()
}
