//! Between openraft's types and protobuf: the messages of peers, and what is stored in the log.
//!
//! Stored values begin with a byte for their format.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flotilla_rpc::raft as pb;
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::vote::RaftLeaderId;
use prost::Message;

use super::error::DecodeError;
use super::types::{
    Command, Entry, LeaderId, LogId, Membership, Seat, SnapshotMeta, StoredMembership, Types, Vote,
};

type Result<T> = std::result::Result<T, DecodeError>;

/// The format of stored values.
const STORED_VERSION: u8 = 1;

// ---- messages of peers ----

pub(super) fn encode_append_request(request: AppendEntriesRequest<Types>) -> Bytes {
    let message = pb::AppendRequest {
        vote: Some(from_vote(&request.vote)),
        previous: request.prev_log_id.as_ref().map(from_log_id),
        entries: request.entries.into_iter().map(from_entry).collect(),
        committed: request.leader_commit.as_ref().map(from_log_id),
    };
    encode(&message)
}

pub(super) fn decode_append_request(bytes: Bytes) -> Result<AppendEntriesRequest<Types>> {
    const WHAT: &str = "request to append";
    let message: pb::AppendRequest = decode(WHAT, bytes)?;
    let request: AppendEntriesRequest<Types> = AppendEntriesRequest {
        vote: to_vote(required(WHAT, "its vote", message.vote)?),
        prev_log_id: optional_log_id(message.previous)?,
        entries: message.entries.into_iter().map(to_entry).collect::<Result<Vec<Entry>>>()?,
        leader_commit: optional_log_id(message.committed)?,
    };
    // A gap would stop the group later, with a message that does not name the sender.
    let mut next: Option<u64> = request.prev_log_id.map(|id| id.index() + 1);
    for entry in &request.entries {
        let index = entry.log_id.index();
        if next.is_some_and(|next| next != index) {
            return Err(malformed(WHAT, "its entries do not follow one another"));
        }
        next = Some(index + 1);
    }
    Ok(request)
}

pub(super) fn encode_append_reply(reply: &AppendEntriesResponse<Types>) -> Bytes {
    use pb::append_reply::Outcome;
    let outcome = match reply {
        AppendEntriesResponse::Success => Outcome::Success(pb::Success {}),
        AppendEntriesResponse::PartialSuccess(last) => {
            Outcome::Partial(pb::PartialSuccess { last: last.as_ref().map(from_log_id) })
        }
        AppendEntriesResponse::Conflict => Outcome::Conflict(pb::Conflict {}),
        AppendEntriesResponse::HigherVote(vote) => Outcome::HigherVote(from_vote(vote)),
    };
    encode(&pb::AppendReply { outcome: Some(outcome) })
}

pub(super) fn decode_append_reply(bytes: Bytes) -> Result<AppendEntriesResponse<Types>> {
    use pb::append_reply::Outcome;
    const WHAT: &str = "reply to append";
    let message: pb::AppendReply = decode(WHAT, bytes)?;
    Ok(match required(WHAT, "its outcome", message.outcome)? {
        Outcome::Success(pb::Success {}) => AppendEntriesResponse::Success,
        Outcome::Partial(partial) => AppendEntriesResponse::PartialSuccess(optional_log_id(partial.last)?),
        Outcome::Conflict(pb::Conflict {}) => AppendEntriesResponse::Conflict,
        Outcome::HigherVote(vote) => AppendEntriesResponse::HigherVote(to_vote(vote)),
    })
}

pub(super) fn encode_vote_request(request: &VoteRequest<Types>) -> Bytes {
    encode(&pb::VoteRequest {
        vote: Some(from_vote(&request.vote)),
        last_log: request.last_log_id.as_ref().map(from_log_id),
        transfer: request.leadership_transfer,
    })
}

pub(super) fn decode_vote_request(bytes: Bytes) -> Result<VoteRequest<Types>> {
    const WHAT: &str = "request for a vote";
    let message: pb::VoteRequest = decode(WHAT, bytes)?;
    Ok(VoteRequest {
        vote: to_vote(required(WHAT, "the vote", message.vote)?),
        last_log_id: optional_log_id(message.last_log)?,
        leadership_transfer: message.transfer,
    })
}

