//! Groups: who is a member, who gets what, and what comes back. The shards of the members are played by the tests.

use flotilla_lane::{BatchWriter, Forwarded, Frame, Texts, TextsWriter};
use flotilla_mqtt::{QoS, Timestamp, Transit, session::QueueFull};
use flotilla_state::ShardId;

use super::harness::{Published, Replica, done, publish, say};
use crate::{
    FilterChange, GroupInfo, GroupMember, GroupStrategy, Letter, LoanFate, Op, Outbound, QueueLimits, Seq,
    SessionId, To,
};

pub(super) const GROUP: &str = "$share/g/t/+";
pub(super) const FAR: ShardId = ShardId(9);

pub(super) fn member(session: u64, window: u16) -> GroupMember {
    GroupMember {
        group: GROUP.into(),
        session: SessionId(session),
        window,
        queue: QueueLimits { messages_max: 1_000, bytes_max: 1 << 20, full: QueueFull::DropNewest },
        strategy: GroupStrategy::RoundRobin,
        is_online: true,
    }
}

/// Letters of another shard, each with the next number.
#[derive(Default)]
pub(super) struct Sender {
    last: u64,
}

impl Sender {
    pub(super) fn send(&mut self, replica: &mut Replica, letters: impl IntoIterator<Item = Letter>) {
        let numbered = letters.into_iter().map(|letter| {
            self.last += 1;
            (self.last, letter)
        });
        replica.one(Op::Letters { from: FAR, after: 0, letters: numbered.collect() });
    }

    fn join(&mut self, replica: &mut Replica, members: impl IntoIterator<Item = GroupMember>) {
        self.send(replica, members.into_iter().map(Letter::Member));
    }

    fn give(&mut self, replica: &mut Replica, loan: u64, fate: LoanFate) {
        self.send(replica, [Letter::Return { loan, fate }]);
    }
}

/// What is lent and has not been posted: loan, member and payload.
fn lent(replica: &Replica) -> Vec<(u64, u64, String)> {
    let letters = replica.shard.letters(0, usize::MAX, usize::MAX).expect("valid rows");
    let lend = |outbound: Outbound| match outbound {
        Outbound { number, to: To::Shard(FAR), letter: Letter::Lend { session, group, message } } => {
            assert_eq!(&*group, GROUP);
            (number, session.0, String::from_utf8_lossy(message.payload()).into_owned())
        }
        other => panic!("{other:?}"),
    };
    letters.into_iter().map(lend).collect()
}

/// Who gets which payload of what is lent and has not been posted.
pub(super) fn shares(replica: &Replica) -> Vec<(u64, String)> {
    lent(replica).into_iter().map(|(_, member, payload)| (member, payload)).collect()
}

fn share(member: u64, payload: &str) -> (u64, String) {
    (member, payload.to_owned())
}

fn info(replica: &Replica) -> Option<GroupInfo> {
    replica.shard.groups(None, 9).pop()
}

fn say_all(replica: &mut Replica, payloads: &[&str]) {
    let messages: Vec<_> = payloads.iter().map(|payload| Published::new("t/1", *payload)).collect();
    replica.one(publish(&messages));
}

#[test]
fn a_group_begins_with_a_member_and_ends_with_the_last() {
    let (mut replica, mut far) = (Replica::new(), Sender::default());
    far.join(&mut replica, [member(7, 5), GroupMember { is_online: false, ..member(8, 5) }]);
    assert_eq!(replica.shard.take_changes().filters, [("t/+".into(), FilterChange::First)]);
    let empty = GroupInfo { group: GROUP.into(), online: 1, away: 1, messages: 0, bytes: 0, loans: 0 };
    assert_eq!(info(&replica), Some(empty.clone()));
    replica.apply(vec![say("t/1", "x"), say("u", "not for it")]);
    let with_one = GroupInfo { messages: 1, bytes: 6, loans: 1, ..empty };
    assert_eq!(info(&replica), Some(with_one.clone()));
    for _ in 0..2 {
        // No client, and so no session, for whoever asks.
        let stats = replica.shard.stats();
        assert_eq!((stats.sessions, stats.groups, stats.group_members, stats.loans), (0, 1, 2, 1));
        assert_eq!(replica.shard.sessions(None, 9), []);
        assert_eq!(replica.shard.groups(Some(GROUP), 9), []);
        assert_eq!((1..9).find_map(|id| replica.shard.session(SessionId(id))), None);
        replica.flush();
        replica.reopen();
        assert_eq!(info(&replica), Some(with_one.clone()));
    }
    let leave = |session| Letter::Leave { group: GROUP.into(), session: SessionId(session) };
    // Another shard has a session with the same number.
    replica.one(Op::Letters { from: ShardId(8), after: 0, letters: vec![(1, leave(7))] });
    far.send(&mut replica, [leave(8), leave(8)]);
    assert_eq!(replica.shard.stats().group_members, 1);
    far.send(&mut replica, [leave(7)]);
    assert_eq!(replica.shard.take_changes().filters, [("t/+".into(), FilterChange::Last)]);
    assert_eq!((info(&replica), lent(&replica)), (None, Vec::new()));
    replica.flush();
    assert!(replica.rows().iter().all(|(tag, _)| *tag == 18), "{:?}", replica.rows());
}

