//! How a node takes its seat in a cluster, and leaves it.

use std::{
    io,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::{Duration, Instant},
};

use flotilla_raft::{
    lanes::{LaneOptions, Lanes, lane_channel},
    meta::{Meta, MetaError, MetaOptions, Services, Storage},
    peers::{Class, Discovery, Peers, RaftTransport, Secret, ServeOptions, TcpConnector, serve},
};
use flotilla_state::{Command, NodeId, Role};
use flotilla_store::{FjallStore, StoreError, StoreOptions};
use flotilla_wal::{Files, Sync, Wal, WalOptions};
use parking_lot::Mutex;
use tokio::{net::TcpListener, runtime::Runtime};

use super::{
    admin::Overview,
    announcer::Announcer,
    applied::Applied,
    claims::Claims,
    inbox::{Events, Inbox},
    links::Links,
    member::{Member, Watcher},
    reports::Reports,
};
use crate::{
    admin,
    broker::Seat,
    clock::Clock,
    config::{self, Config},
    node::Node,
    router::RemoteRoutes,
    shards::{Ground, Shards},
};

/// A node that has opened what it needs for its cluster and is not connected to its broker yet.
#[derive(Debug)]
pub(crate) struct Candidate {
    runtime: Runtime,
    member: Arc<Member>,
    watcher: Arc<Watcher>,
    inbox: Arc<Inbox>,
    lanes: Lanes<Events>,
    services: Services,
    /// The port for other nodes; a node alone has none.
    listener: Option<TcpListener>,
}

/// A node in its cluster. Dropping it ends its part in the cluster at once.
#[derive(Debug)]
pub(crate) struct Seated {
    runtime: Runtime,
    member: Arc<Member>,
}

/// Why a node cannot take part in a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The address for other nodes cannot be had.
    #[error("cluster.listen: cannot listen on {address}: {source}")]
    Listen {
        /// What the configuration asks for.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// The system does not give us threads, or what they need.
    #[error("cannot start the threads of the cluster: {0}")]
    Runtime(io::Error),
    /// The settings do not fit together.
    #[error(transparent)]
    Settings(MetaError),
    /// The state of the shards.
    #[error("node.data_dir {}: {source}", dir.display())]
    Store {
        /// The data directory.
        dir: PathBuf,
        /// What is wrong.
        source: StoreError,
    },
    /// The node's own data.
    #[error("node.data_dir {}: {source}", dir.display())]
    Data {
        /// The data directory.
        dir: PathBuf,
        /// What is wrong.
        source: MetaError,
    },
}

/// Threads for everything between nodes: Raft must go on while a lane is worked off.
const THREADS: usize = 2;
/// How long a stopping node tries to hand over, and then to send what it has.
const HAND_OVER: Duration = Duration::from_secs(2);
const SEND_ALL: Duration = Duration::from_secs(2);
/// How often a stopping node looks whether everything is sent.
const LOOK: Duration = Duration::from_millis(5);

