//! One node's replica: membership, placements and the node's own requests.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::Arc,
};

use bytes::Bytes;
use flotilla_mqtt::{Message, Timestamp};
use flotilla_state::{Incarnation, Member, ShardEpoch, ShardId};

use crate::{
    applied::Applied,
    content::{Change, Content, ShardOf, Version},
    follower::Sync,
    registrar::Registrar,
    store::Limits,
    wire::{Body, Frame, HandleError, Request},
};

/// A change that this node has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

/// What became of a change that this node has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Which one.
    pub request: RequestId,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every member has made it.
    Done,
    /// There is no room (`retained.messages_max`, `retained.bytes_max`): nothing has changed.
    Refused,
    /// This node's membership ended first: it may have been made or not.
    Unknown,
}

/// Why a change cannot be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// This node is not a member of the cluster now.
    #[error("this node is not a member of the cluster")]
    NotAMember,
    /// Too many changes wait for their answers.
    #[error("too many changes of retained messages wait for the cluster")]
    Busy,
}

/// One node's copy of the retained messages; see the crate's documentation.
///
/// Call the other methods as the state of the cluster is applied: [`Replica::admit`] and [`Replica::fence`] for this
/// node, [`Replica::member_joined`], [`Replica::member_ended`] and [`Replica::place`] for each event, those of members
/// before placements. After each call, send what [`Replica::poll_transmit`] gives and take the answers from
/// [`Replica::poll_answer`].
pub struct Replica {
    pub(crate) content: Content,
    pub(crate) me: Option<Member>,
    /// The other members that live.
    pub(crate) members: BTreeSet<Member>,
    /// The latest incarnation that has been admitted, as far as is known.
    latest: Incarnation,
    pub(crate) shards: Vec<Shard>,
    next_request: u64,
    pending_len: usize,
    pending_bytes: usize,
    outbox: VecDeque<(Member, Bytes)>,
    /// What is to be told about changes made: to a registrar, for one of its shards, up to which.
    pub(crate) taken: BTreeMap<(Member, ShardId), Version>,
    answers: VecDeque<Answer>,
}

/// What a replica knows of one shard.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    pub(crate) epoch: ShardEpoch,
    pub(crate) registrar: Option<Member>,
    pub(crate) role: Role,
    /// Which requests this node's copy has seen.
    pub(crate) applied: Applied,
    /// This node's own requests without an answer, by number.
    pub(crate) pending: BTreeMap<u64, Arc<Message>>,
    /// What members sent that have applied a later placement of the shard than this node.
    early: VecDeque<(Member, Frame)>,
}

/// What this node is to a shard.
#[derive(Debug, Default)]
pub(crate) enum Role {
    /// Nobody is its registrar.
    #[default]
    Vacant,
    Registrar(Registrar),
    Follower(Sync),
}

impl Replica {
    /// An empty replica of a node that is not a member yet. `shards` is how many there are, and more than what
    /// `shard_of` gives.
    #[must_use]
    pub fn new(shards: u16, shard_of: ShardOf, limits: Limits) -> Self {
        Self {
            content: Content::new(shards, shard_of, limits),
            me: None,
            members: BTreeSet::new(),
            latest: Incarnation(0),
            shards: (0..shards).map(|_| Shard::default()).collect(),
            next_request: 0,
            pending_len: 0,
            pending_bytes: 0,
            outbox: VecDeque::new(),
            taken: BTreeMap::new(),
            answers: VecDeque::new(),
        }
    }

    /// This node's membership has ended or is about to: until [`Replica::admit`] it only looks up. Its copy stays, and its
    /// requests are answered with [`Outcome::Unknown`].
    pub fn fence(&mut self) {
        self.me = None;
        self.members.clear();
        self.outbox.clear();
        self.taken.clear();
        for shard in &mut self.shards {
            let unknown = |number: u64| Answer { request: RequestId(number), outcome: Outcome::Unknown };
            self.answers.extend(std::mem::take(&mut shard.pending).into_keys().map(unknown));
            shard.role = Role::Vacant;
            (shard.epoch, shard.registrar) = (ShardEpoch::default(), None);
            shard.early = VecDeque::new();
        }
        (self.pending_len, self.pending_bytes) = (0, 0);
    }

    /// This node is a member, as `me`. All other members that live and then all placements follow, as they are in the
    /// state that has admitted it.
    pub fn admit(&mut self, me: Member) {
        self.fence();
        self.me = Some(me);
        self.latest = self.latest.max(me.incarnation);
    }

    /// Another node has been admitted.
    pub fn member_joined(&mut self, member: Member) {
        if self.me.is_none_or(|me| me == member) || !self.members.insert(member) {
            return;
        }
        self.latest = self.latest.max(member.incarnation);
        for shard in &mut self.shards {
            if let Role::Registrar(registrar) = &mut shard.role {
                registrar.member_joined(member);
            }
        }
    }

