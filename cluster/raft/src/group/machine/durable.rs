//! A state that is on the disk by itself.
//!
//! What openraft calls building a snapshot is a checkpoint here: the log is cut on the word of the position that it gives, and no
//! file is written. A snapshot is made only when another member needs one, of the state as it is then, and read while it is sent.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt};
use openraft::EntryPayload;
use openraft::storage::{ApplyResponder, EntryResponder};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::Failure;
use crate::group::error::{Corrupt, GroupError, Refused};
use crate::group::ports::{Checkpoint, DurableState, GroupId};
use crate::group::snapshot::{LiveSnapshot, SnapshotData, SnapshotFile};
use crate::group::types::{Entry, LogId, Snapshot, SnapshotMeta, StoredMembership, Types, blocking};
use crate::group::wire;

/// So many commands are applied in one call.
const APPLY_COMMANDS_MAX: usize = 1024;

/// A batch is full when its commands have so many bytes.
const APPLY_BYTES_MAX: usize = 1024 * 1024;

/// Commands with more bytes are not applied on a thread that others want, too.
const QUICK_BYTES_MAX: usize = 64 * 1024;

/// A full disk is asked so often whether there is space.
const FULL_PAUSE: Duration = Duration::from_millis(100);

/// A state machine on the disk.
pub(in crate::group) struct Durable {
    /// Absent only while something is done to it on another thread. The mutex is never contended: it makes a `Send` state `Sync`.
    state: Mutex<Option<Box<dyn DurableState>>>,
    applied: Option<LogId>,
    membership: StoredMembership,
    /// What the disk had at the start.
    at_start: Option<SnapshotMeta>,
    outgoing: Outgoing,
    failure: Failure,
    /// The group is not there any more: nobody waits for the disk.
    ended: CancellationToken,
    group: GroupId,
}

impl Durable {
    /// The state where its disk has it; the log was cut up to `purged`.
    ///
    /// # Errors
    /// The position does not decode, or the log does not reach back to it.
    pub(in crate::group) fn open(
        group: GroupId,
        state: Box<dyn DurableState>,
        purged: Option<u64>,
        outgoing: Outgoing,
        (failure, ended): (Failure, CancellationToken),
    ) -> Result<Self, GroupError> {
        let at_start = state.position().map(wire::load_position).transpose().map_err(|error| {
            GroupError::Storage(format!("the position of the state is not understood: {error}"))
        })?;
        let applied = at_start.as_ref().and_then(|position| position.last_log_id);
        let position = applied.map(|id| id.index());
        if let Some(needed) = purged.filter(|_| position < purged) {
            return Err(GroupError::StateBehind { position, needed });
        }
        let membership = at_start.as_ref().map(|position| position.last_membership.clone());
        Ok(Self {
            state: Mutex::new(Some(state)),
            applied,
            membership: membership.unwrap_or_default(),
            at_start,
            outgoing,
            failure,
            ended,
            group,
        })
    }

    /// Whether the disk had nothing.
    pub(in crate::group) fn is_pristine(&self) -> bool {
        self.at_start.is_none()
    }

    pub(super) fn applied_state(&self) -> (Option<LogId>, StoredMembership) {
        (self.applied, self.membership.clone())
    }

    pub(super) async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + Send,
    {
        while let Some(batch) = Batch::gather(&mut entries).await? {
            let Batch { commands, bytes, mut responders, last, membership } = batch;
            let membership = membership.unwrap_or_else(|| self.membership.clone());
            let position = SnapshotMeta { last_log_id: Some(last), last_membership: membership.clone() };
            let position = wire::store_position(&position);
            let count = commands.len();
            let commands = Arc::new(commands);
            let at_once = self.apply_at_once(&commands, bytes, &position);
            let answers = match at_once {
                Some(answers) => answers,
                None => {
                    let apply = || {
                        let (commands, position) = (Arc::clone(&commands), position.clone());
                        move |state: &mut dyn DurableState| state.apply(&commands, position)
                    };
                    self.until_taken(apply).await?
                }
            };
            let answers = answers.and_then(|answers| match answers.len() {
                given if given == count => Ok(answers),
                given => Err(Corrupt(format!("{given} answers to {count} commands"))),
            });
            let answers = answers.map_err(|corrupt| {
                let reason =
                    format!("the commands up to entry {} are not understood: {corrupt}", last.index());
                self.failure.note(&reason)
            })?;
            (self.applied, self.membership) = (Some(last), membership);
            for (number, responder) in responders.drain(..) {
                responder.send(number.and_then(|number| answers.get(number).cloned()).unwrap_or_default());
            }
        }
        Ok(())
    }

