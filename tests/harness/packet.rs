//! What a broker says, to be compared.

use super::{Properties, Publish};

/// A protocol version, by its level in CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V31 = 3,
    V311 = 4,
    V5 = 5,
}

impl Version {
    pub(crate) const ALL: [Self; 3] = [Self::V31, Self::V311, Self::V5];

    /// Those without reason codes in DISCONNECT and acknowledgements.
    pub(crate) const OLD: [Self; 2] = [Self::V31, Self::V311];
}

/// A packet from server to client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packet {
    ConnAck(ConnAck),
    Publish(Publish),
    PubAck { id: u16, reason: u8 },
    PubRec { id: u16, reason: u8 },
    PubRel { id: u16, reason: u8 },
    PubComp { id: u16, reason: u8 },
    SubAck { id: u16, reasons: Vec<u8> },
    UnsubAck { id: u16, reasons: Vec<u8> },
    PingResp,
    Disconnect { reason: u8, properties: Properties },
    Auth { reason: u8, properties: Properties },
}

/// CONNACK; `code` is a return code in 3.1 and 3.1.1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ConnAck {
    pub(crate) session_present: bool,
    pub(crate) code: u8,
    pub(crate) properties: Properties,
}
