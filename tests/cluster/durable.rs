//! What was acknowledged survives: P2, P3 and P5, when nodes die, one after the other or all at once.

use std::time::Duration;

use crate::{
    fleet::{Cluster, Node, fence, next_publish, numbers, receive},
    harness::{
        Client, Connect, Event, Packet, Property, Publish, Version, Will, ack, client::NotConnected,
        property_id,
    },
};

fn persistent(client_id: &str) -> Connect {
    Connect::new(Version::V5, client_id).persistent()
}

/// Connects a client whose session must be there.
#[track_caller]
fn come_back(cluster: &Cluster, node: usize, client_id: &str) -> Client {
    let client = cluster.node(node).connect_soon(&persistent(client_id));
    client.assert_resumed();
    client
}

#[test]
fn everything_that_was_acknowledged_is_there_when_all_nodes_have_died_at_once() {
    // F06, F16: queues, subscriptions, what is in flight at QoS 2 in both directions, a will that waits.
    let cluster = Cluster::start(3);
    let mut publisher = cluster.node(1).connect(&persistent("publisher"));
    let mut sleeper = cluster.node(0).connect(&persistent("sleeper"));
    assert_eq!(sleeper.subscribe("to/sleeper/+", 2), 2);
    fence(&mut sleeper, &mut publisher);
    sleeper.disconnect();
    let mut released = cluster.node(2).connect(&persistent("released"));
    assert_eq!(released.subscribe("to/released", 2), 2);
    fence(&mut released, &mut publisher);
    publisher.publish("to/released", "0", 2);
    let half = released.expect_publish("to/released", "0");
    released.send(&ack(0x50, half.id));
    assert!(matches!(released.receive(), Packet::PubRel { id, reason: 0 } if id == half.id));
    for number in 0..20_u16 {
        publisher.publish(&format!("to/sleeper/{}", number % 3), number.to_string(), 1 + (number % 2) as u8);
    }
    // Its PUBREC has come, and its PUBREL goes out only after the crash.
    publisher.send(&Publish::new("to/sleeper/0", "20").qos(2, 9).bytes(Version::V5));
    assert!(matches!(publisher.receive(), Packet::PubRec { id: 9, .. }));
    let will = Will::new("to/sleeper/1", "21").qos(1).with(Property::four(property_id::WILL_DELAY, 4));
    cluster.node(0).connect(&persistent("mortal").will(will)).vanish();

    cluster.nodes().iter().for_each(Node::kill);
    cluster.nodes().iter().for_each(Node::start);
    cluster.await_formed();

    // A message for a session whose client has not come back yet.
    cluster.node(2).client("other").publish("to/sleeper/2", "22", 1);
    let mut publisher = come_back(&cluster, 0, "publisher");
    publisher.send(&Publish { dup: true, ..Publish::new("to/sleeper/0", "20").qos(2, 9) }.bytes(Version::V5));
    assert!(matches!(publisher.receive(), Packet::PubRec { id: 9, .. }));
    publisher.send(&ack(0x62, 9));
    assert!(matches!(publisher.receive(), Packet::PubComp { id: 9, .. }));
    let mut released = come_back(&cluster, 1, "released");
    assert!(matches!(released.receive(), Packet::PubRel { id, .. } if id == half.id));
    released.send(&ack(0x70, half.id));
    assert!(fence(&mut released, &mut publisher).is_empty(), "it has the message already");

    let mut sleeper = come_back(&cluster, 2, "sleeper");
    let mut seen = numbers(&receive(&mut sleeper, 23));
    seen.sort_unstable();
    assert_eq!(seen, (0..23).collect::<Vec<_>>(), "each once");
    assert!(fence(&mut sleeper, &mut publisher).is_empty(), "and nothing else");
}

#[test]
fn who_has_subscribed_gets_what_it_publishes_at_once() {
    // P6: on whatever node, for that has the route when it sends SUBACK.
    let cluster = Cluster::start(3);
    for node in 0..3 {
        let mut client = cluster.node(node).connect_soon(&persistent(&format!("client-{node}")));
        for number in 0..40 {
            let topic = format!("own/{node}/{number}");
            assert_eq!(client.subscribe(&topic, 1), 1);
            let id = client.next_id();
            client.send(&Publish::new(&topic, "x").qos(1, id).bytes(Version::V5));
            let mut answers = [client.receive(), client.receive()];
            // Which of the two comes first is not promised.
            answers.sort_by_key(|packet| matches!(packet, Packet::PubAck { .. }));
            let [Packet::Publish(publish), Packet::PubAck { reason: 0, .. }] = &answers else {
                panic!("{topic}: {answers:?}");
            };
            client.acknowledge(publish);
        }
    }
}

