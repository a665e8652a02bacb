//! Groups of shared subscriptions: their members, and what these borrow.
//!
//! The messages of a group are in the inbox of a session that no client can have. What is lent stays there until it comes
//! back, or is done.

use flotilla_mqtt::{QoS, packet::SubscriptionOptions, session::ClientId, topic::TopicFilter};
use flotilla_state::ShardId;
use prost::Message as _;

use super::State;
use crate::{
    GroupMember, LoanFate, SessionId,
    groups::{Loan, MemberId},
    index::Subscriber,
    letters::Unposted,
    rows::{MemberRow, Row},
    sessions::{Limits, Session, Slot, group_client},
};

impl State {
    pub(super) fn take_member(&mut self, from: ShardId, member: &GroupMember) {
        // Decoding the entry has seen to it that it is a group.
        let Some(client) = group_client(&member.group) else { return };
        let limits = self.sessions.limits(Limits::of_group(member));
        let slot = match self.sessions.of_client(&client) {
            Some(slot) => slot,
            None => self.begin_group(client, *limits),
        };
        let session = self.sessions.at_mut(slot);
        let id = session.id;
        if session.limits != limits {
            session.limits = limits;
            self.touch(slot);
        }
        let row = MemberRow { window: member.window.into(), is_online: member.is_online };
        let of = MemberId { shard: from, session: member.session };
        self.dirty.put(Row::Member(id, of), row.encode_to_vec().into());
        self.groups.set_member(id, of, row);
        self.lend(slot);
    }

    fn begin_group(&mut self, client: ClientId, limits: Limits) -> Slot {
        let slot = self.create(client, limits);
        self.groups.insert(self.sessions.at(slot).id);
        self.match_group(slot);
        self.touch(slot);
        slot
    }

    /// What is published goes to the group from now on.
    pub(super) fn match_group(&mut self, slot: Slot) {
        let session = self.sessions.at(slot);
        if let Some((filter, subscriber)) = group_subscriber(session, slot) {
            let change = self.index.insert(filter.filter(), subscriber);
            self.note_filter(filter.filter(), change);
        }
    }

    /// Nothing that is published goes to the group any more.
    pub(super) fn unmatch_group(&mut self, slot: Slot) {
        let session = self.sessions.at(slot);
        if let Some((filter, subscriber)) = group_subscriber(session, slot) {
            let change = self.index.remove(filter.filter(), subscriber.session);
            self.note_filter(filter.filter(), change);
        }
    }

    pub(super) fn take_leave(&mut self, member: MemberId, group: &str) {
        let Some(slot) = group_client(group).and_then(|client| self.sessions.of_client(&client)) else {
            return;
        };
        let session = self.sessions.at(slot);
        let (id, is_stored) = (session.id, session.is_stored);
        if !self.groups.remove_member(id, member) {
            return;
        }
        self.dirty.delete(Row::Member(id, member), is_stored);
        if !self.groups.of(id).is_some_and(|group| group.has_members()) {
            self.end_session(slot);
        }
    }

    /// What follows from the rows of a group. Those of its messages that were lent once, and are not, have come back.
    pub(crate) fn load_group(&mut self, slot: Slot) {
        let session = self.sessions.at(slot);
        let Some(group) = self.groups.of_mut(session.id) else { return };
        let lent_once = session.inbox.iter().flat_map(|inbox| inbox.live_before(session.kept_until));
        let returned: Vec<u64> = lent_once.filter(|seq| !group.lent().contains_key(seq)).collect();
        returned.into_iter().for_each(|seq| group.put_back(seq));
        if !self.restoring.contains_key(&session.id)
            && let Some((filter, subscriber)) = group_subscriber(session, slot)
        {
            self.index.insert(filter.filter(), subscriber);
        }
    }

    /// Whether there has been a group or a letter.
    pub(super) fn has_groups(&self) -> bool {
        self.letters.last > 0 || !self.heard.is_empty() || !self.groups.is_empty()
    }

