//! From gRPC to an [`AdminSource`].

use std::sync::Arc;

use bytes::Bytes;
use flotilla_mqtt::topic::check_name;
use flotilla_rpc::admin::{
    AddBanReply, AddBanRequest, BackupChunk, BanPage, ClientPage, ClusterStatusReply, ClusterStatusRequest,
    DrainReply, DrainRequest, ExportShardRequest, ImportProgress, KickClientReply, KickClientRequest,
    LeaveReply, LeaveRequest, ListBansRequest, ListClientsRequest, ListNodesReply, ListNodesRequest,
    ListRoutesRequest, ListShardsReply, ListShardsRequest, RemoveBanReply, RemoveBanRequest, RemoveNodeReply,
    RemoveNodeRequest, RoutePage,
    admin_server::{Admin, AdminServer},
};
use flotilla_state::{BanKind, Banned, ShardId};
use futures_util::StreamExt;
use tonic::{Request, Response, Status, Streaming};

use super::{AdminError, AdminSource, BoxStream, Server};

/// The Admin service of a node.
#[derive(Debug, Clone)]
pub struct AdminService {
    source: Arc<dyn AdminSource>,
}

/// The service over what a node can tell.
#[must_use]
pub fn server(source: Arc<dyn AdminSource>) -> Server {
    AdminServer::new(AdminService { source }).max_decoding_message_size(REQUEST_BYTES_MAX)
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Admin for AdminService {
    async fn cluster_status(&self, _: Request<ClusterStatusRequest>) -> Answer<ClusterStatusReply> {
        Ok(Response::new(self.source.status()))
    }

    async fn list_nodes(&self, _: Request<ListNodesRequest>) -> Answer<ListNodesReply> {
        Ok(Response::new(ListNodesReply { nodes: self.source.status().nodes }))
    }

    type ListClientsStream = BoxStream<Result<ClientPage, Status>>;

    async fn list_clients(&self, request: Request<ListClientsRequest>) -> Answer<Self::ListClientsStream> {
        let ListClientsRequest { prefix, limit } = request.into_inner();
        let clients = self.source.clients(prefix).take(at_most(limit)).ready_chunks(PAGE_MAX);
        Ok(Response::new(Box::pin(clients.map(|clients| Ok(ClientPage { clients })))))
    }

    async fn kick_client(&self, request: Request<KickClientRequest>) -> Answer<KickClientReply> {
        let KickClientRequest { client_id } = request.into_inner();
        if client_id.is_empty() {
            return Err(Status::invalid_argument("a client identifier is not empty"));
        }
        let kicked = self.source.kick(client_id).await.map_err(|error| error.status())?;
        Ok(Response::new(KickClientReply { kicked }))
    }

    type ListRoutesStream = BoxStream<Result<RoutePage, Status>>;

    async fn list_routes(&self, request: Request<ListRoutesRequest>) -> Answer<Self::ListRoutesStream> {
        let ListRoutesRequest { topic, limit } = request.into_inner();
        let topic = Some(topic).filter(|topic| !topic.is_empty());
        if let Some(topic) = &topic {
            let invalid = |error| Status::invalid_argument(format!("{topic:?} is no topic name: {error}"));
            check_name(topic, u16::MAX).map_err(invalid)?;
        }
        let routes = self.source.routes(topic).take(at_most(limit)).ready_chunks(PAGE_MAX);
        Ok(Response::new(Box::pin(routes.map(|routes| Ok(RoutePage { routes })))))
    }

    async fn list_shards(&self, _: Request<ListShardsRequest>) -> Answer<ListShardsReply> {
        Ok(Response::new(ListShardsReply { shards: self.source.shards() }))
    }

    async fn drain(&self, _: Request<DrainRequest>) -> Answer<DrainReply> {
        done(self.source.drain().await, DrainReply {})
    }

    async fn leave(&self, _: Request<LeaveRequest>) -> Answer<LeaveReply> {
        done(self.source.leave().await, LeaveReply {})
    }

    async fn remove_node(&self, request: Request<RemoveNodeRequest>) -> Answer<RemoveNodeReply> {
        let RemoveNodeRequest { node } = request.into_inner();
        if node.is_empty() {
            return Err(Status::invalid_argument("a node has a name"));
        }
        done(self.source.remove(node).await, RemoveNodeReply {})
    }

    async fn add_ban(&self, request: Request<AddBanRequest>) -> Answer<AddBanReply> {
        let ban = request.into_inner().ban.ok_or_else(|| Status::invalid_argument("no ban"))?;
        let banned = banned(&ban.r#as, &ban.who)?;
        done(self.source.ban(banned, ban.reason, ban.by).await, AddBanReply {})
    }

    async fn remove_ban(&self, request: Request<RemoveBanRequest>) -> Answer<RemoveBanReply> {
        let RemoveBanRequest { r#as, who } = request.into_inner();
        done(self.source.lift_ban(banned(&r#as, &who)?).await, RemoveBanReply {})
    }

    type ListBansStream = BoxStream<Result<BanPage, Status>>;

    async fn list_bans(&self, _: Request<ListBansRequest>) -> Answer<Self::ListBansStream> {
        let bans = self.source.bans().ready_chunks(PAGE_MAX);
        Ok(Response::new(Box::pin(bans.map(|bans| Ok(BanPage { bans })))))
    }

    type ExportShardStream = BoxStream<Result<BackupChunk, Status>>;

    async fn export_shard(&self, request: Request<ExportShardRequest>) -> Answer<Self::ExportShardStream> {
        let shard = u16::try_from(request.into_inner().shard)
            .map_err(|_| Status::invalid_argument("there is no such shard"))?;
        let chunks = self.source.export_shard(ShardId(shard)).await.map_err(|error| error.status())?;
        let chunk = |chunk: Result<Bytes, AdminError>| match chunk {
            Ok(data) => Ok(BackupChunk { data }),
            Err(error) => Err(error.status()),
        };
        Ok(Response::new(Box::pin(chunks.map(chunk))))
    }

    type ImportStream = BoxStream<Result<ImportProgress, Status>>;

    async fn import(&self, request: Request<Streaming<BackupChunk>>) -> Answer<Self::ImportStream> {
        let chunks = request.into_inner().map(|chunk| match chunk {
            Ok(BackupChunk { data }) => Ok(data),
            Err(status) => Err(AdminError::Unknown(status.message().to_owned())),
        });
        let progress = self.source.import(Box::pin(chunks));
        Ok(Response::new(Box::pin(progress.map(|told| told.map_err(|error| error.status())))))
    }
}

/// Who is meant by a request.
fn banned(kind: &str, who: &str) -> Result<Banned, Status> {
    let known = BanKind::from_name(kind)
        .ok_or_else(|| Status::invalid_argument(format!("{kind:?} is no kind of ban")))?;
    Banned::new(known, who).map_err(|error| Status::invalid_argument(format!("{kind} {who:?}: {error}")))
}

fn done<T>(result: Result<(), AdminError>, reply: T) -> Answer<T> {
    result.map(|()| Response::new(reply)).map_err(|error| error.status())
}

/// 0 means all.
fn at_most(limit: u32) -> usize {
    if limit == 0 { usize::MAX } else { usize::try_from(limit).unwrap_or(usize::MAX) }
}

/// A page is sent as soon as nothing more is there at once. It is short: clients choose their identifiers and filters, and
/// a page of the longest must not be more than a peer takes.
const PAGE_MAX: usize = 32;
const _: () = assert!(PAGE_MAX * (65_535 + 16 * 1_024) < PAGE_BYTES_MAX);

/// What tonic takes as one message unless told otherwise.
const PAGE_BYTES_MAX: usize = 4 * 1_024 * 1_024;

/// The longest request has one topic, name or identifier.
const REQUEST_BYTES_MAX: usize = 128 * 1024;
