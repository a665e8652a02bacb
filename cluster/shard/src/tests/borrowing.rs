//! Sessions that share subscriptions: what their groups hear of them, and what they do with what they borrow. The shard of the
//! groups is played by the tests.

use std::time::Duration;

use flotilla_mqtt::{
    QoS,
    session::{QueueFull, SessionExpiry},
};

use super::{
    groups::{FAR, GROUP, Sender},
    harness::{Replica, connection, done, filter, open, released, say, subscribe},
};
use crate::{
    Answer, GroupMember, GroupStrategy, Letter, Op, Open, Outbound, QueueLimits, Seq, SessionId,
    StoredMessage, To, WillFate, message::Parts,
};

/// What is told to others, as text.
fn told(replica: &Replica) -> Vec<String> {
    let letters = replica.shard.letters(0, usize::MAX, usize::MAX).expect("valid rows");
    let text = |Outbound { to, letter, .. }: Outbound| match (to, letter) {
        (To::Group(to), Letter::Member(GroupMember { group, session, is_online, .. })) if to == group => {
            format!("{} {group} {}", session.0, if is_online { "online" } else { "away" })
        }
        (To::Group(to), Letter::Leave { group, session }) if to == group => {
            format!("{} {group} left", session.0)
        }
        (To::Shard(FAR), Letter::Return { loan, fate }) => format!("{loan} {fate:?}"),
        other => panic!("{other:?}"),
    };
    letters.into_iter().map(text).collect()
}

/// Everything has come.
fn post(replica: &mut Replica) {
    let letters = replica.shard.letters(0, usize::MAX, usize::MAX).expect("valid rows");
    replica.one(Op::Posted { letters: letters.into_iter().map(|outbound| outbound.number).collect() });
    assert_eq!((told(replica), replica.shard.stats().letters), (Vec::new(), 0));
}

fn message(qos: QoS, payload: &str, expires_at: Option<u64>) -> StoredMessage {
    let parts = Parts {
        topic: "t/1",
        publisher: None,
        properties: b"",
        payload: payload.as_bytes(),
        qos,
        retain: true,
        expires_at,
    };
    let mut bytes = Vec::new();
    parts.write(&mut bytes);
    StoredMessage::read(bytes.into()).expect("it was written")
}

pub(super) fn lend(session: SessionId, qos: QoS, payload: &str) -> Letter {
    Letter::Lend { session, group: GROUP.into(), message: message(qos, payload, None) }
}

/// A session that shares a subscription, of which its group knows, and the shard of that group.
fn member() -> (Replica, SessionId, Sender) {
    let mut replica = Replica::new();
    let (_, session) = replica.open(open("a", 1));
    replica.one(subscribe("a", 1, &[(GROUP, 2)]));
    post(&mut replica);
    (replica, session.expect("it is durable").id, Sender::default())
}

fn close(sent_until: u64) -> Op {
    Op::Close {
        connection: connection("a", 1),
        expiry: SessionExpiry::Never,
        will: WillFate::Drop,
        sent_until: Seq(sent_until),
        stored: Vec::new(),
    }
}

