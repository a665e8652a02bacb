//! Properties of the codec that hold for all packets of all versions, and for all bytes.

mod generate;

use std::io::IoSlice;

use bytes::Bytes;
use flotilla_mqtt::{
    ProtocolVersion::{self, V5, V31, V311},
    QoS, SubscriptionIds, Transit,
    codec::{
        Decoder, Header, PublishHead, SendBuffer, TopicForm, encode, encode_publish, forward_properties,
        forward_will_properties, publish_len,
    },
    packet::{Packet, Publish, PublishProperties, WillProperties},
};
use proptest::{collection::vec, prelude::*, sample::select};

const MAX: u32 = 1 << 20;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn decoding_gives_what_was_encoded((from, packet) in any_packet()) {
        let bytes = encoded(&packet, from.version);
        prop_assert_eq!(from.decoder().decode(&bytes), Ok(Some((packet, bytes.len()))));
    }

    #[test]
    fn any_chunking_gives_the_same_packets(
        (from, packets) in stream(),
        cuts in vec(1_usize..200, 1..20),
    ) {
        let stream: Vec<u8> = packets.iter().flat_map(|packet| encoded(packet, from.version)).collect();
        let (mut buffer, mut expected) = (Vec::new(), packets.iter());
        let mut rest = &stream[..];
        for cut in cuts.iter().cycle() {
            let (chunk, after) = rest.split_at((*cut).min(rest.len()));
            buffer.extend_from_slice(chunk);
            rest = after;
            while let Some((packet, len)) = from.decoder().decode(&buffer).unwrap() {
                prop_assert_eq!(Some(&packet), expected.next());
                buffer.drain(..len);
            }
            if rest.is_empty() {
                break;
            }
        }
        prop_assert!(buffer.is_empty());
        prop_assert_eq!(expected.next(), None);
    }

    #[test]
    fn no_part_of_a_packet_is_a_packet((from, packet) in any_packet()) {
        let bytes = encoded(&packet, from.version);
        for cut in 0..bytes.len() {
            prop_assert_eq!(from.decoder().decode(&bytes[..cut]), Ok(None));
        }
    }

    #[test]
    fn any_bytes_are_survived(from in any_peer(), bytes in vec(any::<u8>(), 0..64)) {
        check_bytes(from, &bytes)?;
    }

    #[test]
    fn damaged_packets_are_survived(
        (from, packet) in any_packet(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encoded(&packet, from.version);
        for (index, value) in damage {
            *index.get_mut(&mut bytes) = value;
        }
        check_bytes(from, &bytes)?;
    }

    #[test]
    fn a_broker_writes_what_a_client_would(
        version in select(&[V31, V311, V5][..]),
        publish in generate::publish(V5, true),
        topic in generate::topic(),
    ) {
        let properties = publish.properties.clone();
        let ids = properties.subscription_ids.iter().collect::<Vec<_>>();
        let ids = match ids[..] {
            [] => SubscriptionIds::None,
            [id] => SubscriptionIds::One(id),
            _ => SubscriptionIds::Many(ids.into()),
        };
        let form = match properties.topic_alias {
            None => TopicForm::Full,
            Some(alias) if publish.topic.is_empty() => TopicForm::Alias(alias),
            Some(alias) => TopicForm::Introduce(alias),
        };
        let head = PublishHead {
            delivery: publish.delivery,
            retain: publish.retain,
            topic: form,
            message_expiry: properties.message_expiry,
            subscription_ids: &ids,
        };
        let mut scratch = Vec::new();
        let forwarded = forward_properties(&properties, &mut scratch);
        let full = if publish.topic.is_empty() { topic } else { publish.topic };
        let transit = transit(full, forwarded, publish.payload, None);

        let is_alias_alone = version == V5 && matches!(form, TopicForm::Alias(_));
        let sent = Publish { topic: if is_alias_alone { "" } else { full }, ..publish };
        let expected = encoded(&Packet::Publish(sent), version);
        let mut out = SendBuffer::new();
        encode_publish(&transit, version, &head, &mut out);
        prop_assert_eq!(content(&out), expected);
        prop_assert_eq!(out.len(), publish_len(&transit, version, &head));
    }

    #[test]
    fn properties_go_on_as_they_came(publish in generate::publish(V5, true)) {
        let bytes = encoded(&Packet::Publish(publish.clone()), V5);
        let Ok(Some((Packet::Publish(decoded), _))) = Decoder::client(V5, MAX).decode(&bytes) else {
            panic!("a PUBLISH was encoded");
        };
        let (mut from_decoded, mut from_built) = (Vec::new(), Vec::new());
        let forwarded = forward_properties(&decoded.properties, &mut from_decoded);
        prop_assert_eq!(forwarded, forward_properties(&publish.properties, &mut from_built));

        let transit = transit("t", forwarded, b"", None);
        let head = head(TopicForm::Full, &SubscriptionIds::None);
        let mut out = SendBuffer::new();
        encode_publish(&transit, V5, &head, &mut out);
        let bytes = content(&out);
        let Ok(Some((Packet::Publish(received), _))) = Decoder::client(V5, MAX).decode(&bytes) else {
            panic!("a PUBLISH was encoded");
        };
        let expected = PublishProperties {
            message_expiry: None,
            topic_alias: None,
            subscription_ids: (&[]).into(),
            ..publish.properties
        };
        prop_assert_eq!(received.properties, expected);
    }

    #[test]
    fn a_will_is_forwarded_like_a_publish(properties in generate::publish_properties()) {
        let will = WillProperties {
            delay: 7,
            payload_is_utf8: properties.payload_is_utf8,
            message_expiry: properties.message_expiry,
            content_type: properties.content_type,
            response_topic: properties.response_topic,
            correlation_data: properties.correlation_data,
            user_properties: properties.user_properties,
        };
        let (mut from_will, mut scratch) = (Vec::new(), Vec::new());
        forward_will_properties(&will, &mut from_will);
        prop_assert_eq!(&from_will[..], forward_properties(&properties, &mut scratch));
    }
}

