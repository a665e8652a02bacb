//! Groups, and what shards tell each other.

use std::collections::BTreeMap;

use flotilla_mqtt::{QoS, topic::matches};
use flotilla_state::ShardId;

use super::{Model, ModelEntry, ModelMessage, ModelSession, filter};
use crate::{
    Answer, GroupMember, GroupStrategy, Letter, LoanFate, Op, Open, SessionId, StoredMessage, groups,
    message::Parts, tests::harness::open,
};

/// A group: the session that has its messages, and the sessions that it lends them to.
#[derive(Debug, Clone)]
pub(in crate::tests) struct ModelGroup {
    pub(in crate::tests) session: ModelSession,
    /// The window of each, and whether its client is connected.
    pub(in crate::tests) members: BTreeMap<(ShardId, SessionId), (u16, bool)>,
    last: Option<(ShardId, SessionId)>,
}

impl Model {
    /// What groups hear of a SUBSCRIBE or UNSUBSCRIBE.
    pub(super) fn tell_of(&mut self, client: &str, id: SessionId, op: &Op, before: &[String]) {
        match op {
            Op::Subscribe { subscriptions, .. } => {
                let shared = subscriptions.iter().filter(|it| it.filter.is_shared());
                shared.for_each(|it| self.tell_group(client, it.filter.as_str()));
            }
            Op::Unsubscribe { filters, .. } => {
                let shared = filters.iter().filter(|filter| before.iter().any(|it| it == filter.as_str()));
                shared.for_each(|filter| {
                    self.tell(Letter::Leave { group: filter.as_str().into(), session: id });
                });
            }
            _ => {}
        }
    }

    pub(super) fn tell_groups(&mut self, client: &str) {
        let groups: Vec<String> = self.sessions[client].shared().map(ToString::to_string).collect();
        groups.iter().for_each(|group| self.tell_group(client, group));
    }

    pub(super) fn tell_group(&mut self, client: &str, group: &str) {
        let ModelSession { id, open, owner, .. } = &self.sessions[client];
        let member = GroupMember {
            group: group.into(),
            session: *id,
            window: open.window,
            queue: open.queue,
            strategy: open.group_strategy,
            is_online: owner.is_some(),
        };
        self.tell(Letter::Member(member));
    }

    /// A session has ended.
    pub(super) fn tell_left(&mut self, session: &ModelSession) {
        for group in session.shared() {
            self.tell(Letter::Leave { group: group.into(), session: session.id });
        }
        // While a client is connected, nobody knows what was not sent to it.
        let sent_until = if session.owner.is_some() { u64::MAX } else { session.maybe_sent_until };
        for entry in &session.queue {
            let Some((shard, loan)) = entry.borrowed else { continue };
            let stays = entry.qos == QoS::ExactlyOnce && entry.seq < sent_until;
            self.tell_return((shard, loan, if stays { LoanFate::Done } else { LoanFate::Back }));
        }
    }

    fn tell(&mut self, letter: Letter) {
        let of = |letter: &Letter| match letter {
            Letter::Member(GroupMember { group, session, .. }) | Letter::Leave { group, session } => {
                Some((group.clone(), *session))
            }
            Letter::Lend { .. } | Letter::Return { .. } => None,
        };
        let about = of(&letter);
        self.letters.retain(|(_, known)| of(known) != about);
        self.write(letter);
    }

    fn write(&mut self, letter: Letter) -> u64 {
        self.last_letter = (self.last_letter + 1).max(self.stamp << 16);
        self.letters.push((self.last_letter, letter));
        self.last_letter
    }

    fn tell_return(&mut self, (_, loan, fate): (ShardId, u64, LoanFate)) {
        self.write(Letter::Return { loan, fate });
    }

    /// What became of messages that a session had borrowed.
    pub(super) fn tell_returns(&mut self, client: &str) {
        let returns = self.sessions.get_mut(client).map(|session| std::mem::take(&mut session.returns));
        returns.unwrap_or_default().into_iter().for_each(|returned| self.tell_return(returned));
    }

