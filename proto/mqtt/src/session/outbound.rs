//! Messages to the client.
//!
//! Rules, where the specification leaves a choice:
//!
//! * A PUBACK, PUBREC or PUBCOMP with an identifier that is not in use is ignored and counted; the PUBREC is answered
//!   with PUBREL 0x92, so that a client that remembers more than its server can finish.
//! * One that is not the next step of its message (PUBACK at QoS 2, PUBREC at QoS 1, PUBCOMP before PUBREC) closes the
//!   connection with 0x82: if it were ignored, the message would hold its place in the window for ever.
//! * QoS 0 messages never wait: what the send buffer has no room for is dropped.
//! * A message of a shared subscription that was sent at QoS 2 is not given to another member [MQTT-4.8.2-5].

use std::{num::NonZeroU16, sync::Arc};

use super::{
    Delivered, DeliveryOptions, DropReason, Limits, QueueReport, Session, SessionError,
    connection::{Connection, TooLarge, delivery},
    delivery::Held,
    queue::Queue,
    window::{Stage, Window},
    wire::write_ack,
};
use crate::{
    Message, QoS, ReasonCode, Timestamp, Transit,
    codec::SendBuffer,
    packet::{Ack, PacketType},
    topic::TopicFilter,
};

/// What a session holds for its client; absent while there is nothing to hold.
#[derive(Debug)]
pub(super) struct Outbound {
    pub(super) window: Window,
    pub(super) queue: Queue,
    pub(super) report: QueueReport,
}

impl Outbound {
    pub(super) fn new(limits: &Limits, receive_maximum: NonZeroU16) -> Self {
        let window = Window::new(limits.max_inflight, receive_maximum);
        Self { window, queue: Queue::default(), report: QueueReport::default() }
    }

    /// Whether nothing would be lost with it.
    pub(super) fn is_idle(&self) -> bool {
        self.window.is_empty() && self.queue.is_empty() && self.report == QueueReport::default()
    }

    /// Messages of shared subscriptions that another member of the group may get, oldest first.
    pub(super) fn into_shared(self) -> Vec<(Arc<TopicFilter>, Arc<Message>)> {
        let queued = self.queue.into_messages().filter_map(Held::into_shared);
        self.window.into_shared().chain(queued).collect()
    }
}

impl Session {
    /// Sends a message to the client, now if possible, else later.
    ///
    /// QoS 0 goes into the send buffer or nowhere. QoS 1 and 2 wait in the queue while the window or the send buffer is full, or
    /// older ones wait.
    ///
    /// # Panics
    /// Others keep the session, and the message is of QoS 1 or 2: that comes through [`Session::deliver_kept`].
    pub fn deliver(
        &mut self,
        now: Timestamp,
        transit: &Transit<'_>,
        options: &DeliveryOptions,
        out: &mut SendBuffer,
    ) -> Delivered {
        if transit.expires_at.is_some_and(|at| at <= now) {
            return Delivered::Dropped(DropReason::Expired); // [MQTT-3.3.2-5]
        }
        let qos = transit.qos.min(options.qos);
        let delivered = match qos {
            QoS::AtMostOnce => self.deliver_unacknowledged(now, transit, options, out),
            _ => self.deliver_acknowledged(now, transit, options, qos, out),
        };
        self.check_invariants();
        delivered
    }

    fn deliver_unacknowledged(
        &mut self,
        now: Timestamp,
        transit: &Transit<'_>,
        options: &DeliveryOptions,
        out: &mut SendBuffer,
    ) -> Delivered {
        if out.len() >= self.limits.output_buffer_max {
            return Delivered::Dropped(DropReason::QueueFull);
        }
        match self.connection.send(now, transit, options, crate::packet::Delivery::AtMostOnce, out) {
            Ok(()) => Delivered::Sent,
            Err(TooLarge) => Delivered::Dropped(DropReason::TooLarge),
        }
    }

    fn deliver_acknowledged(
        &mut self,
        now: Timestamp,
        transit: &Transit<'_>,
        options: &DeliveryOptions,
        qos: QoS,
        out: &mut SendBuffer,
    ) -> Delivered {
        assert!(self.kept.is_none(), "others give the message its identifier");
        let receive_maximum = self.connection.receive_maximum;
        let outbound =
            self.outbound.get_or_insert_with(|| Box::new(Outbound::new(&self.limits, receive_maximum)));
        let room = outbound.queue.is_empty() && out.len() < self.limits.output_buffer_max;
        let Some(id) = room.then(|| outbound.window.vacancy()).flatten() else {
            return self.enqueue(now, transit, options, qos);
        };
        if let Err(TooLarge) = self.connection.send(now, transit, options, delivery(qos, id, false), out) {
            return Delivered::Dropped(DropReason::TooLarge);
        }
        outbound.window.push(sent(qos, || Some((options.shared.clone()?, transit.keep()))));
        Delivered::Sent
    }

