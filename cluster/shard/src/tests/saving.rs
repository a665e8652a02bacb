//! Groups in backups.

use flotilla_mqtt::QoS;

use super::{
    backup::{complete, count, export, import},
    borrowing::lend,
    groups::{GROUP, Sender, member, shares},
    harness::{Published, Replica, connection, open, publish, released, subscribe},
};
use crate::{Answer, GroupInfo, GroupMember, Letter, Op, Saved, SavedCount, Seq};

/// A group with four messages, of which one is lent.
fn group() -> (Replica, Sender) {
    let (mut replica, mut far) = (Replica::new(), Sender::default());
    far.send(&mut replica, [Letter::Member(GroupMember { window: 1, ..member(7, 1) })]);
    let expiring = Published { expires_in: Some(200), ..Published::new("t/1", "c") };
    replica.one(publish(&[
        Published::new("t/1", "a"),
        Published::new("t/1", "b"),
        expiring,
        Published::new("t/1", "d"),
    ]));
    (replica, far)
}

fn messages(replica: &Replica) -> Vec<(String, u64, usize)> {
    let groups = replica.shard.groups(None, 9).into_iter();
    groups.map(|GroupInfo { group, messages, loans, .. }| (group.to_string(), messages, loans)).collect()
}

#[test]
fn a_group_comes_back_with_all_its_messages() {
    let (mut source, _) = group();
    let saved = export(&mut source.shard);
    assert_eq!(count(&saved), SavedCount { sessions: 1, subscriptions: 0, messages: 4, retained: 0 });
    for piece in &saved {
        // It goes to where the whole text of the shared subscription belongs.
        let parts = piece.clone().split(ToOwned::to_owned);
        assert_eq!(parts.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), [GROUP]);
    }
    let (mut target, mut far) = (Replica::new(), Sender::default());
    target.stamp = 1_000_000;
    for piece in saved.clone() {
        target.one(Op::Restore(Box::new(piece)));
    }
    // A member that begins earlier gets nothing yet, and no more is restored from now on.
    far.send(&mut target, [Letter::Member(member(1, 2))]);
    assert_eq!((messages(&target), target.shard.stats().restoring), (vec![(GROUP.into(), 4, 0)], 1));
    target.one(publish(&[Published::new("t/1", "x")]));
    assert_eq!(target.one(Op::Restore(Box::new(saved[0].clone()))), Answer::Count(0));
    target.flush();
    target.reopen();
    complete(&mut target);
    target.stamp += 199;
    target.one(publish(&[Published::new("t/1", "e")]));
    assert_eq!(messages(&target), [(GROUP.into(), 5, 2)]);
    far.send(&mut target, [Letter::Member(member(1, 9))]);
    let payloads = shares(&target).into_iter().map(|(_, payload)| payload);
    assert_eq!(payloads.collect::<Vec<_>>(), ["a", "b", "c", "d", "e"]);
    // One that serves stays as it is.
    for piece in saved {
        assert_eq!(target.one(Op::Restore(Box::new(piece))), Answer::Count(0));
    }
}

#[test]
fn a_group_without_members_can_be_restored_once_more() {
    let saved = export(&mut group().0.shard);
    let mut target = Replica::new();
    for _ in 0..2 {
        for piece in saved.clone() {
            let count = piece.count().sum();
            assert_eq!(target.one(Op::Restore(Box::new(piece))), Answer::Count(count));
        }
    }
    complete(&mut target);
    assert_eq!(messages(&target), [(GROUP.into(), 4, 0)]);
}

#[test]
fn what_is_borrowed_is_of_its_group_and_what_was_released_is_not() {
    let (mut source, mut far) = (Replica::new(), Sender::default());
    let (_, session) = source.open(open("a", 1));
    let session = session.expect("it is durable").id;
    source.one(subscribe("a", 1, &[(GROUP, 2), ("own", 1)]));
    far.send(
        &mut source,
        [lend(session, QoS::ExactlyOnce, "released"), lend(session, QoS::ExactlyOnce, "borrowed")],
    );
    source.apply(vec![released("a", [1]), publish(&[Published::new("own", "own")])]);
    let mut targets = [Replica::new()];
    import(&mut targets, export(&mut source.shard));
    let [target] = &mut targets;
    let restored = target.shard.session_of(&connection("a", 1).client).expect("it is there");
    assert_eq!(target.payloads(restored), [(1, String::new()), (3, "own".into())]);
    // Its group hears of it: it is away.
    let letters = target.shard.letters(0, 9, usize::MAX).expect("valid rows");
    let told = letters.into_iter().map(|outbound| match outbound.letter {
        Letter::Member(GroupMember { group, session, is_online, .. }) => {
            (group.to_string(), session, is_online)
        }
        other => panic!("{other:?}"),
    });
    assert_eq!(told.collect::<Vec<_>>(), [(GROUP.to_owned(), restored, false)]);
}

#[test]
fn the_place_of_a_borrowed_message_is_not_used_again() {
    let (mut source, mut far) = (Replica::new(), Sender::default());
    let session = source.subscriber("a", GROUP);
    source.flush();
    far.send(&mut source, [lend(session, QoS::ExactlyOnce, "x")]);
    let mut targets = [Replica::new()];
    import(&mut targets, export(&mut source.shard));
    // The client may know it, and the identifier with which it came.
    let restored = targets[0].shard.session_of(&connection("a", 1).client).expect("it is there");
    assert_eq!(targets[0].shard.bounds(restored), Some((Seq(2), Seq(2))));
}

#[test]
fn a_piece_of_a_group_that_says_what_cannot_be_is_refused() {
    let mut source = Replica::new();
    source.subscriber("xxshare/g/a", "t");
    for piece in export(&mut source.shard) {
        let bytes = piece.encode().to_vec();
        let at = bytes.windows(9).position(|text| text == b"xxshare/g").expect("the client is named");
        // What a client has, a group does not: a window, and subscriptions.
        let mut changed = bytes.clone();
        changed[at..at + 2].copy_from_slice(b"\0$");
        assert!(Saved::decode(&changed.into()).is_err());
        // What is no shared subscription is no group.
        let mut changed = bytes;
        changed[at] = 0;
        assert!(Saved::decode(&changed.into()).is_err());
    }
}
