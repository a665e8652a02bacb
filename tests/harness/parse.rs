//! Bytes from a broker to packets, strictly: a broker that bends the specification panics the test.

use super::{ConnAck, Packet, Properties, Property, Publish, Value, Version, property_id as id};

/// The packet at the start of `bytes` and its length; `None` when not all of it is there.
pub(crate) fn parse(bytes: &[u8], version: Version) -> Option<(Packet, usize)> {
    let (&first, rest) = bytes.split_first()?;
    let (remaining, length_bytes) = read_length(rest)?;
    let start = 1 + length_bytes;
    let body = bytes.get(start..start + remaining)?;
    let mut reader = Reader { bytes: body, version };
    let packet = match first >> 4 {
        2 => connack(&mut reader),
        3 => publish(first & 0x0F, &mut reader),
        4 => reader.ack(&PUBACK, |id, reason| Packet::PubAck { id, reason }),
        5 => reader.ack(&PUBACK, |id, reason| Packet::PubRec { id, reason }),
        6 => reader.ack(&PUBREL, |id, reason| Packet::PubRel { id, reason }),
        7 => reader.ack(&PUBREL, |id, reason| Packet::PubComp { id, reason }),
        9 => suback(&mut reader),
        11 => unsuback(&mut reader),
        13 => Packet::PingResp,
        14 => goodbye(&mut reader),
        15 => auth(&mut reader),
        other => panic!("a server does not send packet type {other}"),
    };
    let flags = match first >> 4 {
        3 => first & 0x0F,
        6 => 2,
        _ => 0,
    };
    assert_eq!(first & 0x0F, flags, "reserved flags of {packet:?} [MQTT-2.1.3-1]");
    assert!(reader.bytes.is_empty(), "{} bytes too many in {packet:?}", reader.bytes.len());
    Some((packet, start + remaining))
}

fn read_length(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        assert!(index < 4, "a Variable Byte Integer of more than four bytes");
        value |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            assert!(index == 0 || byte != 0, "a Variable Byte Integer that is not minimal [MQTT-1.5.5-1]");
            return Some((value, index + 1));
        }
    }
    None
}

fn connack(reader: &mut Reader<'_>) -> Packet {
    let flags = reader.u8();
    assert!(flags <= 1, "reserved CONNACK flags [MQTT-3.2.2-1]: {flags:#04x}");
    let code = reader.u8();
    let known = if reader.version == Version::V5 { CONNACK.contains(&code) } else { code <= 5 };
    assert!(known, "CONNACK has no code {code:#04x} [MQTT-3.2.2-8]");
    let session_present = flags == 1;
    assert!(!(session_present && code > 0), "Session Present in a refusal [MQTT-3.2.2-6]");
    let properties = reader.properties(&CONNACK_PROPERTIES);
    Packet::ConnAck(ConnAck { session_present, code, properties })
}

fn publish(flags: u8, reader: &mut Reader<'_>) -> Packet {
    let (dup, qos, retain) = (flags & 8 != 0, flags >> 1 & 3, flags & 1 != 0);
    assert!(qos < 3, "PUBLISH with QoS 3 [MQTT-3.3.1-4]");
    assert!(!(dup && qos == 0), "DUP at QoS 0 [MQTT-3.3.1-2]");
    let topic = reader.text();
    assert!(!topic.contains(['+', '#']), "wildcard in a Topic Name [MQTT-3.3.2-2]");
    let id = if qos > 0 { reader.u16() } else { 0 };
    assert!(qos == 0 || id > 0, "packet identifier 0 [MQTT-2.2.1-4]");
    let properties = reader.properties(&PUBLISH_PROPERTIES);
    assert!(!topic.is_empty() || properties.number(id::TOPIC_ALIAS).is_some(), "neither topic nor alias");
    let payload = std::mem::take(&mut reader.bytes).to_vec();
    Packet::Publish(Publish { dup, qos, retain, topic, id, properties, payload })
}

