//! What the payload of a message says about it, and the PUBLISH around it.

use flotilla_mqtt::{
    PacketId, ProtocolVersion, QoS,
    codec::{self, EncodeError},
    packet::{Delivery, Packet, Publish, PublishProperties},
};

/// The first bytes of each payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// When it was meant to be sent, in nanoseconds of this process.
    pub(super) time: u64,
    /// Its number among those of the flow, from 1.
    pub(super) sequence: u64,
    /// Which flow.
    pub(super) flow: u32,
}

impl Stamp {
    /// How many bytes it takes, and so the smallest payload.
    pub(super) const LEN: usize = 20;

    /// The stamp of a payload; `None`: it is too short for one.
    #[inline]
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let (time, rest) = payload.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (flow, _) = rest.split_first_chunk()?;
        Some(Self {
            time: u64::from_le_bytes(*time),
            sequence: u64::from_le_bytes(*sequence),
            flow: u32::from_le_bytes(*flow),
        })
    }

    #[inline]
    fn bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.time.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..].copy_from_slice(&self.flow.to_le_bytes());
        bytes
    }
}

/// A PUBLISH that is encoded once; only its Packet Identifier and its stamp change.
#[derive(Debug)]
pub(super) struct Template {
    bytes: Vec<u8>,
    /// Where the Packet Identifier is; `None` at QoS 0.
    id_at: Option<usize>,
    payload_at: usize,
}

impl Template {
    /// # Errors
    /// It cannot be written down.
    pub(super) fn new(
        version: ProtocolVersion,
        qos: QoS,
        retain: bool,
        topic: &str,
        payload_len: usize,
    ) -> Result<Self, EncodeError> {
        let mut bytes = Vec::new();
        write_publish(
            &mut bytes,
            version,
            delivery(qos, PacketId::MIN),
            retain,
            topic,
            &vec![0; payload_len],
        )?;
        let payload_at = bytes.len() - payload_len;
        // The identifier is the last thing before the payload, but for the length of no properties.
        let id_at = payload_at - usize::from(version.is_v5()) - 2;
        Ok(Self { bytes, id_at: (qos != QoS::AtMostOnce).then_some(id_at), payload_at })
    }

    /// Appends the PUBLISH. `id` is of no meaning at QoS 0.
    #[inline]
    pub(super) fn write(&self, id: PacketId, stamp: Stamp, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        if let Some(at) = self.id_at {
            out[start + at..][..2].copy_from_slice(&id.value().to_be_bytes());
        }
        out[start + self.payload_at..][..Stamp::LEN].copy_from_slice(&stamp.bytes());
    }
}

/// Where payloads come from that go to a topic each.
#[derive(Debug)]
pub(super) struct Payload(Vec<u8>);

impl Payload {
    pub(super) fn new(len: usize) -> Self {
        Self(vec![0; len])
    }

    /// The payload with this stamp.
    pub(super) fn stamped(&mut self, stamp: Stamp) -> &[u8] {
        if let Some(head) = self.0.first_chunk_mut() {
            *head = stamp.bytes();
        }
        &self.0
    }
}

/// Appends any PUBLISH.
///
/// # Errors
/// It cannot be written down.
pub(super) fn write_publish(
    out: &mut Vec<u8>,
    version: ProtocolVersion,
    delivery: Delivery,
    retain: bool,
    topic: &str,
    payload: &[u8],
) -> Result<(), EncodeError> {
    let properties = PublishProperties::default();
    codec::encode(&Packet::Publish(Publish { delivery, retain, topic, properties, payload }), version, out)
}

/// How a message that is sent for the first time is delivered.
pub(super) const fn delivery(qos: QoS, id: PacketId) -> Delivery {
    match qos {
        QoS::AtMostOnce => Delivery::AtMostOnce,
        QoS::AtLeastOnce => Delivery::AtLeastOnce { id, dup: false },
        QoS::ExactlyOnce => Delivery::ExactlyOnce { id, dup: false },
    }
}

#[cfg(test)]
mod tests {
    use flotilla_mqtt::codec::Decoder;

    use super::*;

    #[test]
    fn a_template_is_the_packet_that_the_codec_writes() {
        let stamp = Stamp { time: 0x0102_0304_0506_0708, sequence: 77, flow: 9 };
        for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                let id = PacketId::new(0xABCD).unwrap();
                let mut out = b"before".to_vec();
                Template::new(version, qos, true, "a/b", 300).unwrap().write(id, stamp, &mut out);
                let mut expected = b"before".to_vec();
                let mut payload = Payload::new(300);
                let payload = payload.stamped(stamp);
                write_publish(&mut expected, version, delivery(qos, id), true, "a/b", payload).unwrap();
                assert_eq!(out, expected, "{version:?} {qos:?}");

                let decoder = Decoder::client(version, 1_000);
                let Ok(Some((Packet::Publish(publish), _))) = decoder.decode(&out[6..]) else { panic!() };
                assert_eq!(Stamp::read(publish.payload), Some(stamp));
            }
        }
    }

    #[test]
    fn a_short_payload_has_no_stamp() {
        assert_eq!(Stamp::read(&[0; Stamp::LEN - 1]), None);
        assert!(Stamp::read(&[0; Stamp::LEN]).is_some());
    }
}