#[test]
fn groups_hear_who_comes_and_goes() {
    let mut replica = Replica::new();
    replica.open(open("a", 1));
    replica.shard.take_changes();
    replica.one(subscribe("a", 1, &[("t", 1)]));
    assert!(!replica.shard.take_changes().has_letters);
    replica.one(subscribe("a", 1, &[("$queue/u", 1), (GROUP, 0)]));
    assert!(replica.shard.take_changes().has_letters);
    assert_eq!(told(&replica), ["1 $queue/u online", "1 $share/g/t/+ online"]);
    // The last word counts.
    replica.close("a", 1, WillFate::Drop);
    replica.one(Op::Unsubscribe { connection: connection("a", 1), filters: vec![filter("$queue/u")] });
    assert_eq!(told(&replica), ["1 $share/g/t/+ away", "1 $queue/u left"]);
    let first = replica.shard.first_unposted_membership().expect("there are two");
    replica.flush();
    replica.reopen();
    assert_eq!(told(&replica), ["1 $share/g/t/+ away", "1 $queue/u left"]);
    replica.one(Op::Posted { letters: vec![first] });
    assert_eq!(told(&replica), ["1 $queue/u left"]);
    replica.open(open("a", 2));
    assert_eq!(told(&replica), ["1 $queue/u left", "1 $share/g/t/+ online"]);
    post(&mut replica);
    assert_eq!(replica.shard.first_unposted_membership(), None);
    replica.open(Open { clean_start: true, ..open("a", 3) });
    assert_eq!(told(&replica), ["1 $share/g/t/+ left"]);
    post(&mut replica);
    replica.flush();
    assert!(replica.rows().iter().all(|(tag, _)| *tag != 16));
}

#[test]
fn a_group_hears_of_window_queue_and_strategy() {
    let mut replica = Replica::new();
    let queue = QueueLimits { messages_max: 5, bytes_max: 6, full: QueueFull::DropOldest };
    let (_, session) =
        replica.open(Open { window: 4, queue, group_strategy: GroupStrategy::Sticky, ..open("a", 1) });
    replica.one(subscribe("a", 1, &[(GROUP, 2)]));
    for _ in 0..2 {
        let letters = replica.shard.letters(0, 9, 9).expect("valid rows");
        let member = GroupMember {
            group: GROUP.into(),
            session: session.as_ref().expect("it is durable").id,
            window: 4,
            queue,
            strategy: GroupStrategy::Sticky,
            is_online: true,
        };
        assert_eq!(letters[0].letter, Letter::Member(member));
        replica.flush();
        replica.reopen();
        replica.one(subscribe("a", 1, &[(GROUP, 2)]));
    }
}

#[test]
fn what_is_lent_goes_to_the_client_and_is_done_with_it() {
    let (mut replica, session, mut far) = member();
    replica.one(Op::Subscribe {
        connection: connection("a", 1),
        subscriptions: vec![super::harness::subscription(GROUP, 1, 33)],
    });
    post(&mut replica);
    replica.shard.take_changes();
    far.send(
        &mut replica,
        [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].map(|qos| lend(session, qos, "x")),
    );
    assert_eq!(replica.shard.take_changes().fed, [session]);
    let queued = replica.all(session).into_iter().map(|queued| match queued {
        crate::Queued::Publish(queued) => {
            (queued.qos, queued.retain, super::model::ids(&queued.subscription_ids), queued.message.retain())
        }
        other @ crate::Queued::Release { .. } => panic!("{other:?}"),
    });
    let expected =
        [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::AtLeastOnce].map(|qos| (qos, false, vec![33], true));
    assert_eq!(queued.collect::<Vec<_>>(), expected);
    assert_eq!((told(&replica), replica.shard.stats().borrowed), (Vec::new(), 3));
    replica.flush();
    replica.reopen();
    replica.one(done("a", [1, 3, 3]));
    assert_eq!((told(&replica), replica.shard.stats().borrowed), (vec!["1 Done".into(), "3 Done".into()], 1));
    replica.one(Op::Discard { session, seqs: vec![Seq(2)] });
    assert_eq!(told(&replica), ["1 Done", "3 Done", "2 Done"]);
    assert_eq!((replica.shard.stats().borrowed, replica.shard.stats().queued_messages), (0, 0));
    post(&mut replica);
    replica.flush();
    assert!(replica.rows().iter().all(|(tag, _)| *tag != 17 && *tag != 16));
}

#[test]
fn who_has_released_a_message_has_it() {
    let (mut replica, session, mut far) = member();
    far.send(&mut replica, [lend(session, QoS::ExactlyOnce, "x")]);
    replica.one(released("a", [1]));
    assert_eq!(told(&replica), ["1 Done"]);
    replica.one(close(1));
    // PUBREL is still due, whatever was sent.
    assert_eq!(replica.payloads(session), [(1, String::new())]);
    replica.one(done("a", [1]));
    assert_eq!(told(&replica), ["1 Done", "1 $share/g/t/+ away"]);
}

