//! Clients that no node lets in.

use crate::{
    fleet::{Cluster, Node},
    harness::{Connect, Packet, Version, client::NotConnected},
};

#[test]
fn whoever_is_banned_on_one_node_is_refused_by_all() {
    let cluster = Cluster::start(3);
    let banned = [
        Connect::new(Version::V5, "b/1 ü"),
        Connect::new(Version::V311, "b/1 ü"),
        Connect::new(Version::V31, "b/1 ü"),
        Connect::new(Version::V5, "by-name").username("mallory").password(b"x"),
        Connect::new(Version::V311, "by-name").username("mallory"),
    ];
    let welcome = [
        Connect::new(Version::V5, "mallory"),
        Connect::new(Version::V5, "b"),
        Connect::new(Version::V5, "other").username("b/1 ü"),
    ];
    cluster.node(0).order(&["bans", "add", "clientid", "b/1 ü", "--reason", "noisy"]);
    // The node that is asked need not lead, nor be the same each time.
    cluster.node(1).order(&["bans", "add", "username", "mallory"]);
    for node in cluster.nodes() {
        banned.iter().for_each(|connect| await_banned(&cluster, node, connect));
        welcome.iter().for_each(|connect| node.connect(connect).ping());
    }
    let listed = || bans(cluster.node(2));
    let expected = [("clientid", "b/1 ü", Some("noisy")), ("username", "mallory", None)];
    let expected = expected.map(|(kind, who, reason)| (kind.into(), who.into(), reason.map(Into::into)));
    assert_eq!(listed(), expected);
    cluster.node(2).order(&["bans", "remove", "clientid", "b/1 ü"]);
    cluster.node(2).order(&["bans", "remove", "username", "mallory"]);
    assert!(listed().is_empty());
    for node in cluster.nodes() {
        banned.iter().for_each(|connect| node.connect_soon(connect).ping());
    }
}

#[test]
fn a_ban_closes_the_connections_that_it_concerns_and_leaves_the_session() {
    let cluster = Cluster::start(3);
    let sensor = Connect::new(Version::V5, "sensor").persistent();
    let mut client = cluster.node(1).connect(&sensor);
    assert_eq!(client.subscribe("t", 1), 1);
    let mut named = cluster.node(2).connect(&Connect::new(Version::V311, "named").username("mallory"));
    let mut bystander = cluster.node(1).client("bystander");
    cluster.node(0).order(&["bans", "add", "clientid", "sensor"]);
    client.expect_disconnect(0x98);
    cluster.node(0).order(&["bans", "add", "username", "mallory"]);
    named.expect_closed();
    bystander.publish("t", "for later", 1);
    cluster.node(0).order(&["bans", "remove", "clientid", "sensor"]);
    let mut client = cluster.node(1).connect_soon(&sensor);
    client.assert_resumed();
    client.expect_publish("t", "for later");
    // An address is that of many.
    cluster.node(1).order(&["bans", "add", "peerhost", "127.0.0.1"]);
    client.expect_disconnect(0x98);
    bystander.expect_disconnect(0x98);
    for node in cluster.nodes() {
        await_banned(&cluster, node, &Connect::new(Version::V5, "anybody"));
    }
    cluster.node(2).order(&["bans", "remove", "peerhost", "127.0.0.1"]);
    cluster.node(2).connect_soon(&sensor).assert_resumed();
}

#[test]
fn bans_outlive_all_nodes_and_reach_those_that_join() {
    let mut cluster = Cluster::start(3);
    cluster.node(0).order(&["bans", "add", "clientid", "c", "--reason", "kept"]);
    cluster.node(0).order(&["bans", "add", "clientid", "pardoned"]);
    cluster.node(1).order(&["bans", "remove", "clientid", "pardoned"]);
    cluster.nodes().iter().for_each(Node::kill);
    cluster.nodes().iter().for_each(Node::start);
    cluster.await_formed();
    let late = [cluster.add_core(), cluster.add_edge()];
    cluster.await_formed();
    let connect = Connect::new(Version::V5, "c");
    for node in cluster.nodes() {
        // Not soon: a node has all bans of before when it lets the first client in.
        assert!(is_banned(node, &connect), "{}", node.name());
        assert_eq!(bans(node), [("clientid".into(), "c".into(), Some("kept".into()))]);
        node.client("pardoned").ping();
    }
    cluster.node(late[0]).order(&["bans", "remove", "clientid", "c"]);
    for node in cluster.nodes() {
        node.connect_soon(&connect).ping();
    }
}

#[test]
fn what_cannot_be_banned_is_said() {
    let cluster = Cluster::start(1);
    let node = cluster.node(0);
    let refused = |arguments: &[&str]| {
        let output = node.ctl(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let error = refused(&["bans", "remove", "clientid", "nobody"]);
    assert!(error.contains("there is no ban of clientid \"nobody\""), "{error}");
    let error = refused(&["bans", "add", "peerhost", "10.0.0.0/8"]);
    assert!(error.contains("not an IP address"), "{error}");
    let error = refused(&["bans", "add", "clientid", ""]);
    assert!(error.contains("must not be empty"), "{error}");
    let error = refused(&["bans", "add", "clientid", &"x".repeat(5_000)]);
    assert!(error.contains("too long to be banned"), "{error}");
    let error = refused(&["bans", "add", "clientid", "c", "--reason", &"x".repeat(2_000)]);
    assert!(error.contains("no more than 1024 bytes"), "{error}");
    assert!(bans(node).is_empty());
    node.client("c").ping();
}

/// Waits until a node refuses this client as it must.
#[track_caller]
fn await_banned(cluster: &Cluster, node: &Node, connect: &Connect) {
    let what = format!("{} refuses {connect:?}", node.name());
    cluster.until(&what, || is_banned(node, connect).then_some(()));
}

/// Whether a node refuses this client, and says that it is banned: 3.1.1 has no word for it but "not authorized".
#[track_caller]
fn is_banned(node: &Node, connect: &Connect) -> bool {
    let banned = if connect.version == Version::V5 { 0x8A } else { 5 };
    match node.attempt(connect) {
        Ok(_) => false,
        Err(NotConnected::Refused(Packet::ConnAck(connack))) if connack.code == banned => true,
        Err(error) => panic!("{} refuses {connect:?} with {error}", node.name()),
    }
}

/// Who is banned, and why, by the word of a node.
#[track_caller]
fn bans(node: &Node) -> Vec<(String, String, Option<String>)> {
    let output = node.ctl(&["--json", "bans", "list"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bans: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).expect("it is a list");
    let text = |ban: &serde_json::Value, key: &str| ban[key].as_str().map(str::to_owned);
    let ban = |ban: &serde_json::Value| {
        assert!(text(ban, "by").as_deref() == Some("ctl") && text(ban, "at").is_some(), "{ban}");
        Some((text(ban, "as")?, text(ban, "who")?, text(ban, "reason")))
    };
    bans.iter().map(|listed| ban(listed).expect("it says who")).collect()
}
