//! What is printed for machines. Names stay as they are: scripts depend on them.

use std::time::{Duration, UNIX_EPOCH};

use flotilla_rpc::admin;
use serde::Serialize;

use super::connection::{Id, Roster};

/// `cluster status`.
#[derive(Debug, Serialize)]
pub(super) struct Cluster {
    name: String,
    /// 32 hexadecimal digits; `null` before the cluster exists.
    id: Option<String>,
    /// The name of the node that answers.
    node: String,
    /// Its name; `null` while none is known.
    leader: Option<String>,
    term: u64,
    committed: u64,
    applied: u64,
    quorum: bool,
    partition_suspected: bool,
    ready: bool,
    /// `null` when it is ready.
    not_ready_because: Option<String>,
    shards: u32,
    replicas: u32,
    nodes: Vec<Node>,
}

impl From<&Roster> for Cluster {
    fn from(roster: &Roster) -> Self {
        let status = &roster.0;
        Self {
            name: status.cluster_name.clone(),
            id: non_empty(&status.cluster_id),
            node: roster.name(status.this_node),
            leader: (status.leader != 0).then(|| roster.name(status.leader)),
            term: status.term,
            committed: status.committed,
            applied: status.applied,
            quorum: status.quorum,
            partition_suspected: status.partition_suspected,
            ready: status.ready,
            not_ready_because: non_empty(&status.not_ready_because),
            shards: status.shards,
            replicas: status.replicas,
            nodes: status.nodes.iter().map(Node::from).collect(),
        }
    }
}

/// One entry of `nodes list`, and of `cluster status`.
#[derive(Debug, Serialize)]
pub(super) struct Node {
    id: String,
    name: String,
    role: String,
    status: String,
    incarnation: u64,
    address: String,
    client_addresses: Vec<String>,
    version: String,
    voter: bool,
    leader: bool,
    /// `null` where it is not known.
    lag: Option<u64>,
    routes: RouteCounts,
    registrar_of: u32,
    /// `null` where it is not known.
    sessions: Option<u64>,
    /// `null` where it is not known.
    connections: Option<u64>,
}

#[derive(Debug, Serialize)]
struct RouteCounts {
    exact: u64,
    wildcard: u64,
    shared: u64,
}

impl From<&admin::Node> for Node {
    fn from(node: &admin::Node) -> Self {
        Self {
            id: Id(node.id).to_string(),
            name: node.name.clone(),
            role: node.role.clone(),
            status: node.status.clone(),
            incarnation: node.incarnation,
            address: node.address.clone(),
            client_addresses: node.client_addresses.clone(),
            version: node.version.clone(),
            voter: node.voter,
            leader: node.leader,
            lag: node.lag,
            routes: RouteCounts {
                exact: node.exact_routes,
                wildcard: node.wildcard_routes,
                shared: node.shared_groups,
            },
            registrar_of: node.registrar_of,
            sessions: node.sessions,
            connections: node.connections,
        }
    }
}

/// One entry of `clients list` and `clients show`.
#[derive(Debug, Serialize)]
pub(super) struct Client {
    client_id: String,
    node: String,
    connected: bool,
    /// `null` while it is not connected.
    peer: Option<String>,
    /// "3.1", "3.1.1" or "5.0"; `null` where it is not known.
    version: Option<&'static str>,
    subscriptions: u32,
    queued_messages: u32,
    inflight_messages: u32,
}

impl Client {
    pub(super) fn new(client: &admin::Client, roster: &Roster) -> Self {
        Self {
            client_id: client.client_id.clone(),
            node: roster.name(client.node),
            connected: client.connected,
            peer: non_empty(&client.peer),
            version: version(client.protocol_level),
            subscriptions: client.subscriptions,
            queued_messages: client.queued_messages,
            inflight_messages: client.inflight_messages,
        }
    }
}

/// A protocol level in words.
pub(super) fn version(level: u32) -> Option<&'static str> {
    match level {
        3 => Some("3.1"),
        4 => Some("3.1.1"),
        5 => Some("5.0"),
        _ => None,
    }
}

