//! Which shards a node holds, and their groups.

use std::{sync::Arc, time::Duration};

use flotilla_raft::group::{Group, GroupError, GroupOptions, State, with_seed};
use flotilla_shard::{FlushError, OpenError, Options, Shard};
use flotilla_state::{Command, Shard as Placed, ShardId};
use flotilla_store::{Store as _, StoreError};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::{Instant, sleep, timeout};

use super::{
    PowerFailed, group_id, leader,
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
wrong!(OpenError, FlushError, StoreError, GroupError);

/// What is to be done about a shard.
enum Step {
    Start,
    Found,
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

async fn step(process: &Arc<Process>, id: ShardId, placed: &Placed) -> Result<(), HostError> {
    let running = process.shards.replica(id);
    match next_step(process, id, placed, running.as_deref()).await {
        Step::Nothing => {}
        Step::Start => {
            let replica = start(process, id).await?;
            process.shards.replicas.write().insert(id, Arc::clone(&replica));
            tokio::spawn(leader::run(Arc::clone(&replica), Arc::clone(process)));
            tokio::spawn(leader::watch_log(replica, Arc::clone(process)));
            // A founder begins at once.
            process.shards.note_changed();
        }
        Step::Found => {
            let founders = placed.founders.iter().map(|node| node.0).collect();
            if let Some(replica) = running {
                // Another founder may have been faster.
                drop(replica.group.initialize(founders).await);
            }
        }
        Step::Remove => remove(process, id).await?,
    }
    Ok(())
}

async fn next_step(process: &Process, id: ShardId, placed: &Placed, running: Option<&Replica>) -> Step {
    let me = process.meta.node();
    let is_wanted = placed.replicas.nodes.contains(&me);
    let is_member =
        placed.members.contains(&me) || placed.members.is_empty() && placed.founders.contains(&me);
    let is_admitted = process.meta.me().borrow().is_some();
    let has_log =
        || process.shards.ground.get().is_some_and(|ground| ground.wal.groups().contains(&group_id(id).0));
    match running {
        None if is_wanted || is_member => Step::Start,
        None if is_admitted && has_log() => Step::Remove,
        None => Step::Nothing,
        Some(replica) if placed.members.is_empty() && placed.founders.contains(&me) => {
            if replica.group.is_initialized().await { Step::Nothing } else { Step::Found }
        }
        Some(_) if is_admitted && !is_wanted && !is_member => Step::Remove,
        Some(_) => Step::Nothing,
    }
}

async fn start(process: &Arc<Process>, id: ShardId) -> Result<Arc<Replica>, HostError> {
    let ground = process.shards.ground.get().ok_or(HostError::Power)?;
    // Small, so that everything happens all the time.
    let options = Options { dirty_bytes_soft: 3 << 10, dirty_bytes_max: 1 << 20, references_read_max: 3 };
    let shard = Shard::open(id, Arc::new(ground.store.clone()), options)?;
    let state = Arc::new(Replicated::new(shard, ground.store.clone(), Arc::clone(&process.node)));
    let options = GroupOptions {
        id: group_id(id),
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
    process.note(format_args!("holds shard {}", id.0));
    Ok(Arc::new(Replica { id, group, state, desk: leader::Desk::default() }))
}

/// Takes away what this node has of a shard: the log last, for as long as there is one this is tried again.
async fn remove(process: &Arc<Process>, id: ShardId) -> Result<(), HostError> {
    process.note(format_args!("gives shard {} up", id.0));
    let ground = process.shards.ground.get().ok_or(HostError::Power)?;
    let removed = process.shards.replicas.write().remove(&id);
    ground.raft.remove(group_id(id));
    match removed {
        Some(replica) => {
            replica.group.shutdown().await;
            replica.state.pass(Point::Removing);
            replica.state.shard.lock().erase()?;
        }
        None => Shard::open(id, Arc::new(ground.store.clone()), Options::default())?.erase()?,
    }
    ground.store.sync()?;
    process.pass(Point::Erased)?;
    ground.wal.forget_group(group_id(id).0, |_| {});
    Ok(())
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
