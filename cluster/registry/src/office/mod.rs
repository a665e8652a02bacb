//! One term of office of a registrar: who has which client, who is next, and the wills of nodes that have ended.
//!
//! Of one client, one takeover goes on at a time. A claim that comes meanwhile waits; one that comes after that takes its
//! place, for the later one wins. So there is always one node that has the session, and one at most that is to get it.

mod collecting;
mod orphans;
mod publications;

use std::collections::BTreeMap;

use flotilla_mqtt::session::ClientId;
use flotilla_state::{ConnectionEpoch, LogIndex, Member, ShardEpoch, ShardId};

use crate::{
    context::Context,
    keeper::Keeper,
    message::{Entry, EntryRole, Hold, Message, Origin, Past, Report, SentOrphan},
};
use collecting::Collecting;
use orphans::{Orphans, Verdict};

pub(crate) use publications::Publications;

/// What an office works with.
pub(crate) struct Desk<'a, 'b> {
    pub(crate) shard: ShardId,
    pub(crate) context: &'a mut Context<'b>,
    pub(crate) keeper: &'a mut Keeper,
    pub(crate) publications: &'a mut Publications,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Office {
    epoch: ShardEpoch,
    sequence: u64,
    /// Nothing is granted before this node knows what everybody has.
    collecting: Option<Collecting>,
    records: BTreeMap<ClientId, Record>,
    orphans: Orphans,
}

#[derive(Debug, Default)]
struct Record {
    /// Who has the session or the connection.
    owner: Option<Owner>,
    /// Whose claim has been granted.
    progress: Option<Progress>,
    /// Whose claim is granted next.
    queued: Option<Queued>,
}

#[derive(Debug)]
struct Owner {
    hold: Hold,
    /// False only while this node collects: any other owner goes first.
    registered: bool,
    /// Known only while this node collects: later, wills are decided on when the owner comes.
    past: Option<Box<Past>>,
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
    /// Takes office.
    pub(crate) fn new(epoch: ShardEpoch, context: &Context<'_>) -> Self {
        Self {
            epoch,
            sequence: 0,
            collecting: Some(Collecting::new(context)),
            records: BTreeMap::new(),
            orphans: Orphans::default(),
        }
    }

    pub(crate) fn epoch(&self) -> ShardEpoch {
        self.epoch
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.collecting.is_none()
    }

    pub(crate) fn records_len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn orphans_len(&self) -> usize {
        self.orphans.len()
    }

    // Claims.

    pub(crate) fn handle_claim(
        &mut self,
        desk: &mut Desk<'_, '_>,
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
        if let Some(before) = record.queued.replace(Queued { member: from, claim })
            && before.member != from
        {
            let superseded = Message::Superseded { client: client.clone(), term, claim: before.claim };
            desk.context.send(before.member, superseded);
        }
        self.go_on(desk, client);
    }

    pub(crate) fn handle_withdraw(
        &mut self,
        desk: &mut Desk<'_, '_>,
        from: Member,
        client: &ClientId,
        claim: u64,
    ) {
        let Some(record) = self.records.get_mut(client) else { return };
        if record.queued == Some(Queued { member: from, claim }) {
            record.queued = None;
        }
        if record
            .progress
            .as_ref()
            .is_some_and(|progress| progress.hold.member == from && progress.claim == claim)
        {
            self.abort(desk, client);
        }
        self.go_on(desk, client);
    }

    pub(crate) fn handle_confirm(
        &mut self,
        desk: &mut Desk<'_, '_>,
        from: Member,
        client: &ClientId,
        epoch: ConnectionEpoch,
        (handed, clean): (bool, bool),
    ) {
        let Some(record) = self.records.get_mut(client) else { return };
        let hold = Hold { member: from, epoch };
        if record.progress.as_ref().is_none_or(|progress| progress.hold != hold) {
            return;
        }
        let previous = record.progress.take().and_then(|progress| progress.previous);
        let is_complete = self.collecting.is_none();
        let past = (!is_complete).then(|| {
            let origin = previous.map(|previous| Origin { previous, handed });
            Box::new(Past { origin, clean })
        });
        if let Some(before) = record.owner.replace(Owner { hold, registered: true, past })
            && Some(before.hold) != previous
        {
            self.discard(desk, client, before.hold);
        }
        if is_complete {
            for owner in self.orphans.owners(client) {
                let Some(orphan) = self.orphans.find(client, owner) else { continue };
                // Its owner went the usual way with it, or the client is back within the delay [MQTT-3.1.3-9].
                let was_handed = handed && previous == Some(orphan.hold());
                let publish = !was_handed && orphan.outlives(clean);
                let verdict = if publish { Verdict::Publish } else { Verdict::Forget };
                self.orphans.execute(desk, client, owner, verdict);
            }
        }
        self.go_on(desk, client);
    }

