//! What goes into a [`Registry`](crate::Registry) and what comes out of it.

use std::time::Duration;

use bytes::Bytes;
use flotilla_mqtt::{ReasonCode, session::ClientId};
use flotilla_state::{ConnectionEpoch, LogIndex, Member, Placement};

/// What a registry may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How long a claim may wait before it is refused.
    pub claim_timeout: Duration,
    /// Claims of this node that wait at the same time; more are refused.
    pub claims_pending_max: usize,
    /// Messages of one member that wait until this node has applied as much of the log as the sender had, in bytes.
    pub held_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { claim_timeout: Duration::from_secs(10), claims_pending_max: 100_000, held_bytes_max: 64 << 20 }
    }
}

/// The members and placements of the cluster after an entry of the meta group's log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// The entry.
    pub index: LogIndex,
    /// The members that live, each node once.
    pub members: Vec<Member>,
    /// By shard. Whenever the first node is another one, or in another life, the epoch is a higher one.
    pub placements: Vec<Placement>,
}

/// The shell's name for a CONNECT that waits. Unique among those that wait on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What a CONNECT was granted: the time during which it is the one that its client identifier belongs to. A higher one is a
/// later one, in the whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tenure {
    /// The claim that brought the client to this node.
    pub epoch: ConnectionEpoch,
    /// Counts the takeovers within the node since then: nobody else has to be asked for those.
    pub turn: u32,
}

/// Why a CONNECT is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// This node is not a member, or somebody whose answer is needed gave none within
    /// [`Limits::claim_timeout`].
    Unavailable,
    /// More claims wait than [`Limits::claims_pending_max`].
    Busy,
    /// A later CONNECT with the same identifier came while this one waited.
    Superseded,
}

impl Refusal {
    /// The reason code of the CONNACK. It has no word for a takeover (0x8E is for DISCONNECT only).
    #[must_use]
    pub fn reason(self) -> ReasonCode {
        match self {
            Self::Unavailable => ReasonCode::ServerUnavailable,
            Self::Busy | Self::Superseded => ReasonCode::ServerBusy,
        }
    }
}

/// What must happen next.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send these bytes to a member, in order; it gives them to
    /// [`Registry::handle_message`](crate::Registry::handle_message).
    Send {
        /// To whom.
        to: Member,
        /// What.
        bytes: Bytes,
    },
    /// A CONNECT is granted: nobody else in the cluster serves the client. The shell closes whatever connection it has of it.
    Granted {
        /// Which CONNECT.
        request: RequestId,
        /// Its client.
        client: ClientId,
        /// Names the connection from now on.
        tenure: Tenure,
    },
    /// A CONNECT is refused.
    Refused {
        /// Which CONNECT.
        request: RequestId,
        /// Why.
        refusal: Refusal,
    },
    /// Another node takes the client over: close its connection (0x8E), and call
    /// [`Registry::handle_closed`](crate::Registry::handle_closed) when all that the client has said is on its way.
    Close {
        /// The client.
        client: ClientId,
        /// The claim of the other node. A connection with a later one has nothing to do with this.
        epoch: ConnectionEpoch,
    },
    /// The connection of this client is void, for somebody else has it by now: close it (0x8E).
    Discard {
        /// The client.
        client: ClientId,
        /// What it was granted here last. A connection with a later one has nothing to do with this.
        tenure: Tenure,
    },
}

/// What a registry holds, for metrics and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Clients whose connection is here.
    pub owned: usize,
    /// Claims of this node that wait.
    pub pending: usize,
    /// Clients that this node knows as their registrar.
    pub records: usize,
    /// Shards of which this node is the registrar and does not yet know all claims.
    pub shards_collecting: usize,
    /// Messages from members that are ahead of this node, in bytes.
    pub held_bytes: usize,
}

/// Why a message was not handled.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// It is no protobuf of ours.
    #[error("the message does not decode: {0}")]
    Decode(#[from] prost::DecodeError),
    /// It was written by a version of the program that this one does not understand.
    #[error("the message has format version {0}; this program understands {known}", known = crate::wire::VERSION)]
    UnknownVersion(u32),
    /// A part of it has no meaning.
    #[error("the message has no valid {0}")]
    Invalid(&'static str),
    /// This node is so far behind the sender that it would have to keep too much.
    #[error("more than {limit} bytes wait for the log")]
    TooFarBehind {
        /// How much may wait.
        limit: usize,
    },
}
