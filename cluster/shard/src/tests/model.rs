//! The same as a shard, as plainly as it can be said: lists that are searched from end to end.

mod letters;
mod lifetime;

use std::{collections::BTreeMap, sync::Arc};

use flotilla_lane::Frame;
use flotilla_mqtt::{
    Message, QoS, SubscriptionIds,
    session::{QueueFull, SessionExpiry, Subscription},
    topic::matches,
};
use flotilla_state::{Incarnation, Member, NodeId, ShardId};

pub(super) use letters::ModelGroup;

use super::harness::filter;

use crate::{
    Answer, Answers, Connection, Entry, IN_FLIGHT_SPAN, Letter, LoanFate, Op, Open, Opened, OpenedSession,
    Overlap, Owner, PartAnswer, RECEIVED_SPAN, ReceivedId, Seq, SessionId, StoredMessage, Will, WillId,
};

/// What a shard must agree with.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) stamp: u64,
    sessions_made: u64,
    wills_made: u64,
    pub(super) sessions: BTreeMap<String, ModelSession>,
    sources: BTreeMap<NodeId, (Incarnation, u64, bool)>,
    publishers: BTreeMap<(u16, u64), (u64, Vec<u64>)>,
    pub(super) firing: BTreeMap<WillId, Arc<Message>>,
    pub(super) retained: BTreeMap<String, ModelMessage>,
    retained_full: bool,
    /// What groups are to hear, the last word on each session and group.
    pub(super) letters: Vec<(u64, Letter)>,
    last_letter: u64,
    /// By the whole texts of their shared subscriptions.
    pub(super) groups: BTreeMap<String, ModelGroup>,
    heard: BTreeMap<ShardId, u64>,
}

#[derive(Debug, Clone)]
pub(super) struct ModelSession {
    pub(super) id: SessionId,
    pub(super) open: Open,
    pub(super) owner: Option<Member>,
    present: bool,
    expiry: SessionExpiry,
    ends_at: Option<u64>,
    will: Option<(Will, Option<u64>)>,
    pub(super) subscriptions: BTreeMap<String, Subscription>,
    pub(super) queue: Vec<ModelEntry>,
    pub(super) next_seq: u64,
    maybe_sent_until: u64,
    /// What is before it may be in flight.
    kept_until: u64,
    /// So many of the first may be in flight.
    window: usize,
    pub(super) received: Vec<ReceivedId>,
    next_number: u64,
    /// What became of borrowed messages, and has not been told.
    returns: Vec<(ShardId, u64, LoanFate)>,
    former: Option<lifetime::Former>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct ModelEntry {
    pub(super) seq: u64,
    pub(super) released: bool,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) subscription_ids: Vec<u32>,
    pub(super) message: ModelMessage,
    /// The shard that has lent it, and its loan.
    pub(super) borrowed: Option<(ShardId, u64)>,
    /// The loan, and the member that has it.
    pub(super) lent: Option<(u64, (ShardId, SessionId))>,
    /// By the strategy of the group when it came.
    key: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct ModelMessage {
    pub(super) topic: String,
    pub(super) publisher: Option<String>,
    pub(super) properties: Vec<u8>,
    pub(super) payload: Vec<u8>,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) expires_at: Option<u64>,
}

impl ModelMessage {
    pub(super) fn of(message: &StoredMessage) -> Self {
        Self {
            topic: message.topic().to_owned(),
            publisher: message.publisher().map(ToOwned::to_owned),
            properties: message.properties().to_vec(),
            payload: message.payload().to_vec(),
            qos: message.qos(),
            retain: message.retain(),
            expires_at: message.expires_at(),
        }
    }

    fn size(&self) -> u64 {
        (self.topic.len() + self.properties.len() + self.payload.len()) as u64
    }
}

impl ModelSession {
    fn new(id: SessionId, open: Open) -> Self {
        Self {
            id,
            owner: None,
            present: false,
            expiry: open.expiry,
            ends_at: None,
            will: None,
            subscriptions: BTreeMap::new(),
            queue: Vec::new(),
            next_seq: 1,
            maybe_sent_until: 1,
            kept_until: 1,
            window: 0,
            received: Vec::new(),
            next_number: 1,
            returns: Vec::new(),
            former: None,
            open,
        }
    }

    pub(super) fn owner(&self) -> Option<Owner> {
        self.owner.map(|member| Owner {
            member,
            epoch: self.open.connection.epoch,
            turn: self.open.connection.turn,
        })
    }

