//! Nodes in one process, over real sockets, with links that can be cut.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use flotilla_state::{ClusterState, Effects, LogIndex, Member, NodeId, Role};
use flotilla_wal::WalOptions;
use futures_util::{FutureExt as _, future::BoxFuture};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    meta::{Meta, MetaError, MetaOptions, Observer, Storage},
    peers::{
        self, Connection, Connector, Discovery, Gate, IdentityError, Refusal, Secret, ServeOptions,
        TcpConnector,
    },
};

pub(super) type TestResult<T = ()> = Result<T, Box<dyn Error>>;

/// Nodes, of which some run.
pub(super) struct Cluster {
    pub(super) expect: u8,
    pub(super) nodes: Vec<Node>,
    links: Arc<Links>,
}

pub(super) struct Node {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pub(super) role: Role,
    pub(super) cluster_name: String,
    pub(super) secret: String,
    dir: TempDir,
    pub(super) running: Option<Running>,
}

pub(super) struct Running {
    pub(super) meta: Meta,
    pub(super) gate: Gate,
    pub(super) seen: Arc<Seen>,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

/// What the observer of a node was told.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) lives: Mutex<Vec<Life>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Admitted(Member),
    Lost(Instant),
}

impl Observer for Seen {
    fn applied(&self, index: LogIndex, _: &Effects, state: &ClusterState) {
        assert_eq!(state.applied(), index);
    }

    fn restored(&self, _: &ClusterState) {}

    fn lease_lost(&self) {
        self.lives.lock().push(Life::Lost(Instant::now()));
    }

    fn admitted(&self, member: Member) {
        self.lives.lock().push(Life::Admitted(member));
    }
}

impl Cluster {
    /// Nodes that are not started yet, with an address each.
    pub(super) async fn new(nodes: usize, expect: u8) -> TestResult<Self> {
        let mut cluster = Self { expect, nodes: Vec::new(), links: Arc::default() };
        for index in 0..nodes {
            cluster.add(&format!("node-{index}")).await?;
        }
        Ok(cluster)
    }

    /// All of them are members.
    pub(super) async fn running(nodes: usize) -> TestResult<Self> {
        let mut cluster = Self::new(nodes, u8::try_from(nodes)?).await?;
        for index in 0..nodes {
            cluster.start(index).await?;
        }
        cluster.all_admitted().await?;
        Ok(cluster)
    }

    pub(super) async fn add(&mut self, name: &str) -> TestResult<usize> {
        self.nodes.push(Node {
            name: name.to_owned(),
            address: free_address().await?,
            role: Role::Core,
            cluster_name: "blue".to_owned(),
            secret: "secret".to_owned(),
            dir: tempfile::tempdir()?,
            running: None,
        });
        Ok(self.nodes.len() - 1)
    }

    pub(super) async fn start(&mut self, index: usize) -> TestResult {
        let found = self.nodes.iter().map(|node| node.address.to_string()).collect();
        let expect = self.expect;
        let links = Arc::clone(&self.links);
        let node = &mut self.nodes[index];
        let options = MetaOptions {
            cluster_name: node.cluster_name.clone(),
            secret: Some(Secret::new(node.secret.as_bytes())),
            role: node.role,
            discovery: Discovery::Static(found),
            bootstrap_expect: expect,
            heartbeat: Duration::from_millis(100),
            election: Duration::from_millis(400)..Duration::from_millis(600),
            node_down_after: NODE_DOWN_AFTER,
            edge_forget_after: Duration::from_secs(1),
            retry: Duration::from_millis(100),
            ..MetaOptions::new(&node.name, &node.address.to_string())
        };
        let storage = node.open_storage_soon().await?;
        let seen = Arc::new(Seen::default());
        let connector = Arc::new(Link { from: index, links });
        let (meta, services) = Meta::open(options, storage, connector, Arc::clone(&seen) as _).await?;
        let listener = TcpListener::bind(node.address).await?;
        let stop = CancellationToken::new();
        let (gate, routes) = (services.gate.clone(), services.routes());
        let serving = peers::serve(
            listener,
            routes,
            services.gate,
            ServeOptions::default(),
            stop.clone().cancelled_owned(),
        );
        let server = tokio::spawn(serving.map(|outcome| outcome.expect("the server runs")));
        meta.run();
        node.running = Some(Running { meta, gate, seen, stop, server });
        self.register(index);
        Ok(())
    }

