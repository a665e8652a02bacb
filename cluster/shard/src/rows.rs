//! The rows of a shard in its store.
//!
//! ```text
//! header           shard: u16, 0xFF                              what is in force: position, generation, format...
//! every other row  shard: u16, generation: u32, tag: u8, ...
//!  1 session       session: u64                                  protobuf
//!  2 subscription  session: u64, number: u32                     protobuf
//!  3 will          session: u64                                  protobuf: of a session that is there
//!  4 chunk state   chunk: u64                                    the state of up to 64 places of an inbox
//!  5 chunk         chunk: u64                                    their messages
//!  6 message       message: u64                                  a message that several entries refer to
//!  7 references    message: u64                                  how many do: a number, seven bits a byte
//!  8 publisher     shard: u16, session: u64                      protobuf: messages of QoS 2 that were stored
//!  9 source        node: u64                                     protobuf
//! 10 firing        will: u64                                     protobuf: a will that is to be published
//! 11 retained      retained: u64                                 what is in memory of a retained message
//! 12 its message   retained: u64                                 the message
//! 13 group         session: u64                                  protobuf: of the session of a group that is there
//! 14 member        session: u64, shard: u16, session: u64        protobuf: of that group, a session of some shard
//! 15 loan          letter: u64                                   protobuf: a message that is lent
//! 16 letter        letter: u64                                   protobuf: another letter that is not known to have come
//! 17 borrowed      session: u64, place: u64                      protobuf: where the message there was borrowed
//! 18 heard         shard: u16                                    protobuf: the last letter of that shard
//! 20 restoring     session: u64                                  protobuf: of a session that comes out of a backup
//! 21 former        session: u64                                  protobuf: what its last Open has changed
//! ```
//! Numbers in keys are big-endian, so that rows lie in the order of their numbers. Chunks are numbered as they come, whoever
//! they are for: what a flush writes lies behind all that is there, which is what a store of sorted tables likes best. The
//! format is the one of the header: 2 from the first letter or group on, which bring the rows 13 to 18, sessions whose clients
//! begin with U+0000, and chunk states with the keys of groups; 3 while there are rows 21. Until then it is 1, and a version that
//! knows no other one can read it; it refuses the others as a whole. A chunk state without places, or of a session that is not there, is of a chunk that nobody
//! needs any more.

mod header;
mod letters;
mod record;

use bytes::Bytes;
use flotilla_state::{NodeId, ShardId};

pub(crate) use header::{Format, Header};
pub(crate) use letters::{BorrowedRow, GroupRow, HeardRow, LetterRow, LoanRow, MemberRow};
pub(crate) use record::{FiringRow, FormerRow, PublisherRow, RestoringRow, SessionRow, SourceRow, WillRow};

use crate::{
    DecodeError, SessionId, WillId,
    groups::MemberId,
    ids::{ChunkId, MessageId, RetainedId},
};

/// Names a row within a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Row {
    Session(SessionId),
    Subscription(SessionId, u32),
    Will(SessionId),
    ChunkState(ChunkId),
    Chunk(ChunkId),
    Message(MessageId),
    References(MessageId),
    Publisher(ShardId, SessionId),
    Source(NodeId),
    Firing(WillId),
    Retained(RetainedId),
    RetainedMessage(RetainedId),
    Group(SessionId),
    Member(SessionId, MemberId),
    Loan(u64),
    Letter(u64),
    Borrowed(SessionId, u64),
    Heard(ShardId),
    Restoring(SessionId),
    Former(SessionId),
}

/// Where the rows of a shard are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) shard: ShardId,
    pub(crate) generation: u32,
}

impl Space {
    /// The key of the header; it is that of all generations.
    pub(crate) fn header_key(shard: ShardId) -> Bytes {
        let [high, low] = shard.0.to_be_bytes();
        Bytes::copy_from_slice(&[high, low, HEADER])
    }

    /// The keys of all generations are from the first to before the second.
    pub(crate) fn all(shard: ShardId) -> (Vec<u8>, Vec<u8>) {
        (shard.0.to_be_bytes().to_vec(), Self::header_key(shard).to_vec())
    }

    /// The keys of the generation are from the first to before the second.
    pub(crate) fn range(self) -> (Vec<u8>, Vec<u8>) {
        let end = Self { generation: self.generation + 1, ..self };
        (self.prefix().to_vec(), end.prefix().to_vec())
    }

    /// The keys with a tag are from the first to before the second.
    pub(crate) fn range_of(self, tag: u8) -> (Vec<u8>, Vec<u8>) {
        let of = |tag: u8| [&self.prefix()[..], &[tag]].concat();
        (of(tag), of(tag + 1))
    }

