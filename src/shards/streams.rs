//! Handing the messages of sessions out to the nodes where their clients are.
//!
//! A connection asks the leader for the messages of its session, from a place on. The leader then sends what is there and what
//! comes, in order, but never more than a bounded number that the client has not finished: it goes on as they are acknowledged.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use flotilla_lane::{Batch, BatchWriter, Forwarded, Frame, KeptFor};
use flotilla_mqtt::{
    Timestamp,
    session::{ClientId, DeliveryOptions},
};
use flotilla_shard::{Connection, Op, Owner, Queued, QueuedMessage, Seq, SessionId, Shard};
use flotilla_state::Member;

use super::message::Attach;

/// The connections that get messages.
#[derive(Debug, Default)]
pub(super) struct Streams {
    streams: HashMap<SessionId, Stream>,
    /// Those that may get something.
    waiting: BTreeSet<SessionId>,
}

#[derive(Debug)]
struct Stream {
    to: Member,
    connection: Connection,
    /// The next message to send.
    next: Seq,
    /// See [`Attach`].
    maybe_sent_until: Seq,
}

/// Messages of one session that are on their way or in flight, at most; and their bytes.
const OUTSTANDING_MAX: u64 = 256;
const OUTSTANDING_BYTES: u64 = 4 << 20;
/// What is read at once.
const READ_COUNT: usize = 64;
const READ_BYTES: usize = 256 << 10;
/// Sessions that are looked at in one go: others want something of the leader too.
const SESSIONS_AT_ONCE: usize = 256;

impl Streams {
    /// A connection wants the messages of its session.
    pub(super) fn attach(&mut self, shard: &Shard, from: Member, attach: Attach) {
        let Attach { connection, from: next, maybe_sent_until } = attach;
        let Some(session) = shard.session_of(&connection.client) else { return };
        let is_owner = shard.owner(session).is_some_and(|owner| is_at(owner, from, &connection));
        if is_owner {
            self.streams.insert(session, Stream { to: from, connection, next, maybe_sent_until });
            self.waiting.insert(session);
        }
    }

    pub(super) fn end(&mut self, session: SessionId) {
        self.streams.remove(&session);
        self.waiting.remove(&session);
    }

    /// Whether some sessions are still to be looked at.
    pub(super) fn has_more(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Sends what may be sent, in a term and at a time of the shard; `fed` got something or have finished something. What has expired is to be discarded.
    pub(super) fn pump(
        &mut self,
        shard: &mut Shard,
        fed: Vec<SessionId>,
        (term, now): (u64, u64),
        ops: &mut Vec<Op>,
    ) -> Vec<(Member, Batch)> {
        self.waiting.extend(fed.into_iter().filter(|session| self.streams.contains_key(session)));
        let mut writers: HashMap<Member, BatchWriter> = HashMap::new();
        let mut outgoing = Vec::new();
        for _ in 0..SESSIONS_AT_ONCE {
            let Some(session) = self.waiting.pop_first() else { break };
            let Some(stream) = self.streams.get_mut(&session) else { continue };
            let is_owner =
                shard.owner(session).is_some_and(|owner| is_at(owner, stream.to, &stream.connection));
            if !is_owner {
                self.streams.remove(&session);
                continue;
            }
            let writer = writers.entry(stream.to).or_default();
            match stream.send(shard, session, (term, now), writer, ops) {
                Ok(has_more) => {
                    if has_more {
                        self.waiting.insert(session);
                    }
                }
                Err(error) => tracing::error!(%error, "the messages of a session cannot be read"),
            }
            if writer.is_full() {
                outgoing.extend(writer.take().map(|batch| (stream.to, batch)));
            }
        }
        outgoing.extend(writers.into_iter().filter_map(|(to, mut writer)| Some((to, writer.take()?))));
        outgoing
    }
}

impl Stream {
    /// Writes the next messages; returns whether there are more that may be sent.
    fn send(
        &mut self,
        shard: &mut Shard,
        session: SessionId,
        (term, now): (u64, u64),
        writer: &mut BatchWriter,
        ops: &mut Vec<Op>,
    ) -> Result<bool, flotilla_shard::ReadError> {
        let (count, bytes) = shard.outstanding(session, self.next);
        if count >= OUTSTANDING_MAX || bytes >= OUTSTANDING_BYTES {
            return Ok(false);
        }
        let room = usize::try_from(OUTSTANDING_MAX - count).unwrap_or(READ_COUNT).min(READ_COUNT);
        let queued = shard.deliverable(session, self.next, room, READ_BYTES)?;
        let has_more = queued.len() >= room;
        let mut expired = Vec::new();
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
                Queued::Publish(message)
                    if message.seq >= self.maybe_sent_until
                        && message.expires_at.is_some_and(|at| at <= now) =>
                {
                    expired.push(message.seq);
                }
                Queued::Publish(message) => write(writer, to, &message, now),
            }
        }
        if !expired.is_empty() {
            ops.push(Op::Discard { session, seqs: expired });
        }
        Ok(has_more)
    }
}

/// Whether a session is at this connection.
fn is_at(owner: Owner, member: Member, connection: &Connection) -> bool {
    (owner.member, owner.epoch, owner.turn) == (member, connection.epoch, connection.turn)
}

fn write(writer: &mut BatchWriter, to: KeptFor<'_>, queued: &QueuedMessage, now: u64) {
    let QueuedMessage { qos, retain, subscription_ids, expires_at, message, .. } = queued;
    let left = expires_at.map(|at| Duration::from_millis(at.saturating_sub(now)));
    let publisher = message.publisher().and_then(ClientId::new);
    let transit = message.transit(left.map(|left| Timestamp::ORIGIN + left), publisher.as_ref());
    let options = DeliveryOptions {
        qos: *qos,
        retain: *retain,
        subscription_ids: subscription_ids.clone(),
        shared: None,
    };
    let message = Forwarded::new(&transit, Timestamp::ORIGIN);
    writer.push(&Frame::Kept { to, options, message });
}
