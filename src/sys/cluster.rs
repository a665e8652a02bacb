//! `$SYS/cluster`: the cluster as this node knows it, retained, told as it changes.
//!
//! Each node tells of all; what only the leader knows (how far each log is) is there when this node leads, and what the leader of a
//! shard knows of it is as that has told last. A topic whose node is gone is deleted.

use std::{collections::BTreeMap, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_rpc::admin::{ClusterStatusReply, Node, Shard, ShardReplica};
use tokio::task::spawn_blocking;

use super::message;
use crate::worker::WorkerCell;

/// How soon a change is told.
const LOOK: Duration = Duration::from_millis(500);

/// Publishes what has changed, for ever. A node without a cluster has nothing to tell.
pub(crate) async fn publish_changes(cell: Rc<WorkerCell>) {
    let node = cell.with(|worker| Arc::clone(worker.node()));
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(source) = node.admin.get() else { continue };
        // Not here, where clients wait: it may wait for the disk.
        let source = Arc::clone(source);
        let Ok(now) = spawn_blocking(move || values(&source.status(), &source.shards())).await else {
            continue;
        };
        for (topic, value) in &now {
            if told.get(topic) != Some(value) {
                let payload = Bytes::from(value.clone());
                cell.with(|worker| worker.publish_own(&message(topic, payload, true)));
            }
        }
        for topic in told.keys().filter(|topic| !now.contains_key(*topic)) {
            cell.with(|worker| worker.publish_own(&message(topic, Bytes::new(), true)));
        }
        told = now;
    }
}

/// Every topic with its value.
fn values(status: &ClusterStatusReply, shards: &[Shard]) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    let mut put = |topic: &str, value: String| values.insert(format!("$SYS/cluster/{topic}"), value);
    let name_of = |id: u64| {
        let node = status.nodes.iter().find(|node| node.id == id);
        node.map_or_else(String::new, |node| node.name.clone())
    };
    put("name", status.cluster_name.clone());
    put("id", status.cluster_id.clone());
    put("leader", name_of(status.leader));
    put("term", status.term.to_string());
    put("apply_lag", status.committed.saturating_sub(status.applied).to_string());
    put("quorum", status.quorum.to_string());
    put("partition_suspected", status.partition_suspected.to_string());
    put("ready", status.ready.to_string());
    let members: Vec<&str> = status.nodes.iter().map(|node| node.name.as_str()).collect();
    put("members", members.join(","));
    for node in &status.nodes {
        // A name that is no topic level of its own has been refused by the configuration.
        let mut put = |what: &str, value: String| put(&format!("members/{}/{what}", node.name), value);
        for (what, value) in node_values(node) {
            put(what, value);
        }
    }
    for shard in shards {
        let mut put = |what: &str, value: String| put(&format!("shards/{}/{what}", shard.shard), value);
        put("leader", name_of(shard.leader));
        put("term", shard.term.to_string());
        for (what, value) in shard.at_leader.iter().flat_map(shard_values) {
            put(what, value.to_string());
        }
    }
    values
}

fn shard_values(leader: &ShardReplica) -> [(&'static str, u64); 6] {
    [
        ("commit_lag", leader.commit_lag),
        ("apply_lag", leader.apply_lag),
        ("sessions", leader.sessions),
        ("sessions/connected", leader.attached),
        ("queued/messages", leader.queued_messages),
        ("queued/bytes", leader.queued_bytes),
    ]
}

fn node_values(node: &Node) -> Vec<(&'static str, String)> {
    let mut values = vec![
        ("id", format!("{:016x}", node.id)),
        ("role", node.role.clone()),
        ("status", node.status.clone()),
        ("incarnation", node.incarnation.to_string()),
        ("address", node.address.clone()),
        ("version", node.version.clone()),
        ("voter", node.voter.to_string()),
        ("routes/exact", node.exact_routes.to_string()),
        ("routes/wildcard", node.wildcard_routes.to_string()),
        ("routes/shared", node.shared_groups.to_string()),
        ("shards", node.registrar_of.to_string()),
    ];
    let optional = [("lag", node.lag), ("sessions", node.sessions), ("connections", node.connections)];
    values.extend(optional.into_iter().filter_map(|(what, value)| Some((what, value?.to_string()))));
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_its_topics_and_what_is_not_known_has_none() {
        let node = Node {
            id: 7,
            name: "a".into(),
            status: "up".into(),
            lag: None,
            sessions: Some(3),
            ..Node::default()
        };
        let status = ClusterStatusReply { leader: 7, nodes: vec![node], ..ClusterStatusReply::default() };
        let replica = ShardReplica { queued_messages: 9, apply_lag: 1, ..ShardReplica::default() };
        let shards = [
            Shard { shard: 0, leader: 7, term: 4, at_leader: Some(replica), ..Shard::default() },
            Shard { shard: 1, replica: Some(replica), ..Shard::default() },
        ];
        let values = values(&status, &shards);
        let value = |topic: &str| values.get(topic).map(String::as_str);
        assert_eq!(value("$SYS/cluster/leader"), Some("a"));
        assert_eq!(value("$SYS/cluster/members/a/status"), Some("up"));
        assert_eq!(value("$SYS/cluster/members/a/sessions"), Some("3"));
        assert_eq!(value("$SYS/cluster/members/a/lag"), None);
        assert_eq!(value("$SYS/cluster/shards/0/leader"), Some("a"));
        assert_eq!(value("$SYS/cluster/shards/0/term"), Some("4"));
        assert_eq!(value("$SYS/cluster/shards/0/queued/messages"), Some("9"));
        assert_eq!(value("$SYS/cluster/shards/0/apply_lag"), Some("1"));
        assert_eq!(value("$SYS/cluster/shards/1/leader"), Some(""));
        assert_eq!(value("$SYS/cluster/shards/1/queued/messages"), None, "nobody leads it");
    }
}
