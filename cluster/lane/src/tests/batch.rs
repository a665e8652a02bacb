//! Frames come back as they were written, and nothing else is taken for a batch.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_mqtt::{
    QoS, SubscriptionIds, Timestamp, Transit,
    session::{ClientId, DeliveryOptions},
    topic::TopicFilter,
};
use flotilla_state::{ConnectionEpoch, ShardEpoch, ShardId};
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::{
    BATCH_BYTES_SOFT, BATCH_FRAMES_SOFT, Batch, BatchWriter, DecodeError, Forwarded, Frame, KeptFor,
    LastPublisher, Origin, Texts, TextsWriter,
};

/// What a frame borrows from.
#[derive(Debug, Clone)]
struct Parts {
    kind: u8,
    number: u64,
    small: u8,
    client_id: String,
    topic: String,
    properties: Vec<u8>,
    payload: Vec<u8>,
    retain: bool,
    expires_in: Option<u64>,
    publisher: Option<ClientId>,
    options: DeliveryOptions,
}

const SOME_TEXTS: &[u8] = b"\x02ab\x01c";

impl Parts {
    fn frame(&self) -> Frame<'_> {
        let now = Timestamp::from_millis(1_000);
        let message = Forwarded::new(
            &Transit::new(
                &self.topic,
                &self.properties,
                &self.payload,
                self.options.qos,
                self.retain,
                self.expires_in.map(|millis| now + Duration::from_millis(millis)),
                self.publisher.as_ref(),
                None,
            ),
            now,
        );
        match self.kind {
            0 => Frame::Publish { message },
            1 => Frame::Group { filter: "$share/g/a/+", tried: self.small, message },
            2 => Frame::Control { kind: self.small, bytes: &self.payload },
            3 => Frame::Store { origin: None, retains: self.retain, without: Texts::default(), message },
            4 => Frame::Store {
                origin: Some(self.origin()),
                retains: self.retain,
                without: Texts::default(),
                message,
            },
            5 => {
                let without = Texts::read(SOME_TEXTS).expect("they are texts");
                Frame::Store { origin: None, retains: self.retain, without, message }
            }
            6 => Frame::Kept { to: self.kept_for(), options: self.options.clone(), message },
            _ => Frame::KeptRelease { to: self.kept_for() },
        }
    }
}

impl Parts {
    fn kept_for(&self) -> KeptFor<'_> {
        let shard = ShardEpoch(self.small.into());
        KeptFor {
            term: self.number,
            client_id: &self.client_id,
            epoch: ConnectionEpoch { shard, sequence: self.number / 3 },
            turn: self.small.into(),
            sequence: self.number.max(1),
        }
    }

    fn origin(&self) -> Origin {
        let small = u16::from(self.small);
        Origin {
            shard: ShardId(small * 257),
            session: !self.number,
            number: self.number,
            floor: self.number / 2,
        }
    }
}

fn options() -> impl Strategy<Value = DeliveryOptions> {
    let qos = select(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][..]);
    let ids = vec((1_u32..=268_435_455).prop_filter_map("not zero", NonZeroU32::new), 0..4);
    let shared = option::of(select(&["$share/g/a/+", "$queue/#"][..]));
    (qos, any::<bool>(), ids, shared).prop_map(|(qos, retain, ids, shared)| DeliveryOptions {
        qos,
        retain,
        subscription_ids: match ids.as_slice() {
            [] => SubscriptionIds::None,
            [id] => SubscriptionIds::One(*id),
            ids => SubscriptionIds::Many(ids.into()),
        },
        shared: shared.map(|filter| Arc::new(TopicFilter::parse(filter, 8).expect("it is valid"))),
    })
}

