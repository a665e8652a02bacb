//! Shared subscriptions (section 4.8.2): `$share/<group>/<filter>` and `$queue/<filter>`, for every version.

use std::collections::BTreeMap;

use crate::harness::{Body, Broker, Client, Connect, Property, Version, packet, property_id as id, unique};

/// Payloads that are waiting at each client; ends with a message that all of them get.
fn drain(broker: &Broker, clients: &mut [Client]) -> Vec<Vec<String>> {
    let fence = unique("fence");
    for client in &mut *clients {
        client.subscribe(&fence, 1);
    }
    broker.client(Version::V5, &unique("fence")).publish(&fence, "", 1);
    let drain_one = |client: &mut Client| {
        let mut payloads = Vec::new();
        loop {
            let seen = client.expect_any_publish();
            client.acknowledge(&seen);
            if seen.topic == fence {
                return payloads;
            }
            payloads.push(String::from_utf8(seen.payload).expect("test payloads are text"));
        }
    };
    clients.iter_mut().map(drain_one).collect()
}

fn members(broker: &Broker, versions: &[Version], filter: &str, qos: u8) -> Vec<Client> {
    let member = |version: &Version| {
        let mut client = broker.client(*version, &unique("member"));
        assert_eq!(client.subscribe(filter, qos), qos);
        client
    };
    versions.iter().map(member).collect()
}

#[test]
fn each_message_goes_to_one_member() {
    // [MQTT-4.8.2-3]
    let broker = Broker::shared();
    for shape in ["$share/group/", "$queue/"] {
        for qos in 0..=2 {
            let topic = unique("shared");
            let mut members = members(&broker, &Version::ALL, &format!("{shape}{topic}"), qos);
            let mut publisher = broker.client(Version::V311, &unique("shared"));
            for number in 0..30 {
                publisher.publish(&topic, format!("{number:02}"), qos);
            }
            publisher.ping();
            let got = drain(&broker, &mut members);
            // Round robin is the default: an even distribution.
            assert!(got.iter().all(|payloads| payloads.len() == 10), "{shape} QoS {qos}: {got:?}");
            assert!(got.iter().all(|payloads| payloads.is_sorted()), "order is kept: {got:?}");
            let mut all = got.concat();
            all.sort();
            assert_eq!(all, (0..30).map(|number| format!("{number:02}")).collect::<Vec<_>>());
        }
    }
}

#[test]
fn groups_are_independent() {
    // section 4.8.2
    let broker = Broker::shared();
    let topic = unique("groups");
    let mut first = members(&broker, &[Version::V5, Version::V311], &format!("$share/first/{topic}/+"), 1);
    let mut second = members(&broker, &[Version::V31], &format!("$share/second/{topic}/#"), 1);
    let mut plain = members(&broker, &[Version::V5], &format!("{topic}/x"), 1);
    let mut publisher = broker.client(Version::V5, &unique("groups"));
    let numbers: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    for number in &numbers {
        publisher.publish(&format!("{topic}/x"), number, 1);
    }
    let mut all = drain(&broker, &mut first).concat();
    all.sort();
    assert_eq!(all, numbers);
    assert_eq!(drain(&broker, &mut second).concat(), numbers);
    assert_eq!(drain(&broker, &mut plain).concat(), numbers);
}

#[test]
fn shared_and_plain_subscription_of_one_client() {
    // section 4.8.2
    // They are two subscriptions: each has its copy, with its own identifier.
    let broker = Broker::shared();
    let topic = unique("both");
    let mut client = broker.client(Version::V5, &unique("both"));
    client.subscribe_with(&[Property::subscription_id(1)], &[(&topic, 0)]);
    client.subscribe_with(&[Property::subscription_id(2)], &[(&format!("$share/g/{topic}"), 0)]);
    broker.client(Version::V5, &unique("both")).publish(&topic, "x", 0);
    let mut ids: Vec<_> =
        (0..2).map(|_| client.expect_publish(&topic, "x").properties.subscription_ids()).collect();
    ids.sort();
    assert_eq!(ids, [vec![1], vec![2]]);
    client.ping();
}

