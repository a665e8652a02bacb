//! Who belongs to the cluster: founding, joining, leaving, coming back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    fleet::{Cluster, Ear, Node, Traffic, fence, numbers, receive},
    harness::{Connect, Version},
};

#[test]
fn nodes_found_one_cluster_when_all_of_them_are_there() {
    // F61, in two orders.
    for order in [[0, 1, 2], [2, 1, 0]] {
        let cluster = Cluster::prepare(3, &[]);
        let [first, second, late] = order;
        cluster.node(first).start();
        cluster.node(second).start();
        let founded = || {
            [first, second].iter().any(|node| cluster.node(*node).status().is_some_and(|s| s.id.is_some()))
        };
        cluster.stays(SHORT, "two of three found no cluster", || !founded());
        assert!(!cluster.node(first).is_ready());
        cluster.node(late).start();
        cluster.await_formed();
        assert_one_cluster(&cluster);
    }
}

#[test]
fn nodes_that_are_killed_while_they_found_a_cluster_found_one() {
    // F61, the repeated bootstrap.
    let cluster = Cluster::prepare(3, &[]);
    for round in 0..3 {
        cluster.nodes().iter().for_each(Node::start);
        // Another moment of the founding each time, and no node waits for the others.
        cluster.node(round).await_listening();
        cluster.nodes().iter().for_each(Node::kill);
    }
    cluster.nodes().iter().for_each(Node::start);
    cluster.await_formed();
    assert_one_cluster(&cluster);
}

#[test]
fn a_cluster_comes_back_when_all_its_nodes_were_killed() {
    // F06, as far as the membership goes.
    let cluster = Cluster::start(3);
    let id = cluster.node(0).status().and_then(|status| status.id);
    cluster.nodes().iter().for_each(Node::kill);
    cluster.nodes().iter().for_each(Node::start);
    cluster.await_formed();
    assert_eq!(assert_one_cluster(&cluster), id);
}

#[test]
fn nodes_join_and_leave_while_messages_flow() {
    // F56.
    let mut cluster = Cluster::start(3);
    let mut subscriber = cluster.node(0).client("subscriber");
    assert_eq!(subscriber.subscribe("traffic", 1), 1);
    fence(&mut subscriber, &mut cluster.node(1).client("probe"));
    let ear = Ear::start(subscriber);
    let traffic = Traffic::start(cluster.node(1), "traffic");
    let (fourth, fifth) = (cluster.add_core(), cluster.add_core());
    cluster.await_formed();
    let voters = || cluster.node(0).status().map_or(0, |status| status.voters());
    cluster.until("all five vote", || (voters() == 5).then_some(()));
    for number in [fourth, fifth] {
        cluster.node(number).order(&["nodes", "leave"]);
        assert!(cluster.node(number).await_end().success());
        cluster.await_forgotten(number);
    }
    cluster.until("three vote again", || (voters() == 3).then_some(()));
    let sent = traffic.stop();
    let (_, heard) = ear.hear(sent);
    assert_eq!(heard, (0..sent).collect::<Vec<_>>(), "each once, in order");
}

#[test]
fn a_node_that_was_killed_comes_back_as_the_same_node_in_another_life() {
    // F02.
    let cluster = Cluster::start(3);
    let number = cluster.follower();
    let observer = cluster.leader();
    let name = cluster.node(number).name();
    let seen = || {
        cluster.node(observer).status().and_then(|status| status.node(&name).cloned()).expect("it is known")
    };
    let before = seen();
    cluster.node(number).kill();
    cluster.await_seen(observer, number, "down");
    cluster.node(number).start();
    cluster.await_formed();
    let after = seen();
    assert_eq!(after.id, before.id);
    assert!(after.incarnation > before.incarnation, "{before:?} and {after:?}");
    assert!(after.voter);
}

#[test]
fn a_node_that_is_restarted_at_once_is_admitted_anew() {
    let cluster = Cluster::start(3);
    let (number, observer) = (cluster.follower(), cluster.leader());
    let name = cluster.node(number).name();
    let incarnation = || cluster.node(observer).status()?.node(&name).map(|node| node.incarnation);
    let before = incarnation();
    cluster.node(number).restart();
    cluster.until("it has another incarnation", || (incarnation() > before).then_some(()));
    cluster.await_formed();
}