    /// Another member has ended: it is not waited for, and what it has asked for is forgotten.
    pub fn member_ended(&mut self, member: Member, now: Timestamp) {
        if !self.members.remove(&member) {
            return;
        }
        self.outbox.retain(|(to, _)| *to != member);
        self.taken.retain(|(to, _), _| *to != member);
        for shard in self.shard_ids() {
            let state = self.shard_mut(shard);
            state.early.retain(|(from, _)| *from != member);
            state.applied.forget(|origin| origin == member);
            self.registrar_lost(shard, member, now);
        }
        self.check_invariants();
    }

    /// A shard is placed: its registrar, the first node of the placement, is `registrar` since `epoch`. `None`: there is no
    /// such node, or its member has ended.
    ///
    /// A member that ends is never again the registrar of an epoch in which its node was the registrar before.
    pub fn place(&mut self, shard: ShardId, epoch: ShardEpoch, registrar: Option<Member>, now: Timestamp) {
        let Some(me) = self.me else { return };
        let state = self.shard_mut(shard);
        if epoch < state.epoch || (epoch, registrar) == (state.epoch, state.registrar) {
            return;
        }
        (state.epoch, state.registrar) = (epoch, registrar);
        let latest = self.latest;
        let members = &self.members;
        let has_ended =
            |member: Member| member.incarnation <= latest && member != me && !members.contains(&member);
        self.shards[usize::from(shard.0)].applied.forget(has_ended);
        match registrar {
            None => self.shard_mut(shard).role = Role::Vacant,
            Some(registrar) if registrar == me => self.take_office(shard),
            Some(_) => self.follow(shard, now),
        }
        let pending: Vec<u64> = self.shard(shard).pending.keys().copied().collect();
        for number in pending {
            self.ask(shard, number, now);
        }
        let early = std::mem::take(&mut self.shard_mut(shard).early);
        for (from, frame) in early {
            // A frame that came early has been checked, and one that is of no use is passed over.
            let _ = self.handle_frame(from, frame, now);
        }
        self.check_invariants();
    }

    /// Asks for a message to be kept for its topic, or if it has no payload, for that of its topic to be deleted
    /// [MQTT-3.3.1-6]. `None`: it is a message of the broker itself and kept on this node alone.
    ///
    /// The answer may be there at once.
    ///
    /// # Errors
    /// It cannot be asked for now: nothing has changed.
    pub fn set(&mut self, message: &Arc<Message>, now: Timestamp) -> Result<Option<RequestId>, SetError> {
        if message.publisher.is_none() {
            self.content.set_local(message, now);
            return Ok(None);
        }
        if self.me.is_none() {
            return Err(SetError::NotAMember);
        }
        let bytes = self.pending_bytes + message.size();
        if self.pending_len >= PENDING_MAX || bytes > PENDING_BYTES_MAX.max(message.size()) {
            return Err(SetError::Busy);
        }
        (self.pending_len, self.pending_bytes) = (self.pending_len + 1, bytes);
        let number = self.next_request;
        self.next_request += 1;
        let shard = self.content.shard_of(&message.topic);
        self.shard_mut(shard).pending.insert(number, Arc::clone(message));
        self.ask(shard, number, now);
        self.check_invariants();
        Ok(Some(RequestId(number)))
    }

    /// Takes what another member sent. What a member sent that has ended is passed over.
    ///
    /// # Errors
    /// The bytes are not a replica's: the copies may differ now, so that this node or the other must be admitted anew.
    pub fn handle(&mut self, from: Member, bytes: &[u8], now: Timestamp) -> Result<(), HandleError> {
        if self.me.is_none() || !self.members.contains(&from) {
            return Ok(());
        }
        let frame = Frame::decode(bytes, now)?;
        if usize::from(frame.shard.0) >= self.shards.len() {
            return Err(HandleError::Invalid("shard"));
        }
        let result = self.handle_frame(from, frame, now);
        self.check_invariants();
        result
    }

    /// The next bytes for another member. Bytes for one member must arrive in this order.
    pub fn poll_transmit(&mut self, now: Timestamp) -> Option<(Member, Bytes)> {
        if let Some(transmit) = self.outbox.pop_front() {
            return Some(transmit);
        }
        // Last, so that one of them stands for all changes that were made in a burst.
        let ((to, shard), Version { epoch, sequence }) = self.taken.pop_first()?;
        Some((to, Frame { shard, epoch, body: Body::Taken { sequence } }.encode(now)))
    }

    /// The next answer to a request of this node.
    pub fn poll_answer(&mut self) -> Option<Answer> {
        self.answers.pop_front()
    }

