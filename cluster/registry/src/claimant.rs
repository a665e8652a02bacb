//! This node's CONNECTs that wait, from the call of the shell to its answer.
//!
//! A claim of a client that is settled here is ready at once. Any other one asks the registrar, and when it is granted, the
//! previous owner for the session. What is ready still waits for its will to be kept, and then goes to the [`Owner`].
//!
//! # Invariants
//!
//! * A client has one claim at most. A later CONNECT takes the place of the one that waits, whatever that has reached.
//! * Every claim has one deadline, and is granted or refused by then, or cancelled.
//! * A claim that is ready without anybody else's word has its client at the [`Owner`], settled: what changes there comes as
//!   [`News`], and then the registrar is asked after all.
//! * A claim that is given up is given up everywhere: the registrar, the previous owner and the keepers of its will hear of it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use flotilla_mqtt::{Timestamp, session::ClientId};
use flotilla_state::{ConnectionEpoch, Member, ShardId};

use crate::{
    KeptWill, Limits, Output, Refusal, RequestId, Tenure,
    context::Context,
    message::{Entry, EntryRole, Hold, Message, Origin},
    own_will::OwnWill,
    owner::{Arrival, Hand, News, Owner, Wanted},
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

impl Claimant {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, pending: BTreeMap::new(), deadlines: BTreeSet::new(), claims: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether a CONNECT that waits here was granted the client after `epoch`.
    pub(crate) fn has_later(&self, client: &ClientId, epoch: ConnectionEpoch) -> bool {
        let tenure = self.pending.get(client).and_then(Pending::tenure);
        tenure.is_some_and(|tenure| tenure.epoch > epoch)
    }

    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    // Calls of the shell.

    pub(crate) fn claim(
        &mut self,
        context: &mut Context<'_>,
        owner: &mut Owner,
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
                forget_will(context, owner, client, tenure, *will);
            }
            return self.proceed(context, owner, client);
        }
        if self.pending.len() >= self.limits.claims_pending_max {
            return context.output(Output::Refused { request, refusal: Refusal::Busy });
        }
        self.claims += 1;
        let claim = self.claims;
        let mut pending =
            Pending { request, clean_start, deadline, claim, turn: 0, will, stage: Stage::Asked };
        match owner.settled(client) {
            Some(tenure) => {
                pending.turn = tenure.turn.saturating_add(1);
                let hand = Hand::Local { previous: None };
                pending.stage = Stage::Ready { epoch: tenure.epoch, hand };
            }
            None => send_claim(context, client, claim),
        }
        self.deadlines.insert((deadline, client.clone()));
        self.pending.insert(client.clone(), pending);
        self.proceed(context, owner, client);
    }

    pub(crate) fn cancel(
        &mut self,
        context: &mut Context<'_>,
        owner: &mut Owner,
        client: &ClientId,
        request: RequestId,
    ) {
        if self.pending.get(client).is_some_and(|pending| pending.request == request) {
            self.give_up(context, owner, client, None);
        }
    }

    pub(crate) fn handle_deadline(&mut self, context: &mut Context<'_>, owner: &mut Owner) {
        while let Some((at, client)) = self.deadlines.first().cloned() {
            if at > context.now {
                return;
            }
            self.give_up(context, owner, &client, Some(Refusal::Unavailable));
        }
    }

    // What this node has itself.

    /// To be called with what each step of the [`Owner`] returns, before anything else is done.
    pub(crate) fn handle_news(
        &mut self,
        context: &mut Context<'_>,
        owner: &mut Owner,
        client: &ClientId,
        news: Option<News>,
    ) {
        match news {
            None => {}
            Some(News::Here { epoch }) => {
                self.end_taking(context, owner, client, epoch, |previous| Hand::Local {
                    previous: Some(previous),
                });
            }
            Some(News::Nothing { epoch }) => {
                self.end_taking(context, owner, client, epoch, |previous| Hand::Nothing {
                    origin: Some(Origin { previous, handed: true }),
                });
            }
            Some(News::Leaving) => self.handle_leaving(context, owner, client),
            Some(News::Gone { next }) => {
                self.handle_gone(context, owner, client);
                if let Some(wanted) = next {
                    let news = owner.hand_over(context, client, wanted);
                    self.handle_news(context, owner, client, news);
                }
            }
        }
    }

    fn handle_leaving(&mut self, context: &mut Context<'_>, owner: &mut Owner, client: &ClientId) {
        if self.pending.get(client).is_some_and(Pending::is_local) {
            self.ask_registrar(context, owner, client);
        }
    }

    fn handle_gone(&mut self, context: &mut Context<'_>, owner: &mut Owner, client: &ClientId) {
        let Some(pending) = self.pending.get_mut(client) else { return };
        if pending.is_local() {
            self.ask_registrar(context, owner, client);
        } else if let Stage::Ready { epoch, hand: Hand::Local { previous } } = &pending.stage {
            let origin = previous.map(|previous| Origin { previous, handed: true });
            pending.stage = Stage::Ready { epoch: *epoch, hand: Hand::Nothing { origin } };
        }
    }

    // Messages of the registrar.

    pub(crate) fn handle_granted(
        &mut self,
        context: &mut Context<'_>,
        owner: &mut Owner,
        from: Member,
        client: &ClientId,
        claim: u64,
        hold: (ConnectionEpoch, Option<Hold>),
    ) {
        let (epoch, previous) = hold;
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
                    let wanted = Wanted { by: context.me, epoch, discard: false };
                    let news = owner.hand_over(context, client, wanted);
                    return self.handle_news(context, owner, client, news);
                }
                context.send(previous.member, Message::Handover { client: client.clone(), epoch, discard });
            }
            _ => {
                let origin = previous.map(|previous| Origin { previous, handed: false });
                pending.stage = Stage::Ready { epoch, hand: Hand::Nothing { origin } };
            }
        }
        self.proceed(context, owner, client);
    }

    pub(crate) fn handle_superseded(
        &mut self,
        context: &mut Context<'_>,
        owner: &mut Owner,
        client: &ClientId,
        claim: u64,
    ) {
        let Some(pending) = self.pending.get(client) else { return };
        if pending.claim == claim && matches!(pending.stage, Stage::Asked) {
            // The registrar has forgotten it already: it learns nothing new.
            self.give_up(context, owner, client, Some(Refusal::Superseded));
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
        (part, more): (Option<Bytes>, bool),
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
        self.proceed(context, owner, client);
    }

    // Messages of the keepers.

    /// A member has the will of this tenure, which may be one that is granted already.
    pub(crate) fn handle_kept(
        &mut self,
        context: &mut Context<'_>,
        owner: &mut Owner,
        from: Member,
        client: &ClientId,
        tenure: Tenure,
    ) {
        let Some(pending) = self.pending.get_mut(client).filter(|pending| pending.tenure() == Some(tenure))
        else {
            return owner.handle_kept(context, from, client, tenure);
        };
        if let Some(will) = &mut pending.will {
            will.handle_kept(context, client, tenure, from);
        }
        self.proceed(context, owner, client);
    }

    // Changes of the cluster.

    /// The lease is lost or this life is over: nothing that waits will be answered.
    pub(crate) fn handle_fenced(&mut self, mut output: impl FnMut(Output)) {
        for pending in std::mem::take(&mut self.pending).into_values() {
            output(Output::Refused { request: pending.request, refusal: Refusal::Unavailable });
        }
        self.deadlines.clear();
    }

    /// Members have ended: who waits for a session of theirs gets none.
    pub(crate) fn handle_ended(&mut self, context: &mut Context<'_>, owner: &mut Owner, ended: &[Member]) {
        let is_vain = |pending: &Pending| match &pending.stage {
            Stage::Taking { epoch, previous, .. } if ended.contains(&previous.member) => Some(*epoch),
            _ => None,
        };
        let taking: Vec<(ClientId, ConnectionEpoch)> = self
            .pending
            .iter()
            .filter_map(|(client, pending)| Some((client.clone(), is_vain(pending)?)))
            .collect();
        for (client, epoch) in taking {
            self.end_taking(context, owner, &client, epoch, |previous| Hand::Nothing {
                origin: Some(Origin { previous, handed: false }),
            });
        }
    }

    /// The keepers of some shards are others now.
    pub(crate) fn move_wills(
        &mut self,
        context: &mut Context<'_>,
        owner: &mut Owner,
        shards: &BTreeSet<ShardId>,
    ) {
        let waiting: Vec<ClientId> = self
            .pending
            .iter()
            .filter(|(client, pending)| {
                pending.will.is_some() && shards.contains(&context.cluster.shard_of(client))
            })
            .map(|(client, _)| client.clone())
            .collect();
        for client in waiting {
            self.proceed(context, owner, &client);
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

    /// Goes on with a claim that was granted: has its will kept, and hands over to the owner when all is there.
    fn proceed(&mut self, context: &mut Context<'_>, owner: &mut Owner, client: &ClientId) {
        self.place_will(context, client);
        let Some(pending) = self.pending.get(client) else { return };
        let is_kept = pending.will.as_ref().is_none_or(|will| will.is_kept(context, client));
        if !is_kept || !matches!(pending.stage, Stage::Ready { .. }) {
            return;
        }
        let Some(pending) = self.pending.remove(client) else { return };
        self.deadlines.remove(&(pending.deadline, client.clone()));
        let Pending { request, clean_start, turn, will, stage, .. } = pending;
        let Stage::Ready { epoch, hand } = stage else { unreachable!("only what is ready is granted") };
        let tenure = Tenure { epoch, turn };
        owner.begin(context, client, Arrival { request, tenure, clean_start, will, hand });
    }

    fn place_will(&mut self, context: &mut Context<'_>, client: &ClientId) {
        let Some(pending) = self.pending.get_mut(client) else { return };
        if let Some(tenure) = pending.tenure()
            && let Some(will) = &mut pending.will
        {
            will.place(context, client, tenure);
        }
    }

    /// Waits no longer for the previous owner, with a claim that was granted under `epoch`.
    fn end_taking(
        &mut self,
        context: &mut Context<'_>,
        owner: &mut Owner,
        client: &ClientId,
        epoch: ConnectionEpoch,
        hand: impl FnOnce(Hold) -> Hand,
    ) {
        let Some(pending) = self.pending.get_mut(client) else { return };
        if let Stage::Taking { epoch: expected, previous, .. } = pending.stage
            && expected == epoch
        {
            pending.stage = Stage::Ready { epoch, hand: hand(previous) };
            self.proceed(context, owner, client);
        }
    }

    /// A claim that needed nobody else does now.
    fn ask_registrar(&mut self, context: &mut Context<'_>, owner: &mut Owner, client: &ClientId) {
        let Some(pending) = self.pending.get_mut(client) else { return };
        let tenure = pending.tenure();
        pending.stage = Stage::Asked;
        pending.turn = 0;
        send_claim(context, client, pending.claim);
        if let (Some(tenure), Some(will)) = (tenure, pending.will.take()) {
            pending.will = Some(Box::new(will.anew()));
            forget_will(context, owner, client, tenure, *will);
        }
    }

    /// Gives up a claim, at whatever stage it is.
    fn give_up(
        &mut self,
        context: &mut Context<'_>,
        owner: &mut Owner,
        client: &ClientId,
        refusal: Option<Refusal>,
    ) {
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
            Some((giver, epoch)) if giver == context.me => owner.forget_wanted(client, epoch),
            Some((giver, epoch)) => context.send(giver, Message::Cancel { client: client.clone(), epoch }),
            None => {}
        }
        if let (Some(tenure), Some(will)) = (tenure, pending.will) {
            forget_will(context, owner, client, tenure, *will);
        }
        if let Some(refusal) = refusal {
            context.output(Output::Refused { request: pending.request, refusal });
        }
    }
}

/// The will of a claim that does not go on, or goes on under another name, is not to be kept. At its keepers it may have
/// taken the place of that of the connection that is still here.
fn forget_will(
    context: &mut Context<'_>,
    owner: &mut Owner,
    client: &ClientId,
    tenure: Tenure,
    will: OwnWill,
) {
    will.drop_everywhere(context, client, tenure);
    owner.place_will_again(context, client);
}

fn send_claim(context: &mut Context<'_>, client: &ClientId, claim: u64) {
    if let Some(term) = context.cluster.term(context.cluster.shard_of(client)) {
        context.send(term.registrar, Message::Claim { client: client.clone(), term: term.epoch, claim });
    }
}
