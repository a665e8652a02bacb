//! A disk that fills up.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use rustix::fs::statvfs;

use crate::{
    finding::{Finding, Outcome},
    fleet::{Cluster, Node, poll},
    harness::{Client, Connect, Event, Packet, Publish, Version, client::NotConnected},
    mounts,
    others::steady,
    stage::{DEFAULTS, Stage},
    usage::mebibytes,
};

/// O14.
pub(super) fn full(stage: &Stage) -> Outcome {
    if !mounts::are_own() {
        return Outcome::NotRun("needs mounts of its own (unshare --mount, and the right to)".to_owned());
    }
    let settings = [
        ("sys.interval", "0s"),
        ("session.queue_messages_max", "1000000"),
        ("session.queue_bytes_max", "1GiB"),
    ];
    let cluster = Cluster::prepare(1, &[DEFAULTS, &settings].concat());
    let node = cluster.node(0);
    node.limit_disk(DISK_MEBIBYTES);
    node.start();
    cluster.await_formed();
    let connects: Vec<Connect> = (0..SLEEPERS)
        .map(|number| Connect::new(Version::V5, &format!("sleeper-{number}")).persistent())
        .collect();
    for connect in &connects {
        let mut sleeper = node.connect(connect);
        assert_eq!(sleeper.subscribe("fill", 1), 1);
        sleeper.disconnect();
    }
    let before = steady(stage, node).delivery("p99");
    let mut publisher = node.client("publisher");
    let acknowledged = fill(&mut publisher);
    let free = free(&node.data_dir());
    let refusal = poll(Duration::from_secs(10), || {
        match node.attempt(&Connect::new(Version::V5, "new").persistent()) {
            Err(NotConnected::Refused(Packet::ConnAck(connack))) => Some(connack.code),
            _ => None,
        }
    });
    let p99 = steady(stage, node).delivery("p99");
    let mut finding = Finding::of(format!(
        "messages of 64 KiB at QoS 1 for {SLEEPERS} sessions that are away, on a disk of {DISK_MEBIBYTES} MiB"
    ));
    finding.state("acknowledged", f64::from(acknowledged), "messages");
    finding.at_least("free when acknowledgements stop", mebibytes(free), "MiB", 1.0);
    finding.holds("CONNACK 0x97 for a new session that is to be kept", refusal == Some(0x97));
    finding.state("p99 of others before", before, "ms");
    finding.at_most("meanwhile", p99, "ms", (2.0 * before).max(50.0));
    let (missing, wrong) = take_all(node, &connects, acknowledged);
    finding.exactly("acknowledged and not with a consumer", missing, "", 0.0);
    finding.exactly("out of order", wrong, "", 0.0);
    // Nobody has done anything but consume.
    let began = Instant::now();
    let again = poll(Duration::from_secs(60), || {
        let mut publisher = node.attempt(&Connect::new(Version::V5, "again")).ok()?;
        publisher.try_send(&Publish::new("fill", "again").qos(1, 1).bytes(Version::V5)).ok()?;
        let answer = publisher.next_event(Duration::from_secs(2));
        matches!(answer, Some(Event::Packet(Packet::PubAck { reason: 0, .. }))).then(|| began.elapsed())
    });
    let again = again.map_or(f64::NAN, |again| again.as_secs_f64());
    finding.at_most("acknowledges again, once they have taken all, after", again, "s", 30.0);
    // Before the directory goes.
    node.kill();
    let unmounted = Command::new("umount").arg(node.data_dir()).status();
    assert!(unmounted.is_ok_and(|status| status.success()), "the disk can be taken away");
    Outcome::Found(finding)
}

/// Publishes until nothing is acknowledged any more; how many were.
fn fill(publisher: &mut Client) -> u32 {
    let (mut sent, mut acknowledged) = (0u32, 0u32);
    loop {
        assert!(acknowledged < MESSAGES_MAX, "the disk does not fill");
        while sent < acknowledged + WINDOW {
            let mut payload = vec![b'x'; PAYLOAD];
            payload[..4].copy_from_slice(&sent.to_be_bytes());
            let id = u16::try_from(sent % 60_000 + 1).expect("it is below 65,536");
            publisher.send(&Publish::new("fill", payload).qos(1, id).bytes(Version::V5));
            sent += 1;
        }
        match publisher.next_event(Duration::from_secs(5)) {
            Some(Event::Packet(Packet::PubAck { reason: 0, .. })) => acknowledged += 1,
            Some(other) => panic!("the publisher of what does not fit gets {other:?}"),
            None => return acknowledged,
        }
    }
}

/// All consumers come and take what is theirs; how many messages that were acknowledged are missing, and how many come in wrong order.
fn take_all(node: &Node, connects: &[Connect], acknowledged: u32) -> (f64, f64) {
    let (mut missing, mut wrong) = (0, 0);
    for connect in connects {
        let mut sleeper = node.connect_soon(connect);
        let mut numbers = Vec::new();
        // What was on its way and not acknowledged may have been kept or not: it makes room, too.
        let patience = |count: usize| Duration::from_secs(if count < acknowledged as usize { 10 } else { 1 });
        while let Some(Event::Packet(packet)) = sleeper.next_event(patience(numbers.len())) {
            if let Packet::Publish(publish) = packet {
                sleeper.acknowledge(&publish);
                numbers.push(u32::from_be_bytes(publish.payload[..4].try_into().expect("it has more")));
            }
        }
        let in_turn = numbers.iter().zip(0..).filter(|(number, expected)| *number == expected);
        wrong += numbers.len() - in_turn.count();
        missing += (acknowledged as usize).saturating_sub(numbers.len());
        sleeper.disconnect();
    }
    (missing as f64, wrong as f64)
}

/// Bytes that are free on the disk of a directory.
fn free(directory: &Path) -> u64 {
    let disk = statvfs(directory).expect("it is mounted");
    disk.f_bavail * disk.f_frsize
}

/// What a node needs, the 320 MiB with less of which its disk is nearly full, and something to fill.
const DISK_MEBIBYTES: u32 = 768;
const SLEEPERS: usize = 3;
const PAYLOAD: usize = 64 << 10;
const WINDOW: u32 = 50;
const MESSAGES_MAX: u32 = 20_000;
