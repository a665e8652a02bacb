//! How sessions, connections and wills begin and end.

use std::time::Duration;

use flotilla_mqtt::session::SessionExpiry;
use flotilla_state::{Incarnation, Member, NodeId};

use super::harness::{Replica, connection, member, open, packet, say, subscribe, subscription, will};
use crate::{
    Answer, Connection, FilterChange, Op, Open, Owner, Part, PartAnswer, RECEIVED_SPAN, ReceivedId, Seq,
    TICK_MAX, WillFate,
};

fn close(client: &str, epoch: u64, expiry: SessionExpiry, will: WillFate) -> Op {
    Op::Close { connection: connection(client, epoch), expiry, will, sent_until: Seq(1), stored: Vec::new() }
}

fn received(id: u16, number: u64, is_stored: bool) -> ReceivedId {
    ReceivedId { id: packet(id), number, is_stored }
}

#[test]
fn a_session_is_there_again_after_its_connection() {
    let mut replica = Replica::new();
    let (present, first) = replica.open(open("a", 1));
    assert!(!present);
    let first = first.unwrap();
    replica.one(Op::Subscribe {
        connection: connection("a", 1),
        subscriptions: vec![subscription("u", 1, 0), subscription("t", 2, 7)],
    });
    replica.one(Op::Receive { connection: connection("a", 1), packet_id: packet(9) });
    replica.apply(vec![say("t", "1"), say("t", "2")]);
    let closing = Op::Close {
        connection: connection("a", 1),
        expiry: SessionExpiry::Never,
        will: WillFate::Drop,
        sent_until: Seq(2),
        stored: Vec::new(),
    };
    replica.one(closing);
    replica.flush();
    replica.reopen();
    let (present, again) = replica.open(open("a", 2));
    let again = again.unwrap();
    assert!(present);
    assert_eq!((again.id, again.head, again.maybe_sent_until), (first.id, Seq(1), Seq(2)));
    assert_eq!(again.subscriptions, [subscription("t", 2, 7), subscription("u", 1, 0)]);
    assert_eq!((again.received, again.next_number, again.floor), (vec![received(9, 1, false)], 2, 1));
    assert_eq!(replica.shard.owner(again.id).map(|owner| owner.epoch), Some(connection("a", 2).epoch));
}

#[test]
fn who_needs_nothing_gets_no_session() {
    let mut replica = Replica::new();
    let transient = |epoch| Open { expiry: SessionExpiry::AtDisconnect, ..open("a", epoch) };
    assert_eq!(replica.open(transient(1)), (false, None));
    assert_eq!(replica.shard.stats().sessions, 0);
    // A will is something.
    let (present, session) = replica.open(Open { will: Some(will("w", 0)), ..transient(2) });
    assert!(!present && session.is_some());
    // Its session was over with the last connection.
    let (present, session) = replica.open(transient(3));
    assert_eq!((present, session), (false, None));
    let changes = replica.shard.take_changes();
    assert_eq!((changes.wills.len(), changes.ended.len(), changes.closed.len()), (1, 1, 1));
}

#[test]
fn where_only_what_is_there_goes_on_nothing_is_begun() {
    let mut replica = Replica::new();
    replica.subscriber("a", "t");
    let opening = |client, epoch| Open { only_present: true, ..open(client, epoch) };
    assert!(replica.open(opening("a", 2)).0);
    // One for another takes no more room.
    let (present, session) = replica.open(Open { clean_start: true, ..opening("a", 3) });
    assert!(!present && session.is_some());
    let refused = [
        opening("b", 1),
        Open { expiry: SessionExpiry::AtDisconnect, will: Some(will("w", 0)), ..opening("b", 2) },
    ];
    for open in refused {
        assert_eq!(replica.one(Op::Open(Box::new(open))), Answer::Full);
    }
    let transient = Open { expiry: SessionExpiry::AtDisconnect, ..opening("b", 3) };
    assert_eq!(replica.open(transient), (false, None));
    assert_eq!(replica.shard.stats().sessions, 1);
}

