//! Telling of clients, for an operator.

use flotilla_rpc::admin::Client;

use super::{ClientsPage, ClientsQuery, Worker};

/// Slots that one answer looks at: others get their turn in between.
const SLOTS: u32 = 1_000;

impl Worker {
    pub(super) fn list_clients(&mut self, query: ClientsQuery) {
        let ClientsQuery { prefix, from_slot, answer } = query;
        let node = self.node.router.remote().me().0;
        let end = from_slot.saturating_add(SLOTS).min(self.sessions.slots());
        let mut clients = Vec::new();
        for slot in from_slot..end {
            let Some(entry) = self.sessions.entry(slot) else { continue };
            let client_id = entry.session.client_id().as_str();
            if !client_id.starts_with(&*prefix) {
                continue;
            }
            let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
            clients.push(Client {
                client_id: client_id.to_owned(),
                node,
                connected: true,
                peer: entry.link.peer.addr.to_string(),
                protocol_level: (entry.session.version() as u8).into(),
                subscriptions: count(entry.session.subscriptions().len()),
                queued_messages: count(entry.session.queue_len()),
                inflight_messages: count(entry.session.inflight_len()),
            });
        }
        let next_slot = (end < self.sessions.slots()).then_some(end);
        // Whoever asked may have gone.
        let _ = answer.send(ClientsPage { clients, next_slot });
    }
}
