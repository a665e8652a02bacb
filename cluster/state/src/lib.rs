//! What all nodes of a cluster agree on. Pure.

mod ids;

pub use ids::{ConnectionEpoch, Incarnation, LogIndex, Member, NodeId, ShardEpoch, ShardId};
