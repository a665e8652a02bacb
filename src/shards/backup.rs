//! What a shard tells a backup, and takes from one.

use flotilla_raft::group::ProposeError;
use flotilla_shard::{Answer, Export, FlushError, Op, Saved};
use flotilla_state::ShardId;
use tokio::sync::oneshot;

use super::{
    Shards,
    leader::tick_of,
    line::{Waiting, Wish},
};

/// In front of the name of a group in a backup: no client identifier begins with it.
const GROUP_PREFIX: char = '\0';

/// Why a shard cannot be exported here and now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    #[error("this node does not lead shard {0}")]
    NotLeader(u16),
    #[error("an import into shard {0} is not complete: run it again first")]
    Importing(u16),
    #[error(transparent)]
    Group(#[from] ProposeError),
    #[error(transparent)]
    Flush(#[from] FlushError),
    #[error("its task has ended")]
    Ended,
}

impl Shards {
    /// The sessions of a shard that this node leads, at one moment: everything that was acknowledged before the call is among it.
    pub(crate) async fn export(&self, shard: ShardId) -> Result<Export, ExportError> {
        let is_led = self.leader(shard).is_some_and(|(node, _)| node == self.node().0);
        let replica = self.replica(shard).filter(|_| is_led).ok_or(ExportError::NotLeader(shard.0))?;
        // Only who still leads gets it committed; once it is applied here, all before it is.
        replica.group.propose(tick_of(self.me(), self.clock(&replica))).await?;
        let export = tokio::task::spawn_blocking(move || {
            let mut of_shard = replica.state.shard.lock();
            if of_shard.stats().restoring > 0 {
                return Err(ExportError::Importing(shard.0));
            }
            Ok(of_shard.export()?)
        });
        export.await.map_err(|_| ExportError::Ended)?
    }

    /// The shard that keeps what a backup has under this name: that of a client, a topic, or a group.
    pub(crate) fn shard_of_saved(&self, name: &str) -> Option<ShardId> {
        self.shard_of(name.strip_prefix(GROUP_PREFIX).unwrap_or(name).as_bytes())
    }

    /// Has a shard take a piece of a backup, which has about so many bytes; an error if this node's life ends before.
    pub(crate) fn restore(&self, shard: ShardId, saved: Saved, bytes: usize) -> oneshot::Receiver<Answer> {
        let (sender, answer) = oneshot::channel();
        let op = Op::Restore(Box::new(saved));
        self.put(shard, Wish { op, bytes, waiting: Some(Waiting::Task(sender)) });
        answer
    }
}
