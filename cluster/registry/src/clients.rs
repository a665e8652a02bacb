//! This node's own clients: claims that wait, sessions that are here, and sessions on their way to another node.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use flotilla_mqtt::{Timestamp, session::ClientId};
use flotilla_state::{ConnectionEpoch, LogIndex, Member, ShardId};

use crate::{
    KeptWill, Limits, Output, Refusal, RequestId, Source, Tenure,
    context::Context,
    message::{Entry, EntryRole, Hold, Message, Origin, Past},
    own_will::OwnWill,
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Clients {
    limits: Limits,
    owned: BTreeMap<ClientId, Owned>,
    pending: BTreeMap<ClientId, Pending>,
    /// Stubs of sessions that went elsewhere: to whom.
    stubs_out: BTreeMap<(ClientId, ConnectionEpoch), Member>,
    /// Stubs of sessions that came from elsewhere: from whom.
    stubs_in: BTreeMap<(ClientId, ConnectionEpoch), Member>,
    deadlines: BTreeSet<(Timestamp, ClientId)>,
    /// The number of the last claim.
    claims: u64,
}

/// A client whose session or connection is here.
#[derive(Debug)]
struct Owned {
    tenure: Tenure,
    /// A registrar knows. While none does, somebody else may have the client, and a claim must ask.
    registered: bool,
    /// It is from an older life of this node: the next claim tells the registrar that the client is back, for the will.
    is_from_before: bool,
    /// The previous owner, until the shell has imported its session.
    importing: Option<Member>,
    origin: Option<Box<Origin>>,
    /// The claim that brought the client here started clean.
    clean: bool,
    will: Option<Box<OwnWill>>,
    export: Option<Box<Export>>,
}

impl Owned {
    /// Whether a claim of this node is none of the others' business.
    fn needs_nobody(&self) -> bool {
        self.registered && !self.is_from_before && self.export.is_none()
    }
}

/// A session on its way to another node.
#[derive(Debug)]
struct Export {
    epoch: ConnectionEpoch,
    to: Member,
    stage: ExportStage,
}

impl Export {
    fn is_sent(&self) -> bool {
        matches!(self.stage, ExportStage::Sent)
    }
}

#[derive(Debug)]
enum ExportStage {
    /// The shell has been asked for it.
    Asked {
        /// The new owner has given up or ended.
        cancelled: bool,
        /// Who wants it instead.
        next: Option<Wanted>,
    },
    /// It was sent, and is kept here until it is taken.
    Sent,
}

/// A demand for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    by: Member,
    epoch: ConnectionEpoch,
    discard: bool,
}

/// A CONNECT that waits.
#[derive(Debug)]
struct Pending {
    request: RequestId,
    clean_start: bool,
    deadline: Timestamp,
    claim: u64,
    /// Counts the CONNECTs that this one stands for.
    turn: u32,
    will: Option<Box<OwnWill>>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The registrar has been asked, or will be as soon as there is one.
    Asked,
    /// The claim was granted, and the previous owner has been asked for the session.
    Taking { epoch: ConnectionEpoch, previous: Hold, parts: BytesMut },
    /// The client belongs here; only its will is not yet kept.
    Ready { epoch: ConnectionEpoch, hand: Hand },
}

/// What a claim has brought.
#[derive(Debug)]
enum Hand {
    /// The client was here before.
    Local {
        /// The claim that it had before, if it is another one.
        previous: Option<Hold>,
    },
    /// No session.
    Nothing { origin: Option<Origin> },
    /// A session, whose previous owner keeps a copy.
    Session { previous: Hold, session: Bytes },
}

impl Pending {
    fn tenure(&self) -> Option<Tenure> {
        match self.stage {
            Stage::Asked => None,
            Stage::Taking { epoch, .. } | Stage::Ready { epoch, .. } => {
                Some(Tenure { epoch, turn: self.turn })
            }
        }
    }

    /// Whether it waits only within this node, with a claim that is confirmed.
    fn is_local(&self) -> bool {
        matches!(self.stage, Stage::Ready { hand: Hand::Local { previous: None }, .. })
    }
}

