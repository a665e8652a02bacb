//! What a cluster keeps, in a file and in another cluster; and what is left of it on one node.

use std::{collections::BTreeSet, fs, path::Path, process::Output, time::Duration};

use crate::{
    fleet::{Cluster, Node, Traffic, fence, next_publish, number, numbers, receive},
    harness::{Client, Connect, Packet, Publish, Version, ack},
};

fn persistent(client_id: &str) -> Connect {
    Connect::new(Version::V5, client_id).persistent()
}

#[track_caller]
fn come_back(node: &Node, client_id: &str) -> Client {
    let client = node.connect_soon(&persistent(client_id));
    client.assert_resumed();
    client
}

/// What it printed as JSON.
#[track_caller]
fn json(node: &Node, arguments: &[&str]) -> serde_json::Value {
    let output = node.ctl(&[&["--json"], arguments].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("it is JSON")
}

fn import(node: &Node, file: &Path) -> Output {
    node.ctl(&["import", file.to_str().expect("it is UTF-8")])
}

/// The import is refused with this text, and the cluster has no sessions afterwards.
#[track_caller]
fn assert_refused(node: &Node, file: &Path, text: &str) {
    let output = import(node, file);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains(text), "{error}");
    let clients = json(node, &["clients", "list"]);
    assert_eq!(clients.as_array().map(Vec::len), Some(0), "{clients}");
}

#[test]
fn what_was_acknowledged_before_an_export_is_in_the_cluster_that_imports_it() {
    let old = Cluster::start(3);
    let file = old.directory().join("backup");
    let mut publisher = old.node(1).connect(&persistent("publisher"));
    for (client, filter) in [("sleeper", "to/+"), ("twin", "to/#"), ("stream", "flow")] {
        let mut client = old.node(0).connect(&persistent(client));
        assert_eq!(client.subscribe(filter, 2), 2);
        (0..3).for_each(|node| drop(fence(&mut client, &mut old.node(node).client("probe"))));
        client.disconnect();
    }
    let mut released = old.node(2).connect(&persistent("released"));
    assert_eq!(released.subscribe("half", 2), 2);
    fence(&mut released, &mut publisher);
    publisher.publish("half", "0", 2);
    let half = released.expect_publish("half", "0");
    released.send(&ack(0x50, half.id));
    assert!(matches!(released.receive(), Packet::PubRel { id, .. } if id == half.id));
    for number in 0..50_u16 {
        publisher.publish(&format!("to/{}", number % 3), number.to_string(), 1 + (number % 2) as u8);
    }
    publisher.publish_packet(&Publish::new("state/now", "on").qos(1, 900).retain());
    old.node(0).order(&["bans", "add", "clientid", "villain", "--reason", "trouble"]);

    let traffic = Traffic::start(old.node(2), "flow");
    old.until("messages flow", || {
        let clients = json(old.node(0), &["clients", "show", "stream"]);
        (clients[0]["queued_messages"].as_u64()? > 20).then_some(())
    });
    let path = file.to_str().expect("it is UTF-8");
    let exported = json(old.node(1), &["export", path]);
    let acknowledged = traffic.stop();
    assert_eq!((&exported["shards"], &exported["bans"]), (&4.into(), &1.into()), "{exported}");
    assert_eq!(old.node(1).ctl(&["export", path]).status.code(), Some(1), "there is a file already");

    let new = Cluster::with(1, &[("cluster.shards", "7")]);
    let whole = fs::read(&file).expect("it was written");
    let broken = new.directory().join("broken");
    fs::write(&broken, &whole[..whole.len() - 1]).expect("the directory is ours");
    assert_refused(new.node(0), &broken, "it is cut off after");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    fs::write(&broken, flipped).expect("the directory is ours");
    assert_refused(new.node(0), &broken, "it is damaged");
    assert_refused(new.node(0), Path::new(env!("CARGO_MANIFEST_PATH")), "no backup of Flotilla");

    let imported = json(new.node(0), &["import", path]);
    for count in ["sessions", "subscriptions", "messages", "retained", "bans"] {
        assert_eq!(imported[count], exported[count], "{count}: {exported} {imported}");
    }
    let output = import(new.node(0), &file);
    assert_eq!(output.status.code(), Some(1), "there are sessions");
    let again = json(new.node(0), &["import", "--merge", path]);
    assert_eq!((&again["sessions"], &again["left_out"]), (&0.into(), &exported["sessions"]), "{again}");
    assert_eq!((&again["subscriptions"], &again["messages"]), (&0.into(), &0.into()), "{again}");

    // Messages of today go behind those of the past.
    new.node(0).client("other").publish("to/0", "50", 1);
    for client in ["sleeper", "twin"] {
        let seen = numbers(&receive(&mut come_back(new.node(0), client), 51));
        assert_eq!(seen, (0..=50).collect::<Vec<_>>(), "{client}");
    }
    let mut released = come_back(new.node(0), "released");
    assert!(matches!(released.receive(), Packet::PubRel { id, .. } if id == half.id));
    released.send(&ack(0x70, half.id));
    assert!(fence(&mut released, &mut new.node(0).client("other")).is_empty(), "it has the message already");
    let mut stream = come_back(new.node(0), "stream");
    let flowed = numbers(&fence(&mut stream, &mut new.node(0).client("other")));
    assert!(
        flowed.len() > 20 && flowed.len() <= acknowledged as usize + 1,
        "{} of {acknowledged}",
        flowed.len()
    );
    assert!(
        (0..).zip(&flowed).all(|(expected, number)| expected == *number),
        "in order, and none is missing"
    );
    let mut late = new.node(0).client("late");
    assert_eq!(late.subscribe("state/+", 0), 0);
    late.expect_publish("state/now", "on");
    assert!(new.node(0).attempt(&persistent("villain")).is_err(), "it is banned here, too");
}

