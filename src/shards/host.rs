//! Which shards this node holds, and their groups.
//!
//! The state of the cluster says which replicas nodes have: those that shall be there, and those that are members still. This node
//! starts a group for each that it has, and takes away what it has no more. Its log has the number of the replica, and goes first:
//! what is left without a log is of no use, and a replica with one is whole.
//!
//! A replica whose log is here starts at once, so that a cluster whose nodes have all been off finds together again. One begins
//! anew, or is taken away, only after the node has been admitted: before that, what it knows may be older than what it did in an
//! earlier life, and a replica that it gave up then must not come back with nothing.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use flotilla_raft::{
    group::{Group, GroupError, GroupId, GroupOptions, State},
    peers::{RaftService, RaftTransport},
};
use flotilla_shard::{OpenError, Options, Shard};
use flotilla_state::{Command, NodeId, ReplicaId, Shard as Placed, ShardId};
use flotilla_store::{Store, StoreError};
use flotilla_wal::{Files, Wal};
use tokio::sync::oneshot;

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
    Store(#[from] StoreError),
    #[error("its log cannot be removed: {0}")]
    Forget(io::Error),
    #[error(transparent)]
    Group(#[from] GroupError),
}

impl HostError {
    /// Whether it may be otherwise the next time, without an operator.
    fn passes(&self) -> bool {
        let is_full = |error: &StoreError| matches!(error, StoreError::Full { .. });
        match self {
            Self::Open(OpenError::Store(error)) | Self::Store(error) => is_full(error),
            Self::Forget(error) => error.kind() == io::ErrorKind::StorageFull,
            Self::Open(OpenError::Corrupt(_)) | Self::Group(_) => false,
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

/// What this node has of a shard, and knows.
struct Seen<'a> {
    /// The replica that it has, as far as it knows.
    has: Option<ReplicaId>,
    running: Option<ReplicaId>,
    /// Those whose logs are here.
    logs: &'a [ReplicaId],
    /// What it knows is no older than what it has ever done.
    is_admitted: bool,
}

/// What is to be done about a shard on this node.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Goes on with a replica.
    Start(ReplicaId),
    /// Begins a replica that has nothing.
    Begin(ReplicaId),
    /// Takes away whatever is here.
    Remove,
    Nothing,
}

impl Seen<'_> {
    fn step(&self) -> Step {
        match (self.running, self.has) {
            (Some(running), Some(has)) if running == has => Step::Nothing,
            (None, Some(has)) if self.logs.contains(&has) => Step::Start(has),
            _ if !self.is_admitted => Step::Nothing,
            (Some(_), _) => Step::Remove,
            (None, _) if !self.logs.is_empty() => Step::Remove,
            (None, Some(has)) => Step::Begin(has),
            (None, None) => Step::Nothing,
        }
    }
}

impl Shards {
    /// Holds what shall be here, for as long as the node runs.
    pub(super) async fn host(self: Arc<Self>) {
        let mut is_swept = false;
        while !self.has_ended.load(Ordering::SeqCst) {
            self.found().await;
            let is_admitted = self.meta().me().borrow().is_some();
            let logs = self.logs();
            let shards: Vec<(ShardId, Placed)> =
                self.state().read().shards().iter().map(|(id, shard)| (id, shard.clone())).collect();
            for (id, placed) in &shards {
                let logs = logs.get(id).map_or(&[][..], Vec::as_slice);
                let has = placed.ids.get(&self.node()).copied();
                let running = self.replica(*id).map(|replica| replica.number);
                let seen = Seen { has, running, logs, is_admitted };
                let is_left = !is_swept && is_admitted && seen.step() == Step::Nothing && running.is_none();
                let done = match is_left {
                    true => Shard::erase(*id, &*self.ground.store).map_err(HostError::from),
                    false => self.carry_out(*id, placed, &seen).await,
                };
                match done {
                    Ok(()) => {}
                    Err(error) if error.passes() => {
                        tracing::error!(shard = id.0, %error, "a replica of a shard cannot be had yet");
                    }
                    Err(error) => return self.fail(*id, &error.to_string()).await,
                }
            }
            is_swept |= is_admitted;
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

    /// The replicas whose logs are here.
    fn logs(&self) -> BTreeMap<ShardId, Vec<ReplicaId>> {
        let mut logs: BTreeMap<ShardId, Vec<ReplicaId>> = BTreeMap::new();
        for (shard, replica) in self.ground.wal.groups().into_iter().filter_map(|id| GroupId(id).replica()) {
            logs.entry(shard).or_default().push(replica);
        }
        logs
    }

    async fn carry_out(
        self: &Arc<Self>,
        id: ShardId,
        placed: &Placed,
        seen: &Seen<'_>,
    ) -> Result<(), HostError> {
        match seen.step() {
            Step::Start(number) => self.run_replica(id, number).await?,
            Step::Begin(number) => {
                // Of one that was taken away, and whose end the power cut short.
                Shard::erase(id, &*self.ground.store)?;
                self.ground.store.sync()?;
                self.run_replica(id, number).await?;
            }
            Step::Remove => self.remove(id, seen.logs).await?,
            Step::Nothing => {}
        }
        if placed.members.is_empty()
            && placed.founders.contains(&self.node())
            && let Some(replica) = self.replica(id).filter(|replica| Some(replica.number) == seen.has)
            && !replica.group.is_initialized().await
        {
            let of = |node: &NodeId| Some((node.0, GroupId::of_replica(id, *placed.ids.get(node)?)));
            // Each founder has one, and all of them begin with the same.
            if let Some(founders) = placed.founders.iter().map(of).collect::<Option<BTreeMap<_, _>>>()
                && let Err(error) = replica.group.initialize(founders).await
            {
                tracing::debug!(shard = id.0, %error, "the group of a shard has begun already");
            }
        }
        Ok(())
    }

    async fn run_replica(self: &Arc<Self>, id: ShardId, number: ReplicaId) -> Result<(), HostError> {
        let replica = self.start(id, number).await?;
        self.replicas.write().insert(id, Arc::clone(&replica));
        // In this order, for whoever stops the node looks at the replicas after it has said so.
        if self.has_ended.load(Ordering::SeqCst) {
            replica.group.shutdown().await;
            return Ok(());
        }
        tokio::spawn(leader::run(replica, Arc::clone(self)));
        Ok(())
    }

    async fn start(&self, id: ShardId, number: ReplicaId) -> Result<Arc<Replica>, HostError> {
        let Ground { store, wal, files, dir, raft, transport, .. } = &self.ground;
        let shard = Shard::open(id, Arc::clone(store), Options::default())?;
        let state = Arc::new(Replicated::new(shard, Arc::clone(store)));
        let options = GroupOptions {
            id: GroupId::of_replica(id, number),
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
        Ok(Arc::new(Replica { id, number, group, state, desk: Desk::default() }))
    }

    /// Takes away what this node has of a shard.
    async fn remove(&self, id: ShardId, logs: &[ReplicaId]) -> Result<(), HostError> {
        tracing::info!(
            shard = id.0,
            "this node holds no replica of the shard any more, or shall begin another one"
        );
        let removed = self.replicas.write().remove(&id);
        let running = removed.as_ref().map(|replica| replica.number);
        if let Some(replica) = removed {
            self.ground.raft.remove(replica.group.id());
            let forgotten = replica.group.clone().forget().await;
            // Only now that the group has stopped: it would take what the shard says from then on for a broken disk.
            replica.state.shard.lock().give_up();
            forgotten.map_err(HostError::Forget)?;
        }
        for number in logs.iter().filter(|number| Some(**number) != running) {
            let (sender, forgotten) = oneshot::channel();
            let group = GroupId::of_replica(id, *number);
            self.ground.wal.forget_group(group.0, move |result| drop(sender.send(result)));
            let forgotten = forgotten.await.unwrap_or_else(|_| Err(io::Error::other("it was closed")));
            forgotten.map_err(HostError::Forget)?;
        }
        Shard::erase(id, &*self.ground.store)?;
        Ok(self.ground.store.sync()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_begins_and_ends_only_when_the_node_knows_enough() {
        let id = ReplicaId;
        let check = |has: Option<u64>, running: Option<u64>, logs: &[u64], steps: [Step; 2]| {
            let logs: Vec<ReplicaId> = logs.iter().copied().map(id).collect();
            for (is_admitted, expected) in [false, true].into_iter().zip(steps) {
                let (has, running) = (has.map(id), running.map(id));
                assert_eq!(Seen { has, running, logs: &logs, is_admitted }.step(), expected);
            }
        };
        check(None, None, &[], [Step::Nothing, Step::Nothing]);
        check(Some(7), None, &[7], [Step::Start(id(7)), Step::Start(id(7))]);
        check(Some(7), Some(7), &[7], [Step::Nothing, Step::Nothing]);
        // It may have been taken away in an earlier life.
        check(Some(7), None, &[], [Step::Nothing, Step::Begin(id(7))]);
        // It runs, and has written nothing yet.
        check(Some(7), Some(7), &[], [Step::Nothing, Step::Nothing]);
        check(None, Some(7), &[7], [Step::Nothing, Step::Remove]);
        check(None, None, &[7], [Step::Nothing, Step::Remove]);
        // Another replica: first the one before goes.
        check(Some(9), Some(7), &[7], [Step::Nothing, Step::Remove]);
        check(Some(9), None, &[7], [Step::Nothing, Step::Remove]);
        check(Some(9), None, &[], [Step::Nothing, Step::Begin(id(9))]);
    }
}
