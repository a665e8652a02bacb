//! Shared subscriptions: each message to one member, at QoS 1 to one at least.

use std::collections::BTreeMap;

use crate::{
    check::delivery::{index, owed, unexpected, way},
    history::{Check, Delivered, MessageId, Stream, Subscription, Violation},
};

/// Holds what the members of one group got together against what was sent.
pub(crate) fn check(stream: &Stream) -> Vec<Violation> {
    let index = index(stream);
    let mut violations: Vec<Violation> =
        stream.subscriptions.iter().flat_map(|member| unexpected(&index, member)).collect();
    let mut consumed: BTreeMap<MessageId, Vec<(&Subscription, &Delivered)>> = BTreeMap::new();
    for member in &stream.subscriptions {
        for delivered in &member.delivered {
            consumed.entry(delivered.id).or_default().push((member, delivered));
        }
    }
    for takers in consumed.values() {
        if let [(first, one), .., (second, other)] = takers.as_slice()
            && one.qos == 2
        {
            let text = format!(
                "{} on {} came {} times: to {} at {} from node-{}, and to {} at {} from node-{}; {}",
                one.id,
                one.topic,
                takers.len(),
                first.client,
                one.at,
                one.node,
                second.client,
                other.at,
                other.node,
                index.get(&one.id).map_or_else(String::new, |sent| way(sent)),
            );
            violations.push(Violation {
                check: Check::Group,
                begin: one.at.min(other.at),
                end: one.at.max(other.at),
                count: 1,
                text,
            });
        }
    }
    // The group is there when its last member is.
    let Some(member) = stream.subscriptions.iter().max_by_key(|member| member.since) else {
        return violations;
    };
    let missing = owed(stream.published.iter(), member).filter(|sent| !consumed.contains_key(&sent.id));
    violations.extend(missing.map(|sent| Violation {
        check: Check::Group,
        begin: sent.begin,
        end: sent.end,
        count: 1,
        text: format!(
            "no member got {} to {} at QoS {}, sent at {} through nodes {:?}, acknowledged at {}",
            sent.id, sent.topic, sent.qos, sent.begin, sent.nodes, sent.end
        ),
    }));
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::reference::{acknowledged, delivered, id, kinds, subscription};

    fn stream(qos: u8, first: &[u32], second: &[u32]) -> Stream {
        let taken = |numbers: &[u32]| numbers.iter().map(|n| delivered(id(1, 0, *n), qos, 20)).collect();
        Stream {
            published: (0..4).map(|n| acknowledged(id(1, 0, n), qos, 10)).collect(),
            subscriptions: vec![subscription(qos, 0, taken(first)), subscription(qos, 0, taken(second))],
        }
    }

    #[test]
    fn one_member_for_each_message_is_right() {
        assert_eq!(kinds(&check(&stream(2, &[0, 3], &[1, 2]))), []);
    }

    #[test]
    fn a_message_that_no_member_got_is_found() {
        assert_eq!(kinds(&check(&stream(1, &[0, 3], &[1]))), [Check::Group]);
    }

    #[test]
    fn two_members_for_one_message_are_found_at_qos_2() {
        assert_eq!(kinds(&check(&stream(2, &[0, 3, 1], &[1, 2]))), [Check::Group]);
        assert_eq!(kinds(&check(&stream(1, &[0, 3, 1], &[1, 2]))), []);
    }

    #[test]
    fn what_nobody_sent_is_found() {
        assert_eq!(kinds(&check(&stream(1, &[0, 1, 2, 3], &[7]))), [Check::Unexpected]);
    }
}