#[test]
fn only_the_latest_connection_may_act() {
    let mut replica = Replica::new();
    replica.open(open("a", 5));
    let check = |replica: &mut Replica, op: Op, answer: Answer| assert_eq!(replica.one(op), answer);
    check(&mut replica, Op::Open(Box::new(open("a", 4))), Answer::Fenced);
    for epoch in [4, 6] {
        check(&mut replica, subscribe("a", epoch, &[("t", 1)]), Answer::Fenced);
        check(&mut replica, close("a", epoch, SessionExpiry::Never, WillFate::Keep), Answer::Fenced);
        check(&mut replica, Op::End { connection: connection("a", epoch) }, Answer::Fenced);
        let receive = Op::Receive { connection: connection("a", epoch), packet_id: packet(1) };
        check(&mut replica, receive, Answer::Fenced);
    }
    check(&mut replica, subscribe("b", 1, &[("t", 1)]), Answer::Fenced);
    check(&mut replica, subscribe("a", 5, &[("t", 1)]), Answer::Done);
    replica.open(open("a", 6));
    check(&mut replica, subscribe("a", 5, &[("u", 1)]), Answer::Fenced);
    let closed = replica.shard.take_changes().closed;
    let owner = Owner { member: member(1), epoch: connection("a", 5).epoch, turn: 0 };
    assert_eq!(closed.iter().map(|closed| closed.owner).collect::<Vec<_>>(), [owner]);
}

#[test]
fn a_takeover_within_a_node_keeps_the_claim_and_takes_the_next_turn() {
    // [MQTT-3.1.4-3]
    let mut replica = Replica::new();
    let of = |epoch, turn| Connection { turn, ..connection("a", epoch) };
    let opening = |epoch, turn| Open { connection: of(epoch, turn), ..open("a", epoch) };
    let act = |connection| Op::Subscribe { connection, subscriptions: vec![subscription("t", 1, 0)] };
    replica.open(opening(5, 0));
    let (is_present, session) = replica.open(opening(5, 1));
    let id = session.unwrap().id;
    assert!(is_present);
    let closed = replica.shard.take_changes().closed;
    let owner = |turn| Owner { member: member(1), epoch: of(5, 0).epoch, turn };
    assert_eq!(closed.iter().map(|closed| closed.owner).collect::<Vec<_>>(), [owner(0)]);
    for _ in 0..2 {
        for (epoch, turn) in [(5, 0), (5, 2), (4, 1), (6, 1)] {
            assert_eq!(replica.one(act(of(epoch, turn))), Answer::Fenced, "{epoch} {turn}");
        }
        // The claim comes first.
        for (epoch, turn) in [(5, 0), (4, 9)] {
            assert_eq!(replica.one(Op::Open(Box::new(opening(epoch, turn)))), Answer::Fenced);
        }
        assert_eq!(replica.one(act(of(5, 1))), Answer::Done);
        assert_eq!(replica.shard.owner(id), Some(owner(1)));
        assert_eq!(replica.shard.last_connection(&of(5, 1).client), Some(of(5, 1)));
        replica.flush();
        replica.reopen();
    }
    assert!(replica.open(opening(6, 0)).0);
    assert_eq!(replica.one(act(of(5, 1))), Answer::Fenced);
    assert_eq!(replica.one(act(of(6, 0))), Answer::Done);
}