    pub(crate) fn check_groups(&self) {
        self.groups.check_invariants();
        self.letters.check_invariants();
        for (id, group) in self.groups.iter() {
            let slot = self.sessions.of_id(id).expect("a group has a session");
            let session = self.sessions.at(slot);
            assert!(session.is_listed || !group.is_dirty);
            let inbox = session.inbox.as_ref();
            let lent_once = inbox.into_iter().flat_map(|inbox| inbox.live_before(session.kept_until));
            let mut known: Vec<u64> = group.lent().keys().chain(group.returned()).copied().collect();
            known.sort_unstable();
            assert_eq!(lent_once.collect::<Vec<_>>(), known);
            if !self.restoring.contains_key(&id) && group.has_room() {
                let is_left = inbox.is_some_and(|inbox| inbox.window_end().is_some());
                assert!(!is_left && group.returned().is_empty(), "who has room gets what there is");
            }
        }
        let is_unposted = |number: &u64| self.letters.is_lend(*number);
        for (number, loan) in self.groups.loans() {
            assert_eq!(is_unposted(number), !loan.is_posted);
            assert!(*number <= self.letters.last);
        }
        assert!(self.letters.lends().all(|number| self.groups.loans().contains_key(&number)));
        for (id, seq) in self.borrowed.keys() {
            let session = self.sessions.at(self.sessions.of_id(*id).expect("who borrows is there"));
            assert!(
                session.inbox.as_ref().is_some_and(|inbox| inbox.has_message(*seq)),
                "what is borrowed is there"
            );
            assert!(!session.is_group);
        }
    }

    /// What a group has besides its session, which ends.
    pub(super) fn drop_group(&mut self, slot: Slot) {
        self.unmatch_group(slot);
        let session = self.sessions.at(slot);
        let (id, is_stored) = (session.id, session.is_stored);
        let loans = self.groups.of(id).map(|group| group.lent().values().copied().collect::<Vec<_>>());
        for number in loans.unwrap_or_default() {
            self.end_loan(number);
        }
        let Some(group) = self.groups.remove(id) else { return };
        for member in group.member_ids() {
            self.dirty.delete(Row::Member(id, member), is_stored);
        }
        self.dirty.delete(Row::Group(id), is_stored);
    }

    pub(super) fn take_return(&mut self, from: ShardId, number: u64, fate: LoanFate) {
        let loan = self.groups.loans().get(&number).filter(|loan| loan.member.shard == from);
        let Some(Loan { group, seq, .. }) = loan.copied() else { return };
        let Some(slot) = self.sessions.of_id(group) else { return };
        match fate {
            LoanFate::Done => drop(self.finish(slot, seq)),
            LoanFate::Back => {
                self.end_loan(number);
                if let Some(group) = self.groups.of_mut(group) {
                    group.put_back(seq);
                }
            }
        }
        self.lend(slot);
    }

    /// A message of a group is no longer there: nor is what was said of it.
    pub(super) fn forget_of_group(&mut self, group: SessionId, seq: u64) {
        let Some(group) = self.groups.of_mut(group) else { return };
        group.forget(seq);
        if let Some(number) = group.lent().get(&seq).copied() {
            self.end_loan(number);
        }
    }

    fn end_loan(&mut self, number: u64) {
        if self.groups.end_loan(number).is_some() {
            self.letters.remove(number);
            self.dirty.delete(Row::Loan(number), self.letters.is_stored(number));
        }
    }

    /// Lends what a group has to those of its members that have room; what is behind its expiry is dropped instead.
    pub(super) fn lend(&mut self, slot: Slot) {
        let session = self.sessions.at(slot);
        let (id, strategy) = (session.id, session.limits.group_strategy);
        if !self.groups.has_room(id) || self.restoring.contains_key(&id) {
            return;
        }
        while let Some(group) = self.groups.of_mut(id).filter(|group| group.has_room()) {
            let session = self.sessions.at_mut(slot);
            let Some(inbox) = &mut session.inbox else { break };
            let Some(seq) = group.returned().first().copied().or_else(|| inbox.window_end()) else { break };
            if inbox.expires_at(seq).is_some_and(|at| at <= self.stamp.as_millis()) {
                self.stats.expired += u64::from(self.finish(slot, seq));
                continue;
            }
            let number = self.letters.next_number(self.stamp);
            let Some(member) = group.pick(strategy, inbox.key(seq), number) else { break };
            if seq >= session.kept_until {
                session.kept_until = seq + 1;
                inbox.keep_until(seq + 1);
            }
            let loan = Loan { group: id, seq, member, is_posted: false };
            self.groups.lend(number, loan);
            self.dirty.put(Row::Loan(number), loan.row().encode_to_vec().into());
            self.letters.insert(number, Unposted::Lend);
            self.note_letter();
            self.touch(slot);
        }
    }
}

/// How a group subscribes: it gets all that a member may get, as it was published.
fn group_subscriber(session: &Session, slot: Slot) -> Option<(TopicFilter, Subscriber)> {
    let filter = TopicFilter::parse(session.group()?, u16::MAX).ok()?;
    let options = SubscriptionOptions {
        qos: QoS::ExactlyOnce,
        retain_as_published: true,
        ..SubscriptionOptions::default()
    };
    Some((filter, Subscriber::new(session.id, slot, options, None, false)))
}
