//! The task of one connection.

use std::{
    future::Future,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use flotilla_mqtt::{ReasonCode, codec::SHARED_PAYLOAD_MIN, session::Cause};

use super::{
    Slow, Worker, WorkerCell,
    link::{Link, Partial},
    sessions::Entry,
};
use crate::overload::Level;

/// Where a client connects from, and as whom.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) addr: SocketAddr,
    /// The number of the listener.
    pub(crate) listener: u16,
    pub(crate) username: Option<Box<str>>,
}

/// The task of one connection. What happens before the session is there is rare and large, so it is boxed; what
/// remains while the connection is idle is this.
pub(super) enum ConnectionTask {
    /// Until the CONNACK.
    Opening(Rc<WorkerCell>, Pin<Box<dyn Future<Output = Option<LinkRef>>>>),
    /// From the CONNACK on.
    Open(Rc<WorkerCell>, LinkRef),
}

/// Names a connection of this worker: the slot of its session, and the epoch, so that the task of an old connection knows that a
/// later one is not meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkRef {
    pub(super) slot: u32,
    pub(super) epoch: u32,
}

/// Reads of one connection before others get their turn.
const READS_PER_TURN: usize = 2;
/// Deliveries that the packets of one connection may cause before others get their turn: one read may hold thousands of
/// publishes, each for thousands of subscribers.
const DELIVERIES_PER_TURN: usize = 16_384;

impl Future for ConnectionTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::Opening(cell, opening) = &mut *self {
            // A panic is counted with the others, and ends this task.
            match catch_unwind(AssertUnwindSafe(|| opening.as_mut().poll(cx))) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(None)) => return Poll::Ready(()),
                Err(_) => {
                    cell.with(|worker| worker.note_panic());
                    return Poll::Ready(());
                }
                Ok(Poll::Ready(Some(link))) => {
                    let cell = Rc::clone(cell);
                    *self = Self::Open(cell, link);
                }
            }
        }
        let Self::Open(cell, link) = &*self else { return Poll::Ready(()) };
        let mut scratch = cell.scratch.borrow_mut();
        let polled =
            cell.with(|worker| worker.guard(link.slot, |worker| worker.poll_link(*link, cx, &mut scratch)));
        polled.unwrap_or(Poll::Ready(()))
    }
}

impl Worker {
    /// Reads and handles what a connection has sent. Ready when the connection is over.
    fn poll_link(&mut self, at: LinkRef, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<()> {
        self.deliveries = 0;
        self.slow = None;
        for _ in 0..READS_PER_TURN {
            let Some(link) = self.link(at) else { return Poll::Ready(()) };
            if link.waker.is_none() {
                link.waker = Some(cx.waker().clone());
            }
            self.write_on(at, cx);
            self.note_slow(at);
            if self.must_pause(at) {
                return Poll::Pending;
            }
            let Some(link) = self.link(at) else { return Poll::Ready(()) };
            if let Some(backlog) = link.backlog.take() {
                self.receive(at, &backlog);
                break;
            }
            match link.poll_read(cx, scratch) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.leave(at, Cause::ConnectionLost);
                    return Poll::Ready(());
                }
                Poll::Ready(Ok(read)) => {
                    self.metrics().bytes_received.add(read as u64);
                    self.receive(at, &scratch[..read]);
                }
            }
            if self.is_turn_over() {
                break;
            }
        }
        self.note_slow(at);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what the socket did not take before, until it takes no more. Only a `Pending` of the socket makes it wake
    /// the task: one that took a part must be asked again.
    fn write_on(&mut self, at: LinkRef, cx: &mut Context<'_>) {
        while let Some(link) = self.link(at)
            && link.blocked_since.is_some()
            && link.stream.poll_write_ready(cx).is_ready()
        {
            self.flush(at.slot);
        }
    }

    /// The session of a connection, unless that is over.
    fn entry_at(&mut self, at: LinkRef) -> Option<&mut Entry> {
        self.sessions.entry_of(at.slot, at.epoch).filter(|entry| entry.link.left.is_none())
    }

    /// The connection, unless it is over.
    pub(super) fn link(&mut self, at: LinkRef) -> Option<&mut Link> {
        self.entry_at(at).map(|entry| &mut entry.link)
    }

