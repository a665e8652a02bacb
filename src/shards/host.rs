//! Which shards this node holds, and their groups.
//!
//! The state of the cluster says where replicas shall be. This node starts a group for each that shall be here, or that it has data
//! of, and takes a group away when it is neither wanted here nor a member.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use flotilla_raft::{
    group::{Group, GroupError, GroupId, GroupOptions, State},
    peers::{RaftService, RaftTransport},
};
use flotilla_shard::{FlushError, OpenError, Options, Shard};
use flotilla_state::{Command, Shard as Placed, ShardId};
use flotilla_store::{Store, StoreError};
use flotilla_wal::{Files, Wal};

use super::{
    Shards,
    desk::Desk,
    leader,
    replica::{Machine, Replica, Replicated},
};

/// What the groups of the shards need.
pub(crate) struct Ground {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) wal: Wal,
    pub(crate) files: Arc<dyn Files>,
    /// Where snapshots are that are on their way.
    pub(crate) dir: PathBuf,
    pub(crate) raft: RaftService,
    pub(crate) transport: Arc<RaftTransport>,
    /// The shards begin when so many nodes can hold them, or as many as hold each.
    pub(crate) founders_min: usize,
}

/// Why a replica cannot be had.
#[derive(Debug, thiserror::Error)]
enum HostError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("what the store has of it cannot be removed: {0}")]
    Erase(#[from] FlushError),
    #[error("what the store has of it cannot be removed: {0}")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Group(#[from] GroupError),
}

impl HostError {
    /// Whether it may be otherwise the next time, without an operator.
    fn passes(&self) -> bool {
        let is_full = |error: &StoreError| matches!(error, StoreError::Full { .. });
        match self {
            Self::Open(OpenError::Store(error))
            | Self::Erase(FlushError::Store(error))
            | Self::Store(error) => is_full(error),
            Self::Open(OpenError::Corrupt(_)) | Self::Erase(_) | Self::Group(_) => false,
        }
    }
}

/// How long one try of a proposal to the meta group may take.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a look at what shall be here waits for news.
const LOOK: Duration = Duration::from_secs(1);
const HEARTBEAT: Duration = Duration::from_millis(250);
pub(super) const ELECTION: std::ops::Range<Duration> =
    Duration::from_millis(750)..Duration::from_millis(1_250);
/// What the log of one shard may hold before its state is brought to the disk: with sixteen of them, a quarter of a GiB.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// Entries that are kept for members that are a little behind: each may be half a MiB.
const LOG_ENTRIES_KEPT: u64 = 128;

/// What is to be done about a shard on this node.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Start,
    Found,
    Remove,
    Nothing,
}

impl Shards {
    /// Holds what shall be here, for as long as the node runs.
    pub(super) async fn host(self: Arc<Self>) {
        while !self.has_ended.load(Ordering::SeqCst) {
            self.found().await;
            let shards: Vec<(ShardId, Placed)> =
                self.state().read().shards().iter().map(|(id, shard)| (id, shard.clone())).collect();
            for (id, placed) in shards {
                match self.step(id, &placed).await {
                    Ok(()) => {}
                    Err(error) if error.passes() => {
                        tracing::error!(shard = id.0, %error, "a replica of a shard cannot be had yet");
                    }
                    Err(error) => return self.fail(id, &error.to_string()).await,
                }
            }
            let _ = tokio::time::timeout(LOOK, self.changed.notified()).await;
        }
    }

    /// Has the groups of the shards begin once there are enough nodes for them.
    async fn found(&self) {
        let is_due = {
            let state = self.state().read();
            let Some(cluster) = state.cluster() else { return };
            let enough = usize::from(cluster.replicas).min(self.ground.founders_min);
            let holders = state.nodes().filter(|node| state.shards().is_holder(node.id)).count();
            holders >= enough && state.shards().iter().any(|(_, shard)| shard.founders.is_empty())
        };
        if is_due
            && let Err(error) =
                self.meta().propose(Command::FoundShards, Instant::now() + PROPOSE_TIMEOUT).await
        {
            tracing::debug!(%error, "the shards cannot begin yet");
        }
    }

