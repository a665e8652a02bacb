//! Wills that this node keeps for clients of other nodes.

use std::collections::BTreeMap;

use flotilla_mqtt::{Timestamp, session::ClientId};
use flotilla_state::{LogIndex, Member, ShardId};

use crate::{
    KeptWill, Tenure,
    context::{Cluster, Context},
    message::{Message, SentOrphan, SentWill},
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Keeper {
    wills: BTreeMap<(Member, ClientId), Kept>,
    bytes: usize,
    bytes_max: usize,
    refused: u64,
}

#[derive(Debug)]
struct Kept {
    tenure: Tenure,
    will: KeptWill,
    /// When its delay ends, once that runs.
    due: Option<Timestamp>,
    /// The owner has ended; this is how far this node had read the log when it learnt that.
    ended_at: Option<LogIndex>,
}

impl Keeper {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { wills: BTreeMap::new(), bytes: 0, bytes_max, refused: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.wills.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    pub(crate) fn clear(&mut self) {
        self.wills.clear();
        self.bytes = 0;
    }

    /// Keeps a will of a live owner. It is told also when there is no room: its client is served all the same.
    pub(crate) fn handle_keep(
        &mut self,
        context: &mut Context<'_>,
        owner: Member,
        client: ClientId,
        tenure: Tenure,
        sent: SentWill,
    ) {
        let key = (owner, client.clone());
        if self.wills.get(&key).is_none_or(|kept| kept.tenure <= tenure) {
            self.remove(&key);
            let due = sent.rest.map(|rest| context.now + rest);
            if !self.insert(key, Kept { tenure, will: sent.will, due, ended_at: None }) {
                self.refused += 1;
            }
        }
        context.send(owner, Message::Kept { client, tenure });
    }

    /// Forgets a will, unless a later one has taken its place.
    pub(crate) fn forget(&mut self, owner: Member, client: &ClientId, tenure: Tenure) {
        let key = (owner, client.clone());
        if self.wills.get(&key).is_some_and(|kept| kept.tenure <= tenure) {
            self.remove(&key);
        }
    }

    /// The will of an ended owner has been dealt with.
    pub(crate) fn forget_orphan(&mut self, owner: Member, client: &ClientId) {
        let key = (owner, client.clone());
        if self.wills.get(&key).is_some_and(|kept| kept.ended_at.is_some()) {
            self.remove(&key);
        }
    }

    /// Keeps what another member has kept for an owner that has ended.
    pub(crate) fn adopt(&mut self, orphan: &SentOrphan, due: Timestamp) {
        let key = (orphan.owner, orphan.client.clone());
        if !self.wills.contains_key(&key) {
            let SentOrphan { tenure, ended_at, .. } = *orphan;
            let will = orphan.will.will.clone();
            // Somebody else has it, who was sure of the room: so small an excess does no harm.
            self.bytes += will.size();
            self.wills.insert(key, Kept { tenure, will, due: Some(due), ended_at: Some(ended_at) });
        }
    }

    /// Members have ended: the delays of their wills begin.
    pub(crate) fn handle_ended(&mut self, now: Timestamp, index: LogIndex, ended: &[Member]) {
        for ((owner, _), kept) in &mut self.wills {
            if ended.contains(owner) {
                kept.due = Some(kept.due.unwrap_or_else(|| now + kept.will.wait()));
                kept.ended_at = Some(index);
            }
        }
    }

    /// The wills of ended owners in some shards; of one owner or of all.
    pub(crate) fn orphans<'a>(
        &'a self,
        now: Timestamp,
        cluster: &'a Cluster,
        owner: Option<Member>,
        is_wanted: impl Fn(ShardId) -> bool + 'a,
    ) -> impl Iterator<Item = SentOrphan> + 'a {
        self.wills.iter().filter_map(move |((member, client), kept)| {
            let ended_at = kept.ended_at?;
            let is_asked = owner.is_none_or(|owner| owner == *member) && is_wanted(cluster.shard_of(client));
            is_asked.then(|| SentOrphan {
                owner: *member,
                client: client.clone(),
                tenure: kept.tenure,
                will: SentWill { will: kept.will.clone(), rest: kept.due.map(|due| due.since(now)) },
                ended_at,
            })
        })
    }

    fn insert(&mut self, key: (Member, ClientId), kept: Kept) -> bool {
        let size = kept.will.size();
        let has_room = self.bytes + size <= self.bytes_max;
        if has_room {
            self.bytes += size;
            self.wills.insert(key, kept);
        }
        has_room
    }

    fn remove(&mut self, key: &(Member, ClientId)) {
        if let Some(kept) = self.wills.remove(key) {
            self.bytes -= kept.will.size();
        }
    }
}
