//! What stands before every service of the cluster port.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use flotilla_state::{Incarnation, NodeId};
use futures_util::future::{Either, Ready, ready};
use tonic::{Status, body::Body, codegen::http};
use tower::{Layer, Service};
use tracing::warn;

use super::{ClusterId, Local, WIRE_VERSION, channel, parse_node_id};

/// Why a request was refused before a service saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// It does not say what every node says, or says it in a way that is not understood.
    Malformed,
    /// It speaks another version of the protocol.
    WireVersion,
    /// It is meant for a cluster of another name.
    ClusterName,
    /// The secret is missing or wrong.
    Secret,
    /// It is meant for a cluster of this name, but not for this one.
    ClusterId,
    /// It is meant for another node: the address has passed to this one.
    Node,
}

impl Refusal {
    /// Every reason, in order.
    pub const ALL: [Self; 6] =
        [Self::Malformed, Self::WireVersion, Self::ClusterName, Self::Secret, Self::ClusterId, Self::Node];

    /// As it appears in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::WireVersion => "wire_version",
            Self::ClusterName => "cluster_name",
            Self::Secret => "secret",
            Self::ClusterId => "cluster_id",
            Self::Node => "node",
        }
    }

    fn status(self) -> Status {
        match self {
            Self::Malformed => Status::unauthenticated("not a request of a flotilla node"),
            Self::WireVersion => Status::failed_precondition("another version of the protocol"),
            Self::ClusterName => Status::permission_denied("its cluster has another name (cluster.name)"),
            Self::Secret => Status::unauthenticated("the secret is wrong or missing (cluster.secret)"),
            Self::ClusterId => Status::permission_denied("it belongs to another cluster of the same name"),
            Self::Node => Status::failed_precondition("another node"),
        }
    }
}

/// Who sent a request. The services find it in the extensions of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The node.
    pub node: NodeId,
    /// Which of its lives; none while it is no member.
    pub incarnation: Option<Incarnation>,
}

/// Lets through what comes from a node of our cluster, or of none yet where that is enough; refuses and counts the rest.
#[derive(Clone)]
pub struct Gate {
    local: Local,
    refused: Arc<[AtomicU64; Refusal::ALL.len()]>,
}

impl Gate {
    /// The gate of this node.
    pub fn new(local: Local) -> Self {
        Self { local, refused: Arc::default() }
    }

    /// How many requests were refused, by reason.
    pub fn refused(&self) -> impl Iterator<Item = (Refusal, u64)> {
        Refusal::ALL.into_iter().map(|reason| (reason, self.refused[reason as usize].load(Ordering::Relaxed)))
    }

    fn check(&self, path: &str, headers: &http::HeaderMap) -> Result<Caller, Refusal> {
        let text = |name: &str| -> Result<Option<&str>, Refusal> {
            headers.get(name).map(|value| value.to_str().map_err(|_| Refusal::Malformed)).transpose()
        };
        let version = text(channel::WIRE)?.ok_or(Refusal::Malformed)?;
        if version.parse() != Ok(WIRE_VERSION) {
            return Err(Refusal::WireVersion);
        }
        if text(channel::CLUSTER_NAME)?.ok_or(Refusal::Malformed)? != self.local.cluster_name() {
            return Err(Refusal::ClusterName);
        }
        if let Some(secret) = self.local.secret()
            && !secret.is(headers.get(channel::SECRET).map_or(&[], http::HeaderValue::as_bytes))
        {
            return Err(Refusal::Secret);
        }
        let node = text(channel::FROM)?.and_then(parse_node_id).ok_or(Refusal::Malformed)?;
        let incarnation = text(channel::INCARNATION)?
            .map(|text| text.parse().map(Incarnation).map_err(|_| Refusal::Malformed))
            .transpose()?;
        if let Some(to) = text(channel::TO)?
            && parse_node_id(to).ok_or(Refusal::Malformed)? != self.local.node()
        {
            return Err(Refusal::Node);
        }
        let theirs = text(channel::CLUSTER_ID)?
            .map(|text| u128::from_str_radix(text, 16).map(ClusterId).map_err(|_| Refusal::Malformed))
            .transpose()?;
        if self.is_ours(path, theirs) { Ok(Caller { node, incarnation }) } else { Err(Refusal::ClusterId) }
    }

    /// Whether a request that names the cluster `theirs` is meant for this node.
    fn is_ours(&self, path: &str, theirs: Option<ClusterId>) -> bool {
        let bound = self.local.bound();
        match (theirs, bound.cluster) {
            (Some(theirs), Some(ours)) => theirs == ours,
            // A node of no cluster takes entries and votes only from the attempt that it is bound to.
            (Some(theirs), None) if path.starts_with(RAFT) => bound.attempt == Some(theirs),
            (Some(_), None) | (None, _) => OPEN.contains(&path) || path.starts_with(ADMIN),
        }
    }

