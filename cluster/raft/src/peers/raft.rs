//! Raft between nodes: the transport that the groups use, and the service that hands them what came.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use flotilla_rpc::raft::{
    RaftReply, RaftRequest, SnapshotChunk,
    raft_client::RaftClient,
    raft_server::{Raft, RaftServer},
};
use flotilla_state::NodeId;
use futures_util::{Stream, StreamExt as _, future::BoxFuture, stream::BoxStream};
use parking_lot::RwLock;
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};

use super::{Class, MESSAGE_BYTES_MAX, PeerChannel, Peers};
use crate::group::{Group, GroupError, GroupId, Transport, Unreachable};

/// Carries the messages of every group of this node.
#[derive(Debug, Clone)]
pub struct RaftTransport {
    peers: Peers,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Append,
    Vote,
    PreVote,
    Transfer,
}

impl RaftTransport {
    /// The transport over these channels.
    pub fn new(peers: Peers) -> Self {
        Self { peers }
    }

    fn client(&self, to: u64) -> Result<RaftClient<PeerChannel>, Unreachable> {
        let channel = self
            .peers
            .channel(NodeId(to), Class::Raft)
            .ok_or_else(|| Unreachable(format!("the address of node {} is not known", NodeId(to))))?;
        Ok(RaftClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    fn call(
        &self,
        kind: Kind,
        to: u64,
        group: GroupId,
        body: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Bytes, Unreachable>> {
        Box::pin(async move {
            let mut client = self.client(to)?;
            let request = RaftRequest { group: group.0, to, body };
            let answer = timeout(ttl, async {
                match kind {
                    Kind::Append => client.append(request).await,
                    Kind::Vote => client.vote(request).await,
                    Kind::PreVote => client.pre_vote(request).await,
                    Kind::Transfer => client.transfer(request).await,
                }
            });
            self.finish(to, answer.await.ok())
        })
    }

    fn finish(
        &self,
        to: u64,
        answer: Option<Result<Response<RaftReply>, Status>>,
    ) -> Result<Bytes, Unreachable> {
        let node = NodeId(to);
        match answer {
            Some(Ok(reply)) => {
                self.peers.heard(node);
                Ok(reply.into_inner().body)
            }
            Some(Err(status)) => Err(Unreachable(format!("node {node}: {}", status.message()))),
            None => {
                // The packets of a link that was cut are sent again ever more rarely: a new connection heals sooner.
                self.peers.reopen(node);
                Err(Unreachable(format!("node {node} did not answer in time")))
            }
        }
    }
}

impl Transport for RaftTransport {
    fn append(
        &self,
        to: u64,
        group: GroupId,
        request: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Bytes, Unreachable>> {
        self.call(Kind::Append, to, group, request, ttl)
    }

    fn vote(
        &self,
        to: u64,
        group: GroupId,
        request: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Bytes, Unreachable>> {
        self.call(Kind::Vote, to, group, request, ttl)
    }

    fn pre_vote(
        &self,
        to: u64,
        group: GroupId,
        request: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Bytes, Unreachable>> {
        self.call(Kind::PreVote, to, group, request, ttl)
    }

    fn transfer(
        &self,
        to: u64,
        group: GroupId,
        request: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Bytes, Unreachable>> {
        self.call(Kind::Transfer, to, group, request, ttl)
    }

    fn snapshot(
        &self,
        to: u64,
        group: GroupId,
        chunks: BoxStream<'static, io::Result<Bytes>>,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Bytes, Unreachable>> {
        let chunks = Chunks { group: group.0, to, chunks };
        Box::pin(async move {
            let mut client = self.client(to)?;
            let answer = timeout(ttl, client.snapshot(chunks)).await;
            self.finish(to, answer.ok())
        })
    }
}

/// A snapshot on its way out. A chunk that cannot be read ends it early; the receiver finds that it is not whole.
struct Chunks {
    group: u64,
    to: u64,
    chunks: BoxStream<'static, io::Result<Bytes>>,
}

impl Stream for Chunks {
    type Item = SnapshotChunk;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<SnapshotChunk>> {
        let Self { group, to, .. } = *self;
        let chunk = ready!(self.chunks.as_mut().poll_next(context));
        Poll::Ready(chunk.and_then(Result::ok).map(|body| SnapshotChunk { group, to, body }))
    }
}

/// Hands the messages of other nodes to the groups of this one.
#[derive(Clone)]
pub struct RaftService {
    me: NodeId,
    groups: Arc<RwLock<BTreeMap<GroupId, Group>>>,
}

impl RaftService {
    /// Without groups yet.
    pub fn new(me: NodeId) -> Self {
        Self { me, groups: Arc::default() }
    }

    /// The group takes part from now on.
    pub fn add(&self, group: Group) {
        self.groups.write().insert(group.id(), group);
    }

    /// The group takes part no more.
    pub fn remove(&self, group: GroupId) {
        self.groups.write().remove(&group);
    }

    /// As a service of the cluster port.
    pub fn into_server(self) -> RaftServer<Self> {
        RaftServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn group(&self, to: u64, group: u64) -> Result<Group, Status> {
        if NodeId(to) != self.me {
            return Err(Status::failed_precondition("another node"));
        }
        let group = self.groups.read().get(&GroupId(group)).cloned();
        group.ok_or_else(|| Status::not_found("no such group"))
    }
}

#[tonic::async_trait]
impl Raft for RaftService {
    async fn append(&self, request: Request<RaftRequest>) -> Result<Response<RaftReply>, Status> {
        let RaftRequest { group, to, body } = request.into_inner();
        reply(self.group(to, group)?.handle_append(body).await)
    }

    async fn vote(&self, request: Request<RaftRequest>) -> Result<Response<RaftReply>, Status> {
        let RaftRequest { group, to, body } = request.into_inner();
        reply(self.group(to, group)?.handle_vote(body).await)
    }

    async fn pre_vote(&self, request: Request<RaftRequest>) -> Result<Response<RaftReply>, Status> {
        let RaftRequest { group, to, body } = request.into_inner();
        reply(self.group(to, group)?.handle_pre_vote(body).await)
    }

    async fn transfer(&self, request: Request<RaftRequest>) -> Result<Response<RaftReply>, Status> {
        let RaftRequest { group, to, body } = request.into_inner();
        reply(self.group(to, group)?.handle_transfer(body).await)
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<RaftReply>, Status> {
        let mut chunks = request.into_inner();
        let first = chunks.message().await?.ok_or_else(|| Status::invalid_argument("an empty snapshot"))?;
        let group = self.group(first.to, first.group)?;
        let rest = chunks.map(|chunk| chunk.map(|chunk| chunk.body).map_err(io::Error::other));
        let chunks = futures_util::stream::once(std::future::ready(Ok(first.body))).chain(rest);
        reply(group.handle_snapshot(chunks).await)
    }
}

fn reply(outcome: Result<Bytes, GroupError>) -> Result<Response<RaftReply>, Status> {
    match outcome {
        Ok(body) => Ok(Response::new(RaftReply { body })),
        Err(error @ GroupError::Decode(_)) => Err(Status::invalid_argument(error.to_string())),
        Err(error) => Err(Status::unavailable(error.to_string())),
    }
}

impl std::fmt::Debug for RaftService {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("RaftService").field("me", &self.me).finish_non_exhaustive()
    }
}
