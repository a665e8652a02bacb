//! The meta group: how a node becomes a member of the cluster, remains one, and changes what all of them agree on.
//!
//! [`Meta::open`] opens the group and its services, [`Meta::run`] starts the tasks: founding or finding a cluster
//! (`founding`), being a member (`member`), and, while this node leads, looking after the others (`leader`).
//!
//! # Invariants
//!
//! - Exactly one cluster is founded, see `bootstrap`.
//! - A node acts as a member only while its [`Lease`] is valid, and the lease ends before the leader can declare the node down.
//!   When it has lapsed the node is admitted anew, in a new incarnation, or not at all.
//! - A node that has lost its log does not start under its old identity, so it cannot vote twice.
//! - A command enters the log only if it decodes. The outcome of a proposal is told as unknown when it is.

mod admission;
mod bootstrap;
mod founding;
mod leader;
mod lease;
mod machine;
mod member;
mod options;
mod propose;
mod recover;
mod service;
mod shared;
mod status;
#[cfg(test)]
mod tests;
mod voters;
mod wire;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use flotilla_rpc::membership::membership_server::MembershipServer;
use flotilla_state::{ClusterState, Command, LogIndex, Member, NewStatus, NodeId, Reply};
use flotilla_wal::{Files, Wal};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

pub use lease::Lease;
pub use machine::Observer;
pub use options::{MetaError, MetaOptions, Storage};
pub use propose::ProposeError;
pub use recover::{RecoverError, Recovery};
pub use status::{ChangeError, MetaStatus};

use self::{
    lease::Timing,
    machine::{Machine, Progress},
    service::MembershipService,
    shared::{Departure, Shared},
};
use crate::{
    clock,
    group::{Group, GroupId, GroupOptions, State},
    peers::{
        Connector, Gate, Identity, Local, MESSAGE_BYTES_MAX, Peers, PeersOptions, RaftService, RaftTransport,
        Resolver,
    },
};

/// The meta group as this node takes part in it. Clones share it.
#[derive(Clone)]
pub struct Meta(Arc<Shared>);

/// What the meta group serves on the cluster port, behind [`Services::gate`].
pub struct Services {
    /// Raft, for every group of the node.
    pub raft: RaftService,
    /// What every request must pass.
    pub gate: Gate,
    membership: MembershipService,
}

impl Services {
    /// Both services; others are added to what comes out.
    pub fn routes(&self) -> Routes {
        let membership = MembershipServer::new(self.membership.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Routes::new(membership).add_service(self.raft.clone().into_server())
    }
}

impl Meta {
    /// Opens the meta group of a node. Nothing is sent before [`Meta::run`].
    ///
    /// # Errors
    /// The options contradict each other, or what the disk holds does not fit.
    pub async fn open(
        options: MetaOptions,
        storage: Storage,
        connector: Arc<dyn Connector>,
        observer: Arc<dyn Observer>,
    ) -> Result<(Self, Services), MetaError> {
        let resolver = Resolver::new(options.discovery.clone())?;
        Self::open_with(options, storage, connector, observer, resolver).await
    }