#[test]
fn a_node_at_another_address_is_the_same_node() {
    // F32.
    let mut cluster = Cluster::start(3);
    let number = cluster.follower();
    let name = cluster.node(number).name();
    let id = |cluster: &Cluster| {
        let status = cluster.node(cluster.leader()).status().expect("it answers");
        status.node(&name).map(|node| node.id.clone()).expect("it is known")
    };
    let before = id(&cluster);
    cluster.move_node(number);
    cluster.await_formed();
    assert_eq!(id(&cluster), before);
    let address = cluster.node(number).cluster().to_string();
    for observer in cluster.nodes() {
        let seen = || observer.status()?.node(&name).map(|node| node.address.clone());
        cluster
            .until("everybody knows the new address", || (seen().as_ref() == Some(&address)).then_some(()));
    }
    // Messages take the new way, both ways.
    let other = (number + 1) % 3;
    let (mut there, mut here) = (cluster.node(number).client("there"), cluster.node(other).client("here"));
    assert!(fence(&mut there, &mut here).is_empty());
    assert!(fence(&mut here, &mut there).is_empty());
}

#[test]
fn a_node_whose_disk_is_lost_is_replaced_and_does_not_vote_from_memory() {
    // F49 and F58.
    let cluster = Cluster::start(3);
    let (number, observer) = (cluster.follower(), cluster.leader());
    let name = cluster.node(number).name();
    let entries = || {
        let nodes = cluster.node(observer).status().map(|status| status.nodes).unwrap_or_default();
        nodes.into_iter().filter(|node| node.name == name).collect::<Vec<_>>()
    };
    let before = entries().remove(0);
    cluster.node(number).kill();
    cluster.node(number).wipe();
    cluster.node(number).start();
    cluster.await_formed();
    let after = entries();
    assert_eq!(after.len(), 1, "there is one node of this name: {after:?}");
    assert_ne!(after[0].id, before.id, "it has another identity");
    let voter = || entries().first().is_some_and(|node| node.voter);
    cluster.until("it votes when it has caught up", || voter().then_some(()));
    assert_one_cluster(&cluster);
}

#[test]
fn a_second_node_of_the_same_name_is_refused_while_the_first_is_up() {
    let mut cluster = Cluster::start(3);
    let twin = cluster.add_with(&[("node.name", "node-0")]);
    let before = cluster.node(1).status().expect("it answers").nodes;
    let refused = || !cluster.node(twin).is_running() || !cluster.node(twin).is_ready();
    cluster.stays(SHORT, "the twin is not let in", refused);
    let after = cluster.node(1).status().expect("it answers").nodes;
    assert_eq!(after, before, "nothing has changed");
    cluster.node(twin).kill();
}

#[test]
fn two_processes_do_not_share_a_data_directory() {
    // F51.
    let mut cluster = Cluster::start(1);
    let data_dir = cluster.node(0).data_dir().display().to_string();
    let second = cluster.add_with(&[("node.name", "node-0"), ("node.data_dir", &data_dir)]);
    assert_eq!(cluster.node(second).await_end().code(), Some(1));
    // What it said last may be read a moment after it has ended.
    let said = || cluster.node(second).log().contains("in use by another process").then_some(());
    cluster.until("the second says why", said);
    cluster.node(0).client("c").ping();
}

#[test]
fn a_dead_node_is_removed_by_an_operator_and_may_join_again() {
    // F57.
    let cluster = Cluster::start(3);
    let (number, leader) = (cluster.follower(), cluster.leader());
    let name = cluster.node(number).name();
    assert!(!cluster.node(leader).ctl(&["nodes", "remove", &name]).status.success(), "it is not dead");
    let removed =
        cluster.node(leader).status().expect("it answers").node(&name).expect("it is up").incarnation;
    cluster.node(number).kill();
    cluster.await_seen(leader, number, "down");
    cluster.node(leader).order(&["nodes", "remove", &name]);
    cluster.await_forgotten(number);
    // The two that are left need each other, and have each other.
    cluster.await_formed();
    // It has the identity and the secret of a member, so that it may join like any other node. What it remembers of its vote
    // disturbs nobody meanwhile.
    let before = cluster.node(leader).status().expect("it answers");
    cluster.node(number).start();
    cluster.await_formed();
    let voters = || cluster.node(leader).status().filter(|status| status.voters() == 3);
    let after = cluster.until("it votes when it has caught up", voters);
    assert_eq!((&after.leader, after.term), (&before.leader, before.term), "nobody had to be elected");
    assert_eq!(after.nodes.len(), 3, "it is there once: {:?}", after.nodes);
    assert!(after.node(&name).is_some_and(|node| node.incarnation > removed), "it leads another life");
    assert_one_cluster(&cluster);
}

