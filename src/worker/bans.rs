//! Ending the connections of clients that are banned while they are connected.

use std::rc::Rc;

use flotilla_mqtt::{ReasonCode, session::Cause};
use tokio::task::yield_now;

use super::{Worker, WorkerCell};

/// Sessions that are looked at before others get their turn.
const SESSIONS_PER_TURN: u32 = 4_096;

/// Closes the connections of all clients of a worker that are banned now.
pub(super) async fn close_all(cell: &Rc<WorkerCell>) {
    let mut next = cell.with(Worker::begin_round);
    while let Some(from_slot) = next {
        next = cell.with(|worker| worker.close_banned(from_slot));
        yield_now().await;
    }
}

impl Worker {
    /// Where to begin; `None`: a round that began after the last ban has been made already.
    fn begin_round(&mut self) -> Option<u32> {
        let generation = self.node.bans.generation();
        let is_new = self.bans_enforced < generation;
        self.bans_enforced = generation;
        is_new.then_some(0)
    }

    /// Looks at some sessions. Who connects meanwhile is looked at when its connection begins. Returns where to go on.
    fn close_banned(&mut self, from_slot: u32) -> Option<u32> {
        let slots = self.sessions.slots();
        let to_slot = slots.min(from_slot.saturating_add(SESSIONS_PER_TURN));
        for slot in from_slot..to_slot {
            self.close_if_banned(slot);
        }
        (to_slot < slots).then_some(to_slot)
    }

    /// Ends the connection of a session if its client is banned. What a shard keeps of it stays, as after a connection that is lost.
    pub(super) fn close_if_banned(&mut self, slot: u32) -> bool {
        let Some(entry) = self.sessions.entry(slot) else { return false };
        let (client_id, peer) = (entry.session.client_id().as_str(), &entry.link.peer);
        let is_banned = self.node.bans.cover(client_id, peer.username.as_deref(), peer.addr.ip());
        if is_banned {
            self.end_link(slot, Cause::Server(ReasonCode::AdministrativeAction));
        }
        is_banned
    }
}
