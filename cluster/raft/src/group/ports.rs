//! What a group needs of the outside: the state that it replicates, and the way to its peers.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use super::error::{Corrupt, Refused, Unreachable};

/// Names a Raft group within a node. 0 is the meta group, everywhere; a group of a shard has another number on each node, and another
/// one again for the next replica of the shard on the same node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

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

/// A state that a group replicates, and that is on the disk by itself: it does not begin anew with each start, and no file of it
/// is written beside it.
///
/// A *position* is bytes of the group: how far the state is. The state keeps them together with what they belong to, in one
/// atomic write, whenever that happens; it never holds one without the other. What is not on the disk when the power fails is
/// applied again, from the position on that is.
pub trait DurableState: Send + 'static {
    /// What came with the last [`DurableState::apply`] or [`DurableState::restore`] that the disk has; `None` where there was
    /// none. Asked once, at the start.
    fn position(&self) -> Option<Bytes>;

    /// Applies committed commands, in order; each answer goes to the proposer of its command. Equal sequences of commands must
    /// give equal states, however they are cut into calls. `position` is that of the last of them; without commands only the
    /// position moves, past entries of the group itself.
    ///
    /// The numbers are the indices of the commands. They grow strictly, and not by one: entries of the group itself have
    /// indices, too. It need not make anything durable. It is called on a thread that may wait for the disk, unless
    /// [`DurableState::is_quick`] has said that it need not.
    ///
    /// # Errors
    /// [`Refused::Full`] before any of them was applied: the group waits, and the log grows meanwhile. A command does not decode,
    /// or the state could not take it: the group stops with that message.
    fn apply(&mut self, commands: &[(u64, Bytes)], position: Bytes) -> Result<Vec<Bytes>, Refused>;

    /// Whether commands that have so many bytes together can be applied now without waiting for the disk: that spares two changes of
    /// threads, which cost more than it takes to apply a few.
    fn is_quick(&self, bytes: usize) -> bool;

    /// When the closure has returned, everything that was applied before this call is on the disk, or as much of it as there is
    /// space for. It gives the last position that is, and the log is cut on the word of it. It runs on a thread of its own;
    /// applies go on meanwhile.
    fn checkpoint(&mut self) -> Checkpoint;

    /// The state as of this call, or as the disk has it where that is full, for another member: its position, and chunks of at most
    /// [`SNAPSHOT_CHUNK_BYTES_MAX`](super::SNAPSHOT_CHUNK_BYTES_MAX) bytes. Applies wait for the call, so it must be short; the
    /// chunks are read as the iterator is driven, on another thread, and never all in memory. An error among them stops the
    /// group: what a member cannot read it cannot serve either.
    ///
    /// # Errors
    /// The state cannot be read. The group stops with that message.
    fn snapshot(&mut self) -> io::Result<(Bytes, SnapshotChunks)>;

    /// Replaces the state by that of a snapshot of another member, durably: when this returns, it is on the disk, and after a
    /// crash in the middle the state is the one before or the new one, with its position. The chunks were verified before, and
    /// are again as they are read: an error among them means that the disk changed them in between, and then the state stays as
    /// it was.
    ///
    /// # Errors
    /// The disk is full: the group waits, and tries again. The chunks are not a snapshot: the group stops with that message.
    fn restore(
        &mut self,
        position: Bytes,
        chunks: &mut dyn Iterator<Item = io::Result<Bytes>>,
    ) -> Result<(), Refused>;
}

/// Makes durable what was applied before; gives the position that the disk has then.
pub type Checkpoint = Box<dyn FnOnce() -> io::Result<Option<Bytes>> + Send>;

/// The chunks of a snapshot, read as they are asked for.
pub type SnapshotChunks = Box<dyn Iterator<Item = io::Result<Bytes>> + Send>;

/// What a group replicates.
pub enum State {
    /// Lives in memory, and is restored from a snapshot file and the log.
    InMemory(Box<dyn StateMachine>),
    /// Keeps itself on the disk.
    Durable(Box<dyn DurableState>),
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
