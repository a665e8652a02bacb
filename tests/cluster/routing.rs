//! Messages from a client of one node to clients of others: P1, P4 and P6.

use std::{thread, time::Duration};

use crate::{
    fleet::{Cluster, Ear, Traffic, fence, next_publish, number, numbers, receive},
    harness::{Client, Connect, Packet, Properties, Property, Publish, Version, property_id},
};

#[test]
fn a_message_reaches_subscribers_on_every_node() {
    // P1, at each QoS.
    let cluster = Cluster::start(3);
    let mut clients: Vec<Client> =
        (0..3).map(|node| cluster.node(node).client(&format!("c{node}"))).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.subscribe("exact/topic", 2), 2);
        assert_eq!(client.subscribe(&format!("wild/{number}/#"), 1), 1);
    }
    fence_all(&mut clients);
    for from in 0..3 {
        for qos in 0..=2 {
            clients[from].publish("exact/topic", format!("{from}{qos}"), qos);
            for client in &mut clients {
                let publish = client.expect_publish("exact/topic", format!("{from}{qos}"));
                assert_eq!((publish.qos, publish.retain, publish.dup), (qos, false, false));
                client.acknowledge(&publish);
            }
        }
        clients[from].publish("wild/2/x", "w", 1);
        assert_eq!(receive(&mut clients[2], 1)[0].topic, "wild/2/x");
    }
    for publisher in 0..3 {
        assert_eq!(fence_from(&mut clients, publisher), 0, "each message came once");
    }
}

#[test]
fn messages_of_a_publisher_stay_in_order() {
    // P4: three publishers on three nodes, one subscriber on each.
    let cluster = Cluster::start(3);
    let mut subscribers: Vec<Client> =
        (0..3).map(|node| cluster.node(node).client(&format!("s{node}"))).collect();
    let mut publishers: Vec<Client> =
        (0..3).map(|node| cluster.node(node).client(&format!("p{node}"))).collect();
    for subscriber in &mut subscribers {
        assert_eq!(subscriber.subscribe("order/+/+", 2), 2);
        publishers.iter_mut().for_each(|publisher| assert!(fence(subscriber, publisher).is_empty()));
    }
    for message in 0..MESSAGES {
        for (number, publisher) in publishers.iter_mut().enumerate() {
            let qos = u8::try_from(message % 3).expect("it is small");
            publisher.publish(&format!("order/{number}/{qos}"), message.to_string(), qos);
        }
    }
    for subscriber in &mut subscribers {
        let received = receive(subscriber, 3 * usize::try_from(MESSAGES).expect("it is small"));
        for publisher in 0..3 {
            for qos in 0..3 {
                let topic = format!("order/{publisher}/{qos}");
                let of = received.iter().filter(|publish| publish.topic == topic).map(number);
                let expected: Vec<u32> = (0..MESSAGES).filter(|message| message % 3 == qos).collect();
                assert_eq!(of.collect::<Vec<_>>(), expected, "{topic}");
            }
        }
    }
}

#[test]
fn from_suback_on_nothing_is_missed() {
    // P6: while messages flow, clients of other nodes subscribe; from the first message on, each gets all.
    let cluster = Cluster::start(3);
    let traffic = Traffic::start(cluster.node(0), "flow");
    let mut subscribers = Vec::new();
    for round in 0..5 {
        for node in [1, 2] {
            let mut client = cluster.node(node).client(&format!("late-{node}-{round}"));
            assert_eq!(client.subscribe("flow", 1), 1);
            // The publisher's node knows the route within milliseconds; the deadline is for a busy machine.
            let first = next_publish(&mut client, Duration::from_secs(2)).expect("the route is in use");
            subscribers.push((client, number(&first)));
        }
    }
    let sent = traffic.stop();
    for (client, first) in &mut subscribers {
        let rest = usize::try_from(sent - *first - 1).expect("it fits");
        assert_eq!(numbers(&receive(client, rest)), (*first + 1..sent).collect::<Vec<_>>());
    }
}

#[test]
fn long_filters_do_not_keep_others_from_subscribing() {
    // P6 and P8: while the log stands still, several MiB of filters gather.
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    let clients: Vec<Client> =
        (0..6).map(|number| cluster.node(leader).client(&format!("c{number}"))).collect();
    let mut other = cluster.node(leader).client("other");
    others.iter().for_each(|&node| cluster.node(node).pause());
    let subscribers = (0..).zip(clients).map(|(number, mut client): (u8, Client)| {
        thread::spawn(move || {
            let filters: Vec<String> =
                (0..15).map(|filter| format!("{number}/{filter}/{}/#", "x".repeat(65_000))).collect();
            let filters: Vec<(&str, u8)> = filters.iter().map(|filter| (filter.as_str(), 1)).collect();
            assert_eq!(client.subscribe_with(&[], &filters), [1; 15]);
        })
    });
    let subscribers: Vec<_> = subscribers.collect();
    let nobody_is_answered = || subscribers.iter().all(|subscriber| !subscriber.is_finished());
    cluster.stays(Duration::from_secs(1), "nobody is answered", nobody_is_answered);
    others.iter().for_each(|&node| cluster.node(node).resume());
    assert_eq!(other.subscribe("short", 1), 1);
    for subscriber in subscribers {
        subscriber.join().expect("all are granted");
    }
}

