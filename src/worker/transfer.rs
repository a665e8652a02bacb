//! Sessions that move between nodes.
//!
//! The node that a client leaves closes its connection, exports the session and keeps a [`Stub`]: subscriptions that pass
//! on what still comes here. The node that the client has come to makes the session anew and makes its routes known; until
//! the old node has passed on everything, it holds back what comes to it directly ([`Gathering`]).
//!
//! Which of the two a message comes through is decided by its stamp. A publisher's node that has applied the new routes
//! sends to the new node, so what is stamped with them or later is the new node's, and what is stamped before is the old
//! node's to pass on, whatever else goes where for the sake of other subscribers. So nothing is lost, nothing comes twice,
//! and the order of each publisher holds.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use flotilla_mqtt::{
    Message, ReasonCode, Transit,
    session::{Cause, ClientId, DeliveryOptions, DropReason, Session},
};
use flotilla_registry::Tenure;
use flotilla_state::{ConnectionEpoch, LogIndex, NodeId};
use tokio::sync::oneshot;

use super::{Event, Worker, sessions::Entry};
use flotilla_shard::Answer;

use crate::{
    cluster::{Awaited, Completion, Early, Receipt},
    registry::Home,
    router::{SessionRef, Subscriber, Terms},
};

/// What a worker is to do with a session that comes or goes.
#[derive(Debug)]
pub(crate) enum Order {
    /// The client has been granted to another node: close its connection and give the session away, or end it.
    Export(Export),
    /// The node that the session went to has ended before it said that it has it: it lives here again.
    TakeBack {
        /// Its client.
        client_id: ClientId,
        /// The claim that it was given away for.
        epoch: ConnectionEpoch,
    },
    /// All nodes know the new routes, and what they sent before has come: stop passing on.
    EndStub {
        /// The client that went.
        client_id: ClientId,
        /// The claim that it went for.
        epoch: ConnectionEpoch,
    },
    /// The old node has passed on everything, or has ended.
    EndGathering {
        /// The client that came.
        client_id: ClientId,
        /// The claim that it came with.
        epoch: ConnectionEpoch,
    },
    /// This node's life in the cluster has ended: nothing is on its way between nodes any more.
    ForgetTransfers,
    /// A CONNECT was granted the client and its session, and came to nothing: the session goes on under that grant.
    Forsake {
        /// Its client.
        client_id: ClientId,
        /// The grant.
        tenure: Tenure,
    },
    /// Another node serves the client by now: end the session here without a trace.
    Discard {
        /// Its client.
        client_id: ClientId,
        /// What it was granted; a session that has a later grant by now stays.
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

/// A session that is to be given away.
#[derive(Debug, Clone)]
pub(crate) struct Export {
    /// Its client.
    pub(crate) client_id: ClientId,
    /// The claim that it is given away for.
    pub(crate) epoch: ConnectionEpoch,
    /// Where it goes.
    pub(crate) to: NodeId,
    /// Whether it ends instead: the client starts clean.
    pub(crate) discard: bool,
}

/// What a session that is on its way does.
#[derive(Debug)]
pub(super) enum Transfer {
    /// It will be given away when its QoS 2 publishes are stored.
    Leaving(Export),
    /// It is gone.
    Stub(Stub),
    /// It has come.
    Gathering(Gathering),
    /// It came some time ago, and is complete: what is stamped before this entry has come through the old node.
    Arrived(LogIndex),
}

/// What is left of a session that has gone to another node.
#[derive(Debug, Clone)]
pub(super) struct Stub {
    pub(super) client_id: ClientId,
    pub(super) epoch: ConnectionEpoch,
    pub(super) to: NodeId,
}

/// A session that has come, until the old node has passed on everything.
#[derive(Debug)]
pub(super) struct Gathering {
    epoch: ConnectionEpoch,
    /// Routes that are still to be confirmed.
    outstanding: usize,
    /// The entry from which on every node knows the routes.
    routes_at: LogIndex,
    /// Passed on before `routes_at` was known.
    passed_on: VecDeque<Waiting>,
    /// Came directly.
    own: VecDeque<Waiting>,
    bytes: usize,
    /// Its client has connected to yet another node: it goes on when it is complete.
    leaving: Option<Export>,
}

#[derive(Debug)]
struct Waiting {
    message: Arc<Message>,
    options: DeliveryOptions,
    stamp: LogIndex,
}

impl Transfer {
    /// The claim of another node that waits for the session.
    pub(super) fn wanted(&self) -> Option<ConnectionEpoch> {
        match self {
            Self::Leaving(export) => Some(export.epoch),
            Self::Gathering(gathering) => gathering.leaving.as_ref().map(|export| export.epoch),
            Self::Stub(_) | Self::Arrived(_) => None,
        }
    }

    /// The claim with which it came, while it gathers.
    pub(super) fn gathered(&self) -> Option<ConnectionEpoch> {
        match self {
            Self::Gathering(gathering) => Some(gathering.epoch),
            Self::Stub(_) | Self::Leaving(_) | Self::Arrived(_) => None,
        }
    }
}

impl Gathering {
    /// Whether it is known which messages the old node passes on.
    fn is_settled(&self) -> bool {
        self.outstanding == 0
    }
}

impl Worker {
    /// Does what an order says. What it is about may be gone, or on another worker, by now.
    pub(super) fn handle_order(&mut self, order: Order) {
        match order {
            Order::Export(export) => self.export(&export),
            Order::TakeBack { client_id, epoch } => self.take_back(&client_id, epoch),
            Order::EndStub { client_id, epoch } => self.end_stub(&client_id, epoch),
            Order::EndGathering { client_id, epoch } => self.end_gathering(&client_id, epoch),
            Order::ForgetTransfers => self.forget_transfers(),
            Order::Forsake { client_id, tenure } => self.forsake(&client_id, tenure),
            Order::Discard { client_id, tenure } => self.discard(&client_id, tenure),
            Order::Displace { client_id, tenure, done } => {
                self.displace(&client_id, tenure);
                // Whoever asked may have gone.
                let _ = done.send(());
            }
            Order::Kick { client_id } => {
                if let Some(slot) = self.slot_of(&client_id) {
                    self.end_link(slot, Cause::Server(ReasonCode::AdministrativeAction));
                }
            }
        }
    }

    /// The slot of a client's session on this worker.
    fn slot_of(&mut self, client_id: &ClientId) -> Option<u32> {
        let session = self.node.registry.find(client_id).filter(|session| session.worker == self.id)?;
        self.sessions.entry_of(session.slot, session.epoch)?;
        Some(session.slot)
    }

    /// Whether a session is on its way between nodes.
    pub(super) fn is_transferring(&mut self, session: SessionRef) -> bool {
        self.sessions.entry_of(session.slot, session.epoch).is_some_and(|entry| entry.transfer.is_some())
    }

    fn export(&mut self, export: &Export) {
        let Some(slot) = self.slot_of(&export.client_id) else {
            return self.node.cluster.exported(&export.client_id, export.epoch, None);
        };
        if self.sessions.entry(slot).is_some_and(|entry| entry.claim.epoch > export.epoch) {
            return self.node.cluster.exported(&export.client_id, export.epoch, None);
        }
        if self.sessions.entry(slot).is_some_and(|entry| entry.link.is_some()) {
            self.metrics().session_takenover.increment();
            let closed = self.watch_close(slot);
            self.end_link(slot, Cause::Server(ReasonCode::SessionTakenOver));
            if let Some(closed) = closed {
                return self.export_when_closed(export, closed);
            }
        }
        self.export_rest(export);
    }

    /// Gives away what is left of a session whose connection, if it had one, has ended.
    fn export_rest(&mut self, export: &Export) {
        let now = self.now;
        let Some(slot) = self.slot_of(&export.client_id) else {
            return self.node.cluster.exported(&export.client_id, export.epoch, None);
        };
        let Some(entry) = self.sessions.entry(slot) else { return };
        if export.discard || entry.session.is_kept() {
            let ending = entry.session.end(now);
            self.metrics().session_discarded.increment();
            self.finish(slot, ending);
            return self.node.cluster.exported(&export.client_id, export.epoch, None);
        }
        if let Some(Transfer::Gathering(gathering)) = entry.transfer.as_deref_mut() {
            gathering.leaving = Some(export.clone());
            return;
        }
        if entry.session.is_storing() {
            // The client will send again what is not stored, and only its old session knows whether it is.
            entry.transfer = Some(Box::new(Transfer::Leaving(export.clone())));
            return;
        }
        self.leave(slot, export);
    }

    /// A later connection of the client must find all that its client has said here. A session that the shard has all of is gone
    /// by then, and an earlier claim may have begun one meanwhile.
    fn export_when_closed(&self, export: &Export, closed: oneshot::Receiver<Answer>) {
        let (node, id, export) = (Arc::clone(&self.node), self.id, export.clone());
        tokio::task::spawn_local(async move {
            // An error: this node's life has ended, and with it what others wait for.
            let _ = closed.await;
            node.mailboxes[usize::from(id)].send(Event::Transfer(Order::Export(export)));
        });
    }

    /// Gives a session away if that only waited for its publishes.
    pub(super) fn leave_if_stored(&mut self, slot: u32) {
        let Some(entry) = self.sessions.entry(slot) else { return };
        if let Some(Transfer::Leaving(export)) = entry.transfer.as_deref()
            && !entry.session.is_storing()
        {
            let export = export.clone();
            self.leave(slot, &export);
        }
    }

    fn leave(&mut self, slot: u32, export: &Export) {
        let now = self.now;
        let session = self.session_ref(slot);
        let Some(entry) = self.sessions.entry(slot) else { return };
        let bytes = entry.session.export(now);
        let Export { client_id, epoch, to, .. } = export.clone();
        entry.transfer = Some(Box::new(Transfer::Stub(Stub { client_id, epoch, to })));
        entry.update_load();
        self.metrics().sessions.decrement();
        self.node.stubs.insert(&export.client_id, export.epoch, session);
        // Everything that the client published here is on its way before it can publish on the other node.
        self.hand_over();
        self.node.registry.remove(&export.client_id, session);
        self.node.cluster.exported(&export.client_id, export.epoch, Some(bytes));
    }

    /// The stub of a session that went for this claim.
    fn stub_of(&mut self, client_id: &ClientId, epoch: ConnectionEpoch) -> Option<SessionRef> {
        let session = self.node.stubs.remove(client_id, epoch)?;
        self.sessions.entry_of(session.slot, session.epoch)?;
        Some(session)
    }

    fn take_back(&mut self, client_id: &ClientId, epoch: ConnectionEpoch) {
        let Some(here) = self.stub_of(client_id, epoch) else { return };
        match self.node.registry.find_or_insert(client_id, here) {
            Home::Existing(home) if home != here => self.drop_stub(here.slot),
            Home::Existing(_) | Home::Offered => self.revive(here.slot),
        }
    }

    /// Makes what is left of a session, which the registry names again, the session that it was, if that has not been done.
    pub(super) fn revive(&mut self, slot: u32) {
        let Some(entry) = self.sessions.entry(slot) else { return };
        let is_stub = |transfer: &mut Box<Transfer>| matches!(**transfer, Transfer::Stub(_));
        let Some(Transfer::Stub(stub)) = entry.transfer.take_if(is_stub).map(|transfer| *transfer) else {
            return;
        };
        entry.update_load();
        self.node.stubs.remove(&stub.client_id, stub.epoch);
        self.metrics().sessions.increment();
        self.remind(slot);
    }

    fn end_stub(&mut self, client_id: &ClientId, epoch: ConnectionEpoch) {
        let Some(here) = self.stub_of(client_id, epoch) else { return };
        let Some(entry) = self.sessions.entry(here.slot) else { return };
        if let Some(Transfer::Stub(stub)) = entry.transfer.as_deref() {
            let stub = stub.clone();
            self.end_of_stub(&stub);
        }
        self.drop_stub(here.slot);
        self.node.cluster.stub_ended(client_id, epoch);
    }

    /// Takes what is left of a session that has gone out of the router.
    fn drop_stub(&mut self, slot: u32) {
        let here = self.session_ref(slot);
        let Some(entry) = self.sessions.remove(slot) else { return };
        for subscription in entry.session.subscriptions() {
            self.withdraw(here, subscription);
        }
    }

    /// Makes the session of a client that has come from another node; returns its slot.
    ///
    /// # Errors
    /// What the other node sent is no session.
    pub(super) fn adopt_session(
        &mut self,
        client_id: &ClientId,
        claim: ConnectionEpoch,
        session: &Bytes,
    ) -> Result<Box<Entry>, flotilla_mqtt::session::ImportError> {
        let session = Session::import(session, client_id.clone(), Arc::clone(&self.node.limits), self.now)?;
        let mut entry = Entry::new(session);
        entry.transfer = Some(Box::new(Transfer::Gathering(Gathering {
            epoch: claim,
            // Until they are announced it is not known how many there are.
            outstanding: usize::MAX,
            routes_at: LogIndex::default(),
            passed_on: VecDeque::new(),
            own: VecDeque::new(),
            bytes: 0,
            leaving: None,
        })));
        Ok(entry)
    }

    /// Gives a session that has come what the old node has passed on already, before anything else can reach it.
    pub(super) fn take_early(&mut self, slot: u32) {
        let Some(entry) = self.sessions.entry(slot) else { return };
        let client_id = entry.session.client_id().clone();
        let here = self.session_ref(slot);
        for Early { message, options, stamp } in self.node.cluster.early(&client_id) {
            self.deliver_moved(here, &Transit::from_message(&message), &options, stamp);
        }
    }

    /// Makes the subscriptions of a session that has come known, here and to the other nodes.
    pub(super) fn announce_adopted(&mut self, slot: u32) {
        let here = self.session_ref(slot);
        let Some(entry) = self.sessions.entry(slot) else { return };
        let subscriptions: Vec<_> = entry.session.subscriptions().cloned().collect();
        if subscriptions.iter().any(|subscription| subscription.filter.is_shared()) {
            entry.load.get_or_insert_default();
        }
        let load = entry.load.clone().unwrap_or_default();
        let routes = Completion { session: here, what: Awaited::Adoption };
        let mut outstanding = 0;
        for subscription in &subscriptions {
            let terms = Terms::new(subscription.options, subscription.id);
            let subscriber = Subscriber { session: here, terms };
            let change = self.node.router.subscribe(&subscription.filter, subscriber, &load);
            self.metrics().subscriptions.increment();
            if subscription.filter.is_shared() {
                self.metrics().shared_subscriptions.increment();
            }
            if self.node.cluster.announce(&subscription.filter, change, Some(routes)) == Receipt::Later {
                outstanding += 1;
            }
        }
        let applied = self.node.router.remote().applied();
        let Some(entry) = self.sessions.entry(slot) else { return };
        if let Some(Transfer::Gathering(gathering)) = entry.transfer.as_deref_mut() {
            gathering.outstanding = outstanding;
            gathering.routes_at = applied;
        }
        if outstanding == 0 {
            self.settle(slot);
        }
    }

    /// A route of a session that has come is known since entry `at`.
    pub(super) fn adopted_route_known(&mut self, slot: u32, at: LogIndex) {
        let Some(entry) = self.sessions.entry(slot) else { return };
        let Some(Transfer::Gathering(gathering)) = entry.transfer.as_deref_mut() else { return };
        gathering.outstanding = gathering.outstanding.saturating_sub(1);
        gathering.routes_at = gathering.routes_at.max(at);
        if gathering.is_settled() {
            self.settle(slot);
        }
    }

    /// All nodes know, or will know, the routes from `routes_at` on: the old node may finish.
    fn settle(&mut self, slot: u32) {
        let Some(entry) = self.sessions.entry(slot) else { return };
        let client_id = entry.session.client_id().clone();
        let Some(Transfer::Gathering(gathering)) = entry.transfer.as_deref_mut() else { return };
        let (epoch, routes_at) = (gathering.epoch, gathering.routes_at);
        let passed_on = std::mem::take(&mut gathering.passed_on);
        for waiting in passed_on.into_iter().filter(|waiting| waiting.stamp < routes_at) {
            self.deliver_waiting(slot, &waiting);
        }
        self.node.cluster.settle(&client_id, epoch, routes_at);
    }

    /// Delivers to a session that has gone, or that has come and is not complete.
    pub(super) fn deliver_in_transfer(
        &mut self,
        to: SessionRef,
        message: &Transit<'_>,
        options: &DeliveryOptions,
        stamp: LogIndex,
    ) {
        let Some(entry) = self.sessions.entry_of(to.slot, to.epoch) else { return };
        match entry.transfer.as_deref_mut() {
            Some(Transfer::Stub(stub)) => {
                let stub = stub.clone();
                self.forward_moved(&stub, message, options, stamp);
            }
            Some(Transfer::Gathering(_)) => self.hold_back(to.slot, message, options, stamp, true),
            Some(Transfer::Arrived(routes_at)) if stamp < *routes_at => {}
            Some(Transfer::Leaving(_) | Transfer::Arrived(_)) | None => self.deliver(to, message, options),
        }
    }

    /// Delivers what the node that a session came from has passed on.
    pub(super) fn deliver_moved(
        &mut self,
        to: SessionRef,
        message: &Transit<'_>,
        options: &DeliveryOptions,
        stamp: LogIndex,
    ) {
        let Some(entry) = self.sessions.entry_of(to.slot, to.epoch) else { return };
        match entry.transfer.as_deref() {
            // It has moved on in the meantime.
            Some(Transfer::Stub(stub)) => {
                let stub = stub.clone();
                self.forward_moved(&stub, message, options, stamp);
            }
            Some(Transfer::Gathering(gathering)) if options.shared.is_none() => {
                match gathering.is_settled() {
                    false => self.hold_back(to.slot, message, options, stamp, false),
                    true if stamp < gathering.routes_at => self.deliver(to, message, options),
                    true => {} // It comes, or has come, directly.
                }
            }
            // A group's message is this one's alone, whenever it comes.
            _ => match &options.shared {
                Some(filter) if entry.session.subscriptions().any(|own| own.filter == *filter) => {
                    self.deliver(to, message, options);
                }
                Some(filter) => self.redispatch(to, vec![(Arc::clone(filter), message.keep())]),
                None => {} // For the session that came, which has ended since.
            },
        }
    }

    fn hold_back(
        &mut self,
        slot: u32,
        message: &Transit<'_>,
        options: &DeliveryOptions,
        stamp: LogIndex,
        is_own: bool,
    ) {
        let limits = Arc::clone(&self.node.limits);
        let Some(entry) = self.sessions.entry(slot) else { return };
        let Some(Transfer::Gathering(gathering)) = entry.transfer.as_deref_mut() else { return };
        let count = gathering.own.len() + gathering.passed_on.len();
        if count >= limits.queue_messages_max || gathering.bytes + message.size() > limits.queue_bytes_max {
            return self.count_drop(DropReason::QueueFull, 1);
        }
        gathering.bytes += message.size();
        let waiting = Waiting { message: message.keep(), options: options.clone(), stamp };
        let list = if is_own { &mut gathering.own } else { &mut gathering.passed_on };
        list.push_back(waiting);
    }

    fn end_gathering(&mut self, client_id: &ClientId, epoch: ConnectionEpoch) {
        let Some(slot) = self.slot_of(client_id) else { return };
        let Some(entry) = self.sessions.entry(slot) else { return };
        let is_it = |transfer: &mut Box<Transfer>| matches!(&**transfer, Transfer::Gathering(gathering) if gathering.epoch == epoch);
        let Some(Transfer::Gathering(gathering)) = entry.transfer.take_if(is_it).map(|transfer| *transfer)
        else {
            return;
        };
        if gathering.is_settled() {
            entry.transfer = Some(Box::new(Transfer::Arrived(gathering.routes_at)));
        }
        // Without the routes' entry the old node has ended before it could pass on everything: what came directly is all
        // there is.
        let (settled, routes_at) = (gathering.is_settled(), gathering.routes_at);
        let passed_on = gathering.passed_on.into_iter();
        let own = gathering.own.into_iter().filter(|waiting| !settled || waiting.stamp >= routes_at);
        for waiting in passed_on.chain(own) {
            self.deliver_waiting(slot, &waiting);
        }
        if let Some(export) = gathering.leaving {
            self.export(&export);
        }
    }

    /// What was to be passed on or given away has nobody to go to, and what was to come from another node does not come: the
    /// copies of sessions that have gone are dropped, and sessions that have come go on with what they have.
    fn forget_transfers(&mut self) {
        let slots: Vec<u32> = self.sessions.occupied().collect();
        for slot in slots {
            let Some(entry) = self.sessions.entry(slot) else { continue };
            let client_id = entry.session.client_id().clone();
            match entry.transfer.as_deref_mut() {
                Some(Transfer::Stub(stub)) => {
                    let epoch = stub.epoch;
                    self.node.stubs.remove(&client_id, epoch);
                    self.drop_stub(slot);
                }
                Some(Transfer::Leaving(_)) => entry.transfer = None,
                Some(Transfer::Gathering(gathering)) => {
                    gathering.leaving = None;
                    let epoch = gathering.epoch;
                    self.end_gathering(&client_id, epoch);
                }
                Some(Transfer::Arrived(_)) | None => {}
            }
        }
    }

    /// The connection of a grant has gone before it had the session. The one before it, if it is still there, was taken over
    /// all the same [MQTT-3.1.4-3].
    fn forsake(&mut self, client_id: &ClientId, tenure: Tenure) {
        let Some(slot) = self.slot_of(client_id) else { return self.node.cluster.release(client_id, tenure) };
        let Some(entry) = self.sessions.entry(slot).filter(|entry| entry.claim < tenure) else { return };
        entry.claim = tenure;
        if entry.link.is_some() {
            self.metrics().session_takenover.increment();
            self.end_link(slot, Cause::Server(ReasonCode::SessionTakenOver));
        } else {
            // That of the connection that never was.
            self.node.cluster.will_dropped(client_id, tenure);
        }
    }

    fn deliver_waiting(&mut self, slot: u32, waiting: &Waiting) {
        let to = self.session_ref(slot);
        self.deliver(to, &Transit::from_message(&waiting.message), &waiting.options);
    }

    fn displace(&mut self, client_id: &ClientId, tenure: Tenure) {
        let Some(slot) = self.slot_of(client_id) else { return };
        let Some(entry) = self.sessions.entry(slot) else { return };
        if entry.link.is_some() && entry.claim < tenure {
            self.metrics().session_takenover.increment();
            self.end_link(slot, Cause::Server(ReasonCode::SessionTakenOver));
        }
    }

    fn discard(&mut self, client_id: &ClientId, tenure: Tenure) {
        let Some(slot) = self.slot_of(client_id) else { return };
        let Some(entry) = self.sessions.entry(slot).filter(|entry| entry.claim <= tenure) else { return };
        // The will of that connection is the business of those who serve the client now.
        entry.session.forget_will();
        if entry.link.is_some() {
            self.end_link(slot, Cause::Server(ReasonCode::SessionTakenOver));
        }
        let now = self.now;
        let Some(slot) = self.slot_of(client_id) else { return };
        let Some(entry) = self.sessions.entry(slot) else { return };
        let ending = entry.session.end(now);
        self.finish(slot, ending);
    }
}

#[cfg(test)]
mod tests;