    async fn step(self: &Arc<Self>, id: ShardId, placed: &Placed) -> Result<(), HostError> {
        let running = self.replica(id);
        match self.next_step(id, placed, running.as_deref()).await {
            Step::Nothing => {}
            Step::Start => {
                let replica = self.start(id).await?;
                self.replicas.write().insert(id, Arc::clone(&replica));
                // In this order, for whoever stops the node looks at the replicas after it has said so.
                if self.has_ended.load(Ordering::SeqCst) {
                    replica.group.shutdown().await;
                    return Ok(());
                }
                tokio::spawn(leader::run(replica, Arc::clone(self)));
                // A founder begins at once.
                self.changed.notify_one();
            }
            Step::Found => {
                let founders = placed.founders.iter().map(|node| node.0).collect();
                if let Some(replica) = running
                    && let Err(error) = replica.group.initialize(founders).await
                {
                    tracing::debug!(shard = id.0, %error, "the group of a shard has begun already");
                }
            }
            Step::Remove => self.remove(id).await?,
        }
        Ok(())
    }

    async fn next_step(&self, id: ShardId, placed: &Placed, running: Option<&Replica>) -> Step {
        let me = self.node();
        let is_wanted = placed.replicas.nodes.contains(&me);
        let is_member =
            placed.members.contains(&me) || placed.members.is_empty() && placed.founders.contains(&me);
        // Who is not admitted may not know yet that it shall be here.
        let is_admitted = self.meta().me().borrow().is_some();
        match running {
            None if is_wanted || is_member => Step::Start,
            None if is_admitted && self.ground.wal.groups().contains(&group_id(id).0) => Step::Remove,
            None => Step::Nothing,
            Some(replica) if placed.members.is_empty() && placed.founders.contains(&me) => {
                if replica.group.is_initialized().await { Step::Nothing } else { Step::Found }
            }
            Some(_) if is_admitted && !is_wanted && !is_member => Step::Remove,
            Some(_) => Step::Nothing,
        }
    }

    async fn start(&self, id: ShardId) -> Result<Arc<Replica>, HostError> {
        let Ground { store, wal, files, dir, raft, transport, .. } = &self.ground;
        let shard = Shard::open(id, Arc::clone(store), Options::default())?;
        let state = Arc::new(Replicated::new(shard, Arc::clone(store)));
        let options = GroupOptions {
            id: group_id(id),
            me: self.node().0,
            heartbeat: HEARTBEAT,
            election: ELECTION,
            log_bytes_max: LOG_BYTES_MAX,
            log_entries_kept: LOG_ENTRIES_KEPT,
            snapshot_timeout: GroupOptions::SNAPSHOT_TIMEOUT,
            snapshot_dir: dir.join(id.0.to_string()),
            files: Arc::clone(files),
            wal: wal.clone(),
            state: State::Durable(Box::new(Machine(Arc::clone(&state)))),
            transport: Arc::clone(transport) as _,
        };
        let group = Group::start(options).await?;
        raft.add(group.clone());
        Ok(Arc::new(Replica { id, group, state, desk: Desk::default() }))
    }

    /// Takes away what this node has of a shard: the log last, for as long as there is one this is tried again.
    async fn remove(&self, id: ShardId) -> Result<(), HostError> {
        tracing::info!(shard = id.0, "this node holds no replica of the shard any more");
        let removed = self.replicas.write().remove(&id);
        self.ground.raft.remove(group_id(id));
        let store = &self.ground.store;
        match removed {
            Some(replica) => {
                replica.group.shutdown().await;
                replica.state.shard.lock().erase()?;
            }
            None => Shard::open(id, Arc::clone(store), Options::default())?.erase()?,
        }
        store.sync()?;
        self.ground.wal.forget_group(group_id(id).0, move |forgotten| {
            if let Err(error) = forgotten {
                tracing::error!(shard = id.0, %error, "the log of a shard cannot be removed");
            }
        });
        Ok(())
    }
}

/// The group of a shard. 0 is the meta group.
pub(crate) fn group_id(shard: ShardId) -> GroupId {
    GroupId(u64::from(shard.0) + 1)
}
