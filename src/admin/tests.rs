//! The service over a source that the test makes up, through a real connection.

use std::{net::SocketAddr, sync::Arc};

use flotilla_rpc::admin::{
    AddBanRequest, BackupChunk, ClusterStatusRequest, DrainRequest, ExportShardRequest, KickClientRequest,
    LeaveRequest, ListBansRequest, ListClientsRequest, ListNodesRequest, ListRoutesRequest,
    ListShardsRequest, Node, RemoveBanRequest, RemoveNodeRequest, RouteTarget, admin_client::AdminClient,
};
use futures_util::{StreamExt, stream};
use tokio::net::TcpListener;
use tonic::{
    Code,
    transport::{Channel, Server, server::TcpIncoming},
};

use super::*;

/// A node with so many clients.
#[derive(Debug)]
struct Fake {
    clients: usize,
    id_len: usize,
}

impl AdminSource for Fake {
    fn status(&self) -> ClusterStatusReply {
        let nodes = vec![Node { id: 7, name: "node-7".to_owned(), ..Node::default() }];
        ClusterStatusReply {
            cluster_name: "fake".to_owned(),
            this_node: 7,
            term: 3,
            nodes,
            ..Default::default()
        }
    }

    fn shards(&self) -> Vec<Shard> {
        vec![Shard { shard: 0, epoch: 12, nodes: vec![7, 8], ..Shard::default() }]
    }

    fn clients(&self, prefix: String) -> BoxStream<Client> {
        let id_len = self.id_len;
        let named = move |number: usize| format!("{number:0id_len$}");
        let ids = (0..self.clients).map(named).filter(move |id| id.starts_with(&prefix));
        Box::pin(stream::iter(ids.map(|client_id| Client { client_id, node: 7, ..Client::default() })))
    }

    fn kick(&self, client_id: String) -> BoxFuture<'_, Result<bool, AdminError>> {
        Box::pin(std::future::ready(Ok(client_id == "0000")))
    }

    fn routes(&self, topic: Option<String>) -> BoxStream<Route> {
        let target = RouteTarget { node: 7, ..RouteTarget::default() };
        let route = Route { filter: topic.unwrap_or_else(|| "+/x".to_owned()), targets: vec![target] };
        Box::pin(stream::iter([route]))
    }

    fn drain(&self) -> BoxFuture<'_, Result<(), AdminError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn leave(&self) -> BoxFuture<'_, Result<(), AdminError>> {
        Box::pin(std::future::ready(Err(AdminError::Unavailable("no leader is known".to_owned()))))
    }

    fn remove(&self, node: String) -> BoxFuture<'_, Result<(), AdminError>> {
        Box::pin(std::future::ready(match node.as_str() {
            "node-7" => Err(AdminError::Refused("node-7 is up".to_owned())),
            "node-8" => Ok(()),
            _ => Err(AdminError::NotFound(format!("node {node:?}"))),
        }))
    }

    fn bans(&self) -> BoxStream<Ban> {
        let ban = |number| Ban { r#as: "clientid".to_owned(), who: format!("c-{number}"), ..Ban::default() };
        Box::pin(stream::iter((0..self.clients).map(ban)))
    }

    fn ban(&self, banned: Banned, reason: String, by: String) -> BoxFuture<'_, Result<(), AdminError>> {
        let told = format!("{} {} {reason} {by}", banned.kind(), banned.who());
        Box::pin(std::future::ready(Err(AdminError::Refused(told))))
    }

    fn lift_ban(&self, banned: Banned) -> BoxFuture<'_, Result<(), AdminError>> {
        Box::pin(std::future::ready(Err(AdminError::NotFound(banned.key()))))
    }

    fn export_shard(&self, shard: ShardId) -> BoxFuture<'_, Result<Chunks, AdminError>> {
        let chunks =
            [Ok(vec![7_u8; usize::from(shard.0)].into()), Err(AdminError::Unavailable("gone".to_owned()))];
        Box::pin(std::future::ready(Ok(Box::pin(stream::iter(chunks)) as Chunks)))
    }

    fn import(&self, file: Chunks) -> BoxStream<Result<ImportProgress, AdminError>> {
        Box::pin(file.map(|chunk| {
            let messages = chunk?.len() as u64;
            Ok(ImportProgress { messages, ..ImportProgress::default() })
        }))
    }
}

async fn serve(fake: Fake) -> AdminClient<Channel> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let router = Server::builder().add_service(server(Arc::new(fake)));
    tokio::spawn(router.serve_with_incoming(TcpIncoming::from(listener)));
    AdminClient::connect(format!("http://{address}")).await.unwrap()
}

#[tokio::test]
async fn a_node_tells_what_it_knows() {
    let mut client = serve(Fake { clients: 0, id_len: 4 }).await;
    let status = client.cluster_status(ClusterStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.cluster_name.as_str(), status.term), ("fake", 3));
    let nodes = client.list_nodes(ListNodesRequest {}).await.unwrap().into_inner().nodes;
    assert_eq!(nodes, status.nodes);
    let shards = client.list_shards(ListShardsRequest {}).await.unwrap().into_inner().shards;
    assert_eq!(shards, [Shard { shard: 0, epoch: 12, nodes: vec![7, 8], ..Shard::default() }]);
}