#[test]
fn a_client_of_which_nothing_outlives_its_connection_is_no_entry_of_a_log() {
    // O18.
    let cluster = Cluster::start(1);
    let node = cluster.node(0);
    let mut fleeting = (0..50).map(|number| format!("fleeting-{number}"));
    fleeting.by_ref().take(25).for_each(|client_id| node.client(&client_id).disconnect());
    let before = logs(node);
    fleeting.for_each(|client_id| node.client(&client_id).disconnect());
    // One that finds its shard busy may be one. Each would have about a hundred bytes.
    let between = logs(node);
    assert!(between < before + 500, "{before} {between}");
    node.connect(&persistent("stays")).disconnect();
    assert!(logs(node) > between);
    // What is there is ended all the same.
    let anew = node.connect(&Connect::new(Version::V5, "stays").resume());
    anew.assert_resumed();
    anew.disconnect();
    assert!(!node.connect(&Connect::new(Version::V5, "stays").resume()).connack().session_present);
}

/// The bytes of the logs of all shards.
fn logs(node: &Node) -> u64 {
    let told = node.ctl(&["--json", "shards", "list"]);
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).expect("it prints JSON");
    let bytes = |shard: &serde_json::Value| shard["replica"]["log_bytes"].as_u64();
    told.as_array()
        .expect("a list of shards")
        .iter()
        .map(|shard| bytes(shard).expect("its replica is here"))
        .sum()
}

#[test]
fn a_subscriber_whose_node_dies_goes_on_elsewhere() {
    // F03: the queue and what is in flight, with DUP, and session present.
    let cluster = Cluster::start(3);
    let mut publisher = cluster.node(1).client("publisher");
    let mut first = cluster.node(0).connect(&persistent("subscriber"));
    assert_eq!(first.subscribe("flow", 1), 1);
    assert!(fence(&mut first, &mut publisher).is_empty());
    publisher.publish("flow", "0", 1);
    let in_flight = first.expect_publish("flow", "0");
    cluster.node(0).kill();
    for number in 1..30 {
        publisher.publish("flow", number.to_string(), 1);
    }
    let mut second = come_back(&cluster, 2, "subscriber");
    let again = next_publish(&mut second, Duration::from_secs(10)).expect("it was not acknowledged");
    assert_eq!((again.id, again.dup, again.payload), (in_flight.id, true, in_flight.payload));
    second.send(&ack(0x40, again.id));
    assert_eq!(numbers(&receive(&mut second, 29)), (1..30).collect::<Vec<_>>(), "in order");
}

#[test]
fn a_retained_message_survives_the_node_that_has_sent_suback() {
    // [MQTT-4.4.0-1]: SUBACK says that the session has what was found.
    let cluster = Cluster::start(3);
    let mut publisher = cluster.node(1).client("publisher");
    for qos in [1_u8, 2] {
        let (client_id, topic) = (format!("subscriber-{qos}"), format!("kept/{qos}"));
        let id = publisher.next_id();
        publisher.publish_packet(&Publish::new(&topic, "x").qos(2, id).retain());
        let mut first = cluster.node(0).connect_soon(&persistent(&client_id));
        assert_eq!(first.subscribe(&topic, qos), qos);
        cluster.node(0).kill();
        let mut second = come_back(&cluster, 2, &client_id);
        let Packet::Publish(again) = second.receive() else { panic!("the retained message comes") };
        assert_eq!((again.topic.as_str(), again.qos, again.retain), (&*topic, qos, true));
        second.acknowledge(&again);
        second.ping();
        cluster.node(0).start();
        cluster.await_formed();
    }
}

