//! Packets from clients, and messages into the broker.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_mqtt::{
    Message, QoS, ReasonCode, Transit,
    codec::forward_properties,
    packet::{Auth, Packet, PacketType},
    session::{Authenticator, Cause, ClientId, Incoming, Request, Ticket},
};

use flotilla_lane::Origin;
use flotilla_state::ShardId;

use super::{
    Worker,
    connection::LinkRef,
    delivery::{Reach, Routed},
};
use crate::{
    auth::Anonymous,
    cluster::{Awaited, Completion},
    retained::{is_of_this_node, is_own},
    router::SessionRef,
};

/// What becomes of a message with RETAIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retain {
    /// This shard keeps it.
    At(ShardId),
    /// There are as many as there may be.
    Full,
}

impl Retain {
    fn shard(self) -> Option<ShardId> {
        match self {
            Self::At(shard) => Some(shard),
            Self::Full => None,
        }
    }
}

impl Worker {
    /// Handles one packet of a client.
    pub(super) fn handle_packet(
        &mut self,
        at: LinkRef,
        publisher: &ClientId,
        packet: Packet<'_>,
        backing: Option<&Bytes>,
    ) {
        let now = self.now;
        let packet_type = packet.packet_type();
        self.metrics().packet_received(packet_type);
        let Some(entry) = self.sessions.entry(at.slot) else { return };
        let link = &mut entry.link;
        if link.out.is_empty() && !link.out.has_storage() {
            link.out.lend_storage(self.spare.take());
        }
        link.has_published |= packet_type == PacketType::Publish;
        let request = match entry.session.handle_packet(now, packet, &mut link.out) {
            Ok(request) => request,
            Err(error) => {
                let reason = error.reason();
                tracing::info!(peer = %link.peer.addr, client_id = ?publisher.as_str(), %error, ?reason, "closing connection");
                self.metrics().client_errors.increment();
                return self.end_link(at.slot, Cause::Server(reason));
            }
        };
        match request {
            Request::Publish(incoming, ticket) => {
                self.publish(at.slot, publisher, &incoming, ticket, backing);
            }
            Request::Nothing => self.note_answer(at.slot, packet_type),
            Request::Refused(_) => {
                self.metrics().dropped_refused.increment();
                self.mark_dirty(at.slot);
            }
            Request::Subscribe(subscribe) => self.subscribe(at.slot, &subscribe),
            Request::Unsubscribe(unsubscribe) => self.unsubscribe(at.slot, &unsubscribe),
            Request::Release(id) => self.release_kept(at.slot, id),
            Request::Disconnect(cause) => self.leave(at, cause),
            Request::Authenticate(auth) => self.reauthenticate(at.slot, &auth),
        }
    }

    /// What the session did by itself for an acknowledgement or a ping.
    fn note_answer(&mut self, slot: u32, packet_type: PacketType) {
        if matches!(packet_type, PacketType::PubAck | PacketType::PubRec | PacketType::PubComp) {
            self.note_kept(slot);
        }
        self.note_progress(slot);
        if matches!(packet_type, PacketType::PubAck | PacketType::PubRec | PacketType::PubComp) {
            self.replay(slot);
        }
    }

    /// Routes a message of a client and acknowledges it as soon as everybody who must keep it does.
    fn publish(
        &mut self,
        slot: u32,
        publisher: &ClientId,
        incoming: &Incoming<'_>,
        ticket: Option<Ticket>,
        backing: Option<&Bytes>,
    ) {
        let here = self.session_ref(slot);
        let publish = &incoming.publish;
        let topic = incoming.topic.as_str();
        let qos = publish.delivery.qos();
        let metrics = self.metrics();
        metrics.qos_received[qos as usize].increment();
        metrics.publish_bytes_received.add(publish.payload.len() as u64);
        let expires_at =
            publish.properties.message_expiry.map(|seconds| self.now + Duration::from_secs(seconds.into()));
        let mut scratch = std::mem::take(&mut self.properties);
        let properties = forward_properties(&publish.properties, &mut scratch);
        let payload = publish.payload;
        let message = Transit::new(
            topic,
            properties,
            payload,
            qos,
            publish.retain,
            expires_at,
            Some(publisher),
            backing,
        );
        let waits = ticket.is_some_and(|ticket| self.receive_kept(slot, ticket, qos, &message));
        let answer = if waits { None } else { self.accept(here, &message, ticket, None) };
        scratch.clear();
        self.properties = scratch;
        match (ticket, answer) {
            (Some(ticket), Some(reason)) => self.acknowledge(slot, ticket, reason),
            // Not for ever.
            (Some(_), None) => self.remind(slot),
            (None, _) => {}
        }
    }

    /// Takes a message in; returns the reason code of its acknowledgement, or `None` if that comes later. `origin` tells it from
    /// its repetition.
    pub(super) fn accept(
        &mut self,
        from: SessionRef,
        message: &Transit<'_>,
        ticket: Option<Ticket>,
        origin: Option<Origin>,
    ) -> Option<ReasonCode> {
        if ticket.is_some() && !self.node.cluster.is_serving() {
            // Nobody here can say whether it would be kept. An error code would end the message at its sender
            // [MQTT-4.4.0-2]: without an answer the client sends it again where it connects next.
            return None;
        }
        let done = ticket.map(|ticket| Completion { session: from, what: Awaited::Publish(ticket) });
        let retains = if message.retain { self.retain(message) } else { None };
        // Nothing happens to a message that the client is told was refused. Where it cannot be told, the message reaches those
        // who are there, and only is not retained.
        if retains == Some(Retain::Full) && self.can_be_refused(from.slot, message.qos) {
            return Some(ReasonCode::QuotaExceeded);
        }
        self.metrics().messages_published.increment();
        let retains = retains.and_then(Retain::shard);
        let Routed { anybody, awaited, refused } =
            self.route(message, Some(from), Reach::Cluster, done, (retains, origin));
        if !anybody {
            self.metrics().dropped_no_subscribers.increment();
        }
        if let Some(reason) = refused.filter(|_| done.is_some()) {
            // The client must not get an answer, nor send what would overtake this: it sends both again where it connects next.
            self.end_link(from.slot, Cause::Server(reason));
            return None;
        }
        match done {
            None => None,
            Some(_) if awaited == 0 && !anybody => Some(ReasonCode::NoMatchingSubscribers),
            Some(_) if awaited == 0 => Some(ReasonCode::Success),
            Some(done) => {
                if awaited > 1 {
                    self.outstanding.insert(done, awaited);
                }
                None
            }
        }
    }

