//! Sessions and connections: how they begin, move, wait and end.

use std::{rc::Rc, sync::Arc};

use flotilla_mqtt::{
    ReasonCode, Timestamp,
    codec::{Decoder, SendBuffer},
    packet::PacketType,
    session::{Accepted, Cause, Refusal, Session, SessionExpiry},
};
use tokio::{
    net::TcpStream,
    task::yield_now,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    Event, Worker, WorkerCell, bans,
    connection::{ConnectionTask, LinkRef, Peer},
    kept::{KeptEntry, restore_kept},
    link::{Farewell, Link},
    mailbox::Adoption,
    replay::forget_look_up,
    sessions::Entry,
    timers::{Reminder, TICK},
};
use crate::{cluster::Claimed, registry::Home, router::SessionRef, sys::ClientEvent};

/// A connection that is ready for its session.
pub(super) struct Arrival {
    pub(super) stream: TcpStream,
    pub(super) peer: Peer,
    pub(super) accepted: Accepted,
    pub(super) claimed: Claimed,
    /// Bytes that were read after the CONNECT.
    pub(super) rest: Vec<u8>,
    pub(super) hops: u8,
}

/// Where a client's session is, from the point of view of one worker.
enum Place {
    /// Nowhere: it begins here, in the slot that is vacant.
    Here,
    /// On this worker.
    Worker(u16),
    /// The client has connected again since.
    Late,
}

/// How often a connection is handed on before it is refused: each time its session had just ended.
const HOPS_MAX: u8 = 8;

impl Worker {
    /// Gives a connection its session, or hands it to the worker that has the session.
    pub(super) fn attach(&mut self, arrival: Arrival) -> Option<LinkRef> {
        if self.stopping.is_some() {
            self.drop_arrival(&arrival.peer, &arrival.accepted, &arrival.claimed);
            return None;
        }
        if !self.node.cluster.is_serving() {
            self.refuse_arrival(arrival, ReasonCode::ServerUnavailable);
            return None;
        }
        match self.find_place(&arrival) {
            Place::Here => Some(self.begin(arrival)),
            Place::Late => {
                self.refuse_arrival(arrival, ReasonCode::ServerBusy);
                None
            }
            Place::Worker(worker) => {
                if arrival.hops >= HOPS_MAX {
                    self.refuse_arrival(arrival, ReasonCode::ServerBusy);
                    return None;
                }
                let Arrival { stream, peer, accepted, claimed, rest, hops } = arrival;
                match stream.into_std() {
                    Ok(stream) => {
                        let adoption = Adoption { stream, peer, accepted, claimed, rest, hops: hops + 1 };
                        self.node.mailboxes[usize::from(worker)].send(Event::Adopt(Box::new(adoption)));
                    }
                    Err(_) => self.drop_arrival(&peer, &accepted, &claimed),
                }
                None
            }
        }
    }

    /// Forgets a connection whose socket is gone.
    fn drop_arrival(&self, peer: &Peer, accepted: &Accepted, claimed: &Claimed) {
        self.node.sockets[usize::from(peer.listener)].leave();
        self.node.cluster.abandon(&accepted.client_id, claimed);
    }

    /// Says in the CONNACK that a connection cannot be served, and closes it.
    fn refuse_arrival(&mut self, arrival: Arrival, reason: ReasonCode) {
        self.node.cluster.abandon(&arrival.accepted.client_id, &arrival.claimed);
        let refusal = Refusal { version: arrival.accepted.version, reason };
        let mut out = SendBuffer::new();
        refusal.write_connack(out.tail());
        self.metrics().packets_sent(PacketType::ConnAck, 1);
        self.say_farewell(Farewell { stream: arrival.stream, out, listener: arrival.peer.listener });
    }

    /// Finds out where the session of a connection begins, after it has ended whatever is in the way.
    fn find_place(&mut self, arrival: &Arrival) -> Place {
        let Arrival { accepted, claimed, .. } = arrival;
        loop {
            let (slot, epoch) = self.sessions.vacancy();
            let offer = SessionRef { worker: self.id, slot, epoch };
            let home = match self.node.registry.find_or_insert(&accepted.client_id, offer) {
                Home::Existing(home) => home,
                Home::Offered => return Place::Here,
            };
            if home.worker != self.id {
                return Place::Worker(home.worker);
            }
            let Some(entry) = self.sessions.entry_of(home.slot, home.epoch) else {
                // Only a panic between the beginning of the name and that of the session leaves this behind.
                self.node.registry.remove(&accepted.client_id, home);
                continue;
            };
            if entry.claim > claimed.tenure {
                return Place::Late;
            }
            self.take_over(home.slot);
        }
    }