fn suback(reader: &mut Reader<'_>) -> Packet {
    let id = reader.u16();
    reader.properties(&ACK_PROPERTIES);
    let reasons = std::mem::take(&mut reader.bytes).to_vec();
    let known: &[u8] = if reader.version == Version::V5 { &SUBACK } else { &[0, 1, 2, 0x80] };
    assert!(reasons.iter().all(|reason| known.contains(reason)), "[MQTT-3.9.3-2]: {reasons:02x?}");
    Packet::SubAck { id, reasons }
}

fn unsuback(reader: &mut Reader<'_>) -> Packet {
    let id = reader.u16();
    reader.properties(&ACK_PROPERTIES);
    if reader.version != Version::V5 {
        return Packet::UnsubAck { id, reasons: Vec::new() };
    }
    let reasons = std::mem::take(&mut reader.bytes).to_vec();
    assert!(reasons.iter().all(|reason| UNSUBACK.contains(reason)), "[MQTT-3.11.3-2]: {reasons:02x?}");
    Packet::UnsubAck { id, reasons }
}

fn goodbye(reader: &mut Reader<'_>) -> Packet {
    assert_eq!(reader.version, Version::V5, "DISCONNECT from a server exists in 5.0 only");
    let (reason, properties) = reader.reason_and_properties(&DISCONNECT_PROPERTIES);
    assert!(DISCONNECT.contains(&reason), "DISCONNECT has no code {reason:#04x} [MQTT-3.14.2-1]");
    Packet::Disconnect { reason, properties }
}

fn auth(reader: &mut Reader<'_>) -> Packet {
    assert_eq!(reader.version, Version::V5, "AUTH exists in 5.0 only");
    let (reason, properties) = reader.reason_and_properties(&AUTH_PROPERTIES);
    assert!([0x00, 0x18].contains(&reason), "a server does not send AUTH {reason:#04x} [MQTT-3.15.2-1]");
    Packet::Auth { reason, properties }
}

struct Reader<'a> {
    bytes: &'a [u8],
    version: Version,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        assert!(len <= self.bytes.len(), "a field of {len} bytes in {:02x?}", self.bytes);
        let (head, tail) = self.bytes.split_at(len);
        self.bytes = tail;
        head
    }

    fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().expect("two bytes were taken"))
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().expect("four bytes were taken"))
    }

    fn length(&mut self) -> usize {
        let (value, len) = read_length(self.bytes).expect("a whole Variable Byte Integer");
        self.take(len);
        value
    }

    fn binary(&mut self) -> Vec<u8> {
        let len = self.u16();
        self.take(usize::from(len)).to_vec()
    }

    fn text(&mut self) -> String {
        let text = String::from_utf8(self.binary()).expect("strings are UTF-8 [MQTT-1.5.4-1]");
        assert!(!text.contains('\0'), "U+0000 in a string [MQTT-1.5.4-2]");
        text
    }

    fn ack(&mut self, codes: &[u8], build: impl Fn(u16, u8) -> Packet) -> Packet {
        let id = self.u16();
        if self.version != Version::V5 {
            return build(id, 0);
        }
        let (reason, _) = self.reason_and_properties(&ACK_PROPERTIES);
        assert!(codes.contains(&reason), "no code {reason:#04x} in {:?}", build(id, reason));
        build(id, reason)
    }

    /// A reason code and properties, of which the rear may be left out.
    fn reason_and_properties(&mut self, allowed: &[u8]) -> (u8, Properties) {
        let reason = if self.bytes.is_empty() { 0 } else { self.u8() };
        let properties = if self.bytes.is_empty() { Properties::default() } else { self.properties(allowed) };
        (reason, properties)
    }

    fn properties(&mut self, allowed: &[u8]) -> Properties {
        let mut properties = Properties::default();
        if self.version != Version::V5 {
            return properties;
        }
        let len = self.length();
        let mut inner = Reader { bytes: self.take(len), version: self.version };
        while !inner.bytes.is_empty() {
            let property = inner.property();
            assert!(allowed.contains(&property.id), "not allowed in this packet: {property:?}");
            let repeatable = [id::USER_PROPERTY, id::SUBSCRIPTION_ID].contains(&property.id);
            assert!(repeatable || properties.value(property.id).is_none(), "twice: {property:?}");
            properties.0.push(property);
        }
        properties
    }

    fn property(&mut self) -> Property {
        let id = u8::try_from(self.length()).expect("known properties have one byte");
        let value = match id {
            id::PAYLOAD_FORMAT
            | id::MAXIMUM_QOS
            | id::RETAIN_AVAILABLE
            | id::WILDCARD_AVAILABLE
            | id::SUBSCRIPTION_IDS_AVAILABLE
            | id::SHARED_AVAILABLE => {
                let value = self.u8();
                assert!(value < 2, "property {id:#04x} is 0 or 1, not {value}");
                Value::Byte(value)
            }
            id::SERVER_KEEP_ALIVE | id::RECEIVE_MAXIMUM | id::TOPIC_ALIAS_MAXIMUM | id::TOPIC_ALIAS => {
                Value::Two(self.u16())
            }
            id::MESSAGE_EXPIRY | id::SESSION_EXPIRY | id::MAXIMUM_PACKET_SIZE => Value::Four(self.u32()),
            id::SUBSCRIPTION_ID => Value::Variable(u32::try_from(self.length()).expect("28 bits fit")),
            id::CORRELATION_DATA | id::AUTHENTICATION_DATA => Value::Binary(self.binary()),
            id::USER_PROPERTY => Value::Pair(self.text(), self.text()),
            id::CONTENT_TYPE
            | id::RESPONSE_TOPIC
            | id::ASSIGNED_CLIENT_ID
            | id::AUTHENTICATION_METHOD
            | id::RESPONSE_INFORMATION
            | id::SERVER_REFERENCE
            | id::REASON_STRING => Value::Text(self.text()),
            other => panic!("a server does not send property {other:#04x}"),
        };
        Property { id, value }
    }
}

