//! `flotilla ctl clients`.

use clap::Subcommand;
use flotilla_rpc::admin::{Client, KickClientRequest, ListClientsRequest};
use futures_util::TryStreamExt;

use super::{
    CtlError, Output,
    connection::{Node, Roster},
    json,
    table::{Table, yes_or_no},
};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Clients with their sessions, on all nodes, in the order of their identifiers.
    List {
        /// Only those whose identifiers begin so.
        #[arg(long, value_name = "TEXT", default_value = "")]
        prefix: String,
        /// At most so many; 0: all.
        #[arg(long, value_name = "N", default_value_t = 1_000)]
        limit: u32,
    },
    /// One client.
    Show {
        /// Its identifier.
        client_id: String,
    },
    /// Close the connection of a client (DISCONNECT 0x98).
    Kick {
        /// Its identifier.
        client_id: String,
    },
}

pub(super) async fn run(verb: Verb, mut node: Node, output: Output) -> Result<(), CtlError> {
    match verb {
        Verb::List { prefix, limit } => {
            let (mut clients, roster, complete) = find(&mut node, &prefix, limit).await?;
            if limit > 0 {
                // Each node was asked for so many.
                clients.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            }
            print(&clients, &roster, output)?;
            if complete { Ok(()) } else { Err(CtlError::Incomplete) }
        }
        Verb::Show { client_id } => {
            let (mut clients, roster, complete) = find(&mut node, &client_id, 0).await?;
            clients.retain(|client| client.client_id == client_id);
            match (clients.is_empty(), complete) {
                (false, _) => print(&clients, &roster, output),
                (true, true) => Err(CtlError::NotFound(format!("client {client_id:?}"))),
                (true, false) => Err(CtlError::Incomplete),
            }
        }
        Verb::Kick { client_id } => kick(node, client_id, output).await,
    }
}

/// The clients of all nodes; whether every node told its own.
async fn find(node: &mut Node, prefix: &str, limit: u32) -> Result<(Vec<Client>, Roster, bool), CtlError> {
    let list = async |mut node: Node| {
        let request = ListClientsRequest { prefix: prefix.to_owned(), limit };
        let pages = node.client.list_clients(request).await.map_err(|status| node.refusal(&status))?;
        let mut pages = pages.into_inner();
        let mut clients = Vec::new();
        while let Some(page) = pages.try_next().await.map_err(|status| node.refusal(&status))? {
            clients.extend(page.clients);
        }
        Ok(clients)
    };
    let (clients, roster, complete) = node.ask_all(list).await?;
    let mut clients: Vec<Client> = clients.into_iter().flatten().collect();
    clients.sort_by(|a, b| (&a.client_id, a.node).cmp(&(&b.client_id, b.node)));
    Ok((clients, roster, complete))
}

fn print(clients: &[Client], roster: &Roster, output: Output) -> Result<(), CtlError> {
    let json: Vec<json::Client> = clients.iter().map(|client| json::Client::new(client, roster)).collect();
    output.print(&json, || {
        let mut table = Table::new([
            "CLIENT",
            "NODE",
            "CONNECTED",
            "PEER",
            "MQTT",
            "SUBSCRIPTIONS",
            "QUEUED",
            "INFLIGHT",
        ]);
        for client in clients {
            table.row([
                client.client_id.clone(),
                roster.name(client.node),
                yes_or_no(client.connected),
                client.peer.clone(),
                json::version(client.protocol_level).unwrap_or_default().to_owned(),
                client.subscriptions.to_string(),
                client.queued_messages.to_string(),
                client.inflight_messages.to_string(),
            ]);
        }
        table.to_string()
    })
}

/// Every node is told: the client may be about to move.
async fn kick(mut node: Node, client_id: String, output: Output) -> Result<(), CtlError> {
    let kick = async |mut node: Node| {
        let request = KickClientRequest { client_id: client_id.clone() };
        let reply = node.client.kick_client(request).await.map_err(|status| node.refusal(&status))?;
        Ok(reply.into_inner().kicked)
    };
    let (kicked, _, complete) = node.ask_all(kick).await?;
    match (kicked.contains(&true), complete) {
        (true, _) => output.done(format_args!("{client_id:?} is disconnected")),
        (false, true) => Err(CtlError::NotFound(format!("connected client {client_id:?}"))),
        (false, false) => Err(CtlError::Incomplete),
    }
}
