//! One client identifier, one connection, one session, on whatever node: P1.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    fleet::{Cluster, Traffic, fence, next_publish, number, numbers, receive},
    harness::{Client, Connect, Event, Packet, Property, Publish, Version, Will, ack, property_id},
};

#[test]
fn a_second_connection_on_another_node_ends_the_first() {
    // P1, in every direction.
    let cluster = Cluster::start(3);
    for (from, to) in [(0, 1), (1, 0), (1, 2), (2, 1), (0, 2), (2, 0)] {
        for version in Version::ALL {
            let connect = Connect::new(version, "moving");
            let mut first = cluster.node(from).connect(&connect);
            let mut second = cluster.node(to).connect(&connect);
            first.expect_disconnect(0x8E);
            second.ping();
            second.disconnect();
        }
    }
}

#[test]
fn a_session_goes_to_the_node_where_its_client_connects() {
    // P1: subscriptions move along, from a connection and from none.
    let cluster = Cluster::start(3);
    let mut publisher = cluster.node(2).client("publisher");
    let mut client = cluster.node(0).connect(&persistent("wanderer"));
    assert_eq!(client.subscribe("to/wanderer", 1), 1);
    fence(&mut client, &mut publisher);
    for (round, node) in [1, 2, 0, 1, 0].into_iter().enumerate() {
        if round % 2 == 1 {
            client.disconnect();
        }
        client = cluster.node(node).connect(&persistent("wanderer"));
        client.assert_resumed();
        publisher.publish("to/wanderer", round.to_string(), 1);
        assert_eq!(numbers(&receive(&mut client, 1)), [u32::try_from(round).expect("it is small")]);
        assert!(fence(&mut client, &mut publisher).is_empty(), "nothing comes twice");
    }
    // And it ends on whatever node.
    let clean = cluster.node(2).connect(&Connect::new(Version::V5, "wanderer"));
    assert!(!clean.connack().session_present);
    clean.disconnect();
    let client = cluster.node(1).connect(&persistent("wanderer"));
    assert!(!client.connack().session_present, "the clean start has ended the session");
}

#[test]
fn what_waited_for_a_client_follows_it() {
    // P1: the queue.
    let cluster = Cluster::start(3);
    let mut publisher = cluster.node(2).client("publisher");
    let mut client = cluster.node(0).connect(&persistent("away"));
    assert_eq!(client.subscribe("queue", 2), 2);
    fence(&mut client, &mut publisher);
    client.disconnect();
    for message in 0..100 {
        publisher.publish("queue", message.to_string(), u8::try_from(1 + message % 2).expect("it is small"));
    }
    let mut client = cluster.node(1).connect(&persistent("away"));
    client.assert_resumed();
    assert_eq!(numbers(&receive(&mut client, 100)), (0..100).collect::<Vec<_>>());
    assert!(fence(&mut client, &mut publisher).is_empty());
}

#[test]
fn what_is_in_flight_is_sent_again_on_the_other_node() {
    let cluster = Cluster::start(3);
    let mut publisher = cluster.node(2).client("publisher");
    let mut client = cluster.node(0).connect(&persistent("inflight"));
    assert_eq!(client.subscribe("flight/+", 2), 2);
    fence(&mut client, &mut publisher);
    publisher.publish("flight/1", "one", 1);
    publisher.publish("flight/2", "two", 2);
    publisher.publish("flight/3", "three", 2);
    let first = client.expect_publish("flight/1", "one");
    let second = client.expect_publish("flight/2", "two");
    let third = client.expect_publish("flight/3", "three");
    // The third has been received: only its release is open.
    client.send(&ack(0x50, third.id));
    client.expect(&Packet::PubRel { id: third.id, reason: 0 });
    let mut client = cluster.node(1).connect(&persistent("inflight"));
    client.assert_resumed();
    let expected = [(first, "flight/1"), (second, "flight/2")];
    for (before, topic) in expected {
        let again = client.expect_any_publish();
        assert_eq!((again.topic.as_str(), again.id, again.dup), (topic, before.id, true));
        client.acknowledge(&again);
    }
    client.expect(&Packet::PubRel { id: third.id, reason: 0 });
    client.send(&ack(0x70, third.id));
    assert!(fence(&mut client, &mut publisher).is_empty());
}

