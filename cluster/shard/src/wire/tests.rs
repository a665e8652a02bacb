//! Entries and answers come back as they were written, and nothing else is taken for one.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_lane::{BatchWriter, Forwarded, Frame, Origin, Texts};
use flotilla_mqtt::{
    Message, PacketId, QoS, SubscriptionIds, Timestamp, Transit,
    packet::SubscriptionOptions,
    session::{ClientId, DeliveryOptions, QueueFull, SessionExpiry, Subscription},
    topic::TopicFilter,
};
use flotilla_state::{ConnectionEpoch, Incarnation, Member, NodeId, ShardEpoch, ShardId};
use proptest::prelude::*;

use crate::{
    Answer, Answers, Connection, DecodeError, EncodedPart, Entry, GroupMember, GroupStrategy, LIST_MAX,
    Letter, LoanFate, OPS_MAX, Op, Open, Opened, OpenedSession, Overlap, Part, PartAnswer, QueueLimits,
    ReceivedId, Seq, SessionId, StoredMessage, Will, WillFate, WillId,
};

fn connection() -> Connection {
    let epoch = ConnectionEpoch { shard: ShardEpoch(7), sequence: 300 };
    Connection { client: ClientId::new("c").unwrap(), epoch, turn: 2 }
}

fn filter(text: &str) -> Arc<TopicFilter> {
    Arc::new(TopicFilter::parse(text, 9).unwrap())
}

fn message() -> Arc<Message> {
    Arc::new(Message {
        topic: "t".into(),
        properties: Bytes::from_static(b"\x01\x01"),
        payload: Bytes::from_static(b"hi"),
        qos: QoS::AtLeastOnce,
        retain: true,
        expires_at: None,
        publisher: ClientId::new("p"),
    })
}

fn subscription() -> Subscription {
    let options =
        SubscriptionOptions { qos: QoS::ExactlyOnce, no_local: true, ..SubscriptionOptions::default() };
    Subscription { filter: filter("a/+"), options, id: NonZeroU32::new(5) }
}

fn batch(frame: &Frame<'_>) -> flotilla_lane::Batch {
    let mut writer = BatchWriter::new();
    writer.push(frame);
    writer.take().unwrap()
}

fn forwarded() -> Forwarded<'static> {
    let transit = Transit::new("t", b"", b"hi", QoS::ExactlyOnce, false, None, None, None);
    Forwarded::new(&transit, Timestamp::ORIGIN)
}

/// One of each.
fn ops() -> Vec<Op> {
    let origin = Origin { shard: ShardId(3), session: 4, number: 6, floor: 5 };
    vec![
        Op::Open(Box::new(Open {
            connection: connection(),
            clean_start: true,
            only_present: true,
            expiry: SessionExpiry::After(Duration::from_millis(1_500)),
            window: 32,
            queue: QueueLimits { messages_max: 1_000, bytes_max: 1 << 40, full: QueueFull::DropOldest },
            awaiting_rel_max: 100,
            queue_qos0: true,
            overlap: Overlap::Each,
            group_strategy: GroupStrategy::RoundRobin,
            will: Some(Will {
                message: message(),
                delay: Duration::from_secs(3),
                expiry: Some(Duration::ZERO),
            }),
        })),
        Op::Subscribe { connection: connection(), subscriptions: vec![subscription()] },
        Op::Unsubscribe { connection: connection(), filters: vec![filter("$share/g/a")] },
        Op::Acknowledge { connection: connection(), released: vec![Seq(1), Seq(300)], done: vec![Seq(0)] },
        Op::Receive { connection: connection(), packet_id: PacketId::MIN },
        Op::Release { connection: connection(), packet_id: PacketId::new(65_535).unwrap() },
        Op::Close {
            connection: connection(),
            expiry: SessionExpiry::Never,
            will: WillFate::Keep,
            sent_until: Seq(9),
            stored: vec![PacketId::MIN, PacketId::new(300).unwrap()],
        },
        Op::Abandon { connection: connection(), expiry: SessionExpiry::Never },
        Op::End { connection: connection() },
        Op::Publish {
            batch: batch(&Frame::Store {
                origin: Some(origin),
                retains: true,
                without: Texts::default(),
                message: forwarded(),
            }),
        },
        Op::Direct {
            connection: connection(),
            options: DeliveryOptions {
                qos: QoS::ExactlyOnce,
                retain: true,
                subscription_ids: SubscriptionIds::Many([1, 2].map(|id| NonZeroU32::new(id).unwrap()).into()),
                shared: Some(filter("$queue/a")),
            },
            message: message(),
            expires_in: Some(Duration::from_secs(1)),
        },
        Op::MemberEnded { member: Member { node: NodeId(1), incarnation: Incarnation(2) } },
        Op::Tick,
        Op::Discard { session: SessionId(1), seqs: vec![Seq(2)] },
        Op::WillDone { will: WillId(3) },
        Op::ForgetPublisher { shard: ShardId(4), session: SessionId(5) },
        letters(),
        Op::Posted { letters: vec![1, 1 << 57] },
        Op::Restored,
    ]
}

