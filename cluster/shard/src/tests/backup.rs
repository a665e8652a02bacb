//! What comes out of a backup is what went in, in however many shards.

use std::{collections::BTreeMap, time::Duration};

use flotilla_mqtt::session::SessionExpiry;
use proptest::{collection::vec, prelude::*};

use super::{
    harness::{Published, Replica, connection, done, open, packet, publish, released, say, subscribe, will},
    random::{World, step},
};
use crate::{
    Answer, Op, Open, Options, Queued, QueuedMessage, RESTORED_MAX, Saved, SavedCount, Seq, Shard,
    StoredMessage, WillFate,
};

pub(super) fn export(shard: &mut Shard) -> Vec<Saved> {
    let export = shard.export().expect("the store takes it");
    export.map(|saved| saved.expect("it can be read")).collect()
}

pub(super) fn count(saved: &[Saved]) -> SavedCount {
    saved.iter().fold(SavedCount::default(), |mut count, saved| {
        count += saved.count();
        count
    })
}

/// Which of so many shards a client belongs to.
fn shard_of(client: &str, shards: usize) -> usize {
    client.bytes().map(usize::from).sum::<usize>() % shards
}

/// Restores pieces, and says that they are complete.
pub(super) fn import(targets: &mut [Replica], saved: Vec<Saved>) {
    let shards = targets.len();
    for piece in saved {
        assert_eq!(Saved::decode(&piece.encode()), Ok(piece.clone()));
        for (shard, part) in piece.split(|client| shard_of(client, shards)) {
            let count = part.count();
            let taken = targets[shard].one(Op::Restore(Box::new(part)));
            // Of what is retained, some may be there from an import that was not ended.
            assert!(taken == Answer::Count(count.sum()) || count.retained > 0, "{taken:?} of {count:?}");
        }
    }
    for target in targets {
        complete(target);
    }
}

pub(super) fn complete(target: &mut Replica) {
    while target.one(Op::Restored) != (Answer::Count(0)) {}
}

/// A place, its message unless that is released, and how long that has left.
type Found = (u64, Option<QueuedMessage>, Option<u64>);

/// What a client finds when it comes back, with what is left of the times.
fn found(shard: &Shard, client: &str, now: u64) -> Option<Vec<Found>> {
    let session = shard.session_of(&connection(client, 1).client)?;
    let queued = shard.deliverable(session, Seq(0), usize::MAX, usize::MAX).expect("valid rows");
    let without_times = |queued: Queued| match queued {
        Queued::Release { seq } => (seq.0, None, None),
        Queued::Publish(message) => {
            let left = message.expires_at.map(|at| at.saturating_sub(now));
            (message.seq.0, Some(timeless(message)), left)
        }
    };
    Some(queued.into_iter().map(without_times).collect())
}

fn timeless(queued: QueuedMessage) -> QueuedMessage {
    let mut bytes = Vec::new();
    crate::message::Parts::of_stored(&queued.message, None).write(&mut bytes);
    let message = StoredMessage::read(bytes.into()).expect("it was written");
    QueuedMessage { expires_at: None, message, ..queued }
}

/// A shard with something of everything, and its stamp.
fn filled() -> Replica {
    let mut source = Replica::new();
    for client in ["a", "b", "c"] {
        source.subscriber(client, "t/#");
    }
    let own: Vec<_> = (0..200).map(|number| Published::new("t/own", format!("own {number}"))).collect();
    source.apply(vec![publish(&own), say("t/1", "x")]);
    source.flush();
    let expiring = Published { expires_in: Some(500), ..Published::new("t/2", "short") };
    source.apply(vec![publish(&[expiring]), released("a", [1, 2]), done("b", [1, 3, 5])]);
    source.one(Op::Receive { connection: connection("c", 1), packet_id: packet(7) });
    source.close("b", 1, WillFate::Drop);
    source
}

