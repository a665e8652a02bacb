//! What a backup has of a shard, piece by piece.
//!
//! Times in it are those of the shard that it was taken from; the stamp says when that was, so that what is left of them can be
//! told on any other clock. Sessions are as if all clients had gone in that moment. A group is a session whose client
//! begins with U+0000; a version that knows of no groups keeps it as one that no client ever opens.

use std::{collections::BTreeMap, num::NonZeroU32};

use bytes::Bytes;
use flotilla_mqtt::{
    QoS,
    session::{SessionExpiry, Subscription},
    topic::check_name,
};
use prost::Message as _;

use crate::{
    DecodeError, LIST_MAX, ReceivedId, SessionId, StoredMessage,
    rows::{SessionRow, WillRow},
    sessions::{GROUP, Session},
    wire::{
        Subscription as WireSubscription, VERSION, client_id, decode_versioned, session_client, will_from,
    },
};

/// A piece of a backup: a session, some of its subscriptions, messages in the inboxes of several, or retained messages. Those of one
/// shard come in an order in which they can be restored one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    /// When it was saved, on the clock of its shard, in milliseconds since the epoch.
    pub(crate) stamp: u64,
    pub(crate) what: What,
}

/// How many of what a piece has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SavedCount {
    /// Sessions, and groups of shared subscriptions.
    pub sessions: u64,
    /// Subscriptions.
    pub subscriptions: u64,
    /// Places in inboxes that are not done; a message that several sessions have counts in each.
    pub messages: u64,
    /// Retained messages.
    pub retained: u64,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum What {
    #[prost(message, boxed, tag = "3")]
    Session(Box<SavedSession>),
    #[prost(message, tag = "4")]
    Subscriptions(SavedSubscriptions),
    #[prost(message, tag = "5")]
    Messages(SavedMessages),
    #[prost(message, tag = "6")]
    Retained(SavedRetained),
}

/// A session without its subscriptions and its inbox.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SavedSession {
    /// Nobody owns it.
    #[prost(message, optional, tag = "1")]
    pub(crate) row: Option<SessionRow>,
    #[prost(message, optional, tag = "2")]
    pub(crate) will: Option<WillRow>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SavedSubscriptions {
    #[prost(string, tag = "1")]
    pub(crate) client: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) subscriptions: Vec<WireSubscription>,
}

/// Messages, each once, and the places where they are.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SavedMessages {
    #[prost(message, repeated, tag = "1")]
    pub(crate) inboxes: Vec<SavedInbox>,
    /// Each a [`StoredMessage`].
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(crate) messages: Vec<Bytes>,
    /// Those of one inbox ascend.
    #[prost(message, repeated, tag = "3")]
    pub(crate) places: Vec<SavedPlace>,
}