#[test]
fn the_backlog_of_a_shared_subscription_is_part_of_a_backup() {
    let old = Cluster::with(1, &[("cluster.shards", "4")]);
    let mut publisher = old.node(0).client("publisher");
    let mut busy = old.node(0).connect(&persistent("busy"));
    let mut away = old.node(0).connect(&persistent("away"));
    for member in [&mut busy, &mut away] {
        assert_eq!(member.subscribe("$share/g/jobs/+", 1), 1);
        fence(member, &mut publisher);
    }
    away.disconnect();
    (0..20).for_each(|job| assert_eq!(publisher.publish("jobs/a", job.to_string(), 1), 0));
    // All of it is lent, and of five messages the member says that it has done them.
    let lent: Vec<Publish> = (0..20).map(|_| busy.expect_any_publish()).collect();
    lent[..5].iter().for_each(|publish| busy.acknowledge(publish));
    let left: BTreeSet<u32> = lent[5..].iter().map(number).collect();
    let queued = || {
        json(old.node(0), &["shards", "list"]).as_array().map(|shards| {
            shards.iter().filter_map(|shard| shard["replica"]["queued_messages"].as_u64()).sum::<u64>()
        })
    };
    old.until("the others wait in the backlog, and with the member", || (queued()? == 30).then_some(()));

    let file = old.directory().join("backup");
    let path = file.to_str().expect("it is UTF-8");
    let exported = json(old.node(0), &["export", path]);
    let new = Cluster::with(1, &[("cluster.shards", "7")]);
    let imported = json(new.node(0), &["import", path]);
    for count in ["sessions", "subscriptions", "messages"] {
        assert_eq!(imported[count], exported[count], "{count}: {exported} {imported}");
    }
    let mut publisher = new.node(0).client("publisher");
    assert_eq!(publisher.publish("jobs/b", "20", 1), 0);
    let mut members = [come_back(new.node(0), "busy"), come_back(new.node(0), "away")];
    let mut seen = Vec::new();
    new.until("all of it has come", || {
        for member in &mut members {
            seen.extend(next_publish(member, Duration::from_millis(50)).as_ref().map(number));
        }
        (seen.len() > left.len()).then_some(())
    });
    seen.sort_unstable();
    assert_eq!(seen, left.into_iter().chain([20]).collect::<Vec<_>>(), "each once");
}

