//! Groups whose state is on the disk by itself.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use flotilla_wal::Files;
use futures_util::future::try_join_all;

use super::durable_state::CrashAt;
use super::harness::{Cluster, GROUP, TestResult, snapshot_dir, voters};
use crate::group::{GroupError, GroupId, ProposeError, Role};

/// A follower of the leader.
async fn a_follower(cluster: &Cluster) -> TestResult<(u64, u64)> {
    let leader = cluster.leader().await?;
    Ok((leader, (1..=3).find(|id| *id != leader).ok_or("no follower")?))
}

/// Three nodes, one of which is stopped and has missed so much that only a snapshot helps.
async fn one_far_behind() -> TestResult<(Cluster, u64)> {
    let mut cluster = Cluster::of_three_with(Cluster::durable()).await?;
    cluster.set("old", "1").await?;
    cluster.settled().await?;
    let (_, behind) = a_follower(&cluster).await?;
    cluster.group(behind).make_snapshot().await?;
    cluster.wait(behind, "a checkpoint", |status| status.snapshot.is_some()).await?;
    cluster.stop(behind).await?;
    for n in 0..30 {
        cluster.set(&format!("key-{n}"), "1").await?;
    }
    let leader = cluster.leader().await?;
    cluster.group(leader).make_snapshot().await?;
    cluster.wait(leader, "a cut log", |status| status.purged > Some(20)).await?;
    Ok((cluster, behind))
}

