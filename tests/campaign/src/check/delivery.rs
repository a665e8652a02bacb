//! Publishers and persistent subscribers: lost, unexpected, duplicate, reordered.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::history::{
    At, Check, Delivered, MessageId, Outcome, Published, Stay, Stream, Subscription, Violation, spans,
};

/// Messages by their names.
pub(crate) type Index<'h> = BTreeMap<MessageId, &'h Published>;

/// Holds what each subscription got against what was sent.
pub(crate) fn check(stream: &Stream) -> Vec<Violation> {
    let index = index(stream);
    let mut violations = Vec::new();
    for subscription in &stream.subscriptions {
        violations.extend(unexpected(&index, subscription));
        violations.extend(duplicate(&index, subscription));
        violations.extend(reordered(&index, subscription));
        violations.extend(lost(&index, subscription));
    }
    violations
}

/// The messages of a stream by their names.
pub(crate) fn index(stream: &Stream) -> Index<'_> {
    stream.published.iter().map(|published| (published.id, published)).collect()
}

/// What a subscription must get: it was acknowledged, and not sent before the subscription was known.
pub(crate) fn owed<'h>(
    published: impl Iterator<Item = &'h Published>,
    subscription: &Subscription,
) -> impl Iterator<Item = &'h Published> {
    published.filter(|published| {
        published.outcome == Outcome::Ok
            && published.qos > 0
            && published.begin > subscription.since
            && subscription.wanted.has(&published.topic)
    })
}

/// Deliveries of what nobody sent so.
pub(crate) fn unexpected(index: &Index<'_>, subscription: &Subscription) -> Vec<Violation> {
    let wrong = subscription.delivered.iter().filter_map(|delivered| {
        let why = match index.get(&delivered.id) {
            None => "nobody sent it".to_owned(),
            Some(sent) if sent.topic != delivered.topic => format!("it was sent to {}", sent.topic),
            Some(sent) if !subscription.wanted.has(&sent.topic) => "it does not match the filter".to_owned(),
            Some(sent) if sent.qos.min(subscription.qos) != delivered.qos => {
                format!("it was sent at QoS {} to a subscription at QoS {}", sent.qos, subscription.qos)
            }
            Some(sent) if sent.begin > delivered.at => format!("it was sent at {}", sent.begin),
            Some(_) => return None,
        };
        Some(violation(Check::Unexpected, subscription, delivered, &why))
    });
    wrong.collect()
}

fn duplicate(index: &Index<'_>, subscription: &Subscription) -> Vec<Violation> {
    let mut seen: BTreeMap<(MessageId, u32), &Delivered> = BTreeMap::new();
    let mut violations = Vec::new();
    for delivered in subscription.delivered.iter().filter(|delivered| delivered.qos == 2) {
        if let Some(first) = seen.insert((delivered.id, delivered.life), delivered) {
            let sent = index.get(&delivered.id).map_or_else(String::new, |sent| way(sent));
            let why = format!(
                "it had come at {} from node-{} before; {sent}; it was connected to {}",
                first.at,
                first.node,
                stays(subscription, first.at, delivered.at),
            );
            violations.push(Violation {
                begin: first.at,
                ..violation(Check::Duplicate, subscription, delivered, &why)
            });
        }
    }
    violations
}

/// Only the first time that a message comes counts: what is repeated is repeated in order behind it.
fn reordered(index: &Index<'_>, subscription: &Subscription) -> Vec<Violation> {
    let mut seen: BTreeSet<MessageId> = BTreeSet::new();
    let mut latest: BTreeMap<(u16, u32, &str, u8), &Delivered> = BTreeMap::new();
    let mut violations = Vec::new();
    for delivered in &subscription.delivered {
        if !seen.insert(delivered.id) {
            continue;
        }
        let MessageId { publisher, incarnation, sequence } = delivered.id;
        let stream = (publisher, incarnation, delivered.topic.as_str(), delivered.qos);
        match latest.get(&stream) {
            Some(before) if before.id.sequence > sequence => {
                let sent = index.get(&delivered.id);
                let begin = sent.map_or(delivered.at, |sent| sent.begin);
                let why = format!(
                    "behind {}, which came at {} from node-{}; {}; it was connected to {}",
                    before.id,
                    before.at,
                    before.node,
                    sent.map_or_else(String::new, |sent| way(sent)),
                    stays(subscription, begin, delivered.at),
                );
                violations
                    .push(Violation { begin, ..violation(Check::Reorder, subscription, delivered, &why) });
            }
            _ => {
                latest.insert(stream, delivered);
            }
        }
    }
    violations
}