#[test]
fn publishers_that_wait_for_a_node_go_on_when_it_is_dead() {
    // P8 and F10: the node takes nothing until so much waits for it that its publishers are not read any more.
    let cluster = Cluster::start(3);
    let victim = cluster.follower();
    let other = (victim + 1) % 3;
    let mut publisher = cluster.node(other).connect(&Connect::new(Version::V311, "publisher"));
    let mut subscriber = cluster.node(victim).client("subscriber");
    assert_eq!(subscriber.subscribe("flood", 1), 1);
    fence(&mut subscriber, &mut publisher);
    cluster.node(victim).pause();
    let sender = thread::spawn(move || {
        for id in 1..=FLOOD {
            let publish = Publish::new("flood", vec![b'x'; 1_000_000]).qos(1, id);
            publisher.send(&publish.bytes(Version::V311));
        }
        for id in 1..=FLOOD {
            publisher.expect(&Packet::PubAck { id, reason: 0 });
        }
        publisher.ping();
    });
    cluster.until("everything was sent and acknowledged", || sender.is_finished().then_some(()));
    sender.join().expect("the publisher goes on");
    cluster.node(victim).resume();
}

#[test]
fn after_unsuback_nothing_comes() {
    let cluster = Cluster::start(3);
    let (mut subscriber, mut publisher) = (cluster.node(0).client("s"), cluster.node(1).client("p"));
    for _ in 0..10 {
        assert_eq!(subscriber.subscribe("on/off", 0), 0);
        fence(&mut subscriber, &mut publisher);
        publisher.publish("on/off", "on", 0);
        subscriber.expect_publish("on/off", "on");
        subscriber.unsubscribe(&["on/off"]);
        publisher.publish("on/off", "off", 0);
        assert!(fence(&mut subscriber, &mut publisher).is_empty());
    }
}

#[test]
fn two_subscribers_of_one_node_get_a_message_each_and_the_first_to_go_does_not_take_the_route_along() {
    let cluster = Cluster::start(3);
    let (mut one, mut other) = (cluster.node(1).client("one"), cluster.node(1).client("other"));
    let mut publisher = cluster.node(2).client("p");
    assert_eq!(one.subscribe("shared/route", 0), 0);
    assert_eq!(other.subscribe("shared/route", 0), 0);
    fence(&mut other, &mut publisher);
    publisher.publish("shared/route", "both", 0);
    one.expect_publish("shared/route", "both");
    other.expect_publish("shared/route", "both");
    one.disconnect();
    publisher.publish("shared/route", "one", 0);
    other.expect_publish("shared/route", "one");
    assert!(fence(&mut other, &mut publisher).is_empty());
}

#[test]
fn a_message_crosses_nodes_with_everything_that_belongs_to_it() {
    let cluster = Cluster::start(2);
    let (mut subscriber, mut publisher) = (cluster.node(0).client("s"), cluster.node(1).client("p"));
    let id = Property::subscription_id(77);
    assert_eq!(
        subscriber.subscribe_with(std::slice::from_ref(&id), &[("all/of/it", 1 | RETAIN_AS_PUBLISHED)]),
        [1]
    );
    fence(&mut subscriber, &mut publisher);
    let properties = vec![
        Property::byte(property_id::PAYLOAD_FORMAT, 1),
        Property::text(property_id::RESPONSE_TOPIC, "answer/here"),
        Property::binary(property_id::CORRELATION_DATA, &[0, 1, 255]),
        Property::user("one", "1"),
        Property::user("one", "2"),
        Property::text(property_id::CONTENT_TYPE, "text/plain"),
    ];
    let sent = properties.iter().cloned().fold(Publish::new("all/of/it", "payload").retain(), Publish::with);
    let packet_id = publisher.next_id();
    publisher.publish_packet(&sent.qos(1, packet_id));
    let received = receive(&mut subscriber, 1).remove(0);
    assert!(received.retain, "as published");
    let sorted = |mut properties: Vec<Property>| {
        // User Properties keep their order among each other; the rest has none.
        properties.sort_by_key(|property| property.id);
        Properties(properties)
    };
    let mut expected = properties;
    expected.push(id);
    assert_eq!(sorted(received.properties.0), sorted(expected));
}