    pub(super) fn head(&self) -> u64 {
        self.queue.first().map_or(self.next_seq, |entry| entry.seq)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.queue.iter().filter(|entry| !entry.released).map(|entry| entry.message.size()).sum()
    }

    pub(super) fn deliverable(&self) -> impl Iterator<Item = &ModelEntry> {
        let until = self.head() + IN_FLIGHT_SPAN;
        self.queue.iter().take_while(move |entry| entry.seq < until)
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        let due = self.will.as_ref().and_then(|(_, due)| *due);
        due.into_iter().chain(self.ends_at).min()
    }

    /// Whether an entry of this QoS is kept.
    fn keeps(&self, qos: QoS) -> bool {
        qos != QoS::AtMostOnce || self.owner.is_none() && self.open.queue_qos0
    }

    fn opened(&self) -> OpenedSession {
        OpenedSession {
            id: self.id,
            subscriptions: self.subscriptions.values().cloned().collect(),
            received: self.received.clone(),
            next_number: self.next_number,
            floor: self.floor(),
            head: Seq(self.head()),
            maybe_sent_until: Seq(self.maybe_sent_until),
        }
    }

    fn floor(&self) -> u64 {
        self.received.first().map_or(self.next_number, |taken| taken.number)
    }

    /// The whole texts of its shared subscriptions.
    fn shared(&self) -> impl Iterator<Item = &str> {
        self.subscriptions.values().filter(|it| it.filter.is_shared()).map(|it| it.filter.as_str())
    }

    fn done(&mut self, seq: Seq) {
        if let Some(at) = self.queue.iter().position(|entry| entry.seq == seq.0) {
            let entry = self.queue.remove(at);
            self.returns.extend(entry.borrowed.map(|(shard, loan)| (shard, loan, LoanFate::Done)));
        }
    }

    fn release(&mut self, seq: Seq) {
        if let Some(entry) = self.queue.iter_mut().find(|entry| entry.seq == seq.0 && !entry.released) {
            entry.released = true;
            self.returns.extend(entry.borrowed.take().map(|(shard, loan)| (shard, loan, LoanFate::Done)));
        }
    }

    /// How many of the first may be in flight.
    fn in_window(&self) -> usize {
        self.window.max(self.queue.iter().filter(|entry| entry.seq < self.kept_until).count())
    }

    /// Appends an entry if there is room; returns its place.
    fn append(&mut self, now: u64, entry: ModelEntry) -> Option<Seq> {
        let (window, limits) = (self.in_window(), self.open.queue);
        let size = entry.message.size();
        while self.queue.len() >= window {
            if limits.messages_max == 0 || size > limits.bytes_max {
                return None;
            }
            let beyond = &self.queue[window..];
            let waiting = beyond.iter().filter(|entry| !entry.released);
            let bytes: u64 = waiting.map(|entry| entry.message.size()).sum();
            if beyond.len() < limits.messages_max as usize && bytes + size <= limits.bytes_max {
                break;
            }
            let has_expired = beyond[0].message.expires_at.is_some_and(|at| at <= now);
            if !has_expired && limits.full == QueueFull::DropNewest {
                return None;
            }
            let fate = if has_expired { LoanFate::Done } else { LoanFate::Back };
            let dropped = self.queue.remove(window);
            self.returns.extend(dropped.borrowed.map(|(shard, loan)| (shard, loan, fate)));
        }
        let place = self.next_seq;
        self.push(entry);
        Some(Seq(place))
    }

    /// Appends an entry, whatever there is.
    fn push(&mut self, mut entry: ModelEntry) {
        entry.seq = self.next_seq;
        self.next_seq += 1;
        self.queue.push(entry);
    }
}

impl Model {
    pub(super) fn apply(&mut self, entry: &Entry) -> Answers {
        self.stamp = self.stamp.max(entry.stamp);
        self.retained_full = entry.retained_full;
        let mut parts = Vec::new();
        for part in &entry.parts {
            let known = self.sources.get(&part.source.node).copied();
            let (incarnation, mut last, ended) = known.unwrap_or((Incarnation(0), 0, false));
            if part.number > 0
                && (part.source.incarnation < incarnation || part.source.incarnation == incarnation && ended)
            {
                parts.push(PartAnswer::Ended);
                continue;
            }
            if part.source.incarnation > incarnation {
                last = 0;
            }
            if part.number > last + 1 {
                parts.push(PartAnswer::Gap { expected: last + 1 });
                continue;
            }
            let is_new = part.number == 0 || part.number == last + 1;
            if is_new && part.number > 0 {
                self.sources.insert(part.source.node, (part.source.incarnation, part.number, false));
            }
            let answers =
                part.ops.iter().map(|op| if is_new { self.op(part.source, op) } else { self.again(op) });
            parts.push(PartAnswer::Applied(answers.collect()));
        }
        Answers { parts }
    }

