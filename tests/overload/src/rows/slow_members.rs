//! Clients that take what they get slowly, or not at all, and those beside them.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    finding::{Finding, Outcome},
    fleet::{Node, poll, receive},
    harness::{Client, Connect, Property, Publish, Version, property_id},
    others::steady,
    slow,
    stage::{SetAtEnd, Stage},
    usage::{forget_peak, mebibytes, memory, peak_memory},
};

/// O05.
pub(super) fn consumer(stage: &Stage) -> Outcome {
    let cluster = stage.broker(&[("sys.interval", "1s")]);
    let node = cluster.node(0);
    let pid = node.pid();
    let without = under_flood(stage, node, || steady(stage, node).delivery("p99"));
    let before = memory(pid);
    let mut slow: Vec<Client> = SLOW.iter().map(|who| who.connect(node)).collect();
    let is_over = AtomicBool::new(false);
    forget_peak(pid);
    let ((during, queues), taken) = thread::scope(|scope| {
        let is_over = &is_over;
        let sips: Vec<_> = slow
            .iter_mut()
            .map(|client| scope.spawn(move || slow::sip(client, || is_over.load(Ordering::Relaxed))))
            .collect();
        let end = SetAtEnd(is_over);
        let seen = under_flood(stage, node, || {
            let p99 = steady(stage, node).delivery("p99");
            (p99, SLOW.map(|who| queue_of(node, &who)))
        });
        drop(end);
        let taken: Vec<_> = sips.into_iter().map(|sip| sip.join().unwrap_or_default()).collect();
        (seen, taken)
    });
    let grown = peak_memory(pid).saturating_sub(before);
    let mut finding = Finding::of(format!(
        "{} clients that read 1 message/s (QoS 0, 1, 2, and QoS 1 with a session that is kept), {FLOOD_RATE} messages/s of 1 KiB for all of them",
        SLOW.len()
    ));
    finding.state("p99 of others with the same flood and nobody slow", without, "ms");
    finding.at_most("with the slow ones", during, "ms", (2.0 * without).max(5.0));
    for ((who, queue), taken) in SLOW.iter().zip(&queues).zip(&taken) {
        // What is kept on disk stays in the queue until it is acknowledged.
        let limit = if who.expiry == 0 { QUEUE_MAX } else { QUEUE_MAX + INFLIGHT_MAX };
        finding.at_most(format!("queue of {}", who.name), *queue, "messages", limit);
        if let Some(taken) = taken {
            finding.state("taken by it", taken.len() as f64, "");
        }
        finding.holds("it is still connected", taken.is_some());
    }
    let dropped = sys_value(node, "metrics/delivery/dropped/queue_full");
    finding.at_least("dropped for them, and counted", dropped, "", 1.0);
    // Their queues with what waits at QoS 0, an output buffer each, and what the flood itself takes for a moment.
    let limit = SLOW.len() as f64 * (mebibytes(1_300 * 1_024) + 1.0) + 64.0;
    finding.at_most("memory grows by", mebibytes(grown), "MiB", limit);
    Outcome::Found(finding)
}

/// Has something done while messages come that the slow ones are subscribed to.
fn under_flood<T>(stage: &Stage, node: &Node, work: impl FnOnce() -> T) -> T {
    // QoS 2 for those who want it; its own subscribers take them at QoS 0, as fast as they come.
    let flood = format!(
        "pairs -n 10 -q 2 --subscribe-qos 0 -r {FLOOD_RATE} -s 1024 -t 600 --topic-prefix {FLOOD_TOPIC} --warm-up 0"
    );
    stage.under(node, &flood, 20, work).0
}

/// A slow client.
struct Slow {
    name: &'static str,
    qos: u8,
    expiry: u32,
}

impl Slow {
    fn connect(&self, node: &Node) -> Client {
        let connect = Connect::new(Version::V5, self.name)
            .with(Property::four(property_id::SESSION_EXPIRY, self.expiry));
        let mut client = slow::connect(node, &connect);
        assert_eq!(client.subscribe(&format!("{FLOOD_TOPIC}/#"), self.qos), self.qos);
        client
    }
}

/// Messages that wait for a slow client: what is kept for a session that outlives its connection, its shard has.
#[track_caller]
fn queue_of(node: &Node, who: &Slow) -> f64 {
    if who.expiry == 0 {
        return queue(node, who.name);
    }
    let shards = node.shards();
    assert!(!shards.is_empty(), "the node tells of its shards");
    shards.iter().filter_map(|shard| shard["replica"]["queued_messages"].as_f64()).sum()
}

/// Messages that wait for a client, by the word of the operator's list.
#[track_caller]
fn queue(node: &Node, client: &str) -> f64 {
    let list = node.ctl(&["--json", "clients", "show", client]);
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap_or_default();
    list[0]["queued_messages"].as_f64().unwrap_or(f64::NAN)
}

/// What a node says of itself below `$SYS`; NaN where it does not.
pub(super) fn sys_value(node: &Node, topic: &str) -> f64 {
    let mut client = node.client("sys");
    client.subscribe(&format!("$SYS/brokers/{}/{topic}", node.name()), 0);
    // The value that is kept may be older than what is asked about; the next one is not.
    let values = [client.expect_any_publish(), client.expect_any_publish()];
    let text = String::from_utf8_lossy(&values[1].payload).into_owned();
    text.parse().unwrap_or(f64::NAN)
}