fn lent() -> StoredMessage {
    StoredMessage::read(Bytes::from_static(b"\x0E\x05\x01t\0hi")).expect("valid")
}

/// One of each.
fn letters() -> Op {
    let (group, session): (Arc<str>, _) = ("$share/g/a/+".into(), SessionId(5));
    let member = GroupMember {
        group: group.clone(),
        session,
        window: 300,
        queue: QueueLimits { messages_max: 7, bytes_max: 1 << 40, full: QueueFull::DropOldest },
        strategy: GroupStrategy::LeastInflight,
        is_online: true,
    };
    let letters = [
        Letter::Member(member),
        Letter::Leave { group: group.clone(), session },
        Letter::Lend { session, group, message: lent() },
        Letter::Return { loan: 1 << 57, fate: LoanFate::Done },
        Letter::Return { loan: 1, fate: LoanFate::Back },
    ];
    Op::Letters { from: ShardId(9), after: 299, letters: (300..).zip(letters).collect() }
}

fn part(ops: Vec<Op>) -> Part {
    Part { source: Member { node: NodeId(0x0102), incarnation: Incarnation(3) }, number: 4, ops }
}

fn answers() -> Answers {
    let session = OpenedSession {
        id: SessionId(1),
        subscriptions: vec![subscription()],
        received: vec![
            ReceivedId { id: PacketId::new(9).unwrap(), number: 2, is_stored: false },
            ReceivedId { id: PacketId::MIN, number: 300, is_stored: true },
        ],
        next_number: 301,
        floor: 2,
        head: Seq(4),
        maybe_sent_until: Seq(5),
    };
    let applied = vec![
        Answer::Done,
        Answer::Fenced,
        Answer::Opened(Box::new(Opened { present: false, session: None })),
        Answer::Opened(Box::new(Opened { present: true, session: Some(session) })),
        Answer::Received { number: 300, floor: 1 },
        Answer::Full,
        Answer::Gap,
        Answer::Queued(None),
        Answer::Queued(Some(Seq(300))),
        Answer::Count(300),
    ];
    let parts = vec![
        PartAnswer::Applied(applied),
        PartAnswer::Gap { expected: 9 },
        PartAnswer::Ended,
        PartAnswer::Applied(Vec::new()),
    ];
    Answers { parts }
}

#[test]
fn entries_and_answers_come_back() {
    let entry = Entry {
        stamp: 1_700_000_000_000,
        retained_full: true,
        parts: vec![part(ops()), part(vec![Op::Tick])],
    };
    let bytes = entry.encode();
    assert_eq!(Entry::decode(&bytes), Ok(entry.clone()));
    let parts: Vec<EncodedPart> = entry.parts.iter().map(Part::encode).collect();
    assert_eq!(Entry::encode_parts(entry.stamp, entry.retained_full, &parts), bytes);
    for part in parts {
        assert_eq!(EncodedPart::check(part.bytes().clone()), Ok(part));
    }
    assert_eq!(Answers::decode(&answers().encode()), Ok(answers()));
    assert_eq!(Answers::decode(&Answers::default().encode()), Ok(Answers::default()));
}

#[test]
fn messages_share_the_memory_of_their_entry() {
    let bytes = Entry { stamp: 1, retained_full: false, parts: vec![part(ops())] }.encode();
    let entry = Entry::decode(&bytes).unwrap();
    let batch = entry.parts[0].ops.iter().find_map(|op| match op {
        Op::Publish { batch } => Some(batch.bytes().clone()),
        _ => None,
    });
    assert!(bytes.as_ptr_range().contains(&batch.unwrap().as_ptr()));
}

#[test]
fn a_part_of_an_entry_is_none() {
    let bytes = Entry { stamp: 1, retained_full: false, parts: vec![part(ops()), part(ops())] }.encode();
    for cut in 0..bytes.len() {
        assert!(Entry::decode(&bytes.slice(..cut)).is_err(), "{cut}");
    }
}

