//! `flotilla ctl routes`.

use clap::Subcommand;
use flotilla_rpc::admin::{ListRoutesRequest, Route, RouteTarget};
use futures_util::TryStreamExt;

use super::{
    CtlError, Output,
    connection::{Node, Roster},
    json,
    table::Table,
};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Wildcard filters and shared groups with the nodes that want them; exact filters only where a topic is given.
    List {
        /// Only the routes that a publish to this topic takes.
        #[arg(long, value_name = "TOPIC", default_value = "")]
        topic: String,
        /// At most so many; 0: all.
        #[arg(long, value_name = "N", default_value_t = 1_000)]
        limit: u32,
    },
}

pub(super) async fn run(verb: Verb, mut node: Node, output: Output) -> Result<(), CtlError> {
    let Verb::List { topic, limit } = verb;
    let roster = Roster(node.status().await?);
    let request = ListRoutesRequest { topic: topic.clone(), limit };
    let pages = node.client.list_routes(request).await.map_err(|status| node.refusal(&status))?;
    let mut pages = pages.into_inner();
    let mut routes = Vec::new();
    while let Some(page) = pages.try_next().await.map_err(|status| node.refusal(&status))? {
        routes.extend(page.routes);
    }
    let json: Vec<json::Route> = routes.iter().map(|route| json::Route::new(route, &roster)).collect();
    output.print(&json, || table(&routes, &topic, &roster))
}

fn table(routes: &[Route], topic: &str, roster: &Roster) -> String {
    let mut table = Table::new(["FILTER", "NODES"]);
    for route in routes {
        let filter = if route.filter.is_empty() { topic } else { &route.filter };
        let targets: Vec<String> = route.targets.iter().map(|target| shown(target, roster)).collect();
        table.row([filter.to_owned(), targets.join(", ")]);
    }
    table.to_string()
}

fn shown(target: &RouteTarget, roster: &Roster) -> String {
    let name = roster.name(target.node);
    match (target.online, target.kept) {
        (0, 0) => name,
        (online, 0) => format!("{name} ({online} online)"),
        (online, kept) => format!("{name} ({online} online, {kept} of them kept)"),
    }
}