/// One violation for each gap: the messages of a publisher to a topic that are missing together.
fn lost(index: &Index<'_>, subscription: &Subscription) -> Vec<Violation> {
    let came: BTreeMap<MessageId, &Delivered> =
        subscription.delivered.iter().rev().map(|delivered| (delivered.id, delivered)).collect();
    let mut streams: BTreeMap<(u16, &str), Vec<&Published>> = BTreeMap::new();
    for published in owed(index.values().copied(), subscription) {
        streams.entry((published.id.publisher, &published.topic)).or_default().push(published);
    }
    let mut violations = Vec::new();
    for stream in streams.values() {
        let (mut before, mut gap): (Option<&Delivered>, Vec<&Published>) = (None, Vec::new());
        for published in stream {
            let Some(delivered) = came.get(&published.id) else {
                gap.push(published);
                continue;
            };
            violations.extend(missing(subscription, &gap, before, Some(delivered)));
            gap.clear();
            before = Some(delivered);
        }
        violations.extend(missing(subscription, &gap, before, None));
    }
    violations
}

fn missing(
    subscription: &Subscription,
    gap: &[&Published],
    before: Option<&Delivered>,
    after: Option<&Delivered>,
) -> Option<Violation> {
    let (first, last) = (gap.first()?, gap.last()?);
    let neighbour = |delivered: Option<&Delivered>| {
        let tell = |delivered: &Delivered| {
            format!(
                "{} came at {} from node-{} in session {}",
                delivered.id, delivered.at, delivered.node, delivered.life
            )
        };
        delivered.map_or_else(|| "nothing".to_owned(), tell)
    };
    let numbers: BTreeSet<u32> = gap.iter().map(|published| published.id.sequence).collect();
    let nodes: BTreeSet<usize> = gap.iter().flat_map(|published| published.nodes.clone()).collect();
    let end = gap.iter().map(|published| published.end).max().unwrap_or(At::NEVER);
    let text = format!(
        "{} (QoS {}, subscribed since {}) never got {}.{}.[{}] to {} at QoS {}, sent through nodes {nodes:?} between {} and \
         {}, all acknowledged by {end}; before it {}, behind it {}; it was connected to {}",
        subscription.client,
        subscription.qos,
        subscription.since,
        first.id.publisher,
        first.id.incarnation,
        spans(&numbers),
        first.topic,
        first.qos,
        first.begin,
        last.begin,
        neighbour(before),
        neighbour(after),
        stays(subscription, first.begin, end),
    );
    Some(Violation { check: Check::Lost, begin: first.begin, end, count: gap.len(), text })
}

/// How a message was sent.
pub(crate) fn way(sent: &Published) -> String {
    let Published { begin, end, outcome, nodes, .. } = sent;
    format!("it was sent at {begin} to nodes {nodes:?} in turn, with outcome {outcome:?} at {end}")
}

/// Where a subscriber was about this time.
fn stays(subscription: &Subscription, begin: At, end: At) -> String {
    let (begin, end) = (At(begin.0.saturating_sub(AROUND)), end.plus(AROUND));
    let stays = subscription.stays.iter().filter(|stay| stay.begin <= end && begin <= stay.end);
    let tell = |stay: &Stay| {
        let Stay { node, begin, end, how } = stay;
        format!("node-{node} from {begin} to {end} ({how})")
    };
    let stays: Vec<String> = stays.map(tell).collect();
    if stays.is_empty() { "no node".to_owned() } else { stays.join(", ") }
}

/// What is wrong with one delivery.
pub(crate) fn violation(
    check: Check,
    subscription: &Subscription,
    delivered: &Delivered,
    why: &str,
) -> Violation {
    let Delivered { at, life, node, id, topic, qos, dup } = delivered;
    let text = format!(
        "{} got {id} on {topic} at QoS {qos}{} at {at} from node-{node} in session {life}: {why}",
        subscription.client,
        if *dup { " with DUP" } else { "" },
    );
    Violation { check, begin: *at, end: *at, count: 1, text }
}