/// A session with a will, and an op: how many wills fire at once, and after 10 and 60 seconds.
fn check_will(delay: u64, expiry: SessionExpiry, op: impl Into<Op>, fired: [usize; 3]) {
    let op = op.into();
    let mut replica = Replica::new();
    replica.open(Open { will: Some(will("w", delay)), expiry, ..open("a", 1) });
    let mut count = 0;
    for (secs, expected) in [0, 10, 50].into_iter().zip(fired) {
        replica.stamp += secs * 1_000;
        if secs == 0 {
            replica.one(op.clone());
        } else {
            replica.one(Op::Tick);
        }
        replica.flush();
        replica.reopen();
        count = replica.shard.firing_wills().len();
        assert_eq!(count, expected, "{op:?} with a delay of {delay}, {secs} seconds later");
    }
    for (id, message) in replica.shard.firing_wills() {
        assert_eq!(&*message.topic, "w");
        replica.one(Op::WillDone { will: id });
        count -= 1;
    }
    assert_eq!((count, replica.shard.stats().wills_firing), (0, 0));
}

#[test]
fn wills_in_each_way_of_ending() {
    use SessionExpiry::{After, AtDisconnect, Never};
    use WillFate::{Drop, Keep};
    let short = After(Duration::from_secs(10));
    // DISCONNECT 0x00 deletes it [MQTT-3.1.2-10].
    check_will(0, Never, close("a", 1, Never, Drop), [0, 0, 0]);
    check_will(30, Never, close("a", 1, AtDisconnect, Drop), [0, 0, 0]);
    // Otherwise it is sent after its delay, or when the session ends [MQTT-3.1.2-8].
    check_will(0, Never, close("a", 1, Never, Keep), [1, 1, 1]);
    check_will(10, Never, close("a", 1, Never, Keep), [0, 1, 1]);
    check_will(30, Never, close("a", 1, Never, Keep), [0, 0, 1]);
    check_will(30, Never, close("a", 1, short, Keep), [0, 1, 1]);
    check_will(30, Never, close("a", 1, AtDisconnect, Keep), [1, 1, 1]);
    check_will(30, AtDisconnect, Op::MemberEnded { member: member(1) }, [1, 1, 1]);
    check_will(30, Never, Op::MemberEnded { member: member(1) }, [0, 0, 1]);
    check_will(0, Never, Op::MemberEnded { member: member(1) }, [1, 1, 1]);
    check_will(30, Never, Op::MemberEnded { member: member(2) }, [0, 0, 0]);
    check_will(30, Never, Op::End { connection: connection("a", 1) }, [1, 1, 1]);
    // A takeover ends the old connection; the session goes on, or does not.
    let next = |clean_start, will| Op::Open(Box::new(Open { clean_start, will, ..open("a", 2) }));
    check_will(0, Never, next(false, None), [1, 1, 1]);
    check_will(30, Never, next(false, None), [0, 0, 0]);
    check_will(30, Never, next(true, None), [1, 1, 1]);
    check_will(30, AtDisconnect, next(false, None), [1, 1, 1]);
    check_will(0, Never, next(false, Some(will("other", 0))), [1, 1, 1]);
    // An older one changes nothing.
    check_will(0, Never, Op::Open(Box::new(open("a", 0))), [0, 0, 0]);
}

#[test]
fn a_client_that_is_back_within_the_delay_has_no_will_published() {
    // [MQTT-3.1.3-9]
    for (clean_start, fired) in [(false, 0), (true, 1)] {
        let mut replica = Replica::new();
        replica.open(Open { will: Some(will("w", 30)), ..open("a", 1) });
        replica.close("a", 1, WillFate::Keep);
        assert_eq!(replica.shard.next_deadline(), Some(replica.stamp + 30_000));
        replica.stamp += 29_999;
        replica.one(Op::Tick);
        replica.open(Open { clean_start, ..open("a", 2) });
        assert_eq!(replica.shard.next_deadline(), None);
        replica.stamp += 60_000;
        replica.one(Op::Tick);
        assert_eq!(replica.shard.firing_wills().len(), fired);
        assert_eq!(replica.shard.stats().sessions_discarded, u64::from(clean_start));
    }
}