    async fn open_with(
        options: MetaOptions,
        storage: Storage,
        connector: Arc<dyn Connector>,
        observer: Arc<dyn Observer>,
        resolver: Resolver,
    ) -> Result<(Self, Services), MetaError> {
        options.check()?;
        let Storage { identity, wal, files, dir } = storage;
        let node = identity.node();
        let attempt = identity
            .attempt()
            .map(|bytes| wire::attempt_from_bytes(&bytes))
            .transpose()
            .map_err(crate::peers::IdentityError::Damaged)?;
        let local = Local::new(node, &options.cluster_name, options.secret.clone());
        local.update(|bound| {
            bound.cluster = identity.cluster_id();
            bound.attempt = attempt.as_ref().map(|attempt| attempt.cluster_id);
        });
        let timing = Timing { node_down_after: options.node_down_after };
        let peers = Peers::new(local.clone(), peers_options(&timing), connector);
        let state = Arc::new(RwLock::new(ClusterState::new()));
        let (progress_sender, progress) = watch::channel(Progress::default());
        let machine = Machine {
            me: node,
            state: Arc::clone(&state),
            peers: peers.clone(),
            observer: Arc::clone(&observer),
            progress: progress_sender,
        };
        let group = Group::start(group_options(&options, wal, files, dir.join("meta"), machine)).await?;
        check_memory(&identity, &group)?;
        let raft = RaftService::new(node);
        raft.add(group.clone());
        let (founding, founding_inputs) = mpsc::channel(FOUNDING_INPUTS_MAX);
        let proposals = Semaphore::new(options.proposals_max.max(1));
        let shared = Arc::new(Shared {
            options,
            timing,
            identity: Arc::new(identity),
            local: local.clone(),
            peers,
            resolver,
            group,
            state,
            progress,
            observer,
            lease: Lease::new(clock::now()),
            me: watch::Sender::new(None),
            leases: Mutex::default(),
            refusals: Mutex::default(),
            spared: Mutex::default(),
            admitting: Mutex::default(),
            changing: tokio::sync::Mutex::new(()),
            attempt: RwLock::new(attempt),
            founding,
            founding_inputs: Mutex::new(Some(founding_inputs)),
            hint: Mutex::new(None),
            proposals,
            departure: watch::Sender::new(Departure::No),
            stop: CancellationToken::new(),
            tasks: Mutex::default(),
        });
        let membership = MembershipService::new(Arc::clone(&shared));
        Ok((Self(shared), Services { raft, gate: Gate::new(local), membership }))
    }

    /// Starts the tasks of the node. To be called once, when the services are served.
    pub fn run(&self) {
        let Some(inputs) = self.0.founding_inputs.lock().take() else { return };
        let shared = || Arc::clone(&self.0);
        self.0.tasks.lock().extend([
            tokio::spawn(founding::run(shared(), inputs)),
            tokio::spawn(member::run(shared())),
            tokio::spawn(leader::run(shared())),
        ]);
    }

    /// The life that this node leads; none while it is not admitted, or not any more.
    pub fn me(&self) -> watch::Receiver<Option<Member>> {
        self.0.me.subscribe()
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.0.local.node()
    }

    /// The right of this node to act as a member.
    pub fn lease(&self) -> &Lease {
        &self.0.lease
    }

    /// What the cluster agrees on, as far as this node has applied it.
    pub fn state(&self) -> Arc<RwLock<ClusterState>> {
        Arc::clone(&self.0.state)
    }

    /// The Raft group itself, for what this handle does not offer.
    pub fn group(&self) -> &Group {
        &self.0.group
    }

    /// The other nodes.
    pub fn peers(&self) -> &Peers {
        &self.0.peers
    }

