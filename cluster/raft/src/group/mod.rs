//! One Raft group, whatever it replicates.
//!
//! [`Group`] is the handle. It is built around openraft with what that library leaves to its user: the log in the
//! write-ahead log of the node, the snapshot files, the messages between nodes, and the settings that are not optional.
//!
//! Invariants:
//! - Nothing is answered before it is on the disk, and in the order in which it was asked for: votes, entries, truncations.
//! - The log is cut only where something that is on the disk replaces it: a snapshot of a state in memory, or a state that is
//!   durable by itself, up to the position that it has there.
//! - What another member sends replaces the state only after all of it is here and was verified.
//! - Bytes of the disk or of a peer that do not decode are an error. A group that meets such bytes of its own, or a command
//!   that its state machine refuses, stops and says why in [`GroupStatus::failed`].
//!
//! Absent on purpose: reads through the leader (every member has the state), and retries of proposals (callers know
//! whether a command may be applied twice).

mod error;
mod log;
mod machine;
mod monitor;
mod network;
pub(crate) mod offline;
mod options;
mod ports;
mod rest;
mod snapshot;
mod status;
mod submit;
#[cfg(test)]
mod tests;
mod types;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::async_runtime::WatchReceiver;
use openraft::error::{
    ChangeMembershipError, ClientWriteError, Fatal, ForwardToLeader, InitializeError, RaftError,
};
use openraft::{ChangeMembers, EmptyNode};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use log::LogStore;
use machine::{Durable, Failure, Machine, Memory, Outgoing};
use monitor::{Monitor, SnapshotTrigger};
use network::Peers;
use rest::Rest;
use snapshot::{SnapshotData, SnapshotStore};
use submit::{Submissions, Submitter};
pub(crate) use types::blocking;
use types::{Command, Raft, Seat, Snapshot, Types};

pub use error::{Corrupt, DecodeError, GroupError, ProposeError, Refused, SnapshotError, Unreachable};
pub use options::GroupOptions;
pub use ports::{Checkpoint, DurableState, GroupId, SnapshotChunks, State, StateMachine, Transport};
pub use status::{GroupStatus, Role};

/// The greatest chunk of a snapshot between nodes.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize = 256 * 1024;

/// The greatest command. One entry must fit a message between nodes.
pub const COMMAND_BYTES_MAX: usize = 2 * 1024 * 1024;

/// A member's handle of a Raft group. Clones share it; the group ends with the last of them, or by [`Group::shutdown`].
#[derive(Clone)]
pub struct Group {
    inner: Arc<Inner>,
}

struct Inner {
    id: GroupId,
    me: u64,
    election: Range<Duration>,
    raft: Raft,
    log: LogStore,
    snapshots: Arc<SnapshotStore>,
    /// The disk had a state at the start, or a snapshot of it.
    has_state: bool,
    failure: Failure,
    status: watch::Receiver<GroupStatus>,
    role: watch::Receiver<(Role, u64)>,
    monitor: JoinHandle<()>,
    submissions: Arc<Submissions>,
    submitter: JoinHandle<()>,
    /// Held while a snapshot is received: one at a time, so that the disk holds at most three.
    receiving: Mutex<()>,
    /// Ends what openraft does not: its state machine, where that waits for the disk.
    ended: CancellationToken,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.monitor.abort();
        self.submitter.abort();
        // openraft goes on without its handle.
        let (raft, ended) = (self.raft.clone(), self.ended.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // Whatever it says.
                let _ = raft.shutdown().await;
                ended.cancel();
            });
        }
    }
}

