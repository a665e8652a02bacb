//! The side that receives.

use flotilla_mqtt::{
    PacketId, ReasonCode,
    codec::{self, EncodeError},
    packet::{Ack, Delivery, Packet, Publish, SubAck, Subscribe, SubscriptionOptions},
};

use super::Context;
use crate::bench::{
    error::Ending,
    plan::{Expected, Filters, SubscriberPlan},
    sequence::{Arrival, Distinct, Sequence},
    stamp::Stamp,
};

/// Subscribes, acknowledges messages, and keeps count of them.
#[derive(Debug)]
pub(super) struct Subscriber {
    filters: Filters,
    /// Filters that have been sent, and SUBSCRIBE packets that are not answered.
    asked: u32,
    unanswered: u32,
    tracker: Tracker,
    /// What latency counts from, when it is not the time at which the message was sent.
    pub(super) since: Option<u64>,
}

/// What has come.
#[derive(Debug)]
enum Tracker {
    Flows { first: u32, sequences: Box<[Sequence]> },
    Set(Distinct),
}

impl Subscriber {
    pub(super) fn new(plan: SubscriberPlan) -> Self {
        let tracker = match plan.expected {
            Expected::Nothing => Tracker::Flows { first: 0, sequences: Box::default() },
            Expected::Flows { first, count } => {
                Tracker::Flows { first, sequences: vec![Sequence::default(); count as usize].into() }
            }
            Expected::Set { count } => Tracker::Set(Distinct::new(count)),
        };
        Self { filters: plan.filters, asked: 0, unanswered: 0, tracker, since: None }
    }

    /// Whether everything is subscribed to.
    pub(super) const fn is_done(&self) -> bool {
        self.asked == self.filters.count() && self.unanswered == 0
    }

    /// Asks for as many more filters as may be asked for at a time.
    ///
    /// # Errors
    /// A filter cannot be written down.
    pub(super) fn subscribe(&mut self, output: &mut Vec<u8>, cx: &Context<'_>) -> Result<(), EncodeError> {
        if self.since.is_none() && matches!(self.tracker, Tracker::Set(_)) {
            self.since = Some(cx.now);
        }
        let settings = cx.settings;
        let options =
            SubscriptionOptions { qos: settings.traffic.subscribe_qos, ..SubscriptionOptions::default() };
        while self.asked < self.filters.count() && self.unanswered < UNANSWERED_MAX {
            let end = self.filters.count().min(self.asked + FILTERS_MAX);
            let filters: Vec<_> =
                (self.asked..end).map(|index| self.filters.at(index, &settings.topic_prefix)).collect();
            let filters: Vec<_> = filters.iter().map(|filter| (filter.as_str(), options)).collect();
            // Those of unanswered packets differ: there are fewer than there are identifiers.
            let id = u16::try_from(self.asked / FILTERS_MAX % 60_000)
                .ok()
                .and_then(|number| PacketId::new(number + 1));
            let packet = Subscribe {
                id: id.unwrap_or(PacketId::MIN),
                subscription_id: None,
                user_properties: flotilla_mqtt::packet::UserProperties::default(),
                filters: filters.as_slice().into(),
            };
            codec::encode(&Packet::Subscribe(packet), settings.version, output)?;
            self.asked = end;
            self.unanswered += 1;
        }
        Ok(())
    }

    /// SUBACK.
    ///
    /// # Errors
    /// A subscription was refused, or nothing was asked for.
    pub(super) fn handle_suback(&mut self, suback: &SubAck<'_>, cx: &mut Context<'_>) -> Result<(), Ending> {
        let Some(unanswered) = self.unanswered.checked_sub(1) else {
            return Err(Ending::Unexpected(flotilla_mqtt::packet::PacketType::SubAck));
        };
        self.unanswered = unanswered;
        let mut refused = suback.reasons.iter().filter(|reason| reason.is_error());
        let count = refused.clone().count() as u64;
        cx.tally.progress.subscribed += suback.reasons.len() as u64 - count;
        cx.tally.subscriptions_refused += count;
        refused.next().map_or(Ok(()), |reason| Err(Ending::SubscriptionRefused { reason }))
    }

    /// Acknowledges a message, and counts it.
    ///
    /// # Errors
    /// The acknowledgement cannot be written down.
    #[inline]
    pub(super) fn handle_publish(
        &mut self,
        publish: &Publish<'_>,
        output: &mut Vec<u8>,
        cx: &mut Context<'_>,
    ) -> Result<(), EncodeError> {
        match publish.delivery {
            Delivery::AtMostOnce => {}
            Delivery::AtLeastOnce { id, .. } => acknowledge(Packet::PubAck, id, output, cx)?,
            Delivery::ExactlyOnce { id, .. } => acknowledge(Packet::PubRec, id, output, cx)?,
        }
        match Stamp::read(publish.payload) {
            Some(stamp) => self.count(stamp, cx),
            None => cx.tally.foreign += 1,
        }
        Ok(())
    }

    #[inline]
    fn count(&mut self, stamp: Stamp, cx: &mut Context<'_>) {
        let tally = &mut *cx.tally;
        match self.tracker.note(stamp) {
            Some(Arrival::InOrder) => {}
            Some(Arrival::Late) => tally.reordered += 1,
            Some(Arrival::Repeated) => {
                tally.repeated += 1;
                return;
            }
            None => {
                tally.foreign += 1;
                return;
            }
        }
        tally.progress.received += 1;
        tally.last_received = cx.now;
        tally.measured.received += u64::from(cx.period.contains(cx.now));
        let since = self.since.unwrap_or(stamp.time);
        if cx.period.contains(since) {
            tally.delivery.saturating_record(cx.now.saturating_sub(since));
        }
        // What is read together is mostly of one flow.
        match cx.deliveries.last_mut() {
            Some((flow, count)) if *flow == stamp.flow => *count += 1,
            _ => cx.deliveries.push((stamp.flow, 1)),
        }
    }
}

impl Tracker {
    /// `None`: nobody of this run sends it to here.
    #[inline]
    fn note(&mut self, stamp: Stamp) -> Option<Arrival> {
        if stamp.sequence == 0 {
            return None;
        }
        match self {
            Self::Flows { first, sequences } => {
                let index = stamp.flow.checked_sub(*first)?;
                Some(sequences.get_mut(index as usize)?.note(stamp.sequence))
            }
            Self::Set(distinct) => {
                let is_new = distinct.note(stamp.flow.into())?;
                Some(if is_new { Arrival::InOrder } else { Arrival::Repeated })
            }
        }
    }
}

/// Writes an acknowledgement.
#[inline]
pub(super) fn acknowledge<'a>(
    packet: impl FnOnce(Ack<'a>) -> Packet<'a>,
    id: PacketId,
    output: &mut Vec<u8>,
    cx: &Context<'_>,
) -> Result<(), EncodeError> {
    codec::encode(&packet(Ack::new(id, ReasonCode::Success)), cx.settings.version, output)
}

/// Filters in a SUBSCRIBE.
const FILTERS_MAX: u32 = 100;
/// SUBSCRIBE packets that may be unanswered at a time.
const UNANSWERED_MAX: u32 = 4;
