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
    if members.len() != groups.len() {
        return Err(malformed(WHAT, "it does not tell of each member under which number it has the group"));
    }
    let seats: BTreeMap<u64, Seat> =
        members.into_iter().zip(groups).map(|(node, group)| (node, to_seat(node, group))).collect();
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
mod tests {
    use std::fmt::Debug;

    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_sent_is_received(
            vote in votes(),
            other in votes(),
            id in proptest::option::of(log_ids()),
            second in proptest::option::of(log_ids()),
            payloads in vec(payloads(), 0..5),
            flag: bool,
            number: u64,
        ) {
            let mut next = id.map_or(number >> 8, |id: LogId| id.index() + 1);
            let entries: Vec<Entry> = payloads.into_iter().map(|payload| {
                let entry = Entry::new(LogId::new(LeaderId::new(3, to_seat(4, 5)), next), payload);
                next += 1;
                entry
            }).collect();
            for entry in &entries {
                prop_assert_eq!(&load_entry(store_entry(entry.clone())).expect("stored"), entry);
            }
            let request: AppendEntriesRequest<Types> =
                AppendEntriesRequest { vote, prev_log_id: id, entries, leader_commit: second };
            let received = decode_append_request(encode_append_request(request.clone())).expect("encoded");
            prop_assert_eq!(received.vote, request.vote);
            prop_assert_eq!(received.prev_log_id, request.prev_log_id);
            prop_assert_eq!(received.entries, request.entries);
            prop_assert_eq!(received.leader_commit, request.leader_commit);

            for reply in [
                AppendEntriesResponse::Success,
                AppendEntriesResponse::PartialSuccess(id),
                AppendEntriesResponse::Conflict,
                AppendEntriesResponse::HigherVote(vote),
            ] {
                prop_assert_eq!(decode_append_reply(encode_append_reply(&reply)).expect("encoded"), reply);
            }
            let request: VoteRequest<Types> = VoteRequest { vote, last_log_id: id, leadership_transfer: flag };
            prop_assert_eq!(decode_vote_request(encode_vote_request(&request)).expect("encoded"), request);
            let reply = VoteResponse::<Types>::new(vote, id, flag);
            prop_assert_eq!(decode_vote_reply(encode_vote_reply(&reply)).expect("encoded"), reply);
            let request = TransferLeaderRequest::<Types>::new(vote, to_seat(number, number ^ 7), id);
            prop_assert_eq!(decode_transfer_request(encode_transfer_request(&request)).expect("encoded"), request);
            for reply in [
                Ok(()),
                Err(TransferLeaderError::VoteChanged { expected: vote, actual: other }),
                Err(TransferLeaderError::LogNotFlushed { expected: id, actual: second }),
            ] {
                prop_assert_eq!(decode_transfer_reply(encode_transfer_reply(&reply)).expect("encoded"), reply);
            }
            let reply = SnapshotResponse::<Types>::new(vote);
            prop_assert_eq!(decode_snapshot_reply(encode_snapshot_reply(&reply)).expect("encoded"), reply);
            prop_assert_eq!(load_vote(store_vote(&vote)).expect("stored"), vote);
        }

        #[test]
        fn a_snapshot_tells_what_it_holds(
            vote in votes(),
            last in proptest::option::of(log_ids()),
            at in proptest::option::of(log_ids()),
            membership in memberships(),
            file_bytes: u64,
        ) {
            let meta = SnapshotMeta {
                last_log_id: last,
                last_membership: StoredMembership::new(at, membership),
            };
            prop_assert_eq!(&decode_snapshot_meta(encode_snapshot_meta(&meta)).expect("encoded"), &meta);
            prop_assert_eq!(&load_position(store_position(&meta)).expect("stored"), &meta);
            let head = SnapshotHead { vote, meta, file_bytes };
            prop_assert_eq!(decode_snapshot_head(encode_snapshot_head(&head)).expect("encoded"), head);
        }

