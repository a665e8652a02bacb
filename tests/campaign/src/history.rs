//! What was done and what came of it, as seen from outside the broker. The checkers read nothing else.

use std::{collections::BTreeSet, fmt, time::Duration};

/// A moment, since the campaign began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct At(pub(crate) Duration);

impl At {
    /// Later than everything.
    pub(crate) const NEVER: Self = Self(Duration::MAX);

    pub(crate) fn plus(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }

    /// How long after `earlier` this is; zero when it is not.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NEVER {
            return f.write_str("never");
        }
        write!(f, "{:.3} s", self.0.as_secs_f64())
    }
}

/// What a client knows of something that it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    /// Refused, with this reason code.
    Failed(u8),
    /// It was sent, and no answer came: it may have been done, may be done later, or never.
    Unknown,
}

/// A message, by what its payload says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MessageId {
    pub(crate) publisher: u16,
    /// The how manieth session of the publisher. It ends with what was not acknowledged.
    pub(crate) incarnation: u32,
    /// Goes on over incarnations.
    pub(crate) sequence: u32,
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.publisher, self.incarnation, self.sequence)
    }
}

/// A message that was sent.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) id: MessageId,
    pub(crate) topic: String,
    pub(crate) qos: u8,
    /// Before its first byte was sent.
    pub(crate) begin: At,
    /// When PUBACK or PUBREC had come, or hope was given up.
    pub(crate) end: At,
    pub(crate) outcome: Outcome,
    /// To which nodes it was sent, in order: more than one when it was repeated.
    pub(crate) nodes: Vec<usize>,
}

/// A message that came, after the client's part of QoS 2.
#[derive(Debug, Clone)]
pub(crate) struct Delivered {
    pub(crate) at: At,
    /// The how manieth session of the subscriber.
    pub(crate) life: u32,
    pub(crate) node: usize,
    pub(crate) id: MessageId,
    pub(crate) topic: String,
    pub(crate) qos: u8,
    pub(crate) dup: bool,
}

/// Which topics of its stream a subscription wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    All,
    Topic(String),
}

impl Wanted {
    pub(crate) fn has(&self, topic: &str) -> bool {
        match self {
            Self::All => true,
            Self::Topic(wanted) => wanted == topic,
        }
    }
}

/// A persistent session with one subscription, and what it got.
#[derive(Debug, Clone)]
pub(crate) struct Subscription {
    pub(crate) client: String,
    pub(crate) wanted: Wanted,
    pub(crate) qos: u8,
    /// When its first SUBACK had come: from then on it is owed everything, for the client never ends the session.
    pub(crate) since: At,
    pub(crate) stays: Vec<Stay>,
    pub(crate) delivered: Vec<Delivered>,
}

/// A connection of a subscriber, to tell where a message that is missing may have been.
#[derive(Debug, Clone)]
pub(crate) struct Stay {
    pub(crate) node: usize,
    pub(crate) begin: At,
    pub(crate) end: At,
    /// How it ended.
    pub(crate) how: &'static str,
}

/// Messages and those who want them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stream {
    pub(crate) published: Vec<Published>,
    pub(crate) subscriptions: Vec<Subscription>,
}

/// Something done to a retained topic.
#[derive(Debug, Clone)]
pub(crate) struct RegisterOperation {
    pub(crate) client: String,
    pub(crate) node: usize,
    pub(crate) begin: At,
    /// [`At::NEVER`] for a write of unknown outcome.
    pub(crate) end: At,
    pub(crate) kind: RegisterKind,
}

/// `None` is no message: what a deletion writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RegisterKind {
    /// Acknowledged, or unknown.
    Write(Option<u32>),
    Read(Option<u32>),
}

