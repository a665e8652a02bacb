//! A state in memory: durable are its snapshot files, and the log.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use openraft::EntryPayload;
use openraft::storage::EntryResponder;
use parking_lot::Mutex;

use super::Failure;
use crate::group::ports::StateMachine;
use crate::group::snapshot::{SnapshotData, SnapshotFile, SnapshotStore};
use crate::group::types::{LogId, Snapshot, SnapshotMeta, StoredMembership, Types, blocking};

/// A state machine in memory.
pub(in crate::group) struct Memory {
    /// Absent only while a snapshot is being read into it. The mutex is never contended: it makes a `Send` state `Sync`.
    state: Mutex<Option<Box<dyn StateMachine>>>,
    applied: Option<LogId>,
    membership: StoredMembership,
    store: Arc<SnapshotStore>,
    failure: Failure,
}

impl Memory {
    pub(in crate::group) fn new(
        state: Box<dyn StateMachine>,
        store: Arc<SnapshotStore>,
        failure: Failure,
    ) -> Self {
        Self {
            state: Mutex::new(Some(state)),
            applied: None,
            membership: StoredMembership::default(),
            store,
            failure,
        }
    }

    fn state(&mut self) -> io::Result<&mut Box<dyn StateMachine>> {
        let failure = &self.failure;
        self.state.get_mut().as_mut().ok_or_else(|| failure.note(&LOST))
    }

    pub(super) fn applied_state(&self) -> (Option<LogId>, StoredMembership) {
        (self.applied, self.membership.clone())
    }

    pub(super) async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + Send,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let index = entry.log_id.index();
            let reply = match entry.payload {
                EntryPayload::Normal(command) => match self.state()?.apply(index, &command.0) {
                    Ok(reply) => reply,
                    Err(corrupt) => {
                        let reason = format!("the command at entry {index} is not understood: {corrupt}");
                        return Err(self.failure.note(&reason));
                    }
                },
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Bytes::new()
                }
                EntryPayload::Blank => Bytes::new(),
            };
            self.applied = Some(entry.log_id);
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        Ok(())
    }

    pub(super) fn snapshot_builder(&mut self) -> Builder {
        let meta = SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        let chunks = self.state().map(|state| state.snapshot());
        Builder {
            meta,
            chunks: Mutex::new(Some(chunks)),
            store: Arc::clone(&self.store),
            failure: self.failure.clone(),
        }
    }

    pub(super) async fn install(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> io::Result<()> {
        let Some(mut state) = self.state.get_mut().take() else {
            return Err(self.failure.note(&LOST));
        };
        let index = snapshot.last_index().unwrap_or(0);
        let store = Arc::clone(&self.store);
        let (state, result) = blocking(move || {
            let mut chunks = snapshot.chunks();
            let restored = state.restore(index, &mut chunks);
            let result = match (chunks.finish(), restored) {
                (Err(damage), _) => Err(damage.to_string()),
                (Ok(()), Err(corrupt)) => {
                    Err(format!("the snapshot up to entry {index} is not understood: {corrupt}"))
                }
                // Only a snapshot that the state machine understands takes the place of the one before.
                (Ok(()), Ok(())) => store.install(snapshot).map_err(|error| error.to_string()),
            };
            (state, result)
        })
        .await;
        *self.state.get_mut() = Some(state);
        result.map_err(|reason| self.failure.note(&reason))?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    pub(super) fn current_snapshot(&self) -> Option<Snapshot> {
        let file = self.store.current()?;
        Some(Snapshot { meta: file.meta.clone(), snapshot: SnapshotData::File(file) })
    }
}

/// Writes a copy of the state to a file, while the state machine goes on.
pub(in crate::group) struct Builder {
    meta: SnapshotMeta,
    chunks: Mutex<Option<io::Result<Box<dyn Iterator<Item = Bytes> + Send>>>>,
    store: Arc<SnapshotStore>,
    failure: Failure,
}

impl Builder {
    pub(super) async fn build(&mut self) -> io::Result<Snapshot> {
        let chunks = self.chunks.get_mut().take();
        let Some(chunks) = chunks else {
            return Err(self.failure.note(&"a snapshot was to be written twice"));
        };
        let mut chunks = chunks?;
        let store = Arc::clone(&self.store);
        let meta = self.meta.clone();
        let result = blocking(move || {
            let written = store.write(&meta, &mut *chunks)?;
            store.install(written)
        })
        .await;
        match result {
            Ok(file) => Ok(Snapshot { meta: self.meta.clone(), snapshot: SnapshotData::File(file) }),
            Err(error) if error.is_full() => {
                tracing::error!(%error, "no space for a snapshot: the log grows until there is some; make room there");
                Ok(self.last())
            }
            Err(error) => Err(self.failure.note(&error)),
        }
    }

    /// The snapshot before this one; without any, nothing is cut.
    fn last(&self) -> Snapshot {
        match self.store.current() {
            Some(file) => Snapshot { meta: file.meta.clone(), snapshot: SnapshotData::File(file) },
            None => Snapshot { meta: SnapshotMeta::default(), snapshot: SnapshotData::OnDisk },
        }
    }
}

const LOST: &str = "the state was lost while a snapshot was read";
