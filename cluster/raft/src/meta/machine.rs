//! The state of the cluster behind the Raft group.

use std::{io, sync::Arc};

use bytes::Bytes;
use flotilla_state::{ClusterState, Command, Effects, Event, LogIndex, Member, NodeId, SnapshotReader, Why};
use parking_lot::{RwLock, RwLockWriteGuard};
use tokio::sync::watch;

use crate::{
    group::{Corrupt, StateMachine},
    peers::{ClusterId, Peers},
};

/// Learns what happens in the cluster. The calls come in the order of the log, from one thread at a time, and the group waits
/// for them: they must be short, and must not ask for the lock of the state.
pub trait Observer: Send + Sync + 'static {
    /// An entry was applied; also each time one is applied again after a restart.
    fn applied(&self, index: LogIndex, effects: &Effects, state: &ClusterState);
    /// The state was replaced by a snapshot.
    fn restored(&self, state: &ClusterState);
    /// This node is no member any more: it must stop acting as one at once. Not called from the group.
    fn lease_lost(&self);
    /// This node is a member, in a new life. Its lease is valid. Not called from the group.
    fn admitted(&self, member: Member);
}

/// What other tasks see of the applied entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The last applied index.
    pub(crate) applied: LogIndex,
    /// This node was removed from the cluster, or has left, by an entry applied in this run of the process.
    pub(crate) removed: Option<Member>,
}

pub(crate) struct Machine {
    pub(crate) me: NodeId,
    pub(crate) state: Arc<RwLock<ClusterState>>,
    pub(crate) peers: Peers,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) progress: watch::Sender<Progress>,
}

impl Machine {
    fn learn(&self, effects: &Effects, state: &ClusterState) {
        for event in &effects.events {
            match event {
                Event::Created => self.learn_cluster(state),
                Event::MemberJoined(member) => {
                    if let Some(node) = state.node(member.node)
                        && member.node != self.me
                    {
                        self.peers.committed(member.node, &node.address);
                    }
                }
                Event::NodeRemoved(node) if *node != self.me => self.peers.forget(*node),
                Event::MemberEnded(member, Why::Left | Why::Removed) if member.node == self.me => {
                    self.progress.send_modify(|progress| progress.removed = Some(*member));
                }
                _ => {}
            }
        }
    }

    /// A node that knows which cluster it belongs to sticks to that: the log may begin with the identifier that the cluster had before
    /// one node went on alone.
    fn learn_cluster(&self, state: &ClusterState) {
        if let Some(cluster) = state.cluster() {
            self.peers.local().update(|bound| {
                bound.cluster.get_or_insert(ClusterId(cluster.id));
            });
        }
    }
}

impl StateMachine for Machine {
    fn apply(&mut self, index: u64, command: &[u8]) -> Result<Bytes, Corrupt> {
        let command = Command::decode(command)
            .map_err(|error| Corrupt(format!("entry {index} of the cluster's log: {error}")))?;
        let mut state = self.state.write();
        let effects = state.apply(LogIndex(index), command);
        let state = RwLockWriteGuard::downgrade(state);
        self.learn(&effects, &state);
        self.observer.applied(LogIndex(index), &effects, &state);
        drop(state);
        self.progress.send_modify(|progress| progress.applied = LogIndex(index));
        Ok(effects.reply.encode())
    }

    fn snapshot(&mut self) -> Box<dyn Iterator<Item = Bytes> + Send> {
        Box::new(self.state.read().snapshot())
    }

    fn restore(
        &mut self,
        index: u64,
        chunks: &mut dyn Iterator<Item = io::Result<Bytes>>,
    ) -> Result<(), Corrupt> {
        let corrupt =
            |error: &dyn std::fmt::Display| Corrupt(format!("snapshot of the cluster's state: {error}"));
        let mut reader = SnapshotReader::new();
        for chunk in chunks {
            reader.push(&chunk.map_err(|error| corrupt(&error))?).map_err(|error| corrupt(&error))?;
        }
        let restored = reader.finish().map_err(|error| corrupt(&error))?;
        let mut state = self.state.write();
        *state = restored;
        let state = RwLockWriteGuard::downgrade(state);
        self.learn_cluster(&state);
        for node in state.nodes().filter(|node| node.id != self.me) {
            self.peers.committed(node.id, &node.address);
        }
        self.observer.restored(&state);
        drop(state);
        self.progress.send_modify(|progress| progress.applied = LogIndex(index));
        Ok(())
    }
}