    /// Proposes a command at whoever leads, again and again until `deadline` as long as it is known not to have been taken.
    /// Returns the index at which it was applied, and the answer. This node may apply it a moment later.
    ///
    /// # Errors
    /// See [`ProposeError`]; [`ProposeError::Unknown`] means that it may have been committed, or be yet.
    pub async fn propose(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<(LogIndex, Reply), ProposeError> {
        self.0.propose(command.encode(), deadline).await
    }

    /// Tells the cluster that this member serves.
    ///
    /// # Errors
    /// See [`Meta::propose`]; [`ProposeError::NotAdmitted`] while the node is no member.
    pub async fn set_up(&self, deadline: Instant) -> Result<Reply, ProposeError> {
        self.0.set_status(NewStatus::Up, deadline).await
    }

    /// Tells the cluster that this member is about to stop or to leave.
    ///
    /// # Errors
    /// As for [`Meta::set_up`].
    pub async fn drain(&self, deadline: Instant) -> Result<Reply, ProposeError> {
        self.0.set_status(NewStatus::Draining, deadline).await
    }

    /// Leaves the cluster for good: gives up the leadership and the vote, and is forgotten by the others. The node is no member
    /// afterwards and does not ask to be one before its next start. To be called once at a time, and awaited to its
    /// end: until then the node asks for admission no more.
    ///
    /// # Errors
    /// The others did not agree until `deadline`, or this is the last voter. The node stays a member then; should the answer
    /// alone be missing ([`ChangeError::Timeout`]), it asks for admission anew.
    pub async fn leave(&self, deadline: Instant) -> Result<(), ChangeError> {
        self.0.leave(deadline).await
    }

    /// Takes a node out of the cluster, dead or not.
    ///
    /// # Errors
    /// There is no such node, or no quorum until `deadline`.
    pub async fn remove(&self, node: NodeId, deadline: Instant) -> Result<(), ChangeError> {
        self.0.remove(node, deadline).await
    }

    /// Ends the life of this node at once, for what it cannot do any more without a restart; it asks for admission when it starts
    /// again. The others are told, so that they need not wait for its silence.
    pub async fn withdraw(&self, deadline: Instant) {
        self.0.departure.send_replace(Departure::Done);
        let member = *self.0.me.borrow();
        self.0.fence();
        let Some(member) = member else { return };
        if let Err(error) = self.propose(Command::NodeDown { member }, deadline).await {
            tracing::debug!(%error, "the others will notice by themselves that this node is gone");
        }
    }

    /// Gives the leadership to another voter, if this node leads and there is one. For a node that is about to stop.
    pub async fn hand_over_leadership(&self) -> bool {
        self.0.hand_over_leadership().await
    }

    /// How the group is doing.
    pub fn status(&self) -> MetaStatus {
        self.0.status()
    }

    /// Stops the tasks and the group; the node is fenced. The leadership should be handed over before, and the services not be
    /// served any more soon after: they hold the data directory.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        let tasks = std::mem::take(&mut *self.0.tasks.lock());
        for task in tasks {
            // One that has panicked has said so.
            let _ = task.await;
        }
        self.0.fence();
        self.0.group.shutdown().await;
    }
}

/// A peer that does not answer must be noticed well before the leader would declare it down.
fn peers_options(timing: &Timing) -> PeersOptions {
    PeersOptions {
        connect_timeout: timing.interval().max(Duration::from_millis(100)),
        keep_alive: timing.node_down_after / 2,
    }
}

/// What the group of the node `machine.me` works with.
fn group_options(
    options: &MetaOptions,
    wal: Wal,
    files: Arc<dyn Files>,
    snapshot_dir: PathBuf,
    machine: Machine,
) -> GroupOptions {
    GroupOptions {
        id: META,
        me: machine.me.0,
        heartbeat: options.heartbeat,
        election: options.election.clone(),
        log_bytes_max: options.log_bytes_max,
        log_entries_kept: options.log_entries_kept,
        snapshot_timeout: GroupOptions::SNAPSHOT_TIMEOUT,
        snapshot_dir,
        files,
        wal,
        transport: Arc::new(RaftTransport::new(machine.peers.clone())),
        state: State::InMemory(Box::new(machine)),
    }
}

/// The identity and the log must be of one node: with either lost, it could vote twice.
fn check_memory(identity: &Identity, group: &Group) -> Result<(), MetaError> {
    let is_bound = identity.has_log() || identity.cluster_id().is_some() || identity.attempt().is_some();
    match group.is_pristine() {
        true if identity.has_log() => Err(MetaError::LogLost),
        false if !is_bound => Err(MetaError::IdentityLost),
        _ => Ok(()),
    }
}

impl std::fmt::Debug for Meta {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Meta").field("peers", &self.0.peers).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Services {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Services").field("gate", &self.gate).finish_non_exhaustive()
    }
}

/// The number of the group, on every node: a node that has lost its log comes back under another identifier.
const META: GroupId = GroupId(0);

/// Answers and requests that wait for the task that founds or finds a cluster.
const FOUNDING_INPUTS_MAX: usize = 256;
