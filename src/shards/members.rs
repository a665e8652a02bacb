//! The members of a shard's group follow its placement.
//!
//! The leader brings in who shall hold a replica, waits until it has caught up, gives it a vote, and takes out who shall hold none. The
//! old members serve until then. It tells the cluster which members there are: a node that is none may delete what it has. So it tells
//! before it adds one, and tells that one is gone only when that is committed; the first time as soon as it leads, so that nothing
//! which an earlier leader has said comes after it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use flotilla_raft::group::{GroupError, GroupId, GroupStatus};
use flotilla_state::{ClusterState, Command, NodeId, ReplicaId, Reply, ShardChange, ShardId, Status};

use super::{Shards, host::ELECTION, replica::Replica};

/// How often the leader looks.
const LOOK: Duration = Duration::from_millis(500);
/// A member that lacks no more entries than these has caught up.
const LAG_MAX: u64 = 1_000;
/// How soon the next step follows one that was done.
const NEXT: Duration = Duration::from_millis(50);
/// For so many looks in a row nothing had to be done before the leadership goes to whom it belongs.
const QUIET_LOOKS: u32 = 4;
/// How long the cluster is tried to be told of the members before the leader looks again.
const TELL_TIMEOUT: Duration = Duration::from_secs(5);

/// What a look at the group has to be done next.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    AddLearner(u64),
    ChangeVoters(BTreeSet<u64>),
    /// These shall vote, and this node is none of them: one of them leads first, so that nobody has to be elected.
    HandOver(u64, BTreeSet<u64>),
    RemoveLearner(u64),
    Tell(Vec<NodeId>),
    /// Everybody is where they shall be, and this node should lead.
    Lead(u64),
    /// Somebody has to catch up first.
    Wait,
    Nothing,
}

/// Sees to the members as long as this node leads.
pub(super) async fn follow_placement(replica: &Arc<Replica>, shards: &Arc<Shards>, term: u64) {
    let (mut quiet, mut pause) = (0, LOOK);
    let mut told = Told { term, number: 0, is_known: false };
    loop {
        tokio::time::sleep(pause).await;
        let Look { step, ids } = look(replica, shards, told.is_known);
        quiet = if matches!(step, Step::Lead(_)) { quiet + 1 } else { 0 };
        let is_at_rest = matches!(step, Step::Lead(_) | Step::Wait | Step::Nothing);
        let result = match step {
            Step::AddLearner(node) => match ids.get(&NodeId(node)) {
                Some(id) => replica.group.add_learner(node, GroupId::of_replica(replica.id, *id)).await,
                None => Ok(()),
            },
            Step::ChangeVoters(voters) => replica.group.change_voters(voters).await,
            Step::HandOver(heir, voters) => match replica.group.transfer_leadership(heir).await {
                Err(GroupError::Transfer(_)) => replica.group.change_voters(voters).await,
                result => result,
            },
            Step::RemoveLearner(node) => replica.group.remove_learner(node).await,
            Step::Tell(members) => {
                let of = |node: NodeId| Some((node, *ids.get(&node)?));
                let members: Option<Vec<_>> = members.into_iter().map(of).collect();
                let is_known = match members {
                    Some(members) => told.tell(replica, shards, members).await,
                    None => false,
                };
                if !is_known {
                    pause = LOOK;
                    continue;
                }
                Ok(())
            }
            Step::Lead(node) if quiet >= QUIET_LOOKS => {
                quiet = 0;
                replica.group.transfer_leadership(node).await
            }
            Step::Lead(_) | Step::Wait | Step::Nothing => Ok(()),
        };
        pause = if is_at_rest || result.is_err() { LOOK } else { NEXT };
        if let Err(error @ (GroupError::Membership(_) | GroupError::Transfer(_))) = result {
            tracing::debug!(shard = replica.id.0, %error, "the members of a shard are not as they shall be yet");
        }
    }
}

/// Has another voter lead, if this node does.
pub(super) async fn hand_over(replica: &Replica, shards: &Shards) {
    let status = replica.group.status();
    let (me, last) = (shards.node().0, status.last_log.unwrap_or(0));
    let matching = |node: u64| status.replication.get(&node).copied().flatten();
    let short = shards.short_nodes();
    let heir = {
        let state = shards.state().read();
        let is_heir = |node: &u64| *node != me && standing(&state, &short, *node) == Standing::Up;
        status.voters.iter().copied().filter(is_heir).max_by_key(|node| matching(*node))
    };
    let Some(heir) = heir.filter(|heir| matching(*heir).is_some_and(|index| index + LAG_MAX >= last)) else {
        return;
    };
    if let Err(error) = replica.group.transfer_leadership(heir).await {
        tracing::debug!(shard = replica.id.0, %error, "another node has to be elected");
    }
}

