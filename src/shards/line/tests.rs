use flotilla_lane::{BatchWriter, Forwarded, Frame, Texts};
use flotilla_mqtt::{
    QoS, Timestamp, Transit,
    session::{ClientId, QueueFull, SessionExpiry},
};
use flotilla_shard::{Connection, Entry, GroupStrategy, Open, Overlap, QueueLimits};
use flotilla_state::{ConnectionEpoch, Incarnation, NodeId};

use super::*;
use crate::shards::presence::Inquiry;

fn publish(topic: &str) -> Wish {
    let message = Transit::new(topic, b"", b"x", QoS::AtLeastOnce, false, None, None, None);
    let mut writer = BatchWriter::new();
    writer.push(&Frame::Store {
        origin: None,
        retains: false,
        without: Texts::default(),
        message: Forwarded::new(&message, Timestamp::ORIGIN),
    });
    let batch = writer.take().expect("there is one");
    Wish { op: Op::Publish { batch }, bytes: 100, waiting: None }
}

/// The ops of the parts that are sent.
fn ops(outgoing: Outgoing) -> Vec<Op> {
    let mut ops = Vec::new();
    for (_, message) in outgoing {
        let What::Part(part) = message.what else { panic!("{message:?}") };
        let entry = Entry::decode(&Entry::encode_parts(0, false, [&part.part])).expect("it was encoded");
        ops.extend(entry.parts.into_iter().flat_map(|part| part.ops));
    }
    ops
}

#[test]
fn where_there_is_no_space_messages_are_held_back_and_nothing_else() {
    let line = Line::new(ShardId(1));
    let me = Member { node: NodeId(1), incarnation: Incarnation(1) };
    line.begin_life(Some(me), drop);
    line.handle_lead(Leader { member: me, term: 1, round: 0 }, ShardClock::at(0), drop);
    let put = |wish: Wish| {
        let mut sent = Vec::new();
        line.put(wish, |outgoing| sent = ops(outgoing));
        sent
    };
    let messages = [publish("a"), publish("b")].map(|wish| wish.op);
    assert!(line.set_short(true, |outgoing| assert!(outgoing.is_empty())));
    assert!(line.is_congested() && !line.is_busy());
    assert_eq!((put(publish("a")), put(publish("b"))), (vec![], vec![]));
    let tick = Wish { op: Op::Tick, bytes: 1, waiting: None };
    assert_eq!(put(tick), [Op::Tick]);
    let mut sent = Vec::new();
    assert!(line.set_short(false, |outgoing| sent = ops(outgoing)));
    assert_eq!(sent, messages);
    assert!(!line.is_congested() && !line.set_short(false, |_| panic!("nothing is new")));
    // With a life goes what waited in it.
    line.set_short(true, drop);
    put(publish("a"));
    line.begin_life(Some(me), drop);
    assert!(line.is_idle());
}

#[test]
fn who_connects_or_subscribes_waits_for_routes_and_nobody_else() {
    let client = ClientId::new("a").expect("not empty");
    let connection = Connection { client, epoch: ConnectionEpoch::default(), turn: 0 };
    let open = Op::Open(Box::new(Open {
        connection: connection.clone(),
        clean_start: false,
        only_present: false,
        expiry: SessionExpiry::Never,
        window: 1,
        queue: QueueLimits { messages_max: 1, bytes_max: 1, full: QueueFull::DropNewest },
        awaiting_rel_max: 1,
        queue_qos0: false,
        overlap: Overlap::Merge,
        group_strategy: GroupStrategy::RoundRobin,
        will: None,
    }));
    let subscribe = Op::Subscribe { connection, subscriptions: Vec::new() };
    let cases =
        [(open, true), (subscribe, true), (Op::Restored, true), (publish("a").op, false), (Op::Tick, false)];
    for (op, waits) in cases {
        let line = Line::new(ShardId(1));
        let me = Member { node: NodeId(1), incarnation: Incarnation(1) };
        line.begin_life(Some(me), drop);
        line.handle_lead(Leader { member: me, term: 1, round: 0 }, ShardClock::at(0), drop);
        let mut seen = Vec::new();
        line.put(Wish { op, bytes: 1, waiting: None }, |outgoing| {
            seen.extend(outgoing.into_iter().map(|(_, message)| match message.what {
                What::Part(part) => part.waits_for_routes,
                what => panic!("{what:?}"),
            }));
        });
        assert_eq!(seen, [waits]);
    }
}

#[test]
fn a_connection_that_came_to_nothing_is_told_in_the_next_life() {
    let abandon = |turn| {
        let connection = Connection {
            client: ClientId::new("a").expect("not empty"),
            epoch: ConnectionEpoch::default(),
            turn,
        };
        Op::Abandon { connection, expiry: SessionExpiry::Never }
    };
    let put = |line: &Line, op| line.put(Wish { op, bytes: 1, waiting: None }, drop);
    let line = Line::new(ShardId(1));
    let me = |life| Member { node: NodeId(1), incarnation: Incarnation(life) };
    line.begin_life(Some(me(1)), drop);
    // More than may be on their way, so that some have not been sent.
    for turn in 0..20 {
        put(&line, abandon(turn));
        put(&line, Op::Tick);
    }
    line.begin_life(None, |_| panic!("nobody is told"));
    put(&line, abandon(20));
    put(&line, Op::Tick);
    line.handle_lead(Leader { member: me(2), term: 1, round: 0 }, ShardClock::at(0), drop);
    let mut told = Vec::new();
    line.begin_life(Some(me(2)), |outgoing| told = ops(outgoing));
    assert_eq!(told, (0..=20).map(abandon).collect::<Vec<_>>());
    line.begin_life(None, drop);
    for turn in 0..2 * u32::try_from(ABANDONED_MAX).expect("it is small") {
        put(&line, abandon(turn));
    }
    assert_eq!(line.state.lock().abandoned.len(), ABANDONED_MAX);
}

