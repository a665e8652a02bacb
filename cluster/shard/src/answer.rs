//! What an entry is answered.

use bytes::Bytes;
use flotilla_mqtt::{PacketId, session::Subscription};

use crate::{DecodeError, Seq, SessionId, wire};

/// What [`Shard::apply`](crate::Shard::apply) answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answers {
    /// One for each part of the entry, in order. None for an entry that had been applied before.
    pub parts: Vec<PartAnswer>,
}

/// What became of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartAnswer {
    /// It is done, now or earlier: one answer for each op, in order.
    Applied(Vec<Answer>),
    /// An earlier part of the source is missing: nothing was done.
    Gap {
        /// The number that is expected.
        expected: u64,
    },
    /// The life of the source has ended: nothing was done.
    Ended,
}

/// What became of an op.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// There is nothing to say.
    Done,
    /// The session is over, or a later connection has it.
    Fenced,
    /// To [`Op::Open`](crate::Op::Open).
    Opened(Box<Opened>),
    /// To [`Op::Receive`](crate::Op::Receive).
    Received {
        /// Which of the session's messages of QoS 2 it is; the same as before if the identifier was taken.
        number: u64,
        /// The lowest number that is not released.
        floor: u64,
    },
    /// To [`Op::Receive`](crate::Op::Receive): too many wait for their PUBREL, or one waits while too many have come and gone.
    /// To [`Op::Open`](crate::Op::Open): see [`Open::only_present`](crate::Open::only_present).
    Full,
    /// To [`Op::Direct`](crate::Op::Direct): the place of the message. `None`: it has none, for it was not kept; or this is said
    /// again, and nobody knows it any more.
    Queued(Option<Seq>),
    /// To [`Op::Letters`](crate::Op::Letters): one is missing before them.
    Gap,
    /// To [`Op::Restore`](crate::Op::Restore): how many sessions, subscriptions or messages of the piece were taken. To
    /// [`Op::Restored`](crate::Op::Restored): how many sessions have not begun yet.
    Count(u64),
}

/// A CONNECT was served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Session Present.
    pub present: bool,
    /// The session; `None`: it needs none here.
    pub session: Option<OpenedSession>,
}

/// A session at the beginning of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedSession {
    /// Its name.
    pub id: SessionId,
    /// In the order of their filters.
    pub subscriptions: Vec<Subscription>,
    /// PUBLISH of QoS 2 from the client that wait for PUBREL; the oldest first.
    pub received: Vec<ReceivedId>,
    /// The number of the next PUBLISH of QoS 2 from the client.
    pub next_number: u64,
    /// The lowest number that is not released; [`OpenedSession::next_number`] if there is none.
    pub floor: u64,
    /// The first message that is not done, or the next that will come.
    pub head: Seq,
    /// What is before it may have been sent on an earlier connection: it is sent with DUP [MQTT-3.3.1-1].
    pub maybe_sent_until: Seq,
}

/// A PUBLISH of QoS 2 from the client that waits for its PUBREL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceivedId {
    /// The identifier that is taken [MQTT-4.3.3-10].
    pub id: PacketId,
    /// Which of the session's messages of QoS 2 it is.
    pub number: u64,
    /// Every shard has the message: it is not published again. `false`: nobody knows.
    pub is_stored: bool,
}

impl Answers {
    /// The answers as bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        wire::encode_answers(self)
    }

    /// Reads answers.
    ///
    /// # Errors
    /// The bytes are not what [`Answers::encode`] writes.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        wire::decode_answers(bytes)
    }
}
