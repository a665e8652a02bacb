//! What registries tell each other.

use std::time::Duration;

use bytes::Bytes;
use flotilla_mqtt::session::ClientId;
use flotilla_state::{ConnectionEpoch, LogIndex, Member, ShardEpoch, ShardId};

use crate::{KeptWill, Tenure};

/// A client in the hands of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) member: Member,
    pub(crate) epoch: ConnectionEpoch,
}

/// Whom an owner had its client from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) previous: Hold,
    /// The previous owner has ended its connection itself, so that it took care of the will; otherwise it has ended.
    pub(crate) handed: bool,
}

/// What an owner knows of the time before it, for wills that may still be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Past {
    /// `None`: nobody had the client.
    pub(crate) origin: Option<Origin>,
    /// The client started clean.
    pub(crate) clean: bool,
}

/// A will with the rest of its delay.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SentWill {
    pub(crate) will: KeptWill,
    /// The rest, if the delay runs.
    pub(crate) rest: Option<Duration>,
}

/// A will that waits to be published by somebody else than its owner.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SentOrphan {
    pub(crate) owner: Member,
    pub(crate) client: ClientId,
    pub(crate) tenure: Tenure,
    pub(crate) will: SentWill,
    /// Up to where the sender had read the log when it learnt that the owner had ended.
    pub(crate) ended_at: LogIndex,
}

/// A client in a [`Report`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) client: ClientId,
    pub(crate) epoch: ConnectionEpoch,
    pub(crate) role: EntryRole,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryRole {
    /// The session or the connection is here.
    Owner {
        /// A registrar knows; otherwise any other owner goes first.
        registered: bool,
        past: Past,
    },
    /// The claim was granted, but the client is not here yet.
    Claimant { claim: u64, previous: Option<Hold> },
}

/// What a member has in a shard, for a registrar that has just taken office.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Report {
    pub(crate) shard: ShardId,
    pub(crate) term: ShardEpoch,
    pub(crate) entries: Vec<Entry>,
    pub(crate) orphans: Vec<SentOrphan>,
    /// How far the sender had read the log: the wills of members that had ended by then are in it.
    pub(crate) as_of: LogIndex,
    /// The sender was the registrar, and knew everything, up to this entry: which wills of members that had ended by then
    /// are left is for it to say. 0: never.
    pub(crate) authority: LogIndex,
    /// Nothing follows.
    pub(crate) last: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Message {
    // To the registrar.
    Claim {
        client: ClientId,
        term: ShardEpoch,
        claim: u64,
    },
    /// The claim is given up, wherever it stands.
    Withdraw {
        client: ClientId,
        claim: u64,
    },
    /// The client is here.
    Confirm {
        client: ClientId,
        epoch: ConnectionEpoch,
        handed: bool,
        clean: bool,
    },
    /// The client is here no more.
    Release {
        client: ClientId,
        epoch: ConnectionEpoch,
    },
    /// The client is here, which the registrar may not know.
    Register {
        client: ClientId,
        epoch: ConnectionEpoch,
    },
    Report(Report),
    /// The wills of an ended member that the sender keeps.
    Orphans {
        owner: Member,
        wills: Vec<SentOrphan>,
        last: bool,
    },

    // From the registrar.
    Granted {
        client: ClientId,
        claim: u64,
        epoch: ConnectionEpoch,
        previous: Option<Hold>,
    },
    Superseded {
        client: ClientId,
        term: ShardEpoch,
        claim: u64,
    },
    Registered {
        client: ClientId,
        term: ShardEpoch,
        epoch: ConnectionEpoch,
    },
    Discard {
        client: ClientId,
        term: ShardEpoch,
        epoch: ConnectionEpoch,
    },
    /// The will of an owner that has ended has been published, or never will be: forget it.
    WillDone {
        owner: Member,
        client: ClientId,
    },

    // From the new owner to the previous one, and back.
    Handover {
        client: ClientId,
        epoch: ConnectionEpoch,
        discard: bool,
    },
    /// A part of the session; `None`: there is none.
    Handed {
        client: ClientId,
        epoch: ConnectionEpoch,
        part: Option<Bytes>,
        more: bool,
    },
    /// The claim is given up: the session stays.
    Cancel {
        client: ClientId,
        epoch: ConnectionEpoch,
    },
    /// The session is imported; the stub is wanted or not.
    Taken {
        client: ClientId,
        epoch: ConnectionEpoch,
        wants_stub: bool,
    },
    Settle {
        client: ClientId,
        epoch: ConnectionEpoch,
        index: LogIndex,
    },
    /// Nobody waits for the stub any more.
    Unstub {
        client: ClientId,
        epoch: ConnectionEpoch,
    },

    // From the owner to the keepers of its wills, and back.
    Keep {
        client: ClientId,
        tenure: Tenure,
        will: SentWill,
    },
    Kept {
        client: ClientId,
        tenure: Tenure,
    },
    Drop {
        client: ClientId,
        tenure: Tenure,
    },
}

impl Message {
    /// About how long it is, so that batches stay small.
    pub(crate) fn size(&self) -> usize {
        const BASE: usize = 64;
        BASE + match self {
            Self::Handed { part, .. } => part.as_ref().map_or(0, Bytes::len),
            Self::Keep { will, .. } => will.will.size(),
            Self::Orphans { wills, .. } => wills.iter().map(|orphan| orphan.will.will.size()).sum(),
            Self::Report(report) => {
                let wills: usize = report.orphans.iter().map(|orphan| orphan.will.will.size()).sum();
                wills + report.entries.len() * BASE
            }
            _ => 0,
        }
    }
}