const CONNACK: [u8; 22] = [
    0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99,
    0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
];
const PUBACK: [u8; 9] = [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
const PUBREL: [u8; 2] = [0x00, 0x92];
const SUBACK: [u8; 12] = [0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2];
const UNSUBACK: [u8; 7] = [0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91];
/// What a server may send: 0x04 (Disconnect with Will Message) is the client's.
const DISCONNECT: [u8; 28] = [
    0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97,
    0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
];
const ACK_PROPERTIES: [u8; 2] = [id::REASON_STRING, id::USER_PROPERTY];
/// Session Expiry Interval is not a server's to send [MQTT-3.14.2-2].
const DISCONNECT_PROPERTIES: [u8; 3] = [id::REASON_STRING, id::USER_PROPERTY, id::SERVER_REFERENCE];
const AUTH_PROPERTIES: [u8; 4] =
    [id::AUTHENTICATION_METHOD, id::AUTHENTICATION_DATA, id::REASON_STRING, id::USER_PROPERTY];
const PUBLISH_PROPERTIES: [u8; 8] = [
    id::PAYLOAD_FORMAT,
    id::MESSAGE_EXPIRY,
    id::TOPIC_ALIAS,
    id::RESPONSE_TOPIC,
    id::CORRELATION_DATA,
    id::USER_PROPERTY,
    id::SUBSCRIPTION_ID,
    id::CONTENT_TYPE,
];
const CONNACK_PROPERTIES: [u8; 17] = [
    id::SESSION_EXPIRY,
    id::RECEIVE_MAXIMUM,
    id::MAXIMUM_QOS,
    id::RETAIN_AVAILABLE,
    id::MAXIMUM_PACKET_SIZE,
    id::ASSIGNED_CLIENT_ID,
    id::TOPIC_ALIAS_MAXIMUM,
    id::REASON_STRING,
    id::USER_PROPERTY,
    id::WILDCARD_AVAILABLE,
    id::SUBSCRIPTION_IDS_AVAILABLE,
    id::SHARED_AVAILABLE,
    id::SERVER_KEEP_ALIVE,
    id::RESPONSE_INFORMATION,
    id::SERVER_REFERENCE,
    id::AUTHENTICATION_METHOD,
    id::AUTHENTICATION_DATA,
];
