//! The wills of ended owners whose time has come, or is known.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use flotilla_mqtt::{Timestamp, session::ClientId};
use flotilla_state::{Member, ShardId};

use super::orphans::Orphan;
use crate::{
    Output, WillId,
    context::Context,
    message::{Message, SentOrphan},
};

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

    pub(super) fn start_timer(&mut self, at: Timestamp, shard: ShardId, (client, owner): (ClientId, Member)) {
        self.timers.insert((at, shard, client, owner));
    }

    /// Adds a keeper that is told when a will has been published; false if it is not being published.
    pub(super) fn add_keeper(&mut self, client: &ClientId, owner: Member, keeper: Member) -> bool {
        let Some(publication) = self.underway.get_mut(&(client.clone(), owner)) else { return false };
        if !publication.keepers.contains(&keeper) {
            publication.keepers.push(keeper);
        }
        true
    }

    pub(super) fn publish(&mut self, context: &mut Context<'_>, orphan: Orphan) {
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
