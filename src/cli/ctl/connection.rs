//! To a node, with what proves that we may ask.

use std::{error::Error as _, fmt, time::Duration};

use flotilla::config::Cluster;
use flotilla_rpc::admin::{self, ClusterStatusReply, ClusterStatusRequest, admin_client::AdminClient};
use futures_util::future::join_all;
use tokio::time;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{self, Channel, Endpoint},
};

use super::{super::complain, CtlError};

/// What is told with every request.
#[derive(Clone)]
pub(super) struct Access {
    cluster: MetadataValue<Ascii>,
    secret: Option<MetadataValue<Ascii>>,
}

impl Access {
    /// The cluster's name goes along so that no command reaches another cluster by mistake.
    pub(super) fn new(cluster: &Cluster) -> Self {
        let secret = cluster.secret.as_ref().map(|secret| {
            // The bytes of a secret need not be ASCII.
            let hex: String = secret.reveal().bytes().map(|byte| format!("{byte:02x}")).collect();
            let mut secret: MetadataValue<Ascii> = hex.parse().expect("digits are ASCII");
            secret.set_sensitive(true);
            secret
        });
        Self { cluster: cluster.name.parse().expect("a cluster's name is ASCII"), secret }
    }

    /// The node at this address. It is dialled with the first request.
    pub(super) fn node(&self, addr: &str) -> Result<Node, CtlError> {
        let has_port = |(host, port): (&str, &str)| !host.is_empty() && port.parse::<u16>().is_ok();
        let endpoint = Endpoint::from_shared(format!("http://{addr}")).ok();
        let endpoint = endpoint.filter(|_| addr.rsplit_once(':').is_some_and(has_port));
        let endpoint = endpoint.ok_or_else(|| CtlError::Address(addr.to_owned()))?;
        let client = AdminClient::with_interceptor(endpoint.connect_lazy(), self.clone());
        Ok(Node { addr: addr.to_owned(), access: self.clone(), client })
    }
}

impl Interceptor for Access {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert("flotilla-wire", MetadataValue::from_static(WIRE_VERSION));
        metadata.insert("flotilla-from", MetadataValue::from_static(OPERATOR));
        metadata.insert("flotilla-cluster", self.cluster.clone());
        if let Some(secret) = &self.secret {
            metadata.insert("flotilla-secret", secret.clone());
        }
        Ok(request)
    }
}

/// A node that can be asked.
#[derive(Clone)]
pub(super) struct Node {
    addr: String,
    access: Access,
    /// Its Admin service.
    pub(super) client: AdminClient<InterceptedService<Channel, Access>>,
}

impl Node {
    /// The cluster as it knows it.
    pub(super) async fn status(&mut self) -> Result<ClusterStatusReply, CtlError> {
        let reply = self.client.cluster_status(ClusterStatusRequest {}).await;
        reply.map(tonic::Response::into_inner).map_err(|status| self.refusal(&status))
    }

    /// An error that names this node.
    pub(super) fn refusal(&self, status: &Status) -> CtlError {
        let addr = self.addr.clone();
        let transport = status.source().filter(|source| source.is::<transport::Error>());
        match transport {
            Some(error) => CtlError::Unreachable { addr, reason: innermost(error) },
            None => CtlError::Refused { addr, reason: status.message().to_owned() },
        }
    }

    /// Itself, or another node of its cluster by its name or identifier.
    pub(super) async fn named(mut self, name: Option<&str>) -> Result<Self, CtlError> {
        let Some(name) = name else { return Ok(self) };
        let status = self.status().await?;
        let found = status.nodes.iter().find(|node| node.name == name || Id(node.id).to_string() == name);
        let found = found.ok_or_else(|| CtlError::NotFound(format!("node {name:?}")))?;
        self.of(&status, found)
    }

    /// Asks every node that serves clients, all at once; what each of them says, and whether all of them did. A node that
    /// does not answer is told about.
    pub(super) async fn ask_all<T>(
        &mut self,
        ask: impl AsyncFn(Self) -> Result<T, CtlError>,
    ) -> Result<(Vec<T>, Roster, bool), CtlError> {
        let status = self.status().await?;
        let serving = status.nodes.iter().filter(|node| !matches!(node.status.as_str(), "down" | "left"));
        let nodes = serving.map(|node| self.of(&status, node)).collect::<Result<Vec<_>, _>>()?;
        let answers = join_all(nodes.into_iter().map(async |node| {
            let addr = node.addr.clone();
            let answer = time::timeout(NODE_TIMEOUT, ask(node)).await;
            answer.unwrap_or_else(|_| Err(CtlError::Unreachable { addr, reason: "it is silent".to_owned() }))
        }))
        .await;
        let asked = answers.len();
        let warn = |error: &CtlError| complain(format_args!("warning: {error}"));
        let tell = |answer: Result<T, CtlError>| answer.inspect_err(warn).ok();
        let answers: Vec<T> = answers.into_iter().filter_map(tell).collect();
        let complete = answers.len() == asked;
        Ok((answers, Roster(status), complete))
    }

    /// The node of this entry. The one that answered is reached as it was, whatever it advertises.
    pub(super) fn of(&self, status: &ClusterStatusReply, node: &admin::Node) -> Result<Self, CtlError> {
        if node.id == status.this_node { Ok(self.clone()) } else { self.access.node(&node.address) }
    }
}

/// The nodes of a cluster by their identifiers.
pub(super) struct Roster(pub(super) ClusterStatusReply);

impl Roster {
    /// The name of a node; of one that is not known any more, its identifier.
    pub(super) fn name(&self, id: u64) -> String {
        let node = self.0.nodes.iter().find(|node| node.id == id);
        node.map_or_else(|| Id(id).to_string(), |node| node.name.clone())
    }
}

/// A node's identifier, as it is shown and written: numbers as large as these do not survive every JSON reader.
pub(super) struct Id(pub(super) u64);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What really happened is at the bottom: "connection refused", and not "transport error".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// What we say to nodes is of this version.
const WIRE_VERSION: &str = "1";

/// In the place of a node's identifier, which is never 0.
const OPERATOR: &str = "0000000000000000";

/// How long one of many nodes is waited for: less than the whole command may take, so that the others are heard.
const NODE_TIMEOUT: Duration = Duration::from_secs(3);