    fn by(&mut self, connection: &Connection) -> Option<&mut ModelSession> {
        let session = self.sessions.get_mut(connection.client.as_str())?;
        (session.open.connection == *connection).then_some(session)
    }

    fn op(&mut self, source: Member, op: &Op) -> Answer {
        let now = self.stamp;
        if let Some(session) = lifetime::acting(op).and_then(|connection| self.by(connection)) {
            session.former = None;
        }
        match op {
            Op::Open(open) => return self.open(source, open),
            Op::Publish { batch } => batch.frames().for_each(|frame| self.publish(&frame)),
            Op::MemberEnded { member } => self.member_ended(*member),
            Op::Tick => self.tick(),
            Op::Discard { session, seqs } => {
                let found = self.sessions.iter_mut().find(|(_, found)| found.id == *session);
                if let Some((client, found)) = found {
                    seqs.iter().for_each(|seq| found.done(*seq));
                    let client = client.clone();
                    self.tell_returns(&client);
                }
            }
            Op::WillDone { will } => drop(self.firing.remove(will)),
            Op::ForgetPublisher { shard, session } => drop(self.publishers.remove(&(shard.0, session.0))),
            // See the tests of backups.
            Op::Restore(_) | Op::Restored => unreachable!("histories have none"),
            Op::End { connection } => match self.by(connection) {
                None => return Answer::Fenced,
                Some(_) => self.end(connection.client.as_str()),
            },
            Op::Close { connection, expiry, will, sent_until, stored } => match self.by(connection) {
                None => return Answer::Fenced,
                Some(session) if session.owner.is_none() => {}
                Some(session) => {
                    session.maybe_sent_until =
                        session.maybe_sent_until.max(sent_until.0.min(session.next_seq));
                    session.kept_until = session.kept_until.max(sent_until.0.min(session.next_seq));
                    session.window = 0;
                    session.expiry = *expiry;
                    for taken in &mut session.received {
                        taken.is_stored |= stored.contains(&taken.id);
                    }
                    self.leave(connection.client.as_str(), *will);
                }
            },
            Op::Abandon { connection, expiry } => match self.by(connection) {
                None => return Answer::Fenced,
                Some(_) => self.abandon(connection.client.as_str(), *expiry),
            },
            Op::Subscribe { connection, .. }
            | Op::Unsubscribe { connection, .. }
            | Op::Acknowledge { connection, .. }
            | Op::Receive { connection, .. }
            | Op::Release { connection, .. }
            | Op::Direct { connection, .. } => match self.by(connection) {
                None => return Answer::Fenced,
                Some(session) => {
                    let before: Vec<String> = session.shared().map(ToString::to_string).collect();
                    let (id, answer) = (session.id, act(session, now, op));
                    self.tell_of(connection.client.as_str(), id, op, &before);
                    self.tell_returns(connection.client.as_str());
                    return answer;
                }
            },
            Op::Letters { from, after, letters } => return self.take_letters(*from, *after, letters),
            Op::Posted { letters } => self.letters.retain(|(number, _)| !letters.contains(number)),
        }
        Answer::Done
    }

    fn again(&mut self, op: &Op) -> Answer {
        let needs_none = |open: &Open| open.expiry == SessionExpiry::AtDisconnect && open.will.is_none();
        let nothing = |open: &Open| match open.only_present && !needs_none(open) {
            true => Answer::Full,
            false => Answer::Opened(Box::new(Opened { present: false, session: None })),
        };
        match op {
            Op::Open(open) => match self.sessions.get(open.connection.client.as_str()) {
                Some(session) if session.open.connection == open.connection => {
                    let (present, session) = (session.present, Some(session.opened()));
                    Answer::Opened(Box::new(Opened { present, session }))
                }
                Some(session) if is_later(&session.open.connection, &open.connection) => Answer::Fenced,
                _ => nothing(open),
            },
            Op::Receive { connection, packet_id } => match self.by(connection) {
                None => Answer::Fenced,
                Some(session) => match session.received.iter().find(|taken| taken.id == *packet_id) {
                    Some(taken) => Answer::Received { number: taken.number, floor: session.floor() },
                    None => Answer::Done,
                },
            },
            Op::Subscribe { connection, .. }
            | Op::Unsubscribe { connection, .. }
            | Op::Acknowledge { connection, .. }
            | Op::Release { connection, .. } => self.by(connection).map_or(Answer::Fenced, |_| Answer::Done),
            Op::Direct { connection, .. } => {
                self.by(connection).map_or(Answer::Fenced, |_| Answer::Queued(None))
            }
            _ => Answer::Done,
        }
    }

