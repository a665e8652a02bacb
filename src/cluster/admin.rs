//! What a member tells operators, and does for them.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use flotilla_mqtt::session::ClientId;
use flotilla_raft::meta::{ChangeError, MetaStatus, ProposeError};
use flotilla_rpc::admin::{
    Ban, Client, ClusterStatusReply, ImportProgress, Node as NodeReply, Route, RouteTarget, Shard,
};
use flotilla_shard::SessionInfo;
use flotilla_state::{Banned, ClusterState, Command, GroupRoute, Node, NodeId, Role, ShardId, Status};
use futures_util::stream;
use tokio::sync::oneshot;

use super::{member::Member, reports::Report};
use crate::{
    admin::{AdminError, AdminSource, BoxFuture, BoxStream, Chunks},
    config,
    worker::{ClientsPage, ClientsQuery, Event, Order},
};

/// How the source of a broker's [`crate::admin::server`] sees a member.
#[derive(Debug)]
pub(super) struct Overview(pub(super) Arc<Member>);

impl Overview {
    /// `own` is what this node reports.
    fn node(&self, node: &Node, state: &ClusterState, meta: &MetaStatus, own: Option<&Report>) -> NodeReply {
        let routes = state.routes().count(node.id);
        let report = node.member().and_then(|member| match member.node == self.0.me {
            true => own.cloned(),
            false => self.0.reports.of(member),
        });
        let registrar_of =
            state.placements().iter().filter(|placement| placement.registrar() == Some(node.id)).count();
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        NodeReply {
            id: node.id.0,
            name: node.name.to_string(),
            role: role_name(node.role).to_owned(),
            status: status_name(node.status).to_owned(),
            incarnation: node.incarnation.0,
            address: node.address.to_string(),
            client_addresses: node.client_addresses.iter().map(ToString::to_string).collect(),
            version: node.version.to_string(),
            voter: meta.group.voters.contains(&node.id.0),
            leader: meta.leader == Some(node.id),
            lag: meta.lag.get(&node.id).copied().flatten(),
            exact_routes: count(routes.exact),
            wildcard_routes: count(routes.wildcard),
            shared_groups: count(routes.groups),
            registrar_of: u32::try_from(registrar_of).unwrap_or(u32::MAX),
            sessions: report.as_ref().map(|report| report.sessions),
            connections: report.map(|report| report.connections),
        }
    }

    /// The clients that are not connected, of the shards that this node leads.
    fn away(&self, prefix: Arc<str>) -> BoxStream<Client> {
        let member = Arc::clone(&self.0);
        let shards = member.shards.ids().into_iter();
        let pages = stream::unfold((shards, None), move |(mut rest, place)| {
            let (member, prefix) = (Arc::clone(&member), Arc::clone(&prefix));
            async move {
                let (shard, after) = match place {
                    Some(place) => place,
                    None => (rest.next()?, None),
                };
                let sessions = member.shards.sessions_led(shard, after.as_ref(), SESSIONS_PAGE);
                let is_last = sessions.len() < SESSIONS_PAGE;
                let next =
                    sessions.last().filter(|_| !is_last).map(|last| (shard, Some(last.client.clone())));
                let me = member.me;
                let clients = sessions.into_iter().filter(|session| session.owner.is_none());
                let clients: Vec<Client> = clients
                    .filter(|session| session.client.as_str().starts_with(&*prefix))
                    .map(|session| away(&session, me))
                    .collect();
                Some((stream::iter(clients), (rest, next)))
            }
        });
        Box::pin(futures_util::StreamExt::flatten(pages))
    }

    /// This node while the cluster has never heard of it: what its configuration says.
    fn stranger(&self, state: &ClusterState) -> Option<NodeReply> {
        let config = &self.0.node.get()?.config;
        let is_known = |node: &Node| node.id == self.0.me || *node.name == *config.node.name;
        if state.nodes().any(is_known) {
            return None;
        }
        let role = if config.node.role == config::Role::Edge { Role::Edge } else { Role::Core };
        Some(NodeReply {
            id: self.0.me.0,
            name: config.node.name.clone(),
            role: role_name(role).to_owned(),
            status: status_name(Status::Joining).to_owned(),
            address: config.cluster.advertise.as_ref().map(ToString::to_string).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..NodeReply::default()
        })
    }

