//! What goes into a [`Registry`](crate::Registry) and what comes out of it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_mqtt::{
    Message, ReasonCode,
    session::{ClientId, SessionExpiry},
};
use flotilla_state::{ConnectionEpoch, LogIndex, Member, Placement};

/// What a registry may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How long a claim may wait before it is refused.
    pub claim_timeout: Duration,
    /// Claims of this node that wait at the same time; more are refused.
    pub claims_pending_max: usize,
    /// Wills that this node keeps for others, in bytes; what is more is not kept, and counted.
    pub will_bytes_max: usize,
    /// Messages of one member that wait until this node has applied as much of the log as the sender had, in bytes.
    pub held_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            claim_timeout: Duration::from_secs(10),
            claims_pending_max: 100_000,
            will_bytes_max: 256 << 20,
            held_bytes_max: 64 << 20,
        }
    }
}

/// The members and placements of the cluster after an entry of the meta group's log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// The entry.
    pub index: LogIndex,
    /// The members that live, each node once.
    pub members: Vec<Member>,
    /// By shard.
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

/// The will of a connected client, as other nodes keep it.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptWill {
    /// The message; its publisher is the client.
    pub message: Arc<Message>,
    /// Will Delay Interval, from the end of the connection.
    pub delay: Duration,
    /// Message Expiry Interval; it starts when the will is published.
    pub expiry: Option<Duration>,
    /// Session Expiry Interval: the will does not wait longer than the session lasts (section 3.1.3.2.2).
    pub session_expiry: SessionExpiry,
}

impl KeptWill {
    /// How long it waits after the end of the connection.
    #[must_use]
    pub fn wait(&self) -> Duration {
        match self.session_expiry {
            SessionExpiry::AtDisconnect => Duration::ZERO,
            SessionExpiry::After(expiry) => self.delay.min(expiry),
            SessionExpiry::Never => self.delay,
        }
    }

    /// What it counts against byte limits.
    #[must_use]
    pub fn size(&self) -> usize {
        self.message.size() + size_of::<Self>() + size_of::<Message>()
    }
}

/// A will that was published for a node that has ended; see [`Output::PublishWill`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WillId(pub u64);

/// Where the session of a client comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// No other node has one: the client begins a new session.
    Nowhere,
    /// This node: whatever it has, which may be nothing.
    Here,
    /// Another node, which has ended its connection.
    Elsewhere {
        /// It passes on what it still gets for the client, until it is told by [`Registry::settle`](crate::Registry::settle).
        from: Member,
        /// The session.
        session: Bytes,
    },
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
    /// A CONNECT is granted: nobody else in the cluster serves the client. With [`Source::Elsewhere`] the shell imports the
    /// session and says so by [`Registry::handle_imported`](crate::Registry::handle_imported).
    Granted {
        /// Which CONNECT.
        request: RequestId,
        /// Its client.
        client: ClientId,
        /// Names the connection from now on.
        tenure: Tenure,
        /// Its session.
        source: Source,
    },
    /// A CONNECT is refused.
    Refused {
        /// Which CONNECT.
        request: RequestId,
        /// Why.
        refusal: Refusal,
    },
    /// Another node takes the client over: end its connection with 0x8E, publish its will or drop it, export its session
    /// (or end it, if it is to be discarded or ends with its connection), keep what was exported and go on
    /// matching for it (the *stub*), and call [`Registry::handle_exported`](crate::Registry::handle_exported).
    Export {
        /// The client.
        client: ClientId,
        /// The claim of the other node; names the stub.
        epoch: ConnectionEpoch,
        /// The other node.
        to: Member,
        /// The client starts clean: end the session.
        discard: bool,
    },
    /// The session that was exported under `epoch` lives here again: its new owner has ended or given up.
    TakeBack {
        /// The client.
        client: ClientId,
        /// The claim that it was exported for.
        epoch: ConnectionEpoch,
    },
    /// The new owner has imported the session: the copy is forgotten, the stub stays.
    Taken {
        /// The client.
        client: ClientId,
        /// The claim that it was exported for.
        epoch: ConnectionEpoch,
    },
    /// The new owner's routes are in force from `index` on: once every node has flushed what it matched before, end the stub
    /// and call [`Registry::handle_stub_ended`](crate::Registry::handle_stub_ended).
    Settle {
        /// The client.
        client: ClientId,
        /// Names the stub.
        epoch: ConnectionEpoch,
        /// The new owner.
        to: Member,
        /// The entry of the log.
        index: LogIndex,
    },
    /// At the old owner: nobody waits for what the stub still gets; withdraw it. At the new owner: the old one has ended, and
    /// nothing more comes from its stub.
    StubVoid {
        /// The client.
        client: ClientId,
        /// Names the stub.
        epoch: ConnectionEpoch,
    },
    /// The session and the connection (0x8E) of this client are void: somebody else has it by now.
    Discard {
        /// The client.
        client: ClientId,
        /// What it was granted here last. A connection with a later one has nothing to do with this.
        tenure: Tenure,
    },
    /// Publish the will of a client whose node has ended, then call
    /// [`Registry::handle_published`](crate::Registry::handle_published).
    PublishWill {
        /// Names it.
        id: WillId,
        /// The client.
        client: ClientId,
        /// The message, with the time at which it expires.
        message: Arc<Message>,
    },
}

/// What a registry holds, for metrics and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Clients whose session or connection is here.
    pub owned: usize,
    /// Claims of this node that wait.
    pub pending: usize,
    /// Stubs of sessions that went elsewhere, and sessions here that still get from a stub.
    pub stubs: usize,
    /// Clients that this node knows as their registrar.
    pub records: usize,
    /// Shards of which this node is the registrar and does not yet know all claims.
    pub shards_collecting: usize,
    /// Wills that are kept for clients of other nodes.
    pub wills: usize,
    /// Their size.
    pub will_bytes: usize,
    /// Wills of ended nodes that this node publishes when their time comes.
    pub wills_due: usize,
    /// Wills that were not kept because of [`Limits::will_bytes_max`].
    pub wills_refused: u64,
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