    /// Whether a client can be told that its message was refused.
    pub(super) fn can_be_refused(&mut self, slot: u32, qos: QoS) -> bool {
        let is_v5 = self.sessions.entry(slot).is_some_and(|entry| entry.session.version().is_v5());
        is_v5 && qos > QoS::AtMostOnce
    }

    /// Who sets or deletes a retained message; `None`: it has been done, or nobody does.
    fn retain(&self, message: &Transit<'_>) -> Option<Retain> {
        let metrics = self.metrics();
        if is_own(message.topic) {
            self.node.own_retained.set(&message.keep());
            metrics.messages_retained.increment();
            return None;
        }
        let shards = self.node.cluster.shards()?;
        let shard = shards.shard_of(message.topic.as_bytes())?;
        if message.payload.is_empty() || shards.may_retain(message.topic, message.size()) {
            metrics.messages_retained.increment();
            Some(Retain::At(shard))
        } else {
            metrics.dropped_retained_full.increment();
            Some(Retain::Full)
        }
    }

    /// The message of `ticket` is kept by all who must keep it, or refused.
    pub(super) fn acknowledge(&mut self, slot: u32, ticket: Ticket, reason: ReasonCode) {
        let Some(entry) = self.sessions.entry(slot) else { return };
        entry.session.handle_stored(ticket, reason, &mut entry.link.out);
        // It may have stopped reading until fewer publishes wait.
        if entry.link.is_paused && !entry.session.is_saturated() {
            entry.link.wake();
        }
        self.mark_dirty(slot);
    }

    /// Publishes a message of the broker itself.
    pub(crate) fn publish_own(&mut self, message: &Arc<Message>) {
        let reach = if is_of_this_node(&message.topic) { Reach::Node } else { Reach::Cluster };
        self.publish_kept_message(message, reach, None, None);
    }

    /// Publishes a message that is nobody's PUBLISH; returns how many will say that they have it.
    pub(super) fn publish_kept_message(
        &mut self,
        message: &Arc<Message>,
        reach: Reach,
        done: Option<Completion>,
        origin: Option<Origin>,
    ) -> u32 {
        let message = Transit::from_message(message);
        // Beyond the limits a will still reaches those who are there; the counter tells.
        let retains = if message.retain { self.retain(&message).and_then(Retain::shard) } else { None };
        self.route(&message, None, reach, done, (retains, origin)).awaited
    }

    /// What sessions waited for is done.
    pub(super) fn complete_all(&mut self, completions: &[Completion], reason: ReasonCode) {
        for &completion in completions {
            let slot = completion.session.slot;
            self.guard(slot, |worker| worker.complete(completion, reason));
        }
    }

    fn complete(&mut self, completion: Completion, reason: ReasonCode) {
        if let Awaited::Will { shard, id, attempt } = completion.what {
            return self.will_kept(shard, id, attempt);
        }
        if let Some(count) = self.outstanding.get_mut(&completion) {
            *count -= 1;
            if *count > 0 {
                return;
            }
            self.outstanding.remove(&completion);
        }
        let SessionRef { slot, epoch, .. } = completion.session;
        if self.sessions.entry_of(slot, epoch).is_none() {
            return;
        }
        match completion.what {
            // A node that is not sure of its place does not say that it has kept anything.
            Awaited::Publish(_) if !self.node.cluster.is_serving() => {}
            Awaited::Publish(ticket) => self.acknowledge(slot, ticket, reason),
            Awaited::Retained(_) if !self.node.cluster.is_serving() => {}
            Awaited::Retained(ticket) => self.acknowledge(slot, ticket, ReasonCode::NoMatchingSubscribers),
            Awaited::Routes(id) => self.routes_known(slot, id),
            // They come with an answer.
            Awaited::Released
            | Awaited::Received(_)
            | Awaited::Forgotten(_)
            | Awaited::Unsubscribed(_)
            | Awaited::Direct(_)
            | Awaited::Will { .. } => {}
        }
    }

    /// A step of authentication on a connection that is open already (section 4.12.1).
    fn reauthenticate(&mut self, slot: u32, auth: &Auth<'_>) {
        let mut authenticator = Anonymous { allowed: self.node.config.auth.anonymous };
        let method = auth.properties.authentication_method.unwrap_or_default();
        let step = authenticator.step(method, auth.properties.authentication_data);
        let Some(entry) = self.sessions.entry(slot) else { return };
        match step {
            Ok(step) => {
                entry.session.handle_authenticated(&step, &mut entry.link.out);
                self.mark_dirty(slot);
            }
            Err(reason) => self.end_link(slot, Cause::Server(reason)),
        }
    }

    pub(super) fn session_ref(&self, slot: u32) -> SessionRef {
        SessionRef { worker: self.id, slot, epoch: self.sessions.epoch(slot) }
    }
}