#[test]
fn unsubscribe_leaves_the_group() {
    // [MQTT-3.10.4-1]
    let broker = Broker::shared();
    let topic = unique("leave");
    let filter = format!("$share/g/{topic}");
    let mut members = members(&broker, &[Version::V5, Version::V5], &filter, 0);
    // The filter without its group is another one.
    assert_eq!(members[0].unsubscribe(&[&topic, &filter]), [0x11, 0x00]);
    let mut publisher = broker.client(Version::V5, &unique("leave"));
    for _ in 0..4 {
        publisher.publish(&topic, "x", 1);
    }
    let got: Vec<usize> = drain(&broker, &mut members).iter().map(Vec::len).collect();
    assert_eq!(got, [0, 4]);
}

#[test]
fn qos_1_of_a_member_that_dies_goes_to_another() {
    // section 4.8.2
    let broker = Broker::shared();
    for version in Version::ALL {
        let topic = unique("orphan");
        let filter = format!("$share/g/{topic}");
        // No session survives this connection.
        let mut dying = broker.client(version, &unique("dying"));
        dying.subscribe(&filter, 1);
        let mut publisher = broker.client(Version::V5, &unique("orphan"));
        let numbers: Vec<String> = (0..5).map(|number| number.to_string()).collect();
        for number in &numbers {
            publisher.publish(&topic, number, 1);
        }
        let first = dying.expect_publish(&topic, "0");
        dying.acknowledge(&first);
        dying.expect_publish(&topic, "1");
        let mut heir = members(&broker, &[Version::V5], &filter, 1).remove(0);
        dying.vanish();
        for number in &numbers[1..] {
            let seen = heir.expect_publish(&topic, number);
            heir.acknowledge(&seen);
        }
        heir.ping();
    }
}

#[test]
fn qos_2_that_was_sent_stays_with_its_member() {
    // [MQTT-4.8.2-4] [MQTT-4.8.2-5]
    let broker = Broker::shared();
    let topic = unique("stays");
    let filter = format!("$share/g/{topic}");
    let connect =
        Connect::new(Version::V5, &unique("stays")).persistent().with(Property::two(id::RECEIVE_MAXIMUM, 1));
    let mut member = broker.connect(&connect);
    member.subscribe(&filter, 2);
    let mut publisher = broker.client(Version::V5, &unique("stays"));
    publisher.publish(&topic, "sent", 2);
    let seen = member.expect_publish(&topic, "sent");
    let mut other = members(&broker, &[Version::V5], &filter, 2).remove(0);
    member.vanish();
    other.expect_nothing_from(&mut publisher);
    let mut member = broker.connect(&connect);
    assert_eq!(member.expect_any_publish(), seen.clone().dup());
    member.vanish();
    // Its session ends: half of an exchange cannot be given to somebody else.
    let _clean = broker.connect(&connect.clean());
    other.expect_nothing_from(&mut publisher);
}

#[test]
fn rejected_message_is_not_given_to_another() {
    // [MQTT-4.8.2-6]
    let broker = Broker::shared();
    let topic = unique("rejected");
    let mut members = members(&broker, &[Version::V5, Version::V5], &format!("$share/g/{topic}"), 2);
    let mut publisher = broker.client(Version::V5, &unique("rejected"));
    publisher.publish(&topic, "no", 1);
    publisher.publish(&topic, "no", 2);
    let mut rejected = 0;
    for client in &mut members {
        for seen in client.publishes_from(&mut publisher) {
            let first_byte = if seen.qos == 1 { 0x40 } else { 0x50 };
            client.send(&packet(first_byte, Body::new().u16(seen.id).u8(0x83)));
            rejected += 1;
        }
    }
    assert_eq!(rejected, 2);
    for client in &mut members {
        client.expect_nothing_from(&mut publisher);
    }
}