/// What was seen of one session by those who use its client identifier.
#[derive(Debug, Clone)]
pub(crate) struct SessionEvent {
    pub(crate) begin: At,
    pub(crate) end: At,
    pub(crate) node: usize,
    pub(crate) kind: SessionKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SessionKind {
    /// CONNECT. `present` is what the CONNACK said; `None`: there was none, so that it may have been done.
    Connect { clean: bool, expiry: u32, present: Option<bool> },
    /// CONNECT that was refused because nobody could serve it (0x88). It begins no session; but the one that was there may be over, or end
    /// sooner, where it asked for that. A session is begun by it only where the node that refused it dies before the shard is told.
    Unserved { clean: bool, expiry: u32 },
    /// The connection is over. `begin` is when it was surely still there.
    Lost,
    /// DISCONNECT, with this Session Expiry Interval, if any. It was surely read if `sure`.
    Goodbye { expiry: Option<u32>, sure: bool },
    /// SUBSCRIBE (or UNSUBSCRIBE).
    Subscribe { filter: String, wanted: bool, outcome: Outcome },
    /// The client published there, acknowledged; whether the message came back to it on the same connection, which went on.
    Probe { topic: String, came: bool },
    /// A second connection was accepted before this, and the first one still answered.
    TwoOwners,
}

/// A connection with a will, and its end.
#[derive(Debug, Clone)]
pub(crate) struct Mortal {
    pub(crate) id: MessageId,
    pub(crate) client: String,
    pub(crate) node: usize,
    /// The answer to its CONNECT.
    pub(crate) connect: Outcome,
    pub(crate) delay: Duration,
    pub(crate) expiry: Duration,
    /// The last time that the broker answered.
    pub(crate) alive: At,
    /// When the connection was over for the client.
    pub(crate) over: At,
    pub(crate) death: Death,
    pub(crate) back: Option<Back>,
}

/// How a connection with a will ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// Without a word: the socket closed, reset or silent, a protocol error, or the broker's own wish.
    Abnormal,
    /// DISCONNECT with reason 0x00. It was surely read if `sure`.
    Goodbye { sure: bool },
    /// DISCONNECT with reason 0x04.
    WithWill,
}

/// The client connects again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Back {
    pub(crate) begin: At,
    pub(crate) end: At,
    pub(crate) clean: bool,
    pub(crate) accepted: bool,
}

/// A fault, with its end once it has one.
#[derive(Debug, Clone)]
pub(crate) struct FaultSpan {
    pub(crate) what: String,
    pub(crate) begin: At,
    pub(crate) end: At,
}

/// A promise that was not kept.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    pub(crate) check: Check,
    /// When it happened, as far as it is known: to look for it in the logs.
    pub(crate) begin: At,
    pub(crate) end: At,
    /// How many times, where one text speaks of several.
    pub(crate) count: usize,
    pub(crate) text: String,
}

/// The checkers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Check {
    Lost,
    Unexpected,
    Duplicate,
    Reorder,
    Dup,
    Group,
    Retained,
    Session,
    Wills,
    Protocol,
    Damage,
    Process,
    Leaders,
    Healing,
}

impl Check {
    /// All, with what they look for.
    pub(crate) const ALL: [(Self, &'static str); 14] = [
        (Self::Lost, "lost: acknowledged, and never given to a session that was subscribed (C1, C2)"),
        (Self::Unexpected, "unexpected: nobody sent it, or not so"),
        (Self::Duplicate, "duplicate: QoS 2, and twice in one session (C3)"),
        (Self::Reorder, "reorder: of one publisher, topic and QoS (C4)"),
        (Self::Dup, "dup: sent again within a session without saying so [MQTT-3.3.1-1]"),
        (Self::Group, "group: of a shared subscription none got it, or at QoS 2 more than one"),
        (Self::Retained, "retained: no register, or not the same on all nodes (C7)"),
        (Self::Session, "session: session present, subscriptions, one owner (C5)"),
        (Self::Wills, "wills: not once, or too early (C8)"),
        (Self::Protocol, "protocol: bytes that no server sends"),
        (Self::Damage, "damage: a flipped bit was neither refused nor harmless"),
        (Self::Process, "process: a node ended on its own, or panicked (C9)"),
        (Self::Leaders, "leaders: two in one term"),
        (Self::Healing, "healing: not back to service in time (C10)"),
    ];
}

/// Numbers as spans: `3-7, 9`.
pub(crate) fn spans(numbers: &BTreeSet<u32>) -> String {
    let mut spans: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match spans.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*number) => *last = *number,
            _ => spans.push((*number, *number)),
        }
    }
    let texts = spans.iter().map(
        |(first, last)| {
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        },
    );
    texts.collect::<Vec<_>>().join(", ")
}