    /// Begins the session of a connection, in the vacant slot.
    fn begin(&mut self, arrival: Arrival) -> LinkRef {
        let Arrival { stream, peer, accepted, claimed, rest, .. } = arrival;
        let kept = claimed.kept.as_deref();
        let is_new = kept.is_none_or(|kept| kept.session.is_none() || !kept.present);
        let (now, limits) = (self.now, Arc::clone(&self.node.limits));
        let mut out = SendBuffer::new();
        out.lend_storage(self.spare.take());
        accepted.write_connack(&limits, !is_new, out.tail());
        let mut decoder = Decoder::server(limits.max_packet_size.get());
        decoder.set_version(accepted.version);
        let client_id = accepted.client_id.clone();
        let connected = ClientEvent::Connected {
            clean_start: accepted.clean_start,
            keep_alive: accepted.keep_alive,
            receive_maximum: accepted.receive_maximum.get(),
        };
        debug_assert!(kept.is_some() || accepted.will.is_none(), "a will is in a shard");
        let session = match kept.and_then(|kept| kept.session.as_ref()) {
            Some(opened) => restore_kept(now, accepted, limits, opened),
            None => Session::new(now, accepted, limits),
        };
        debug_assert!(
            session.is_kept() || session.expiry() == SessionExpiry::AtDisconnect,
            "what outlives its connection is in a shard"
        );
        let link = Link {
            stream,
            peer,
            decoder,
            out,
            partial: None,
            backlog: None,
            blocked_since: None,
            is_dirty: false,
            is_paused: false,
            is_throttled: false,
            has_published: false,
            slow: None,
            left: None,
            waker: None,
        };
        let kept = kept.map(|kept| Box::new(KeptEntry::new(kept)));
        let slot = self.sessions.insert(Entry::new(session, link, claimed.tenure, kept));
        let at = LinkRef { slot, epoch: self.sessions.epoch(slot) };
        let metrics = self.metrics();
        metrics.sessions.increment();
        let begun = if is_new { &metrics.session_created } else { &metrics.session_resumed };
        begun.increment();
        metrics.connections.increment();
        metrics.client_connected.increment();
        metrics.packets_sent(PacketType::ConnAck, 1);
        self.node.cluster.attached(&client_id, claimed.tenure);
        self.guard(slot, |worker| {
            worker.catch_up();
            worker.greet(at, connected, &rest);
        });
        at
    }

    /// A session has begun.
    fn greet(&mut self, at: LinkRef, connected: ClientEvent<'_>, rest: &[u8]) {
        let slot = at.slot;
        if self.is_kept(slot) {
            self.begin_kept(slot);
        }
        self.announce_event(slot, connected);
        self.mark_dirty(slot);
        self.remind(slot);
        // A ban that has come since its CONNECT.
        if !self.close_if_banned(slot) {
            // What the client sent behind its CONNECT is handled after the CONNACK.
            self.receive(at, rest);
        }
    }

    /// Ends a connection and the session with it, but for what a shard keeps; the client is told when the server is the one who ends
    /// it.
    pub(super) fn end_link(&mut self, slot: u32, cause: Cause) {
        let Some((epoch, mut entry)) = self.sessions.remove(slot) else { return };
        // Whatever ends the session of a client that has gone, that is why it ends.
        let cause = entry.link.left.unwrap_or(cause);
        let session = SessionRef { worker: self.id, slot, epoch };
        let (client_id, claim) = (entry.session.client_id().clone(), entry.claim);
        if let Cause::Server(reason) = cause {
            entry.session.write_disconnect(reason, &mut entry.link.out);
        }
        let metrics = self.metrics();
        metrics.tally(&entry.link.out.take_tally());
        metrics.connections.decrement();
        metrics.client_disconnected.increment();
        metrics.sessions.decrement();
        metrics.session_terminated.increment();
        // Whatever goes wrong with what it leaves, it is gone.
        self.catch(|worker| worker.wind_up(session, *entry, cause));
        // Only when everything of the old session is on its way may the client begin a new one on another worker, so that nothing
        // it sends there comes before this (see `catch_up`) [MQTT-4.6.0-6].
        self.hand_over();
        self.node.registry.remove(&client_id, session);
        self.node.cluster.release(&client_id, claim);
    }