    /// Whether there is a member that this node cannot reach. The leader hears of all of them, so that they stay members.
    fn misses_a_member(&self) -> bool {
        let Some(node) = self.0.node.get() else { return false };
        self.0.links.is_any_out_of_reach(node.config.cluster.node_down_after)
    }

    /// Why new clients are not served; nothing where they are.
    fn not_ready_because(&self, meta: &MetaStatus, state: &ClusterState) -> &'static str {
        if self.0.is_ready() {
            return if self.0.is_draining() { "it takes no new clients (nodes drain)" } else { "" };
        }
        match (meta.leader, *self.0.meta.me().borrow()) {
            _ if self.0.shards.has_failed() => "a replica of a shard has failed: see its log",
            _ if state.cluster().is_none() => "it has not found its cluster yet",
            (None, _) => "no leader is known",
            (_, None) if !meta.quorum => "it does not reach a majority of the nodes that vote",
            (_, None) => "it is not admitted to the cluster",
            (_, Some(_)) => "it has not caught up with the cluster",
        }
    }
}

impl AdminSource for Overview {
    fn status(&self) -> ClusterStatusReply {
        let meta = self.0.meta.status();
        // It asks shards, whose locks come before that of the state.
        let own = self.0.own_report();
        let state = self.0.state.read();
        let cluster = state.cluster();
        let not_ready_because = self.not_ready_because(&meta, &state);
        let configured =
            || self.0.node.get().map(|node| node.config.cluster.name.clone()).unwrap_or_default();
        ClusterStatusReply {
            cluster_name: cluster.map_or_else(configured, |cluster| cluster.name.to_string()),
            cluster_id: cluster.map(|cluster| format!("{:032x}", cluster.id)).unwrap_or_default(),
            this_node: self.0.me.0,
            leader: meta.leader.map_or(0, |leader| leader.0),
            term: meta.group.term,
            committed: meta.group.committed.unwrap_or(0),
            applied: meta.group.applied.unwrap_or(0),
            quorum: meta.quorum,
            partition_suspected: meta.partition_suspected || self.misses_a_member(),
            ready: not_ready_because.is_empty(),
            not_ready_because: not_ready_because.to_owned(),
            shards: cluster.map_or(0, |cluster| cluster.shards.into()),
            replicas: cluster.map_or(0, |cluster| cluster.replicas.into()),
            nodes: state
                .nodes()
                .map(|node| self.node(node, &state, &meta, own.as_ref()))
                .chain(self.stranger(&state))
                .collect(),
        }
    }

    fn shards(&self) -> Vec<Shard> {
        let state = self.0.state.read();
        let numbers =
            |nodes: &[flotilla_state::NodeId]| nodes.iter().map(|node| node.0).collect::<Vec<u64>>();
        let shard = |(placement, (id, shard)): (
            &flotilla_state::Placement,
            (flotilla_state::ShardId, &flotilla_state::Shard),
        )| {
            let (leader, term) = self.0.shards.leader(id).unwrap_or_default();
            Shard {
                shard: id.0.into(),
                epoch: placement.epoch.0,
                nodes: numbers(&placement.nodes),
                replicas: numbers(&shard.replicas.nodes),
                members: numbers(&shard.members),
                leader,
                term,
                replica: None,
                at_leader: None,
            }
        };
        let ids: Vec<_> = state.shards().iter().map(|(id, _)| id).collect();
        let mut shards: Vec<Shard> =
            state.placements().iter().zip(state.shards().iter()).map(shard).collect();
        drop(state);
        for (shard, id) in shards.iter_mut().zip(ids) {
            shard.replica = self.0.shards.replica_status(id);
            let leader = NodeId(shard.leader);
            shard.at_leader = match self.0.links.member_of(leader) {
                Some(leader) => self.0.reports.shard(leader, id),
                None => shard.replica.filter(|_| leader == self.0.me),
            };
        }
        shards
    }