#[test]
fn the_leader_can_leave() {
    // F57.
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let others: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
    let mut client = cluster.node(others[0]).client("stays");
    cluster.node(leader).order(&["nodes", "leave"]);
    assert!(cluster.node(leader).await_end().success());
    cluster.await_formed_of(&others);
    cluster.await_forgotten(leader);
    client.ping();
}

#[test]
fn a_leader_that_is_told_to_stop_hands_over() {
    // F11.
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let others: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
    let mut client = cluster.node(leader).client("told");
    cluster.node(leader).signal("TERM");
    client.expect_disconnect(0x8B);
    drop(client);
    assert_eq!(cluster.node(leader).await_end().code(), Some(0));
    // Not after a time-out: at once.
    cluster.within(Duration::from_secs(3), "another node leads", || {
        let status = cluster.node(others[0]).status()?;
        (status.leader.is_some() && status.leader != Some(cluster.node(leader).name())).then_some(())
    });
    cluster.node(leader).start();
    cluster.await_formed();
}

#[test]
fn clients_of_the_other_nodes_do_not_notice_that_the_leader_dies() {
    // F01.
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let others: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
    let mut subscriber = cluster.node(others[0]).client("subscriber");
    let mut publisher = cluster.node(others[1]).client("publisher");
    assert_eq!(subscriber.subscribe("t", 1), 1);
    fence(&mut subscriber, &mut publisher);
    cluster.node(leader).kill();
    // A message needs no leader.
    publisher.publish("t", "1", 1);
    assert_eq!(numbers(&receive(&mut subscriber, 1)), [1]);
    // A SUBACK does, and has one soon: the deadline of each step of a test is 10 seconds.
    assert_eq!(subscriber.subscribe("u", 1), 1);
    cluster.await_seen(others[0], leader, "down");
    assert!(fence(&mut subscriber, &mut publisher).is_empty());
}

#[test]
fn a_minority_refuses_until_the_others_are_back() {
    // F07.
    let cluster = Cluster::start(3);
    let mut client = cluster.node(0).client("left-alone");
    cluster.node(1).kill();
    cluster.node(2).kill();
    client.expect_disconnect(0x89);
    let refused = || cluster.node(0).attempt(&Connect::new(Version::V5, "new")).is_err();
    cluster.until("it takes nobody any more", || refused().then_some(()));
    assert!(!cluster.node(0).is_ready());
    cluster.node(0).assert_alive();
    cluster.node(1).start();
    cluster.node(1).await_ready();
    cluster.await_formed_of(&[0, 1]);
    cluster.node(0).connect_soon(&Connect::new(Version::V5, "new")).ping();
    cluster.node(2).start();
    cluster.await_formed();
}

#[test]
fn a_node_that_dies_again_and_again_does_not_disturb() {
    // F08, shortened.
    let cluster = Cluster::start(3);
    let number = cluster.follower();
    let others: Vec<usize> = (0..3).filter(|other| *other != number).collect();
    let term = cluster.node(others[0]).status().expect("it answers").term;
    let traffic = Traffic::start(cluster.node(others[0]), "traffic");
    for _ in 0..10 {
        cluster.node(number).restart();
        cluster.node(number).await_listening();
    }
    assert!(traffic.stop() > 0);
    cluster.await_formed();
    assert_eq!(cluster.node(others[0]).status().expect("it answers").term, term, "nobody had to be elected");
}

#[test]
fn edge_nodes_serve_clients_do_not_vote_and_are_forgotten() {
    let mut cluster = Cluster::with(3, &[("cluster.edge_forget_after", "5s")]);
    let edge = cluster.add_edge();
    cluster.await_formed();
    let name = cluster.node(edge).name();
    let seen = cluster.node(0).status().expect("it answers").node(&name).cloned().expect("it is known");
    assert_eq!((seen.role.as_str(), seen.voter), ("edge", false));
    let (mut here, mut there) = (cluster.node(0).client("core"), cluster.node(edge).client("edge"));
    assert!(fence(&mut here, &mut there).is_empty());
    assert!(fence(&mut there, &mut here).is_empty());
    cluster.node(edge).kill();
    cluster.await_seen(0, edge, "down");
    cluster.await_forgotten(edge);
    // It is welcome again.
    cluster.node(edge).start();
    cluster.await_formed();
}

