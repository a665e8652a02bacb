//! Packets by hand: nothing here stops a test from writing a wrong one.

use super::{Properties, Property, Version};

/// The bytes behind a fixed header, in the making.
#[derive(Debug, Clone, Default)]
pub(crate) struct Body(Vec<u8>);

impl Body {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(crate) fn u16(self, value: u16) -> Self {
        self.raw(&value.to_be_bytes())
    }

    pub(crate) fn u32(self, value: u32) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// A Variable Byte Integer in as few bytes as possible.
    pub(crate) fn varint(mut self, value: u32) -> Self {
        write_varint(value, &mut self.0);
        self
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A UTF-8 Encoded String.
    pub(crate) fn text(self, text: &str) -> Self {
        self.binary(text.as_bytes())
    }

    /// Binary Data; also for strings that are not UTF-8.
    pub(crate) fn binary(self, bytes: &[u8]) -> Self {
        let len = u16::try_from(bytes.len()).expect("a field of a test packet fits its length");
        self.u16(len).raw(bytes)
    }

    /// Properties with their length.
    pub(crate) fn properties(self, properties: &[Property]) -> Self {
        let bytes = Properties(properties.to_vec()).bytes();
        self.varint(u32::try_from(bytes.len()).expect("test packets are small")).raw(&bytes)
    }

    /// Properties with their length where the version has them.
    pub(crate) fn properties_for(self, version: Version, properties: &[Property]) -> Self {
        if version == Version::V5 {
            return self.properties(properties);
        }
        assert!(properties.is_empty(), "{version:?} has no properties");
        self
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// A packet with the right Remaining Length.
pub(crate) fn packet(first_byte: u8, body: Body) -> Vec<u8> {
    let mut bytes = vec![first_byte];
    write_varint(u32::try_from(body.0.len()).expect("test packets are small"), &mut bytes);
    bytes.extend(body.0);
    bytes
}

/// PUBACK (0x40), PUBREC (0x50), PUBREL (0x62) or PUBCOMP (0x70) in its short form.
pub(crate) fn ack(first_byte: u8, id: u16) -> Vec<u8> {
    packet(first_byte, Body::new().u16(id))
}

/// SUBSCRIBE with one Subscription Options byte for each filter.
pub(crate) fn subscribe(
    version: Version,
    id: u16,
    properties: &[Property],
    filters: &[(&str, u8)],
) -> Vec<u8> {
    let body = Body::new().u16(id).properties_for(version, properties);
    packet(0x82, filters.iter().fold(body, |body, (filter, options)| body.text(filter).u8(*options)))
}

/// UNSUBSCRIBE.
pub(crate) fn unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let body = Body::new().u16(id).properties_for(version, &[]);
    packet(0xA2, filters.iter().fold(body, |body, filter| body.text(filter)))
}

/// PINGREQ.
pub(crate) fn pingreq() -> Vec<u8> {
    packet(0xC0, Body::new())
}

/// DISCONNECT; 3.1 and 3.1.1 have neither reason nor properties.
pub(crate) fn disconnect(version: Version, reason: u8, properties: &[Property]) -> Vec<u8> {
    let body =
        if version == Version::V5 { Body::new().u8(reason).properties(properties) } else { Body::new() };
    packet(0xE0, body)
}

fn write_varint(mut value: u32, out: &mut Vec<u8>) {
    assert!(value < 1 << 28, "a Variable Byte Integer has 28 bits");
    loop {
        let low = u8::try_from(value & 0x7F).expect("seven bits fit");
        value >>= 7;
        out.push(if value > 0 { low | 0x80 } else { low });
        if value == 0 {
            return;
        }
    }
}