    fn clients(&self, prefix: String) -> BoxStream<Client> {
        let (member, prefix) = (Arc::clone(&self.0), Arc::<str>::from(prefix));
        let connected = Arc::clone(&prefix);
        let pages = stream::unfold(Some((0, 0)), move |place| {
            let (member, prefix) = (Arc::clone(&member), Arc::clone(&connected));
            async move {
                let (worker, from_slot) = place?;
                let node = member.node.get()?;
                let (answer, page) = oneshot::channel();
                let query = ClientsQuery { prefix, from_slot, answer };
                node.mailboxes.get(worker)?.send(Event::Clients(query));
                let ClientsPage { clients, next_slot } = page.await.ok()?;
                let next = match next_slot {
                    Some(slot) => (worker, slot),
                    None => (worker + 1, 0),
                };
                Some((stream::iter(clients), Some(next)))
            }
        });
        let away = self.away(prefix);
        Box::pin(futures_util::StreamExt::chain(futures_util::StreamExt::flatten(pages), away))
    }

    fn kick(&self, client_id: String) -> BoxFuture<'_, Result<bool, AdminError>> {
        Box::pin(async move {
            let client_id = ClientId::new(&client_id);
            let found = client_id.zip(self.0.node.get()).and_then(|(client_id, node)| {
                let session = node.registry.find(&client_id)?;
                let order = Order::Kick { client_id };
                node.mailboxes[usize::from(session.worker)].send(Event::Order(order));
                Some(())
            });
            Ok(found.is_some())
        })
    }

    fn routes(&self, topic: Option<String>) -> BoxStream<Route> {
        let state = self.0.state.read();
        let routes = state.routes();
        let mut found = Vec::new();
        match topic {
            Some(topic) => {
                let mut nodes = Vec::new();
                routes.matches(&topic, |node| nodes.push(node), |group| found.push(group_route(group)));
                if !nodes.is_empty() {
                    found.insert(0, Route { filter: String::new(), targets: targets(nodes) });
                }
            }
            None => {
                routes.for_each_wildcard(|filter, nodes| {
                    let targets = targets(nodes.iter().copied());
                    found.push(Route { filter: filter.to_owned(), targets });
                });
                routes.for_each_group(|group| found.push(group_route(group)));
            }
        }
        Box::pin(stream::iter(found))
    }

    fn drain(&self) -> BoxFuture<'_, Result<(), AdminError>> {
        Box::pin(async {
            match self.0.meta.drain(deadline()).await {
                Ok(_) => Ok(()),
                Err(ProposeError::Unknown(reason)) => Err(AdminError::Unknown(reason)),
                Err(error) => Err(AdminError::Unavailable(error.to_string())),
            }
        })
    }

    fn leave(&self) -> BoxFuture<'_, Result<(), AdminError>> {
        let member = Arc::clone(&self.0);
        // A task of its own: it goes on when nobody waits for the answer any more.
        let leaving = tokio::spawn(async move {
            let _one = member.leaving.lock().await;
            if member.has_left() {
                return Ok(());
            }
            member.is_going.store(true, Ordering::Release);
            let left = async {
                evacuate(&member).await?;
                member.meta.leave(deadline()).await.map_err(refused)
            };
            if let Err(error) = left.await {
                member.is_going.store(false, Ordering::Release);
                return Err(error);
            }
            member.has_left.store(true, Ordering::Release);
            Ok(())
        });
        Box::pin(async { leaving.await.unwrap_or_else(|error| Err(AdminError::Unknown(error.to_string()))) })
    }

    fn remove(&self, node: String) -> BoxFuture<'_, Result<(), AdminError>> {
        Box::pin(async move {
            let by_name =
                self.0.state.read().nodes().find(|known| *known.name == *node).map(|known| known.id);
            let by_id = || u64::from_str_radix(&node, 16).ok().map(NodeId);
            let by_id = || by_id().filter(|id| self.0.state.read().node(*id).is_some());
            let Some(id) = by_name.or_else(by_id) else {
                return Err(AdminError::NotFound(format!("node {node:?}")));
            };
            if self.0.state.read().member(id).is_some() {
                let reason = format!(
                    "{node} is not down: let it leave (flotilla ctl nodes leave {node}), or stop it first"
                );
                return Err(AdminError::Refused(reason));
            }
            self.0.meta.remove(id, deadline()).await.map_err(refused)
        })
    }

    fn bans(&self) -> BoxStream<Ban> {
        Box::pin(stream::iter(self.0.bans()))
    }

    fn ban(&self, banned: Banned, reason: String, by: String) -> BoxFuture<'_, Result<(), AdminError>> {
        Box::pin(async move { self.0.ban(&banned, reason, by, deadline()).await })
    }

    fn lift_ban(&self, banned: Banned) -> BoxFuture<'_, Result<(), AdminError>> {
        Box::pin(async move { self.0.lift_ban(&banned, deadline()).await })
    }

    fn export_shard(&self, shard: ShardId) -> BoxFuture<'_, Result<Chunks, AdminError>> {
        Box::pin(self.0.export_shard(shard))
    }

    fn import(&self, file: Chunks) -> BoxStream<Result<ImportProgress, AdminError>> {
        self.0.import(file)
    }
}

