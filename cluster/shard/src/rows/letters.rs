//! Rows of groups and letters.

use crate::{
    DecodeError, Letter, SessionId,
    groups::{Loan, MemberId},
    letters::Unposted,
    wire::{Letter as WireLetter, shard_id},
};

/// A group, besides its session.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct GroupRow {
    /// Who got the last message.
    #[prost(uint32, tag = "1")]
    pub(crate) last_shard: u32,
    /// The same; 0: nobody.
    #[prost(uint64, tag = "2")]
    pub(crate) last_session: u64,
}

/// A member of a group.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct MemberRow {
    #[prost(uint32, tag = "1")]
    pub(crate) window: u32,
    #[prost(bool, tag = "2")]
    pub(crate) is_online: bool,
}

/// A message that is lent, and the letter that says so.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct LoanRow {
    /// The session that has the message.
    #[prost(uint64, tag = "1")]
    pub(crate) group: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) seq: u64,
    /// Of the member.
    #[prost(uint32, tag = "3")]
    pub(crate) shard: u32,
    /// The same.
    #[prost(uint64, tag = "4")]
    pub(crate) session: u64,
    /// Whether its shard has the letter.
    #[prost(bool, tag = "5")]
    pub(crate) is_posted: bool,
}

/// A letter that lends nothing.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LetterRow {
    #[prost(message, optional, tag = "1")]
    letter: Option<WireLetter>,
    /// The shard that a [`Letter::Return`] is for.
    #[prost(uint32, tag = "2")]
    shard: u32,
}

/// A message that a session has borrowed.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct BorrowedRow {
    /// The shard that has lent it.
    #[prost(uint32, tag = "1")]
    pub(crate) shard: u32,
    #[prost(uint64, tag = "2")]
    pub(crate) loan: u64,
    #[prost(uint32, tag = "3")]
    pub(crate) qos: u32,
}

/// The last letter that was heard of a shard.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct HeardRow {
    #[prost(uint64, tag = "1")]
    pub(crate) number: u64,
}

impl LetterRow {
    /// `None`: a message is lent, which has a row of its own.
    pub(crate) fn of(letter: &Unposted) -> Option<Self> {
        let shard = if let Unposted::Return { shard, .. } = letter { shard.0.into() } else { 0 };
        let (_, letter) = letter.to_letter()?;
        Some(Self { letter: Some((&letter).into()), shard })
    }

    pub(crate) fn read(self) -> Result<Unposted, DecodeError> {
        let shard = shard_id(self.shard)?;
        match self.letter.ok_or(DecodeError::Field("letter"))?.try_into()? {
            Letter::Member(member) => Ok(Unposted::Member(member)),
            Letter::Leave { group, session } => Ok(Unposted::Leave { group, session }),
            Letter::Return { loan, fate } => Ok(Unposted::Return { shard, loan, fate }),
            Letter::Lend { .. } => {
                Err(DecodeError::Row("a letter lends a message that is not known as lent"))
            }
        }
    }
}

impl LoanRow {
    pub(crate) fn read(&self) -> Result<Loan, DecodeError> {
        Ok(Loan {
            group: SessionId(self.group),
            seq: self.seq,
            member: MemberId { shard: shard_id(self.shard)?, session: SessionId(self.session) },
            is_posted: self.is_posted,
        })
    }
}
