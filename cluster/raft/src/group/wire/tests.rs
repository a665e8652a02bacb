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
    let twice = pb::Membership {
        configs: vec![pb::Voters { nodes: vec![1] }],
        members: vec![1, 1],
        groups: vec![7, 8],
    };
    assert!(matches!(to_membership(twice), Err(DecodeError::Malformed { .. })));
    for (voters, groups) in [(&[1, 2][..], &[7][..]), (&[], &[7]), (&[1], &[7, 8])] {
        assert!(!is_taken(voters, groups), "{voters:?} {groups:?}");
    }
}

#[test]
fn entries_of_a_request_follow_one_another() {
    let entry = |index| Entry::new(LogId::new(LeaderId::new(1, to_seat(1, 7)), index), EntryPayload::Blank);
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
    let entry =
        Entry::new(LogId::new(LeaderId::new(1, to_seat(1, 7)), 4), EntryPayload::Normal(Command(command)));
    let stored = store_entry(entry);
    let range = stored.as_ptr_range();
    let EntryPayload::Normal(Command(command)) = load_entry(stored.clone()).expect("stored").payload else {
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
