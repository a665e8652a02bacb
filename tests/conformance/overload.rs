//! More than the broker can hold: memory that runs short, and clients that all come at once.

use std::{
    io::Read,
    thread,
    time::{Duration, Instant},
};

use crate::harness::{Broker, Client, Connect, Event, Packet, Publish, Version, pingreq, unique};

/// How long it may take until memory that is free is so for the system, too: the allocator waits for about ten seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for something that is not a packet.
#[track_caller]
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::park_timeout(Duration::from_millis(10));
    }
}

/// How often the log says so.
fn times(broker: &Broker, words: &str) -> usize {
    broker.log().matches(words).count()
}

const HIGH: &str = "memory is above overload.memory_high";
const CRITICAL: &str = "memory is above overload.memory_critical";
const ENOUGH: &str = "memory suffices again";
const MIB: usize = 1 << 20;

/// A broker with so much waiting for a client that reads nothing that it is above a mark of 192 MiB.
struct Full {
    broker: Broker,
    /// The client that reads nothing. When it goes, memory comes back.
    idle: Option<Client>,
    _filler: Client,
    /// Gets the uptime of the broker every second.
    clock: Client,
}

impl Full {
    /// `None`: it cannot be told how much memory the broker has. The clients that `prepare` makes are there before, and say
    /// something by `keep_alive` until it is full.
    fn with<T>(
        settings: &[(&str, &str)],
        sign: &str,
        prepare: impl FnOnce(&Broker) -> T,
        mut keep_alive: impl FnMut(&mut T),
    ) -> Option<(Self, T)> {
        let own = [("mqtt.output_buffer_max", "1GiB"), ("mqtt.write_timeout", "1h"), ("sys.interval", "1s")];
        let broker = Broker::with(&[settings, &own].concat())?;
        broker.resident_memory()?;
        let mut idle = broker.client(Version::V5, "idle");
        idle.subscribe("fill", 0);
        let mut clock = broker.client(Version::V5, "clock");
        clock.subscribe(&format!("$SYS/brokers/{}/uptime", broker.node()), 0);
        let mut prepared = prepare(&broker);
        let mut filler = broker.client(Version::V5, "filler");
        let payload = vec![b'x'; MIB - 64];
        while broker.resident_memory()? < 196 * MIB && times(&broker, sign) == 0 {
            filler.send(&Publish::new("fill", &payload).bytes(Version::V5));
            keep_alive(&mut prepared);
            // Not faster than the broker takes it.
            filler.send(&pingreq());
            wait_until("PINGRESP", || {
                let answer = filler.next_event(Duration::from_millis(50));
                answer == Some(Event::Packet(Packet::PingResp)) || times(&broker, sign) > 0
            });
        }
        wait_until(sign, || times(&broker, sign) > 0);
        Some((Self { broker, idle: Some(idle), _filler: filler, clock }, prepared))
    }

    /// Gives the memory back, and waits until the broker has noticed: the allocator takes its time.
    #[track_caller]
    fn end(&mut self) {
        self.idle = None;
        wait_until(ENOUGH, || times(&self.broker, ENOUGH) == 1);
    }

    /// Waits until the broker's clock has gone on.
    #[track_caller]
    fn let_pass(&mut self, seconds: u64) {
        // What came while nobody looked tells of the past.
        while self.clock.next_event(Duration::from_millis(1)).is_some() {}
        let mut next = || -> u64 {
            let seen = self.clock.expect_any_publish();
            String::from_utf8_lossy(&seen.payload).parse().expect("a number of seconds")
        };
        let end = next() + seconds;
        while next() < end {}
    }
}

#[test]
fn above_the_mark_who_connects_is_told_so() {
    // Every process has more than that.
    let Some(broker) = Broker::with(&[("overload.memory_high", "1MiB")]) else { return };
    wait_until(HIGH, || times(&broker, HIGH) == 1);
    for (version, code) in [(Version::V5, 0x97), (Version::V311, 3), (Version::V31, 3)] {
        let mut client = broker.open(version);
        client.send(&Connect::new(version, &unique("o13")).bytes());
        client.expect_connack(code);
        client.expect_closed();
    }
    assert_eq!(times(&broker, HIGH), 1, "{}", broker.log());
    broker.assert_healthy();
}