    /// Whether a connection must not be read now. What ends the reason wakes its task.
    fn must_pause(&mut self, at: LinkRef) -> bool {
        let now = self.now;
        let output_max = self.node.limits.output_buffer_max;
        let slow = self.link(at).and_then(|link| link.slow);
        let cluster = &self.node.cluster;
        let is_short = self.memory >= Level::High;
        let waits_for_node = slow.is_some_and(|slow| match slow {
            Slow::Node(node) => cluster.is_congested(node),
            Slow::Shard(shard) => cluster.shards().is_some_and(|shards| shards.is_congested(shard)),
        });
        let is_congested = waits_for_node || self.node.mailboxes.iter().any(super::Mailbox::is_congested);
        let Some(entry) = self.entry_at(at) else { return false };
        let is_saturated = entry.session.is_saturated() || entry.is_subscribing_much() || entry.is_looking();
        let link = &mut entry.link;
        // The client does not read, so neither do we; or too many of its publishes wait to be stored, or of its SUBSCRIBEs to
        // be known everywhere, or one for retained messages, or it waits for others, or publishes while memory is short.
        let must_wait = is_congested || (is_short && link.has_published);
        link.has_published &= is_short;
        let pause = link.out.len() >= output_max || is_saturated || must_wait;
        if link.is_paused && !pause {
            // How long we did not read is not the client's fault.
            entry.session.handle_resumed(now);
            if let Some(partial) = &mut link.partial {
                partial.since = now;
            }
        }
        link.is_paused = pause;
        if !waits_for_node {
            link.slow = None;
        }
        if must_wait && !link.is_throttled {
            link.is_throttled = true;
            self.throttled.push(at);
        }
        pause
    }

    /// A connection that has just sent to a node that does not keep up waits for it.
    fn note_slow(&mut self, at: LinkRef) {
        if let Some(slow) = self.slow.take()
            && let Some(link) = self.link(at)
        {
            link.slow = Some(slow);
        }
    }

    /// Lets those read again who waited for another worker or node, or for memory.
    pub(super) fn end_congestion(&mut self) {
        for at in std::mem::take(&mut self.throttled) {
            if let Some(link) = self.link(at) {
                link.is_throttled = false;
                link.wake();
            }
        }
        self.end_hold_up();
    }

    /// Handles bytes from a client.
    pub(super) fn receive(&mut self, at: LinkRef, mut bytes: &[u8]) {
        if let Some(link) = self.link(at)
            && let Some(mut partial) = link.partial.take()
        {
            let decoder = link.decoder;
            let whole = loop {
                let missing = match decoder.header(&partial.bytes) {
                    Ok(Some(header)) => header.packet_len() - partial.bytes.len(),
                    Ok(None) => 1,
                    Err(error) => return self.refuse(at, &error),
                };
                if missing == 0 {
                    break true;
                }
                let (part, rest) = bytes.split_at(missing.min(bytes.len()));
                partial.bytes.extend_from_slice(part);
                bytes = rest;
                if part.is_empty() {
                    break false;
                }
            };
            if !whole {
                link.partial = Some(partial);
                return;
            }
            let packet = partial.bytes.freeze();
            let backing = (packet.len() >= SHARED_PAYLOAD_MIN).then_some(&packet);
            self.handle_bytes(at, &packet, backing);
        }
        let rest = self.handle_bytes(at, bytes, None);
        if !self.is_turn_over() && !self.is_looking(at) {
            self.keep_partial(at, rest);
        } else if let Some(link) = self.link(at)
            && !rest.is_empty()
        {
            link.backlog = Some(rest.into());
        }
    }

    /// Whether a connection has caused so many deliveries that others must get their turn first.
    fn is_turn_over(&self) -> bool {
        self.deliveries >= DELIVERIES_PER_TURN
    }

    /// Whether what comes next from a client has to wait for retained messages.
    fn is_looking(&mut self, at: LinkRef) -> bool {
        self.entry_at(at).is_some_and(|entry| entry.is_looking())
    }

    /// Handles the whole packets at the start of `bytes` until the turn is over, or they have to wait; returns what is left.
    fn handle_bytes<'a>(&mut self, at: LinkRef, mut bytes: &'a [u8], backing: Option<&Bytes>) -> &'a [u8] {
        let Some(entry) = self.entry_at(at) else { return &[] };
        let publisher = entry.session.client_id().clone();
        while !bytes.is_empty() && !self.is_turn_over() && !self.is_looking(at) {
            let Some(link) = self.link(at) else { return &[] };
            match link.decoder.decode(bytes) {
                Ok(Some((packet, len))) => {
                    self.handle_packet(at, &publisher, packet, backing);
                    bytes = &bytes[len..];
                }
                Ok(None) => break,
                Err(error) => {
                    self.refuse(at, &error);
                    return &[];
                }
            }
        }
        // Whoever only publishes at QoS 0 is answered nothing and never flushed.
        self.take_back_storage(at.slot);
        bytes
    }

    /// Keeps the beginning of a packet until the rest of it comes.
    fn keep_partial(&mut self, at: LinkRef, rest: &[u8]) {
        let now = self.now;
        if let Some(link) = self.link(at)
            && !rest.is_empty()
        {
            link.partial = Some(Box::new(Partial { bytes: BytesMut::from(rest), since: now }));
            self.remind(at.slot);
        }
    }

    /// Ends a connection because of what it sent.
    fn refuse(&mut self, at: LinkRef, error: &flotilla_mqtt::codec::DecodeError) {
        let reason: ReasonCode = error.reason();
        if let Some(link) = self.link(at) {
            tracing::info!(peer = %link.peer.addr, %error, ?reason, "closing connection");
        }
        self.metrics().client_errors.increment();
        self.end_link(at.slot, Cause::Server(reason));
    }
}
