//! The parts that a node plays, and which of them a message or a change of the cluster is for.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_mqtt::session::ClientId;
use flotilla_state::{Member, ShardId};

use crate::{
    Limits, Output,
    claimant::Claimant,
    context::{Context, Term},
    keeper::Keeper,
    message::{Entry, Message, Report, SentOrphan},
    owner::{News, Owner, Wanted},
    registrar::Registrar,
};

/// See the module. What a call of the shell is for one part alone goes to that part, and [`Parts::handle_news`] follows where
/// it returns news.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) claimant: Claimant,
    pub(crate) owner: Owner,
    pub(crate) keeper: Keeper,
    pub(crate) registrar: Registrar,
}

/// Whom this node has told what it has in a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    term: Option<Term>,
    keepers: Vec<Member>,
}

/// So many entries go into one message of a report.
const ENTRIES_MAX: usize = 1_024;
/// Likewise for wills, which are larger.
const ORPHANS_MAX: usize = 64;

impl Parts {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            keeper: Keeper::new(limits.will_bytes_max),
            claimant: Claimant::new(limits),
            owner: Owner::default(),
            registrar: Registrar::default(),
        }
    }

    /// The lease is lost or this life is over. Away sessions stay; what is known for others is void.
    pub(crate) fn handle_fenced(&mut self, mut output: impl FnMut(Output)) {
        self.keeper.clear();
        self.registrar.clear();
        self.claimant.handle_fenced(&mut output);
        self.owner.handle_fenced(output);
    }

    /// Members have ended, if there are any, and placements may have changed.
    pub(crate) fn handle_ended(&mut self, context: &mut Context<'_>, ended: &[Member]) {
        self.keeper.handle_ended(context.now, context.cluster.index(), ended);
        self.registrar.handle_view(context, &mut self.keeper, ended);
        for owner in ended {
            // Before anybody hears of a claim that goes on because of this end, which decides about the will.
            self.send_orphans(context, *owner);
        }
        self.claimant.handle_ended(context, &mut self.owner, ended);
        self.owner.handle_ended(context, ended);
    }

    /// Tells this node's own claim of a client what has become of it here.
    pub(crate) fn handle_news(&mut self, context: &mut Context<'_>, client: &ClientId, news: Option<News>) {
        self.claimant.handle_news(context, &mut self.owner, client, news);
    }

    /// Tells new registrars and new keepers what they must know; returns whom it has told.
    pub(crate) fn report(
        &mut self,
        context: &mut Context<'_>,
        reported: &BTreeMap<ShardId, Told>,
    ) -> BTreeMap<ShardId, Told> {
        let told: BTreeMap<ShardId, Told> = context
            .cluster
            .shards()
            .map(|shard| {
                let keepers = context.cluster.keepers(shard, context.me.node);
                (shard, Told { term: context.cluster.term(shard), keepers })
            })
            .collect();
        let changed = |is_other: fn(&Told, &Told) -> bool| -> BTreeSet<ShardId> {
            let is_news = |(shard, now): &(&ShardId, &Told)| {
                reported.get(shard).is_none_or(|before| is_other(before, now))
            };
            told.iter().filter(is_news).map(|(shard, _)| *shard).collect()
        };
        let rekept = changed(|before, now| before != now);
        let reregistered = changed(|before, now| before.term != now.term);
        // A registrar gets the wills before the report, so that it has them when the report is complete.
        self.owner.move_wills(context, &rekept);
        self.claimant.move_wills(context, &mut self.owner, &rekept);
        if reregistered.is_empty() {
            return told;
        }
        let mut entries = BTreeMap::new();
        self.owner.report(context, &reregistered, &mut entries);
        self.claimant.report(context, &reregistered, &mut entries);
        for &shard in &reregistered {
            let Some(term) = told.get(&shard).and_then(|told| told.term) else { continue };
            let entries: Vec<Entry> = entries.remove(&shard).unwrap_or_default();
            let orphans: Vec<SentOrphan> =
                self.keeper.orphans(context.now, context.cluster, None, |of| of == shard).collect();
            let as_of = context.cluster.index();
            let report = |entries, orphans, last| {
                let authority = self.registrar.authority(shard);
                Message::Report(Report { shard, term: term.epoch, entries, orphans, as_of, authority, last })
            };
            for entries in entries.chunks(ENTRIES_MAX) {
                context.send(term.registrar, report(entries.to_vec(), Vec::new(), false));
            }
            for orphans in orphans.chunks(ORPHANS_MAX) {
                context.send(term.registrar, report(Vec::new(), orphans.to_vec(), false));
            }
            context.send(term.registrar, report(Vec::new(), Vec::new(), true));
        }
        self.claimant.claim_again(context, &reregistered);
        told
    }

    /// Tells all registrars which wills of an ended member are kept here.
    fn send_orphans(&self, context: &mut Context<'_>, owner: Member) {
        let mut shards: BTreeMap<Member, BTreeSet<ShardId>> = BTreeMap::new();
        for shard in context.cluster.shards() {
            if let Some(term) = context.cluster.term(shard) {
                shards.entry(term.registrar).or_default().insert(shard);
            }
        }
        for (registrar, shards) in shards {
            let wills: Vec<SentOrphan> = self
                .keeper
                .orphans(context.now, context.cluster, Some(owner), |shard| shards.contains(&shard))
                .collect();
            for wills in wills.chunks(ORPHANS_MAX) {
                context.send(registrar, Message::Orphans { owner, wills: wills.to_vec(), last: false });
            }
            context.send(registrar, Message::Orphans { owner, wills: Vec::new(), last: true });
        }
    }

    /// A message of a member, which may be this one.
    pub(crate) fn handle(&mut self, context: &mut Context<'_>, from: Member, message: Message) {
        let Self { claimant, owner, keeper, registrar } = self;
        match message {
            Message::Claim { client, term, claim } => {
                registrar.for_client(context, keeper, &client, |office, desk| {
                    office.handle_claim(desk, from, &client, term, claim);
                });
            }
            Message::Withdraw { client, claim } => {
                registrar.for_client(context, keeper, &client, |office, desk| {
                    office.handle_withdraw(desk, from, &client, claim);
                });
            }
            Message::Confirm { client, epoch, handed, clean } => {
                registrar.for_client(context, keeper, &client, |office, desk| {
                    office.handle_confirm(desk, from, &client, epoch, (handed, clean));
                });
            }
            Message::Release { client, epoch } => {
                registrar.for_client(context, keeper, &client, |office, desk| {
                    office.handle_release(desk, from, &client, epoch);
                });
            }
            Message::Register { client, epoch } => {
                registrar.for_client(context, keeper, &client, |office, desk| {
                    office.handle_register(desk, from, &client, epoch);
                });
            }
            Message::Report(report) => registrar.handle_report(context, keeper, from, report),
            Message::Orphans { owner: ended, wills, last } => {
                registrar.handle_orphans(context, keeper, from, ended, (wills, last));
            }
            Message::Granted { client, claim, epoch, previous } => {
                claimant.handle_granted(context, owner, from, &client, claim, (epoch, previous));
            }
            Message::Superseded { client, term, claim } if context.is_current(&client, from, term) => {
                claimant.handle_superseded(context, owner, &client, claim);
            }
            Message::Registered { client, term, epoch } if context.is_current(&client, from, term) => {
                owner.handle_registered(&client, epoch);
            }
            Message::Discard { client, term, epoch } if context.is_current(&client, from, term) => {
                let news = owner.handle_discard(context, &client, epoch);
                claimant.handle_news(context, owner, &client, news);
            }
            // Of a term that is over.
            Message::Superseded { .. } | Message::Registered { .. } | Message::Discard { .. } => {}
            Message::WillDone { owner: ended, client } => keeper.forget_orphan(ended, &client),
            // Claims of one client are granted one after the other: this demand was given up before ours was granted.
            Message::Handover { client, epoch, .. } if claimant.has_later(&client, epoch) => {}
            Message::Handover { client, epoch, discard } => {
                let news = owner.hand_over(context, &client, Wanted { by: from, epoch, discard });
                claimant.handle_news(context, owner, &client, news);
            }
            Message::Handed { client, epoch, part, more } => {
                claimant.handle_handed(context, owner, from, &client, epoch, (part, more));
            }
            Message::Cancel { client, epoch } => owner.handle_cancel(context, &client, epoch),
            Message::Taken { client, epoch, wants_stub } => {
                let news = owner.handle_taken(context, &client, epoch, wants_stub);
                claimant.handle_news(context, owner, &client, news);
            }
            Message::Settle { client, epoch, index } => {
                owner.stubs().handle_settle(context, &client, epoch, index);
            }
            Message::Unstub { client, epoch } => owner.stubs_mut().handle_unstub(context, &client, epoch),
            Message::Keep { client, tenure, will } => {
                keeper.handle_keep(context, from, client, tenure, will);
            }
            Message::Kept { client, tenure } => claimant.handle_kept(context, owner, from, &client, tenure),
            Message::Drop { client, tenure } => keeper.forget(from, &client, tenure),
        }
    }
}