    /// Gives away what a session leaves that has ended; its client identifier remains taken.
    fn wind_up(&mut self, here: SessionRef, entry: Entry, cause: Cause) {
        let Entry { mut session, link, unfinished, kept, .. } = entry;
        link.wake();
        let Link { stream, out, peer, .. } = link;
        self.see_off(Farewell { stream, out, listener: peer.listener }, cause);
        let asked = unfinished.and_then(|mut unfinished| unfinished.replays.take_asked());
        forget_look_up(&self.node, asked);
        if let Some(kept) = kept {
            self.close_kept(here, *kept, &mut session, cause);
        }
        self.announce_end(&session, &peer, cause);
        for subscription in session.subscriptions() {
            self.withdraw(here, subscription);
        }
        self.redispatch(here, session.end());
    }

    /// Closes a socket: at once if there is nobody to talk to, or nothing to say after the client's goodbye, else after the last bytes.
    fn see_off(&mut self, farewell: Farewell, cause: Cause) {
        let is_silent = matches!(cause, Cause::Normal | Cause::WithWill(_)) && farewell.out.is_empty();
        if cause == Cause::ConnectionLost || is_silent {
            return self.node.sockets[usize::from(farewell.listener)].leave();
        }
        self.say_farewell(farewell);
    }

    /// Makes sure that the session is looked at when its next deadline comes.
    pub(super) fn remind(&mut self, slot: u32) {
        let Some(at) = self.next_deadline(slot) else { return };
        let epoch = self.sessions.epoch(slot);
        let Some(entry) = self.sessions.entry(slot) else { return };
        self.timers.remind(at, Reminder { slot, epoch }, &mut entry.next_reminder);
    }

    fn next_deadline(&mut self, slot: u32) -> Option<Timestamp> {
        let node = Arc::clone(&self.node);
        let entry = self.sessions.entry(slot)?;
        let (link, mqtt) = (&entry.link, &node.config.mqtt);
        let packet = link.partial.as_ref().map(|partial| partial.since + mqtt.packet_timeout);
        let write = link.blocked_since.map(|since| since + mqtt.write_timeout);
        let direct = entry.unfinished.as_ref().and_then(|unfinished| unfinished.replays.next_deadline());
        [entry.session.next_deadline(), packet, write, direct].into_iter().flatten().min()
    }

    /// Looks at one of the sessions in `due`, and takes it out of it; whether there was one.
    fn check_next(&mut self, due: &mut Vec<Reminder>) -> bool {
        let Some(Reminder { slot, epoch }) = due.pop() else { return false };
        if let Some(entry) = self.sessions.entry_of(slot, epoch)
            && self.timers.is_next(&mut entry.next_reminder)
        {
            self.guard(slot, |worker| worker.check_deadline(slot));
            self.remind(slot);
        }
        true
    }

    fn check_deadline(&mut self, slot: u32) {
        let now = self.now;
        self.directs_come(slot);
        let mqtt = &self.node.config.mqtt;
        let (packet_timeout, write_timeout) = (mqtt.packet_timeout, mqtt.write_timeout);
        let Some(entry) = self.sessions.entry(slot) else { return };
        let link = &entry.link;
        if link.blocked_since.is_some_and(|since| since + write_timeout <= now) {
            tracing::info!(peer = %link.peer.addr, "client does not read, closing connection");
            return self.end_link(slot, Cause::ConnectionLost);
        }
        if entry.session.is_stuck(now) {
            tracing::info!(peer = %link.peer.addr, client_id = ?entry.session.client_id().as_str(), "what the client has published is not kept in time, closing connection");
            return self.end_link(slot, Cause::Server(ReasonCode::ServerBusy));
        }
        if link.is_paused {
            // The client may have sent all that it should: it is not read.
            return;
        }
        if link.partial.as_ref().is_some_and(|partial| partial.since + packet_timeout <= now) {
            tracing::info!(peer = %link.peer.addr, "packet takes too long, closing connection");
            // Malformed, as far as anybody can tell: the rest of it never came.
            return self.end_link(slot, Cause::Server(ReasonCode::MalformedPacket));
        }
        if entry.session.is_silent(now) {
            self.end_link(slot, Cause::Server(ReasonCode::KeepAliveTimeout));
        }
    }

    /// Delivers what other workers have handed over so far: a client that begins a session here may have published on one
    /// of them a moment ago, and that must not be overtaken by what it publishes here.
    fn catch_up(&mut self) {
        self.take_events();
        for event in std::mem::take(&mut self.events) {
            match event {
                Event::Batch(batch) => self.deliver_batch(batch),
                other => self.events.push_back(other),
            }
        }
    }

    fn take_events(&mut self) {
        self.node.mailboxes[usize::from(self.id)].take(&mut self.events);
    }

