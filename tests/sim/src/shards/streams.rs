//! Handing the messages of sessions out to the nodes where their clients are, in order, and never more than a few at a time.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_lane::{Batch, BatchWriter, Forwarded, Frame, KeptFor};
use flotilla_mqtt::{
    Timestamp,
    session::{ClientId, DeliveryOptions},
};
use flotilla_shard::{Connection, Owner, Queued, QueuedMessage, ReadError, Seq, SessionId, Shard};
use flotilla_state::Member;

/// The connections that get messages.
#[derive(Default)]
pub struct Streams {
    streams: BTreeMap<SessionId, Stream>,
    /// Those that may get something.
    waiting: BTreeSet<SessionId>,
}

struct Stream {
    to: Member,
    connection: Connection,
    /// The next message to send.
    next: Seq,
}

impl Streams {
    /// A connection wants the messages of its session.
    pub fn attach(&mut self, shard: &Shard, from: Member, connection: Connection, next: Seq) {
        let Some(session) = shard.session_of(&connection.client) else { return };
        if shard.owner(session).is_some_and(|owner| is_at(owner, from, &connection)) {
            self.streams.insert(session, Stream { to: from, connection, next });
            self.waiting.insert(session);
        }
    }

    /// A session has ended.
    pub fn end(&mut self, session: SessionId) {
        self.streams.remove(&session);
        self.waiting.remove(&session);
    }

    /// Whether some sessions are still to be looked at.
    pub fn has_more(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// What may be sent now; `fed` got something, or have finished something.
    pub fn pump(
        &mut self,
        shard: &Shard,
        fed: Vec<SessionId>,
        term: u64,
    ) -> Result<Vec<(Member, Batch)>, ReadError> {
        self.waiting.extend(fed.into_iter().filter(|session| self.streams.contains_key(session)));
        let mut outgoing = Vec::new();
        for _ in 0..SESSIONS_AT_ONCE {
            let Some(session) = self.waiting.pop_first() else { break };
            let Some(stream) = self.streams.get_mut(&session) else { continue };
            if !shard.owner(session).is_some_and(|owner| is_at(owner, stream.to, &stream.connection)) {
                self.streams.remove(&session);
                continue;
            }
            let mut writer = BatchWriter::new();
            if stream.send(shard, session, term, &mut writer)? {
                self.waiting.insert(session);
            }
            outgoing.extend(writer.take().map(|batch| (stream.to, batch)));
        }
        Ok(outgoing)
    }
}

impl Stream {
    /// Writes the next messages; returns whether there are more that may be sent.
    fn send(
        &mut self,
        shard: &Shard,
        session: SessionId,
        term: u64,
        writer: &mut BatchWriter,
    ) -> Result<bool, ReadError> {
        let (count, _) = shard.outstanding(session, self.next);
        if count >= OUTSTANDING_MAX {
            return Ok(false);
        }
        let room = usize::try_from(OUTSTANDING_MAX - count).unwrap_or(READ_COUNT).min(READ_COUNT);
        let queued = shard.deliverable(session, self.next, room, usize::MAX)?;
        let has_more = queued.len() >= room;
        for message in queued {
            self.next = Seq(message.seq().0 + 1);
            let to = KeptFor {
                term,
                client_id: self.connection.client.as_str(),
                epoch: self.connection.epoch,
                turn: self.connection.turn,
                sequence: message.seq().0,
            };
            match message {
                Queued::Release { .. } => writer.push(&Frame::KeptRelease { to }),
                Queued::Publish(message) => write(writer, to, &message),
            }
        }
        Ok(has_more)
    }
}

fn write(writer: &mut BatchWriter, to: KeptFor<'_>, queued: &QueuedMessage) {
    let QueuedMessage { qos, retain, subscription_ids, message, .. } = queued;
    let publisher = message.publisher().and_then(ClientId::new);
    let transit = message.transit(None, publisher.as_ref());
    let options = DeliveryOptions {
        qos: *qos,
        retain: *retain,
        subscription_ids: subscription_ids.clone(),
        shared: None,
    };
    writer.push(&Frame::Kept { to, options, message: Forwarded::new(&transit, Timestamp::ORIGIN) });
}

/// Whether a session is at this connection.
fn is_at(owner: Owner, member: Member, connection: &Connection) -> bool {
    (owner.member, owner.epoch, owner.turn) == (member, connection.epoch, connection.turn)
}

/// Messages of one session that are on their way or in flight.
const OUTSTANDING_MAX: u64 = 8;
const READ_COUNT: usize = 3;
const SESSIONS_AT_ONCE: usize = 4;