#[test]
fn each_node_may_die_in_its_turn_while_messages_flow() {
    // F01, F02: whoever leads a shard, acknowledgements go on, and nothing of what was acknowledged is lost, nor anything of QoS 2
    // repeated.
    let cluster = Cluster::start(3);
    for qos in [1_u8, 2] {
        let mut queue = cluster.node(0).connect(&persistent(&format!("queue-{qos}")));
        queue.subscribe(&format!("flow/{qos}"), qos);
        (0..3).for_each(|node| drop(fence(&mut queue, &mut cluster.node(node).client("probe"))));
    }
    let mut sent = 0_u16;
    for victim in 0..3 {
        let stays = (victim + 1) % 3;
        let mut publisher = cluster.node(stays).connect_soon(&persistent("publisher"));
        let mut flow = |count: u16| {
            for _ in 0..count {
                for qos in [1_u8, 2] {
                    publisher.publish(&format!("flow/{qos}"), sent.to_string(), qos);
                }
                sent += 1;
            }
        };
        flow(20);
        cluster.node(victim).kill();
        flow(20);
        cluster.node(victim).start();
        cluster.await_formed();
        publisher.disconnect();
    }
    for qos in [1_u8, 2] {
        let mut queue = come_back(&cluster, usize::from(qos), &format!("queue-{qos}"));
        let mut seen = numbers(&receive(&mut queue, usize::from(sent)));
        if qos == 1 {
            seen.dedup();
        }
        assert_eq!(seen, (0..u32::from(sent)).collect::<Vec<_>>(), "at QoS {qos}");
    }
}

#[test]
fn a_node_that_has_lost_its_disk_gets_its_replicas_from_the_others() {
    // F29, with a disk that is empty; then one of those dies that it has its data from.
    let cluster = Cluster::start(3);
    let mut client = cluster.node(0).connect(&persistent("sleeper"));
    assert_eq!(client.subscribe("flow", 1), 1);
    let mut publisher = cluster.node(1).client("publisher");
    fence(&mut client, &mut publisher);
    client.disconnect();
    for number in 0..50 {
        publisher.publish("flow", number.to_string(), 1);
    }
    cluster.node(2).kill();
    cluster.node(2).wipe();
    cluster.node(2).start();
    cluster.await_formed();
    cluster.until("node-2 has all messages", || (queued_at(&cluster, 2) == 50).then_some(()));
    cluster.until("node-2 votes in its old place", || votes(&cluster, 2).then_some(()));
    cluster.node(0).kill();
    let mut client = come_back(&cluster, 2, "sleeper");
    assert_eq!(numbers(&receive(&mut client, 50)), (0..50).collect::<Vec<_>>());
}

/// Whether the replica that a node has of each shard counts for a majority. Before that, the node only listens, and nothing goes on
/// without one of the others.
fn votes(cluster: &Cluster, number: usize) -> bool {
    let shards = cluster.node(number).shards();
    !shards.is_empty() && shards.iter().all(|shard| shard["replica"]["votes"] == true)
}

/// How many messages are in the inboxes of the replicas that a node holds itself.
fn queued_at(cluster: &Cluster, number: usize) -> u64 {
    let shards = cluster.node(number).shards();
    shards.iter().filter_map(|shard| shard["replica"]["queued_messages"].as_u64()).sum()
}

#[test]
fn a_node_that_leaves_takes_nothing_with_it() {
    // Of two nodes: what has both in its quorum must go on with one.
    let cluster = Cluster::start(2);
    let mut publisher = cluster.node(1).connect(&persistent("publisher"));
    for client_id in ["a", "b", "c", "d", "e", "f"] {
        let mut sleeper = cluster.node(0).connect(&persistent(client_id));
        assert_eq!(sleeper.subscribe("flow", 1), 1);
        fence(&mut sleeper, &mut publisher);
        sleeper.disconnect();
    }
    for number in 0..5 {
        publisher.publish("flow", number.to_string(), 1);
    }
    cluster.node(0).order(&["nodes", "leave"]);
    assert!(cluster.node(0).await_end().success());
    cluster.await_forgotten(0);
    for number in 5..10 {
        publisher.publish("flow", number.to_string(), 1);
    }
    for client_id in ["a", "b", "c", "d", "e", "f"] {
        let mut sleeper = come_back(&cluster, 1, client_id);
        assert_eq!(numbers(&receive(&mut sleeper, 10)), (0..10).collect::<Vec<_>>(), "{client_id}");
    }
}

