//! Knowing that everything that other nodes sent before has come.
//!
//! A node whose sessions have gone elsewhere passes on what still comes for them, until every node has applied the new
//! routes and what it had sent before has arrived. It asks the others for a barrier: each of them, once it has applied the
//! entry and its workers have handed over, puts a mark into every lane to the asking node. Where all marks have come, all
//! that came before them has too.

use std::{collections::BTreeSet, sync::Arc};

use flotilla_lane::LaneId;
use flotilla_mqtt::session::ClientId;
use flotilla_state::{ConnectionEpoch, LogIndex, Member};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::{
    FlushRound,
    links::{Control, Links},
};
use crate::{
    node::Node,
    worker::{Event, Order},
};

/// The barriers that this node waits for. One round is under way at a time; what comes meanwhile goes into the next.
#[derive(Debug, Default)]
pub(super) struct Barriers {
    inner: Mutex<Inner>,
    changed: Notify,
    /// The entries that this node has applied.
    applied: watch::Sender<LogIndex>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Stubs that wait for the next round, each with the entry that it waits for.
    next: Vec<Stub>,
    round: u64,
    /// Marks of the present round that have not come.
    missing: BTreeSet<(Member, LaneId)>,
}

/// What is left of a session that has gone, until its barrier.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stub {
    client_id: ClientId,
    epoch: ConnectionEpoch,
    index: LogIndex,
}

/// A round that begins.
#[derive(Debug)]
struct Round {
    id: u64,
    /// The last of the entries that the stubs wait for.
    index: LogIndex,
    stubs: Vec<Stub>,
}

impl Barriers {
    /// Begins rounds and ends stubs, for ever.
    pub(super) async fn run(&self, node: &Arc<Node>, links: &Links) {
        loop {
            let round = self.next_round().await;
            // Only then are all those known here that may have looked at older routes.
            self.applied(round.index).await;
            let members = links.members();
            self.expect(members.iter().copied());
            let mut request = [0; 16];
            request[..8].copy_from_slice(&round.id.to_le_bytes());
            request[8..].copy_from_slice(&round.index.0.to_le_bytes());
            for member in members {
                if !links.send_control(member, Control::Barrier, &request) {
                    // It, or this node, has ended since, and may have been taken off the list before it was on it.
                    self.handle_ended(member);
                }
            }
            self.flush(node, round.index).await;
            self.complete().await;
            for Stub { client_id, epoch, .. } in round.stubs {
                if let Some(stub) = node.stubs.find(&client_id, epoch) {
                    let order = Order::EndStub { client_id, epoch };
                    node.mailboxes[usize::from(stub.worker)].send(Event::Transfer(order));
                }
            }
        }
    }

    /// Another node asks for a barrier.
    pub(super) async fn answer(&self, node: &Arc<Node>, links: &Links, to: Member, id: u64, index: LogIndex) {
        self.flush(node, index).await;
        links.send_marks(to, id);
    }

    /// Waits until this node has applied an entry, and all its workers have handed over what they matched before.
    async fn flush(&self, node: &Arc<Node>, index: LogIndex) {
        self.applied(index).await;
        let round = Arc::new(FlushRound::of(node.mailboxes.len()));
        for mailbox in &node.mailboxes {
            mailbox.send(Event::Flush(Arc::clone(&round)));
        }
        round.wait().await;
    }

    /// Waits until this node has applied an entry.
    pub(super) async fn applied(&self, index: LogIndex) {
        // The sender is never dropped before this ends.
        let _ = self.applied.subscribe().wait_for(|applied| *applied >= index).await;
    }

    /// This node has applied an entry, and its routes are in force.
    pub(super) fn note_applied(&self, index: LogIndex) {
        self.applied.send_if_modified(|applied| {
            let is_new = index > *applied;
            *applied = index.max(*applied);
            is_new
        });
    }

    /// The routes of a session that has gone are those of entry `index`.
    pub(super) fn settle(&self, client_id: ClientId, epoch: ConnectionEpoch, index: LogIndex) {
        self.inner.lock().next.push(Stub { client_id, epoch, index });
        self.changed.notify_one();
    }

    /// Waits for stubs and begins a round for them.
    ///
    /// # Cancel safety
    /// Nothing is taken before it returns.
    async fn next_round(&self) -> Round {
        loop {
            if let Some(round) = self.begin() {
                return round;
            }
            self.changed.notified().await;
        }
    }

    fn begin(&self) -> Option<Round> {
        let mut inner = self.inner.lock();
        let index = inner.next.iter().map(|stub| stub.index).max()?;
        inner.round += 1;
        Some(Round { id: inner.round, index, stubs: std::mem::take(&mut inner.next) })
    }

    /// The members that the present round waits for; before any of them is asked.
    fn expect(&self, members: impl Iterator<Item = Member>) {
        let lanes = |member| {
            LaneId::all().filter(|lane| *lane != flotilla_lane::CONTROL).map(move |lane| (member, lane))
        };
        self.inner.lock().missing = members.flat_map(lanes).collect();
    }

    /// A mark has come.
    pub(super) fn handle_mark(&self, from: Member, lane: LaneId, id: u64) {
        let mut inner = self.inner.lock();
        if inner.round == id && inner.missing.remove(&(from, lane)) && inner.missing.is_empty() {
            self.changed.notify_one();
        }
    }

    /// A member has ended: nothing more comes from it.
    pub(super) fn handle_ended(&self, member: Member) {
        let mut inner = self.inner.lock();
        let before = inner.missing.len();
        inner.missing.retain(|(from, _)| *from != member);
        if before > 0 && inner.missing.is_empty() {
            self.changed.notify_one();
        }
    }

    /// Waits until all marks of the present round have come.
    async fn complete(&self) {
        while !self.inner.lock().missing.is_empty() {
            self.changed.notified().await;
        }
        // What came for the next round may have been notified to this one.
        self.changed.notify_one();
    }

    /// Gives up: this node has no place in the cluster, and its stubs go with its members.
    pub(super) fn clear(&self) {
        let mut inner = self.inner.lock();
        inner.next.clear();
        inner.missing.clear();
        drop(inner);
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use flotilla_state::{Incarnation, NodeId};

    use super::*;

    fn member(node: u64) -> Member {
        Member { node: NodeId(node), incarnation: Incarnation(1) }
    }

    fn is_complete(barriers: &Barriers) -> bool {
        barriers.inner.lock().missing.is_empty()
    }

    #[test]
    fn a_round_is_complete_when_every_lane_of_every_live_member_has_its_mark() {
        let barriers = Barriers::default();
        let client = ClientId::new("c").expect("not empty");
        barriers.settle(client.clone(), ConnectionEpoch::default(), LogIndex(7));
        barriers.settle(client, ConnectionEpoch::default(), LogIndex(5));
        let round = barriers.begin().expect("there are stubs");
        assert_eq!((round.index, round.stubs.len()), (LogIndex(7), 2));
        assert!(barriers.begin().is_none());
        barriers.expect([member(2), member(3)].into_iter());
        for lane in LaneId::all().filter(|lane| *lane != flotilla_lane::CONTROL) {
            assert!(!is_complete(&barriers));
            barriers.handle_mark(member(2), lane, round.id);
            barriers.handle_mark(member(3), lane, round.id - 1); // of a round that was given up
        }
        assert!(!is_complete(&barriers));
        barriers.handle_ended(member(3));
        assert!(is_complete(&barriers));
    }
}
