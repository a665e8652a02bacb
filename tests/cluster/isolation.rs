//! Nodes that were cut off for long: F29 and F30.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use crate::{
    fleet::{Cluster, Ear, Traffic, fence, in_own_network, receive},
    harness::{Client, Connect, Version, unique},
};

#[test]
fn a_node_that_was_cut_off_until_the_log_was_cut_gets_a_snapshot() {
    // F29.
    in_own_network(|| {
        let cluster = Cluster::with(3, &[("log.level", "info,flotilla_raft=debug")]);
        let lost = cluster.follower();
        let rest = others(&[lost]);
        let mut early = cluster.node(rest[1]).connect(&silent("early"));
        assert_eq!(early.subscribe("early/+", 1), 1);
        cluster.isolate(lost);
        cluster.await_seen(rest[0], lost, "down");
        let mut late = cluster.node(rest[0]).connect(&silent("late"));
        let kept = fill_log(&cluster, &rest, &mut late);
        cluster.node(lost).assert_alive();
        assert!(!cluster.node(lost).log().contains(BY_SNAPSHOT));
        cluster.heal();
        let longest = await_served(&cluster, &rest);
        assert!(longest < ACKNOWLEDGED_WITHIN, "somebody waited for {longest:?} while a snapshot was sent");
        assert!(cluster.node(lost).log().contains(BY_SNAPSHOT), "it has not got the log instead");
        assert!(!rest.iter().any(|number| cluster.node(*number).log().contains(BY_SNAPSHOT)));

        assert_equal_state(&cluster, lost, rest[0]);
        let mut there = cluster.node(lost).client("there");
        there.publish("early/1", "1", 1);
        assert_eq!(receive(&mut early, 1)[0].topic, "early/1");
        there.publish(&kept.replace('#', "x"), "2", 1);
        assert_eq!(receive(&mut late, 1)[0].payload, b"2");
        assert!(fence(&mut there, &mut early).is_empty());
        // The log goes on where the snapshot ends, also after a restart.
        cluster.node(lost).restart();
        cluster.await_formed();
        assert_equal_state(&cluster, lost, rest[0]);
    });
}

#[test]
fn a_follower_that_was_cut_off_for_long_is_back_soon() {
    // F30, shortened.
    in_own_network(|| check_long_isolation(Cluster::follower));
}

#[test]
fn a_leader_that_was_cut_off_for_long_is_back_soon() {
    // F30, shortened.
    in_own_network(|| check_long_isolation(Cluster::leader));
}

/// Cuts a node off for longer than any pause between two attempts should be, and looks how soon it is back.
#[track_caller]
fn check_long_isolation(which: impl Fn(&Cluster) -> usize) {
    let cluster = Cluster::start(3);
    let lost = which(&cluster);
    let rest = others(&[lost]);
    let mut subscriber = cluster.node(rest[0]).client("subscriber");
    assert_eq!(subscriber.subscribe("long", 1), 1);
    fence(&mut subscriber, &mut cluster.node(rest[1]).client("probe"));
    cluster.isolate(lost);
    cluster.await_formed_of(&rest);
    cluster.await_seen(rest[0], lost, "down");
    let term = || cluster.node(rest[0]).status().map(|status| status.term);
    let files = || (0..3).map(|number| cluster.node(number).open_files()).collect::<Vec<_>>();
    let (before, files_before) = (term(), files());
    let ear = Ear::start(subscriber);
    let traffic = Traffic::start(cluster.node(rest[1]), "long");
    cluster.stays(ISOLATED, "the others serve, and the lost one does not", || {
        cluster.node(lost).assert_alive();
        // To look takes processes, which others need more.
        thread::park_timeout(Duration::from_millis(500));
        rest.iter().all(|number| cluster.node(*number).is_ready()) && !cluster.node(lost).is_ready()
    });
    assert_eq!(term(), before, "who is cut off makes nobody stand for election");
    let grown = files().iter().zip(&files_before).map(|(now, before)| now.saturating_sub(*before)).max();
    assert!(grown < Some(20), "{files_before:?} files have become {:?}", files());
    cluster.heal();
    let healed = Instant::now();
    cluster.await_formed();
    let took = healed.elapsed();
    assert!(took < BACK_WITHIN, "it was back after {took:?}");
    let sent = traffic.stop();
    let (mut subscriber, heard) = ear.hear(sent);
    assert_eq!(heard, (0..sent).collect::<Vec<_>>(), "each once, in order");
    let mut back = cluster.node(lost).client("back");
    assert!(fence(&mut subscriber, &mut back).is_empty());
    assert!(fence(&mut back, &mut subscriber).is_empty());
}

