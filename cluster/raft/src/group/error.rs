//! What can go wrong in a group.

use std::io;

use openraft::error::ClientWriteError;

use super::types::Types;

/// The state machine met bytes that it does not understand. The group stops: to skip them would let the replicas differ.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Corrupt(pub String);

/// Why a durable state did not take something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The disk has no space. Nothing was changed, and it is tried again until there is some.
    #[error("the disk of the state is full")]
    Full,
    /// It never will. The group stops.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

/// A request did not reach its node, or no answer came in time. Whether it took effect is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

/// A group cannot start, or refuses a request.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The options contradict each other.
    #[error("the options of the Raft group are not usable: {0}")]
    Options(String),
    /// The group has members already, or has taken part in an election.
    #[error("the Raft group is initialised already")]
    Initialized,
    /// Only the leader does this.
    #[error("this node does not lead the Raft group")]
    NotLeader {
        /// Who leads it, as far as is known.
        leader: Option<u64>,
    },
    /// The change of the membership is refused, now or for ever.
    #[error("the membership of the Raft group was not changed: {0}")]
    Membership(String),
    /// Another change of the membership is under way, or the leader is so new that none is allowed yet: try again.
    #[error("the membership of the Raft group cannot be changed yet: {0}")]
    Busy(String),
    /// The leadership cannot be handed over.
    #[error("the leadership of the Raft group was not handed over: {0}")]
    Transfer(String),
    /// A peer sent bytes that are not what they should be.
    #[error("a message of a peer is not understood: {0}")]
    Decode(#[from] DecodeError),
    /// What a snapshot file holds is not what was written.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The log was cut on the word of a state that has gone back since.
    #[error(
        "the state has entries up to {} only, but the log was cut up to entry {needed}: one of the two was put back or damaged. The \
         node cannot go on: stop it, empty its data directory and let it join the cluster again as a new node",
        .position.map_or_else(|| "none".to_owned(), |index| index.to_string())
    )]
    StateBehind {
        /// The last entry that the state has.
        position: Option<u64>,
        /// The last entry that only the state has.
        needed: u64,
    },
    /// The disk, or what was read from it.
    #[error("the storage of the Raft group failed: {0}")]
    Storage(String),
    /// The group has stopped, on request or because of an error that `GroupStatus::failed` tells.
    #[error("the Raft group has stopped: {0}")]
    Stopped(String),
}

/// A command was not accepted, or its fate is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was written: propose it at the leader. Also the answer of a leader that no quorum has confirmed yet, so it
    /// may name this node, or none: try again after a moment.
    #[error("this node does not lead the Raft group")]
    NotLeader {
        /// Who leads it, as far as is known.
        leader: Option<u64>,
    },
    /// The leadership was lost before the command was applied. It may have been committed, or still be.
    #[error("the leadership was lost: whether the command was committed is unknown")]
    Unknown {
        /// Who leads the group, as far as is known.
        leader: Option<u64>,
    },
    /// Nothing was written: the command is larger than one message between nodes may be.
    #[error("a command of {bytes} bytes is larger than the {limit} that fit a message between nodes")]
    TooLarge {
        /// The length of the command.
        bytes: usize,
        /// The greatest length.
        limit: usize,
    },
    /// Nothing was written: too many submitted commands have no answer yet.
    #[error("too many commands have no answer yet")]
    Full,
    /// The group has stopped. The command may have been committed.
    #[error("the Raft group has stopped: {0}")]
    Stopped(String),
}

impl ProposeError {
    /// What openraft's refusal means.
    pub(super) fn of(error: &ClientWriteError<Types>) -> Self {
        match error {
            ClientWriteError::ForwardToLeader(forward) => {
                Self::NotLeader { leader: forward.leader_id.map(|seat| seat.node) }
            }
            ClientWriteError::LogEntryDiscarded(forward) => {
                Self::Unknown { leader: forward.leader_id.map(|seat| seat.node) }
            }
            // Commands have neither; should they come to have, then nothing is known of their fate.
            ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => {
                Self::Unknown { leader: None }
            }
        }
    }
}

/// Bytes of a peer, of the log or of a snapshot do not decode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not protobuf, or not of the expected shape.
    #[error("not a {what}: {reason}")]
    Malformed {
        /// What was expected.
        what: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// A part that every sender writes is absent.
    #[error("a {what} without {field}")]
    Missing {
        /// What was decoded.
        what: &'static str,
        /// The absent part.
        field: &'static str,
    },
    /// Written by a newer version of flotilla.
    #[error("a {what} of format {version}, this flotilla reads up to {known}")]
    Version {
        /// What was decoded.
        what: &'static str,
        /// The version found.
        version: u32,
        /// The newest version known here.
        known: u32,
    },
}

/// A snapshot file cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The disk.
    #[error("snapshot {path}: {source}")]
    Io {
        /// The file or the folder.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error(
        "snapshot {path} is damaged: {reason}. The node cannot go on without it: stop it, empty its data directory and let it \
         join the cluster again as a new node"
    )]
    Damaged {
        /// The file.
        path: String,
        /// Where and how.
        reason: String,
    },
    /// The log was cut on the word of a snapshot that is not there.
    #[error(
        "the snapshot in {path} is missing or older than entry {needed}, where the log was cut. The node cannot go on without \
         it: stop it, empty its data directory and let it join the cluster again as a new node"
    )]
    Missing {
        /// The folder of the snapshot.
        path: String,
        /// The last entry that only the snapshot has.
        needed: u64,
    },
    /// Another node sent something else than a snapshot.
    #[error("a received snapshot is refused: {0}")]
    Received(String),
}

impl SnapshotError {
    /// Whether only space is missing.
    pub(super) fn is_full(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}
