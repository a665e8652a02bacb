//! A will is published once, also when its client's node dies: P5 and F63.

use std::time::Duration;

use crate::{
    fleet::{Cluster, fence, numbers, receive},
    harness::{Client, Connect, Event, Packet, Property, Version, Will, property_id},
};

#[test]
fn the_will_of_a_client_that_vanishes_reaches_every_node() {
    let cluster = Cluster::start(3);
    let mut observers = observers(&cluster, &[0, 1, 2]);
    cluster.node(1).connect(&with_will("gone", 0)).vanish();
    for observer in &mut observers {
        assert_eq!(numbers(&receive(observer, 1)), [0]);
    }
    // Who says goodbye has none.
    cluster.node(1).connect(&with_will("polite", 0)).disconnect();
    assert_nothing_more(&cluster, &mut observers, 0);
}

#[test]
fn wills_of_a_dead_nodes_clients_are_published_once() {
    // P5 and F63, without delay.
    let cluster = Cluster::start(3);
    let victim = cluster.follower();
    let others = others(victim);
    let mut observers = observers(&cluster, &others);
    let _clients: Vec<Client> =
        (0..20).map(|number| cluster.node(victim).connect(&with_will(&format!("c{number}"), 0))).collect();
    cluster.node(victim).kill();
    for observer in &mut observers {
        assert_eq!(receive(observer, 20).len(), 20);
    }
    cluster.node(victim).start();
    cluster.await_formed();
    assert_nothing_more(&cluster, &mut observers, others[0]);
}

#[test]
fn wills_of_the_leaders_clients_are_published_once() {
    // P5, when the node that would declare it dead is the dead one.
    let cluster = Cluster::start(3);
    let victim = cluster.leader();
    let others = others(victim);
    let mut observers = observers(&cluster, &others);
    let _client = cluster.node(victim).connect(&with_will("c", 0));
    cluster.node(victim).kill();
    for observer in &mut observers {
        assert_eq!(numbers(&receive(observer, 1)), [0]);
    }
    cluster.node(victim).start();
    cluster.await_formed();
    assert_nothing_more(&cluster, &mut observers, others[0]);
}

#[test]
fn a_delayed_will_is_published_when_the_client_stays_away() {
    // F63, with a delay, and the client's node dead.
    let cluster = Cluster::start(3);
    let victim = cluster.follower();
    let others = others(victim);
    let mut observers = observers(&cluster, &others);
    let _client = cluster.node(victim).connect(&with_will("late", 3));
    cluster.node(victim).kill();
    cluster.await_seen(others[0], victim, "down");
    for observer in &mut observers {
        assert_eq!(numbers(&receive(observer, 1)), [3]);
    }
    assert_nothing_more(&cluster, &mut observers, others[0]);
}

#[test]
fn a_delayed_will_is_not_published_when_the_client_is_back_on_another_node() {
    // F63: back within the delay, from a vanished connection and from a dead node.
    let cluster = Cluster::start(3);
    let victim = cluster.follower();
    let others = others(victim);
    let mut observers = observers(&cluster, &others);
    cluster.node(others[0]).connect(&with_will("vanished", 5)).vanish();
    let mut vanished = cluster.node(others[1]).connect_soon(&with_will("vanished", 5));
    let _orphan = cluster.node(victim).connect(&with_will("orphan", 20));
    cluster.node(victim).kill();
    let mut orphan = cluster.node(others[1]).connect_soon(&with_will("orphan", 20));
    cluster.await_seen(others[0], victim, "down");
    for observer in &mut observers {
        assert_eq!(observer.next_event(Duration::from_secs(6)), None, "both clients are there");
    }
    vanished.ping();
    orphan.ping();
}

#[test]
fn a_session_that_expires_before_the_delay_publishes_the_will() {
    // F63: the end of the session is the earlier of the two [MQTT-3.1.3-9].
    let cluster = Cluster::start(3);
    let mut observers = observers(&cluster, &[0, 1, 2]);
    let will = Will::new("will", "1").qos(1).with(Property::four(property_id::WILL_DELAY, 100));
    let connect =
        Connect::new(Version::V5, "short").with(Property::four(property_id::SESSION_EXPIRY, 1)).will(will);
    cluster.node(1).connect(&connect).vanish();
    for observer in &mut observers {
        assert_eq!(numbers(&receive(observer, 1)), [1]);
    }
}

#[test]
fn a_retained_will_of_a_dead_nodes_client_stays() {
    let cluster = Cluster::start(3);
    let victim = cluster.follower();
    let others = others(victim);
    let will = Will::new("status/c", "offline").retain();
    let _client = cluster.node(victim).connect(&Connect::new(Version::V5, "c").will(will));
    cluster.node(victim).kill();
    cluster.await_seen(others[0], victim, "down");
    for node in others {
        cluster.until("the retained will is there", || {
            let mut client = cluster.node(node).client("late");
            assert_eq!(client.subscribe("status/+", 0), 0);
            // The will itself may come just now; the next one who subscribes finds it retained.
            match client.next_event(Duration::from_millis(200))? {
                Event::Packet(Packet::Publish(publish)) => publish.retain.then_some(()),
                other => panic!("expected a PUBLISH, got {other:?}"),
            }
        });
    }
}

/// A client with a will at QoS 1 on "will", whose payload is the delay in seconds. Its session outlives every delay.
fn with_will(client_id: &str, delay: u32) -> Connect {
    let will =
        Will::new("will", delay.to_string()).qos(1).with(Property::four(property_id::WILL_DELAY, delay));
    Connect::new(Version::V5, client_id).persistent().will(will)
}

/// A client on each of these nodes that has subscribed to "will", which all nodes know.
fn observers(cluster: &Cluster, nodes: &[usize]) -> Vec<Client> {
    let mut observers = Vec::new();
    for node in nodes {
        let mut observer = cluster.node(*node).client(&format!("observer-{node}"));
        assert_eq!(observer.subscribe("will", 1), 1);
        for other in cluster.nodes() {
            fence(&mut observer, &mut other.client("probe"));
        }
        observers.push(observer);
    }
    observers
}

/// No observer gets anything more; a client of this node is asked.
#[track_caller]
fn assert_nothing_more(cluster: &Cluster, observers: &mut [Client], node: usize) {
    let mut probe = cluster.node(node).client("probe");
    for observer in observers {
        assert!(fence(observer, &mut probe).is_empty(), "a will came twice");
    }
}

fn others(number: usize) -> Vec<usize> {
    (0..3).filter(|other| *other != number).collect()
}
