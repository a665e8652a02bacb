//! `flotilla ctl cluster`.

use std::fmt::Write as _;

use clap::Subcommand;
use flotilla_rpc::admin;

use super::{
    CtlError, Output,
    connection::{Node, Roster},
    json, nodes,
};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Who leads, whether a quorum answers, and the nodes.
    Status,
}

pub(super) async fn run(verb: Verb, mut node: Node, output: Output) -> Result<(), CtlError> {
    match verb {
        Verb::Status => {
            let roster = Roster(node.status().await?);
            output.print(&json::Cluster::from(&roster), || text(&roster))
        }
    }
}

fn text(roster: &Roster) -> String {
    let status = &roster.0;
    let admin::ClusterStatusReply { term, committed, applied, shards, replicas, .. } = status;
    let id = if status.cluster_id.is_empty() { "not founded yet" } else { &status.cluster_id };
    let leader = if status.leader == 0 { "none is known".to_owned() } else { roster.name(status.leader) };
    let quorum = if status.quorum { "yes" } else { "NO: what needs one waits" };
    let node = roster.name(status.this_node);
    let ready = if status.ready { "ready" } else { "NOT READY, " };
    let mut text = String::new();
    // Writing to a text cannot fail.
    let _ = write!(
        text,
        "cluster  {} ({id})\nleader   {leader}, term {term}\nquorum   {quorum}\nlog      committed {committed}, applied \
         {applied}\nshards   {shards} with {replicas} replicas\nnode     {node}, {ready}{}\n",
        status.cluster_name, status.not_ready_because
    );
    if status.partition_suspected {
        text.push_str(
            "WARNING  some nodes that should be there are not heard of: they are dead, or cut off\n",
        );
    }
    let _ = write!(text, "\n{}", nodes::table(&status.nodes));
    text
}