/// An inbox that some of the places are in.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SavedInbox {
    #[prost(string, tag = "1")]
    pub(crate) client: String,
    /// All places so far are before it.
    #[prost(uint64, tag = "2")]
    pub(crate) end: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SavedPlace {
    /// Which of the inboxes.
    #[prost(uint32, tag = "1")]
    pub(crate) inbox: u32,
    #[prost(uint64, tag = "2")]
    pub(crate) seq: u64,
    /// Which of the messages; absent: PUBREC has come, and it is no longer needed.
    #[prost(uint32, optional, tag = "3")]
    pub(crate) message: Option<u32>,
    #[prost(uint32, tag = "4")]
    pub(crate) qos: u32,
    #[prost(bool, tag = "5")]
    pub(crate) retain: bool,
    #[prost(uint32, repeated, tag = "6")]
    pub(crate) subscription_ids: Vec<u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SavedRetained {
    /// Each a [`StoredMessage`], of a topic of its own.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(crate) messages: Vec<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Wire {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint64, tag = "2")]
    stamp: u64,
    #[prost(oneof = "What", tags = "3, 4, 5, 6")]
    what: Option<What>,
}

/// The number of an item in another list, by the one that it had.
type Numbers = BTreeMap<u32, u32>;

impl Saved {
    /// The piece as bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let wire = Wire { version: VERSION, stamp: self.stamp, what: Some(self.what.clone()) };
        wire.encode_to_vec().into()
    }

    /// Reads a piece and checks all of it. Its messages share the memory of `bytes`.
    ///
    /// # Errors
    /// The bytes are not what [`Saved::encode`] writes.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let Wire { stamp, what, .. } = decode_versioned(bytes)?;
        let what = what.ok_or(DecodeError::Field("what"))?;
        match &what {
            What::Session(session) => session.check()?,
            What::Subscriptions(subscriptions) => subscriptions.check()?,
            What::Messages(messages) => messages.check()?,
            What::Retained(retained) => retained.check()?,
        }
        Ok(Self { stamp, what })
    }

    /// What of it goes where: by client, by the whole text of the shared subscription if it is of a group, or by topic if it is
    /// retained.
    pub fn split<K: Ord>(self, of: impl Fn(&str) -> K) -> Vec<(K, Self)> {
        let of = |name: &str| of(name.strip_prefix(GROUP).unwrap_or(name));
        let stamp = self.stamp;
        match self.what {
            What::Session(session) => {
                let key = of(session.row.as_ref().map_or("", |row| &row.client));
                vec![(key, Self { stamp, what: What::Session(session) })]
            }
            What::Subscriptions(subscriptions) => {
                vec![(of(&subscriptions.client), Self { stamp, what: What::Subscriptions(subscriptions) })]
            }
            What::Messages(messages) => {
                let parts = messages.split(of).into_iter();
                parts.map(|(key, part)| (key, Self { stamp, what: What::Messages(part) })).collect()
            }
            What::Retained(retained) => {
                let parts = retained.split(of).into_iter();
                parts.map(|(key, part)| (key, Self { stamp, what: What::Retained(part) })).collect()
            }
        }
    }

    /// How many of what it has.
    #[must_use]
    pub fn count(&self) -> SavedCount {
        let mut count = SavedCount::default();
        match &self.what {
            What::Session(_) => count.sessions = 1,
            What::Subscriptions(subscriptions) => {
                count.subscriptions = subscriptions.subscriptions.len() as u64;
            }
            What::Messages(messages) => count.messages = messages.places.len() as u64,
            What::Retained(retained) => count.retained = retained.messages.len() as u64,
        }
        count
    }
}

impl std::ops::AddAssign for SavedCount {
    fn add_assign(&mut self, other: Self) {
        self.sessions += other.sessions;
        self.subscriptions += other.subscriptions;
        self.messages += other.messages;
        self.retained += other.retained;
    }
}

impl SavedCount {
    /// All of it.
    #[must_use]
    pub const fn sum(&self) -> u64 {
        self.sessions + self.subscriptions + self.messages + self.retained
    }
}

impl SavedSession {
    /// The session that it says, under a new name, as long as it is not complete: its client cannot have it, and nothing of it ends.
    pub(crate) fn session(&self, id: SessionId) -> Result<Session, DecodeError> {
        let row = self.row.as_ref().ok_or(DecodeError::Field("row"))?;
        let session = Session::from_row(
            id,
            &SessionRow {
                epoch_shard: 0,
                epoch_sequence: 0,
                turn: 0,
                owner: None,
                present: false,
                expiry: Some(SessionExpiry::Never.into()),
                ends_at: None,
                next_seq: row.next_seq.max(1),
                maybe_sent_until: 1,
                kept_until: 1,
                next_subscription: 0,
                ..row.clone()
            },
        )?;
        let is_known = |taken: &ReceivedId| taken.number < session.next_number;
        if session.next_seq > SEQ_MAX
            || session.next_number > SEQ_MAX
            || !session.received.iter().flat_map(|received| received.list()).all(is_known)
        {
            return Err(DecodeError::Field("next"));
        }
        Ok(Session { is_stored: false, ..session })
    }

    fn check(&self) -> Result<(), DecodeError> {
        let session = self.session(SessionId(0))?;
        let row = self.row.as_ref().ok_or(DecodeError::Field("row"))?;
        row.expiry.ok_or(DecodeError::Field("expiry"))?;
        let has_window = session.limits.window > 0 || !session.has_window || session.limits.queue_qos0;
        if session.is_group && (has_window || session.received.is_some() || self.will.is_some()) {
            return Err(DecodeError::Field("client"));
        }
        if let Some(WillRow { will, .. }) = &self.will {
            will_from(will.as_ref().ok_or(DecodeError::Field("will"))?)?;
        }
        Ok(())
    }
}