    /// Links are told by the address that is dialled.
    fn register(&self, index: usize) {
        self.links.0.lock().addresses.insert(self.nodes[index].address.to_string(), index);
    }

    /// Ends a node without any farewell.
    pub(super) async fn stop(&mut self, index: usize) {
        if let Some(running) = self.nodes[index].running.take() {
            running.meta.shutdown().await;
            running.stop.cancel();
            let _ = tokio::time::timeout(Duration::from_secs(5), running.server).await;
        }
        // The links of its connections are gone with it.
        self.links.0.lock().reset(index);
    }

    /// The disk of a node that does not run is lost.
    pub(super) fn wipe(&mut self, index: usize) -> TestResult {
        self.nodes[index].dir = tempfile::tempdir()?;
        Ok(())
    }

    /// A node that does not run comes back elsewhere.
    pub(super) async fn relocate(&mut self, index: usize) -> TestResult {
        self.nodes[index].address = free_address().await?;
        Ok(())
    }

    /// Cuts every link between the two sides, or mends it.
    pub(super) fn cut(&self, one: &[usize], other: &[usize], is_cut: bool) {
        let mut links = self.links.0.lock();
        for (a, b) in one.iter().flat_map(|a| other.iter().map(|b| (*a, *b))) {
            for link in [(a, b), (b, a)] {
                *links.generation.entry(link).or_default() += 1;
                if is_cut {
                    links.cut.insert(link);
                } else {
                    links.cut.remove(&link);
                }
            }
        }
    }

