//! The members of a shard's group follow its placement, one step after the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use flotilla_raft::group::{GroupError, GroupId, GroupStatus};
use flotilla_state::{ClusterState, Command, NodeId, ReplicaId, Reply, Shard, ShardChange, Status};
use tokio::time::{Instant, sleep};

use super::{PowerFailed, points::Point, replica::Replica};
use crate::node::Process;

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    AddLearner(u64, GroupId),
    ChangeVoters(BTreeSet<u64>),
    HandOver(u64, BTreeSet<u64>),
    RemoveLearner(u64),
    Tell(Vec<(NodeId, ReplicaId)>),
    Lead(u64),
    Nothing,
}

/// Sees to the members as long as this node leads, or has power.
pub async fn follow_placement(replica: &Arc<Replica>, process: &Arc<Process>, term: u64) -> PowerFailed {
    let mut quiet = 0;
    let mut told = Told { term, number: 0, is_known: false };
    loop {
        sleep(LOOK).await;
        let step = {
            let status = replica.group.status();
            let state = process.meta.state();
            let state = state.read();
            next_step(&status, &state, replica, process.meta.node().0, told.is_known)
        };
        let is_quiet = matches!(step, Step::Lead(_)) && quiet < QUIET_LOOKS;
        quiet = if is_quiet { quiet + 1 } else { 0 };
        if !matches!(step, Step::Lead(_) | Step::Nothing) {
            process.note(format_args!("wants for shard {}: {step:?}", replica.id.0));
        }
        if let Err(failed) = carry_out(step, quiet, replica, process, &mut told).await {
            return failed;
        }
    }
}

async fn carry_out(
    step: Step,
    quiet: u32,
    replica: &Replica,
    process: &Process,
    told: &mut Told,
) -> Result<(), PowerFailed> {
    let group = &replica.group;
    match step {
        Step::AddLearner(node, number) => {
            if group.add_learner(node, number).await.is_ok() {
                process.pass(Point::LearnerAdded)?;
            }
        }
        Step::ChangeVoters(voters) => change_voters(voters, replica, process).await?,
        Step::HandOver(heir, voters) => {
            if let Err(GroupError::Transfer(_)) = group.transfer_leadership(heir).await {
                change_voters(voters, replica, process).await?;
            }
        }
        Step::RemoveLearner(node) => {
            if group.remove_learner(node).await.is_ok() {
                process.pass(Point::LearnerRemoved)?;
            }
        }
        Step::Tell(members) => {
            process.pass(Point::Telling)?;
            told.is_known = false;
            told.number += 1;
            let change = ShardChange::Members { number: told.number, members };
            let command = Command::Shard { shard: replica.id, term: told.term, change };
            let deadline = (Instant::now() + TELL_TIMEOUT).into_std();
            match process.meta.propose(command, deadline).await {
                Ok((index, Reply::Done)) => {
                    let mut meta = process.meta.group().watch();
                    told.is_known = meta.wait_for(|status| status.applied >= Some(index.0)).await.is_ok();
                }
                Ok((_, Reply::Stale)) | Err(_) => {}
                Ok((_, reply)) => {
                    process.shared().check(Err(format!("members of a shard were answered {reply:?}")));
                }
            }
        }
        // Whatever comes of it, the next look sees it.
        Step::Lead(node) if quiet == QUIET_LOOKS => drop(group.transfer_leadership(node).await),
        Step::Lead(_) | Step::Nothing => {}
    }
    Ok(())
}

async fn change_voters(
    voters: BTreeSet<u64>,
    replica: &Replica,
    process: &Process,
) -> Result<(), PowerFailed> {
    let change = replica.group.change_voters(voters);
    tokio::pin!(change);
    // The power may fail while both sets vote.
    let changed = tokio::select! {
        biased;
        changed = &mut change => changed,
        () = sleep(Duration::from_millis(15)) => {
            process.pass(Point::VotersChanging)?;
            change.await
        }
    };
    if changed.is_ok() { process.pass(Point::VotersChanged) } else { Ok(()) }
}

/// What the leader of a term has told the cluster.
struct Told {
    term: u64,
    number: u64,
    /// The cluster and this node know of what was told last.
    is_known: bool,
}