/// How often a message at QoS 1 came more than once, which is allowed.
pub(crate) fn repetitions(stream: &Stream) -> usize {
    let of = |subscription: &Subscription| {
        let ids: BTreeSet<MessageId> =
            subscription.delivered.iter().filter(|it| it.qos == 1).map(|it| it.id).collect();
        subscription.delivered.iter().filter(|it| it.qos == 1).count() - ids.len()
    };
    stream.subscriptions.iter().map(of).sum()
}

/// A message may be held up, and its subscriber away, for a while.
const AROUND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::reference::{acknowledged, delivered, id, kinds, subscription};

    fn stream(deliveries: Vec<Delivered>) -> Stream {
        let published = (0..4).map(|sequence| acknowledged(id(1, 0, sequence), 2, 10 + u64::from(sequence)));
        Stream { published: published.collect(), subscriptions: vec![subscription(2, 0, deliveries)] }
    }

    fn all() -> Vec<Delivered> {
        (0..4).map(|sequence| delivered(id(1, 0, sequence), 2, 20 + u64::from(sequence))).collect()
    }

    #[test]
    fn each_once_in_order_is_right() {
        assert_eq!(kinds(&check(&stream(all()))), []);
    }

    #[test]
    fn a_message_that_was_acknowledged_and_never_came_is_lost() {
        let mut deliveries = all();
        deliveries.drain(1..3);
        let violations = check(&stream(deliveries));
        assert_eq!(kinds(&violations), [Check::Lost]);
        assert_eq!(violations[0].count, 2);
        assert!(violations[0].text.contains("1.0.[1-2]"), "{}", violations[0].text);
    }

    #[test]
    fn a_message_without_acknowledgement_may_come_or_not() {
        let mut stream = stream(all());
        stream.published[3].outcome = Outcome::Unknown;
        assert_eq!(kinds(&check(&stream)), []);
        stream.subscriptions[0].delivered.truncate(3);
        assert_eq!(kinds(&check(&stream)), []);
        stream.published[3].outcome = Outcome::Failed(0x97);
        assert_eq!(kinds(&check(&stream)), []);
    }

    #[test]
    fn what_was_sent_before_the_subscription_is_not_owed() {
        let mut stream = stream(all());
        stream.subscriptions[0].delivered.remove(0);
        stream.subscriptions[0].since = stream.published[0].begin;
        assert_eq!(kinds(&check(&stream)), []);
    }

    #[test]
    fn at_qos_2_a_message_comes_once_in_a_session() {
        let mut deliveries = all();
        deliveries.push(delivered(id(1, 0, 1), 2, 30));
        assert_eq!(kinds(&check(&stream(deliveries.clone()))), [Check::Duplicate]);
        // Another session knows nothing of the one before.
        deliveries[4].life = 1;
        assert_eq!(kinds(&check(&stream(deliveries))), []);
    }

    #[test]
    fn at_qos_1_repetitions_are_allowed_and_counted() {
        let mut stream = stream(all());
        stream.subscriptions[0].qos = 1;
        stream.subscriptions[0].delivered.iter_mut().for_each(|delivered| delivered.qos = 1);
        let again = stream.subscriptions[0].delivered[1].clone();
        stream.subscriptions[0].delivered.push(again);
        assert_eq!(kinds(&check(&stream)), []);
        assert_eq!(repetitions(&stream), 1);
    }

    #[test]
    fn order_is_kept_for_each_publisher_topic_and_incarnation() {
        let mut deliveries = all();
        deliveries.swap(1, 2);
        assert_eq!(kinds(&check(&stream(deliveries))), [Check::Reorder]);
        // The sequence of another incarnation is another stream.
        let mut stream = stream(all());
        stream.published.push(acknowledged(id(1, 1, 4), 2, 15));
        stream.subscriptions[0].delivered.insert(0, delivered(id(1, 1, 4), 2, 19));
        assert_eq!(kinds(&check(&stream)), []);
    }

    #[test]
    fn what_nobody_sent_so_is_unexpected() {
        let cases: [fn(&mut Delivered); 4] = [
            |delivered| delivered.id.publisher = 9,
            |delivered| delivered.topic = "elsewhere".to_owned(),
            |delivered| delivered.qos = 1,
            |delivered| delivered.at = At::default(),
        ];
        for change in cases {
            let mut deliveries = all();
            let mut wrong = deliveries[1].clone();
            change(&mut wrong);
            deliveries.push(wrong);
            let mut found = kinds(&check(&stream(deliveries)));
            found.retain(|check| *check == Check::Unexpected);
            assert_eq!(found, [Check::Unexpected]);
        }
    }
}