#[test]
fn a_group_alone_gets_what_a_member_elsewhere_could_not_take() {
    let mut replica = Replica::new();
    let mut far = Sender::default();
    let mut batch = BatchWriter::new();
    for (qos, payload) in [(QoS::AtLeastOnce, "a"), (QoS::AtMostOnce, "b"), (QoS::ExactlyOnce, "c")] {
        let message = Transit::new("t/1", b"", payload.as_bytes(), qos, false, None, None, None);
        let message = Forwarded::new(&message, Timestamp::ORIGIN);
        batch.push(&Frame::Group { filter: GROUP, tried: 0, message });
    }
    let batch = batch.take().expect("there are some");
    replica.one(Op::Publish { batch: batch.clone() });
    assert_eq!(info(&replica), None, "there is no such group");
    far.join(&mut replica, [member(7, 9)]);
    replica.one(Op::Publish { batch });
    assert_eq!(shares(&replica), [share(7, "a"), share(7, "c")]);
}

#[test]
fn letters_behind_one_that_is_missing_wait_for_it() {
    let mut replica = Replica::new();
    let letters = |after, number| {
        let letters = vec![(number, Letter::Member(member(number, 1)))];
        Op::Letters { from: FAR, after, letters }
    };
    assert_eq!(replica.one(letters(5, 9)), crate::Answer::Gap);
    assert_eq!(info(&replica), None);
    assert_eq!(replica.one(letters(0, 5)), crate::Answer::Done);
    assert_eq!(replica.one(letters(5, 9)), crate::Answer::Done);
    // What an earlier leader has sent comes late.
    assert_eq!(replica.one(letters(4, 5)), crate::Answer::Done);
    assert_eq!(replica.shard.stats().group_members, 2);
}

#[test]
fn letters_count_once_and_in_order() {
    let mut replica = Replica::new();
    let letters = |from, numbered: &[(u64, u64)]| {
        let letters = numbered.iter().map(|(number, id)| (*number, Letter::Member(member(*id, 1))));
        Op::Letters { from: ShardId(from), after: 0, letters: letters.collect() }
    };
    replica.apply(vec![letters(1, &[(5, 1), (9, 2)]), letters(1, &[(8, 3), (9, 4)]), letters(2, &[(3, 5)])]);
    assert_eq!(replica.shard.stats().group_members, 3);
    replica.flush();
    replica.reopen();
    replica.apply(vec![letters(1, &[(9, 6), (10, 7)])]);
    assert_eq!(replica.shard.stats().group_members, 4);
}

#[test]
fn what_members_have_no_room_for_waits() {
    let (mut replica, mut far) = (Replica::new(), Sender::default());
    far.join(&mut replica, [GroupMember { is_online: false, ..member(7, 2) }]);
    say_all(&mut replica, &["a", "b", "c", "d"]);
    assert_eq!(lent(&replica), []);
    replica.flush();
    far.join(&mut replica, [member(7, 2)]);
    assert_eq!(shares(&replica), [share(7, "a"), share(7, "b")]);
    let [(first, ..), (second, ..)] = lent(&replica).try_into().expect("two");
    replica.one(Op::Posted { letters: vec![first, second, 3] });
    assert_eq!((lent(&replica), replica.shard.stats().loans), (Vec::new(), 2));
    replica.flush();
    replica.reopen();
    far.give(&mut replica, second, LoanFate::Done);
    assert_eq!(shares(&replica), [share(7, "c")]);
    assert_eq!(info(&replica).map(|info| (info.messages, info.loans)), Some((3, 2)));
    // It is over; so is what another shard says of it.
    far.give(&mut replica, second, LoanFate::Back);
    replica.one(Op::Letters {
        from: ShardId(8),
        after: 0,
        letters: vec![(1, Letter::Return { loan: first, fate: LoanFate::Done })],
    });
    assert_eq!(replica.shard.stats().loans, 2);
    // A smaller window takes nothing back.
    far.join(&mut replica, [member(7, 1)]);
    far.give(&mut replica, first, LoanFate::Done);
    assert_eq!((shares(&replica), replica.shard.stats().loans), (vec![share(7, "c")], 1));
}