    fn open(&mut self, source: Member, open: &Open) -> Answer {
        let client = open.connection.client.as_str();
        let was_present = self.sessions.contains_key(client);
        if let Some(session) = self.sessions.get(client).cloned() {
            if is_later(&session.open.connection, &open.connection) {
                return Answer::Fenced;
            }
            if open.clean_start || session.owner.is_some() && session.expiry == SessionExpiry::AtDisconnect {
                self.end(client);
            } else {
                self.take_over(client, open.expiry);
            }
        }
        let present = self.sessions.contains_key(client);
        if !present {
            if open.expiry == SessionExpiry::AtDisconnect && open.will.is_none() {
                return Answer::Opened(Box::new(Opened { present, session: None }));
            }
            if open.only_present && !was_present {
                return Answer::Full;
            }
            self.sessions_made += 1;
            let session = ModelSession::new(SessionId(self.sessions_made), open.clone());
            self.sessions.insert(client.to_owned(), session);
        }
        let session = self.sessions.get_mut(client).unwrap();
        session.kept_until =
            session.queue.get(session.in_window()).map_or(session.next_seq, |entry| entry.seq);
        session.window = open.window.into();
        session.open = open.clone();
        session.owner = Some(source);
        session.present = present;
        session.expiry = open.expiry;
        session.ends_at = None;
        session.will = open.will.clone().map(|will| (will, None));
        let session = Some(session.opened());
        self.tell_groups(client);
        Answer::Opened(Box::new(Opened { present, session }))
    }

    fn publish(&mut self, frame: &Frame<'_>) {
        let Frame::Store { origin, retains, without: _, message } = frame else { panic!("{frame:?}") };
        if let Some(origin) = origin {
            let key = (origin.shard.0, origin.session);
            let (floor, stored) = self.publishers.entry(key).or_default();
            *floor = (*floor).max(origin.floor).max(origin.number.saturating_sub(RECEIVED_SPAN - 1));
            if origin.number < *floor || stored.contains(&origin.number) {
                return;
            }
            stored.push(origin.number);
        }
        let now = self.stamp;
        let expires_at = message.expires_in.map(|left| now + u64::try_from(left.as_millis()).unwrap());
        let kept = ModelMessage {
            topic: message.topic.to_owned(),
            publisher: message.publisher.map(ToOwned::to_owned),
            properties: message.properties.to_vec(),
            payload: message.payload.to_vec(),
            qos: message.qos,
            retain: message.retain,
            expires_at,
        };
        if *retains {
            self.retain(&kept);
        }
        let mut targets: Vec<(SessionId, String)> =
            self.sessions.iter().map(|(client, session)| (session.id, client.clone())).collect();
        targets.extend(self.groups.iter().map(|(text, group)| (group.session.id, text.clone())));
        targets.sort();
        for (_, client) in &targets {
            let Some(session) = self.sessions.get_mut(client) else {
                self.publish_to_group(client, &kept);
                continue;
            };
            let is_own = message.publisher == Some(client.as_str());
            let mut wanted: Vec<&Subscription> = session
                .subscriptions
                .values()
                .filter(|subscription| !subscription.filter.is_shared())
                .filter(|subscription| matches(subscription.filter.as_str(), message.topic))
                .filter(|subscription| !(is_own && subscription.options.no_local))
                .collect();
            wanted.sort_by_key(|subscription| {
                (
                    subscription.id,
                    subscription.options.qos,
                    subscription.options.no_local,
                    subscription.options.retain_as_published,
                )
            });
            let copies: Vec<&[&Subscription]> = match session.open.overlap {
                _ if wanted.is_empty() => Vec::new(),
                Overlap::Merge => vec![&wanted[..]],
                Overlap::Each => wanted.chunks(1).collect(),
            };
            let copies: Vec<ModelEntry> = copies.into_iter().map(|copy| copy_of(copy, &kept)).collect();
            for copy in copies {
                if session.keeps(copy.qos) {
                    session.append(now, copy);
                }
            }
            self.tell_returns(client);
        }
    }

