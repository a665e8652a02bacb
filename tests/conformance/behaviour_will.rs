//! Will Messages (sections 3.1.2.5, 3.1.3.2 and 3.14).

use std::time::{Duration, Instant};

use crate::harness::{
    Broker, Client, Connect, Property, Version, Will, disconnect, property_id as id, unique,
};

fn observer(broker: &Broker, topic: &str) -> Client {
    let mut observer = broker.client(Version::V5, &unique("observer"));
    assert_eq!(observer.subscribe(topic, 2), 2);
    observer
}

fn delayed(topic: &str, seconds: u32) -> Will {
    Will::new(topic, "gone").with(Property::four(id::WILL_DELAY, seconds))
}

fn with_expiry(connect: Connect, seconds: u32) -> Connect {
    connect.resume().with(Property::four(id::SESSION_EXPIRY, seconds))
}

#[test]
fn will_of_a_client_that_vanishes() {
    // [MQTT-3.1.2-8] [MQTT-3.1.2-14]
    let broker = Broker::shared();
    for version in Version::ALL {
        for qos in 0..=2 {
            let topic = unique("will");
            let mut observer = observer(&broker, &topic);
            let connect = Connect::new(version, &unique("will")).will(Will::new(&topic, "gone").qos(qos));
            broker.connect(&connect).vanish();
            let seen = observer.expect_publish(&topic, "gone");
            assert_eq!((seen.qos, seen.retain), (qos, false));
            observer.acknowledge(&seen);
            // Once.
            observer.expect_nothing_from(&mut broker.client(version, &unique("will")));
        }
    }
}

#[test]
fn will_is_dropped_by_a_normal_disconnect() {
    // [MQTT-3.1.2-10] [MQTT-3.14.4-3]
    let broker = Broker::shared();
    for version in Version::ALL {
        let topic = unique("will");
        let mut observer = observer(&broker, &topic);
        let connect = Connect::new(version, &unique("will")).will(Will::new(&topic, "gone"));
        broker.connect(&connect).disconnect();
        observer.expect_nothing_from(&mut broker.client(version, &unique("will")));
    }
}

#[test]
fn will_is_sent_by_a_disconnect_that_asks_for_it() {
    // section 3.14.2.1
    let broker = Broker::shared();
    // 0x04 is Disconnect with Will Message; every code but 0x00 leaves the will in force.
    for reason in [0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99] {
        let topic = unique("will");
        let mut observer = observer(&broker, &topic);
        let connect = Connect::new(Version::V5, &unique("will")).will(Will::new(&topic, "gone"));
        let mut client = broker.connect(&connect);
        client.send(&disconnect(Version::V5, reason, &[]));
        client.expect_closed();
        observer.expect_publish(&topic, "gone");
    }
}

#[test]
fn will_is_sent_on_takeover() {
    // section 3.1.4, with [MQTT-3.1.2-8]
    let broker = Broker::shared();
    for version in Version::ALL {
        let topic = unique("will");
        let mut observer = observer(&broker, &topic);
        let connect = Connect::new(version, &unique("will"));
        let mut old = broker.connect(&connect.clone().will(Will::new(&topic, "gone")));
        let new = broker.connect(&connect);
        old.expect_disconnect(0x8E);
        observer.expect_publish(&topic, "gone");
        // The new connection has no will.
        new.vanish();
        observer.expect_nothing_from(&mut broker.client(version, &unique("will")));
    }
}

#[test]
fn will_with_all_properties() {
    // section 3.1.3.2, [MQTT-3.1.3-10]
    let broker = Broker::shared();
    let topic = unique("will");
    let mut observer = observer(&broker, &topic);
    let properties = [
        Property::byte(id::PAYLOAD_FORMAT, 1),
        Property::text(id::CONTENT_TYPE, "text/plain"),
        Property::text(id::RESPONSE_TOPIC, "answers"),
        Property::binary(id::CORRELATION_DATA, b"\0\xFF"),
        Property::user("b", "1"),
        Property::user("a", "2"),
        Property::user("b", "1"),
    ];
    let will = properties.iter().cloned().fold(delayed(&topic, 0), Will::with);
    let will = will.with(Property::four(id::MESSAGE_EXPIRY, 100));
    broker.connect(&Connect::new(Version::V5, &unique("will")).will(will)).vanish();
    let seen = observer.expect_publish(&topic, "gone");
    assert_eq!(seen.properties.user(), [("b", "1"), ("a", "2"), ("b", "1")]);
    for property in properties.iter().take(4) {
        assert_eq!(seen.properties.value(property.id), Some(&property.value));
    }
    // It counts from the moment when the will is published.
    assert!(matches!(seen.properties.number(id::MESSAGE_EXPIRY), Some(99..=100)));
    assert_eq!(seen.properties.0.len(), properties.len() + 1, "Will Delay stays here: {seen:?}");
}