#[tokio::test(start_paused = true)]
async fn a_restart_replays_exactly_from_the_position() -> TestResult {
    let mut cluster = Cluster::of_three_with(Cluster::durable()).await?;
    for n in 0..20 {
        cluster.set(&format!("key-{n}"), "1").await?;
    }
    let state = cluster.settled().await?;
    cluster.group(1).make_snapshot().await?;
    cluster.wait(1, "a checkpoint", |status| status.snapshot == status.applied).await?;
    let position = cluster.nodes[&1].disk.lock().durable.index().ok_or("no position")?;
    let mut later = Vec::new();
    for n in 0..10 {
        later.push(cluster.set(&format!("later-{n}"), "1").await?);
    }
    cluster.settled().await?;
    cluster.cut_power(1).await?;
    cluster.start(1).await?;
    assert_eq!(cluster.settled().await?.len(), state.len() + 10);
    let disk = cluster.nodes[&1].disk.lock();
    assert!(disk.applied[0] > position);
    assert_eq!(disk.applied, later);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn commands_that_come_together_are_applied_together() -> TestResult {
    let cluster = Cluster::of_three_with(Cluster::durable()).await?;
    let group = cluster.group(cluster.leader().await?);
    let proposals = (0..500).map(|n| {
        let group = group.clone();
        async move { group.propose(format!("a={n}").into()).await.map(|(index, before)| (index, n, before)) }
    });
    let mut answers = try_join_all(proposals).await?;
    answers.sort_unstable();
    for pair in answers.windows(2) {
        assert_eq!(pair[1].2, pair[0].1.to_string().as_bytes(), "the answer to entry {}", pair[1].0);
    }
    cluster.settled().await?;
    for node in cluster.nodes.values() {
        let disk = node.disk.lock();
        assert_eq!(disk.applied.len(), 500);
        assert!(disk.batches < 100, "{} calls", disk.batches);
    }
    Ok(())
}

/// The log reaches back to what the disk has, at every moment and whatever a checkpoint brings.
#[tokio::test(start_paused = true)]
async fn the_log_is_cut_only_up_to_what_the_disk_has() -> TestResult {
    for lags in [false, true] {
        let mut cluster = Cluster::durable();
        cluster.log_bytes_max = 1024;
        let mut cluster = Cluster::of_three_with(cluster).await?;
        for node in cluster.nodes.values() {
            node.disk.lock().lags = lags;
        }
        for n in 0..200 {
            cluster.set(&format!("key-{}", n % 20), &"x".repeat(100)).await?;
            for node in cluster.nodes.values() {
                let purged = node.wal.group(GROUP.0).purged.map(|purged| purged.0);
                let durable = node.disk.lock().durable.index();
                assert!(purged <= durable, "cut up to {purged:?}, the disk has {durable:?}");
            }
            if n % 40 == 39 {
                let node = n / 40 % 3 + 1;
                cluster.cut_power(node).await?;
                cluster.start(node).await?;
            }
        }
        assert_eq!(cluster.settled().await?.len(), 20);
        for id in 1..=3 {
            let status = cluster.group(id).status();
            assert!(status.purged > Some(100), "node {id}: {status:?}");
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_is_far_behind_gets_the_state() -> TestResult {
    let (mut cluster, behind) = one_far_behind().await?;
    cluster.start(behind).await?;
    assert_eq!(cluster.settled().await?.len(), 31);
    assert_eq!(cluster.nodes[&behind].disk.lock().restores, 1);
    assert!(cluster.nodes[&behind].files.list(&snapshot_dir())?.is_empty(), "the received file is gone");
    // The same question has the same answer everywhere.
    let leader = cluster.leader().await?;
    if leader != behind {
        cluster.group(leader).transfer_leadership(behind).await?;
    }
    let (_, before) = cluster.group(behind).propose(Bytes::from_static(b"key-7=2")).await?;
    assert_eq!(before, "1");
    cluster.settled().await?;
    // And it is durable.
    cluster.cut_power(behind).await?;
    cluster.start(behind).await?;
    assert_eq!(cluster.settled().await?.len(), 31);
    assert_eq!(cluster.nodes[&behind].disk.lock().restores, 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_in_the_middle_of_a_restore_leaves_the_old_or_the_new_state() -> TestResult {
    for at in [CrashAt::Before, CrashAt::After] {
        let (mut cluster, behind) = one_far_behind().await?;
        let disk = cluster.nodes[&behind].disk.clone();
        let old = disk.lock().durable.clone();
        disk.lock().crash_in_restore = Some(at);
        cluster.start(behind).await?;
        cluster.wait(behind, "the crash", |status| status.role == Role::Stopped).await?;
        cluster.cut_power(behind).await?;
        assert_eq!(disk.lock().durable == old, at == CrashAt::Before);

        cluster.start(behind).await?;
        assert_eq!(cluster.settled().await?.len(), 31, "{at:?}");
        cluster.set("more", "1").await?;
        assert_eq!(cluster.settled().await?.len(), 32);
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_is_damaged_on_its_way_does_not_touch_the_state() -> TestResult {
    let (mut cluster, behind) = one_far_behind().await?;
    let disk = cluster.nodes[&behind].disk.clone();
    let old = disk.lock().durable.clone();
    *cluster.network.damages_snapshots.lock() = true;
    cluster.start(behind).await?;
    let tried = async {
        while *cluster.network.snapshots.lock() < 3 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), tried)
        .await
        .map_err(|_| "no three snapshots were sent")?;
    assert_eq!(disk.lock().live, old);
    assert_eq!(disk.lock().restores, 0);
    for id in 1..=3 {
        assert_eq!(cluster.group(id).status().failed, None);
    }
    *cluster.network.damages_snapshots.lock() = false;
    assert_eq!(cluster.settled().await?.len(), 31);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_received_file_that_changes_before_it_is_read_is_refused() -> TestResult {
    let (mut cluster, behind) = one_far_behind().await?;
    let disk = cluster.nodes[&behind].disk.clone();
    let old = disk.lock().durable.clone();
    let files = cluster.nodes[&behind].files.clone();
    disk.lock().before_restore = Some(Box::new(move || {
        let path = snapshot_dir().join("0.tmp");
        let mut bytes = files.contents(&path).expect("the file of the snapshot");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        files.damage(&path, &bytes);
    }));
    cluster.start(behind).await?;
    let status = cluster.wait(behind, "an end", |status| status.role == Role::Stopped).await?;
    assert!(status.failed.as_ref().is_some_and(|failed| failed.contains("is damaged")), "{status:?}");
    assert_eq!(disk.lock().durable, old);
    cluster.cut_power(behind).await?;
    cluster.start(behind).await?;
    assert_eq!(cluster.settled().await?.len(), 31);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_member_that_cannot_read_its_state_steps_aside() -> TestResult {
    let (mut cluster, behind) = one_far_behind().await?;
    let leader = cluster.leader().await?;
    cluster.nodes[&leader].disk.lock().unreadable = Some(20);
    cluster.start(behind).await?;
    let status = cluster.wait(leader, "an end", |status| status.role == Role::Stopped).await?;
    assert!(status.failed.is_some_and(|failed| failed.contains("a block of the store is damaged")));
    // The others have all that was committed.
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    cluster.set_among(&others, "more", "1").await?;
    let next = cluster.leader_among(&others).await?;
    assert_eq!(cluster.state(next).len(), 32);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_members_are_known_after_a_restart_without_the_entry_that_set_them() -> TestResult {
    let mut cluster = Cluster::of_three_with(Cluster::durable()).await?;
    let leader = cluster.leader().await?;
    cluster.start(4).await?;
    cluster.group(leader).add_learner(4, GROUP).await?;
    cluster.group(leader).change_voters(BTreeSet::from([1, 2, 3, 4])).await?;
    cluster.start(5).await?;
    cluster.group(leader).add_learner(5, GROUP).await?;
    for n in 0..20 {
        cluster.set(&format!("key-{n}"), "1").await?;
    }
    cluster.settled().await?;
    for id in 1..=5 {
        cluster.group(id).make_snapshot().await?;
        let cut = cluster.wait(id, "a cut log", |status| status.purged > status.membership_at);
        assert!(cut.await?.membership_at.is_some());
    }
    for id in 1..=5 {
        cluster.cut_power(id).await?;
    }
    for id in 1..=5 {
        cluster.start(id).await?;
        let status = cluster.group(id).status();
        assert_eq!(status.voters, BTreeSet::from([1, 2, 3, 4]));
        assert_eq!(status.learners, BTreeSet::from([5]));
    }
    cluster.set("more", "1").await?;
    assert_eq!(cluster.settled().await?.len(), 21);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_state_that_was_put_back_is_refused() -> TestResult {
    let mut cluster = Cluster::of_three_with(Cluster::durable()).await?;
    let early = cluster.nodes[&1].disk.lock().durable.clone();
    for n in 0..20 {
        cluster.set(&format!("key-{n}"), "1").await?;
    }
    cluster.settled().await?;
    cluster.group(1).make_snapshot().await?;
    cluster.wait(1, "a cut log", |status| status.purged > Some(10)).await?;
    cluster.stop(1).await?;
    let late = std::mem::replace(&mut cluster.nodes[&1].disk.lock().durable, early);
    let refused = cluster.try_start(1).await.err().ok_or("started behind its log")?;
    assert!(
        matches!(refused, GroupError::StateBehind { position: None, needed } if needed > 10),
        "{refused}"
    );
    cluster.nodes[&1].disk.lock().durable = late;
    cluster.nodes[&1].disk.lock().durable.position = Some(Bytes::from_static(&[9, 1]));
    let refused = cluster.try_start(1).await.err().ok_or("started with a position of the future")?;
    assert!(matches!(&refused, GroupError::Storage(why) if why.contains("format 9")), "{refused}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_state_alone_is_not_pristine() -> TestResult {
    let mut cluster = Cluster::durable();
    cluster.start(1).await?;
    assert!(cluster.group(1).is_pristine());
    cluster.group(1).initialize(voters([1])).await?;
    cluster.set("a", "1").await?;
    cluster.group(1).make_snapshot().await?;
    cluster.wait(1, "a checkpoint", |status| status.snapshot.is_some()).await?;
    cluster.stop(1).await?;
    let disk = cluster.nodes.remove(&1).ok_or("no node")?.disk;
    // The log is lost, and the state is not.
    cluster.start(1).await?;
    cluster.stop(1).await?;
    cluster.nodes.get_mut(&1).ok_or("no node")?.disk = disk;
    cluster.start(1).await?;
    assert!(!cluster.group(1).is_pristine());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_removed_forgets_and_comes_back_as_a_new_one() -> TestResult {
    let mut cluster = Cluster::of_three_with(Cluster::durable()).await?;
    for n in 0..30 {
        cluster.set(&format!("key-{n}"), "1").await?;
    }
    cluster.settled().await?;
    let (leader, gone) = a_follower(&cluster).await?;
    for id in [leader, gone] {
        cluster.group(id).make_snapshot().await?;
        cluster.wait(id, "a cut log", |status| status.purged.is_some()).await?;
    }
    let rest = (1..=3).filter(|id| *id != gone).collect();
    cluster.group(leader).change_voters(rest).await?;
    cluster.wait(gone, "the end of its vote", |status| status.role == Role::Learner).await?;
    cluster.group(leader).remove_learner(gone).await?;

    let group = cluster.network.groups.lock().remove(&gone).ok_or("no group")?;
    let wal = cluster.nodes[&gone].wal.clone();
    group.forget().await?;
    // Nothing is written behind it.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(wal.groups(), [0; 0]);
    drop(wal);
    let node = cluster.nodes.get_mut(&gone).ok_or("no node")?;
    let files = node.files.crash(|_| 0..0);
    node.reopen(files)?;
    node.disk = Default::default();
    node.group = SECOND;
    cluster.start(gone).await?;
    assert!(cluster.group(gone).is_pristine());
    cluster.group(leader).add_learner(gone, SECOND).await?;
    let other = cluster.group(leader).add_learner(gone, GROUP).await;
    assert!(matches!(other, Err(GroupError::Membership(_))), "{other:?}");
    cluster.group(leader).change_voters(BTreeSet::from([1, 2, 3])).await?;
    cluster.set("more", "1").await?;
    assert_eq!(cluster.settled().await?.len(), 31);
    assert_eq!(cluster.nodes[&gone].disk.lock().restores, 1);
    Ok(())
}

/// A node was taken out and begins anew, while one that has seen nothing of that comes back. The two are a majority of the members that
/// the latter knows, but not with what the former has now.
#[tokio::test(start_paused = true)]
async fn a_second_replica_of_a_node_does_not_stand_for_the_first() -> TestResult {
    let mut cluster = Cluster::of_three_with(Cluster::durable()).await?;
    cluster.set("old", "1").await?;
    cluster.settled().await?;
    let (leader, again) = a_follower(&cluster).await?;
    let stale = (1..=3).find(|id| ![leader, again].contains(id)).ok_or("three nodes")?;
    cluster.network.isolate(stale);
    cluster.start(4).await?;
    let group = cluster.group(leader);
    group.add_learner(4, GROUP).await?;
    group.change_voters(BTreeSet::from([leader, stale, 4])).await?;
    group.remove_learner(again).await?;
    group.propose(Bytes::from_static(b"new=1")).await?;

    let gone = cluster.network.groups.lock().remove(&again).ok_or("no group")?;
    gone.forget().await?;
    let node = cluster.nodes.get_mut(&again).ok_or("no node")?;
    (node.disk, node.group) = (Default::default(), SECOND);
    cluster.start(again).await?;
    cluster.network.isolate(again);
    group.add_learner(again, SECOND).await?;
    drop(group);
    cluster.stop(leader).await?;
    cluster.stop(4).await?;
    cluster.network.heal();
    tokio::time::sleep(Duration::from_secs(60)).await;
    for id in [again, stale] {
        assert_ne!(cluster.group(id).status().role, Role::Leader, "node {id}");
    }

    cluster.start(4).await?;
    cluster.start(leader).await?;
    assert_eq!(cluster.settled().await?.into_keys().collect::<Vec<_>>(), ["new", "old"]);
    Ok(())
}

/// The number of the group on a node that had it under another one before.
const SECOND: GroupId = GroupId(8);

/// Power cuts of leaders, with a log that is cut all the time: what was answered is there.
#[tokio::test(start_paused = true)]
async fn power_cuts_of_leaders_lose_nothing_that_was_answered() -> TestResult {
    for lags in [false, true] {
        let mut cluster = Cluster::durable();
        cluster.log_bytes_max = 1024;
        let mut cluster = Cluster::of_three_with(cluster).await?;
        let mut expected = 0;
        for round in 0..15 {
            let leader = cluster.leader().await?;
            cluster.nodes[&leader].disk.lock().lags = lags;
            cluster.nodes[&leader].files.stop_at_operation(round * 3);
            for n in 0..10 {
                let command = format!("{round}-{n}={}", "x".repeat(100));
                match cluster.group(leader).propose(command.into()).await {
                    Ok(_) => expected += 1,
                    Err(ProposeError::TooLarge { .. }) => return Err("not large".into()),
                    Err(_) => break,
                }
            }
            cluster.cut_power(leader).await?;
            cluster.start(leader).await?;
            let state = cluster.settled().await?;
            assert!(state.len() >= expected, "round {round}: {} of {expected}", state.len());
            expected = state.len();
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_waited_for() -> TestResult {
    let mut cluster = Cluster::of_three_with(Cluster::durable()).await?;
    cluster.set("before", "1").await?;
    cluster.settled().await?;
    let (leader, full) = a_follower(&cluster).await?;
    let disk = cluster.nodes[&full].disk.clone();
    disk.lock().is_full = true;
    for n in 0..20 {
        cluster.set(&format!("key-{n}"), "1").await?;
    }
    cluster
        .wait(full, "the log", |status| status.last_log == cluster.group(leader).status().last_log)
        .await?;
    assert_eq!(disk.lock().applied.len(), 1);
    assert!(disk.lock().refusals > 0 && cluster.group(full).status().failed.is_none());
    disk.lock().is_full = false;
    assert_eq!(cluster.settled().await?.len(), 21);
    // One that waits ends when it shall.
    disk.lock().is_full = true;
    cluster.set("later", "1").await?;
    cluster.wait(full, "the log", |status| status.apply_lag() > 0).await?;
    cluster.stop(full).await?;
    disk.lock().is_full = false;
    cluster.start(full).await?;
    assert_eq!(cluster.settled().await?.len(), 22);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_finds_no_space_is_taken_over_later() -> TestResult {
    let (mut cluster, behind) = one_far_behind().await?;
    cluster.nodes[&behind].disk.lock().is_full = true;
    cluster.start(behind).await?;
    assert_eq!(cluster.settled().await?.len(), 31);
    assert_eq!(cluster.nodes[&behind].disk.lock().restores, 1);
    Ok(())
}