#[test]
fn what_cannot_be_delivered_goes_back_at_once() {
    let (mut replica, session, mut far) = member();
    let (_, other) = replica.open(open("b", 1));
    let other = other.expect("it is durable").id;
    let late =
        |at| Letter::Lend { session, group: GROUP.into(), message: message(QoS::ExactlyOnce, "x", Some(at)) };
    // It does not share the subscription; there is none; it has expired, is about to.
    let letters = [
        lend(other, QoS::ExactlyOnce, "x"),
        lend(SessionId(99), QoS::ExactlyOnce, "x"),
        late(1_000),
        late(1_001),
    ];
    far.send(&mut replica, letters);
    assert_eq!(told(&replica), ["1 Back", "2 Back", "3 Done"]);
    assert_eq!((replica.shard.stats().borrowed, replica.shard.stats().expired), (1, 1));
    post(&mut replica);
    replica.one(close(9));
    far.send(&mut replica, [lend(session, QoS::AtLeastOnce, "x")]);
    // That its client has gone is told first.
    assert_eq!(told(&replica), ["1 $share/g/t/+ away", "5 Back"]);
}

#[test]
fn what_was_not_acknowledged_goes_back_when_the_client_goes() {
    let (mut replica, session, mut far) = member();
    replica.one(Op::Subscribe {
        connection: connection("a", 1),
        subscriptions: vec![super::harness::subscription("own", 2, 0)],
    });
    let letter = |qos| lend(session, qos, "x");
    far.send(
        &mut replica,
        [QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::AtMostOnce, QoS::ExactlyOnce, QoS::AtLeastOnce].map(letter),
    );
    replica.one(say("own", "own"));
    // The first three were sent.
    replica.one(close(4));
    assert_eq!(told(&replica), ["1 $share/g/t/+ away", "1 Back", "3 Back", "4 Back", "5 Back"]);
    assert_eq!(replica.payloads(session), [(2, "x".into()), (6, "own".into())]);
    assert_eq!(replica.shard.stats().abandoned, 0);
    post(&mut replica);
    replica.flush();
    replica.reopen();
    // It knows the one of QoS 2, and gets it when it comes back [MQTT-4.8.2-5].
    replica.open(open("a", 2));
    assert_eq!(replica.payloads(session), [(2, "x".into()), (6, "own".into())]);
    replica.one(Op::Acknowledge { connection: connection("a", 2), released: vec![Seq(2)], done: Vec::new() });
    assert_eq!(told(&replica), ["1 $share/g/t/+ online", "2 Done"]);
}

#[test]
fn what_may_have_been_sent_before_stays() {
    let (mut replica, session, mut far) = member();
    far.send(&mut replica, [QoS::AtLeastOnce, QoS::ExactlyOnce].map(|qos| lend(session, qos, "x")));
    // The connection breaks: who knows what was sent.
    replica.one(Op::MemberEnded { member: super::harness::member(1) });
    assert_eq!(told(&replica), ["1 $share/g/t/+ away", "1 Back"]);
    post(&mut replica);
    // The next one has not been sent it, which says nothing of the one before.
    replica.open(open("a", 2));
    replica.one(Op::Close {
        connection: connection("a", 2),
        expiry: SessionExpiry::After(Duration::from_secs(1)),
        will: WillFate::Drop,
        sent_until: Seq(1),
        stored: Vec::new(),
    });
    assert_eq!(told(&replica), ["1 $share/g/t/+ away"]);
    // It is nobody else's, also when the session ends.
    replica.stamp += 1_000;
    replica.one(Op::Tick);
    assert_eq!(told(&replica), ["1 $share/g/t/+ left", "2 Done"]);
    assert_eq!(replica.shard.stats().borrowed, 0);
}

