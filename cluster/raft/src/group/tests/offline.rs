//! One member that is left goes on alone.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use tokio::time::timeout;

use super::harness::{Cluster, GROUP, State, TestResult};
use crate::group::offline;

/// All but `survivor` are lost; it goes on alone, and returns what it has then.
async fn go_on(cluster: &mut Cluster, survivor: u64) -> TestResult<State> {
    let running: Vec<u64> = cluster.network.groups.lock().keys().copied().collect();
    for id in running {
        cluster.cut_power(id).await?;
    }
    cluster.network.heal();
    let wal = cluster.nodes[&survivor].wal.clone();
    let command = Bytes::from_static(b"last=1");
    let records = offline::sole_member(&wal, GROUP, survivor, vec![command])?.ok_or("it has a log")?;
    offline::write(&wal, records)?;
    cluster.start(survivor).await?;
    assert_eq!(cluster.leader().await?, survivor);
    cluster.set("after", "1").await?;
    let status = cluster.group(survivor).status();
    assert_eq!((status.voters, status.is_joint), (BTreeSet::from([survivor]), false));
    let mut state = cluster.state(survivor);
    assert_eq!((state.remove("last"), state.remove("after")), (Some("1".into()), Some("1".into())));
    Ok(state)
}

#[tokio::test(start_paused = true)]
async fn it_has_all_that_was_committed_and_what_its_log_has_beyond() -> TestResult {
    for is_durable in [false, true] {
        let cluster = if is_durable { Cluster::durable() } else { Cluster::new() };
        // The log is cut now and then.
        let mut cluster = Cluster::of_three_with(Cluster { log_bytes_max: 1 << 10, ..cluster }).await?;
        for number in 0..50 {
            cluster.set(&number.to_string(), "committed").await?;
        }
        cluster.settled().await?;
        let leader = cluster.leader().await?;
        cluster.network.isolate(leader);
        // Nobody else gets it.
        let group = cluster.group(leader);
        let alone = group.propose(Bytes::from_static(b"more=1"));
        assert!(timeout(Duration::from_millis(100), alone).await.is_err());
        drop(group);
        let mut state = go_on(&mut cluster, leader).await?;
        assert_eq!(state.remove("more"), Some("1".into()));
        assert_eq!(state.len(), 50);
        // It is a group like any other.
        cluster.nodes.retain(|id, _| *id == leader);
        cluster.start(9).await?;
        cluster.group(leader).add_learner(9, GROUP).await?;
        cluster.group(leader).change_voters(BTreeSet::from([leader, 9])).await?;
        assert_eq!(cluster.settled().await?.len(), 53);
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn it_ends_a_change_of_voters_that_was_interrupted() -> TestResult {
    let mut cluster = Cluster::of_three().await?;
    cluster.set("a", "1").await?;
    let leader = cluster.leader().await?;
    cluster.start(4).await?;
    cluster.group(leader).add_learner(4, GROUP).await?;
    cluster.network.isolate(leader);
    let group = cluster.group(leader);
    let change = group.change_voters(BTreeSet::from([leader, 4]));
    assert!(timeout(Duration::from_millis(100), change).await.is_err());
    drop(group);
    assert_eq!(go_on(&mut cluster, leader).await?.len(), 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn who_has_nothing_of_a_group_does_not_get_it() -> TestResult {
    let mut cluster = Cluster::new();
    cluster.start(1).await?;
    cluster.stop(1).await?;
    assert!(offline::sole_member(&cluster.nodes[&1].wal, GROUP, 1, Vec::new())?.is_none());
    Ok(())
}
