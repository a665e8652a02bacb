//! Subscriptions: matching, replacing, overlapping, No Local, UNSUBSCRIBE (sections 3.3.4, 3.8, 3.10 and 4.7).

use crate::harness::{Broker, Property, Publish, Version, unique};

const NO_LOCAL: u8 = 0x04;

#[test]
fn filters_match_what_the_specification_says() {
    // [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.3-4]
    let broker = Broker::shared();
    let base = unique("match");
    let mut publisher = broker.client(Version::V5, &unique("match"));
    for (filter, topic, matches) in [
        ("/player1/#", "/player1", true),
        ("/player1/#", "/player1/ranking", true),
        ("/player1/#", "/player1/score/wimbledon", true),
        ("/player1/#", "/player10", false),
        ("/+", "", false),
        ("/+", "/", true),
        ("/+", "/finance", true),
        ("/+/+", "/finance", false),
        ("/player1/+", "/player1/ranking", true),
        ("/player1/+", "/player1", false),
        ("/player1/+", "/player1/", true),
        ("/player1/+", "/player1/score/wimbledon", false),
        ("/+/score", "/player1/score", true),
        ("/+/score", "/score", false),
        ("/ACCOUNTS", "/Accounts", false),
        ("/a", "/a/", false),
        ("//", "/", false),
        ("/é", "/e\u{301}", false),
        ("/a b", "/a b", true),
    ] {
        let mut subscriber = broker.client(Version::V311, &unique("match"));
        subscriber.subscribe(&format!("{base}{filter}"), 0);
        publisher.publish(&format!("{base}{topic}"), filter, 0);
        if matches {
            subscriber.expect_publish(&format!("{base}{topic}"), filter);
        }
        subscriber.expect_nothing_from(&mut publisher);
    }
}

#[test]
fn dollar_topics_are_ordinary_but_for_wildcards() {
    // [MQTT-4.7.2-1]
    // Topics that begin with `$` and are not the broker's own may be used among clients.
    let broker = Broker::shared();
    let last = unique("a");
    let topic = format!("${}/{last}", unique("dollar"));
    let mut exact = broker.client(Version::V5, &unique("dollar"));
    exact.subscribe(&topic, 0);
    let mut inner = broker.client(Version::V5, &unique("dollar"));
    inner.subscribe(&topic.replace(&last, "+"), 0);
    let mut outer = broker.client(Version::V5, &unique("dollar"));
    outer.subscribe(&format!("+/{last}"), 0);
    let mut publisher = broker.client(Version::V5, &unique("dollar"));
    publisher.publish(&topic, "x", 1);
    exact.expect_publish(&topic, "x");
    inner.expect_publish(&topic, "x");
    outer.expect_nothing_from(&mut publisher);
}

#[test]
fn a_subscription_is_replaced() {
    // [MQTT-3.8.4-3]
    let broker = Broker::shared();
    for version in Version::ALL {
        let topic = unique("replace");
        let mut subscriber = broker.client(version, &unique("replace"));
        let mut publisher = broker.client(version, &unique("replace"));
        for qos in [2, 0, 1] {
            assert_eq!(subscriber.subscribe(&topic, qos), qos);
            publisher.publish(&topic, "x", 2);
            let seen = subscriber.expect_publish(&topic, "x");
            assert_eq!(seen.qos, qos);
            subscriber.acknowledge(&seen);
        }
        subscriber.expect_nothing_from(&mut publisher);
        subscriber.unsubscribe(&[&topic]);
        publisher.publish(&topic, "x", 0);
        subscriber.expect_nothing_from(&mut publisher);
    }
}

#[test]
fn many_filters_at_once() {
    // [MQTT-3.8.4-5] [MQTT-3.9.3-1] [MQTT-3.10.4-6] [MQTT-3.11.3-1]
    let broker = Broker::shared();
    for version in Version::ALL {
        let base = unique("many");
        let names: Vec<String> = (0..100).map(|number| format!("{base}/{number}")).collect();
        let filters: Vec<(&str, u8)> =
            names.iter().map(String::as_str).zip([0, 1, 2].into_iter().cycle()).collect();
        let mut subscriber = broker.client(version, &unique("many"));
        let granted: Vec<u8> = filters.iter().map(|(_, qos)| *qos).collect();
        assert_eq!(subscriber.subscribe_with(&[], &filters), granted);
        let mut publisher = broker.client(version, &unique("many"));
        publisher.publish(&names[99], "last", 0);
        subscriber.expect_publish(&names[99], "last");
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        let codes = subscriber.unsubscribe(&all);
        assert_eq!(codes, vec![0; if version == Version::V5 { 100 } else { 0 }]);
        publisher.publish(&names[50], "", 0);
        subscriber.expect_nothing_from(&mut publisher);
    }
}

#[test]
fn unsubscribe_leaves_what_is_in_flight() {
    // [MQTT-3.10.4-3]
    let broker = Broker::shared();
    let topic = unique("in-flight");
    let connect = crate::harness::Connect::new(Version::V5, &unique("in-flight")).persistent();
    let mut subscriber = broker.connect(&connect);
    subscriber.subscribe(&topic, 1);
    let mut publisher = broker.client(Version::V5, &unique("in-flight"));
    publisher.publish(&topic, "x", 1);
    let seen = subscriber.expect_publish(&topic, "x");
    subscriber.unsubscribe(&[&topic]);
    subscriber.vanish();
    let mut subscriber = broker.connect(&connect);
    let again = subscriber.expect_publish(&topic, "x");
    assert_eq!(again, seen.dup());
    subscriber.acknowledge(&again);
    subscriber.ping();
    subscriber.disconnect();
}