impl SavedSubscriptions {
    pub(crate) fn list(&self) -> Result<Vec<Subscription>, DecodeError> {
        self.subscriptions.iter().cloned().map(TryInto::try_into).collect()
    }

    fn check(&self) -> Result<(), DecodeError> {
        if self.subscriptions.len() > LIST_MAX {
            return Err(DecodeError::TooLong("subscriptions"));
        }
        client_id(&self.client)?;
        self.list().map(drop)
    }
}

impl SavedMessages {
    fn check(&self) -> Result<(), DecodeError> {
        let Self { inboxes, messages, places } = self;
        if inboxes.len().max(messages.len()).max(places.len()) > LIST_MAX {
            return Err(DecodeError::TooLong("messages"));
        }
        for inbox in inboxes {
            session_client(&inbox.client)?;
            if inbox.end > SEQ_MAX {
                return Err(DecodeError::Field("end"));
            }
        }
        for message in messages {
            StoredMessage::read(message.clone())?;
        }
        for place in places {
            let is_within = |index: u32, len: usize| usize::try_from(index).is_ok_and(|index| index < len);
            if !(1..SEQ_MAX).contains(&place.seq)
                || !is_within(place.inbox, inboxes.len())
                || !place.message.is_none_or(|message| is_within(message, messages.len()))
            {
                return Err(DecodeError::Field("place"));
            }
            place.qos()?;
            place.ids()?;
        }
        Ok(())
    }

    fn split<K: Ord>(self, of: impl Fn(&str) -> K) -> BTreeMap<K, Self> {
        let mut parts: BTreeMap<K, (Self, Numbers, Numbers)> = BTreeMap::new();
        for place in self.places {
            let inbox = &self.inboxes[place.inbox as usize];
            let (part, inboxes, messages) = parts.entry(of(&inbox.client)).or_default();
            let inbox = renumber(inboxes, &mut part.inboxes, place.inbox, || inbox.clone());
            let message = place.message.map(|message| {
                renumber(messages, &mut part.messages, message, || self.messages[message as usize].clone())
            });
            part.places.push(SavedPlace { inbox, message, ..place });
        }
        parts.into_iter().map(|(key, (part, ..))| (key, part)).collect()
    }
}

impl SavedRetained {
    fn check(&self) -> Result<(), DecodeError> {
        if self.messages.len() > LIST_MAX {
            return Err(DecodeError::TooLong("messages"));
        }
        for message in &self.messages {
            let message = StoredMessage::read(message.clone())?;
            check_name(message.topic(), u16::MAX).map_err(|_| DecodeError::Field("topic"))?;
        }
        Ok(())
    }

    fn split<K: Ord>(self, of: impl Fn(&str) -> K) -> BTreeMap<K, Self> {
        let mut parts: BTreeMap<K, Self> = BTreeMap::new();
        for bytes in self.messages {
            // Decoding has seen to it that it is one.
            let Ok(message) = StoredMessage::read(bytes.clone()) else { continue };
            parts.entry(of(message.topic())).or_default().messages.push(bytes);
        }
        parts
    }
}

impl SavedPlace {
    pub(crate) fn qos(&self) -> Result<QoS, DecodeError> {
        u8::try_from(self.qos).ok().and_then(QoS::from_u8).ok_or(DecodeError::Field("qos"))
    }

    pub(crate) fn ids(&self) -> Result<Vec<NonZeroU32>, DecodeError> {
        let ids = self.subscription_ids.iter().map(|id| NonZeroU32::new(*id));
        ids.collect::<Option<_>>().ok_or(DecodeError::Field("subscription_ids"))
    }
}

/// The number of an item in the list of a part, which gets it if it does not have it yet.
fn renumber<T>(numbers: &mut Numbers, list: &mut Vec<T>, old: u32, item: impl FnOnce() -> T) -> u32 {
    *numbers.entry(old).or_insert_with(|| {
        list.push(item());
        u32::try_from(list.len() - 1).unwrap_or(u32::MAX)
    })
}

/// No inbox has had so many messages, and no session published as many: that many thousand years are not over.
const SEQ_MAX: u64 = 1 << 62;
