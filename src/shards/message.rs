//! What nodes say to each other about shards, in a lane that a shard always has the same of.
//!
//! Protobuf, with a version. Field numbers are never used again for something else.

use bytes::Bytes;
use flotilla_mqtt::{session::ClientId, topic::TopicFilter};
use flotilla_shard::{Answers, Connection, EncodedPart, PartAnswer, Seq, StoredMessage};
use flotilla_state::{ConnectionEpoch, ShardEpoch, ShardId};
use prost::Message as _;

use super::{
    post::Letters,
    presence::{Inquiry, Presence},
    retained::{LookUp, Page},
};

/// Something that a node says about a shard.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Message {
    pub(super) shard: ShardId,
    /// The term of the leader who says it, or to whom it is said.
    pub(super) term: u64,
    pub(super) what: What,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum What {
    /// The sender leads: what was not answered may be sent to it, and connections may ask for their messages. It says so again, in a
    /// higher round, when it has lost what was sent to it. `now` is the time of the shard.
    Lead { round: u64, now: u64 },
    /// To the leader: put this into the log.
    Part(NumberedPart),
    /// From the leader: what became of the part with this number. The routes that it waited for are those of this entry of the meta
    /// group's log, and of the ones before it; 0: it waited for none.
    Answer { number: u64, answer: PartAnswer, routes_at: u64 },
    /// To the leader: a connection wants the messages of its session.
    Attach(Attach),
    /// To the leader: it is to be answered by who surely leads.
    Query(Query),
    /// From the leader: what a look-up has found.
    Page(Page),
    /// From the leader: who has a session.
    Presence(Presence),
    /// From the leader of another shard, to that of this one.
    Letters(Letters),
    /// To the leader of the shard, from that of another one: these letters have come, and the routes that follow from them are those of
    /// this entry, as in an answer.
    Posted { numbers: Vec<u64>, routes_at: u64 },
}

/// What a node wants to know of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Query {
    /// Which retained messages match?
    Retained(LookUp),
    /// Which clients have a session?
    Presence(Inquiry),
}

/// A connection that wants the messages of its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attach {
    pub(super) connection: Connection,
    /// From here on.
    pub(super) from: Seq,
    /// What is before it may have been sent before: its delivery is finished, also when it has expired [MQTT-4.3.3-7].
    pub(super) maybe_sent_until: Seq,
}

/// A part, with what its leader needs to know without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NumberedPart {
    pub(super) number: u64,
    /// Whether it is answered only when the routes to the shard are known that follow from it, and those before.
    pub(super) waits_for_routes: bool,
    /// Whether it is answered only when other shards know which of its sessions are members of their groups.
    pub(super) waits_for_letters: bool,
    pub(super) part: EncodedPart,
}