#[test]
fn sessions_come_back_with_their_queues() {
    for shards in 1..4 {
        let mut source = filled();
        let saved = export(&mut source.shard);
        assert_eq!(
            count(&saved),
            SavedCount { sessions: 3, subscriptions: 3, messages: 3 * 202 - 3, retained: 0 }
        );
        let mut targets: Vec<Replica> = (0..shards).map(|_| Replica::new()).collect();
        // It is later there, which costs nobody anything.
        targets.iter_mut().for_each(|target| target.stamp = 1_000_000);
        import(&mut targets, saved);
        for round in 0..2 {
            for client in ["a", "b", "c"] {
                let target = &targets[shard_of(client, shards)];
                assert_eq!(
                    found(&target.shard, client, target.stamp),
                    found(&source.shard, client, source.stamp),
                    "{client} in {shards} shards, {round}"
                );
            }
            for target in &mut targets {
                target.flush();
                target.reopen();
            }
        }
        let target = &mut targets[shard_of("c", shards)];
        let (present, session) = target.open(open("c", 9));
        let session = session.expect("it is kept");
        assert!(present);
        assert_eq!((session.subscriptions.len(), session.next_number, session.floor), (1, 2, 1));
        assert_eq!(session.received.iter().map(|taken| taken.id).collect::<Vec<_>>(), [packet(7)]);
        assert_eq!((session.head, session.maybe_sent_until), (Seq(1), Seq(203)));
        // What is published from now on comes behind it.
        target.one(say("t/3", "new"));
        let session = target.shard.session_of(&connection("c", 9).client).expect("it is there");
        assert_eq!(target.payloads(session).last(), Some(&(203, "new".to_owned())));
    }
}

#[test]
fn retained_messages_come_back_and_replace_none() {
    let retained =
        |topic: &str, payload: &str| Published { retains: true, ..Published::new(topic, payload.to_owned()) };
    let mut source = Replica::new();
    let topics: Vec<String> = (0..500).map(|number| format!("t/{number}")).collect();
    let all: Vec<_> = topics.iter().map(|topic| retained(topic, &"x".repeat(1_000))).collect();
    source.apply(all.chunks(50).map(publish).collect());
    let expiring = Published { expires_in: Some(500), ..retained("t/short", "y") };
    source.apply(vec![publish(&[expiring]), publish(&[retained("t/7", "new"), retained("t/8", "")])]);
    let saved = export(&mut source.shard);
    assert_eq!(count(&saved), SavedCount { retained: 500, ..SavedCount::default() });
    assert!(saved.len() > 1, "in pieces");
    let payloads = |target: &Replica, filter: &str| {
        let page =
            target.shard.retained(filter, None, (1_000, usize::MAX), target.stamp).expect("valid rows");
        page.messages.iter().map(|message| message.payload().to_vec()).collect::<Vec<_>>()
    };
    for shards in 1..4 {
        let mut targets: Vec<Replica> = (0..shards).map(|_| Replica::new()).collect();
        let at = |topic: &str| shard_of(topic, shards);
        import(&mut targets, saved.clone());
        for _ in 0..2 {
            assert_eq!(targets.iter().map(|target| payloads(target, "t/+").len()).sum::<usize>(), 500);
            assert_eq!(payloads(&targets[at("t/7")], "t/7"), [b"new"]);
            assert_eq!(payloads(&targets[at("t/8")], "t/8"), Vec::<Vec<u8>>::new());
            for target in &mut targets {
                target.flush();
                target.reopen();
            }
        }
        targets[at("t/7")].apply(vec![publish(&[retained("t/7", "newer")])]);
        for (shard, part) in saved.iter().cloned().flat_map(|saved| saved.split(at)) {
            assert_eq!(targets[shard].one(Op::Restore(Box::new(part))), Answer::Count(0), "they are there");
        }
        assert_eq!(payloads(&targets[at("t/7")], "t/7"), [b"newer"]);
        // What is left of its time begins with the import.
        let target = &mut targets[at("t/short")];
        target.stamp += 499;
        assert_eq!(payloads(target, "t/short"), [b"y"]);
        target.stamp += 2;
        assert_eq!(payloads(target, "t/short"), Vec::<Vec<u8>>::new());
    }
}

#[test]
fn a_message_is_stored_once_for_all_sessions_that_have_it() {
    let mut source = Replica::new();
    let clients: Vec<String> = (0..100).map(|number| format!("client-{number}")).collect();
    for client in &clients {
        source.subscriber(client, "t");
    }
    let said: Vec<_> = (0..300).map(|_| Published::new("t", vec![b'x'; 2_000])).collect();
    said.chunks(7).for_each(|said| drop(source.one(publish(said))));
    let saved = export(&mut source.shard);
    // Thirty thousand places, but not sixty million bytes.
    assert_eq!(count(&saved).messages, 30_000);
    let bytes: usize = saved.iter().map(|piece| piece.encode().len()).sum();
    assert!(bytes < 300 * 2_000 * 2 + 30_000 * 20, "{bytes}");
    assert!(saved.iter().all(|piece| piece.encode().len() < 300_000));
    let mut targets = [Replica::new()];
    import(&mut targets, saved);
    let [mut target] = targets;
    target.flush();
    let messages = target.rows().iter().find(|(tag, _)| *tag == 6).map_or(0, |(_, rows)| *rows);
    assert!((300..450).contains(&messages), "{messages}");
    // They go when nobody needs them any more.
    for client in &clients {
        let connection = target.open(open(client, 3));
        assert!(connection.0);
        target.one(Op::End { connection: super::harness::connection(client, 3) });
    }
    target.flush();
    while target.shard.stats().trash > 0 {
        target.flush();
    }
    assert!(target.rows().iter().all(|(tag, _)| *tag > 7), "{:?}", target.rows());
}