#[test]
fn a_qos_2_publish_that_is_not_released_is_known_on_the_other_node() {
    // P3, with both nodes alive: the packet identifier is not taken for a new message.
    let cluster = Cluster::start(3);
    let mut subscriber = cluster.node(2).client("subscriber");
    let mut publisher = cluster.node(0).connect(&persistent("publisher"));
    assert_eq!(subscriber.subscribe("once", 2), 2);
    fence(&mut subscriber, &mut publisher);
    let publish = Publish::new("once", "1").qos(2, 77);
    publisher.send(&publish.bytes(Version::V5));
    publisher.expect(&Packet::PubRec { id: 77, reason: 0 });
    let mut publisher = cluster.node(1).connect(&persistent("publisher"));
    publisher.assert_resumed();
    publisher.send(&publish.dup().bytes(Version::V5));
    publisher.expect(&Packet::PubRec { id: 77, reason: 0 });
    publisher.send(&ack(0x62, 77));
    publisher.expect(&Packet::PubComp { id: 77, reason: 0 });
    assert_eq!(numbers(&receive(&mut subscriber, 1)), [1]);
    assert!(fence(&mut subscriber, &mut publisher).is_empty(), "it came once");
    // After PUBCOMP the identifier is free for another message.
    let another = Publish::new("once", "2").qos(2, 77);
    assert_eq!(publisher.publish_packet(&another), 0);
    assert_eq!(numbers(&receive(&mut subscriber, 1)), [2]);
}

#[test]
fn no_message_is_lost_or_repeated_while_its_subscriber_moves() {
    // P1 and P4: QoS 1 from another node all the time; between two connections nothing is in flight unacknowledged.
    let cluster = Cluster::start(3);
    let mut client = cluster.node(0).connect(&persistent("hopper"));
    assert_eq!(client.subscribe("stream", 2), 2);
    fence(&mut client, &mut cluster.node(2).client("probe"));
    let traffic = Traffic::start(cluster.node(2), "stream");
    let mut seen = Vec::new();
    for hop in 0..20 {
        for publish in receive(&mut client, 20) {
            seen.push((number(&publish), publish.dup));
        }
        client = cluster.node(hop % 3).connect_soon(&persistent("hopper"));
        client.assert_resumed();
    }
    let sent = traffic.stop();
    // No fence of another publisher stands behind these; the last of them, or silence, is the end.
    while seen.last().is_none_or(|(number, _)| number + 1 < sent)
        && let Some(publish) = next_publish(&mut client, Duration::from_secs(5))
    {
        seen.push((number(&publish), publish.dup));
    }
    let came: BTreeSet<u32> = seen.iter().map(|(number, _)| *number).collect();
    let lost: Vec<u32> = (0..sent).filter(|number| !came.contains(number)).collect();
    assert_eq!(lost, Vec::<u32>::new(), "lost");
    // What the old connection had sent and we had not read is sent again, and says so.
    let mut next = 0;
    for (number, dup) in seen {
        assert!(number == next || (dup && number < next), "message {number} comes when {next} was awaited");
        next = next.max(number + 1);
    }
    assert_eq!(next, sent);
}

