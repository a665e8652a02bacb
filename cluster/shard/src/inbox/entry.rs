//! One message in an inbox, as it is written into a chunk.
//!
//! ```text
//! entry    head: u8 (0-1 kind, 2 QoS 2, 3 RETAIN, 4-5 how many identifiers: none, one, several, 6 QoS 0),
//!          [number of identifiers], identifier..., body
//! body     kind 0 absent: nothing, kind 1 inline: the message as a blob, kind 2 reference: the number of the message
//! ```

use std::num::NonZeroU32;

use flotilla_mqtt::{QoS, SubscriptionIds};

use crate::{
    DecodeError,
    ids::MessageId,
    layout::{Reader, put_varint, varint_len},
    message::Parts,
};

/// An entry that is to be written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewEntry<'a> {
    /// The QoS in effect.
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) subscription_ids: &'a SubscriptionIds,
    pub(crate) body: NewBody<'a>,
    /// What it counts against the bound of the queue, in bytes.
    pub(crate) size: usize,
    /// Milliseconds since the epoch.
    pub(crate) expires_at: Option<u64>,
    /// What decides who of a group gets it; 0: nothing does.
    pub(crate) key: u32,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum NewBody<'a> {
    Inline(&'a Parts<'a>),
    Reference(MessageId),
}

/// An entry that was read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ReadEntry<'a> {
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    ids: IdBytes<'a>,
    pub(crate) body: ReadBody<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadBody<'a> {
    Absent,
    Inline(&'a [u8]),
    Reference(MessageId),
}

/// Identifiers that have been checked and are read when somebody wants them.
#[derive(Debug, Clone, Copy, PartialEq)]
struct IdBytes<'a> {
    count: u64,
    bytes: &'a [u8],
}

impl NewEntry<'_> {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let ids = self.subscription_ids.as_slice();
        let id_count = match ids.len() {
            0 => 0,
            1 => 1,
            _ => 2,
        };
        let (kind, body_len) = match self.body {
            NewBody::Inline(parts) => (INLINE, parts.stored_len()),
            NewBody::Reference(id) => (REFERENCE, varint_len(id.0)),
        };
        out.reserve(1 + 5 * (ids.len() + 1) + 5 + body_len);
        out.push(kind | qos_bits(self.qos) | u8::from(self.retain) << 3 | id_count << 4);
        if id_count == 2 {
            put_varint(ids.len() as u64, out);
        }
        for id in ids {
            put_varint(id.get().into(), out);
        }
        match self.body {
            NewBody::Inline(parts) => {
                put_varint(body_len as u64, out);
                parts.write(out);
            }
            NewBody::Reference(id) => put_varint(id.0, out),
        }
    }
}

impl<'a> ReadEntry<'a> {
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let head = reader.u8()?;
        let qos = match head & (EXACTLY_ONCE | AT_MOST_ONCE) {
            0 => QoS::AtLeastOnce,
            EXACTLY_ONCE => QoS::ExactlyOnce,
            AT_MOST_ONCE => QoS::AtMostOnce,
            _ => return Err(DecodeError::Row("an entry has two QoS")),
        };
        let count = match (head & !AT_MOST_ONCE) >> 4 {
            few @ 0..=1 => u64::from(few),
            2 => reader.varint()?,
            _ => return Err(DecodeError::Row("the flags of an entry mean nothing")),
        };
        let ids = ids(reader, count)?;
        let body = match head & 0b11 {
            ABSENT_ENTRY => ReadBody::Absent,
            INLINE => ReadBody::Inline(reader.blob()?),
            REFERENCE => ReadBody::Reference(MessageId(reader.varint()?)),
            _ => return Err(DecodeError::Row("an entry has an unknown kind of body")),
        };
        Ok(Self { qos, retain: head & 1 << 3 != 0, ids, body })
    }

    pub(crate) fn subscription_ids(&self) -> SubscriptionIds {
        let mut reader = Reader::new(self.ids.bytes);
        let mut next = || subscription_id(&mut reader).unwrap_or(NonZeroU32::MIN);
        match self.ids.count {
            0 => SubscriptionIds::None,
            1 => SubscriptionIds::One(next()),
            count => SubscriptionIds::Many((0..count).map(|_| next()).collect()),
        }
    }
}

const fn qos_bits(qos: QoS) -> u8 {
    match qos {
        QoS::AtMostOnce => AT_MOST_ONCE,
        QoS::AtLeastOnce => 0,
        QoS::ExactlyOnce => EXACTLY_ONCE,
    }
}

/// Checks that there are so many identifiers.
fn ids<'a>(reader: &mut Reader<'a>, count: u64) -> Result<IdBytes<'a>, DecodeError> {
    let mut rest = *reader;
    for _ in 0..count {
        subscription_id(&mut rest)?;
    }
    Ok(IdBytes { count, bytes: reader.bytes(reader.len() - rest.len())? })
}

fn subscription_id(reader: &mut Reader<'_>) -> Result<NonZeroU32, DecodeError> {
    let id = u32::try_from(reader.varint()?).ok().and_then(NonZeroU32::new);
    id.ok_or(DecodeError::Row("an identifier of a subscription is out of range"))
}

/// The entry of a message whose body nobody needs any more.
pub(crate) const ABSENT_ENTRY: u8 = 0;

const EXACTLY_ONCE: u8 = 1 << 2;
const AT_MOST_ONCE: u8 = 1 << 6;

const INLINE: u8 = 1;
const REFERENCE: u8 = 2;