#[test]
fn message_expiry_counts_across_nodes() {
    let cluster = Cluster::start(2);
    let (mut subscriber, mut publisher) = (cluster.node(0).client("s"), cluster.node(1).client("p"));
    assert_eq!(subscriber.subscribe("expiring", 0), 0);
    fence(&mut subscriber, &mut publisher);
    publisher.publish_packet(
        &Publish::new("expiring", "x").with(Property::four(property_id::MESSAGE_EXPIRY, 100)),
    );
    let left = receive(&mut subscriber, 1)[0].properties.number(property_id::MESSAGE_EXPIRY);
    assert!(left.is_some_and(|seconds| (90..=100).contains(&seconds)), "{left:?}");
}

#[test]
fn clients_of_all_versions_meet_across_nodes() {
    let cluster = Cluster::start(2);
    for (number, version) in Version::ALL.into_iter().enumerate() {
        let mut old = cluster.node(0).connect(&Connect::new(version, &format!("v{number}")));
        let mut new = cluster.node(1).client(&format!("n{number}"));
        assert_eq!(old.subscribe("versions/#", 1), 1);
        assert!(fence(&mut old, &mut new).is_empty());
        new.publish_packet(&Publish::new("versions/x", "new").with(Property::user("a", "b")));
        old.expect_publish("versions/x", "new");
        assert_eq!(new.subscribe("old/#", 1), 1);
        fence(&mut new, &mut old);
        old.publish("old/x", "old", 1);
        assert_eq!(receive(&mut new, 1)[0].payload, b"old");
    }
}

#[test]
fn no_local_holds_across_nodes() {
    let cluster = Cluster::start(2);
    let (mut one, mut other) = (cluster.node(0).client("one"), cluster.node(1).client("other"));
    assert_eq!(one.subscribe_with(&[], &[("nl", NO_LOCAL)]), [0]);
    fence(&mut one, &mut other);
    one.publish("nl", "own", 1);
    other.publish("nl", "foreign", 1);
    one.expect_publish("nl", "foreign");
    assert!(fence(&mut one, &mut other).is_empty());
}

#[test]
fn the_largest_message_crosses_nodes() {
    let cluster = Cluster::start(2);
    let (mut subscriber, mut publisher) = (cluster.node(0).client("s"), cluster.node(1).client("p"));
    assert_eq!(subscriber.subscribe("large", 2), 2);
    fence(&mut subscriber, &mut publisher);
    // With the topic and the header just below mqtt.max_packet_size.
    let payload = vec![0x5A; (1 << 20) - 100];
    for qos in 0..=2 {
        publisher.publish("large", &payload, qos);
        assert_eq!(receive(&mut subscriber, 1)[0].payload.len(), payload.len());
    }
}

#[test]
fn nodes_with_different_limits_for_their_clients_pass_messages_on() {
    let mut cluster = Cluster::start(2);
    let generous = cluster.add_with(&[("mqtt.max_packet_size", "4MiB")]);
    cluster.await_formed();
    let (mut subscriber, mut publisher) = (cluster.node(0).client("s"), cluster.node(generous).client("p"));
    assert_eq!(subscriber.subscribe("larger", 2), 2);
    fence(&mut subscriber, &mut publisher);
    // Longer than what the subscriber's node takes from its own clients, and than its output buffer.
    let payload = vec![0x5A; 3 << 20];
    for qos in 0..=2 {
        publisher.publish("larger", &payload, qos);
        assert_eq!(receive(&mut subscriber, 1)[0].payload.len(), payload.len());
    }
}

#[test]
fn what_is_acknowledged_has_left_the_publishers_node() {
    // P2, for subscribers that are connected: the node dies right after the last PUBACK.
    let cluster = Cluster::start(3);
    let (mut subscriber, mut publisher) = (cluster.node(0).client("s"), cluster.node(2).client("p"));
    assert_eq!(subscriber.subscribe("acked", 1), 1);
    fence(&mut subscriber, &mut publisher);
    for message in 0..MESSAGES {
        assert_eq!(publisher.publish("acked", message.to_string(), 1), 0);
    }
    cluster.node(2).kill();
    let received = receive(&mut subscriber, usize::try_from(MESSAGES).expect("it is small"));
    assert_eq!(numbers(&received), (0..MESSAGES).collect::<Vec<_>>());
}