    /// Closes every connection; new ones are refused from here on.
    fn stop(&mut self, reason: ReasonCode) {
        self.stopping = Some(reason);
        self.close_all(reason);
    }

    /// This node may not act for the cluster any more: it closes every connection.
    fn fence(&mut self, reason: ReasonCode) {
        self.close_all(reason);
        // What other nodes have taken, this one does not hear any more.
        self.outstanding.clear();
        self.wills.clear();
    }

    fn close_all(&mut self, reason: ReasonCode) {
        let connected: Vec<u32> = self.sessions.occupied().collect();
        for slot in connected {
            self.end_link(slot, Cause::Server(reason));
        }
    }
}

/// Looks at the sessions whose reminder has come.
pub(super) async fn watch_deadlines(cell: Rc<WorkerCell>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut due = Vec::new();
    loop {
        ticks.tick().await;
        cell.with(|worker| {
            let now = worker.now;
            worker.timers.advance(now, &mut due);
            worker.end_patience();
        });
        while !due.is_empty() {
            cell.with_turn(|worker| worker.check_next(&mut due));
            // A million connections that time out together must not hold up the others.
            yield_now().await;
        }
    }
}

/// Handles what other threads want, until the worker has stopped.
pub(super) async fn handle_events(cell: &Rc<WorkerCell>) {
    let node = cell.with(|worker| Arc::clone(&worker.node));
    let id = cell.with(|worker| worker.id);
    loop {
        node.mailboxes[usize::from(id)].wait().await;
        cell.with(Worker::take_events);
        let mut began = node.clock.now();
        loop {
            if node.clock.now() > began {
                // Thousands of wills of clients that died together must not hold up the others. While these have their turn, all events
                // are in the queue: whoever catches up must find the oldest.
                yield_now().await;
                began = node.clock.now();
            }
            let Some(event) = cell.with(|worker| worker.events.pop_front()) else { break };
            match event {
                Event::Batch(batch) => cell.with(|worker| worker.deliver_batch(batch)),
                Event::Completed(completions, reason) => {
                    cell.with(|worker| worker.complete_all(&completions, reason));
                }
                Event::Order(order) => cell.with(|worker| worker.handle_order(order)),
                Event::Answered(answers) => cell.with(|worker| worker.answered_all(answers)),
                Event::LookedUp(who, shard, page) => {
                    cell.with(|worker| worker.looked_up(who, shard, &page));
                }
                Event::Losses(losses) => cell.with(|worker| worker.count_losses(losses)),
                Event::ShardLed(shard) => cell.with(|worker| worker.attach_all(shard)),
                Event::ShardWill(origin, will) => {
                    cell.with(|worker| worker.publish_shard_will(origin, &will));
                }
                Event::Redispatch(filter, message) => {
                    cell.with(|worker| worker.redispatch_lost(&filter, &message));
                }
                Event::Clients(query) => cell.with(|worker| worker.list_clients(query)),
                Event::Banned => bans::close_all(cell).await,
                Event::Fence(reason) => cell.with(|worker| worker.fence(reason)),
                Event::Decongested => cell.with(Worker::end_congestion),
                Event::Memory(level) => cell.with(|worker| worker.set_memory(level)),
                Event::Shed(bytes) => cell.with(|worker| worker.shed(bytes)),
                Event::Adopt(adoption) => adopt(cell, *adoption),
                Event::Accepted(stream, peer, connecting) => match TcpStream::from_std(stream) {
                    Ok(stream) => super::opening::spawn(cell, stream, peer, connecting),
                    Err(_) => node.sockets[usize::from(peer.listener)].leave(),
                },
                Event::Stop(reason) => {
                    cell.with(|worker| worker.stop(reason));
                    while cell.with(|worker| !worker.closing.is_empty()) || cell.in_passing.get() > 0 {
                        sleep(TICK / 10).await;
                    }
                    return;
                }
            }
        }
    }
}

/// Serves a connection that another worker accepted for a session that is here.
fn adopt(cell: &Rc<WorkerCell>, adoption: Adoption) {
    let Adoption { stream, peer, accepted, claimed, rest, hops } = adoption;
    let Ok(stream) = TcpStream::from_std(stream) else {
        return cell.with(|worker| worker.drop_arrival(&peer, &accepted, &claimed));
    };
    let arrival = Arrival { stream, peer, accepted, claimed, rest, hops };
    if let Some(link) = cell.with(|worker| worker.attach(arrival)) {
        tokio::task::spawn_local(ConnectionTask::Open(Rc::clone(cell), link));
    }
}