pub(super) fn encode_vote_reply(reply: &VoteResponse<Types>) -> Bytes {
    encode(&pb::VoteReply {
        vote: Some(from_vote(&reply.vote)),
        granted: reply.vote_granted,
        last_log: reply.last_log_id.as_ref().map(from_log_id),
    })
}

pub(super) fn decode_vote_reply(bytes: Bytes) -> Result<VoteResponse<Types>> {
    const WHAT: &str = "reply to a request for a vote";
    let message: pb::VoteReply = decode(WHAT, bytes)?;
    let vote = to_vote(required(WHAT, "the vote", message.vote)?);
    Ok(VoteResponse::new(vote, optional_log_id(message.last_log)?, message.granted))
}

pub(super) fn encode_transfer_request(request: &TransferLeaderRequest<Types>) -> Bytes {
    encode(&pb::TransferRequest {
        from: Some(from_vote(request.from_leader())),
        to: request.to_node_id().node,
        to_group: request.to_node_id().group,
        last_log: request.last_log_id().map(from_log_id),
    })
}

pub(super) fn decode_transfer_request(bytes: Bytes) -> Result<TransferLeaderRequest<Types>> {
    const WHAT: &str = "request to take the leadership";
    let message: pb::TransferRequest = decode(WHAT, bytes)?;
    let from = to_vote(required(WHAT, "its leader", message.from)?);
    Ok(TransferLeaderRequest::new(
        from,
        to_seat(message.to, message.to_group),
        optional_log_id(message.last_log)?,
    ))
}

pub(super) fn encode_transfer_reply(reply: &TransferLeaderResponse<Types>) -> Bytes {
    use pb::transfer_reply::Outcome;
    let outcome = match reply {
        Ok(()) => Outcome::Success(pb::Success {}),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => Outcome::VoteChanged(pb::VoteChanged {
            expected: Some(from_vote(expected)),
            actual: Some(from_vote(actual)),
        }),
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => Outcome::NotFlushed(pb::NotFlushed {
            expected: expected.as_ref().map(from_log_id),
            actual: actual.as_ref().map(from_log_id),
        }),
    };
    encode(&pb::TransferReply { outcome: Some(outcome) })
}

pub(super) fn decode_transfer_reply(bytes: Bytes) -> Result<TransferLeaderResponse<Types>> {
    use pb::transfer_reply::Outcome;
    const WHAT: &str = "reply to a request to take the leadership";
    let message: pb::TransferReply = decode(WHAT, bytes)?;
    Ok(match required(WHAT, "its outcome", message.outcome)? {
        Outcome::Success(pb::Success {}) => Ok(()),
        Outcome::VoteChanged(changed) => Err(TransferLeaderError::VoteChanged {
            expected: to_vote(required(WHAT, "the expected vote", changed.expected)?),
            actual: to_vote(required(WHAT, "the actual vote", changed.actual)?),
        }),
        Outcome::NotFlushed(log) => Err(TransferLeaderError::LogNotFlushed {
            expected: optional_log_id(log.expected)?,
            actual: optional_log_id(log.actual)?,
        }),
    })
}

/// What goes before a snapshot: whose it is, what it holds, and how long the file is; 0 where it is made as it is sent.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SnapshotHead {
    pub(super) vote: Vote,
    pub(super) meta: SnapshotMeta,
    pub(super) file_bytes: u64,
}

pub(super) fn encode_snapshot_head(head: &SnapshotHead) -> Bytes {
    encode(&pb::SnapshotHead {
        vote: Some(from_vote(&head.vote)),
        meta: Some(from_snapshot_meta(&head.meta)),
        file_bytes: head.file_bytes,
    })
}

