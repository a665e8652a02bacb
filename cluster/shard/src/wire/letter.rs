//! Letters.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_state::ShardId;

use super::fields::{
    bounded, group_strategy, group_strategy_number, group_text, queue_full, queue_full_number, shard_id,
};
use crate::{
    DecodeError, GroupMember as ShardMember, Letter as ShardLetter, LoanFate, Op as ShardOp, QueueLimits,
    SessionId, StoredMessage,
};

/// Those of one shard, each with its number.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Letters {
    #[prost(uint32, tag = "1")]
    from: u32,
    #[prost(message, repeated, tag = "2")]
    letters: Vec<Numbered>,
    #[prost(uint64, tag = "3")]
    after: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Numbered {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(message, optional, tag = "2")]
    letter: Option<Letter>,
}

/// Numbers of letters.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Posted {
    #[prost(uint64, repeated, tag = "1")]
    pub(crate) letters: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Letter {
    #[prost(oneof = "LetterKind", tags = "1, 2, 3, 4")]
    kind: Option<LetterKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum LetterKind {
    #[prost(message, tag = "1")]
    Member(GroupMember),
    #[prost(message, tag = "2")]
    Leave(Leave),
    #[prost(message, tag = "3")]
    Lend(Lend),
    #[prost(message, tag = "4")]
    Return(Return),
}

#[derive(Clone, PartialEq, prost::Message)]
struct GroupMember {
    #[prost(string, tag = "1")]
    group: String,
    #[prost(uint64, tag = "2")]
    session: u64,
    #[prost(uint32, tag = "3")]
    window: u32,
    #[prost(uint32, tag = "4")]
    messages_max: u32,
    #[prost(uint64, tag = "5")]
    bytes_max: u64,
    #[prost(uint32, tag = "6")]
    full: u32,
    #[prost(uint32, tag = "7")]
    strategy: u32,
    #[prost(bool, tag = "8")]
    is_online: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Leave {
    #[prost(string, tag = "1")]
    group: String,
    #[prost(uint64, tag = "2")]
    session: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Lend {
    #[prost(uint64, tag = "1")]
    session: u64,
    #[prost(string, tag = "2")]
    group: String,
    /// A [`StoredMessage`].
    #[prost(bytes = "bytes", tag = "3")]
    message: Bytes,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Return {
    #[prost(uint64, tag = "1")]
    loan: u64,
    #[prost(enumeration = "Fate", tag = "2")]
    fate: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum Fate {
    Unknown = 0,
    Done = 1,
    Back = 2,
}

impl Letters {
    pub(crate) fn new(from: ShardId, after: u64, letters: &[(u64, ShardLetter)]) -> Self {
        let numbered =
            |(number, letter): &(u64, ShardLetter)| Numbered { number: *number, letter: Some(letter.into()) };
        Self { from: from.0.into(), letters: letters.iter().map(numbered).collect(), after }
    }

    pub(crate) fn read(self) -> Result<ShardOp, DecodeError> {
        let letters = bounded(self.letters, "letters")?.into_iter().map(|Numbered { number, letter }| {
            Ok((number, letter.ok_or(DecodeError::Field("letter"))?.try_into()?))
        });
        let letters = letters.collect::<Result<_, DecodeError>>()?;
        Ok(ShardOp::Letters { from: shard_id(self.from)?, after: self.after, letters })
    }
}

impl From<&ShardLetter> for Letter {
    fn from(letter: &ShardLetter) -> Self {
        let kind = match letter {
            ShardLetter::Member(member) => LetterKind::Member(GroupMember {
                group: member.group.to_string(),
                session: member.session.0,
                window: member.window.into(),
                messages_max: member.queue.messages_max,
                bytes_max: member.queue.bytes_max,
                full: queue_full_number(member.queue.full),
                strategy: group_strategy_number(member.strategy),
                is_online: member.is_online,
            }),
            ShardLetter::Leave { group, session } => {
                LetterKind::Leave(Leave { group: group.to_string(), session: session.0 })
            }
            ShardLetter::Lend { session, group, message } => LetterKind::Lend(Lend {
                session: session.0,
                group: group.to_string(),
                message: message.bytes().clone(),
            }),
            ShardLetter::Return { loan, fate } => {
                let fate = match fate {
                    LoanFate::Done => Fate::Done,
                    LoanFate::Back => Fate::Back,
                };
                LetterKind::Return(Return { loan: *loan, fate: fate.into() })
            }
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<Letter> for ShardLetter {
    type Error = DecodeError;

    fn try_from(letter: Letter) -> Result<Self, DecodeError> {
        Ok(match letter.kind.ok_or(DecodeError::Field("letter"))? {
            LetterKind::Member(member) => Self::Member(member.try_into()?),
            LetterKind::Leave(Leave { group, session }) => {
                Self::Leave { group: group_text(&group)?, session: SessionId(session) }
            }
            LetterKind::Lend(Lend { session, group, message }) => Self::Lend {
                session: SessionId(session),
                group: group_text(&group)?,
                message: StoredMessage::read(message)?,
            },
            LetterKind::Return(Return { loan, fate }) => Self::Return {
                loan,
                fate: match Fate::try_from(fate) {
                    Ok(Fate::Done) => LoanFate::Done,
                    Ok(Fate::Back) => LoanFate::Back,
                    _ => return Err(DecodeError::Field("fate")),
                },
            },
        })
    }
}

impl TryFrom<GroupMember> for ShardMember {
    type Error = DecodeError;

    fn try_from(member: GroupMember) -> Result<Self, DecodeError> {
        let group: Arc<str> = group_text(&member.group)?;
        Ok(Self {
            group,
            session: SessionId(member.session),
            window: u16::try_from(member.window).map_err(|_| DecodeError::Field("window"))?,
            queue: QueueLimits {
                messages_max: member.messages_max,
                bytes_max: member.bytes_max,
                full: queue_full(member.full)?,
            },
            strategy: group_strategy(member.strategy)?,
            is_online: member.is_online,
        })
    }
}
