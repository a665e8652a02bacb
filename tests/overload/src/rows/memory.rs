//! Memory: what must not grow, and what happens at a mark.

use std::{
    io::{ErrorKind, Read},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use flotilla_compare::figure::grouped;

use crate::{
    finding::{Finding, Outcome},
    fleet::poll,
    harness::{
        Client, Connect, Packet, Property, Publish, Version, client::NotConnected, place, property_id,
        random::Random, subscribe, unsubscribe,
    },
    slow,
    stage::Stage,
    usage::{mebibytes, memory, peak_memory},
};

/// O17.
pub(super) fn topic_churn(stage: &Stage) -> Outcome {
    let cluster = stage.broker(&[("sys.interval", "0s")]);
    let node = cluster.node(0);
    let mut listener = node.client("listener");
    assert_eq!(listener.subscribe("churn/#", 0), 0);
    let mut publisher = node.client("publisher");
    let (mut random, mut topics, mut filters) = (Random::new(17), 0u64, 0u64);
    let churn = |publisher: &mut Client, listener: &mut Client, until: Instant, random: &mut Random| {
        let (mut topics, mut filters) = (0u64, 0u64);
        while Instant::now() < until {
            publisher.send(&one_round(random));
            drain(publisher, ROUND_FILTERS * 2 + 1);
            drain_listener(listener);
            topics += ROUND_TOPICS as u64;
            filters += ROUND_FILTERS as u64;
        }
        (topics, filters)
    };
    // Caches have a size, which they reach first.
    let begin = Instant::now();
    let warm = churn(&mut publisher, &mut listener, begin + 2 * stage.time, &mut random);
    let before = memory(node.pid());
    let rest = churn(&mut publisher, &mut listener, begin + 6 * stage.time, &mut random);
    let after = memory(node.pid());
    topics += rest.0;
    filters += rest.1;
    let mut finding = Finding::of(format!(
        "{} random topics (half of them with aliases that change) and {} random filters, after {} topics of warming up, in {:.0} s instead of for ever",
        grouped(topics),
        grouped(filters),
        grouped(warm.0),
        4.0 * stage.seconds()
    ));
    finding.state("memory after warming up", mebibytes(before), "MiB");
    let growth = after as f64 - before as f64;
    finding.at_most("grows by", growth / f64::from(1 << 20), "MiB", mebibytes(before) * 0.05 + 4.0);
    finding.state("so for each topic", growth / topics as f64, "bytes");
    Outcome::Found(finding)
}

/// Publishes to topics, and subscriptions that come and go, all of which nobody has seen before; a QoS 1 publish at the end, so that
/// its answer is the last.
fn one_round(random: &mut Random) -> Vec<u8> {
    let mut name = || format!("churn/{:x}/{:x}", random.below(1 << 30), random.below(1 << 30));
    let mut bytes = Vec::new();
    for number in 0..ROUND_TOPICS {
        let mut publish = Publish::new(&name(), "x");
        if number % 2 == 0 {
            let alias = u16::try_from(number % 32 + 1).expect("it is small");
            publish = publish.with(Property::two(property_id::TOPIC_ALIAS, alias));
        }
        bytes.extend(publish.bytes(Version::V5));
    }
    for number in 0..ROUND_FILTERS {
        let (filter, id) = (format!("{}/+", name()), u16::try_from(number + 1).expect("it is small"));
        bytes.extend(subscribe(Version::V5, id, &[], &[(&filter, 0)]));
        bytes.extend(unsubscribe(Version::V5, id, &[&filter]));
    }
    bytes.extend(Publish::new(&name(), "x").qos(1, 1).bytes(Version::V5));
    bytes
}

/// Takes so many answers.
#[track_caller]
fn drain(client: &mut Client, answers: usize) {
    for _ in 0..answers {
        let packet = client.receive();
        assert!(
            matches!(packet, Packet::SubAck { .. } | Packet::UnsubAck { .. } | Packet::PubAck { .. }),
            "{packet:?}"
        );
    }
}

/// Takes what is there, whatever it is.
#[track_caller]
fn drain_listener(client: &mut Client) {
    let mut stream = client.stream();
    stream.set_nonblocking(true).expect("a socket takes options");
    let mut chunk = vec![0; 1 << 16];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => panic!("the broker has closed"),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("reading failed: {error}"),
        }
    }
    stream.set_nonblocking(false).expect("a socket takes options");
}

