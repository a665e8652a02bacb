//! Answers.

use bytes::Bytes;
use flotilla_mqtt::session::Subscription as MqttSubscription;
use prost::Message as _;

use super::{
    VERSION, decode_versioned,
    fields::{Subscription, received_ids, stored_numbers},
};
use crate::{
    Answer as ShardAnswer, Answers as ShardAnswers, DecodeError, Opened as ShardOpened,
    OpenedSession as ShardOpenedSession, PartAnswer as ShardPartAnswer, Seq, SessionId,
};

#[derive(Clone, PartialEq, prost::Message)]
struct Answers {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, repeated, tag = "2")]
    parts: Vec<PartAnswer>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PartAnswer {
    #[prost(oneof = "PartAnswerKind", tags = "1, 2, 3")]
    kind: Option<PartAnswerKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum PartAnswerKind {
    #[prost(message, tag = "1")]
    Applied(Applied),
    /// The number that is expected.
    #[prost(uint64, tag = "2")]
    Gap(u64),
    #[prost(message, tag = "3")]
    Ended(()),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Applied {
    #[prost(message, repeated, tag = "1")]
    answers: Vec<Answer>,
}

/// Without a kind: it is done.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(oneof = "AnswerKind", tags = "1, 2, 3, 4, 5, 6, 20")]
    kind: Option<AnswerKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum AnswerKind {
    #[prost(message, tag = "1")]
    Fenced(()),
    #[prost(message, tag = "2")]
    Opened(Opened),
    #[prost(message, tag = "3")]
    Received(Received),
    #[prost(message, tag = "4")]
    Full(()),
    #[prost(message, tag = "5")]
    Gap(()),
    /// The place, or 0 for none. A program that does not know this answer takes it for none at all: it has not asked.
    #[prost(uint64, tag = "6")]
    Queued(u64),
    #[prost(uint64, tag = "20")]
    Count(u64),
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Received {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(uint64, tag = "2")]
    floor: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Opened {
    #[prost(bool, tag = "1")]
    present: bool,
    #[prost(message, optional, tag = "2")]
    session: Option<OpenedSession>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OpenedSession {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "2")]
    subscriptions: Vec<Subscription>,
    #[prost(uint32, repeated, tag = "3")]
    received_ids: Vec<u32>,
    #[prost(uint64, repeated, tag = "4")]
    received_numbers: Vec<u64>,
    #[prost(uint64, tag = "5")]
    next_number: u64,
    #[prost(uint64, tag = "6")]
    floor: u64,
    #[prost(uint64, tag = "7")]
    head: u64,
    #[prost(uint64, tag = "8")]
    maybe_sent_until: u64,
    /// Some of `received_numbers`, in the same order.
    #[prost(uint64, repeated, tag = "9")]
    received_stored: Vec<u64>,
}

pub(crate) fn encode_answers(answers: &ShardAnswers) -> Bytes {
    let parts = answers.parts.iter().map(PartAnswer::from).collect();
    Answers { version: VERSION, parts }.encode_to_vec().into()
}

pub(crate) fn decode_answers(bytes: &Bytes) -> Result<ShardAnswers, DecodeError> {
    let answers: Answers = decode_versioned(bytes)?;
    Ok(ShardAnswers { parts: answers.parts.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()? })
}

impl From<&ShardPartAnswer> for PartAnswer {
    fn from(answer: &ShardPartAnswer) -> Self {
        let kind = match answer {
            ShardPartAnswer::Applied(answers) => {
                PartAnswerKind::Applied(Applied { answers: answers.iter().map(Answer::from).collect() })
            }
            ShardPartAnswer::Gap { expected } => PartAnswerKind::Gap(*expected),
            ShardPartAnswer::Ended => PartAnswerKind::Ended(()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<PartAnswer> for ShardPartAnswer {
    type Error = DecodeError;

    fn try_from(answer: PartAnswer) -> Result<Self, DecodeError> {
        Ok(match answer.kind.ok_or(DecodeError::Field("part"))? {
            PartAnswerKind::Applied(Applied { answers }) => {
                Self::Applied(answers.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?)
            }
            PartAnswerKind::Gap(expected) => Self::Gap { expected },
            PartAnswerKind::Ended(()) => Self::Ended,
        })
    }
}

impl From<&ShardAnswer> for Answer {
    fn from(answer: &ShardAnswer) -> Self {
        let kind = match answer {
            ShardAnswer::Done => None,
            ShardAnswer::Fenced => Some(AnswerKind::Fenced(())),
            ShardAnswer::Opened(opened) => Some(AnswerKind::Opened(Opened {
                present: opened.present,
                session: opened.session.as_ref().map(OpenedSession::from),
            })),
            ShardAnswer::Received { number, floor } => {
                Some(AnswerKind::Received(Received { number: *number, floor: *floor }))
            }
            ShardAnswer::Full => Some(AnswerKind::Full(())),
            ShardAnswer::Queued(place) => Some(AnswerKind::Queued(place.map_or(0, |place| place.0))),
            ShardAnswer::Gap => Some(AnswerKind::Gap(())),
            ShardAnswer::Count(count) => Some(AnswerKind::Count(*count)),
        };
        Self { kind }
    }
}

impl TryFrom<Answer> for ShardAnswer {
    type Error = DecodeError;

    fn try_from(answer: Answer) -> Result<Self, DecodeError> {
        Ok(match answer.kind {
            None => Self::Done,
            Some(AnswerKind::Fenced(())) => Self::Fenced,
            Some(AnswerKind::Opened(Opened { present, session })) => {
                let session = session.map(TryInto::try_into).transpose()?;
                Self::Opened(Box::new(ShardOpened { present, session }))
            }
            Some(AnswerKind::Received(Received { number, floor })) => Self::Received { number, floor },
            Some(AnswerKind::Full(())) => Self::Full,
            Some(AnswerKind::Queued(place)) => Self::Queued(Some(Seq(place)).filter(|place| place.0 > 0)),
            Some(AnswerKind::Gap(())) => Self::Gap,
            Some(AnswerKind::Count(count)) => Self::Count(count),
        })
    }
}

impl From<&ShardOpenedSession> for OpenedSession {
    fn from(session: &ShardOpenedSession) -> Self {
        Self {
            id: session.id.0,
            subscriptions: session.subscriptions.iter().map(Subscription::from).collect(),
            received_ids: session.received.iter().map(|taken| taken.id.value().into()).collect(),
            received_numbers: session.received.iter().map(|taken| taken.number).collect(),
            next_number: session.next_number,
            floor: session.floor,
            head: session.head.0,
            maybe_sent_until: session.maybe_sent_until.0,
            received_stored: stored_numbers(&session.received),
        }
    }
}

impl TryFrom<OpenedSession> for ShardOpenedSession {
    type Error = DecodeError;

    fn try_from(session: OpenedSession) -> Result<Self, DecodeError> {
        let subscriptions = session.subscriptions.into_iter().map(MqttSubscription::try_from);
        Ok(Self {
            id: SessionId(session.id),
            subscriptions: subscriptions.collect::<Result<_, _>>()?,
            received: received_ids(
                &session.received_ids,
                &session.received_numbers,
                &session.received_stored,
            )?,
            next_number: session.next_number,
            floor: session.floor,
            head: Seq(session.head),
            maybe_sent_until: Seq(session.maybe_sent_until),
        })
    }
}
