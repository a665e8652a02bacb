//! Groups of shared subscriptions, their members, and what these have borrowed.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_state::ShardId;

use crate::{
    GroupStrategy, SessionId,
    message::Parts,
    rows::{GroupRow, LoanRow, MemberRow},
};

/// All groups of a shard.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// By the session that has the messages.
    by_session: BTreeMap<SessionId, Group>,
    /// By the numbers of their letters.
    loans: BTreeMap<u64, Loan>,
    members: u64,
}

/// One group. Its messages before `kept_until` of its session are lent, or have come back; those behind have not been lent
/// yet.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// In the order of their names.
    members: Vec<Member>,
    /// How many are online and have room.
    free: usize,
    /// Which places are lent, and as which loans.
    lent: BTreeMap<u64, u64>,
    /// Places that have come back.
    returned: BTreeSet<u64>,
    /// Who got the last message, or gets them all.
    last: Option<MemberId>,
    /// Whether its row must be written.
    pub(crate) is_dirty: bool,
}

/// A session that shares the subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MemberId {
    pub(crate) shard: ShardId,
    pub(crate) session: SessionId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Member {
    id: MemberId,
    window: u16,
    is_online: bool,
    /// How many messages it has borrowed.
    loans: u32,
}

/// A message that a member is to deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Loan {
    /// The session that has the message.
    pub(crate) group: SessionId,
    pub(crate) seq: u64,
    pub(crate) member: MemberId,
    /// Whether the shard of the member has the letter.
    pub(crate) is_posted: bool,
}

impl Groups {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_session.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_session.len()
    }

    pub(crate) const fn members(&self) -> u64 {
        self.members
    }

    pub(crate) const fn loans(&self) -> &BTreeMap<u64, Loan> {
        &self.loans
    }

    /// Adds a group without members.
    pub(crate) fn insert(&mut self, session: SessionId) {
        self.by_session.insert(session, Group::default());
    }

    pub(crate) fn of(&self, session: SessionId) -> Option<&Group> {
        self.by_session.get(&session)
    }

    pub(crate) fn of_mut(&mut self, session: SessionId) -> Option<&mut Group> {
        self.by_session.get_mut(&session)
    }

    /// Whether a member could borrow a message at once.
    pub(crate) fn has_room(&self, session: SessionId) -> bool {
        self.of(session).is_some_and(Group::has_room)
    }

    /// Adds or replaces a member of a group.
    pub(crate) fn set_member(&mut self, session: SessionId, id: MemberId, row: MemberRow) {
        if let Some(group) = self.by_session.get_mut(&session) {
            let loans = match group.index_of(id) {
                Ok(at) => group.members[at].loans,
                // It has left, and comes again before all that it had borrowed has come back.
                Err(_) => {
                    let is_of = |number: &&u64| self.loans.get(number).is_some_and(|loan| loan.member == id);
                    u32::try_from(group.lent.values().filter(is_of).count()).unwrap_or(u32::MAX)
                }
            };
            let window = u16::try_from(row.window).unwrap_or(u16::MAX);
            self.members += u64::from(group.set(Member { id, window, is_online: row.is_online, loans }));
        }
    }

    /// Removes a member; returns whether there was one.
    pub(crate) fn remove_member(&mut self, session: SessionId, id: MemberId) -> bool {
        let removed = self.by_session.get_mut(&session).is_some_and(|group| group.remove(id));
        self.members -= u64::from(removed);
        removed
    }

    /// A member borrows a message.
    pub(crate) fn lend(&mut self, number: u64, loan: Loan) {
        let Some(group) = self.by_session.get_mut(&loan.group) else { return };
        group.returned.remove(&loan.seq);
        group.lent.insert(loan.seq, number);
        group.count(loan.member, |loans| loans + 1);
        self.loans.insert(number, loan);
    }

    /// A loan is over; `None`: there is no such loan any more.
    pub(crate) fn end_loan(&mut self, number: u64) -> Option<Loan> {
        let loan = self.loans.remove(&number)?;
        if let Some(group) = self.by_session.get_mut(&loan.group) {
            group.lent.remove(&loan.seq);
            group.count(loan.member, |loans| loans - 1);
        }
        Some(loan)
    }

    /// The shard of the member has the letter.
    pub(crate) fn set_posted(&mut self, number: u64) -> Option<Loan> {
        let loan = self.loans.get_mut(&number)?;
        loan.is_posted = true;
        Some(*loan)
    }

    /// Takes out a group whose loans are over.
    pub(crate) fn remove(&mut self, session: SessionId) -> Option<Group> {
        let group = self.by_session.remove(&session)?;
        self.members -= group.members.len() as u64;
        Some(group)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (SessionId, &Group)> {
        self.by_session.iter().map(|(session, group)| (*session, group))
    }

    /// All of them, in words.
    #[cfg(feature = "simulation")]
    pub(crate) fn describe(&self) -> impl Iterator<Item = String> {
        let groups = self.by_session.iter().map(|(session, group)| {
            format!("group {session:?} {:?} {:?} {:?}", group.members, group.returned, group.last)
        });
        groups.chain(self.loans.iter().map(|(number, loan)| format!("loan {number} {loan:?}")))
    }

    pub(crate) fn check_invariants(&self) {
        assert_eq!(
            self.members,
            self.by_session.values().map(|group| group.members.len() as u64).sum::<u64>()
        );
        assert_eq!(self.loans.len(), self.by_session.values().map(|group| group.lent.len()).sum::<usize>());
        for (session, group) in &self.by_session {
            assert!(group.members.is_sorted_by(|left, right| left.id < right.id));
            assert_eq!(group.free, group.members.iter().filter(|member| member.has_room()).count());
            assert!(group.returned.iter().all(|seq| !group.lent.contains_key(seq)));
            for (seq, number) in &group.lent {
                let loan = self.loans[number];
                assert_eq!((loan.group, loan.seq), (*session, *seq));
            }
            for member in &group.members {
                let loans = group.lent.values().filter(|number| self.loans[number].member == member.id);
                assert_eq!(member.loans as usize, loans.count());
            }
        }
    }
}

