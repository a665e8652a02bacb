//! `flotilla ctl nodes`.

use clap::Subcommand;
use flotilla_rpc::admin::{self, DrainRequest, LeaveRequest, RemoveNodeRequest};

use super::{
    CtlError, Output,
    connection::Node,
    json,
    table::{Table, or_dash, yes_or_no},
};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// All nodes, also those that are down.
    List,
    /// Take a dead node that does not come back out of the cluster, so that it does not count for the majority any more.
    Remove {
        /// Its name or identifier.
        node: String,
    },
    /// Let a node hand over its shards, leave the cluster and end. That may take longer than --timeout: it goes on when the
    /// command has given up. Started again, it joins again.
    Leave {
        /// Its name or identifier. Without it: the node that is asked.
        node: Option<String>,
    },
    /// Let a node take no new clients (CONNACK 0x9C) until it is started again. Those that it has stay.
    Drain {
        /// Its name or identifier. Without it: the node that is asked.
        node: Option<String>,
    },
}

pub(super) async fn run(verb: Verb, mut node: Node, output: Output) -> Result<(), CtlError> {
    match verb {
        Verb::List => list(node, output).await,
        Verb::Remove { node: name } => {
            let request = RemoveNodeRequest { node: name.clone() };
            node.client.remove_node(request).await.map_err(|status| node.refusal(&status))?;
            output.done(format_args!("{name} is removed"))
        }
        Verb::Leave { node: name } => {
            let mut node = node.named(name.as_deref()).await?;
            node.client.leave(LeaveRequest {}).await.map_err(|status| node.refusal(&status))?;
            output.done(format_args!("{} leaves", name.as_deref().unwrap_or("the node")))
        }
        Verb::Drain { node: name } => {
            let mut node = node.named(name.as_deref()).await?;
            node.client.drain(DrainRequest {}).await.map_err(|status| node.refusal(&status))?;
            output.done(format_args!("{} takes no new clients", name.as_deref().unwrap_or("the node")))
        }
    }
}

/// A node counts only its own sessions and connections, so each is asked for these; what one does not tell stays open.
async fn list(mut node: Node, output: Output) -> Result<(), CtlError> {
    let (counts, roster, _) = node.ask_all(async |mut node| node.status().await).await?;
    let mut nodes = roster.0.nodes;
    for count in counts {
        let own = count.nodes.into_iter().find(|node| node.id == count.this_node);
        if let (Some(own), Some(node)) = (own, nodes.iter_mut().find(|node| node.id == count.this_node)) {
            (node.sessions, node.connections) = (own.sessions, own.connections);
        }
    }
    let json: Vec<json::Node> = nodes.iter().map(json::Node::from).collect();
    output.print(&json, || table(&nodes))
}

/// The nodes in the order of their names.
pub(super) fn table(nodes: &[admin::Node]) -> String {
    let mut table = Table::new([
        "NODE",
        "ROLE",
        "STATUS",
        "ADDRESS",
        "VERSION",
        "VOTER",
        "LAG",
        "ROUTES",
        "SESSIONS",
        "CONNECTIONS",
    ]);
    let mut nodes: Vec<&admin::Node> = nodes.iter().collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    for node in nodes {
        let routes = node.exact_routes + node.wildcard_routes + node.shared_groups;
        let voter = if node.leader { "leader".to_owned() } else { yes_or_no(node.voter) };
        table.row([
            node.name.clone(),
            node.role.clone(),
            node.status.clone(),
            node.address.clone(),
            node.version.clone(),
            voter,
            or_dash(node.lag),
            routes.to_string(),
            or_dash(node.sessions),
            or_dash(node.connections),
        ]);
    }
    table.to_string()
}