    /// Applies commands here where that does not wait for the disk; `None`: it may.
    fn apply_at_once(
        &mut self,
        commands: &[(u64, Bytes)],
        bytes: usize,
        position: &Bytes,
    ) -> Option<Result<Vec<Bytes>, Corrupt>> {
        let state = self.state.get_mut().as_mut()?;
        if bytes > QUICK_BYTES_MAX || !state.is_quick(bytes) {
            return None;
        }
        match state.apply(commands, position.clone()) {
            Ok(answers) => Some(Ok(answers)),
            Err(Refused::Corrupt(corrupt)) => Some(Err(corrupt)),
            Err(Refused::Full) => None,
        }
    }

    pub(super) fn snapshot_builder(&mut self) -> Build {
        let failure = self.failure.clone();
        let checkpoint = match self.state.get_mut() {
            Some(state) => Ok(state.checkpoint()),
            None => Err(failure.note(&LOST)),
        };
        Build { checkpoint: Mutex::new(Some(checkpoint)), failure }
    }

    pub(super) async fn install(&mut self, meta: &SnapshotMeta, file: SnapshotFile) -> io::Result<()> {
        let position = wire::store_position(meta);
        let index = file.last_index().unwrap_or(0);
        // The file goes with the last of its handles: the state has what it held.
        let result = self.until_taken(|| {
            let (file, position) = (file.clone(), position.clone());
            move |state: &mut dyn DurableState| {
                let mut chunks = file.chunks();
                let restored = state.restore(position, &mut chunks);
                match (chunks.finish(), restored) {
                    (_, Err(Refused::Full)) => Err(Refused::Full),
                    (Err(damage), _) => Err(Corrupt(damage.to_string()).into()),
                    (Ok(()), restored) => restored,
                }
            }
        });
        result.await?.map_err(|corrupt| {
            self.failure.note(&format!("the snapshot up to entry {index} is not understood: {corrupt}"))
        })?;
        (self.applied, self.membership) = (meta.last_log_id, meta.last_membership.clone());
        Ok(())
    }

    /// The state as it is now; at the start, only how far it was on the disk.
    pub(super) fn current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        // openraft asks at the start, after it has applied the rest of the log again. It may cut the log on the word of what it
        // hears then, and that is not durable yet.
        if !self.outgoing.is_allowed() {
            let meta = self.at_start.clone();
            return Ok(meta.map(|meta| Snapshot { meta, snapshot: SnapshotData::OnDisk }));
        }
        let Some(state) = self.state.get_mut() else { return Err(self.failure.note(&LOST)) };
        let (position, chunks) = state.snapshot().map_err(|error| {
            self.failure.note(&format!("the state cannot be read for another member: {error}"))
        })?;
        let meta = wire::load_position(position).map_err(|error| {
            self.failure.note(&format!("the position of the state is not understood: {error}"))
        })?;
        let live = LiveSnapshot::new(&meta, chunks, self.outgoing.begin(), self.failure.clone());
        Ok(Some(Snapshot { meta, snapshot: SnapshotData::Live(live) }))
    }

    /// Does to the state what `work` makes, again and again as long as the disk is full and the group goes on.
    async fn until_taken<T, W>(&mut self, work: impl Fn() -> W) -> io::Result<Result<T, Corrupt>>
    where
        T: Send + 'static,
        W: FnOnce(&mut dyn DurableState) -> Result<T, Refused> + Send + 'static,
    {
        let mut has_waited = false;
        loop {
            match self.with_state(work()).await? {
                Ok(taken) => {
                    if has_waited {
                        tracing::info!(group = %self.group, "there is space for the state again: it goes on");
                    }
                    return Ok(Ok(taken));
                }
                Err(Refused::Corrupt(corrupt)) => return Ok(Err(corrupt)),
                Err(Refused::Full) => {}
            }
            if !std::mem::replace(&mut has_waited, true) {
                tracing::error!(
                    group = %self.group,
                    "the disk is full, and memory takes no more of the state: it waits, and its log grows; make room there"
                );
            }
            tokio::select! {
                () = tokio::time::sleep(FULL_PAUSE) => {}
                () = self.ended.cancelled() => return Err(io::Error::other("the group has ended")),
            }
        }
    }

    /// Does something to the state on a thread that may wait for the disk.
    async fn with_state<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut dyn DurableState) -> T + Send + 'static,
    ) -> io::Result<T> {
        let Some(mut state) = self.state.get_mut().take() else { return Err(self.failure.note(&LOST)) };
        let (state, result) = blocking(move || {
            let result = work(&mut *state);
            (state, result)
        })
        .await;
        *self.state.get_mut() = Some(state);
        Ok(result)
    }
}

