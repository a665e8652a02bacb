//! What the leader is told and may ask.

use std::{fmt, ops::Range, sync::Arc};

use bytes::Bytes;
use flotilla_mqtt::{
    Message, QoS, SubscriptionIds, Timestamp, Transit,
    session::{ClientId, SessionExpiry},
};

use crate::{Owner, Seq, SessionId, WillId};

/// What has changed since it was last asked. Only a leader needs it.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    /// Filters that got their first subscription that matters to a shard, or lost their last, in the order of the log: one of
    /// QoS 1 or 2, or of a session with [`Open::queue_qos0`](crate::Open::queue_qos0). A group has one of QoS 2.
    pub filters: Vec<(Arc<str>, FilterChange)>,
    /// Attached sessions that got messages, or are done with some.
    pub fed: Vec<SessionId>,
    /// Connections that lost their session to somebody else: a later connection, or the end of the session.
    pub closed: Vec<Closed>,
    /// Sessions that have ended.
    pub ended: Vec<SessionId>,
    /// Those of them that have published at QoS 2: other shards may forget what they know of them.
    pub ended_publishers: Vec<SessionId>,
    /// Wills to be published now, with the time at which they expire in milliseconds since the epoch. Each is told once, and
    /// is among the firing ones until [`Op::WillDone`](crate::Op::WillDone).
    pub wills: Vec<(WillId, Arc<Message>)>,
    /// There are letters that there were not: see [`Shard::letters`](crate::Shard::letters).
    pub has_letters: bool,
}

/// Whether nodes need a route to the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterChange {
    /// There is a subscription now.
    First,
    /// There is none any more.
    Last,
}

/// A connection that must end, if it has not yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The client.
    pub client: ClientId,
    /// The session that it had.
    pub session: SessionId,
    /// Where it was.
    pub owner: Owner,
}

/// A message in the inbox of a session that is to be delivered.
#[derive(Debug, Clone, PartialEq)]
pub enum Queued {
    /// PUBLISH is due.
    Publish(QueuedMessage),
    /// PUBREC has come, and PUBREL is due.
    Release {
        /// Its place.
        seq: Seq,
    },
}

/// A message that waits for its PUBACK or PUBREC, or is to be sent at QoS 0.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuedMessage {
    /// Its place.
    pub seq: Seq,
    /// The QoS at which it goes to the client. One of QoS 0 came while the client was away, or was lent by a group; what may have been sent before
    /// ([`OpenedSession::maybe_sent_until`](crate::OpenedSession::maybe_sent_until)) is done without being sent again.
    pub qos: QoS,
    /// The RETAIN flag to send.
    pub retain: bool,
    /// Identifiers of the matching subscriptions.
    pub subscription_ids: SubscriptionIds,
    /// When its Message Expiry Interval ends, in milliseconds since the epoch.
    pub expires_at: Option<u64>,
    /// The message.
    pub message: StoredMessage,
}

/// A message as it is stored. Its parts share one piece of memory.
#[derive(Clone, PartialEq)]
pub struct StoredMessage {
    pub(crate) bytes: Bytes,
    pub(crate) topic: Range<u32>,
    pub(crate) publisher: Range<u32>,
    pub(crate) properties: Range<u32>,
    /// Of the payload, which goes to the end.
    pub(crate) payload: u32,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) expires_at: Option<u64>,
}

/// A session, as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// Its name.
    pub id: SessionId,
    /// Its client.
    pub client: ClientId,
    /// Where the client is connected.
    pub owner: Option<Owner>,
    /// How long it outlives its connection.
    pub expiry: SessionExpiry,
    /// When it ends, in milliseconds since the epoch, if the client does not come back.
    pub ends_at: Option<u64>,
    /// Messages in its inbox.
    pub messages: u64,
    /// Their topics, properties and payloads together, in bytes.
    pub bytes: u64,
    /// Subscriptions, shared ones included.
    pub subscriptions: usize,
    /// Whether there is a will that has not been published.
    pub has_will: bool,
}