#[test]
fn a_will_expires_from_when_it_is_published() {
    let mut replica = Replica::new();
    let will = crate::Will { expiry: Some(Duration::from_secs(5)), ..will("w", 10) };
    replica.open(Open { will: Some(will), ..open("a", 1) });
    replica.close("a", 1, WillFate::Keep);
    replica.stamp += 12_000;
    replica.one(Op::Tick);
    let expires_at =
        |replica: &Replica| replica.shard.firing_wills()[0].1.expires_at.map(|at| at.as_millis());
    assert_eq!(expires_at(&replica), Some(replica.stamp + 5_000));
    replica.flush();
    replica.reopen();
    assert_eq!(expires_at(&replica), Some(replica.stamp + 5_000));
}

#[test]
fn a_connection_that_has_come_to_nothing_leaves_no_session_behind() {
    let abandon = |epoch| Op::Abandon { connection: connection("a", epoch), expiry: SessionExpiry::Never };
    let willing = |epoch| Open { will: Some(will("w", 30)), ..open("a", epoch) };
    let mut replica = Replica::new();
    // Also where its owner has ended before that is told, by its next life.
    replica.open(willing(1));
    replica.one(Op::MemberEnded { member: member(1) });
    assert_eq!(replica.shard.stats().sessions, 1);
    replica.apply_parts(vec![Part { source: member(2), number: 1, ops: vec![abandon(1)] }]);
    assert_eq!((replica.shard.stats().sessions, replica.shard.stats().wills_firing), (0, 0));
    let mut replica = Replica::new();
    replica.open(willing(1));
    replica.one(abandon(1));
    assert_eq!((replica.shard.stats().sessions, replica.shard.stats().wills_firing), (0, 0));
    // One that was there goes on without it, and the next connection is none of its business.
    replica.subscriber("a", "t");
    replica.open(willing(2));
    replica.one(abandon(2));
    let stats = replica.shard.stats();
    assert_eq!((stats.sessions, stats.attached, stats.subscriptions, stats.wills_firing), (1, 0, 1, 0));
    assert!(replica.open(open("a", 3)).0);
    assert_eq!(replica.one(abandon(2)), Answer::Fenced);
    assert_eq!(replica.shard.stats().attached, 1);
}

/// A session whose client has gone 5 s ago and leaves a will that is due 30 s after that, or with the session; then an op of a connection
/// that says other things. How many wills fire within 20 and 30 seconds.
fn check_former(next: &Open, then: &[Op], stays: SessionExpiry, fired: [usize; 2]) {
    let mut replica = Replica::new();
    replica.open(Open { will: Some(will("w", 30)), ..open("a", 1) });
    replica.one(close("a", 1, stays, WillFate::Keep));
    replica.stamp += 5_000;
    assert!(replica.open(next.clone()).0);
    for op in then {
        replica.flush();
        replica.reopen();
        // The next life of the node tells it, if need be.
        replica.apply_parts(vec![Part { source: member(2), number: 0, ops: vec![op.clone()] }]);
    }
    for (millis, expected) in [20_000, 5_000].into_iter().zip(fired) {
        replica.stamp += millis;
        replica.one(Op::Tick);
        assert_eq!(replica.shard.firing_wills().len(), expected, "{next:?} {then:?} {stays:?} {millis}");
    }
    assert!(replica.shard.firing_wills().iter().all(|(_, message)| &*message.topic == "w"));
}