#[test]
fn a_core_node_is_never_forgotten() {
    let cluster = Cluster::with(3, &[("cluster.edge_forget_after", "5s")]);
    let number = cluster.follower();
    let observer = cluster.leader();
    cluster.node(number).kill();
    cluster.await_seen(observer, number, "down");
    let name = cluster.node(number).name();
    let known = || cluster.node(observer).status().is_none_or(|status| status.has(&name, "down"));
    // An edge node would be forgotten after five.
    cluster.stays(Duration::from_secs(7), "it stays known", known);
}

#[test]
fn nodes_of_another_cluster_or_without_the_secret_are_not_let_in() {
    let mut cluster = Cluster::start(3);
    let before = cluster.node(0).status().expect("it answers").nodes;
    let strangers = [
        cluster.add_with(&[("cluster.name", "another")]),
        cluster.add_with(&[("cluster.secret", "not the secret of the others")]),
    ];
    let out = || strangers.iter().all(|number| !cluster.node(*number).is_ready());
    cluster.stays(SHORT, "strangers are not let in", out);
    assert_eq!(cluster.node(0).status().expect("it answers").nodes, before);
    strangers.iter().for_each(|number| cluster.node(*number).kill());
}

#[test]
fn a_cluster_status_topic_tells_every_node() {
    // Item 8 of the issue: $SYS/cluster.
    let cluster = Cluster::start(3);
    let mut client = cluster.node(1).client("observer");
    // With Retain As Published: what changes while it listens comes without the flag otherwise [MQTT-3.3.1-12].
    assert_eq!(client.subscribe("$SYS/cluster/#", 0x08), 0);
    let mut named = BTreeSet::new();
    while named.len() < 3 {
        let publish = client.expect_any_publish();
        assert!(publish.retain, "it is there for everybody who comes: {publish:?}");
        let is_named = |node: &&Node| publish.topic.contains(&node.name());
        named.extend(cluster.nodes().iter().find(is_named).map(Node::name));
    }
}

#[test]
fn what_a_shard_has_is_told_on_every_node() {
    // Item 7 of the issue on durable sessions: $SYS/cluster/shards.
    let cluster = Cluster::start(3);
    let mut publisher = cluster.node(0).client("publisher");
    let mut sleeper = cluster.node(1).connect(&Connect::new(Version::V5, "sleeper").persistent());
    assert_eq!(sleeper.subscribe("flow", 1), 1);
    fence(&mut sleeper, &mut publisher);
    sleeper.disconnect();
    for number in 0..5 {
        publisher.publish("flow", number.to_string(), 1);
    }
    for node in cluster.nodes() {
        let mut client = node.client("observer");
        client.subscribe("$SYS/cluster/shards/#", 0);
        let mut told = BTreeMap::new();
        let its_shard = cluster.until("five messages of one session are in a shard", || {
            let publish = client.expect_any_publish();
            told.insert(publish.topic, String::from_utf8(publish.payload).expect("$SYS is text"));
            let queued = |shard: &u32| told.get(&format!("$SYS/cluster/shards/{shard}/queued/messages"));
            (0..4).find(|shard| queued(shard).is_some_and(|messages| messages == "5"))
        });
        let mut is_told = |what: &str, is_good: fn(&str) -> bool| {
            let topic = format!("$SYS/cluster/shards/{its_shard}/{what}");
            cluster.until(&topic, || {
                if told.get(&topic).is_some_and(|value| is_good(value)) {
                    return Some(());
                }
                let publish = client.expect_any_publish();
                told.insert(publish.topic, String::from_utf8(publish.payload).expect("$SYS is text"));
                None
            });
        };
        is_told("leader", |name| name.starts_with("node-"));
        is_told("term", |term| term != "0");
        is_told("sessions", |count| count == "1");
        is_told("sessions/connected", |count| count == "0");
        is_told("queued/bytes", |bytes| bytes.parse::<u64>().is_ok_and(|bytes| bytes > 0));
        is_told("commit_lag", |lag| lag == "0");
        is_told("apply_lag", |lag| lag == "0");
    }
}

/// All nodes are of one cluster, whose identifier is returned.
#[track_caller]
fn assert_one_cluster(cluster: &Cluster) -> Option<String> {
    let ids = cluster.nodes().iter().map(|node| node.status().expect("it answers").id);
    let ids: BTreeSet<_> = ids.collect();
    assert_eq!(ids.len(), 1, "there are several clusters: {ids:?}");
    ids.into_iter().next().flatten()
}

/// How long something must not happen that would happen soon: nodes ask each other several times a second.
const SHORT: Duration = Duration::from_secs(2);