/// Figures of a shard. Those that only grow begin with 0 when the shard is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Sessions.
    pub sessions: u64,
    /// Those whose client is connected.
    pub attached: u64,
    /// Those that come out of a backup and are not complete: they do not serve yet.
    pub restoring: u64,
    /// Subscriptions, shared ones included.
    pub subscriptions: u64,
    /// Filters with subscriptions that matter to a shard, as in [`Changes::filters`].
    pub filters: u64,
    /// Groups of shared subscriptions.
    pub groups: u64,
    /// Their members.
    pub group_members: u64,
    /// Messages of these groups that are lent.
    pub loans: u64,
    /// Messages that sessions have borrowed from groups, of this shard or another.
    pub borrowed: u64,
    /// Letters that the shards which they are for are not known to have.
    pub letters: u64,
    /// Messages in the inboxes, groups included; one that is in several counts in each.
    pub queued_messages: u64,
    /// Topics, properties and payloads of these, in bytes.
    pub queued_bytes: u64,
    /// Wills that are to be published and are not known to be.
    pub wills_firing: u64,
    /// Publishers whose messages of QoS 2 are told from repetitions.
    pub publishers: u64,
    /// Topics with a retained message.
    pub retained_messages: u64,
    /// What these count against the limit of bytes.
    pub retained_bytes: u64,
    /// Bytes that the next flush writes, about.
    pub fresh_bytes: u64,
    /// Rows of messages that nobody needs any more and that the next flushes delete.
    pub trash: u64,
    /// Messages appended to an inbox.
    pub appended: u64,
    /// Messages dropped because the queue of a session was full: the one that came.
    pub dropped_newest: u64,
    /// The same: the oldest one.
    pub dropped_oldest: u64,
    /// Messages dropped because their Message Expiry Interval had passed.
    pub expired: u64,
    /// Messages lost with the session that they waited for.
    pub abandoned: u64,
    /// Sessions that have ended because their Session Expiry Interval had passed.
    pub sessions_expired: u64,
    /// Sessions that were ended by a Clean Start.
    pub sessions_discarded: u64,
    /// Messages that were there already: the same number of the same publisher.
    pub duplicates: u64,
    /// Messages that were not retained because there were as many as there may be.
    pub retained_refused: u64,
    /// Flushes.
    pub flushes: u64,
    /// Rows written by flushes.
    pub rows_written: u64,
    /// Rows deleted by flushes.
    pub rows_deleted: u64,
}

impl Queued {
    /// Its place.
    #[must_use]
    pub const fn seq(&self) -> Seq {
        match self {
            Self::Publish(message) => message.seq,
            Self::Release { seq } => *seq,
        }
    }
}

impl StoredMessage {
    /// All of it, as it is stored.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Topic Name.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.text(&self.topic)
    }

    /// Who published it; `None`: the broker itself.
    #[must_use]
    pub fn publisher(&self) -> Option<&str> {
        Some(self.text(&self.publisher)).filter(|publisher| !publisher.is_empty())
    }

    /// The properties that go to every receiver, encoded.
    #[must_use]
    pub fn properties(&self) -> &[u8] {
        self.part(&self.properties)
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.payload as usize..]
    }

    /// The payload, in shared memory.
    #[must_use]
    pub fn payload_bytes(&self) -> Bytes {
        self.bytes.slice(self.payload as usize..)
    }

    /// The QoS at which it was published.
    #[must_use]
    pub const fn qos(&self) -> QoS {
        self.qos
    }

    /// The RETAIN flag with which it was published.
    #[must_use]
    pub const fn retain(&self) -> bool {
        self.retain
    }

    /// When its Message Expiry Interval ends, in milliseconds since the epoch.
    #[must_use]
    pub const fn expires_at(&self) -> Option<u64> {
        self.expires_at
    }

    /// The message on its way to the client. It shares memory with this.
    ///
    /// `expires_at` is [`StoredMessage::expires_at`] on the clock of the caller.
    #[must_use]
    pub fn transit<'a>(
        &'a self,
        expires_at: Option<Timestamp>,
        publisher: Option<&'a ClientId>,
    ) -> Transit<'a> {
        Transit::new(
            self.topic(),
            self.properties(),
            self.payload(),
            self.qos,
            self.retain,
            expires_at,
            publisher,
            Some(&self.bytes),
        )
    }

    fn part(&self, range: &Range<u32>) -> &[u8] {
        &self.bytes[range.start as usize..range.end as usize]
    }

    fn text(&self, range: &Range<u32>) -> &str {
        // Reading the message has checked it.
        std::str::from_utf8(self.part(range)).unwrap_or_default()
    }
}

impl fmt::Debug for StoredMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredMessage")
            .field("topic", &self.topic())
            .field("publisher", &self.publisher())
            .field("properties", &self.properties().len())
            .field("payload", &self.payload().len())
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .field("expires_at", &self.expires_at)
            .finish()
    }
}