fn parts() -> impl Strategy<Value = Parts> {
    let head = (0..8_u8, any::<u64>(), any::<u8>(), "[a-z\u{E9}]{1,9}", "[a-z/\u{E9}]{1,20}");
    let tail = (vec(any::<u8>(), 0..20), vec(any::<u8>(), 0..200), any::<bool>());
    let expires_in = option::of(prop_oneof![0..5_u64, 0..1_u64 << 50]);
    let publisher = option::of("[a-z]{1,9}".prop_map(|id| ClientId::new(&id).expect("it is not empty")));
    (head, tail, expires_in, publisher, options()).prop_map(|(head, tail, expires_in, publisher, options)| {
        let (kind, number, small, client_id, topic) = head;
        let (properties, payload, retain) = tail;
        Parts {
            kind,
            number,
            small,
            client_id,
            topic,
            properties,
            payload,
            retain,
            expires_in,
            publisher,
            options,
        }
    })
}

fn batch_of(parts: &[Parts]) -> Batch {
    let mut writer = BatchWriter::new();
    for part in parts {
        writer.push(&part.frame());
    }
    writer.take().expect("there are frames")
}

/// Whatever the bytes are: they are refused, or all frames can be read.
fn decode_and_read(bytes: Bytes) {
    if let Ok(batch) = Batch::decode(bytes) {
        assert_eq!(batch.frames().count(), batch.len());
    }
}

proptest! {
    #[test]
    fn frames_come_back(parts in vec(parts(), 1..8)) {
        let written = batch_of(&parts);
        prop_assert_eq!(written.len(), parts.len());
        let read = Batch::decode(written.bytes().clone());
        prop_assert_eq!(read.as_ref(), Ok(&written));
        let frames: Vec<_> = written.frames().collect();
        let expected: Vec<_> = parts.iter().map(Parts::frame).collect();
        prop_assert_eq!(frames, expected);
    }

    #[test]
    fn a_part_of_a_batch_is_none(parts in vec(parts(), 1..4), cut: prop::sample::Index) {
        let bytes = batch_of(&parts).bytes().clone();
        let cut = cut.index(bytes.len());
        prop_assert!(Batch::decode(bytes.slice(..cut)).is_err());
        let mut longer = bytes.to_vec();
        longer.push(0);
        prop_assert_eq!(Batch::decode(longer.into()), Err(DecodeError::FrameCount));
    }

    #[test]
    fn random_bytes_do_no_harm(mut bytes in vec(any::<u8>(), 0..100), frames in 0..4_u32) {
        decode_and_read(bytes.clone().into());
        if bytes.len() >= 10 {
            // Likely enough to be read beyond the header.
            bytes[0] = 1;
            bytes[1..5].copy_from_slice(&frames.to_le_bytes());
            let len = u32::try_from(bytes.len() - 9).unwrap();
            bytes[5..9].copy_from_slice(&len.to_le_bytes());
            bytes[9] %= 11;
            decode_and_read(bytes.into());
        }
    }

    #[test]
    fn changed_bytes_do_no_harm(parts in vec(parts(), 1..4), changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = batch_of(&parts).bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        decode_and_read(bytes.into());
    }
}

