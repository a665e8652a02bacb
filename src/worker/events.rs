//! Events of clients for `$SYS`.

use super::{Peer, Worker};
use crate::sys::{self, ClientEvent, Subject};

impl Worker {
    /// Publishes an event of a client, if the configuration asks for it and somebody listens. `peer` is where the
    /// client connects from, when its connection is no longer there to say so.
    pub(super) fn announce_event(&mut self, slot: u32, peer: Option<&Peer>, event: ClientEvent<'_>) {
        if !self.node.config.sys.client_events.contains(&event.kind()) {
            return;
        }
        let node = std::sync::Arc::clone(&self.node);
        let Some(entry) = self.sessions.entry(slot) else { return };
        let topic = event.topic(&node.config.node.name, entry.session.client_id().as_str());
        // Each topic is used once or twice: it does not go through the cache.
        if node.router.matches(&topic).is_empty() {
            return;
        }
        let Some(peer) = peer.or(entry.link.as_deref().map(|link| &link.peer)) else { return };
        let subject = Subject {
            client_id: entry.session.client_id().as_str(),
            version: entry.session.version(),
            expiry: entry.session.expiry(),
            peer,
        };
        let payload = event.payload(&subject).to_string();
        self.publish_own(&sys::message(&topic, payload.into(), false));
    }
}
