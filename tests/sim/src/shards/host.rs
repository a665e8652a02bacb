//! Which shards a node holds, and their groups.

use std::{sync::Arc, time::Duration};

use flotilla_raft::group::{Group, GroupError, GroupId, GroupOptions, State, with_seed};
use flotilla_shard::{OpenError, Options, Shard};
use flotilla_state::{Command, NodeId, ReplicaId, Shard as Placed, ShardId};
use flotilla_store::{Store as _, StoreError};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

use super::{
    PowerFailed, leader,
    points::Point,
    replica::{Machine, Replica, Replicated},
};
use crate::node::Process;

/// Why a replica cannot be had.
#[derive(Debug)]
enum HostError {
    Power,
    Wrong(String),
}

impl From<PowerFailed> for HostError {
    fn from(PowerFailed: PowerFailed) -> Self {
        Self::Power
    }
}

/// Errors of the crates end in words: there is nothing else to be done.
macro_rules! wrong {
    ($($error:ty),*) => { $(impl From<$error> for HostError {
        fn from(error: $error) -> Self {
            Self::Wrong(error.to_string())
        }
    })* };
}
wrong!(OpenError, StoreError, GroupError, std::io::Error);

/// What is to be done about a shard.
enum Step {
    Start(ReplicaId),
    Begin(ReplicaId),
    Remove,
    Nothing,
}

/// Holds what shall be here, for as long as the process lives.
pub async fn run(process: Arc<Process>, seed: u64) {
    let host = async {
        loop {
            found(&process).await;
            let shards: Vec<(ShardId, Placed)> = {
                let state = process.meta.state();
                let state = state.read();
                state.shards().iter().map(|(id, shard)| (id, shard.clone())).collect()
            };
            for (id, placed) in shards {
                match step(&process, id, &placed).await {
                    Ok(()) => {}
                    Err(error) => {
                        if let HostError::Wrong(what) = error
                            && process.pass(Point::Erased).is_ok()
                        {
                            let name = &process.node.name;
                            let what = format!("{name} cannot have shard {}: {what}", id.0);
                            process.shared().check(Err(what));
                        }
                        return;
                    }
                }
            }
            let _ = timeout(LOOK, process.shards.changed.notified()).await;
        }
    };
    with_seed(seed ^ 0x0570, host).await;
}

/// Has the groups of the shards begin once there are enough nodes for them.
async fn found(process: &Process) {
    let is_due = {
        let state = process.meta.state();
        let state = state.read();
        let holders = state.nodes().filter(|node| state.shards().is_holder(node.id)).count();
        state.cluster().is_some_and(|cluster| holders >= usize::from(cluster.replicas))
            && state.shards().iter().any(|(_, shard)| shard.founders.is_empty())
    };
    if is_due {
        // If it does not succeed now, then with the next look.
        let deadline = (Instant::now() + Duration::from_secs(1)).into_std();
        drop(process.meta.propose(Command::FoundShards, deadline).await);
    }
}

/// The replicas whose logs are here.
fn logs(process: &Process, id: ShardId) -> Vec<ReplicaId> {
    let groups = process.shards.ground.get().map_or_else(Vec::new, |ground| ground.wal.groups());
    let replicas = groups.into_iter().filter_map(|group| GroupId(group).replica());
    replicas.filter(|(shard, _)| *shard == id).map(|(_, replica)| replica).collect()
}

fn next_step(process: &Process, id: ShardId, placed: &Placed, logs: &[ReplicaId]) -> Step {
    let has = placed.ids.get(&process.meta.node()).copied();
    let running = process.shards.replica(id).map(|replica| replica.number);
    let is_admitted = process.meta.me().borrow().is_some();
    match (running, has) {
        (Some(running), Some(has)) if running == has => Step::Nothing,
        (None, Some(has)) if logs.contains(&has) => Step::Start(has),
        _ if !is_admitted => Step::Nothing,
        (Some(_), _) => Step::Remove,
        (None, _) if !logs.is_empty() => Step::Remove,
        (None, Some(has)) => Step::Begin(has),
        (None, None) => Step::Nothing,
    }
}

async fn step(process: &Arc<Process>, id: ShardId, placed: &Placed) -> Result<(), HostError> {
    let logs = logs(process, id);
    match next_step(process, id, placed, &logs) {
        Step::Nothing => {}
        Step::Start(number) => run_replica(process, id, number).await?,
        Step::Begin(number) => {
            let ground = process.shards.ground.get().ok_or(HostError::Power)?;
            Shard::erase(id, &ground.store)?;
            ground.store.sync()?;
            run_replica(process, id, number).await?;
        }
        Step::Remove => remove(process, id, &logs).await?,
    }
    let me = process.meta.node();
    if placed.members.is_empty()
        && placed.founders.contains(&me)
        && let Some(replica) = process.shards.replica(id)
        && Some(replica.number) == placed.ids.get(&me).copied()
        && !replica.group.is_initialized().await
    {
        let of = |node: &NodeId| Some((node.0, GroupId::of_replica(id, *placed.ids.get(node)?)));
        if let Some(founders) = placed.founders.iter().map(of).collect() {
            // Another founder may have been faster.
            drop(replica.group.initialize(founders).await);
        }
    }
    Ok(())
}

