//! Groups in one process: a network that can be cut, disks that outlive their node, and a small state machine.
//!
//! Time is tokio's paused clock: a second of the group passes when nothing is left to do.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_wal::{Flushing, MemoryFiles, Wal, WalError, WalOptions};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, select_all};
use futures_util::stream::BoxStream;
use parking_lot::Mutex;

use super::durable_state::{Disk, OnDisk};
use crate::group::{
    Corrupt, Group, GroupError, GroupId, GroupOptions, GroupStatus, ProposeError, Role, StateMachine,
    Transport, Unreachable,
};

pub(super) type TestResult<T = ()> = Result<T, Box<dyn Error>>;

pub(super) const GROUP: GroupId = GroupId(7);

/// No test waits longer, on the paused clock.
const DEADLINE: Duration = Duration::from_secs(120);

/// Nodes, what is left of their disks, and the network between them.
pub(super) struct Cluster {
    pub(super) network: Arc<Network>,
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) log_bytes_max: u64,
    pub(super) log_entries_kept: u64,
    /// The nodes keep their state on a disk of its own.
    pub(super) is_durable: bool,
}

pub(super) struct Node {
    /// The number under which it has the group.
    pub(super) group: GroupId,
    pub(super) files: MemoryFiles,
    pub(super) wal: Wal,
    pub(super) state: Arc<Mutex<State>>,
    pub(super) disk: Arc<Mutex<Disk>>,
}

pub(super) type State = BTreeMap<String, String>;

impl Cluster {
    /// Nodes that are not started yet.
    pub(super) fn new() -> Self {
        Self {
            network: Arc::default(),
            nodes: BTreeMap::new(),
            log_bytes_max: GroupOptions::LOG_BYTES_MAX,
            log_entries_kept: 4,
            is_durable: false,
        }
    }

    /// Nodes whose state is durable.
    pub(super) fn durable() -> Self {
        Self { is_durable: true, ..Self::new() }
    }

    /// Three voters, and a leader among them.
    pub(super) async fn of_three() -> TestResult<Self> {
        Self::of_three_with(Self::new()).await
    }

    pub(super) async fn of_three_with(mut cluster: Self) -> TestResult<Self> {
        for id in 1..=3 {
            cluster.start(id).await?;
        }
        cluster.group(1).initialize(voters([1, 2, 3])).await?;
        cluster.leader().await?;
        Ok(cluster)
    }

    /// Starts a node, with what its disk holds.
    pub(super) async fn start(&mut self, id: u64) -> TestResult {
        let group = self.try_start(id).await?;
        self.network.groups.lock().insert(id, group);
        Ok(())
    }

    pub(super) async fn try_start(&mut self, id: u64) -> Result<Group, GroupError> {
        let node = self.nodes.entry(id).or_insert_with(Node::new);
        node.state = Arc::default();
        let state = if self.is_durable {
            node.disk.lock().restart();
            crate::group::State::Durable(Box::new(OnDisk(Arc::clone(&node.disk))))
        } else {
            crate::group::State::InMemory(Box::new(Machine { state: Arc::clone(&node.state) }))
        };
        let group = Group::start(GroupOptions {
            id: node.group,
            me: id,
            heartbeat: GroupOptions::HEARTBEAT,
            election: GroupOptions::ELECTION,
            log_bytes_max: self.log_bytes_max,
            log_entries_kept: self.log_entries_kept,
            snapshot_timeout: Duration::from_secs(30),
            snapshot_dir: snapshot_dir(),
            files: Arc::new(node.files.clone()),
            wal: node.wal.clone(),
            state,
            transport: Arc::new(Link { from: id, network: Arc::clone(&self.network) }),
        });
        started(id, group).await
    }

    /// Ends a node in order; what it wrote remains.
    pub(super) async fn stop(&mut self, id: u64) -> TestResult {
        let group = self.network.groups.lock().remove(&id).ok_or("the node does not run")?;
        group.shutdown().await;
        let node = self.nodes.get_mut(&id).ok_or("no such node")?;
        node.reopen(node.files.kill())
    }

    /// Ends a node by a power cut: what it did not flush is lost.
    pub(super) async fn cut_power(&mut self, id: u64) -> TestResult {
        let group = self.network.groups.lock().remove(&id).ok_or("the node does not run")?;
        let node = self.nodes.get_mut(&id).ok_or("no such node")?;
        let disk = node.files.crash(|_| 0..0);
        group.shutdown().await; // It cannot write any more, and is to be silent, too.
        node.reopen(disk)
    }

    pub(super) fn group(&self, id: u64) -> Group {
        self.network.groups.lock().get(&id).expect("the node runs").clone()
    }

    pub(super) fn state(&self, id: u64) -> State {
        let node = &self.nodes[&id];
        if self.is_durable { node.disk.lock().live.entries.clone() } else { node.state.lock().clone() }
    }

