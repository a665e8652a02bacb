//! The address book, and the channels that are opened by it.

use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use flotilla_state::NodeId;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tonic::{service::interceptor::InterceptedService, transport::Endpoint};

use super::{Connector, Local, PeerChannel, channel::Stamp};
use crate::clock;

/// What a connection is used for. Each has its own, so that much of one kind does not hold up another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Raft, and the leases of the members.
    Raft,
    /// The lanes.
    Lanes,
    /// Membership and administration.
    Admin,
}

/// Settings of [`Peers`].
#[derive(Debug, Clone)]
pub struct PeersOptions {
    /// How long opening a connection may take.
    pub connect_timeout: Duration,
    /// A connection on which nothing was heard for so long is probed, and given up after as long again.
    pub keep_alive: Duration,
}

/// The address book of a node and its channels to the others. Clones share it.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    local: Local,
    options: PeersOptions,
    connector: Arc<dyn Connector>,
    /// Locked for moments only, never while waiting.
    book: Arc<Mutex<BTreeMap<NodeId, Entry>>>,
    channels: Mutex<BTreeMap<(NodeId, Class), PeerChannel>>,
    strangers: Mutex<BTreeMap<String, PeerChannel>>,
}

#[derive(Debug, Default)]
struct Entry {
    committed: Option<String>,
    /// What the node has said of itself since.
    told: Option<String>,
    heard: Option<Instant>,
}

impl Entry {
    fn address(&self) -> Option<&String> {
        self.told.as_ref().or(self.committed.as_ref())
    }
}

impl Peers {
    /// An empty book.
    pub fn new(local: Local, options: PeersOptions, connector: Arc<dyn Connector>) -> Self {
        Self(Arc::new(Inner {
            local,
            options,
            connector,
            book: Arc::default(),
            channels: Mutex::default(),
            strangers: Mutex::default(),
        }))
    }

    /// This node.
    pub fn local(&self) -> &Local {
        &self.0.local
    }

    /// Where a node is reached.
    pub fn address(&self, node: NodeId) -> Option<String> {
        self.0.book.lock().get(&node).and_then(Entry::address).cloned()
    }

    /// A channel to a node; none while its address is not known.
    pub fn channel(&self, node: NodeId, class: Class) -> Option<PeerChannel> {
        self.address(node)?;
        let mut channels = self.0.channels.lock();
        let open = || {
            let book = Arc::clone(&self.0.book);
            self.open(class, Some(node), move || book.lock().get(&node).and_then(Entry::address).cloned())
        };
        Some(channels.entry((node, class)).or_insert_with(open).clone())
    }

    /// A channel to whoever listens at an address, for `Hello`, and for what follows from its answer.
    pub fn channel_to(&self, address: &str) -> PeerChannel {
        let mut strangers = self.0.strangers.lock();
        if strangers.len() >= STRANGERS_MAX && !strangers.contains_key(address) {
            strangers.clear();
        }
        let open = || {
            let target = address.to_owned();
            self.open(Class::Admin, None, move || Some(target.clone()))
        };
        strangers.entry(address.to_owned()).or_insert_with(open).clone()
    }

    /// A node is known to answer, and says that it is reached at `address`.
    pub fn told(&self, node: NodeId, address: &str) {
        if address.is_empty() || address.len() > ADDRESS_BYTES_MAX {
            return;
        }
        let mut book = self.0.book.lock();
        if book.len() >= NODES_MAX && !book.contains_key(&node) {
            return;
        }
        let entry = book.entry(node).or_default();
        entry.heard = Some(clock::now());
        if entry.address().is_none_or(|known| known != address) {
            entry.told = Some(address.to_owned());
            drop(book);
            self.reopen(node);
        }
    }

    /// Another node says where a node is reached: it counts while nothing better is known.
    pub fn told_by_another(&self, node: NodeId, address: &str) {
        if self.address(node).is_none() {
            self.told(node, address);
        }
    }