pub(super) fn decode_snapshot_head(bytes: Bytes) -> Result<SnapshotHead> {
    const WHAT: &str = "head of a snapshot";
    let message: pb::SnapshotHead = decode(WHAT, bytes)?;
    Ok(SnapshotHead {
        vote: to_vote(required(WHAT, "its vote", message.vote)?),
        meta: to_snapshot_meta(required(WHAT, "what it holds", message.meta)?)?,
        file_bytes: message.file_bytes,
    })
}

pub(super) fn encode_snapshot_reply(reply: &SnapshotResponse<Types>) -> Bytes {
    encode(&pb::SnapshotReply { vote: Some(from_vote(&reply.vote)) })
}

pub(super) fn decode_snapshot_reply(bytes: Bytes) -> Result<SnapshotResponse<Types>> {
    const WHAT: &str = "reply to a snapshot";
    let message: pb::SnapshotReply = decode(WHAT, bytes)?;
    Ok(SnapshotResponse::new(to_vote(required(WHAT, "its vote", message.vote)?)))
}

pub(super) fn encode_snapshot_meta(meta: &SnapshotMeta) -> Bytes {
    encode(&from_snapshot_meta(meta))
}

pub(super) fn decode_snapshot_meta(bytes: Bytes) -> Result<SnapshotMeta> {
    to_snapshot_meta(decode("description of a snapshot", bytes)?)
}

// ---- what is stored in the log ----

pub(super) fn store_entry(entry: Entry) -> Bytes {
    store(&from_entry(entry))
}

pub(super) fn load_entry(bytes: Bytes) -> Result<Entry> {
    to_entry(load("stored entry", bytes)?)
}

pub(super) fn store_vote(vote: &Vote) -> Bytes {
    store(&from_vote(vote))
}

pub(super) fn load_vote(bytes: Bytes) -> Result<Vote> {
    Ok(to_vote(load("stored vote", bytes)?))
}

pub(super) fn store_log_id(id: &LogId) -> Bytes {
    store(&from_log_id(id))
}

pub(super) fn load_log_id(bytes: Bytes) -> Result<LogId> {
    to_log_id(load("stored log id", bytes)?)
}

// ---- what a durable state keeps ----

/// How far a state is: the last entry that it has applied, and the members as of then.
pub(super) fn store_position(position: &SnapshotMeta) -> Bytes {
    store(&from_snapshot_meta(position))
}

pub(super) fn load_position(bytes: Bytes) -> Result<SnapshotMeta> {
    to_snapshot_meta(load("stored position", bytes)?)
}

// ---- parts ----

fn from_vote(vote: &Vote) -> pb::Vote {
    let LeaderId { term, node_id: Seat { node, group } } = vote.leader_id;
    pb::Vote { term, node, committed: vote.committed, group }
}

fn to_vote(vote: pb::Vote) -> Vote {
    let seat = to_seat(vote.node, vote.group);
    if vote.committed { Vote::new_committed(vote.term, seat) } else { Vote::new(vote.term, seat) }
}

fn from_log_id(id: &LogId) -> pb::LogId {
    let LeaderId { term, node_id: Seat { node, group } } = *id.committed_leader_id();
    pb::LogId { term, node, index: id.index(), group }
}

fn to_log_id(id: pb::LogId) -> Result<LogId> {
    if id.index == u64::MAX {
        return Err(malformed("log id", "its index has none after it"));
    }
    Ok(LogId::new(LeaderId::new(id.term, to_seat(id.node, id.group)), id.index))
}

fn to_seat(node: u64, group: u64) -> Seat {
    Seat { node, group }
}

fn optional_log_id(id: Option<pb::LogId>) -> Result<Option<LogId>> {
    id.map(to_log_id).transpose()
}

fn from_entry(entry: Entry) -> pb::Entry {
    use pb::entry::Payload;
    let payload = match entry.payload {
        EntryPayload::Blank => Payload::Blank(pb::Blank {}),
        EntryPayload::Normal(Command(bytes)) => Payload::Command(bytes),
        EntryPayload::Membership(membership) => Payload::Membership(from_membership(&membership)),
    };
    pb::Entry { id: Some(from_log_id(&entry.log_id)), payload: Some(payload) }
}