impl Group {
    pub(crate) const fn has_room(&self) -> bool {
        self.free > 0
    }

    pub(crate) const fn has_members(&self) -> bool {
        !self.members.is_empty()
    }

    /// How many members are online, and how many are away.
    pub(crate) fn presence(&self) -> (usize, usize) {
        let online = self.members.iter().filter(|member| member.is_online).count();
        (online, self.members.len() - online)
    }

    pub(crate) fn member_ids(&self) -> impl Iterator<Item = MemberId> {
        self.members.iter().map(|member| member.id)
    }

    pub(crate) const fn lent(&self) -> &BTreeMap<u64, u64> {
        &self.lent
    }

    pub(crate) const fn returned(&self) -> &BTreeSet<u64> {
        &self.returned
    }

    /// What was lent can be lent again.
    pub(crate) fn put_back(&mut self, seq: u64) {
        self.returned.insert(seq);
    }

    /// There is no such message any more.
    pub(crate) fn forget(&mut self, seq: u64) {
        self.returned.remove(&seq);
    }

    pub(crate) fn row(&self) -> GroupRow {
        let last = self.last.map_or((0, 0), |last| (last.shard.0.into(), last.session.0));
        GroupRow { last_shard: last.0, last_session: last.1 }
    }

    pub(crate) fn restore(&mut self, row: &GroupRow) {
        let shard = u16::try_from(row.last_shard).unwrap_or(u16::MAX);
        let last = MemberId { shard: ShardId(shard), session: SessionId(row.last_session) };
        // Sessions have numbers from 1 on.
        self.last = (row.last_session > 0).then_some(last);
    }

