//! What a node knows without asking: of the shards that it leads.
//!
//! Whoever leads has applied everything that was answered. What it reads is confirmed behind the read, for this thread may have stood
//! still, and somebody else may lead by then. Workers ask here, so nothing waits: where a shard is busy, it is asked as ever.

use flotilla_mqtt::session::ClientId;
use flotilla_state::ShardId;

use super::{Shards, line::Line, replica::Replica};

impl Shards {
    /// Whether a shard that this node leads has a session of a client; `None`: that is not certain here.
    pub(super) fn is_present_here(&self, shard: ShardId, client: &ClientId) -> Option<bool> {
        self.certain(shard, |replica| Some(replica.state.shard.try_lock()?.session_of(client).is_some()))
    }

    /// Whether a look-up in a shard would surely find nothing: it retains nothing, and nothing of this node is on its way there.
    pub(crate) fn retains_nothing(&self, shard: ShardId) -> bool {
        self.line(shard).is_some_and(Line::is_idle)
            && self.certain(shard, |replica| Some(replica.state.retained.messages() == 0)) == Some(true)
    }

    /// The last entry that the replica on this node knows to be committed; 0: it has none, or is not here.
    #[cfg(test)]
    pub(crate) fn committed(&self, shard: ShardId) -> u64 {
        self.replica(shard).and_then(|replica| replica.group.status().committed).unwrap_or(0)
    }

    /// What this node finds in a shard, if it surely leads it.
    fn certain<T>(&self, shard: ShardId, find: impl FnOnce(&Replica) -> Option<T>) -> Option<T> {
        let replica = self.replica(shard)?;
        let found = if replica.desk.is_open() { find(&replica)? } else { return None };
        (self.is_alone() || replica.is_confirmed()).then_some(found)
    }

    /// Whether there is no other node, and never will be while this process runs.
    fn is_alone(&self) -> bool {
        self.node.get().is_some_and(|node| node.config.cluster.listen.is_none())
    }
}