    /// Waits until a node satisfies the condition, and tells its status then.
    pub(super) async fn wait(
        &self,
        id: u64,
        what: &str,
        condition: impl FnMut(&GroupStatus) -> bool,
    ) -> TestResult<GroupStatus> {
        let mut watch = self.group(id).watch();
        match tokio::time::timeout(DEADLINE, watch.wait_for(condition)).await {
            Ok(Ok(status)) => return Ok(status.clone()),
            Ok(Err(_)) => {}
            Err(_) => {}
        }
        Err(format!("node {id}: {what} did not come about: {:?}", self.group(id).status()).into())
    }

    /// Waits until a running node leads with the agreement of a quorum, as far as the others say.
    pub(super) async fn leader(&self) -> TestResult<u64> {
        let running: Vec<Group> = self.network.groups.lock().values().cloned().collect();
        self.leader_of(running).await
    }

    /// As [`Cluster::leader`], but looks at these nodes only.
    pub(super) async fn leader_among(&self, ids: &[u64]) -> TestResult<u64> {
        self.leader_of(ids.iter().map(|id| self.group(*id)).collect()).await
    }

    async fn leader_of(&self, groups: Vec<Group>) -> TestResult<u64> {
        let agreed = async {
            loop {
                let statuses: Vec<GroupStatus> = groups.iter().map(Group::status).collect();
                let term = statuses.iter().map(|status| status.term).max();
                let leading = groups.iter().zip(&statuses).find_map(|(group, status)| {
                    let leads = status.role == Role::Leader && Some(status.term) == term;
                    leads.then_some(group.inner.me)
                });
                if let Some(leader) = leading
                    && statuses.iter().all(|status| status.leader == Some(leader))
                {
                    return leader;
                }
                let changes = groups.iter().map(|group| {
                    let mut watch = group.watch();
                    watch.borrow_and_update();
                    async move { watch.changed().await.is_ok() }.boxed()
                });
                let _ = tokio::time::timeout(Duration::from_millis(50), select_all(changes)).await;
            }
        };
        Ok(tokio::time::timeout(DEADLINE, agreed).await.map_err(|_| {
            let statuses: Vec<GroupStatus> = groups.iter().map(Group::status).collect();
            format!("no leader was agreed on: {statuses:#?}")
        })?)
    }

    /// Sets a key, at whoever leads, as often as it takes; returns the index.
    pub(super) async fn set(&self, key: &str, value: &str) -> TestResult<u64> {
        let running: Vec<u64> = self.network.groups.lock().keys().copied().collect();
        self.set_among(&running, key, value).await
    }