async fn run_replica(process: &Arc<Process>, id: ShardId, number: ReplicaId) -> Result<(), HostError> {
    let replica = start(process, id, number).await?;
    process.shards.replicas.write().insert(id, Arc::clone(&replica));
    tokio::spawn(leader::run(Arc::clone(&replica), Arc::clone(process)));
    tokio::spawn(leader::watch_log(replica, Arc::clone(process)));
    Ok(())
}

async fn start(process: &Arc<Process>, id: ShardId, number: ReplicaId) -> Result<Arc<Replica>, HostError> {
    let ground = process.shards.ground.get().ok_or(HostError::Power)?;
    // Small, so that everything happens all the time.
    let options = Options { dirty_bytes_soft: 3 << 10, dirty_bytes_max: 1 << 20, references_read_max: 3 };
    let shard = Shard::open(id, Arc::new(ground.store.clone()), options)?;
    let state = Arc::new(Replicated::new(shard, ground.store.clone(), Arc::clone(&process.node)));
    let options = GroupOptions {
        id: GroupId::of_replica(id, number),
        me: process.meta.node().0,
        heartbeat: Duration::from_millis(200),
        election: Duration::from_millis(400)..Duration::from_millis(800),
        log_bytes_max: 6 << 10,
        log_entries_kept: 8,
        snapshot_timeout: Duration::from_secs(10),
        snapshot_dir: format!("/shards/{}", id.0).into(),
        files: Arc::clone(&ground.files),
        wal: ground.wal.clone(),
        state: State::Durable(Box::new(Machine(Arc::clone(&state)))),
        transport: Arc::clone(&ground.transport) as _,
    };
    let group = Group::start(options).await?;
    ground.raft.add(group.clone());
    process.note(format_args!("holds shard {} (replica {})", id.0, number.0));
    Ok(Arc::new(Replica { id, number, group, state, desk: leader::Desk::default() }))
}

/// Takes away what this node has of a shard: the log first.
async fn remove(process: &Arc<Process>, id: ShardId, logs: &[ReplicaId]) -> Result<(), HostError> {
    process.note(format_args!("gives shard {} up", id.0));
    let ground = process.shards.ground.get().ok_or(HostError::Power)?;
    let removed = process.shards.replicas.write().remove(&id);
    let running = removed.as_ref().map(|replica| replica.number);
    if let Some(replica) = removed {
        ground.raft.remove(replica.group.id());
        replica.state.pass(Point::Removing);
        let forgotten = replica.group.clone().forget().await;
        replica.state.shard.lock().give_up();
        forgotten?;
    }
    for number in logs.iter().filter(|number| Some(**number) != running) {
        let (sender, forgotten) = oneshot::channel();
        let done = move |result| drop(sender.send(result));
        ground.wal.forget_group(GroupId::of_replica(id, *number).0, done);
        forgotten.await.unwrap_or_else(|_| Err(std::io::Error::other("the log was closed")))?;
    }
    process.pass(Point::Erased)?;
    Shard::erase(id, &ground.store)?;
    Ok(ground.store.sync()?)
}

/// Now and then this node is to hold nothing for a while, so that replicas move.
pub async fn wander(process: Arc<Process>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed ^ 0xe7ac);
    loop {
        sleep(Duration::from_millis(random.random_range(2_000..20_000))).await;
        let Some(member) = process.life() else { continue };
        if !process.is_serving() || !process.shared().is_moving() {
            continue;
        }
        let deadline = (Instant::now() + Duration::from_secs(2)).into_std();
        let evacuated = process.meta.propose(Command::Evacuate { member }, deadline).await;
        // It may be done also if this is an error: what follows brings the node back.
        process.note(format_args!("is to hold nothing: {}", evacuated.is_ok()));
        sleep(Duration::from_millis(random.random_range(200..6_000))).await;
        // Only what was not up before is a holder again.
        while process.life() == Some(member) {
            let deadline = (Instant::now() + Duration::from_secs(2)).into_std();
            if process.meta.drain(deadline).await.is_ok() && process.meta.set_up(deadline).await.is_ok() {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        process.note(format_args!("may hold replicas again"));
    }
}

/// How long a look at what shall be here waits for news.
const LOOK: Duration = Duration::from_millis(500);
