//! What the tests of the checkers share, and a tiny broker that does everything right, whose histories must pass.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use crate::{
    check::delivery,
    history::{
        At, Check, Delivered, MessageId, Outcome, Published, Stream, Subscription, Violation, Wanted, spans,
    },
};

pub(super) fn at(milliseconds: u64) -> At {
    At(Duration::from_millis(milliseconds))
}

pub(super) fn id(publisher: u16, incarnation: u32, sequence: u32) -> MessageId {
    MessageId { publisher, incarnation, sequence }
}

pub(super) fn acknowledged(id: MessageId, qos: u8, begin: u64) -> Published {
    let (begin, end) = (at(begin), at(begin + 5));
    Published { id, topic: "t".to_owned(), qos, begin, end, outcome: Outcome::Ok, nodes: vec![0] }
}

pub(super) fn delivered(id: MessageId, qos: u8, time: u64) -> Delivered {
    Delivered { at: at(time), life: 0, node: 0, id, topic: "t".to_owned(), qos, dup: false }
}

pub(super) fn subscription(qos: u8, since: u64, delivered: Vec<Delivered>) -> Subscription {
    Subscription {
        client: "s".to_owned(),
        wanted: Wanted::All,
        qos,
        since: at(since),
        stays: Vec::new(),
        delivered,
    }
}

pub(super) fn kinds(violations: &[Violation]) -> Vec<Check> {
    violations.iter().map(|violation| violation.check).collect()
}

/// What happens to a message on its way, by chance.
#[derive(Debug, Clone, Copy)]
struct Fate {
    publisher: u16,
    qos: u8,
    /// The broker takes it.
    taken: bool,
    /// Its publisher hears of that.
    answered: bool,
    /// The subscriber at QoS 1 gets it so many times.
    copies: usize,
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = (0u16..3, 1u8..3, any::<bool>(), any::<bool>(), 1usize..3);
    let build = |(publisher, qos, taken, answered, copies)| {
        // What is answered was taken.
        Fate { publisher, qos, taken: taken || answered, answered, copies }
    };
    proptest::collection::vec(fate.prop_map(build), 1..60)
}

/// The broker: what it takes goes to each of its two subscribers in order. A publisher whose message is not answered begins a
/// new incarnation.
fn serve(fates: &[Fate]) -> Stream {
    let mut stream = Stream::default();
    let mut incarnations: BTreeMap<u16, u32> = BTreeMap::new();
    let (mut once, mut often) = (Vec::new(), Vec::new());
    for (number, fate) in fates.iter().enumerate() {
        let sequence = u32::try_from(number).expect("a small number");
        let begin = 10 + 10 * u64::from(sequence);
        let incarnation = incarnations.entry(fate.publisher).or_default();
        let id = id(fate.publisher, *incarnation, sequence);
        let outcome = if fate.answered { Outcome::Ok } else { Outcome::Unknown };
        *incarnation += u32::from(!fate.answered);
        stream.published.push(Published { outcome, ..acknowledged(id, fate.qos, begin) });
        if fate.taken {
            once.push(delivered(id, fate.qos, begin + 6));
            often.extend((0..fate.copies).map(|_| delivered(id, 1, begin + 6)));
        }
    }
    stream.subscriptions = vec![subscription(2, 0, once), subscription(1, 0, often)];
    stream
}

proptest! {
    #[test]
    fn what_a_right_broker_does_passes(fates in fates()) {
        prop_assert_eq!(kinds(&delivery::check(&serve(&fates))), []);
    }

    #[test]
    fn one_wrong_delivery_is_found(fates in fates(), which in any::<prop::sample::Index>(), how in 0..4) {
        let mut stream = serve(&fates);
        let outcomes: BTreeMap<MessageId, Outcome> =
            stream.published.iter().map(|published| (published.id, published.outcome)).collect();
        let delivered = &mut stream.subscriptions[0].delivered;
        prop_assume!(!delivered.is_empty());
        let index = which.index(delivered.len());
        let expected = match how {
            0 => {
                let gone = delivered.remove(index);
                prop_assume!(outcomes[&gone.id] == Outcome::Ok);
                Check::Lost
            }
            1 => {
                prop_assume!(delivered[index].qos == 2);
                delivered.push(delivered[index].clone());
                Check::Duplicate
            }
            2 => {
                delivered[index].id.publisher = 7;
                Check::Unexpected
            }
            _ => {
                let is_like = |other: &&Delivered| {
                    let (one, other) = (&delivered[index], *other);
                    (one.id.publisher, one.id.incarnation, one.qos)
                        == (other.id.publisher, other.id.incarnation, other.qos)
                };
                let Some(offset) = delivered[index + 1..].iter().position(|other| is_like(&other)) else {
                    return Ok(());
                };
                delivered.swap(index, index + 1 + offset);
                Check::Reorder
            }
        };
        let found = kinds(&delivery::check(&stream));
        prop_assert!(found.contains(&expected), "{:?} is not among {:?}", expected, found);
    }
}

#[test]
fn spans_are_short() {
    assert_eq!(spans(&[1, 2, 3, 5, 7, 8].into_iter().collect()), "1-3, 5, 7-8");
}