#[test]
fn a_session_that_is_not_complete_serves_nobody() {
    let mut source = filled();
    let saved = export(&mut source.shard);
    let mut target = Replica::new();
    let (first, rest) = saved.split_at(3);
    for piece in first {
        target.one(Op::Restore(Box::new(piece.clone())));
    }
    for _ in 0..2 {
        assert_eq!(target.one(Op::Open(Box::new(open("a", 5)))), Answer::Fenced);
        target.one(say("t/1", "for nobody"));
        target.stamp += 1 << 40;
        target.one(Op::Tick);
        assert_eq!((target.shard.stats().restoring, target.shard.stats().queued_messages), (2, 0));
        let mut filters = 0;
        target.shard.for_each_filter(|_| filters += 1);
        assert_eq!((filters, target.shard.next_deadline()), (0, None));
        target.flush();
        target.reopen();
    }
    // It is taken up from the beginning.
    import(std::slice::from_mut(&mut target), saved.clone());
    assert_eq!(found(&target.shard, "a", target.stamp), found(&source.shard, "a", source.stamp));
    // Who begins anew does not wait for it.
    let mut target = Replica::new();
    target.one(Op::Restore(Box::new(first[0].clone())));
    assert!(!target.open(Open { clean_start: true, ..open("a", 5) }).0);
    // A session that serves stays as it is.
    target.one(say("t/1", "not for a"));
    assert_eq!(target.one(Op::Restore(Box::new(first[0].clone()))), Answer::Count(0));
    assert_eq!(target.one(Op::Restore(Box::new(first[1].clone()))), Answer::Count(0));
    for piece in rest {
        target.one(Op::Restore(Box::new(piece.clone())));
    }
    complete(&mut target);
    assert_eq!(found(&target.shard, "a", target.stamp), Some(Vec::new()));
}

#[test]
fn time_goes_on_where_it_stood() {
    let mut source = Replica::new();
    let after = |secs| SessionExpiry::After(Duration::from_secs(secs));
    // One that is connected, one that has been away for a second, and one that ends with its connection.
    source.open(Open { expiry: after(10), will: Some(will("w/here", 4)), ..open("here", 1) });
    source.open(Open { expiry: after(10), will: Some(will("w/away", 3)), ..open("away", 1) });
    source.open(Open {
        expiry: SessionExpiry::AtDisconnect,
        will: Some(will("w/clean", 9)),
        ..open("clean", 1)
    });
    let (connection, sent_until) = (connection("away", 1), Seq(1));
    let (expiry, will, stored) = (after(10), WillFate::Keep, Vec::new());
    source.one(Op::Close { connection, expiry, will, sent_until, stored });
    source.stamp += 1_000;
    source.one(Op::Tick);
    let mut targets = [Replica::new()];
    targets[0].stamp = 5_000_000;
    import(&mut targets, export(&mut source.shard));
    let [mut target] = targets;
    let begin = target.stamp;
    let topics = |target: &Replica| {
        let wills = target.shard.firing_wills();
        wills.iter().map(|(_, message)| message.topic.to_string()).collect::<Vec<_>>()
    };
    let mut expected: BTreeMap<u64, (&[&str], usize)> = BTreeMap::new();
    expected.insert(0, (&["w/clean"], 2));
    expected.insert(1_999, (&["w/clean"], 2));
    expected.insert(2_000, (&["w/clean", "w/away"], 2));
    expected.insert(3_999, (&["w/clean", "w/away"], 2));
    expected.insert(4_000, (&["w/clean", "w/away", "w/here"], 2));
    expected.insert(9_000, (&["w/clean", "w/away", "w/here"], 1));
    expected.insert(10_000, (&["w/clean", "w/away", "w/here"], 0));
    for (later, (wills, sessions)) in expected {
        target.stamp = begin + later;
        target.one(Op::Tick);
        assert_eq!(
            (topics(&target), target.shard.sessions(None, 9).len()),
            (wills.iter().map(|topic| (*topic).to_owned()).collect(), sessions)
        );
        target.flush();
        target.reopen();
    }
}