#[test]
fn what_comes_back_goes_to_another_at_its_old_place() {
    let (mut replica, mut far) = (Replica::new(), Sender::default());
    far.join(&mut replica, [member(7, 3)]);
    say_all(&mut replica, &["a", "b", "c", "d", "e"]);
    let loans: Vec<u64> = lent(&replica).iter().map(|(loan, ..)| *loan).collect();
    assert_eq!(loans.len(), 3);
    far.join(&mut replica, [GroupMember { is_online: false, ..member(7, 3) }]);
    // The last one first.
    for loan in loans.iter().rev() {
        far.give(&mut replica, *loan, LoanFate::Back);
    }
    assert_eq!((lent(&replica), replica.shard.stats().loans), (Vec::new(), 0));
    replica.flush();
    replica.reopen();
    far.join(&mut replica, [member(8, 4)]);
    assert_eq!(shares(&replica), ["a", "b", "c", "d"].map(|payload| share(8, payload)));
    assert!(lent(&replica).iter().all(|(loan, ..)| loan > loans.last().unwrap()), "loans have new names");
}

#[test]
fn who_leaves_with_loans_gives_them_back_later() {
    let (mut replica, mut far) = (Replica::new(), Sender::default());
    far.join(&mut replica, [member(7, 2), member(8, 1)]);
    say_all(&mut replica, &["a", "b", "c"]);
    assert_eq!(shares(&replica), [share(7, "a"), share(8, "b"), share(7, "c")]);
    let loans = lent(&replica);
    far.send(&mut replica, [Letter::Leave { group: GROUP.into(), session: SessionId(7) }]);
    assert_eq!(replica.shard.stats().loans, 3);
    // It comes again, and counts what it has.
    far.join(&mut replica, [member(7, 2)]);
    far.give(&mut replica, loans[0].0, LoanFate::Back);
    assert_eq!(shares(&replica), [share(8, "b"), share(7, "c"), share(7, "a")]);
}

/// Who gets nine messages, of three topics by three publishers, if members have room for so many.
fn picks(strategy: GroupStrategy, window: u16) -> Vec<u64> {
    let (mut replica, mut far) = (Replica::new(), Sender::default());
    let away = GroupMember { strategy, is_online: false, ..member(8, window) };
    far.join(
        &mut replica,
        [7, 9, 10].map(|id| GroupMember { strategy, ..member(id, window) }).into_iter().chain([away]),
    );
    let of = |number: u8| Published {
        publisher: Some(format!("p{}", number / 3)),
        ..Published::new(&format!("t/{}", number % 3), vec![b'a' + number])
    };
    let messages: Vec<_> = (0..9).map(of).collect();
    replica.one(publish(&messages));
    let shares = shares(&replica);
    assert!(shares.is_sorted_by(|(_, left), (_, right)| left < right), "in their order");
    shares.into_iter().map(|(member, _)| member).collect()
}

#[test]
fn strategies() {
    assert_eq!(picks(GroupStrategy::RoundRobin, 9), [7, 9, 10, 7, 9, 10, 7, 9, 10]);
    assert_eq!(picks(GroupStrategy::RoundRobin, 1), [7, 9, 10]);
    assert_eq!(picks(GroupStrategy::LeastInflight, 9), [7, 9, 10, 7, 9, 10, 7, 9, 10]);
    assert_eq!(picks(GroupStrategy::Sticky, 9), [7; 9]);
    // Others help out while it has no room.
    assert_eq!(picks(GroupStrategy::Sticky, 2), [7, 7, 9, 9, 10, 10]);
    let random = picks(GroupStrategy::Random, 9);
    assert_eq!(random, picks(GroupStrategy::Random, 9), "the same everywhere");
    assert!(random.iter().any(|member| *member != random[0]));
    let by_topic = picks(GroupStrategy::HashTopic, 9);
    assert!(
        (0..3).all(|topic| by_topic.iter().skip(topic).step_by(3).all(|member| *member == by_topic[topic]))
    );
    let by_publisher = picks(GroupStrategy::HashClientid, 9);
    assert!(by_publisher.chunks(3).all(|of_one| of_one.iter().all(|member| *member == of_one[0])));
    assert_eq!(picks(GroupStrategy::HashTopic, 3).len(), 9);
}

