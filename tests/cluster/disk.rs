//! A disk without space: nothing is acknowledged that is not kept, what frees space goes on, and so does all when there is some.

use std::{
    io::{self, Write},
    time::Duration,
};

use crate::{
    fleet::{Cluster, FaultyDisk, fence, in_own_network_and_mounts, numbers, receive},
    harness::{Client, Connect, Packet, Publish, Version, client::NotConnected},
};

/// What a node needs, and 320 MiB free: with less its disk is nearly full.
const DISK_MEBIBYTES: u32 = 640;

fn persistent(client_id: &str) -> Connect {
    Connect::new(Version::V5, client_id).persistent()
}

/// A session that is away, with so many messages.
#[track_caller]
fn leave_messages(cluster: &Cluster, publisher: &mut Client, client_id: &str, count: u32) {
    let mut client = cluster.node(0).connect(&persistent(client_id));
    assert_eq!(client.subscribe("flow", 1), 1);
    fence(&mut client, publisher);
    client.disconnect();
    for number in 0..count {
        publisher.publish("flow", number.to_string(), 1);
    }
}

#[test]
fn messages_are_held_back_while_the_disk_is_full_and_sessions_are_emptied() {
    in_own_network_and_mounts(|| {
        // The message that is held back is waited for, for as long as this test takes.
        let cluster = Cluster::prepare(1, &[("cluster.node_down_after", "20s")]);
        let node = cluster.node(0);
        node.limit_disk(DISK_MEBIBYTES);
        node.start();
        cluster.await_formed();
        let mut publisher = node.client("publisher");
        leave_messages(&cluster, &mut publisher, "sleeper", 10);
        node.fill_disk();
        cluster.until("a new session is refused", || match node.attempt(&persistent("new")) {
            Err(NotConnected::Refused(Packet::ConnAck(connack))) => (connack.code == 0x97).then_some(()),
            _ => None,
        });
        publisher.send(&Publish::new("flow", "10").qos(1, 99).bytes(Version::V5));
        // Who keeps nothing is served, and so is who fetches what is kept.
        let mut passing = node.client("passing");
        passing.ping();
        let mut sleeper = node.connect(&persistent("sleeper"));
        sleeper.assert_resumed();
        assert_eq!(numbers(&receive(&mut sleeper, 10)), (0..10).collect::<Vec<_>>());
        sleeper.unsubscribe(&["nothing"]);
        assert!(publisher.next_event(Duration::from_millis(500)).is_none(), "it is not kept");
        sleeper.disconnect();
        node.empty_disk();
        assert!(matches!(publisher.receive(), Packet::PubAck { id: 99, reason: 0 }));
        cluster.until("new sessions are taken", || node.attempt(&persistent("new")).ok().map(drop));
        node.restart();
        let mut sleeper = node.connect_soon(&persistent("sleeper"));
        sleeper.assert_resumed();
        assert_eq!(numbers(&receive(&mut sleeper, 1)), [10]);
        node.assert_alive();
    });
}

#[test]
fn retained_messages_for_a_kept_session_wait_for_space() {
    in_own_network_and_mounts(|| {
        let cluster = Cluster::prepare(1, &[("cluster.node_down_after", "20s")]);
        let node = cluster.node(0);
        node.limit_disk(DISK_MEBIBYTES);
        node.start();
        cluster.await_formed();
        let mut publisher = node.client("publisher");
        for number in 0..40 {
            let publish = Publish::new(&format!("kept/{number}"), number.to_string()).qos(1, 1 + number);
            publisher.publish_packet(&publish.retain());
        }
        let mut subscriber = node.connect(&persistent("subscriber"));
        node.fill_disk();
        cluster.until("a new session is refused", || match node.attempt(&persistent("new")) {
            Err(NotConnected::Refused(Packet::ConnAck(connack))) => (connack.code == 0x97).then_some(()),
            _ => None,
        });
        // It is answered, and served.
        assert_eq!(subscriber.subscribe("kept/+", 1), 1);
        subscriber.ping();
        assert_eq!(subscriber.unsubscribe(&["none"]), [0x11]);
        assert!(subscriber.next_event(Duration::from_millis(500)).is_none(), "nothing is kept for it");
        node.empty_disk();
        let mut seen = numbers(&receive(&mut subscriber, 40));
        seen.sort_unstable();
        assert_eq!(seen, (0..40).collect::<Vec<_>>());
        subscriber.ping();
        node.assert_alive();
    });
}

