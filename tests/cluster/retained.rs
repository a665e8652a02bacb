//! Retained messages are the same on every node, and survive all of them: P1 and F65.

use std::{collections::BTreeMap, thread, time::Duration};

use crate::{
    fleet::{Cluster, in_own_network},
    harness::{Client, Event, Packet, Property, Publish, Version, property_id, unique},
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
fn retained_messages_survive_the_end_of_all_nodes() {
    let cluster = Cluster::start(3);
    let mut publishers: Vec<_> = (0..3).map(|node| cluster.node(node).client(&format!("p{node}"))).collect();
    let mut expected = BTreeMap::new();
    for number in 0..90_u32 {
        let (topic, payload) = (format!("all/{number}"), number.to_string());
        let publisher = &mut publishers[number as usize % 3];
        set(publisher, &Publish::new(&topic, &payload));
        match number % 5 {
            0 => set(publisher, &Publish::new(&topic, "")),
            1 => {
                set(publisher, &Publish::new(&topic, "changed"));
                expected.insert(topic, "changed".to_owned());
            }
            _ => drop(expected.insert(topic, payload)),
        }
    }
    let expiring =
        |topic, seconds| Publish::new(topic, "x").with(Property::four(property_id::MESSAGE_EXPIRY, seconds));
    set(&mut publishers[0], &expiring("brief", 4));
    set(&mut publishers[1], &expiring("all/long", 1_000));
    set(&mut publishers[2], &Publish::new(LAST, "x"));
    expected.insert("all/long".to_owned(), "x".to_owned());
    for node in 0..3 {
        cluster.node(node).kill();
    }
    for node in 0..3 {
        cluster.node(node).start();
    }
    cluster.await_formed();
    for node in 0..3 {
        cluster.until("everything that was acknowledged is there", || {
            (found(&cluster, node, "all/#") == expected).then_some(())
        });
    }
    // The time for which nobody ran counts, too.
    await_retained(&cluster, "brief", None);
    let mut reader = cluster.node(0).client(&unique("reader"));
    reader.subscribe("all/long", 0);
    let left = reader.expect_publish("all/long", "x").properties.number(property_id::MESSAGE_EXPIRY);
    assert!(left.is_some_and(|left| (500..1_000).contains(&left)), "{left:?}");
    // What was deleted stays so, and can be set anew.
    let mut publisher = cluster.node(1).client("p");
    set(&mut publisher, &Publish::new("all/0", "again"));
    set(&mut publisher, &Publish::new("all/long", ""));
    await_retained(&cluster, "all/0", Some("again"));
    await_retained(&cluster, "all/long", None);
}

#[test]
fn a_wildcard_is_looked_up_in_all_shards() {
    let cluster = Cluster::start(3);
    let mut publisher = cluster.node(0).client("publisher");
    // Several pages of each shard.
    let topics: Vec<String> =
        (0..800).map(|number| format!("w/{}/{number}/{}", number % 7, number % 3)).collect();
    for topic in &topics {
        publisher.send(&Publish::new(topic, topic.as_str()).retain().bytes(Version::V5));
    }
    set(&mut publisher, &Publish::new(LAST, "x"));
    for filter in ["w/#", "w/3/#", "w/+/+/2", "w/5/+/1", "w/6/111/0", "+/+/7/+", "none/#"] {
        let matches = |topic: &&String| {
            let levels: Vec<&str> = topic.split('/').collect();
            filter.split('/').enumerate().all(|(level, wanted)| {
                wanted == "#" || wanted == "+" || levels.get(level).is_some_and(|name| *name == wanted)
            })
        };
        let expected: BTreeMap<String, String> =
            topics.iter().filter(matches).map(|topic| (topic.clone(), topic.clone())).collect();
        for node in 0..3 {
            // A message of QoS 0 may still be on its way.
            cluster.until(filter, || (found(&cluster, node, filter) == expected).then_some(()));
        }
    }
}

#[test]
fn retained_messages_are_limited_in_the_whole_cluster() {
    let cluster = Cluster::with(3, &[("retained.messages_max", "5")]);
    let publish = |node: usize, topic: &str, payload: &str| {
        let mut publisher = cluster.node(node).client(&unique("publisher"));
        let reason = publisher.publish_packet(&Publish::new(topic, payload).qos(1, 1).retain());
        publisher.disconnect();
        reason
    };
    for number in 0..5 {
        assert!(publish(number % 3, &format!("few/{number}"), "x") < 0x80);
    }
    for node in 0..3 {
        // A node that has not applied the last of them takes one more.
        let mut number = 0;
        cluster.until("a message beyond the limit is refused", || {
            number += 1;
            (publish(node, &format!("few/{node}/{number}"), "x") == 0x97).then_some(())
        });
        assert!(publish(node, "few/0", &node.to_string()) < 0x80, "what is there can be replaced");
        await_retained(&cluster, "few/0", Some(&node.to_string()));
    }
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

/// Retained, it is the last that [`found`] gets.
const LAST: &str = "last";

/// Sets a retained message, or deletes it, which is acknowledged.
#[track_caller]
fn set(publisher: &mut Client, publish: &Publish) {
    let id = publisher.next_id();
    assert!(publisher.publish_packet(&publish.clone().qos(1, id).retain()) < 0x80);
}

/// What a new subscriber on this node gets for a filter.
fn found(cluster: &Cluster, node: usize, filter: &str) -> BTreeMap<String, String> {
    let mut client = cluster.node(node).client(&unique("reader"));
    assert_eq!(client.subscribe(filter, 0), 0);
    assert_eq!(client.subscribe(LAST, 0), 0);
    let mut found = BTreeMap::new();
    loop {
        let publish = client.expect_any_publish();
        if publish.topic == LAST {
            client.disconnect();
            return found;
        }
        assert!(publish.retain);
        let payload = String::from_utf8(publish.payload).expect("a text");
        assert_eq!(found.insert(publish.topic, payload), None, "it came once");
    }
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
