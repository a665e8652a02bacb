//! A channel to another node, which says with every request who sends it.

use flotilla_state::NodeId;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use super::{Local, WIRE_VERSION, book::Class};

/// A channel to another node. Cloning it is cheap; it connects when first used, and again when it has to.
pub type PeerChannel = InterceptedService<Channel, Stamp>;

/// Puts into each request what [`Gate`](super::Gate) asks for.
#[derive(Debug, Clone)]
pub struct Stamp {
    local: Local,
    class: Class,
    to: Option<NodeId>,
}

impl Stamp {
    pub(super) fn new(local: Local, class: Class, to: Option<NodeId>) -> Self {
        Self { local, class, to }
    }
}

impl Interceptor for Stamp {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let bound = self.local.bound();
        let text = |value: String| -> Result<MetadataValue<Ascii>, Status> {
            value.parse().map_err(|_| Status::internal("the name of the cluster is not ASCII text"))
        };
        let metadata = request.metadata_mut();
        metadata.insert(CLUSTER_NAME, text(self.local.cluster_name().to_owned())?);
        let attempt = bound.attempt.filter(|_| self.class == Class::Raft);
        if let Some(cluster) = bound.cluster.or(attempt) {
            metadata.insert(CLUSTER_ID, text(cluster.to_string())?);
        }
        metadata.insert(FROM, text(self.local.node().to_string())?);
        if let Some(to) = self.to {
            metadata.insert(TO, text(to.to_string())?);
        }
        if let Some(incarnation) = bound.incarnation {
            metadata.insert(INCARNATION, text(incarnation.0.to_string())?);
        }
        metadata.insert(WIRE, text(WIRE_VERSION.to_string())?);
        if let Some(secret) = self.local.secret() {
            let mut value = text(secret.to_hex())?;
            value.set_sensitive(true);
            metadata.insert(SECRET, value);
        }
        Ok(request)
    }
}

pub(super) const CLUSTER_NAME: &str = "flotilla-cluster";
pub(super) const CLUSTER_ID: &str = "flotilla-cluster-id";
pub(super) const FROM: &str = "flotilla-from";
pub(super) const TO: &str = "flotilla-to";
pub(super) const INCARNATION: &str = "flotilla-incarnation";
pub(super) const WIRE: &str = "flotilla-wire";
pub(super) const SECRET: &str = "flotilla-secret";