#[test]
fn will_is_delayed() {
    // [MQTT-3.1.2-8]
    let broker = Broker::shared();
    let topic = unique("will");
    let mut observer = observer(&broker, &topic);
    let connect = with_expiry(Connect::new(Version::V5, &unique("will")), 300).will(delayed(&topic, 2));
    let client = broker.connect(&connect);
    let start = Instant::now();
    client.vanish();
    observer.expect_publish(&topic, "gone");
    assert!(start.elapsed() >= Duration::from_millis(1900), "sent early: after {:?}", start.elapsed());
}

#[test]
fn delayed_will_is_cancelled_by_the_clients_return() {
    // [MQTT-3.1.3-9]
    let broker = Broker::shared();
    let topic = unique("will");
    let mut observer = observer(&broker, &topic);
    let connect = with_expiry(Connect::new(Version::V5, &unique("will")), 300);
    broker.connect(&connect.clone().will(delayed(&topic, 1))).vanish();
    let mut back = broker.connect(&connect);
    back.assert_resumed();
    broker.let_pass(2);
    observer.ping();
    // A takeover is a return as well.
    let mut old = broker.connect(&connect.clone().will(delayed(&topic, 1)));
    back.expect_disconnect(0x8E);
    let _new = broker.connect(&connect);
    old.expect_disconnect(0x8E);
    broker.let_pass(2);
    observer.ping();
}

#[test]
fn delayed_will_is_sent_when_the_session_ends_first() {
    // [MQTT-3.1.2-8]
    let broker = Broker::shared();
    let topic = unique("will");
    let mut observer = observer(&broker, &topic);
    // The session ends with its connection.
    broker.connect(&Connect::new(Version::V5, &unique("will")).will(delayed(&topic, 600))).vanish();
    observer.expect_publish(&topic, "gone");
    // The session ends after a second.
    let connect = with_expiry(Connect::new(Version::V5, &unique("will")), 1).will(delayed(&topic, 600));
    let client = broker.connect(&connect);
    let start = Instant::now();
    client.vanish();
    observer.expect_publish(&topic, "gone");
    assert!(start.elapsed() >= Duration::from_millis(900), "sent early: after {:?}", start.elapsed());
    // The session ends because the client starts clean.
    let connect = with_expiry(Connect::new(Version::V5, &unique("will")), 300).will(delayed(&topic, 600));
    broker.connect(&connect).vanish();
    let _back = broker.connect(&connect.clean());
    observer.expect_publish(&topic, "gone");
}

#[test]
fn disconnect_with_will_respects_the_delay() {
    // section 3.14.2.1
    let broker = Broker::shared();
    let topic = unique("will");
    let mut observer = observer(&broker, &topic);
    let connect = with_expiry(Connect::new(Version::V5, &unique("will")), 300).will(delayed(&topic, 1));
    let mut client = broker.connect(&connect);
    let start = Instant::now();
    client.send(&disconnect(Version::V5, 0x04, &[]));
    client.expect_closed();
    observer.expect_publish(&topic, "gone");
    assert!(start.elapsed() >= Duration::from_millis(900), "sent early: after {:?}", start.elapsed());
}

#[test]
fn will_reaches_a_client_that_is_away() {
    // [MQTT-3.1.2-7] [MQTT-4.5.0-1]
    let broker = Broker::shared();
    let topic = unique("will");
    let away = Connect::new(Version::V311, &unique("away")).persistent();
    let mut client = broker.connect(&away);
    client.subscribe(&topic, 1);
    client.disconnect();
    broker
        .connect(&Connect::new(Version::V31, &unique("will")).will(Will::new(&topic, "gone").qos(2)))
        .vanish();
    let seen = broker.connect(&away).expect_publish(&topic, "gone");
    assert_eq!(seen.qos, 1);
}

#[test]
fn no_local_holds_for_the_will_too() {
    // [MQTT-3.8.3-3]
    let broker = Broker::shared();
    let (topic, client_id) = (unique("no-local"), unique("no-local"));
    let connect = Connect::new(Version::V5, &client_id).persistent().will(Will::new(&topic, "will").qos(1));
    let mut client = broker.connect(&connect);
    let no_local = 0x04;
    client.subscribe_with(&[], &[(&topic, 1 | no_local)]);
    let mut watcher = broker.client(Version::V5, &unique("no-local"));
    watcher.subscribe(&topic, 0);
    client.vanish();
    watcher.expect_publish(&topic, "will");
    let mut client = broker.connect(&Connect::new(Version::V5, &client_id).persistent());
    client.assert_resumed();
    watcher.publish(&topic, "other", 1);
    client.expect_publish(&topic, "other");
}