/// Has other nodes take over what shards have here: with the last replica, what it keeps would be lost.
async fn evacuate(member: &Member) -> Result<(), AdminError> {
    let Some(me) = *member.meta.me().borrow() else { return Ok(()) };
    let is_last = {
        let state = member.state.read();
        !state.nodes().any(|node| node.id != me.node && state.shards().is_holder(node.id))
    };
    if is_last {
        return Ok(());
    }
    member.change(Command::Evacuate { member: me }, deadline()).await?;
    let (mut before, mut since) = (usize::MAX, Instant::now());
    loop {
        let here = member.shards.memberships();
        if here == 0 {
            return Ok(());
        }
        if here < before {
            tracing::info!(shards = here, "other nodes take over the shards of this node, which leaves");
            (before, since) = (here, Instant::now());
        }
        if since.elapsed() > EVACUATION_STALLED {
            let reason =
                format!("{here} shards are still here, and nobody takes them: see flotilla ctl shards list");
            return Err(AdminError::Unavailable(reason));
        }
        tokio::time::sleep(EVACUATION_LOOK).await;
    }
}

fn targets(nodes: impl IntoIterator<Item = NodeId>) -> Vec<RouteTarget> {
    nodes.into_iter().map(|node| RouteTarget { node: node.0, online: 0, kept: 0 }).collect()
}

fn group_route(group: &Arc<GroupRoute>) -> Route {
    let target = |members: &flotilla_state::GroupMembers| RouteTarget {
        node: members.node.0,
        online: members.online.saturating_add(members.kept),
        kept: members.kept,
    };
    Route { filter: group.filter.to_string(), targets: group.members.iter().map(target).collect() }
}

fn refused(error: ChangeError) -> AdminError {
    match error {
        ChangeError::Refused(reason) => AdminError::Refused(reason),
        ChangeError::Timeout(reason) => AdminError::Unknown(reason),
        ChangeError::NotAdmitted => AdminError::Unavailable(error.to_string()),
    }
}

/// How long an operator waits for a change of the cluster.
pub(super) fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Core => "core",
        Role::Edge => "edge",
    }
}

fn status_name(status: Status) -> &'static str {
    match status {
        Status::Joining => "joining",
        Status::Up => "up",
        Status::Draining => "draining",
        Status::Down => "down",
    }
}

/// A session whose client is not connected, as the node tells of it that leads its shard.
fn away(session: &SessionInfo, leader: NodeId) -> Client {
    let count = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    Client {
        client_id: session.client.as_str().to_owned(),
        node: leader.0,
        connected: false,
        peer: String::new(),
        protocol_level: 0,
        subscriptions: u32::try_from(session.subscriptions).unwrap_or(u32::MAX),
        queued_messages: count(session.messages),
        inflight_messages: 0,
    }
}

const EVACUATION_LOOK: Duration = Duration::from_millis(100);
/// For so long no shard has gone: nobody can take one, or it is very large. What was begun goes on.
const EVACUATION_STALLED: Duration = Duration::from_secs(600);

/// Sessions that one look at a shard takes: it waits in between.
const SESSIONS_PAGE: usize = 1_000;