/// A batch with one frame, as bytes.
fn one(frame: &[u8]) -> Bytes {
    let mut bytes = vec![1, 1, 0, 0, 0];
    bytes.extend_from_slice(&u32::try_from(frame.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(frame);
    bytes.into()
}

#[test]
fn what_is_refused() {
    let check = |bytes: Bytes, error| assert_eq!(Batch::decode(bytes), Err(error));
    check(Bytes::new(), DecodeError::CutOff);
    check(Bytes::from_static(&[2]), DecodeError::UnknownVersion(2));
    check(Bytes::from_static(&[1, 0, 0, 0, 0]), DecodeError::FrameCount);
    check(Bytes::from_static(&[1, 0xFF, 0xFF, 0xFF, 0xFF, 1, 0, 0, 0, 5]), DecodeError::FrameCount);
    check(Bytes::from_static(&[1, 1, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 5]), DecodeError::CutOff);
    check(one(b"\x00"), DecodeError::UnknownKind(0));
    check(one(b"\x01"), DecodeError::UnknownKind(1));
    check(one(b"\x0B"), DecodeError::UnknownKind(11));
    check(one(b"\x08"), DecodeError::CutOff);
    check(one(b"\x09\x01\x01c\x01\x01\x00\x00"), DecodeError::Number);
    check(one(b"\x07"), DecodeError::CutOff);
    check(one(b"\x07\x08\x00\x01t\x00"), DecodeError::Flags(8));
    check(one(b"\x07\x04\x00\x00\x01t\x00"), DecodeError::CutOff);
    check(one(b"\x07\x04\x01\x02\x00\x01t\x00"), DecodeError::CutOff);
    check(one(b"\x07\x01\x80\x80\x04\x01\x01\x01\x00\x01t\x00"), DecodeError::Number);
    check(one(b"\x07\x01\x01\x01\x01\x02\x00\x01t\x00"), DecodeError::Number);
    check(one(b"\x07\x00\x00\x01+\x00"), DecodeError::TopicName);
    check(one(b"\x09\x01\x01c\x01\x01\x00\x01\x00"), DecodeError::TrailingBytes);
    check(one(b"\x09\x80"), DecodeError::CutOff);
    check(one(b"\x0A\x03\x01t\x00"), DecodeError::Flags(3));
    check(one(b"\x0A\x20\x01t\x00"), DecodeError::Flags(0x20));
    check(one(b"\x0A\x00\x00\x00"), DecodeError::Text);
    check(one(b"\x0A\x00\x01\xFF\x00"), DecodeError::Text);
    check(one(b"\x0A\x00\x01+\x00"), DecodeError::TopicName);
    check(one(b"\x0A\x00\x01\x00\x00"), DecodeError::TopicName);
    check(one(b"\x0A\x00\x01t\x05abc"), DecodeError::CutOff);
    check(one(b"\x0A\x10\x01t\x00\x00"), DecodeError::Text);
    check(one(b"\x02\x00\x01a\x00\x01t\x00"), DecodeError::SharedFilter);
    check(one(b"\x08\x01\x01c\x01\x01\x00\x01\x04\x01\x00\x00\x01t\x00"), DecodeError::Number);
    check(
        one(b"\x08\x01\x01c\x01\x01\x00\x01\x04\xFF\xFF\xFF\xFF\x0F\x00\x00\x01t\x00"),
        DecodeError::CutOff,
    );
    check(one(b"\x08\x01\x01c\x01\x01\x00\x01\x08\x00\x01a\x00\x01t\x00"), DecodeError::SharedFilter);
    check(one(b"\x08\x01\x01c\x01\x01\x00\x01\x10\x00\x00\x01t\x00"), DecodeError::Flags(0x10));
}

/// The bytes of version 1, so that nodes of neighbouring versions understand each other.
#[test]
fn the_layout_is_fixed() {
    let publisher = ClientId::new("p");
    let now = Timestamp::from_millis(5);
    let expires_at = Some(Timestamp::from_millis(305));
    let message =
        Transit::new("t/u", b"\x01\x01", b"hi", QoS::AtLeastOnce, true, expires_at, publisher.as_ref(), None);
    let message = Forwarded::new(&message, now);
    let mut writer = BatchWriter::new();
    writer.push(&Frame::Publish { message });
    writer.push(&Frame::Control { kind: 5, bytes: b"\x07" });
    let origin = Origin { shard: ShardId(9), session: 300, number: 4, floor: 3 };
    writer.push(&Frame::Store { origin: Some(origin), retains: true, without: Texts::default(), message });
    let mut groups = TextsWriter::default();
    groups.push("$share/g/a/+");
    writer.push(&Frame::Store { origin: None, retains: false, without: groups.texts(), message });
    let mut expected = b"\x01\x04\x00\x00\x00".to_vec();
    expected.extend_from_slice(b"\x0F\x00\x00\x00\x0A\x1D\x03t/u\xAC\x02\x01p\x02\x01\x01hi");
    expected.extend_from_slice(b"\x03\x00\x00\x00\x06\x05\x07");
    expected.extend_from_slice(
        b"\x15\x00\x00\x00\x07\x03\x09\xAC\x02\x04\x03\x1D\x03t/u\xAC\x02\x01p\x02\x01\x01hi",
    );
    expected.extend_from_slice(
        b"\x1E\x00\x00\x00\x07\x04\x0D\x0C$share/g/a/+\x1D\x03t/u\xAC\x02\x01p\x02\x01\x01hi",
    );
    assert_eq!(writer.size(), expected.len());
    assert_eq!(writer.take().map(|batch| batch.bytes().to_vec()), Some(expected));
    assert_eq!((writer.len(), writer.size()), (0, 0));
}

#[test]
fn a_message_lives_on_by_the_clock_of_its_receiver() {
    let message =
        Transit::new("t", b"", b"", QoS::AtMostOnce, false, Some(Timestamp::from_millis(500)), None, None);
    let forwarded = Forwarded::new(&message, Timestamp::from_millis(400));
    let here = forwarded.transit(Timestamp::from_millis(7), None);
    assert_eq!(here.expires_at, Some(Timestamp::from_millis(107)));
    // What has expired on the way does so at once.
    let late = Forwarded::new(&message, Timestamp::from_millis(900));
    assert_eq!(late.expires_in, Some(Duration::ZERO));
}

#[test]
fn long_payloads_are_shared_and_short_ones_are_not() {
    let message_of = |payload: usize, other: usize| {
        let mut writer = BatchWriter::new();
        let payload = vec![7; payload];
        let message = Transit::new("t", b"", &payload, QoS::AtMostOnce, false, None, None, None);
        writer.push(&Frame::Publish { message: Forwarded::new(&message, Timestamp::ORIGIN) });
        writer.push(&Frame::Control { kind: 0, bytes: &vec![0; other] });
        let batch = writer.take().expect("there are frames");
        let Some(Frame::Publish { message, .. }) = batch.frames().next() else { panic!("it was written") };
        let kept = message.transit(Timestamp::ORIGIN, None).keep();
        assert_eq!(kept.payload, payload);
        let range = batch.bytes().as_ptr_range();
        range.contains(&kept.payload.as_ptr())
    };
    assert!(message_of(16 << 10, 0));
    assert!(message_of(16 << 10, 100 << 10));
    assert!(!message_of((16 << 10) - 1, 0));
    assert!(!message_of(16 << 10, 200 << 10), "a small part keeps nothing large alive");
    assert!(message_of(1 << 20, 0));
}

#[test]
fn a_batch_is_full_by_frames_or_by_bytes() {
    let mut writer = BatchWriter::new();
    assert!(writer.is_empty() && writer.take().is_none());
    for _ in 0..BATCH_FRAMES_SOFT {
        assert!(!writer.is_full());
        writer.push(&Frame::Control { kind: 1, bytes: &[] });
    }
    assert!(writer.is_full());
    assert_eq!(writer.take().map(|batch| batch.len()), Some(BATCH_FRAMES_SOFT));
    assert!(!writer.is_full());
    writer.push(&Frame::Control { kind: 1, bytes: &[0; BATCH_BYTES_SOFT] });
    assert!(writer.is_full());
}

#[test]
fn a_burst_of_one_publisher_allocates_its_name_once() {
    let mut last = LastPublisher::default();
    assert_eq!(last.of(None), None);
    let first = last.of(Some("a")).map(|id| id.as_str().as_ptr());
    assert_eq!(last.of(Some("a")).map(|id| id.as_str().as_ptr()), first);
    assert_eq!(last.of(None), None);
    assert_eq!(last.of(Some("b")).map(ClientId::as_str), Some("b"));
    assert_eq!(last.of(Some("a")).map(ClientId::as_str), Some("a"));
}
