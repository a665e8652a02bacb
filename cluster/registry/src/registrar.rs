//! This node as the registrar of shards.

use std::collections::BTreeMap;

use flotilla_mqtt::{Timestamp, session::ClientId};
use flotilla_state::{LogIndex, Member, ShardId};

use crate::{
    WillId,
    context::Context,
    keeper::Keeper,
    message::{Report, SentOrphan},
    office::{Desk, Office, Publications},
};

/// The offices that this node holds.
#[derive(Debug, Default)]
pub(crate) struct Registrar {
    offices: BTreeMap<ShardId, Office>,
    /// Up to which entry of the log this node knew everything about a shard.
    authority: BTreeMap<ShardId, LogIndex>,
    publications: Publications,
}

impl Registrar {
    /// A new life: what was known is void.
    pub(crate) fn clear(&mut self) {
        self.offices.clear();
        self.authority.clear();
        self.publications.clear();
    }

    pub(crate) fn records_len(&self) -> usize {
        self.offices.values().map(Office::records_len).sum()
    }

    pub(crate) fn wills_len(&self) -> usize {
        self.offices.values().map(Office::orphans_len).sum::<usize>() + self.publications.len()
    }

    pub(crate) fn collecting_len(&self) -> usize {
        self.offices.values().filter(|office| !office.is_complete()).count()
    }

    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.publications.next_deadline()
    }

    /// Up to which entry this node's word about the wills of a shard holds.
    pub(crate) fn authority(&self, shard: ShardId) -> LogIndex {
        self.authority.get(&shard).copied().unwrap_or_default()
    }

    /// Takes up and gives back offices, then takes ended members out of what stays.
    pub(crate) fn handle_view(&mut self, context: &mut Context<'_>, keeper: &mut Keeper, ended: &[Member]) {
        self.publications.handle_ended(ended);
        for shard in context.cluster.shards() {
            let term = context.cluster.term(shard).filter(|term| term.registrar == context.me);
            let epoch = self.offices.get(&shard).map(Office::epoch);
            if term.map(|term| term.epoch) == epoch {
                continue;
            }
            // First this, so that nothing is decided any more in a term that is over.
            self.offices.remove(&shard);
            self.publications.stop_timers(shard);
            if let Some(term) = term {
                self.offices.insert(shard, Office::new(term.epoch, context));
            }
        }
        let shards: Vec<ShardId> = self.offices.keys().copied().collect();
        for shard in shards {
            self.in_office(context, keeper, shard, |office, desk| office.handle_ended(desk, ended));
        }
    }

    /// Does something in the office of a shard, if this node holds it.
    fn in_office(
        &mut self,
        context: &mut Context<'_>,
        keeper: &mut Keeper,
        shard: ShardId,
        act: impl FnOnce(&mut Office, &mut Desk<'_, '_>),
    ) {
        let Some(office) = self.offices.get_mut(&shard) else { return };
        let mut desk = Desk { shard, context, keeper, publications: &mut self.publications };
        act(office, &mut desk);
        if office.is_complete() {
            self.authority.insert(shard, context.cluster.index());
        }
    }

    /// Does something in the office of a client.
    pub(crate) fn for_client(
        &mut self,
        context: &mut Context<'_>,
        keeper: &mut Keeper,
        client: &ClientId,
        act: impl FnOnce(&mut Office, &mut Desk<'_, '_>),
    ) {
        let shard = context.cluster.shard_of(client);
        self.in_office(context, keeper, shard, act);
    }

    pub(crate) fn handle_report(
        &mut self,
        context: &mut Context<'_>,
        keeper: &mut Keeper,
        from: Member,
        report: Report,
    ) {
        self.in_office(context, keeper, report.shard, |office, desk| {
            office.handle_report(desk, from, report);
        });
    }

    /// A member says which wills of an ended one it keeps.
    pub(crate) fn handle_orphans(
        &mut self,
        context: &mut Context<'_>,
        keeper: &mut Keeper,
        from: Member,
        owner: Member,
        (wills, last): (Vec<SentOrphan>, bool),
    ) {
        for orphan in wills {
            let client = orphan.client.clone();
            self.for_client(context, keeper, &client, |office, desk| {
                office.handle_orphan(desk, from, orphan);
            });
        }
        if last {
            let shards: Vec<ShardId> = self.offices.keys().copied().collect();
            for shard in shards {
                self.in_office(context, keeper, shard, |office, desk| {
                    office.handle_orphans_end(desk, from, owner);
                });
            }
        }
    }

    pub(crate) fn handle_deadline(&mut self, context: &mut Context<'_>, keeper: &mut Keeper) {
        while let Some((shard, client, owner)) = self.publications.take_due(context.now) {
            self.in_office(context, keeper, shard, |office, desk| {
                office.handle_due(desk, &client, owner);
            });
        }
    }

    pub(crate) fn handle_published(&mut self, context: &mut Context<'_>, id: WillId) {
        self.publications.handle_published(context, id);
    }
}
