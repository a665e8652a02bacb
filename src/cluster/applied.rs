//! How much of the meta group's log is in force on this node.

use flotilla_state::LogIndex;
use tokio::sync::watch;

/// The last entry that this node has applied.
#[derive(Debug, Default)]
pub(super) struct Applied(watch::Sender<LogIndex>);

impl Applied {
    /// Waits until this node has applied an entry.
    pub(super) async fn wait_for(&self, index: LogIndex) {
        // The sender is never dropped before this ends.
        let _ = self.0.subscribe().wait_for(|applied| *applied >= index).await;
    }

    /// This node has applied an entry, and its routes are in force.
    pub(super) fn note(&self, index: LogIndex) {
        self.0.send_if_modified(|applied| {
            let is_new = index > *applied;
            *applied = index.max(*applied);
            is_new
        });
    }
}