impl Candidate {
    /// Opens the data directory and the port for other nodes. Nothing is said to anybody yet.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub(crate) fn open(config: &Config) -> Result<(Self, Seat), ClusterError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("cluster")
            .enable_all()
            .build()
            .map_err(ClusterError::Runtime)?;
        let listen = config.cluster.listen.as_ref();
        let listener = listen.map(|listen| {
            let bound = runtime.block_on(bind(listen));
            bound.map_err(|source| ClusterError::Listen { address: listen.to_string(), source })
        });
        let listener = listener.transpose()?;
        let watcher = Arc::new(Watcher::default());
        let failed = |error| match error {
            MetaError::Options(_) | MetaError::Discovery(_) => ClusterError::Settings(error),
            source => ClusterError::Data { dir: config.node.data_dir.clone(), source },
        };
        let Opened { meta, services, wal, files } =
            runtime.block_on(open_meta(config, listener.as_ref(), &watcher)).map_err(failed)?;
        let data_dir = &config.node.data_dir;
        let store = FjallStore::open(&data_dir.join("store"), &StoreOptions::default())
            .map_err(|source| ClusterError::Store { dir: data_dir.clone(), source })?;
        let (me, state, lease) = (meta.node(), meta.state(), meta.lease().clone());
        let links = Arc::new(Links::new(lease.clone()));
        let (claims, reports): (Arc<Claims>, Arc<Reports>) = Default::default();
        let clock = Clock::start();
        let inbox = Arc::new(Inbox {
            node: OnceLock::new(),
            links: Arc::clone(&links),
            claims: Arc::clone(&claims),
            reports: Arc::clone(&reports),
            shards: OnceLock::new(),
            lease: lease.clone(),
            desks: std::array::from_fn(|_| Mutex::default()),
        });
        let ground = Ground {
            store: Arc::new(store),
            wal,
            files,
            dir: data_dir.join("shards"),
            raft: services.raft.clone(),
            transport: Arc::new(RaftTransport::new(meta.peers().clone())),
            founders_min: match listen {
                Some(_) => config.cluster.bootstrap_expect.into(),
                None => 1,
            },
        };
        let shards = Arc::new(Shards::new(meta.clone(), ground, Arc::clone(&inbox) as _));
        inbox.shards.set(Arc::clone(&shards)).expect("they are made once");
        let channels = Arc::new(Channels(meta.peers().clone()));
        let events = Arc::new(Events(Arc::clone(&inbox)));
        let lanes = Lanes::new(LaneOptions::default(), channels, events, runtime.handle().clone());
        let routes = RemoteRoutes::of(Arc::clone(&state), me);
        let member = Arc::new(Member {
            me,
            is_alone: listen.is_none(),
            state,
            lease,
            meta,
            links,
            claims,
            applied: Applied::default(),
            announcer: Announcer::default(),
            reports,
            shards,
            node: OnceLock::new(),
            life: 0.into(),
            up_in: 0.into(),
            is_draining: false.into(),
            is_going: false.into(),
            has_left: false.into(),
            leaving: tokio::sync::Mutex::default(),
            importing: tokio::sync::Mutex::default(),
        });
        let seat = Seat { clock, cluster: Box::new(Arc::clone(&member)), routes };
        Ok((Self { runtime, member, watcher, inbox, lanes, services, listener }, seat))
    }

    /// Connects the node to its broker and lets it find its cluster.
    pub(crate) fn join(self, node: &Arc<Node>) -> Seated {
        let Self { runtime, member, watcher, inbox, lanes, services, listener } = self;
        let connected = "a broker takes its seat once";
        member.links.connect(lanes.clone(), Arc::clone(node));
        inbox.node.set(Arc::clone(node)).expect(connected);
        member.node.set(Arc::clone(node)).expect(connected);
        watcher.0.set(Arc::clone(&member)).expect(connected);
        let overview: Arc<dyn admin::AdminSource> = Arc::new(Overview(Arc::clone(&member)));
        node.admin.set(Arc::clone(&overview)).expect(connected);
        watcher.catch_up(&member);
        let routes = services.routes().add_service(lanes.service()).add_service(admin::server(overview));
        if let Some(listener) = listener {
            runtime.spawn(async move {
                let served =
                    serve(listener, routes, services.gate, ServeOptions::default(), std::future::pending());
                if let Err(error) = served.await {
                    tracing::error!(%error, "the port for other nodes is closed");
                }
            });
        }
        let _entered = runtime.enter();
        member.shards.run(Arc::clone(node));
        drop(_entered);
        let started = Arc::clone(&member);
        runtime.spawn(async move { started.run().await });
        Seated { runtime, member }
    }
}

impl Seated {
    /// This node as a member.
    pub(crate) fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// Before clients are disconnected: gives up what others wait for this node for.
    pub(crate) fn hand_over(&self) {
        let member = Arc::clone(&self.member);
        member.is_going.store(true, Ordering::Release);
        self.runtime.block_on(async move {
            let deadline = Instant::now() + HAND_OVER;
            let handed_over = async {
                if member.meta.me().borrow().is_some() {
                    if let Err(error) = member.meta.drain(deadline).await {
                        tracing::info!(%error, "the cluster could not be told that this node stops");
                    }
                    tokio::join!(member.shards.hand_over(), member.meta.hand_over_leadership());
                }
            };
            if tokio::time::timeout(HAND_OVER, handed_over).await.is_err() {
                tracing::warn!("what this node leads was not handed over in time");
            }
        });
    }

    /// After clients are disconnected: sends what is left, says goodbye, and ends.
    pub(crate) fn leave(self) {
        let Self { runtime, member } = self;
        runtime.block_on(async {
            let me = *member.meta.me().borrow();
            let sent = async {
                // First what clients have left behind: that their connections have ended, and what is for their shards.
                while me.is_some() && !(member.claims.is_idle() && member.shards.is_idle())
                    || !member.links.is_all_sent()
                {
                    tokio::time::sleep(LOOK).await;
                }
            };
            if tokio::time::timeout(SEND_ALL, sent).await.is_err() {
                tracing::warn!("not everything could be sent to the other nodes");
            }
            if let Some(me) = me {
                // Nobody has to wait until the silence is long enough.
                let goodbye = Command::NodeDown { member: me };
                let deadline = Instant::now() + HAND_OVER / 2;
                if let Err(error) = member.meta.propose(goodbye, deadline).await {
                    tracing::debug!(%error, "the others will notice by themselves that this node is gone");
                }
            }
            let stopped = async { tokio::join!(member.shards.shutdown(), member.meta.shutdown()) };
            if tokio::time::timeout(HAND_OVER, stopped).await.is_err() {
                tracing::warn!("the Raft groups of this node did not stop in time");
            }
        });
        runtime.shutdown_timeout(HAND_OVER);
    }
}

