//! What was received, held against what was sent.

use std::{collections::HashMap, sync::PoisonError, time::Instant};

use super::{
    Storm, group,
    message::{Id, Received, Sendings, matches},
    subscriber::Outcome,
    will,
};

/// The messages that a subscription must get: the broker has taken them over, and they were sent when it was known.
pub(super) fn owed<'s>(sendings: &'s Sendings, filter: &str, since: Instant) -> impl Iterator<Item = &'s Id> {
    let is_owed = move |sent: &super::message::Sent| {
        sent.acked && sent.qos > 0 && sent.at > since && matches(filter, &sent.topic)
    };
    sendings.iter().filter(move |(_, sent)| is_owed(sent)).map(|(id, _)| id)
}

/// Everything that one subscriber may rely on.
pub(super) fn subscriber(outcome: &Outcome, sendings: &Sendings) {
    let Outcome { name, filter, qos, received, .. } = outcome;
    let mut copies: HashMap<&Id, Copies> = HashMap::new();
    let mut latest: HashMap<(&str, &str, u8), u32> = HashMap::new();
    for (position, message) in received.iter().enumerate() {
        let sent = sendings.get(&message.id);
        let sent = sent.unwrap_or_else(|| panic!("{name}: nobody sent {message:?}"));
        assert_eq!(message.topic, sent.topic, "{name}: the topic of {:?}", message.id);
        if matches(filter, &sent.topic) {
            assert_eq!(message.qos, sent.qos.min(*qos), "{name}: the QoS of {:?}", message.id);
        }
        let copies = copies.entry(&message.id).or_default();
        copies.all += 1;
        copies.first_hand += u32::from(!message.dup);
        assert!(
            copies.first_hand <= sent.copies && (message.qos == 1 || copies.all <= sent.copies),
            "{name}: {:?}, sent {} times at QoS {} to {}, came too often: {:?}",
            message.id,
            sent.copies,
            sent.qos,
            sent.topic,
            history(received, &message.id)
        );
        if copies.all == 1 && !will::is_will(&message.id.0) && matches(filter, &sent.topic) {
            let stream = (message.id.0.as_str(), message.topic.as_str(), message.qos);
            let before = latest.insert(stream, message.id.1);
            assert!(
                before.is_none_or(|before| before < message.id.1),
                "{name}: {} after {before:?} at position {position} of {stream:?} [MQTT-4.6.0-6]",
                message.id.1
            );
        }
    }
    let mut missing: Vec<_> =
        owed(sendings, filter, outcome.since).filter(|id| !copies.contains_key(id)).collect();
    missing.sort();
    assert!(missing.is_empty(), "{name} ({filter} at QoS {qos}) never got {missing:?}");
}

#[derive(Default)]
struct Copies {
    all: u32,
    /// Without DUP.
    first_hand: u32,
}

/// Where in the log a message is, at which QoS, and whether as a repetition.
fn history(received: &[Received], id: &Id) -> Vec<(usize, u8, bool)> {
    let mine = received.iter().enumerate().filter(|(_, message)| message.id == *id);
    mine.map(|(position, message)| (position, message.qos, message.dup)).collect()
}

/// Each message was consumed by some member.
pub(super) fn group(storm: &Storm<'_>, sendings: &Sendings) {
    let consumed = storm.consumed.lock().unwrap_or_else(PoisonError::into_inner);
    for id in consumed.iter() {
        assert!(sendings.contains_key(id), "the group: nobody sent {id:?}");
    }
    let since = *storm.group_since.get().expect("the group had a member that stayed");
    let filter = group::filter(storm.round);
    let mut missing: Vec<_> = owed(sendings, &filter, since).filter(|id| !consumed.contains(id)).collect();
    missing.sort();
    assert!(missing.is_empty(), "the group never got {missing:?}");
}
