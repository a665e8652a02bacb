//! One term of office of a registrar: who has which client, who is next, and the wills of nodes that have ended.
//!
//! Of one client, one takeover goes on at a time. A claim that comes meanwhile waits; one that comes after that takes its
//! place, for the later one wins. So there is always one node that has the session, and one at most that is to get it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use flotilla_mqtt::{Timestamp, session::ClientId};
use flotilla_state::{ConnectionEpoch, LogIndex, Member, ShardEpoch, ShardId};

use crate::{
    Output, WillId,
    context::Context,
    keeper::Keeper,
    message::{Entry, EntryRole, Hold, Message, Origin, Past, Report, SentOrphan},
};

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
    orphans: BTreeMap<(ClientId, Member), Orphan>,
}

/// What is not known yet.
#[derive(Debug, Default)]
struct Collecting {
    /// Members whose report is not complete.
    awaited: BTreeSet<Member>,
    /// Members whose report is complete: before it, they have sent their wills.
    reported: BTreeSet<Member>,
    /// For a member that has ended before its report was complete: who has not yet said which of its wills it keeps.
    vacated: BTreeMap<Member, Vacated>,
    /// The highest of the reports.
    authority: LogIndex,
}

#[derive(Debug)]
struct Vacated {
    /// How far this node had read the log when it learnt that the member had ended.
    at: LogIndex,
    awaited: BTreeSet<Member>,
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

/// A will whose owner has ended.
#[derive(Debug)]
struct Orphan {
    sent: SentOrphan,
    due: Timestamp,
    /// Who keeps it, and forgets it when it is published or void.
    keepers: Vec<Member>,
    /// The highest authority that it is known from.
    authority: LogIndex,
}

/// What is done with the will of an ended owner.
#[derive(Debug, Clone, Copy)]
enum Verdict {
    /// The takeover that goes on decides.
    Hold,
    /// It is published when its delay is over.
    Wait,
    Publish,
    Forget,
}

impl Record {
    fn is_empty(&self) -> bool {
        self.owner.is_none() && self.progress.is_none() && self.queued.is_none()
    }
}

impl Orphan {
    fn hold(&self) -> Hold {
        Hold { member: self.sent.owner, epoch: self.sent.tenure.epoch }
    }

