//! A group whose node does not run: what its log says, and how this node alone goes on with it.

use std::{collections::BTreeSet, io, path::PathBuf, sync::Arc};

use bytes::Bytes;
use flotilla_wal::{Files, Record, Wal};
use openraft::{EntryPayload, entry::RaftEntry, vote::RaftLeaderId};

use super::{
    GroupError, GroupId, StateMachine,
    error::DecodeError,
    log::LogStore,
    snapshot::SnapshotStore,
    types::{Command, Entry, LeaderId, LogId, Membership, Seat, Vote},
    wire,
};

/// What is read of a log at once.
const READ_BYTES_MAX: usize = 1024 * 1024;

/// Brings a state to where the log ends, what was never known to be committed included.
pub(crate) fn replay(
    wal: &Wal,
    group: GroupId,
    (dir, files): (PathBuf, Arc<dyn Files>),
    state: &mut dyn StateMachine,
) -> Result<(), GroupError> {
    let damaged = |error: &dyn std::fmt::Display| GroupError::Storage(error.to_string());
    let snapshots = SnapshotStore::open(dir, files)?;
    snapshots.require(LogStore::open(wal.clone(), group)?.purged())?;
    let mut next = 0;
    if let Some(snapshot) = snapshots.current() {
        let last = snapshot.last_index().unwrap_or(0);
        let mut chunks = snapshot.chunks();
        let restored = state.restore(last, &mut chunks);
        chunks.finish()?;
        restored.map_err(|error| damaged(&error))?;
        next = last + 1;
    }
    loop {
        let entries =
            wal.entries(group.0, next..u64::MAX, READ_BYTES_MAX).map_err(|error| damaged(&error))?;
        let Some((last, _)) = entries.last() else { return Ok(()) };
        next = last + 1;
        for (index, bytes) in entries {
            if let EntryPayload::Normal(Command(command)) = wire::load_entry(bytes)?.payload {
                state.apply(index, &command).map_err(|error| damaged(&error))?;
            }
        }
    }
}

/// What has to be written to the log of a group so that this node alone is the group from its next start on: it commits all that
/// its log has, and then these commands. `None`: it has nothing of the group.
pub(crate) fn sole_member(
    wal: &Wal,
    group: GroupId,
    me: u64,
    commands: Vec<Bytes>,
) -> Result<Option<Vec<Record>>, DecodeError> {
    let state = wal.group(group.0);
    let last = match (state.last, state.purged) {
        (Some((_, entry)), _) => wire::load_entry(entry)?.log_id,
        (None, Some((_, id))) => wire::load_log_id(id)?,
        (None, None) => return Ok(None),
    };
    let voted = state.vote.map(wire::load_vote).transpose()?.map_or(0, |vote| vote.leader_id.term);
    // A term of its own: no other entry has the same index and the same leader.
    let term = voted.max(last.committed_leader_id().term) + 1;
    let me = Seat::new(me, group);
    let voters = BTreeSet::from([me]);
    let alone = Membership::new(vec![voters.clone()], voters).expect("who votes is a member");
    let payloads = std::iter::once(EntryPayload::Membership(alone))
        .chain(commands.into_iter().map(|command| EntryPayload::Normal(Command(command))));
    let entry = |(index, payload)| {
        let entry = Entry::new(LogId::new(LeaderId::new(term, me), index), payload);
        Record::Entry { group: group.0, index, bytes: wire::store_entry(entry) }
    };
    let vote = Record::Vote { group: group.0, bytes: wire::store_vote(&Vote::new(term, me)) };
    Ok(Some(std::iter::once(vote).chain((last.index() + 1..).zip(payloads).map(entry)).collect()))
}

/// Writes records, all or none of them, and waits until they are on the disk.
pub(crate) fn write(wal: &Wal, records: Vec<Record>) -> io::Result<()> {
    let (sender, written) = std::sync::mpsc::channel();
    wal.submit(records, move |result| drop(sender.send(result)));
    written.recv().unwrap_or_else(|_| Err(io::Error::other("the write-ahead log was closed")))
}
