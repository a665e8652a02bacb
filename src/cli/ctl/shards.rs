//! `flotilla ctl shards`.

use clap::Subcommand;
use flotilla_rpc::admin::ListShardsRequest;

use super::{
    CtlError, Output,
    connection::{Node, Roster},
    json,
    table::Table,
};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Every shard with its registrar and followers.
    List,
}

pub(super) async fn run(verb: Verb, mut node: Node, output: Output) -> Result<(), CtlError> {
    let Verb::List = verb;
    let roster = Roster(node.status().await?);
    let reply =
        node.client.list_shards(ListShardsRequest {}).await.map_err(|status| node.refusal(&status))?;
    let shards = reply.into_inner().shards;
    let json: Vec<json::Shard> = shards.iter().map(|shard| json::Shard::new(shard, &roster)).collect();
    output.print(&json, || {
        let mut table = Table::new(["SHARD", "EPOCH", "REGISTRAR", "FOLLOWERS"]);
        for shard in &shards {
            let mut nodes = shard.nodes.iter().map(|node| roster.name(*node));
            let registrar = nodes.next().unwrap_or_default();
            let followers: Vec<String> = nodes.collect();
            table.row([shard.shard.to_string(), shard.epoch.to_string(), registrar, followers.join(", ")]);
        }
        table.to_string()
    })
}
