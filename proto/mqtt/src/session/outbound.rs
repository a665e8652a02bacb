//! Messages to the client.
//!
//! Rules, where the specification leaves a choice:
//!
//! * A PUBACK, PUBREC or PUBCOMP with an identifier that is not in use is ignored and counted; the PUBREC is answered
//!   with PUBREL 0x92, so that a client that remembers more than its server can finish.
//! * One that is not the next step of its message (PUBACK at QoS 2, PUBREC at QoS 1, PUBCOMP before PUBREC) closes the
//!   connection with 0x82: if it were ignored, the message would hold its place in the window for ever.
//! * QoS 0 messages do not wait for QoS 1 and 2 messages, only for queued ones of QoS 0.
//! * A message of a shared subscription that was sent at QoS 2 is not given to another member [MQTT-4.8.2-5].

use std::{num::NonZeroU16, sync::Arc};

use super::{
    Delivered, DeliveryOptions, DropReason, Limits, Link, QueueReport, Session, SessionError, SessionExpiry,
    connection::{Connection, TooLarge, delivery},
    delivery::Held,
    queue::Queue,
    window::{Stage, Window},
    wire::write_ack,
};
use crate::{
    Message, PacketId, QoS, ReasonCode, Timestamp, Transit,
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
    /// `receive_maximum` is that of the present connection.
    pub(super) fn new(limits: &Limits, receive_maximum: NonZeroU16) -> Self {
        let window = Window::new(limits.max_inflight, receive_maximum);
        Self { window, queue: Queue::default(), report: QueueReport::default() }
    }

    /// Whether nothing would be lost with it.
    pub(super) fn is_idle(&self) -> bool {
        self.window.is_empty() && self.queue.is_empty() && self.report == QueueReport::default()
    }
}

impl Session {
    /// Sends a message to the client, now if possible, else later.
    ///
    /// QoS 0 goes into the send buffer or nowhere, unless the client is away and `session.queue_qos0` is set. QoS 1 and
    /// 2 wait in the queue while the client is away, the window or the send buffer is full, or older ones wait.
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
        let overtakes = self.outbound.as_ref().is_some_and(|outbound| outbound.queue.has_qos0());
        match &mut self.link {
            Link::Connected(connection) if connection.live && !overtakes => {
                if out.len() >= self.limits.output_buffer_max {
                    return Delivered::Dropped(DropReason::QueueFull);
                }
                match connection.send(now, transit, options, crate::packet::Delivery::AtMostOnce, out) {
                    Ok(()) => Delivered::Sent,
                    Err(TooLarge) => Delivered::Dropped(DropReason::TooLarge),
                }
            }
            _ if self.limits.queue_qos0 => self.enqueue(now, transit, options, QoS::AtMostOnce),
            _ => Delivered::Dropped(DropReason::Qos0Offline),
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
        let is_resumable = self.is_resumable();
        let Link::Connected(connection) = &mut self.link else {
            return self.enqueue(now, transit, options, qos);
        };
        let receive_maximum = connection.receive_maximum;
        let outbound =
            self.outbound.get_or_insert_with(|| Box::new(Outbound::new(&self.limits, receive_maximum)));
        let room = connection.live && outbound.queue.is_empty() && out.len() < self.limits.output_buffer_max;
        let Some(id) = room.then(|| outbound.window.vacancy()).flatten() else {
            return self.enqueue(now, transit, options, qos);
        };
        if let Err(TooLarge) = connection.send(now, transit, options, delivery(qos, id, false), out) {
            return Delivered::Dropped(DropReason::TooLarge);
        }
        let held = must_hold(is_resumable, options).then(|| hold(transit, options, qos));
        outbound.window.push(qos, held);
        Delivered::Sent
    }

    fn enqueue(
        &mut self,
        now: Timestamp,
        transit: &Transit<'_>,
        options: &DeliveryOptions,
        qos: QoS,
    ) -> Delivered {
        let receive_maximum = self.link.receive_maximum();
        let outbound =
            self.outbound.get_or_insert_with(|| Box::new(Outbound::new(&self.limits, receive_maximum)));
        match outbound.queue.make_room(now, transit.size(), &self.limits, &mut outbound.report.expired) {
            Err(reason) => Delivered::Dropped(reason),
            Ok(displaced) => {
                outbound.queue.push(hold(transit, options, qos));
                Delivered::Queued { displaced }
            }
        }
    }

    /// Whether the session goes on here with its client's next connection. One that others keep begins anew.
    fn is_resumable(&self) -> bool {
        self.expiry != SessionExpiry::AtDisconnect && self.kept.is_none()
    }