impl Group {
    /// Opens the group: restores the state machine from the snapshot and the log, and takes part from then on.
    ///
    /// # Errors
    /// The options are not usable, or what the disk holds is damaged.
    pub async fn start(options: GroupOptions) -> Result<Self, GroupError> {
        let config = options.config()?;
        let failure = Failure::default();
        let log = LogStore::open(options.wal, options.id)?;
        let (dir, files) = (options.snapshot_dir, options.files);
        let snapshots = Arc::new(blocking(move || SnapshotStore::open(dir, files)).await?);
        let outgoing = Outgoing::default();
        let ended = CancellationToken::new();
        let (machine, has_state) = match options.state {
            State::InMemory(state) => {
                snapshots.require(log.purged())?;
                let has_state = snapshots.current().is_some();
                (Machine::Memory(Memory::new(state, Arc::clone(&snapshots), failure.clone())), has_state)
            }
            State::Durable(state) => {
                let (outgoing, ends) = (outgoing.clone(), (failure.clone(), ended.clone()));
                let machine = Durable::open(options.id, state, log.purged(), outgoing, ends)?;
                let has_state = !machine.is_pristine();
                (Machine::Durable(machine), has_state)
            }
        };
        let peers = Peers {
            transport: options.transport,
            append_ttl: options.election.start,
            failure: failure.clone(),
        };
        let raft =
            Raft::new(Seat::new(options.me, options.id), Arc::new(config), peers, log.clone(), machine)
                .await
                .map_err(|fatal| GroupError::Storage(reason(&failure, &fatal)))?;
        outgoing.allow();
        // Until its first turn the status would be that of an empty group.
        raft.with_raft_state(|_| ()).await.map_err(|fatal| GroupError::Storage(reason(&failure, &fatal)))?;

        let now = current_status(&raft, &log, &failure);
        if now.voters == BTreeSet::from([options.me]) && !now.is_joint {
            // There is nobody to wait for.
            raft.trigger()
                .elect(false)
                .await
                .map_err(|fatal| GroupError::Storage(reason(&failure, &fatal)))?;
        }

        let (role_sender, role) = watch::channel((now.role, now.term));
        let (sender, status) = watch::channel(now);
        let monitor = Monitor {
            group: options.id,
            me: options.me,
            raft: raft.clone(),
            log: log.clone(),
            failure: failure.clone(),
            status: sender,
            role: role_sender,
            snapshots: SnapshotTrigger::new(options.log_bytes_max),
            rest: Rest::new(tokio::time::Instant::now()),
            outgoing,
            handed_over_in: None,
            is_clock_stopped: false,
        };
        let submissions = Submissions::new(failure.clone());
        let submitter = Submitter::new(raft.clone(), Arc::clone(&submissions));
        let inner = Inner {
            id: options.id,
            me: options.me,
            election: options.election,
            raft,
            log,
            snapshots,
            has_state,
            failure,
            status,
            role,
            monitor: tokio::spawn(monitor.run()),
            submissions,
            submitter: tokio::spawn(submitter.run()),
            receiving: Mutex::new(()),
            ended,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Which group this is.
    pub fn id(&self) -> GroupId {
        self.inner.id
    }

    /// Whether this node belongs to a group: it has taken part in an election, or has a part of the log.
    pub async fn is_initialized(&self) -> bool {
        self.inner.raft.is_initialized().await.unwrap_or(true) // A group that has stopped is not to be made anew.
    }

    /// Whether this node has neither voted nor any part of the log, so that nothing is lost if it joins another group.
    pub fn is_pristine(&self) -> bool {
        self.inner.log.is_pristine() && !self.inner.has_state
    }

    /// Waits until what the log has so far is on the disk; false: it could not be written.
    pub async fn is_on_disk(&self) -> bool {
        self.inner.log.flush().await.is_ok()
    }

    /// Makes a group of a pristine node and others like it, each with the number under which it has the group. Called on one or on all
    /// of them, with the same voters.
    ///
    /// # Errors
    /// [`GroupError::Initialized`] when it is one already.
    pub async fn initialize(&self, voters: BTreeMap<u64, GroupId>) -> Result<(), GroupError> {
        let voters: BTreeSet<Seat> = voters.into_iter().map(|(node, group)| Seat::new(node, group)).collect();
        self.inner.raft.initialize(voters).await.map_err(|error| match error {
            RaftError::APIError(InitializeError::NotAllowed(_)) => GroupError::Initialized,
            RaftError::APIError(error @ InitializeError::NotInMembers(_)) => {
                GroupError::Membership(error.to_string())
            }
            RaftError::Fatal(fatal) => self.stopped(&fatal),
        })
    }

    /// Proposes a command; returns its index and the answer of the state machine, after this node has applied it.
    ///
    /// There is no deadline: a leader without a quorum waits until it hears of another leader.
    ///
    /// # Cancel safety
    /// A command whose future is dropped may still be committed.
    ///
    /// # Errors
    /// See [`ProposeError`]: some of them leave the fate of the command unknown.
    pub async fn propose(&self, command: Bytes) -> Result<(u64, Bytes), ProposeError> {
        let (bytes, limit) = (command.len(), COMMAND_BYTES_MAX);
        if bytes > limit {
            return Err(ProposeError::TooLarge { bytes, limit });
        }
        match self.inner.raft.client_write(Command(command)).await {
            Ok(response) => Ok((response.log_id.index(), response.data)),
            Err(RaftError::APIError(error)) => Err(ProposeError::of(&error)),
            Err(RaftError::Fatal(fatal)) => Err(ProposeError::Stopped(reason(&self.inner.failure, &fatal))),
        }
    }

    /// Proposes a command, and does not wait. `done` is told what [`Group::propose`] would return, once, also when the group stops or
    /// is dropped. It is called on a thread of the group, or before this returns where the command is not even queued: it must be
    /// short.
    ///
    /// Commands that one caller submits one after the other are committed in that order. When one is not, those that were submitted
    /// after it and before its `done` was told are not committed either, and are told [`ProposeError::NotLeader`]; their caller can
    /// so submit them again, in order. The commands of [`Group::propose`] stand in no order to these.
    ///
    /// So many commands and bytes may be without an answer that a pipeline is never short of them; beyond, `done` is told
    /// [`ProposeError::Full`].
    pub fn submit(
        &self,
        command: Bytes,
        done: impl FnOnce(Result<(u64, Bytes), ProposeError>) + Send + 'static,
    ) {
        self.inner.submissions.submit(command, done);
    }

    /// Adds a member without a vote, which has the group under this number; done when the change is committed, not when the member has
    /// caught up. Adding a member again changes nothing. As with [`Group::propose`] there is no deadline.
    ///
    /// # Errors
    /// This node does not lead, another change is under way, or the node is a member under another number.
    pub async fn add_learner(&self, node: u64, group: GroupId) -> Result<(), GroupError> {
        let status = self.leading()?;
        match status.members.get(&node) {
            Some(known) if *known == group => return Ok(()),
            Some(known) => {
                let reason = format!("node {node} is a member with another replica ({known}, not {group})");
                return Err(GroupError::Membership(reason));
            }
            None => {}
        }
        let result = self.inner.raft.add_learner(Seat::new(node, group), EmptyNode {}, false).await;
        self.membership_changed(result.map(drop))
    }

    /// Makes these, and no others, the voters. New ones must be learners; former ones become learners. Ends an interrupted
    /// change, too. As with [`Group::propose`] there is no deadline.
    ///
    /// # Errors
    /// This node does not lead, a voter is no member, or another change is under way.
    pub async fn change_voters(&self, voters: BTreeSet<u64>) -> Result<(), GroupError> {
        let status = self.leading()?;
        if status.voters == voters && !status.is_joint {
            return Ok(());
        }
        let seat = |node: &u64| status.members.get(node).map(|group| Seat::new(*node, *group));
        let seats: Option<BTreeSet<Seat>> = voters.iter().map(seat).collect();
        let seats = seats.ok_or_else(|| GroupError::Membership("a voter is no member".to_owned()))?;
        let result = self.inner.raft.change_membership(seats, true).await;
        self.membership_changed(result.map(drop))
    }

    /// Takes a learner out of the group. Nothing changes when it is no member. As with [`Group::propose`] there is no deadline.
    ///
    /// # Errors
    /// This node does not lead, the member is a voter, or another change is under way.
    pub async fn remove_learner(&self, node: u64) -> Result<(), GroupError> {
        let status = self.leading()?;
        if status.voters.contains(&node) {
            return Err(GroupError::Membership(format!("node {node} votes")));
        }
        let Some(group) = status.members.get(&node) else { return Ok(()) };
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([Seat::new(node, *group)]));
        let result = self.inner.raft.change_membership(change, true).await;
        self.membership_changed(result.map(drop))
    }

    /// Hands the leadership to a voter, and waits until it leads.
    ///
    /// The leader takes no commands from then on. Should the other one fail to take over, then nobody leads until the next
    /// election.
    ///
    /// # Errors
    /// This node does not lead, `to` is no voter or does not answer, or it did not take over within an election timeout.
    pub async fn transfer_leadership(&self, to: u64) -> Result<(), GroupError> {
        let status = self.leading()?;
        if to == self.inner.me {
            return Ok(());
        }
        let Some(group) = status.members.get(&to).filter(|_| status.voters.contains(&to)) else {
            return Err(GroupError::Transfer(format!("node {to} does not vote")));
        };
        let seat = Seat::new(to, *group);
        let has_answered = status.millis_since_answer.get(&to);
        if has_answered.is_none_or(|millis| Duration::from_millis(*millis) >= self.inner.election.start) {
            return Err(GroupError::Transfer(format!("node {to} does not answer")));
        }
        self.inner.raft.trigger().transfer_leader(seat).await.map_err(|fatal| self.stopped(&fatal))?;

        let mut watch = self.watch();
        let taken = watch.wait_for(|status| {
            status.leader.is_some_and(|leader| leader != self.inner.me) || status.role == Role::Stopped
        });
        match tokio::time::timeout(self.inner.election.end, taken).await {
            Ok(Ok(status)) if status.leader == Some(to) => Ok(()),
            Ok(Ok(status)) => Err(GroupError::Transfer(match status.leader {
                Some(other) => format!("node {other} leads instead of node {to}"),
                None => "the group has stopped".to_owned(),
            })),
            Ok(Err(_)) => Err(GroupError::Transfer("the group has stopped".to_owned())),
            Err(_) => Err(GroupError::Transfer(format!("node {to} did not take over in time"))),
        }
    }

    /// How the group is doing now.
    pub fn status(&self) -> GroupStatus {
        current_status(&self.inner.raft, &self.inner.log, &self.inner.failure)
    }

    /// Tells changes of [`Group::status`].
    pub fn watch(&self) -> watch::Receiver<GroupStatus> {
        self.inner.status.clone()
    }

    /// Tells changes of the role and the term: rare ones, where the status changes with every entry.
    pub fn watch_role(&self) -> watch::Receiver<(Role, u64)> {
        self.inner.role.clone()
    }

    /// Makes a snapshot now, or brings a durable state to the disk, whatever the length of the log, and cuts the log. Returns before
    /// it is done: [`GroupStatus::snapshot`] tells.
    ///
    /// # Errors
    /// The group has stopped.
    pub async fn make_snapshot(&self) -> Result<(), GroupError> {
        self.inner.raft.trigger().snapshot().await.map_err(|fatal| self.stopped(&fatal))
    }

    /// Answers a [`Transport::append`] of a peer.
    ///
    /// # Errors
    /// The request is not understood, or the group has stopped.
    pub async fn handle_append(&self, request: Bytes) -> Result<Bytes, GroupError> {
        let request = wire::decode_append_request(request)?;
        let reply = self.inner.raft.append_entries(request).await.map_err(|error| self.failed(error))?;
        Ok(wire::encode_append_reply(&reply))
    }

    /// Answers a [`Transport::vote`] of a peer.
    ///
    /// # Errors
    /// The request is not understood, or the group has stopped.
    pub async fn handle_vote(&self, request: Bytes) -> Result<Bytes, GroupError> {
        let request = wire::decode_vote_request(request)?;
        let reply = self.inner.raft.vote(request).await.map_err(|error| self.failed(error))?;
        Ok(wire::encode_vote_reply(&reply))
    }

    /// Answers a [`Transport::pre_vote`] of a peer.
    ///
    /// # Errors
    /// The request is not understood, or the group has stopped.
    pub async fn handle_pre_vote(&self, request: Bytes) -> Result<Bytes, GroupError> {
        let request = wire::decode_vote_request(request)?;
        let reply = self.inner.raft.pre_vote(request).await.map_err(|error| self.failed(error))?;
        Ok(wire::encode_vote_reply(&reply))
    }

    /// Answers a [`Transport::transfer`] of a peer.
    ///
    /// # Errors
    /// The request is not understood, or the group has stopped.
    pub async fn handle_transfer(&self, request: Bytes) -> Result<Bytes, GroupError> {
        let request = wire::decode_transfer_request(request)?;
        let reply =
            self.inner.raft.handle_transfer_leader(request).await.map_err(|fatal| self.stopped(&fatal))?;
        Ok(wire::encode_transfer_reply(&reply))
    }

    /// Answers a [`Transport::snapshot`] of a peer: the snapshot goes to a file, is verified, and only then replaces the state.
    ///
    /// # Errors
    /// What came is not a whole snapshot or stopped coming, the disk failed, or the group has stopped.
    pub async fn handle_snapshot<S>(&self, chunks: S) -> Result<Bytes, GroupError>
    where
        S: Stream<Item = io::Result<Bytes>> + Send,
    {
        let _alone = self.inner.receiving.try_lock().map_err(|_| received("another one is under way"))?;
        let mut chunks = std::pin::pin!(chunks);
        let head = next_chunk(&mut chunks).await?.ok_or_else(|| received("nothing came"))?;
        let head = wire::decode_snapshot_head(head)?;
        // openraft takes both for granted.
        let last = head.meta.last_log_id.ok_or_else(|| received("it holds nothing"))?;
        if !head.vote.committed || *last.committed_leader_id() > head.vote.leader_id {
            return Err(received("it does not come from a leader, or is newer than that"));
        }

        let store = Arc::clone(&self.inner.snapshots);
        let file_bytes = head.file_bytes;
        let mut receiving = blocking(move || store.receive(file_bytes)).await?;
        while let Some(chunk) = next_chunk(&mut chunks).await? {
            receiving = blocking(move || receiving.push(&chunk).map(|()| receiving)).await?;
        }
        let meta = head.meta.clone();
        let snapshot = blocking(move || receiving.finish(&meta)).await?;

        let snapshot = Snapshot { meta: head.meta, snapshot: SnapshotData::File(snapshot) };
        let reply = self
            .inner
            .raft
            .install_full_snapshot(head.vote, snapshot)
            .await
            .map_err(|fatal| self.stopped(&fatal))?;
        tracing::info!(
            group = %self.inner.id,
            index = last.index(),
            bytes = file_bytes,
            "this node lacked too much of the log: it has caught up by a snapshot of the leader"
        );
        Ok(wire::encode_snapshot_reply(&reply))
    }

    /// Stops the group, and waits until it has stopped. The write-ahead log stays open for other groups.
    pub async fn shutdown(&self) {
        if let Err(error) = self.inner.log.note_committed().await {
            // The group has lost its log, and has said so already.
            tracing::debug!(error = %error, group = %self.inner.id, "cannot note what is committed");
        }
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::error!(error = %error, group = %self.inner.id, "the Raft group did not stop as it should");
        }
        self.inner.ended.cancel();
    }

