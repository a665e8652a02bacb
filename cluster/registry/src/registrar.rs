//! This node as the registrar of shards.

use std::collections::BTreeMap;

use flotilla_mqtt::session::ClientId;
use flotilla_state::{Member, ShardId};

use crate::{context::Context, office::Office};

/// The offices that this node holds.
#[derive(Debug, Default)]
pub(crate) struct Registrar {
    offices: BTreeMap<ShardId, Office>,
}

impl Registrar {
    /// A new life: what was known is void.
    pub(crate) fn clear(&mut self) {
        self.offices.clear();
    }

    pub(crate) fn records_len(&self) -> usize {
        self.offices.values().map(Office::records_len).sum()
    }

    pub(crate) fn collecting_len(&self) -> usize {
        self.offices.values().filter(|office| !office.is_complete()).count()
    }

    /// Takes up and gives back offices, then takes ended members out of what stays.
    pub(crate) fn handle_view(&mut self, context: &mut Context<'_>, ended: &[Member]) {
        for shard in context.cluster.shards() {
            let term = context.cluster.term(shard).filter(|term| term.registrar == context.me);
            let epoch = self.offices.get(&shard).map(Office::epoch);
            if term.map(|term| term.epoch) == epoch {
                continue;
            }
            match term {
                Some(term) => _ = self.offices.insert(shard, Office::new(term.epoch, context)),
                None => _ = self.offices.remove(&shard),
            }
        }
        for office in self.offices.values_mut() {
            office.handle_ended(context, ended);
        }
    }

    /// The office of a shard, if this node holds it.
    pub(crate) fn office(&mut self, shard: ShardId) -> Option<&mut Office> {
        self.offices.get_mut(&shard)
    }

    /// The office of a client, if this node holds it.
    pub(crate) fn office_of(&mut self, context: &Context<'_>, client: &ClientId) -> Option<&mut Office> {
        self.office(context.cluster.shard_of(client))
    }
}