#[test]
fn what_a_line_takes_has_a_bound() {
    let line = Line::new(ShardId(1));
    line.begin_life(Some(Member { node: NodeId(1), incarnation: Incarnation(1) }), drop);
    let me = Member { node: NodeId(1), incarnation: Incarnation(1) };
    let large = |bytes| Wish { bytes, ..publish("a") };
    line.put(large(CONGESTED + 1), drop);
    assert!(line.is_congested() && line.is_busy() && !line.is_overrun());
    line.put(large(OVERRUN), drop);
    assert!(line.is_overrun());
    // What is held back is in nobody's way who connects.
    line.begin_life(Some(me), drop);
    line.set_short(true, drop);
    line.put(large(OVERRUN + 1), drop);
    assert!(line.is_overrun() && !line.is_busy());
    line.set_short(false, drop);
    assert!(line.is_busy() && line.is_overrun());
}

#[test]
fn a_part_takes_no_more_than_it_may() {
    let mut gathered = Gathered::default();
    let sized = |bytes| Wish { op: Op::Tick, bytes, waiting: None };
    let large = PART_BYTES / 2 + 1;
    gathered.extend([1, large, large, 2 * PART_BYTES, 1, 1].map(sized));
    let mut parts = Vec::new();
    while !gathered.ops.is_empty() {
        let part = gathered.take();
        assert_eq!(part.sizes.iter().sum::<usize>(), part.bytes);
        parts.push(part.sizes);
    }
    assert_eq!(parts, [vec![1, large], vec![large], vec![2 * PART_BYTES], vec![1, 1]]);
    assert_eq!(gathered.bytes, 0);
    gathered.extend((0..OPS_MAX + 1).map(|_| sized(1)));
    assert_eq!((gathered.take().ops.len(), gathered.take().ops.len()), (OPS_MAX, 1));
}

#[test]
fn who_asks_for_a_session_hears_it_of_whoever_leads_in_the_end() {
    let line = Line::new(ShardId(1));
    let me = Member { node: NodeId(1), incarnation: Incarnation(1) };
    let client = ClientId::new("a").expect("not empty");
    let inquiry = |id| Query::Presence(Inquiry { id, clients: vec![client.clone()] });
    let asked = |outgoing: Outgoing| -> Vec<(u64, Query)> {
        let of = |(_, message): (Member, Message)| match message.what {
            What::Query(query) => (message.term, query),
            what => panic!("{what:?}"),
        };
        outgoing.into_iter().map(of).collect()
    };
    let lead = |term| {
        let mut queries = Vec::new();
        let leader = Leader { member: me, term, round: 0 };
        line.handle_lead(leader, ShardClock::at(0), |outgoing| queries = asked(outgoing));
        queries
    };
    let ask = || {
        let (who, is_present) = oneshot::channel();
        let mut queries = Vec::new();
        line.inquire(client.clone(), who, |outgoing| queries = asked(outgoing));
        (is_present, queries)
    };
    // Nobody of a node without a life waits.
    let (mut nobody, _) = ask();
    assert_eq!(nobody.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    line.begin_life(Some(me), drop);
    let (mut is_present, queries) = ask();
    assert_eq!(queries, [], "nobody leads");
    assert_eq!(lead(1), [(1, inquiry(1))]);
    assert_eq!(lead(2), [(2, inquiry(1))]);
    let (mut next, queries) = ask();
    assert_eq!(queries, [], "one is on its way");
    let mut queries = Vec::new();
    let presence = Presence { id: 1, are_present: vec![true] };
    line.handle_presence(presence, |outgoing| queries = asked(outgoing));
    assert_eq!((is_present.try_recv(), queries), (Ok(true), vec![(2, inquiry(2))]));
    // A leader of another version, perhaps: only the next one is asked.
    line.note_mute();
    let (mut not_asked, queries) = ask();
    assert_eq!((not_asked.try_recv(), queries), (Err(oneshot::error::TryRecvError::Closed), vec![]));
    assert_eq!(lead(3), [(3, inquiry(2))]);
    let (mut again, _) = ask();
    assert_eq!(again.try_recv(), Err(oneshot::error::TryRecvError::Empty));
    // It was only slow.
    line.note_mute();
    line.handle_presence(Presence { id: 7, are_present: vec![] }, drop);
    let (mut again, _) = ask();
    assert_eq!(again.try_recv(), Err(oneshot::error::TryRecvError::Empty));
    line.begin_life(None, |_| panic!("nobody is told"));
    assert_eq!(next.try_recv(), Err(oneshot::error::TryRecvError::Closed));
}
