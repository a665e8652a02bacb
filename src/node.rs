//! What all workers of a node share.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use flotilla_mqtt::{
    session::{ClientId, Limits},
    topic::TopicFilter,
};
use flotilla_state::ConnectionEpoch;
use parking_lot::Mutex;
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
    router::{GroupTarget, Router, SessionRef},
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
    /// What is left here of sessions that have gone to other nodes.
    pub(crate) stubs: Stubs,
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

/// What is left on this node of sessions that have gone to others, by the claim that took them. There may be several of
/// one client that comes and goes quickly.
#[derive(Debug, Default)]
pub(crate) struct Stubs {
    stubs: Mutex<BTreeMap<(ClientId, ConnectionEpoch), SessionRef>>,
    /// How many there are: nearly always none, and then nobody has to look further.
    count: AtomicUsize,
}

impl Stubs {
    pub(crate) fn insert(&self, client_id: &ClientId, epoch: ConnectionEpoch, stub: SessionRef) {
        let mut stubs = self.stubs.lock();
        stubs.insert((client_id.clone(), epoch), stub);
        self.count.store(stubs.len(), Ordering::Release);
    }

    pub(crate) fn find(&self, client_id: &ClientId, epoch: ConnectionEpoch) -> Option<SessionRef> {
        self.stubs.lock().get(&(client_id.clone(), epoch)).copied()
    }

    /// What is left of the session of a client that went last.
    pub(crate) fn latest(&self, client_id: &ClientId) -> Option<SessionRef> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let stubs = self.stubs.lock();
        let first = (client_id.clone(), ConnectionEpoch::default());
        let own = stubs.range(first..).take_while(|((client, _), _)| client == client_id);
        own.last().map(|(_, stub)| *stub)
    }

    pub(crate) fn remove(&self, client_id: &ClientId, epoch: ConnectionEpoch) -> Option<SessionRef> {
        let mut stubs = self.stubs.lock();
        let stub = stubs.remove(&(client_id.clone(), epoch));
        self.count.store(stubs.len(), Ordering::Release);
        stub
    }
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