    /// The client of a session has gone, which stays.
    pub(super) fn give_back(&mut self, client: &str) {
        let session = self.sessions.get_mut(client).unwrap();
        let sent_until = session.maybe_sent_until;
        let goes_back = |entry: &ModelEntry| {
            entry.borrowed.is_some() && (entry.qos != QoS::ExactlyOnce || entry.seq >= sent_until)
        };
        let (back, kept) = session.queue.drain(..).partition(goes_back);
        session.queue = kept;
        let back: Vec<ModelEntry> = back;
        for (shard, loan) in back.into_iter().filter_map(|entry| entry.borrowed) {
            self.tell_return((shard, loan, LoanFate::Back));
        }
    }

    pub(super) fn take_letters(&mut self, from: ShardId, after: u64, letters: &[(u64, Letter)]) -> Answer {
        if self.heard.get(&from).is_none_or(|heard| *heard < after) && after > 0 {
            return Answer::Gap;
        }
        for (number, letter) in letters {
            let heard = self.heard.entry(from).or_default();
            if number <= heard {
                continue;
            }
            *heard = *number;
            match letter {
                Letter::Member(member) => self.take_member(from, member),
                Letter::Leave { group, session } => self.take_leave(group, (from, *session)),
                Letter::Lend { session, group, message } => {
                    self.borrow((from, *number), *session, group, &ModelMessage::of(message));
                }
                Letter::Return { loan, fate } => self.take_return(from, *loan, *fate),
            }
        }
        Answer::Done
    }

    fn borrow(&mut self, loan: (ShardId, u64), session: SessionId, group: &str, message: &ModelMessage) {
        if message.expires_at.is_some_and(|at| at <= self.stamp) {
            return self.tell_return((loan.0, loan.1, LoanFate::Done));
        }
        let attached = self.sessions.values_mut().find(|it| it.id == session && it.owner.is_some());
        let Some((session, kept)) = attached.and_then(|it| {
            let kept = it.subscriptions.get(group)?.clone();
            Some((it, kept))
        }) else {
            return self.tell_return((loan.0, loan.1, LoanFate::Back));
        };
        let copy = super::copy_of(&[&kept], message);
        session.push(ModelEntry { borrowed: Some(loan), ..copy });
    }

    fn take_member(&mut self, from: ShardId, member: &GroupMember) {
        let text = member.group.to_string();
        if !self.groups.contains_key(&text) {
            self.sessions_made += 1;
            let session =
                ModelSession::new(SessionId(self.sessions_made), Open { window: 0, ..open("g", 1) });
            self.groups.insert(text.clone(), ModelGroup { session, members: BTreeMap::new(), last: None });
        }
        let group = self.groups.get_mut(&text).unwrap();
        (group.session.open.queue, group.session.open.group_strategy) = (member.queue, member.strategy);
        group.members.insert((from, member.session), (member.window, member.is_online));
        self.lend(&text);
    }

    fn take_leave(&mut self, text: &str, member: (ShardId, SessionId)) {
        let Some(group) = self.groups.get_mut(text) else { return };
        if group.members.remove(&member).is_some() && group.members.is_empty() {
            let group = self.groups.remove(text).unwrap();
            let loans: Vec<u64> =
                group.session.queue.iter().filter_map(|it| it.lent).map(|(loan, _)| loan).collect();
            self.letters.retain(|(number, _)| !loans.contains(number));
        }
    }

    fn take_return(&mut self, from: ShardId, number: u64, fate: LoanFate) {
        let is_lent =
            |it: &ModelEntry| it.lent.is_some_and(|(loan, member)| loan == number && member.0 == from);
        let found = self.groups.iter().find(|(_, group)| group.session.queue.iter().any(is_lent));
        let Some(text) = found.map(|(text, _)| text.clone()) else { return };
        let queue = &mut self.groups.get_mut(&text).unwrap().session.queue;
        match fate {
            LoanFate::Done => queue.retain(|entry| !is_lent(entry)),
            LoanFate::Back => queue.iter_mut().find(|entry| is_lent(entry)).unwrap().lent = None,
        }
        self.letters.retain(|(known, _)| *known != number);
        self.lend(&text);
    }