#[test]
fn a_hash_is_known_also_of_what_is_in_the_store_alone() {
    let picks = |flushes: bool| {
        let (mut replica, mut far) = (Replica::new(), Sender::default());
        let of =
            |id, is_online| GroupMember { strategy: GroupStrategy::HashTopic, is_online, ..member(id, 99) };
        far.join(&mut replica, [of(7, false)]);
        let messages: Vec<_> = (0..90).map(|topic| Published::new(&format!("t/{topic}"), "x")).collect();
        replica.one(publish(&messages));
        if flushes {
            replica.flush();
            replica.reopen();
        }
        far.join(&mut replica, (7..10).map(|id| of(id, true)).rev());
        shares(&replica)
    };
    assert_eq!(picks(true), picks(false));
}

#[test]
fn the_queue_of_a_group_has_the_bounds_of_its_members() {
    for full in [QueueFull::DropNewest, QueueFull::DropOldest] {
        let (mut replica, mut far) = (Replica::new(), Sender::default());
        let queue = QueueLimits { messages_max: 2, bytes_max: 1 << 20, full };
        let of = |id, is_online| GroupMember { queue, is_online, ..member(id, 2) };
        far.join(&mut replica, [of(7, true)]);
        say_all(&mut replica, &["a", "b", "c", "d", "e", "f"]);
        // What is lent is not in the queue.
        let info = info(&replica).expect("it is there");
        assert_eq!((info.messages, info.loans), (4, 2));
        let [(first, ..), _] = lent(&replica).try_into().expect("two");
        far.join(&mut replica, [of(7, false)]);
        far.give(&mut replica, first, LoanFate::Back);
        say_all(&mut replica, &["g"]);
        far.join(&mut replica, [of(8, true), of(9, true)]);
        let shares: Vec<String> = shares(&replica).into_iter().map(|(_, payload)| payload).collect();
        match full {
            QueueFull::DropNewest => assert_eq!(shares, ["b", "a", "c", "d"]),
            QueueFull::DropOldest => assert_eq!(shares, ["b", "a", "f", "g"]),
        }
    }
}

#[test]
fn what_has_room_at_once_needs_no_queue() {
    let (mut replica, mut far) = (Replica::new(), Sender::default());
    let queue = QueueLimits { messages_max: 0, bytes_max: 0, full: QueueFull::DropNewest };
    far.join(&mut replica, [GroupMember { queue, ..member(7, 2) }]);
    say_all(&mut replica, &["a", "b", "c"]);
    assert_eq!(shares(&replica), [share(7, "a"), share(7, "b")]);
    assert_eq!(replica.shard.stats().dropped_newest, 1);
}

#[test]
fn what_has_expired_is_not_lent() {
    let (mut replica, mut far) = (Replica::new(), Sender::default());
    far.join(&mut replica, [GroupMember { is_online: false, ..member(7, 9) }]);
    let expiring = Published { expires_in: Some(100), ..Published::new("t/1", "short") };
    replica.one(publish(&[expiring, Published::new("t/1", "long")]));
    replica.stamp += 100;
    far.join(&mut replica, [member(7, 9)]);
    assert_eq!((shares(&replica), replica.shard.stats().expired), (vec![share(7, "long")], 1));
}

#[test]
fn what_expires_at_once_in_a_group_is_there_for_others() {
    let (mut replica, mut far) = (Replica::new(), Sender::default());
    far.join(&mut replica, [member(7, 9)]);
    let sessions = ["a", "b"].map(|client| replica.subscriber(client, "t/1"));
    replica.one(publish(&[Published { expires_in: Some(0), ..Published::new("t/1", "brief") }]));
    assert_eq!((shares(&replica), replica.shard.stats().expired), (Vec::new(), 1));
    for _ in 0..2 {
        // It expires for them when their leader finds that it has.
        for session in sessions {
            assert_eq!(replica.payloads(session), [(1, "brief".to_owned())]);
        }
        replica.flush();
        replica.reopen();
    }
    replica.apply(vec![done("a", [1]), done("b", [1])]);
    replica.flush();
    assert!(sessions.iter().all(|session| replica.all(*session).is_empty()));
}