    /// Stops the group, and forgets its log and its votes, durably: for a node that is no member of it any more. The state is the
    /// caller's to remove, after this: a log that was cut does not start without it.
    ///
    /// Whether the node is a member is for the caller to know: one that was cut off when it was removed has not heard of it. One that
    /// still counts as a voter must not do this, for it could vote twice in a term.
    ///
    /// # Errors
    /// The log could not be written.
    pub async fn forget(self) -> io::Result<()> {
        self.shutdown().await;
        self.inner.log.forget().await
    }

    /// The status, on the leader.
    fn leading(&self) -> Result<GroupStatus, GroupError> {
        let status = self.status();
        match status.role {
            Role::Leader => Ok(status),
            Role::Stopped => Err(GroupError::Stopped(status.failed.unwrap_or_else(|| STOPPED.to_owned()))),
            Role::Learner | Role::Follower | Role::Candidate => {
                Err(GroupError::NotLeader { leader: status.leader })
            }
        }
    }

    fn membership_changed(
        &self,
        result: Result<(), RaftError<Types, ClientWriteError<Types>>>,
    ) -> Result<(), GroupError> {
        result.map_err(|error| match error {
            RaftError::APIError(
                ClientWriteError::ForwardToLeader(ForwardToLeader { leader_id, .. })
                | ClientWriteError::LogEntryDiscarded(ForwardToLeader { leader_id, .. }),
            ) => GroupError::NotLeader { leader: leader_id.map(|seat| seat.node) },
            RaftError::APIError(ClientWriteError::ChangeMembershipError(
                error @ (ChangeMembershipError::InProgress(_)
                | ChangeMembershipError::UncommittedLeaderLog(_)),
            )) => GroupError::Busy(error.to_string()),
            RaftError::APIError(error) => GroupError::Membership(error.to_string()),
            RaftError::Fatal(fatal) => self.stopped(&fatal),
        })
    }