    /// Who gets a message with this key as the loan with this number; `None`: nobody has room.
    pub(crate) fn pick(&mut self, strategy: GroupStrategy, key: u32, number: u64) -> Option<MemberId> {
        if self.free == 0 {
            return None;
        }
        let at = match strategy {
            GroupStrategy::RoundRobin => self.with_room_from(self.behind_last())?,
            GroupStrategy::Random => {
                self.with_room_from(self.nth_online(hash(&number.to_le_bytes()).into()))?
            }
            GroupStrategy::HashClientid | GroupStrategy::HashTopic => {
                self.with_room_from(self.nth_online(key.into()))?
            }
            GroupStrategy::Sticky => {
                let chosen = self.last.and_then(|last| self.index_of(last).ok());
                let chosen = chosen.filter(|at| self.members[*at].is_online);
                let at = self.with_room_from(chosen.unwrap_or_else(|| self.behind_last()))?;
                if chosen.is_some() {
                    // Who helps out because that one has no room does not take its place.
                    return Some(self.members[at].id);
                }
                at
            }
            GroupStrategy::LeastInflight => {
                let free = self.members.iter().enumerate().filter(|(_, member)| member.has_room());
                free.min_by_key(|(_, member)| member.loans)?.0
            }
        };
        let id = self.members[at].id;
        if self.last != Some(id) {
            self.last = Some(id);
            self.is_dirty = true;
        }
        Some(id)
    }

    /// The index behind that of the last one that was picked.
    fn behind_last(&self) -> usize {
        self.last.map_or(0, |last| match self.index_of(last) {
            Ok(at) => at + 1,
            Err(at) => at,
        })
    }

    /// The index of one of those that are online.
    fn nth_online(&self, number: u64) -> usize {
        let online = self.members.iter().filter(|member| member.is_online).count().max(1);
        let nth = usize::try_from(number % online as u64).unwrap_or_default();
        let mut online = self.members.iter().enumerate().filter(|(_, member)| member.is_online);
        online.nth(nth).map_or(0, |(at, _)| at)
    }

    /// The first with room from an index on, and from the first one on behind the last.
    fn with_room_from(&self, from: usize) -> Option<usize> {
        let from = from.min(self.members.len());
        let order = (from..self.members.len()).chain(0..from);
        order.into_iter().find(|at| self.members[*at].has_room())
    }

    fn index_of(&self, id: MemberId) -> Result<usize, usize> {
        self.members.binary_search_by_key(&id, |member| member.id)
    }

    /// Adds or replaces a member; returns whether it is new.
    fn set(&mut self, member: Member) -> bool {
        self.free += usize::from(member.has_room());
        match self.index_of(member.id) {
            Ok(at) => {
                let before = std::mem::replace(&mut self.members[at], member);
                self.free -= usize::from(before.has_room());
                false
            }
            Err(at) => {
                self.members.insert(at, member);
                true
            }
        }
    }

    fn remove(&mut self, id: MemberId) -> bool {
        let Ok(at) = self.index_of(id) else { return false };
        let removed = self.members.remove(at);
        self.free -= usize::from(removed.has_room());
        true
    }

    /// A member has borrowed more or less.
    fn count(&mut self, id: MemberId, loans: impl FnOnce(u32) -> u32) {
        if let Ok(at) = self.index_of(id) {
            let member = self.members[at];
            self.set(Member { loans: loans(member.loans), ..member });
        }
    }
}

impl Member {
    fn has_room(&self) -> bool {
        self.is_online && self.loans < self.window.into()
    }
}

impl Loan {
    pub(crate) fn row(&self) -> LoanRow {
        LoanRow {
            group: self.group.0,
            seq: self.seq,
            shard: self.member.shard.0.into(),
            session: self.member.session.0,
            is_posted: self.is_posted,
        }
    }
}

/// What decides who gets a message, where it is the message that does. It is kept with its place, for the message itself may
/// be in the store alone when it is lent.
pub(crate) fn key(strategy: GroupStrategy, parts: &Parts<'_>) -> u32 {
    match strategy {
        GroupStrategy::HashClientid => hash(parts.publisher.unwrap_or_default().as_bytes()),
        GroupStrategy::HashTopic => hash(parts.topic.as_bytes()),
        _ => 0,
    }
}

/// FNV-1a: all replicas, of whatever version, come to the same.
fn hash(bytes: &[u8]) -> u32 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
    let hash = bytes.iter().fold(0xCBF2_9CE4_8422_2325, mix);
    // Its low bits alone know little of the first bytes.
    u32::try_from((hash ^ (hash >> 32)) & u64::from(u32::MAX)).unwrap_or_default()
}
