//! Sessions and connections: how they begin, move, wait and end.

use std::{rc::Rc, sync::Arc};

use flotilla_mqtt::{
    ReasonCode, Timestamp,
    codec::{Decoder, SendBuffer},
    packet::PacketType,
    session::{Accepted, Cause, ClientId, Due, Ending, Refusal, Session},
};
use flotilla_registry::Tenure;
use tokio::{
    net::TcpStream,
    task::yield_now,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    Event, Worker, WorkerCell, bans,
    connection::{ConnectionTask, LinkRef, Peer},
    kept::KeptEntry,
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

/// A session that has ended.
struct Removed {
    client_id: ClientId,
    session: SessionRef,
    claim: Tenure,
}

/// Where a client's session is, from the point of view of one worker.
enum Place {
    Here {
        slot: u32,
        is_new: bool,
    },
    Worker(u16),
    /// The client has connected again since.
    Late,
}

/// How often a connection is handed on before it is refused: each time its session had just ended.
const HOPS_MAX: u8 = 8;
/// Sessions whose deadlines are looked at before others get their turn.
const DEADLINES_PER_TURN: usize = 1_024;

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
        match self.make_session(&arrival) {
            Place::Here { slot, is_new } => Some(self.begin(slot, is_new, arrival)),
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

    /// Makes the session of a connection, after it has ended whatever is in the way.
    fn make_session(&mut self, arrival: &Arrival) -> Place {
        let Arrival { accepted, claimed, .. } = arrival;
        loop {
            let (slot, epoch) = self.sessions.vacancy();
            let offer = SessionRef { worker: self.id, slot, epoch };
            let home = match self.node.registry.find_or_insert(&accepted.client_id, offer) {
                Home::Existing(home) => home,
                Home::Offered => {
                    let is_new = self.insert_session(arrival);
                    self.catch_up();
                    return Place::Here { slot, is_new };
                }
            };
            if home.worker != self.id {
                return Place::Worker(home.worker);
            }
            let Some(entry) = self.sessions.entry_of(home.slot, home.epoch) else {
                // Only a panic between the end of the session and that of its name leaves this behind.
                self.node.registry.remove(&accepted.client_id, home);
                continue;
            };
            if entry.claim > claimed.tenure {
                return Place::Late;
            }
            self.take_over(home.slot);
            self.end_remnant(home.slot);
        }
    }

    /// Puts the session of a client that has none on this node into the vacant slot; returns whether it is a new one.
    fn insert_session(&mut self, Arrival { accepted, claimed, .. }: &Arrival) -> bool {
        let kept = claimed.kept.as_ref().and_then(|kept| Some((kept, kept.session.as_ref()?)));
        let session = match kept {
            Some((kept, opened)) => self.restore_kept(kept, opened),
            None => Session::new(accepted.client_id.clone(), Arc::clone(&self.node.limits)),
        };
        self.sessions.insert(Entry::new(session));
        let is_new = kept.is_none_or(|(kept, _)| !kept.present);
        let metrics = self.metrics();
        metrics.sessions.increment();
        let begun = if is_new { &metrics.session_created } else { &metrics.session_resumed };
        begun.increment();
        is_new
    }

    /// Starts a connection on its session.
    fn begin(&mut self, slot: u32, is_new: bool, arrival: Arrival) -> LinkRef {
        let Arrival { stream, peer, mut accepted, claimed, rest, .. } = arrival;
        if claimed.kept.is_some() {
            accepted.will = None; // The shard has it.
        }
        let now = self.now;
        let limits = Arc::clone(&self.node.limits);
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
        let id = self.next_link;
        self.next_link = self.next_link.wrapping_add(1);
        let entry = self.sessions.entry(slot).expect("the session was found");
        entry.claim = claimed.tenure;
        entry.kept = claimed.kept.as_deref().map(|kept| Box::new(KeptEntry::new(kept)));
        let is_kept = entry.session.is_kept();
        entry.session.connect(now, accepted);
        entry.session.resume(now, &mut out);
        entry.link = Some(Box::new(Link {
            id,
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
            slow: None,
            waker: None,
        }));
        entry.update_load();
        self.node.cluster.attached(&client_id, claimed.tenure);
        if is_kept {
            self.begin_kept(slot);
        }
        let metrics = &self.node.metrics[usize::from(self.id)];
        metrics.connections.increment();
        metrics.client_connected.increment();
        metrics.packets_sent(PacketType::ConnAck, 1);
        self.announce_event(slot, None, connected);
        self.note_progress(slot);
        self.mark_dirty(slot);
        self.remind(slot);
        let link = LinkRef { slot, link: id };
        // A ban that has come since its CONNECT.
        if self.close_if_banned(slot) {
            return link;
        }
        // What the client sent behind its CONNECT is handled after the CONNACK.
        self.guard(slot, |worker| worker.receive(link, &rest));
        self.replay(slot);
        link
    }

    /// Ends a session's connection; the client is told when the server is the one who ends it.
    pub(super) fn end_link(&mut self, slot: u32, cause: Cause) {
        let now = self.now;
        let Some(entry) = self.sessions.entry(slot) else { return };
        let Some(mut link) = entry.link.take() else { return };
        if let Cause::Server(reason) = cause {
            entry.session.write_disconnect(reason, &mut link.out);
        }
        let tally = link.out.take_tally();
        let mut ending = entry.session.disconnect(now, cause);
        entry.update_load();
        if let Some(unfinished) = &mut entry.unfinished {
            // Nobody is there to be answered; the retained messages are sent when the client is back.
            unfinished.subscribing.clear();
            unfinished.unsubscribing.clear();
            let asked = unfinished.replays.take_asked();
            forget_look_up(&self.node, asked);
        }
        if self.close_kept(slot, cause) {
            // The shard has all of it.
            ending.ended = true;
        }
        let metrics = self.metrics();
        metrics.tally(&tally);
        metrics.connections.decrement();
        metrics.client_disconnected.increment();
        self.announce_event(slot, Some(&link.peer), ClientEvent::Disconnected(cause));
        link.wake();
        self.see_off(*link, cause);
        self.finish(slot, ending);
        self.remind(slot);
    }

    /// Closes a socket: at once if there is nobody to talk to, else after the last bytes.
    fn see_off(&mut self, link: Link, cause: Cause) {
        let Link { stream, out, peer, .. } = link;
        if cause == Cause::ConnectionLost {
            return self.node.sockets[usize::from(peer.listener)].leave();
        }
        self.say_farewell(Farewell { stream, out, listener: peer.listener });
    }

    /// Does what follows from the end of a connection, a delay or a session.
    pub(super) fn finish(&mut self, slot: u32, ending: Ending) {
        let publisher = self.session_ref(slot);
        let removed = if ending.ended { self.remove_session(slot) } else { None };
        if let Some(will) = ending.will.filter(|_| self.node.cluster.is_serving()) {
            // A session that goes on has published it itself, as far as No Local is concerned [MQTT-3.8.3-3].
            self.publish_will(&will, publisher);
        }
        if let Some(Removed { client_id, session, claim }) = removed {
            // Only when everything of the old session is on its way may the client begin a new one on another worker,
            // so that nothing it sends there comes before this (see `catch_up`) [MQTT-4.6.0-6].
            self.hand_over();
            self.node.registry.remove(&client_id, session);
            self.node.cluster.release(&client_id, claim);
        }
    }

    /// Forgets a session that has ended; its client identifier remains taken.
    fn remove_session(&mut self, slot: u32) -> Option<Removed> {
        let here = self.session_ref(slot);
        let mut entry = self.sessions.remove(slot)?;
        let client_id: ClientId = entry.session.client_id().clone();
        let subscriptions: Vec<_> = entry.session.subscriptions().cloned().collect();
        for subscription in &subscriptions {
            self.withdraw(here, subscription);
        }
        let orphans = entry.session.take_shared(None);
        self.redispatch(here, orphans);
        self.metrics().sessions.decrement();
        self.metrics().session_terminated.increment();
        Some(Removed { client_id, session: here, claim: entry.claim })
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
        let link = entry.link.as_ref();
        let packet = link
            .and_then(|link| link.partial.as_ref())
            .map(|partial| partial.since + node.config.mqtt.packet_timeout);
        let write =
            link.and_then(|link| link.blocked_since).map(|since| since + node.config.mqtt.write_timeout);
        let direct = entry.unfinished.as_ref().and_then(|unfinished| unfinished.replays.next_deadline());
        [entry.session.next_deadline(), packet, write, direct].into_iter().flatten().min()
    }

    /// Looks at some of the sessions in `due`, and takes them out of it.
    fn check_deadlines(&mut self, due: &mut Vec<Reminder>) {
        let rest = due.len().saturating_sub(DEADLINES_PER_TURN);
        for Reminder { slot, epoch } in due.drain(rest..) {
            let Some(entry) = self.sessions.entry_of(slot, epoch) else { continue };
            if self.timers.is_next(&mut entry.next_reminder) {
                self.guard(slot, |worker| worker.check_deadline(slot));
                self.remind(slot);
            }
        }
    }

    fn check_deadline(&mut self, slot: u32) {
        let now = self.now;
        self.directs_come(slot);
        let mqtt = &self.node.config.mqtt;
        let (packet_timeout, write_timeout) = (mqtt.packet_timeout, mqtt.write_timeout);
        let Some(entry) = self.sessions.entry(slot) else { return };
        if let Some(link) = &entry.link {
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
        }
        match entry.session.handle_deadline(now) {
            Due::Nothing => {}
            Due::KeepAliveTimeout => self.end_link(slot, Cause::Server(ReasonCode::KeepAliveTimeout)),
            Due::Ending(ending) => self.finish(slot, ending),
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
            cell.with(|worker| worker.check_deadlines(&mut due));
            // A million sessions that expire together must not hold up the others.
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
        while let Some(event) = cell.with(|worker| worker.events.pop_front()) {
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
                Event::Adopt(adoption) => adopt(cell, *adoption),
                Event::Accepted(stream, peer) => match TcpStream::from_std(stream) {
                    Ok(stream) => super::opening::spawn(cell, stream, peer),
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
