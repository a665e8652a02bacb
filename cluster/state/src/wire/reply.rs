//! Replies.

use super::{Member, VERSION, required};
use crate::{DecodeError, Invalid, Reply as StateReply};

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Reply {
    #[prost(uint32, tag = "1")]
    pub(crate) version: u32,
    #[prost(enumeration = "ReplyKind", tag = "2")]
    pub(crate) kind: i32,
    /// With `Joined`.
    #[prost(message, optional, tag = "3")]
    pub(crate) member: Option<Member>,
    /// With `Invalid`.
    #[prost(enumeration = "InvalidKind", tag = "4")]
    pub(crate) invalid: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum ReplyKind {
    Unspecified = 0,
    Done = 1,
    Joined = 2,
    NameTaken = 3,
    OtherName = 4,
    Stale = 5,
    UnknownNode = 6,
    TooManyNodes = 7,
    NotCreated = 8,
    AlreadyCreated = 9,
    Invalid = 10,
    UnknownSetting = 11,
    TooManySettings = 12,
    SettingsFull = 13,
}

impl From<&StateReply> for Reply {
    fn from(reply: &StateReply) -> Self {
        let mut wire = Self { version: VERSION, ..Self::default() };
        let kind = match reply {
            StateReply::Done => ReplyKind::Done,
            StateReply::Joined(member) => {
                wire.member = Some((*member).into());
                ReplyKind::Joined
            }
            StateReply::NameTaken => ReplyKind::NameTaken,
            StateReply::OtherName => ReplyKind::OtherName,
            StateReply::Stale => ReplyKind::Stale,
            StateReply::UnknownNode => ReplyKind::UnknownNode,
            StateReply::TooManyNodes => ReplyKind::TooManyNodes,
            StateReply::NotCreated => ReplyKind::NotCreated,
            StateReply::AlreadyCreated => ReplyKind::AlreadyCreated,
            StateReply::UnknownSetting => ReplyKind::UnknownSetting,
            StateReply::TooManySettings => ReplyKind::TooManySettings,
            StateReply::SettingsFull => ReplyKind::SettingsFull,
            StateReply::Invalid(invalid) => {
                wire.set_invalid((*invalid).into());
                ReplyKind::Invalid
            }
        };
        wire.set_kind(kind);
        wire
    }
}

impl TryFrom<Reply> for StateReply {
    type Error = DecodeError;

    fn try_from(reply: Reply) -> Result<Self, DecodeError> {
        Ok(match ReplyKind::try_from(reply.kind).unwrap_or(ReplyKind::Unspecified) {
            ReplyKind::Unspecified => return Err(DecodeError::Field("reply")),
            ReplyKind::Done => Self::Done,
            ReplyKind::Joined => Self::Joined(required(reply.member)?),
            ReplyKind::NameTaken => Self::NameTaken,
            ReplyKind::OtherName => Self::OtherName,
            ReplyKind::Stale => Self::Stale,
            ReplyKind::UnknownNode => Self::UnknownNode,
            ReplyKind::TooManyNodes => Self::TooManyNodes,
            ReplyKind::NotCreated => Self::NotCreated,
            ReplyKind::AlreadyCreated => Self::AlreadyCreated,
            ReplyKind::UnknownSetting => Self::UnknownSetting,
            ReplyKind::TooManySettings => Self::TooManySettings,
            ReplyKind::SettingsFull => Self::SettingsFull,
            ReplyKind::Invalid => Self::Invalid(invalid(reply.invalid)?),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum InvalidKind {
    Unspecified = 0,
    Shards = 1,
    Replicas = 2,
    Name = 3,
    Address = 4,
    ClientAddresses = 5,
    Version = 6,
    Changes = 7,
    Wildcard = 8,
    Group = 9,
    SettingKey = 10,
    SettingValue = 11,
    Members = 12,
}

impl From<Invalid> for InvalidKind {
    fn from(invalid: Invalid) -> Self {
        match invalid {
            Invalid::Shards => Self::Shards,
            Invalid::Replicas => Self::Replicas,
            Invalid::Name => Self::Name,
            Invalid::Address => Self::Address,
            Invalid::ClientAddresses => Self::ClientAddresses,
            Invalid::Version => Self::Version,
            Invalid::Changes => Self::Changes,
            Invalid::Members => Self::Members,
            Invalid::Wildcard => Self::Wildcard,
            Invalid::Group => Self::Group,
            Invalid::SettingKey => Self::SettingKey,
            Invalid::SettingValue => Self::SettingValue,
        }
    }
}

fn invalid(number: i32) -> Result<Invalid, DecodeError> {
    match InvalidKind::try_from(number).unwrap_or(InvalidKind::Unspecified) {
        InvalidKind::Unspecified => Err(DecodeError::Field("invalid")),
        InvalidKind::Shards => Ok(Invalid::Shards),
        InvalidKind::Replicas => Ok(Invalid::Replicas),
        InvalidKind::Name => Ok(Invalid::Name),
        InvalidKind::Address => Ok(Invalid::Address),
        InvalidKind::ClientAddresses => Ok(Invalid::ClientAddresses),
        InvalidKind::Version => Ok(Invalid::Version),
        InvalidKind::Changes => Ok(Invalid::Changes),
        InvalidKind::Members => Ok(Invalid::Members),
        InvalidKind::Wildcard => Ok(Invalid::Wildcard),
        InvalidKind::Group => Ok(Invalid::Group),
        InvalidKind::SettingKey => Ok(Invalid::SettingKey),
        InvalidKind::SettingValue => Ok(Invalid::SettingValue),
    }
}
