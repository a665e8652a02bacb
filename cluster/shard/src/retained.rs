//! What is in memory of the retained messages of a shard.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_mqtt::{Timestamp, topic::TopicMap};

use crate::{
    DecodeError,
    ids::RetainedId,
    layout::{Reader, put_varint},
    sessions::Moment,
};

/// The topics with a retained message, in order.
#[derive(Debug, Default)]
pub(crate) struct Retained {
    topics: TopicMap<Kept>,
    /// Those that expire, by when.
    deadlines: BTreeMap<(Moment, RetainedId), Box<str>>,
    /// What all of them count.
    bytes: u64,
    /// Those with a lower name are in the store.
    stored_before: u64,
    /// The last entry found that there are as many as there may be.
    pub(crate) is_full: bool,
}

/// A retained message without its topic and its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) id: RetainedId,
    pub(crate) expires_at: Option<Moment>,
    /// Its topic, properties and payload together, in bytes.
    pub(crate) size: u32,
}

impl Kept {
    pub(crate) fn is_over(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| Timestamp::from(at) <= now)
    }

    /// What it counts against the limit of bytes.
    fn cost(&self) -> u64 {
        u64::from(self.size) + OVERHEAD
    }

    /// The row of the message.
    ///
    /// ```text
    /// retained  size, milliseconds since the epoch or 0, topic: the rest
    /// ```
    pub(crate) fn row(&self, topic: &str) -> Bytes {
        let mut row = Vec::with_capacity(topic.len() + 16);
        put_varint(self.size.into(), &mut row);
        put_varint(self.expires_at.map_or(0, |at| Timestamp::from(at).as_millis()), &mut row);
        row.extend_from_slice(topic.as_bytes());
        row.into()
    }

    fn read(id: RetainedId, row: &[u8]) -> Result<(Self, &str), DecodeError> {
        let mut reader = Reader::new(row);
        let size = u32::try_from(reader.varint()?).map_err(|_| DecodeError::Row("a message has 4 GiB"))?;
        let expires_at = match reader.varint()? {
            0 => None,
            millis => Some(Timestamp::from_millis(millis).into()),
        };
        let topic = std::str::from_utf8(reader.bytes(reader.len())?);
        let topic = topic.map_err(|_| DecodeError::Row("a text is not UTF-8"))?;
        Ok((Self { id, expires_at, size }, topic))
    }
}

impl Retained {
    pub(crate) fn len(&self) -> usize {
        self.topics.len()
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) const fn topics(&self) -> &TopicMap<Kept> {
        &self.topics
    }

    pub(crate) fn of(&self, topic: &str) -> Option<Kept> {
        self.topics.value(topic).copied()
    }

    /// Whether the store has rows of it.
    pub(crate) const fn is_stored(&self, id: RetainedId) -> bool {
        id.0 < self.stored_before
    }

    /// The store has everything that has a lower name than this one.
    pub(crate) const fn set_stored(&mut self, next: u64) {
        self.stored_before = next;
    }

    /// The topic has this one, and none that it had before.
    pub(crate) fn set(&mut self, topic: &str, kept: Kept) {
        let before = self.topics.insert(topic, kept);
        self.uncount(before);
        self.bytes += kept.cost();
        if let Some(at) = kept.expires_at {
            self.deadlines.insert((at, kept.id), topic.into());
        }
    }

    /// The topic has none any more.
    pub(crate) fn remove(&mut self, topic: &str) -> Option<Kept> {
        let before = self.topics.remove(topic);
        self.uncount(before);
        before
    }

    fn uncount(&mut self, before: Option<Kept>) {
        let Some(before) = before else { return };
        self.bytes -= before.cost();
        if let Some(at) = before.expires_at {
            self.deadlines.remove(&(at, before.id));
        }
    }

    /// When the first one expires.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.first_key_value().map(|((at, _), _)| Timestamp::from(*at))
    }

    /// The topic of the one that expires first.
    pub(crate) fn first_to_expire(&self) -> Option<&str> {
        self.deadlines.first_key_value().map(|(_, topic)| &**topic)
    }

    /// Takes what the store has of one.
    pub(crate) fn restore(&mut self, id: RetainedId, row: &[u8]) -> Result<(), DecodeError> {
        let (kept, topic) = Kept::read(id, row)?;
        if self.topics.value(topic).is_some() {
            return Err(DecodeError::Row("a topic has two retained messages"));
        }
        self.set(topic, kept);
        Ok(())
    }

    pub(crate) fn check_invariants(&self, next: u64) {
        let (mut bytes, mut deadlines) = (0, 0);
        for (topic, kept) in self.topics.iter() {
            assert!(kept.id.0 < next);
            bytes += kept.cost();
            if let Some(at) = kept.expires_at {
                deadlines += 1;
                assert_eq!(self.deadlines.get(&(at, kept.id)).map(|of| &**of), Some(topic));
            }
        }
        assert_eq!((self.bytes, self.deadlines.len()), (bytes, deadlines));
        assert!(self.stored_before <= next);
    }
}

/// What a message costs beside its bytes: its place in memory, and its rows' own.
const OVERHEAD: u64 = 200;

const _: () = assert!(size_of::<Kept>() == 24);