    pub(crate) fn prefix(self) -> [u8; PREFIX] {
        let ([a, b], [c, d, e, f]) = (self.shard.0.to_be_bytes(), self.generation.to_be_bytes());
        [a, b, c, d, e, f]
    }

    pub(crate) fn key(self, row: Row) -> Bytes {
        let mut key = KeyBuffer::default();
        key.put(&self.prefix());
        row.write(&mut key);
        Bytes::copy_from_slice(key.bytes())
    }
}

impl Row {
    pub(crate) const SESSION: u8 = 1;
    pub(crate) const SUBSCRIPTION: u8 = 2;
    pub(crate) const WILL: u8 = 3;
    pub(crate) const CHUNK_STATE: u8 = 4;
    const CHUNK: u8 = 5;
    const MESSAGE: u8 = 6;
    const REFERENCES: u8 = 7;
    pub(crate) const PUBLISHER: u8 = 8;
    pub(crate) const SOURCE: u8 = 9;
    pub(crate) const FIRING: u8 = 10;
    pub(crate) const RETAINED: u8 = 11;
    const RETAINED_MESSAGE: u8 = 12;
    pub(crate) const GROUP: u8 = 13;
    pub(crate) const MEMBER: u8 = 14;
    pub(crate) const LOAN: u8 = 15;
    pub(crate) const LETTER: u8 = 16;
    pub(crate) const BORROWED: u8 = 17;
    pub(crate) const HEARD: u8 = 18;
    pub(crate) const RESTORING: u8 = 20;
    pub(crate) const FORMER: u8 = 21;

    fn write(self, key: &mut KeyBuffer) {
        let (tag, first) = match self {
            Self::Session(session) => (Self::SESSION, session.0),
            Self::Subscription(session, _) => (Self::SUBSCRIPTION, session.0),
            Self::Will(session) => (Self::WILL, session.0),
            Self::ChunkState(chunk) => (Self::CHUNK_STATE, chunk.0),
            Self::Chunk(chunk) => (Self::CHUNK, chunk.0),
            Self::Message(message) => (Self::MESSAGE, message.0),
            Self::References(message) => (Self::REFERENCES, message.0),
            Self::Publisher(shard, session) => {
                key.put(&[Self::PUBLISHER]);
                key.put(&shard.0.to_be_bytes());
                key.put(&session.0.to_be_bytes());
                return;
            }
            Self::Source(node) => (Self::SOURCE, node.0),
            Self::Firing(will) => (Self::FIRING, will.0),
            Self::Retained(id) => (Self::RETAINED, id.0),
            Self::RetainedMessage(id) => (Self::RETAINED_MESSAGE, id.0),
            Self::Group(session) => (Self::GROUP, session.0),
            Self::Member(session, _) => (Self::MEMBER, session.0),
            Self::Loan(number) => (Self::LOAN, number),
            Self::Letter(number) => (Self::LETTER, number),
            Self::Borrowed(session, _) => (Self::BORROWED, session.0),
            Self::Heard(shard) => {
                key.put(&[Self::HEARD]);
                return key.put(&shard.0.to_be_bytes());
            }
            Self::Restoring(session) => (Self::RESTORING, session.0),
            Self::Former(session) => (Self::FORMER, session.0),
        };
        key.put(&[tag]);
        key.put(&first.to_be_bytes());
        match self {
            Self::Subscription(_, number) => key.put(&number.to_be_bytes()),
            Self::Member(_, MemberId { shard, session }) => {
                key.put(&shard.0.to_be_bytes());
                key.put(&session.0.to_be_bytes());
            }
            Self::Borrowed(_, seq) => key.put(&seq.to_be_bytes()),
            _ => {}
        }
    }