async fn bind(listen: &config::NodeAddress) -> io::Result<TcpListener> {
    let socket_addr = tokio::net::lookup_host((listen.host(), listen.port())).await?.next();
    TcpListener::bind(socket_addr.ok_or(io::ErrorKind::AddrNotAvailable)?).await
}

/// The meta group, and what other groups of the node use too.
struct Opened {
    meta: Meta,
    services: Services,
    wal: Wal,
    files: Arc<dyn Files>,
}

async fn open_meta(
    config: &Config,
    listener: Option<&TcpListener>,
    watcher: &Arc<Watcher>,
) -> Result<Opened, MetaError> {
    let Config { node, cluster, .. } = config;
    let advertise = cluster.advertise.as_ref().or(cluster.listen.as_ref()).map(ToString::to_string);
    let mut options = MetaOptions::new(&node.name, advertise.as_deref().unwrap_or(NOWHERE));
    options.cluster_name.clone_from(&cluster.name);
    options.secret = cluster.secret.as_ref().map(|secret| Secret::new(secret.reveal().as_bytes()));
    options.role = match node.role {
        config::Role::Core => Role::Core,
        config::Role::Edge => Role::Edge,
    };
    options.client_addresses = config
        .listeners
        .values()
        .filter(|listener| listener.enabled)
        .map(|listener| listener.bind.to_string())
        .collect();
    options.discovery = match &cluster.discovery {
        config::Discovery::None => Discovery::None,
        config::Discovery::Static(nodes) => {
            Discovery::Static(nodes.iter().map(ToString::to_string).collect())
        }
        config::Discovery::Dns(address) => {
            Discovery::Dns { name: address.host().to_owned(), port: Some(address.port()) }
        }
        config::Discovery::Srv(name) => Discovery::Dns { name: name.clone(), port: None },
    };
    if listener.is_none() {
        // A node alone is a cluster of one, whatever else is said of clusters.
        options.discovery = Discovery::None;
        options.role = Role::Core;
    }
    options.bootstrap_expect = if listener.is_some() { cluster.bootstrap_expect } else { 1 };
    options.node_down_after = cluster.node_down_after;
    options.edge_forget_after = cluster.edge_forget_after;
    options.shards = cluster.shards;
    options.replicas = cluster.replicas;
    let (dir, name, cluster_name) = (node.data_dir.clone(), node.name.clone(), cluster.name.clone());
    let sync = match config.durability.sync {
        config::Sync::Always => Sync::Always,
        config::Sync::Interval => Sync::Interval(config.durability.interval),
    };
    let wal = WalOptions { sync, ..WalOptions::default() };
    let opened = tokio::task::spawn_blocking(move || Storage::open(&dir, &name, &cluster_name, wal)).await;
    let storage = opened.map_err(|error| MetaError::Io(io::Error::other(error)))??;
    let (wal, files) = (storage.wal().clone(), Arc::clone(storage.files()));
    let source = listener.map(source_of).transpose()?.flatten();
    let connector = Arc::new(TcpConnector::new(source));
    let (meta, services) = Meta::open(options, storage, connector, Arc::clone(watcher) as _).await?;
    Ok(Opened { meta, services, wal, files })
}

/// The address of a node that no other node reaches.
const NOWHERE: &str = "nowhere:0";

/// Connections to other nodes come from the address that this node listens at, so that rules for addresses hold both ways.
fn source_of(listener: &TcpListener) -> io::Result<Option<IpAddr>> {
    Ok(Some(listener.local_addr()?.ip()).filter(|ip| !ip.is_unspecified()))
}

/// Lanes over the channels of the address book.
struct Channels(Peers);

impl flotilla_raft::lanes::Channels for Channels {
    fn channel(&self, node: NodeId, _: flotilla_lane::LaneId) -> Option<flotilla_raft::lanes::LaneChannel> {
        self.0.channel(node, Class::Lanes).map(lane_channel)
    }
}