#[test]
fn nothing_goes_back_when_the_client_takes_itself_over() {
    let (mut replica, session, mut far) = member();
    far.send(&mut replica, [QoS::AtLeastOnce, QoS::ExactlyOnce].map(|qos| lend(session, qos, "x")));
    replica.open(open("a", 2));
    assert_eq!(told(&replica), ["1 $share/g/t/+ online"]);
    assert_eq!(replica.payloads(session).len(), 2);
    // What it has not been sent on either of them is not known.
    replica.one(Op::End { connection: connection("a", 2) });
    assert_eq!(told(&replica), ["1 $share/g/t/+ left", "1 Back", "2 Done"]);
    assert_eq!(replica.shard.stats().queued_messages, 0);
}

#[test]
fn a_session_that_ends_with_its_connection_gives_back_what_was_not_sent() {
    let (mut replica, session, mut far) = member();
    far.send(
        &mut replica,
        [QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].map(|qos| lend(session, qos, "x")),
    );
    replica.one(Op::Close {
        connection: connection("a", 1),
        expiry: SessionExpiry::AtDisconnect,
        will: WillFate::Drop,
        sent_until: Seq(3),
        stored: Vec::new(),
    });
    assert_eq!(told(&replica), ["1 $share/g/t/+ left", "1 Done", "2 Back", "3 Back"]);
}

#[test]
fn who_has_unsubscribed_delivers_what_it_has() {
    let (mut replica, session, mut far) = member();
    far.send(&mut replica, [lend(session, QoS::AtLeastOnce, "x")]);
    replica.one(Op::Unsubscribe { connection: connection("a", 1), filters: vec![filter(GROUP)] });
    far.send(&mut replica, [lend(session, QoS::AtLeastOnce, "y")]);
    assert_eq!(told(&replica), ["1 $share/g/t/+ left", "2 Back"]);
    replica.one(done("a", [1]));
    assert_eq!(told(&replica), ["1 $share/g/t/+ left", "2 Back", "1 Done"]);
}

#[test]
fn a_full_queue_takes_what_is_lent_and_gives_it_back_rather_than_lose_it() {
    let mut replica = Replica::new();
    let mut far = Sender::default();
    let queue = QueueLimits { messages_max: 1, bytes_max: 1 << 20, full: QueueFull::DropOldest };
    let (_, session) = replica.open(Open { window: 1, queue, ..open("a", 1) });
    let session = session.expect("it is durable").id;
    replica.one(subscribe("a", 1, &[(GROUP, 2), ("own", 1)]));
    post(&mut replica);
    replica.apply(vec![say("own", "1"), say("own", "2")]);
    far.send(&mut replica, [lend(session, QoS::AtLeastOnce, "lent")]);
    let payloads = |replica: &Replica| {
        replica.payloads(session).into_iter().map(|(_, payload)| payload).collect::<Vec<_>>()
    };
    assert_eq!(payloads(&replica), ["1", "2", "lent"]);
    replica.one(say("own", "3"));
    assert_eq!((payloads(&replica), told(&replica)), (vec!["1".into(), "3".into()], vec!["1 Back".into()]));
    assert_eq!(replica.shard.stats().dropped_oldest, 1);
}

#[test]
fn letters_that_come_again_are_not_answered_again() {
    let (mut replica, session, _) = member();
    let letters =
        || Op::Letters { from: FAR, after: 0, letters: vec![(5, lend(session, QoS::AtLeastOnce, "x"))] };
    assert_eq!(replica.apply(vec![letters(), letters()]), [Answer::Done, Answer::Done]);
    assert_eq!(replica.payloads(session).len(), 1);
    replica.one(done("a", [1]));
    replica.one(letters());
    assert_eq!((told(&replica), replica.payloads(session)), (vec!["5 Done".into()], Vec::new()));
}
