//! Shared subscriptions whose members are on several nodes: F64.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    fleet::{Cluster, fence, next_publish, number},
    harness::{Client, Connect, Version},
};

#[test]
fn every_message_goes_to_one_member_with_each_strategy() {
    for strategy in STRATEGIES {
        let cluster = Cluster::with(3, &[("shared.strategy", strategy)]);
        let mut members = members(&cluster, "$share/g/work", &[0, 1, 2, 2]);
        let mut publishers: Vec<Client> =
            (0..3).map(|node| cluster.node(node).client(&format!("p{node}"))).collect();
        for member in &mut members {
            publishers.iter_mut().for_each(|publisher| assert!(fence(member, publisher).is_empty()));
        }
        for message in 0..MESSAGES {
            let publisher = usize::try_from(message % 3).expect("it is small");
            publishers[publisher].publish("work", message.to_string(), 1);
        }
        let received = collect(&mut members, MESSAGES);
        let all: BTreeSet<u32> = received.iter().flatten().copied().collect();
        assert_eq!(received.iter().map(Vec::len).sum::<usize>(), all.len(), "{strategy}: nothing came twice");
        assert_eq!(all, (0..MESSAGES).collect(), "{strategy}: everything came");
        if matches!(strategy, "round_robin" | "random" | "least_inflight") {
            assert!(received.iter().all(|of_one| !of_one.is_empty()), "{strategy}: everybody gets some");
        }
        if strategy == "hash_topic" {
            let busy = received.iter().filter(|of_one| !of_one.is_empty()).count();
            assert_eq!(busy, 1, "a topic belongs to one member, whatever node its publisher is on");
        }
        for (publisher, client) in publishers.iter_mut().enumerate() {
            client.publish("work", "0", 0);
            let came: usize = members.iter_mut().map(|member| fence(member, client).len()).sum();
            assert_eq!(came, 1, "{strategy}: QoS 0 from node-{publisher}");
        }
    }
}

#[test]
fn groups_do_not_take_from_each_other_or_from_plain_subscribers() {
    let cluster = Cluster::start(3);
    let mut one = members(&cluster, "$share/one/t", &[0, 1]);
    let mut other = members(&cluster, "$share/other/t", &[1, 2]);
    let mut queue = members(&cluster, "$queue/t", &[0, 2]);
    let mut plain = cluster.node(1).client("plain");
    assert_eq!(plain.subscribe("t", 1), 1);
    let mut publisher = cluster.node(2).client("publisher");
    for client in one.iter_mut().chain(&mut other).chain(&mut queue).chain([&mut plain]) {
        fence(client, &mut publisher);
    }
    for message in 0..MESSAGES {
        publisher.publish("t", message.to_string(), 1);
    }
    for group in [&mut one, &mut other, &mut queue] {
        let mut all: Vec<u32> = collect(group, MESSAGES).concat();
        all.sort_unstable();
        assert_eq!(all, (0..MESSAGES).collect::<Vec<_>>());
    }
    assert_eq!(
        collect(std::slice::from_mut(&mut plain), MESSAGES).concat(),
        (0..MESSAGES).collect::<Vec<_>>()
    );
}

#[test]
fn after_a_members_node_has_died_the_others_take_its_share() {
    let cluster = Cluster::start(3);
    let victim = cluster.follower();
    let others: Vec<usize> = (0..3).filter(|number| *number != victim).collect();
    let _doomed = members(&cluster, "$share/g/jobs", &[victim, victim]);
    let mut heirs = members(&cluster, "$share/g/jobs", &others);
    let mut publisher = cluster.node(others[0]).client("publisher");
    for heir in &mut heirs {
        fence(heir, &mut publisher);
    }
    cluster.node(victim).kill();
    cluster.await_seen(others[0], victim, "down");
    for message in 0..MESSAGES {
        publisher.publish("jobs", message.to_string(), 1);
    }
    let mut received = collect(&mut heirs, MESSAGES).concat();
    received.sort_unstable();
    assert_eq!(received, (0..MESSAGES).collect::<Vec<_>>());
}

