//! This node's CONNECTs that wait, from the call of the shell to its answer.
//!
//! A claim of a client that is settled here is granted at once. Any other one asks the registrar, and when that grants it, the
//! previous owner to end its connection. Then it goes to the [`Owner`].
//!
//! # Invariants
//!
//! * A client has one claim at most. A later CONNECT takes the place of the one that waits, whatever that has reached.
//! * Every claim has one deadline, and is granted or refused by then, or cancelled.
//! * A claim that is given up is given up at the registrar, too. The previous owner may have ended its connection all the same.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_mqtt::{Timestamp, session::ClientId};
use flotilla_state::{ConnectionEpoch, Member, ShardId};

use crate::{
    Limits, Output, Refusal, RequestId, Tenure,
    context::Context,
    message::{Entry, EntryRole, Hold, Message},
    owner::Owner,
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Claimant {
    limits: Limits,
    pending: BTreeMap<ClientId, Pending>,
    deadlines: BTreeSet<(Timestamp, ClientId)>,
    /// The number of the last claim.
    claims: u64,
}

/// A CONNECT that waits.
#[derive(Debug)]
struct Pending {
    request: RequestId,
    deadline: Timestamp,
    claim: u64,
    stage: Stage,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// The registrar has been asked, or will be as soon as there is one.
    Asked,
    /// The claim was granted, and the previous owner has been asked to end its connection.
    Taking { epoch: ConnectionEpoch, previous: Hold },
}

impl Claimant {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, pending: BTreeMap::new(), deadlines: BTreeSet::new(), claims: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    // Calls of the shell.

    pub(crate) fn claim(
        &mut self,
        context: &mut Context<'_>,
        owner: &mut Owner,
        now: Timestamp,
        request: RequestId,
        client: &ClientId,
    ) {
        let deadline = now + self.limits.claim_timeout;
        if let Some(pending) = self.pending.get_mut(client) {
            // The claim that is on its way serves the later CONNECT.
            let before = std::mem::replace(&mut pending.request, request);
            self.deadlines.remove(&(pending.deadline, client.clone()));
            self.deadlines.insert((deadline, client.clone()));
            pending.deadline = deadline;
            return context.output(Output::Refused { request: before, refusal: Refusal::Superseded });
        }
        if self.pending.len() >= self.limits.claims_pending_max {
            return context.output(Output::Refused { request, refusal: Refusal::Busy });
        }
        if let Some(Tenure { epoch, turn }) = owner.settled(client) {
            let tenure = Tenure { epoch, turn: turn.saturating_add(1) };
            return owner.begin(context, request, client, tenure);
        }
        self.claims += 1;
        let claim = self.claims;
        send_claim(context, client, claim);
        self.deadlines.insert((deadline, client.clone()));
        self.pending.insert(client.clone(), Pending { request, deadline, claim, stage: Stage::Asked });
    }

    pub(crate) fn cancel(&mut self, context: &mut Context<'_>, client: &ClientId, request: RequestId) {
        if self.pending.get(client).is_some_and(|pending| pending.request == request) {
            self.give_up(context, client, None);
        }
    }

    pub(crate) fn handle_deadline(&mut self, context: &mut Context<'_>, now: Timestamp) {
        while let Some((at, client)) = self.deadlines.first().cloned() {
            if at > now {
                return;
            }
            self.give_up(context, &client, Some(Refusal::Unavailable));
        }
    }

    // Messages of the registrar.

    pub(crate) fn handle_granted(
        &mut self,
        context: &mut Context<'_>,
        owner: &mut Owner,
        client: &ClientId,
        claim: u64,
        (epoch, previous): (ConnectionEpoch, Option<Hold>),
    ) {
        let Some(pending) = self.pending.get_mut(client) else { return };
        if pending.claim != claim || !matches!(pending.stage, Stage::Asked) {
            // It was given up: the registrar will learn.
            return;
        }
        let (cluster, me) = (context.cluster, context.me);
        let is_elsewhere = |hold: &Hold| hold.member != me && cluster.is_live(hold.member);
        match previous.filter(is_elsewhere) {
            Some(previous) => {
                pending.stage = Stage::Taking { epoch, previous };
                context.send(previous.member, Message::Handover { client: client.clone(), epoch });
            }
            None => self.grant(context, owner, client, epoch),
        }
    }

    pub(crate) fn handle_superseded(&mut self, context: &mut Context<'_>, client: &ClientId, claim: u64) {
        let Some(pending) = self.pending.get(client) else { return };
        if pending.claim == claim && matches!(pending.stage, Stage::Asked) {
            // The registrar has forgotten it already: it learns nothing new.
            self.give_up(context, client, Some(Refusal::Superseded));
        }
    }

    // Messages of the previous owner.

    pub(crate) fn handle_handed(
        &mut self,
        context: &mut Context<'_>,
        owner: &mut Owner,
        from: Member,
        client: &ClientId,
        epoch: ConnectionEpoch,
    ) {
        let Some(pending) = self.pending.get(client) else { return };
        if let Stage::Taking { epoch: expected, previous } = pending.stage
            && (expected, previous.member) == (epoch, from)
        {
            self.grant(context, owner, client, epoch);
        }
    }

    // Changes of the cluster.

    /// The lease is lost or this life is over: nothing that waits will be answered.
    pub(crate) fn handle_fenced(&mut self, mut output: impl FnMut(Output)) {
        for pending in std::mem::take(&mut self.pending).into_values() {
            output(Output::Refused { request: pending.request, refusal: Refusal::Unavailable });
        }
        self.deadlines.clear();
    }

    /// Members have ended, and their connections with them.
    pub(crate) fn handle_ended(&mut self, context: &mut Context<'_>, owner: &mut Owner, ended: &[Member]) {
        let taken = |(client, pending): (&ClientId, &Pending)| match pending.stage {
            Stage::Taking { epoch, previous } if ended.contains(&previous.member) => {
                Some((client.clone(), epoch))
            }
            Stage::Taking { .. } | Stage::Asked => None,
        };
        let taken: Vec<(ClientId, ConnectionEpoch)> = self.pending.iter().filter_map(taken).collect();
        for (client, epoch) in taken {
            self.grant(context, owner, &client, epoch);
        }
    }

    /// Adds what this node has been granted in some shards, but does not have yet.
    pub(crate) fn report(
        &self,
        context: &Context<'_>,
        shards: &BTreeSet<ShardId>,
        entries: &mut BTreeMap<ShardId, Vec<Entry>>,
    ) {
        for (client, pending) in &self.pending {
            let shard = context.cluster.shard_of(client);
            if let Stage::Taking { epoch, previous } = pending.stage
                && shards.contains(&shard)
            {
                let role = EntryRole::Claimant { claim: pending.claim, previous };
                entries.entry(shard).or_default().push(Entry { client: client.clone(), epoch, role });
            }
        }
    }

    /// Asks the new registrars of some shards for what the old ones have not granted.
    pub(crate) fn claim_again(&self, context: &mut Context<'_>, shards: &BTreeSet<ShardId>) {
        for (client, pending) in &self.pending {
            if matches!(pending.stage, Stage::Asked) && shards.contains(&context.cluster.shard_of(client)) {
                send_claim(context, client, pending.claim);
            }
        }
    }

    // Steps.

    /// Nobody else has the client: its claim is over.
    fn grant(
        &mut self,
        context: &mut Context<'_>,
        owner: &mut Owner,
        client: &ClientId,
        epoch: ConnectionEpoch,
    ) {
        if let Some(pending) = self.remove(client) {
            owner.begin(context, pending.request, client, Tenure { epoch, turn: 0 });
        }
    }

    /// Gives up a claim, at whatever stage it is.
    fn give_up(&mut self, context: &mut Context<'_>, client: &ClientId, refusal: Option<Refusal>) {
        let Some(Pending { request, claim, .. }) = self.remove(client) else { return };
        context.send_registrar(client, Message::Withdraw { client: client.clone(), claim });
        if let Some(refusal) = refusal {
            context.output(Output::Refused { request, refusal });
        }
    }

    fn remove(&mut self, client: &ClientId) -> Option<Pending> {
        let pending = self.pending.remove(client)?;
        self.deadlines.remove(&(pending.deadline, client.clone()));
        Some(pending)
    }
}

fn send_claim(context: &mut Context<'_>, client: &ClientId, claim: u64) {
    if let Some(term) = context.cluster.term(context.cluster.shard_of(client)) {
        context.send(term.registrar, Message::Claim { client: client.clone(), term: term.epoch, claim });
    }
}
