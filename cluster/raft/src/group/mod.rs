//! One Raft group, whatever it replicates.
//!
//! [`Group`] is the handle. It is built around openraft with what that library leaves to its user: the log in the
//! write-ahead log of the node, the snapshot files, the messages between nodes, and the settings that are not optional.
//!
//! Invariants:
//! - Nothing is answered before it is on the disk, and in the order in which it was asked for: votes, entries, truncations.
//! - The log is cut only where a snapshot that is on the disk replaces it.
//! - Bytes of the disk or of a peer that do not decode are an error. A group that meets such bytes of its own, or a command
//!   that its state machine refuses, stops and says why in [`GroupStatus::failed`].
//!
//! Absent on purpose: reads through the leader (every member has the state), and retries of proposals (callers know
//! whether a command may be applied twice).

mod error;
mod ports;
mod status;

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::watch;

pub use error::{Corrupt, DecodeError, GroupError, ProposeError, SnapshotError, Unreachable};
pub use ports::{GroupId, Log, LogContents, LogRecord, StateMachine, Transport};
pub use status::{GroupStatus, Role};

/// The greatest chunk of a snapshot between nodes.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize = 256 * 1024;

/// The greatest command. One entry must fit a message between nodes.
pub const COMMAND_BYTES_MAX: usize = 2 * 1024 * 1024;

/// What a group is started with.
pub struct GroupOptions {
    /// Names the group within the node and the cluster.
    pub id: GroupId,
    /// This node.
    pub me: u64,
    /// The interval of heartbeats of the leader.
    pub heartbeat: Duration,
    /// A follower that hears nothing from the leader stands for election after a time drawn from this range.
    pub election: Range<Duration>,
    /// A snapshot is made, and the log cut, when the log exceeds this. See [`GroupOptions::LOG_BYTES_MAX`].
    pub log_bytes_max: u64,
    /// Entries before the snapshot that are kept for followers that are a little behind.
    pub log_entries_kept: u64,
    /// How long sending and installing a snapshot may take.
    pub snapshot_timeout: Duration,
    /// The folder of the snapshots of this group, of nothing else. It is created.
    pub snapshot_dir: PathBuf,
    /// The log of this group.
    pub log: Arc<dyn Log>,
    /// What is replicated.
    pub state_machine: Box<dyn StateMachine>,
    /// The way to the other nodes.
    pub transport: Arc<dyn Transport>,
}

impl GroupOptions {
    /// The default of `heartbeat`.
    pub const HEARTBEAT: Duration = Duration::from_millis(300);
    /// The default of `election`.
    pub const ELECTION: Range<Duration> = Duration::from_millis(1_500)..Duration::from_millis(3_000);
    /// The default of `log_bytes_max`.
    pub const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;
    /// The default of `log_entries_kept`.
    pub const LOG_ENTRIES_KEPT: u64 = 256;
    /// The default of `snapshot_timeout`.
    pub const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(300);
}

/// A member's handle of a Raft group. Clones share it.
#[derive(Clone)]
pub struct Group;

impl Group {
    /// Opens the group: restores the state machine from the snapshot and the log, and takes part from then on.
    ///
    /// # Errors
    /// The options are not usable, or what the disk holds is damaged.
    pub async fn start(_options: GroupOptions) -> Result<Self, GroupError> {
        Err(GroupError::Stopped("not built yet".into()))
    }

    /// Which group this is.
    pub fn id(&self) -> GroupId {
        GroupId(0)
    }

    /// Whether the group has members, as far as this node knows.
    pub async fn is_initialized(&self) -> bool {
        false
    }

    /// Whether this node has neither voted nor any part of the log, so that nothing is lost if it joins another group.
    pub fn is_pristine(&self) -> bool {
        false
    }

    /// Makes a group of a pristine node and others like it. Called on one or on all of them, with the same voters.
    ///
    /// # Errors
    /// [`GroupError::Initialized`] when it is one already.
    pub async fn initialize(&self, _voters: BTreeSet<u64>) -> Result<(), GroupError> {
        Err(GroupError::Initialized)
    }

