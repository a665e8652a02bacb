//! The state machine as openraft sees it, of either kind.

mod durable;
mod memory;

use std::io;
use std::sync::{Arc, OnceLock};

use futures_util::Stream;
use openraft::RaftSnapshotBuilder;
use openraft::storage::{EntryResponder, RaftStateMachine};

use super::snapshot::SnapshotData;
use super::types::{LogId, Snapshot, SnapshotMeta, StoredMembership, Types};

pub(super) use durable::{Durable, OnItsWay, Outgoing};
pub(super) use memory::Memory;

/// Why the group has failed, in words that say more than openraft's; the first reason counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Failure(Arc<OnceLock<String>>);

impl Failure {
    pub(super) fn reason(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    /// Notes the reason; returns the error to hand to openraft, which stops the group.
    pub(super) fn note(&self, reason: &dyn ToString) -> io::Error {
        let reason = self.0.get_or_init(|| reason.to_string());
        io::Error::other(reason.clone())
    }
}

/// The state machine of the group.
pub(super) enum Machine {
    Memory(Memory),
    Durable(Durable),
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok(match self {
            Self::Memory(machine) => machine.applied_state(),
            Self::Durable(machine) => machine.applied_state(),
        })
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + Send,
    {
        match self {
            Self::Memory(machine) => machine.apply(entries).await,
            Self::Durable(machine) => machine.apply(entries).await,
        }
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        match self {
            Self::Memory(machine) => Builder::Memory(machine.snapshot_builder()),
            Self::Durable(machine) => Builder::Durable(machine.snapshot_builder()),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        match (self, snapshot) {
            (Self::Memory(machine), SnapshotData::File(file)) => machine.install(meta, file).await,
            (Self::Durable(machine), SnapshotData::File(file)) => machine.install(meta, file).await,
            // Only what came from another node is installed, and the file at the start.
            (_, SnapshotData::Live(_) | SnapshotData::OnDisk) => {
                Err(io::Error::other("this snapshot cannot be installed"))
            }
        }
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        match self {
            Self::Memory(machine) => Ok(machine.current_snapshot()),
            Self::Durable(machine) => machine.current_snapshot(),
        }
    }
}

/// What openraft calls building a snapshot.
pub(super) enum Builder {
    Memory(memory::Builder),
    Durable(durable::Build),
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        match self {
            Self::Memory(builder) => builder.build().await,
            Self::Durable(build) => build.run().await,
        }
    }
}