/// O06.
pub(super) fn zero_window(stage: &Stage) -> Outcome {
    let timeout = Duration::from_secs(3);
    let cluster = stage.broker(&[
        ("sys.interval", "0s"),
        ("mqtt.write_timeout", "3s"),
        // So that more is on its way than all buffers between the two hold.
        ("mqtt.max_inflight", "1000"),
        ("session.queue_bytes_max", "64MiB"),
    ]);
    let node = cluster.node(0);
    let connect = Connect::new(Version::V5, "deaf").persistent();
    let mut deaf = slow::connect(node, &connect.clone().clean());
    assert_eq!(deaf.subscribe("deaf", 1), 1);
    let mut publisher = node.client("publisher");
    let payload = vec![b'x'; 64 << 10];
    let began = Instant::now();
    for number in 0..ZERO_WINDOW_MESSAGES {
        let mut payload = payload.clone();
        payload[..4].copy_from_slice(&number.to_be_bytes());
        assert_eq!(publisher.publish("deaf", &payload, 1), 0, "it is kept");
    }
    let sent = began.elapsed();
    let closed = poll(Duration::from_secs(30), || {
        let list = node.ctl(&["--json", "clients", "show", "deaf"]);
        let list: serde_json::Value = serde_json::from_slice(&list.stdout).ok()?;
        (list[0]["connected"] == false).then(|| began.elapsed())
    });
    let mut finding = Finding::of(format!(
        "{ZERO_WINDOW_MESSAGES} messages of 64 KiB at QoS 1 for a client that reads nothing; mqtt.write_timeout 3 s instead of 15 s"
    ));
    finding.state("messages acknowledged within", sent.as_secs_f64(), "s");
    let closed = closed.map_or(f64::NAN, |closed| closed.as_secs_f64());
    finding.at_most("connection closed after", closed, "s", sent.as_secs_f64() + 2.0 * timeout.as_secs_f64());
    finding.at_least("and not before", closed, "s", timeout.as_secs_f64());
    let mut back = node.connect(&connect);
    finding.holds("session still there", back.connack().session_present);
    let received = receive(&mut back, ZERO_WINDOW_MESSAGES as usize);
    finding.exactly("messages out of order", disorder(&received), "", 0.0);
    finding.exactly("messages that it gets then", received.len() as f64, "", f64::from(ZERO_WINDOW_MESSAGES));
    Outcome::Found(finding)
}

/// How many messages are not the next one.
fn disorder(publishes: &[Publish]) -> f64 {
    let numbers = publishes
        .iter()
        .map(|publish| u32::from_be_bytes(publish.payload[..4].try_into().expect("it has more")));
    numbers.zip(0..).filter(|(number, expected)| number != expected).count() as f64
}

/// O10.
pub(super) fn shared_group(stage: &Stage) -> Outcome {
    let publishers = stage.clients(10_000);
    let cluster = stage.broker(&[("sys.interval", "0s")]);
    let node = cluster.node(0);
    let load = format!(
        "shared --publishers {publishers} --members 7 -q 1 -r 4000 --topic-prefix group -t {}",
        stage.seconds()
    );
    let without = stage.run(node, &load);
    let mut member = slow::connect(node, &Connect::new(Version::V5, "slow"));
    assert_eq!(member.subscribe("$share/bench/group/fan-in/#", 1), 1);
    let is_over = AtomicBool::new(false);
    let (with, taken, queued) = thread::scope(|scope| {
        let (is_over, member) = (&is_over, &mut member);
        let sip = scope.spawn(move || slow::sip(member, || is_over.load(Ordering::Relaxed)));
        let end = SetAtEnd(is_over);
        let report = stage.run(node, &load);
        let queued = queue(node, "slow");
        drop(end);
        (report, sip.join().unwrap_or_default(), queued)
    });
    let mut finding = Finding::of(format!(
        "{publishers} publishers, 4,000 messages/s together, QoS 1, to a group of 7 members and one that reads 1 message/s"
    ));
    finding.state("p50 without it", without.delivery("p50"), "ms");
    finding.state("p99 without it", without.delivery("p99"), "ms");
    finding.state("p50 with it", with.delivery("p50"), "ms");
    finding.at_most("p99 with it", with.delivery("p99"), "ms", (2.0 * without.delivery("p99")).max(5.0));
    let lost = with.number("/messages/lost");
    finding.state("messages for the slow one", lost, "");
    finding.holds("it is still connected", taken.is_some());
    let taken = taken.map_or(0, |taken| taken.len());
    finding.state("of these taken by it", taken as f64, "");
    // In flight to it, or in its queue, which it would get when it read.
    finding.at_most("waiting for it", queued, "", QUEUE_MAX);
    finding.at_most("neither taken nor waiting", lost - taken as f64 - queued, "", INFLIGHT_MAX);
    finding.exactly("without it lost", without.number("/messages/lost"), "", 0.0);
    Outcome::Found(finding)
}

const SLOW: [Slow; 4] = [
    Slow { name: "slow-qos0", qos: 0, expiry: 0 },
    Slow { name: "slow-qos1", qos: 1, expiry: 0 },
    Slow { name: "slow-qos2", qos: 2, expiry: 0 },
    Slow { name: "slow-kept", qos: 1, expiry: 300 },
];

const FLOOD_TOPIC: &str = "flood";
const FLOOD_RATE: u32 = 2_000;
/// `session.queue_messages_max` and `mqtt.max_inflight`, as they are when nothing is said.
const QUEUE_MAX: f64 = 1_000.0;
const INFLIGHT_MAX: f64 = 32.0;

const ZERO_WINDOW_MESSAGES: u32 = 400;