    /// Proposes a command; returns its index and the answer of the state machine, after this node has applied it.
    ///
    /// # Errors
    /// See [`ProposeError`]: some of them leave the fate of the command unknown.
    pub async fn propose(&self, _command: Bytes) -> Result<(u64, Bytes), ProposeError> {
        Err(ProposeError::NotLeader { leader: None })
    }

    /// Adds a member without a vote; done when the change is committed, not when the member has caught up. Adding a member
    /// again changes nothing.
    ///
    /// # Errors
    /// This node does not lead, or another change is under way.
    pub async fn add_learner(&self, _node: u64) -> Result<(), GroupError> {
        Err(GroupError::NotLeader { leader: None })
    }

    /// Makes these, and no others, the voters. New ones must be learners; former ones become learners. Ends an interrupted
    /// change, too.
    ///
    /// # Errors
    /// This node does not lead, a voter is no member, or another change is under way.
    pub async fn change_voters(&self, _voters: BTreeSet<u64>) -> Result<(), GroupError> {
        Err(GroupError::NotLeader { leader: None })
    }

    /// Takes a learner out of the group. Nothing changes when it is no member.
    ///
    /// # Errors
    /// This node does not lead, the member is a voter, or another change is under way.
    pub async fn remove_learner(&self, _node: u64) -> Result<(), GroupError> {
        Err(GroupError::NotLeader { leader: None })
    }

    /// Hands the leadership to a voter, and waits until another node leads.
    ///
    /// # Errors
    /// This node does not lead, `to` is no voter, or it did not take over within an election timeout.
    pub async fn transfer_leadership(&self, _to: u64) -> Result<(), GroupError> {
        Err(GroupError::NotLeader { leader: None })
    }

    /// How the group is doing now.
    pub fn status(&self) -> GroupStatus {
        GroupStatus::default()
    }

    /// Tells changes of [`Group::status`].
    pub fn watch(&self) -> watch::Receiver<GroupStatus> {
        watch::channel(GroupStatus::default()).1
    }

    /// Answers an [`Transport::append`] of a peer.
    ///
    /// # Errors
    /// The request is not understood, or the group has stopped.
    pub async fn handle_append(&self, _request: Bytes) -> Result<Bytes, GroupError> {
        Err(GroupError::Stopped("not built yet".into()))
    }

    /// Answers a [`Transport::vote`] of a peer.
    ///
    /// # Errors
    /// The request is not understood, or the group has stopped.
    pub async fn handle_vote(&self, _request: Bytes) -> Result<Bytes, GroupError> {
        Err(GroupError::Stopped("not built yet".into()))
    }

    /// Answers a [`Transport::pre_vote`] of a peer.
    ///
    /// # Errors
    /// The request is not understood, or the group has stopped.
    pub async fn handle_pre_vote(&self, _request: Bytes) -> Result<Bytes, GroupError> {
        Err(GroupError::Stopped("not built yet".into()))
    }

    /// Answers a [`Transport::transfer`] of a peer.
    ///
    /// # Errors
    /// The request is not understood, or the group has stopped.
    pub async fn handle_transfer(&self, _request: Bytes) -> Result<Bytes, GroupError> {
        Err(GroupError::Stopped("not built yet".into()))
    }

    /// Answers a [`Transport::snapshot`] of a peer.
    ///
    /// # Errors
    /// What came is not a whole snapshot, the disk failed, or the group has stopped.
    pub async fn handle_snapshot<S>(&self, _chunks: S) -> Result<Bytes, GroupError>
    where
        S: Stream<Item = io::Result<Bytes>> + Send,
    {
        Err(GroupError::Stopped("not built yet".into()))
    }

    /// Stops the group, and waits until it has stopped.
    pub async fn shutdown(&self) {}
}