#[tokio::test]
async fn clients_come_in_pages() {
    let mut client = serve(Fake { clients: 2_500, id_len: 4 }).await;
    let mut list = async |prefix: &str, limit| {
        let request = ListClientsRequest { prefix: prefix.to_owned(), limit };
        let pages = client.list_clients(request).await.unwrap().into_inner();
        let ids = pages.flat_map(|page| stream::iter(page.unwrap().clients)).map(|client| client.client_id);
        ids.collect::<Vec<_>>().await
    };
    assert_eq!(list("", 0).await.len(), 2_500);
    assert_eq!(list("12", 0).await.len(), 100);
    assert_eq!(list("12", 7).await.len(), 7);
    assert_eq!(list("1234", 7).await, ["1234"]);
    assert!(list("x", 0).await.is_empty());
}

#[tokio::test]
async fn long_identifiers_do_not_make_pages_that_nobody_takes() {
    let mut client = serve(Fake { clients: 200, id_len: 65_535 }).await;
    let pages = client.list_clients(ListClientsRequest::default()).await.unwrap().into_inner();
    assert_eq!(pages.map(|page| page.unwrap().clients.len()).fold(0, async |a, b| a + b).await, 200);
}

#[tokio::test]
async fn what_cannot_be_done_is_told_with_its_kind() {
    let mut client = serve(Fake { clients: 0, id_len: 4 }).await;
    let mut remove = async |node: &str| {
        let request = RemoveNodeRequest { node: node.to_owned() };
        client.remove_node(request).await.map_or_else(|status| status.code(), |_| Code::Ok)
    };
    assert_eq!(remove("node-8").await, Code::Ok);
    assert_eq!(remove("node-7").await, Code::FailedPrecondition);
    assert_eq!(remove("node-9").await, Code::NotFound);
    assert_eq!(remove("").await, Code::InvalidArgument);
    client.drain(DrainRequest {}).await.unwrap();
    let status = client.leave(LeaveRequest {}).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "no leader is known"));
}

#[tokio::test]
async fn requests_are_checked() {
    let mut client = serve(Fake { clients: 0, id_len: 4 }).await;
    let mut kick = async |client_id: &str| {
        client.kick_client(KickClientRequest { client_id: client_id.to_owned() }).await
    };
    assert!(kick("0000").await.unwrap().into_inner().kicked);
    assert!(!kick("0001").await.unwrap().into_inner().kicked);
    assert_eq!(kick("").await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(kick(&"x".repeat(200_000)).await.unwrap_err().code(), Code::OutOfRange);
    let mut routes = async |topic: &str| {
        let request = ListRoutesRequest { topic: topic.to_owned(), limit: 0 };
        client.list_routes(request).await.map(tonic::Response::into_inner)
    };
    assert_eq!(routes("a/+").await.unwrap_err().code(), Code::InvalidArgument);
    let page = routes("a/b").await.unwrap().next().await.unwrap().unwrap();
    assert_eq!(page.routes[0].filter, "a/b");
    let page = routes("").await.unwrap().next().await.unwrap().unwrap();
    assert_eq!(page.routes[0].filter, "+/x");
}

#[tokio::test]
async fn bans_are_checked_and_passed_on() {
    let mut client = serve(Fake { clients: 100, id_len: 4 }).await;
    let mut add = async |kind: &str, who: &str| {
        let text = str::to_owned;
        let ban = Ban { r#as: text(kind), who: text(who), reason: text("why"), by: text("me"), at: 7 };
        let status = client.add_ban(AddBanRequest { ban: Some(ban) }).await.unwrap_err();
        (status.code(), status.message().to_owned())
    };
    let passed_on = "peerhost 192.0.2.7 why me".to_owned();
    assert_eq!(add("peerhost", "::ffff:192.0.2.7").await, (Code::FailedPrecondition, passed_on));
    let (code, message) = add("peerhost", "localhost").await;
    assert_eq!((code, &*message), (Code::InvalidArgument, "peerhost \"localhost\": not an IP address"));
    assert_eq!(add("clientid", "").await.0, Code::InvalidArgument);
    assert_eq!(add("clientid_re", "a").await.0, Code::InvalidArgument);
    let missing = client.add_ban(AddBanRequest { ban: None }).await.unwrap_err();
    assert_eq!(missing.code(), Code::InvalidArgument);
    let request = RemoveBanRequest { r#as: "username".to_owned(), who: "u".to_owned() };
    let status = client.remove_ban(request).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "there is no ban/username/u"));
    let pages = client.list_bans(ListBansRequest {}).await.unwrap().into_inner();
    assert_eq!(pages.map(|page| page.unwrap().bans.len()).fold(0, async |a, b| a + b).await, 100);
}

#[tokio::test]
async fn a_backup_goes_both_ways_in_chunks() {
    let mut client = serve(Fake { clients: 0, id_len: 4 }).await;
    let request = ExportShardRequest { shard: 5 };
    let chunks = client.export_shard(request).await.unwrap().into_inner();
    let chunks: Vec<_> = chunks.map(|chunk| chunk.map(|chunk| chunk.data.len())).collect().await;
    assert_eq!(chunks[0].as_ref().unwrap(), &5);
    assert_eq!(chunks[1].as_ref().unwrap_err().code(), Code::Unavailable);
    let refused = client.export_shard(ExportShardRequest { shard: 1 << 16 }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let chunks = [vec![1_u8; 3], vec![2; 70_000]].map(|data| BackupChunk { data: data.into() });
    let progress = client.import(stream::iter(chunks)).await.unwrap().into_inner();
    assert_eq!(progress.map(|told| told.unwrap().messages).collect::<Vec<_>>().await, [3, 70_000]);
}
