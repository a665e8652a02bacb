//! B61 to B70: SUBSCRIBE and UNSUBSCRIBE.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{hostile, hostile_on};
use crate::harness::{
    Body, Broker, Connect, Packet, Property, Version, packet, property_id as id, subscribe, unique,
    unsubscribe,
};

#[test]
fn b61_no_filter() {
    // [MQTT-3.8.3-2] [MQTT-3.10.3-2]
    hostile(|scene| {
        scene.refuses(&subscribe(Version::V5, 1, &[], &[]), 0x82);
        scene.refuses(&unsubscribe(Version::V5, 1, &[]), 0x82);
        for version in Version::OLD {
            scene.closes(version, &subscribe(version, 1, &[], &[]));
            scene.closes(version, &unsubscribe(version, 1, &[]));
        }
    });
}

#[test]
fn b62_subscription_options() {
    // [MQTT-3.8.3-5]
    // Choice: 0x81 for reserved bits; 0x82 for values that QoS and Retain Handling do not have.
    hostile(|scene| {
        for (options, reason) in
            [(0x40, 0x81), (0x80, 0x81), (0xC1, 0x81), (0x03, 0x82), (0x30, 0x82), (0x31, 0x82)]
        {
            scene.refuses(&subscribe(Version::V5, 1, &[], &[("t", options)]), reason);
            // Not only the first filter is looked at, and none of them is granted.
            scene.refuses(&subscribe(Version::V5, 1, &[], &[("t", 0), ("u", options)]), reason);
        }
        // In 3.1.1 all but two bits are reserved (v3.1.1: section 3.8.3). 3.1 says nothing of them.
        for options in [0x03, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80] {
            scene.closes(Version::V311, &subscribe(Version::V311, 1, &[], &[("t", options)]));
        }
    });
}

#[test]
fn b63_no_local_on_a_shared_subscription() {
    // [MQTT-3.8.3-4]
    hostile(|scene| scene.refuses(&subscribe(Version::V5, 1, &[], &[("$share/g/t", 0x04)]), 0x82));
}

#[test]
fn b64_filters_that_are_none() {
    // [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.3-1]
    // Choice: 0x8F (3.1 and 3.1.1: 0x80) for each of them; the others in the packet are granted.
    hostile(|scene| {
        for version in Version::ALL {
            let failure = if version == Version::V5 { 0x8F } else { 0x80 };
            let good = unique("b64");
            for bad in ["a/#/b", "a+", "+a", "#a", "a#", "##", "++", "a/b#", ""] {
                let mut client = scene.client(version);
                let codes = client.subscribe_with(&[], &[(&good, 1), (bad, 1), ("$SYS/none", 0)]);
                assert_eq!(codes, [1, failure, 0], "{version:?} {bad:?}");
                scene.publisher.publish(&good, "x", 0);
                client.expect_publish(&good, "x");
            }
        }
    });
}

#[test]
fn b65_shared_filters_that_are_none() {
    // [MQTT-4.8.2-1] [MQTT-4.8.2-2]
    // Choice: as in B64. 3.1 and 3.1.1 clients have shared subscriptions here as well, so the rules are theirs too.
    hostile(|scene| {
        for version in Version::ALL {
            let failure = if version == Version::V5 { 0x8F } else { 0x80 };
            for bad in [
                "$share",
                "$share/",
                "$share//t",
                "$share/g",
                "$share/g/",
                "$share/+/t",
                "$share/g+/t",
                "$share/g#/t",
                "$share/#",
                "$share/g/a/#/b",
                "$queue/",
            ] {
                let mut client = scene.client(version);
                assert_eq!(
                    client.subscribe_with(&[], &[(bad, 1), ("t", 0)]),
                    [failure, 0],
                    "{version:?} {bad:?}"
                );
            }
        }
    });
}

#[test]
fn b66_subscription_identifiers() {
    // section 3.8.2.1.2
    hostile(|scene| {
        scene.refuses(&subscribe(Version::V5, 1, &[Property::subscription_id(0)], &[("t", 0)]), 0x82);
        let two = [Property::subscription_id(1), Property::subscription_id(2)];
        scene.refuses(&subscribe(Version::V5, 1, &two, &[("t", 0)]), 0x82);
        // 268,435,456 takes a fifth byte.
        let section = [6, id::SUBSCRIPTION_ID, 0x80, 0x80, 0x80, 0x80, 0x01];
        scene.refuses(&packet(0x82, Body::new().u16(1).raw(&section).text("t").u8(0)), 0x81);
        // The largest one works.
        let topic = unique("b66");
        let mut client = scene.client(Version::V5);
        client.subscribe_with(&[Property::subscription_id(268_435_455)], &[(&topic, 0)]);
        scene.publisher.publish(&topic, "", 0);
        assert_eq!(client.expect_publish(&topic, "").properties.subscription_ids(), [268_435_455]);
    });
}

