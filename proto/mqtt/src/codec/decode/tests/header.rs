//! What is refused at the fixed header.

use super::*;

#[test]
fn b01_first_packet_is_not_connect() {
    for number in 2..=15 {
        let packet = PacketType::from_u8(number).unwrap();
        // Its first byte is enough.
        let found = Decoder::server(MAX).header(&[number << 4 | 2]);
        assert_eq!(found, Err(DecodeError::FirstPacketNotConnect(packet)));
    }
    assert_eq!(DecodeError::FirstPacketNotConnect(PacketType::PingReq).reason(), ReasonCode::ProtocolError);
    assert_eq!(refusal_version(b"\xC0\x00"), None);
}

#[test]
fn b02_second_connect() {
    for version in [V31, V311, V5] {
        from_client(version, &packet(0x10, CONNECT_V311), 0x82, DecodeError::SecondConnect);
    }
}

#[test]
fn b31_fixed_header_flags() {
    use PacketType::*;
    let wanted = [
        (PubAck, 0),
        (PubRec, 0),
        (PubRel, 2),
        (PubComp, 0),
        (Subscribe, 2),
        (Unsubscribe, 2),
        (PingReq, 0),
        (Disconnect, 0),
        (Auth, 0),
    ];
    for (packet, right) in wanted {
        for flags in (0..16).filter(|flags| *flags != right) {
            let error = DecodeError::FixedHeaderFlags { packet, flags };
            from_client(V5, &[(packet as u8) << 4 | flags], 0x81, error);
        }
    }
    from_client(V311, b"\x80", 0x81, DecodeError::FixedHeaderFlags { packet: Subscribe, flags: 0 });
    let connect = Decoder::server(MAX).header(b"\x11");
    assert_eq!(connect, Err(DecodeError::FixedHeaderFlags { packet: Connect, flags: 1 }));
    // A repeated packet of 3.1.
    taken(client(V31), b"\x6A\x02\0\x01");
    taken(client(V31), b"\x8A\x06\0\x01\0\x01a\0");
}

#[test]
fn b32_b33_remaining_length() {
    from_client(V5, b"\x30\x80\x80\x80\x80", 0x81, DecodeError::VarIntTooLong);
    from_client(V5, b"\x30\xFF\xFF\xFF\xFF\x01", 0x81, DecodeError::VarIntTooLong);
    from_client(V5, b"\xC0\x80\x00", 0x81, DecodeError::VarIntNotMinimal);
    let connect = Decoder::server(MAX).header(b"\x10\x80\x80\x80\x80");
    assert_eq!(connect, Err(DecodeError::VarIntTooLong));
}

#[test]
fn b34_larger_than_the_maximum() {
    let decoder = |max| {
        let mut decoder = Decoder::server(max);
        decoder.set_version(V5);
        decoder
    };
    // No byte of the body is there.
    assert_eq!(decoder(103).header(b"\x30\x65").unwrap().unwrap().packet_len(), 103);
    let error = DecodeError::PacketTooLarge { len: 103, max: 102 };
    assert_eq!(decoder(102).header(b"\x30\x65"), Err(error));
    assert_eq!(error.reason(), ReasonCode::PacketTooLarge);
    let first = Decoder::server(102).header(b"\x10\xFF\xFF\xFF\x7F");
    assert_eq!(first, Err(DecodeError::PacketTooLarge { len: 268_435_460, max: 102 }));
}

#[test]
fn lengths_that_no_such_packet_has() {
    // The body is not there yet and is not waited for.
    from_client(V5, b"\xC0\x01", 0x81, wrong_length(PacketType::PingReq, 1));
    from_client(V311, b"\xE0\x01", 0x81, wrong_length(PacketType::Disconnect, 1));
    from_client(V311, b"\x40\x03", 0x81, wrong_length(PacketType::PubAck, 3));
    from_client(V5, b"\x40\x01", 0x81, wrong_length(PacketType::PubAck, 1));
    from_client(V311, b"\x30\x01", 0x81, wrong_length(PacketType::Publish, 1));
    from_client(V311, b"\x32\x03", 0x81, wrong_length(PacketType::Publish, 3));
    from_client(V5, b"\x32\x04", 0x81, wrong_length(PacketType::Publish, 4));
    from_client(V311, b"\x82\x01", 0x81, wrong_length(PacketType::Subscribe, 1));
    from_client(V5, b"\xA2\x02", 0x81, wrong_length(PacketType::Unsubscribe, 2));
    let connect = Decoder::server(MAX).header(b"\x10\x02");
    assert_eq!(connect, Err(wrong_length(PacketType::Connect, 2)));
}

#[test]
fn b36_reserved_packet_types() {
    for version in [V31, V311, V5] {
        from_client(version, b"\x00", 0x81, DecodeError::ReservedPacketType(0));
        from_server(version, b"\x00", 0x81, DecodeError::ReservedPacketType(0));
    }
    for version in [V31, V311] {
        from_client(version, b"\xF0", 0x81, DecodeError::ReservedPacketType(15));
        from_server(version, b"\xF0", 0x81, DecodeError::ReservedPacketType(15));
    }
    assert_eq!(Decoder::server(MAX).header(b"\x00"), Err(DecodeError::ReservedPacketType(0)));
}

#[test]
fn b37_packets_from_the_wrong_side() {
    use PacketType::*;
    for version in [V31, V311, V5] {
        for packet in [ConnAck, SubAck, UnsubAck, PingResp] {
            from_client(version, &[(packet as u8) << 4], 0x82, DecodeError::WrongSide(packet));
        }
        for packet in [Connect, Subscribe, Unsubscribe, PingReq] {
            from_server(version, &[(packet as u8) << 4 | 2], 0x82, DecodeError::WrongSide(packet));
        }
    }
    from_server(V311, b"\xE0", 0x82, DecodeError::WrongSide(Disconnect));
    taken(server(V5), b"\xE0\x00");
}

#[test]
fn b38_b39_publish_flags() {
    for version in [V31, V311, V5] {
        from_client(version, b"\x36", 0x81, DecodeError::PublishQoS3);
        from_client(version, b"\x3F", 0x81, DecodeError::PublishQoS3);
        from_client(version, b"\x38", 0x81, DecodeError::DupAtQoS0);
        from_client(version, b"\x39", 0x81, DecodeError::DupAtQoS0);
    }
}

#[test]
fn what_follows_a_packet_is_left_alone() {
    let mut bytes = packet(0x10, CONNECT_V311);
    let len = bytes.len();
    bytes.extend_from_slice(b"\x00garbage");
    let (_, taken) = Decoder::server(MAX).decode(&bytes).unwrap().unwrap();
    assert_eq!(taken, len);
}
