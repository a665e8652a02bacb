//! Starting and stopping a broker.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use flotilla_mqtt::ReasonCode;
use tokio::sync::Notify;

use crate::{
    bans::Bans,
    clock::Clock,
    cluster::{Candidate, Cluster, ClusterError, Seated},
    config::{Config, Listener},
    listener,
    metrics::Metrics,
    node::{Node, SocketCount},
    overload::Overload,
    registry::Registry,
    repetitions::Repetitions,
    retained::OwnRetained,
    router::{RemoteRoutes, Router},
    worker::{self, Event, Mailbox},
};

/// A broker: one node with its workers and listeners.
#[derive(Debug)]
pub struct Broker;

/// A broker that runs. Dropping the handle does not stop it.
#[derive(Debug)]
pub struct BrokerHandle {
    node: Arc<Node>,
    listeners: Vec<(String, SocketAddr)>,
    workers: Vec<JoinHandle<io::Result<()>>>,
    seated: Option<Seated>,
}

/// What a broker knows the rest of its cluster by.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) clock: Clock,
    pub(crate) cluster: Box<dyn Cluster>,
    pub(crate) routes: RemoteRoutes,
}

/// Why a broker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's address cannot be had.
    #[error("listener {name} cannot listen on {bind}: {source}")]
    Bind {
        /// Its name.
        name: String,
        /// The address that the configuration asks for.
        bind: String,
        /// What the system says.
        source: io::Error,
    },
    /// No listener is enabled.
    #[error("no listener is enabled: there would be no way to connect")]
    NoListener,
    /// The node cannot take part in a cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The system does not give us another thread, or what a thread needs.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// How long a node alone may take to come up before it says that it has started.
const ALONE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a stopping broker looks whether its workers have ended.
const STOP_POLL: Duration = Duration::from_millis(10);

impl Broker {
    /// Starts a broker and returns when it listens. Its threads are its own: no runtime is needed. A member of a cluster
    /// serves clients when it has found the cluster: see [`BrokerHandle::is_ready`].
    ///
    /// # Errors
    /// A listener cannot be opened, or the system is out of threads.
    pub fn start(config: Config) -> Result<BrokerHandle, StartError> {
        let is_alone = config.cluster.listen.is_none();
        let (candidate, seat) = Candidate::open(&config)?;
        let mut handle = Self::start_in(config, seat)?;
        handle.seated = Some(candidate.join(&handle.node));
        if is_alone {
            // There is nobody to wait for.
            let deadline = Instant::now() + ALONE_TIMEOUT;
            while !handle.is_ready() && Instant::now() < deadline {
                thread::sleep(STOP_POLL);
            }
        }
        Ok(handle)
    }

    /// Starts a broker that takes a seat in a cluster.
    pub(crate) fn start_in(config: Config, seat: Seat) -> Result<BrokerHandle, StartError> {
        let workers = config.node.workers.get();
        let enabled: BTreeMap<&String, &Listener> =
            config.listeners.iter().filter(|(_, listener)| listener.enabled).collect();
        if enabled.is_empty() {
            return Err(StartError::NoListener);
        }
        let mut acceptors: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
        let mut listeners = Vec::new();
        for (number, (&name, &config)) in (0u16..).zip(&enabled) {
            let addr = listener::bind(number, config, workers, &mut acceptors).map_err(|source| {
                StartError::Bind { name: name.clone(), bind: config.bind.to_string(), source }
            })?;
            listeners.push((name.clone(), addr));
        }
        let count =
            |listener: &&Listener| SocketCount::new(listener.max_connections, listener.connecting_max);
        let sockets = enabled.values().map(count).collect();
        let node = Arc::new(Node {
            limits: Arc::new(config.limits()),
            clock: seat.clock,
            router: Router::new(workers, config.mqtt.overlap, config.shared.strategy)
                .with_remote(seat.routes),
            registry: Registry::new(),
            own_retained: OwnRetained::default(),
            cluster: seat.cluster,
            bans: Bans::default(),
            mailboxes: (0..workers).map(|_| Mailbox::default()).collect(),
            metrics: (0..workers).map(|_| Metrics::default()).collect(),
            sockets,
            repetitions: Repetitions::default(),
            admin: OnceLock::new(),
            overload: Overload::default(),
            decongested: Notify::new(),
            config,
        });
        let mut handle = BrokerHandle { node, listeners, workers: Vec::new(), seated: None };
        for (id, acceptors) in (0u16..).zip(acceptors) {
            let node = Arc::clone(&handle.node);
            let thread = thread::Builder::new().name(format!("worker-{id}"));
            // The runtime is made here, so that whatever it lacks is known before the broker says that it is ready.
            let worker = worker::runtime()
                .and_then(|runtime| thread.spawn(move || worker::run(&runtime, node, id, acceptors)));
            match worker {
                Ok(worker) => handle.workers.push(worker),
                Err(error) => {
                    handle.stop(Duration::ZERO);
                    return Err(StartError::Thread(error));
                }
            }
        }
        Ok(handle)
    }
}

impl BrokerHandle {
    /// Whether clients are served: a member of a cluster has to be admitted and to have caught up.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.seated.as_ref().is_none_or(|seated| seated.member().is_ready())
    }

    /// Whether the node has left its cluster for good, so that it has nothing to do any more.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.seated.as_ref().is_some_and(|seated| seated.member().has_left())
    }

    /// What its workers share.
    #[cfg(test)]
    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// The listeners by name, each with the address that it really has.
    #[must_use]
    pub fn listeners(&self) -> &[(String, SocketAddr)] {
        &self.listeners
    }

    /// Stops: tells every client (0x8B to those that speak 5.0) and waits for them to read it, at most for `grace`.
    /// Returns whether all workers ended in time.
    pub fn stop(self, grace: Duration) -> bool {
        if let Some(seated) = &self.seated {
            seated.hand_over();
        }
        for mailbox in &self.node.mailboxes {
            mailbox.send(Event::Stop(ReasonCode::ServerShuttingDown));
        }
        let deadline = Instant::now() + grace;
        while self.workers.iter().any(|worker| !worker.is_finished()) && Instant::now() < deadline {
            thread::sleep(STOP_POLL);
        }
        let in_time = self.workers.iter().all(JoinHandle::is_finished);
        if let Some(seated) = self.seated {
            seated.leave();
        }
        in_time
    }

    /// Whether a worker has ended on its own, which it does only when something is badly wrong.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.workers.iter().any(JoinHandle::is_finished)
    }
}