#[test]
fn what_a_vanished_member_has_not_acknowledged_goes_to_another() {
    // F64: the member's connection ends, and its session with it.
    let cluster = Cluster::start(3);
    let mut gone = members(&cluster, "$share/g/jobs", &[0]).remove(0);
    let mut publisher = cluster.node(2).client("publisher");
    fence(&mut gone, &mut publisher);
    let mut heir = members(&cluster, "$share/g/jobs", &[1]).remove(0);
    fence(&mut heir, &mut publisher);
    for message in 0..20 {
        publisher.publish("jobs", message.to_string(), 1);
    }
    // It has read some, and says nothing.
    let first = gone.expect_any_publish();
    assert_eq!(first.qos, 1);
    gone.vanish();
    let mut received = collect(std::slice::from_mut(&mut heir), 20).concat();
    received.sort_unstable();
    received.dedup();
    assert_eq!(received, (0..20).collect::<Vec<_>>());
}

#[test]
fn a_member_that_is_away_is_passed_over_while_another_is_there() {
    let cluster = Cluster::start(3);
    let connect = Connect::new(Version::V5, "away").persistent();
    let mut away = cluster.node(0).connect(&connect);
    assert_eq!(away.subscribe("$share/g/t", 1), 1);
    let mut present = members(&cluster, "$share/g/t", &[1]).remove(0);
    let mut publisher = cluster.node(2).client("publisher");
    fence(&mut away, &mut publisher);
    fence(&mut present, &mut publisher);
    away.disconnect();
    // The other nodes learn it with the next announcement.
    cluster.until("all of it goes to the one that is there", || {
        publisher.publish("t", "0", 1);
        let mut came = 0;
        for message in 1..=10 {
            publisher.publish("t", message.to_string(), 1);
        }
        while came < 11 && next_publish(&mut present, Duration::from_millis(500)).is_some() {
            came += 1;
        }
        (came == 11).then_some(())
    });
}

#[test]
fn the_last_member_takes_the_group_along() {
    let cluster = Cluster::start(3);
    let mut members = members(&cluster, "$share/g/last", &[0, 1]);
    let mut publisher = cluster.node(2).client("publisher");
    for member in &mut members {
        fence(member, &mut publisher);
    }
    members.iter_mut().for_each(|member| drop(member.unsubscribe(&["$share/g/last"])));
    for member in &mut members {
        publisher.publish("last", "nobody", 1);
        assert!(fence(member, &mut publisher).is_empty());
    }
    let routes = cluster.node(2).ctl(&["--json", "routes", "list", "--topic", "last"]);
    assert!(!String::from_utf8_lossy(&routes.stdout).contains("$share"), "the route is gone");
}

/// A member of a group on each of these nodes.
#[track_caller]
fn members(cluster: &Cluster, filter: &str, nodes: &[usize]) -> Vec<Client> {
    let member = |node: &usize| {
        let mut client = cluster.node(*node).client(&crate::harness::unique("member"));
        assert_eq!(client.subscribe(filter, 1), 1);
        client
    };
    nodes.iter().map(member).collect()
}

/// What each of them gets, in their order, once so many messages have come in all.
#[track_caller]
fn collect(members: &mut [Client], count: u32) -> Vec<Vec<u32>> {
    let wanted = usize::try_from(count).expect("it is small");
    let mut received = vec![Vec::new(); members.len()];
    crate::fleet::poll(crate::fleet::PATIENCE, || {
        for (member, received) in members.iter_mut().zip(&mut received) {
            while let Some(publish) = next_publish(member, Duration::from_millis(20)) {
                received.push(number(&publish));
            }
        }
        (received.iter().map(Vec::len).sum::<usize>() >= wanted).then_some(())
    });
    received
}

const MESSAGES: u32 = 120;
const STRATEGIES: [&str; 6] =
    ["round_robin", "random", "sticky", "hash_clientid", "hash_topic", "least_inflight"];
