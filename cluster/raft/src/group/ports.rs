//! What a group needs of the outside: the state that it replicates, and the way to its peers.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use super::error::{Corrupt, Unreachable};

/// Names a Raft group within a node and a cluster. 0 is the meta group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

impl std::fmt::Display for GroupId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

/// The state that a group replicates. It lives in memory: after a restart it is restored from the latest snapshot, and the
/// committed commands after that are applied again.
pub trait StateMachine: Send + 'static {
    /// Applies a committed command; the answer goes to its proposer. Equal sequences of commands must give equal states.
    ///
    /// `index` grows strictly, and not by one: entries of the group itself have indices, too.
    ///
    /// # Errors
    /// The command does not decode. The group stops with that message.
    fn apply(&mut self, index: u64, command: &[u8]) -> Result<Bytes, Corrupt>;

    /// The state as of this call, in chunks of at most 1 MiB. The copy is taken when called, for applies wait meanwhile; it is
    /// encoded as the iterator is driven, on another thread.
    fn snapshot(&mut self) -> Box<dyn Iterator<Item = Bytes> + Send>;

    /// Replaces the state by that of a snapshot, which covers every entry up to `index`.
    ///
    /// # Errors
    /// The chunks are not a snapshot. The group stops with that message; the state does not matter any more.
    fn restore(
        &mut self,
        index: u64,
        chunks: &mut dyn Iterator<Item = io::Result<Bytes>>,
    ) -> Result<(), Corrupt>;
}

/// The way to the other nodes. A request is answered by the `handle_*` of the same name of the node's [`Group`](super::Group).
///
/// Every call ends after `ttl` at the latest: a connection that was cut must not hold a group up.
pub trait Transport: Send + Sync + 'static {
    /// Carries log entries, or a heartbeat.
    fn append(
        &self,
        to: u64,
        group: GroupId,
        request: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Bytes, Unreachable>>;

    /// Asks for a vote.
    fn vote(
        &self,
        to: u64,
        group: GroupId,
        request: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Bytes, Unreachable>>;

    /// Asks whether a vote would be given.
    fn pre_vote(
        &self,
        to: u64,
        group: GroupId,
        request: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Bytes, Unreachable>>;

    /// Asks the node to take the leadership.
    fn transfer(
        &self,
        to: u64,
        group: GroupId,
        request: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Bytes, Unreachable>>;

    /// Sends a snapshot, in chunks of at most [`SNAPSHOT_CHUNK_BYTES_MAX`](super::SNAPSHOT_CHUNK_BYTES_MAX). An error among
    /// them means that the rest cannot be read: the transfer is broken off.
    fn snapshot(
        &self,
        to: u64,
        group: GroupId,
        chunks: BoxStream<'static, io::Result<Bytes>>,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Bytes, Unreachable>>;
}