    pub(super) fn running_nodes(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|index| self.nodes[*index].running.is_some()).collect()
    }

    pub(super) fn meta(&self, index: usize) -> &Meta {
        &self.nodes[index].running.as_ref().expect("the node runs").meta
    }

    pub(super) fn lives(&self, index: usize) -> Vec<Life> {
        self.nodes[index].running.as_ref().expect("the node runs").seen.lives.lock().clone()
    }

    pub(super) fn refused(&self, index: usize, reason: Refusal) -> u64 {
        let gate = &self.nodes[index].running.as_ref().expect("the node runs").gate;
        gate.refused().find(|(known, _)| *known == reason).expect("a known reason").1
    }

    /// The index of the node that leads with a quorum.
    pub(super) fn leader(&self) -> Option<usize> {
        let leads = |index: &usize| {
            let status = self.meta(*index).status();
            status.leader == Some(status.node) && status.quorum
        };
        self.running_nodes().into_iter().find(leads)
    }

    pub(super) fn voters(&self, index: usize) -> BTreeSet<NodeId> {
        self.meta(index).status().group.voters.into_iter().map(NodeId).collect()
    }

    pub(super) fn ids(&self) -> BTreeSet<NodeId> {
        self.running_nodes().into_iter().map(|index| self.meta(index).node()).collect()
    }

    pub(super) fn is_admitted(&self, index: usize) -> bool {
        let meta = self.meta(index);
        meta.me().borrow().is_some() && meta.lease().is_valid(Instant::now())
    }

    /// Waits until every running node is a member, and checks that all are of one cluster.
    pub(super) async fn all_admitted(&self) -> TestResult {
        let all = || self.running_nodes().into_iter().all(|index| self.is_admitted(index));
        self.wait("all nodes are admitted", all).await?;
        let ids: BTreeSet<u128> = self
            .running_nodes()
            .into_iter()
            .map(|index| self.meta(index).state().read().cluster().expect("a cluster").id)
            .collect();
        assert_eq!(ids.len(), 1, "one cluster");
        Ok(())
    }

    /// Waits until every running node, and no other, votes.
    pub(super) async fn all_vote(&self) -> TestResult {
        let all = || self.running_nodes().into_iter().all(|index| self.voters(index) == self.ids());
        self.wait("all nodes vote", all).await
    }

    pub(super) async fn wait(&self, what: &str, condition: impl Fn() -> bool) -> TestResult {
        let deadline = Instant::now() + DEADLINE;
        while !condition() {
            if Instant::now() > deadline {
                let statuses: BTreeMap<_, _> = self
                    .running_nodes()
                    .into_iter()
                    .map(|index| (&self.nodes[index].name, self.meta(index).status()))
                    .collect();
                return Err(format!("not in time: {what}: {statuses:#?}").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Node {
    /// What is under way on the connections of a node that was stopped holds its directory for a moment.
    async fn open_storage_soon(&self) -> Result<Storage, MetaError> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.open_storage() {
                Err(MetaError::Identity(IdentityError::InUse)) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                outcome => return outcome,
            }
        }
    }

    pub(super) fn open_storage(&self) -> Result<Storage, MetaError> {
        let wal = WalOptions { segment_bytes: 1024 * 1024, ..WalOptions::default() };
        Storage::open(&PathBuf::from(self.dir.path()), &self.name, &self.cluster_name, wal)
    }
}

/// An address that is free until it is used: connections of others come from ports of 127.0.0.1, and may take one there in between.
async fn free_address() -> io::Result<SocketAddr> {
    static LAST: AtomicU16 = AtomicU16::new(0);
    let [third, fourth] = LAST.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let own = (std::process::id() % 128).to_be_bytes()[3];
    TcpListener::bind((Ipv4Addr::new(127, 64 + own, third, fourth.max(1)), 0)).await?.local_addr()
}

pub(super) const NODE_DOWN_AFTER: Duration = Duration::from_secs(3);

const DEADLINE: Duration = Duration::from_secs(60);

/// Which links are cut.
#[derive(Default)]
struct Links(Mutex<LinkTable>);

#[derive(Default)]
struct LinkTable {
    addresses: BTreeMap<String, usize>,
    cut: BTreeSet<(usize, usize)>,
    /// Counts how often a link was cut or mended: an earlier connection stays dead.
    generation: BTreeMap<(usize, usize), u64>,
}

impl LinkTable {
    fn reset(&mut self, index: usize) {
        self.addresses.retain(|_, known| *known != index);
    }
}

struct Link {
    from: usize,
    links: Arc<Links>,
}

impl Connector for Link {
    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        let (from, links) = (self.from, Arc::clone(&self.links));
        async move {
            let (link, generation, is_cut) = {
                let table = links.0.lock();
                let link = (from, table.addresses.get(&address).copied().unwrap_or(usize::MAX));
                (link, table.generation.get(&link).copied(), table.cut.contains(&link))
            };
            if is_cut {
                std::future::pending::<()>().await;
            }
            let inner = TcpConnector::default().connect(address).await?;
            Ok(Box::new(Wire { inner, link, generation, links }) as Box<dyn Connection>)
        }
        .boxed()
    }
}

/// A connection that swallows everything once its link was cut, as a network does.
struct Wire {
    inner: Box<dyn Connection>,
    link: (usize, usize),
    generation: Option<u64>,
    links: Arc<Links>,
}

impl Wire {
    fn is_dead(&self) -> bool {
        self.links.0.lock().generation.get(&self.link).copied() != self.generation
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_dead() { Poll::Pending } else { Pin::new(&mut self.inner).poll_read(context, buffer) }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_dead() {
            Poll::Ready(Ok(bytes.len()))
        } else {
            Pin::new(&mut self.inner).poll_write(context, bytes)
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
