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
    /// Told when a worker that was congested is no longer.
    pub(crate) decongested: Notify,
}

/// How many sockets of a listener are open.
#[derive(Debug)]
pub(crate) struct SocketCount {
    open: AtomicUsize,
    max: usize,
}

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
    pub(crate) fn new(max: Option<usize>) -> Self {
        Self { open: AtomicUsize::new(0), max: max.unwrap_or(usize::MAX) }
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
}
