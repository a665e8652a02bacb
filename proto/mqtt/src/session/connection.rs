//! What a session knows of its connection.

use std::num::{NonZeroU16, NonZeroU32};

use super::{DeliveryOptions, alias::OutgoingAliases};
use crate::{
    PacketId, ProtocolVersion, QoS, Timestamp, Transit,
    codec::{MAX_PACKET_LEN, PublishHead, SendBuffer, TopicForm, encode_publish, publish_len},
    packet::Delivery,
};

/// The connection of a session.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) version: ProtocolVersion,
    /// Whether CONNECT asked for a session that ends with the connection.
    pub(super) asked_no_expiry: bool,
    pub(super) receive_maximum: NonZeroU16,
    pub(super) maximum_packet_size: Option<NonZeroU32>,
    /// When the last packet came.
    pub(super) last_packet: Timestamp,
    /// How long the client may be silent, in milliseconds; 0: for ever.
    pub(super) silence_max_millis: u32,
    pub(super) aliases: Option<Box<OutgoingAliases>>,
    pub(super) authentication: Option<Box<Authentication>>,
}

/// Enhanced authentication of this connection.
#[derive(Debug)]
pub(super) struct Authentication {
    pub(super) method: Box<str>,
    /// Packets of a re-authentication that the client has sent; 0: none is under way.
    pub(super) rounds: u8,
}

/// The message is longer than the client's Maximum Packet Size.
#[derive(Debug)]
pub(super) struct TooLarge;

impl Connection {
    /// Appends a PUBLISH.
    pub(super) fn send(
        &mut self,
        now: Timestamp,
        transit: &Transit<'_>,
        options: &DeliveryOptions,
        delivery: Delivery,
        out: &mut SendBuffer,
    ) -> Result<(), TooLarge> {
        let mut head = PublishHead {
            delivery,
            retain: options.retain,
            topic: self.aliases.as_ref().map_or(TopicForm::Full, |aliases| aliases.form(transit.topic)),
            message_expiry: match transit.expires_at {
                Some(at) if self.version.is_v5() => Some(secs_left(now, at)),
                _ => None,
            },
            subscription_ids: &options.subscription_ids,
        };
        if !self.fits(transit, &head) {
            // The alias itself takes three bytes; without it the message may fit.
            if !matches!(head.topic, TopicForm::Introduce(_)) {
                return Err(TooLarge);
            }
            head.topic = TopicForm::Full;
            if !self.fits(transit, &head) {
                return Err(TooLarge);
            }
        }
        encode_publish(transit, self.version, &head, out);
        if let Some(aliases) = &mut self.aliases {
            aliases.sent(transit.topic, head.topic);
        }
        Ok(())
    }

    /// Whether the client takes a packet of this size [MQTT-3.1.2-24], and the protocol has one.
    fn fits(&self, transit: &Transit<'_>, head: &PublishHead<'_>) -> bool {
        let maximum = match self.maximum_packet_size {
            Some(maximum) => usize::try_from(maximum.get()).unwrap_or(usize::MAX).min(MAX_PACKET_LEN),
            None if transit.size() < SURELY_FITS => return true,
            None => MAX_PACKET_LEN,
        };
        publish_len(transit, self.version, head) <= maximum
    }
}

/// How a message with this QoS is delivered.
pub(super) fn delivery(qos: QoS, id: PacketId, dup: bool) -> Delivery {
    match qos {
        QoS::AtMostOnce => Delivery::AtMostOnce,
        QoS::AtLeastOnce => Delivery::AtLeastOnce { id, dup },
        QoS::ExactlyOnce => Delivery::ExactlyOnce { id, dup },
    }
}

/// What is left of a Message Expiry Interval, in seconds: never more than there was at first [MQTT-3.3.2-6], and not 0
/// before it is over.
fn secs_left(now: Timestamp, expires_at: Timestamp) -> u32 {
    let millis = expires_at.as_millis().saturating_sub(now.as_millis());
    u32::try_from(millis.div_ceil(1000)).unwrap_or(u32::MAX)
}

/// A message below this size is no longer than [`MAX_PACKET_LEN`] as a packet, whatever goes with it.
const SURELY_FITS: usize = MAX_PACKET_LEN / 2;