    fn refuse(&self, path: &str, reason: Refusal) -> Status {
        let before = self.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
        // Ever more rarely: a stranger must not fill the log.
        if (before + 1).is_power_of_two() {
            warn!(
                reason = reason.name(),
                refused = before + 1,
                path,
                "refused a request on the cluster port"
            );
        }
        reason.status()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_map().entries(self.refused()).finish()
    }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { gate: self.clone(), inner }
    }
}

/// A service behind a [`Gate`].
#[derive(Debug, Clone)]
pub struct Gated<S> {
    gate: Gate,
    inner: S,
}

impl<S> Service<http::Request<Body>> for Gated<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<http::Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        match self.gate.check(request.uri().path(), request.headers()) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                Either::Left(self.inner.call(request))
            }
            Err(reason) => {
                let status = self.gate.refuse(request.uri().path(), reason);
                Either::Right(ready(Ok(status.into_http())))
            }
        }
    }
}

const RAFT: &str = "/flotilla.raft.v1.Raft/";
/// An operator need not know the number of the cluster: the name and the secret are enough.
const ADMIN: &str = "/flotilla.admin.v1.Admin/";

/// What a node may ask that belongs to no cluster yet, or be asked.
const OPEN: [&str; 4] = [
    "/flotilla.membership.v1.Membership/Hello",
    "/flotilla.membership.v1.Membership/Grant",
    "/flotilla.membership.v1.Membership/Release",
    "/flotilla.membership.v1.Membership/Join",
];

#[cfg(test)]
mod tests {
    use tonic::service::Interceptor as _;

    use super::*;
    use crate::peers::{Class, Secret, channel::Stamp};

    const HELLO: &str = OPEN[0];
    const LEASE: &str = "/flotilla.membership.v1.Membership/Lease";
    const APPEND: &str = "/flotilla.raft.v1.Raft/Append";

    fn node(id: u64, name: &str, secret: &str) -> Local {
        Local::new(NodeId(id), name, Some(Secret::new(secret)))
    }

    fn check(from: &Local, to: u64, class: Class, path: &str, gate: &Gate) -> Result<Caller, Refusal> {
        let mut stamp = Stamp::new(from.clone(), class, Some(NodeId(to)));
        let request = stamp.call(tonic::Request::new(())).unwrap();
        let outcome = gate.check(path, &request.metadata().clone().into_headers());
        if let Err(reason) = outcome {
            gate.refuse(path, reason);
        }
        outcome
    }

    #[test]
    fn strangers_are_refused_and_counted() {
        let (a, b) = (node(1, "blue", "s"), node(2, "blue", "s"));
        let gate = Gate::new(b.clone());
        let caller = Caller { node: NodeId(1), incarnation: None };
        assert_eq!(check(&a, 2, Class::Admin, HELLO, &gate), Ok(caller));
        assert_eq!(check(&a, 3, Class::Admin, HELLO, &gate), Err(Refusal::Node));
        assert_eq!(check(&node(1, "red", "s"), 2, Class::Admin, HELLO, &gate), Err(Refusal::ClusterName));
        assert_eq!(check(&node(1, "blue", "t"), 2, Class::Admin, HELLO, &gate), Err(Refusal::Secret));
        assert_eq!(gate.check(HELLO, &http::HeaderMap::new()), Err(Refusal::Malformed));
        let counts: Vec<u64> = gate.refused().map(|(_, count)| count).collect();
        assert_eq!(counts, [0, 0, 1, 1, 0, 1]);
    }

    #[test]
    fn only_the_own_cluster_gets_beyond_hello() {
        let (a, b) = (node(1, "blue", "s"), node(2, "blue", "s"));
        let gate = Gate::new(b.clone());
        let foreign = Err(Refusal::ClusterId);
        assert_eq!(check(&a, 2, Class::Raft, LEASE, &gate), foreign);
        // Bound to the same attempt, they exchange Raft messages and nothing else.
        a.update(|bound| bound.attempt = Some(ClusterId(7)));
        assert_eq!(check(&a, 2, Class::Raft, APPEND, &gate), foreign);
        b.update(|bound| bound.attempt = Some(ClusterId(7)));
        assert!(check(&a, 2, Class::Raft, APPEND, &gate).is_ok());
        assert_eq!(check(&a, 2, Class::Admin, LEASE, &gate), foreign);
        // In one cluster.
        a.update(|bound| bound.cluster = Some(ClusterId(7)));
        b.update(|bound| bound.cluster = Some(ClusterId(7)));
        assert!(check(&a, 2, Class::Admin, LEASE, &gate).is_ok());
        // In two.
        a.update(|bound| bound.cluster = Some(ClusterId(8)));
        assert_eq!(check(&a, 2, Class::Admin, HELLO, &gate), foreign);
        assert_eq!(check(&a, 2, Class::Raft, APPEND, &gate), foreign);
    }
}