#[test]
fn group_prefers_members_that_are_connected() {
    // section 4.8.2 leaves the choice to the server
    let broker = Broker::shared();
    let topic = unique("away");
    let filter = format!("$share/g/{topic}");
    let connect = Connect::new(Version::V5, &unique("away")).persistent();
    let mut away = broker.connect(&connect);
    away.subscribe(&filter, 1);
    away.disconnect();
    let mut here = members(&broker, &[Version::V5], &filter, 1);
    let mut publisher = broker.client(Version::V5, &unique("away"));
    for _ in 0..6 {
        publisher.publish(&topic, "x", 1);
    }
    assert_eq!(drain(&broker, &mut here)[0].len(), 6);
    broker.connect(&connect).ping();
}

#[test]
fn group_keeps_messages_while_all_members_are_away() {
    // [MQTT-4.5.0-1]
    let broker = Broker::shared();
    let topic = unique("all-away");
    let connects: Vec<Connect> =
        (0..2).map(|_| Connect::new(Version::V5, &unique("all-away")).persistent()).collect();
    for connect in &connects {
        let mut member = broker.connect(connect);
        member.subscribe(&format!("$share/g/{topic}"), 1);
        member.disconnect();
    }
    let mut publisher = broker.client(Version::V5, &unique("all-away"));
    let numbers: Vec<String> = (0..6).map(|number| number.to_string()).collect();
    for number in &numbers {
        assert_eq!(publisher.publish(&topic, number, 1), 0);
    }
    let mut members: Vec<Client> = connects.iter().map(|connect| broker.connect(connect)).collect();
    let mut all = drain(&broker, &mut members).concat();
    all.sort();
    assert_eq!(all, numbers);
}

#[test]
fn strategies() {
    // section 4.8.2 leaves the choice to the server
    for strategy in ["random", "round_robin", "sticky", "hash_clientid", "hash_topic", "least_inflight"] {
        let Some(broker) = Broker::with(&[("shared.strategy", strategy)]) else { return };
        let mut members = members(&broker, &Version::ALL, "$share/g/t/+", 1);
        let mut publishers = [0, 1, 2, 3].map(|_| broker.client(Version::V5, &unique("publisher")));
        for (number, publisher) in publishers.iter_mut().enumerate() {
            for round in 0..30 {
                publisher.publish(&format!("t/{}", round % 3), format!("{number}/{}", round % 3), 1);
            }
        }
        let got = drain(&broker, &mut members);
        assert_eq!(got.iter().map(Vec::len).sum::<usize>(), 120, "{strategy}");
        // Which members each (publisher, topic) reached.
        let mut reached: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (member, payloads) in got.iter().enumerate() {
            for payload in payloads {
                let key = match strategy {
                    "hash_clientid" => &payload[..1],
                    "hash_topic" => &payload[2..],
                    _ => "",
                };
                let members = reached.entry(key).or_default();
                if !members.contains(&member) {
                    members.push(member);
                }
            }
        }
        match strategy {
            "hash_clientid" | "hash_topic" => {
                assert!(reached.values().all(|members| members.len() == 1), "{strategy}: {reached:?}");
            }
            "sticky" => assert_eq!(reached[""].len(), 1, "{strategy}"),
            _ => assert_eq!(reached[""].len(), 3, "{strategy}"),
        }
        broker.assert_healthy();
    }
}

#[test]
fn least_inflight_goes_around_a_slow_member() {
    // section 4.8.2 leaves the choice to the server
    let Some(broker) = Broker::with(&[("shared.strategy", "least_inflight")]) else { return };
    let mut members = members(&broker, &[Version::V5, Version::V5], "$share/g/t", 1);
    let mut publisher = broker.client(Version::V5, "publisher");
    // The one that gets the first does not acknowledge it; the other takes all that follows.
    publisher.publish("t", "first", 1);
    let slow = usize::from(members[0].publishes_from(&mut publisher).is_empty());
    let quick = &mut members[1 - slow];
    for number in 0..10 {
        publisher.publish("t", format!("{number}"), 1);
        let seen = quick.expect_publish("t", format!("{number}"));
        quick.acknowledge(&seen);
        quick.ping();
    }
}