/// Subscribes to long filters until both nodes have made a snapshot and cut their logs; one that the client keeps.
///
/// A snapshot is due after 16 MiB, and the 256 entries before it are kept: so there are more entries than that, and each is
/// long. Most filters go again at once, for the nodes check the whole state after each change when they are built for tests.
#[track_caller]
fn fill_log(cluster: &Cluster, nodes: &[usize], client: &mut Client) -> String {
    let is_cut = |number: &usize| cluster.node(*number).log().contains("the log is cut");
    let padding = "x".repeat(60_000);
    let mut kept = None;
    for number in 0..1_000 {
        let filter = format!("{number}/{padding}/#");
        assert_eq!(client.subscribe(&filter, 1), 1);
        if number % 10 == 0 {
            kept = Some(filter);
        } else {
            client.unsubscribe(&[&filter]);
        }
        if nodes.iter().all(is_cut) {
            break;
        }
    }
    assert!(nodes.iter().all(is_cut), "the log is never cut");
    kept.expect("the first one was")
}

/// Waits until all nodes serve, and meanwhile publishes and subscribes at those that served before: the longest time that a
/// client had to wait for its answer.
#[track_caller]
fn await_served(cluster: &Cluster, nodes: &[usize]) -> Duration {
    let mut publisher = cluster.node(nodes[0]).client("publisher");
    let mut subscriber = cluster.node(nodes[1]).client("subscriber");
    let mut longest = Duration::ZERO;
    cluster.until("all nodes serve again", || {
        let began = Instant::now();
        let topic = unique("meanwhile");
        assert_eq!(subscriber.subscribe(&topic, 1), 1);
        publisher.publish("meanwhile", "1", 1);
        longest = longest.max(began.elapsed());
        let is_up = |status: &crate::fleet::Status| status.nodes.iter().all(|node| node.status == "up");
        cluster.nodes().iter().all(|node| node.status().is_some_and(|s| s.ready && is_up(&s))).then_some(())
    });
    longest
}

/// Both nodes have applied the same: the same routes, the same places of the shards, the same members.
#[track_caller]
fn assert_equal_state(cluster: &Cluster, a: usize, b: usize) {
    for what in ["routes", "shards"] {
        cluster.until(&format!("both nodes have the same {what}"), || {
            let list = |number: usize| {
                let output = cluster.node(number).ctl(&["--json", what, "list"]);
                let list = output.status.success().then(|| serde_json::from_slice(&output.stdout));
                let list: Vec<serde_json::Value> = list?.expect("a list is JSON");
                // They come in whatever order.
                Some(list.iter().map(ToString::to_string).collect::<BTreeSet<_>>())
            };
            (list(a)? == list(b)?).then_some(())
        });
    }
    let nodes = |number: usize| cluster.node(number).status().expect("it answers").nodes;
    cluster.until("both nodes know the same nodes", || (nodes(a) == nodes(b)).then_some(()));
}

/// A client that may say nothing for as long as it likes.
fn silent(client_id: &str) -> Connect {
    Connect::new(Version::V5, client_id).keep_alive(0)
}

fn others(without: &[usize]) -> Vec<usize> {
    (0..3).filter(|number| !without.contains(number)).collect()
}

/// What a node says that has got a snapshot.
const BY_SNAPSHOT: &str = "it has caught up by a snapshot";

/// How long a client may wait for an answer on a busy machine: no longer than a lease.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(5);

/// Six times a lease, and many times the longest pause between two attempts to connect (2 s) or between two elections
/// (2.5 s); also long enough for the system to send again only every 25 s what it has sent in vain, so that who waits for an
/// old connection waits for longer than it may.
const ISOLATED: Duration = Duration::from_secs(30);

/// A lease is asked for, and routes are announced, several times a second: it takes about two seconds. The rest is for a
/// busy machine.
const BACK_WITHIN: Duration = Duration::from_secs(10);