    fn retain(&mut self, message: &ModelMessage) {
        let known = self.retained.get(&message.topic);
        if message.payload.is_empty() || message.expires_at.is_some_and(|at| at <= self.stamp) {
            self.retained.remove(&message.topic);
        } else if !self.retained_full || known.is_some_and(|known| known.size() >= message.size()) {
            self.retained.insert(message.topic.clone(), message.clone());
        }
    }

    /// Filters that are not shared with a subscription of QoS 1 or 2, or of a session that keeps QoS 0.
    pub(super) fn filters(&self) -> Vec<String> {
        let mut filters = Vec::new();
        for session in self.sessions.values() {
            let routed = session.subscriptions.values().filter(|subscription| {
                let is_kept = session.open.queue_qos0 || subscription.options.qos != QoS::AtMostOnce;
                is_kept && !subscription.filter.is_shared()
            });
            filters.extend(routed.map(|subscription| subscription.filter.as_str().to_owned()));
        }
        filters.extend(self.groups.keys().map(|text| filter(text).filter().to_owned()));
        filters.sort();
        filters.dedup();
        filters
    }
}

fn is_later(left: &Connection, right: &Connection) -> bool {
    left.epoch > right.epoch || left.epoch == right.epoch && left.turn > right.turn
}

fn copy_of(subscriptions: &[&Subscription], message: &ModelMessage) -> ModelEntry {
    let granted = subscriptions.iter().map(|subscription| subscription.options.qos).max().unwrap();
    ModelEntry {
        seq: 0,
        released: false,
        qos: granted.min(message.qos),
        retain: message.retain
            && subscriptions.iter().any(|subscription| subscription.options.retain_as_published),
        subscription_ids: subscriptions.iter().filter_map(|it| it.id).map(|id| id.get()).collect(),
        message: message.clone(),
        borrowed: None,
        lent: None,
        key: 0,
    }
}

fn act(session: &mut ModelSession, now: u64, op: &Op) -> Answer {
    match op {
        Op::Subscribe { subscriptions, .. } => {
            for subscription in subscriptions {
                session.subscriptions.insert(subscription.filter.as_str().to_owned(), subscription.clone());
            }
        }
        Op::Unsubscribe { filters, .. } => {
            filters.iter().for_each(|filter| drop(session.subscriptions.remove(filter.as_str())));
        }
        Op::Acknowledge { released, done, .. } => {
            released.iter().for_each(|seq| session.release(*seq));
            done.iter().for_each(|seq| session.done(*seq));
        }
        Op::Receive { packet_id, .. } => {
            let floor = session.floor();
            if let Some(taken) = session.received.iter().find(|taken| taken.id == *packet_id) {
                return Answer::Received { number: taken.number, floor };
            }
            let is_full = session.received.len() >= session.open.awaiting_rel_max.into();
            if is_full || session.next_number - floor >= RECEIVED_SPAN {
                return Answer::Full;
            }
            let number = session.next_number;
            session.received.push(ReceivedId { id: *packet_id, number, is_stored: false });
            session.next_number += 1;
            return Answer::Received { number, floor };
        }
        Op::Release { packet_id, .. } => session.received.retain(|taken| taken.id != *packet_id),
        Op::Direct { options, message, expires_in, .. } => {
            let expires_at = expires_in.map(|left| now + u64::try_from(left.as_millis()).unwrap());
            let entry = ModelEntry {
                seq: 0,
                released: false,
                qos: options.qos.min(message.qos),
                retain: options.retain,
                subscription_ids: ids(&options.subscription_ids),
                message: ModelMessage {
                    topic: message.topic.to_string(),
                    publisher: message.publisher.as_ref().map(|id| id.as_str().to_owned()),
                    properties: message.properties.to_vec(),
                    payload: message.payload.to_vec(),
                    qos: message.qos,
                    retain: message.retain,
                    expires_at,
                },
                borrowed: None,
                lent: None,
                key: 0,
            };
            let is_kept = session.keeps(entry.qos);
            return Answer::Queued(is_kept.then(|| session.append(now, entry)).flatten());
        }
        _ => unreachable!(),
    }
    Answer::Done
}

pub(super) fn ids(ids: &SubscriptionIds) -> Vec<u32> {
    ids.as_slice().iter().map(|id| id.get()).collect()
}