/// What has to be done next, and the replicas of the nodes as of then.
struct Look {
    step: Step,
    ids: BTreeMap<NodeId, ReplicaId>,
}

fn look(replica: &Replica, shards: &Shards, has_told: bool) -> Look {
    let (status, short) = (replica.group.status(), shards.short_nodes());
    let state = shards.state().read();
    let Some(shard) = state.shards().shard(replica.id) else {
        return Look { step: Step::Nothing, ids: BTreeMap::new() };
    };
    let step = if is_known(replica.id, &status, &shard.ids) {
        let told = Some(&shard.members[..]).filter(|_| has_told);
        let standing = |node| standing(&state, &short, node);
        decide(&status, &shard.replicas.nodes, told, shards.node().0, standing)
    } else {
        Step::Wait
    };
    Look { step, ids: shard.ids.clone() }
}

/// Whether the members are the replicas that this node knows of, and nobody can undo that: what it knows may be old, and the last change
/// one of an earlier leader that is not committed.
fn is_known(shard: ShardId, status: &GroupStatus, ids: &BTreeMap<NodeId, ReplicaId>) -> bool {
    let is_replica = |(node, group): (&u64, &GroupId)| {
        ids.get(&NodeId(*node)).is_some_and(|id| GroupId::of_replica(shard, *id) == *group)
    };
    status.committed >= status.membership_at && status.members.iter().all(is_replica)
}

/// What may be asked of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// Nothing: it is down.
    Down,
    /// To hold a replica, but not to lead: it begins, is about to stop, or is short of space.
    Passing,
    Up,
}

fn standing(state: &ClusterState, short: &BTreeSet<NodeId>, node: u64) -> Standing {
    match state.node(NodeId(node)).map(|node| node.status) {
        None | Some(Status::Down) => Standing::Down,
        Some(Status::Joining | Status::Draining) => Standing::Passing,
        Some(Status::Up) if short.contains(&NodeId(node)) => Standing::Passing,
        Some(Status::Up) => Standing::Up,
    }
}

fn decide(
    status: &GroupStatus,
    wanted: &[NodeId],
    told: Option<&[NodeId]>,
    me: u64,
    standing: impl Fn(u64) -> Standing,
) -> Step {
    if wanted.is_empty() {
        return Step::Nothing;
    }
    let all: BTreeSet<u64> = status.voters.union(&status.learners).copied().collect();
    let voters: BTreeSet<u64> = wanted.iter().map(|node| node.0).collect();
    let is_up = |node: &&u64| standing(**node) != Standing::Down;
    let mut missing = voters.difference(&all).peekable();
    let is_any_missing = missing.peek().is_some();
    // One that is down can catch up later.
    let new = missing.find(is_up);
    let members: BTreeSet<NodeId> = all.iter().chain(new).copied().map(NodeId).collect();
    if told.is_none_or(|told| !told.iter().eq(&members)) && !all.is_empty() {
        return Step::Tell(members.into_iter().collect());
    }
    match new {
        Some(new) => return Step::AddLearner(*new),
        None if is_any_missing => return Step::Wait,
        None => {}
    }
    let has_caught_up = |node: &u64| {
        let matching = status.replication.get(node).copied().flatten();
        *node == me || matching.is_some_and(|index| index + LAG_MAX >= status.last_log.unwrap_or(0))
    };
    if status.voters != voters || status.is_joint {
        let mut new = voters.difference(&status.voters);
        // Who is not there cannot agree to anything, and may be lost for good. What has begun is ended all the same.
        let answers = |node: &&u64| {
            let millis = status.millis_since_answer.get(*node);
            **node == me || millis.is_some_and(|millis| Duration::from_millis(*millis) < ELECTION.start)
        };
        let is_majority_up =
            voters.iter().filter(|node| is_up(node) && answers(node)).count() * 2 > voters.len();
        if !new.all(has_caught_up) || !is_majority_up && !status.is_joint {
            return Step::Wait;
        }
        let is_heir = |node: &&u64| {
            status.voters.contains(*node) && standing(**node) == Standing::Up && has_caught_up(node)
        };
        let heir = voters.iter().find(is_heir).copied().filter(|_| !voters.contains(&me) && !status.is_joint);
        return match heir {
            Some(heir) => Step::HandOver(heir, voters),
            None => Step::ChangeVoters(voters),
        };
    }
    if let Some(old) = status.learners.difference(&voters).next() {
        return Step::RemoveLearner(*old);
    }
    let can_lead = |node: &u64| *node != me && standing(*node) == Standing::Up && has_caught_up(node);
    // Where this node should not lead, whoever can.
    let heirs = if standing(me) == Standing::Up { &wanted[..1] } else { wanted };
    let heir = heirs.iter().map(|node| node.0).find(can_lead);
    heir.map_or(Step::Nothing, Step::Lead)
}