#[test]
fn a_connection_that_has_come_to_nothing_does_not_take_the_will_along() {
    use SessionExpiry::{After, AtDisconnect, Never};
    let abandon = |epoch| Op::Abandon { connection: connection("a", epoch), expiry: After(Duration::ZERO) };
    let ended = || Op::MemberEnded { member: member(1) };
    let next = open("a", 2);
    let short = After(Duration::from_secs(25));
    check_former(&next, &[], Never, [0, 0]);
    check_former(&next, &[abandon(2)], Never, [0, 1]);
    check_former(&next, &[abandon(2)], short, [1, 1]);
    check_former(&next, &[ended(), abandon(2)], Never, [0, 1]);
    check_former(&next, &[ended(), abandon(2)], short, [1, 1]);
    // Its own is none, and neither is what it says of the session.
    for expiry in [Never, AtDisconnect, After(Duration::from_secs(1))] {
        let next = Open { will: Some(will("other", 3)), expiry, ..open("a", 2) };
        check_former(&next, &[abandon(2)], Never, [0, 1]);
        check_former(&next, &[abandon(2)], short, [1, 1]);
    }
    // Nor is one after the other.
    let again = |epoch| Op::Open(Box::new(open("a", epoch)));
    check_former(&next, &[again(3), abandon(2), abandon(3)], Never, [0, 1]);
    check_former(&next, &[ended(), again(3), abandon(3)], short, [1, 1]);
    // One that does something is one, whatever comes then; and so is the one after it.
    for op in [subscribe("a", 2, &[("t", 1)]), close("a", 2, Never, WillFate::Drop)] {
        check_former(&next, &[op.clone(), abandon(2)], Never, [0, 0]);
        check_former(&next, &[op, again(3), abandon(3)], Never, [0, 0]);
    }
}

#[test]
fn a_connection_that_has_come_to_nothing_leaves_the_expiry_as_it_was() {
    let hour = SessionExpiry::After(Duration::from_secs(3_600));
    let mut replica = Replica::new();
    replica.subscriber("a", "t");
    replica.one(close("a", 1, hour, WillFate::Drop));
    let ends_at = replica.shard.next_deadline();
    replica.stamp += 1_000;
    let minute = SessionExpiry::After(Duration::from_secs(60));
    replica.open(Open { expiry: minute, ..open("a", 2) });
    replica.one(Op::Abandon { connection: connection("a", 2), expiry: minute });
    assert_eq!(replica.shard.next_deadline(), ends_at);
    // A takeover by nobody ends the connection that was there.
    replica.open(Open { expiry: hour, will: Some(will("w", 9)), ..open("a", 3) });
    replica.open(Open { expiry: minute, ..open("a", 4) });
    replica.one(Op::Abandon { connection: connection("a", 4), expiry: minute });
    assert_eq!(replica.shard.next_deadline(), Some(replica.stamp + 9_000));
    replica.stamp += 9_000;
    replica.one(Op::Tick);
    assert_eq!(replica.shard.next_deadline(), Some(replica.stamp - 9_000 + 3_600_000));
    let stats = replica.shard.stats();
    assert_eq!((stats.sessions, stats.subscriptions, stats.wills_firing), (1, 1, 1));
}

#[test]
fn sessions_end_when_they_expire_and_so_do_their_routes() {
    let mut replica = Replica::new();
    replica.subscriber("a", "t");
    replica.subscriber("b", "t");
    let first = replica.shard.take_changes().filters;
    assert_eq!(
        first.iter().map(|(filter, change)| (&**filter, *change)).collect::<Vec<_>>(),
        [("t", FilterChange::First)]
    );
    let expiry = SessionExpiry::After(Duration::from_secs(1));
    replica.apply(vec![
        close("a", 1, expiry, WillFate::Keep),
        close("b", 1, expiry, WillFate::Keep),
        say("t", "1"),
    ]);
    replica.stamp += 999;
    replica.one(Op::Tick);
    assert_eq!(replica.shard.stats().sessions, 2);
    replica.stamp += 1;
    replica.one(Op::Tick);
    let stats = replica.shard.stats();
    assert_eq!((stats.sessions, stats.queued_messages, stats.abandoned, stats.filters), (0, 0, 2, 0));
    assert_eq!(stats.sessions_expired, 2);
    let changes = replica.shard.take_changes();
    assert_eq!(changes.filters, [("t".into(), FilterChange::Last)]);
    assert_eq!(changes.ended.len(), 2);
    assert_eq!(replica.shard.next_deadline(), None);
}