    pub(super) fn publish_to_group(&mut self, text: &str, message: &ModelMessage) {
        let group = self.groups.get_mut(text).unwrap();
        if message.qos == QoS::AtMostOnce || !matches(filter(text).filter(), &message.topic) {
            return;
        }
        let strategy = group.session.open.group_strategy;
        let entry = ModelEntry {
            key: groups::key(strategy, &Parts::of_stored(&message.stored(), None)),
            seq: 0,
            released: false,
            qos: message.qos,
            retain: message.retain,
            subscription_ids: Vec::new(),
            message: message.clone(),
            borrowed: None,
            lent: None,
        };
        if group.free().is_empty() {
            group.session.append(self.stamp, entry);
        } else {
            group.session.push(entry);
        }
        self.lend(text);
    }

    fn lend(&mut self, text: &str) {
        loop {
            let (now, next) = (self.stamp, (self.last_letter + 1).max(self.stamp << 16));
            let group = self.groups.get_mut(text).unwrap();
            let free = group.free();
            let Some(at) = group.session.queue.iter().position(|entry| entry.lent.is_none()) else { break };
            if free.is_empty() {
                break;
            }
            let message = group.session.queue[at].message.clone();
            if message.expires_at.is_some_and(|at| at <= now) {
                group.session.queue.remove(at);
                continue;
            }
            let member = group.pick(group.session.queue[at].key, &free);
            let entry = &mut group.session.queue[at];
            entry.lent = Some((next, member));
            group.session.kept_until = group.session.kept_until.max(entry.seq + 1);
            let letter = Letter::Lend { session: member.1, group: text.into(), message: message.stored() };
            assert_eq!(self.write(letter), next);
        }
    }
}

impl ModelGroup {
    fn loans(&self, member: (ShardId, SessionId)) -> usize {
        self.session.queue.iter().filter(|entry| entry.lent.is_some_and(|(_, of)| of == member)).count()
    }

    /// Who is online, and has room.
    fn free(&self) -> Vec<(ShardId, SessionId)> {
        let free = self
            .members
            .iter()
            .filter(|(id, (window, is_online))| *is_online && self.loans(**id) < usize::from(*window));
        free.map(|(id, _)| *id).collect()
    }

    fn pick(&mut self, key: u32, free: &[(ShardId, SessionId)]) -> (ShardId, SessionId) {
        let online: Vec<_> =
            self.members.iter().filter(|(_, (_, is_online))| *is_online).map(|(id, _)| *id).collect();
        let from = |first: Option<(ShardId, SessionId)>| {
            free.iter().find(|id| Some(**id) >= first).or(free.first()).copied().unwrap()
        };
        let behind = |last: Option<(ShardId, SessionId)>| {
            last.and_then(|last| free.iter().find(|id| **id > last)).or(free.first()).copied().unwrap()
        };
        let picked = match self.session.open.group_strategy {
            GroupStrategy::RoundRobin => behind(self.last),
            GroupStrategy::HashTopic => from(Some(online[key as usize % online.len()])),
            GroupStrategy::Sticky => match self.last.filter(|last| online.contains(last)) {
                Some(last) => return from(Some(last)),
                None => behind(self.last),
            },
            GroupStrategy::LeastInflight => *free.iter().min_by_key(|id| self.loans(**id)).unwrap(),
            other => unreachable!("{other:?} is not among these histories"),
        };
        self.last = Some(picked);
        picked
    }
}

impl ModelMessage {
    pub(in crate::tests) fn stored(&self) -> StoredMessage {
        let parts = Parts {
            topic: &self.topic,
            publisher: self.publisher.as_deref(),
            properties: &self.properties,
            payload: &self.payload,
            qos: self.qos,
            retain: self.retain,
            expires_at: self.expires_at,
        };
        let mut bytes = Vec::new();
        parts.write(&mut bytes);
        StoredMessage::read(bytes.into()).expect("it was written")
    }
}