/// O13.
pub(super) fn high_water_mark(stage: &Stage) -> Outcome {
    if !knows_mark() {
        return Outcome::NotRun("needs overload.memory_high, which this broker does not know".to_owned());
    }
    // What a broker has that does nothing says where the mark can be.
    let idle = memory(stage.broker(&[]).node(0).pid());
    let mark = (idle >> 20) + MARK_ABOVE_IDLE;
    let mark_text = format!("{mark}MiB");
    let cluster = stage.broker(&[
        ("sys.interval", "0s"),
        ("overload.memory_high", mark_text.as_str()),
        // The clients that take nothing are to stay for as long as this takes.
        ("mqtt.write_timeout", "5m"),
    ]);
    let node = cluster.node(0);
    let pid = node.pid();
    let deaf: Vec<Client> = (0..DEAF)
        .map(|number| {
            let mut client = slow::connect(node, &Connect::new(Version::V5, &format!("deaf-{number}")));
            assert_eq!(client.subscribe(&format!("deaf/{number}"), 1), 1);
            client
        })
        .collect();
    let mut publisher = node.client("publisher");
    let offered = fill(&mut publisher);
    let refusal = poll(Duration::from_secs(10), || match node.attempt(&Connect::new(Version::V5, "late")) {
        Err(NotConnected::Refused(Packet::ConnAck(connack))) => Some(connack.code),
        _ => None,
    });
    let peak = peak_memory(pid);
    let mut finding = Finding::of(format!(
        "{DEAF} clients that read nothing, {:.0} MiB published for them, a mark of {mark} MiB",
        mebibytes(offered)
    ));
    finding.at_least("published before it is held back", mebibytes(offered), "MiB", 1.0);
    finding.holds("CONNACK 0x97 for a client that comes then", refusal == Some(0x97));
    finding.at_most("memory at most", mebibytes(peak), "MiB", 2.0 * mark as f64);
    drop(deaf);
    let began = Instant::now();
    let back = poll(Duration::from_secs(60), || node.attempt(&Connect::new(Version::V5, "later")).ok());
    finding.at_most(
        "after those have gone, let in within",
        if back.is_some() { began.elapsed().as_secs_f64() } else { f64::NAN },
        "s",
        30.0,
    );
    Outcome::Found(finding)
}

/// Publishes to each of the deaf clients in turn, until no acknowledgement comes for a while or more is sent than the mark could let
/// pass; the bytes of payload that were acknowledged.
fn fill(publisher: &mut Client) -> u64 {
    let payload = vec![b'x'; PAYLOAD];
    let (mut sent, mut acknowledged) = (0u64, 0u64);
    while acknowledged < DEAF * QUEUE_BYTES / PAYLOAD as u64 {
        while sent < acknowledged + 50 {
            let id = u16::try_from(sent % 60_000 + 1).expect("it is below 65,536");
            let topic = format!("deaf/{}", sent % DEAF);
            if publisher.try_send(&Publish::new(&topic, &payload).qos(1, id).bytes(Version::V5)).is_err() {
                return acknowledged * PAYLOAD as u64;
            }
            sent += 1;
        }
        match publisher.next_event(Duration::from_secs(2)) {
            Some(crate::harness::Event::Packet(Packet::PubAck { .. })) => acknowledged += 1,
            // Held back, or sent away.
            _ => break,
        }
    }
    acknowledged * PAYLOAD as u64
}

/// Whether the broker has the setting that the row is about.
fn knows_mark() -> bool {
    let mut command = Command::new(&place().program);
    command.args(["check-config", "--set", "overload.memory_high=64MiB"]);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

const ROUND_TOPICS: usize = 400;
const ROUND_FILTERS: usize = 40;

const DEAF: u64 = 64;
const PAYLOAD: usize = 32 << 10;
/// `session.queue_bytes_max`, as it is when nothing is said.
const QUEUE_BYTES: u64 = 16 << 20;
/// In MiB.
const MARK_ABOVE_IDLE: u64 = 128;