#[test]
fn a_clock_that_runs_backwards_ends_nothing_early_or_twice() {
    let mut replica = Replica::new();
    replica.subscriber("a", "t");
    replica.stamp = 50_000;
    replica.one(close("a", 1, SessionExpiry::After(Duration::from_secs(1)), WillFate::Keep));
    replica.stamp = 10;
    replica.one(Op::Tick);
    assert_eq!((replica.shard.stamp(), replica.shard.next_deadline()), (50_000, Some(51_000)));
}

#[test]
fn one_tick_looks_after_so_many_sessions() {
    let mut replica = Replica::new();
    let expiry = SessionExpiry::After(Duration::from_secs(1));
    for name in 0..TICK_MAX + 10 {
        let client = format!("{name}");
        let opening = Op::Open(Box::new(open(&client, 1)));
        let entry = vec![opening, close(&client, 1, expiry, WillFate::Drop)];
        let part = Part { source: member(1), number: 0, ops: entry };
        let entry = crate::Entry { stamp: 0, retained_full: false, parts: vec![part] }.encode();
        replica.shard.apply(name as u64 + 1, &entry).unwrap();
    }
    replica.stamp += 1_000;
    replica.one(Op::Tick);
    assert_eq!(replica.shard.stats().sessions, 10);
    replica.one(Op::Tick);
    assert_eq!(replica.shard.stats().sessions, 0);
}

#[test]
fn parts_that_come_twice_are_done_once_and_answered_again() {
    let mut replica = Replica::new();
    let part = |number, ops| Part { source: member(7), number, ops };
    let receive = || Op::Receive { connection: connection("a", 1), packet_id: packet(3) };
    let parts = [
        part(
            1,
            vec![
                Op::Open(Box::new(Open { clean_start: true, ..open("a", 1) })),
                subscribe("a", 1, &[("t", 1)]),
            ],
        ),
        part(2, vec![receive(), receive(), say("t", "x")]),
    ];
    let first: Vec<_> = parts.iter().map(|part| replica.apply_parts(vec![part.clone()]).remove(0)).collect();
    let session = replica.shard.session_of(&connection("a", 1).client).unwrap();
    for _ in 0..2 {
        let again = replica.apply_parts(parts.to_vec());
        let PartAnswer::Applied(answers) = &again[0] else { panic!("{again:?}") };
        let Answer::Opened(opened) = &answers[0] else { panic!("{again:?}") };
        // Clean Start is not done again; what has come since is there.
        assert_eq!((opened.present, opened.session.as_ref().map(|it| it.id)), (false, Some(session)));
        assert_eq!(again[1], first[1]);
        assert_eq!(replica.all(session).len(), 1);
        replica.flush();
        replica.reopen();
    }
    // What the last Open was told about the session is told again.
    let next = part(3, vec![Op::Open(Box::new(open("a", 2)))]);
    for _ in 0..2 {
        let again = replica.apply_parts(vec![next.clone()]);
        let PartAnswer::Applied(answers) = &again[0] else { panic!("{again:?}") };
        assert!(matches!(&answers[0], Answer::Opened(opened) if opened.present));
        replica.flush();
        replica.reopen();
    }
    let gap = replica.apply_parts(vec![part(5, vec![say("t", "y")])]);
    assert_eq!(gap, [PartAnswer::Gap { expected: 4 }]);
    replica.one(Op::MemberEnded { member: member(7) });
    assert_eq!(replica.apply_parts(vec![part(4, vec![say("t", "y")])]), [PartAnswer::Ended]);
    assert_eq!(replica.all(session).len(), 1);
    // The next life begins with 1.
    let source = Member { node: NodeId(7), incarnation: Incarnation(2) };
    let answer = replica.apply_parts(vec![Part { source, number: 1, ops: vec![say("t", "y")] }]);
    assert_eq!(answer, [PartAnswer::Applied(vec![Answer::Done])]);
    assert_eq!(replica.all(session).len(), 2);
}