/// What the leader of a term has told the cluster.
struct Told {
    term: u64,
    /// How often.
    number: u64,
    /// The cluster, and this node, know of what was told last. Nothing of earlier leaders is taken any more, and nothing of this one is
    /// still on its way: what the state says now is what holds.
    is_known: bool,
}

impl Told {
    /// Tells the cluster who the members are; whether it knows, and this node, too.
    async fn tell(&mut self, replica: &Replica, shards: &Shards, members: Vec<(NodeId, ReplicaId)>) -> bool {
        self.is_known = false;
        self.number += 1;
        let change = ShardChange::Members { number: self.number, members };
        let command = Command::Shard { shard: replica.id, term: self.term, change };
        match shards.meta().propose(command, Instant::now() + TELL_TIMEOUT).await {
            Ok((index, Reply::Done)) => {
                let mut meta = shards.meta().group().watch();
                self.is_known = meta.wait_for(|status| status.applied >= Some(index.0)).await.is_ok();
                return self.is_known;
            }
            Ok((_, reply)) => {
                tracing::debug!(shard = replica.id.0, ?reply, "the members of a shard were not taken");
            }
            Err(error) => {
                tracing::debug!(shard = replica.id.0, %error, "the members of a shard are not known yet");
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(voters: &[u64], learners: &[u64], replication: &[(u64, u64)]) -> GroupStatus {
        GroupStatus {
            last_log: Some(10_000),
            voters: voters.iter().copied().collect(),
            learners: learners.iter().copied().collect(),
            replication: replication.iter().map(|(node, index)| (*node, Some(*index))).collect(),
            millis_since_answer: voters.iter().chain(learners).map(|node| (*node, 10)).collect(),
            ..GroupStatus::default()
        }
    }

    fn check(status: &GroupStatus, wanted: &[u64], told: &[u64], expected: &Step) {
        check_of(1, status, wanted, told, expected);
    }

    #[test]
    fn who_does_not_answer_is_not_counted_on() {
        let mut status = status(&[1, 2, 3], &[], &[(2, 10_000), (3, 10_000)]);
        check(&status, &[1, 2], &[1, 2, 3], &Step::ChangeVoters(BTreeSet::from([1, 2])));
        status.millis_since_answer.insert(2, 1_000);
        check(&status, &[1, 2], &[1, 2, 3], &Step::Wait);
        status.millis_since_answer.remove(&2);
        check(&status, &[1, 2], &[1, 2, 3], &Step::Wait);
        status.is_joint = true;
        check(&status, &[1, 2], &[1, 2, 3], &Step::ChangeVoters(BTreeSet::from([1, 2])));
    }

    fn check_of(me: u64, status: &GroupStatus, wanted: &[u64], told: &[u64], expected: &Step) {
        let nodes = |nodes: &[u64]| nodes.iter().copied().map(NodeId).collect::<Vec<_>>();
        let standing = |node| match node {
            9 | 10 => Standing::Down,
            8 => Standing::Passing,
            _ => Standing::Up,
        };
        assert_eq!(decide(status, &nodes(wanted), Some(&nodes(told)), me, standing), *expected);
        let first = decide(status, &nodes(wanted), None, me, standing);
        assert!(matches!(first, Step::Tell(_)), "{first:?}: who has said nothing yet says who is there");
    }

    #[test]
    fn nothing_is_done_with_members_that_may_not_be_what_they_seem() {
        let (shard, id) = (ShardId(3), |id| GroupId::of_replica(ShardId(3), ReplicaId(id)));
        let ids = BTreeMap::from([(NodeId(1), ReplicaId(10)), (NodeId(2), ReplicaId(20))]);
        let check = |committed, members: &[(u64, GroupId)], expected| {
            let members = members.iter().copied().collect();
            let status =
                GroupStatus { committed, membership_at: Some(7), members, ..status(&[1, 2], &[], &[]) };
            assert_eq!(is_known(shard, &status, &ids), expected, "{status:?}");
        };
        check(Some(7), &[(1, id(10)), (2, id(20))], true);
        check(Some(9), &[(1, id(10))], true);
        check(Some(6), &[(1, id(10)), (2, id(20))], false); // An earlier leader's change may be undone.
        check(None, &[(1, id(10))], false);
        check(Some(7), &[(1, id(10)), (2, id(21))], false); // This node, or the group, is behind.
        check(Some(7), &[(1, id(10)), (3, id(30))], false);
    }

    #[test]
    fn members_come_one_after_the_other_and_go_when_the_new_ones_have_caught_up() {
        let set = |nodes: &[u64]| nodes.iter().copied().collect::<BTreeSet<u64>>();
        check(&status(&[1], &[], &[]), &[1, 2], &[], &Step::Tell(vec![NodeId(1), NodeId(2)]));
        check(&status(&[1], &[], &[]), &[1, 2], &[1], &Step::Tell(vec![NodeId(1), NodeId(2)]));
        check(&status(&[1], &[], &[]), &[1, 2], &[1, 2], &Step::AddLearner(2));
        check(&status(&[1], &[], &[]), &[1, 9], &[1, 9], &Step::Tell(vec![NodeId(1)]));
        check(&status(&[1], &[], &[]), &[1, 3, 9], &[1, 3], &Step::AddLearner(3));
        // Two of the new ones are down.
        let replication = [(2, 10_000), (9, 10_000), (10, 10_000)];
        check(&status(&[1, 2], &[9, 10], &replication), &[1, 9, 10], &[1, 2, 9, 10], &Step::Wait);
        check(&status(&[1], &[], &[]), &[1, 9], &[1], &Step::Wait);
        check(&status(&[1], &[2], &[(2, 10)]), &[1, 2], &[1, 2], &Step::Wait);
        check(&status(&[1], &[2], &[(2, 9_500)]), &[1, 2], &[1, 2], &Step::ChangeVoters(set(&[1, 2])));
        // Node 3 has gone for good; node 4 takes its place.
        let replication = [(2, 10_000), (4, 9_999)];
        let (voters, learners) = (&[1, 2, 3], &[4]);
        check(
            &status(voters, learners, &replication),
            &[1, 2, 4],
            &[1, 2, 3, 4],
            &Step::ChangeVoters(set(&[1, 2, 4])),
        );
        check(&status(&[1, 2, 4], &[3], &replication), &[1, 2, 4], &[1, 2, 3, 4], &Step::RemoveLearner(3));
        check(&status(&[1, 2, 4], &[], &replication), &[1, 2, 4], &[1, 2, 4], &Step::Nothing);
        check(&status(&[1, 2, 4], &[], &replication), &[2, 1, 4], &[1, 2, 4], &Step::Lead(2));
        check(&status(&[1, 9], &[], &[(9, 10_000)]), &[9, 1], &[1, 9], &Step::Nothing);
        check(&status(&[1, 8], &[], &[(8, 10_000)]), &[8, 1], &[1, 8], &Step::Nothing);
        check(&status(&[1], &[], &[]), &[1, 8], &[1, 8], &Step::AddLearner(8));
        // A leader that should not lead gives it to whoever can.
        let replication = [(1, 10_000), (2, 10), (3, 10_000), (9, 10_000)];
        check_of(8, &status(&[1, 2, 8], &[], &replication), &[8, 2, 1], &[1, 2, 8], &Step::Lead(1));
        check_of(8, &status(&[2, 8, 9], &[], &replication), &[8, 2, 9], &[2, 8, 9], &Step::Nothing);
        // This node goes: who has a vote and shall keep it leads first, if there is one.
        let (voters, all) = (&[1, 2, 3], &[1, 2, 3]);
        let replication = [(2, 10), (3, 10_000)];
        check(&status(voters, &[], &replication), &[2, 3], all, &Step::HandOver(3, set(&[2, 3])));
        check(&status(&[1], &[2], &[(2, 10_000)]), &[2], &[1, 2], &Step::ChangeVoters(set(&[2])));
        // An interrupted change is ended.
        let joint = GroupStatus { is_joint: true, ..status(&[1, 2], &[], &[(2, 10_000)]) };
        check(&joint, &[1, 2], &[1, 2], &Step::ChangeVoters(set(&[1, 2])));
    }
}
