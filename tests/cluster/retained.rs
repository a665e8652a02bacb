//! Retained messages are the same on every node: P1 and F65.

use std::{thread, time::Duration};

use crate::{
    fleet::{Cluster, in_own_network},
    harness::{Event, Packet, Property, Publish, property_id, unique},
};

#[test]
fn a_retained_message_is_found_on_every_node() {
    let cluster = Cluster::start(3);
    for from in 0..3 {
        let topic = format!("kept/{from}");
        let mut publisher = cluster.node(from).client("publisher");
        publisher.publish_packet(&Publish::new(&topic, "first").retain());
        publisher.publish_packet(&Publish::new(&topic, "second").qos(1, 1).retain());
        await_retained(&cluster, &topic, Some("second"));
        publisher.publish_packet(&Publish::new(&topic, "").qos(1, 2).retain());
        await_retained(&cluster, &topic, None);
        publisher.disconnect();
    }
}

#[test]
fn a_retained_message_can_be_replaced_and_deleted_from_any_node() {
    let cluster = Cluster::start(3);
    for round in 0..9 {
        let mut publisher = cluster.node(round % 3).client("publisher");
        let payload = round.to_string();
        publisher.publish_packet(&Publish::new("moves", &payload).qos(1, 1).retain());
        await_retained(&cluster, "moves", Some(&payload));
        publisher.disconnect();
    }
    cluster.node(1).client("deleter").publish_packet(&Publish::new("moves", "").qos(1, 1).retain());
    await_retained(&cluster, "moves", None);
}

#[test]
fn concurrent_writes_on_all_nodes_converge() {
    // F65 without a partition.
    let cluster = Cluster::start(3);
    thread::scope(|scope| {
        for node in 0..3 {
            let cluster = &cluster;
            scope.spawn(move || {
                let mut publisher = cluster.node(node).client(&format!("writer-{node}"));
                for message in 0..200u32 {
                    // Every tenth is a deletion.
                    let payload = if message % 10 == 9 { String::new() } else { format!("{node}-{message}") };
                    let topic = format!("contested/{}", message % 5);
                    let id = publisher.next_id();
                    assert!(
                        publisher.publish_packet(&Publish::new(&topic, payload).qos(1, id).retain()) < 0x80
                    );
                }
            });
        }
    });
    for number in 0..5 {
        let topic = format!("contested/{number}");
        cluster.until("all nodes keep the same", || {
            let kept: Vec<_> = (0..3).map(|node| retained(&cluster, node, &topic)).collect();
            kept.windows(2).all(|pair| pair[0] == pair[1]).then_some(())
        });
    }
}

#[test]
fn a_node_that_joins_or_comes_back_has_all_retained_messages() {
    let mut cluster = Cluster::start(3);
    let mut publisher = cluster.node(0).client("publisher");
    for number in 0..200 {
        let id = publisher.next_id();
        publisher
            .publish_packet(&Publish::new(&format!("many/{number}"), number.to_string()).qos(1, id).retain());
    }
    let back = 2;
    cluster.node(back).kill();
    publisher.publish_packet(&Publish::new("many/0", "").qos(1, 301).retain());
    publisher.publish_packet(&Publish::new("many/1", "changed").qos(1, 302).retain());
    cluster.node(back).start();
    let joined = cluster.add_core();
    cluster.await_formed();
    for node in [back, joined] {
        cluster.until("all of them are there", || {
            let mut client = cluster.node(node).client(&unique("reader"));
            assert_eq!(client.subscribe("many/+", 0), 0);
            let mut kept = std::collections::BTreeMap::new();
            while let Some(Event::Packet(Packet::Publish(publish))) =
                client.next_event(Duration::from_millis(300))
            {
                kept.insert(publish.topic, publish.payload);
            }
            let changed = kept.get("many/1").is_some_and(|payload| payload == b"changed");
            (kept.len() == 199 && !kept.contains_key("many/0") && changed).then_some(())
        });
    }
}

#[test]
fn a_retained_message_expires_on_every_node() {
    let cluster = Cluster::start(3);
    let expiring =
        Publish::new("expires", "x").qos(1, 1).retain().with(Property::four(property_id::MESSAGE_EXPIRY, 3));
    cluster.node(0).client("publisher").publish_packet(&expiring);
    await_retained(&cluster, "expires", Some("x"));
    await_retained(&cluster, "expires", None);
}

#[test]
fn retained_messages_converge_after_a_partition() {
    // F65.
    in_own_network(|| {
        let cluster = Cluster::start(3);
        let minority = cluster.follower();
        let majority: Vec<usize> = (0..3).filter(|number| *number != minority).collect();
        cluster
            .node(majority[0])
            .client("p")
            .publish_packet(&Publish::new("split/a", "old").qos(1, 1).retain());
        cluster
            .node(majority[0])
            .client("p")
            .publish_packet(&Publish::new("split/b", "old").qos(1, 1).retain());
        await_retained(&cluster, "split/b", Some("old"));
        cluster.isolate(minority);
        cluster.await_seen(majority[0], minority, "down");
        let mut publisher = cluster.node(majority[1]).client("p");
        assert!(publisher.publish_packet(&Publish::new("split/a", "new").qos(1, 2).retain()) < 0x80);
        assert!(publisher.publish_packet(&Publish::new("split/b", "").qos(1, 3).retain()) < 0x80);
        cluster.heal();
        cluster.await_formed();
        await_retained(&cluster, "split/a", Some("new"));
        await_retained(&cluster, "split/b", None);
    });
}

/// Waits until a new subscriber on each node gets this, or nothing.
#[track_caller]
fn await_retained(cluster: &Cluster, topic: &str, payload: Option<&str>) {
    for node in (0..cluster.nodes().len()).filter(|node| cluster.node(*node).is_running()) {
        let what = format!("node-{node} keeps {payload:?} for {topic}");
        let expected = payload.map(|payload| payload.as_bytes().to_vec());
        cluster.until(&what, || (retained(cluster, node, topic) == expected).then_some(()));
    }
}

/// What a new subscriber on this node gets. The broker sends retained messages before it answers the ping behind.
pub(crate) fn retained(cluster: &Cluster, node: usize, topic: &str) -> Option<Vec<u8>> {
    let mut client = cluster.node(node).client(&unique("reader"));
    assert_eq!(client.subscribe(topic, 0), 0);
    client.send(&crate::harness::pingreq());
    let mut kept = None;
    loop {
        match client.receive() {
            Packet::Publish(publish) if publish.retain => kept = Some(publish.payload),
            // Not a retained message: somebody publishes now.
            Packet::Publish(_) => {}
            Packet::PingResp => break,
            other => panic!("not expected: {other:?}"),
        }
    }
    client.disconnect();
    kept
}