#[test]
fn identifiers_from_the_client_are_taken_until_they_are_released() {
    // [MQTT-4.3.3-10]
    let mut replica = Replica::new();
    replica.open(open("a", 1));
    let receive = |id| Op::Receive { connection: connection("a", 1), packet_id: packet(id) };
    let release = |id| Op::Release { connection: connection("a", 1), packet_id: packet(id) };
    let mut check = |op, answer: Answer| assert_eq!(replica.one(op), answer);
    let received = |number, floor| Answer::Received { number, floor };
    check(receive(7), received(1, 1));
    check(receive(7), received(1, 1));
    check(receive(8), received(2, 1));
    check(release(7), Answer::Done);
    check(release(7), Answer::Done);
    check(receive(7), received(3, 2));
    check(receive(1), received(4, 2));
    check(receive(2), received(5, 2));
    check(receive(3), Answer::Full);
    check(receive(8), received(2, 2));
    check(release(1), Answer::Done);
    check(receive(3), received(6, 2));
}

#[test]
fn what_every_shard_has_is_said_to_the_next_connection() {
    // [MQTT-4.3.3-10]
    let mut replica = Replica::new();
    replica.open(open("a", 1));
    let receive = |epoch, id| Op::Receive { connection: connection("a", epoch), packet_id: packet(id) };
    let closed = |epoch, stored: &[u16]| Op::Close {
        connection: connection("a", epoch),
        expiry: SessionExpiry::Never,
        will: WillFate::Drop,
        sent_until: Seq(1),
        stored: stored.iter().map(|id| packet(*id)).collect(),
    };
    let list = |replica: &mut Replica, epoch| {
        replica.flush();
        replica.reopen();
        replica.open(open("a", epoch)).1.unwrap().received
    };
    replica.apply(vec![receive(1, 7), receive(1, 3), receive(1, 5), closed(1, &[5, 3, 99])]);
    assert_eq!(list(&mut replica, 2), [received(7, 1, false), received(3, 2, true), received(5, 3, true)]);
    // It stays, also when a connection ends without a word; it goes with the identifier.
    replica.apply(vec![
        Op::Release { connection: connection("a", 2), packet_id: packet(3) },
        receive(2, 3),
        closed(1, &[7]),
        Op::MemberEnded { member: member(1) },
        closed(2, &[7]),
    ]);
    assert_eq!(list(&mut replica, 3), [received(7, 1, false), received(5, 3, true), received(3, 4, false)]);
    replica.one(closed(3, &[7]));
    assert_eq!(list(&mut replica, 4), [received(7, 1, true), received(5, 3, true), received(3, 4, false)]);
}

#[test]
fn an_identifier_that_is_never_released_stops_its_client_in_the_end() {
    let mut replica = Replica::new();
    replica.open(open("a", 1));
    let receive = |id| Op::Receive { connection: connection("a", 1), packet_id: packet(id) };
    let release = |id| Op::Release { connection: connection("a", 1), packet_id: packet(id) };
    replica.one(receive(1));
    let rounds: Vec<Op> = (0..1_000).flat_map(|_| [receive(2), release(2)]).collect();
    let mut number = 1;
    while number + 1_000 < RECEIVED_SPAN {
        replica.apply(rounds.clone());
        number += 1_000;
    }
    let answers = replica.apply(rounds);
    assert!(answers.contains(&Answer::Received { number: RECEIVED_SPAN, floor: 1 }));
    assert!(!answers.contains(&Answer::Received { number: RECEIVED_SPAN + 1, floor: 1 }));
    assert!(answers.contains(&Answer::Full));
    replica.one(release(1));
    assert_eq!(
        replica.one(receive(2)),
        Answer::Received { number: RECEIVED_SPAN + 1, floor: RECEIVED_SPAN + 1 }
    );
}
