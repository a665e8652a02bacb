//! One term of office of a registrar: who has which client, and who is next.
//!
//! Of one client, one takeover goes on at a time. A claim that comes meanwhile waits; one that comes after that takes its
//! place, for the later one wins. So there is always one node that has the client, and one at most that is to get it.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_mqtt::session::ClientId;
use flotilla_state::{ConnectionEpoch, Member, ShardEpoch};

use crate::{
    context::Context,
    message::{Entry, EntryRole, Hold, Message, Report},
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Office {
    epoch: ShardEpoch,
    sequence: u64,
    /// Members whose report is not complete. Nothing is granted before this node knows what everybody has.
    awaited: BTreeSet<Member>,
    records: BTreeMap<ClientId, Record>,
}

/// Nearly all clients are connected and claimed by nobody: the rest is boxed.
#[derive(Debug, Default)]
struct Record {
    /// Who has the connection.
    owner: Option<Owner>,
    /// Whose claim has been granted.
    progress: Option<Box<Progress>>,
    /// Whose claim is granted next.
    queued: Option<Box<Queued>>,
}

#[derive(Debug, Clone, Copy)]
struct Owner {
    hold: Hold,
    /// False only until everybody has reported: any other owner goes first.
    registered: bool,
}

#[derive(Debug)]
struct Progress {
    hold: Hold,
    claim: u64,
    previous: Option<Hold>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Queued {
    member: Member,
    claim: u64,
}

impl Record {
    fn is_empty(&self) -> bool {
        self.owner.is_none() && self.progress.is_none() && self.queued.is_none()
    }
}

impl Office {
    /// Takes office. Who has joined with the very entry of the log that made the term has nothing that must be known first:
    /// what it brings from an older life goes behind everything else.
    pub(crate) fn new(epoch: ShardEpoch, context: &Context<'_>) -> Self {
        let index = context.cluster.index();
        let awaited = context
            .cluster
            .members()
            .filter(|member| *member == context.me || member.incarnation.0 != index.0)
            .collect();
        Self { epoch, sequence: 0, awaited, records: BTreeMap::new() }
    }

    pub(crate) fn epoch(&self) -> ShardEpoch {
        self.epoch
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.awaited.is_empty()
    }

    pub(crate) fn records_len(&self) -> usize {
        self.records.len()
    }

    // Claims.

    pub(crate) fn handle_claim(
        &mut self,
        context: &mut Context<'_>,
        from: Member,
        client: &ClientId,
        term: ShardEpoch,
        claim: u64,
    ) {
        if term != self.epoch {
            // The claimant will learn of this term and ask again.
            return;
        }
        let record = self.records.entry(client.clone()).or_default();
        if let Some(before) = record.queued.replace(Box::new(Queued { member: from, claim }))
            && before.member != from
        {
            let superseded = Message::Superseded { client: client.clone(), term, claim: before.claim };
            context.send(before.member, superseded);
        }
        self.go_on(context, client);
    }

    pub(crate) fn handle_withdraw(
        &mut self,
        context: &mut Context<'_>,
        from: Member,
        client: &ClientId,
        claim: u64,
    ) {
        let Some(record) = self.records.get_mut(client) else { return };
        record.queued.take_if(|queued| **queued == Queued { member: from, claim });
        record.progress.take_if(|progress| (progress.hold.member, progress.claim) == (from, claim));
        self.go_on(context, client);
    }

    pub(crate) fn handle_confirm(&mut self, context: &mut Context<'_>, client: &ClientId, hold: Hold) {
        let Some(record) = self.records.get_mut(client) else { return };
        let Some(progress) = record.progress.take_if(|progress| progress.hold == hold) else { return };
        if let Some(before) = record.owner.replace(Owner { hold, registered: true })
            && Some(before.hold) != progress.previous
        {
            self.discard(context, client, before.hold);
        }
        self.go_on(context, client);
    }

    pub(crate) fn handle_release(&mut self, context: &mut Context<'_>, client: &ClientId, hold: Hold) {
        let Some(record) = self.records.get_mut(client) else { return };
        record.owner.take_if(|owner| owner.hold == hold);
        self.go_on(context, client);
    }

    fn discard(&self, context: &mut Context<'_>, client: &ClientId, hold: Hold) {
        let Hold { member, epoch } = hold;
        context.send(member, Message::Discard { client: client.clone(), term: self.epoch, epoch });
    }

    /// Grants the claim that is next, if nothing goes on; forgets a client that nobody has or wants.
    fn go_on(&mut self, context: &mut Context<'_>, client: &ClientId) {
        let is_complete = self.is_complete();
        let Some(record) = self.records.get_mut(client) else { return };
        if record.progress.is_some() {
            return;
        }
        if let Some(queued) = record.queued.take_if(|_| is_complete) {
            let Queued { member, claim } = *queued;
            self.sequence += 1;
            let epoch = ConnectionEpoch { shard: self.epoch, sequence: self.sequence };
            let previous = record.owner.as_ref().map(|owner| owner.hold);
            record.progress = Some(Box::new(Progress { hold: Hold { member, epoch }, claim, previous }));
            context.send(member, Message::Granted { client: client.clone(), claim, epoch, previous });
        } else if record.is_empty() {
            self.records.remove(client);
        }
    }

    // Reports.

    pub(crate) fn handle_report(&mut self, context: &mut Context<'_>, from: Member, report: Report) {
        if report.term != self.epoch {
            return;
        }
        for Entry { client, epoch, role } in report.entries {
            let hold = Hold { member: from, epoch };
            match role {
                EntryRole::Owner { registered } => {
                    self.handle_owner(context, &client, Owner { hold, registered });
                }
                EntryRole::Claimant { claim, previous } if !self.is_complete() => {
                    let record = self.records.entry(client).or_default();
                    if record.progress.as_ref().is_none_or(|progress| progress.hold.epoch < epoch) {
                        record.progress = Some(Box::new(Progress { hold, claim, previous: Some(previous) }));
                    }
                }
                EntryRole::Claimant { .. } => {}
            }
        }
        if report.last && self.awaited.remove(&from) {
            self.complete(context);
        }
    }

    /// Somebody has this client and says so.
    fn handle_owner(&mut self, context: &mut Context<'_>, client: &ClientId, mut offered: Owner) {
        let is_complete = self.is_complete();
        let record = self.records.entry(client.clone()).or_default();
        match &mut record.owner {
            None => {
                let progress = record.progress.as_ref();
                if is_complete && progress.is_some_and(|progress| progress.previous != Some(offered.hold)) {
                    // The client has been granted to somebody already.
                    return self.discard(context, client, offered.hold);
                }
                offered.registered |= is_complete;
                record.owner = Some(offered);
            }
            Some(owner) if owner.hold == offered.hold => owner.registered |= offered.registered,
            Some(owner) => {
                let rank = |owner: &Owner| (owner.registered, owner.hold.epoch);
                if !is_complete && rank(&offered) > rank(owner) {
                    std::mem::swap(owner, &mut offered);
                }
                self.discard(context, client, offered.hold);
            }
        }
    }

    /// Begins to grant claims when everybody has reported.
    fn complete(&mut self, context: &mut Context<'_>) {
        if !self.is_complete() {
            return;
        }
        let clients: Vec<ClientId> = self.records.keys().cloned().collect();
        for client in &clients {
            self.settle_owner(context, client);
            self.go_on(context, client);
        }
    }

    /// Accepts an owner that no registrar knew, unless the client has gone to somebody else.
    fn settle_owner(&mut self, context: &mut Context<'_>, client: &ClientId) {
        let Some(record) = self.records.get_mut(client) else { return };
        let Some(owner) = record.owner.as_mut().filter(|owner| !owner.registered) else { return };
        let hold = owner.hold;
        if record.progress.as_ref().is_some_and(|progress| progress.previous != Some(hold)) {
            record.owner = None;
            self.discard(context, client, hold);
        } else {
            owner.registered = true;
        }
    }

    // Members that end.

    pub(crate) fn handle_ended(&mut self, context: &mut Context<'_>, ended: &[Member]) {
        if ended.is_empty() {
            return;
        }
        let clients: Vec<ClientId> = self.records.keys().cloned().collect();
        for client in &clients {
            let Some(record) = self.records.get_mut(client) else { continue };
            record.owner.take_if(|owner| ended.contains(&owner.hold.member));
            record.queued.take_if(|queued| ended.contains(&queued.member));
            record.progress.take_if(|progress| ended.contains(&progress.hold.member));
            self.go_on(context, client);
        }
        if !self.is_complete() {
            self.awaited.retain(|member| !ended.contains(member));
            self.complete(context);
        }
    }
}