#[test]
fn one_node_without_space_holds_up_nobody() {
    in_own_network_and_mounts(|| {
        let cluster = Cluster::prepare(3, &[]);
        cluster.node(0).limit_disk(DISK_MEBIBYTES);
        cluster.nodes().iter().for_each(crate::fleet::Node::start);
        cluster.await_formed();
        let mut publisher = cluster.node(1).client("publisher");
        for client_id in ["a", "b", "c", "d", "e", "f"] {
            leave_messages(&cluster, &mut publisher, client_id, 0);
        }
        cluster.node(0).fill_disk();
        cluster.until("others lead the shards", || (leads(&cluster, 0) == 0).then_some(()));
        for number in 0..10 {
            publisher.publish("flow", number.to_string(), 1);
        }
        for client_id in ["a", "b", "c", "d", "e", "f"] {
            let mut sleeper = cluster.node(0).connect_soon(&persistent(client_id));
            assert_eq!(numbers(&receive(&mut sleeper, 10)), (0..10).collect::<Vec<_>>(), "{client_id}");
        }
        cluster.node(0).empty_disk();
        cluster.until("it leads again", || (leads(&cluster, 0) > 0).then_some(()));
        cluster.await_formed();
    });
}

/// How many shards a node leads, as it knows itself; more than there are while it does not say.
fn leads(cluster: &Cluster, number: usize) -> usize {
    let shards = cluster.node(number).ctl(&["shards", "list", "--json"]);
    let Ok(shards) = serde_json::from_slice::<Vec<serde_json::Value>>(&shards.stdout) else {
        return usize::MAX;
    };
    let name = cluster.node(number).name();
    shards.iter().filter(|shard| shard["leader"] == *name).count()
}

#[test]
fn a_node_whose_store_fails_leaves_service_until_it_is_started_again() {
    let mut cluster = Cluster::prepare(3, &[]);
    let Some(disk) = FaultyDisk::of(&mut cluster, 0, "store") else {
        // Past the capture of the test runner, for a test that did not run must not look like one that did.
        let _ = writeln!(io::stderr(), "SKIPPED: a disk that fails needs a C compiler");
        return;
    };
    cluster.nodes().iter().for_each(crate::fleet::Node::start);
    cluster.await_formed();
    let mut publisher = cluster.node(1).client("publisher");
    leave_messages(&cluster, &mut publisher, "sleeper", 0);
    let mut client = cluster.node(0).client("client");
    disk.refuse_flushes();
    // Enough for the log to be cut, for which the store is flushed.
    let (payload, mut sent) = (vec![b'x'; 512 << 10], 0);
    cluster.until("the node has noticed", || {
        publisher.publish("flow", &payload, 1);
        sent += 1;
        cluster.node(0).log().contains("a replica of a shard has failed").then_some(())
    });
    client.expect_disconnect(0x89);
    let status = cluster.node(0).status().expect("it still answers operators");
    assert!(!status.ready);
    cluster.await_seen(1, 0, "down");
    cluster.await_formed_of(&[1, 2]);
    publisher.publish("flow", "last", 1);

    disk.mend();
    cluster.node(0).restart();
    cluster.await_formed();
    let mut sleeper = cluster.node(0).connect_soon(&persistent("sleeper"));
    sleeper.assert_resumed();
    let received = receive(&mut sleeper, sent + 1);
    assert_eq!(received.last().map(|publish| &publish.payload[..]), Some(&b"last"[..]));
}
