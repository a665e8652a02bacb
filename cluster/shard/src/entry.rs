//! What the log of a shard says.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_lane::Batch;
use flotilla_mqtt::{
    Message, PacketId,
    session::{DeliveryOptions, QueueFull, SessionExpiry, Subscription},
    topic::TopicFilter,
};
use flotilla_state::{Member, ShardId};

use crate::{Connection, DecodeError, GroupStrategy, Letter, Saved, Seq, SessionId, WillId, wire};

/// One entry of the log: what several members want done, put together by the leader.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The leader's wall clock, in milliseconds since the epoch. One that is behind that of an earlier entry counts as equal
    /// to it.
    pub stamp: u64,
    /// The leader finds that there are as many retained messages as there may be: none is kept for a new topic, or in the
    /// place of a smaller one.
    pub retained_full: bool,
    /// In this order; there is at least one.
    pub parts: Vec<Part>,
}

/// What one member wants done, together or not at all.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Who wants it.
    pub source: Member,
    /// 1, 2, 3... for each source; what comes twice is done once. 0: the leader's own, which may be done twice.
    pub number: u64,
    /// In this order; at least one, at most [`OPS_MAX`].
    pub ops: Vec<Op>,
}

/// A [`Part`] as bytes that are known to decode: what a leader may put into the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedPart(Bytes);

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// A client connects.
    Open(Box<Open>),
    /// Adds subscriptions, or replaces those with the same filter [MQTT-3.8.4-3].
    Subscribe {
        /// For whom.
        connection: Connection,
        /// At most [`LIST_MAX`]. Those of shared groups are kept, and not matched here: their groups hear of it.
        subscriptions: Vec<Subscription>,
    },
    /// Removes subscriptions.
    Unsubscribe {
        /// For whom.
        connection: Connection,
        /// Their whole filters, at most [`LIST_MAX`].
        filters: Vec<Arc<TopicFilter>>,
    },
    /// What the client said about messages of its inbox, in any order. Unknown ones are ignored.
    Acknowledge {
        /// For whom.
        connection: Connection,
        /// PUBREC came: PUBREL is due, and the message itself is no longer needed. At most [`LIST_MAX`].
        released: Vec<Seq>,
        /// PUBACK or PUBCOMP came, or the owner dropped it. At most [`LIST_MAX`].
        done: Vec<Seq>,
    },
    /// A PUBLISH of QoS 2 came from the client. Answered by [`Answer::Received`](crate::Answer::Received).
    Receive {
        /// From whom.
        connection: Connection,
        /// Its identifier, which is taken until [`Op::Release`] [MQTT-4.3.3-10].
        packet_id: PacketId,
    },
    /// PUBREL came from the client: the identifier is free.
    Release {
        /// From whom.
        connection: Connection,
        /// The identifier.
        packet_id: PacketId,
    },
    /// The connection has ended.
    Close {
        /// Whose.
        connection: Connection,
        /// How long the session stays from now on.
        expiry: SessionExpiry,
        /// Whether the will is to be published.
        will: WillFate,
        /// Nothing from here on was sent to the client: the queue begins here while it is away.
        sent_until: Seq,
        /// Identifiers that [`Op::Receive`] took and whose messages every shard has: when the client sends them again, they
        /// are not published again. At most [`LIST_MAX`]. Unknown ones are ignored.
        stored: Vec<PacketId>,
    },
    /// The connection has come to nothing: its client was refused, or never heard of it. A session that began with it is over, and one
    /// that was there goes on as if it had not been, with the will that it had before. Its own will is not published, unless it was
    /// before this came. It can follow its [`Op::Open`] alone.
    Abandon {
        /// Which.
        connection: Connection,
        /// How long it said that the session stays: what it changed there is known, and undone.
        expiry: SessionExpiry,
    },
    /// The session is over now: its will is published, and all of it is forgotten.
    End {
        /// Whose.
        connection: Connection,
    },
    /// Messages for whichever sessions match, and to be retained.
    Publish {
        /// [`Frame::Store`](flotilla_lane::Frame::Store), and [`Frame::Group`](flotilla_lane::Frame::Group) for a group alone, and
        /// nothing else.
        batch: Batch,
    },
    /// A message for one session: a retained one for a new subscription, whose `retain` is not set, for nobody publishes it now; or
    /// what a broker says of itself to its own clients. `message.expires_at` is not looked at. Answered by
    /// [`Answer::Queued`](crate::Answer::Queued).
    Direct {
        /// For whom.
        connection: Connection,
        /// How it is to be sent. The lower one of its QoS and that of the message counts; 0 is kept for
        /// a client that is away and wants it, and for no other.
        options: DeliveryOptions,
        /// The message.
        message: Arc<Message>,
        /// What is left of its Message Expiry Interval.
        expires_in: Option<Duration>,
    },
    /// The leader's: the life of a member has ended, and so have its connections, as if they had broken.
    MemberEnded {
        /// The member.
        member: Member,
    },
    /// The leader's: time has passed. Ends sessions and publishes wills that are due at the stamp of the entry; at most
    /// [`TICK_MAX`] of them, the next tick does the rest.
    Tick,
    /// The leader's: messages whose Message Expiry Interval has passed.
    Discard {
        /// Of which session.
        session: SessionId,
        /// Which; at most [`LIST_MAX`]. Unknown ones are ignored.
        seqs: Vec<Seq>,
    },
    /// The leader's: the will has been published.
    WillDone {
        /// Which.
        will: WillId,
    },
    /// The leader's: nothing of this publisher comes any more, for its session has ended.
    ForgetPublisher {
        /// The shard that had the session.
        shard: ShardId,
        /// The session.
        session: SessionId,
    },
    /// Letters of a shard. Those that have come before are ignored. Answered by [`Answer::Done`](crate::Answer::Done), or by
    /// [`Answer::Gap`](crate::Answer::Gap) where one is missing before them: then nothing was done.
    Letters {
        /// The shard that tells them.
        from: ShardId,
        /// The number of the letter that it told this shard before these; 0: this shard has all before these.
        after: u64,
        /// With their numbers, which rise; at most [`LIST_MAX`].
        letters: Vec<(u64, Letter)>,
    },
    /// The leader's: letters of this shard that the shards which they are for have.
    Posted {
        /// Their numbers, at most [`LIST_MAX`]. Unknown ones are ignored.
        letters: Vec<u64>,
    },
    /// A piece of a backup. Answered by [`Answer::Count`](crate::Answer::Count): a session that serves already stays as it is,
    /// and nothing is taken for it. One that is not complete is restored anew.
    Restore(Box<Saved>),
    /// All pieces are there: the sessions serve from now on, at most [`RESTORED_MAX`] of them at a time. Answered by
    /// [`Answer::Count`](crate::Answer::Count).
    Restored,
}