impl Clients {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            owned: BTreeMap::new(),
            pending: BTreeMap::new(),
            stubs_out: BTreeMap::new(),
            stubs_in: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            claims: 0,
        }
    }

    pub(crate) fn owned_len(&self) -> usize {
        self.owned.len()
    }

    pub(crate) fn pending_len(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn stubs_len(&self) -> usize {
        self.stubs_out.len() + self.stubs_in.len()
    }

    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    // Calls of the shell.

    pub(crate) fn claim(
        &mut self,
        context: &mut Context<'_>,
        request: RequestId,
        client: &ClientId,
        clean_start: bool,
        will: Option<KeptWill>,
    ) {
        let deadline = context.now + self.limits.claim_timeout;
        let will = will.map(|will| Box::new(OwnWill::new(will)));
        if let Some(pending) = self.pending.get_mut(client) {
            // The claim that is on its way serves the later CONNECT.
            let (request_before, deadline_before) = (pending.request, pending.deadline);
            let (tenure_before, will_before) = (pending.tenure(), pending.will.take());
            pending.request = request;
            pending.clean_start = clean_start;
            pending.deadline = deadline;
            pending.turn = pending.turn.saturating_add(1);
            pending.will = will;
            self.deadlines.remove(&(deadline_before, client.clone()));
            self.deadlines.insert((deadline, client.clone()));
            context.output(Output::Refused { request: request_before, refusal: Refusal::Superseded });
            if let (Some(tenure), Some(will)) = (tenure_before, will_before) {
                self.forget_claimed_will(context, client, tenure, *will);
            }
            return self.proceed(context, client);
        }
        if self.pending.len() >= self.limits.claims_pending_max {
            return context.output(Output::Refused { request, refusal: Refusal::Busy });
        }
        self.claims += 1;
        let claim = self.claims;
        let mut pending =
            Pending { request, clean_start, deadline, claim, turn: 0, will, stage: Stage::Asked };
        match self.owned.get(client) {
            Some(owned) if owned.needs_nobody() => {
                pending.turn = owned.tenure.turn.saturating_add(1);
                let hand = Hand::Local { previous: None };
                pending.stage = Stage::Ready { epoch: owned.tenure.epoch, hand };
            }
            _ => send_claim(context, client, claim),
        }
        self.deadlines.insert((deadline, client.clone()));
        self.pending.insert(client.clone(), pending);
        self.proceed(context, client);
    }

    pub(crate) fn cancel(&mut self, context: &mut Context<'_>, client: &ClientId, request: RequestId) {
        if self.pending.get(client).is_some_and(|pending| pending.request == request) {
            self.give_up(context, client, None);
        }
    }

    pub(crate) fn handle_imported(&mut self, context: &mut Context<'_>, client: &ClientId, tenure: Tenure) {
        let Some(owned) = self.owned.get_mut(client) else { return };
        // A takeover within the node may have come meanwhile.
        if owned.tenure.epoch != tenure.epoch {
            return;
        }
        let Some(previous) = owned.importing.take() else { return };
        owned.registered = true;
        let clean = owned.clean;
        let (client, epoch) = (client.clone(), tenure.epoch);
        context.send(previous, Message::Taken { client: client.clone(), epoch, wants_stub: true });
        context.send_registrar(&client.clone(), Message::Confirm { client, epoch, handed: true, clean });
    }

    pub(crate) fn release(&mut self, context: &mut Context<'_>, client: &ClientId, tenure: Tenure) {
        let Some(owned) = self.owned.get(client) else { return };
        if owned.tenure != tenure || owned.export.is_some() {
            // Somebody else has it by now, or `handle_exported` will say that it has ended.
            return;
        }
        let epoch = tenure.epoch;
        if let Some(previous) = owned.importing {
            context.send(previous, Message::Cancel { client: client.clone(), epoch });
            self.stubs_in.remove(&(client.clone(), epoch));
        }
        self.remove_owned(context, client, true);
    }

    pub(crate) fn keep_will(
        &mut self,
        context: &mut Context<'_>,
        client: &ClientId,
        tenure: Tenure,
        will: Option<KeptWill>,
    ) {
        let Some(owned) = self.owned.get_mut(client).filter(|owned| owned.tenure == tenure) else { return };
        let before = owned.will.take();
        match will {
            None => {
                if let Some(will) = before {
                    will.drop_everywhere(context, client, tenure);
                }
            }
            Some(will) => {
                let mut will = OwnWill::new(will);
                will.replace(before.map(|before| *before));
                will.place(context, client, tenure);
                owned.will = Some(Box::new(will));
            }
        }
    }

    pub(crate) fn delay_will(&mut self, context: &mut Context<'_>, client: &ClientId, tenure: Tenure) {
        let Some(owned) = self.owned.get_mut(client).filter(|owned| owned.tenure == tenure) else { return };
        if let Some(will) = &mut owned.will {
            will.begin_delay(context, client, tenure);
        }
    }

    pub(crate) fn handle_exported(
        &mut self,
        context: &mut Context<'_>,
        client: &ClientId,
        epoch: ConnectionEpoch,
        session: Option<Bytes>,
    ) {
        let owned = self.owned.get_mut(client);
        let asked = owned.and_then(|owned| match owned.export.as_deref() {
            Some(Export { epoch: asked, to, stage: ExportStage::Asked { cancelled, next } })
                if *asked == epoch =>
            {
                let (cancelled, next, to) = (*cancelled, *next, *to);
                Some((owned, cancelled, next, to))
            }
            _ => None,
        });
        let Some((owned, cancelled, next, to)) = asked else {
            if session.is_some() {
                // The client was discarded while the shell exported it: neither the copy nor the stub is for anybody.
                context.output(Output::StubVoid { client: client.clone(), epoch });
            }
            return;
        };
        let is_wanted = !cancelled && next.is_none();
        if let Some(will) = owned.will.take() {
            // It has been published or dropped with the connection.
            will.drop_everywhere(context, client, owned.tenure);
        }
        match session {
            Some(session) if is_wanted => {
                owned.export = Some(Box::new(Export { epoch, to, stage: ExportStage::Sent }));
                self.stubs_out.insert((client.clone(), epoch), to);
                send_session(context, client, epoch, to, session);
            }
            Some(_) => {
                owned.export = None;
                context.output(Output::TakeBack { client: client.clone(), epoch });
                if !owned.registered {
                    register(context, client, owned.tenure.epoch);
                }
                if let Some(wanted) = next {
                    self.hand_over(context, client, wanted);
                }
            }
            None => {
                self.remove_owned(context, client, true);
                let wanted = next.unwrap_or(Wanted { by: to, epoch, discard: false });
                if next.is_some() || !cancelled {
                    self.hand_over(context, client, wanted);
                }
            }
        }
    }

    pub(crate) fn settle(
        &mut self,
        context: &mut Context<'_>,
        client: &ClientId,
        epoch: ConnectionEpoch,
        index: LogIndex,
    ) {
        if let Some(&previous) = self.stubs_in.get(&(client.clone(), epoch)) {
            context.send(previous, Message::Settle { client: client.clone(), epoch, index });
        }
    }

    pub(crate) fn handle_stub_ended(&mut self, client: &ClientId, epoch: ConnectionEpoch) {
        let key = (client.clone(), epoch);
        self.stubs_out.remove(&key);
        self.stubs_in.remove(&key);
    }

    pub(crate) fn handle_deadline(&mut self, context: &mut Context<'_>) {
        while let Some((at, client)) = self.deadlines.first().cloned() {
            if at > context.now {
                return;
            }
            self.give_up(context, &client, Some(Refusal::Unavailable));
        }
    }

    // Messages of the registrar.

    pub(crate) fn handle_granted(
        &mut self,
        context: &mut Context<'_>,
        from: Member,
        client: &ClientId,
        claim: u64,
        epoch: ConnectionEpoch,
        previous: Option<Hold>,
    ) {
        if !context.is_current(client, from, epoch.shard) {
            return;
        }
        let Some(pending) = self.pending.get_mut(client) else { return };
        if pending.claim != claim || !matches!(pending.stage, Stage::Asked) {
            // It was given up: the registrar will learn.
            return;
        }
        let discard = pending.clean_start;
        match previous {
            Some(previous) if context.cluster.is_live(previous.member) => {
                pending.stage = Stage::Taking { epoch, previous, parts: BytesMut::new() };
                if previous.member == context.me {
                    self.place_will(context, client);
                    // The shell ends a session of its own when the client starts clean.
                    return self.hand_over(context, client, Wanted { by: context.me, epoch, discard: false });
                }
                context.send(previous.member, Message::Handover { client: client.clone(), epoch, discard });
            }
            _ => {
                let origin = previous.map(|previous| Origin { previous, handed: false });
                pending.stage = Stage::Ready { epoch, hand: Hand::Nothing { origin } };
            }
        }
        self.proceed(context, client);
    }

    pub(crate) fn handle_superseded(&mut self, context: &mut Context<'_>, client: &ClientId, claim: u64) {
        let Some(pending) = self.pending.get(client) else { return };
        if pending.claim == claim && matches!(pending.stage, Stage::Asked) {
            // The registrar has forgotten it already: it learns nothing new.
            self.give_up(context, client, Some(Refusal::Superseded));
        }
    }

    pub(crate) fn handle_registered(&mut self, client: &ClientId, epoch: ConnectionEpoch) {
        if let Some(owned) = self.owned.get_mut(client).filter(|owned| owned.tenure.epoch == epoch) {
            owned.registered = true;
        }
    }

    pub(crate) fn handle_discard(
        &mut self,
        context: &mut Context<'_>,
        client: &ClientId,
        epoch: ConnectionEpoch,
    ) {
        let Some(owned) = self.owned.get(client).filter(|owned| owned.tenure.epoch == epoch) else { return };
        let (client_id, tenure) = (client.clone(), owned.tenure);
        match owned.export.as_deref() {
            Some(Export { epoch, stage: ExportStage::Sent, .. }) => {
                // Somebody has it who had it from the new owner, or is the new owner.
                context.output(Output::Taken { client: client_id, epoch: *epoch });
                self.remove_owned(context, client, false);
            }
            Some(Export { epoch, to, stage: ExportStage::Asked { .. } }) => {
                let wanted = Wanted { by: *to, epoch: *epoch, discard: false };
                context.output(Output::Discard { client: client_id, tenure });
                self.remove_owned(context, client, false);
                self.hand_over(context, client, wanted);
            }
            None => {
                context.output(Output::Discard { client: client_id, tenure });
                self.remove_owned(context, client, false);
            }
        }
    }

    // Messages of the previous owner.

    pub(crate) fn handle_handed(
        &mut self,
        context: &mut Context<'_>,
        from: Member,
        client: &ClientId,
        epoch: ConnectionEpoch,
        part: Option<Bytes>,
        more: bool,
    ) {
        let Some(pending) = self.pending.get_mut(client) else { return };
        let Stage::Taking { epoch: expected, previous, parts } = &mut pending.stage else { return };
        if *expected != epoch || previous.member != from {
            return;
        }
        let previous = *previous;
        let hand = match part {
            None => Hand::Nothing { origin: Some(Origin { previous, handed: true }) },
            Some(part) => {
                parts.extend_from_slice(&part);
                if more {
                    return;
                }
                Hand::Session { previous, session: std::mem::take(parts).freeze() }
            }
        };
        pending.stage = Stage::Ready { epoch, hand };
        self.proceed(context, client);
    }

    // Messages of the new owner.

    pub(crate) fn handle_handover(
        &mut self,
        context: &mut Context<'_>,
        from: Member,
        client: &ClientId,
        epoch: ConnectionEpoch,
        discard: bool,
    ) {
        self.hand_over(context, client, Wanted { by: from, epoch, discard });
    }

    pub(crate) fn handle_cancel(
        &mut self,
        context: &mut Context<'_>,
        client: &ClientId,
        epoch: ConnectionEpoch,
    ) {
        let Some(owned) = self.owned.get_mut(client) else { return };
        let Some(export) = owned.export.as_mut().filter(|export| export.epoch == epoch) else { return };
        match &mut export.stage {
            ExportStage::Asked { cancelled, .. } => *cancelled = true,
            ExportStage::Sent => self.take_back(context, client),
        }
    }

    pub(crate) fn handle_taken(
        &mut self,
        context: &mut Context<'_>,
        client: &ClientId,
        epoch: ConnectionEpoch,
        wants_stub: bool,
    ) {
        let export = self.owned.get(client).and_then(|owned| owned.export.as_deref());
        if export.is_some_and(|export| export.epoch == epoch && export.is_sent()) {
            context.output(Output::Taken { client: client.clone(), epoch });
            // A registrar that took office in between may know this node as the owner, if the new one has gone since.
            self.remove_owned(context, client, true);
        }
        if !wants_stub {
            self.handle_unstub(context, client, epoch);
        }
    }

    pub(crate) fn handle_settle(
        &mut self,
        context: &mut Context<'_>,
        client: &ClientId,
        epoch: ConnectionEpoch,
        index: LogIndex,
    ) {
        if let Some(&to) = self.stubs_out.get(&(client.clone(), epoch)) {
            context.output(Output::Settle { client: client.clone(), epoch, to, index });
        }
    }

    pub(crate) fn handle_unstub(
        &mut self,
        context: &mut Context<'_>,
        client: &ClientId,
        epoch: ConnectionEpoch,
    ) {
        if self.stubs_out.remove(&(client.clone(), epoch)).is_some() {
            context.output(Output::StubVoid { client: client.clone(), epoch });
        }
    }

    // Messages of the keepers.

    pub(crate) fn handle_kept(
        &mut self,
        context: &mut Context<'_>,
        from: Member,
        client: &ClientId,
        tenure: Tenure,
    ) {
        if let Some(pending) = self.pending.get_mut(client)
            && pending.tenure() == Some(tenure)
        {
            if let Some(will) = &mut pending.will {
                will.handle_kept(context, client, tenure, from);
            }
            self.proceed(context, client);
        } else if let Some(owned) = self.owned.get_mut(client)
            && owned.tenure == tenure
            && let Some(will) = &mut owned.will
        {
            will.handle_kept(context, client, tenure, from);
        }
    }

    // Changes of the cluster.

    /// The lease is lost or this life is over: nothing that waits will be answered, and what is between two nodes is not
    /// this node's any more. Away sessions stay.
    pub(crate) fn handle_fenced(&mut self, mut output: impl FnMut(Output)) {
        for pending in std::mem::take(&mut self.pending).into_values() {
            output(Output::Refused { request: pending.request, refusal: Refusal::Unavailable });
        }
        self.deadlines.clear();
        self.stubs_in.clear();
        self.stubs_out.clear();
        self.owned.retain(|client, owned| {
            owned.registered = false;
            owned.is_from_before = true;
            owned.will = None;
            owned.origin = None;
            // Which of the two has it is not for this one to say: the other one lives.
            let is_mine = owned.export.is_none() && owned.importing.is_none();
            if !is_mine {
                output(Output::Discard { client: client.clone(), tenure: owned.tenure });
            }
            is_mine
        });
    }

    /// Members have ended.
    pub(crate) fn handle_ended(&mut self, context: &mut Context<'_>, ended: &[Member]) {
        let is_gone = |member: &Member| ended.contains(member);
        let taking: Vec<ClientId> = self
            .pending
            .iter()
            .filter(|(_, pending)| {
                matches!(&pending.stage, Stage::Taking { previous, .. } if is_gone(&previous.member))
            })
            .map(|(client, _)| client.clone())
            .collect();
        for client in taking {
            let Some(pending) = self.pending.get_mut(&client) else { continue };
            let Stage::Taking { epoch, previous, .. } = pending.stage else { continue };
            let origin = Some(Origin { previous, handed: false });
            pending.stage = Stage::Ready { epoch, hand: Hand::Nothing { origin } };
            self.proceed(context, &client);
        }
        let exports: Vec<ClientId> = self
            .owned
            .iter()
            .filter(|(_, owned)| owned.export.is_some())
            .map(|(client, _)| client.clone())
            .collect();
        for client in exports {
            self.end_export(context, &client, ended);
        }
        for stubs in [&mut self.stubs_out, &mut self.stubs_in] {
            stubs.retain(|(client, epoch), member| {
                let is_void = is_gone(member);
                if is_void {
                    context.output(Output::StubVoid { client: client.clone(), epoch: *epoch });
                }
                !is_void
            });
        }
    }

    /// The registrar or the keepers of some shards are others now: they are told what they must know, first the wills, then
    /// the report, then the claims that are still to be granted.
    pub(crate) fn move_wills(&mut self, context: &mut Context<'_>, shards: &BTreeSet<ShardId>) {
        if shards.is_empty() {
            return;
        }
        for (client, owned) in &mut self.owned {
            if let Some(will) = &mut owned.will
                && shards.contains(&context.cluster.shard_of(client))
            {
                will.place(context, client, owned.tenure);
            }
        }
        let waiting: Vec<ClientId> = self
            .pending
            .iter()
            .filter(|(client, pending)| {
                pending.will.is_some() && shards.contains(&context.cluster.shard_of(client))
            })
            .map(|(client, _)| client.clone())
            .collect();
        for client in waiting {
            self.proceed(context, &client);
        }
    }

    /// What this node has in some shards.
    pub(crate) fn entries(
        &self,
        context: &Context<'_>,
        shards: &BTreeSet<ShardId>,
    ) -> BTreeMap<ShardId, Vec<Entry>> {
        let mut entries: BTreeMap<ShardId, Vec<Entry>> = BTreeMap::new();
        for (client, owned) in &self.owned {
            let shard = context.cluster.shard_of(client);
            if shards.contains(&shard) {
                let role = match (owned.importing, owned.origin.as_deref()) {
                    (Some(_), Some(origin)) => {
                        EntryRole::Claimant { claim: 0, previous: Some(origin.previous) }
                    }
                    (_, origin) => {
                        let past = Past { origin: origin.copied(), clean: owned.clean };
                        // The new owner may have it already, and then goes first.
                        let is_sent = owned.export.as_deref().is_some_and(Export::is_sent);
                        EntryRole::Owner { registered: owned.registered && !is_sent, past }
                    }
                };
                let entry = Entry { client: client.clone(), epoch: owned.tenure.epoch, role };
                entries.entry(shard).or_default().push(entry);
            }
        }
        for (client, pending) in &self.pending {
            let shard = context.cluster.shard_of(client);
            let (epoch, previous) = match &pending.stage {
                Stage::Taking { epoch, previous, .. } => (*epoch, Some(*previous)),
                Stage::Ready { epoch, hand } => match hand {
                    Hand::Local { previous: None } => continue,
                    Hand::Local { previous } => (*epoch, *previous),
                    Hand::Nothing { origin } => (*epoch, origin.map(|origin| origin.previous)),
                    Hand::Session { previous, .. } => (*epoch, Some(*previous)),
                },
                Stage::Asked => continue,
            };
            if shards.contains(&shard) {
                let role = EntryRole::Claimant { claim: pending.claim, previous };
                entries.entry(shard).or_default().push(Entry { client: client.clone(), epoch, role });
            }
        }
        entries
    }

    /// Asks the new registrars of some shards for what the old ones have not granted.
    pub(crate) fn claim_again(&self, context: &mut Context<'_>, shards: &BTreeSet<ShardId>) {
        for (client, pending) in &self.pending {
            if matches!(pending.stage, Stage::Asked) && shards.contains(&context.cluster.shard_of(client)) {
                send_claim(context, client, pending.claim);
            }
        }
    }

    /// While this node is no member: a session has ended.
    pub(crate) fn forget(&mut self, client: &ClientId, tenure: Tenure) {
        if self.owned.get(client).is_some_and(|owned| owned.tenure == tenure) {
            self.owned.remove(client);
        }
    }

    // Steps.

    /// Goes on with a claim that was granted: has its will kept, and tells the shell when all is there.
    fn proceed(&mut self, context: &mut Context<'_>, client: &ClientId) {
        self.place_will(context, client);
        let Some(pending) = self.pending.get(client) else { return };
        let is_kept = pending.will.as_ref().is_none_or(|will| will.is_kept(context, client));
        if !is_kept || !matches!(pending.stage, Stage::Ready { .. }) {
            return;
        }
        let Some(pending) = self.pending.remove(client) else { return };
        self.deadlines.remove(&(pending.deadline, client.clone()));
        self.grant(context, client, pending);
    }

    fn place_will(&mut self, context: &mut Context<'_>, client: &ClientId) {
        let Some(pending) = self.pending.get_mut(client) else { return };
        if let Some(tenure) = pending.tenure()
            && let Some(will) = &mut pending.will
        {
            will.place(context, client, tenure);
        }
    }

    fn grant(&mut self, context: &mut Context<'_>, client: &ClientId, pending: Pending) {
        let Pending { request, clean_start, turn, mut will, stage, .. } = pending;
        let Stage::Ready { epoch, hand } = stage else { unreachable!("only what is ready is granted") };
        let tenure = Tenure { epoch, turn };
        let mut before = self.owned.remove(client);
        if !matches!(hand, Hand::Local { .. })
            && let Some(before) = before.take()
        {
            // The client has been elsewhere: what is still here is only what this node has not been told of yet.
            let taken = before.export.filter(|export| export.is_sent());
            context.output(match taken {
                Some(export) => Output::Taken { client: client.clone(), epoch: export.epoch },
                None => Output::Discard { client: client.clone(), tenure: before.tenure },
            });
            if let Some(old) = before.will {
                old.drop_everywhere(context, client, before.tenure);
            }
        }
        let mut owned = Owned {
            tenure,
            registered: true,
            is_from_before: false,
            importing: None,
            origin: None,
            clean: clean_start,
            will: None,
            export: None,
        };
        let confirm = |origin: Option<Origin>| {
            let handed = origin.is_some_and(|origin| origin.handed);
            let client = client.clone();
            Message::Confirm { client, epoch, handed, clean: clean_start }
        };
        let mut stub = None;
        let source = match hand {
            Hand::Local { previous } => {
                if let Some(mut before) = before {
                    owned.importing = before.importing;
                    owned.registered = before.registered || previous.is_some();
                    owned.origin = before.origin;
                    if previous.is_none() {
                        owned.clean = before.clean;
                    }
                    if let Some(old) = before.will.take() {
                        match &mut will {
                            Some(will) => {
                                will.replace(Some(*old));
                                will.place(context, client, tenure);
                            }
                            None => old.drop_everywhere(context, client, tenure),
                        }
                    }
                }
                if let Some(previous) = previous {
                    let origin = Origin { previous, handed: true };
                    owned.origin = None;
                    context.send_registrar(client, confirm(Some(origin)));
                }
                Source::Here
            }
            Hand::Nothing { origin } => {
                owned.origin = origin.map(Box::new);
                context.send_registrar(client, confirm(origin));
                Source::Nowhere
            }
            Hand::Session { previous, session } => {
                let origin = Origin { previous, handed: true };
                owned.origin = Some(Box::new(origin));
                if clean_start {
                    // It had already been asked for when the client changed its mind.
                    let taken = Message::Taken { client: client.clone(), epoch, wants_stub: false };
                    context.send(previous.member, taken);
                    context.send_registrar(client, confirm(Some(origin)));
                    Source::Nowhere
                } else {
                    owned.importing = Some(previous.member);
                    if context.cluster.is_live(previous.member) {
                        self.stubs_in.insert((client.clone(), epoch), previous.member);
                    } else {
                        stub = Some(Output::StubVoid { client: client.clone(), epoch });
                    }
                    Source::Elsewhere { from: previous.member, session }
                }
            }
        };
        owned.will = will;
        self.owned.insert(client.clone(), owned);
        context.output(Output::Granted { request, client: client.clone(), tenure, source });
        if let Some(stub) = stub {
            context.output(stub);
        }
    }

    /// Gives up a claim, at whatever stage it is.
    fn give_up(&mut self, context: &mut Context<'_>, client: &ClientId, refusal: Option<Refusal>) {
        let Some(pending) = self.pending.remove(client) else { return };
        self.deadlines.remove(&(pending.deadline, client.clone()));
        if !pending.is_local() {
            let withdraw = Message::Withdraw { client: client.clone(), claim: pending.claim };
            context.send_registrar(client, withdraw);
        }
        let tenure = pending.tenure();
        let giver = match &pending.stage {
            Stage::Taking { epoch, previous, .. } => Some((previous.member, *epoch)),
            Stage::Ready { epoch, hand: Hand::Session { previous, .. } } => Some((previous.member, *epoch)),
            _ => None,
        };
        match giver {
            Some((giver, epoch)) if giver == context.me => self.forget_wanted(client, epoch),
            Some((giver, epoch)) => context.send(giver, Message::Cancel { client: client.clone(), epoch }),
            None => {}
        }
        if let (Some(tenure), Some(will)) = (tenure, pending.will) {
            self.forget_claimed_will(context, client, tenure, *will);
        }
        if let Some(refusal) = refusal {
            context.output(Output::Refused { request: pending.request, refusal });
        }
    }

    /// This node's own claim waited for its own export, and does no more.
    fn forget_wanted(&mut self, client: &ClientId, epoch: ConnectionEpoch) {
        if let Some(owned) = self.owned.get_mut(client)
            && let Some(export) = &mut owned.export
            && let ExportStage::Asked { cancelled, next } = &mut export.stage
            && next.is_some_and(|next| next.epoch == epoch)
        {
            *next = None;
            *cancelled = true;
        }
    }

    /// Somebody, who may be this node, has been granted a client that is here.
    fn hand_over(&mut self, context: &mut Context<'_>, client: &ClientId, wanted: Wanted) {
        let Some(owned) = self.owned.get_mut(client) else {
            return self.hand_nothing(context, client, wanted);
        };
        if wanted.epoch <= owned.tenure.epoch {
            // It has been given up, or this node would not own a later one.
            return;
        }
        match &mut owned.export {
            None => self.begin_export(context, client, wanted),
            Some(export) if wanted.epoch <= export.epoch => {}
            Some(export) => match &mut export.stage {
                ExportStage::Asked { next, .. } => {
                    // Claims of one client are granted one after the other: the first one has been given up.
                    if next.is_none_or(|next| next.epoch < wanted.epoch) {
                        *next = Some(wanted);
                    }
                }
                ExportStage::Sent => {
                    self.take_back(context, client);
                    self.begin_export(context, client, wanted);
                }
            },
        }
    }

    fn hand_nothing(&mut self, context: &mut Context<'_>, client: &ClientId, wanted: Wanted) {
        let Wanted { by, epoch, .. } = wanted;
        if by != context.me {
            return context
                .send(by, Message::Handed { client: client.clone(), epoch, part: None, more: false });
        }
        let Some(pending) = self.pending.get_mut(client) else { return };
        if let Stage::Taking { epoch: expected, previous, .. } = pending.stage
            && expected == epoch
        {
            let origin = Some(Origin { previous, handed: true });
            pending.stage = Stage::Ready { epoch, hand: Hand::Nothing { origin } };
            self.proceed(context, client);
        }
    }

    fn begin_export(&mut self, context: &mut Context<'_>, client: &ClientId, wanted: Wanted) {
        let Wanted { by, epoch, discard } = wanted;
        let Some(owned) = self.owned.get_mut(client) else { return };
        if by == context.me {
            let Some(pending) = self.pending.get_mut(client) else { return };
            if let Stage::Taking { epoch: expected, previous, .. } = pending.stage
                && expected == epoch
            {
                pending.stage = Stage::Ready { epoch, hand: Hand::Local { previous: Some(previous) } };
                self.proceed(context, client);
            }
            return;
        }
        let stage = ExportStage::Asked { cancelled: false, next: None };
        owned.export = Some(Box::new(Export { epoch, to: by, stage }));
        context.output(Output::Export { client: client.clone(), epoch, to: by, discard });
        if self.pending.get(client).is_some_and(Pending::is_local) {
            self.ask_registrar(context, client);
        }
    }

    /// A claim that needed nobody else does now.
    fn ask_registrar(&mut self, context: &mut Context<'_>, client: &ClientId) {
        let Some(pending) = self.pending.get_mut(client) else { return };
        let tenure = pending.tenure();
        pending.stage = Stage::Asked;
        pending.turn = 0;
        send_claim(context, client, pending.claim);
        if let (Some(tenure), Some(will)) = (tenure, pending.will.take()) {
            pending.will = Some(Box::new(will.anew()));
            self.forget_claimed_will(context, client, tenure, *will);
        }
    }

    /// The will of a claim that does not go on, or goes on under another name, is not to be kept. At its keepers it may
    /// have taken the place of that of the connection that is still here.
    fn forget_claimed_will(
        &mut self,
        context: &mut Context<'_>,
        client: &ClientId,
        tenure: Tenure,
        will: OwnWill,
    ) {
        will.drop_everywhere(context, client, tenure);
        if let Some(owned) = self.owned.get_mut(client)
            && let Some(will) = &mut owned.will
        {
            will.place_again(context, client, owned.tenure);
        }
    }

    /// The copy of a session that was sent becomes the session again.
    fn take_back(&mut self, context: &mut Context<'_>, client: &ClientId) {
        let Some(owned) = self.owned.get_mut(client) else { return };
        let Some(export) = owned.export.take() else { return };
        self.stubs_out.remove(&(client.clone(), export.epoch));
        context.output(Output::TakeBack { client: client.clone(), epoch: export.epoch });
    }

    /// Looks at an export after members have ended.
    fn end_export(&mut self, context: &mut Context<'_>, client: &ClientId, ended: &[Member]) {
        let Some(owned) = self.owned.get_mut(client) else { return };
        let Some(export) = &mut owned.export else { return };
        let is_void = ended.contains(&export.to);
        match &mut export.stage {
            ExportStage::Asked { cancelled, next } => {
                if next.is_some_and(|next| ended.contains(&next.by)) {
                    *next = None;
                    *cancelled = true;
                }
                if is_void {
                    *cancelled = true;
                }
            }
            ExportStage::Sent if is_void => {
                // The registrar may have known the new owner: it has to say whether this one still counts.
                owned.registered = false;
                let epoch = owned.tenure.epoch;
                self.take_back(context, client);
                register(context, client, epoch);
            }
            ExportStage::Sent => {}
        }
    }

    /// Forgets a client that is here no more.
    fn remove_owned(&mut self, context: &mut Context<'_>, client: &ClientId, tell_registrar: bool) {
        let Some(owned) = self.owned.remove(client) else { return };
        let Tenure { epoch, .. } = owned.tenure;
        if let Some(will) = owned.will {
            will.drop_everywhere(context, client, owned.tenure);
        }
        if owned.export.is_none_or(|export| !export.is_sent())
            && let Some(previous) = self.stubs_in.remove(&(client.clone(), epoch))
        {
            context.send(previous, Message::Unstub { client: client.clone(), epoch });
        }
        if tell_registrar {
            context.send_registrar(client, Message::Release { client: client.clone(), epoch });
        }
        if self.pending.get(client).is_some_and(Pending::is_local) {
            self.ask_registrar(context, client);
        } else if let Some(pending) = self.pending.get_mut(client)
            && let Stage::Ready { epoch, hand: Hand::Local { previous } } = &pending.stage
        {
            let origin = previous.map(|previous| Origin { previous, handed: true });
            pending.stage = Stage::Ready { epoch: *epoch, hand: Hand::Nothing { origin } };
        }
    }
}

fn send_claim(context: &mut Context<'_>, client: &ClientId, claim: u64) {
    if let Some(term) = context.cluster.term(context.cluster.shard_of(client)) {
        context.send(term.registrar, Message::Claim { client: client.clone(), term: term.epoch, claim });
    }
}

fn register(context: &mut Context<'_>, client: &ClientId, epoch: ConnectionEpoch) {
    context.send_registrar(client, Message::Register { client: client.clone(), epoch });
}

/// A session goes in parts, so that nothing else waits long behind a large one.
const PART_BYTES_MAX: usize = 256 << 10;

fn send_session(
    context: &mut Context<'_>,
    client: &ClientId,
    epoch: ConnectionEpoch,
    to: Member,
    mut session: Bytes,
) {
    loop {
        let part = session.split_to(session.len().min(PART_BYTES_MAX));
        let more = !session.is_empty();
        context.send(to, Message::Handed { client: client.clone(), epoch, part: Some(part), more });
        if !more {
            return;
        }
    }
}
