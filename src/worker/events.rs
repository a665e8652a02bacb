//! Events of clients for `$SYS`.

use std::sync::Arc;

use flotilla_mqtt::{
    Message,
    session::{Cause, Session},
};

use super::{Peer, Worker};
use crate::{
    node::Node,
    sys::{self, ClientEvent, Subject},
};

impl Worker {
    /// Publishes an event of a client, if the configuration asks for it and somebody listens.
    pub(super) fn announce_event(&mut self, slot: u32, event: ClientEvent<'_>) {
        let node = Arc::clone(&self.node);
        let Some(entry) = self.sessions.entry(slot) else { return };
        if let Some(message) = message(&node, &entry.session, &entry.link.peer, event) {
            self.publish_own(&message);
        }
    }

    /// The same for the end of a connection, which is not here any more.
    pub(super) fn announce_end(&mut self, session: &Session, peer: &Peer, cause: Cause) {
        if let Some(message) = message(&self.node, session, peer, ClientEvent::Disconnected(cause)) {
            self.publish_own(&message);
        }
    }
}

/// The message of an event; `None`: nobody wants it.
fn message(node: &Node, session: &Session, peer: &Peer, event: ClientEvent<'_>) -> Option<Arc<Message>> {
    if !node.config.sys.client_events.contains(&event.kind()) {
        return None;
    }
    let client_id = session.client_id().as_str();
    let topic = event.topic(&node.config.node.name, client_id);
    // Each topic is used once or twice: it does not go through the cache.
    if node.router.matches(&topic).is_empty() {
        return None;
    }
    let subject = Subject { client_id, version: session.version(), expiry: session.expiry(), peer };
    let payload = event.payload(&subject).to_string();
    Some(sys::message(&topic, payload.into(), false))
}