/// A CONNECT. Answered by [`Answer::Opened`](crate::Answer::Opened).
#[derive(Debug, Clone, PartialEq)]
pub struct Open {
    /// The client, its claim and its turn; an older connection than that of the session is refused.
    pub connection: Connection,
    /// Clean Start: what is there is ended first.
    pub clean_start: bool,
    /// Nothing is begun for a client that has nothing here: the disks are nearly full.
    /// [`Answer::Full`](crate::Answer::Full) then.
    pub only_present: bool,
    /// How long the session stays after the connection.
    pub expiry: SessionExpiry,
    /// How many messages may be in flight to the client; the queue begins behind them. Those that were before are still.
    pub window: u16,
    /// What the queue may hold.
    pub queue: QueueLimits,
    /// How many PUBLISH of QoS 2 from the client may wait for their PUBREL.
    pub awaiting_rel_max: u16,
    /// Whether the session keeps messages of QoS 0 while its client is away.
    pub queue_qos0: bool,
    /// What several matching subscriptions of the session mean.
    pub overlap: Overlap,
    /// Who gets the messages of the groups that the session is in.
    pub group_strategy: GroupStrategy,
    /// The will of this connection.
    pub will: Option<Will>,
}

impl Open {
    /// Whether anything of the connection outlives it.
    pub(crate) fn needs_session(&self) -> bool {
        self.expiry != SessionExpiry::AtDisconnect || self.will.is_some()
    }
}

/// What the queue of a session may hold, beyond what may be in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Messages.
    pub messages_max: u32,
    /// Their topics, properties and payloads together, in bytes.
    pub bytes_max: u64,
    /// What happens when it is full.
    pub full: QueueFull,
}

/// How a message goes to a client with several matching subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Overlap {
    /// Once, with the highest QoS and all subscription identifiers.
    Merge,
    /// Once for each subscription.
    Each,
}

/// The will of a connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Will {
    /// The message. Its `expires_at` is not looked at: it is set when the will is published.
    pub message: Arc<Message>,
    /// Will Delay Interval, from the end of the connection.
    pub delay: Duration,
    /// Message Expiry Interval; it starts when the will is published (section 3.1.3.2.4).
    pub expiry: Option<Duration>,
}

/// What becomes of the will at the end of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WillFate {
    /// It is published when its delay is over or the session ends, whichever is first [MQTT-3.1.2-8].
    Keep,
    /// It is deleted: the client said goodbye [MQTT-3.1.2-10].
    Drop,
}

impl Entry {
    /// The entry as bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        wire::encode_entry(self)
    }

    /// The entry that consists of these parts.
    #[must_use]
    pub fn encode_parts<'a>(
        stamp: u64,
        retained_full: bool,
        parts: impl IntoIterator<Item = &'a EncodedPart>,
    ) -> Bytes {
        wire::encode_parts(stamp, retained_full, parts.into_iter().map(|part| &part.0))
    }

    /// Reads and checks all of an entry. Its messages share the memory of `bytes`.
    ///
    /// # Errors
    /// The bytes are not what [`Entry::encode`] writes.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        wire::decode_entry(bytes)
    }
}

impl Part {
    /// The part as bytes.
    #[must_use]
    pub fn encode(&self) -> EncodedPart {
        EncodedPart(wire::encode_part(self))
    }
}

impl EncodedPart {
    /// Checks the bytes of a part that another member sent: nothing else may get into the log, for a replica stops at an entry
    /// that does not decode.
    ///
    /// # Errors
    /// They are not those of a part.
    pub fn check(bytes: Bytes) -> Result<Self, DecodeError> {
        wire::decode_part(&bytes)?;
        Ok(Self(bytes))
    }

    /// What goes over the wire.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.0
    }
}

/// The most ops of a part.
pub const OPS_MAX: usize = 4_096;
/// The most items of a list in an op.
pub const LIST_MAX: usize = 65_536;
/// How many sessions one [`Op::Tick`] looks after.
pub const TICK_MAX: usize = 4_096;
/// How many sessions one [`Op::Restored`] has begin.
pub const RESTORED_MAX: usize = 1_024;
/// The numbers of two PUBLISH of QoS 2 of a session that wait for their PUBREL are less than this apart.
pub const RECEIVED_SPAN: u64 = 16_384;