#[test]
fn above_the_upper_mark_who_connects_is_closed() {
    let settings = [("overload.memory_high", "1MiB"), ("overload.memory_critical", "1MiB")];
    let Some(broker) = Broker::with(&settings) else { return };
    wait_until(CRITICAL, || times(&broker, CRITICAL) == 1);
    for version in Version::ALL {
        broker.open(version).expect_closed();
    }
    broker.assert_healthy();
}

#[test]
fn without_marks_nothing_is_refused() {
    let settings =
        [("overload.memory_high", "none"), ("overload.memory_critical", "none"), ("sys.interval", "1s")];
    let Some(broker) = Broker::with(&settings) else { return };
    let mut client = broker.client(Version::V5, "o13");
    let base = format!("$SYS/brokers/{}/stats/memory", broker.node());
    client.subscribe(&format!("{base}/level"), 0);
    assert_eq!(client.expect_any_publish().payload, b"normal");
    client.subscribe(&format!("{base}/resident"), 0);
    let seen = loop {
        let seen = client.expect_any_publish();
        if seen.topic.ends_with("resident") && seen.payload != b"0" {
            break String::from_utf8(seen.payload).expect("$SYS is text");
        }
    };
    let seen: usize = seen.parse().expect("a number");
    if let Some(memory) = broker.resident_memory() {
        assert!(seen.abs_diff(memory) < memory / 2, "{seen} and {memory}");
    }
}

#[test]
fn above_the_mark_publishers_wait_and_subscribers_do_not() {
    let settings = [
        ("overload.memory_high", "192MiB"),
        ("overload.memory_critical", "none"),
        ("mqtt.max_inflight", "1"),
    ];
    let prepared = Full::with(
        &settings,
        HIGH,
        |broker| {
            let mut subscriber = broker.client(Version::V5, "subscriber");
            subscriber.subscribe("t", 1);
            let mut publishers =
                Version::ALL.map(|version| (version, broker.client(version, &unique("publisher"))));
            for (number, (_, publisher)) in publishers.iter_mut().enumerate() {
                publisher.publish("t", format!("{number}"), 1);
            }
            (subscriber, publishers)
        },
        |_| {},
    );
    let Some((mut full, (mut subscriber, mut publishers))) = prepared else { return };
    // Who acknowledges gets what waits, and who asks is answered, also one that has published before.
    for number in 0..3 {
        let seen = subscriber.expect_publish("t", format!("{number}"));
        subscriber.acknowledge(&seen);
    }
    subscriber.subscribe("u", 1);
    subscriber.ping();
    // The first PUBLISH may be read, and what is behind it is not.
    for (version, publisher) in &mut publishers {
        publisher.ping();
        publisher.send(&Publish::new("nobody", "").bytes(*version));
    }
    full.let_pass(1);
    for (version, publisher) in &mut publishers {
        publisher.send(&Publish::new("t", "later").qos(1, 77).bytes(*version));
        publisher.send(&pingreq());
    }
    full.let_pass(2);
    for (_, publisher) in &mut publishers {
        assert_eq!(publisher.next_event(Duration::from_millis(10)), None, "it is not read");
    }
    subscriber.ping();
    full.end();
    for (_, publisher) in &mut publishers {
        publisher.expect(&Packet::PubAck { id: 77, reason: 0 });
        publisher.expect(&Packet::PingResp);
        let seen = subscriber.expect_publish("t", "later");
        subscriber.acknowledge(&seen);
    }
    let mut new = full.broker.client(Version::V5, "new");
    new.subscribe(&format!("$SYS/brokers/{}/metrics/memory/high", full.broker.node()), 0);
    wait_until("counted", || new.expect_any_publish().payload == b"1");
    assert_eq!((times(&full.broker, HIGH), times(&full.broker, ENOUGH)), (1, 1), "{}", full.broker.log());
    full.broker.assert_healthy();
}