    /// The committed address of a node.
    pub fn committed(&self, node: NodeId, address: &str) {
        let mut book = self.0.book.lock();
        let entry = book.entry(node).or_default();
        if entry.committed.as_deref() != Some(address) {
            let before = entry.address().cloned();
            entry.committed = Some(address.to_owned());
            entry.told = None;
            if before.is_some_and(|before| before != address) {
                drop(book);
                self.reopen(node);
            }
        }
    }

    /// A node is no part of the cluster any more.
    pub fn forget(&self, node: NodeId) {
        self.0.book.lock().remove(&node);
        self.reopen(node);
    }

    /// A node has answered, or has asked something.
    pub fn heard(&self, node: NodeId) {
        if let Some(entry) = self.0.book.lock().get_mut(&node) {
            entry.heard = Some(clock::now());
        }
    }

    /// The nodes that were heard within the last `within`.
    pub fn heard_within(&self, within: Duration) -> Vec<NodeId> {
        let now = clock::now();
        let recent = |entry: &Entry| entry.heard.is_some_and(|heard| now.duration_since(heard) <= within);
        self.0.book.lock().iter().filter(|(_, entry)| recent(entry)).map(|(node, _)| *node).collect()
    }

    /// The next use opens new connections to the node; what is under way on the present ones goes on there. For connections on
    /// which answers stay away, and after a change of the address.
    pub fn reopen(&self, node: NodeId) {
        self.0.channels.lock().retain(|(other, _), _| *other != node);
    }

    /// As [`Peers::reopen`], for a channel of [`Peers::channel_to`].
    pub fn reopen_to(&self, address: &str) {
        self.0.strangers.lock().remove(address);
    }

    fn open(
        &self,
        class: Class,
        to: Option<NodeId>,
        address: impl Fn() -> Option<String> + Clone + Send + 'static,
    ) -> PeerChannel {
        let PeersOptions { connect_timeout, keep_alive } = self.0.options;
        let connector = Arc::clone(&self.0.connector);
        // The host of this URI is not resolved: the address is looked up in the book whenever a connection is opened.
        let channel = Endpoint::from_static("http://node.flotilla")
            .connect_timeout(connect_timeout)
            .http2_keep_alive_interval(keep_alive)
            .keep_alive_timeout(keep_alive)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(tower::service_fn(move |_| {
                let (connector, address) = (Arc::clone(&connector), address());
                async move {
                    let address = address.ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
                    let connecting = connector.connect(address);
                    let connected = tokio::time::timeout(connect_timeout, connecting).await;
                    let connection = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
                    Ok::<_, io::Error>(TokioIo::new(connection))
                }
            }));
        InterceptedService::new(channel, Stamp::new(self.0.local.clone(), class, to))
    }
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Peers")
            .field("local", &self.0.local)
            .field("book", &*self.0.book.lock())
            .finish_non_exhaustive()
    }
}

/// Channels to addresses of which it is not known who listens there.
const STRANGERS_MAX: usize = 256;

/// Nodes in the book.
const NODES_MAX: usize = 4_096;

/// The greatest length of an address.
const ADDRESS_BYTES_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::TcpConnector;

    #[test]
    fn what_a_node_says_overrides_what_was_committed_before() {
        let local = Local::new(NodeId(1), "blue", None);
        let second = Duration::from_secs(1);
        let options = PeersOptions { connect_timeout: second, keep_alive: second };
        let peers = Peers::new(local, options, Arc::new(TcpConnector::default()));
        let node = NodeId(2);
        assert_eq!(peers.address(node), None);
        peers.committed(node, "a:1");
        peers.told(node, "b:1");
        peers.committed(node, "a:1");
        assert_eq!(peers.address(node).as_deref(), Some("b:1"));
        peers.committed(node, "c:1");
        assert_eq!(peers.address(node).as_deref(), Some("c:1"));
        assert_eq!(peers.heard_within(second), [node]);
        peers.forget(node);
        assert_eq!(peers.address(node), None);
    }
}