/// Bytes that are none of these.
#[derive(Debug, thiserror::Error)]
pub(super) enum MessageError {
    #[error(transparent)]
    Malformed(#[from] prost::DecodeError),
    #[error("format version {0} is not known to this program")]
    UnknownVersion(u32),
    #[error("the field `{0}` is missing or has no valid value")]
    Field(&'static str),
    #[error(transparent)]
    Shard(#[from] flotilla_shard::DecodeError),
}

const VERSION: u32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct Wire {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint32, tag = "2")]
    shard: u32,
    #[prost(uint64, tag = "3")]
    term: u64,
    #[prost(oneof = "WireWhat", tags = "4, 5, 6, 7, 8, 9, 10, 11, 12, 13")]
    what: Option<WireWhat>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum WireWhat {
    #[prost(message, tag = "4")]
    Lead(WireLead),
    #[prost(message, tag = "5")]
    Part(WirePart),
    #[prost(message, tag = "6")]
    Answer(WireAnswer),
    #[prost(message, tag = "7")]
    Attach(WireAttach),
    #[prost(message, tag = "8")]
    LookUp(WireLookUp),
    #[prost(message, tag = "9")]
    Page(WirePage),
    #[prost(message, tag = "10")]
    Letters(WireLetters),
    #[prost(message, tag = "11")]
    Posted(WirePosted),
    #[prost(message, tag = "12")]
    Inquiry(WireInquiry),
    #[prost(message, tag = "13")]
    Presence(WirePresence),
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireLead {
    #[prost(uint64, tag = "1")]
    round: u64,
    #[prost(uint64, tag = "2")]
    now: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePart {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(bool, tag = "2")]
    waits_for_routes: bool,
    #[prost(bytes = "bytes", tag = "3")]
    part: Bytes,
    #[prost(bool, tag = "4")]
    waits_for_letters: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireAnswer {
    #[prost(uint64, tag = "1")]
    number: u64,
    /// Of one part.
    #[prost(bytes = "bytes", tag = "2")]
    answers: Bytes,
    #[prost(uint64, tag = "3")]
    routes_at: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireAttach {
    #[prost(string, tag = "1")]
    client: String,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(uint64, tag = "3")]
    sequence: u64,
    #[prost(uint64, tag = "4")]
    from: u64,
    #[prost(uint64, tag = "5")]
    maybe_sent_until: u64,
    #[prost(uint32, tag = "6")]
    turn: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireLookUp {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    filter: String,
    #[prost(string, optional, tag = "3")]
    after: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePage {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    now: u64,
    /// As they are stored.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    messages: Vec<Bytes>,
    #[prost(string, optional, tag = "4")]
    next: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireLetters {
    #[prost(uint32, tag = "1")]
    from: u32,
    #[prost(uint64, repeated, tag = "2")]
    numbers: Vec<u64>,
    #[prost(bool, tag = "3")]
    waits_for_routes: bool,
    #[prost(bytes = "bytes", tag = "4")]
    part: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePosted {
    #[prost(uint64, repeated, tag = "1")]
    numbers: Vec<u64>,
    #[prost(uint64, tag = "2")]
    routes_at: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireInquiry {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, repeated, tag = "2")]
    clients: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePresence {
    #[prost(uint64, tag = "1")]
    id: u64,
    /// In the order of the clients.
    #[prost(bool, repeated, tag = "2")]
    are_present: Vec<bool>,
}

impl Message {
    pub(super) fn encode(&self) -> Bytes {
        let what = match &self.what {
            What::Lead { round, now } => WireWhat::Lead(WireLead { round: *round, now: *now }),
            What::Part(part) => WireWhat::Part(WirePart {
                number: part.number,
                waits_for_routes: part.waits_for_routes,
                part: part.part.bytes().clone(),
                waits_for_letters: part.waits_for_letters,
            }),
            What::Answer { number, answer, routes_at } => {
                let answers = Answers { parts: vec![answer.clone()] }.encode();
                WireWhat::Answer(WireAnswer { number: *number, answers, routes_at: *routes_at })
            }
            What::Attach(Attach { connection, from, maybe_sent_until }) => WireWhat::Attach(WireAttach {
                client: connection.client.as_str().to_owned(),
                epoch: connection.epoch.shard.0,
                sequence: connection.epoch.sequence,
                turn: connection.turn,
                from: from.0,
                maybe_sent_until: maybe_sent_until.0,
            }),
            What::Query(Query::Retained(LookUp { id, filter, after })) => {
                WireWhat::LookUp(WireLookUp { id: *id, filter: filter.to_string(), after: after.clone() })
            }
            What::Query(Query::Presence(Inquiry { id, clients })) => {
                let clients = clients.iter().map(|client| client.as_str().to_owned()).collect();
                WireWhat::Inquiry(WireInquiry { id: *id, clients })
            }
            What::Presence(Presence { id, are_present }) => {
                WireWhat::Presence(WirePresence { id: *id, are_present: are_present.clone() })
            }
            What::Page(Page { id, now, messages, next }) => WireWhat::Page(WirePage {
                id: *id,
                now: *now,
                messages: messages.iter().map(|message| message.bytes().clone()).collect(),
                next: next.clone(),
            }),
            What::Letters(Letters { from, numbers, waits_for_routes, part }) => {
                WireWhat::Letters(WireLetters {
                    from: from.0.into(),
                    numbers: numbers.clone(),
                    waits_for_routes: *waits_for_routes,
                    part: part.bytes().clone(),
                })
            }
            What::Posted { numbers, routes_at } => {
                WireWhat::Posted(WirePosted { numbers: numbers.clone(), routes_at: *routes_at })
            }
        };
        let wire = Wire { version: VERSION, shard: self.shard.0.into(), term: self.term, what: Some(what) };
        wire.encode_to_vec().into()
    }

    /// Checks all of it: what is in a part goes into the log as it is.
    pub(super) fn decode(bytes: Bytes) -> Result<Self, MessageError> {
        let wire = Wire::decode(bytes)?;
        if wire.version != VERSION {
            return Err(MessageError::UnknownVersion(wire.version));
        }
        let shard = u16::try_from(wire.shard).map_err(|_| MessageError::Field("shard"))?;
        let what = match wire.what.ok_or(MessageError::Field("what"))? {
            WireWhat::Lead(WireLead { round, now }) => What::Lead { round, now },
            WireWhat::Part(WirePart { number, waits_for_routes, part, waits_for_letters }) => {
                let part = EncodedPart::check(part)?;
                What::Part(NumberedPart { number, waits_for_routes, waits_for_letters, part })
            }
            WireWhat::Answer(WireAnswer { number, answers, routes_at }) => {
                let answer = Answers::decode(&answers)?.parts.pop().ok_or(MessageError::Field("answers"))?;
                What::Answer { number, answer, routes_at }
            }
            WireWhat::Attach(wire) => {
                let client = ClientId::new(&wire.client).ok_or(MessageError::Field("client"))?;
                let epoch = ConnectionEpoch { shard: ShardEpoch(wire.epoch), sequence: wire.sequence };
                What::Attach(Attach {
                    connection: Connection { client, epoch, turn: wire.turn },
                    from: Seq(wire.from),
                    maybe_sent_until: Seq(wire.maybe_sent_until),
                })
            }
            WireWhat::LookUp(WireLookUp { id, filter, after }) => {
                // Whoever grants subscriptions bounds the number of their levels.
                let parsed = TopicFilter::parse(&filter, u16::MAX).ok();
                parsed.filter(|filter| !filter.is_shared()).ok_or(MessageError::Field("filter"))?;
                What::Query(Query::Retained(LookUp { id, filter: filter.into(), after }))
            }
            WireWhat::Inquiry(WireInquiry { id, clients }) => {
                let clients = clients.iter().map(|client| ClientId::new(client)).collect::<Option<_>>();
                let clients = clients.ok_or(MessageError::Field("clients"))?;
                What::Query(Query::Presence(Inquiry { id, clients }))
            }
            WireWhat::Presence(WirePresence { id, are_present }) => {
                What::Presence(Presence { id, are_present })
            }
            WireWhat::Page(WirePage { id, now, messages, next }) => {
                // Each for itself: one that waits for its client must not keep the others.
                let read = |message: Bytes| StoredMessage::read(Bytes::copy_from_slice(&message));
                let messages = messages.into_iter().map(read).collect::<Result<_, _>>()?;
                What::Page(Page { id, now, messages, next })
            }
            WireWhat::Letters(WireLetters { from, numbers, waits_for_routes, part }) => {
                let from = u16::try_from(from).map_err(|_| MessageError::Field("from"))?;
                let part = EncodedPart::check(part)?;
                What::Letters(Letters { from: ShardId(from), numbers, waits_for_routes, part })
            }
            WireWhat::Posted(WirePosted { numbers, routes_at }) => What::Posted { numbers, routes_at },
        };
        Ok(Self { shard: ShardId(shard), term: wire.term, what })
    }
}

#[cfg(test)]
mod tests {
    use flotilla_shard::{Answer, Op, Part};
    use flotilla_state::{Incarnation, Member, NodeId};

    use super::*;

    #[test]
    fn messages_keep_their_meaning() {
        let client = ClientId::new("c").expect("not empty");
        let connection =
            Connection { client, epoch: ConnectionEpoch { shard: ShardEpoch(7), sequence: 9 }, turn: 2 };
        let source = Member { node: NodeId(3), incarnation: Incarnation(4) };
        let ops = vec![Op::End { connection: connection.clone() }, Op::Tick];
        let answer = PartAnswer::Applied(vec![Answer::Fenced, Answer::Received { number: 2, floor: 1 }]);
        // At QoS 1, without properties.
        let stored = StoredMessage::read(Bytes::from_static(b"\x01\x01t\x00hi")).expect("valid");
        for what in [
            What::Lead { round: 4, now: 5 },
            What::Part(NumberedPart {
                number: 5,
                waits_for_routes: true,
                waits_for_letters: true,
                part: Part { source, number: 5, ops }.encode(),
            }),
            What::Answer { number: 6, answer, routes_at: 7 },
            What::Attach(Attach { connection: connection.clone(), from: Seq(8), maybe_sent_until: Seq(10) }),
            What::Query(Query::Retained(LookUp {
                id: 7,
                filter: "a/+".into(),
                after: Some("a/b".to_owned()),
            })),
            What::Query(Query::Presence(Inquiry { id: 8, clients: vec![connection.client.clone()] })),
            What::Presence(Presence { id: 8, are_present: vec![true, false] }),
            What::Page(Page { id: 7, now: 9, messages: vec![stored], next: None }),
            What::Letters(Letters {
                from: ShardId(2),
                numbers: vec![3, 9],
                waits_for_routes: true,
                part: Part { source, number: 0, ops: vec![Op::Tick] }.encode(),
            }),
            What::Posted { numbers: vec![3, 9], routes_at: 7 },
        ] {
            let message = Message { shard: ShardId(11), term: 12, what };
            let bytes = message.encode();
            assert_eq!(Message::decode(bytes.clone()).expect("it was encoded"), message);
            for len in 0..bytes.len() {
                // Cut off, it is none, or another one; it never panics.
                let _ = Message::decode(bytes.slice(..len));
            }
        }
        assert!(matches!(
            Message::decode(Bytes::from_static(b"\x08\x02")),
            Err(MessageError::UnknownVersion(2))
        ));
    }
}