/// Entries that are applied in one call.
struct Batch {
    commands: Vec<(u64, Bytes)>,
    /// The bytes of the commands.
    bytes: usize,
    /// Who waits, and for the answer to which command; entries of the group itself have an empty answer.
    responders: Vec<(Option<usize>, ApplyResponder<Types>)>,
    last: LogId,
    /// Where one of the entries changes it.
    membership: Option<StoredMembership>,
}

impl Batch {
    /// What is there at once, and at least one entry; `None` at the end.
    async fn gather<S>(entries: &mut S) -> io::Result<Option<Self>>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + Send,
    {
        let Some((entry, responder)) = entries.next().await.transpose()? else { return Ok(None) };
        let (commands, responders, membership) = (Vec::new(), Vec::new(), None);
        let mut batch = Self { commands, bytes: 0, responders, last: entry.log_id, membership };
        batch.add(entry, responder);
        while batch.commands.len() < APPLY_COMMANDS_MAX && batch.bytes < APPLY_BYTES_MAX {
            let Some(Some(next)) = entries.next().now_or_never() else { break };
            let (entry, responder) = next?;
            batch.add(entry, responder);
        }
        Ok(Some(batch))
    }

    /// Adds an entry.
    fn add(&mut self, entry: Entry, responder: Option<ApplyResponder<Types>>) {
        self.last = entry.log_id;
        let number = match entry.payload {
            EntryPayload::Normal(command) => {
                self.bytes += command.0.len();
                self.commands.push((entry.log_id.index(), command.0));
                Some(self.commands.len() - 1)
            }
            EntryPayload::Membership(membership) => {
                self.membership = Some(StoredMembership::new(Some(entry.log_id), membership));
                None
            }
            EntryPayload::Blank => None,
        };
        self.responders.extend(responder.map(|responder| (number, responder)));
    }
}

/// Brings to the disk what was applied, while the state goes on.
pub(in crate::group) struct Build {
    checkpoint: Mutex<Option<io::Result<Checkpoint>>>,
    failure: Failure,
}

impl Build {
    pub(super) async fn run(&mut self) -> io::Result<Snapshot> {
        let Some(checkpoint) = self.checkpoint.get_mut().take() else {
            return Err(self.failure.note(&"a checkpoint was to be made twice"));
        };
        let position = blocking(checkpoint?).await.map_err(|error| {
            self.failure.note(&format!("the state cannot be brought to the disk: {error}"))
        })?;
        // Without a position nothing was applied, and nothing is cut.
        let meta = position.map(wire::load_position).transpose().map_err(|error| {
            self.failure.note(&format!("the position of the state is not understood: {error}"))
        })?;
        Ok(Snapshot { meta: meta.unwrap_or_default(), snapshot: SnapshotData::OnDisk })
    }
}

/// The snapshots of a durable state that are on their way to other members.
#[derive(Clone, Default)]
pub(in crate::group) struct Outgoing(Arc<OutgoingState>);

#[derive(Default)]
struct OutgoingState {
    allowed: AtomicBool,
    count: AtomicUsize,
}

impl Outgoing {
    /// The group has started: from now on a snapshot is asked for to be sent.
    pub(in crate::group) fn allow(&self) {
        self.0.allowed.store(true, Ordering::Relaxed);
    }

    fn is_allowed(&self) -> bool {
        self.0.allowed.load(Ordering::Relaxed)
    }

    /// Whether there are any. Who receives one needs the log from there on.
    pub(in crate::group) fn is_any(&self) -> bool {
        self.0.count.load(Ordering::Relaxed) > 0
    }

    pub(in crate::group) fn begin(&self) -> OnItsWay {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        OnItsWay(self.clone())
    }
}

/// A snapshot on its way, until it is dropped.
pub(in crate::group) struct OnItsWay(Outgoing);

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.0.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

const LOST: &str = "the state was lost in a panic";