    fn enqueue(
        &mut self,
        now: Timestamp,
        transit: &Transit<'_>,
        options: &DeliveryOptions,
        qos: QoS,
    ) -> Delivered {
        let receive_maximum = self.connection.receive_maximum;
        let outbound =
            self.outbound.get_or_insert_with(|| Box::new(Outbound::new(&self.limits, receive_maximum)));
        match outbound.queue.make_room(now, transit.size(), &self.limits, &mut outbound.report.expired) {
            Err(reason) => Delivered::Dropped(reason),
            Ok(displaced) => {
                let options = DeliveryOptions { qos, ..options.clone() };
                outbound.queue.push(Held { message: transit.keep(), options });
                Delivered::Queued { displaced }
            }
        }
    }

    /// Sends what waits, as far as window and send buffer allow; call it when the send buffer has drained.
    pub fn pump(&mut self, now: Timestamp, out: &mut SendBuffer) {
        let (connection, output_buffer_max) = (&mut self.connection, self.limits.output_buffer_max);
        let Some(outbound) = &mut self.outbound else { return };
        if let Some(kept) = &mut self.kept {
            kept.send_waiting(now, connection, outbound, out, output_buffer_max);
        }
        outbound.send_queued(now, connection, out, output_buffer_max);
        self.check_invariants();
    }

    /// PUBACK, PUBREC or PUBCOMP.
    pub(super) fn handle_ack(
        &mut self,
        now: Timestamp,
        packet: PacketType,
        ack: &Ack<'_>,
        out: &mut SendBuffer,
    ) -> Result<(), SessionError> {
        let id = ack.id;
        let (receive_maximum, version) = (self.connection.receive_maximum, self.version());
        let outbound =
            self.outbound.get_or_insert_with(|| Box::new(Outbound::new(&self.limits, receive_maximum)));
        let Some(index) = outbound.window.position(id) else {
            outbound.report.unknown_acks = outbound.report.unknown_acks.saturating_add(1);
            if packet == PacketType::PubRec && !ack.reason.is_error() {
                let reason = ReasonCode::PacketIdentifierNotFound;
                write_ack(PacketType::PubRel, id, reason, version, out);
            }
            return Ok(());
        };
        match (packet, outbound.window.stage(index)) {
            (PacketType::PubRec, Stage::Releasing) if !ack.reason.is_error() => return Ok(()),
            (PacketType::PubRec, Stage::ExactlyOnce)
                if !ack.reason.is_error() && outbound.window.kept(index).is_some() =>
            {
                self.begin_release(index);
                return Ok(());
            }
            (PacketType::PubRec, Stage::ExactlyOnce | Stage::Released) if !ack.reason.is_error() => {
                // From here on the client has the message, and only the identifier is kept [MQTT-4.3.3-6].
                outbound.window.release(index);
                write_ack(PacketType::PubRel, id, ReasonCode::Success, version, out);
                return Ok(());
            }
            (PacketType::PubAck, Stage::AtLeastOnce { .. })
            | (PacketType::PubRec, Stage::ExactlyOnce | Stage::Releasing | Stage::Released)
            | (PacketType::PubComp, Stage::Released) => {}
            _ => return Err(SessionError::UnexpectedAck { packet, id }),
        }
        let done = outbound.window.remove(index).and_then(|entry| entry.kept);
        outbound.report.acked += 1;
        let has_more = !outbound.queue.is_empty();
        if self.note_done(done) || has_more {
            self.pump(now, out);
        }
        Ok(())
    }

    /// The client has unsubscribed from a shared subscription: takes the messages in its queue that came through it, which another
    /// member of the group must get; oldest first. What has been sent is completed [MQTT-3.10.4-3].
    pub fn take_shared(&mut self, filter: &TopicFilter) -> Vec<(Arc<TopicFilter>, Arc<Message>)> {
        let Some(outbound) = &mut self.outbound else { return Vec::new() };
        let taken = outbound.queue.take_shared(filter);
        self.check_invariants();
        taken.into_iter().filter_map(Held::into_shared).collect()
    }
}

impl Outbound {
    fn send_queued(
        &mut self,
        now: Timestamp,
        connection: &mut Connection,
        out: &mut SendBuffer,
        output_buffer_max: usize,
    ) {
        while let Some(next) = self.queue.front() {
            if next.message.is_expired(now) {
                self.queue.pop();
                self.report.expired += 1;
                continue;
            }
            if out.len() >= output_buffer_max {
                return;
            }
            let Some(id) = self.window.vacancy() else { return };
            let Some(held) = self.queue.pop() else { return };
            let (qos, transit) = (held.options.qos, Transit::from_message(&held.message));
            if connection.send(now, &transit, &held.options, delivery(qos, id, false), out).is_err() {
                self.report.too_large += 1;
                continue;
            }
            self.report.sent[qos as usize] += 1;
            self.window.push(sent(qos, || held.into_shared()));
        }
    }
}

/// How far a message is that was sent at QoS 1 or 2. One of QoS 2 is nobody else's any more, `shared` or not.
fn sent(qos: QoS, shared: impl FnOnce() -> Option<(Arc<TopicFilter>, Arc<Message>)>) -> Stage {
    if qos == QoS::ExactlyOnce { Stage::ExactlyOnce } else { Stage::AtLeastOnce { shared: shared() } }
}