    pub(crate) fn handle_release(
        &mut self,
        desk: &mut Desk<'_, '_>,
        from: Member,
        client: &ClientId,
        epoch: ConnectionEpoch,
    ) {
        let hold = Hold { member: from, epoch };
        let Some(record) = self.records.get_mut(client) else { return };
        if record.owner.as_ref().is_some_and(|owner| owner.hold == hold) {
            record.owner = None;
            if self.collecting.is_none() && record.progress.is_none() {
                // A will does not wait longer than the session lasts [MQTT-3.1.3-9].
                for owner in self.orphans.owners(client) {
                    self.orphans.execute(desk, client, owner, Verdict::Publish);
                }
            }
        } else if record.progress.as_ref().is_some_and(|progress| progress.hold == hold) {
            self.abort(desk, client);
        }
        self.go_on(desk, client);
    }

    pub(crate) fn handle_register(
        &mut self,
        desk: &mut Desk<'_, '_>,
        from: Member,
        client: &ClientId,
        epoch: ConnectionEpoch,
    ) {
        self.offer(desk, client, Hold { member: from, epoch }, false, None);
    }

    /// Somebody has this client and says so.
    fn offer(
        &mut self,
        desk: &mut Desk<'_, '_>,
        client: &ClientId,
        hold: Hold,
        registered: bool,
        past: Option<Past>,
    ) {
        let is_complete = self.collecting.is_none();
        let record = self.records.entry(client.clone()).or_default();
        let past = past.filter(|_| !is_complete).map(Box::new);
        let offered = Owner { hold, registered: registered || is_complete, past };
        match &mut record.owner {
            None => {
                let progress = record.progress.as_ref();
                if is_complete && progress.is_some_and(|progress| progress.previous != Some(hold)) {
                    // The client has been granted to somebody already.
                    return self.discard(desk, client, hold);
                }
                record.owner = Some(offered);
            }
            Some(owner) if owner.hold == hold => {
                owner.registered |= offered.registered;
                owner.past = offered.past.or(owner.past.take());
            }
            Some(owner) => {
                let rank = |owner: &Owner| (owner.registered, owner.hold.epoch);
                let loser = if !is_complete && rank(&offered) > rank(owner) {
                    std::mem::replace(owner, offered)
                } else {
                    offered
                };
                return self.discard(desk, client, loser.hold);
            }
        }
        if is_complete && !registered {
            self.confirm_registration(desk, client, hold);
        }
    }

    fn confirm_registration(&self, desk: &mut Desk<'_, '_>, client: &ClientId, hold: Hold) {
        let Hold { member, epoch } = hold;
        desk.context.send(member, Message::Registered { client: client.clone(), term: self.epoch, epoch });
    }

    fn discard(&self, desk: &mut Desk<'_, '_>, client: &ClientId, hold: Hold) {
        let Hold { member, epoch } = hold;
        desk.context.send(member, Message::Discard { client: client.clone(), term: self.epoch, epoch });
    }

    /// A granted claim has come to nothing.
    fn abort(&mut self, desk: &mut Desk<'_, '_>, client: &ClientId) {
        let Some(record) = self.records.get_mut(client) else { return };
        record.progress = None;
        self.judge_all(desk, client);
    }

    /// Grants the claim that is next, if nothing goes on; forgets a client that nobody has or wants.
    fn go_on(&mut self, desk: &mut Desk<'_, '_>, client: &ClientId) {
        let Some(record) = self.records.get_mut(client) else { return };
        if record.progress.is_some() {
            return;
        }
        if self.collecting.is_none()
            && let Some(Queued { member, claim }) = record.queued.take()
        {
            self.sequence += 1;
            let epoch = ConnectionEpoch { shard: self.epoch, sequence: self.sequence };
            let previous = record.owner.as_ref().map(|owner| owner.hold);
            record.progress = Some(Progress { hold: Hold { member, epoch }, claim, previous });
            let granted = Message::Granted { client: client.clone(), claim, epoch, previous };
            desk.context.send(member, granted);
        } else if record.is_empty() {
            self.records.remove(client);
        }
    }

    // Collecting.

    pub(crate) fn handle_report(&mut self, desk: &mut Desk<'_, '_>, from: Member, report: Report) {
        if report.term != self.epoch {
            return;
        }
        for Entry { client, epoch, role } in report.entries {
            if epoch.shard == self.epoch {
                // The node has been the registrar in this term before, in another life.
                self.sequence = self.sequence.max(epoch.sequence);
            }
            let hold = Hold { member: from, epoch };
            match role {
                EntryRole::Owner { registered, past } => {
                    self.offer(desk, &client, hold, registered, Some(past));
                }
                EntryRole::Claimant { claim, previous } if self.collecting.is_some() => {
                    let record = self.records.entry(client).or_default();
                    if record.progress.as_ref().is_none_or(|progress| progress.hold.epoch < epoch) {
                        record.progress = Some(Progress { hold, claim, previous });
                    }
                }
                EntryRole::Claimant { .. } => {}
            }
        }
        if let Some(collecting) = &mut self.collecting {
            collecting.handle_authority(report.authority);
        }
        for orphan in report.orphans {
            if self.collecting.is_some() {
                self.orphans.collect(desk.context, from, orphan, report.authority);
            } else {
                self.handle_orphan(desk, from, orphan);
            }
        }
        if report.last
            && let Some(collecting) = &mut self.collecting
        {
            collecting.handle_reported(from, report.as_of);
            self.complete(desk);
        }
    }

