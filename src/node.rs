//! What all workers of a node share.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use flotilla_mqtt::{session::Limits, topic::TopicFilter};
use tokio::sync::Notify;

use crate::{
    admin::AdminSource,
    bans::Bans,
    clock::Clock,
    cluster::Cluster,
    config::Config,
    metrics::{Metrics, Totals},
    overload::Overload,
    registry::Registry,
    repetitions::Repetitions,
    retained::OwnRetained,
    router::{GroupTarget, Router},
    worker::{Event, Mailbox},
};

/// What all workers of a node share.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) limits: Arc<Limits>,
    pub(crate) clock: Clock,
    pub(crate) router: Router,
    pub(crate) registry: Registry,
    /// Retained messages of the broker itself.
    pub(crate) own_retained: OwnRetained,
    pub(crate) cluster: Box<dyn Cluster>,
    /// Clients that may not connect.
    pub(crate) bans: Bans,
    /// One for each worker.
    pub(crate) mailboxes: Box<[Mailbox]>,
    /// One for each worker.
    pub(crate) metrics: Box<[Metrics]>,
    /// Open sockets of each listener, by its number.
    pub(crate) sockets: Box<[SocketCount]>,
    /// Messages that publishers may send again.
    pub(crate) repetitions: Repetitions,
    /// What operators ask; set once the node is a part of a cluster.
    pub(crate) admin: OnceLock<Arc<dyn AdminSource>>,
    /// How short memory is.
    pub(crate) overload: Overload,
    /// Told when a worker that was congested is no longer.
    pub(crate) decongested: Notify,
}

/// How many sockets of a listener are open, and how many of them are about to be let in.
#[derive(Debug)]
pub(crate) struct SocketCount {
    open: AtomicUsize,
    max: usize,
    connecting: Arc<AtomicUsize>,
    connecting_max: usize,
    /// Told while there are too many that are not let in yet.
    crowded: Notify,
}

/// A connection that has not got the answer to its CONNECT. It counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Connecting(Arc<AtomicUsize>);

impl Node {
    /// A group of a shared subscription, as far as this node knows it.
    pub(crate) fn group_target(&self, filter: &TopicFilter) -> GroupTarget {
        let remote = self.router.remote();
        GroupTarget::new(self.router.group(filter), remote.group(filter.as_str()), remote.me())
    }

    /// A worker that was congested is no longer: those who waited for it go on.
    pub(crate) fn note_decongested(&self) {
        for mailbox in &self.mailboxes {
            mailbox.send(Event::Decongested);
        }
        self.decongested.notify_waiters();
    }

    pub(crate) fn totals(&self) -> Totals {
        Totals::of(self.metrics.iter())
    }
}

impl SocketCount {
    pub(crate) fn new(max: Option<usize>, connecting_max: usize) -> Self {
        Self {
            open: AtomicUsize::new(0),
            max: max.unwrap_or(usize::MAX),
            connecting: Arc::default(),
            connecting_max,
            crowded: Notify::new(),
        }
    }

    /// Counts a socket in, unless the listener is full.
    pub(crate) fn enter(&self) -> bool {
        self.open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < self.max).then_some(open + 1))
            .is_ok()
    }

    /// Counts a socket out.
    pub(crate) fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts one that is about to be let in.
    pub(crate) fn begin_connecting(&self) -> Connecting {
        self.connecting.fetch_add(1, Ordering::Relaxed);
        Connecting(Arc::clone(&self.connecting))
    }

    /// Whether there are so many of these that no more may be accepted. Those that let them wait are told.
    pub(crate) fn is_crowded(&self) -> bool {
        let is_crowded = self.connecting.load(Ordering::Relaxed) >= self.connecting_max;
        if is_crowded {
            self.crowded.notify_waiters();
        }
        is_crowded
    }

    /// Waits until others wait for the place of a connection.
    ///
    /// # Cancel safety
    /// Nothing is lost: it is told again as long as they wait.
    pub(crate) async fn crowded(&self) {
        self.crowded.notified().await;
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