#[test]
fn what_a_dead_node_has_not_acknowledged_is_sent_again_and_comes_twice_at_most() {
    // F04 at QoS 1: the subscriber's node stands still, so that nothing is acknowledged when the publisher's node dies.
    let cluster = Cluster::start(3);
    let connect = Connect::new(Version::V5, "p");
    let (mut subscriber, mut publisher) = (cluster.node(0).client("s"), cluster.node(2).connect(&connect));
    assert_eq!(subscriber.subscribe("resent", 1), 1);
    fence(&mut subscriber, &mut publisher);
    cluster.node(0).pause();
    for message in 0..MESSAGES_UNDER_WAY {
        let id = publisher.next_id();
        publisher.send(&Publish::new("resent", message.to_string()).qos(1, id).bytes(Version::V5));
    }
    assert_eq!(publisher.next_event(Duration::from_millis(500)), None, "nothing is acknowledged");
    cluster.node(2).kill();
    cluster.node(0).resume();
    let mut publisher = cluster.node(1).connect_soon(&connect);
    for message in 0..MESSAGES_UNDER_WAY {
        assert_eq!(publisher.publish("resent", message.to_string(), 1), 0);
    }
    let mut received = numbers(&fence(&mut subscriber, &mut publisher));
    received.sort_unstable();
    for message in 0..MESSAGES_UNDER_WAY {
        let copies = received.iter().filter(|received| **received == message).count();
        assert!((1..=2).contains(&copies), "{copies} copies of {message}");
    }
}

#[test]
fn routes_of_a_dead_node_vanish_and_those_of_a_returned_one_are_back() {
    let cluster = Cluster::start(3);
    let mut publisher = cluster.node(0).client("p");
    let subscribed = |cluster: &Cluster| {
        let mut client = cluster.node(1).connect_soon(&Connect::new(Version::V5, "s"));
        assert_eq!(client.subscribe("dead/+", 1), 1);
        client
    };
    fence(&mut subscribed(&cluster), &mut publisher);
    let mut subscriber = subscribed(&cluster);
    let routed = || {
        let output = cluster.node(0).ctl(&["--json", "routes", "list", "--topic", "dead/x"]);
        String::from_utf8_lossy(&output.stdout).contains("node-1")
    };
    cluster.until("the route is known", || routed().then_some(()));
    cluster.node(1).kill();
    subscriber.expect_closed();
    cluster.until("the route is gone", || (!routed()).then_some(()));
    assert!(publisher.publish("dead/x", "nobody", 1) < 0x80);
    cluster.node(1).start();
    cluster.await_formed();
    let mut subscriber = subscribed(&cluster);
    fence(&mut subscriber, &mut publisher);
    publisher.publish("dead/x", "again", 1);
    subscriber.expect_publish("dead/x", "again");
}

#[test]
fn a_killed_node_does_not_hold_up_the_messages_of_the_others() {
    // F02: while a subscriber's node is dead and not yet known to be, acknowledgements to it are awaited, and no longer.
    let cluster = Cluster::start(3);
    let victim = cluster.follower();
    let others: Vec<usize> = (0..3).filter(|number| *number != victim).collect();
    let mut doomed = cluster.node(victim).client("doomed");
    assert_eq!(doomed.subscribe("goes/on", 1), 1);
    let mut subscriber = cluster.node(others[0]).client("s");
    assert_eq!(subscriber.subscribe("goes/on", 1), 1);
    let mut probe = cluster.node(others[1]).client("probe");
    fence(&mut doomed, &mut probe);
    fence(&mut subscriber, &mut probe);
    let traffic = Traffic::start(cluster.node(others[1]), "goes/on");
    let ear = Ear::start(subscriber);
    let more = |than: usize| cluster.until("messages flow", || (ear.count() > than).then_some(()));
    more(10);
    cluster.node(victim).kill();
    cluster.await_seen(others[1], victim, "down");
    more(ear.count());
    let sent = traffic.stop();
    assert_eq!(ear.hear(sent).1, (0..sent).collect::<Vec<_>>());
}

/// Every client sees the routes of every other.
fn fence_all(clients: &mut [Client]) {
    for publisher in 0..clients.len() {
        fence_from(clients, publisher);
    }
}

/// All clients but the publisher have got all that it sent; how many messages came meanwhile.
fn fence_from(clients: &mut [Client], publisher: usize) -> usize {
    let mut came = 0;
    for subscriber in 0..clients.len() {
        if subscriber != publisher {
            let [one, other] = clients.get_disjoint_mut([subscriber, publisher]).expect("they are two");
            came += fence(one, other).len();
        }
    }
    came
}

/// Publishes of 1 MB: more than may wait for a node.
const FLOOD: u16 = 90;

/// Publishes that are not acknowledged: fewer than `mqtt.receive_maximum`.
const MESSAGES_UNDER_WAY: u32 = 50;

const MESSAGES: u32 = 300;
const NO_LOCAL: u8 = 0x04;
const RETAIN_AS_PUBLISHED: u8 = 0x08;