    fn failed(&self, error: RaftError<Types>) -> GroupError {
        match error {
            RaftError::Fatal(fatal) => self.stopped(&fatal),
        }
    }

    fn stopped(&self, fatal: &Fatal<Types>) -> GroupError {
        GroupError::Stopped(reason(&self.inner.failure, fatal))
    }
}

fn current_status(raft: &Raft, log: &LogStore, failure: &Failure) -> GroupStatus {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    GroupStatus::new(&metrics, log.bytes(), |fatal| reason(failure, fatal))
}

/// Why the group has stopped.
fn reason(failure: &Failure, fatal: &Fatal<Types>) -> String {
    match (failure.reason(), fatal) {
        (Some(reason), _) => reason.to_owned(),
        (None, Fatal::Stopped) => STOPPED.to_owned(),
        (None, fatal) => fatal.to_string(),
    }
}

/// Runs what starts a group, and whatever that starts, with elections by a seed. In a simulation no group starts without.
#[cfg(feature = "simulation")]
pub async fn with_seed<F: Future>(seed: u64, start: F) -> F::Output {
    types::Runtime::scope(seed, start).await
}

async fn next_chunk<S>(chunks: &mut std::pin::Pin<&mut S>) -> Result<Option<Bytes>, GroupError>
where
    S: Stream<Item = io::Result<Bytes>>,
{
    match tokio::time::timeout(SNAPSHOT_CHUNK_PAUSE_MAX, chunks.next()).await {
        Ok(chunk) => Ok(chunk.transpose().map_err(|error| received(&error.to_string()))?),
        Err(_) => Err(received("it stopped coming")),
    }
}

fn received(reason: &str) -> GroupError {
    SnapshotError::Received(reason.to_owned()).into()
}

const STOPPED: &str = "on request";

/// A snapshot that pauses for longer is given up, so that another can come.
const SNAPSHOT_CHUNK_PAUSE_MAX: Duration = Duration::from_secs(10);
