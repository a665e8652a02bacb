//! The state machine as openraft sees it: applies, and snapshots in files.

use std::io;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, RaftSnapshotBuilder};
use parking_lot::Mutex;

use super::ports::StateMachine;
use super::snapshot::{SnapshotFile, SnapshotStore};
use super::types::{LogId, Snapshot, SnapshotMeta, StoredMembership, Types, blocking};

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

/// The state machine of the group. The state is in memory; durable are the snapshots and the log.
pub(super) struct Machine {
    /// Absent only while a snapshot is being read into it. The mutex is never contended: it makes a `Send` state `Sync`.
    state: Mutex<Option<Box<dyn StateMachine>>>,
    applied: Option<LogId>,
    membership: StoredMembership,
    store: Arc<SnapshotStore>,
    failure: Failure,
}

impl Machine {
    pub(super) fn new(state: Box<dyn StateMachine>, store: Arc<SnapshotStore>, failure: Failure) -> Self {
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
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
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

    async fn get_snapshot_builder(&mut self) -> Builder {
        let meta = SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        let chunks = self.state().map(|state| state.snapshot());
        Builder {
            meta,
            chunks: Mutex::new(Some(chunks)),
            store: Arc::clone(&self.store),
            failure: self.failure.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> io::Result<()> {
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

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.store.current().map(|snapshot| Snapshot { meta: snapshot.meta.clone(), snapshot }))
    }
}

/// Writes a copy of the state to a file, while the state machine goes on.
pub(super) struct Builder {
    meta: SnapshotMeta,
    chunks: Mutex<Option<io::Result<Box<dyn Iterator<Item = Bytes> + Send>>>>,
    store: Arc<SnapshotStore>,
    failure: Failure,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
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
            Ok(snapshot) => Ok(Snapshot { meta: self.meta.clone(), snapshot }),
            Err(error) => Err(self.failure.note(&error)),
        }
    }
}

const LOST: &str = "the state was lost while a snapshot was read";
