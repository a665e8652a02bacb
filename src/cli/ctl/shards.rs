//! `flotilla ctl shards`.

use clap::Subcommand;
use flotilla_rpc::admin::{ListShardsRequest, ShardReplica};

use super::{
    CtlError, Output,
    connection::{Node, Roster},
    json,
    table::{Table, yes_or_no},
};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Every shard with its leader and members, and what the leader has told of it, else what the replica on the node that answers has.
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
        let mut table = Table::new([
            "SHARD",
            "LEADER",
            "TERM",
            "MEMBERS",
            "VOTES",
            "SESSIONS",
            "QUEUED",
            "LAG",
            "REGISTRAR",
        ]);
        for shard in &shards {
            let members: Vec<String> = shard.members.iter().map(|node| roster.name(*node)).collect();
            let leader = if shard.leader == 0 { String::new() } else { roster.name(shard.leader) };
            let replica = shard.replica.as_ref();
            let of_replica = |figure: fn(&ShardReplica) -> u64| {
                let of = shard.at_leader.as_ref().or(replica);
                of.map(|replica| figure(replica).to_string()).unwrap_or_default()
            };
            table.row([
                shard.shard.to_string(),
                leader,
                shard.term.to_string(),
                members.join(", "),
                replica.map(|replica| yes_or_no(replica.votes)).unwrap_or_default(),
                of_replica(|replica| replica.sessions),
                of_replica(|replica| replica.queued_messages),
                of_replica(|replica| replica.apply_lag),
                shard.nodes.first().map(|node| roster.name(*node)).unwrap_or_default(),
            ]);
        }
        table.to_string()
    })
}