    pub(super) async fn set_among(&self, ids: &[u64], key: &str, value: &str) -> TestResult<u64> {
        let command = Bytes::from(format!("{key}={value}"));
        let done = async {
            loop {
                let leader = self.leader_among(ids).await?;
                match self.group(leader).propose(command.clone()).await {
                    Ok((index, _)) => return Ok(index),
                    Err(ProposeError::NotLeader { .. } | ProposeError::Unknown { .. }) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        };
        tokio::time::timeout(DEADLINE, done).await.map_err(|_| "the command was not taken")?
    }

    /// Waits until all running nodes have applied what the leader has, and returns the state that they share.
    pub(super) async fn settled(&self) -> TestResult<State> {
        let leader = self.leader().await?;
        let index = self.group(leader).status().last_log;
        let running: Vec<u64> = self.network.groups.lock().keys().copied().collect();
        for id in &running {
            self.wait(*id, "the state of the leader", |status| status.applied >= index).await?;
        }
        let state = self.state(leader);
        for id in running {
            assert_eq!(self.state(id), state, "node {id} differs from leader {leader}");
        }
        Ok(state)
    }
}

/// Waits for the start of a group; in a simulation with a seed.
pub(super) async fn started(
    id: u64,
    start: impl Future<Output = Result<Group, GroupError>>,
) -> Result<Group, GroupError> {
    #[cfg(feature = "simulation")]
    let start = crate::group::with_seed(id, start);
    let _ = id;
    start.await
}

/// The first members, all under the same number.
pub(super) fn voters<const N: usize>(nodes: [u64; N]) -> BTreeMap<u64, GroupId> {
    nodes.into_iter().map(|node| (node, GROUP)).collect()
}

pub(super) fn snapshot_dir() -> PathBuf {
    PathBuf::from("/data/groups/7")
}

impl Node {
    fn new() -> Self {
        let files = MemoryFiles::new();
        let wal = open_wal(&files).expect("an empty disk");
        Self { group: GROUP, files, wal, state: Arc::default(), disk: Arc::default() }
    }

    pub(super) fn reopen(&mut self, files: MemoryFiles) -> TestResult {
        self.wal = open_wal(&files)?;
        self.files = files;
        Ok(())
    }
}

pub(super) fn open_wal(files: &MemoryFiles) -> Result<Wal, WalError> {
    let mut options = WalOptions::default();
    // Small, so that segments come and go. A thread of its own would not be seen by the paused clock.
    (options.segment_bytes, options.flushing) = (256 * 1024, Flushing::InSubmit);
    Wal::open(&PathBuf::from("/data/wal"), options, Arc::new(files.clone()))
}

/// Keys and values. A command is `key=value`; anything else is not understood.
pub(super) struct Machine {
    pub(super) state: Arc<Mutex<State>>,
}

impl Machine {
    pub(super) fn parse(bytes: &[u8]) -> Result<(String, String), Corrupt> {
        let text = std::str::from_utf8(bytes).map_err(|error| Corrupt(error.to_string()))?;
        let (key, value) = text.split_once('=').ok_or_else(|| Corrupt("no = in it".to_owned()))?;
        Ok((key.to_owned(), value.to_owned()))
    }
}

impl StateMachine for Machine {
    fn apply(&mut self, _: u64, command: &[u8]) -> Result<Bytes, Corrupt> {
        let (key, value) = Self::parse(command)?;
        let before = self.state.lock().insert(key, value);
        Ok(before.unwrap_or_default().into())
    }

    fn snapshot(&mut self) -> Box<dyn Iterator<Item = Bytes> + Send> {
        let copy = self.state.lock().clone();
        Box::new(copy.into_iter().map(|(key, value)| format!("{key}={value}").into()))
    }

    fn restore(
        &mut self,
        _: u64,
        chunks: &mut dyn Iterator<Item = io::Result<Bytes>>,
    ) -> Result<(), Corrupt> {
        let mut state = State::new();
        for chunk in chunks {
            let chunk = chunk.map_err(|error| Corrupt(error.to_string()))?;
            state.extend([Self::parse(&chunk)?]);
        }
        *self.state.lock() = state;
        Ok(())
    }
}

/// Where the nodes are, and which links are cut.
#[derive(Default)]
pub(super) struct Network {
    pub(super) groups: Mutex<BTreeMap<u64, Group>>,
    cut: Mutex<BTreeSet<(u64, u64)>>,
    /// Snapshots that were handed to their receiver.
    pub(super) snapshots: Mutex<u64>,
    /// Flips a bit of the file of every snapshot on its way.
    pub(super) damages_snapshots: Mutex<bool>,
}

impl Network {
    /// Cuts a node off, in both directions.
    pub(super) fn isolate(&self, node: u64) {
        let others: Vec<u64> = self.groups.lock().keys().copied().filter(|id| *id != node).collect();
        self.cut.lock().extend(others.iter().flat_map(|other| [(node, *other), (*other, node)]));
    }

    pub(super) fn heal(&self) {
        self.cut.lock().clear();
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cut.lock().contains(&(from, to))
    }
}

/// The network as one node uses it. A message on a cut link is lost without a word.
pub(super) struct Link {
    pub(super) from: u64,
    pub(super) network: Arc<Network>,
}

impl Link {
    fn call<F>(
        &self,
        (to, id): (u64, GroupId),
        ttl: Duration,
        handle: F,
    ) -> BoxFuture<'_, Result<Bytes, Unreachable>>
    where
        F: FnOnce(Group) -> BoxFuture<'static, Result<Bytes, GroupError>> + Send + 'static,
    {
        async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let lost = || Unreachable("lost".to_owned());
            if self.network.is_cut(self.from, to) {
                tokio::time::sleep(ttl).await;
                return Err(lost());
            }
            let group = self.network.groups.lock().get(&to).filter(|group| group.id() == id).cloned();
            let Some(group) = group else { return Err(Unreachable("connection refused".to_owned())) };
            let reply = handle(group).await.map_err(|error| Unreachable(error.to_string()))?;
            if self.network.is_cut(to, self.from) {
                tokio::time::sleep(ttl).await;
                return Err(lost());
            }
            Ok(reply)
        }
        .boxed()
    }
}

impl Transport for Link {
    fn append(
        &self,
        to: u64,
        group: GroupId,
        request: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Bytes, Unreachable>> {
        self.call((to, group), ttl, move |group| async move { group.handle_append(request).await }.boxed())
    }

    fn vote(
        &self,
        to: u64,
        group: GroupId,
        request: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Bytes, Unreachable>> {
        self.call((to, group), ttl, move |group| async move { group.handle_vote(request).await }.boxed())
    }

    fn pre_vote(
        &self,
        to: u64,
        group: GroupId,
        request: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Bytes, Unreachable>> {
        self.call((to, group), ttl, move |group| async move { group.handle_pre_vote(request).await }.boxed())
    }

    fn transfer(
        &self,
        to: u64,
        group: GroupId,
        request: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Bytes, Unreachable>> {
        self.call((to, group), ttl, move |group| async move { group.handle_transfer(request).await }.boxed())
    }

    fn snapshot(
        &self,
        to: u64,
        group: GroupId,
        chunks: BoxStream<'static, io::Result<Bytes>>,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Bytes, Unreachable>> {
        use futures_util::StreamExt;
        let network = Arc::clone(&self.network);
        let chunks = chunks.enumerate().map(move |(at, chunk)| {
            let mut chunk: Vec<u8> = chunk?.into();
            if at > 0 && *network.damages_snapshots.lock() {
                chunk[20] ^= 1;
            }
            Ok(Bytes::from(chunk))
        });
        let network = Arc::clone(&self.network);
        let handle = move |group: Group| {
            *network.snapshots.lock() += 1;
            async move { group.handle_snapshot(chunks).await }.boxed()
        };
        self.call((to, group), ttl, handle)
    }
}