/// The members, and perhaps one more, as the cluster is told; nothing where this node knows too little of them.
fn to_tell(
    status: &GroupStatus,
    replica: &Replica,
    shard: &Shard,
    new: Option<u64>,
) -> Option<Vec<(NodeId, ReplicaId)>> {
    let is_committed = status.committed >= status.membership_at;
    let of = |node: u64| Some((NodeId(node), *shard.ids.get(&NodeId(node))?));
    let known = status
        .members
        .iter()
        .map(|(node, group)| of(*node).filter(|(_, id)| GroupId::of_replica(replica.id, *id) == *group));
    let all: Option<BTreeMap<_, _>> = known.chain(new.map(of)).collect();
    all.filter(|_| is_committed).map(|all| all.into_iter().collect())
}

fn next_step(status: &GroupStatus, state: &ClusterState, replica: &Replica, me: u64, has_told: bool) -> Step {
    let Some(shard) = state.shards().shard(replica.id) else { return Step::Nothing };
    let wanted = &shard.replicas.nodes;
    let is_up = |node: u64| state.node(NodeId(node)).is_some_and(|node| node.status == Status::Up);
    let is_down = |node: u64| state.node(NodeId(node)).is_none_or(|node| matches!(node.status, Status::Down));
    if wanted.is_empty() {
        return Step::Nothing;
    }
    let all: BTreeSet<u64> = status.voters.union(&status.learners).copied().collect();
    let voters: BTreeSet<u64> = wanted.iter().map(|node| node.0).collect();
    let mut missing = voters.difference(&all).peekable();
    let is_any_missing = missing.peek().is_some();
    let new = missing.find(|node| !is_down(**node)).copied();
    let Some(members) = to_tell(status, replica, shard, new) else { return Step::Nothing };
    if !has_told || !members.iter().map(|(node, _)| node).eq(&shard.members) {
        return Step::Tell(members);
    }
    match new.map(|node| (node, shard.ids.get(&NodeId(node)))) {
        Some((node, Some(id))) => return Step::AddLearner(node, GroupId::of_replica(replica.id, *id)),
        Some((_, None)) => return Step::Nothing,
        None if is_any_missing => return Step::Nothing,
        None => {}
    }
    let has_caught_up = |node: &u64| {
        let matching = status.replication.get(node).copied().flatten();
        *node == me || matching.is_some_and(|index| index + LAG_MAX >= status.last_log.unwrap_or(0))
    };
    if status.voters != voters || status.is_joint {
        let answers =
            |node: &u64| *node == me || status.millis_since_answer.get(node).is_some_and(|at| *at < 400);
        let is_there = |node: &&u64| !is_down(**node) && answers(node);
        let is_majority_up = voters.iter().filter(is_there).count() * 2 > voters.len();
        if !voters.difference(&status.voters).all(has_caught_up) || !is_majority_up && !status.is_joint {
            return Step::Nothing;
        }
        let is_heir = |node: &&u64| status.voters.contains(*node) && is_up(**node) && has_caught_up(node);
        let heir = voters.iter().find(is_heir).copied().filter(|_| !voters.contains(&me) && !status.is_joint);
        return match heir {
            Some(heir) => Step::HandOver(heir, voters),
            None => Step::ChangeVoters(voters),
        };
    }
    if let Some(old) = status.learners.difference(&voters).next() {
        return Step::RemoveLearner(*old);
    }
    let can_lead = |node: &u64| *node != me && is_up(*node) && has_caught_up(node);
    let heirs = if is_up(me) { &wanted[..1] } else { wanted };
    let heir = heirs.iter().map(|node| node.0).find(can_lead);
    heir.filter(|_| heirs.first().is_some_and(|first| first.0 != me)).map_or(Step::Nothing, Step::Lead)
}

/// How often the leader looks.
const LOOK: Duration = Duration::from_millis(200);
/// A member that lacks no more entries than these has caught up: few, so that a change of voters waits for its log.
const LAG_MAX: u64 = 50;
/// For so many looks in a row nothing had to be done before the leadership goes to whom it belongs.
const QUIET_LOOKS: u32 = 4;
const TELL_TIMEOUT: Duration = Duration::from_secs(2);