#[test]
fn many_sessions_begin_one_part_after_the_other() {
    let mut source = Replica::new();
    let clients = RESTORED_MAX + 1;
    source.apply((0..clients).map(|number| Op::Open(Box::new(open(&number.to_string(), 1)))).collect());
    let mut target = Replica::with(Options::default());
    for piece in export(&mut source.shard) {
        target.one(Op::Restore(Box::new(piece)));
    }
    assert_eq!(target.one(Op::Restored), Answer::Count(1));
    assert_eq!(target.one(Op::Restored), Answer::Count(0));
    assert_eq!(target.shard.stats().sessions, clients as u64);
}

#[test]
fn a_piece_that_says_what_cannot_be_is_refused() {
    let mut source = filled();
    source.one(subscribe("a", 1, &[("t/1", 1)]));
    for piece in export(&mut source.shard) {
        let bytes = piece.encode();
        for cut in 0..bytes.len().min(300) {
            // Cut off, it is none, or a smaller one; it never panics.
            if let Ok(other) = Saved::decode(&bytes.slice(..cut)) {
                Replica::new().one(Op::Restore(Box::new(other)));
            }
        }
        assert!(Saved::decode(&[b"\x08\x02", &bytes[2..]].concat().into()).is_err(), "another version");
    }
}

proptest! {
    #[test]
    fn a_backup_of_any_history_brings_it_back(
        steps in vec(step(), 1..50),
        shards in 1..4_usize,
        interrupted in any::<prop::sample::Index>(),
    ) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        let mut saved = Vec::new();
        for (_, shard, _) in &mut world.replicas {
            saved.push(export(shard));
        }
        let now = world.model.stamp;
        prop_assert_eq!(count(&saved[0]), count(&saved[1]));
        let mut targets: Vec<Replica> = (0..shards).map(|_| Replica::with(Options {
            dirty_bytes_soft: 900, references_read_max: 1, ..Options::default()
        })).collect();
        targets.iter_mut().for_each(|target| target.stamp = now + 77);
        // The first attempt does not come to its end.
        let until = interrupted.index(saved[0].len() + 1);
        for piece in &saved[0][..until] {
            for (shard, part) in piece.clone().split(|client| shard_of(client, shards)) {
                targets[shard].one(Op::Restore(Box::new(part)));
            }
        }
        targets.iter_mut().for_each(|target| { target.flush(); target.reopen(); });
        import(&mut targets, saved.swap_remove(1));
        for (client, session) in &world.model.sessions {
            let target = &mut targets[shard_of(client, shards)];
            let source = &world.replicas[0].1;
            let ends = session.owner.is_some() && source.session(session.id).expect("it is there").expiry == SessionExpiry::AtDisconnect;
            if ends {
                prop_assert_eq!(found(&target.shard, client, target.stamp), None);
                continue;
            }
            // What is borrowed is of its group.
            let is_own = |seq: u64| session.queue.iter().all(|entry| entry.seq != seq || entry.borrowed.is_none());
            let own = found(source, client, now).map(|found| found.into_iter().filter(|(seq, ..)| is_own(*seq)).collect());
            prop_assert_eq!(found(&target.shard, client, target.stamp), own);
            let (present, opened) = target.open(Open { connection: connection(client, 1 << 40), clean_start: false, ..session.open.clone() });
            let opened = opened.expect("it is kept");
            prop_assert!(present);
            prop_assert_eq!(opened.subscriptions, session.subscriptions.values().cloned().collect::<Vec<_>>());
            prop_assert_eq!(&opened.received, &session.received);
            let first = session.queue.iter().find(|entry| entry.borrowed.is_none());
            prop_assert_eq!(opened.head.0, first.map_or(session.next_seq, |entry| entry.seq));
        }
    }

    #[test]
    fn changed_bytes_do_no_harm(changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut target = Replica::new();
        for piece in export(&mut filled().shard) {
            let mut bytes = piece.encode().to_vec();
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            if let Ok(changed) = Saved::decode(&bytes.into()) {
                target.one(Op::Restore(Box::new(changed)));
            }
        }
        complete(&mut target);
        target.flush();
        target.reopen();
    }
}
