//! What all workers of a node share.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use flotilla_mqtt::session::Limits;

use crate::{
    clock::Clock,
    cluster::Cluster,
    config::Config,
    metrics::{Metrics, Totals},
    registry::Registry,
    retained::Retained,
    router::Router,
    worker::Mailbox,
};

/// What all workers of a node share.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) limits: Arc<Limits>,
    pub(crate) clock: Clock,
    pub(crate) router: Router,
    pub(crate) registry: Registry,
    pub(crate) retained: Box<dyn Retained>,
    pub(crate) cluster: Box<dyn Cluster>,
    /// One for each worker.
    pub(crate) mailboxes: Box<[Mailbox]>,
    /// One for each worker.
    pub(crate) metrics: Box<[Metrics]>,
    /// Open sockets of each listener, by its number.
    pub(crate) sockets: Box<[SocketCount]>,
}

/// How many sockets of a listener are open.
#[derive(Debug)]
pub(crate) struct SocketCount {
    open: AtomicUsize,
    max: usize,
}

impl Node {
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
