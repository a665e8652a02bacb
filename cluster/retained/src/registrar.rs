//! The registrar of a shard: puts changes in order and waits for all members.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use flotilla_mqtt::Timestamp;
use flotilla_state::{Member, ShardId};

use crate::{
    applied::Known,
    content::{Change, Version},
    replica::{Outcome, Replica, Role},
    wire::{Body, HandleError, Request, Rest},
};

/// One term of office.
#[derive(Debug, Default)]
pub(crate) struct Registrar {
    /// The number of the last change.
    sequence: u64,
    /// Members whose copies are not known to be equal to this node's since the beginning of the term. As long as there
    /// are any, nothing is changed: else a change could be answered while a member, the next registrar perhaps, lacks an
    /// older one that this node's copy has and nobody asks for again.
    unsynced: BTreeSet<Member>,
    /// Requests that wait for that, in order.
    waiting: VecDeque<(Member, Request)>,
    /// The last change that each other member has made. Who joins has the earlier ones before it is up.
    taken: BTreeMap<Member, u64>,
    /// Changes that some have not made, in order.
    in_flight: VecDeque<InFlight>,
}

#[derive(Debug)]
struct InFlight {
    sequence: u64,
    origin: Member,
    number: u64,
}

impl Registrar {
    pub(crate) fn member_joined(&mut self, member: Member) {
        self.taken.insert(member, self.sequence);
    }

    fn member_ended(&mut self, member: Member) {
        self.unsynced.remove(&member);
        self.taken.remove(&member);
        self.waiting.retain(|(from, _)| *from != member);
    }

    /// The next change that all other members have made.
    fn pop_done(&mut self) -> Option<InFlight> {
        let all = self.taken.values().min().copied().unwrap_or(self.sequence);
        if self.in_flight.front()?.sequence > all {
            return None;
        }
        self.in_flight.pop_front()
    }

    pub(crate) fn check_invariants(&self, members: &BTreeSet<Member>) {
        assert!(self.taken.keys().eq(members), "each member is waited for");
        assert!(self.unsynced.is_subset(members));
        assert!(self.unsynced.is_empty() || self.sequence == 0, "nothing is changed before all are synced");
        assert!(self.waiting.is_empty() || !self.unsynced.is_empty(), "nothing waits without a reason");
        assert!(self.taken.values().all(|taken| *taken <= self.sequence));
    }
}

impl Replica {
    /// Becomes the registrar of a shard.
    pub(crate) fn take_office(&mut self, shard: ShardId) {
        let unsynced = self.members.clone();
        let taken = unsynced.iter().map(|member| (*member, 0)).collect();
        let registrar = Registrar { unsynced, taken, ..Registrar::default() };
        self.shard_mut(shard).role = Role::Registrar(registrar);
    }

    /// A member has ended, which may have been the last that was waited for.
    pub(crate) fn registrar_lost(&mut self, shard: ShardId, member: Member, now: Timestamp) {
        let Role::Registrar(registrar) = &mut self.shard_mut(shard).role else { return };
        registrar.member_ended(member);
        self.serve_waiting(shard, now);
        self.answer_done(shard, now);
    }

    /// Takes what is sent to a registrar in its term.
    pub(crate) fn handle_as_registrar(
        &mut self,
        from: Member,
        shard: ShardId,
        body: Body,
        now: Timestamp,
    ) -> Result<(), HandleError> {
        match body {
            Body::Request(request) => {
                if self.content.shard_of(request.change.topic()) != shard {
                    return Err(HandleError::Invalid("shard of a topic"));
                }
                self.handle_request(from, shard, request, now);
            }
            Body::Taken { sequence } => {
                let Role::Registrar(registrar) = &mut self.shard_mut(shard).role else { return Ok(()) };
                let made = registrar.sequence;
                let Some(taken) = registrar.taken.get_mut(&from) else { return Ok(()) };
                if sequence < *taken || sequence > made {
                    return Err(HandleError::Invalid("number of a change"));
                }
                *taken = sequence;
                self.answer_done(shard, now);
            }
            Body::SyncStart { digests } => {
                let differing = self.content.index(shard).differing(&digests);
                let applied = self.shard(shard).applied.clone();
                self.transmit(from, shard, Body::SyncPlan { differing, applied }, now);
            }
            Body::SyncPull { differing, from: position } => {
                let (entries, next) = self.content.index(shard).page(&differing, &position);
                let rest = match next {
                    Some(next) => Rest::Next(next),
                    None => Rest::End(self.shard(shard).applied.clone()),
                };
                self.transmit(from, shard, Body::SyncPage { entries, rest }, now);
            }
            Body::Synced => {
                let Role::Registrar(registrar) = &mut self.shard_mut(shard).role else { return Ok(()) };
                registrar.unsynced.remove(&from);
                self.serve_waiting(shard, now);
            }
            Body::Update { .. }
            | Body::Done { .. }
            | Body::Refused { .. }
            | Body::SyncPlan { .. }
            | Body::SyncPage { .. } => return Err(HandleError::Invalid("receiver")),
        }
        Ok(())
    }