    /// Whether this node's copy has every change that was answered: it may be up.
    ///
    /// A shard without a registrar is as good as it can be.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.me.is_some()
            && self.shards.iter().all(|shard| match &shard.role {
                Role::Vacant | Role::Registrar(_) => true,
                Role::Follower(sync) => sync.is_done(),
            })
    }

    /// As [`Store::page`](crate::Store::page).
    pub fn page(
        &self,
        filter: &str,
        after: Option<&str>,
        count: usize,
        now: Timestamp,
        visit: &mut dyn FnMut(&Arc<Message>),
    ) -> Option<String> {
        self.content.store.page(filter, after, count, now, visit)
    }

    /// Removes what has expired, a bounded number of messages at a time; returns how many went. Each node does it by
    /// itself.
    pub fn expire(&mut self, now: Timestamp) -> usize {
        self.content.expire(now)
    }

    /// How many messages are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.content.store.len()
    }

    /// Whether no message is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.content.store.is_empty()
    }

    /// How many changes this node waits for.
    #[must_use]
    pub fn pending_len(&self) -> usize {
        self.pending_len
    }

    /// Takes a frame of a member that lives.
    fn handle_frame(&mut self, from: Member, frame: Frame, now: Timestamp) -> Result<(), HandleError> {
        let shard = frame.shard;
        let state = self.shard_mut(shard);
        if let Body::Done { number } = frame.body {
            self.settle(shard, number, Outcome::Done); // Also from a former registrar: it is true.
            return Ok(());
        }
        if frame.epoch > state.epoch {
            state.early.push_back((from, frame));
            return Ok(());
        }
        if frame.epoch < state.epoch {
            return Ok(()); // Whoever sent it will know better, and ask again.
        }
        match state.role {
            Role::Vacant => Ok(()),
            Role::Registrar(_) => self.handle_as_registrar(from, shard, frame.body, now),
            Role::Follower(_) if state.registrar == Some(from) => {
                self.handle_as_follower(from, shard, frame.body, now)
            }
            Role::Follower(_) => Err(HandleError::Invalid("receiver")),
        }
    }

    /// Asks the registrar, if there is one, for a change that has not been answered.
    fn ask(&mut self, shard: ShardId, number: u64, now: Timestamp) {
        let state = self.shard(shard);
        let (Some(me), Some(registrar)) = (self.me, state.registrar) else { return };
        let (Some(message), Some(lowest)) = (state.pending.get(&number), state.pending.keys().next()) else {
            return;
        };
        let request = Request { number, lowest: *lowest, change: Change::of(message, now) };
        if registrar == me {
            self.handle_request(me, shard, request, now);
        } else {
            self.transmit(registrar, shard, Body::Request(request), now);
        }
    }

    /// A request of this node has its answer.
    pub(crate) fn settle(&mut self, shard: ShardId, number: u64, outcome: Outcome) {
        let Some(message) = self.shard_mut(shard).pending.remove(&number) else { return };
        self.pending_len -= 1;
        self.pending_bytes -= message.size();
        self.answers.push_back(Answer { request: RequestId(number), outcome });
    }

    /// Sends something about the present epoch of a shard.
    pub(crate) fn transmit(&mut self, to: Member, shard: ShardId, body: Body, now: Timestamp) {
        let epoch = self.shard(shard).epoch;
        if self.members.contains(&to) {
            self.outbox.push_back((to, Frame { shard, epoch, body }.encode(now)));
        }
    }

    /// Sends the same to all other members.
    pub(crate) fn broadcast(&mut self, shard: ShardId, body: Body, now: Timestamp) {
        if self.members.is_empty() {
            return;
        }
        let bytes = Frame { shard, epoch: self.shard(shard).epoch, body }.encode(now);
        self.outbox.extend(self.members.iter().map(|member| (*member, bytes.clone())));
    }

    /// Whether a member has ended; one that this node has not heard of yet has not.
    pub(crate) fn has_ended(&self, member: Member) -> bool {
        member.incarnation <= self.latest && self.me != Some(member) && !self.members.contains(&member)
    }

    pub(crate) fn shard(&self, shard: ShardId) -> &Shard {
        &self.shards[usize::from(shard.0)]
    }

    pub(crate) fn shard_mut(&mut self, shard: ShardId) -> &mut Shard {
        &mut self.shards[usize::from(shard.0)]
    }

    fn shard_ids(&self) -> impl Iterator<Item = ShardId> + use<> {
        let shards = u16::try_from(self.shards.len()).expect("made from a u16");
        (0..shards).map(ShardId)
    }

    fn check_invariants(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        self.content.check_invariants();
        let pending = || self.shards.iter().flat_map(|shard| shard.pending.values());
        assert_eq!(self.pending_len, pending().count(), "requests counted");
        for shard in &self.shards {
            match &shard.role {
                Role::Vacant => assert!(shard.registrar.is_none()),
                Role::Registrar(registrar) => {
                    assert!(shard.registrar == self.me && self.me.is_some());
                    registrar.check_invariants(&self.members);
                }
                Role::Follower(_) => assert!(shard.registrar.is_some() && shard.registrar != self.me),
            }
        }
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Replica")
            .field("me", &self.me)
            .field("members", &self.members)
            .field("messages", &self.len())
            .field("shards", &self.shards)
            .finish_non_exhaustive()
    }
}

/// Changes of one node that wait for their answers: bounds what others keep to recognise them.
const PENDING_MAX: usize = 16_384;
/// Their bytes, unless it is only one.
const PENDING_BYTES_MAX: usize = 64 << 20;
