//! Properties on their way from the publisher to the receivers.

use super::{connect::forwarded_will_properties, publish::forwarded_properties};
use crate::{
    codec::{PropertyId, Reader, read_checked},
    packet::{PublishProperties, WillProperties},
};

/// The properties of a PUBLISH that go on to every receiver, encoded: all but Message Expiry Interval, Topic Alias
/// and Subscription Identifier. Borrows from the packet when nothing has to be left out, else is built in `scratch`.
///
/// The order is the publisher's [MQTT-3.3.2-18]. What was not decoded but built, and cannot be encoded, gives none.
#[must_use]
pub fn forward_properties<'a>(properties: &PublishProperties<'a>, scratch: &'a mut Vec<u8>) -> &'a [u8] {
    let raw = properties.raw.0;
    let is_complete = properties.message_expiry.is_none()
        && properties.topic_alias.is_none()
        && properties.subscription_ids.is_empty();
    scratch.clear();
    if raw.is_empty() {
        if forwarded_properties(properties, scratch).is_err() {
            scratch.clear();
        }
        return scratch;
    }
    if is_complete {
        return raw;
    }
    let mut rest = Reader::new(raw);
    loop {
        let before = rest.rest();
        let Some(property) = read_checked(&mut rest) else { return scratch };
        let is_for_everybody = !matches!(
            property.id(),
            PropertyId::MessageExpiryInterval | PropertyId::TopicAlias | PropertyId::SubscriptionIdentifier
        );
        if is_for_everybody {
            scratch.extend_from_slice(&before[..before.len() - rest.rest().len()]);
        }
    }
}

/// Appends the properties of a will that go on to every receiver, encoded: all but Will Delay Interval and Message
/// Expiry Interval.
///
/// Those of a decoded will can always be written; what was built and cannot be encoded gives none.
pub fn forward_will_properties(properties: &WillProperties<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    if forwarded_will_properties(properties, out).is_err() {
        out.truncate(start);
    }
}