    /// Sends what the connection has not seen of the window, then from the queue, as far as window and send buffer
    /// allow; call it when the send buffer has drained.
    pub fn pump(&mut self, now: Timestamp, out: &mut SendBuffer) {
        let is_resumable = self.is_resumable();
        let (Link::Connected(connection), Some(outbound)) = (&mut self.link, &mut self.outbound) else {
            return;
        };
        let output_buffer_max = self.limits.output_buffer_max;
        if connection.live && outbound.resend(now, connection, out, output_buffer_max) {
            if let Some(kept) = &mut self.kept {
                kept.send_waiting(now, connection, outbound, out, output_buffer_max);
            }
            outbound.send_queued(now, connection, out, output_buffer_max, is_resumable);
        }
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
        let receive_maximum = self.link.receive_maximum();
        let outbound =
            self.outbound.get_or_insert_with(|| Box::new(Outbound::new(&self.limits, receive_maximum)));
        let Some(index) = outbound.window.position(id) else {
            outbound.report.unknown_acks = outbound.report.unknown_acks.saturating_add(1);
            if packet == PacketType::PubRec && !ack.reason.is_error() {
                let reason = ReasonCode::PacketIdentifierNotFound;
                write_ack(PacketType::PubRel, id, reason, self.version, out);
            }
            return Ok(());
        };
        match (packet, outbound.window.stage(index)) {
            (PacketType::PubRec, Stage::Releasing) if !ack.reason.is_error() => return Ok(()),
            (PacketType::PubRec, Stage::Published { exactly_once: true, .. })
                if !ack.reason.is_error() && outbound.window.kept(index).is_some() =>
            {
                self.begin_release(index);
                return Ok(());
            }
            (PacketType::PubRec, Stage::Published { exactly_once: true, .. } | Stage::Released)
                if !ack.reason.is_error() =>
            {
                // From here on the client has the message, and only the identifier is kept [MQTT-4.3.3-6].
                outbound.window.release(index);
                write_ack(PacketType::PubRel, id, ReasonCode::Success, self.version, out);
                return Ok(());
            }
            (PacketType::PubAck, Stage::Published { exactly_once: false, .. })
            | (
                PacketType::PubRec,
                Stage::Published { exactly_once: true, .. } | Stage::Releasing | Stage::Released,
            )
            | (PacketType::PubComp, Stage::Released) => {}
            _ => return Err(SessionError::UnexpectedAck { packet, id }),
        }
        let done = outbound.window.remove(index).and_then(|entry| entry.kept);
        outbound.report.acked += 1;
        let has_more = !outbound.queue.is_empty() || outbound.window.next_unsent().is_some();
        if self.note_done(done) || has_more {
            self.pump(now, out);
        }
        Ok(())
    }

    /// Takes the messages of shared subscriptions that another member of the group must get, oldest first.
    ///
    /// With a filter the client has unsubscribed: what is in its queue through that subscription goes, what has been
    /// sent is completed [MQTT-3.10.4-3]. Without one the session has ended: everything goes but what was sent at
    /// QoS 2, which nobody else may get [MQTT-4.8.2-5].
    pub fn take_shared(&mut self, filter: Option<&TopicFilter>) -> Vec<(Arc<TopicFilter>, Arc<Message>)> {
        let Some(outbound) = &mut self.outbound else { return Vec::new() };
        let mut taken = match filter {
            None => outbound.window.take_shared(),
            Some(_) => Vec::new(),
        };
        taken.append(&mut outbound.queue.take_shared(filter));
        self.check_invariants();
        let shared = |held: Held| Some((held.options.shared?, held.message));
        taken.into_iter().filter_map(shared).collect()
    }
}

impl Outbound {
    /// Sends again what was in flight when the last connection ended [MQTT-4.4.0-1], in the order of old; whether all of
    /// it is sent. What has expired is sent too, for its delivery has begun [MQTT-4.3.3-7].
    fn resend(
        &mut self,
        now: Timestamp,
        connection: &mut Connection,
        out: &mut SendBuffer,
        output_buffer_max: usize,
    ) -> bool {
        loop {
            let quota = self.window.has_quota();
            let Some((index, entry)) = self.window.next_unsent() else { return true };
            if out.len() >= output_buffer_max {
                return false;
            }
            match &entry.stage {
                Stage::Released => {
                    write_ack(PacketType::PubRel, entry.id, ReasonCode::Success, connection.version, out);
                    self.window.mark_sent();
                }
                Stage::Releasing => self.window.mark_sent(), // Its PUBREL is written when it is due.
                Stage::Published { .. } if !quota => return false,
                Stage::Published { held, exactly_once } => {
                    let (id, exactly_once) = (entry.id, *exactly_once);
                    let sent = held.as_ref().is_some_and(|held| {
                        let transit = Transit::from_message(&held.message);
                        let delivery = delivery(held.options.qos, id, true);
                        connection.send(now, &transit, &held.options, delivery, out).is_ok()
                    });
                    if sent {
                        self.window.mark_sent();
                        continue;
                    }
                    // Too large for this connection: on as if it had been sent [MQTT-3.1.2-25]. The client may have it
                    // from an earlier one and hold its identifier, which must not meet another message before PUBREL.
                    self.report.too_large += 1;
                    if exactly_once {
                        self.window.release(index);
                        write_ack(PacketType::PubRel, id, ReasonCode::Success, connection.version, out);
                    } else {
                        self.window.remove(index);
                    }
                }
            }
        }
    }

    fn send_queued(
        &mut self,
        now: Timestamp,
        connection: &mut Connection,
        out: &mut SendBuffer,
        output_buffer_max: usize,
        is_resumable: bool,
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
            let qos = next.options.qos;
            let id = match qos {
                QoS::AtMostOnce => PacketId::MIN, // It has none, and `delivery` does not use it.
                _ => match self.window.vacancy() {
                    Some(id) => id,
                    None => return,
                },
            };
            let Some(held) = self.queue.pop() else { return };
            let transit = Transit::from_message(&held.message);
            if connection.send(now, &transit, &held.options, delivery(qos, id, false), out).is_err() {
                self.report.too_large += 1;
                continue;
            }
            self.report.sent[qos as usize] += 1;
            if qos != QoS::AtMostOnce {
                let keep = must_hold(is_resumable, &held.options);
                self.window.push(qos, keep.then_some(held));
            }
        }
    }
}

/// Whether a message in flight may be needed again: the session goes on here with another connection, or the message would go
/// to another member of the group.
fn must_hold(is_resumable: bool, options: &DeliveryOptions) -> bool {
    is_resumable || options.shared.is_some()
}

fn hold(transit: &Transit<'_>, options: &DeliveryOptions, qos: QoS) -> Held {
    Held { message: transit.keep(), options: DeliveryOptions { qos, ..options.clone() } }
}