#[test]
fn who_needs_a_shard_without_a_leader_is_told() {
    // P7: of five nodes two are dead, and with them most of some shard's replicas, while the cluster goes on.
    let cluster = Cluster::with(5, &[("mqtt.connect_timeout", "3s")]);
    let members = cluster.until("the replicas are where they shall be", || settled_members(&cluster, 0));
    let mut publisher = cluster.node(0).connect_soon(&Connect::new(Version::V5, "publisher"));
    let clients: Vec<String> = (0..16).map(|number| format!("client-{number}")).collect();
    for client_id in &clients {
        let mut client = cluster.node(0).connect_soon(&persistent(client_id));
        assert_eq!(client.subscribe("flow", 1), 1);
        fence(&mut client, &mut publisher);
        client.disconnect();
    }
    let dead: Vec<usize> = members.into_iter().filter(|number| *number != 0).take(2).collect();
    dead.iter().for_each(|number| cluster.node(*number).kill());
    let left: Vec<usize> = (0..5).filter(|number| !dead.contains(number)).collect();
    cluster.until("the others are declared dead", || {
        let status = cluster.node(0).status()?;
        dead.iter().all(|number| status.has(&cluster.node(*number).name(), "down")).then_some(())
    });
    cluster.until("the other shards have leaders", || cluster.is_formed_of(&left).then_some(()));

    let attempt = |client_id: &str| cluster.node(left[1]).attempt(&persistent(client_id));
    let refused: Vec<&String> = cluster.until("all are answered, and those of the shard are refused", || {
        // At once: each that is refused waits for that.
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let attempts: Vec<_> = clients
                .iter()
                .map(|client_id| (client_id, scope.spawn(move || attempt(client_id))))
                .collect();
            let attempts = attempts.into_iter();
            attempts.map(|(client_id, attempt)| (client_id, attempt.join().expect("it ends"))).collect()
        });
        // Others have no leader yet, perhaps, or one that is busy.
        let is_answered = |outcome: &_| matches!(outcome, Ok(_) | Err(NotConnected::Refused(_)));
        let are_answered = outcomes.iter().all(|(_, outcome)| is_answered(outcome));
        let is_served = outcomes.iter().any(|(_, outcome)| outcome.is_ok());
        let refused = outcomes.into_iter().filter_map(|(client_id, outcome)| match outcome {
            Err(NotConnected::Refused(Packet::ConnAck(connack))) if connack.code == 0x88 => Some(client_id),
            _ => None,
        });
        let refused: Vec<&String> = refused.collect();
        (are_answered && is_served && refused.len() > 1).then_some(refused)
    });
    // A message for them is not acknowledged, and its publisher not left alone with it.
    let find = || clients.iter().find(|client_id| attempt(client_id).is_ok());
    let served = cluster.until("some are served", find);
    let mut publisher = cluster.node(left[1]).connect_soon(&persistent(served));
    publisher.unsubscribe(&["flow"]);
    publisher.send(&Publish::new("flow", "1").qos(1, 7).bytes(Version::V5));
    let end = cluster.until("the publisher is disconnected", || publisher.next_event(Duration::from_secs(1)));
    assert!(matches!(end, Event::Packet(Packet::Disconnect { reason: 0x89, .. })), "{end:?}");

    dead.iter().for_each(|number| cluster.node(*number).start());
    cluster.await_formed();
    // The shard was told of each that was refused, and hears then that nobody is there: behind both, and behind the message that was not
    // acknowledged, comes this one.
    let mut first = come_back(&cluster, left[1], refused[0]);
    first.expect_publish("flow", "1");
    first.disconnect();
    cluster.until("no session has a connection", || (attached(&cluster)? == 0).then_some(()));
    for client_id in refused {
        drop(come_back(&cluster, 0, client_id));
    }
}

/// The nodes that are members of a shard; `None` while there is a shard whose members are not those that it shall have.
fn settled_members(cluster: &Cluster, shard: usize) -> Option<Vec<usize>> {
    let shards = cluster.node(0).ctl(&["shards", "list", "--json"]);
    let shards: Vec<serde_json::Value> = serde_json::from_slice(&shards.stdout).ok()?;
    let numbers = |names: &serde_json::Value| {
        let names = names.as_array().map_or(&[][..], Vec::as_slice);
        let is_named = |number: &usize| names.contains(&cluster.node(*number).name().into());
        (0..cluster.nodes().len()).filter(is_named).collect::<Vec<usize>>()
    };
    let is_settled = shards.iter().all(|shard| numbers(&shard["members"]) == numbers(&shard["replicas"]));
    Some(numbers(&shards.get(shard)?["members"])).filter(|members| is_settled && members.len() == 3)
}

/// How many sessions have a connection, as the leaders of their shards say; `None` while one does not.
fn attached(cluster: &Cluster) -> Option<u64> {
    let of_node = |node: &Node| {
        let shards = node.ctl(&["shards", "list", "--json"]);
        let shards: Vec<serde_json::Value> = serde_json::from_slice(&shards.stdout).ok()?;
        let led = shards.iter().filter(|shard| shard["leader"] == *node.name());
        led.map(|shard| shard["replica"]["attached"].as_u64()).sum::<Option<u64>>()
    };
    cluster.nodes().iter().map(of_node).sum()
}
