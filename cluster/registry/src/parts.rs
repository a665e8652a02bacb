//! The parts that a node plays, and which of them a message or a change of the cluster is for.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_state::{Member, ShardId};

use crate::{
    Limits, Output,
    claimant::Claimant,
    context::{Context, Term},
    message::{Entry, Hold, Message, Report},
    owner::Owner,
    registrar::Registrar,
};

/// See the module. What a call of the shell is for one part alone goes to that part.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) claimant: Claimant,
    pub(crate) owner: Owner,
    pub(crate) registrar: Registrar,
}

/// The registrar of each shard that this node has told what it has there.
pub(crate) type Told = BTreeMap<ShardId, Option<Term>>;

/// So many entries go into one message of a report.
const ENTRIES_MAX: usize = 1_024;

impl Parts {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { claimant: Claimant::new(limits), owner: Owner::default(), registrar: Registrar::default() }
    }

    /// The lease is lost or this life is over: what is known for others is void.
    pub(crate) fn handle_fenced(&mut self, mut output: impl FnMut(Output)) {
        self.registrar.clear();
        self.claimant.handle_fenced(&mut output);
        self.owner.handle_fenced(output);
    }

    /// Members have ended, if there are any, and placements may have changed.
    pub(crate) fn handle_ended(&mut self, context: &mut Context<'_>, ended: &[Member]) {
        self.registrar.handle_view(context, ended);
        self.claimant.handle_ended(context, &mut self.owner, ended);
    }

    /// Tells new registrars what they must know; returns whom it has told.
    pub(crate) fn report(&mut self, context: &mut Context<'_>, before: &Told) -> Told {
        let terms = context.cluster.shards().map(|shard| (shard, context.cluster.term(shard)));
        let told: Told = terms.collect();
        let is_news = |(shard, term): &(&ShardId, &Option<Term>)| before.get(*shard) != Some(*term);
        let changed: BTreeSet<ShardId> = told.iter().filter(is_news).map(|(shard, _)| *shard).collect();
        let mut entries = BTreeMap::new();
        self.owner.report(context, &changed, &mut entries);
        self.claimant.report(context, &changed, &mut entries);
        for &shard in &changed {
            let Some(term) = told.get(&shard).copied().flatten() else { continue };
            let entries: Vec<Entry> = entries.remove(&shard).unwrap_or_default();
            let report = |entries, last| Message::Report(Report { shard, term: term.epoch, entries, last });
            for entries in entries.chunks(ENTRIES_MAX) {
                context.send(term.registrar, report(entries.to_vec(), false));
            }
            context.send(term.registrar, report(Vec::new(), true));
        }
        self.claimant.claim_again(context, &changed);
        told
    }

    /// A message of a member, which may be this one.
    pub(crate) fn handle(&mut self, context: &mut Context<'_>, from: Member, message: Message) {
        let Self { claimant, owner, registrar } = self;
        match message {
            Message::Claim { client, term, claim } => {
                if let Some(office) = registrar.office_of(context, &client) {
                    office.handle_claim(context, from, &client, term, claim);
                }
            }
            Message::Withdraw { client, claim } => {
                if let Some(office) = registrar.office_of(context, &client) {
                    office.handle_withdraw(context, from, &client, claim);
                }
            }
            Message::Confirm { client, epoch } => {
                if let Some(office) = registrar.office_of(context, &client) {
                    office.handle_confirm(context, &client, Hold { member: from, epoch });
                }
            }
            Message::Release { client, epoch } => {
                if let Some(office) = registrar.office_of(context, &client) {
                    office.handle_release(context, &client, Hold { member: from, epoch });
                }
            }
            Message::Report(report) => {
                if let Some(office) = registrar.office(report.shard) {
                    office.handle_report(context, from, report);
                }
            }
            Message::Granted { client, claim, epoch, previous }
                if context.is_current(&client, from, epoch.shard) =>
            {
                claimant.handle_granted(context, owner, &client, claim, (epoch, previous));
            }
            Message::Superseded { client, term, claim } if context.is_current(&client, from, term) => {
                claimant.handle_superseded(context, &client, claim);
            }
            Message::Discard { client, term, epoch } if context.is_current(&client, from, term) => {
                owner.handle_discard(context, &client, epoch);
            }
            // Of a term that is over.
            Message::Granted { .. } | Message::Superseded { .. } | Message::Discard { .. } => {}
            Message::Handover { client, epoch } => {
                owner.hand_over(context, &client, Hold { member: from, epoch });
            }
            Message::Handed { client, epoch } => {
                claimant.handle_handed(context, owner, from, &client, epoch);
            }
        }
    }
}