#[test]
fn what_is_refused() {
    let check = |ops: Vec<Op>, error: &str| {
        let refused =
            EncodedPart::check(part(ops).encode().bytes().clone()).expect_err("refused").to_string();
        assert!(refused.contains(error), "{refused}");
    };
    let many = vec![Seq(1); LIST_MAX + 1];
    check(vec![Op::Discard { session: SessionId(1), seqs: many.clone() }], "`seqs`");
    check(vec![Op::Acknowledge { connection: connection(), released: Vec::new(), done: many }], "`done`");
    let stored = vec![PacketId::MIN; LIST_MAX + 1];
    let (expiry, will) = (SessionExpiry::Never, WillFate::Drop);
    let close = Op::Close { connection: connection(), expiry, will, sent_until: Seq(1), stored };
    check(vec![close], "`stored`");
    check(vec![Op::Tick; OPS_MAX + 1], "`ops`");
    check(Vec::new(), "`ops`");
    let empty = Entry { stamp: 1, retained_full: false, parts: Vec::new() };
    assert_eq!(Entry::decode(&empty.encode()), Err(DecodeError::Field("parts")));
    let lane = batch(&Frame::Publish { message: forwarded() });
    check(vec![Op::Publish { batch: lane }], "`frame`");
    let long = ClientId::new(&"c".repeat(65_536)).unwrap();
    check(vec![Op::End { connection: Connection { client: long, ..connection() } }], "`client`");
    let group = Connection { client: ClientId::new("\0$share/g/a").unwrap(), ..connection() };
    check(vec![Op::End { connection: group }], "`client`");
    let posted = Op::Posted { letters: vec![1; LIST_MAX + 1] };
    check(vec![posted], "`letters`");
    for group in ["a", "$share/g", "$share/g/a\0", "\0$share/g/a", "$share/g/a#"] {
        let letter = Letter::Leave { group: group.into(), session: SessionId(1) };
        check(vec![Op::Letters { from: ShardId(1), after: 0, letters: vec![(1, letter)] }], "`group`");
    }
    let letters = vec![(1, Letter::Return { loan: 1, fate: LoanFate::Done }); LIST_MAX + 1];
    check(vec![Op::Letters { from: ShardId(1), after: 0, letters }], "`letters`");
    let bytes = Bytes::from_static(b"\x08\x02");
    assert_eq!(Entry::decode(&bytes), Err(DecodeError::UnknownVersion(2)));
    assert_eq!(Answers::decode(&bytes), Err(DecodeError::UnknownVersion(2)));
    assert_eq!(EncodedPart::check(bytes), Err(DecodeError::UnknownVersion(2)));
    assert_eq!(Answers::decode(&Bytes::new()), Err(DecodeError::UnknownVersion(0)));
}

/// The bytes of version 1: replicas of neighbouring versions read the same log.
#[test]
fn the_bytes_are_fixed() {
    let receive = Op::Receive { connection: connection(), packet_id: PacketId::MIN };
    let publish = Op::Publish {
        batch: batch(&Frame::Store {
            origin: None,
            retains: false,
            without: Texts::default(),
            message: forwarded(),
        }),
    };
    let entry =
        Entry { stamp: 300, retained_full: false, parts: vec![part(vec![receive, publish, Op::Tick])] };
    let mut expected = b"\x08\x01\x10\xAC\x02\x1A\x3E".to_vec();
    expected.extend_from_slice(b"\x08\x01\x12\x0B\x09\x02\x01\0\0\0\0\0\0\x10\x03\x18\x04");
    expected.extend_from_slice(b"\x22\x10\x2A\x0E\x0A\x0A\x0A\x01c\x10\x07\x18\xAC\x02\x20\x02\x10\x01");
    expected.extend_from_slice(b"\x22\x13\x4A\x11\x01\x01\0\0\0\x08\0\0\0\x07\0\x02\x01t\0hi");
    expected.extend_from_slice(b"\x22\x02\x62\0\x28\x03");
    expected.extend_from_slice(b"\x20\x01");
    assert_eq!(entry.encode().to_vec(), expected);
    let answers = Answers {
        parts: vec![
            PartAnswer::Applied(vec![Answer::Done, Answer::Received { number: 2, floor: 1 }]),
            PartAnswer::Gap { expected: 300 },
        ],
    };
    let expected = b"\x08\x01\x12\x0C\x0A\x0A\x0A\0\x0A\x06\x1A\x04\x08\x02\x10\x01\x12\x03\x10\xAC\x02";
    assert_eq!(answers.encode().to_vec(), expected);
}

proptest! {
    #[test]
    fn random_bytes_do_no_harm(bytes: Vec<u8>) {
        let bytes = Bytes::from([b"\x08\x01", &bytes[..]].concat());
        let _ = Entry::decode(&bytes);
        let _ = EncodedPart::check(bytes.clone());
        let _ = Answers::decode(&bytes);
    }

    #[test]
    fn changed_bytes_do_no_harm(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = Entry { stamp: 1, retained_full: false, parts: vec![part(ops())] }.encode().to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = Entry::decode(&bytes.into());
    }
}
