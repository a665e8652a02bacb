//! The other members of a shard: make their copies equal to the registrar's, and keep them so.

use flotilla_mqtt::Timestamp;
use flotilla_state::{Member, ShardId};

use crate::{
    applied::Applied,
    content::{Buckets, Position, Version},
    replica::{Outcome, Replica, Role},
    wire::{Body, HandleError, Request, Rest},
};

/// How far this node's copy is equal to that of the present registrar.
#[derive(Debug)]
pub(crate) struct Sync {
    /// The number of the last change that the registrar sent.
    sequence: u64,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The digests are sent.
    Comparing,
    /// The next page is asked for: what is in the buckets `differing` after `from`.
    Pulling { differing: Buckets, from: Position },
    /// It is equal but for changes that are on their way.
    Done,
}

impl Sync {
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }
}

impl Replica {
    /// Becomes a follower of the registrar of a shard.
    pub(crate) fn follow(&mut self, shard: ShardId, now: Timestamp) {
        self.shard_mut(shard).role = Role::Follower(Sync { sequence: 0, stage: Stage::Comparing });
        if let Some(registrar) = self.shard(shard).registrar {
            let digests = self.content.index(shard).digests();
            self.transmit(registrar, shard, Body::SyncStart { digests }, now);
        }
    }

    /// Takes what the registrar sends in its term.
    pub(crate) fn handle_as_follower(
        &mut self,
        from: Member,
        shard: ShardId,
        body: Body,
        now: Timestamp,
    ) -> Result<(), HandleError> {
        match body {
            Body::Update { sequence, origin, request } => {
                self.handle_update(from, shard, sequence, origin, &request)
            }
            Body::SyncPlan { differing, applied } => self.handle_plan(from, shard, differing, applied, now),
            Body::SyncPage { entries, rest } => {
                let Role::Follower(sync) = &mut self.shard_mut(shard).role else { return Ok(()) };
                let stage = std::mem::replace(&mut sync.stage, Stage::Comparing);
                let Stage::Pulling { differing, from: position } = stage else {
                    sync.stage = stage;
                    return Err(HandleError::Invalid("page: nobody asked for it"));
                };
                let next = match &rest {
                    Rest::Next(next) => Some(next),
                    Rest::End(_) => None,
                };
                self.content
                    .replace(shard, &differing, &position, &entries, next)
                    .map_err(|_| HandleError::Invalid("page"))?;
                match rest {
                    Rest::Next(next) => self.pull(from, shard, differing, next, now),
                    Rest::End(applied) => self.finish(from, shard, applied, now),
                }
                Ok(())
            }
            Body::Refused { number } => {
                self.settle(shard, number, Outcome::Refused);
                Ok(())
            }
            Body::Request(_)
            | Body::Taken { .. }
            | Body::Done { .. }
            | Body::SyncStart { .. }
            | Body::SyncPull { .. }
            | Body::Synced => Err(HandleError::Invalid("receiver")),
        }
    }

    /// The registrar has made a change. While this node's copy is being synced it is right too: it is newer than what
    /// the pages so far had, and later pages have it.
    fn handle_update(
        &mut self,
        from: Member,
        shard: ShardId,
        sequence: u64,
        origin: Member,
        request: &Request,
    ) -> Result<(), HandleError> {
        if self.content.shard_of(request.change.topic()) != shard {
            return Err(HandleError::Invalid("shard of a topic"));
        }
        let has_ended = self.has_ended(origin);
        let state = self.shard_mut(shard);
        let Role::Follower(sync) = &mut state.role else { return Ok(()) };
        if sequence <= sync.sequence {
            return Err(HandleError::OutOfOrder);
        }
        sync.sequence = sequence;
        let version = Version { epoch: state.epoch, sequence };
        if !has_ended {
            state.applied.record(origin, request.number, request.lowest);
        }
        self.content.apply(shard, version, &request.change);
        self.taken.insert((from, shard), version);
        Ok(())
    }

    /// The registrar says which buckets differ.
    fn handle_plan(
        &mut self,
        from: Member,
        shard: ShardId,
        differing: Buckets,
        applied: Applied,
        now: Timestamp,
    ) -> Result<(), HandleError> {
        let state = self.shard_mut(shard);
        let Role::Follower(Sync { stage: Stage::Comparing, .. }) = &state.role else {
            return Err(HandleError::Invalid("plan: nobody asked for it"));
        };
        if differing.is_empty() {
            self.finish(from, shard, applied, now);
            return Ok(());
        }
        // From here to the end the copy is a mixture of both. If this node becomes the registrar meanwhile, then a request
        // counts as made only if it is in both: one that is asked again may then be made for the first time here.
        state.applied.intersect(&applied);
        self.pull(from, shard, differing, Position::default(), now);
        Ok(())
    }

    fn pull(&mut self, from: Member, shard: ShardId, differing: Buckets, position: Position, now: Timestamp) {
        let Role::Follower(sync) = &mut self.shard_mut(shard).role else { return };
        sync.stage = Stage::Pulling { differing: differing.clone(), from: position.clone() };
        self.transmit(from, shard, Body::SyncPull { differing, from: position }, now);
    }

    /// The copy is the registrar's, and has the requests that the registrar's has.
    fn finish(&mut self, from: Member, shard: ShardId, mut applied: Applied, now: Timestamp) {
        applied.forget(|origin| self.has_ended(origin));
        let state = self.shard_mut(shard);
        let Role::Follower(sync) = &mut state.role else { return };
        sync.stage = Stage::Done;
        state.applied = applied;
        self.transmit(from, shard, Body::Synced, now);
    }
}
