//! What registries tell each other.

use flotilla_mqtt::session::ClientId;
use flotilla_state::{ConnectionEpoch, Member, ShardEpoch, ShardId};

/// A client in the hands of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) member: Member,
    pub(crate) epoch: ConnectionEpoch,
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
    /// The connection is here.
    Owner {
        /// It was granted in this life of the member; otherwise any other owner goes first.
        registered: bool,
    },
    /// The claim was granted, and waits for the previous owner.
    Claimant { claim: u64, previous: Hold },
}

/// What a member has in a shard, for a registrar that has just taken office.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Report {
    pub(crate) shard: ShardId,
    pub(crate) term: ShardEpoch,
    pub(crate) entries: Vec<Entry>,
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
    },
    /// The client is here no more.
    Release {
        client: ClientId,
        epoch: ConnectionEpoch,
    },
    Report(Report),

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
    Discard {
        client: ClientId,
        term: ShardEpoch,
        epoch: ConnectionEpoch,
    },

    // From the new owner to the previous one, and back.
    /// End the connection.
    Handover {
        client: ClientId,
        epoch: ConnectionEpoch,
    },
    /// There is none, or none any more.
    Handed {
        client: ClientId,
        epoch: ConnectionEpoch,
    },
}

impl Message {
    /// About how long it is, so that batches stay small.
    pub(crate) fn size(&self) -> usize {
        const BASE: usize = 64;
        match self {
            Self::Report(report) => BASE + report.entries.len() * BASE,
            _ => BASE,
        }
    }
}