fn to_entry(entry: pb::Entry) -> Result<Entry> {
    use pb::entry::Payload;
    const WHAT: &str = "log entry";
    let id = to_log_id(required(WHAT, "its id", entry.id)?)?;
    let payload = match required(WHAT, "its content", entry.payload)? {
        Payload::Blank(pb::Blank {}) => EntryPayload::Blank,
        Payload::Command(bytes) => EntryPayload::Normal(Command(bytes)),
        Payload::Membership(membership) => EntryPayload::Membership(to_membership(membership)?),
    };
    Ok(Entry::new(id, payload))
}

fn from_membership(membership: &Membership) -> pb::Membership {
    let mut groups: Vec<u64> = membership.nodes().map(|(seat, _)| seat.group).collect();
    if groups.iter().all(|group| *group == 0) {
        groups.clear();
    }
    pb::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|voters| pb::Voters { nodes: voters.iter().map(|seat| seat.node).collect() })
            .collect(),
        members: membership.nodes().map(|(seat, _)| seat.node).collect(),
        groups,
    }
}

fn to_membership(membership: pb::Membership) -> Result<Membership> {
    const WHAT: &str = "membership";
    let pb::Membership { configs, members, mut groups } = membership;
    if configs.is_empty() && members.is_empty() {
        return Ok(Membership::default()); // Before the group is initialised.
    }
    if groups.is_empty() {
        groups.resize(members.len(), 0);
    }
    let count = members.len();
    if count != groups.len() {
        return Err(malformed(WHAT, "it does not tell of each member under which number it has the group"));
    }
    let seats: BTreeMap<u64, Seat> =
        members.into_iter().zip(groups).map(|(node, group)| (node, to_seat(node, group))).collect();
    if seats.len() != count {
        return Err(malformed(WHAT, "a node is a member twice"));
    }
    let seat = |node: &u64| seats.get(node).copied();
    let configs = configs
        .iter()
        .map(|voters| voters.nodes.iter().map(seat).collect::<Option<BTreeSet<Seat>>>())
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| malformed(WHAT, "who votes is no member"))?;
    let members: BTreeSet<Seat> = seats.values().copied().collect();
    Membership::new(configs, members).map_err(|error| malformed(WHAT, &error.to_string()))
}

fn from_snapshot_meta(meta: &SnapshotMeta) -> pb::SnapshotMeta {
    pb::SnapshotMeta {
        last: meta.last_log_id.as_ref().map(from_log_id),
        membership_at: meta.last_membership.log_id().as_ref().map(from_log_id),
        membership: Some(from_membership(meta.last_membership.membership())),
    }
}

fn to_snapshot_meta(meta: pb::SnapshotMeta) -> Result<SnapshotMeta> {
    const WHAT: &str = "description of a snapshot";
    let membership = to_membership(required(WHAT, "its membership", meta.membership)?)?;
    Ok(SnapshotMeta {
        last_log_id: optional_log_id(meta.last)?,
        last_membership: StoredMembership::new(optional_log_id(meta.membership_at)?, membership),
    })
}

fn encode(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

fn decode<M: Message + Default>(what: &'static str, bytes: Bytes) -> Result<M> {
    M::decode(bytes).map_err(|error| malformed(what, &error.to_string()))
}

fn store(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + message.encoded_len());
    bytes.put_u8(STORED_VERSION);
    message.encode(&mut bytes).expect("a growing buffer has room");
    bytes.freeze()
}

fn load<M: Message + Default>(what: &'static str, mut bytes: Bytes) -> Result<M> {
    match bytes.first() {
        None => Err(malformed(what, "no bytes")),
        Some(&STORED_VERSION) => {
            bytes.advance(1);
            decode(what, bytes)
        }
        Some(&version) => {
            Err(DecodeError::Version { what, version: version.into(), known: STORED_VERSION.into() })
        }
    }
}

fn required<T>(what: &'static str, field: &'static str, value: Option<T>) -> Result<T> {
    value.ok_or(DecodeError::Missing { what, field })
}

fn malformed(what: &'static str, reason: &str) -> DecodeError {
    DecodeError::Malformed { what, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests;