#[test]
fn overlapping_subscriptions_merged() {
    // [MQTT-3.3.4-2] [MQTT-3.3.4-4]
    // Choice: `mqtt.overlap = "merge"` is the default: one copy at the highest QoS, with every identifier.
    let broker = Broker::shared();
    for version in Version::ALL {
        let topic = unique("overlap");
        let mut subscriber = broker.client(version, &unique("overlap"));
        let filters = [(format!("{topic}/#"), 2), (format!("{topic}/+"), 1), (format!("{topic}/x"), 0)];
        for (number, (filter, qos)) in (1..).zip(&filters) {
            let property = Property::subscription_id(number * 1000);
            let properties = if version == Version::V5 { vec![property] } else { Vec::new() };
            assert_eq!(subscriber.subscribe_with(&properties, &[(filter, *qos)]), [*qos]);
        }
        let mut publisher = broker.client(version, &unique("overlap"));
        publisher.publish(&format!("{topic}/x"), "one copy", 2);
        let seen = subscriber.expect_publish(&format!("{topic}/x"), "one copy");
        assert_eq!(seen.qos, 2);
        if version == Version::V5 {
            assert_eq!(seen.properties.subscription_ids(), [1000, 2000, 3000]);
        }
        subscriber.acknowledge(&seen);
        subscriber.expect_nothing_from(&mut publisher);
    }
}

#[test]
fn overlapping_subscriptions_each() {
    // [MQTT-3.3.4-5]
    let Some(broker) = Broker::with(&[("mqtt.overlap", "each")]) else { return };
    for version in Version::ALL {
        let topic = unique("overlap");
        let mut subscriber = broker.client(version, &unique("overlap"));
        let filters = [(format!("{topic}/#"), 2), (format!("{topic}/+"), 1), (format!("{topic}/x"), 0)];
        for (number, (filter, qos)) in (1..).zip(&filters) {
            let property = Property::subscription_id(number);
            let properties = if version == Version::V5 { vec![property] } else { Vec::new() };
            subscriber.subscribe_with(&properties, &[(filter, *qos)]);
        }
        let mut publisher = broker.client(version, &unique("overlap"));
        publisher.publish(&format!("{topic}/x"), "a copy", 2);
        let mut copies: Vec<_> = (0..3)
            .map(|_| {
                let seen = subscriber.expect_publish(&format!("{topic}/x"), "a copy");
                subscriber.acknowledge(&seen);
                (seen.qos, seen.properties.subscription_ids())
            })
            .collect();
        copies.sort();
        let expected = |qos, id| (qos, if version == Version::V5 { vec![id] } else { Vec::new() });
        assert_eq!(copies, [expected(0, 3), expected(1, 2), expected(2, 1)]);
        subscriber.expect_nothing_from(&mut publisher);
    }
    broker.assert_healthy();
}

#[test]
fn subscription_identifier_is_replaced_with_its_subscription() {
    // [MQTT-3.8.4-3] [MQTT-3.3.4-3]
    let broker = Broker::shared();
    let topic = unique("identifier");
    let mut subscriber = broker.client(Version::V5, &unique("identifier"));
    let mut publisher = broker.client(Version::V5, &unique("identifier"));
    for (properties, expected) in [
        (vec![Property::subscription_id(1)], vec![1]),
        (vec![Property::subscription_id(2)], vec![2]),
        (vec![], vec![]),
    ] {
        subscriber.subscribe_with(&properties, &[(&topic, 0)]);
        publisher.publish(&topic, "x", 0);
        assert_eq!(subscriber.expect_publish(&topic, "x").properties.subscription_ids(), expected);
    }
}

#[test]
fn no_local() {
    // [MQTT-3.8.3-3]
    let broker = Broker::shared();
    let topic = unique("no-local");
    let mut client = broker.client(Version::V5, &unique("no-local"));
    client.subscribe(&topic, NO_LOCAL | 1);
    let mut other = broker.client(Version::V5, &unique("no-local"));
    other.subscribe(&topic, 1);
    client.publish(&topic, "from me", 1);
    let seen = other.expect_publish(&topic, "from me");
    other.acknowledge(&seen);
    client.expect_nothing_from(&mut other);
    other.publish(&topic, "from another", 1);
    let seen = client.expect_publish(&topic, "from another");
    client.acknowledge(&seen);
    // Without it a client hears itself.
    other.expect_publish(&topic, "from another");
}

#[test]
fn no_local_holds_for_the_client_identifier_across_connections() {
    // [MQTT-3.8.3-3]
    // What is kept for a client that it published itself with No Local is nothing, also after it is back.
    let broker = Broker::shared();
    let topic = unique("no-local");
    let connect = crate::harness::Connect::new(Version::V5, &unique("no-local")).persistent();
    let mut client = broker.connect(&connect);
    client.subscribe(&topic, NO_LOCAL | 1);
    client.disconnect();
    let mut client = broker.connect(&connect);
    client.assert_resumed();
    client.publish_packet(&Publish::new(&topic, "from me").qos(1, 1));
    client.ping();
    client.disconnect();
}