    /// A member, or this node, asks for a change.
    pub(crate) fn handle_request(&mut self, from: Member, shard: ShardId, request: Request, now: Timestamp) {
        let state = self.shard_mut(shard);
        let Role::Registrar(registrar) = &mut state.role else { return };
        if !registrar.unsynced.is_empty() {
            registrar.waiting.push_back((from, request));
            return;
        }
        match state.applied.known(from, request.number) {
            Known::No => self.decide(from, shard, request, now),
            Known::Refused => self.answer(from, shard, request.number, Outcome::Refused, now),
            Known::Applied => {
                let is_asked =
                    |in_flight: &InFlight| (in_flight.origin, in_flight.number) == (from, request.number);
                // All members have been synced since: they have it.
                if !registrar.in_flight.iter().any(is_asked) {
                    self.answer(from, shard, request.number, Outcome::Done, now);
                }
            }
        }
    }

    /// Makes a new change, or refuses it.
    fn decide(&mut self, origin: Member, shard: ShardId, request: Request, now: Timestamp) {
        let request = match request.change {
            // Its time is over: what it leaves behind is nothing, on every node.
            Change::Set(message) => Request { change: Change::of(&message, now), ..request },
            Change::Delete(_) => request,
        };
        if let Change::Set(message) = &request.change
            && !self.content.store.has_room(message)
        {
            self.answer(origin, shard, request.number, Outcome::Refused, now);
            return;
        }
        let state = self.shard_mut(shard);
        let Role::Registrar(registrar) = &mut state.role else { return };
        registrar.sequence += 1;
        let sequence = registrar.sequence;
        registrar.in_flight.push_back(InFlight { sequence, origin, number: request.number });
        state.applied.record(origin, request.number, request.lowest);
        let version = Version { epoch: state.epoch, sequence };
        self.content.apply(shard, version, &request.change);
        self.broadcast(shard, Body::Update { sequence, origin, request }, now);
        self.answer_done(shard, now);
    }

    /// Answers the requests whose changes all members have made.
    fn answer_done(&mut self, shard: ShardId, now: Timestamp) {
        loop {
            let Role::Registrar(registrar) = &mut self.shard_mut(shard).role else { return };
            let Some(InFlight { origin, number, .. }) = registrar.pop_done() else { return };
            self.answer(origin, shard, number, Outcome::Done, now);
        }
    }

    /// Takes up the requests that waited, if all members are synced.
    fn serve_waiting(&mut self, shard: ShardId, now: Timestamp) {
        loop {
            let Role::Registrar(registrar) = &mut self.shard_mut(shard).role else { return };
            if !registrar.unsynced.is_empty() {
                return;
            }
            let Some((from, request)) = registrar.waiting.pop_front() else { return };
            self.handle_request(from, shard, request, now);
        }
    }

    fn answer(&mut self, origin: Member, shard: ShardId, number: u64, outcome: Outcome, now: Timestamp) {
        if self.me == Some(origin) {
            self.settle(shard, number, outcome);
            return;
        }
        let body = match outcome {
            Outcome::Done => Body::Done { number },
            Outcome::Refused => Body::Refused { number },
            Outcome::Unknown => return, // Only the member itself can say this.
        };
        self.transmit(origin, shard, body, now);
    }
}
