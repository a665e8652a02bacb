//! What an operator may ask of a node: the Admin service.
//!
//! [`AdminSource`] is what the rest of the broker must be able to tell and to do; [`server`] makes a gRPC service of it,
//! which the port for nodes serves next to the others. The messages are those of `flotilla_rpc::admin`: plain data, of
//! which a second set would say nothing more. Whoever gets this far was let in: who calls is checked before.
//!
//! A node speaks for itself: its clients, its connections. What spans the cluster is put together by who asks.

mod service;

use std::{future::Future, pin::Pin};

use bytes::Bytes;
use flotilla_rpc::admin::{
    Ban, Client, ClusterStatusReply, ImportProgress, Route, Shard, admin_server::AdminServer,
};
use flotilla_state::{Banned, ShardId};
use futures_util::Stream;

pub use service::{AdminService, server};

/// What a node tells about itself and its cluster, and does on request. Nothing here blocks, but for a moment where the disk of a
/// shard is slow.
pub trait AdminSource: Send + Sync + std::fmt::Debug + 'static {
    /// The cluster and its nodes as this node knows them; their order is that of their identifiers.
    fn status(&self) -> ClusterStatusReply;

    /// The placement of each shard as this node has applied it, in their order.
    fn shards(&self) -> Vec<Shard>;

    /// The clients of this node whose identifiers begin with `prefix`: all that are there from now until the end, others
    /// perhaps; each at most once, in no order. A stream that nobody reads on costs nothing more.
    fn clients(&self, prefix: String) -> BoxStream<Client>;

    /// Closes the connection of a client of this node (DISCONNECT 0x98); its session ends as after any other end of its
    /// connection. Whether it was connected.
    fn kick(&self, client_id: String) -> BoxFuture<'_, Result<bool, AdminError>>;

    /// The routes that a publish to `topic` takes, or else all that are written down, as this node has applied them.
    fn routes(&self, topic: Option<String>) -> BoxStream<Route>;

    /// This node takes no new clients from now on.
    fn drain(&self) -> BoxFuture<'_, Result<(), AdminError>>;

    /// This node leaves the cluster for good, and its process ends when it has.
    fn leave(&self) -> BoxFuture<'_, Result<(), AdminError>>;

    /// Takes a dead node out of the cluster: `node` is its name, or its identifier in hexadecimal digits.
    fn remove(&self, node: String) -> BoxFuture<'_, Result<(), AdminError>>;

    /// All bans, as this node has applied them.
    fn bans(&self) -> BoxStream<Ban>;

    /// Bans a client in the whole cluster; of one that is banned, changes why and by whom. Done when this node has applied
    /// it.
    fn ban(&self, banned: Banned, reason: String, by: String) -> BoxFuture<'_, Result<(), AdminError>>;

    /// Lifts a ban in the whole cluster, likewise.
    fn lift_ban(&self, banned: Banned) -> BoxFuture<'_, Result<(), AdminError>>;

    /// The records of a backup of a shard that this node leads. A stream that nobody reads on keeps room on the disk.
    fn export_shard(&self, shard: ShardId) -> BoxFuture<'_, Result<Chunks, AdminError>>;

    /// Takes the file of a backup, and tells how far it is. It ends when nobody reads on.
    fn import(&self, file: Chunks) -> BoxStream<Result<ImportProgress, AdminError>>;
}

/// A future of a rare operation.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Many of something, one after the other.
pub type BoxStream<T> = Pin<Box<dyn Stream<Item = T> + Send>>;

/// Bytes of a backup, cut anywhere.
pub type Chunks = BoxStream<Result<Bytes, AdminError>>;

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// There is no such thing.
    #[error("there is no {0}")]
    NotFound(String),
    /// It is not allowed as things are; asking again is of no use before something has changed.
    #[error("{0}")]
    Refused(String),
    /// It cannot be done now: no leader is known, or no quorum answers. Asking again may help.
    #[error("{0}")]
    Unavailable(String),
    /// Whether it was done is not known.
    #[error("it may have been done, or may be yet: {0}")]
    Unknown(String),
}

impl AdminError {
    /// What the caller is told.
    fn status(&self) -> tonic::Status {
        let text = self.to_string();
        match self {
            Self::NotFound(_) => tonic::Status::not_found(text),
            Self::Refused(_) => tonic::Status::failed_precondition(text),
            Self::Unavailable(_) => tonic::Status::unavailable(text),
            Self::Unknown(_) => tonic::Status::unknown(text),
        }
    }
}

/// The service as tonic serves it.
pub type Server = AdminServer<AdminService>;

#[cfg(test)]
mod tests;