#[test]
fn a_storm_of_connections_with_one_identifier_ends_with_one() {
    // F62 without a partition.
    let cluster = Cluster::start(3);
    let (begun, connected) = (Instant::now(), AtomicUsize::new(0));
    let storm = |node: usize, persistent: bool| {
        let connect = Connect::new(Version::V5, "storm");
        let connect = if persistent { connect.persistent() } else { connect };
        let mut open = Vec::new();
        while connected.load(Ordering::Relaxed) < 100 {
            assert!(begun.elapsed() < Duration::from_secs(60), "{connected:?} connections are no storm");
            let client = cluster.node(node).attempt(&connect).ok();
            connected.fetch_add(usize::from(client.is_some()), Ordering::Relaxed);
            open.extend(client);
        }
        open
    };
    let clients: Vec<Client> = thread::scope(|scope| {
        let storm = &storm;
        let threads: Vec<_> =
            (0..6).map(|number| scope.spawn(move || storm(number % 3, number < 3))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a storm does not panic")).collect()
    });
    let mut alive: Vec<Client> = clients.into_iter().filter_map(survivor).collect();
    assert_eq!(alive.len(), 1, "one connection is left");
    // It is a whole one, also for the others.
    let mut publisher = cluster.node(1).client("publisher");
    assert!(fence(&mut alive[0], &mut publisher).is_empty());
    let connected = cluster.nodes().iter().filter(|node| {
        let output = node.ctl(&["--json", "clients", "show", "storm"]);
        String::from_utf8_lossy(&output.stdout).contains("\"connected\": true")
    });
    assert_eq!(connected.count(), 3, "each node can tell where it is");
}

#[test]
fn the_will_of_a_connection_that_is_taken_over_is_published_once() {
    let cluster = Cluster::start(3);
    let mut observer = cluster.node(2).client("observer");
    assert_eq!(observer.subscribe("will", 1), 1);
    fence(&mut observer, &mut cluster.node(0).client("probe"));
    let connect = || Connect::new(Version::V5, "willing").will(Will::new("will", "1").qos(1));
    let mut first = cluster.node(0).connect(&connect());
    let mut second = cluster.node(1).connect(&connect());
    first.expect_disconnect(0x8E);
    assert_eq!(numbers(&receive(&mut observer, 1)), [1]);
    assert!(fence(&mut observer, &mut second).is_empty());
    // A will with a delay waits for the session, which goes on.
    let delayed = || {
        let will = Will::new("will", "2").qos(1).with(Property::four(property_id::WILL_DELAY, 2));
        Connect::new(Version::V5, "patient").persistent().will(will)
    };
    let mut first = cluster.node(0).connect(&delayed());
    let mut second = cluster.node(1).connect(&delayed());
    first.expect_disconnect(0x8E);
    let nothing = observer.next_event(Duration::from_secs(4));
    assert_eq!(nothing, None, "the client is connected");
    second.ping();
}

#[test]
fn a_client_of_a_dead_node_connects_elsewhere() {
    // F03.
    let cluster = Cluster::start(3);
    let victim = cluster.follower();
    let other = (victim + 1) % 3;
    let mut client = cluster.node(victim).connect(&persistent("orphan"));
    cluster.node(victim).kill();
    client.expect_closed();
    // The dead node cannot answer for it; its lease must lapse first.
    let mut client = cluster.node(other).connect_soon(&persistent("orphan"));
    client.ping();
    cluster.node(victim).start();
    cluster.await_formed();
    client.ping();
    let mut back = cluster.node(victim).connect(&persistent("orphan"));
    back.assert_resumed();
    client.expect_disconnect(0x8E);
    back.ping();
}

#[test]
fn a_client_of_a_paused_node_connects_elsewhere_and_the_node_drops_its_stale_connection() {
    // F10.
    let cluster = Cluster::start(3);
    let victim = cluster.follower();
    let other = (victim + 1) % 3;
    let mut stale = cluster.node(victim).client("c");
    cluster.node(victim).pause();
    let mut client = cluster.node(other).connect_soon(&Connect::new(Version::V5, "c"));
    client.ping();
    cluster.node(victim).resume();
    let ended = stale.next_event(Duration::from_secs(10));
    assert!(
        matches!(ended, Some(Event::Closed | Event::Packet(Packet::Disconnect { .. }))),
        "the woken node has lost its lease: {ended:?}"
    );
    client.ping();
    cluster.await_formed();
    client.ping();
}

#[test]
fn a_clean_start_right_behind_a_takeover_gets_nothing_of_the_session_that_came() {
    // While messages for the old node may still be on their way.
    let cluster = Cluster::start(3);
    let mut publisher = cluster.node(2).client("publisher");
    for round in 0..10 {
        let client_id = format!("c{round}");
        let mut client = cluster.node(0).connect(&persistent(&client_id));
        assert_eq!(client.subscribe("old", 1), 1);
        fence(&mut client, &mut publisher);
        let _resumed = cluster.node(1).connect(&persistent(&client_id));
        let mut clean = cluster.node(1).connect(&Connect::new(Version::V5, &client_id));
        assert!(!clean.connack().session_present);
        for _ in 0..3 {
            publisher.publish("old", "1", 1);
            assert!(fence(&mut clean, &mut publisher).is_empty(), "it has no subscription to this");
        }
    }
}

#[test]
fn a_session_that_has_expired_is_not_found_on_another_node() {
    let cluster = Cluster::start(3);
    let expiring =
        || Connect::new(Version::V5, "short").resume().with(Property::four(property_id::SESSION_EXPIRY, 2));
    let mut client = cluster.node(0).connect(&expiring());
    assert_eq!(client.subscribe("t", 1), 1);
    client.disconnect();
    let shown = || cluster.node(1).ctl(&["clients", "show", "short"]);
    let told = |output: Vec<u8>| String::from_utf8_lossy(&output).into_owned();
    // It is in no list from the end of its connection until its shard has heard of that.
    cluster.until("the session is there", || told(shown().stdout).contains("short").then_some(()));
    let is_gone = || told(shown().stderr).contains("there is no client");
    cluster.until("the session has expired", || is_gone().then_some(()));
    let client = cluster.node(1).connect(&expiring());
    assert!(!client.connack().session_present);
}

#[test]
fn a_client_that_is_kicked_is_told() {
    let cluster = Cluster::start(3);
    let mut client = cluster.node(1).client("kicked");
    cluster.node(0).order(&["clients", "kick", "kicked"]);
    client.expect_disconnect(0x98);
}

fn persistent(client_id: &str) -> Connect {
    Connect::new(Version::V5, client_id).persistent()
}

/// The client, if its connection still answers.
fn survivor(mut client: Client) -> Option<Client> {
    client.try_send(&crate::harness::pingreq()).ok()?;
    match client.next_event(Duration::from_secs(10)) {
        Some(Event::Packet(Packet::PingResp)) => Some(client),
        Some(Event::Closed | Event::Packet(Packet::Disconnect { .. })) => None,
        other => panic!("neither an answer nor the end: {other:?}"),
    }
}