    /// Begins to grant claims when everything is known.
    fn complete(&mut self, desk: &mut Desk<'_, '_>) {
        let Some(collecting) = self.collecting.take_if(|collecting| collecting.is_known()) else { return };
        let clients: Vec<ClientId> = self.records.keys().cloned().collect();
        for client in &clients {
            self.settle_owner(desk, client);
        }
        for (client, owner) in self.orphans.keys() {
            let Some(orphan) = self.orphans.find(&client, owner) else { continue };
            let authority = collecting.authority();
            let is_left = orphan.sent.ended_at > authority || orphan.authority == authority;
            if is_left {
                desk.keeper.adopt(&orphan.sent, orphan.due);
                self.judge(desk, &client, owner);
            } else {
                self.orphans.execute(desk, &client, owner, Verdict::Forget);
            }
        }
        for client in &clients {
            if let Some(owner) = self.records.get_mut(client).and_then(|record| record.owner.as_mut()) {
                owner.past = None;
            }
            self.go_on(desk, client);
        }
    }

    /// Accepts an owner that no registrar knew, unless the client has gone to somebody else.
    fn settle_owner(&mut self, desk: &mut Desk<'_, '_>, client: &ClientId) {
        let Some(record) = self.records.get_mut(client) else { return };
        let Some(owner) = record.owner.as_mut().filter(|owner| !owner.registered) else { return };
        let hold = owner.hold;
        if record.progress.as_ref().is_some_and(|progress| progress.previous != Some(hold)) {
            record.owner = None;
            self.discard(desk, client, hold);
        } else {
            owner.registered = true;
            self.confirm_registration(desk, client, hold);
        }
    }

    // Members that end.

    pub(crate) fn handle_ended(&mut self, desk: &mut Desk<'_, '_>, ended: &[Member]) {
        if ended.is_empty() {
            return;
        }
        if let Some(collecting) = &mut self.collecting {
            collecting.vacate(desk.context, ended);
        }
        self.orphans.handle_ended(ended);
        let clients: Vec<ClientId> = self.records.keys().cloned().collect();
        for client in clients {
            let Some(record) = self.records.get_mut(&client) else { continue };
            if record.owner.as_ref().is_some_and(|owner| ended.contains(&owner.hold.member)) {
                record.owner = None;
            }
            if record.queued.is_some_and(|queued| ended.contains(&queued.member)) {
                record.queued = None;
            }
            if record.progress.as_ref().is_some_and(|progress| ended.contains(&progress.hold.member)) {
                self.abort(desk, &client);
            }
            self.go_on(desk, &client);
        }
        self.complete(desk);
    }

    // Wills.

    /// A member keeps the will of an owner that has ended.
    pub(crate) fn handle_orphan(&mut self, desk: &mut Desk<'_, '_>, from: Member, orphan: SentOrphan) {
        let is_known =
            self.collecting.as_ref().is_none_or(|collecting| collecting.has_reported(orphan.owner));
        if !is_known {
            return self.orphans.collect(desk.context, from, orphan, LogIndex(0));
        }
        let (client, owner) = (orphan.client.clone(), orphan.owner);
        if from == desk.context.me {
            // The owner has sent here what it had.
            self.orphans.collect(desk.context, from, orphan, LogIndex(0));
            if self.collecting.is_none() {
                self.judge(desk, &client, owner);
            }
        } else if !self.orphans.add_keeper(&client, owner, from)
            && !desk.publications.add_keeper(&client, owner, from)
        {
            // It was dropped, or published; its keeper did not hear of it.
            desk.context.send(from, Message::WillDone { owner, client });
        }
    }

    /// A member has named all wills of an ended owner that it keeps.
    pub(crate) fn handle_orphans_end(&mut self, desk: &mut Desk<'_, '_>, from: Member, owner: Member) {
        if let Some(collecting) = &mut self.collecting
            && collecting.handle_orphans_end(from, owner)
        {
            self.complete(desk);
        }
    }

    /// The delay of a will is over.
    pub(crate) fn handle_due(&mut self, desk: &mut Desk<'_, '_>, client: &ClientId, owner: Member) {
        self.judge(desk, client, owner);
    }

    fn judge_all(&mut self, desk: &mut Desk<'_, '_>, client: &ClientId) {
        if self.collecting.is_none() {
            for owner in self.orphans.owners(client) {
                self.judge(desk, client, owner);
            }
        }
    }

    fn judge(&mut self, desk: &mut Desk<'_, '_>, client: &ClientId, owner: Member) {
        let Some(orphan) = self.orphans.find(client, owner) else { return };
        let verdict = orphan.verdict(self.records.get(client), desk.context.now);
        self.orphans.execute(desk, client, owner, verdict);
    }
}