#[test]
fn a_node_goes_on_alone_when_the_others_are_lost_for_ever() {
    let mut cluster = Cluster::start(3);
    let mut publisher = cluster.node(1).connect(&persistent("publisher"));
    let mut sleeper = cluster.node(0).connect(&persistent("sleeper"));
    assert_eq!(sleeper.subscribe("to/+", 2), 2);
    (0..3).for_each(|node| drop(fence(&mut sleeper, &mut cluster.node(node).client("probe"))));
    sleeper.disconnect();
    for number in 0..30_u16 {
        publisher.publish(&format!("to/{}", number % 3), number.to_string(), 1 + (number % 2) as u8);
    }
    cluster.node(0).order(&["bans", "add", "clientid", "villain"]);
    // All of it has come to the node that will be left.
    cluster.until("node-2 lacks nothing", || {
        let shards = json(cluster.node(2), &["shards", "list"]);
        let queued = |shard: &serde_json::Value| shard["replica"]["queued_messages"].as_u64();
        let queued = shards.as_array()?.iter().map(queued).sum::<Option<u64>>()?;
        let banned = json(cluster.node(2), &["bans", "list"]).as_array()?.len();
        (queued == 30 && banned == 1).then_some(())
    });
    let output = cluster.node(2).recover(&["--yes"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        (output.status.code(), error.contains("is in use by another process")),
        (Some(1), true),
        "{error}"
    );

    cluster.nodes().iter().for_each(Node::kill);
    let before = cluster.node(2).recover(&[]);
    let told = String::from_utf8_lossy(&before.stdout).into_owned();
    assert_eq!(before.status.code(), Some(1), "nothing has been done");
    for line in ["removed  node-", "kept     shards 0, 1, 2, 3,", "LOST     shards none,"] {
        assert!(told.contains(line), "{told}");
    }
    let output = cluster.node(2).recover(&["--yes"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    cluster.node(2).start();
    cluster.await_formed_of(&[2]);
    let mut sleeper = come_back(cluster.node(2), "sleeper");
    assert_eq!(numbers(&receive(&mut sleeper, 30)), (0..30).collect::<Vec<_>>());
    assert!(cluster.node(2).attempt(&persistent("villain")).is_err(), "it is still banned");

    // One that was not lost after all is not let in with what it has; with nothing, it is.
    cluster.node(0).start();
    cluster.until("node-0 is refused", || {
        let log = cluster.node(0).log();
        (log.contains("another cluster") || cluster.node(2).log().contains("another cluster")).then_some(())
    });
    let seen = cluster.node(2).status().expect("it answers");
    assert!(seen.node("node-0").is_none() && !cluster.node(0).is_ready());
    cluster.node(0).kill();
    cluster.node(0).wipe();
    cluster.node(0).start();
    cluster.await_formed_of(&[0, 2]);
    let number = cluster.add_core();
    cluster.await_formed_of(&[0, 2, number]);
    publisher = come_back(cluster.node(0), "publisher");
    publisher.publish("to/0", "30", 1);
    assert_eq!(numbers(&receive(&mut sleeper, 1)), [30]);
}

#[test]
fn shards_that_only_the_lost_nodes_had_begin_anew() {
    let cluster = Cluster::with(3, &[("cluster.replicas", "1")]);
    // The first node founds all of them, and the others take theirs over.
    cluster.until("the shards are where they shall be", || {
        let shards = cluster.node(0).shards();
        let is_here = |shard: &serde_json::Value| shard["replicas"][0] == "node-0";
        let is_settled = |shard: &serde_json::Value| {
            shard["members"] == shard["replicas"] && shard["replica"].is_null() != is_here(shard)
        };
        (!shards.iter().all(is_here) && shards.iter().all(is_settled)).then_some(())
    });
    let ids: Vec<String> = (0..12).map(|number| format!("client-{number}")).collect();
    for id in &ids {
        cluster.node(1).connect_soon(&persistent(id)).disconnect();
    }
    // Of a client that is away the node is shown that leads its shard, the only one that has it.
    let kept = cluster.until("all of them are away", || {
        let clients = json(cluster.node(0), &["clients", "list"]);
        let clients: Vec<_> =
            clients.as_array()?.iter().filter(|client| client["connected"] == false).collect();
        let here = clients.iter().filter(|client| client["node"] == "node-0");
        let kept: Vec<String> =
            here.filter_map(|client| Some(client["client_id"].as_str()?.to_owned())).collect();
        (clients.len() == ids.len()).then_some(kept)
    });
    cluster.nodes().iter().for_each(Node::kill);
    let output = cluster.node(0).recover(&["--yes"]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && !told.contains("LOST     shards none"), "{told}");
    cluster.node(0).start();
    cluster.await_formed_of(&[0]);
    for id in &ids {
        let client = cluster.node(0).connect_soon(&persistent(id));
        assert_eq!(client.connack().session_present, kept.contains(id), "{id}; kept: {kept:?}");
    }
}