        #[test]
        fn bytes_of_others_do_no_harm(bytes in vec(any::<u8>(), 0..200)) {
            let bytes = Bytes::from(bytes);
            let _ = decode_append_request(bytes.clone());
            let _ = decode_append_reply(bytes.clone());
            let _ = decode_vote_request(bytes.clone());
            let _ = decode_vote_reply(bytes.clone());
            let _ = decode_transfer_request(bytes.clone());
            let _ = decode_transfer_reply(bytes.clone());
            let _ = decode_snapshot_head(bytes.clone());
            let _ = decode_snapshot_reply(bytes.clone());
            let _ = load_entry(bytes.clone());
            let _ = load_vote(bytes.clone());
            let _ = load_position(bytes.clone());
            let _ = load_log_id(bytes);
        }
    }

    #[test]
    fn nothing_is_not_something() {
        fn refused<T: Debug>(decoded: Result<T>) {
            let error = decoded.expect_err("no bytes");
            assert!(matches!(error, DecodeError::Missing { .. } | DecodeError::Malformed { .. }), "{error}");
        }
        refused(decode_append_request(Bytes::new()));
        refused(decode_append_reply(Bytes::new()));
        refused(decode_vote_request(Bytes::new()));
        refused(decode_vote_reply(Bytes::new()));
        refused(decode_transfer_request(Bytes::new()));
        refused(decode_transfer_reply(Bytes::new()));
        refused(decode_snapshot_head(Bytes::new()));
        refused(decode_snapshot_reply(Bytes::new()));
        refused(decode_snapshot_meta(Bytes::new()));
        refused(load_entry(Bytes::new()));
        refused(load_vote(Bytes::new()));
        refused(load_position(Bytes::new()));
        refused(load_log_id(Bytes::new()));
    }

    #[test]
    fn a_newer_format_is_named() {
        let error = load_vote(Bytes::from_static(&[2, 1, 2, 3])).expect_err("a newer format");
        assert_eq!(error, DecodeError::Version { what: "stored vote", version: 2, known: 1 });
    }

    #[test]
    fn a_voter_is_a_member() {
        let is_taken = |voters: &[u64], groups: &[u64]| {
            let configs = vec![pb::Voters { nodes: voters.to_vec() }];
            to_membership(pb::Membership { configs, members: vec![1], groups: groups.to_vec() }).is_ok()
        };
        assert!(is_taken(&[1], &[7]));
        assert!(is_taken(&[1], &[]), "as it was before members had numbers of their own");
        for (voters, groups) in [(&[1, 2][..], &[7][..]), (&[], &[7]), (&[1], &[7, 8])] {
            assert!(!is_taken(voters, groups), "{voters:?} {groups:?}");
        }
    }

    #[test]
    fn entries_of_a_request_follow_one_another() {
        let entry =
            |index| Entry::new(LogId::new(LeaderId::new(1, to_seat(1, 7)), index), EntryPayload::Blank);
        let request = |previous: u64, entries: Vec<Entry>| AppendEntriesRequest::<Types> {
            vote: Vote::new_committed(1, to_seat(1, 7)),
            prev_log_id: Some(LogId::new(LeaderId::new(1, to_seat(1, 7)), previous)),
            entries,
            leader_commit: None,
        };
        let is_taken = |request| decode_append_request(encode_append_request(request)).is_ok();
        assert!(is_taken(request(3, vec![entry(4), entry(5)])));
        assert!(!is_taken(request(3, vec![entry(4), entry(6)])));
        assert!(!is_taken(request(3, vec![entry(5)])));
        assert!(!is_taken(request(u64::MAX, vec![entry(5)])));
    }

    #[test]
    fn commands_are_not_copied_out_of_a_request() {
        let command = Bytes::from(vec![7; 1000]);
        let entry = Entry::new(
            LogId::new(LeaderId::new(1, to_seat(1, 7)), 4),
            EntryPayload::Normal(Command(command)),
        );
        let stored = store_entry(entry);
        let range = stored.as_ptr_range();
        let EntryPayload::Normal(Command(command)) = load_entry(stored.clone()).expect("stored").payload
        else {
            panic!("a command was stored");
        };
        assert!(range.contains(&command.as_ptr()));
    }

    fn votes() -> impl Strategy<Value = Vote> {
        (any::<u64>(), seats(), any::<bool>()).prop_map(|(term, seat, committed)| {
            if committed { Vote::new_committed(term, seat) } else { Vote::new(term, seat) }
        })
    }

    fn seats() -> impl Strategy<Value = Seat> {
        (any::<u64>(), any::<u64>()).prop_map(|(node, group)| to_seat(node, group))
    }

    fn log_ids() -> impl Strategy<Value = LogId> {
        // Room above, for the entries that follow.
        (any::<u64>(), seats(), 0..u64::MAX / 2)
            .prop_map(|(term, seat, index)| LogId::new(LeaderId::new(term, seat), index))
    }

    fn memberships() -> impl Strategy<Value = Membership> {
        let nodes = || btree_set(0..20u64, 1..5);
        (vec(nodes(), 0..3), btree_set(0..20u64, 0..5), 0..3u64).prop_filter_map(
            "members without voters",
            |(configs, learners, group)| {
                let seat = |node: u64| to_seat(node, group * node);
                let seats = |nodes: BTreeSet<u64>| nodes.into_iter().map(seat).collect::<BTreeSet<_>>();
                let configs: Vec<_> = configs.into_iter().map(seats).collect();
                (!configs.is_empty() || learners.is_empty())
                    .then(|| Membership::new_with_defaults(configs, seats(learners)))
            },
        )
    }

    fn payloads() -> impl Strategy<Value = EntryPayload<Command, Seat, openraft::EmptyNode>> {
        prop_oneof![
            Just(EntryPayload::Blank),
            vec(any::<u8>(), 0..50).prop_map(|bytes| EntryPayload::Normal(Command(bytes.into()))),
            memberships().prop_map(EntryPayload::Membership),
        ]
    }
}