#[test]
fn b67_every_kind_of_subscription_is_available() {
    // section 3.2.2.3
    // Nothing to refuse with 0x9E, 0xA1 or 0xA2: CONNACK takes nothing back, and all three work together.
    hostile(|scene| {
        let topic = unique("b67");
        let mut client = scene.client(Version::V5);
        let properties = &client.connack().properties;
        for feature in [id::WILDCARD_AVAILABLE, id::SUBSCRIPTION_IDS_AVAILABLE, id::SHARED_AVAILABLE] {
            assert!(matches!(properties.number(feature), None | Some(1)), "{feature:#04x}");
        }
        let filter = format!("$share/g/{topic}/+/#");
        assert_eq!(client.subscribe_with(&[Property::subscription_id(7)], &[(&filter, 1)]), [1]);
        let topic = format!("{topic}/a/b");
        scene.publisher.publish(&topic, "x", 1);
        let publish = client.expect_publish(&topic, "x");
        assert_eq!((publish.qos, publish.properties.subscription_ids()), (1, vec![7]));
    });
}

#[test]
fn b68_wildcards_stay_out_of_sys() {
    // [MQTT-4.7.2-1]
    // Without access rules all of these are granted; what starts with a wildcard never matches `$SYS`.
    let Some(broker) = Broker::with(&[("sys.interval", "1s")]) else { return };
    hostile_on(Arc::new(broker), |scene| {
        for version in Version::ALL {
            let mut outside = scene.client(version);
            let filters = [("#", 1), ("+/#", 1), ("+/+/+", 1), ("+/broker/version", 1), ("$share/g/#", 1)];
            assert_eq!(outside.subscribe_with(&[], &filters), [1; 5]);
            for filter in ["$SYS/#", "$SYS/broker/version", "$SYS/+/version", "$share/g/$SYS/#"] {
                let mut inside = scene.client(version);
                assert_eq!(inside.subscribe(filter, 0), 0);
                // Retained ones come at once, and for a shared subscription (which gets none of those) at the next
                // interval.
                assert!(inside.expect_any_publish().topic.starts_with("$SYS/"), "{filter}");
            }
            outside.ping();
        }
    });
}

#[test]
fn b69_more_subscriptions_than_allowed() {
    // section 3.9.3
    let Some(broker) = Broker::with(&[("session.subscriptions_max", "3")]) else { return };
    hostile_on(Arc::new(broker), |scene| {
        for version in Version::ALL {
            let refused = if version == Version::V5 { 0x97 } else { 0x80 };
            let mut client = scene.client(version);
            let filters = [("a", 0), ("b", 1), ("c", 2), ("d", 0), ("e", 0)];
            assert_eq!(client.subscribe_with(&[], &filters), [0, 1, 2, refused, refused]);
            // One that exists is replaced, not added.
            assert_eq!(client.subscribe_with(&[], &[("a", 1), ("f", 0)]), [1, refused]);
            client.unsubscribe(&["b"]);
            assert_eq!(client.subscribe_with(&[], &[("g", 0), ("h", 0)]), [0, refused]);
            scene.publisher.publish("d", "", 0);
            scene.publisher.publish("g", "", 0);
            client.expect_publish("g", "");
        }
    });
}

#[test]
fn b69_many_filters_in_one_packet() {
    hostile(|scene| {
        let names: Vec<String> = (0..100_000).map(|number| format!("b69/{number}")).collect();
        let filters: Vec<_> = names.iter().take(75_000).map(|name| (name.as_str(), 0)).collect();
        let bytes = subscribe(Version::V5, 1, &[], &filters);
        assert!(bytes.len() < 1_048_576, "{} bytes do not fit into a packet", bytes.len());
        let start = Instant::now();
        let mut client = scene.client(Version::V5);
        client.send(&bytes);
        let Packet::SubAck { id: 1, reasons } = client.receive() else { panic!("expected a SUBACK") };
        assert_eq!(reasons.len(), filters.len());
        let granted = reasons.iter().take_while(|reason| **reason == 0).count();
        assert_eq!(granted, 10_000, "the default of session.subscriptions_max");
        assert!(reasons[granted..].iter().all(|reason| *reason == 0x97));
        client.disconnect();
        assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
    });
}

#[test]
fn b69_truncated_before_the_options() {
    // section 4.13
    hostile(|scene| {
        scene.refuses(&packet(0x82, Body::new().u16(1).properties(&[]).text("t")), 0x81);
        scene.refuses(&packet(0x82, Body::new().u16(1).properties(&[]).text("t").u8(0).text("u")), 0x81);
        for version in Version::OLD {
            scene.closes(version, &packet(0x82, Body::new().u16(1).text("t")));
        }
    });
}

#[test]
fn b70_unsubscribe_what_was_never_subscribed() {
    // [MQTT-3.10.4-5]
    hostile(|scene| {
        let mut client = scene.client(Version::V5);
        client.subscribe("a/+", 0);
        // Filters are compared as text: `a/b` is not `a/+` [MQTT-3.10.4-1].
        assert_eq!(client.unsubscribe(&["a/b", "a/+", "a/+"]), [0x11, 0x00, 0x11]);
        for version in Version::OLD {
            let mut client = scene.client(version);
            client.unsubscribe(&["a", "b"]);
            client.ping();
        }
    });
}

#[test]
fn an_identifier_that_waits_for_its_suback_is_not_free() {
    // [MQTT-2.2.1-3]
    hostile(|scene| {
        for version in Version::ALL {
            // That of a session which outlives its connection is on its way to the disk.
            let mut client = scene.broker.connect(&Connect::new(version, &unique("hostile")).persistent());
            let one = |filter| subscribe(version, 7, &[], &[(filter, 1)]);
            client.send(&[one("a"), one("b/#")].concat());
            client.expect_disconnect(0x82);
        }
    });
}
