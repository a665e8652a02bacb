//! What this node says of itself with every request, and holds requests of others against.

use std::sync::Arc;

use flotilla_state::{Incarnation, NodeId};
use parking_lot::RwLock;

use super::{ClusterId, Secret};

/// This node, as the others know it. Clones share it.
#[derive(Debug, Clone)]
pub struct Local(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    node: NodeId,
    cluster_name: Box<str>,
    secret: Option<Secret>,
    bound: RwLock<Bound>,
}

/// What the node belongs to, which changes while it runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bound {
    /// The cluster that the node belongs to.
    pub(crate) cluster: Option<ClusterId>,
    /// The attempt to found a cluster that the node is bound to. Its Raft messages pass before there is a cluster.
    pub(crate) attempt: Option<ClusterId>,
    /// The present life of the node.
    pub(crate) incarnation: Option<Incarnation>,
}

impl Local {
    /// A node that belongs to no cluster yet.
    pub fn new(node: NodeId, cluster_name: &str, secret: Option<Secret>) -> Self {
        let bound = RwLock::new(Bound::default());
        Self(Arc::new(Inner { node, cluster_name: cluster_name.into(), secret, bound }))
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.0.node
    }

    /// The name of the cluster that it belongs to or looks for.
    pub fn cluster_name(&self) -> &str {
        &self.0.cluster_name
    }

    /// The cluster that it belongs to.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.0.bound.read().cluster
    }

    pub(super) fn secret(&self) -> Option<&Secret> {
        self.0.secret.as_ref()
    }

    pub(crate) fn bound(&self) -> Bound {
        *self.0.bound.read()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Bound)) {
        change(&mut self.0.bound.write());
    }
}