#[test]
fn a_group_gets_what_was_published_and_no_qos_0() {
    let (mut replica, mut far) = (Replica::new(), Sender::default());
    far.join(&mut replica, [member(7, 9)]);
    let of = |qos, retain, payload: &str| Published { qos, retain, ..Published::new("t/1", payload) };
    replica.one(publish(&[
        of(QoS::AtMostOnce, true, "0"),
        of(QoS::AtLeastOnce, true, "1"),
        of(QoS::ExactlyOnce, false, "2"),
    ]));
    let letters = replica.shard.letters(0, 9, usize::MAX).expect("valid rows");
    let flags = letters.into_iter().map(|outbound| match outbound.letter {
        Letter::Lend { message, .. } => (message.qos(), message.retain()),
        other => panic!("{other:?}"),
    });
    assert_eq!(flags.collect::<Vec<_>>(), [(QoS::AtLeastOnce, true), (QoS::ExactlyOnce, false)]);
}

#[test]
fn a_message_that_a_group_is_not_to_have_goes_to_all_others() {
    let (mut replica, mut far) = (Replica::new(), Sender::default());
    let own = replica.subscriber("a", "t/+");
    let other = "$queue/t/+";
    far.join(&mut replica, [member(7, 9), GroupMember { group: other.into(), ..member(7, 9) }]);
    let mut without = TextsWriter::default();
    without.push("$share/x/t/+");
    without.push(other);
    let transit = Transit::new("t/1", b"", b"x", QoS::AtLeastOnce, false, None, None, None);
    let mut writer = BatchWriter::new();
    for without in [without.texts(), Texts::default()] {
        let message = Forwarded::new(&transit, Timestamp::ORIGIN);
        writer.push(&Frame::Store { origin: None, retains: false, without, message });
    }
    replica.one(Op::Publish { batch: writer.take().expect("two") });
    assert_eq!(replica.all(own).len(), 2);
    let messages = replica.shard.groups(None, 9).into_iter().map(|info| (info.group, info.messages));
    assert_eq!(messages.collect::<Vec<_>>(), [(other.into(), 1), (GROUP.into(), 2)]);
}

#[test]
fn a_message_that_goes_takes_its_loan_along() {
    let (mut replica, mut far) = (Replica::new(), Sender::default());
    far.join(&mut replica, [member(7, 1)]);
    say_all(&mut replica, &["a", "b"]);
    let group = (1..9).map(SessionId).find(|id| replica.shard.bounds(*id).is_some()).expect("there is one");
    replica.one(Op::Discard { session: group, seqs: vec![Seq(1)] });
    assert_eq!(shares(&replica), [share(7, "b")]);
    replica.flush();
    replica.reopen();
    assert_eq!(shares(&replica), [share(7, "b")]);
}

#[test]
fn letters_come_in_portions() {
    let (mut replica, mut far) = (Replica::new(), Sender::default());
    far.join(&mut replica, [member(7, 99)]);
    replica.shard.take_changes();
    let messages: Vec<_> = (0..10).map(|_| Published::new("t/1", vec![b'x'; 1_000])).collect();
    replica.one(publish(&messages));
    assert!(replica.shard.take_changes().has_letters);
    assert!(!replica.shard.take_changes().has_letters);
    for _ in 0..2 {
        let letters = |after, count, bytes| replica.shard.letters(after, count, bytes).expect("valid rows");
        let all = letters(0, usize::MAX, usize::MAX);
        assert_eq!(all.len(), 10);
        assert_eq!(letters(0, 3, usize::MAX), all[..3]);
        assert_eq!(letters(all[2].number, usize::MAX, 2_500), all[3..6]);
        assert_eq!(letters(all[9].number, 9, 9), []);
        assert_eq!(replica.shard.last_letter(), all[9].number);
        replica.flush();
        replica.reopen();
    }
}

#[test]
fn numbers_rise_with_time_and_without() {
    let (mut replica, mut far) = (Replica::new(), Sender::default());
    far.join(&mut replica, [member(7, 99)]);
    say_all(&mut replica, &["a", "b"]);
    replica.stamp += 1;
    say_all(&mut replica, &["c"]);
    let numbers: Vec<u64> = lent(&replica).iter().map(|(loan, ..)| *loan).collect();
    assert_eq!(numbers, [1_000 << 16, (1_000 << 16) + 1, 1_001 << 16]);
}