/// One entry of `routes list`.
#[derive(Debug, Serialize)]
pub(super) struct Route {
    /// `null` for the exact filters of a topic that was asked for.
    filter: Option<String>,
    nodes: Vec<Target>,
}

#[derive(Debug, Serialize)]
struct Target {
    node: String,
    /// Connected members of a shared group; 0 for other filters.
    online: u32,
    /// How many of them have a session that outlives the connection.
    kept: u32,
}

impl Route {
    pub(super) fn new(route: &admin::Route, roster: &Roster) -> Self {
        let target = |target: &admin::RouteTarget| Target {
            node: roster.name(target.node),
            online: target.online,
            kept: target.kept,
        };
        Self { filter: non_empty(&route.filter), nodes: route.targets.iter().map(target).collect() }
    }
}

/// One entry of `shards list`.
#[derive(Debug, Serialize)]
pub(super) struct Shard {
    shard: u32,
    epoch: u64,
    /// `null` while no core node is up.
    registrar: Option<String>,
    followers: Vec<String>,
    /// `null` while the node that answers knows none.
    leader: Option<String>,
    term: u64,
    /// Where its replicas shall be, and the members that it has.
    replicas: Vec<String>,
    members: Vec<String>,
    /// `null` where the node that answers has none.
    replica: Option<ShardReplica>,
    /// `null` while no leader has told.
    at_leader: Option<ShardReplica>,
}

/// A replica of a shard.
#[derive(Debug, Serialize)]
struct ShardReplica {
    apply_lag: u64,
    commit_lag: u64,
    log_bytes: u64,
    sessions: u64,
    attached: u64,
    queued_messages: u64,
    queued_bytes: u64,
    /// Whether it counts for a majority already.
    votes: bool,
    /// Sessions of an import that is not complete.
    restoring: u64,
}

impl Shard {
    pub(super) fn new(shard: &admin::Shard, roster: &Roster) -> Self {
        let names = |nodes: &[u64]| nodes.iter().map(|node| roster.name(*node)).collect::<Vec<String>>();
        let mut nodes = names(&shard.nodes).into_iter();
        let replica = |replica: &admin::ShardReplica| ShardReplica {
            apply_lag: replica.apply_lag,
            commit_lag: replica.commit_lag,
            log_bytes: replica.log_bytes,
            sessions: replica.sessions,
            attached: replica.attached,
            queued_messages: replica.queued_messages,
            queued_bytes: replica.queued_bytes,
            votes: replica.votes,
            restoring: replica.restoring,
        };
        Self {
            shard: shard.shard,
            epoch: shard.epoch,
            registrar: nodes.next(),
            followers: nodes.collect(),
            leader: (shard.leader != 0).then(|| roster.name(shard.leader)),
            term: shard.term,
            replicas: names(&shard.replicas),
            members: names(&shard.members),
            replica: shard.replica.as_ref().map(replica),
            at_leader: shard.at_leader.as_ref().map(replica),
        }
    }
}

/// One entry of `bans list`.
#[derive(Debug, Serialize)]
pub(super) struct Ban {
    /// "clientid", "username" or "peerhost".
    pub(super) r#as: String,
    pub(super) who: String,
    /// `null` where none was given.
    pub(super) reason: Option<String>,
    pub(super) by: Option<String>,
    /// As RFC 3339 writes it, in UTC; `null` where it is not known.
    pub(super) at: Option<String>,
}

impl From<admin::Ban> for Ban {
    fn from(ban: admin::Ban) -> Self {
        let at = UNIX_EPOCH.checked_add(Duration::from_millis(ban.at)).filter(|_| ban.at > 0);
        Self {
            r#as: ban.r#as,
            who: ban.who,
            reason: non_empty(&ban.reason),
            by: non_empty(&ban.by),
            at: at.map(|at| humantime::format_rfc3339_seconds(at).to_string()),
        }
    }
}

fn non_empty(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}
