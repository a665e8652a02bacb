//! What a node knows without asking: of the shards that it leads.
//!
//! Whoever leads has applied everything that was answered. What it reads is confirmed behind the read, for this thread may have stood
//! still, and somebody else may lead by then. Workers ask here, so nothing waits: where a shard is busy, it is asked as ever.

use flotilla_mqtt::session::ClientId;
use flotilla_state::ShardId;

use super::{Shards, line::Line, replica::Replica};

impl Shards {
    /// Whether this node leads a shard that surely has nothing of a client.
    pub(super) fn lacks_here(&self, shard: ShardId, client: &ClientId) -> bool {
        self.is_certain(shard, |replica| {
            replica.state.shard.try_lock().is_some_and(|shard| shard.session_of(client).is_none())
        })
    }

    /// Whether a look-up in a shard would surely find nothing: it retains nothing, and nothing of this node is on its way there.
    pub(crate) fn retains_nothing(&self, shard: ShardId) -> bool {
        self.line(shard).is_some_and(Line::is_idle)
            && self.is_certain(shard, |replica| replica.state.retained.messages() == 0)
    }

    /// The last entry that the replica on this node knows to be committed; 0: it has none, or is not here.
    #[cfg(test)]
    pub(crate) fn committed(&self, shard: ShardId) -> u64 {
        self.replica(shard).and_then(|replica| replica.group.status().committed).unwrap_or(0)
    }

    /// Whether this node leads a shard and finds so there.
    fn is_certain(&self, shard: ShardId, is_so: impl FnOnce(&Replica) -> bool) -> bool {
        let Some(replica) = self.replica(shard) else { return false };
        replica.desk.is_open() && is_so(&replica) && (self.is_alone() || replica.is_confirmed())
    }

    /// Whether there is no other node, and never will be while this process runs.
    fn is_alone(&self) -> bool {
        self.node.get().is_some_and(|node| node.config.cluster.listen.is_none())
    }
}
