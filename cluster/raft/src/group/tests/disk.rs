//! Groups on the file system and on several threads, in real time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flotilla_wal::{DiskFiles, Wal, WalOptions};
use futures_util::future::try_join_all;
use parking_lot::Mutex;

use super::harness::{Cluster, GROUP, Link, Machine, State, TestResult, started, voters};
use crate::group::{Group, GroupOptions};

const WRITERS: usize = 8;
const WRITES: usize = 25;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_restart_from_their_disks() -> TestResult {
    let dir = tempfile::tempdir()?;
    let cluster = &Cluster::new();
    let first = start_three(cluster, dir.path()).await?;
    cluster.group(1).initialize(voters([1, 2, 3])).await?;
    try_join_all((0..WRITERS).map(|writer| async move {
        for n in 0..WRITES {
            cluster.set(&format!("{writer}-{n}"), &"x".repeat(200)).await?;
        }
        TestResult::Ok(())
    }))
    .await?;
    let leader = cluster.leader().await?;
    cluster.wait(leader, "a cut log", |status| status.purged.is_some()).await?;
    cluster.network.groups.lock().clear();
    for node in first {
        node.group.shutdown().await;
        node.wal.close();
    }

    let second = start_three(cluster, dir.path()).await?;
    let index = cluster.set("after", "1").await?;
    for node in &second {
        cluster.wait(node.id, "the last command", |status| status.applied >= Some(index)).await?;
        assert_eq!(node.state.lock().len(), WRITERS * WRITES + 1, "node {}", node.id);
    }
    for node in second {
        node.group.shutdown().await;
    }
    Ok(())
}

struct Node {
    id: u64,
    group: Group,
    wal: Wal,
    state: Arc<Mutex<State>>,
}

async fn start_three(cluster: &Cluster, dir: &Path) -> TestResult<Vec<Node>> {
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let dir = dir.join(id.to_string());
        let files = Arc::new(DiskFiles);
        let wal = Wal::open(&dir.join("wal"), WalOptions::default(), Arc::<DiskFiles>::clone(&files))?;
        let state = Arc::default();
        let group = Group::start(GroupOptions {
            id: GROUP,
            me: id,
            // Short, but with room for a machine that does other things, too.
            heartbeat: Duration::from_millis(100),
            election: Duration::from_millis(600)..Duration::from_millis(1_200),
            log_bytes_max: 16 * 1024,
            log_entries_kept: 4,
            snapshot_timeout: Duration::from_secs(10),
            snapshot_dir: dir.join("groups/7"),
            files,
            wal: wal.clone(),
            state: crate::group::State::InMemory(Box::new(Machine { state: Arc::clone(&state) })),
            transport: Arc::new(Link { from: id, network: Arc::clone(&cluster.network) }),
        });
        let group = started(id, group).await?;
        cluster.network.groups.lock().insert(id, group.clone());
        nodes.push(Node { id, group, wal, state });
    }
    Ok(nodes)
}
