//! What all nodes of a cluster agree on. Pure.
//!
//! [`ClusterState`] is the state machine of the meta group: a committed [`Command`] goes into
//! [`apply`](ClusterState::apply), and [`Effects`] come out. It holds
//!
//! * the nodes, with their status and the incarnation of their present life;
//! * which nodes hold which shard ([`Placement`]), where its replicas are, and which topics its sessions want ([`Shards`]);
//! * [`Routes`]: who wants messages of which topics, per node and never per client;
//! * [`Settings`]: what an operator changes at run time, such as [bans](Banned).
//!
//! Invariants: equal logs give equal states, effects and snapshots, on every architecture; no clock, no randomness and no hash
//! order has a say. A command that is refused changes nothing. What belongs to a life of a node vanishes with it.
//!
//! Absent on purpose: sessions, retained messages, and who serves which client. They change too often for a log that
//! every node reads.

mod command;
mod effects;
mod error;
mod ids;
pub mod limits;
mod node;
mod placement;
mod ring;
mod routes;
mod settings;
mod shards;
mod snapshot;
mod state;
mod wire;

pub use command::{Command, NewStatus, RouteChange};
pub use effects::{Effects, Event, Invalid, Reply, Why};
pub use error::DecodeError;
pub use ids::{ConnectionEpoch, Incarnation, LogIndex, Member, NodeId, ReplicaId, ShardEpoch, ShardId};
pub use node::{Cluster, Node, Placement, Role, Status};
pub use ring::ShardRing;
pub use routes::{Fingerprint, GroupMembers, GroupRoute, RouteCount, Routes};
pub use settings::{
    Settings,
    ban::{Ban, BanError, BanKind, Banned, PREFIX as BANS},
};
pub use shards::{Shard, ShardChange, Shards};
pub use snapshot::{CHUNK_BYTES_MAX, Snapshot, SnapshotError, SnapshotReader};
pub use state::ClusterState;
