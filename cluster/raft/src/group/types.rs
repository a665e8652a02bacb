//! What openraft is built with, and its types by name.

use std::fmt;

use bytes::Bytes;
use openraft::EmptyNode;
use openraft::alias::{EntryOf, LeaderIdOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf};

use super::machine::Machine;
use super::ports::GroupId;
use super::snapshot::SnapshotData;

/// The runtime: in simulations, election timeouts come from a seed that the test sets.
#[cfg(not(feature = "simulation"))]
pub(super) type Runtime = openraft_rt_tokio::TokioRuntime;
#[cfg(feature = "simulation")]
pub(super) type Runtime = openraft_rt::deterministic_rng::DeterministicRng<openraft_rt_tokio::TokioRuntime>;

openraft::declare_raft_types!(
    /// A node has no address here: addresses are kept elsewhere, for they change without a change of the membership.
    pub(super) Types:
        D = Command,
        R = Bytes,
        NodeId = Seat,
        Node = EmptyNode,
        AsyncRuntime = Runtime,
);

pub(super) type Raft = openraft::Raft<Types, Machine>;
pub(super) type Entry = EntryOf<Types>;
pub(super) type LogId = LogIdOf<Types>;
pub(super) type LeaderId = LeaderIdOf<Types>;
pub(super) type Vote = VoteOf<Types>;
pub(super) type Membership = openraft::Membership<Seat, EmptyNode>;
pub(super) type StoredMembership = StoredMembershipOf<Types>;
pub(super) type SnapshotMeta = SnapshotMetaOf<Types>;
pub(super) type Snapshot = SnapshotOf<Types, SnapshotData>;

/// A member as openraft knows it: a node, and the number under which it has the group.
///
/// Who has lost its log must not take part under the same identifier again, for others may count on what it had. A node that gives its
/// replica up and gets another one has the group under another number then, and nothing that is meant for the one reaches the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Seat {
    pub(super) node: u64,
    pub(super) group: u64,
}

impl Seat {
    pub(super) fn new(node: u64, group: GroupId) -> Self {
        Self { node, group: group.0 }
    }
}

impl fmt::Display for Seat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.node, self.group)
    }
}

/// A command of the state machine. What it says is not for logs.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Command(pub(super) Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

/// Runs what waits for the disk beside the runtime. A simulation has one thread and one order of events: there it runs at once.
#[cfg(not(feature = "simulation"))]
pub(crate) async fn blocking<T, F>(work: F) -> T
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await, // The runtime ends, and this future with it.
        },
    }
}
#[cfg(feature = "simulation")]
pub(crate) async fn blocking<T, F: FnOnce() -> T>(work: F) -> T {
    work()
}
