//! The side that sends.

use flotilla_mqtt::{
    PacketId, ProtocolVersion, QoS,
    codec::{self, EncodeError},
    packet::{Ack, ConnAckProperties, Packet},
};

use super::{
    Context, OUTPUT_MAX,
    inflight::{InFlight, Step},
};
use crate::bench::{
    error::Ending,
    plan::{PublisherPlan, Topics},
    schedule::Schedule,
    settings::Settings,
    stamp::{Payload, Stamp, Template, delivery, write_publish},
    wildcard,
};

/// What lets a publisher send.
#[derive(Debug, Clone, Copy)]
pub(in crate::bench) enum Pace {
    /// The time; this publisher is that one of the schedule.
    Schedule { schedule: Schedule, publisher: u64 },
    /// Arrivals: `delivered` so far, of its flow. `fan` are expected for each message.
    Window { size: u64, delivered: u64, fan: u64 },
    /// Acknowledgements and the socket only.
    Unlimited,
}

/// Sends messages, and follows their acknowledgements.
#[derive(Debug)]
pub(super) struct Publisher {
    source: Source,
    qos: QoS,
    version: ProtocolVersion,
    retain: bool,
    limit: u64,
    sent: u64,
    in_flight: InFlight,
    /// Messages that the window no longer waits for, and what it had seen arrive when it last looked.
    written_off: u64,
    delivered: u64,
    stalled: u32,
}

/// Where the messages come from.
#[derive(Debug)]
enum Source {
    /// One topic: the packet is there, but for what changes.
    Fixed { template: Template, flow: u32 },
    /// Topics that differ.
    Various { topics: Topics, payload: Payload, topic: String },
}

impl Publisher {
    /// # Errors
    /// Its messages cannot be written down.
    pub(super) fn new(plan: &PublisherPlan, settings: &Settings) -> Result<Self, EncodeError> {
        let (traffic, version) = (&settings.traffic, settings.version);
        let payload_len = if plan.is_empty { 0 } else { traffic.payload_len };
        let source = match &plan.topics {
            Topics::Fixed { topic, flow } => Source::Fixed {
                template: Template::new(version, traffic.qos, plan.retain, topic, payload_len)?,
                flow: *flow,
            },
            topics => Source::Various {
                topics: topics.clone(),
                payload: Payload::new(payload_len),
                topic: String::new(),
            },
        };
        Ok(Self {
            source,
            qos: traffic.qos,
            version,
            retain: plan.retain,
            limit: plan.limit.unwrap_or(u64::MAX),
            sent: 0,
            in_flight: InFlight::new(traffic.ack_window),
            written_off: 0,
            delivered: 0,
            stalled: 0,
        })
    }

    /// What the broker takes.
    ///
    /// # Errors
    /// It does not take these messages.
    pub(super) fn handle_limits(
        &mut self,
        limits: &ConnAckProperties<'_>,
        payload_len: usize,
    ) -> Result<(), Ending> {
        // [MQTT-3.2.2-11]
        if limits.maximum_qos.is_some_and(|highest| highest < self.qos) {
            return Err(Ending::Unavailable("their QoS is too high"));
        }
        // [MQTT-3.2.2-14]
        if self.retain && limits.retain_available == Some(false) {
            return Err(Ending::Unavailable("it retains none"));
        }
        // [MQTT-3.2.2-15]
        if limits.maximum_packet_size.is_some_and(|limit| limit.get() as usize <= payload_len) {
            return Err(Ending::Unavailable("they are too large"));
        }
        // [MQTT-3.3.4-7]
        self.in_flight.lower_limit(limits.receive_maximum.map_or(u16::MAX, std::num::NonZeroU16::get));
        Ok(())
    }

    /// Writes the messages that may be sent.
    ///
    /// # Errors
    /// A message cannot be written down.
    pub(super) fn send(
        &mut self,
        pace: &Pace,
        output: &mut Vec<u8>,
        cx: &mut Context<'_>,
    ) -> Result<(), EncodeError> {
        // What was due before the end may be late, but not for ever.
        if cx.now >= cx.period.until.saturating_add(OVERTIME) {
            return Ok(());
        }
        let end = self.limit.min(self.allowed(pace));
        let is_acknowledged = self.qos != QoS::AtMostOnce;
        while self.sent < end && output.len() < OUTPUT_MAX {
            let time = match pace {
                Pace::Schedule { schedule, publisher } => schedule.due_of(*publisher, self.sent),
                Pace::Window { .. } | Pace::Unlimited => cx.now,
            };
            if time > cx.now || time >= cx.period.until {
                return Ok(());
            }
            let id = if is_acknowledged {
                let step = if self.qos == QoS::AtLeastOnce { Step::Acknowledge } else { Step::Receive };
                let Some(id) = self.in_flight.take(time, step) else { return Ok(()) };
                id
            } else {
                PacketId::MIN
            };
            self.write(time, id, output, cx.settings)?;
            self.sent += 1;
            cx.tally.progress.sent += 1;
            cx.tally.measured.sent += u64::from(cx.period.contains(time));
        }
        Ok(())
    }