#[test]
fn who_is_not_read_is_not_silent() {
    // [MQTT-3.1.2-22]
    let settings = [("overload.memory_high", "192MiB"), ("overload.memory_critical", "none")];
    let connect = |version, client_id: &str| Connect::new(version, client_id).keep_alive(2);
    let prepared = Full::with(
        &settings,
        HIGH,
        |broker| {
            Version::ALL.map(|version| {
                let publisher = broker.connect(&connect(version, &unique("publisher")));
                (version, publisher)
            })
        },
        |publishers| publishers.iter_mut().for_each(|(_, publisher)| publisher.ping()),
    );
    let Some((mut full, mut publishers)) = prepared else { return };
    for (version, publisher) in &mut publishers {
        publisher.send(&Publish::new("nobody", "").bytes(*version));
    }
    full.let_pass(1);
    // The beginning of a packet, whose rest comes when it is read again.
    let cut = |version| {
        let bytes = Publish::new("nobody", [b'x'; 1_000]).qos(1, 7).bytes(version);
        let (begin, rest) = bytes.split_at(500);
        (begin.to_vec(), rest.to_vec())
    };
    for (version, publisher) in &mut publishers {
        publisher.send(&cut(*version).0);
    }
    // Three seconds are one and a half times the Keep Alive.
    full.let_pass(5);
    full.end();
    full.let_pass(1);
    for (version, publisher) in &mut publishers {
        publisher.send(&cut(*version).1);
        publisher.receive();
        publisher.ping();
    }
    full.broker.assert_healthy();
}

#[test]
fn above_the_upper_mark_those_are_closed_for_which_most_waits() {
    let settings = [("overload.memory_high", "none"), ("overload.memory_critical", "192MiB")];
    let prepared = Full::with(
        &settings,
        CRITICAL,
        |broker| {
            let mut other = broker.client(Version::V5, "other");
            other.subscribe("t", 1);
            other
        },
        |_| {},
    );
    let Some((mut full, mut other)) = prepared else { return };
    wait_until("closed", || {
        times(&full.broker, "closed the connections for which most waited closed=1 ") == 1
    });
    wait_until(ENOUGH, || times(&full.broker, ENOUGH) == 1);
    // What its socket had taken before may still come, and then the end, within a packet.
    let idle = full.idle.take().expect("it is there");
    let mut bytes = vec![0; MIB];
    while matches!(Read::read(&mut idle.stream(), &mut bytes), Ok(1..)) {}
    full.broker.client(Version::V5, "new").publish("t", "x", 1);
    other.expect_publish("t", "x");
    full.broker.assert_healthy();
}

#[test]
fn connections_are_accepted_at_a_rate() {
    let settings = [("listeners.tcp.connect_rate_max", "20"), ("node.workers", "2")];
    let Some(broker) = Broker::with(&settings) else { return };
    let mut first = broker.client(Version::V311, "first");
    let start = Instant::now();
    let mut clients: Vec<Client> = (0..60)
        .map(|_| {
            let mut client = broker.open(Version::V311);
            client.send(&Connect::new(Version::V311, &unique("rate")).bytes());
            client
        })
        .collect();
    // Others are served meanwhile.
    first.ping();
    for client in &mut clients {
        client.expect_connack(0);
    }
    let elapsed = start.elapsed();
    // All but the one that each worker may let in at once.
    assert!(elapsed >= Duration::from_millis(2_900), "{elapsed:?}");
    broker.assert_healthy();
}

#[test]
fn who_says_nothing_gives_way_to_others() {
    let settings =
        [("listeners.tcp.connecting_max", "16"), ("mqtt.connect_timeout", "1h"), ("node.workers", "1")];
    let Some(broker) = Broker::with(&settings) else { return };
    let mut first = broker.client(Version::V5, "first");
    let start = Instant::now();
    let mut silent: Vec<Client> = (0..32).map(|_| broker.open(Version::V5)).collect();
    silent[0].send(&Connect::new(Version::V5, "half").bytes()[..5]);
    let mut others: Vec<Client> = (0..32)
        .map(|_| {
            let mut client = broker.open(Version::V5);
            client.send(&Connect::new(Version::V5, &unique("other")).bytes());
            client
        })
        .collect();
    first.ping();
    for other in &mut others {
        other.expect_connack(0);
    }
    // All of the first sixteen had to give way after two seconds, and after two more the first that came in their place.
    assert!(start.elapsed() >= Duration::from_millis(3_900), "{:?}", start.elapsed());
    for client in &mut silent[..16] {
        client.expect_closed();
    }
    first.ping();
    broker.assert_healthy();
}
