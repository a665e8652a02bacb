//! `flotilla ctl bans`.

use clap::{Args, Subcommand};
use flotilla_rpc::admin::{AddBanRequest, Ban, ListBansRequest, RemoveBanRequest};
use futures_util::TryStreamExt;

use super::{CtlError, Output, connection::Node, json, table::Table};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Let a client in on no node any more (CONNACK 0x8A), and close its connections (DISCONNECT 0x98). Its session stays.
    Add {
        #[command(flatten)]
        whom: Whom,
        /// Why, for those who list the bans.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Let it in again.
    Remove {
        #[command(flatten)]
        whom: Whom,
    },
    /// Who is banned.
    List,
}

#[derive(Debug, Args)]
pub(super) struct Whom {
    /// What the client is known by.
    #[arg(value_name = "AS", value_parser = ["clientid", "username", "peerhost"])]
    kind: String,
    /// Its client identifier, its user name, or the IP address that it connects from.
    who: String,
}

pub(super) async fn run(verb: Verb, mut node: Node, output: Output) -> Result<(), CtlError> {
    match verb {
        Verb::Add { whom: Whom { kind, who }, reason } => {
            let ban = Ban { r#as: kind.clone(), who: who.clone(), reason, by: BY.to_owned(), at: 0 };
            let request = AddBanRequest { ban: Some(ban) };
            node.client.add_ban(request).await.map_err(|status| node.refusal(&status))?;
            output.done(format_args!("{kind} {who:?} is banned"))
        }
        Verb::Remove { whom: Whom { kind, who } } => {
            let request = RemoveBanRequest { r#as: kind.clone(), who: who.clone() };
            node.client.remove_ban(request).await.map_err(|status| node.refusal(&status))?;
            output.done(format_args!("{kind} {who:?} is banned no more"))
        }
        Verb::List => list(node, output).await,
    }
}

/// Every node knows all of them.
async fn list(mut node: Node, output: Output) -> Result<(), CtlError> {
    let pages = node.client.list_bans(ListBansRequest {}).await.map_err(|status| node.refusal(&status))?;
    let mut pages = pages.into_inner();
    let mut bans = Vec::new();
    while let Some(page) = pages.try_next().await.map_err(|status| node.refusal(&status))? {
        bans.extend(page.bans);
    }
    let bans: Vec<json::Ban> = bans.into_iter().map(json::Ban::from).collect();
    output.print(&bans, || {
        let mut table = Table::new(["AS", "WHO", "REASON", "BY", "AT"]);
        for json::Ban { r#as, who, reason, by, at } in &bans {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            table.row([r#as.clone(), who.clone(), text(reason), text(by), text(at)]);
        }
        table.to_string()
    })
}

/// Who bans: operators have no names yet.
const BY: &str = "ctl";
