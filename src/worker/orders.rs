//! Connections that end because somebody else wants it: another node, a later connection of the client, or an operator.

use std::sync::Arc;

use flotilla_mqtt::{
    ReasonCode,
    session::{Cause, ClientId},
};
use flotilla_registry::Tenure;
use flotilla_state::ConnectionEpoch;
use tokio::sync::oneshot;

use super::{Event, Worker};

/// What a worker is to do with the connection of a client.
#[derive(Debug)]
pub(crate) enum Order {
    /// The client has been granted to another node, which is told when the connection is closed.
    Close {
        /// Its client.
        client_id: ClientId,
        /// The claim of the other node.
        epoch: ConnectionEpoch,
    },
    /// A CONNECT was granted the client, and came to nothing: give up the client under that grant.
    Forsake {
        /// Its client.
        client_id: ClientId,
        /// The grant.
        tenure: Tenure,
    },
    /// Another node serves the client by now.
    Discard {
        /// Its client.
        client_id: ClientId,
        /// What it was granted; a connection that has a later grant by now stays.
        tenure: Tenure,
    },
    /// A later connection of the client, on this node too, has been granted: close this one, so that all that its client has said is
    /// on its way before the later one begins.
    Displace {
        /// Its client.
        client_id: ClientId,
        /// What the later one was granted.
        tenure: Tenure,
        /// Told when it is closed.
        done: oneshot::Sender<()>,
    },
    /// An operator ends the connection of a client.
    Kick {
        /// The client.
        client_id: ClientId,
    },
}

impl Worker {
    /// Does what an order says. What it is about may be gone, or on another worker, by now.
    pub(super) fn handle_order(&mut self, order: Order) {
        match order {
            Order::Close { client_id, epoch } => self.close(client_id, epoch),
            Order::Forsake { client_id, tenure } => {
                // The connection before that, if it is still there, is taken over all the same [MQTT-3.1.4-3].
                self.displace(&client_id, tenure);
                self.node.cluster.release(&client_id, tenure);
            }
            Order::Discard { client_id, tenure } => {
                if let Some(slot) = self.slot_of(&client_id, |claim| claim <= tenure) {
                    self.end_link(slot, Cause::Server(ReasonCode::SessionTakenOver));
                }
            }
            Order::Displace { client_id, tenure, done } => {
                self.displace(&client_id, tenure);
                // Whoever asked may have gone.
                let _ = done.send(());
            }
            Order::Kick { client_id } => {
                if let Some(slot) = self.slot_of(&client_id, |_| true) {
                    self.end_link(slot, Cause::Server(ReasonCode::AdministrativeAction));
                }
            }
        }
    }

    /// The slot of a client's session on this worker, if its claim is one that is meant.
    fn slot_of(&mut self, client_id: &ClientId, is_meant: impl Fn(Tenure) -> bool) -> Option<u32> {
        let session = self.node.registry.find(client_id).filter(|session| session.worker == self.id)?;
        let entry = self.sessions.entry_of(session.slot, session.epoch)?;
        is_meant(entry.claim).then_some(session.slot)
    }

    /// Says that the client has no connection here any more. A later one, on another node, must find all that the client has said
    /// here. Until the shard has that, an earlier claim may have begun a connection here: then that is closed, too.
    fn close(&mut self, client_id: ClientId, epoch: ConnectionEpoch) {
        let slot = self.slot_of(&client_id, |claim| claim.epoch <= epoch);
        let closed = slot.and_then(|slot| {
            let closed = self.watch_close(slot);
            self.take_over(slot);
            closed
        });
        let Some(closed) = closed else { return self.node.cluster.closed(&client_id, epoch) };
        let (node, id) = (Arc::clone(&self.node), self.id);
        tokio::task::spawn_local(async move {
            // An error: this node's life has ended, and with it what others wait for.
            let _ = closed.await;
            let order = Order::Close { client_id, epoch };
            node.mailboxes[usize::from(id)].send(Event::Order(order));
        });
    }

    /// Closes the connection that a client had before it was granted to a later one.
    fn displace(&mut self, client_id: &ClientId, tenure: Tenure) {
        if let Some(slot) = self.slot_of(client_id, |claim| claim < tenure) {
            self.take_over(slot);
        }
    }

    /// Ends the connection of a client for a later one.
    pub(super) fn take_over(&mut self, slot: u32) {
        self.metrics().session_takenover.increment();
        self.end_link(slot, Cause::Server(ReasonCode::SessionTakenOver));
    }
}

#[cfg(test)]
mod tests;
