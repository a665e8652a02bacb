//! Whole groups in one process.

mod disk;
mod durable;
mod durable_state;
mod harness;
mod offline;
mod submit;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use flotilla_wal::Files;

use super::{GroupError, GroupStatus, ProposeError, Role};
use harness::{Cluster, GROUP, TestResult, snapshot_dir, voters};

#[tokio::test(start_paused = true)]
async fn a_command_reaches_every_member() -> TestResult {
    let cluster = Cluster::of_three().await?;
    cluster.set("a", "1").await?;
    let leader = cluster.leader().await?;
    let (_, before) = cluster.group(leader).propose(Bytes::from_static(b"a=2")).await?;
    assert_eq!(before, Bytes::from_static(b"1"));
    assert_eq!(cluster.settled().await?.get("a").map(String::as_str), Some("2"));

    let status = cluster.group(leader).status();
    assert_eq!(status.voters, BTreeSet::from([1, 2, 3]));
    assert_eq!(status.replication.len(), 3);
    assert!(status.millis_since_quorum_ack.is_some());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_group_of_one_needs_nobody() -> TestResult {
    let mut cluster = Cluster::new();
    cluster.start(1).await?;
    assert!(cluster.group(1).is_pristine());
    assert!(!cluster.group(1).is_initialized().await);
    cluster.group(1).initialize(voters([1])).await?;
    cluster.set("a", "1").await?;
    assert!(!cluster.group(1).is_pristine());
    assert!(cluster.group(1).is_initialized().await);
    assert!(matches!(cluster.group(1).initialize(voters([1])).await, Err(GroupError::Initialized)));

    cluster.stop(1).await?;
    let start = tokio::time::Instant::now();
    cluster.start(1).await?;
    assert_eq!(cluster.state(1).get("a").map(String::as_str), Some("1"));
    cluster.set("b", "2").await?;
    assert!(start.elapsed() < Duration::from_millis(100), "it waited for an election: {:?}", start.elapsed());
    assert_eq!(cluster.settled().await?.len(), 2);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_group_ends_with_its_last_handle() -> TestResult {
    let mut cluster = Cluster::new();
    let group = cluster.try_start(1).await?;
    group.initialize(voters([1])).await?;
    group.propose(Bytes::from_static(b"a=1")).await?;
    let state = std::sync::Arc::downgrade(&cluster.nodes[&1].state);
    cluster.nodes.clear();
    assert!(state.upgrade().is_some());
    drop(group);
    let ended = async {
        while state.upgrade().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    Ok(tokio::time::timeout(Duration::from_secs(5), ended).await?)
}

/// What is committed is noted with the next write, or soon after the last one.
#[tokio::test(start_paused = true)]
async fn a_quiet_member_knows_its_state_after_a_power_cut() -> TestResult {
    let mut cluster = Cluster::of_three().await?;
    cluster.set("a", "1").await?;
    let state = cluster.settled().await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for id in 1..=3 {
        cluster.cut_power(id).await?;
    }
    cluster.start(1).await?;
    assert_eq!(cluster.state(1), state);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn followers_refuse_commands_and_name_the_leader() -> TestResult {
    let cluster = Cluster::of_three().await?;
    let leader = cluster.leader().await?;
    let follower = (1..=3).find(|id| *id != leader).expect("two followers");
    let refused = cluster.group(follower).propose(Bytes::from_static(b"a=1")).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some(leader) }));
    let refused = cluster.group(follower).add_learner(4, GROUP).await;
    assert!(matches!(refused, Err(GroupError::NotLeader { leader: Some(named) }) if named == leader));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_command_that_fits_no_message_is_refused() -> TestResult {
    let cluster = Cluster::of_three().await?;
    let leader = cluster.leader().await?;
    let refused = cluster.group(leader).propose(vec![b'='; super::COMMAND_BYTES_MAX + 1].into()).await;
    assert!(matches!(refused, Err(ProposeError::TooLarge { .. })));
    let mut greatest = vec![b'='; super::COMMAND_BYTES_MAX];
    greatest[0] = b'a';
    cluster.group(leader).propose(greatest.into()).await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_state_outlives_a_restart_of_all() -> TestResult {
    let mut cluster = Cluster::of_three().await?;
    for n in 0..20 {
        cluster.set(&format!("before-{n}"), "1").await?;
    }
    let leader = cluster.leader().await?;
    cluster.group(leader).make_snapshot().await?;
    cluster.wait(leader, "a snapshot", |status| status.snapshot.is_some()).await?;
    for n in 0..20 {
        cluster.set(&format!("after-{n}"), "1").await?;
    }
    let before = cluster.settled().await?;
    let index = cluster.group(leader).status().applied;
    for id in 1..=3 {
        cluster.stop(id).await?;
    }
    for id in 1..=3 {
        cluster.start(id).await?;
        // Stopped in order: what was applied is there at once, without any other member.
        assert!(cluster.group(id).status().applied >= index.map(|index| index - 1), "node {id}");
    }
    assert_eq!(cluster.settled().await?, before);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn others_take_over_from_a_dead_leader() -> TestResult {
    let mut cluster = Cluster::of_three().await?;
    cluster.set("a", "1").await?;
    let dead = cluster.leader().await?;
    cluster.stop(dead).await?;
    cluster.set("b", "2").await?;
    assert_ne!(cluster.leader().await?, dead);
    cluster.start(dead).await?;
    let state = cluster.settled().await?;
    assert_eq!(state.len(), 2);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_restarted_leader_does_not_resume_its_term() -> TestResult {
    let mut cluster = Cluster::of_three().await?;
    let leader = cluster.leader().await?;
    let term = cluster.group(leader).status().term;
    cluster.stop(leader).await?;
    cluster.start(leader).await?;
    assert_ne!(cluster.group(leader).status().role, Role::Leader);
    cluster.set("a", "1").await?;
    assert!(cluster.group(leader).status().term > term);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_cut_off_leader_commits_nothing() -> TestResult {
    let cluster = Cluster::of_three().await?;
    cluster.set("a", "1").await?;
    let old = cluster.leader().await?;
    cluster.network.isolate(old);
    let proposed = {
        let group = cluster.group(old);
        tokio::spawn(async move { group.propose(Bytes::from_static(b"a=lost")).await })
    };
    let others: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
    cluster.set_among(&others, "a", "2").await?;
    assert_eq!(cluster.state(old).get("a").map(String::as_str), Some("1"));
    assert!(!proposed.is_finished());
    // Its lease has lapsed: it takes no more.
    let refused = cluster.group(old).propose(Bytes::from_static(b"a=3")).await;
    assert!(matches!(refused, Err(ProposeError::NotLeader { .. })), "{refused:?}");

    cluster.network.heal();
    assert_eq!(cluster.settled().await?.get("a").map(String::as_str), Some("2"));
    let fate = proposed.await?;
    assert!(matches!(fate, Err(ProposeError::Unknown { .. })), "{fate:?}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_member_that_comes_back_does_not_depose_the_leader() -> TestResult {
    let cluster = Cluster::of_three().await?;
    let leader = cluster.leader().await?;
    let term = cluster.group(leader).status().term;
    let follower = (1..=3).find(|id| *id != leader).expect("two followers");
    cluster.network.isolate(follower);
    for n in 0..10 {
        cluster.set_among(&[leader, 6 - leader - follower], &format!("{n}"), "1").await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    cluster.network.heal();
    cluster.settled().await?;
    assert_eq!(cluster.leader().await?, leader);
    assert_eq!(cluster.group(leader).status().term, term);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_is_far_behind_gets_a_snapshot() -> TestResult {
    let mut cluster = Cluster::of_three().await?;
    let leader = cluster.leader().await?;
    let follower = (1..=3).find(|id| *id != leader).expect("two followers");
    cluster.stop(follower).await?;
    for n in 0..30 {
        cluster.set(&format!("key-{n}"), "1").await?;
    }
    let leader = cluster.leader().await?;
    cluster.group(leader).make_snapshot().await?;
    cluster.wait(leader, "a cut log", |status| status.purged.is_some_and(|purged| purged > 20)).await?;
    assert_eq!(*cluster.network.snapshots.lock(), 0);

    cluster.start(follower).await?;
    assert_eq!(cluster.settled().await?.len(), 30);
    assert!(*cluster.network.snapshots.lock() > 0);
    // The received snapshot is as good as an own one.
    cluster.stop(follower).await?;
    cluster.start(follower).await?;
    assert_eq!(cluster.state(follower).len(), 30);
    cluster.set("more", "1").await?;
    assert_eq!(cluster.settled().await?.len(), 31);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_is_damaged_on_its_way_changes_nothing() -> TestResult {
    let mut cluster = Cluster::of_three().await?;
    let leader = cluster.leader().await?;
    let follower = (1..=3).find(|id| *id != leader).expect("two followers");
    cluster.set("old", "1").await?;
    cluster.settled().await?;
    cluster.stop(follower).await?;
    for n in 0..30 {
        cluster.set(&format!("key-{n}"), "1").await?;
    }
    let leader = cluster.leader().await?;
    cluster.group(leader).make_snapshot().await?;
    cluster.wait(leader, "a cut log", |status| status.purged.is_some()).await?;
    *cluster.network.damages_snapshots.lock() = true;
    cluster.start(follower).await?;
    while *cluster.network.snapshots.lock() < 3 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(cluster.state(follower).len(), 1);
    assert_eq!(cluster.group(follower).status().failed, None);
    assert_eq!(cluster.group(leader).status().failed, None);

    *cluster.network.damages_snapshots.lock() = false;
    assert_eq!(cluster.settled().await?.len(), 31);
    use flotilla_wal::Files;
    assert_eq!(cluster.nodes[&follower].files.list(&snapshot_dir())?, ["snapshot"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn members_come_and_go() -> TestResult {
    let mut cluster = Cluster::of_three().await?;
    cluster.set("a", "1").await?;
    let leader = cluster.leader().await?;
    cluster.group(leader).make_snapshot().await?;
    cluster.wait(leader, "a snapshot", |status| status.snapshot.is_some()).await?;

    cluster.start(4).await?;
    let group = cluster.group(leader);
    group.add_learner(4, GROUP).await?;
    group.add_learner(4, GROUP).await?;
    cluster
        .wait(4, "learning", |status| status.role == Role::Learner && status.learners.contains(&4))
        .await?;
    assert_eq!(cluster.settled().await?.len(), 1);

    let refused = group.change_voters(BTreeSet::from([1, 2, 3, 5])).await;
    assert!(matches!(refused, Err(GroupError::Membership(_))), "{refused:?}");
    group.change_voters(BTreeSet::from([1, 2, 3, 4])).await?;
    cluster.wait(4, "voting", |status| status.role == Role::Follower && status.voters.contains(&4)).await?;
    assert!(matches!(group.remove_learner(4).await, Err(GroupError::Membership(_))));

    let gone = (1..=3).find(|id| *id != leader).expect("two followers");
    let rest: BTreeSet<u64> = (1..=4).filter(|id| *id != gone).collect();
    group.change_voters(rest.clone()).await?;
    group.remove_learner(gone).await?;
    group.remove_learner(gone).await?;
    let status = cluster.wait(leader, "one less", |status| status.learners.is_empty()).await?;
    assert_eq!(status.voters, rest);
    cluster.stop(gone).await?;
    cluster.set("b", "2").await?;
    assert_eq!(cluster.settled().await?.len(), 2);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_leader_can_leave() -> TestResult {
    let mut cluster = Cluster::of_three().await?;
    let leader = cluster.leader().await?;
    let rest: BTreeSet<u64> = (1..=3).filter(|id| *id != leader).collect();
    cluster.group(leader).change_voters(rest.clone()).await?;
    let next = cluster.wait(leader, "stepping down", |status| {
        status.role == Role::Learner && status.leader.is_some_and(|now| now != leader)
    });
    let next = next.await?.leader.expect("waited for");
    cluster.group(next).remove_learner(leader).await?;
    cluster.stop(leader).await?;
    cluster.set("a", "1").await?;
    assert_eq!(cluster.group(next).status().voters, rest);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_change_of_voters_is_ended_by_the_next() -> TestResult {
    let mut cluster = Cluster::of_three().await?;
    let leader = cluster.leader().await?;
    cluster.start(4).await?;
    let group = cluster.group(leader);
    group.add_learner(4, GROUP).await?;
    cluster.wait(4, "learning", |status| status.applied.is_some()).await?;
    // Breaks the change off between its two steps.
    tokio::select! {
        biased;
        joint = cluster.wait(leader, "the first step", |status| status.is_joint) => drop(joint?),
        done = group.change_voters(BTreeSet::from([1, 2, 3, 4])) => panic!("not interrupted: {done:?}"),
    }
    assert!(group.status().is_joint);
    cluster.set("a", "1").await?;

    group.change_voters(BTreeSet::from([1, 2, 3])).await?;
    let status = cluster.wait(leader, "an end of it", |status| !status.is_joint).await?;
    assert_eq!(status.voters, BTreeSet::from([1, 2, 3]));
    assert_eq!(status.learners, BTreeSet::from([4]));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_leadership_is_handed_over() -> TestResult {
    let cluster = Cluster::of_three().await?;
    let leader = cluster.leader().await?;
    let next = (1..=3).find(|id| *id != leader).expect("two followers");
    let start = tokio::time::Instant::now();
    cluster.group(leader).transfer_leadership(next).await?;
    assert!(start.elapsed() < Duration::from_secs(1), "took {:?}", start.elapsed());
    assert_eq!(cluster.leader().await?, next);
    cluster.set("a", "1").await?;
    cluster.group(next).transfer_leadership(next).await?;
    assert!(matches!(cluster.group(next).transfer_leadership(9).await, Err(GroupError::Transfer(_))));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_leadership_is_not_handed_to_a_silent_member() -> TestResult {
    let cluster = Cluster::of_three().await?;
    let leader = cluster.leader().await?;
    let silent = (1..=3).find(|id| *id != leader).expect("two followers");
    cluster.network.isolate(silent);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let refused = cluster.group(leader).transfer_leadership(silent).await;
    assert!(matches!(refused, Err(GroupError::Transfer(_))), "{refused:?}");
    cluster.group(leader).propose(Bytes::from_static(b"a=1")).await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_not_understood_stops_the_group() -> TestResult {
    let cluster = Cluster::of_three().await?;
    let leader = cluster.leader().await?;
    let stopped = cluster.group(leader).propose(Bytes::from_static(b"nonsense")).await;
    assert!(matches!(stopped, Err(ProposeError::Stopped(_))), "{stopped:?}");
    let status = cluster.wait(leader, "stopping", |status| status.role == Role::Stopped).await?;
    let failed = status.failed.ok_or("no reason")?;
    assert!(failed.contains("is not understood: no = in it"), "{failed}");
    // The next leader commits it, too; the last member has no quorum, and never hears of that.
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let stops = |status: &GroupStatus| status.role == Role::Stopped;
    tokio::select! {
        stopped = cluster.wait(others[0], "stopping", stops) => drop(stopped?),
        stopped = cluster.wait(others[1], "stopping", stops) => drop(stopped?),
    }
    let refused = cluster.group(leader).propose(Bytes::from_static(b"a=1")).await;
    assert!(matches!(refused, Err(ProposeError::Stopped(reason)) if reason.contains("no = in it")));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_damaged_snapshot_is_refused_at_start() -> TestResult {
    let mut cluster = Cluster::of_three().await?;
    for n in 0..10 {
        cluster.set(&format!("key-{n}"), "1").await?;
    }
    cluster.settled().await?;
    cluster.group(1).make_snapshot().await?;
    cluster.wait(1, "a snapshot", |status| status.purged.is_some()).await?;
    cluster.stop(1).await?;

    let path = snapshot_dir().join("snapshot");
    let files = cluster.nodes[&1].files.clone();
    let intact = files.contents(&path).ok_or("no snapshot")?;
    for at in [0, 9, 14, intact.len() / 2, intact.len() - 1] {
        let mut damaged = intact.clone();
        damaged[at] ^= 0x10;
        files.damage(&path, &damaged);
        let refused = cluster.try_start(1).await.err().ok_or("started with a damaged snapshot")?;
        assert!(refused.to_string().contains("let it join the cluster again"), "byte {at}: {refused}");
    }
    files.damage(&path, &intact[..intact.len() - 5]);
    assert!(cluster.try_start(1).await.is_err());
    use flotilla_wal::Files;
    files.remove(&path)?;
    let refused = cluster.try_start(1).await.err().ok_or("started without its snapshot")?;
    assert!(matches!(refused, GroupError::Snapshot(super::SnapshotError::Missing { .. })), "{refused}");

    files.create(&path)?;
    files.damage(&path, &intact);
    cluster.start(1).await?;
    assert_eq!(cluster.settled().await?.len(), 10);
    Ok(())
}

/// Stops the disk of a group of one at each operation in turn: whatever was answered is there after the power came back.
#[tokio::test(start_paused = true)]
async fn what_was_answered_survives_a_power_cut() -> TestResult {
    for operation in (0..40).chain((40..140).step_by(5)) {
        let mut cluster = Cluster::new();
        cluster.log_bytes_max = 512; // A snapshot with every few commands.
        cluster.start(1).await?;
        cluster.group(1).initialize(voters([1])).await?;
        cluster.leader().await?;
        cluster.nodes[&1].files.stop_at_operation(operation);
        let mut answered = 0;
        for n in 0..40 {
            let command = format!("key-{n}={}", "x".repeat(100));
            match cluster.group(1).propose(command.into()).await {
                Ok(_) => answered = n + 1,
                Err(ProposeError::Stopped(_)) => break,
                Err(error) => return Err(error.into()),
            }
        }
        cluster.cut_power(1).await?;
        cluster.start(1).await?;
        cluster.set("after", "1").await?;
        let state = cluster.settled().await?;
        for n in 0..answered {
            assert!(state.contains_key(&format!("key-{n}")), "operation {operation}: key-{n} of {answered}");
        }
    }
    Ok(())
}

/// As above, with a leader among three: the answered commands are on the disks of two.
#[tokio::test(start_paused = true)]
async fn power_cuts_of_leaders_lose_nothing() -> TestResult {
    let mut cluster = Cluster::new();
    cluster.log_bytes_max = 1024;
    let mut cluster = Cluster::of_three_with(cluster).await?;
    let mut expected = 0;
    for round in 0..15 {
        let leader = cluster.leader().await?;
        cluster.nodes[&leader].files.stop_at_operation(round * 3);
        for n in 0..10 {
            let command = format!("{round}-{n}={}", "x".repeat(100));
            if cluster.group(leader).propose(command.into()).await.is_err() {
                break;
            }
            expected += 1;
        }
        cluster.cut_power(leader).await?;
        cluster.start(leader).await?;
        let state = cluster.settled().await?;
        assert!(state.len() >= expected, "round {round}: {} of {expected}", state.len());
        expected = state.len();
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_log_stays_bounded() -> TestResult {
    let mut cluster = Cluster::new();
    cluster.log_bytes_max = 64 * 1024;
    let mut cluster = Cluster::of_three_with(cluster).await?;
    let value = "x".repeat(4 * 1024);
    for n in 0..200 {
        cluster.set(&format!("key-{}", n % 8), &value).await?;
    }
    cluster.settled().await?;
    for id in 1..=3 {
        let status = cluster.group(id).status();
        assert!(status.log_bytes < 160 * 1024, "node {id}: {status:?}");
        assert!(status.purged > Some(100), "node {id}: {status:?}");
    }
    // Also while a member is away, which then gets a snapshot.
    let away = (1..=3).find(|id| cluster.group(*id).status().role != Role::Leader).expect("two followers");
    cluster.stop(away).await?;
    for n in 0..200 {
        cluster.set(&format!("key-{}", n % 8), &value).await?;
    }
    let leader = cluster.leader().await?;
    cluster.wait(leader, "a cut log", |status| status.log_bytes < 160 * 1024).await?;
    cluster.start(away).await?;
    assert_eq!(cluster.settled().await?.len(), 8);
    assert!(*cluster.network.snapshots.lock() > 0);
    Ok(())
}

/// With the feature, a run is repeated by its seeds, down to the microsecond.
#[cfg(feature = "simulation")]
#[tokio::test(start_paused = true)]
async fn a_run_is_repeated_by_its_seeds() -> TestResult {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let start = tokio::time::Instant::now();
        let mut cluster = Cluster::of_three().await?;
        for _ in 0..3 {
            let leader = cluster.leader().await?;
            cluster.stop(leader).await?;
            cluster.set("a", "1").await?;
            cluster.start(leader).await?;
        }
        let leader = cluster.leader().await?;
        runs.push((leader, cluster.group(leader).status(), start.elapsed()));
    }
    assert_eq!(runs[0], runs[1]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_finds_no_space_is_made_later() -> TestResult {
    let cluster = Cluster::of_three().await?;
    cluster.set("a", "1").await?;
    cluster.settled().await?;
    let leader = cluster.leader().await?;
    let id = (1..=3).find(|id| *id != leader).ok_or("no follower")?;
    let files = &cluster.nodes[&id].files;
    files.set_capacity(0);
    cluster.group(id).make_snapshot().await?;
    let mut status = cluster.group(id).watch();
    let stopped =
        tokio::time::timeout(Duration::from_secs(5), status.wait_for(|status| status.role == Role::Stopped));
    assert!(stopped.await.is_err(), "it goes on");
    assert!(files.list(&snapshot_dir())?.is_empty(), "nothing is left of it");
    files.lift_capacity();
    cluster.group(id).make_snapshot().await?;
    cluster.wait(id, "a snapshot", |status| status.snapshot.is_some()).await?;
    cluster.set("b", "1").await?;
    assert_eq!(cluster.settled().await?.len(), 2);
    Ok(())
}
