//! The byte stream: any chunking, large and many packets, clients that do not read, and the end of the broker.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use crate::harness::{
    Broker, Connect, DEADLINE, Event, Packet, Property, Publish, Version, ack, disconnect, pingreq,
    property_id as id, subscribe, unique,
};

/// A whole conversation of one client, up to its DISCONNECT.
fn conversation(version: Version, topic: &str) -> Vec<u8> {
    let mut bytes = Connect::new(version, &unique("chunks")).username("user").password(b"password").bytes();
    bytes.extend(subscribe(version, 1, &[], &[(topic, 0), ("other/+", 1)]));
    for (qos, payload) in [(0, "a"), (1, "b"), (2, "c")] {
        bytes.extend(Publish::new(topic, payload).qos(qos, 10 + u16::from(qos)).bytes(version));
    }
    bytes.extend(ack(0x62, 12));
    bytes.extend(Publish::new(topic, [b'x'; 300]).bytes(version));
    bytes.extend(pingreq());
    bytes.extend(disconnect(version, 0, &[]));
    bytes
}

/// What a client is told in that conversation: messages and answers apart, because how they interleave is open.
fn told(client: &mut crate::harness::Client) -> (Vec<Packet>, Vec<Vec<u8>>) {
    let (mut answers, mut payloads) = (Vec::new(), Vec::new());
    loop {
        match client.next_event(DEADLINE).expect("the broker closes after DISCONNECT") {
            Event::Closed => return (answers, payloads),
            Event::Packet(Packet::Publish(publish)) => payloads.push(publish.payload),
            Event::Packet(Packet::ConnAck(_)) => {}
            Event::Packet(packet) => answers.push(packet),
        }
    }
}

#[test]
fn any_chunking_gives_the_same() {
    // section 4.2
    let broker = Broker::shared();
    for version in Version::ALL {
        let whole = {
            let mut client = broker.open(version);
            client.send(&conversation(version, &unique("chunks")));
            told(&mut client)
        };
        assert_eq!(whole.0.len(), 5, "SUBACK, PUBACK, PUBREC, PUBCOMP, PINGRESP: {whole:?}");
        assert_eq!(whole.1.len(), 4, "{whole:?}");
        for size in [1, 2, 3, 7, 64] {
            let mut client = broker.open(version);
            // Without Nagle's algorithm each chunk is a segment of its own, as far as the system can tell them apart.
            for chunk in conversation(version, &unique("chunks")).chunks(size) {
                client.send(chunk);
            }
            assert_eq!(told(&mut client), whole, "{version:?} in chunks of {size}");
        }
    }
    broker.assert_healthy();
}

#[test]
fn large_messages() {
    // section 3.3.3
    let broker = Broker::shared();
    for version in Version::ALL {
        let topic = unique("large");
        let mut subscriber = broker.client(version, &unique("large"));
        subscriber.subscribe(&topic, 2);
        let mut publisher = broker.client(version, &unique("large"));
        // The largest that fits into the default `mqtt.max_packet_size` of 1 MiB, whose fixed header takes four bytes.
        let payload: Vec<u8> = (0..=255).cycle().take(1_048_576 - 4 - 2 - topic.len() - 2 - 1).collect();
        for qos in 0..=2 {
            publisher.publish(&topic, &payload, qos);
            let seen = subscriber.expect_any_publish();
            assert!(seen.payload == payload, "QoS {qos}: {} bytes came", seen.payload.len());
            subscriber.acknowledge(&seen);
        }
    }
}

#[test]
fn many_messages_in_one_write() {
    // section 4.6
    let broker = Broker::shared();
    let topic = unique("burst");
    let mut subscriber = broker.client(Version::V311, &unique("burst"));
    subscriber.subscribe(&topic, 0);
    let mut publisher = broker.client(Version::V311, &unique("burst"));
    let burst: Vec<u8> =
        (0..5000).flat_map(|number| Publish::new(&topic, format!("{number}")).bytes(Version::V311)).collect();
    publisher.send(&burst);
    publisher.ping();
    for number in 0..5000 {
        subscriber.expect_publish(&topic, format!("{number}"));
    }
}