    /// Reads what is behind the prefix of a key.
    pub(crate) fn read(key: &[u8]) -> Result<Self, DecodeError> {
        let Some((&tag, numbers)) = key.split_first() else { return Err(NO_ROW) };
        let long = |at: usize| {
            numbers.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes)
        };
        let row = |len: usize, row: Option<Self>| row.filter(|_| numbers.len() == len).ok_or(NO_ROW);
        let session = || long(0).map(SessionId);
        match tag {
            Self::SESSION => row(8, session().map(Self::Session)),
            Self::SUBSCRIPTION => {
                let number =
                    numbers.get(8..12).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
                row(12, session().zip(number).map(|(session, number)| Self::Subscription(session, number)))
            }
            Self::WILL => row(8, session().map(Self::Will)),
            Self::CHUNK_STATE => row(8, long(0).map(|id| Self::ChunkState(ChunkId(id)))),
            Self::CHUNK => row(8, long(0).map(|id| Self::Chunk(ChunkId(id)))),
            Self::MESSAGE => row(8, long(0).map(|id| Self::Message(MessageId(id)))),
            Self::REFERENCES => row(8, long(0).map(|id| Self::References(MessageId(id)))),
            Self::PUBLISHER => {
                let shard = numbers.first_chunk().map(|shard| ShardId(u16::from_be_bytes(*shard)));
                row(10, shard.zip(long(2)).map(|(shard, id)| Self::Publisher(shard, SessionId(id))))
            }
            Self::SOURCE => row(8, long(0).map(|id| Self::Source(NodeId(id)))),
            Self::FIRING => row(8, long(0).map(|id| Self::Firing(WillId(id)))),
            Self::RETAINED => row(8, long(0).map(|id| Self::Retained(RetainedId(id)))),
            Self::RETAINED_MESSAGE => row(8, long(0).map(|id| Self::RetainedMessage(RetainedId(id)))),
            Self::GROUP => row(8, session().map(Self::Group)),
            Self::MEMBER => {
                let shard =
                    numbers.get(8..).and_then(<[u8]>::first_chunk).map(|shard| u16::from_be_bytes(*shard));
                let member = shard.zip(long(10));
                let member =
                    member.map(|(shard, id)| MemberId { shard: ShardId(shard), session: SessionId(id) });
                row(18, session().zip(member).map(|(session, member)| Self::Member(session, member)))
            }
            Self::LOAN => row(8, long(0).map(Self::Loan)),
            Self::LETTER => row(8, long(0).map(Self::Letter)),
            Self::BORROWED => {
                row(16, session().zip(long(8)).map(|(session, seq)| Self::Borrowed(session, seq)))
            }
            Self::HEARD => {
                let shard = numbers.first_chunk().map(|shard| ShardId(u16::from_be_bytes(*shard)));
                row(2, shard.map(Self::Heard))
            }
            Self::RESTORING => row(8, session().map(Self::Restoring)),
            Self::FORMER => row(8, session().map(Self::Former)),
            _ => Err(NO_ROW),
        }
    }
}

/// A key that is being put together.
#[derive(Debug, Default)]
struct KeyBuffer {
    bytes: [u8; PREFIX + 1 + 18],
    len: usize,
}

impl KeyBuffer {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The length of what comes before the tag of a row, in bytes.
pub(crate) const PREFIX: usize = 6;
/// Behind all generations.
const HEADER: u8 = 0xFF;
/// The last generation; the end of its keys is not behind the header.
pub(crate) const GENERATION_MAX: u32 = 0xFEFF_FFFE;
const NO_ROW: DecodeError = DecodeError::Row("there is no row with such a key");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_and_lie_in_order() {
        let (session, message) = (SessionId(0x0102_0304_0506_0708), MessageId(9));
        let rows = [
            Row::Session(session),
            Row::Subscription(session, 0x0A0B_0C0D),
            Row::Will(session),
            Row::ChunkState(ChunkId(7)),
            Row::Chunk(ChunkId(7)),
            Row::Message(message),
            Row::References(message),
            Row::Publisher(ShardId(3), session),
            Row::Source(NodeId(4)),
            Row::Firing(WillId(5)),
            Row::Retained(RetainedId(6)),
            Row::RetainedMessage(RetainedId(6)),
            Row::Group(session),
            Row::Member(session, MemberId { shard: ShardId(2), session: SessionId(8) }),
            Row::Loan(9),
            Row::Letter(9),
            Row::Borrowed(session, 10),
            Row::Heard(ShardId(3)),
            Row::Restoring(session),
            Row::Former(session),
        ];
        let space = Space { shard: ShardId(0x1112), generation: 6 };
        let keys: Vec<_> = rows.iter().map(|row| space.key(*row)).collect();
        for (row, key) in rows.iter().zip(&keys) {
            assert_eq!(Row::read(&key[PREFIX..]), Ok(*row));
            assert!(Row::read(&key[PREFIX..key.len() - 1]).is_err());
            assert!(Row::read(&[&key[PREFIX..], b"x"].concat()).is_err());
            let (from, to) = space.range();
            assert!(from <= key.to_vec() && key.to_vec() < to);
        }
        assert!(keys.is_sorted());
        assert_eq!(&keys[1][..], b"\x11\x12\0\0\0\x06\x02\x01\x02\x03\x04\x05\x06\x07\x08\x0A\x0B\x0C\x0D");
        let last = Space { shard: ShardId(0x1112), generation: GENERATION_MAX };
        assert!(last.range().1 <= Space::header_key(last.shard).to_vec());
        assert_eq!(&Space::header_key(ShardId(0x1112))[..], b"\x11\x12\xFF");
    }
}
