//! Lanes over real connections.

mod harness;
mod peers;

use std::thread;

use flotilla_lane::{CONTROL, LaneId, lane_of};
use flotilla_rpc::lanes as rpc;
use flotilla_state::Incarnation;
use tonic::Code;

use super::{LaneOptions, Sent};
use harness::{Node, batch, batch_of_size, member, numbers_in, raw_hello, raw_open, until};

fn lane(number: u8) -> LaneId {
    LaneId::new(number).expect("it exists")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_each_lane_arrive_in_order_and_are_reported_taken() {
    let (a, b) = Node::pair(LaneOptions::default()).await;
    const EACH: u64 = 500;
    // From threads that know nothing of tokio, as workers are.
    let senders: Vec<_> = LaneId::all()
        .map(|lane| {
            let (lanes, to) = (a.lanes.clone(), b.me);
            thread::spawn(move || {
                for id in 1..=EACH {
                    assert_eq!(lanes.send(to, lane, batch(id), vec![id]).expect("it lives"), Sent::Queued);
                }
            })
        })
        .collect();
    for sender in senders {
        sender.join().expect("it does not panic");
    }
    for lane in LaneId::all() {
        b.received(a.me, lane, EACH).await;
        a.taken(b.me, lane, EACH).await;
    }
    let (sent, received) = (a.lanes.counters(), b.lanes.counters());
    // Those that waited together have gone together.
    assert!((5..=5 * EACH).contains(&sent.batches_sent), "{sent:?}");
    assert_eq!(received.batches_received, sent.batches_sent);
    assert_eq!((sent.connected, sent.disconnected), (5, 0));
    assert_eq!(a.lanes.queued_bytes(), [(b.me, 0)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_again_and_again_loses_and_repeats_nothing() {
    let (a, b) = Node::pair(LaneOptions::default()).await;
    let lane = lane_of(b"publisher");
    let mut id = 0;
    for round in 1..=20 {
        for _ in 0..100 {
            id += 1;
            let _ = a.lanes.send(b.me, lane, batch_of_size(id, 2_000), vec![id]).expect("it lives");
        }
        until("some of it has come", || b.received_count(a.me, lane) + 90 > id).await;
        b.proxy.cut();
        if round % 5 == 0 {
            // A batch in the receiver's hands outlives the connection.
            b.received(a.me, lane, id).await;
            b.hold(true);
            id += 1;
            let _ = a.lanes.send(b.me, lane, batch(id), vec![id]).expect("it lives");
            b.received(a.me, lane, id).await;
            b.proxy.cut();
            b.hold(false);
        }
    }
    b.received(a.me, lane, id).await;
    a.taken(b.me, lane, id).await;
    let counters = a.lanes.counters();
    assert!(counters.disconnected > 0 && counters.connected > 1, "{counters:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_receiver_costs_bounded_memory_and_stalls_no_other_lane() {
    let options = LaneOptions { queue_bytes_high: 20 << 20, untaken_max: 4, ..LaneOptions::default() };
    let (a, b) = Node::pair(options.clone()).await;
    b.hold(true);
    // More than any window in each lane of messages.
    let mut sent = 0;
    'full: loop {
        sent += 1;
        for lane in LaneId::all().skip(1) {
            let batch = batch_of_size(sent, 100_000);
            if a.lanes.send(b.me, lane, batch, vec![sent]).expect("it lives") == Sent::Congested {
                break 'full;
            }
        }
    }
    assert!(a.lanes.is_congested(b.me));
    for lane in LaneId::all().skip(1) {
        until("the receiver has its hands full", || b.received_count(a.me, lane) == 4).await;
    }
    // Control goes on, over the same connection.
    for id in 1..=100 {
        let _ = a.lanes.send(b.me, CONTROL, batch(id), vec![id]).expect("it lives");
    }
    b.received(a.me, CONTROL, 100).await;
    a.taken(b.me, CONTROL, 100).await;
    for lane in LaneId::all().skip(1) {
        assert_eq!((b.received_count(a.me, lane), a.taken_count(b.me, lane)), (4, 0));
    }
    let under_way = a.lanes.counters().bytes_sent;
    assert!(under_way <= 4 * (options.window.bytes as u64 + 110_000), "{under_way} bytes under way");
    assert!(a.lanes.is_congested(b.me));
    assert_eq!(a.decongested(), 0);
    b.hold(false);
    b.received(a.me, lane(1), sent).await;
    a.taken(b.me, lane(1), sent).await;
    until("the rest is taken", || a.lanes.queued_bytes() == [(b.me, 0)]).await;
    assert_eq!(a.decongested(), 1);
    assert!(!a.lanes.is_congested(b.me));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_of_another_life_are_refused() {
    let (a, b) = Node::pair(LaneOptions::default()).await;
    // What a takes for b's life is not the one that b is in.
    let mut other = b.me;
    other.incarnation = Incarnation(other.incarnation.0 + 1);
    a.lanes.member_joined(other);
    let _ = a.lanes.send(other, lane(1), batch(1), vec![1]).expect("a believes so");
    until("it is refused", || b.lanes.counters().refused_stale > 0).await;
    assert_eq!(b.lanes.counters().batches_received, 0);
    // As soon as b is in that life, it goes through.
    assert!(b.lanes.admitted(other).is_empty());
    b.received(a.me, lane(1), 1).await;
    a.taken(other, lane(1), 1).await;
    // A member that b does not know, or no longer.
    let before = b.lanes.counters().refused_stale;
    assert_eq!(raw_open(&b, raw_hello(member(77), other, 1), &[]).await, Err(Code::FailedPrecondition));
    assert!(b.lanes.member_ended(a.me).is_empty());
    assert_eq!(raw_open(&b, raw_hello(a.me, other, 1), &[]).await, Err(Code::FailedPrecondition));
    // a itself tries again, too, now that its lanes are closed.
    assert!(b.lanes.counters().refused_stale >= before + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_no_peer_would_take_comes_back_and_the_lane_goes_on() {
    let options = LaneOptions { packet_bytes_max: 100_000, ..LaneOptions::default() };
    let (a, b) = Node::pair(options.clone()).await;
    let longest = options.batch_bytes_max();
    let of_size = |id, size| batch_of_size(id, size - (batch_of_size(id, 1).size() - 1));
    let untaken = a.lanes.send(b.me, lane(1), of_size(1, longest + 1), vec![1]).expect_err("it is too long");
    assert_eq!((untaken.lane, untaken.batch.size(), untaken.done), (lane(1), longest + 1, vec![1]));
    for (id, size) in [(1, longest), (2, 100)] {
        let _ = a.lanes.send(b.me, lane(1), of_size(id, size), vec![id]).expect("it fits");
    }
    a.taken(b.me, lane(1), 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_refused_and_changes_nothing() {
    let options = LaneOptions { packet_bytes_max: 100_000, ..LaneOptions::default() };
    let (a, b) = Node::pair(options).await;
    let good = batch(1).bytes().clone();
    let with = |sequence, frames: &[u8]| rpc::Batch { sequence, frames: frames.to_vec().into() };
    let hello = raw_hello(a.me, b.me, 1);
    let bad_lane = raw_hello(a.me, b.me, 5);
    assert_eq!(raw_open(&b, bad_lane, &[]).await, Err(Code::InvalidArgument));
    let mut nobody = raw_hello(a.me, b.me, 1);
    nobody.from = None;
    assert_eq!(raw_open(&b, nobody, &[]).await, Err(Code::InvalidArgument));
    for frames in [&b""[..], b"\x01", b"\x02abc", b"\x01\x01\x00\x00\x00\x09\x00\x00\x00\x05"] {
        assert_eq!(raw_open(&b, hello, &[with(1, frames)]).await, Err(Code::InvalidArgument));
    }
    assert_eq!(raw_open(&b, hello, &[with(2, &good)]).await, Err(Code::InvalidArgument), "a gap");
    assert_eq!(raw_open(&b, hello, &[with(1, &vec![0; 1 << 20])]).await, Err(Code::OutOfRange), "too long");
    assert_eq!(b.lanes.counters().refused_malformed, 7);
    assert_eq!(b.received_count(a.me, lane(1)), 0);
    // The lane is as it was, and what was good before something bad counts.
    assert_eq!(
        raw_open(&b, hello, &[with(1, &good), with(1, &good), with(7, &good)]).await,
        Err(Code::InvalidArgument)
    );
    b.received(a.me, lane(1), 1).await;
    assert_eq!(b.lanes.counters().batches_repeated, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_ended_member_has_not_taken_comes_back() {
    let (a, b) = Node::pair(LaneOptions::default()).await;
    for id in 1..=3 {
        let _ = a.lanes.send(b.me, lane(2), batch(id), vec![id]).expect("it lives");
    }
    a.taken(b.me, lane(2), 3).await;
    b.hold(true);
    for id in 4..=6 {
        let _ = a.lanes.send(b.me, lane(2), batch(id), vec![id]).expect("it lives");
    }
    b.received(a.me, lane(2), 6).await;
    let untaken = a.lanes.member_ended(b.me);
    assert!(untaken.iter().all(|untaken| untaken.lane == lane(2)));
    let done: Vec<u64> = untaken.iter().flat_map(|untaken| untaken.done.clone()).collect();
    assert_eq!(done, [4, 5, 6]);
    let numbers: Vec<u64> = untaken.iter().flat_map(|untaken| numbers_in(&untaken.batch)).collect();
    assert_eq!(numbers, [4, 5, 6]);
    let refused = a.lanes.send(b.me, lane(2), batch(7), vec![7]).expect_err("it does not live");
    assert_eq!((refused.lane, refused.done), (lane(2), vec![7]));
    // It is too late to take them.
    b.hold(false);
    assert_eq!(a.taken_count(b.me, lane(2)), 3);
    assert!(a.lanes.queued_bytes().is_empty());
    // A node that is no member itself sends nothing.
    assert!(b.lanes.fenced().is_empty());
    assert!(b.lanes.send(a.me, lane(1), batch(1), vec![1]).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_ends_those_who_are_not_in_it() {
    let (a, b) = Node::pair(LaneOptions::default()).await;
    b.hold(true);
    let _ = a.lanes.send(b.me, lane(1), batch(1), vec![1]).expect("it lives");
    let (c, d) = (member(3), member(4));
    a.lanes.member_joined(c);
    let ended = a.lanes.set_members([a.me, c, d]);
    let ended: Vec<_> = ended.into_iter().map(|(member, untaken)| (member, untaken.done)).collect();
    assert_eq!(ended, [(b.me, vec![1])]);
    assert!(a.lanes.send(b.me, CONTROL, batch(2), vec![2]).is_err());
    assert!(a.lanes.send(d, CONTROL, batch(1), vec![1]).is_ok());
    assert!(a.lanes.send(a.me, CONTROL, batch(1), vec![1]).is_err(), "not to oneself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_lease_has_lapsed_acknowledges_nothing() {
    let (a, b) = Node::pair(LaneOptions::default()).await;
    b.may_acknowledge(false);
    let _ = a.lanes.send(b.me, lane(3), batch(1), vec![1]).expect("it lives");
    b.received(a.me, lane(3), 1).await;
    until("it has been tried twice", || b.withheld() > 1).await;
    assert_eq!(a.taken_count(b.me, lane(3)), 0);
    b.may_acknowledge(true);
    a.taken(b.me, lane(3), 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_handling_panics_is_not_taken() {
    let (a, b) = Node::pair(LaneOptions::default()).await;
    b.hold(true);
    for id in 1..=2 {
        let _ = a.lanes.send(b.me, lane(4), batch(id), vec![id]).expect("it lives");
        // So that the next one does not join it.
        b.received(a.me, lane(4), id).await;
    }
    let mut receipts = b.take_receipts();
    let second = receipts.pop().expect("two came");
    let first = receipts.pop().expect("two came");
    let thread = thread::spawn(move || {
        let _second = second;
        panic!("on purpose");
    });
    assert!(thread.join().is_err());
    drop(first);
    a.taken(b.me, lane(4), 1).await;
    // Nor is what comes after it, as far as the sender hears.
    b.hold(false);
    let _ = a.lanes.send(b.me, lane(4), batch(3), vec![3]).expect("it lives");
    b.received(a.me, lane(4), 3).await;
    let _ = a.lanes.send(b.me, CONTROL, batch(1), vec![1]).expect("it lives");
    a.taken(b.me, CONTROL, 1).await;
    assert_eq!(a.taken_count(b.me, lane(4)), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_known_which_member_cannot_be_reached_though_nothing_is_sent() {
    let (a, b) = Node::pair(LaneOptions::default()).await;
    for lane in [CONTROL, lane(2)] {
        let _ = a.lanes.send(b.me, lane, batch(1), vec![1]).expect("it lives");
        a.taken(b.me, lane, 1).await;
    }
    assert_eq!(a.lanes.broken_since(), []);
    b.proxy.block(true);
    until("it is noticed", || a.lanes.broken_since().iter().any(|(member, _)| *member == b.me)).await;
    b.proxy.block(false);
    until("all lanes are there again", || a.lanes.broken_since().is_empty()).await;
    assert_eq!(a.lanes.queued_bytes(), [(b.me, 0)]);
}