    /// Whether it is to be published although its client is back: the session has ended with a clean start, or the will
    /// does not wait.
    fn outlives(&self, clean: bool) -> bool {
        clean || self.sent.will.will.wait().is_zero()
    }
}

impl Office {
    /// Takes office. Who has joined with this very entry of the log has nothing that must be known first: what it brings
    /// from an older life goes behind everything else.
    pub(crate) fn new(epoch: ShardEpoch, context: &Context<'_>) -> Self {
        let index = context.cluster.index();
        let awaited = context
            .cluster
            .members()
            .filter(|member| *member == context.me || member.incarnation.0 != index.0)
            .collect();
        Self {
            epoch,
            sequence: 0,
            collecting: Some(Collecting { awaited, ..Collecting::default() }),
            records: BTreeMap::new(),
            orphans: BTreeMap::new(),
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
            for owner in self.owners_of_orphans(client) {
                let Some(orphan) = self.orphans.get(&(client.clone(), owner)) else { continue };
                // Its owner went the usual way with it, or the client is back within the delay [MQTT-3.1.3-9].
                let was_handed = handed && previous == Some(orphan.hold());
                let publish = !was_handed && orphan.outlives(clean);
                self.execute(desk, client, owner, if publish { Verdict::Publish } else { Verdict::Forget });
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
                for owner in self.owners_of_orphans(client) {
                    self.execute(desk, client, owner, Verdict::Publish);
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
            collecting.authority = collecting.authority.max(report.authority);
        }
        for orphan in report.orphans {
            if self.collecting.is_some() {
                self.collect_orphan(desk, from, orphan, report.authority);
            } else {
                self.handle_orphan(desk, from, orphan);
            }
        }
        if report.last
            && let Some(collecting) = &mut self.collecting
        {
            if collecting.awaited.remove(&from) {
                collecting.reported.insert(from);
            }
            for vacated in collecting.vacated.values_mut().filter(|vacated| vacated.at <= report.as_of) {
                vacated.awaited.remove(&from);
            }
            self.complete(desk);
        }
    }

    /// Begins to grant claims when everything is known.
    fn complete(&mut self, desk: &mut Desk<'_, '_>) {
        let is_known = |collecting: &mut Collecting| {
            collecting.awaited.is_empty()
                && collecting.vacated.values().all(|vacated| vacated.awaited.is_empty())
        };
        let Some(collecting) = self.collecting.take_if(is_known) else { return };
        let clients: Vec<ClientId> = self.records.keys().cloned().collect();
        for client in &clients {
            self.settle_owner(desk, client);
        }
        let orphans: Vec<(ClientId, Member)> = self.orphans.keys().cloned().collect();
        for (client, owner) in orphans {
            let Some(orphan) = self.orphans.get(&(client.clone(), owner)) else { continue };
            let is_left =
                orphan.sent.ended_at > collecting.authority || orphan.authority == collecting.authority;
            if is_left {
                desk.keeper.adopt(&orphan.sent, orphan.due);
                self.judge(desk, &client, owner);
            } else {
                self.execute(desk, &client, owner, Verdict::Forget);
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
        for orphan in self.orphans.values_mut() {
            orphan.keepers.retain(|member| !ended.contains(member));
        }
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
            self.collecting.as_ref().is_none_or(|collecting| collecting.reported.contains(&orphan.owner));
        if !is_known {
            return self.collect_orphan(desk, from, orphan, LogIndex(0));
        }
        let (client, owner) = (orphan.client.clone(), orphan.owner);
        if from == desk.context.me {
            // The owner has sent here what it had.
            self.collect_orphan(desk, from, orphan, LogIndex(0));
            if self.collecting.is_none() {
                self.judge(desk, &client, owner);
            }
        } else if let Some(known) = self.orphans.get_mut(&(client.clone(), owner)) {
            if !known.keepers.contains(&from) {
                known.keepers.push(from);
            }
        } else if !desk.publications.add_keeper(&client, owner, from) {
            // It was dropped, or published; its keeper did not hear of it.
            desk.context.send(from, Message::WillDone { owner, client });
        }
    }

    /// A member has named all wills of an ended owner that it keeps.
    pub(crate) fn handle_orphans_end(&mut self, desk: &mut Desk<'_, '_>, from: Member, owner: Member) {
        if let Some(collecting) = &mut self.collecting
            && let Some(vacated) = collecting.vacated.get_mut(&owner)
        {
            vacated.awaited.remove(&from);
            self.complete(desk);
        }
    }

    /// The delay of a will is over.
    pub(crate) fn handle_due(&mut self, desk: &mut Desk<'_, '_>, client: &ClientId, owner: Member) {
        self.judge(desk, client, owner);
    }

    fn collect_orphan(
        &mut self,
        desk: &mut Desk<'_, '_>,
        from: Member,
        orphan: SentOrphan,
        authority: LogIndex,
    ) {
        let due = desk.context.now + orphan.will.rest.unwrap_or_default();
        let key = (orphan.client.clone(), orphan.owner);
        let new = Orphan { sent: orphan, due, keepers: vec![from], authority };
        let Some(known) = self.orphans.get_mut(&key) else {
            self.orphans.insert(key, new);
            return;
        };
        if !known.keepers.contains(&from) {
            known.keepers.push(from);
        }
        known.authority = known.authority.max(authority);
        if known.sent.tenure < new.sent.tenure {
            known.sent = new.sent;
            known.due = new.due;
        }
    }

    fn owners_of_orphans(&self, client: &ClientId) -> Vec<Member> {
        let first = Member { node: flotilla_state::NodeId(0), incarnation: flotilla_state::Incarnation(0) };
        let of_client = self.orphans.range((client.clone(), first)..);
        of_client.take_while(|((of, _), _)| of == client).map(|((_, owner), _)| *owner).collect()
    }

    fn judge_all(&mut self, desk: &mut Desk<'_, '_>, client: &ClientId) {
        if self.collecting.is_none() {
            for owner in self.owners_of_orphans(client) {
                self.judge(desk, client, owner);
            }
        }
    }

    fn judge(&mut self, desk: &mut Desk<'_, '_>, client: &ClientId, owner: Member) {
        let Some(orphan) = self.orphans.get(&(client.clone(), owner)) else { return };
        let verdict = self.verdict(orphan, desk.context.now);
        self.execute(desk, client, owner, verdict);
    }

    fn verdict(&self, orphan: &Orphan, now: Timestamp) -> Verdict {
        let hold = orphan.hold();
        let record = self.records.get(&orphan.sent.client);
        if let Some(progress) = record.and_then(|record| record.progress.as_ref())
            && progress.previous == Some(hold)
        {
            return Verdict::Hold;
        }
        if let Some(owner) = record.and_then(|record| record.owner.as_ref())
            && owner.hold.epoch > hold.epoch
        {
            // Somebody had the client after it, from it or from others.
            // Whoever handed the client on has taken care of its will; a later life of the owner knows of none.
            let is_open = |past: &Past| {
                past.origin.is_none_or(|Origin { previous, handed }| {
                    let is_later_life =
                        previous.member.node == hold.member.node && previous.member != hold.member;
                    is_later_life || previous == hold && !handed
                })
            };
            let past = owner.past.as_deref().filter(|past| is_open(past));
            let publish = past.is_some_and(|past| orphan.outlives(past.clean));
            return if publish { Verdict::Publish } else { Verdict::Forget };
        }
        if orphan.due <= now { Verdict::Publish } else { Verdict::Wait }
    }

    fn execute(&mut self, desk: &mut Desk<'_, '_>, client: &ClientId, owner: Member, verdict: Verdict) {
        let key = (client.clone(), owner);
        match verdict {
            Verdict::Hold => {}
            Verdict::Wait => {
                if let Some(orphan) = self.orphans.get(&key) {
                    desk.publications.start_timer(orphan.due, desk.shard, key);
                }
            }
            Verdict::Publish => {
                if let Some(orphan) = self.orphans.remove(&key) {
                    // From here on this node answers for it, not as one of its keepers.
                    desk.keeper.forget_orphan(owner, client);
                    desk.publications.publish(desk.context, orphan);
                }
            }
            Verdict::Forget => {
                if let Some(orphan) = self.orphans.remove(&key) {
                    for keeper in orphan.keepers {
                        desk.context.send(keeper, Message::WillDone { owner, client: client.clone() });
                    }
                    desk.keeper.forget_orphan(owner, client);
                }
            }
        }
    }
}

impl Collecting {
    /// Waits no longer for members that have ended, but for what the others have of them.
    fn vacate(&mut self, context: &Context<'_>, ended: &[Member]) {
        for vacated in self.vacated.values_mut() {
            vacated.awaited.retain(|member| !ended.contains(member));
        }
        let at = context.cluster.index();
        for member in ended {
            if self.awaited.remove(member) {
                // Also who has joined since the term began may keep wills of it. Who learns of its end only as it joins
                // reports so much.
                let awaited = context.cluster.members().collect();
                self.vacated.insert(*member, Vacated { at, awaited });
            }
        }
    }
}

/// Wills that wait for their time or are being published, of all offices of a node.
#[derive(Debug, Default)]
pub(crate) struct Publications {
    timers: BTreeSet<(Timestamp, ShardId, ClientId, Member)>,
    underway: BTreeMap<(ClientId, Member), Publication>,
    keys: BTreeMap<WillId, (ClientId, Member)>,
    count: u64,
}

/// A will that the shell is publishing.
#[derive(Debug)]
struct Publication {
    /// Who keeps it, and forgets it when it is published.
    keepers: Vec<Member>,
}

impl Publications {
    pub(crate) fn clear(&mut self) {
        self.timers.clear();
        self.underway.clear();
        self.keys.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.underway.len()
    }

    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, ..)| *at)
    }

    pub(crate) fn take_due(&mut self, now: Timestamp) -> Option<(ShardId, ClientId, Member)> {
        if self.timers.first()?.0 > now {
            return None;
        }
        self.timers.pop_first().map(|(_, shard, client, owner)| (shard, client, owner))
    }

    pub(crate) fn stop_timers(&mut self, shard: ShardId) {
        self.timers.retain(|(_, timed, ..)| *timed != shard);
    }

    pub(crate) fn handle_ended(&mut self, ended: &[Member]) {
        for publication in self.underway.values_mut() {
            publication.keepers.retain(|member| !ended.contains(member));
        }
    }

    pub(crate) fn handle_published(&mut self, context: &mut Context<'_>, id: WillId) {
        let Some(key) = self.keys.remove(&id) else { return };
        let Some(publication) = self.underway.remove(&key) else { return };
        let (client, owner) = key;
        for keeper in publication.keepers {
            context.send(keeper, Message::WillDone { owner, client: client.clone() });
        }
    }

    fn start_timer(&mut self, at: Timestamp, shard: ShardId, (client, owner): (ClientId, Member)) {
        self.timers.insert((at, shard, client, owner));
    }

    /// Adds a keeper that is told when a will has been published; false if it is not being published.
    fn add_keeper(&mut self, client: &ClientId, owner: Member, keeper: Member) -> bool {
        let Some(publication) = self.underway.get_mut(&(client.clone(), owner)) else { return false };
        if !publication.keepers.contains(&keeper) {
            publication.keepers.push(keeper);
        }
        true
    }

    fn publish(&mut self, context: &mut Context<'_>, orphan: Orphan) {
        self.count += 1;
        let id = WillId(self.count);
        let SentOrphan { owner, client, will, .. } = orphan.sent;
        let mut message = will.will.message;
        if let Some(expiry) = will.will.expiry {
            Arc::make_mut(&mut message).expires_at = Some(context.now + expiry);
        }
        context.output(Output::PublishWill { id, client: client.clone(), message });
        let key = (client, owner);
        self.keys.insert(id, key.clone());
        self.underway.insert(key, Publication { keepers: orphan.keepers });
    }
}
