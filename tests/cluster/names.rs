//! The name server is down: F33.

use std::{net::Ipv4Addr, time::Duration};

use crate::{
    fleet::{Cluster, NameServer, fence, in_own_network_and_names},
    harness::Client,
};

#[test]
fn a_cluster_whose_nodes_have_names_does_without_dns_and_a_node_that_starts_waits_for_it() {
    // F33, with a name server that does not answer: each question takes as long as it can.
    in_own_network_and_names(|| {
        let cluster = prepare_with_names();
        let dns = NameServer::start(&names(&cluster));
        start(&cluster);
        let number = cluster.follower();
        let rest: Vec<usize> = (0..3).filter(|other| *other != number).collect();
        let before = lives(&cluster, rest[0]);
        let (mut here, mut there) =
            (cluster.node(rest[0]).client("here"), cluster.node(number).client("there"));
        dns.fall_silent();
        // Longer than a lease, and than a node waits for the answer to a question.
        check_undisturbed(&cluster, &mut here, rest[1], Duration::from_secs(7));
        assert_eq!(lives(&cluster, rest[0]), before, "nobody has died, and nobody was elected");
        assert!(fence(&mut there, &mut here).is_empty());

        let threads: Vec<usize> = rest.iter().map(|number| cluster.node(*number).threads()).collect();
        cluster.node(number).restart();
        await_told(&cluster, number, 1);
        // The others look for it again and again, under a name that nobody tells them.
        check_undisturbed(&cluster, &mut here, rest[1], Duration::from_secs(7));
        assert!(!cluster.node(number).is_ready());
        for (number, before) in rest.iter().zip(threads) {
            let now = cluster.node(*number).threads();
            assert!(now < before + THREADS_MORE, "{before} threads have become {now}: questions pile up");
        }
        dns.speak();
        cluster.within(JOINS_WITHIN, "it joins", || cluster.node(number).is_ready().then_some(()));
        cluster.await_formed();
    });
}

#[test]
fn a_leader_dies_while_dns_is_silent_and_another_leads() {
    // F33: the two that are left have to connect to each other, by their names.
    in_own_network_and_names(|| {
        let cluster = prepare_with_names();
        let dns = NameServer::start(&names(&cluster));
        start(&cluster);
        let leader = cluster.leader();
        let rest: Vec<usize> = (0..3).filter(|other| *other != leader).collect();
        let (mut here, mut there) =
            (cluster.node(rest[0]).client("here"), cluster.node(rest[1]).client("there"));
        dns.fall_silent();
        cluster.node(leader).kill();
        cluster.await_seen(rest[0], leader, "down");
        cluster.await_formed_of(&rest);
        assert!(fence(&mut here, &mut there).is_empty(), "their clients were not let go");
        assert!(fence(&mut there, &mut here).is_empty());
        dns.speak();
        cluster.node(leader).start();
        cluster.await_formed();
    });
}

#[test]
fn a_node_that_knows_the_others_comes_back_without_dns_and_a_new_one_waits_for_it() {
    // F33, with a name server that is not there.
    in_own_network_and_names(|| {
        let mut cluster = prepare();
        let names = names(&cluster);
        let dns = NameServer::start(&names);
        start(&cluster);
        assert!(dns.asked() > 0, "they have found each other by their names");
        drop(dns);
        let number = cluster.follower();
        cluster.node(number).restart();
        // It remembers the addresses of the members.
        cluster.await_formed();

        let new = cluster.add_core();
        await_told(&cluster, new, 2);
        assert!(!cluster.node(new).is_ready());
        let waits = waits(&cluster.node(new).log());
        assert_eq!(waits[..2], ["2s", "4s"], "it asks more and more rarely");
        cluster.await_formed_of(&[0, 1, 2]);
        let _dns = NameServer::start(&names);
        cluster.within(JOINS_WITHIN, "it joins", || cluster.node(new).is_ready().then_some(()));
        cluster.await_formed();
    });
}

/// Three nodes that find each other by a name.
fn prepare() -> Cluster {
    let cluster = Cluster::prepare(
        3,
        &[("cluster.discovery.static", "[]"), ("cluster.discovery.dns", "nodes.test:15883")],
    );
    assert_eq!(cluster.node(0).cluster().port(), 15_883);
    cluster
}

/// The same, and they know each other by names, too.
fn prepare_with_names() -> Cluster {
    let mut cluster = prepare();
    for number in 0..3 {
        let advertised = format!("{}:{}", host(number), cluster.node(number).cluster().port());
        cluster.node_mut(number).set("cluster.advertise", &advertised);
    }
    cluster
}

fn host(number: usize) -> String {
    format!("node-{number}.test")
}

/// What DNS knows: all nodes under one name, and each under one of its own.
fn names(cluster: &Cluster) -> Vec<(String, Vec<Ipv4Addr>)> {
    let addresses: Vec<Ipv4Addr> = cluster.nodes().iter().map(crate::fleet::Node::address).collect();
    let each = addresses.iter().enumerate().map(|(number, address)| (host(number), vec![*address]));
    each.chain([("nodes.test".to_owned(), addresses.clone())]).collect()
}

#[track_caller]
fn start(cluster: &Cluster) {
    cluster.nodes().iter().for_each(crate::fleet::Node::start);
    cluster.await_formed();
}

/// For this time, messages get from one node to another, each in order, and routes are committed.
#[track_caller]
fn check_undisturbed(cluster: &Cluster, subscriber: &mut Client, from: usize, time: Duration) {
    let mut publisher = cluster.node(from).client("publisher");
    let (topic, mut sent) = (crate::harness::unique("undisturbed"), 0u32);
    assert_eq!(subscriber.subscribe(&topic, 1), 1);
    fence(subscriber, &mut publisher);
    cluster.stays(time, "messages flow", || {
        publisher.publish(&topic, sent.to_string(), 1);
        let came = subscriber.expect_publish(&topic, sent.to_string());
        subscriber.acknowledge(&came);
        sent += 1;
        cluster.node(from).is_ready()
    });
    assert_eq!(subscriber.subscribe("a/new/one", 1), 1);
    subscriber.unsubscribe(&["a/new/one", &topic]);
    publisher.disconnect();
}

/// Waits until a node has said so often since its last start that it finds nobody, and why.
#[track_caller]
fn await_told(cluster: &Cluster, number: usize, times: usize) {
    cluster.until("it says that it waits for DNS", || {
        cluster.node(number).assert_alive();
        (waits(&cluster.node(number).log()).len() >= times).then_some(())
    });
}

/// How long it has said that it waits, each time since it was started last.
fn waits(log: &str) -> Vec<String> {
    let log = log.rsplit("---- it is started").next().unwrap_or_default();
    let told = log.lines().filter(|line| {
        line.contains("WARN")
            && line.contains("discovery found no addresses; trying again")
            && line.contains("DNS look-up of nodes.test")
    });
    told.filter_map(|line| Some(line.split("wait=").nth(1)?.split(' ').next()?.to_owned())).collect()
}

/// The lives of all nodes and the term, as one of them knows them.
#[track_caller]
fn lives(cluster: &Cluster, observer: usize) -> (u64, Vec<u64>) {
    let status = cluster.node(observer).status().expect("it answers");
    (status.term, status.nodes.iter().map(|node| node.incarnation).collect())
}

/// The longest pause between two questions is 32 seconds; those here have failed a few times only.
const JOINS_WITHIN: Duration = Duration::from_secs(40);

/// A question to DNS holds a thread for ten seconds or more. There is one name to be asked for; the rest are threads that the
/// runtime keeps for a while.
const THREADS_MORE: usize = 12;