    /// PUBACK.
    pub(super) fn handle_puback(&mut self, ack: &Ack<'_>, cx: &mut Context<'_>) {
        if let Some(time) = self.in_flight.finish(ack.id, Step::Acknowledge) {
            finish(time, ack, cx);
        }
    }

    /// PUBREC: PUBREL follows, unless the broker has refused the message [MQTT-4.3.3-4].
    ///
    /// # Errors
    /// The PUBREL cannot be written down.
    pub(super) fn handle_pubrec(
        &mut self,
        ack: &Ack<'_>,
        output: &mut Vec<u8>,
        cx: &mut Context<'_>,
    ) -> Result<(), EncodeError> {
        if !ack.reason.is_error() {
            self.in_flight.handle_received(ack.id);
            let release = Ack::new(ack.id, flotilla_mqtt::ReasonCode::Success);
            return codec::encode(&Packet::PubRel(release), self.version, output);
        }
        if let Some(time) = self.in_flight.finish(ack.id, Step::Receive) {
            finish(time, ack, cx);
        }
        Ok(())
    }

    /// PUBCOMP.
    pub(super) fn handle_pubcomp(&mut self, ack: &Ack<'_>, cx: &mut Context<'_>) {
        if let Some(time) = self.in_flight.finish(ack.id, Step::Complete) {
            finish(time, ack, cx);
        }
    }

    /// Called once a second. A window that is full of messages which will never arrive would stop everything: what has not
    /// arrived while nothing at all did is no longer waited for. It stays lost, as far as anybody counts.
    pub(super) fn write_off(&mut self, pace: &Pace, cx: &mut Context<'_>) {
        let Pace::Window { size, delivered, fan } = pace else { return };
        let under_way = self.under_way(*delivered, *fan);
        if under_way < *size || *delivered != self.delivered {
            (self.delivered, self.stalled) = (*delivered, 0);
            return;
        }
        self.stalled += 1;
        if self.stalled >= STALLED_MAX {
            self.written_off += under_way;
            cx.tally.written_off += under_way;
            self.stalled = 0;
        }
    }

    /// How many may have been sent by now; at a fixed rate the time decides.
    fn allowed(&self, pace: &Pace) -> u64 {
        match pace {
            Pace::Schedule { .. } | Pace::Unlimited => u64::MAX,
            Pace::Window { size, delivered, fan } => {
                self.sent + size.saturating_sub(self.under_way(*delivered, *fan))
            }
        }
    }

    fn under_way(&self, delivered: u64, fan: u64) -> u64 {
        // A message is there when the last of its subscribers has it, nearly: those of one message are not told from the next.
        self.sent.saturating_sub(self.written_off + delivered / fan.max(1))
    }

    fn write(
        &mut self,
        time: u64,
        id: PacketId,
        output: &mut Vec<u8>,
        settings: &Settings,
    ) -> Result<(), EncodeError> {
        match &mut self.source {
            Source::Fixed { template, flow } => {
                template.write(id, Stamp { time, sequence: self.sent + 1, flow: *flow }, output);
                Ok(())
            }
            Source::Various { topics, payload, topic } => {
                let (flow, sequence) = write_topic(topics, self.sent, &settings.topic_prefix, topic);
                let payload = payload.stamped(Stamp { time, sequence, flow });
                let delivery = delivery(self.qos, id);
                write_publish(output, self.version, delivery, self.retain, topic, payload)
            }
        }
    }
}

/// Writes the topic of the message after `sent` others; returns its flow and its number there.
fn write_topic(topics: &Topics, sent: u64, prefix: &str, topic: &mut String) -> (u32, u64) {
    match topics {
        Topics::Fixed { topic: fixed, flow } => {
            topic.clone_from(fixed);
            (*flow, sent + 1)
        }
        Topics::Wildcards { filters, flow } => {
            let number = wildcard::choose(u64::from(*flow) << 40 | sent, *filters);
            wildcard::write_topic(prefix, number, topic);
            (*flow, sent + 1)
        }
        Topics::Numbered { stem, first, step, count } => {
            use std::fmt::Write as _;
            // Below `count`, which has 32 bits.
            let index = u32::try_from(sent % u64::from(*count)).unwrap_or(0);
            let number = first + index * step;
            topic.clear();
            // Writing to a string cannot fail.
            let _ = write!(topic, "{prefix}/{stem}/{number}");
            (number, sent / u64::from(*count) + 1)
        }
    }
}

/// The broker is done with a message.
#[inline]
fn finish(time: u64, ack: &Ack<'_>, cx: &mut Context<'_>) {
    let tally = &mut *cx.tally;
    tally.progress.acknowledged += 1;
    tally.last_acknowledged = cx.now;
    if ack.reason.is_error() {
        tally.messages_refused += 1;
        tally.failures.count(format!("the broker refused a message: {}", ack.reason), 1);
        return;
    }
    tally.measured.acknowledged += u64::from(cx.period.contains(cx.now));
    if cx.period.contains(time) {
        tally.acknowledgement.saturating_record(cx.now.saturating_sub(time));
    }
}

/// Nanoseconds after the end in which messages that were due before may still be sent.
const OVERTIME: u64 = 1_000_000_000;
/// Seconds without any arrival after which nothing more is expected.
const STALLED_MAX: u32 = 2;