#[test]
fn a_client_that_does_not_read_costs_a_bounded_amount() {
    // 128 MiB of QoS 0 for somebody who reads nothing: at most `mqtt.output_buffer_max` waits, the rest is dropped, and
    // nobody else has to wait for it.
    let Some(broker) = Broker::with(&[]) else { return };
    let topic = unique("slow");
    let mut slow = broker.client(Version::V311, &unique("slow"));
    slow.subscribe(&topic, 0);
    let mut quick = broker.client(Version::V311, &unique("slow"));
    quick.subscribe(&topic, 0);
    let mut publisher = broker.client(Version::V311, &unique("slow"));
    let before = broker.resident_memory();
    let payload = vec![b'x'; 65_536];
    let start = Instant::now();
    for number in 0..2048_u32 {
        let marked = [&number.to_be_bytes(), &payload[..]].concat();
        publisher.publish(&topic, &marked, 0);
        let seen = quick.expect_any_publish();
        assert!(seen.payload == marked, "message {number}");
    }
    assert!(start.elapsed() < Duration::from_secs(60), "took {:?}", start.elapsed());
    if let (Some(before), Some(after)) = (before, broker.resident_memory()) {
        let grown = after.saturating_sub(before);
        assert!(grown < 16 << 20, "{grown} bytes more than before");
    }
    // The slow one is either still served, in order, or was closed for it.
    let mut last = None;
    while let Some(Event::Packet(Packet::Publish(seen))) = slow.next_event(Duration::from_millis(500)) {
        let number = u32::from_be_bytes(seen.payload[..4].try_into().expect("four bytes"));
        assert!(last < Some(number), "{number} after {last:?}");
        last = Some(number);
    }
    broker.assert_healthy();
}

#[test]
fn a_client_that_does_not_read_is_closed_and_its_queue_kept() {
    let settings = [("mqtt.write_timeout", "1s"), ("session.queue_bytes_max", "64MiB")];
    let Some(broker) = Broker::with(&settings) else { return };
    let connect = Connect::new(Version::V5, "stuck").persistent();
    let mut stuck = broker.connect(&connect);
    stuck.subscribe_with(&[], &[("t", 1), ("flood", 0)]);
    let mut watcher = broker.client(Version::V5, "watcher");
    watcher.subscribe(&format!("$SYS/brokers/{}/clients/stuck/disconnected", broker.node()), 0);
    let mut publisher = broker.client(Version::V311, "publisher");
    for number in 0..100 {
        publisher.publish("t", format!("{number}"), 1);
    }
    // More than the system's own buffers take.
    let payload = vec![b'x'; 65_536];
    for _ in 0..400 {
        publisher.publish("flood", &payload, 0);
    }
    watcher.expect_any_publish();
    // Its session is there, and so is every message that was not QoS 0.
    let mut back = broker.connect(&connect);
    back.assert_resumed();
    for number in 0..100 {
        let seen = back.expect_publish("t", format!("{number}"));
        back.acknowledge(&seen);
    }
    back.ping();
    broker.assert_healthy();
}

#[test]
fn a_publisher_that_does_not_read_is_not_answered_for_ever() {
    // PINGREQs whose answers are never read: reading stops, or the connection ends; memory does not grow.
    let Some(broker) = Broker::with(&[]) else { return };
    let flooder = broker.client(Version::V311, "flooder");
    let before = broker.resident_memory();
    flooder.stream().set_write_timeout(Some(Duration::from_millis(300))).expect("a socket takes options");
    let pings = pingreq().repeat(32_768);
    let mut sent = 0;
    while sent < 1024 {
        if flooder.stream().write_all(&pings).is_err() {
            break;
        }
        sent += 1;
    }
    if let (Some(before), Some(after)) = (before, broker.resident_memory()) {
        let grown = after.saturating_sub(before);
        assert!(grown < 16 << 20, "{grown} bytes more than before");
    }
    broker.client(Version::V311, "other").ping();
    broker.assert_healthy();
}

