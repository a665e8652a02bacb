//! Bytes into the decoder.
//!
//! The first byte chooses who sends and in which version, the second how the rest, a stream of packets, is cut into
//! chunks. It must not matter how; header and packet must agree; what was decoded must be encoded and decoded again to
//! the same packet, and everything in it must be readable to its end.

#![no_main]

use flotilla_mqtt::{
    ProtocolVersion,
    codec::{Decoder, encode, forward_properties},
    packet::Packet,
};
use libfuzzer_sys::fuzz_target;

/// Small enough for inputs to run into it.
const MAX_PACKET_SIZE: u32 = 2_048;

fuzz_target!(|input: &[u8]| {
    let [peer, chunk_len, stream @ ..] = input else { return };
    let version = match peer & 0b11 {
        0 => ProtocolVersion::V31,
        1 => ProtocolVersion::V311,
        _ => ProtocolVersion::V5,
    };
    let decoder = match peer >> 2 & 0b11 {
        0 => Decoder::server(MAX_PACKET_SIZE),
        1 => Decoder::client(version, MAX_PACKET_SIZE),
        _ => {
            let mut decoder = Decoder::server(MAX_PACKET_SIZE);
            decoder.set_version(version);
            decoder
        }
    };
    let whole = in_one_piece(decoder, version, stream);
    let cut = in_chunks(decoder, stream, usize::from(*chunk_len) + 1);
    assert_eq!(whole, cut, "packets and outcome depend on how the stream is cut");
});

/// How a stream ends: the bytes that were taken, and why no more were.
type Outcome = (Vec<usize>, Option<flotilla_mqtt::codec::DecodeError>);

fn in_one_piece(mut decoder: Decoder, mut version: ProtocolVersion, stream: &[u8]) -> Outcome {
    let (mut lens, mut rest) = (Vec::new(), stream);
    loop {
        let header = decoder.header(rest);
        let decoded = decoder.decode(rest);
        match (&header, &decoded) {
            (Err(of_header), Err(error)) => assert_eq!(of_header, error),
            (Err(error), _) => panic!("{error}, but the packet was taken"),
            (Ok(None), decoded) => assert_eq!(decoded, &Ok(None), "a packet without a header"),
            (Ok(Some(header)), Ok(None)) => assert!(rest.len() < header.packet_len()),
            (Ok(Some(header)), Ok(Some((packet, len)))) => {
                assert_eq!((header.packet_type, header.packet_len()), (packet.packet_type(), *len));
            }
            (Ok(Some(header)), Err(_)) => assert!(rest.len() >= header.packet_len()),
        }
        match decoded {
            Err(error) => {
                // Each has a reason that is an error, and words.
                assert!(error.reason().is_error() && !error.to_string().is_empty());
                return (lens, Some(error));
            }
            Ok(None) => return (lens, None),
            Ok(Some((packet, len))) => {
                if let Packet::Connect(connect) = &packet {
                    version = connect.version;
                }
                check_packet(decoder, version, &packet, len);
                if matches!(packet, Packet::Connect(_)) {
                    decoder.set_version(version);
                }
                lens.push(len);
                rest = &rest[len..];
            }
        }
    }
}

fn in_chunks(mut decoder: Decoder, stream: &[u8], chunk_len: usize) -> Outcome {
    let (mut lens, mut buffer) = (Vec::new(), Vec::new());
    for chunk in stream.chunks(chunk_len) {
        buffer.extend_from_slice(chunk);
        loop {
            match decoder.decode(&buffer) {
                Err(error) => return (lens, Some(error)),
                Ok(None) => break,
                Ok(Some((packet, len))) => {
                    if let Packet::Connect(connect) = &packet {
                        decoder.set_version(connect.version);
                    }
                    lens.push(len);
                    buffer.drain(..len);
                }
            }
        }
    }
    (lens, None)
}

fn check_packet(decoder: Decoder, version: ProtocolVersion, packet: &Packet<'_>, len: usize) {
    let mut again = Vec::new();
    encode(packet, version, &mut again).expect("what was decoded can be encoded");
    // Nothing is written longer than it was read: defaults are left out, and integers were minimal.
    assert!(again.len() <= len, "{len} bytes became {}", again.len());
    assert_eq!(decoder.decode(&again), Ok(Some((packet.clone(), again.len()))));
    // Debug walks through every list.
    assert!(!format!("{packet:?}").is_empty());
    match packet {
        Packet::Publish(publish) => {
            let mut scratch = Vec::new();
            let forwarded = forward_properties(&publish.properties, &mut scratch);
            assert!(forwarded.len() <= publish.properties.raw.0.len());
            let properties = &publish.properties;
            assert_eq!(properties.user_properties.iter().count(), properties.user_properties.len());
            assert_eq!(properties.subscription_ids.iter().count(), properties.subscription_ids.len());
        }
        Packet::Subscribe(subscribe) => assert_eq!(subscribe.filters.iter().count(), subscribe.filters.len()),
        Packet::Unsubscribe(unsubscribe) => {
            assert_eq!(unsubscribe.filters.iter().count(), unsubscribe.filters.len());
        }
        Packet::SubAck(suback) => assert_eq!(suback.reasons.iter().count(), suback.reasons.len()),
        _ => {}
    }
}
