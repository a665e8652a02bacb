//! Names that a shard gives out.

use flotilla_mqtt::{PacketId, session::ClientId};
use flotilla_state::{ConnectionEpoch, Member};

/// A session of the shard. Never given to another one, also not to the next session of the same client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// The place of a message in the inbox of its session: 1, 2, 3... Never used again within the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

/// A will that is to be published. Never given to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WillId(pub u64);

/// Up to 64 places of an inbox, stored together. Never given to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChunkId(pub(crate) u64);

/// The retained message of a topic, from the first one on until it is deleted or expires. Never given to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RetainedId(pub(crate) u64);

/// A message that several sessions have, stored once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MessageId(pub(crate) u64);

/// A connection of a client, as ops name it: only the latest one of a session may act for it. The later one has the higher
/// claim, or the same claim and the higher turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// The client.
    pub client: ClientId,
    /// Its claim.
    pub epoch: ConnectionEpoch,
    /// Its turn under this claim: a client that takes itself over on its own node keeps the claim.
    pub turn: u32,
}

/// Where the client of a session is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The node, in one of its lives.
    pub member: Member,
    /// The claim of the connection.
    pub epoch: ConnectionEpoch,
    /// Its turn under this claim.
    pub turn: u32,
}

impl Connection {
    /// What is higher in a later connection of the client.
    pub(crate) const fn rank(&self) -> (ConnectionEpoch, u32) {
        (self.epoch, self.turn)
    }
}

/// Messages that are in flight at the same time are less than this apart: their identifiers differ.
///
/// What is behind the head of an inbox by as much or more is not delivered yet.
pub const IN_FLIGHT_SPAN: u64 = 49_151;

impl Seq {
    /// The Packet Identifier under which the message goes to the client, from 1 to [`IN_FLIGHT_SPAN`]. The higher ones are
    /// for messages that are not durable. It is the same on each connection [MQTT-4.4.0-1].
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub const fn packet_id(self) -> PacketId {
        match PacketId::new(1 + (self.0 % IN_FLIGHT_SPAN) as u16) {
            Some(id) => id,
            None => unreachable!(),
        }
    }

    /// The message with this Packet Identifier among those from `head` on; `None`: the identifier is not that of a durable
    /// message.
    #[must_use]
    pub fn of_packet_id(id: PacketId, head: Self) -> Option<Self> {
        let remainder = u64::from(id.value()) - 1;
        if remainder >= IN_FLIGHT_SPAN {
            return None;
        }
        let ahead = (remainder + IN_FLIGHT_SPAN - head.0 % IN_FLIGHT_SPAN) % IN_FLIGHT_SPAN;
        head.0.checked_add(ahead).map(Self)
    }
}

// Identifiers have 16 bits [MQTT-2.2.1-4].
const _: () = assert!(IN_FLIGHT_SPAN < 1 << 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_differ_within_the_span() {
        for seq in [1, 2, 49_149, 49_150, 49_151, 49_152, 98_301, 98_302] {
            let id = Seq(seq).packet_id();
            assert!((1..=49_151).contains(&id.value()), "{seq}");
            assert_eq!(Seq(seq + IN_FLIGHT_SPAN).packet_id(), id);
            for head in [seq, seq.saturating_sub(1), seq.saturating_sub(IN_FLIGHT_SPAN - 1)] {
                assert_eq!(Seq::of_packet_id(id, Seq(head)), Some(Seq(seq)), "{seq} from {head}");
            }
        }
        assert_eq!(Seq(1).packet_id().value(), 2);
        assert_eq!(Seq(49_150).packet_id().value(), 49_151);
        assert_eq!(Seq(49_151).packet_id().value(), 1);
        assert_eq!(Seq::of_packet_id(PacketId::new(49_152).unwrap(), Seq(1)), None);
    }
}