#[test]
fn more_connections_than_allowed() {
    let Some(broker) = Broker::with(&[("listeners.tcp.max_connections", "2")]) else { return };
    let mut first = broker.client(Version::V5, "first");
    let second = broker.client(Version::V5, "second");
    let mut third = broker.open(Version::V5);
    third.expect_closed();
    first.ping();
    // There is room again as soon as one goes.
    second.disconnect();
    let deadline = Instant::now() + DEADLINE;
    loop {
        let mut next = broker.open(Version::V5);
        // Fails when it was closed already.
        let _ = next.try_send(&Connect::new(Version::V5, "next").bytes());
        match next.next_event(DEADLINE) {
            Some(Event::Packet(Packet::ConnAck(_))) => break,
            Some(Event::Closed) => assert!(Instant::now() < deadline, "there never is room again"),
            other => panic!("unexpected: {other:?}"),
        }
    }
    first.ping();
}

#[test]
fn graceful_stop() {
    // section 3.14.2.1: 0x8B
    let Some(broker) = Broker::with(&[]) else { return };
    let mut clients = Version::ALL.map(|version| broker.client(version, &unique("stop")));
    let mut held = broker
        .connect(&Connect::new(Version::V5, "held").persistent().with(Property::two(id::RECEIVE_MAXIMUM, 1)));
    held.ping();
    broker.terminate();
    for client in clients.iter_mut().chain([&mut held]) {
        client.expect_disconnect(0x8B);
    }
    let status = broker.wait();
    assert!(status.success(), "{status:?}:\n{}", broker.log());
    assert!(std::net::TcpStream::connect(broker.address()).is_err(), "nobody listens");
}

#[test]
fn a_burst_for_many_subscribers_is_worked_off_in_turns() {
    // One read with publishes for more deliveries than one turn allows (16,384): the rest of it waits for the next turn, in
    // order, and what begins in it may end in the next read.
    let broker = Broker::shared();
    let topic = unique("turns");
    let mut subscribers: Vec<_> = (0..40).map(|_| broker.client(Version::V311, &unique("turns"))).collect();
    for subscriber in &mut subscribers {
        subscriber.subscribe(&topic, 0);
    }
    let mut publisher = broker.client(Version::V311, &unique("turns"));
    let mut burst: Vec<u8> =
        (0..1200).flat_map(|number| Publish::new(&topic, format!("{number}")).bytes(Version::V311)).collect();
    let last = burst.split_off(burst.len() - 5);
    publisher.send(&burst);
    publisher.send(&last);
    publisher.ping();
    for subscriber in &mut subscribers {
        for number in 0..1200 {
            subscriber.expect_publish(&topic, format!("{number}"));
        }
    }
    broker.assert_healthy();
}

#[test]
fn a_client_that_reads_in_steps_gets_everything() {
    // The socket takes a part of what waits, again and again, and each time the rest must follow without anything
    // else that happens: more than the system's buffers take, from one burst, to a client that says nothing.
    let settings = [("mqtt.output_buffer_max", "64MiB"), ("sys.interval", "1h")];
    let Some(broker) = Broker::with(&settings) else { return };
    let topic = unique("steps");
    let mut subscriber = broker.client(Version::V311, &unique("steps"));
    subscriber.subscribe(&topic, 0);
    let mut publisher = broker.client(Version::V311, &unique("steps"));
    let payload = vec![b'x'; 1_000_000];
    for _ in 0..32 {
        publisher.publish(&topic, &payload, 0);
    }
    publisher.ping();
    let start = Instant::now();
    for number in 0..32 {
        assert!(subscriber.expect_any_publish().payload == payload, "message {number}");
    }
    assert!(start.elapsed() < DEADLINE, "took {:?}", start.elapsed());
}