#[test]
fn properties_that_all_may_have_are_borrowed() {
    let bytes = b"\x30\x0B\0\x01t\x07\x01\x01\x03\0\x02ab";
    let Ok(Some((Packet::Publish(publish), _))) = Decoder::client(V5, MAX).decode(bytes) else {
        panic!("it is a PUBLISH");
    };
    let mut scratch = Vec::new();
    let forwarded = forward_properties(&publish.properties, &mut scratch);
    assert_eq!(forwarded, b"\x01\x01\x03\0\x02ab");
    assert!(bytes.as_ptr_range().contains(&forwarded.as_ptr()));
}

#[test]
fn large_payloads_are_shared() {
    for len in [0, 1, 16 * 1024 - 1, 16 * 1024, 100_000] {
        let payload = Bytes::from(vec![7; len]);
        let ids = SubscriptionIds::None;
        let write = |backing| {
            let transit = transit("a/b", b"", &payload, backing);
            let mut out = SendBuffer::new();
            out.tail().extend_from_slice(b"before");
            encode_publish(&transit, V311, &head(TopicForm::Full, &ids), &mut out);
            out.tail().extend_from_slice(b"after");
            let mut slices = [IoSlice::new(&[]); 8];
            let filled = out.slices(&mut slices);
            let is_shared = slices[..filled].iter().any(|slice| slice.as_ptr() == payload.as_ptr());
            (content(&out), is_shared)
        };
        let (copied, shared) = (write(None), write(Some(&payload)));
        assert_eq!(copied.0, shared.0);
        assert_eq!((copied.1, shared.1), (false, len >= 16 * 1024), "{len} bytes");
    }
}

/// Who sends: one side of a connection of a version, before or after its CONNECT.
#[derive(Debug, Clone, Copy)]
struct Peer {
    version: ProtocolVersion,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    NewClient,
    Client,
    Server,
}

impl Peer {
    fn decoder(self) -> Decoder {
        let mut decoder = Decoder::server(MAX);
        match self.kind {
            Kind::NewClient => decoder,
            Kind::Client => {
                decoder.set_version(self.version);
                decoder
            }
            Kind::Server => Decoder::client(self.version, MAX),
        }
    }

    fn packet(self) -> BoxedStrategy<Packet<'static>> {
        match self.kind {
            Kind::NewClient => generate::connect(self.version).boxed(),
            Kind::Client => generate::client_packet(self.version),
            Kind::Server => generate::server_packet(self.version),
        }
    }
}

fn any_peer() -> impl Strategy<Value = Peer> {
    let version = select(&[V31, V311, V5, V5][..]);
    let kind = select(&[Kind::NewClient, Kind::Client, Kind::Client, Kind::Server][..]);
    (version, kind).prop_map(|(version, kind)| Peer { version, kind })
}

fn any_packet() -> impl Strategy<Value = (Peer, Packet<'static>)> {
    any_peer().prop_flat_map(|from| (Just(from), from.packet()))
}

fn stream() -> impl Strategy<Value = (Peer, Vec<Packet<'static>>)> {
    any_peer().prop_flat_map(|from| (Just(from), vec(from.packet(), 1..8)))
}

fn encoded(packet: &Packet<'_>, version: ProtocolVersion) -> Vec<u8> {
    let mut bytes = b"before".to_vec();
    encode(packet, version, &mut bytes).expect("it can be written down");
    bytes.split_off(6)
}

/// Whatever the bytes are: header and packet agree, and a packet that was decoded can be encoded and decoded again.
fn check_bytes(from: Peer, bytes: &[u8]) -> Result<(), TestCaseError> {
    let (header, packet) = (from.decoder().header(bytes), from.decoder().decode(bytes));
    match (header, packet) {
        (Err(of_header), packet) => prop_assert_eq!(packet, Err(of_header)),
        (Ok(None), packet) => prop_assert_eq!(packet, Ok(None)),
        (Ok(Some(header)), Ok(None)) => prop_assert!(bytes.len() < header.packet_len()),
        (Ok(Some(header)), Err(_)) => prop_assert!(bytes.len() >= header.packet_len()),
        (Ok(Some(header)), Ok(Some((packet, len)))) => {
            let Header { packet_type, header_len, remaining_len, .. } = header;
            prop_assert_eq!((packet_type, header_len + remaining_len), (packet.packet_type(), len));
            let version = if let Packet::Connect(connect) = &packet { connect.version } else { from.version };
            let again = encoded(&packet, version);
            prop_assert_eq!(from.decoder().decode(&again), Ok(Some((packet, again.len()))));
        }
    }
    Ok(())
}

fn transit<'a>(
    topic: &'a str,
    properties: &'a [u8],
    payload: &'a [u8],
    backing: Option<&'a Bytes>,
) -> Transit<'a> {
    Transit::new(topic, properties, payload, QoS::ExactlyOnce, false, None, None, backing)
}

fn head(topic: TopicForm, subscription_ids: &SubscriptionIds) -> PublishHead<'_> {
    let delivery = flotilla_mqtt::packet::Delivery::AtMostOnce;
    PublishHead { delivery, retain: false, topic, message_expiry: None, subscription_ids }
}

fn content(out: &SendBuffer) -> Vec<u8> {
    let mut slices = [IoSlice::new(&[]); 16];
    let filled = out.slices(&mut slices);
    slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect()
}
