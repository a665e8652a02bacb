//! What the tasks and the service of the meta group share.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use flotilla_rpc::membership::membership_client::MembershipClient;
use flotilla_state::{ClusterState, Member, NodeId};
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    Lease, MetaOptions, Observer,
    bootstrap::Attempt,
    founding,
    lease::{LeaseTable, Timing},
    machine::Progress,
    wire::NodeInfo,
};
use crate::{
    group::{Group, GroupStatus, Role},
    peers::{ClusterId, Identity, Local, MESSAGE_BYTES_MAX, PeerChannel, Peers, Resolver},
};

/// One node's part in the meta group.
pub(crate) struct Shared {
    pub(super) options: MetaOptions,
    pub(super) timing: Timing,
    pub(super) identity: Arc<Identity>,
    pub(super) local: Local,
    pub(super) peers: Peers,
    pub(super) resolver: Resolver,
    pub(super) group: Group,
    pub(super) state: Arc<RwLock<ClusterState>>,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) lease: Lease,
    pub(super) me: watch::Sender<Option<Member>>,
    /// As the leader: when each member was heard of.
    pub(super) leases: Mutex<LeaseTable>,
    /// As the leader: nodes that asked to join, or were removed, and when. Their places in the group are left alone.
    pub(super) spared: Mutex<BTreeMap<NodeId, Instant>>,
    /// As the leader: nodes whose admission is under way.
    pub(super) admitting: Mutex<BTreeSet<NodeId>>,
    /// Held while the members of the group are changed.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// The attempt that the node is bound to, as others are told.
    pub(super) attempt: RwLock<Option<Attempt>>,
    pub(super) founding: mpsc::Sender<founding::Input>,
    pub(super) founding_inputs: Mutex<Option<mpsc::Receiver<founding::Input>>>,
    /// Addresses where this node is refused: why, and when the log last said so.
    pub(super) refusals: Mutex<BTreeMap<String, (String, Instant)>>,
    /// The address of somebody who may know the leader.
    pub(super) hint: Mutex<Option<String>>,
    pub(super) proposals: Semaphore,
    pub(super) departure: watch::Sender<Departure>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// Whether this node is on its way out of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Departure {
    No,
    /// It has asked to leave and has no answer yet. Its heartbeats may say earlier than the answer that its life has ended: it
    /// must not take that for a reason to ask for admission.
    Asked,
    /// It belongs to the cluster no more, or has withdrawn, and asks for admission when it starts again.
    Done,
}

impl Shared {
    pub(super) fn node_info(&self) -> NodeInfo {
        NodeInfo {
            id: self.local.node(),
            name: self.options.name.clone(),
            role: self.options.role,
            address: self.options.advertise.clone(),
            client_addresses: self.options.client_addresses.clone(),
            version: self.options.version.clone(),
        }
    }

    /// What an operator calls a node: its name, or its identifier where no name is known.
    pub(super) fn name_of(&self, node: NodeId) -> String {
        let state = self.state.read();
        state.node(node).map_or_else(|| node.to_string(), |node| node.name.to_string())
    }

    /// The cluster, once it has been created as far as this node knows. What the node belongs to counts more than a log, which may
    /// begin with the identifier that the cluster had before one node went on alone.
    pub(super) fn created(&self) -> Option<ClusterId> {
        let created = self.state.read().cluster().map(|cluster| ClusterId(cluster.id))?;
        Some(self.identity.cluster_id().unwrap_or(created))
    }

    /// Whether this node leads and a quorum has confirmed it so lately that its promises hold.
    pub(super) fn is_certain_leader(&self) -> bool {
        self.quorum_age(&self.group.status()).is_some_and(|age| age < self.timing.margin())
    }

    /// On the leader: how long ago the messages were sent with which a quorum last confirmed it.
    pub(super) fn quorum_age(&self, status: &GroupStatus) -> Option<Duration> {
        if status.role != Role::Leader {
            return None;
        }
        let me = self.local.node().0;
        if status.voters.iter().all(|voter| *voter == me) {
            return Some(Duration::ZERO);
        }
        status.millis_since_quorum_ack.map(Duration::from_millis)
    }

    /// The leader and its address, as far as they are known; zero and empty otherwise.
    pub(super) fn leader(&self) -> (u64, String) {
        let Some(leader) = self.group.status().leader else { return (0, String::new()) };
        let address = if NodeId(leader) == self.local.node() {
            Some(self.options.advertise.clone())
        } else {
            self.peers.address(NodeId(leader))
        };
        address.map_or((0, String::new()), |address| (leader, address))
    }
}

/// A client of the membership service of another node.
pub(super) fn client(channel: PeerChannel) -> MembershipClient<PeerChannel> {
    MembershipClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}
